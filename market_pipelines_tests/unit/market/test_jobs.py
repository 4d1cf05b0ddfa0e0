"""When a scheduled job is due, by its slots and by its exchange's hours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.jobs import JobRefused, ScheduledJob, next_due
from market_pipelines.market.sessions import trading_calendar
from market_pipelines_tests.unit.market.properties import unhurried

KNOWN = datetime(2026, 11, 20, 12, tzinfo=UTC)
NEW_YORK = trading_calendar("XNYS", KNOWN)
JOB = ScheduledJob("watch", "us", ("AAPL",), "5min", 15, False, KNOWN)

instants = st.integers(0, 44_000_000).map(lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))


def new_york(local: str) -> datetime:
    return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)


@unhurried
@given(st.integers(1, 10_080), instants)
def test_an_instant_is_in_exactly_one_slot(minutes: int, at: datetime) -> None:
    job = replace(JOB, interval_minutes=minutes)
    slot = job.slot(at)
    assert slot <= at < slot + job.every
    assert job.slot(slot) == slot
    assert job.slot(slot + job.every) == slot + job.every


@unhurried
@given(st.integers(1, 10_080), instants, st.booleans())
def test_a_job_that_has_run_is_due_in_a_later_slot(minutes: int, now: datetime, extended: bool) -> None:
    job = replace(JOB, interval_minutes=minutes, extended_hours=extended)
    due = next_due(job, NEW_YORK, job.slot(now), now)
    assert job.slot(due) > job.slot(now)


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        ("2026-11-20 10:07", None, "2026-11-20 10:07"),
        ("2026-11-20 10:07", "2026-11-20 10:00", "2026-11-20 10:15"),
        ("2026-11-20 10:15", "2026-11-20 10:00", "2026-11-20 10:15"),
        ("2026-11-20 15:50", "2026-11-20 15:45", "2026-11-23 09:30"),
        ("2026-11-21 12:00", "2026-11-20 15:45", "2026-11-23 09:30"),
        # A scheduler that was off for three days runs it once, now.
        ("2026-11-23 11:11", "2026-11-20 10:00", "2026-11-23 11:11"),
    ],
)
def test_when_a_job_is_due(now: str, last: str | None, due: str) -> None:
    slot = JOB.slot(new_york(last)) if last else None
    assert next_due(JOB, NEW_YORK, slot, new_york(now)) == new_york(due)


def test_extended_hours_count_where_they_are_wanted() -> None:
    early = new_york("2026-11-20 05:00")
    assert next_due(JOB, NEW_YORK, None, early) == new_york("2026-11-20 09:30")
    assert next_due(replace(JOB, extended_hours=True), NEW_YORK, None, early) == early


def test_an_interval_that_does_not_divide_the_hour_is_due_at_the_opening_bell_too() -> None:
    job = replace(JOB, interval_minutes=7)
    opens = new_york("2026-11-23 09:30")
    assert next_due(job, NEW_YORK, job.slot(new_york("2026-11-20 15:58")), new_york("2026-11-22 12:00")) == opens
    after = next_due(job, NEW_YORK, job.slot(opens), opens)
    assert timedelta() < after - opens <= timedelta(minutes=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "is no name of a job"),
        ({"name": "two words"}, "is no name of a job"),
        ({"name": "x" * 64}, "is no name of a job"),
        ({"interval": "1d"}, "accepted: 1min, 5min"),
        ({"interval_minutes": 0}, "every 0 minutes"),
        ({"interval_minutes": 20_000}, "accepted: 1 to 10080"),
    ],
)
def test_a_job_that_cannot_be_kept_says_what_is_accepted(change: dict[str, Any], words: str) -> None:
    with pytest.raises(JobRefused, match=words):
        replace(JOB, **change)
