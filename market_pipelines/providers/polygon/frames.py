"""Many text frames of Polygon's (Massive's) WebSocket at once, to columns.

Here the joined bytes are taken apart: where frames and events begin, which events are of one kind, and what has to be
read with care because it is not as the provider writes it. Lines of one kind are parsed together. What the fields
mean is said in `frame_columns`, and single events are read in `frame_events`.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from market_pipelines.market.columns import chosen, of_flags
from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon.frame_columns import KIND, WIRE, House, shaped
from market_pipelines.providers.polygon.frame_events import Fields, Unreadable, events_of, fields_of
from market_pipelines.providers.polygon.lots import ROUND_LOTS_UNTIL
from market_pipelines.providers.polygon.stamps import Instants

SHOWN = 2_000
"""Bytes of what could not be read that are told."""
AT_ONCE = 2_500_000
"""Bytes of frames that are joined: what is made of them still fits the cache of a processor."""
FEW = 256
"""Lines that are not halved any more to find the one that does not parse, but read with care."""

Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_BRACE, _CLOSING, _OPEN_LIST, _CLOSE_LIST, _COMMA, _NEW_LINE, _BACKSLASH, _QUOTE = b'{}[],\n\\"'
_HEAD = int.from_bytes(b'{"ev":"\0', "little")
_HEAD_BITS = np.uint64((1 << 56) - 1)
_PADDING = b" " * 16
"""So that the beginning of the last event can be looked at like that of any other."""
_TEXT = {pa.string(): pl.String(), pa.int64(): pl.Int64(), pa.float64(): pl.Float64()}


def _polars(schema: pa.Schema) -> pl.Schema:
    return pl.Schema({one.name: _TEXT.get(one.type, pl.List(pl.Int64())) for one in schema})


_SPELLED = MappingProxyType({**WIRE, "AM": WIRE["A"]})
_PARSED_AS = MappingProxyType({ev: _polars(schema) for ev, schema in _SPELLED.items()})


@dataclass(frozen=True, slots=True)
class Unread:
    """A frame, or an event within one, that could not be read."""

    position: int
    place: int
    """-1: the whole frame."""
    received_ns: int
    reason: str
    body: bytes
    """Its beginning."""


@dataclass(frozen=True, slots=True)
class Frames:
    tables: Mapping[TickKind, pa.Table]
    """By `market.live.SCHEMAS`, in the order of arrival; kinds without a row are left out."""
    unread: tuple[Unread, ...]
    passed_over: int
    """Statuses, and events of kinds that are not kept."""


def read_frames(
    bodies: Sequence[bytes],
    received: Instants,
    positions: Places,
    *,
    feed: str,
    symbols: Mapping[str, str] = MappingProxyType({}),
    lots_until: datetime = ROUND_LOTS_UNTIL,
) -> Frames:
    """`received` and `positions` have one number for each body. `symbols`: the provider's spelling → the house's."""
    house = House(feed, symbols, lots_until)
    parts = [
        _Part(bodies[first:last], received[first:last], positions[first:last], house).read()
        for first, last in _portions(bodies)
    ]
    if len(parts) == 1:
        return parts[0]
    return Frames(
        {
            kind: pa.concat_tables(tables)
            for kind in SCHEMAS
            if (tables := [part.tables[kind] for part in parts if kind in part.tables])
        },
        tuple(one for part in parts for one in part.unread),
        sum(part.passed_over for part in parts),
    )


def _portions(bodies: Sequence[bytes]) -> list[tuple[int, int]]:
    """Offsets within one joined text are 32 bits wide."""
    sizes = np.cumsum(_lengths(bodies))
    starts = [0]
    while starts[-1] < len(bodies):
        done = int(sizes[starts[-1] - 1]) if starts[-1] else 0
        starts.append(max(starts[-1] + 1, int(np.searchsorted(sizes, done + AT_ONCE, side="right"))))
    return list(pairwise(starts))


def _lengths(bodies: Sequence[bytes]) -> Places:
    return np.fromiter(map(len, bodies), dtype=np.int64, count=len(bodies))


@dataclass(frozen=True, slots=True)
class _Events:
    """Where events are in the joined text."""

    opens: Places
    closes: Places
    frame: Places
    place: Places

    def of(self, some: Flags | slice) -> _Events:
        return _Events(self.opens[some], self.closes[some], self.frame[some], self.place[some])

    def __len__(self) -> int:
        return len(self.opens)


@dataclass(slots=True)
class _Rows:
    """Finished rows of one kind, with where they came from."""

    tables: list[pa.Table] = field(default_factory=list)
    order: list[Places] = field(default_factory=list)

    def add(self, table: pa.Table, frame: Places, place: Places) -> None:
        self.tables.append(table)
        self.order.append(frame << 32 | place)

    def keep(self, frames: Flags) -> None:
        for number, order in enumerate(self.order):
            kept = frames[order >> 32]
            self.tables[number], self.order[number] = chosen(self.tables[number], kept), order[kept]

    def table(self) -> pa.Table:
        if len(self.tables) == 1:
            return self.tables[0]
        order = np.argsort(np.concatenate(self.order), kind="stable")
        return pa.concat_tables(self.tables).combine_chunks().take(order)


class _Part:
    """One joined text being read."""

    def __init__(self, bodies: Sequence[bytes], received: Instants, positions: Places, house: House) -> None:
        self._bodies = bodies
        self._received = np.asarray(received, dtype=np.int64)
        self._positions = positions
        self._house = house
        self._rows: dict[TickKind, _Rows] = defaultdict(_Rows)
        self._careful: dict[str, list[tuple[int, int, Fields, bytes]]] = defaultdict(list)
        self._unread: list[Unread] = []
        self._passed_over = 0
        self._doubtful = np.zeros(len(bodies), dtype=np.bool_)
        """Frames that the quick way began with and has to leave to the careful one."""
        self._text = bytearray(b"\n").join((*bodies, _PADDING))

    def read(self) -> Frames:
        events, odd = self._split()
        if len(events):
            others = self._read_quickly(events)
            if self._doubtful.any():
                for made in self._rows.values():
                    made.keep(~self._doubtful)
                others = others[~self._doubtful[others]]
            self._passed_over = len(others)
        for frame in np.flatnonzero(odd | self._doubtful).tolist():
            self._read_frame(frame)
        for ev, found in self._careful.items():
            self._shape_careful(ev, found)
        self._unread.sort(key=lambda one: (one.position, one.place))
        tables = {kind: rows.table() for kind in SCHEMAS if (rows := self._rows.get(kind)) is not None}
        return Frames(
            {kind: table for kind, table in tables.items() if len(table)}, tuple(self._unread), self._passed_over
        )

    def _split(self) -> tuple[_Events, Flags]:
        """The events of all frames that are spelled as the provider spells them, and which frames are not."""
        text = np.frombuffer(self._text, dtype=np.uint8)
        count = len(self._bodies)
        lengths = _lengths(self._bodies)
        ends = np.cumsum(lengths + 1) - 1
        begins = ends - lengths
        sound = lengths >= 4
        sound &= (text[begins] == _OPEN_LIST) & (text[begins + 1] == _BRACE)
        sound &= (text[ends - 1] == _CLOSE_LIST) & (text[ends - 2] == _CLOSING)
        opens, closes = np.flatnonzero(text == _BRACE), np.flatnonzero(text == _CLOSING)
        frame, closing_frame = _frames_of(opens, begins), _frames_of(closes, begins)
        sound &= np.bincount(frame, minlength=count) == np.bincount(closing_frame, minlength=count)
        if _BACKSLASH in self._text:
            sound[_frames_of(np.flatnonzero(text == _BACKSLASH), begins)] = False
        if not sound.all():
            kept = sound[frame]
            opens, frame, closes = opens[kept], frame[kept], closes[sound[closing_frame]]
        broken = closes <= opens
        inner = frame[1:] == frame[:-1]
        between = closes[:-1] + 1
        broken[1:] |= inner & ((opens[1:] != between + 1) | (text[between] != _COMMA))
        if broken.any():
            sound[frame[broken]] = False
            kept = sound[frame]
            opens, frame, closes = opens[kept], frame[kept], closes[kept]
        counts = np.bincount(frame, minlength=count)
        place = np.arange(len(opens)) - np.repeat(np.cumsum(counts) - counts, counts)
        return _Events(opens, closes, frame, place), ~sound

    def _read_quickly(self, events: _Events) -> Places:
        """The frames of events that are not kept, one for each event."""
        text = np.frombuffer(self._text, dtype=np.uint8)
        eights = np.ndarray((len(self._text) - 7,), dtype="<u8", buffer=self._text, strides=(1,))
        heads = eights[events.opens]
        known = np.zeros(len(events), dtype=np.bool_)
        text[events.closes + 1] = _NEW_LINE
        for ev in KIND:
            ours = heads == np.uint64(_HEAD | ord(ev[0]) << 56)
            for place, letter in enumerate(f'{ev[1:]}"'.encode(), start=8):
                if not ours.any():
                    break
                ours &= text[events.opens + place] == letter
            if ours.any():
                known |= ours
                self._parse(ev, events if ours.all() else events.of(ours))
        if known.all():
            return np.zeros(0, dtype=np.int64)
        named = (heads & _HEAD_BITS) == np.uint64(_HEAD)
        self._doubtful[events.frame[~named]] = True
        return events.of(named & ~known).frame

    def _parse(self, ev: str, events: _Events) -> None:
        """Lines that do not parse together are halved until the ones at fault are few. What looked like an event may
        then be a part of a text with braces in it, so that their whole frames are read with care."""
        wire = self._wire(ev, events)
        if wire is None and len(events) > FEW:
            middle = len(events) // 2
            self._parse(ev, events.of(slice(None, middle)))
            self._parse(ev, events.of(slice(middle, None)))
            return
        if wire is None:
            self._doubtful[events.frame] = True
            return
        table, bad = shaped(ev, wire, self._received[events.frame], self._house)
        self._doubtful[events.frame[bad]] = True
        self._rows[KIND[ev]].add(table, events.frame, events.place)

    def _wire(self, ev: str, events: _Events) -> pa.Table | None:
        """None: these lines do not parse, or not all of them."""
        offsets = np.empty((len(events), 2), dtype=np.int32)
        offsets[:, 0], offsets[:, 1] = events.opens, events.closes + 2
        everything = pa.BinaryArray.from_buffers(
            pa.binary(), offsets.size - 1, [None, pa.py_buffer(offsets.data), pa.py_buffer(self._text)]
        )
        wanted = np.zeros(len(everything), dtype=np.bool_)
        wanted[::2] = True
        lines: Any = everything.filter(of_flags(wanted)).buffers()[2]
        try:
            frame = pl.read_ndjson(io.BytesIO(lines), schema=_PARSED_AS[ev])
        except pl.exceptions.PolarsError:
            return None
        return frame.to_arrow().cast(_SPELLED[ev]) if len(frame) == len(events) else None

    def _read_frame(self, frame: int) -> None:
        for place, found in events_of(self._bodies[frame]):
            if isinstance(found, Unreadable):
                self._refuse(frame, place, str(found), self._bodies[frame])
            else:
                self._read_event(frame, place, found)

    def _read_event(self, frame: int, place: int, raw: bytes) -> None:
        try:
            ev, fields = fields_of(raw)
        except Unreadable as error:
            self._refuse(frame, place, str(error), raw)
            return
        if fields:
            self._careful[ev].append((frame, place, fields, raw))
        else:
            self._passed_over += 1

    def _shape_careful(self, ev: str, found: list[tuple[int, int, Fields, bytes]]) -> None:
        found.sort(key=lambda one: one[:2])
        wire = pa.Table.from_pylist([fields for _, _, fields, _ in found], schema=_SPELLED[ev])
        frame = np.array([one[0] for one in found], dtype=np.int64)
        place = np.array([one[1] for one in found], dtype=np.int64)
        table, bad = shaped(ev, wire, self._received[frame], self._house)
        for row in np.flatnonzero(bad).tolist():
            self._refuse(found[row][0], found[row][1], "not an event that can be", found[row][3])
        self._rows[KIND[ev]].add(chosen(table, ~bad), frame[~bad], place[~bad])

    def _refuse(self, frame: int, place: int, reason: str, body: bytes) -> None:
        self._unread.append(
            Unread(int(self._positions[frame]), place, int(self._received[frame]), reason, body[:SHOWN])
        )


def _frames_of(places: Places, begins: Places) -> Places:
    return np.searchsorted(begins, places, side="right") - 1
