"""Every fault gives what it says, through the whole of the simulator but the socket."""

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest

from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.edits import EDITS
from market_pipelines.simulator.exchange import Exchange, Manner
from market_pipelines.simulator.faults import BODIES, FAULT_HELP, KINDS, FaultBoard, FaultError, parse_fault
from market_pipelines.simulator.formats.asked import CHART, Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.truth import World

NOW = datetime(2025, 6, 12, 22, 0, tzinfo=UTC)
WORLD = World()
BASE = "http://127.0.0.1:8099/yahoo"
TABLE = ("open", "high", "low", "close")
Row = Mapping[str, Any]


def exchange(*faults: str, now: datetime = NOW) -> Exchange:
    return Exchange(WORLD, FaultBoard(faults), SimulatedClock(now))


def request(provider: str, symbol: str = "AAPL", accept: str = "", **query: str) -> Asked:
    if provider == "alpha_vantage":
        asked = {"function": "TIME_SERIES_DAILY", "symbol": symbol, "apikey": "planted-key", **query}
        return Asked(provider, "/query", asked, accept, BASE)
    if provider == "stooq":
        asked = {"s": f"{symbol.lower()}.us", "i": "d", "d1": "20250501", "d2": "20250612", **query}
        return Asked(provider, "/q/d/l/", asked, accept, BASE)
    asked = {"interval": "1d", "range": "3mo", "events": "div,splits", **query}
    return Asked(provider, f"{CHART}{symbol}", asked, accept, BASE)


def ask(of: Exchange, provider: str, symbol: str = "AAPL", **query: str) -> Reply:
    return of.deliver(request(provider, symbol, **query), "/").reply


def rows(provider: str, reply: Reply) -> list[Row]:
    """The answer's rows, oldest first unless the body says otherwise."""
    if provider == "alpha_vantage":
        table = list(csv.DictReader(io.StringIO(reply.body.decode())))[::-1]
        return [{"day": row["timestamp"], **{name: float(row[name]) for name in TABLE}} for row in table]
    if provider == "stooq":
        table = list(csv.DictReader(io.StringIO(reply.body.decode())))
        return [{"day": row["Date"], **{n: float(row[n.title()]) for n in TABLE}} for row in table]
    (result,) = json.loads(reply.body)["chart"]["result"]
    quote = result["indicators"]["quote"][0]
    return [
        {"day": datetime.fromtimestamp(stamp, UTC).date().isoformat(), **{n: quote[n][place] for n in TABLE}}
        for place, stamp in enumerate(result["timestamp"])
    ]


def told(provider: str, *faults: str, symbol: str = "AAPL", **query: str) -> list[Row]:
    wanted = {"datatype": "csv", **query} if provider == "alpha_vantage" else query
    return rows(provider, ask(exchange(*(f"{provider}.{fault}" for fault in faults)), provider, symbol, **wanted))


every_provider = pytest.mark.parametrize("provider", ["alpha_vantage", "yahoo", "stooq"])


# How faults are written


@pytest.mark.parametrize(
    "text",
    [
        "yahoo.status=429",
        "yahoo.status=429:7@AAPL,MSFT#3",
        "alpha_vantage.body=daily_limit",
        "yahoo.correction=AAPL:2024-03-01:+0.5%",
        "stooq.correction=BRK.B:2024-03-01:=401.5#2",
        "stooq.scale=+25bp",
        "yahoo.missing_rows=2024-03-01,2024-03-04@AAPL",
        "yahoo.unit_error=2024-03-01:0.01",
        "stooq.separator=semicolon",
    ],
)
def test_a_fault_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_fault(text)) == text
    assert parse_fault(str(parse_fault(text))) == parse_fault(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("yahoo.no_such=on", "live_duplicate"),
        ("stooq.live_duplicate=on", "polish_headers"),
        ("bloomberg.status=429", "alpha_vantage, yahoo, polygon, iex_cloud, stooq"),
        ("yahoo.status", "PROVIDER.NAME=VALUE"),
        ("yahoo.status=200", "400 to 599"),
        ("yahoo.status=many", "400 to 599"),
        ("stooq.body=phantom", "proof_of_work"),
        ("yahoo.negative_price=yesterday", "on (the newest row) or a session"),
        ("yahoo.stall=0", "seconds"),
        ("yahoo.scale=25", "+25bp"),
        ("yahoo.correction=AAPL:+0.5%", "SYMBOL:SESSION"),
        ("yahoo.status=429#0", "from 1"),
        ("yahoo.status=429@", "no symbol"),
        ("polygon.ws_not_authorized=Q,quotes", "T.AAPL,T.MSFT"),
    ],
)
def test_a_wrong_fault_is_refused_with_what_is_accepted(text: str, named: str) -> None:
    with pytest.raises(FaultError) as refused:
        parse_fault(text)
    assert named in str(refused.value)


