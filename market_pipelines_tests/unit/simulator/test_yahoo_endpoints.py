"""What the simulated Yahoo answers, looked at without an adapter."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest

from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import FaultBoard, FaultError, parse_fault
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.truth import World

WORLD = World()
BASE = "http://127.0.0.1:8099/yahoo"
MIDDAY = datetime(2026, 11, 20, 17, 22, 40, tzinfo=UTC)
EVENING = datetime(2026, 11, 20, 23, tzinfo=UTC)
COOKIE = {"cookie": "A3=d=AQABBFc00&S=00"}
CRUMB = "haT3oykhHqZ"


def exchange(*faults: str, now: datetime = EVENING) -> Exchange:
    return Exchange(WORLD, FaultBoard(faults), SimulatedClock(now))


def ask(of: Exchange, path: str, query: Mapping[str, str] | None = None, **headers: str) -> Reply:
    return of.deliver(Asked("yahoo", path, query or {}, "", BASE, headers), path).reply


def let_in(of: Exchange, path: str, **query: str) -> Any:
    reply = ask(of, path, {**query, "crumb": CRUMB}, **COOKIE)
    return json.loads(reply.body)


def chart(of: Exchange, symbol: str = "AAPL", **query: str) -> dict[str, Any]:
    period = {"period1": str(epoch(EVENING.date())), "period2": str(epoch(EVENING.date()) + 86400)}
    reply = ask(of, f"/v8/finance/chart/{symbol}", {**period, **query})
    assert reply.status == 200, reply.body
    (result,) = json.loads(reply.body)["chart"]["result"]
    return dict(result)


def epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 5, tzinfo=UTC).timestamp())


def test_the_cookie_comes_with_a_404_and_the_crumb_belongs_to_it() -> None:
    of = exchange()
    first = ask(of, "/fc")
    assert first.status == 404
    page = ask(of, "/finance/quote/AAPL")
    assert page.status == 200
    cookies = [reply.headers["Set-Cookie"].partition(";")[0] for reply in (first, page)]
    crumbs = [ask(of, "/v1/test/getcrumb", cookie=cookie).body.decode() for cookie in cookies]
    assert crumbs[0] == CRUMB != crumbs[1]
    for crumb, cookie in zip(crumbs, cookies, strict=True):
        query = {"symbols": "AAPL", "crumb": crumb}
        assert ask(of, "/v7/finance/quote", query, cookie=cookie).status == 200
        assert ask(of, "/v7/finance/quote", query, cookie=cookies[crumb == CRUMB]).status == 401


@pytest.mark.parametrize("path", ["/v7/finance/quote", "/v7/finance/options/AAPL", "/v10/finance/quoteSummary/AAPL"])
def test_half_of_yahoo_is_behind_the_gate(path: str) -> None:
    of = exchange()
    assert b"Invalid Cookie" in ask(of, path, {"crumb": CRUMB}).body
    assert b"Invalid Crumb" in ask(of, path, {"crumb": "wrong"}, **COOKIE).body
    assert ask(of, path, {"crumb": CRUMB, "modules": "price"}, **COOKIE).status == 200
    assert ask(of, "/v1/finance/search", {"q": "apple"}).status == 200


def test_the_crumb_host_may_say_something_else() -> None:
    assert ask(exchange("yahoo.getcrumb=too_many"), "/v1/test/getcrumb").body == b"Too Many Requests\r\n"
    assert b"<html>" in ask(exchange("yahoo.getcrumb=html"), "/v1/test/getcrumb").body
    assert ask(exchange("yahoo.getcrumb=empty"), "/v1/test/getcrumb").body == b""
    assert "Set-Cookie" not in ask(exchange("yahoo.no_cookie=on"), "/fc").headers
    with pytest.raises(FaultError, match="too_many, html, empty"):
        parse_fault("yahoo.getcrumb=nonsense")


def test_the_crumb_of_the_first_way_or_any_may_be_refused() -> None:
    query, page = {"symbols": "AAPL", "crumb": "mZ4kQ.9wLpT"}, "A3=d=AQABBPg00&S=00"
    for refused, status in (("first", 200), ("always", 401)):
        of = exchange(f"yahoo.crumb_refused={refused}")
        assert ask(of, "/v7/finance/quote", {**query, "crumb": CRUMB}, **COOKIE).status == 401
        assert ask(of, "/v7/finance/quote", query, cookie=page).status == status


def test_the_consent_page_is_at_the_end_of_its_redirect() -> None:
    of = exchange("yahoo.body=consent")
    target = ask(of, "/v7/finance/quote").headers["Location"]
    path = target.removeprefix(BASE).partition("?")[0]
    assert b"Before you continue" in ask(of, path).body


def test_minutes_carry_their_days_periods() -> None:
    result = chart(exchange(), interval="1m")
    assert len(result["timestamp"]) == 390
    assert result["meta"]["dataGranularity"] == "1m"
    ((period,),) = result["meta"]["tradingPeriods"]
    assert (period["start"], period["end"]) == (result["timestamp"][0], result["timestamp"][-1] + 60)
    assert "events" not in result
    extended = chart(exchange(), interval="1m", includePrePost="true")
    assert set(extended["meta"]["tradingPeriods"]) == {"pre", "regular", "post"}
    assert len(extended["timestamp"]) > 390


def test_a_minute_without_a_trade_is_a_row_of_nulls() -> None:
    result = chart(exchange(), "11B.WA", interval="1m")
    (cells,) = result["indicators"]["quote"]
    silent = [row for row, close in enumerate(cells["close"]) if close is None]
    assert silent
    assert all(cells[name][row] is None for name in cells for row in silent)
    gaps = [after - before for before, after in zip(result["timestamp"], result["timestamp"][1:], strict=False)]
    assert set(gaps) == {60}


def test_during_trading_the_last_row_is_the_latest_trade() -> None:
    result = chart(exchange(now=MIDDAY), interval="5m")
    assert result["timestamp"][-1] == result["meta"]["regularMarketTime"] == int(MIDDAY.timestamp())
    assert result["timestamp"][-2] % 300 == 0
    (cells,) = result["indicators"]["quote"]
    assert cells["volume"][-1] == 0
    assert chart(exchange(), interval="5m")["timestamp"][-1] % 300 == 0
    duplicated = chart(exchange("yahoo.live_duplicate=on"), interval="5m")
    assert duplicated["timestamp"][-1] == duplicated["meta"]["regularMarketTime"]


def test_half_hours_may_come_as_hours() -> None:
    result = chart(exchange("yahoo.granularity=60m"), interval="30m")
    assert result["meta"]["dataGranularity"] == "60m"
    assert result["timestamp"][1] - result["timestamp"][0] == 3600


def test_intraday_prices_and_volume_are_restated_for_later_splits() -> None:
    now = datetime(2020, 9, 2, 23, tzinfo=UTC)
    before, after = (int(datetime(2020, *day, 5, tzinfo=UTC).timestamp()) for day in ((8, 28), (9, 1)))
    result = chart(exchange(now=now), interval="60m", period1=str(before), period2=str(after))
    (cells,) = result["indicators"]["quote"]
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    tape = WORLD.tape(listing, now)
    friday, monday = (list(tape.sessions.astype(str)).index(day) for day in ("2020-08-28", "2020-08-31"))
    assert cells["open"][0] == pytest.approx(tape.bars.open[friday] / 4)
    assert sum(cells["volume"][:7]) == pytest.approx(tape.bars.volume[friday] * 4)
    assert cells["open"][7] == pytest.approx(tape.bars.open[monday])
    assert "events" not in result


@pytest.mark.parametrize(
    ("interval", "days", "ago", "text"),
    [
        ("1m", 9, 9, "Only 8 days worth of 1m granularity data"),
        ("1m", 1, 31, "within the last 30 days"),
        ("15m", 1, 61, "within the last 60 days"),
        ("60m", 1, 731, "within the last 730 days"),
    ],
)
def test_what_is_out_of_reach_is_refused_in_yahoos_words(interval: str, days: int, ago: int, text: str) -> None:
    start = int(EVENING.timestamp()) - ago * 86400
    query = {"interval": interval, "period1": str(start), "period2": str(start + days * 86400)}
    reply = ask(exchange(), "/v8/finance/chart/AAPL", query)
    assert reply.status == 422
    assert text in json.loads(reply.body)["chart"]["error"]["description"]


def test_quarters_have_events_whose_dates_are_years_away_from_their_keys() -> None:
    for interval, away in (("1mo", False), ("3mo", True)):
        reply = ask(exchange(), "/v8/finance/chart/AAPL", {"interval": interval, "range": "5y", "events": "div,splits"})
        (result,) = json.loads(reply.body)["chart"]["result"]
        keys = {int(key) - event["date"] for key, event in result["events"]["dividends"].items()}
        assert {abs(distance) > 100_000_000 for distance in keys} == {away}
        assert set(map(int, result["events"]["dividends"])) <= set(result["timestamp"])


def test_unknown_symbols_are_dropped_and_delisted_ones_have_no_price() -> None:
    gone = next(listing for listing in WORLD.listings if listing.delisted_on is not None and listing.yahoo != "-")
    body = let_in(exchange(), "/v7/finance/quote", symbols=f"AAPL,NOSUCH,{gone.yahoo}")
    told = {one["symbol"]: one for one in body["quoteResponse"]["result"]}
    assert set(told) == {"AAPL", gone.yahoo}
    assert told[gone.yahoo]["quoteType"] == "NONE"
    assert "regularMarketPrice" not in told[gone.yahoo]


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (MIDDAY, "REGULAR"),
        (EVENING, "POST"),
        (datetime(2026, 11, 20, 12, tzinfo=UTC), "PRE"),
        (datetime(2026, 11, 21, 17, tzinfo=UTC), "CLOSED"),
    ],
)
def test_a_quote_names_the_markets_state(now: datetime, state: str) -> None:
    body = let_in(exchange(now=now), "/v7/finance/quote", symbols="AAPL")
    assert body["quoteResponse"]["result"][0]["marketState"] == state


def test_a_stale_quote_is_of_another_year() -> None:
    body = let_in(exchange("yahoo.stale_quote=2023-11-15"), "/v7/finance/quote", symbols="AAPL")
    at = datetime.fromtimestamp(body["quoteResponse"]["result"][0]["regularMarketTime"], UTC)
    assert at.date() == date(2023, 11, 15)


def test_a_chain_shows_one_expiry_and_lists_all() -> None:
    of = exchange()
    (first,) = let_in(of, "/v7/finance/options/AAPL")["optionChain"]["result"]
    assert first["options"][0]["expirationDate"] == first["expirationDates"][0]
    wanted = first["expirationDates"][3]
    (other,) = let_in(of, "/v7/finance/options/AAPL", date=str(wanted))["optionChain"]["result"]
    assert {one["expiration"] for one in other["options"][0]["puts"]} == {wanted}
    assert any("volume" not in one for one in other["options"][0]["calls"])
    (none,) = let_in(of, "/v7/finance/options/^GSPC")["optionChain"]["result"]
    assert (none["expirationDates"], none["options"]) == ([], [])
    assert let_in(of, "/v7/finance/options/NOSUCH")["optionChain"]["result"] == []


def test_an_index_has_no_fundamentals() -> None:
    reply = ask(exchange(), "/v10/finance/quoteSummary/^GSPC", {"modules": "assetProfile", "crumb": CRUMB}, **COOKIE)
    assert reply.status == 404
    assert b"No fundamentals data found for any of the summaryTypes=assetProfile" in reply.body


def test_the_search_is_not_particular_about_accents_and_capitals() -> None:
    for text in ("APPLE INC", "apple inc"):
        body = json.loads(ask(exchange(), "/v1/finance/search", {"q": text}).body)
        assert body["quotes"][0]["symbol"] == "AAPL"
    assert json.loads(ask(exchange(), "/v1/finance/search", {"q": "zzzzz"}).body)["quotes"] == []
    assert len(json.loads(ask(exchange(), "/v1/finance/search", {"q": "a", "quotesCount": "3"}).body)["quotes"]) == 3
