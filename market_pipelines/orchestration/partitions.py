"""Session-exact partitions: the keys of a market are the sessions of its exchange, no more and no fewer.

A key appears when its session has closed and is never followed by a day that has not traded yet. Dagster's
processes rebuild partitions from a plain description (start, zone, excluded days) without our code, so the
description alone has to be right: its zone is a fixed offset whose midnight falls just after the exchange's
latest close. In our own processes the calendar sharpens that to the very close, half days included.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import cached_property, lru_cache

import dagster as dg

from market_pipelines.market.sessions import TradingCalendar, trading_calendar

_FARTHEST_EAST = 14
_DAY = timedelta(days=1)
_SATURDAY = 5
_WEEKENDS = "0 0 * * 0,6"


class SessionPartitionsDefinition(dg.DailyPartitionsDefinition):
    """Daily partitions of one exchange. Make it with `session_partitions`, one object a market."""

    calendar: TradingCalendar

    @cached_property
    def _hash(self) -> int:
        return hash((self.start.isoformat(), self.timezone, self.cron_schedule, len(self.exclusions or ())))

    def __hash__(self) -> int:
        # Dagster hashes partitions at every look-up; its own hash prints thousands of excluded days each time.
        return self._hash

    def _get_current_timestamp(self) -> float:
        now = super()._get_current_timestamp()
        today = self.calendar.local_date(datetime.fromtimestamp(now, UTC))
        if self.calendar.is_session(today) and self.calendar.is_closed(today, datetime.fromtimestamp(now, UTC)):
            return max(now, _midnight_after(today, self.timezone).timestamp())
        return now


@lru_cache(maxsize=32)
def session_partitions(mic: str, since: date, until: date) -> SessionPartitionsDefinition:
    """Partitions of an exchange from `since` on; `until` is how far the calendar has to reach."""
    calendar = trading_calendar(mic, datetime.combine(until, time(), UTC))
    zone = _zone_after_close(calendar)
    first = max(since, calendar.start)
    start = calendar.sessions(first, calendar.end)[0]
    # Weekends as one cron line keep the description, which every asset carries to the UI, a tenth of the size.
    closed_weekdays = [
        datetime.combine(day, time()) for day in calendar.holidays() if day > start and day.weekday() < _SATURDAY
    ]
    definition = SessionPartitionsDefinition(
        start_date=start.isoformat(), timezone=zone, exclusions=[*closed_weekdays, _WEEKENDS]
    )
    object.__setattr__(definition, "calendar", calendar)
    return definition


def _zone_after_close(calendar: TradingCalendar) -> str:
    """The fixed-offset zone whose midnight is the first full hour at or after the latest closing bell."""
    latest = (calendar.closes - calendar.closes.astype("datetime64[D]")).max()
    hours_after_close = int((_DAY - latest.astype(timedelta)) / timedelta(hours=1))
    return f"Etc/GMT-{min(hours_after_close, _FARTHEST_EAST)}"


def _midnight_after(day: date, zone: str) -> datetime:
    offset = timezone(timedelta(hours=int(zone.removeprefix("Etc/GMT-"))))
    return datetime.combine(day + _DAY, time(), offset)
