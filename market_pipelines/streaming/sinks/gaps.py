"""The sink that makes rows of marks: every gap of a stream is in `stream_gaps` within a second of its mark.

Marks are in times of arrival, rows in those of the exchange: they say what is missing. What of a gap lies outside its
trading hours is no gap. How gaps are filled does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from market_pipelines.market.hours import hours
from market_pipelines.market.polling import trades_from
from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.lake_columns import instant
from market_pipelines.store.stream_cursors import read_cursor, write_cursor
from market_pipelines.store.stream_gaps import NoticedGap, forget, gap_of, record_closed, record_opened
from market_pipelines.streaming.entries import Chunk, GapCause, Mark, MarkKind
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.protocol import Cursor
from market_pipelines.streaming.sinks.translate import translated

NAME = "gaps"
_WHAT = "the gaps of streams in PostgreSQL"


class GapSink:
    name = NAME
    collects = 0.5
    """Often enough for a row within a second, and not a transaction for every group of frames."""

    def __init__(
        self,
        database: Database,
        plan: StreamPlan,
        *,
        calendar: Callable[[datetime], TradingCalendar],
        trades_at_all_hours: bool,
        clock: Callable[[], datetime],
        journal: str = "",
    ) -> None:
        """`calendar`: as it is known at a time."""
        self._database = database
        self._plan = plan
        self._calendar = calendar
        self._at_all_hours = trades_at_all_hours
        self._clock = clock
        self._journal = journal

    def open(self) -> Cursor | None:
        with translated(_WHAT), self._database.connection() as connection:
            found = read_cursor(connection, self._plan.name, NAME, self._journal)
            connection.execute("SELECT FROM market.stream_gaps LIMIT 1")
        return None if found is None else Cursor(*found)

    def write(self, chunk: Chunk) -> int:
        now, changed = self._clock(), 0
        with translated(_WHAT), self._database.connection() as connection:
            for mark in chunk.marks:
                if mark.kind is MarkKind.GAP_OPENED:
                    changed += self._opened(connection, mark, now)
                elif mark.kind is MarkKind.GAP_CLOSED:
                    changed += self._closed(connection, mark, now)
            write_cursor(connection, self._plan.name, NAME, journal=chunk.journal, position=chunk.upto, at=now)
        return changed

    def close(self) -> None:
        """Its connections are the database's."""

    def _opened(self, connection: Transaction, mark: Mark, now: datetime) -> bool:
        begins = self._at_exchange(mark.begins_ns or mark.at_ns)
        counted = begins if self._at_all_hours else trades_from(self._calendar(begins), begins, extended=True)
        return record_opened(connection, self._gap(mark, counted), now)

    def _closed(self, connection: Transaction, mark: Mark, now: datetime) -> bool:
        noticed = gap_of(connection, self._key(mark))
        ends = self._at_exchange(mark.ends_ns or mark.at_ns)
        if noticed is not None:
            begins = noticed.begins_at
        else:
            begins = min(ends, self._at_exchange(mark.begins_ns) if mark.begins_ns else ends)
        span = (begins, max(begins, ends)) if self._at_all_hours else within_trading(self._calendar(ends), begins, ends)
        if span is None:
            return forget(connection, self._key(mark))
        return record_closed(connection, self._gap(mark, span[0]), span[1], now)

    def _gap(self, mark: Mark, begins: datetime) -> NoticedGap:
        return NoticedGap(
            gap_key=self._key(mark),
            stream=self._plan.name,
            market=self._plan.market,
            feed=self._plan.feed.value,
            cause=(mark.cause or GapCause.DISCONNECTED).value,
            begins_at=begins,
            channels=mark.channels or tuple(channel.value for channel in self._plan.channels),
            symbols=mark.symbols,
            origin=mark.origin,
            sink=mark.sink or None,
        )

    def _at_exchange(self, arrived_ns: int) -> datetime:
        return instant(arrived_ns) - self._plan.delay

    def _key(self, mark: Mark) -> str:
        cause = mark.cause or GapCause.DISCONNECTED
        return mark.gap or f"{self._plan.name}/{mark.origin or mark.sink}/{cause.value}/{mark.begins_ns}"


def within_trading(calendar: TradingCalendar, begins: datetime, ends: datetime) -> tuple[datetime, datetime] | None:
    """The span from its first to its last instant in trading hours, the extended ones included; None where it has
    none. An instant is a span."""
    first = trades_from(calendar, begins, extended=True)
    if first > ends or (first == ends and begins < ends):
        return None
    days = [hours(calendar, one) for one in calendar.sessions(calendar.local_date(first), calendar.local_date(ends))]
    begun = [day for day in days if day.begins <= ends]
    return first, max(first, min(ends, begun[-1].ends)) if begun else ends
