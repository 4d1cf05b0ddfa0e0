"""Bars of any width made of trades, by the consolidated tape's rules of conditions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market_pipelines.simulator.ticks import ODD_LOT, Longs, Trades
from market_pipelines.simulator.truth import Floats

SECOND_NS, MINUTE_NS = 1_000_000_000, 60_000_000_000


@dataclass(frozen=True)
class Spans:
    starts: Longs
    """Nanoseconds."""
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    notional: Floats
    count: Longs

    def __len__(self) -> int:
        return len(self.starts)


def bars_of(trades: Trades, width: int) -> Spans:
    """An odd lot adds to volume and makes no price; a span without a trade that makes one has no bar.

    Trades of extended hours make prices: bars of minutes and seconds include them, only a day's do not.
    """
    starts = trades.stamps // width * width
    makes_price = np.char.find(trades.conditions, ODD_LOT) < 0
    kept = np.isin(starts, starts[makes_price])
    priced, starts_of_priced = trades.price[makes_price], starts[makes_price]
    if not len(priced):
        none = np.empty(0)
        nothing = np.empty(0, dtype=np.int64)
        return Spans(nothing, none, none, none, none, none, none, nothing)
    firsts = np.flatnonzero(np.diff(starts_of_priced, prepend=-1))
    lasts = np.append(firsts[1:], len(priced)) - 1
    size = trades.size[kept]
    all_firsts = np.flatnonzero(np.diff(starts[kept], prepend=-1))
    return Spans(
        starts=starts_of_priced[firsts],
        open=priced[firsts],
        high=np.maximum.reduceat(priced, firsts),
        low=np.minimum.reduceat(priced, firsts),
        close=priced[lasts],
        volume=np.add.reduceat(size, all_firsts),
        notional=np.add.reduceat(size * trades.price[kept], all_firsts),
        count=np.diff(np.append(all_firsts, len(size))).astype(np.int64),
    )


def middle_of(high: float, low: float, close: float) -> float:
    """What the simulator gives for a bar's average price, in history and live."""
    return round((high + low + close) / 3, 4)
