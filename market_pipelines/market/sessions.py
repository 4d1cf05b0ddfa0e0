"""The exchange's own days: which dates are sessions, when they open and close, which was the last to close.

The one place that asks exchange_calendars. Labels are plain dates; instants are aware datetimes in UTC. What
happens outside the regular session (pre-market, closing auctions) is not known to these calendars.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

import exchange_calendars
import numpy as np
import numpy.typing as npt
import pandas as pd

EPOCH = date(1990, 1, 1)
FIRST_DAILY_TRADING = {"XWAR": date(1994, 10, 3)}
"""Where the calendar's rules reach back further than the exchange traded every weekday."""

Days = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class SessionTimes:
    opens: datetime
    closes: datetime
    break_starts: datetime | None = None
    """The lunch break, where the exchange has one."""
    break_ends: datetime | None = None

    def trading_at(self, now: datetime) -> bool:
        if not self.opens <= now < self.closes:
            return False
        if self.break_starts is None or self.break_ends is None:
            return True
        return not self.break_starts <= now < self.break_ends


class TradingCalendar:
    """Sessions of one exchange from its first daily trading (or 1990) to a date, as far as they are known."""

    def __init__(self, mic: str, until: date) -> None:
        self.mic = mic
        self._calendar, self.start, self.end = _within_bounds(mic, FIRST_DAILY_TRADING.get(mic, EPOCH), until)
        self.zone = ZoneInfo(str(self._calendar.tz))

    @cached_property
    def all_sessions(self) -> tuple[date, ...]:
        return tuple(stamp.date() for stamp in self._calendar.sessions)

    @cached_property
    def days(self) -> Days:
        """`all_sessions` as datetime64[D], for work on columns."""
        return np.asarray(self._calendar.sessions, dtype="datetime64[D]")

    @cached_property
    def opens(self) -> Days:
        """The opening instants of `days` in UTC, datetime64[s] without a zone."""
        return _seconds(self._calendar.schedule["open"])

    @cached_property
    def closes(self) -> Days:
        return _seconds(self._calendar.schedule["close"])

    @cached_property
    def breaks(self) -> tuple[Days, Days]:
        """When the lunch break of each of `days` starts and ends, in UTC; not-a-time where there is none."""
        schedule = self._calendar.schedule
        return _seconds(schedule["break_start"]), _seconds(schedule["break_end"])

    def is_session(self, day: date) -> bool:
        index = bisect_left(self.all_sessions, day)
        return index < len(self.all_sessions) and self.all_sessions[index] == day

    def sessions(self, start: date, end: date) -> tuple[date, ...]:
        """Sessions between two dates, both included."""
        return self.all_sessions[bisect_left(self.all_sessions, start) : bisect_right(self.all_sessions, end)]

    @cached_property
    def _times(self) -> dict[date, SessionTimes]:
        schedule = self._calendar.schedule
        return {
            label.date(): SessionTimes(
                opens.to_pydatetime(), closes.to_pydatetime(), _instant(pauses), _instant(resumes)
            )
            for label, opens, closes, pauses, resumes in zip(
                schedule.index,
                schedule["open"],
                schedule["close"],
                schedule["break_start"],
                schedule["break_end"],
                strict=True,
            )
        }

    def times(self, session: date) -> SessionTimes:
        return self._times[session]

    def local_date(self, instant: datetime) -> date:
        return instant.astimezone(self.zone).date()

    def is_closed(self, session: date, now: datetime) -> bool:
        return self.times(session).closes <= now

    def last_closed(self, now: datetime) -> date:
        """The newest session whose closing bell has rung."""
        rung = int(np.searchsorted(self.closes, utc_second(now), side="right"))
        if rung == 0:
            raise ValueError(f"{self.mic}: no session known from {self.start} had closed by {now.isoformat()}")
        return self.all_sessions[rung - 1]

    def is_open(self, now: datetime) -> bool:
        """Whether the regular session is running: not in a lunch break, and no longer at the closing bell."""
        begun = int(np.searchsorted(self.opens, utc_second(now), side="right"))
        return begun > 0 and self.times(self.all_sessions[begun - 1]).trading_at(now)

    def next_open(self, now: datetime) -> datetime:
        """The first opening bell after `now`."""
        return self.times(self._first_after(self.opens, now)).opens

    def next_close(self, now: datetime) -> datetime:
        """The first closing bell after `now`."""
        return self.times(self._first_after(self.closes, now)).closes

    def _first_after(self, bells: Days, now: datetime) -> date:
        index = int(np.searchsorted(bells, utc_second(now), side="right"))
        if index == len(bells):
            raise ValueError(f"{self.mic}: no session is known after {now.isoformat()}; known to {self.end}")
        return self.all_sessions[index]

    def holiday_name(self, day: date) -> str:
        """Why a weekday is no session, as far as the calendar says."""
        named = self._calendar.regular_holidays
        stamp = pd.Timestamp(day)
        found = None if named is None else named.holidays(stamp, stamp, return_name=True)
        if found is not None and len(found):
            return str(found.iloc[0])
        adhoc = {one.date() for one in self._calendar.adhoc_holidays}
        return "closed for this day alone" if day in adhoc else "the exchange is closed"

    def holidays(self) -> tuple[date, ...]:
        """Every date of the calendar's span on which there is no session, weekends included."""
        sessions = frozenset(self.all_sessions)
        days = (self.end - self.start).days + 1
        span = (self.start + timedelta(days=offset) for offset in range(days))
        return tuple(day for day in span if day not in sessions)


def _within_bounds(mic: str, start: date, until: date) -> tuple[exchange_calendars.ExchangeCalendar, date, date]:
    """The calendar and its span, cut to what is recorded of it (Tokyo from 1997, Shanghai a year ahead)."""
    try:
        return _build(mic, start, until), start, until
    except ValueError:
        known = exchange_calendars.get_calendar(mic)
        earliest, latest = known.bound_min(), known.bound_max()
        first = start if earliest is None else max(start, earliest.date())
        last = until if latest is None else min(until, latest.date())
        return _build(mic, first, last), first, last


def _build(mic: str, start: date, end: date) -> exchange_calendars.ExchangeCalendar:
    return exchange_calendars.get_calendar(mic, start=start.isoformat(), end=end.isoformat())


def _seconds(column: pd.Series) -> Days:
    return np.asarray(column.dt.tz_convert(None), dtype="datetime64[s]")


def _instant(stamp: pd.Timestamp) -> datetime | None:
    return None if pd.isna(stamp) else stamp.to_pydatetime()


def utc_second(now: datetime) -> np.datetime64:
    """The second that `now` is in. Bells ring on whole seconds, so nothing is lost by the cut."""
    if now.tzinfo is None:
        raise ValueError(f"{now.isoformat()} has no time zone; an instant needs one")
    return np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "s")


@lru_cache(maxsize=32)
def _calendar_until(mic: str, until: date) -> TradingCalendar:
    return TradingCalendar(mic, until)


def trading_calendar(mic: str, now: datetime | None = None) -> TradingCalendar:
    """The calendar of an exchange, to the end of the year after `now` (exchanges publish no further)."""
    moment = now if now is not None else datetime.now(UTC)
    return _calendar_until(mic, date(moment.year + 1, 12, 31))


def known_calendars() -> frozenset[str]:
    return frozenset(exchange_calendars.get_calendar_names(include_aliases=False))
