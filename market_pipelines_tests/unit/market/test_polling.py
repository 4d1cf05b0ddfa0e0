"""When an exchange is asked again: bounds, bells, closed days, and how the interval follows the data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.definition import PollingPlan
from market_pipelines.market.polling import (
    AROUND_A_BELL,
    Pace,
    Rhythm,
    Strategy,
    adapted,
    is_around_a_bell,
    pace_of,
    trades_from,
)
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines_tests.unit.market.properties import unhurried

KNOWN = datetime(2026, 11, 20, 12, tzinfo=UTC)
NEW_YORK, WARSAW, TOKYO = (trading_calendar(mic, KNOWN) for mic in ("XNYS", "XWAR", "XTKS"))
PACE = Pace(timedelta(minutes=5), timedelta(minutes=1), timedelta(minutes=30))

seconds = st.integers(min_value=1, max_value=7 * 86_400)
intervals = st.timedeltas(timedelta(), timedelta(days=30))
instants = st.integers(0, 76_000_000).map(lambda seconds: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))
calendars = st.sampled_from([NEW_YORK, WARSAW, TOKYO])


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    shortest, usual, longest = sorted(draw(st.lists(seconds, min_size=3, max_size=3)))
    return Pace(timedelta(seconds=usual), timedelta(seconds=shortest), timedelta(seconds=longest))


def new_york(local: str) -> datetime:
    return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)


# --- adapting ------------------------------------------------------------------------------------------------


@unhurried
@given(paces(), intervals, st.booleans(), st.booleans())
def test_an_adapted_interval_is_always_within_its_bounds(
    pace: Pace, interval: timedelta, moved: bool, bell: bool
) -> None:
    assert pace.shortest <= adapted(interval, pace, moved=moved, bell=bell) <= pace.longest


@unhurried
@given(paces(), intervals, intervals, st.booleans(), st.booleans())
def test_a_longer_interval_stays_the_longer_one(
    pace: Pace, one: timedelta, other: timedelta, moved: bool, bell: bool
) -> None:
    shorter, longer = sorted((one, other))
    assert adapted(shorter, pace, moved=moved, bell=bell) <= adapted(longer, pace, moved=moved, bell=bell)


@unhurried
@given(paces(), intervals)
def test_news_and_bells_never_lengthen_and_silence_never_shortens(pace: Pace, interval: timedelta) -> None:
    before = max(pace.shortest, min(pace.longest, interval))
    moved = adapted(before, pace, moved=True, bell=False)
    still = adapted(before, pace, moved=False, bell=False)
    assert adapted(before, pace, moved=False, bell=True) <= moved <= before <= still


@unhurried
@given(paces(), intervals, st.booleans())
def test_a_bound_is_reached_and_kept(pace: Pace, interval: timedelta, moved: bool) -> None:
    for _ in range(80):
        interval = adapted(interval, pace, moved=moved, bell=False)
    assert interval == (pace.shortest if moved else pace.longest)


def test_five_minutes_of_silence_become_seven_and_a_half() -> None:
    assert adapted(PACE.usual, PACE, moved=False, bell=False) == timedelta(minutes=7, seconds=30)
    assert adapted(PACE.usual, PACE, moved=True, bell=False) == timedelta(minutes=2, seconds=30)


@pytest.mark.parametrize("minutes", [(5, 6, 30), (5, 1, 4), (0, 0, 0), (-5, -6, 1)])
def test_bounds_that_are_none_are_refused(minutes: tuple[int, int, int]) -> None:
    usual, shortest, longest = (timedelta(minutes=one) for one in minutes)
    with pytest.raises(ValueError, match="accepted: more than nothing"):
        Pace(usual, shortest, longest)


@pytest.mark.parametrize(("asked", "bounds"), [(None, (1, 5, 30)), (60, (1, 60, 60)), (0.5, (0.5, 0.5, 30))])
def test_the_market_files_bounds_give_way_to_what_a_person_asks_for(
    asked: float | None, bounds: tuple[float, float, float]
) -> None:
    pace = pace_of(PollingPlan(minutes=5, shortest_minutes=1, longest_minutes=30), asked)
    assert tuple(one / timedelta(minutes=1) for one in (pace.shortest, pace.usual, pace.longest)) == bounds


# --- when ----------------------------------------------------------------------------------------------------


@unhurried
@given(st.sampled_from(Strategy), paces(), calendars, instants, st.booleans(), st.booleans())
def test_the_next_poll_is_later_by_at_least_the_shortest_interval(
    strategy: Strategy, pace: Pace, calendar: TradingCalendar, last: datetime, moved: bool, extended: bool
) -> None:
    rhythm = Rhythm(strategy, pace, calendar, extended)
    interval = rhythm.interval_after(pace.usual, last, moved=moved)
    following = rhythm.next_after(last, interval)
    assert following >= last + pace.shortest
    if strategy is not Strategy.MARKET_HOURS:
        assert following <= last + pace.longest
    if strategy is not Strategy.ADAPTIVE:
        assert interval == pace.usual


@unhurried
@given(calendars, instants, st.booleans())
def test_trading_is_waited_for_and_found(calendar: TradingCalendar, now: datetime, extended: bool) -> None:
    begins = trades_from(calendar, now, extended=extended)
    assert begins >= now
    assert trades_from(calendar, begins, extended=extended) == begins
    if not extended:
        assert calendar.is_open(begins)


@pytest.mark.parametrize(
    ("local", "extended", "begins"),
    [
        ("2026-11-20 12:00", False, "2026-11-20 12:00"),
        ("2026-11-20 08:00", False, "2026-11-20 09:30"),
        ("2026-11-20 08:00", True, "2026-11-20 08:00"),
        ("2026-11-20 02:00", True, "2026-11-20 04:00"),
        ("2026-11-20 16:00", False, "2026-11-23 09:30"),
        ("2026-11-20 16:00", True, "2026-11-20 16:00"),
        ("2026-11-20 20:00", True, "2026-11-23 04:00"),
        ("2026-11-26 12:00", False, "2026-11-27 09:30"),
        ("2026-11-27 13:00", False, "2026-11-30 09:30"),
        ("2026-11-27 16:59", True, "2026-11-27 16:59"),
        ("2026-11-27 17:00", True, "2026-11-30 04:00"),
        ("2026-03-07 12:00", False, "2026-03-09 09:30"),
    ],
)
def test_when_new_york_trades_again(local: str, extended: bool, begins: str) -> None:
    assert trades_from(NEW_YORK, new_york(local), extended=extended) == new_york(begins)


def test_after_the_lunch_break_trading_resumes_the_same_day() -> None:
    zone = ZoneInfo("Asia/Tokyo")
    noon = datetime(2026, 11, 20, 12, 0, tzinfo=zone)
    assert trades_from(TOKYO, noon.astimezone(UTC), extended=False) == datetime(2026, 11, 20, 12, 30, tzinfo=zone)


def test_polling_in_market_hours_waits_over_the_weekend() -> None:
    rhythm = Rhythm(Strategy.MARKET_HOURS, PACE, NEW_YORK)
    last = new_york("2026-11-20 15:57")
    assert rhythm.next_after(last, PACE.usual) == new_york("2026-11-23 09:30")
    assert rhythm.next_after(new_york("2026-11-20 15:50"), PACE.usual) == new_york("2026-11-20 15:55")


def test_an_adapted_interval_does_not_sleep_through_a_bell() -> None:
    rhythm = Rhythm(Strategy.ADAPTIVE, PACE, NEW_YORK)
    assert rhythm.next_after(new_york("2026-11-20 09:10"), PACE.longest) == new_york("2026-11-20 09:30")
    assert rhythm.next_after(new_york("2026-11-20 15:40"), PACE.longest) == new_york("2026-11-20 16:00")


@pytest.mark.parametrize(
    ("local", "near"),
    [
        ("2026-11-20 09:14", False),
        ("2026-11-20 09:15", True),
        ("2026-11-20 09:45", True),
        ("2026-11-20 09:46", False),
        ("2026-11-20 15:45", True),
        ("2026-11-20 16:15", True),
        ("2026-11-21 09:30", False),
        ("2026-11-27 12:50", True),
        ("2026-11-27 15:50", False),
    ],
)
def test_a_quarter_of_an_hour_around_each_bell_is_polled_most_often(local: str, near: bool) -> None:
    assert timedelta(minutes=15) == AROUND_A_BELL
    assert is_around_a_bell(NEW_YORK, new_york(local)) is near
    rhythm = Rhythm(Strategy.ADAPTIVE, PACE, NEW_YORK)
    interval = rhythm.interval_after(PACE.longest, new_york(local), moved=False)
    assert interval == (PACE.shortest if near else PACE.longest)
