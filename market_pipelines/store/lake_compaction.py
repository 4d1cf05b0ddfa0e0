"""Merging the many small segments that a stream leaves into few large ones, and removing files that no longer count.

A merged file is read back and compared with what it was made of before it takes their place in the manifest, in one
transaction. The old files stay for a while, because a reader may hold a list of them. Whoever does the same at the
same time does it in vain: only one of two gets its file listed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.rows import class_row

from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.lake import LakeError, Segment, Streamed, TickLake, list_segments
from market_pipelines.store.lake_columns import WORDS, encoded
from market_pipelines.store.leftovers import GRACE_SECONDS, Files, FileStore
from market_pipelines.store.retention import RetentionBusy, held_for_retention, listed_segments

SMALL_ROWS = 250_000
"""A segment with fewer rows is merged with others."""
MERGED_ROWS = 1_000_000
"""So many rows at most are merged into one segment: they are all in memory at once."""
_OF_A_STREAM = re.compile(r"\.?(s[0-9a-f]{12}|m[0-9a-f]{16})-\d{12,}-\d{12,}(\.parquet|\.\d+\.[0-9a-f]+)")
_FILES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Merged:
    segments: int = 0
    """That were merged into one; 0 where there was nothing to merge."""
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    small_left: int = 0


@dataclass(frozen=True, slots=True)
class Compaction:
    segments_before: int
    segments_after: int
    rows: int
    bytes_before: int
    bytes_after: int
    seconds: float


def small_segments(connection: Transaction, stream: str) -> dict[tuple[TickKind, str, date], int]:
    """How many small ones the stream has, by kind, feed and session, where there is more than one."""
    rows = connection.execute(
        """
        SELECT kind, feed, session, count(*) FROM market.tick_segments
        WHERE stream = %s AND rows < %s
        GROUP BY kind, feed, session HAVING count(*) > 1
        """,
        (stream, SMALL_ROWS),
    ).fetchall()
    return {(TickKind(kind), str(feed), session): int(count) for kind, feed, session, count in rows}


def compact(
    database: Database,
    lake: TickLake,
    *,
    at: datetime,
    market: str | None = None,
    kind: TickKind | None = None,
    session: date | None = None,
    until: date | None = None,
) -> Compaction:
    """Merges whatever is small among the segments that streams have written, lot by lot. `until`: only sessions up to
    that day."""
    began = time.monotonic()
    with database.connection() as connection:
        places = connection.execute(
            """
            SELECT stream, market, kind, feed, session FROM market.tick_segments
            WHERE stream IS NOT NULL AND rows < %(small)s
                  AND (%(market)s::text IS NULL OR market = %(market)s)
                  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
                  AND (%(session)s::date IS NULL OR session = %(session)s)
                  AND (%(until)s::date IS NULL OR session <= %(until)s)
            GROUP BY stream, market, kind, feed, session HAVING count(*) > 1
            ORDER BY session, kind, feed, market, stream
            """,
            {
                "small": SMALL_ROWS,
                "market": market,
                "kind": None if kind is None else kind.value,
                "session": session,
                "until": until,
            },
        ).fetchall()
    before = after = rows = bytes_before = bytes_after = 0
    for stream, its_market, its_kind, feed, its_session in places:
        while True:
            merged = merge_some(
                database,
                lake,
                TickKind(its_kind),
                stream=stream,
                market=its_market,
                feed=feed,
                session=its_session,
                at=at,
            )
            if not merged.segments:
                break
            before, after, rows = before + merged.segments, after + 1, rows + merged.rows
            bytes_before, bytes_after = bytes_before + merged.bytes_before, bytes_after + merged.bytes_after
    return Compaction(before, after, rows, bytes_before, bytes_after, time.monotonic() - began)


def merge_some(
    database: Database,
    lake: TickLake,
    kind: TickKind,
    *,
    stream: str,
    market: str,
    feed: str,
    session: date,
    at: datetime,
    most_rows: int = MERGED_ROWS,
) -> Merged:
    """One lot: the smallest segments, as many as become one of at most so many rows."""
    with database.connection() as connection:
        small = _small_of(connection, kind, stream, market, feed, session)
    lot = _lot(small, most_rows)
    if len(lot) < 2:
        return Merged(small_left=len(small))
    table = _read(lake, lot, kind)
    paths = "\n".join(one.path for one in lot)
    first, last = min(_first(one) for one in lot), max(_last(one) for one in lot)
    merged = lake.put(
        encoded(table, kind),
        kind,
        feed=feed,
        market=market,
        session=session,
        name=f"m{hashlib.sha256(paths.encode()).hexdigest()[:16]}-{first:012d}-{last:012d}",
        source=f"{len(lot)} segments of the stream {stream}",
        at=at,
        streamed=Streamed(stream, first, last),
    )
    _compare(lake, kind, lot, merged)
    if not _take_their_place(database, lake, lot, merged):
        return Merged(small_left=len(small))
    return Merged(
        len(lot),
        merged.rows,
        sum(one.bytes for one in lot),
        merged.bytes,
        len(small) - len(lot) + (merged.rows < SMALL_ROWS),
    )


def _small_of(
    connection: Transaction, kind: TickKind, stream: str, market: str, feed: str, session: date
) -> list[Segment]:
    with connection.cursor(row_factory=class_row(Segment)) as cursor:
        return cursor.execute(
            """
            SELECT path, kind, feed, market, session, rows, symbols, first_ts, last_ts, bytes, source, written_at,
                   stream, first_position, last_position
            FROM market.tick_segments
            WHERE (kind, stream, market, feed, session) = (%s, %s, %s, %s, %s) AND rows < %s
            ORDER BY rows, first_position, path
            """,
            (kind.value, stream, market, feed, session, SMALL_ROWS),
        ).fetchall()


def _lot(small: Sequence[Segment], most_rows: int) -> list[Segment]:
    lot: list[Segment] = []
    rows = 0
    for one in small:
        if rows + one.rows > most_rows:
            break
        lot.append(one)
        rows += one.rows
    return lot


def _read(lake: TickLake, lot: Sequence[Segment], kind: TickKind) -> pa.Table:
    words = [name for name in SCHEMAS[kind].names if name in WORDS]
    parts = []
    for one in lot:
        try:
            with pq.ParquetFile(lake.root / one.path, read_dictionary=words) as file:
                parts.append(file.read(columns=SCHEMAS[kind].names))
        except (OSError, pa.ArrowException) as error:
            raise LakeError(f"the segment {one.path} cannot be read: {error}") from None
        if len(parts[-1]) != one.rows:
            raise LakeError(f"the segment {one.path} has {len(parts[-1])} rows, the manifest says {one.rows}")
    return pa.concat_tables(parts)


def _compare(lake: TickLake, kind: TickKind, lot: Sequence[Segment], merged: Segment) -> None:
    """Raises unless the merged file, as it lies on the disk, has the very rows of the others."""
    before = _fingerprint(lake, kind, [one.path for one in lot])
    after = _fingerprint(lake, kind, [merged.path])
    if before != after:
        (lake.root / merged.path).unlink(missing_ok=True)
        raise LakeError(
            f"{merged.path} is not what its {len(lot)} segments are ({after} instead of {before}); they stay"
        )


def _fingerprint(lake: TickLake, kind: TickKind, paths: Sequence[str]) -> tuple[object, ...]:
    """Of a set of rows in any order: how many, the sum of their hashes, the first and last time."""
    names = ", ".join(f'"{name}"' for name in SCHEMAS[kind].names)
    moment = "start" if kind is TickKind.AGGREGATES else "ts"
    try:
        with duckdb.connect(config={"threads": 1}) as memory:
            found = memory.execute(
                f'SELECT count(*), sum(hash({names})::HUGEINT), min("{moment}"), max("{moment}") '  # noqa: S608 (constant names)
                "FROM read_parquet(?, hive_partitioning = false)",
                [[str(lake.root / path) for path in paths]],
            ).fetchone()
    except duckdb.Error as error:
        raise LakeError(f"the segments cannot be compared: {error}") from None
    return () if found is None else tuple(found)


def _take_their_place(database: Database, lake: TickLake, lot: Sequence[Segment], merged: Segment) -> bool:
    paths = [one.path for one in lot]
    for path in paths:
        # From now on counts the time for which a reader may still hold it.
        os.utime(lake.root / path)
    with database.connection() as connection:
        gone = connection.execute("DELETE FROM market.tick_segments WHERE path = ANY(%s)", (paths,)).rowcount
        if gone == len(lot):
            list_segments(connection, [merged])
            return True
        connection.rollback()
    if merged.path not in _listed(database, [merged.path]):
        (lake.root / merged.path).unlink(missing_ok=True)
    return False


def feeds_of(connection: Transaction, stream: str) -> set[str]:
    rows = connection.execute("SELECT DISTINCT feed FROM market.tick_segments WHERE stream = %s", (stream,)).fetchall()
    return {str(row[0]) for row in rows}


def sweep(database: Database, lake: TickLake, feeds: Iterable[str], *, grace_seconds: float = GRACE_SECONDS) -> Files:
    """Removes files that streams wrote for these feeds, that are not listed and that nobody has touched for so long:
    what a killed writer left, and what was merged. Other feeds may be listed in another database. Does nothing while
    retention is at work."""
    if not lake.root.is_dir():
        return Files()
    files = FileStore(lake.root, ".parquet", Path.as_posix, lambda paths: _listed(database, paths))
    found = [
        path
        for feed in sorted(feeds)
        for path in lake.root.glob(f"*/feed={glob.escape(feed)}/session=*/*")
        if _OF_A_STREAM.fullmatch(path.name)
    ]
    try:
        with held_for_retention(database):
            return _sweep(files, found, grace_seconds)
    except RetentionBusy:
        return Files()


def _sweep(files: FileStore, found: Sequence[Path], grace_seconds: float) -> Files:
    swept = Files()
    limit = time.time() - grace_seconds
    for path in found:
        if path.name.startswith("."):
            with suppress(FileNotFoundError):  # it has got its name since it was found
                if path.stat().st_mtime < limit:
                    path.unlink()
    segments = [path.relative_to(files.root) for path in found if not path.name.startswith(".")]
    for place in range(0, len(segments), _FILES_AT_ONCE):
        batch = segments[place : place + _FILES_AT_ONCE]
        listed = files.named([path.as_posix() for path in batch])
        gone = [path for path in batch if path.as_posix() not in listed]
        swept += files.discard(gone, grace_seconds=grace_seconds)
    return swept


def _listed(database: Database, paths: Sequence[str]) -> set[str]:
    with database.connection() as connection:
        return listed_segments(connection, paths)


def _first(segment: Segment) -> int:
    return segment.first_position or 0


def _last(segment: Segment) -> int:
    return segment.last_position or 0
