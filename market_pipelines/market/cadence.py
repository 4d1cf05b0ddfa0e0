"""When a market's sessions are to be refreshed: which one is due, from which on, by which local times of the day.

Pure arithmetic on the exchange's calendar. What is stored is handed in; what is done about it is decided above.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import hours
from market_pipelines.market.sessions import TradingCalendar

DAILY = "1d"
INTRADAY_LATER = timedelta(minutes=15)
"""After the daily bars, which the bars within the session are compared with."""
LONGEST_CLOSURE = timedelta(days=60)
"""No exchange of ours is closed for longer at a stretch."""
MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Cycle:
    """One of a market's regular refreshes: what it fetches, and how long after a session's last bell."""

    interval: str
    delay: timedelta
    extended: bool = False
    """The session's last bell is that of its extended hours."""

    @property
    def daily(self) -> bool:
        return self.interval == DAILY


@dataclass(frozen=True, slots=True)
class Due:
    """Sessions that wait to be refreshed, from the first to the last."""

    start: date
    end: date
    first: bool = False
    """Nothing has been refreshed before."""


def daily_cycle(market: MarketDefinition) -> Cycle:
    return Cycle(DAILY, timedelta(minutes=market.minutes_after_close))


def intraday_cycle(market: MarketDefinition) -> Cycle | None:
    """None where only daily bars are kept."""
    if market.intraday is None:
        return None
    delay = timedelta(minutes=market.minutes_after_close) + INTRADAY_LATER
    return Cycle(market.intraday.interval, delay, market.intraday.extended)


def last_bell(cycle: Cycle, calendar: TradingCalendar, session: date) -> datetime:
    """When the last of the session's bars has ended."""
    day = hours(calendar, session)
    return day.ends if cycle.extended else day.closes


def due_at(cycle: Cycle, calendar: TradingCalendar, session: date) -> datetime:
    return last_bell(cycle, calendar, session) + cycle.delay


def newest_due(cycle: Cycle, calendar: TradingCalendar, now: datetime) -> date | None:
    """The newest session whose last bell rang at least `delay` ago; None before the calendar's first one."""
    today = calendar.local_date(now)
    for session in reversed(calendar.sessions(today - LONGEST_CLOSURE, today)):
        if due_at(cycle, calendar, session) <= now:
            return session
    return None


def window_of(cycle: Cycle, market: MarketDefinition, calendar: TradingCalendar, now: datetime) -> tuple[date, ...]:
    """The sessions among which a scheduler that was off looks for those it missed, oldest first."""
    newest = newest_due(cycle, calendar, now)
    if newest is None:
        return ()
    return calendar.sessions(market.since, newest)[-market.cadence.catch_up_sessions :]


def due_range(
    window: Sequence[date], refreshed: Collection[date], *, before: bool, correction_sessions: int
) -> Due | None:
    """From the first to the last session of the window that is not refreshed.

    `before`: sessions older than the window were refreshed. Without them, those that lie before the first
    refreshed one were never missed: they belong to whoever fills the past.
    """
    if not window:
        return None
    if not refreshed and not before:
        newest = window[-correction_sessions:]
        return Due(newest[0], newest[-1], first=True)
    begins = window[0] if before else min(refreshed)
    waiting = [session for session in window if session >= begins and session not in refreshed]
    return Due(waiting[0], waiting[-1]) if waiting else None


def local_times(cycle: Cycle, calendar: TradingCalendar, now: datetime) -> tuple[time, ...]:
    """Every time of the exchange's day at which a session becomes due: after the usual close, and after each other
    one among the sessions of the last, this and the next year."""
    sessions = calendar.sessions(date(now.year - 1, 1, 1), date(now.year + 1, 12, 31))
    found = {due_at(cycle, calendar, session).astimezone(calendar.zone).time() for session in sessions}
    return tuple(sorted(found))


def at_times(times: Sequence[time]) -> list[str]:
    """Cron lines, one for each time of the day."""
    return [f"{at.minute} {at.hour} * * *" for at in times]


def every(minutes: int, first: time, last: time) -> list[str]:
    """Cron lines for every so many minutes from midnight on, within the hours of `first` and `last`.

    A step of a cron field begins anew with every hour, so `*/7` is no seven minutes and there is no `*/90`: the
    slots of the day are written out, hours with the same minutes in one line.
    """
    by_hour: dict[int, list[int]] = {}
    for slot in range(0, MINUTES_A_DAY, minutes):
        hour, minute = divmod(slot, 60)
        if first.hour <= hour <= last.hour:
            by_hour.setdefault(hour, []).append(minute)
    hours_by_minutes: dict[tuple[int, ...], list[int]] = {}
    for hour, within in by_hour.items():
        hours_by_minutes.setdefault(tuple(within), []).append(hour)
    return [
        f"{_field(within, 60)} {_field(at, 24)} * * *"
        for within, at in sorted(hours_by_minutes.items(), key=lambda pair: pair[1])
    ]


def _field(values: Sequence[int], size: int) -> str:
    """The shortest usual way to write ascending values of a cron field."""
    step = values[1] - values[0] if len(values) > 1 else size
    if list(values) == list(range(0, size, step)):
        return "0" if step == size else f"*/{step}" if step > 1 else "*"
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return ",".join(map(str, values))


def trading_hours(calendar: TradingCalendar, now: datetime, *, extended: bool) -> tuple[time, time]:
    """The earliest opening and the latest close of the exchange's day, in its own time."""
    days = [
        hours(calendar, session) for session in calendar.sessions(date(now.year - 1, 1, 1), date(now.year + 1, 12, 31))
    ]
    opens = [(day.begins if extended else day.opens).astimezone(calendar.zone).time() for day in days]
    closes = [(day.ends if extended else day.closes).astimezone(calendar.zone).time() for day in days]
    return min(opens), max(closes)
