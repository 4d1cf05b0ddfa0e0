"""Which session is due at which instant, by the calendars of both exchanges, on the dates where one goes wrong."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.cadence import (
    MINUTES_A_DAY,
    Cycle,
    Due,
    at_times,
    daily_cycle,
    due_at,
    due_range,
    every,
    intraday_cycle,
    local_times,
    newest_due,
    trading_hours,
    window_of,
)
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.markets import read_markets

MARKETS = read_markets()
KNOWN = datetime(2026, 11, 20, 12, tzinfo=UTC)
NEW_YORK, WARSAW = ZoneInfo("America/New_York"), ZoneInfo("Europe/Warsaw")


def calendar(market: str) -> TradingCalendar:
    return trading_calendar(MARKETS[market].mic, KNOWN)


def at(market: str, local: str) -> datetime:
    return datetime.fromisoformat(local).replace(tzinfo=calendar(market).zone).astimezone(UTC)


def newest(market: str, local: str) -> date | None:
    return newest_due(daily_cycle(MARKETS[market]), calendar(market), at(market, local))


# --- the awkward dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "local", "due"),
    [
        ("us", "2026-11-20 16:29", "2026-11-19"),
        ("us", "2026-11-20 16:30", "2026-11-20"),
        ("us", "2026-11-21 00:05", "2026-11-20"),
        ("us", "2026-11-22 23:59", "2026-11-20"),
        ("us", "2026-11-23 12:00", "2026-11-20"),
        ("pl", "2026-11-20 17:44", "2026-11-19"),
        ("pl", "2026-11-20 17:45", "2026-11-20"),
        ("pl", "2026-11-21 12:00", "2026-11-20"),
    ],
)
def test_friday_is_due_on_friday_and_all_weekend(market: str, local: str, due: str) -> None:
    assert newest(market, local) == date.fromisoformat(due)


@pytest.mark.parametrize(
    ("local", "due"),
    [
        ("2026-11-26 16:30", "2026-11-25"),
        ("2026-11-27 13:29", "2026-11-25"),
        ("2026-11-27 13:30", "2026-11-27"),
        ("2026-12-24 13:30", "2026-12-24"),
        ("2026-12-25 16:30", "2026-12-24"),
        ("2026-12-28 16:29", "2026-12-24"),
    ],
)
def test_thanksgiving_is_no_session_and_half_days_are_due_after_their_own_close(local: str, due: str) -> None:
    assert newest("us", local) == date.fromisoformat(due)


@pytest.mark.parametrize(
    ("local", "due"),
    [
        ("2026-12-23 17:45", "2026-12-23"),
        ("2026-12-24 17:45", "2026-12-23"),
        ("2026-12-28 17:44", "2026-12-23"),
        ("2026-12-30 17:45", "2026-12-30"),
        ("2026-12-31 17:45", "2026-12-30"),
    ],
)
def test_warsaw_rests_on_both_eves(local: str, due: str) -> None:
    assert newest("pl", local) == date.fromisoformat(due)


def test_a_closure_for_a_day_of_mourning_is_no_session() -> None:
    assert newest("us", "2025-01-09 16:30") == date(2025, 1, 8)
    assert newest("us", "2025-01-10 16:30") == date(2025, 1, 10)


@pytest.mark.parametrize(
    ("day", "us_due", "pl_due"),
    [
        ("2026-03-09", "20:30", "16:45"),  # New York has changed its clocks, Warsaw has not
        ("2026-03-30", "20:30", "15:45"),
        ("2026-10-26", "20:30", "16:45"),  # Warsaw has changed back, New York has not
        ("2026-11-02", "21:30", "16:45"),
    ],
)
def test_each_exchange_keeps_its_own_clock_when_the_clocks_change(day: str, us_due: str, pl_due: str) -> None:
    session = date.fromisoformat(day)
    found = [f"{due_at(daily_cycle(MARKETS[market]), calendar(market), session):%H:%M}" for market in ("us", "pl")]
    assert found == [us_due, pl_due]


def test_extended_hours_end_the_session_of_bars_within_it() -> None:
    cycle = intraday_cycle(MARKETS["us"])
    assert cycle is not None
    assert due_at(cycle, calendar("us"), date(2026, 11, 20)) == at("us", "2026-11-20 20:45")
    assert due_at(cycle, calendar("us"), date(2026, 11, 27)) == at("us", "2026-11-27 17:45")
    warsaw = intraday_cycle(MARKETS["pl"])
    assert warsaw is not None
    assert due_at(warsaw, calendar("pl"), date(2026, 11, 20)) == at("pl", "2026-11-20 18:00")


# --- the ticks of the day ------------------------------------------------------------------------------------


def test_there_is_a_time_for_every_closing_bell() -> None:
    us = at_times(local_times(daily_cycle(MARKETS["us"]), calendar("us"), KNOWN))
    pl = at_times(local_times(daily_cycle(MARKETS["pl"]), calendar("pl"), KNOWN))
    assert (us, pl) == (["30 13 * * *", "30 16 * * *"], ["45 17 * * *"])


def test_every_session_of_three_years_is_due_at_one_of_those_times() -> None:
    for market in ("us", "pl"):
        cycle, days = daily_cycle(MARKETS[market]), calendar(market)
        times = set(local_times(cycle, days, KNOWN))
        for session in days.sessions(date(2025, 1, 1), date(2027, 12, 31)):
            assert due_at(cycle, days, session).astimezone(days.zone).time() in times, session


def slots(lines: list[str]) -> set[int]:
    """The minutes of the day that cron lines name."""

    def values(field: str, size: int) -> set[int]:
        found: set[int] = set()
        for part in field.split(","):
            span, _, step = part.partition("/")
            first, last = (0, size - 1) if span == "*" else (int(span.split("-")[0]), int(span.split("-")[-1]))
            found |= set(range(first, last + 1, int(step or 1)))
        return found

    return {
        hour * 60 + minute
        for line in lines
        for hour in values(line.split()[1], 24)
        for minute in values(line.split()[0], 60)
    }


@given(st.integers(1, 240))
def test_any_number_of_minutes_gives_even_slots(minutes: int) -> None:
    assert slots(every(minutes, time(0), time(23, 59))) == set(range(0, MINUTES_A_DAY, minutes))


def test_slots_keep_to_the_hours_of_the_exchange_and_read_as_people_write_them() -> None:
    assert every(15, time(9), time(17)) == ["*/15 9-17 * * *"]
    assert every(60, time(9), time(17)) == ["0 9-17 * * *"]
    assert every(90, time(9), time(17)) == ["0 9,12,15 * * *", "30 10,13,16 * * *"]
    assert trading_hours(calendar("us"), KNOWN, extended=True) == (time(4), time(20))
    assert trading_hours(calendar("us"), KNOWN, extended=False) == (time(9, 30), time(16))
    assert trading_hours(calendar("pl"), KNOWN, extended=False) == (time(9), time(17))


# --- what was missed -----------------------------------------------------------------------------------------

WEEK = tuple(date(2026, 11, day) for day in (16, 17, 18, 19, 20))


def due(refreshed: list[int], *, before: bool = True) -> Due | None:
    days = {date(2026, 11, day) for day in refreshed}
    return due_range(WEEK, days, before=before, correction_sessions=3)


def test_nothing_is_due_when_every_session_was_refreshed() -> None:
    assert due([16, 17, 18, 19, 20]) is None


def test_the_newest_session_alone_is_due_on_a_usual_day() -> None:
    assert due([16, 17, 18, 19]) == Due(WEEK[4], WEEK[4])


def test_what_was_missed_is_one_range_from_the_first_on() -> None:
    assert due([16, 17]) == Due(WEEK[2], WEEK[4])


def test_a_missed_session_behind_a_refreshed_one_is_due_by_itself() -> None:
    assert due([16, 17, 19, 20]) == Due(WEEK[2], WEEK[2])


def test_whoever_was_off_for_longer_than_the_window_takes_all_of_it() -> None:
    assert due([]) == Due(WEEK[0], WEEK[4])


def test_the_first_refresh_takes_the_last_sessions_only() -> None:
    assert due([], before=False) == Due(WEEK[2], WEEK[4], first=True)


def test_sessions_before_the_first_refresh_were_never_missed() -> None:
    assert due([18, 19, 20], before=False) is None
    assert due([18, 19], before=False) == Due(WEEK[4], WEEK[4])


def test_the_window_is_as_long_as_the_market_file_says_and_ends_with_what_is_due() -> None:
    window = window_of(daily_cycle(MARKETS["us"]), MARKETS["us"], calendar("us"), at("us", "2026-11-28 10:00"))
    assert len(window) == MARKETS["us"].cadence.catch_up_sessions
    assert window[-2:] == (date(2026, 11, 25), date(2026, 11, 27))


def test_before_the_first_session_nothing_is_due() -> None:
    days = trading_calendar("XWAR", KNOWN)
    assert newest_due(Cycle("1d", timedelta()), days, datetime(1990, 1, 1, tzinfo=UTC)) is None
