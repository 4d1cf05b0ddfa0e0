"""The sink of the tick lake: each batch becomes a segment a kind, feed and session.

Files first, then manifest and cursor in one transaction: killed anywhere, either nothing of a batch counts or all of
it. A file that never came to count is swept later. How segments are written and read is the store's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import structlog

from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.lake import LakeError, Segment, Streamed, TickLake, list_segments, streamed_name
from market_pipelines.store.lake_columns import by_feed, by_session, chosen, encoded, filled_rows
from market_pipelines.store.lake_compaction import SMALL_ROWS, Merged, feeds_of, merge_some, small_segments, sweep
from market_pipelines.store.lake_filled import not_there_yet
from market_pipelines.store.stream_cursors import move_cursor, read_cursor
from market_pipelines.store.streams import streamed_elsewhere
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.protocol import Cursor, SinkUnavailable
from market_pipelines.streaming.sinks.translate import translated

NAME = "lake"
MANY_SMALL = 60
"""So many small segments of a session are merged while it goes on."""
ROWS_A_LOT = 300_000
"""Which takes a third of a second, in which nothing is written."""
_LOOK_SECONDS = 15.0
_SWEEP_SECONDS = 3600.0
_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class LakeSink:
    name = NAME
    collects = 60.0
    """As long as the stream's setting says: fewer and larger segments are what a lake wants."""

    def __init__(
        self,
        database: Database,
        lake: TickLake,
        *,
        stream: str,
        market: str,
        zone: ZoneInfo,
        clock: Callable[[], datetime],
        journal: str = "",
    ) -> None:
        self._database = database
        self._lake = lake
        self._stream = stream
        self._market = market
        self._zone = zone
        self._clock = clock
        self._journal = journal
        self._cursor: Cursor | None = None
        self._touched: dict[tuple[TickKind, str, date], int] = {}
        """Sessions with small segments of this stream, and how many they are."""
        self._feeds: set[str] = set()
        self._looked = self._swept = time.monotonic()

    def open(self) -> Cursor | None:
        with translated(f"the tick lake {self._lake.root}"), self._database.connection() as connection:
            found = read_cursor(connection, self._stream, NAME, self._journal)
            self._touched = small_segments(connection, self._stream)
            self._feeds = feeds_of(connection, self._stream)
        self._cursor = None if found is None else Cursor(*found)
        return self._cursor

    def write(self, chunk: Chunk) -> int:
        if self._has(chunk):
            return 0
        with translated(f"the tick lake {self._lake.root}"):
            written = [
                segment
                for kind, table in chunk.tables.items()
                if len(table)
                for segment in self._segments(chunk, kind, encoded(table, kind))
            ]
            with self._database.connection() as connection:
                list_segments(connection, written)
                self._store_cursor(connection, chunk)
        self._cursor = Cursor(chunk.journal, chunk.upto)
        self._feeds.update(segment.feed for segment in written)
        for segment in written:
            if segment.rows < SMALL_ROWS:
                place = TickKind(segment.kind), segment.feed, segment.session
                self._touched[place] = self._touched.get(place, 0) + 1
        return sum(segment.rows for segment in written)

    def tidy(self) -> None:
        """Merges one lot of small segments, and now and then removes what no reader can hold any more."""
        now = time.monotonic()
        with translated(f"the tick lake {self._lake.root}"):
            if now - self._swept >= _SWEEP_SECONDS:
                self._swept = now
                sweep(self._database, self._lake, self._feeds)
            elif now - self._looked >= _LOOK_SECONDS:
                self._looked = now
                self._merge_a_lot()

    def _merge_a_lot(self) -> None:
        today = self._clock().astimezone(self._zone).date()
        for place, small in sorted(self._touched.items(), key=lambda one: -one[1]):
            kind, feed, session = place
            if small < (2 if session < today else MANY_SMALL):
                continue
            try:
                merged = merge_some(
                    self._database,
                    self._lake,
                    kind,
                    stream=self._stream,
                    market=self._market,
                    feed=feed,
                    session=session,
                    at=self._clock(),
                    most_rows=ROWS_A_LOT,
                )
            except (LakeError, OSError) as error:
                # They stay as they are. Neither what comes in nor other sessions may wait for a damaged file.
                _log.error(
                    "small segments of the lake cannot be merged",
                    stream=self._stream,
                    session=str(session),
                    reason=str(error),
                )
                merged = Merged()
            # What cannot be merged waits for others to be merged with.
            self._touched[place] = merged.small_left if merged.segments else 0
            if merged.segments:
                return

    def close(self) -> None:
        self._cursor = None

    # --- segments --------------------------------------------------------------------------------------------

    def _segments(self, chunk: Chunk, kind: TickKind, table: pa.Table) -> list[Segment]:
        found = []
        for feed, of_feed in by_feed(table):
            for session, rows in by_session(of_feed, kind, self._zone):
                kept = self._without_doubles(kind, feed, session, rows)
                if not len(kept):
                    continue
                found.append(
                    self._lake.put(
                        kept,
                        kind,
                        feed=feed,
                        market=self._market,
                        session=session,
                        name=streamed_name(chunk.journal, chunk.after + 1, chunk.upto),
                        source=f"journal {chunk.journal}",
                        at=self._clock(),
                        streamed=Streamed(self._stream, chunk.after + 1, chunk.upto),
                    )
                )
        return found

    def _without_doubles(self, kind: TickKind, feed: str, session: date, rows: pa.Table) -> pa.Table:
        """What history brings to fill a gap reaches over its edges, where some of it was streamed."""
        if kind not in (TickKind.TRADES, TickKind.QUOTES):
            return rows
        filled = filled_rows(rows)
        if not filled.any():
            return rows
        streamed, brought = chosen(rows, ~filled), chosen(rows, filled)
        with self._database.connection() as connection:
            new = not_there_yet(
                connection, self._lake, kind, brought, streamed, market=self._market, feed=feed, session=session
            )
        return pa.concat_tables([streamed, new]).unify_dictionaries().combine_chunks()

    # --- the cursor ------------------------------------------------------------------------------------------

    def _has(self, chunk: Chunk) -> bool:
        cursor = self._cursor
        return cursor is not None and cursor.journal == chunk.journal and chunk.upto <= cursor.position

    def _store_cursor(self, connection: Transaction, chunk: Chunk) -> None:
        """Only from where this sink believes it to be: a segment of another's making would hold the same rows."""
        cursor = self._cursor
        if not move_cursor(
            connection,
            self._stream,
            NAME,
            expected=None if cursor is None else (cursor.journal, cursor.position),
            journal=chunk.journal,
            position=chunk.upto,
            at=self._clock(),
        ):
            raise SinkUnavailable(f"the lake's cursor of {self._stream} was moved by another process; reading it anew")
        if streamed_elsewhere(connection, self._stream, chunk.journal):
            raise SinkUnavailable(
                f"{self._stream} is streamed by another process since this batch was begun; nothing of it is stored"
            )
