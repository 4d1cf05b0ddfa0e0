"""The rows of a journal: many entries of one format and origin in each, compressed together, under a checksum.

Only bytes and values: where rows are kept, and in which order they come, does not belong here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from market_pipelines.streaming.entries import Batch, Format
from market_pipelines.streaming.journal.faults import Damaged

ROW_BYTES = 2_000_000
ROW_ENTRIES = 20_000
"""What a reader takes at once: it decompresses whole rows."""
_LEVEL = 1
_EVENT = b'"ev":'
_NUMBERS = struct.Struct("<qqqqq")


class Run:
    """Entries of one format and origin in the order in which they arrived."""

    __slots__ = ("bodies", "format", "origin", "times")

    def __init__(
        self, format: Format, origin: str, times: list[int] | None = None, bodies: list[bytes] | None = None
    ) -> None:
        self.format = format
        self.origin = origin
        self.times: list[int] = [] if times is None else times
        self.bodies: list[bytes] = [] if bodies is None else bodies

    def __len__(self) -> int:
        return len(self.bodies)


class Row(NamedTuple):
    """As it is stored, column by column."""

    first: int
    entries: int
    format: str
    origin: str
    events: int
    events_before: int
    received_upto: int
    """The latest time of any entry of the journal up to here: what makes a time findable by halving."""
    heads: bytes
    """Differences of the received times as int64, then the lengths as uint32; compressed."""
    body: bytes
    checksum: int

    @property
    def last(self) -> int:
        return self.first + self.entries - 1


class RowMaker:
    """Makes rows that follow one another. Of one thread."""

    def __init__(self, last: int, events: int, received_upto: int) -> None:
        self.last = last
        self.events = events
        self.received_upto = received_upto
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def rows(self, runs: Sequence[Run]) -> list[Row]:
        return [self._row(run.format, run.origin, times, bodies) for run in runs for times, bodies in _pieces(run)]

    def _row(self, format: Format, origin: str, times: Sequence[int], bodies: Sequence[bytes]) -> Row:
        received = np.array(times, np.int64)
        lengths = np.fromiter(map(len, bodies), np.uint32, len(bodies))
        joined = b"".join(bodies)
        events = _events(format, joined, len(bodies))
        self.received_upto = max(self.received_upto, int(received.max()))
        heads = self._compressor.compress(np.diff(received, prepend=0).tobytes() + lengths.tobytes())
        row = Row(
            first=self.last + 1,
            entries=len(bodies),
            format=format.value,
            origin=origin,
            events=events,
            events_before=self.events,
            received_upto=self.received_upto,
            heads=heads,
            body=self._compressor.compress(joined),
            checksum=0,
        )
        self.last += len(bodies)
        self.events += events
        return row._replace(checksum=_checksum(row))


def _pieces(run: Run) -> Iterator[tuple[Sequence[int], Sequence[bytes]]]:
    count = len(run)
    ends = np.fromiter(map(len, run.bodies), np.int64, count).cumsum()
    if count <= ROW_ENTRIES and ends[-1] <= ROW_BYTES:
        yield run.times, run.bodies
        return
    start = 0
    while start < count:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + ROW_BYTES, "right"))
        stop = max(start + 1, min(stop, start + ROW_ENTRIES))
        yield run.times[start:stop], run.bodies[start:stop]
        start = stop


def _events(format: Format, joined: bytes, entries: int) -> int:
    return joined.count(_EVENT) if format is Format.MASSIVE else entries


def _checksum(row: Row) -> int:
    start = _NUMBERS.pack(row.first, row.entries, row.events, row.events_before, row.received_upto)
    named = f"{row.format}\0{row.origin}\0".encode()
    return zlib.crc32(row.body, zlib.crc32(row.heads, zlib.crc32(start + named)))


def verified(columns: Sequence[Any]) -> Row:
    """From what SQLite gives, texts as bytes. Damage may have changed the type of a column as well as its bytes."""
    try:
        first, entries, format, origin, *rest = columns
        row = Row(first, entries, format.decode(), origin.decode(), *rest)
        if _checksum(row) == row.checksum:
            return row
    except (AttributeError, TypeError, ValueError, struct.error):
        pass
    raise Damaged(f"the row at position {columns[0]!r} does not hold what its checksum promises")


def received_times(row: Row) -> npt.NDArray[np.int64]:
    return _heads(row)[0]


def batch_of(row: Row, *, after: int = 0, entries: int | None = None) -> Batch:
    """The row's entries after a position, so many at most."""
    received, lengths = _heads(row)
    joined = zstandard.ZstdDecompressor().decompress(row.body)
    ends = [0, *lengths.cumsum(dtype=np.int64).tolist()]
    start = max(0, after + 1 - row.first)
    stop = row.entries if entries is None else min(row.entries, start + entries)
    bodies = [joined[begin:end] for begin, end in pairwise(ends[start : stop + 1])]
    events, before, format = row.events, row.events_before, Format(row.format)
    if stop - start < row.entries:
        before += _events(format, joined[: ends[start]], start)
        events = _events(format, joined[ends[start] : ends[stop]], stop - start)
    return Batch(row.first + start, format, row.origin, received[start:stop], bodies, events, before)


def _heads(row: Row) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    plain = zstandard.ZstdDecompressor().decompress(row.heads)
    cut = 8 * row.entries
    return np.frombuffer(plain[:cut], np.int64).cumsum(), np.frombuffer(plain[cut:], np.uint32)
