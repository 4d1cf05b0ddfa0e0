"""Polygon as the simulator words it: like its captures, in pages without a key, with refusals and flat files."""

import base64
import csv
import gzip
import io
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import FaultBoard, FaultError, parse_fault
from market_pipelines.simulator.formats import polygon_flat
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.truth import World

NOW = datetime(2026, 11, 20, 23, tzinfo=UTC)
WORLD = World()
BASE = "http://127.0.0.1:8099/polygon"
NEW_YORK = ZoneInfo("America/New_York")
RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "massive"
BEARER = {"authorization": "Bearer planted-key"}
OPTION = "/v3/reference/options/contracts"
SNAPSHOTS = "/v2/snapshot/locale/us/markets/stocks/tickers"


def reply(path: str, *faults: str, headers: dict[str, str] | None = None, now: datetime = NOW, **query: str) -> Reply:
    asked = Asked(
        "polygon",
        path,
        {name.replace("__", "."): value for name, value in query.items()},
        "",
        BASE,
        BEARER if headers is None else headers,
    )
    board = FaultBoard(f"polygon.{fault}" for fault in faults)
    return Exchange(WORLD, board, SimulatedClock(now)).deliver(asked, path).reply


def body(path: str, *faults: str, now: datetime = NOW, **query: str) -> Any:
    got = reply(path, *faults, headers=None, now=now, **query)
    assert got.status == 200, got.body
    return json.loads(got.body)


def days(start: str, end: str, ticker: str = "AAPL") -> str:
    return f"/v2/aggs/ticker/{ticker}/range/1/day/{start}/{end}"


def keys(value: Any, path: str = "") -> set[str]:
    """Every field of a body with where it stands; of a list the fields of all its rows together."""
    if isinstance(value, dict):
        found = {f"{path}/{name}" for name in value}
        return found.union(*(keys(inner, f"{path}/{name}") for name, inner in value.items())) if value else found
    if isinstance(value, list):
        return set().union(*(keys(inner, f"{path}[]") for inner in value)) if value else set()
    return set()


LIKE_CAPTURES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "aggs_aapl_1d.json": (days("2005-04-01", "2005-04-04"), {}, set()),
    "grouped_daily.json": ("/v2/aggs/grouped/locale/us/market/stocks/2020-10-14", {}, set()),
    "open_close.json": ("/v1/open-close/AAPL/2021-04-01", {}, {"/request_id"}),
    "trades_v3.json": ("/v3/trades/AAPL", {"limit": "500"}, {"/results[]/correction", "/results[]/decimal_size"}),
    "quotes_v3_page1.json": ("/v3/quotes/AAPL", {"limit": "10"}, set()),
    "options_contracts_page1.json": (OPTION, {"underlying_ticker": "IBM"}, set()),
    "options_contract_single.json": (f"{OPTION}/O:IBM261218C00230000", {}, set()),
    "tickers_page1.json": ("/v3/reference/tickers", {"limit": "2", "ticker.gt": "C"}, set()),
    "ticker_details.json": ("/v3/reference/tickers/AAPL", {}, {"/results/branding", "/results/last_updated_utc"}),
    "splits.json": ("/v3/reference/splits", {}, set()),
    "dividends.json": ("/v3/reference/dividends", {}, set()),
    "marketstatus_now.json": ("/v1/marketstatus/now", {}, set()),
    "snapshot_aapl.json": (f"{SNAPSHOTS}/AAPL", {}, {"/ticker/fmv", "/ticker/lastTrade/c"}),
    "options_chain_snapshot.json": ("/v3/snapshot/options/AAPL", {}, {"/results[]/fmv"}),
    "last_trade.json": ("/v2/last/trade/AAPL", {}, {"/results/f", "/results/r", "/results/ds", "/results/c"}),
}
"""The request that a capture answers, and fields that not every answer of the kind has."""


@pytest.mark.parametrize("name", LIKE_CAPTURES)
def test_an_answer_has_the_fields_of_its_capture(name: str) -> None:
    if not (RECORDED / name).is_file():
        pytest.skip(f"the recording {name} is not here")
    path, query, sometimes = LIKE_CAPTURES[name]
    captured = keys(json.loads((RECORDED / name).read_text()))
    found = keys(
        body(path, now=datetime(2026, 11, 20, 23, tzinfo=UTC), **{k.replace(".", "__"): v for k, v in query.items()})
    )
    paging = {"/next_url"}
    different = {each for each in (captured ^ found) - paging if not any(each.startswith(one) for one in sometimes)}
    assert not different


# Keys


