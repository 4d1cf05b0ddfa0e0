"""What an exchange is doing at an instant: its phase of the day, its running session, its next bells.

Extended hours are those of `market.intraday.EXTENDED_HOURS`; an exchange without an entry has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from market_pipelines.market.intraday import EXTENDED_HOURS
from market_pipelines.market.sessions import TradingCalendar

_SATURDAY = 5


class MarketPhase(StrEnum):
    PRE_MARKET = "pre_market"
    OPEN = "open"
    AFTER_HOURS = "after_hours"
    CLOSED = "closed"
    """A session's date, outside of all its hours."""
    WEEKEND = "weekend"
    HOLIDAY = "holiday"
    """A weekday without a session, whatever the reason."""


@dataclass(frozen=True, slots=True)
class Hours:
    """A session with the trading before and after it; without any, these are its bells."""

    begins: datetime
    opens: datetime
    closes: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class MarketStatus:
    mic: str
    at: datetime
    phase: MarketPhase
    session: date | None
    """Today's, by the exchange's own date, if today has one."""
    next_open: datetime
    next_close: datetime

    @property
    def is_open(self) -> bool:
        return self.phase is MarketPhase.OPEN

    def trades(self, *, extended: bool) -> bool:
        """Whether bars can be coming in now."""
        return self.is_open or (extended and self.phase in (MarketPhase.PRE_MARKET, MarketPhase.AFTER_HOURS))


def hours(calendar: TradingCalendar, session: date) -> Hours:
    before, after = EXTENDED_HOURS.get(calendar.mic, (timedelta(), timedelta()))
    times = calendar.times(session)
    return Hours(times.opens - before, times.opens, times.closes, times.closes + after)


def market_status(calendar: TradingCalendar, now: datetime) -> MarketStatus:
    today = calendar.local_date(now)
    session = today if calendar.is_session(today) else None
    return MarketStatus(
        calendar.mic,
        now,
        _phase(calendar, today, session, now),
        session,
        calendar.next_open(now),
        calendar.next_close(now),
    )


def _phase(calendar: TradingCalendar, today: date, session: date | None, now: datetime) -> MarketPhase:
    if session is None:
        return MarketPhase.WEEKEND if today.weekday() >= _SATURDAY else MarketPhase.HOLIDAY
    day = hours(calendar, session)
    if day.opens <= now < day.closes:
        return MarketPhase.OPEN if calendar.is_open(now) else MarketPhase.CLOSED
    if day.begins <= now < day.opens:
        return MarketPhase.PRE_MARKET
    if day.closes <= now < day.ends:
        return MarketPhase.AFTER_HOURS
    return MarketPhase.CLOSED