def test_every_fault_is_explained_and_every_row_fault_exists() -> None:
    assert all(accepts and meaning for _, accepts, meaning in FAULT_HELP)
    assert set(EDITS) <= {kind.name for kind in KINDS}


def test_one_wrong_fault_of_a_list_changes_nothing() -> None:
    board = FaultBoard(["yahoo.status=500"])
    with pytest.raises(FaultError):
        board.replace(["stooq.status=500", "stooq.nonsense=on"])
    with pytest.raises(FaultError):
        board.add_all(["stooq.status=500", "stooq.nonsense=on"])
    assert [state["fault"] for state in board.state()] == ["yahoo.status=500"]


# Whom they concern


@every_provider
def test_a_fault_concerns_its_provider_and_symbols_only(provider: str) -> None:
    of = exchange(f"{provider}.status=503@MSFT")
    assert ask(of, provider, "AAPL").status == 200
    assert ask(of, provider, "MSFT").status == 503
    for other in {"alpha_vantage", "yahoo", "stooq"} - {provider}:
        assert ask(of, other, "MSFT").status == 200


def test_a_counted_fault_ends_after_its_requests() -> None:
    of = exchange("yahoo.body=invalid_crumb#2")
    assert [ask(of, "yahoo").status for _ in range(4)] == [401, 401, 200, 200]


def test_switching_faults_off_restores_the_first_answer() -> None:
    of = exchange()
    first = ask(of, "yahoo").body
    of.faults.add("yahoo.scale=+1%")
    assert ask(of, "yahoo").body != first
    of.faults.clear()
    assert ask(of, "yahoo").body == first


# Instead of an answer


@every_provider
@pytest.mark.parametrize(("value", "status", "wait"), [("429", 429, None), ("429:7", 429, "7"), ("500", 500, None)])
def test_a_status_comes_with_and_without_retry_after(provider: str, value: str, status: int, wait: str | None) -> None:
    reply = ask(exchange(f"{provider}.status={value}"), provider)
    assert (reply.status, reply.headers.get("Retry-After")) == (status, wait)


def test_yahoo_words_429_in_text() -> None:
    assert ask(exchange("yahoo.status=429"), "yahoo").body == b"Too Many Requests\r\n"


