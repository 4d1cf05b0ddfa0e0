"""Between arrow columns and numpy arrays, without copying where that can be. What the columns mean is not known here.

The stubs of pyarrow know every overload of its functions but rarely what comes out of them, so that the few that live
data needs are called from here, with types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.market.live import STAMP

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Instants = npt.NDArray[np.int64]
"""Nanoseconds since 1970."""
Codes = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]

Column = Any
"""A pyarrow array, or one in chunks."""
_compute: Any = pc


def whole(column: Column) -> Any:
    """One array, not several chunks."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def floats(column: Column) -> Floats:
    """With NaN for what is missing."""
    one = whole(column)
    found: Floats = (_compute.fill_null(one, np.nan) if one.null_count else one).to_numpy()
    return found


def integers(column: Column, missing: int = 0) -> Integers:
    one = whole(column)
    found: Integers = (_compute.fill_null(one, missing) if one.null_count else one).to_numpy()
    return found


def instants(column: Column) -> Instants:
    found: Instants = whole(column).cast(pa.int64()).to_numpy()
    return found


def bits(column: Column) -> npt.NDArray[np.int32]:
    found: npt.NDArray[np.int32] = whole(column).to_numpy()
    return found


def missing(column: Column) -> Flags:
    found: Flags = whole(column).is_null().to_numpy(zero_copy_only=False)
    return found


def coded(column: Column) -> tuple[list[str], Codes]:
    """The different texts, and which of them each row has. An absent text is an empty one."""
    one = texts(column).dictionary_encode()
    codes: Codes = one.indices.to_numpy()
    return one.dictionary.to_pylist(), codes


class SymbolCodes:
    """A number for each symbol, given out in the order in which they come, so that what is known of symbols can be
    kept in arrays."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def of(self, column: Column) -> Codes:
        names, codes = coded(column)
        known = self._codes
        ours = np.fromiter((known.setdefault(name, len(known)) for name in names), dtype=np.int32, count=len(names))
        return ours[codes]


def grown(values: npt.NDArray[Any], size: int, fill: float) -> npt.NDArray[Any]:
    """At least so long; amortised, because symbols come one after the other."""
    if size <= len(values):
        return values
    more = np.full((max(size, 2 * len(values)), *values.shape[1:]), fill, dtype=values.dtype)
    more[: len(values)] = values
    return more


def by_code(codes: Codes) -> Integers:
    """The order that puts rows of one symbol together and leaves each symbol's own order alone."""
    narrow = codes.astype(np.uint16) if len(codes) and codes.max() < 1 << 16 else codes
    order: Integers = np.argsort(narrow, kind="stable")
    return order


def texts(column: Column) -> Any:
    """With an empty text for what is missing."""
    one = whole(column)
    return _compute.fill_null(one, "") if one.null_count else one


def of_floats(values: Floats, absent: Flags | None = None) -> Any:
    """Missing is what is NaN, or what is said to be absent."""
    gone = np.isnan(values) if absent is None else absent
    return pa.array(values, mask=gone) if gone.any() else pa.array(values)


def of_instants(values: Instants) -> Any:
    return pa.array(np.ascontiguousarray(values)).cast(STAMP)


def of_flags(values: Flags) -> Any:
    return pa.array(values)


def repeated(text: str, count: int) -> Any:
    return pa.repeat(pa.scalar(text, pa.string()), count)


def chosen(table: pa.Table, rows: Flags) -> pa.Table:
    return table if rows.all() else table.filter(of_flags(rows))


def with_marks(table: pa.Table, marks: npt.NDArray[np.int32]) -> pa.Table:
    return table.set_column(table.schema.get_field_index("marks"), table.schema.field("marks"), pa.array(marks))
