"""What of a gap's history has come before, as far back as the journal goes.

History is asked for with room at both ends, and again after a crash in the middle of it, so that some of it has been
streamed or brought before; what `dedupe` remembers may be long past that. The journal itself knows: its entries of
about that time are read once more, and only what is in none of them is new to the sinks: of a bar that history tells
otherwise than the stream did, another version. What comes by a stream is not looked at here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import msgspec
import numpy as np
import pyarrow as pa

from market_pipelines.market.columns import Flags, Instants, bits, chosen, instants
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.providers.protocol import Capability
from market_pipelines.streaming.decode import Columns, Decoder
from market_pipelines.streaming.dedupe import Hashes, keys_of
from market_pipelines.streaming.entries import Batch, Format, answer_of
from market_pipelines.streaming.journal import JournalReader, PositionGone

KINDS = (TickKind.TRADES, TickKind.QUOTES, TickKind.AGGREGATES)
STEP_NS = 10_000_000_000
"""Of what is remembered: spans of so long, once for all answers about them."""
EARLY_NS, LATE_NS = 5_000_000_000, 30_000_000_000
"""How long before and after its own time, and the stream's delay, an event may have been received."""
LONGEST_BAR_NS = 60_000_000_000
"""History tells a bar whose beginning was asked for to its end."""
MOST_EVENTS = 20_000_000
"""Less than a minute's work. Of a span with more the ends are read: within the gap of one connection, what the others
brought meanwhile is not what is looked for."""
MOST_KEYS = 4_000_000
"""Beyond, remembering begins anew."""
_ENTRIES, _BYTES = 50_000, 12_000_000

_NONE = np.zeros(0, dtype=np.uint64)


