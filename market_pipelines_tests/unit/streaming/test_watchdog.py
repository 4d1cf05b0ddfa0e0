"""Silence: a dead feed by day, nothing at night; over half days, weekends and the nights when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.market.hours import MarketPhase
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform
from market_pipelines.streaming.feeds import build
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName, StreamPlan
from market_pipelines.streaming.watchdog import Mute, Silence, Watched, mute, patience, phase_at

NEW_YORK = ZoneInfo("America/New_York")
FOREVER = 10 * 86_400.0


def at(text: str, zone: ZoneInfo = NEW_YORK) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def found(seconds: float, now: datetime, channel: Channel = Channel.QUOTES, symbols: int | None = 50) -> Mute | None:
    phase = phase_at(trading_calendar("XNYS", now), now)
    return mute([Silence(Watched(channel, symbols), seconds)], *phase)


@pytest.mark.parametrize(
    ("channel", "seconds"),
    [(Channel.QUOTES, 30.0), (Channel.TRADES, 60.0), (Channel.SECONDS, 60.0), (Channel.MINUTES, 150.0)],
)
def test_in_the_regular_session_each_channel_has_its_own_patience(channel: Channel, seconds: float) -> None:
    noon = at("2026-11-18 12:00")
    assert found(seconds - 1, noon, channel) is None
    assert found(seconds + 1, noon, channel) is not None


def test_the_fault_says_what_is_missing_and_when() -> None:
    assert str(found(45.0, at("2026-11-18 12:00"))) == "no quotes for 45 s while the market is open"


@pytest.mark.parametrize(
    "now",
    ["2026-11-18 02:00", "2026-11-18 21:00", "2026-11-21 12:00", "2026-11-26 12:00", "2026-11-27 17:30"],
    ids=["night", "evening", "saturday", "thanksgiving", "after a half day"],
)
def test_nothing_is_expected_while_the_exchange_is_closed(now: str) -> None:
    assert found(FOREVER, at(now)) is None


def test_a_half_day_ends_at_one() -> None:
    assert found(45.0, at("2026-11-27 12:59")) is not None
    assert found(45.0, at("2026-11-27 13:05")) is None, "extended hours have more patience"
    assert found(1200.0, at("2026-11-27 14:00")) is not None


def test_extended_hours_are_given_much_longer() -> None:
    early = at("2026-11-18 05:00")
    assert found(599.0, early) is None
    assert found(601.0, early) is not None


@pytest.mark.parametrize("day", ["2026-03-06", "2026-03-09", "2026-10-30", "2026-11-02"])
def test_the_bell_rings_by_the_local_clock_on_both_sides_of_a_change(day: str) -> None:
    assert found(45.0, at(f"{day} 09:29")) is None
    assert found(45.0, at(f"{day} 09:31")) is not None
    assert found(45.0, at(f"{day} 15:59")) is not None


def test_a_quiet_night_is_no_silence_when_the_bell_rings() -> None:
    assert found(8 * 3600.0, at("2026-11-18 09:30:20")) is None
    assert found(8 * 3600.0, at("2026-11-18 09:30:31")) is not None


@pytest.mark.parametrize(
    ("now", "mute"),
    [
        ("2026-11-18 09:34", False),
        ("2026-11-18 09:46", True),
        ("2026-11-18 16:10", True),
        ("2026-11-18 16:16", False),
    ],
)
def test_a_delayed_feed_is_watched_by_the_hours_that_it_tells_of(now: str, mute: bool) -> None:
    platform = cast(Platform, SimpleNamespace(simulated=False, clock=lambda: at(now)))
    plan = StreamPlan("us", FeedName.POLYGON, ("AAPL",), delay=timedelta(minutes=15))
    look = build._watch(platform, read_markets()["us"], plan)
    assert (look([Silence(Watched(Channel.QUOTES, 50), 40.0)]) is not None) is mute


def test_few_symbols_may_be_silent_for_longer() -> None:
    watched = [Watched(Channel.QUOTES, count) for count in (1, 2, 5, 10, 1000)]
    assert [patience(one, MarketPhase.OPEN) for one in watched] == [300.0, 150.0, 60.0, 30.0, 30.0]
    assert patience(Watched(Channel.QUOTES, None), MarketPhase.OPEN) == 30.0
    assert patience(Watched(Channel.QUOTES, 0), MarketPhase.OPEN) is None


def test_contracts_are_quieter_than_shares_and_sleep_outside_the_session() -> None:
    contracts = Watched(Channel.TRADES, 200, AssetClass.OPTIONS)
    assert patience(contracts, MarketPhase.OPEN) == 60.0
    assert patience(Watched(Channel.TRADES, 20, AssetClass.OPTIONS), MarketPhase.OPEN) == 600.0
    assert patience(contracts, MarketPhase.PRE_MARKET) is None


def test_price_bands_may_be_silent_for_ever() -> None:
    assert found(FOREVER, at("2026-11-18 12:00"), Channel.LULD) is None


def test_warsaw_has_no_extended_hours() -> None:
    warsaw = ZoneInfo("Europe/Warsaw")
    for clock, silent in (("08:55", False), ("09:01", True), ("16:59", True), ("17:01", False)):
        now = at(f"2026-11-18 {clock}", warsaw)
        phase = phase_at(trading_calendar("XWAR", now), now)
        assert (mute([Silence(Watched(Channel.TRADES, 20), 600.0)], *phase) is not None) is (silent and phase[1] > 60)


def test_after_a_lunch_break_silence_counts_from_its_end() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    for clock, expected in (("12:00", False), ("12:30:20", False), ("12:31", True)):
        now = at(f"2026-11-18 {clock}", tokyo)
        phase = phase_at(trading_calendar("XTKS", now), now)
        assert (mute([Silence(Watched(Channel.QUOTES, 20), 3600.0)], *phase) is not None) is expected


def test_the_worst_of_several_channels_is_named() -> None:
    silences = [Silence(Watched(Channel.MINUTES, 50), 160.0), Silence(Watched(Channel.QUOTES, 50), 90.0)]
    worst = mute(silences, MarketPhase.OPEN, FOREVER)
    assert worst is not None
    assert worst.channel is Channel.QUOTES


def test_a_channel_that_stays_mute_is_given_longer_each_time_but_not_for_ever() -> None:
    def lenient(seconds: float, lenience: float) -> bool:
        return mute([Silence(Watched(Channel.QUOTES, 50), seconds, lenience)], MarketPhase.OPEN, FOREVER) is not None

    assert not lenient(50.0, 2.0)
    assert lenient(61.0, 2.0)
    assert lenient(32 * 30.0 + 1, 2.0**20)
