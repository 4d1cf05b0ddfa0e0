"""How ticks lie in a segment: their order, their encodings, and what the manifest says of them.

Columns in, columns out; files and the database do not belong here. Everything works on whole columns: a segment of a
busy second has half a million rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.market.live import SCHEMAS, TickMark
from market_pipelines.market.records import TickKind

Numbers = npt.NDArray[np.int64]
Column: TypeAlias = "pa.ChunkedArray[Any]"

WORDS = (
    *("symbol", "exchange", "bid_exchange", "ask_exchange", "conditions", "currency", "feed"),
    *("indicators", "tape"),
)
"""Columns of few different words; a trade's id is not one of them."""
ROWS_A_GROUP = 131_072
_FEW_VALUES = (
    *("bid", "ask", "bid_size", "ask_size", "price", "size", "correction", "marks"),
    *("limit_up", "limit_down"),
)
_RISING = ("ts", "start", "end", "received_at", "seq")
_SMALL = 1 << 16
_DAY_NS = 86_400_000_000_000
_EPOCH = date(1970, 1, 1)


def time_of(kind: TickKind) -> str:
    """The column that says when: of an aggregate its start."""
    return "start" if kind is TickKind.AGGREGATES else "ts"


def order_of(kind: TickKind) -> tuple[str, ...]:
    """By what the rows of one symbol are ordered."""
    match kind:
        case TickKind.AGGREGATES:
            return ("start", "end", "received_at")
        case TickKind.SNAPSHOTS:
            return ("ts", "received_at")
        case _:
            return ("ts", "seq")


@dataclass(frozen=True, slots=True)
class Arranged:
    """Rows of one kind by symbol and time, words encoded."""

    table: pa.Table
    symbols: list[str]
    first_ns: int
    last_ns: int

    @property
    def rows(self) -> int:
        return len(self.table)


def dictionary_columns(kind: TickKind) -> list[str]:
    """Those that Parquet keeps as dictionaries. Measured: quicker to write than plain numbers, and smaller."""
    return [name for name in SCHEMAS[kind].names if name in WORDS or name in _FEW_VALUES]


def rising_columns(kind: TickKind) -> dict[str, str]:
    """Those that Parquet keeps as differences."""
    return {name: "DELTA_BINARY_PACKED" for name in SCHEMAS[kind].names if name in _RISING}


def encoded(table: pa.Table, kind: TickKind) -> pa.Table:
    """The kind's columns in one piece, words as dictionaries of the whole table."""
    columns = [
        table[name].dictionary_encode() if name in WORDS and not _is_encoded(table[name]) else table[name]
        for name in SCHEMAS[kind].names
    ]
    return pa.Table.from_arrays(columns, names=SCHEMAS[kind].names).unify_dictionaries().combine_chunks()


def arranged(table: pa.Table, kind: TickKind) -> Arranged:
    """`table` as `encoded` gives it; with rows."""
    symbols = _whole(table["symbol"])
    words = [str(word) for word in symbols.dictionary.to_pylist()]
    places = sorted(range(len(words)), key=words.__getitem__)
    rank = np.empty(len(words), dtype=np.uint16 if len(words) <= _SMALL else np.int64)
    rank[places] = np.arange(len(words))
    codes = rank[symbols.indices.to_numpy(zero_copy_only=False)]
    keys = [numbers(table[name]) for name in order_of(kind)]
    order = np.argsort(codes, kind="stable")
    if not _in_order(codes[order], [key[order] for key in keys]):
        order = np.lexsort((*reversed(keys), codes))
    present = np.flatnonzero(np.bincount(codes, minlength=len(words)))
    times = keys[0]
    return Arranged(
        table.take(order),
        [words[places[place]] for place in present.tolist()],
        int(times.min()),
        int(times.max()),
    )


def _in_order(codes: npt.NDArray[np.integer], keys: list[Numbers]) -> bool:
    """Ticks come nearly as they happened: most often sorting by symbol is all there is to do."""
    tied = codes[1:] == codes[:-1]
    for key in keys:
        if bool((tied & (key[1:] < key[:-1])).any()):
            return False
        tied &= key[1:] == key[:-1]
    return True


def by_feed(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each feed; `table` as `encoded` gives it."""
    feeds = _whole(table["feed"])
    words = feeds.dictionary.to_pylist()
    if len(words) == 1:
        yield str(words[0]), table
        return
    codes = feeds.indices.to_numpy(zero_copy_only=False)
    for code, word in enumerate(words):
        of_feed = codes == code
        if of_feed.any():
            yield str(word), chosen(table, of_feed)


def by_session(table: pa.Table, kind: TickKind, zone: ZoneInfo) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each day at the exchange, days without a session included."""
    times = numbers(table[time_of(kind)])
    if not len(times):
        return
    days = np.unique(times // _DAY_NS)
    around = sorted({int(day) + offset for day in days.tolist() for offset in (-1, 0, 1)})
    dates = [_EPOCH + timedelta(days=day) for day in around]
    midnights = np.array([_nanoseconds(datetime.combine(day, time(), zone)) for day in dates], dtype=np.int64)
    places = np.searchsorted(midnights, times, side="right") - 1
    found = np.unique(places).tolist()
    if len(found) == 1:
        yield dates[found[0]], table
        return
    for place in found:
        yield dates[place], chosen(table, places == place)


def numbers(column: Column) -> Numbers:
    """Stamps (as nanoseconds) or counts as whole numbers; an absent one is 0."""
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(0, column.type))
    return np.asarray(column.cast(pa.int64()), dtype=np.int64)


def chosen(table: pa.Table, rows: npt.NDArray[np.bool_]) -> pa.Table:
    return table.take(np.flatnonzero(rows))


def filled_rows(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows history has brought, to fill a gap."""
    return np.asarray(numbers(table["marks"]) & int(TickMark.FILLED), dtype=np.bool_)


def instant(ns: int) -> datetime:
    """To the microsecond below, which is as much as PostgreSQL keeps."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000


def _is_encoded(column: Column) -> bool:
    return pa.types.is_dictionary(column.type)


def _whole(column: Column) -> Any:
    """The dictionary and codes of a column that is in one piece."""
    return column.chunk(0)
