"""From the simulator over a real connection through the adapter back to what the made-up world knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import ActionKind, Basis
from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Right, TickKind
from market_pipelines.providers.http import HttpClient
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Call,
    Capability,
    DailyQuery,
    GroupedQuery,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    TicksQuery,
    abilities_of,
)
from market_pipelines.simulator.aggregates import SECOND_NS, bars_of
from market_pipelines.simulator.minutes import grouped, minutes_of
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.ticks import quotes_of, trades_of
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, World

EVENING = datetime(2026, 11, 20, 23, tzinfo=UTC)
MIDDAY = datetime(2026, 11, 20, 17, 22, 40, tzinfo=UTC)
TODAY = date(2026, 11, 20)
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
MSFT = Instrument("MSFT", "us", "XNYS", "USD")
BRK = Instrument("BRK.B", "us", "XNYS", "USD")
NOBODY = Instrument("NOBODY", "us", "XNYS", "USD")
WORLD = World()


class House:
    """An adapter in front of the simulator, whose clock stands still."""

    def __init__(self, simulator: Simulator, client: HttpClient, now: datetime, key: SecretStr | None) -> None:
        self.simulator, self.now = simulator, now
        self.provider = Polygon(key, simulator.base_urls()["POLYGON_BASE_URL"])
        self._client = client

    def ask(self, capability: Capability, query: object) -> list[Parsed]:
        ability = abilities_of(self.provider)[capability]
        call: Call | None = ability.call(query)
        pages: list[Parsed] = []
        while call is not None:
            answer = replace(self._client.get(call), received_at=self.now)
            assert answer.simulated
            pages.append(parsed := ability.read(answer, query))
            call = parsed.more
        return pages

    def rows(self, capability: Capability, query: object) -> pd.DataFrame:
        pages = self.ask(capability, query)
        frames = [page.bars for page in pages if page.bars is not None]
        assert frames, pages[-1].reason
        return pd.concat(frames, ignore_index=True)

    def records(self, capability: Capability, query: object) -> list[object]:
        return [record for page in self.ask(capability, query) for record in page.records]


@contextmanager
def house(*faults: str, now: datetime = EVENING, key: SecretStr | None = None) -> Iterator[House]:
    with Simulator(faults=faults, clock=now) as simulator, HttpClient() as client:
        yield House(simulator, client, now, key)


@pytest.mark.parametrize("instrument", [AAPL, BRK], ids=lambda each: each.symbol)
def test_traded_days_come_back_across_splits_and_clock_changes(instrument: Instrument) -> None:
    listing = WORLD.find(instrument.symbol, "XNYS")
    assert listing is not None
    tape = WORLD.tape(listing, EVENING)
    query = DailyQuery(instrument, date(2009, 1, 2), TODAY, TODAY)
    with house() as home:
        bars = home.rows(Capability.DAILY, query)
    first = int(np.searchsorted(tape.sessions, np.datetime64("2009-01-02")))
    assert bars["session"].to_numpy().astype("datetime64[D]").tolist() == tape.sessions[first:].tolist()
    for name in VALUE_COLUMNS:
        np.testing.assert_array_equal(bars[name], getattr(tape.bars, name)[first:])
    assert not bars["provisional"].any()


def test_the_day_under_way_is_provisional() -> None:
    with house(now=MIDDAY) as home:
        bars = home.rows(Capability.DAILY, DailyQuery(AAPL, date(2026, 11, 16), TODAY, TODAY))
    assert bars["provisional"].tolist() == [False] * 4 + [True]


def test_many_pages_are_one_history() -> None:
    query = DailyQuery(AAPL, date(2020, 1, 2), TODAY, TODAY)
    with house() as home:
        whole = home.rows(Capability.DAILY, query)
    with house("polygon.page_size=100") as home:
        pages = home.ask(Capability.DAILY, query)
        seen = [request.target for request in home.simulator.requests.newest("polygon")]
    assert len(pages) == -(-len(whole) // 100)
    assert all("clipped" not in page.reason for page in pages)
    paged = pd.concat([page.bars for page in pages if page.bars is not None], ignore_index=True)
    pd.testing.assert_frame_equal(paged, whole)
    assert all("apiKey" not in target for target in seen)


@pytest.mark.parametrize("interval", INTERVALS)
def test_bars_within_a_session_add_up_to_the_worlds_minutes(interval: str) -> None:
    """Across the clock change of the first of November, and a thin share's missing minutes."""
    start, end = date(2026, 10, 29), date(2026, 11, 3)
    listing = WORLD.find("BRK.B", "XNYS")
    assert listing is not None
    with house() as home:
        bars = home.rows(Capability.INTRADAY, IntradayQuery(BRK, interval, start, end, TODAY))
    minutes = minutes_of(WORLD, listing, start, end, EVENING, extended=True)
    truth = grouped(minutes, INTERVALS[interval], "bell")
    regular = np.isin(bars["ts"].dt.tz_convert(None).to_numpy(), truth.stamps[truth.phase == "regular"])
    wanted = truth.take(truth.phase == "regular")
    found = bars[regular]
    assert found["ts"].dt.tz_convert(None).to_numpy().tolist() == wanted.stamps.tolist()
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(found[name], getattr(wanted.bars, name))
    assert bars["volume"].sum() == minutes.bars.volume.sum()