def test_a_key_comes_in_the_header_or_in_the_address() -> None:
    path = days("2026-11-02", "2026-11-03")
    assert reply(path, headers={}, apiKey="mine").status == 200
    assert reply(path, headers={"authorization": "bearer mine"}).status == 200
    missing, wrong = reply(path, headers={}), reply(path, headers={"authorization": "Bearer expired"})
    assert (missing.status, json.loads(missing.body)["error"]) == (401, "API Key was not provided")
    assert (wrong.status, json.loads(wrong.body)["error"]) == (401, "Unknown API Key")


# Aggregates


def test_days_are_stamped_with_new_yorks_midnight_across_the_clock_change() -> None:
    rows = body(days("2005-04-01", "2005-04-04"))["results"]
    assert [row["t"] for row in rows] == [1112331600000, 1112587200000]


def test_prices_are_restated_unless_it_is_forbidden() -> None:
    path = days("2020-08-28", "2020-08-31")
    restated, traded = body(path), body(path, adjusted="false")
    assert (restated["adjusted"], traded["adjusted"]) == (True, False)
    before, after = (pair[0]["c"] / pair[1]["c"] for pair in zip(traded["results"], restated["results"], strict=True))
    assert (before, after) == (pytest.approx(4.0), pytest.approx(1.0))


def test_newest_first_where_it_is_asked_for() -> None:
    path = days("2026-11-02", "2026-11-05")
    assert body(path, sort="desc")["results"] == body(path)["results"][::-1]


@pytest.mark.parametrize("ticker", ["aapl", "NOBODY", "I:SPX", "^SPX"])
def test_a_ticker_in_other_letters_is_nobodys(ticker: str) -> None:
    got = body(days("2026-11-02", "2026-11-03", ticker))
    assert (got["resultsCount"], "results" in got) == (0, False)


def test_a_weekend_has_no_results() -> None:
    assert "results" not in body(days("2026-11-14", "2026-11-15"))


def test_hours_of_the_clock_hold_both_sides_of_the_opening_bell() -> None:
    path = "/v2/aggs/ticker/AAPL/range/1/hour/2026-11-18/2026-11-18"
    hours = {datetime.fromtimestamp(row["t"] / 1000, NEW_YORK).hour: row for row in body(path)["results"]}
    minutes = body("/v2/aggs/ticker/AAPL/range/1/minute/2026-11-18/2026-11-18")["results"]
    nine = [row for row in minutes if datetime.fromtimestamp(row["t"] / 1000, NEW_YORK).hour == 9]
    assert hours[9]["v"] == sum(row["v"] for row in nine)
    assert (hours[9]["o"], hours[9]["c"], hours[9]["n"]) == (nine[0]["o"], nine[-1]["c"], sum(r["n"] for r in nine))


def test_the_limit_counts_the_minutes_below_a_bar() -> None:
    path = "/v2/aggs/ticker/AAPL/range/30/minute/2026-11-18/2026-11-18"
    first = body(path, limit="120")
    assert len(first["results"]) == 4
    assert "next_url" in first


def test_a_whole_session_is_stamped_with_its_end() -> None:
    rows = body("/v2/aggs/grouped/locale/us/market/stocks/2020-10-14")["results"]
    assert {row["t"] for row in rows} == {1602705600000}
    half_day = body("/v2/aggs/grouped/locale/us/market/stocks/2025-11-28")["results"]
    assert {datetime.fromtimestamp(row["t"] / 1000, NEW_YORK).hour for row in half_day} == {13}
    assert "results" not in body("/v2/aggs/grouped/locale/us/market/stocks/2025-11-27")


def test_the_session_before_is_known_by_its_end_too() -> None:
    (row,) = body("/v2/aggs/ticker/AAPL/prev")["results"]
    assert (row["T"], row["t"]) == ("AAPL", int(datetime(2026, 11, 20, 16, tzinfo=NEW_YORK).timestamp()) * 1000)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/aggs/ticker/AAPL/range/1/day/yesterday/2026-11-05",
        "/v2/aggs/ticker/AAPL/range/1/fortnight/2026-11-02/2026-11-05",
        "/v2/aggs/grouped/locale/us/market/stocks/today",
        "/v3/trades/AAPL?timestamp=never",
    ],
)
def test_a_question_that_cannot_be_read_is_refused_in_words(path: str) -> None:
    where, _, stamp = path.partition("?timestamp=")
    got = reply(where, timestamp=stamp) if stamp else reply(where)
    assert got.status == 400
    assert json.loads(got.body)["status"] == "ERROR"


