"""What was really handed to each socket: the oracle of tests that look for lost and doubled events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence

from market_pipelines.simulator.stream.events import Sent


class SentLog:
    """Of one connection, the newest ids up to a number. Safe to share between threads."""

    def __init__(self, kept: int) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Sent] = deque(maxlen=kept)
        self.total = 0

    def add(self, ids: Sequence[Sent]) -> None:
        with self._lock:
            self._kept.extend(ids)
            self.total += len(ids)

    def ids(self, kind: str | None = None, symbol: str | None = None) -> tuple[Sent, ...]:
        """In the order in which they were sent, what came twice included."""
        with self._lock:
            return tuple(one for one in self._kept if kind in (None, one.kind) and symbol in (None, one.symbol))

    def __iter__(self) -> Iterator[Sent]:
        return iter(self.ids())

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    @property
    def complete(self) -> bool:
        """Whether nothing had to be forgotten."""
        return self.total == len(self)
