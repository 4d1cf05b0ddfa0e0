"""The tick lake: immutable Parquet files below `<home>/lake`, and the manifest that says which of them count.

A segment is written beside its place, synced, renamed, and only then listed; a file that is not listed does not
exist for a reader. The same name is the same content, so writing a segment again changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from psycopg.rows import class_row

from market_pipelines.market.live import SCHEMAS, STAMP
from market_pipelines.market.records import TickKind
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.disk import DiskFloor, make_folder, sync_folder
from market_pipelines.store.lake_columns import (
    ROWS_A_GROUP,
    arranged,
    dictionary_columns,
    encoded,
    instant,
    rising_columns,
    time_of,
)

__all__ = ["SCHEMAS", "LakeError", "Segment", "TickLake", "list_segments", "segments", "streamed_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_TRIES = 3
_VERSIONED = {TickKind.AGGREGATES: ("symbol", "start", "end", "feed")}
"""Kinds whose rows come again with other values, and what stays the same then."""


class LakeError(Exception):
    """The lake cannot be written or read. The message says why."""


@dataclass(frozen=True, slots=True)
class Segment:
    path: str
    kind: str
    feed: str
    market: str
    session: date
    rows: int
    symbols: list[str]
    first_ts: datetime
    last_ts: datetime
    bytes: int
    source: str
    written_at: datetime
    stream: str | None = None
    first_position: int | None = None
    last_position: int | None = None
    """Of the journal of its stream."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """Where in a stream a segment comes from."""

    stream: str
    first_position: int
    last_position: int


class TickLake:
    def __init__(self, root: Path, *, floor: DiskFloor | None = None) -> None:
        self.root = root
        self._floor = floor if floor is not None else DiskFloor()

    def write(
        self,
        connection: Transaction,
        frame: pd.DataFrame,
        kind: TickKind,
        *,
        feed: str,
        market: str,
        session: date,
        name: str,
        source: str,
        at: datetime,
    ) -> Segment:
        """One segment of one session, listed in the caller's transaction. `frame` has the kind's tick columns."""
        received = frame["received_at"] if "received_at" in frame else pd.Series(at, index=frame.index)
        marks = frame["marks"] if "marks" in frame else pd.Series(0, index=frame.index, dtype="int32")
        filled = frame.assign(received_at=received.astype("datetime64[ns, UTC]"), feed=feed, marks=marks)
        table = pa.Table.from_pandas(
            filled[SCHEMAS[kind].names], schema=SCHEMAS[kind], preserve_index=False, safe=False
        )
        segment = self.put(
            encoded(table, kind), kind, feed=feed, market=market, session=session, name=name, source=source, at=at
        )
        list_segments(connection, [segment])
        return segment

    def put(
        self,
        table: pa.Table,
        kind: TickKind,
        *,
        feed: str,
        market: str,
        session: date,
        name: str,
        source: str,
        at: datetime,
        streamed: Streamed | None = None,
    ) -> Segment:
        """Writes the file of a segment, which counts once it is listed. `table` has rows, of this feed and session,
        as `lake_columns.encoded` gives them."""
        if _NAME.fullmatch(name) is None or _NAME.fullmatch(feed) is None:
            raise ValueError(f"{feed!r} and {name!r} have to be plain names")
        shortage = self._floor.shortage(self.root)
        if shortage:
            raise LakeError(f"{len(table):,} ticks were not stored: {shortage}")
        rows = arranged(table, kind)
        relative = f"{kind.value}/feed={feed}/session={session.isoformat()}/{name}.parquet"
        size = self._put(rows.table, kind, self.root / relative)
        return Segment(
            path=relative,
            kind=kind.value,
            feed=feed,
            market=market,
            session=session,
            rows=rows.rows,
            symbols=rows.symbols,
            first_ts=instant(rows.first_ns),
            last_ts=instant(rows.last_ns),
            bytes=size,
            source=source,
            written_at=checked_instant(at, "at"),
            stream=None if streamed is None else streamed.stream,
            first_position=None if streamed is None else streamed.first_position,
            last_position=None if streamed is None else streamed.last_position,
        )

    def read(
        self,
        connection: Transaction,
        kind: TickKind,
        *,
        symbols: Sequence[str] = (),
        start: datetime,
        end: datetime,
        limit: int | None = None,
        market: str | None = None,
    ) -> pd.DataFrame:
        """Ticks with `start` <= ts < `end` (of aggregates: start) out of the listed segments, by time; the same tick
        of one feed once, of aggregates the newest version."""
        found = self.table(connection, kind, symbols=symbols, start=start, end=end, market=market).to_pandas()
        # A span that was asked for twice is in two segments. A sequence number alone does not tell two trades apart.
        found = found.sort_values("received_at", kind="stable")
        if kind in _VERSIONED:
            found = found.drop_duplicates(list(_VERSIONED[kind]), keep="last")
        else:
            found = found.drop_duplicates([name for name in found.columns if name not in ("received_at", "marks")])
        order = [time_of(kind), "symbol", "seq" if "seq" in found else "received_at"]
        found = found.sort_values(order, kind="stable", ignore_index=True)
        return found if limit is None else found.head(limit)

    def table(
        self,
        connection: Transaction,
        kind: TickKind,
        *,
        symbols: Sequence[str] = (),
        start: datetime,
        end: datetime,
        columns: Sequence[str] | None = None,
        market: str | None = None,
        feed: str | None = None,
        session: date | None = None,
    ) -> pa.Table:
        """Every row of that span as it is stored, in no order."""
        schema = SCHEMAS[kind]
        moment = ds.field(time_of(kind))
        chosen = (moment >= pa.scalar(start, STAMP)) & (moment < pa.scalar(end, STAMP))
        if symbols:
            chosen &= ds.field("symbol").isin(list(symbols))
        for tries_left in reversed(range(_TRIES)):
            listed = segments(
                connection, kind, symbols=symbols, start=start, end=end, market=market, feed=feed, session=session
            )
            if not listed:
                break
            try:
                files = ds.dataset([str(self.root / one.path) for one in listed], schema=schema)
                found = files.to_table(filter=chosen, columns=None if columns is None else list(columns))
            except FileNotFoundError as error:
                if not tries_left:
                    raise LakeError(f"the lake {self.root} lacks a file that is listed: {error}") from None
                continue  # merged into a larger one meanwhile
            except (OSError, pa.ArrowException) as error:
                raise LakeError(f"the lake {self.root} cannot be read: {error}") from None
            return _with_marks(found)
        empty = schema.empty_table()
        return empty if columns is None else empty.select(list(columns))

    def _put(self, table: pa.Table, kind: TickKind, path: Path) -> int:
        fresh = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            make_folder(path.parent)
            with pq.ParquetWriter(
                fresh,
                table.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=dictionary_columns(kind),  # type: ignore[arg-type]  # its manual says: bool or list
                column_encoding=rising_columns(kind),
                store_schema=False,  # words stay words for whoever reads it
            ) as writer:
                writer.write_table(table, ROWS_A_GROUP)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            size = fresh.stat().st_size
            fresh.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise LakeError(f"{path} cannot be written: {error.strerror or error}") from None
        return size


def streamed_name(journal: str, first_position: int, last_position: int) -> str:
    """Of a segment: the same span of the same journal has the same name."""
    return f"s{hashlib.sha256(journal.encode()).hexdigest()[:12]}-{first_position:012d}-{last_position:012d}"


_COLUMNS = (
    "path, kind, feed, market, session, rows, symbols, first_ts, last_ts, bytes, source, written_at, stream, "
    "first_position, last_position"
)


def list_segments(connection: Transaction, written: Sequence[Segment]) -> None:
    """From the commit on, readers see them."""
    with connection.cursor() as cursor:
        cursor.executemany(
            f"""
            INSERT INTO market.tick_segments ({_COLUMNS})
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (path) DO UPDATE
            SET rows = excluded.rows, symbols = excluded.symbols, first_ts = excluded.first_ts,
                last_ts = excluded.last_ts, bytes = excluded.bytes, source = excluded.source,
                written_at = excluded.written_at
            """,  # noqa: S608 (constant columns)
            [
                (
                    one.path,
                    one.kind,
                    one.feed,
                    one.market,
                    one.session,
                    one.rows,
                    one.symbols,
                    one.first_ts,
                    one.last_ts,
                    one.bytes,
                    one.source,
                    one.written_at,
                    one.stream,
                    one.first_position,
                    one.last_position,
                )
                for one in written
            ],
        )


def segments(
    connection: Transaction,
    kind: TickKind,
    *,
    symbols: Sequence[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    market: str | None = None,
    feed: str | None = None,
    session: date | None = None,
    first_session: date | None = None,
    last_session: date | None = None,
) -> list[Segment]:
    """What is listed, by session: only what touches `start` <= ts < `end` and has one of the symbols."""
    with connection.cursor(row_factory=class_row(Segment)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS}
            FROM market.tick_segments
            WHERE kind = %(kind)s
                  AND (%(start)s::timestamptz IS NULL OR last_ts >= %(start)s)
                  AND (%(end)s::timestamptz IS NULL OR first_ts < %(end)s)
                  AND (%(symbols)s::text[] IS NULL OR symbols && %(symbols)s)
                  AND (%(market)s::text IS NULL OR market = %(market)s)
                  AND (%(feed)s::text IS NULL OR feed = %(feed)s)
                  AND session BETWEEN %(first)s AND %(last)s
            ORDER BY session, path
            """,  # noqa: S608 (constant columns)
            {
                "kind": kind.value,
                "start": start,
                "end": end,
                "symbols": list(symbols) or None,
                "market": market,
                "feed": feed,
                "first": session or first_session or date.min,
                "last": session or last_session or date.max,
            },
        ).fetchall()


def _with_marks(table: pa.Table) -> pa.Table:
    """Segments of before ticks were marked have no such column."""
    if "marks" not in table.column_names or not table["marks"].null_count:
        return table
    place = table.schema.get_field_index("marks")
    marks = table["marks"].to_pandas().fillna(0).astype("int32")
    return table.set_column(place, table.schema.field(place), pa.array(marks, pa.int32()))
