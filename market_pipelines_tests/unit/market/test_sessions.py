"""Exchange days, held against exchange_calendars itself, recorded answers, and dates that people know."""

import csv
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import exchange_calendars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.sessions import TradingCalendar, known_calendars, trading_calendar
from market_pipelines_tests.unit.market.properties import unhurried

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NEW_YORK, WARSAW = ZoneInfo("America/New_York"), ZoneInfo("Europe/Warsaw")
XNYS, XWAR, XTKS = (trading_calendar(mic, NOW) for mic in ("XNYS", "XWAR", "XTKS"))
RECORDED = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "recorded" / "calendars"


@pytest.mark.parametrize(("calendar", "since"), [(XNYS, date(1990, 1, 1)), (XWAR, date(1994, 10, 3))])
def test_the_keys_are_the_exchange_s_sessions(calendar: TradingCalendar, since: date) -> None:
    theirs = exchange_calendars.get_calendar(calendar.mic, start=since.isoformat(), end="2026-12-31")
    expected = tuple(stamp.date() for stamp in theirs.sessions)

    assert calendar.sessions(date.min, date(2026, 12, 31)) == expected
    assert tuple(calendar.days[: len(expected)].tolist()) == expected


def test_new_york_has_9290_sessions_from_1990_to_19_november_2026() -> None:
    assert len(XNYS.sessions(date(1990, 1, 1), date(2026, 11, 19))) == 9290


def test_warsaw_begins_with_its_first_daily_trading() -> None:
    assert XWAR.all_sessions[0] == date(1994, 10, 3)
    assert not XWAR.is_session(date(1994, 9, 30))


@pytest.mark.parametrize("calendar", [XNYS, XWAR])
def test_sessions_and_bells_equal_the_recorded_answers(calendar: TradingCalendar) -> None:
    path = RECORDED / f"{calendar.mic.lower()}_sessions_utc.csv"
    if not path.exists():
        pytest.skip(f"recorded reference answers are not there: {path}")
    recorded = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            session = datetime.fromisoformat(row[""]).date()
            recorded[session] = datetime.fromisoformat(row["open"]), datetime.fromisoformat(row["close"])
    recorded = {session: bells for session, bells in recorded.items() if session >= calendar.start}

    ours = calendar.sessions(calendar.start, max(recorded))
    assert ours == tuple(sorted(recorded))
    for session in ours:
        times = calendar.times(session)
        assert (times.opens, times.closes) == recorded[session]


def test_thanksgiving_is_no_session() -> None:
    assert XNYS.sessions(date(2026, 11, 25), date(2026, 11, 27)) == (date(2026, 11, 25), date(2026, 11, 27))


@pytest.mark.parametrize("half_day", [date(2026, 11, 27), date(2026, 12, 24), date(2024, 7, 3)])
def test_a_half_day_closes_at_one(half_day: date) -> None:
    assert XNYS.times(half_day).closes.astimezone(NEW_YORK).time().isoformat() == "13:00:00"
    assert XNYS.times(half_day).opens.astimezone(NEW_YORK).time().isoformat() == "09:30:00"


def test_a_day_of_mourning_is_no_session() -> None:
    assert not XNYS.is_session(date(2025, 1, 9))
    assert XNYS.last_closed(datetime(2025, 1, 9, 23, tzinfo=UTC)) == date(2025, 1, 8)
    assert date(2025, 1, 9) in XNYS.holidays()


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        (date(2026, 3, 6), 6),
        (date(2026, 3, 9), 5),
        (date(2026, 3, 30), 6),
        (date(2026, 10, 23), 6),
        (date(2026, 10, 26), 5),
        (date(2026, 11, 2), 6),
    ],
)
def test_bells_follow_local_time_when_the_clocks_change_apart(day: date, hours: int) -> None:
    new_york, warsaw = XNYS.times(day), XWAR.times(day)

    assert new_york.opens.astimezone(NEW_YORK).strftime("%H:%M") == "09:30"
    assert warsaw.opens.astimezone(WARSAW).strftime("%H:%M") == "09:00"
    # 09:30 in New York and 09:00 in Warsaw lie half an hour more apart than the clocks.
    assert new_york.opens - warsaw.opens == timedelta(hours=hours, minutes=30)
    overlap = warsaw.closes - new_york.opens
    assert overlap == (timedelta(hours=2.5) if hours == 5 else timedelta(hours=1.5))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param("2026-11-21T12:00-05:00", date(2026, 11, 20), id="Saturday: Friday"),
        pytest.param("2026-11-22T23:59-05:00", date(2026, 11, 20), id="Sunday: Friday"),
        pytest.param("2026-11-20T15:59:59-05:00", date(2026, 11, 19), id="before the bell"),
        pytest.param("2026-11-20T16:00-05:00", date(2026, 11, 20), id="at the bell"),
        pytest.param("2026-11-20T16:00:00.5-05:00", date(2026, 11, 20), id="after the bell"),
        pytest.param("2026-11-26T18:00-05:00", date(2026, 11, 25), id="Thanksgiving"),
        pytest.param("2026-11-27T13:00-05:00", date(2026, 11, 27), id="half day, closed at one"),
        pytest.param("2026-11-27T12:59-05:00", date(2026, 11, 25), id="half day, still open"),
        pytest.param("2025-12-31T23:59-05:00", date(2025, 12, 31), id="New Year's Eve"),
        pytest.param("2026-01-01T12:00-05:00", date(2025, 12, 31), id="New Year's Day"),
        pytest.param("2026-01-02T15:00-05:00", date(2025, 12, 31), id="first session of a year, open"),
        pytest.param("2026-11-21T06:00+09:00", date(2026, 11, 20), id="seen from Tokyo's Saturday"),
    ],
)
def test_the_last_closed_session(now: str, expected: date) -> None:
    assert XNYS.last_closed(datetime.fromisoformat(now)) == expected


