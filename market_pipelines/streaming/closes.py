"""The closes of the session before, out of the stored daily bars: what a change is counted from.

A stream does not stop because the database cannot answer: without a close there is no change, and it is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import psycopg
import structlog

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.store.database import Database, DatabaseUnavailable
from market_pipelines.store.read_bars import previous_closes

AGAIN_AFTER = 600.0
"""Seconds after which a close that was not stored is asked for again."""

_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class StoredCloses:
    """Callable as `day_book.PreviousCloses`. Remembers one day; used by one thread."""

    def __init__(self, database: Database, market: str, mic: str, *, again_after: float = AGAIN_AFTER) -> None:
        self._database = database
        self._market = market
        self._mic = mic
        self._again_after = again_after
        self._day: date | None = None
        self._known: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def __call__(self, symbols: Sequence[str], day: date) -> Mapping[str, float]:
        if day != self._day:
            self._day, self._known, self._asked = day, {}, {}
        now = time.monotonic()
        due = [
            symbol
            for symbol in symbols
            if symbol not in self._known and now - self._asked.get(symbol, -self._again_after) >= self._again_after
        ]
        if due:
            self._asked |= dict.fromkeys(due, now)
            self._known |= self._stored(due, day)
        return {symbol: self._known[symbol] for symbol in symbols if symbol in self._known}

    def _stored(self, symbols: Sequence[str], day: date) -> dict[str, float]:
        calendar = trading_calendar(self._mic, datetime(day.year, day.month, day.day, tzinfo=UTC))
        sessions = calendar.sessions(max(calendar.start, day - timedelta(days=15)), day - timedelta(days=1))
        if not sessions:
            return {}
        try:
            with self._database.connection() as connection:
                found = previous_closes(connection, self._market, symbols, day)
        except (DatabaseUnavailable, psycopg.Error) as error:
            _log.warning("closes cannot be read, so changes are not known", market=self._market, reason=str(error))
            return {}
        return {symbol: close for symbol, (session, close) in found.items() if session == sessions[-1]}
