"""The live events of one instrument, as they become due.

Ticks are taken from the world in blocks of some minutes, so that a pump that looks twenty times a second reads
only what is new. A block lies within one session or one round of its replay.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zlib import crc32

import numpy as np

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.aggregates import MINUTE_NS, SECOND_NS, bars_of
from market_pipelines.simulator.instruments import Instrument
from market_pipelines.simulator.live import Stretch, stretch_at
from market_pipelines.simulator.stream.events import (
    BANDS,
    MINUTE,
    QUOTE,
    SECOND,
    TRADE,
    DaySoFar,
    Event,
    Wording,
    aggregate_events,
    band_events,
    quote_events,
    trade_events,
)
from market_pipelines.simulator.ticks import Quotes, Trades, nanoseconds

BLOCK_NS = 10 * MINUTE_NS


def moment(stamp: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=stamp // 1000)


@dataclass(frozen=True, slots=True)
class State:
    """Of a symbol after its last trade so far."""

    at: int
    seq: int
    price: float
    size: float
    session: date
    phase: str
    open: float
    high: float
    low: float
    volume: float


@dataclass(frozen=True)
class _Block:
    starts: int
    ends: int
    trades: Trades
    quotes: Quotes
    so_far: DaySoFar
    """Before its first trade."""
    high: float
    low: float
    stretch: Stretch


class LiveTape:
    """Not to be shared between threads."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.symbol = instrument.symbol
        self._block: _Block | None = None
        self._offset = crc32(self.symbol.encode()) % 10 * MINUTE_NS

    def between(self, start: int, end: int, kinds: Collection[str], wording: Wording) -> list[Event]:
        """What is told with `start` <= time < `end`, an aggregate at `start` < its end <= `end`."""
        events: list[Event] = []
        while start < end:
            block = self._block_at(start)
            last = min(end, block.ends)
            events += self._of_block(block, start, last, kinds, wording)
            start = last
        return events

    def _of_block(self, block: _Block, start: int, end: int, kinds: Collection[str], wording: Wording) -> list[Event]:
        events: list[Event] = []
        symbol, tape = self.symbol, self.instrument.tape
        if QUOTE in kinds:
            first, last = np.searchsorted(block.quotes.stamps, (start, end))
            if first < last:
                events += quote_events(symbol, block.quotes.take(slice(first, last)), tape)
        if TRADE in kinds:
            first, last = np.searchsorted(block.trades.stamps, (start, end))
            if first < last:
                events += trade_events(symbol, block.trades.take(slice(first, last)), tape, wording)
        for kind, width in ((SECOND, SECOND_NS), (MINUTE, MINUTE_NS), (BANDS, MINUTE_NS)):
            if kind in kinds and start // width != end // width:
                events += self._aggregates(block, kind, width, start, end, wording)
        return events

    def _aggregates(self, block: _Block, kind: str, width: int, start: int, end: int, wording: Wording) -> list[Event]:
        first, last = np.searchsorted(block.trades.stamps, (start // width * width, end // width * width))
        if first == last:
            return []
        bars = bars_of(block.trades.take(slice(first, last)), width)
        if kind == BANDS:
            tape = self.instrument.tape
            return [] if tape is None else band_events(self.symbol, bars, width, tape, wording)
        earlier = block.trades.take(slice(0, first))
        so_far = DaySoFar(
            block.so_far.open or float(block.trades.price[0]),
            block.so_far.volume + float(earlier.size.sum()),
            block.so_far.notional + float((earlier.size * earlier.price).sum()),
        )
        return aggregate_events(kind, self.symbol, bars, width, so_far, wording)

    def _block_at(self, stamp: int) -> _Block:
        known = self._block
        if known is None or not known.starts <= stamp < known.ends:
            known = self._block = self._read(stamp)
        return known

    def _read(self, stamp: int) -> _Block:
        stretch = stretch_at(self._mic, moment(stamp))
        begun, over = nanoseconds(stretch.starts), nanoseconds(stretch.ends)
        starts = max((stamp - self._offset) // BLOCK_NS * BLOCK_NS + self._offset, begun)
        ends = min(starts + BLOCK_NS - (starts - self._offset) % BLOCK_NS, over)
        first, last = moment(starts), moment(ends)
        read = self.instrument
        before = read.trades(stretch.starts, first, first, replays=True)
        so_far = DaySoFar(
            float(before.price[0]) if len(before) else 0.0,
            float(before.size.sum()),
            float((before.size * before.price).sum()),
        )
        return _Block(
            starts,
            ends,
            read.trades(first, last, last, replays=True),
            read.quotes(first, last, last, replays=True),
            so_far,
            float(before.price.max()) if len(before) else -math.inf,
            float(before.price.min()) if len(before) else math.inf,
            stretch,
        )

    def state(self, start: int, end: int) -> State | None:
        """After the last trade with `start` <= time < `end`; None without such a trade."""
        state = None
        while start < end:
            block = self._block_at(start)
            last = min(end, block.ends)
            first, behind = np.searchsorted(block.trades.stamps, (start, last))
            if first < behind:
                state = self._after(block, int(behind))
            start = last
        return state

    def _after(self, block: _Block, count: int) -> State:
        so_far = block.trades.take(slice(0, count))
        at = int(so_far.stamps[-1])
        times = trading_calendar(self._mic, moment(block.ends)).times(block.stretch.session)
        then = moment(at) - block.stretch.shift
        return State(
            at=at,
            seq=int(so_far.seq[-1]),
            price=float(so_far.price[-1]),
            size=float(so_far.size[-1]),
            session=block.stretch.session,
            phase="pre" if then < times.opens else "regular" if then < times.closes else "post",
            open=block.so_far.open or float(so_far.price[0]),
            high=max(block.high, float(so_far.price.max())),
            low=min(block.low, float(so_far.price.min())),
            volume=block.so_far.volume + float(so_far.size.sum()),
        )

    @property
    def _mic(self) -> str:
        return self.instrument.listing.mic
