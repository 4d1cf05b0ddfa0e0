"""Batches as a journal gives them back, and a journal in memory that grows while it is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.streaming.entries import Batch, Format, Mark, SavedAnswer, packed
from market_pipelines.streaming.journal import JournalClosed, PositionGone
from market_pipelines_tests.unit.providers.polygon_events import NOW

US: MarketDefinition = read_markets()["us"]


@dataclass
class MemoryJournal:
    """What several readers share. A batch never has more than `most` entries, as rows of a journal do."""

    most: int = 10
    entries: list[tuple[Format, bytes]] = field(default_factory=list)
    first: int = 1
    reads: list[tuple[int, int]] = field(default_factory=list)
    """Of every read: after which position, and how many entries came of it."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def append(self, *bodies: bytes, format: Format = Format.MASSIVE) -> int:
        with self.changed:
            self.entries.extend((format, body) for body in bodies)
            self.changed.notify_all()
            return len(self.entries)

    def mark(self, mark: Mark) -> int:
        return self.append(packed(mark), format=Format.MARK)

    def answer(self, saved: SavedAnswer) -> int:
        return self.append(packed(saved), format=Format.ANSWER)

    def reader(self) -> MemoryReader:
        return MemoryReader(self)


class MemoryReader:
    id = "memory"

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self.closed = False

    @property
    def first(self) -> int:
        return self._journal.first

    @property
    def last(self) -> int:
        return len(self._journal.entries)

    def read(self, after: int, *, entries: int = 20_000, size: int = 4_000_000) -> list[Batch]:
        if self.closed:
            raise JournalClosed("closed")
        if after + 1 < self._journal.first:
            raise PositionGone(after + 1, self._journal.first)
        found = list(self._batches(after, entries, size))
        self._journal.reads.append((after, sum(len(batch.bodies) for batch in found)))
        return found

    def _batches(self, after: int, entries: int, size: int) -> Sequence[Batch]:
        found: list[Batch] = []
        for place, (format, body) in enumerate(self._journal.entries[after : after + entries], start=after + 1):
            if size <= 0:
                break
            size -= len(body)
            received = np.array([NOW + place], dtype=np.int64)
            last = found[-1] if found else None
            if last is not None and last.format is format and len(last.bodies) < self._journal.most:
                found[-1] = replace(
                    last,
                    received=np.append(last.received, received),
                    bodies=[*last.bodies, body],
                    events=last.events + 1,
                )
            else:
                found.append(Batch(place, format, "test", received, [body], 1, place - 1))
        return found

    def answers(self, after: int, upto: int) -> list[Batch]:
        found = self._batches(after, upto - after, 1 << 40)
        return [batch for batch in found if batch.format is Format.ANSWER]

    def wait(self, after: int, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self._journal.changed:
            while len(self._journal.entries) <= after and not self.closed:
                left = deadline - time.monotonic()
                if left <= 0 or not self._journal.changed.wait(left):
                    break
            return len(self._journal.entries) > after and not self.closed

    def position_at(self, received_ns: int) -> int:
        return max(0, received_ns - NOW - 1)

    def close(self) -> None:
        with self._journal.changed:
            self.closed = True
            self._journal.changed.notify_all()


def batches(journal: MemoryJournal) -> list[Batch]:
    return journal.reader().read(0)
