"""Jobs that people schedule at run time: what one is, and when it is due by its exchange's clock.

A job is due once in each of its slots, which are counted in whole intervals from the first second of 1970 in UTC,
so that everybody who looks at the clock finds the same ones. Outside of trading hours no slot counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.polling import trades_from
from market_pipelines.market.sessions import TradingCalendar

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_MINUTES = 7 * 24 * 60


class JobRefused(ValueError):
    """A job cannot be kept as it is described. The message says what is accepted."""


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    name: str
    market: str
    symbols: tuple[str, ...]
    """Empty: all of the market."""
    interval: str
    interval_minutes: int
    extended_hours: bool
    created_at: datetime
    last_requested_at: datetime | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise JobRefused(f"{self.name!r} is no name of a job; accepted: up to 63 letters, digits, '.', '-' and '_'")
        if self.interval not in INTERVALS:
            raise JobRefused(f"interval {self.interval!r}; accepted: {', '.join(INTERVALS)}")
        if not 1 <= self.interval_minutes <= LONGEST_MINUTES:
            raise JobRefused(f"every {self.interval_minutes} minutes; accepted: 1 to {LONGEST_MINUTES}")

    @property
    def log_name(self) -> str:
        """What its runs are called in the job log."""
        return f"scheduled {self.name}"

    @property
    def every(self) -> timedelta:
        return timedelta(minutes=self.interval_minutes)

    def slot(self, at: datetime) -> datetime:
        """When the slot began that the instant is in."""
        return _EPOCH + (at - _EPOCH) // self.every * self.every


def next_due(job: ScheduledJob, calendar: TradingCalendar, last_slot: datetime | None, now: datetime) -> datetime:
    """When the job is to run next, not before now. The slot of `last_slot` has had its run."""
    free = now
    if last_slot is not None and job.slot(now) <= last_slot:
        free = last_slot + job.every
    return trades_from(calendar, free, extended=job.extended_hours)