class Recall:
    """Of one thread at a time, which also owns the reader."""

    def __init__(self, reader: JournalReader, decoder: Decoder) -> None:
        self._reader = reader
        self._decoder = decoder
        self._steps: set[int] = set()
        """What is known of; by number since 1970."""
        self._keys: dict[TickKind, Hashes] = dict.fromkeys(KINDS, _NONE)

    def without_known(self, columns: Columns, after: int) -> tuple[Columns, int]:
        """`columns`: of the entries behind the position `after`. Leaves out what history brings and an entry up to
        there had brought; and how many rows that was."""
        brought = {kind: flags for kind in KINDS if (flags := _brought(columns.tables.get(kind))).any()}
        if not brought:
            return columns, 0
        stamps = np.concatenate([_moments(kind, columns.tables[kind])[flags] for kind, flags in brought.items()])
        self._look_back(set(np.unique(stamps // STEP_NS).tolist()), after)
        tables, left_out = dict(columns.tables), 0
        for kind, flags in brought.items():
            keys = keys_of(kind, tables[kind], self._decoder.zone)
            known = flags & np.isin(keys, self._keys[kind])
            self._note(kind, keys[flags & ~known])
            left_out += int(known.sum())
            tables[kind] = chosen(tables[kind], ~known)
            if not len(tables[kind]):
                del tables[kind]
        return columns._replace(tables=tables), left_out

    def _look_back(self, steps: set[int], after: int) -> None:
        if sum(map(len, self._keys.values())) > MOST_KEYS:
            self._steps, self._keys = set(), dict.fromkeys(KINDS, _NONE)
        wanted = sorted(steps - self._steps)
        if not wanted:
            return
        for first, last in _spans(wanted):
            for batches in self._streamed(first * STEP_NS, (last + 1) * STEP_NS, after):
                self._take(self._decoder.decode(batches), wanted)
        # Once for all spans: a stream that was killed again and again has many, and as many answers to each of them.
        for batches in self._answered(wanted, after):
            self._take(self._decoder.decode(batches), wanted)
        self._steps.update(wanted)

    def _streamed(self, begins_ns: int, ends_ns: int, after: int) -> Iterator[list[Batch]]:
        """What may hold streamed events of a span, up to a position."""
        reader, delay_ns = self._reader, self._decoder.delay_ns
        begins_ns, ends_ns = begins_ns + delay_ns, ends_ns + delay_ns
        start = reader.position_at(begins_ns - EARLY_NS)
        stop = min(after, reader.position_at(ends_ns + LATE_NS))
        near, far = reader.position_at(begins_ns + LATE_NS), reader.position_at(ends_ns - STEP_NS - EARLY_NS)
        if near < far and self._events(start, stop) > MOST_EVENTS:
            ends = [(start, min(near, stop)), (far, stop)]
        else:
            ends = [(start, stop)]
        for first, last in ends:
            for batches in self._between(first, last):
                yield [batch for batch in batches if batch.format is not Format.ANSWER]

    def _answered(self, wanted: Sequence[int], after: int) -> Iterator[list[Batch]]:
        """The answers about any of these steps, up to a position, many at once. What else history has said is not
        read: that takes ten times as long as to see what it is about."""
        found: list[Batch] = []
        size = 0
        start = self._reader.position_at(wanted[0] * STEP_NS - EARLY_NS)
        for batch in self._reader.answers(start, after):
            for place, body in enumerate(batch.bodies):
                if not _is_about(body, wanted):
                    continue
                found.append(
                    replace(batch, first=batch.first + place, received=batch.received[place : place + 1], bodies=[body])
                )
                size += len(body)
                if size >= _BYTES:
                    yield found
                    found, size = [], 0
        if found:
            yield found

    def _events(self, start: int, stop: int) -> int:
        """Between two positions, near enough."""
        ends = [self._read(position, 1) for position in (start, stop - 1)]
        return ends[1][0].events_before - ends[0][0].events_before if all(ends) else 0

    def _between(self, start: int, stop: int) -> Iterator[list[Batch]]:
        start = max(start, self._reader.first - 1)
        while start < stop:
            batches = self._read(start, min(_ENTRIES, stop - start))
            if not batches:
                return
            start = batches[-1].last
            # Where the journal is damaged, or has given up something meanwhile, fewer entries reach further.
            yield [cut(batch, stop) for batch in batches if batch.first <= stop]

    def _read(self, after: int, entries: int) -> list[Batch]:
        try:
            return self._reader.read(after, entries=entries, size=_BYTES)
        except PositionGone as gone:
            return self._reader.read(gone.oldest - 1, entries=entries, size=_BYTES)

    def _take(self, columns: Columns, wanted: Sequence[int]) -> None:
        for kind in KINDS:
            table = columns.tables.get(kind)
            if table is not None:
                inside = np.isin(_moments(kind, table) // STEP_NS, wanted)
                if inside.any():
                    self._note(kind, keys_of(kind, chosen(table, inside), self._decoder.zone))

    def _note(self, kind: TickKind, keys: Hashes) -> None:
        if len(keys):
            self._keys[kind] = np.union1d(self._keys[kind], keys)


def cut(batch: Batch, stop: int) -> Batch:
    """Its entries up to a position."""
    if batch.last <= stop:
        return batch
    count = stop + 1 - batch.first
    return replace(batch, received=batch.received[:count], bodies=batch.bodies[:count])


def _moments(kind: TickKind, table: pa.Table) -> Instants:
    """A bar is told once it is over: its last nanosecond."""
    return instants(table["end"]) - 1 if kind is TickKind.AGGREGATES else instants(table["ts"])


def _brought(table: pa.Table | None) -> Flags:
    if table is None:
        return np.zeros(0, dtype=np.bool_)
    flags: Flags = (bits(table["marks"]) & TickMark.FILLED) != 0
    return flags


def _is_about(body: bytes, steps: Sequence[int]) -> bool:
    """Whether an answer tells of one of the kinds, and of a time within these steps, which are in order."""
    try:
        saved = answer_of(body)
    except msgspec.MsgspecError:
        return False
    bars = saved.kind == TickKind.AGGREGATES or saved.capability == Capability.INTRADAY
    if saved.kind not in KINDS and not bars:
        return False
    place = bisect_left(steps, saved.begins_ns // STEP_NS)
    return place < len(steps) and steps[place] * STEP_NS < saved.ends_ns + (LONGEST_BAR_NS if bars else 0)


def _spans(steps: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of neighbours; `steps` in order."""
    for _, run in groupby(enumerate(steps), key=lambda one: one[1] - one[0]):
        numbers = [step for _, step in run]
        yield numbers[0], numbers[-1]
