"""Whether a stream is to be connected now: always, or only around the hours in which its exchange trades."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from market_pipelines.market.hours import hours
from market_pipelines.market.sessions import TradingCalendar

BEFORE = timedelta(minutes=2)
AFTER = timedelta(minutes=10)
"""Closing auctions and late reports end after the bell that the calendar knows."""


@dataclass(frozen=True, slots=True)
class Opening:
    is_open: bool
    words: str
    """For people: until when, or from when."""


class OpeningHours:
    def __init__(
        self, calendar: Callable[[datetime], TradingCalendar], *, market_hours: bool, delay: timedelta = timedelta()
    ) -> None:
        self._calendar = calendar
        self._market_hours = market_hours
        self._after = AFTER + delay

    def at(self, now: datetime) -> Opening:
        if not self._market_hours:
            return Opening(True, "")
        calendar = self._calendar(now)
        session = calendar.local_date(now)
        if not calendar.is_session(session):
            session = calendar.local_date(calendar.next_open(now))
        day = hours(calendar, session)
        if now >= day.ends + self._after:
            day = hours(calendar, calendar.local_date(calendar.next_open(now)))
        if now < day.begins - BEFORE:
            return Opening(False, f"connects at {day.begins - BEFORE:%Y-%m-%d %H:%M} UTC, before the market opens")
        return Opening(True, f"until {day.ends + self._after:%Y-%m-%d %H:%M} UTC")