# Pages


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (days("2026-10-01", "2026-11-05"), {"limit": "7"}),
        ("/v3/reference/tickers", {"limit": "20", "active": "true"}),
        ("/v3/reference/dividends", {"ticker": "AAPL", "order": "asc"}),
        ("/stocks/v1/splits", {"limit": "40"}),
        (OPTION, {"underlying_ticker": "IBM", "limit": "50"}),
        ("/v3/trades/AAPL", {"timestamp.gte": "2026-11-20", "limit": "9000", "order": "asc"}),
    ],
)
def test_pages_together_hold_every_row_once_and_never_a_key(path: str, query: dict[str, Any]) -> None:
    rows: list[str] = []
    pages = 0
    asked: dict[str, Any] = {name.replace(".", "__"): value for name, value in query.items()}
    while True:
        got = body(path, apiKey="planted-key", **asked)
        rows.extend(json.dumps(row, sort_keys=True) for row in got["results"])
        pages += 1
        following = got.get("next_url", "")
        if not following:
            break
        where, _, cursor = following.partition("?cursor=")
        assert where == f"{BASE}{path}"
        assert "planted-key" not in following + base64.urlsafe_b64decode(cursor + "===").decode()
        asked = {"cursor": cursor}
    assert pages > 1
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("cursor", ["%%%", "bm90IGEgcXVlcnk", "YXA9bWludXM"])
def test_a_cursor_that_nobody_gave_out_is_refused_or_begins_anew(cursor: str) -> None:
    got = reply("/v3/reference/tickers", cursor=cursor)
    assert got.status in (200, 400)
    assert json.loads(got.body)["status"] in ("OK", "ERROR")


# Reference


def test_the_newer_endpoints_add_what_they_restate() -> None:
    (split,) = body("/stocks/v1/splits", ticker="AAPL", execution_date__gte="2020-01-01")["results"]
    assert (split["split_to"], split["split_from"], split["adjustment_type"]) == (4, 1, "forward_split")
    query: dict[str, Any] = {"ticker": "AAPL", "ex_dividend_date__lt": "2020-08-01", "limit": "1"}
    (old,) = body("/v3/reference/dividends", **query)["results"]
    (new,) = body("/stocks/v1/dividends", **query)["results"]
    assert new["cash_amount"] == old["cash_amount"]
    assert new["split_adjusted_cash_amount"] == pytest.approx(old["cash_amount"] / 4)


def test_the_list_holds_test_instruments_and_letters_that_count() -> None:
    natives = {row["ticker"] for row in body("/v3/reference/tickers", limit="1000")["results"]}
    assert {"ZTST", "NTEST.Q", "BApA", "BCATrw", "AAPL", "BRK.B"} <= natives


def test_delisted_ones_say_when() -> None:
    rows = body("/v3/reference/tickers", active="false", limit="1000")["results"]
    assert rows
    assert all(row["delisted_utc"].endswith("T00:00:00Z") and row["active"] is False for row in rows)


def test_the_list_of_a_day_knows_nobody_who_came_later() -> None:
    natives = {row["ticker"] for row in body("/v3/reference/tickers", date="2009-01-02", limit="1000")["results"]}
    assert "AAPL" in natives
    assert "TSLA" not in natives


def test_holidays_to_come_are_a_bare_list_with_a_row_a_venue() -> None:
    rows = body("/v1/marketstatus/upcoming")
    thanksgiving = [row for row in rows if row["date"] == "2026-11-26"]
    assert [row["exchange"] for row in thanksgiving] == ["NYSE", "NASDAQ", "OTC"]
    assert {(row["name"], row["status"]) for row in thanksgiving} == {("Thanksgiving", "closed")}
    short = next(row for row in rows if row["status"] == "early-close")
    assert (short["date"], short["open"], short["close"]) == (
        "2026-11-27",
        "2026-11-27T14:30:00.000Z",
        "2026-11-27T18:00:00.000Z",
    )


def test_a_recent_split_leaves_adjusted_contracts_behind() -> None:
    rows = body(OPTION, underlying_ticker="NFLX", limit="1000", now=datetime(2026, 11, 20, 23, tzinfo=UTC))["results"]
    odd = [row for row in rows if row["ticker"].startswith("O:NFLX1")]
    assert odd
    assert {row["shares_per_contract"] for row in odd} == {150}
    assert all("additional_underlyings" in row for row in odd)
    assert not [
        row for row in body(OPTION, underlying_ticker="IBM", limit="1000")["results"] if row["ticker"][5] == "1"
    ]


def test_contracts_expire_on_fridays_or_the_session_before() -> None:
    rows = body(OPTION, underlying_ticker="IBM", limit="1000", expired="true")["results"]
    expiries = {date.fromisoformat(row["expiration_date"]) for row in rows}
    assert date(2026, 6, 18) in expiries
    assert {day.weekday() for day in expiries} == {3, 4}


# Faults


@pytest.mark.parametrize(("word", "expected"), [("missing", "no field"), ("null", None), ("empty", [])])
def test_no_results_look_as_asked(word: str, expected: object) -> None:
    got = body(days("2026-11-02", "2026-11-05"), f"no_results={word}")
    assert got.get("results", "no field") == expected
    assert (got["resultsCount"], got["status"]) == (0, "OK")


