"""The tick lake: immutable Parquet files below `<home>/lake`, and the manifest that says which of them count.

A segment is written beside its place, synced, renamed, and only then listed; a file that is not listed does not
exist for a reader. The same name is the same content, so writing a segment again changes nothing.
"""

from __future__ import annotations

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

from market_pipelines.market.records import TickKind
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.disk import DiskFloor, sync_folder

_STAMP: pa.DataType = pa.timestamp("ns", tz="UTC")
_WORD: pa.DataType = pa.string()
_NUMBER: pa.DataType = pa.float64()
_COUNT: pa.DataType = pa.int64()
SCHEMAS = {
    TickKind.TRADES: pa.schema(
        {
            "symbol": _WORD,
            "ts": _STAMP,
            "received_at": _STAMP,
            "seq": _COUNT,
            "price": _NUMBER,
            "size": _NUMBER,
            "exchange": _WORD,
            "trade_id": _WORD,
            "conditions": _WORD,
            "correction": _COUNT,
            "feed": _WORD,
        }
    ),
    TickKind.QUOTES: pa.schema(
        {
            "symbol": _WORD,
            "ts": _STAMP,
            "received_at": _STAMP,
            "seq": _COUNT,
            "bid": _NUMBER,
            "ask": _NUMBER,
            "bid_size": _NUMBER,
            "ask_size": _NUMBER,
            "bid_exchange": _WORD,
            "ask_exchange": _WORD,
            "conditions": _WORD,
            "feed": _WORD,
        }
    ),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


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
        if _NAME.fullmatch(name) is None or _NAME.fullmatch(feed) is None:
            raise ValueError(f"{feed!r} and {name!r} have to be plain names")
        shortage = self._floor.shortage(self.root)
        if shortage:
            raise LakeError(f"{len(frame):,} ticks were not stored: {shortage}")
        ordered = frame.sort_values(["symbol", "ts", "seq"], kind="stable", ignore_index=True)
        received = ordered["received_at"] if "received_at" in ordered else pd.Series(at, index=ordered.index)
        filled = ordered.assign(received_at=received.astype("datetime64[ns, UTC]"), feed=feed)
        table = pa.Table.from_pandas(
            filled[SCHEMAS[kind].names], schema=SCHEMAS[kind], preserve_index=False, safe=False
        )
        relative = f"{kind.value}/feed={feed}/session={session.isoformat()}/{name}.parquet"
        size = self._put(table, self.root / relative)
        segment = Segment(
            path=relative,
            kind=kind.value,
            feed=feed,
            market=market,
            session=session,
            rows=len(frame),
            symbols=sorted(set(frame["symbol"])),
            first_ts=frame["ts"].min().to_pydatetime(warn=False),
            last_ts=frame["ts"].max().to_pydatetime(warn=False),
            bytes=size,
            source=source,
            written_at=checked_instant(at, "at"),
        )
        connection.execute(
            """
            INSERT INTO market.tick_segments (
                path, kind, feed, market, session, rows, symbols, first_ts, last_ts, bytes, source, written_at
            )
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (path) DO UPDATE
            SET rows = excluded.rows, symbols = excluded.symbols, first_ts = excluded.first_ts,
                last_ts = excluded.last_ts, bytes = excluded.bytes, source = excluded.source,
                written_at = excluded.written_at
            """,
            (
                segment.path,
                segment.kind,
                segment.feed,
                segment.market,
                segment.session,
                segment.rows,
                segment.symbols,
                segment.first_ts,
                segment.last_ts,
                segment.bytes,
                segment.source,
                segment.written_at,
            ),
        )
        return segment

    def read(
        self,
        connection: Transaction,
        kind: TickKind,
        *,
        symbols: Sequence[str] = (),
        start: datetime,
        end: datetime,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Ticks with `start` <= ts < `end` out of the listed segments, by time; the same tick of one feed once."""
        listed = segments(connection, kind, symbols=symbols, start=start, end=end)
        schema = SCHEMAS[kind]
        if not listed:
            return schema.empty_table().to_pandas()
        within = (ds.field("ts") >= pa.scalar(start, _STAMP)) & (ds.field("ts") < pa.scalar(end, _STAMP))
        if symbols:
            within &= ds.field("symbol").isin(list(symbols))
        try:
            table = ds.dataset([str(self.root / one.path) for one in listed], schema=schema).to_table(filter=within)
        except (OSError, pa.ArrowException) as error:
            raise LakeError(f"the lake {self.root} cannot be read: {error}") from None
        found = table.to_pandas()
        # A span that was asked for twice is in two segments. A sequence number alone does not tell two trades apart.
        found = found.drop_duplicates([name for name in schema.names if name != "received_at"])
        found = found.sort_values(["ts", "symbol", "seq"], kind="stable", ignore_index=True)
        return found if limit is None else found.head(limit)

    def _put(self, table: pa.Table, path: Path) -> int:
        fresh = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, fresh, compression="zstd")
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            size = fresh.stat().st_size
            fresh.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise LakeError(f"{path} cannot be written: {error.strerror}") from None
        return size


def segments(
    connection: Transaction,
    kind: TickKind,
    *,
    symbols: Sequence[str] = (),
    start: datetime,
    end: datetime,
) -> list[Segment]:
    with connection.cursor(row_factory=class_row(Segment)) as cursor:
        return cursor.execute(
            """
            SELECT path, kind, feed, market, session, rows, symbols, first_ts, last_ts, bytes, source, written_at
            FROM market.tick_segments
            WHERE kind = %(kind)s AND last_ts >= %(start)s AND first_ts < %(end)s
                  AND (%(symbols)s::text[] IS NULL OR symbols && %(symbols)s)
            ORDER BY session, path
            """,
            {"kind": kind.value, "start": start, "end": end, "symbols": list(symbols) or None},
        ).fetchall()
