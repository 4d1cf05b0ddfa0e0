"""From the simulator over a real connection through the adapter back to what the made-up world knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.actions import ActionKind
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Right
from market_pipelines.providers.http import HttpClient
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
)
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.simulator.formats.yahoo_options import expiries_of, strikes_of
from market_pipelines.simulator.minutes import grouped, minutes_of
from market_pipelines.simulator.server import Simulator

EVENING = datetime(2026, 11, 20, 23, tzinfo=UTC)
MIDDAY = datetime(2026, 11, 20, 17, 22, 40, tzinfo=UTC)
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
BRK = Instrument("BRK.B", "us", "XNYS", "USD")
PKO = Instrument("PKO", "pl", "XWAR", "PLN")
TOYOTA = Instrument("7203", "jp", "XTKS", "JPY")
VOD = Instrument("VOD", "lse", "XLON", "GBP")
SPX = Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX, provider_symbols={"yahoo": "^GSPC"})


class House:
    """An adapter in front of the simulator, whose clock stands still; answers come a second after one another."""

    def __init__(self, simulator: Simulator, client: HttpClient, now: datetime) -> None:
        self.simulator, self.now = simulator, now
        self.provider = Yahoo(simulator.base_urls()["YAHOO_BASE_URL"])
        self._client = client

    def ask(self, capability: Capability, query: object) -> list[Parsed]:
        ability = self.provider.abilities[capability]
        call: Call | None = ability.call(query)
        pages: list[Parsed] = []
        while call is not None:
            received_at = self.now + timedelta(seconds=len(pages))
            pages.append(parsed := ability.read(replace(self._client.get(call), received_at=received_at), query))
            call = parsed.more
        return pages

    def minutes(self, instrument: Instrument, start: date, end: date, interval: str, **how: bool) -> pd.DataFrame:
        query = IntradayQuery(instrument, interval, start, end, self.now.date(), how.get("extended", False))
        (parsed,) = self.ask(Capability.INTRADAY, query)
        assert parsed.bars is not None, parsed.reason
        return parsed.bars


@contextmanager
def house(*faults: str, now: datetime = EVENING) -> Iterator[House]:
    with Simulator(faults=faults, clock=now) as simulator, HttpClient() as client:
        yield House(simulator, client, now)


def truth(
    home: House, instrument: Instrument, start: date, end: date, interval: str, *, extended: bool = False
) -> pd.DataFrame:
    world = home.simulator.world
    listing = world.find(instrument.symbol, instrument.mic)
    assert listing is not None
    length = INTERVALS[interval]
    minutes = minutes_of(world, listing, start, end, home.now, extended=extended)
    bars = grouped(minutes, length, "bell" if length == 60 else "clock")
    unit = 0.01 if listing.currency == "GBp" else 1.0
    columns = {name: getattr(bars.bars, name) * unit for name in ("open", "high", "low", "close")}
    return pd.DataFrame({"ts": pd.DatetimeIndex(bars.stamps, tz="UTC"), **columns, "volume": bars.bars.volume})


def assert_true(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(expected)
    assert found["ts"].tolist() == expected["ts"].tolist()
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-7, atol=5e-7, err_msg=name)


@pytest.mark.parametrize("interval", list(INTERVALS))
@pytest.mark.parametrize("instrument", [AAPL, PKO, TOYOTA, VOD, SPX], ids=lambda one: one.symbol)
def test_intraday_bars_are_what_was_traded(instrument: Instrument, interval: str) -> None:
    start, end = date(2026, 11, 16), date(2026, 11, 20)
    with house() as home:
        assert_true(home.minutes(instrument, start, end, interval), truth(home, instrument, start, end, interval))


@pytest.mark.parametrize("interval", ["1min", "30min", "60min"])
def test_extended_hours_come_when_they_are_asked_for(interval: str) -> None:
    day = date(2026, 11, 18)
    with house() as home:
        bars = home.minutes(AAPL, day, day, interval, extended=True)
        assert_true(bars, truth(home, AAPL, day, day, interval, extended=True))
        assert len(bars) > len(home.minutes(AAPL, day, day, interval))


@pytest.mark.parametrize(
    ("instrument", "start", "now"),
    [
        (AAPL, date(2026, 3, 6), datetime(2026, 3, 12, 23, tzinfo=UTC)),
        (PKO, date(2026, 3, 6), datetime(2026, 3, 12, 23, tzinfo=UTC)),
        (AAPL, date(2026, 3, 26), datetime(2026, 4, 1, 23, tzinfo=UTC)),
        (PKO, date(2026, 3, 26), datetime(2026, 4, 1, 23, tzinfo=UTC)),
        (AAPL, date(2026, 10, 22), datetime(2026, 10, 28, 23, tzinfo=UTC)),
        (PKO, date(2026, 10, 22), datetime(2026, 10, 28, 23, tzinfo=UTC)),
        (AAPL, date(2026, 10, 29), datetime(2026, 11, 4, 23, tzinfo=UTC)),
        (PKO, date(2026, 10, 29), datetime(2026, 11, 4, 23, tzinfo=UTC)),
        (VOD, date(2026, 10, 22), datetime(2026, 10, 28, 23, tzinfo=UTC)),
    ],
    ids=lambda one: getattr(one, "symbol", str(one)),
)
def test_the_weeks_in_which_clocks_change_lose_and_move_nothing(
    instrument: Instrument, start: date, now: datetime
) -> None:
    """New York changes two or three weeks before Europe in March, a week after it in autumn."""
    end = start + timedelta(days=6)
    with house(now=now) as home:
        for interval in ("5min", "60min"):
            assert_true(home.minutes(instrument, start, end, interval), truth(home, instrument, start, end, interval))


def test_a_half_day_ends_at_one() -> None:
    with house(now=datetime(2026, 11, 27, 23, tzinfo=UTC)) as home:
        day = date(2026, 11, 27)
        bars = home.minutes(AAPL, day, day, "1min")
        assert_true(bars, truth(home, AAPL, day, day, "1min"))
        assert bars["ts"].iloc[-1].tz_convert("America/New_York").strftime("%H:%M") == "12:59"


@pytest.mark.parametrize("interval", list(INTERVALS))
def test_while_trading_goes_on_only_the_newest_bar_is_provisional(interval: str) -> None:
    day = date(2026, 11, 20)
    with house(now=MIDDAY) as home:
        bars = home.minutes(AAPL, day, day, interval)
        expected = truth(home, AAPL, day, day, interval)
        newest = bars.iloc[-1]
        length = pd.Timedelta(minutes=INTERVALS[interval])
        assert newest["ts"] <= pd.Timestamp(MIDDAY) < newest["ts"] + length
        assert bars["provisional"].tolist() == [False] * (len(bars) - 1) + [True]
        if interval == "1min":
            # The minute under way has its latest price and nothing else yet.
            assert (newest["close"], newest["volume"]) == (pytest.approx(expected["close"].iloc[-1]), 0.0)
            bars = bars.iloc[:-1]
        assert_true(bars, expected)


def test_the_evenings_live_row_does_not_touch_the_last_bar() -> None:
    day = date(2026, 11, 20)
    with house("yahoo.live_duplicate=on") as home:
        for interval in ("5min", "60min"):
            bars = home.minutes(AAPL, day, day, interval)
            assert bars["ts"].iloc[-1] == pd.Timestamp("2026-11-20 21:00", tz="UTC")
            assert_true(bars.iloc[:-1], truth(home, AAPL, day, day, interval))


def test_stray_rows_of_extended_hours_are_left_to_the_calendar() -> None:
    day = date(2026, 11, 18)
    with house("yahoo.stray_extended=on") as home:
        assert_true(home.minutes(AAPL, day, day, "5min"), truth(home, AAPL, day, day, "5min", extended=True))


def test_null_rows_are_left_out() -> None:
    day = date(2026, 11, 18)
    with house("yahoo.null_rows=3") as home:
        assert_true(home.minutes(AAPL, day, day, "5min"), truth(home, AAPL, day, day, "5min").iloc[:-3])
    with house("yahoo.null_rows=5000") as home:
        (parsed,) = home.ask(Capability.INTRADAY, IntradayQuery(AAPL, "5min", day, day, EVENING.date()))
        assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
        assert "without a price" in parsed.reason


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("yahoo.granularity=60m", Outcome.MALFORMED),
        ("yahoo.empty_range=on", Outcome.EMPTY_UNEXPECTED),
        ("yahoo.wrong_symbol=MSFT", Outcome.MALFORMED),
        ("yahoo.body=phantom", Outcome.UNKNOWN_SYMBOL),
        ("yahoo.body=not_found", Outcome.UNKNOWN_SYMBOL),
        ("yahoo.body=rate_limit", Outcome.THROTTLED),
        ("yahoo.status=429", Outcome.THROTTLED),
        ("yahoo.body=consent", Outcome.CHALLENGE),
        ("yahoo.body=outage", Outcome.UNAVAILABLE),
        ("yahoo.body=unprocessable", Outcome.EMPTY_UNEXPECTED),
        ("yahoo.crumb_gate=on", Outcome.NOT_ENTITLED),
        ("yahoo.truncated=on", Outcome.MALFORMED),
        ("yahoo.missing_rows=2026-11-18", Outcome.EMPTY_UNEXPECTED),
    ],
)
def test_what_goes_wrong_with_a_chart_has_its_outcome(fault: str, outcome: Outcome) -> None:
    day = date(2026, 11, 18)
    with house(fault) as home:
        (parsed,) = home.ask(Capability.INTRADAY, IntradayQuery(AAPL, "30min", day, day, EVENING.date()))
        assert parsed.outcome is outcome, parsed.reason
        assert parsed.bars is None


@pytest.mark.parametrize(
    ("interval", "start", "end"),
    [
        ("1min", date(2026, 11, 5), date(2026, 11, 20)),
        ("1min", date(2026, 10, 1), date(2026, 10, 2)),
        ("5min", date(2026, 8, 1), date(2026, 8, 2)),
        ("60min", date(2024, 1, 2), date(2024, 1, 5)),
    ],
)
def test_a_question_beyond_yahoos_reach_is_no_data(interval: str, start: date, end: date) -> None:
    with house() as home:
        (parsed,) = home.ask(Capability.INTRADAY, IntradayQuery(AAPL, interval, start, end, EVENING.date()))
        assert parsed.outcome in (Outcome.EMPTY_UNEXPECTED, Outcome.EMPTY_EXPECTED)
        assert "data not available" in parsed.reason


@pytest.mark.parametrize("interval", list(INTERVALS))
def test_the_whole_reach_of_an_interval_is_answered(interval: str) -> None:
    now = datetime(2026, 11, 21, 4, 59, 50, tzinfo=UTC)
    today = date(2026, 11, 20)
    with house(now=now) as home:
        span, back = home.provider.abilities[Capability.INTRADAY].reach[interval]
        start = today - timedelta(days=back)
        bars = home.minutes(AAPL, start, start + timedelta(days=span - 1), interval)
        assert len(bars)


def test_daily_bars_of_london_are_in_pounds() -> None:
    query = DailyQuery(VOD, date(2026, 11, 2), date(2026, 11, 20), date(2026, 11, 20))
    with house() as home, HttpClient() as client:
        answer = replace(client.get(home.provider.daily_call(query)), received_at=EVENING)
        parsed = home.provider.parse_daily(answer, query)
        assert parsed.bars is not None
        listing = home.simulator.world.find("VOD", "XLON")
        assert listing is not None
        tape = home.simulator.world.tape(listing, EVENING)
        np.testing.assert_allclose(parsed.bars["close"], tape.bars.close[-len(parsed.bars) :] / 100, rtol=1e-7)


def test_a_quote_goes_through_the_gate_and_comes_back_true() -> None:
    with house(now=MIDDAY) as home:
        asked, got, parsed = home.ask(Capability.QUOTE, QuoteQuery((AAPL,)))
        assert (asked.rows, got.rows, parsed.outcome) == (0, 0, Outcome.OK)
        listing = home.simulator.world.find("AAPL", "XNYS")
        assert listing is not None
        tape = home.simulator.world.tape(listing, MIDDAY, forming=True)
        (quote,) = parsed.records
        assert quote.price == pytest.approx(tape.bars.close[-1])
        assert quote.previous_close == pytest.approx(tape.bars.close[-2])
        assert (quote.at, quote.session, quote.currency) == (MIDDAY, date(2026, 11, 20), "USD")
        assert len(home.ask(Capability.QUOTE, QuoteQuery((AAPL,)))) == 1


def test_many_quotes_come_in_one_call_and_the_unknown_ones_are_named() -> None:
    nobody = Instrument("NOSUCH", "us", "XNYS", "USD")
    with house() as home:
        parsed = home.ask(Capability.BULK_QUOTES, QuoteQuery((BRK, nobody, PKO, VOD, SPX)))[-1]
        assert [quote.symbol for quote in parsed.records] == ["BRK.B", "PKO", "VOD", "^SPX"]
        assert "NOSUCH is not known" in parsed.reason
        vodafone = parsed.records[2]
        listing = home.simulator.world.find("VOD", "XLON")
        assert listing is not None
        close = home.simulator.world.tape(listing, EVENING).bars.close[-1]
        assert (vodafone.price, vodafone.currency) == (pytest.approx(close / 100), "GBP")


def test_an_old_price_says_how_old_it_is() -> None:
    with house("yahoo.stale_quote=2023-11-15") as home:
        parsed = home.ask(Capability.QUOTE, QuoteQuery((AAPL,)))[-1]
        assert parsed.records[0].session == date(2023, 11, 15)
        assert "2023-11-15" in parsed.reason


@pytest.mark.parametrize(
    ("faults", "steps", "outcome"),
    [
        (("yahoo.body=invalid_crumb@AAPL#1",), 6, Outcome.OK),
        (("yahoo.crumb_refused=first",), 6, Outcome.OK),
        (("yahoo.crumb_refused=always",), 6, Outcome.NOT_ENTITLED),
        (("yahoo.no_cookie=on",), 4, Outcome.OK),
        (("yahoo.getcrumb=too_many",), 2, Outcome.THROTTLED),
        (("yahoo.getcrumb=html",), 4, Outcome.MALFORMED),
        (("yahoo.getcrumb=empty",), 4, Outcome.MALFORMED),
        (("yahoo.body=consent",), 1, Outcome.CHALLENGE),
        (("yahoo.status=429",), 1, Outcome.THROTTLED),
        (("yahoo.body=rate_limit@AAPL",), 3, Outcome.THROTTLED),
        (("yahoo.status=503@AAPL",), 3, Outcome.UNAVAILABLE),
    ],
    ids=str,
)
def test_the_gate_ends_in_so_many_steps(faults: tuple[str, ...], steps: int, outcome: Outcome) -> None:
    with house(*faults) as home:
        pages = home.ask(Capability.QUOTE, QuoteQuery((AAPL,)))
        assert (len(pages), pages[-1].outcome) == (steps, outcome), pages[-1].reason


def test_a_profile_is_the_companys() -> None:
    with house() as home:
        (profile,) = home.ask(Capability.PROFILE, ProfileQuery(VOD))[-1].records
        assert (profile.symbol, profile.country, profile.currency) == ("VOD", "United Kingdom", "GBP")
        assert profile.name.startswith("Vodafone")
        assert profile.market_cap is not None
        assert home.ask(Capability.PROFILE, ProfileQuery(SPX))[-1].outcome is Outcome.EMPTY_EXPECTED
        nobody = Instrument("NOSUCH", "us", "XNYS", "USD")
        assert home.ask(Capability.PROFILE, ProfileQuery(nobody))[-1].outcome is Outcome.UNKNOWN_SYMBOL


def test_every_expiry_is_fetched_once() -> None:
    with house(now=MIDDAY) as home:
        listing = home.simulator.world.find("AAPL", "XNYS")
        assert listing is not None
        expiries = expiries_of(listing, home.simulator.world, MIDDAY)
        strikes = strikes_of(listing, home.simulator.world, MIDDAY)
        pages = home.ask(Capability.OPTIONS, OptionsQuery(AAPL, MIDDAY.date()))
        assert len(pages) == 2 + len(expiries)
        contracts = [contract for page in pages for contract in page.records]
        assert len({contract.native for contract in contracts}) == len(contracts) == 2 * len(expiries) * len(strikes)
        assert sorted({contract.expires for contract in contracts}) == expiries
        assert {contract.quoted_on for contract in contracts} == {MIDDAY.date()}
        assert any(contract.volume is None for contract in contracts)
        assert any(contract.bid is None for contract in contracts)
        few = home.ask(
            Capability.OPTIONS,
            OptionsQuery(AAPL, MIDDAY.date(), expires_from=expiries[2], expires_to=expiries[4], right=Right.PUT),
        )
        assert len(few) == 4
        puts = [contract for page in few for contract in page.records]
        assert {contract.right for contract in puts} == {Right.PUT}
        assert sorted({contract.expires for contract in puts}) == expiries[2:5]


def test_what_has_no_options_has_an_empty_chain() -> None:
    with house() as home:
        assert home.ask(Capability.OPTIONS, OptionsQuery(PKO, EVENING.date()))[-1].outcome is Outcome.EMPTY_EXPECTED


def test_the_search_finds_by_symbol_and_by_part_of_a_name() -> None:
    with house() as home:
        (found,) = home.ask(Capability.SEARCH, SearchQuery("AAPL"))
        assert found.records[0].native == "AAPL"
        (found,) = home.ask(Capability.SEARCH, SearchQuery("vodafone"))
        assert [match.native for match in found.records] == ["VOD.L"]
        (found,) = home.ask(Capability.SEARCH, SearchQuery("Nowhere To Be Found"))
        assert found.outcome is Outcome.EMPTY_EXPECTED


def test_actions_are_those_of_the_world() -> None:
    start = date(2014, 1, 2)
    with house() as home:
        (parsed,) = home.ask(Capability.ACTIONS, ActionsQuery(AAPL, start, EVENING.date()))
        listing = home.simulator.world.find("AAPL", "XNYS")
        assert listing is not None
        actions = [one for one in home.simulator.world.tape(listing, EVENING).actions if one.ex_date >= start]
        assert parsed.actions_known
        assert [(one.ex_date, one.kind.value) for one in parsed.actions] == [(one.ex_date, one.kind) for one in actions]
        for found, expected in zip(parsed.actions, actions, strict=True):
            # Amounts come restated for later splits with six decimals.
            assert found.value == pytest.approx(expected.value, abs=3e-5)
        assert {one.kind for one in parsed.actions} == {ActionKind.SPLIT, ActionKind.DIVIDEND}


def test_no_secret_is_in_what_the_server_remembers() -> None:
    with house() as home:
        home.ask(Capability.QUOTE, QuoteQuery((AAPL,)))
        targets = [request.target for request in home.simulator.requests.newest("yahoo")]
        assert any("crumb=" in target for target in targets)
        assert all("crumb=[redacted]" in target for target in targets if "crumb=" in target)