def test_a_delayed_plan_says_so_and_answers() -> None:
    got = body(days("2026-11-02", "2026-11-05"), "delayed=on")
    assert (got["status"], len(got["results"])) == ("DELAYED", 4)


def test_a_clipped_history_says_nothing() -> None:
    got = body(days("2026-10-01", "2026-11-05"), "clipped_history=2026-11-02")
    assert (got["status"], len(got["results"])) == ("OK", 4)


def test_a_refused_history_uses_another_key_for_its_words() -> None:
    got = reply(days("2026-10-01", "2026-11-05"), "refused_history=2026-11-02")
    said = json.loads(got.body)
    assert (got.status, said["status"], "error" in said) == (403, "NOT_AUTHORIZED", False)
    assert said["message"].startswith("Your plan doesn't include this data timeframe.")


def test_the_next_page_can_be_said_to_be_elsewhere() -> None:
    got = body(days("2026-11-02", "2026-11-05"), "page_size=2", "foreign_next_url=evil.example")
    assert got["next_url"].startswith("https://evil.example/v2/aggs/")


@pytest.mark.parametrize(
    "fault", ["no_results=perhaps", "page_size=0", "clipped_history=soon", "delayed=maybe", "body=poem"]
)
def test_a_fault_that_cannot_be_is_refused(fault: str) -> None:
    with pytest.raises(FaultError):
        parse_fault(f"polygon.{fault}")


# Flat files


def flat(kind: str, day: str = "2026-11-18", *faults: str, now: datetime = NOW) -> Reply:
    where = f"/flatfiles/us_stocks_sip/{kind}_v1/{day[:4]}/{day[5:7]}/{day}.csv.gz"
    return reply(where, *faults, headers={}, now=now)


def lines(kind: str, *symbols: str) -> list[dict[str, str]]:
    listings = [one for one in WORLD.listings if one.symbol in symbols and one.mic == "XNYS"]
    text = "".join(polygon_flat.MAKERS[f"{kind}_v1"](WORLD, listings, date(2026, 11, 18), NOW, False))
    return list(csv.DictReader(io.StringIO(text)))


def test_the_file_of_days_is_everybody_in_order_of_their_tickers() -> None:
    got = flat("day_aggs")
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(got.body).decode())))
    assert list(rows[0]) == ["ticker", "volume", "open", "close", "high", "low", "window_start", "transactions"]
    tickers = [row["ticker"] for row in rows]
    assert tickers == sorted(tickers)
    apple = next(row for row in rows if row["ticker"] == "AAPL")
    assert apple["window_start"] == str(int(datetime(2026, 11, 18, tzinfo=NEW_YORK).timestamp()) * 10**9)
    asked = body(days("2026-11-18", "2026-11-18"), adjusted="false")["results"][0]
    assert [float(apple[name]) for name in ("open", "high", "low", "close", "volume")] == [
        asked[name] for name in ("o", "h", "l", "c", "v")
    ]


def test_a_file_is_there_the_next_morning_and_not_for_days_off() -> None:
    assert flat("day_aggs", "2026-11-20").status == 404
    assert flat("day_aggs", "2026-11-20", now=NOW + timedelta(hours=20)).status == 200
    assert flat("day_aggs", "2026-11-21", now=NOW + timedelta(days=3)).status == 404
    assert flat("poems", "2026-11-18").status == 404


def test_a_file_that_is_published_again_has_another_mark() -> None:
    first, again, other = flat("day_aggs"), flat("day_aggs"), flat("day_aggs", "2026-11-18", "republished=on")
    assert first.headers["ETag"] == again.headers["ETag"] != other.headers["ETag"]
    assert first.body == again.body != other.body


def test_trades_in_a_file_add_up_to_its_minutes() -> None:
    trades, minutes = lines("trades", "IBM"), lines("minute_aggs", "IBM")
    assert list(trades[0]) == polygon_flat.TRADES.split(",")
    shares: dict[int, float] = {}
    for row in trades:
        minute = int(row["sip_timestamp"]) // 60_000_000_000 * 60_000_000_000
        shares[minute] = shares.get(minute, 0.0) + float(row["size"])
    assert shares == {int(row["window_start"]): float(row["volume"]) for row in minutes}
    assert any("," in row["conditions"] for row in trades)
    assert all(row["size"].partition(".")[2] for row in trades)


def test_quotes_in_a_file_write_nobody_as_zero() -> None:
    quotes = lines("quotes", "AAPL")
    assert list(quotes[0]) == polygon_flat.QUOTES.split(",")
    empty = [row for row in quotes if row["bid_price"] == "0.0"]
    assert empty
    assert {row["bid_size"] for row in empty} == {"0"}
    assert np.all(np.diff([int(row["sip_timestamp"]) for row in quotes]) >= 0)