EXPECTED_BODIES = {
    "alpha_vantage.daily_limit": (200, b"We have detected your API key as planted-key and"),
    "alpha_vantage.per_second_limit": (200, b"sparingly (1 request per second)"),
    "alpha_vantage.per_second_limit_2025": (200, b"more sparingly. You may subscribe"),
    "alpha_vantage.minute_limit": (200, b'"Note": "Thank you for using Alpha Vantage! Our standard API call'),
    "alpha_vantage.premium": (200, b"This is a premium endpoint."),
    "alpha_vantage.demo": (200, b"The **demo** API key"),
    "alpha_vantage.expired_key": (200, b"the parameter apikey is invalid or missing."),
    "alpha_vantage.invalid_call": (200, b"for TIME_SERIES_DAILY."),
    "alpha_vantage.placeholder": (200, b"ARTIFICIAL AND FOR ILLUSTRATION PURPOSES ONLY"),
    "alpha_vantage.csv_letters": (200, b"I,n,f,o,r,m,a"),
    "alpha_vantage.csv_letters_with_text": (200, b"I,n,f,o,r,m,a,t,i,o,n\r\nW,e, ,h,a,v,e, ,d,e,t,e,c,t,e,d"),
    "alpha_vantage.no_options": (200, b'"message": "No data for this symbol"'),
    "alpha_vantage.not_acceptable": (406, b'{"detail":"Could not satisfy the request Accept header."}'),
    "alpha_vantage.empty_object": (200, b"{}"),
    "yahoo.not_found": (404, b"No data found, symbol may be delisted"),
    "yahoo.rate_limit": (429, b"Too Many Requests\r\n"),
    "yahoo.invalid_crumb": (401, b'"Unauthorized","description":"Invalid Crumb"'),
    "yahoo.outage": (200, b"Will be right back"),
    "yahoo.unprocessable": (422, b"Unprocessable Entity"),
    "yahoo.no_data_400": (400, b"400 Bad Request: Data doesn't exist for startDate = "),
    "yahoo.phantom": (200, b'"currency":null,"symbol":"AAPL","exchangeName":"YHD"'),
    "yahoo.consent": (307, b""),
    "stooq.no_data": (200, b"No data"),
    "stooq.no_data_pl": (200, b"Brak danych"),
    "stooq.daily_limit": (200, b"Exceeded the daily hits limit"),
    "stooq.daily_limit_pl": (200, b"Przekroczony dzienny limit wywolan"),
    "stooq.html_limit": (200, "Przepisz powyższy kod".encode()),
    "stooq.html_limit_cp1250": (200, "Przepisz powyższy kod".encode("cp1250")),
    "stooq.key_page": (200, b"Get your apikey"),
    "stooq.proof_of_work": (200, b"This site requires JavaScript to verify your browser"),
    "stooq.access_denied": (200, b"Access denied"),
    "stooq.light_nd": (200, b"N/D,N/D"),
    "stooq.light_nd_pl": (200, b"B/D,B/D"),
    "stooq.html_limit_en": (200, b"Exceeded the daily site hits limit"),
    "stooq.captcha": (200, "Przepisz powyższy kod".encode()),
    "iex_cloud.unknown_symbol": (404, b"Unknown symbol"),
    "iex_cloud.bad_key": (403, b"The API key provided is not valid."),
    "iex_cloud.invalid_values": (400, b"You have supplied invalid values for this request"),
    "iex_cloud.bad_option": (400, b'{"error":"\\"badOption\\" is not allowed"}'),
    "iex_cloud.empty_list": (200, b"[]"),
    "iex_cloud.empty_object": (200, b"{}"),
    "iex_cloud.null": (200, b"null"),
    "iex_cloud.bare_number": (200, b"119.36"),
    "iex_cloud.over_limit": (402, b""),
    "iex_cloud.too_many": (429, b""),
    "polygon.unknown_key": (401, b'"error":"Unknown API Key"'),
    "polygon.no_key": (401, b'"error":"API Key was not provided"'),
    "polygon.not_in_plan": (403, b'"message":"Your plan doesn\'t include this data timeframe.'),
    "polygon.not_entitled": (403, b'"message":"You are not entitled to this data.'),
    "polygon.too_many": (429, b'"error":"You\'ve exceeded the maximum requests per minute'),
    "polygon.not_found": (404, b'"status":"NOT_FOUND","'),
    "polygon.bad_request": (400, b'"status":"ERROR","'),
    **{f"{provider}.html": (200, b"<!DOCTYPE html>") for provider in BODIES},
    **{f"{provider}.empty": (200, b"") for provider in BODIES},
}


def test_every_body_is_tested() -> None:
    assert set(EXPECTED_BODIES) == {f"{provider}.{name}" for provider, names in BODIES.items() for name in names}


@pytest.mark.parametrize("name", EXPECTED_BODIES)
def test_a_named_body_replaces_the_data(name: str) -> None:
    provider, _, body = name.partition(".")
    reply = ask(exchange(f"{provider}.body={body}"), provider)
    status, text = EXPECTED_BODIES[name]
    assert reply.status == status
    assert text in reply.body
    assert text or not reply.body


def test_the_placeholder_holds_data_beside_its_message() -> None:
    body = json.loads(ask(exchange("alpha_vantage.body=placeholder"), "alpha_vantage").body)
    assert "ARTIFICIAL" in body["message"]
    assert next(iter(body["Time Series (Daily)"])) == "2099-99-99"


def test_the_consent_redirect_leads_to_the_simulator() -> None:
    location = ask(exchange("yahoo.body=consent"), "yahoo").headers["Location"]
    assert location.startswith(f"{BASE}/guce.yahoo.com/consent?")
    page = Asked("yahoo", location.removeprefix(BASE).partition("?")[0], {}, "", BASE)
    assert b"Before you continue" in exchange().deliver(page, "/").reply.body


