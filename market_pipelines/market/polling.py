"""When an exchange is asked again: the three polling strategies as functions of time and of what the last poll brought.

Nothing here waits or asks anybody: `pipeline.polling` does in a loop, and the polling sensors do in Dagster.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from market_pipelines.market.definition import PollingPlan
from market_pipelines.market.hours import hours, market_status
from market_pipelines.market.sessions import TradingCalendar

AROUND_A_BELL = timedelta(minutes=15)
"""Before and after an opening or closing bell: when prices move most."""
LENGTHENED, SHORTENED = 1.5, 0.5
"""What the interval is multiplied by when a poll brought nothing new, and when it brought something."""


class Strategy(StrEnum):
    CONTINUOUS = "continuous"
    """At a fixed interval, whatever the hour."""
    MARKET_HOURS = "market_hours"
    """At a fixed interval while the exchange trades."""
    ADAPTIVE = "adaptive"
    """The more often, the more there is that is new."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often is usual, and the bounds that an adapted interval stays within."""

    usual: timedelta
    shortest: timedelta
    longest: timedelta

    def __post_init__(self) -> None:
        if not timedelta() < self.shortest <= self.usual <= self.longest:
            raise ValueError(
                f"an interval of {self.usual} between {self.shortest} and {self.longest}; accepted: more than nothing, "
                "and the bounds around it"
            )


def pace_of(plan: PollingPlan, minutes: float | None = None) -> Pace:
    """The market's own bounds, widened where the interval that a person asks for lies beyond them."""
    usual = timedelta(minutes=plan.minutes if minutes is None else minutes)
    return Pace(
        usual,
        min(usual, timedelta(minutes=plan.shortest_minutes)),
        max(usual, timedelta(minutes=plan.longest_minutes)),
    )


@dataclass(frozen=True, slots=True)
class Rhythm:
    """One strategy on one exchange."""

    strategy: Strategy
    pace: Pace
    calendar: TradingCalendar
    extended: bool = False
    """Whether trading before the opening and after the closing bell counts as trading."""

    def first(self, now: datetime) -> datetime:
        """When a poll that begins now asks for the first time."""
        if self.strategy is Strategy.MARKET_HOURS:
            return trades_from(self.calendar, now, extended=self.extended)
        return now

    def interval_after(self, interval: timedelta, at: datetime, *, moved: bool) -> timedelta:
        """The next interval, when the poll at that instant found something new, or not."""
        if self.strategy is not Strategy.ADAPTIVE:
            return self.pace.usual
        return adapted(interval, self.pace, moved=moved, bell=is_around_a_bell(self.calendar, at))

    def next_after(self, last: datetime, interval: timedelta) -> datetime:
        """When to ask after a poll that began at `last`. An adapted interval does not reach over a bell."""
        at = last + interval
        if self.strategy is Strategy.MARKET_HOURS:
            return trades_from(self.calendar, at, extended=self.extended)
        if self.strategy is Strategy.ADAPTIVE:
            bell = min(self.calendar.next_open(last), self.calendar.next_close(last))
            return max(min(at, bell), last + self.pace.shortest)
        return at


def adapted(interval: timedelta, pace: Pace, *, moved: bool, bell: bool) -> timedelta:
    """Shorter where data moved, longer where nothing new came, the shortest around a bell; always within bounds."""
    if bell:
        return pace.shortest
    changed = interval * (SHORTENED if moved else LENGTHENED)
    return max(pace.shortest, min(pace.longest, changed))


def is_around_a_bell(calendar: TradingCalendar, at: datetime) -> bool:
    today = calendar.local_date(at)
    if not calendar.is_session(today):
        return False
    times = calendar.times(today)
    return any(abs(at - bell) <= AROUND_A_BELL for bell in (times.opens, times.closes))


def trades_from(calendar: TradingCalendar, now: datetime, *, extended: bool) -> datetime:
    """The first instant from `now` on at which bars can be coming in: now, or when trading begins or resumes."""
    if market_status(calendar, now).trades(extended=extended):
        return now
    today = calendar.local_date(now)
    for session in calendar.sessions(today, calendar.local_date(calendar.next_open(now))):
        day = hours(calendar, session)
        resumes = calendar.times(session).break_ends
        for begins in (day.begins if extended else day.opens, resumes):
            if begins is not None and begins > now:
                return begins
    return calendar.next_open(now)