def test_minutes_of_many_pages_are_one_table() -> None:
    query = IntradayQuery(AAPL, "5min", date(2026, 11, 18), date(2026, 11, 19), TODAY)
    with house() as home:
        whole = home.rows(Capability.INTRADAY, query)
    with house("polygon.page_size=37") as home:
        pd.testing.assert_frame_equal(home.rows(Capability.INTRADAY, query), whole)


def test_a_session_of_everybody_equals_their_daily_bars() -> None:
    with house() as home:
        session = home.rows(Capability.GROUPED_DAILY, GroupedQuery((MSFT, AAPL, BRK), date(2026, 11, 19), TODAY))
        days = [
            home.rows(Capability.DAILY, DailyQuery(each, date(2026, 11, 19), date(2026, 11, 19), TODAY))
            for each in (AAPL, BRK, MSFT)
        ]
    pd.testing.assert_frame_equal(session, pd.concat(days, ignore_index=True))


def test_splits_and_dividends_come_back_as_they_were_paid() -> None:
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    tape = WORLD.tape(listing, EVENING)
    with house("polygon.page_size=7") as home:
        pages = home.ask(Capability.ACTIONS, ActionsQuery(AAPL, date(2000, 1, 1), TODAY))
    found = [action for page in pages for action in page.actions]
    for kind, name in ((ActionKind.SPLIT, SPLIT), (ActionKind.DIVIDEND, DIVIDEND)):
        expected = [(one.ex_date, one.value) for one in tape.actions_of(name) if one.ex_date >= date(2000, 1, 1)]
        assert [(one.ex_date, one.value) for one in found if one.kind is kind] == expected
        assert expected
    assert [page.actions_known for page in pages] == [False] * (len(pages) - 1) + [True]


def test_trades_and_quotes_come_back_to_the_nanosecond() -> None:
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    start = datetime(2026, 11, 19, 14, 29, tzinfo=UTC)
    end = start + timedelta(minutes=7)
    with house("polygon.page_size=150") as home:
        trades = home.rows(Capability.TRADES, TicksQuery(AAPL, TickKind.TRADES, start, end))
        quotes = home.rows(Capability.QUOTES_HISTORY, TicksQuery(AAPL, TickKind.QUOTES, start, end))
    truth = trades_of(WORLD, listing, start, end, EVENING)
    assert [stamp.value for stamp in trades["ts"]] == truth.stamps.tolist()
    np.testing.assert_array_equal(trades["seq"], truth.seq)
    np.testing.assert_array_equal(trades["price"], truth.price)
    np.testing.assert_array_equal(trades["size"], truth.size)
    assert trades["conditions"].tolist() == truth.conditions.tolist()
    assert trades["exchange"].tolist() == [str(venue) for venue in truth.venue]
    told = quotes_of(WORLD, listing, start, end, EVENING)
    assert [stamp.value for stamp in quotes["ts"]] == told.stamps.tolist()
    np.testing.assert_array_equal(quotes["bid"].fillna(0), told.bid)
    np.testing.assert_array_equal(quotes["ask"], told.ask)


def test_seconds_come_back_page_by_page_as_their_trades_make_them() -> None:
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    start = datetime(2026, 11, 19, 14, 29, 58, tzinfo=UTC)
    end = start + timedelta(minutes=7)
    with house("polygon.page_size=50", "polygon.delayed=on") as home:
        pages = home.ask(Capability.SECONDS, TicksQuery(AAPL, TickKind.AGGREGATES, start, end))
    truth = bars_of(trades_of(WORLD, listing, start, end, EVENING), SECOND_NS)
    assert len(pages) > 3
    told = pd.concat([page.bars for page in pages if page.bars is not None], ignore_index=True)
    assert [stamp.value for stamp in told["ts"]] == truth.starts.tolist()
    for name in VALUE_COLUMNS:
        np.testing.assert_array_equal(told[name], getattr(truth, name))
    assert not told["provisional"].any()