@every_provider
def test_a_truncated_body_is_half_of_it(provider: str) -> None:
    whole = ask(exchange(), provider).body
    assert ask(exchange(f"{provider}.truncated=on"), provider).body == whole[: len(whole) // 2]


def test_the_wire_faults_are_handed_to_the_server() -> None:
    of = exchange("yahoo.stall=3", "stooq.slow_loris=10", "alpha_vantage.close_mid_body=on")
    assert of.deliver(request("yahoo"), "/").manner == Manner(stall=3)
    assert of.deliver(request("stooq"), "/").manner == Manner(bytes_a_second=10)
    assert of.deliver(request("alpha_vantage"), "/").manner == Manner(close_mid_body=True)
    assert exchange("yahoo.close=on").deliver(request("yahoo"), "/").manner == Manner(close=True)


# Wrong rows


@every_provider
def test_a_negative_price_is_in_the_chosen_row_only(provider: str) -> None:
    good, bad = told(provider), told(provider, "negative_price=2025-06-10")
    assert [row["day"] for row, was in zip(bad, good, strict=True) if row != was] == ["2025-06-10"]
    assert [row["low"] < 0 for row in bad].count(True) == 1
    assert told(provider, "negative_price=on")[-1]["low"] < 0


@every_provider
def test_a_close_that_is_not_a_number(provider: str) -> None:
    bad = told(provider, "nan_price=on")
    assert bad[-1]["close"] != bad[-1]["close"]
    assert bad[-1]["open"] == told(provider)[-1]["open"]
    assert [row for row in bad[:-1] if row["close"] != row["close"]] == []


@every_provider
def test_high_below_low(provider: str) -> None:
    bad = told(provider, "high_below_low=on")
    assert bad[-1]["high"] < bad[-1]["low"]
    assert all(row["high"] >= row["low"] for row in bad[:-1])


@every_provider
def test_duplicate_rows(provider: str) -> None:
    days = [row["day"] for row in told(provider, "duplicate_rows=2025-06-10")]
    assert sorted(set(days)) == [row["day"] for row in told(provider)]
    assert days.count("2025-06-10") == 2
    assert len(days) == len(set(days)) + 1


@every_provider
def test_unordered_rows(provider: str) -> None:
    good, bad = ([row["day"] for row in told(provider, *fault)] for fault in ((), ("unordered_rows=on",)))
    assert bad == [*good[:-2], good[-1], good[-2]]


@every_provider
def test_a_holiday_bar_is_on_a_day_without_session(provider: str) -> None:
    extra = {row["day"] for row in told(provider, "holiday_bar=on")} - {row["day"] for row in told(provider)}
    assert extra == {"2025-05-26"}  # Memorial Day
    chosen = {row["day"] for row in told(provider, "holiday_bar=2025-06-08")}
    assert "2025-06-08" in chosen


@every_provider
def test_a_bar_of_tomorrow(provider: str) -> None:
    assert told(provider, "tomorrow_bar=on")[-1]["day"] == "2025-06-13"


@every_provider
def test_a_unit_error_multiplies_one_row_by_a_hundred(provider: str) -> None:
    good, bad = told(provider), told(provider, "unit_error=2025-06-10:100")
    ratios = [row["close"] / was["close"] for row, was in zip(bad, good, strict=True)]
    assert [round(ratio, 3) for ratio in ratios if abs(ratio - 1) > 0.01] == [100]
    assert told(provider, "unit_error=on")[-1]["open"] == pytest.approx(good[-1]["open"] * 100, rel=1e-5)


@every_provider
def test_missing_rows_are_gone(provider: str) -> None:
    gone = {row["day"] for row in told(provider)} - {
        row["day"] for row in told(provider, "missing_rows=2025-06-09,2025-06-11")
    }
    assert gone == {"2025-06-09", "2025-06-11"}


@every_provider
def test_a_scaled_provider_disagrees_by_basis_points(provider: str) -> None:
    for good, bad in zip(told(provider), told(provider, "scale=+25bp"), strict=True):
        for name in TABLE:
            assert bad[name] / good[name] == pytest.approx(1.0025, abs=3e-5)


@every_provider
def test_a_correction_changes_one_close_and_keeps_the_bar_possible(provider: str) -> None:
    good = {row["day"]: row for row in told(provider)}
    bad = {row["day"]: row for row in told(provider, "correction=AAPL:2025-05-20:+5%")}
    assert [day for day in good if good[day] != bad[day]] == ["2025-05-20"]
    row = bad["2025-05-20"]
    assert row["close"] == pytest.approx(good["2025-05-20"]["close"] * 1.05, rel=1e-5)
    assert row["low"] <= row["close"] <= row["high"]
    assert told(provider, "correction=AAPL:2025-05-20:+5%", symbol="MSFT") == told(provider, symbol="MSFT")


def test_a_correction_may_name_the_new_close_as_traded() -> None:
    full = {"outputsize": "full"}
    bad = {row["day"]: row for row in told("alpha_vantage", "correction=AAPL:2020-08-28:=512.5", **full)}
    assert bad["2020-08-28"]["close"] == 512.5
    chart = {row["day"]: row for row in told("yahoo", "correction=AAPL:2020-08-28:=512.5", range="10y")}
    assert chart["2020-08-28"]["close"] == pytest.approx(512.5 / 4, rel=1e-6)


@pytest.mark.parametrize("provider", ["alpha_vantage", "yahoo"])
def test_the_answer_may_be_about_another_symbol(provider: str) -> None:
    assert told(provider, "wrong_symbol=MSFT") == told(provider, symbol="MSFT")
    assert b'"MSFT"' in ask(exchange(f"{provider}.wrong_symbol=MSFT"), provider).body


def test_an_empty_row_is_null_at_yahoo_and_nd_at_stooq() -> None:
    assert told("yahoo", "empty_row=on")[-1] == {"day": "2025-06-12", **dict.fromkeys(TABLE)}
    text = ask(exchange("stooq.empty_row=on"), "stooq").body.decode()
    assert text.endswith("2025-06-12,N/D,N/D,N/D,N/D,N/D\r\n")


# One provider's own


def test_alpha_vantage_counts_requests_of_a_day_and_a_second() -> None:
    daily = exchange("alpha_vantage.per_day=2")
    answers = [ask(daily, "alpha_vantage").body for _ in range(3)]
    assert [b"25 requests per day" in body for body in answers] == [False, False, True]
    assert b"Meta Data" in ask(daily, "alpha_vantage", apikey="another").body
    burst = exchange("alpha_vantage.per_second=1")
    assert b"Meta Data" in ask(burst, "alpha_vantage").body
    assert b"1 request per second" in ask(burst, "alpha_vantage").body


def test_alpha_vantage_may_sell_full_only() -> None:
    of = exchange("alpha_vantage.full_is_premium=on")
    assert b"premium endpoint" in ask(of, "alpha_vantage", outputsize="full").body
    assert b"Meta Data" in ask(of, "alpha_vantage").body


def test_alpha_vantage_may_show_a_session_under_way() -> None:
    during = datetime(2025, 6, 12, 15, 0, tzinfo=UTC)
    assert b"2025-06-12" not in ask(exchange(now=during), "alpha_vantage").body
    body = json.loads(ask(exchange("alpha_vantage.partial_last_bar=on", now=during), "alpha_vantage").body)
    assert body["Meta Data"]["3. Last Refreshed"] == "2025-06-12 11:00:00"
    assert next(iter(body["Time Series (Daily)"])) == "2025-06-12"


def test_alpha_vantage_does_not_serve_who_accepts_csv_only() -> None:
    assert exchange().deliver(request("alpha_vantage", accept="text/csv"), "/").reply.status == 406


def test_yahoo_may_repeat_the_newest_day() -> None:
    during = datetime(2025, 6, 12, 15, 0, tzinfo=UTC)
    (result,) = json.loads(ask(exchange("yahoo.live_duplicate=on", now=during), "yahoo").body)["chart"]["result"]
    opened = int(datetime(2025, 6, 12, 13, 30, tzinfo=UTC).timestamp())
    assert result["timestamp"][-2:] == [opened, int(during.timestamp())]
    assert len(result["timestamp"]) == len(result["indicators"]["adjclose"][0]["adjclose"])


def test_yahoo_events_may_be_nonsense() -> None:
    (result,) = json.loads(ask(exchange("yahoo.events_mismatch=on"), "yahoo", range="1y").body)["chart"]["result"]
    assert all(abs(event["date"] - int(key)) > 10**8 for key, event in result["events"]["dividends"].items())


def test_yahoo_may_name_another_granularity_or_have_no_rows() -> None:
    (result,) = json.loads(ask(exchange("yahoo.granularity=1wk"), "yahoo").body)["chart"]["result"]
    assert result["meta"]["dataGranularity"] == "1wk"
    (result,) = json.loads(ask(exchange("yahoo.empty_range=on"), "yahoo").body)["chart"]["result"]
    assert "timestamp" not in result


def test_yahoo_may_not_have_heard_of_a_split() -> None:
    soon_after = datetime(2020, 9, 2, 22, 0, tzinfo=UTC)
    knows = ask(exchange(now=soon_after), "yahoo")
    misses = ask(exchange("yahoo.missed_split=2020-08-31@AAPL", now=soon_after), "yahoo")
    assert "splits" in json.loads(knows.body)["chart"]["result"][0]["events"]
    assert "splits" not in json.loads(misses.body)["chart"]["result"][0].get("events", {})
    before = {row["day"]: row["close"] for row in rows("yahoo", knows)}
    after = {row["day"]: row["close"] for row in rows("yahoo", misses)}
    assert after["2020-08-28"] == pytest.approx(4 * before["2020-08-28"])
    assert after["2020-09-01"] == before["2020-09-01"]


def test_the_crumb_gate_opens_with_the_crumb() -> None:
    of = exchange("yahoo.crumb_gate=on")
    assert ask(of, "yahoo").status == 401
    crumb = of.deliver(Asked("yahoo", "/v1/test/getcrumb", {}, "", BASE), "/").reply.body.decode()
    assert ask(of, "yahoo", crumb=crumb).status == 200


def test_stooq_speaks_polish() -> None:
    of = exchange("stooq.polish_headers=on")
    assert ask(of, "stooq").body.startswith(b"Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\r\n")
    assert ask(of, "stooq", "NOSUCH").body == b"Brak danych"


def test_stooq_may_have_no_volume_and_another_separator() -> None:
    assert ask(exchange("stooq.no_volume=on"), "stooq").body.startswith(b"Date,Open,High,Low,Close\r\n2025-05-01,")
    first, second, *_ = ask(exchange("stooq.separator=;"), "stooq").body.decode().split("\r\n")
    assert first == "Date;Open;High;Low;Close;Volume"
    assert second.count(";") == 5


def test_stooq_asks_for_a_key_when_told_to() -> None:
    of = exchange("stooq.key_required=right")
    assert ask(of, "stooq").body.startswith(b"Get your apikey")
    assert ask(of, "stooq", apikey="wrong").body.startswith(b"Get your apikey")
    assert ask(of, "stooq", apikey="right").body.startswith(b"Date,")
    assert ask(exchange("stooq.key_required=any"), "stooq", apikey="x").body.startswith(b"Date,")


def test_a_readjusted_history_keeps_its_newest_row_and_its_turnover() -> None:
    good = [line.split(",") for line in ask(exchange(), "stooq").body.decode().split("\r\n")[1:-1]]
    bad = [
        line.split(",") for line in ask(exchange("stooq.readjusted=-0.5%"), "stooq").body.decode().split("\r\n")[1:-1]
    ]
    assert bad[-1] == good[-1]
    for was, now in zip(good[:-1], bad[:-1], strict=True):
        assert float(now[4]) == pytest.approx(float(was[4]) * 0.995, rel=2e-5)
        assert float(now[4]) * float(now[5]) == pytest.approx(float(was[4]) * float(was[5]), rel=2e-5)


# What is kept


def test_the_request_log_counts_by_symbol_and_hides_the_key() -> None:
    of = exchange("stooq.status=500")
    of.deliver(request("alpha_vantage"), "/alpha_vantage/query?symbol=AAPL&apikey=planted-key")
    of.deliver(request("stooq", "BRK-B"), "/stooq/q/d/l/?s=brk-b.us&apikey=planted-key")
    assert of.requests.count("alpha_vantage", "AAPL") == of.requests.count("stooq", "BRK.B") == 1
    last = of.requests.last("stooq")
    assert last is not None
    assert (last.status, last.faults) == (500, ("status",))
    assert "planted-key" not in json.dumps(of.requests.snapshot())


def test_a_kept_answer_is_not_given_after_another_close() -> None:
    of = exchange(now=datetime(2025, 6, 12, 12, 0, tzinfo=UTC))
    eve = ask(of, "stooq").body
    assert ask(of, "stooq").body is eve
    of.clock.set(NOW)
    assert ask(of, "stooq").body.startswith(eve[:-2])
    assert ask(of, "stooq").body != eve
    assert date(2025, 6, 12).isoformat().encode() in ask(of, "stooq").body
