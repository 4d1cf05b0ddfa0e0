"""What passes through a stream, counted: events by channel, how late they came, what could not be read.

It is a sink that stores nothing: it begins where the service begins and forgets when it ends. Who shows the figures
is the service's business.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.protocol import Cursor

WINDOW_SECONDS = 60.0
SAMPLE = 2_000
"""Of each chunk's rows: enough for a percentile."""
_LATE_KINDS = (TickKind.TRADES, TickKind.QUOTES)


@dataclass(frozen=True, slots=True)
class Figures:
    rows: Mapping[str, int] = field(default_factory=dict)
    """By kind."""
    duplicates: int = 0
    passed_over: int = 0
    rejects: int = 0
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None


class Meter:
    name = "meter"
    collects = 1.0

    def __init__(self, delay_ns: int = 0) -> None:
        """`delay_ns`: of the stream by its plan, which is no lag."""
        self._delay_ms = delay_ns / 1e6
        self._lock = threading.Lock()
        self._rows = dict.fromkeys((kind.value for kind in TickKind), 0)
        self._duplicates = self._passed_over = self._rejects = 0
        self._lags: deque[tuple[float, npt.NDArray[np.float64]]] = deque(maxlen=2_000)

    def open(self) -> Cursor | None:
        return None

    def close(self) -> None:
        return

    def write(self, chunk: Chunk) -> int:
        lags = [lag - self._delay_ms for kind in _LATE_KINDS if len(lag := _lags(chunk.table(kind)))]
        now = time.monotonic()
        with self._lock:
            for kind, table in chunk.tables.items():
                self._rows[kind.value] += len(table)
            self._duplicates += chunk.duplicates
            self._passed_over += chunk.passed_over
            self._rejects += len(chunk.rejects)
            self._lags += [(now, lag) for lag in lags]
            while self._lags and now - self._lags[0][0] > WINDOW_SECONDS:
                self._lags.popleft()
        return 0

    def figures(self) -> Figures:
        since = time.monotonic() - WINDOW_SECONDS
        with self._lock:
            lags = [lag for at, lag in self._lags if at >= since]
            rows, told = dict(self._rows), (self._duplicates, self._passed_over, self._rejects)
        if not lags:
            return Figures(rows, *told)
        p50, p99 = np.percentile(np.concatenate(lags), (50, 99))
        return Figures(rows, *told, round(float(p50), 3), round(float(p99), 3))


def _lags(table: pa.Table) -> npt.NDArray[np.float64]:
    """Milliseconds from the event to its arrival, of a sample of what was streamed."""
    if not len(table):
        return np.empty(0)
    step = max(1, len(table) // SAMPLE)
    places = np.arange(0, len(table), step)
    sample = table.select(["ts", "received_at", "marks"]).take(places)
    filled = pc.bit_wise_and(sample["marks"], pa.scalar(int(TickMark.FILLED), pa.int32()))
    streamed = sample.filter(pc.equal(filled, pa.scalar(0, pa.int32())))
    arrived = streamed["received_at"].cast(pa.int64()).to_numpy()
    happened = streamed["ts"].cast(pa.int64()).to_numpy()
    return np.asarray((arrived - happened) / 1e6, dtype=np.float64)