def test_the_trades_of_a_minute_are_its_bar() -> None:
    minute = datetime(2026, 11, 19, 15, 0, tzinfo=UTC)
    with house() as home:
        trades = home.rows(Capability.TRADES, TicksQuery(AAPL, TickKind.TRADES, minute, minute + timedelta(minutes=1)))
        bars = home.rows(Capability.INTRADAY, IntradayQuery(AAPL, "1min", minute.date(), minute.date(), TODAY))
    bar = bars[bars["ts"] == minute].iloc[0]
    price = trades["price"]
    made = [price.iloc[0], price.max(), price.min(), price.iloc[-1], trades["size"].sum()]
    assert bar[list(VALUE_COLUMNS)].tolist() == made


def test_quotes_are_the_same_alone_and_together() -> None:
    with house(now=MIDDAY) as home:
        (one,) = home.records(Capability.QUOTE, QuoteQuery((AAPL,)))
        both = home.records(Capability.BULK_QUOTES, QuoteQuery((MSFT, AAPL)))
        (bar,) = home.rows(Capability.DAILY, DailyQuery(AAPL, TODAY, TODAY, TODAY)).itertuples()
        (trade,) = (
            home.rows(Capability.TRADES, TicksQuery(AAPL, TickKind.TRADES, MIDDAY - timedelta(seconds=20), MIDDAY))
            .tail(1)
            .itertuples()
        )
    assert both[1] == one
    quote: object = one
    assert getattr(quote, "open") == bar.open  # noqa: B009 (the record's kind is not known to the type checker)
    assert getattr(quote, "price") == trade.price  # noqa: B009
    assert getattr(quote, "bid") <= trade.price <= getattr(quote, "ask")  # noqa: B009


def test_listings_hold_everybody_and_no_test_instruments() -> None:
    with house("polygon.page_size=50") as home:
        active = home.records(Capability.LISTINGS, ListingsQuery("XNYS"))
        gone = home.records(Capability.LISTINGS, ListingsQuery("XNYS", active=False))
    natives = [getattr(record, "native", "") for record in active]
    listed = {one.symbol for one in WORLD.listings if one.mic == "XNYS" and one.kind != "index"}
    delisted = {one.symbol for one in WORLD.listings if one.symbol in listed and one.delisted_on is not None}
    assert set(natives) == listed - delisted | {"BApA", "BCATrw"}
    assert natives == sorted(natives)
    assert {getattr(record, "native", "") for record in gone} == delisted
    assert all(getattr(record, "delisted_on", None) is not None for record in gone)


def test_a_profile_and_a_search_find_who_is_meant() -> None:
    with house() as home:
        (profile,) = home.records(Capability.PROFILE, ProfileQuery(AAPL))
        found = home.records(Capability.SEARCH, SearchQuery("apple"))
        (unknown,) = home.ask(Capability.PROFILE, ProfileQuery(NOBODY))
        (nothing,) = home.ask(Capability.SEARCH, SearchQuery("no such thing"))
    assert getattr(profile, "name", "") == "Apple Inc."
    assert "AAPL" in [getattr(record, "native", "") for record in found]
    assert unknown.outcome is Outcome.UNKNOWN_SYMBOL
    assert nothing.outcome is Outcome.EMPTY_EXPECTED


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (MIDDAY, "open"),
        (EVENING, "extended_hours"),
        (datetime(2026, 11, 20, 10, tzinfo=UTC), "extended_hours"),
        (datetime(2026, 11, 21, 17, tzinfo=UTC), "closed"),
    ],
)
def test_the_venues_keep_the_exchanges_hours(now: datetime, status: str) -> None:
    with house(now=now) as home:
        venues = home.records(Capability.MARKET_STATUS, StatusQuery())
    assert {getattr(venue, "status", "") for venue in venues} == {status}


def test_days_off_and_short_days_are_announced() -> None:
    with house() as home:
        days = home.records(Capability.MARKET_STATUS, StatusQuery(upcoming=True))
    named = {(getattr(day, "on", None), getattr(day, "status", "")) for day in days}
    assert (date(2026, 11, 26), "closed") in named
    assert (date(2026, 11, 27), "early_close") in named
    assert (date(2026, 12, 25), "closed") in named
    short = next(day for day in days if getattr(day, "on", None) == date(2026, 11, 27))
    assert getattr(short, "closes", "") == "2026-11-27T18:00:00.000Z"