def test_before_the_first_known_close_there_is_no_last_closed_session() -> None:
    with pytest.raises(ValueError, match="XNYS: no session known from 1990-01-01 had closed"):
        XNYS.last_closed(datetime(1990, 1, 2, 12, tzinfo=UTC))


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        XNYS.last_closed(datetime(2026, 11, 20, 12))  # noqa: DTZ001 (the point of the test)


@pytest.mark.parametrize(
    ("local", "is_open"),
    [
        ("08:59", False),
        ("09:00", True),
        ("11:29", True),
        ("11:30", False),
        ("12:29", False),
        ("12:30", True),
        ("15:29", True),
        ("15:30", False),
    ],
)
def test_tokyo_rests_at_noon(local: str, is_open: bool) -> None:
    assert XTKS.is_open(datetime.fromisoformat(f"2026-11-20T{local}+09:00")) is is_open


def test_new_york_does_not_rest_at_noon() -> None:
    times = XNYS.times(date(2026, 11, 20))
    assert times.break_starts is None
    assert times.break_ends is None
    assert XNYS.is_open(datetime(2026, 11, 20, 12, tzinfo=NEW_YORK))


def test_the_next_bells_skip_the_weekend() -> None:
    friday_evening = datetime(2026, 11, 20, 16, tzinfo=NEW_YORK)

    assert XNYS.next_open(friday_evening) == datetime(2026, 11, 23, 9, 30, tzinfo=NEW_YORK)
    assert XNYS.next_close(friday_evening) == datetime(2026, 11, 23, 16, tzinfo=NEW_YORK)
    assert XNYS.next_close(friday_evening - timedelta(seconds=1)) == friday_evening


def test_there_is_no_next_bell_after_the_calendar_ends() -> None:
    with pytest.raises(ValueError, match="known to 2027-12-31"):
        XNYS.next_open(datetime(2028, 1, 3, tzinfo=UTC))


@pytest.mark.parametrize(
    ("mic", "start", "end"),
    [
        ("XTKS", date(1997, 1, 1), date(2027, 12, 31)),
        ("XSHG", date(1990, 12, 3), None),
        ("XLON", date(1990, 1, 1), date(2027, 12, 31)),
    ],
)
def test_a_calendar_that_is_known_for_fewer_years_is_cut_to_them(mic: str, start: date, end: date | None) -> None:
    calendar = trading_calendar(mic, NOW)
    assert calendar.start == start
    assert calendar.end <= date(2027, 12, 31)
    assert end is None or calendar.end == end


def test_a_calendar_nobody_knows_is_refused() -> None:
    with pytest.raises(exchange_calendars.errors.InvalidCalendarName, match="XNOPE"):
        trading_calendar("XNOPE", NOW)
    assert {"XNYS", "XWAR", "XLON", "XTKS"} <= known_calendars()


calendars = st.sampled_from([XNYS, XWAR, XTKS])
days = st.dates(date(1985, 1, 1), date(2030, 12, 31))


@unhurried
@given(calendars, days, days)
def test_a_range_of_sessions_is_ordered_within_its_ends_and_complete(
    calendar: TradingCalendar, start: date, end: date
) -> None:
    found = calendar.sessions(start, end)

    assert list(found) == sorted(set(found))
    assert all(start <= session <= end and calendar.is_session(session) for session in found)
    assert set(found) == {session for session in calendar.all_sessions if start <= session <= end}


@unhurried
@given(calendars, days)
def test_a_day_is_either_a_session_or_off(calendar: TradingCalendar, day: date) -> None:
    assert calendar.is_session(day) == (calendar.sessions(day, day) == (day,))
    if calendar.start <= day <= calendar.end:
        assert calendar.is_session(day) != (day in calendar.holidays())


@unhurried
@given(calendars, st.datetimes(datetime(2000, 1, 1), datetime(2027, 6, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_last_closed_session_is_closed_and_the_next_one_is_not(calendar: TradingCalendar, now: datetime) -> None:
    last = calendar.last_closed(now)
    following = calendar.all_sessions[calendar.all_sessions.index(last) + 1]

    assert calendar.is_closed(last, now)
    assert not calendar.is_closed(following, now)
    assert calendar.next_close(now) == calendar.times(following).closes