def test_contracts_are_found_by_expiry_and_right_also_expired_ones() -> None:
    with house("polygon.page_size=5") as home:
        puts = home.records(
            Capability.OPTIONS,
            OptionsQuery(AAPL, TODAY, date(2026, 12, 1), date(2026, 12, 31), Right.PUT),
        )
        around = home.records(Capability.OPTIONS, OptionsQuery(BRK, TODAY, date(2026, 10, 1), date(2026, 12, 31)))
    assert {getattr(one, "right", None) for one in puts} == {Right.PUT}
    assert {getattr(one, "expires", None) for one in puts} == {
        date(2026, 12, 4),
        date(2026, 12, 11),
        date(2026, 12, 18),
    }
    expiries = {getattr(one, "expires", None) for one in around}
    assert date(2026, 10, 16) in expiries
    assert date(2026, 12, 18) in expiries
    assert all(getattr(one, "native", "").startswith("O:BRKB") for one in around)


# Faults


def daily(*faults: str, key: SecretStr | None = None, instrument: Instrument = AAPL) -> Parsed:
    with house(*faults, key=key) as home:
        pages = home.ask(Capability.DAILY, DailyQuery(instrument, date(2025, 1, 2), TODAY, TODAY))
        return pages[0]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("delayed=on", Outcome.OK),
        ("no_results=missing", Outcome.EMPTY_UNEXPECTED),
        ("no_results=null", Outcome.EMPTY_UNEXPECTED),
        ("no_results=empty", Outcome.EMPTY_UNEXPECTED),
        ("refused_history=2025-06-01", Outcome.NOT_ENTITLED),
        ("refused_history=2025-01-01", Outcome.OK),
        ("body=unknown_key", Outcome.NOT_ENTITLED),
        ("body=no_key", Outcome.NOT_ENTITLED),
        ("body=not_in_plan", Outcome.NOT_ENTITLED),
        ("body=not_entitled", Outcome.NOT_ENTITLED),
        ("body=too_many", Outcome.THROTTLED),
        ("body=not_found", Outcome.UNKNOWN_SYMBOL),
        ("body=bad_request", Outcome.MALFORMED),
        ("body=html", Outcome.MALFORMED),
        ("body=empty", Outcome.MALFORMED),
        ("wrong_symbol=MSFT", Outcome.MALFORMED),
        ("truncated=on", Outcome.MALFORMED),
        ("close_mid_body=on", Outcome.UNAVAILABLE),
        ("nan_price=on", Outcome.MALFORMED),
        ("status=429:7", Outcome.THROTTLED),
        ("status=503", Outcome.UNAVAILABLE),
    ],
)
def test_a_fault_ends_as_what_it_is(fault: str, outcome: Outcome) -> None:
    parsed = daily(f"polygon.{fault}")
    assert parsed.outcome is outcome, parsed.reason
    assert (parsed.bars is not None) == (outcome is Outcome.OK)


def test_a_clipped_history_is_delivered_and_called_so() -> None:
    parsed = daily("polygon.clipped_history=2026-01-02")
    assert parsed.bars is not None
    assert parsed.bars["session"].iloc[0] == pd.Timestamp("2026-01-02")
    assert "clipped: begins on 2026-01-02" in parsed.reason


def test_prices_that_are_adjusted_anyway_are_labelled() -> None:
    netflix = Instrument("NFLX", "us", "XNYS", "USD")
    parsed, traded = daily("polygon.adjusted_anyway=on", instrument=netflix), daily(instrument=netflix)
    assert (parsed.basis, traded.basis) == (Basis.SPLIT, None)
    assert parsed.bars is not None
    assert traded.bars is not None
    assert parsed.bars["close"][0] == pytest.approx(traded.bars["close"][0] / 10)


def test_a_next_page_on_another_host_ends_it_and_nothing_is_asked_there() -> None:
    with house("polygon.page_size=50", "polygon.foreign_next_url=evil.example", key=SecretStr("k" * 24)) as home:
        (page,) = home.ask(Capability.DAILY, DailyQuery(AAPL, date(2025, 1, 2), TODAY, TODAY))
        assert home.simulator.requests.count("polygon") == 1
    assert page.outcome is Outcome.MALFORMED
    assert "evil.example" in page.reason


def test_a_key_is_needed_and_a_wrong_one_refused() -> None:
    assert daily(key=SecretStr("a-key-of-our-own")).outcome is Outcome.OK
    assert daily(key=SecretStr("invalid")).outcome is Outcome.NOT_ENTITLED


def test_a_share_that_nobody_knows_has_no_rows() -> None:
    assert daily(instrument=NOBODY).outcome is Outcome.EMPTY_UNEXPECTED
