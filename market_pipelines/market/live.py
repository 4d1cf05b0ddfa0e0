"""What live feeds tell, in columns: the tables that readers of frames make and sinks take.

`ts` is the exchange's or provider's time of the event and `received_at` ours, both nanoseconds in UTC. A side
without a quote is null, never zero; `seq` is 0 where a feed has none. Tables are pyarrow's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from types import MappingProxyType

import pyarrow as pa

from market_pipelines.market.records import TickKind

STAMP: pa.DataType = pa.timestamp("ns", tz="UTC")
_WORD: pa.DataType = pa.string()
_NUMBER: pa.DataType = pa.float64()
_COUNT: pa.DataType = pa.int64()
_BITS: pa.DataType = pa.int32()

QUOTES = pa.schema(
    {
        "symbol": _WORD,
        "ts": STAMP,
        "received_at": STAMP,
        "seq": _COUNT,
        "bid": _NUMBER,
        "ask": _NUMBER,
        "bid_size": _NUMBER,
        "ask_size": _NUMBER,
        "bid_exchange": _WORD,
        "ask_exchange": _WORD,
        "conditions": _WORD,
        "feed": _WORD,
        "marks": _BITS,
    }
)
TRADES = pa.schema(
    {
        "symbol": _WORD,
        "ts": STAMP,
        "received_at": STAMP,
        "seq": _COUNT,
        "price": _NUMBER,
        "size": _NUMBER,
        "exchange": _WORD,
        "trade_id": _WORD,
        "conditions": _WORD,
        "correction": _COUNT,
        "feed": _WORD,
        "marks": _BITS,
    }
)
AGGREGATES = pa.schema(
    {
        "symbol": _WORD,
        "start": STAMP,
        "end": STAMP,
        "received_at": STAMP,
        "o": _NUMBER,
        "h": _NUMBER,
        "l": _NUMBER,
        "c": _NUMBER,
        "v": _NUMBER,
        "vw": _NUMBER,
        "av": _NUMBER,
        "feed": _WORD,
        "marks": _BITS,
    }
)
"""A second or a minute, as `end - start` says. One that comes again replaces the earlier one."""
SNAPSHOTS = pa.schema(
    {
        "symbol": _WORD,
        "ts": STAMP,
        "received_at": STAMP,
        "price": _NUMBER,
        "bid": _NUMBER,
        "ask": _NUMBER,
        "bid_size": _NUMBER,
        "ask_size": _NUMBER,
        "open": _NUMBER,
        "high": _NUMBER,
        "low": _NUMBER,
        "previous_close": _NUMBER,
        "volume": _NUMBER,
        "currency": _WORD,
        "feed": _WORD,
        "marks": _BITS,
    }
)
"""The state of a symbol when it was looked at: Stooq's and Yahoo's quotes, and whatever is polled. `volume` is the
day's so far. Open, high and low are the day's."""
BANDS = pa.schema(
    {
        "symbol": _WORD,
        "ts": STAMP,
        "received_at": STAMP,
        "seq": _COUNT,
        "limit_up": _NUMBER,
        "limit_down": _NUMBER,
        "indicators": _WORD,
        "tape": _WORD,
        "feed": _WORD,
        "marks": _BITS,
    }
)
"""Limit up, limit down: the prices between which a symbol may trade until it is told otherwise. A limit that is not
told is null. `indicators` are the tape's, as a trade's conditions are; `tape` is 1, 2 or 3."""

SCHEMAS: Mapping[TickKind, pa.Schema] = MappingProxyType(
    {
        TickKind.QUOTES: QUOTES,
        TickKind.TRADES: TRADES,
        TickKind.AGGREGATES: AGGREGATES,
        TickKind.SNAPSHOTS: SNAPSHOTS,
        TickKind.BANDS: BANDS,
    }
)


class TickMark(IntFlag):
    """What is odd about a tick. It is marked and kept: whoever reads decides."""

    NONE = 0
    CROSSED = 1
    """The bid is above the ask; of price bands, the lower limit above the upper one."""
    LOCKED = 2
    """The bid is the ask."""
    WIDE = 4
    """The spread is far beyond the symbol's usual one."""
    OUTLIER = 8
    """Far from where the symbol trades and is quoted."""
    CONDITION = 16
    """Its conditions say that it does not make a price: late, out of sequence, an average, an odd lot and the like."""
    CORRECTED = 32
    """Corrected or cancelled later."""
    LATE = 64
    """It arrived long after it happened."""
    FUTURE = 128
    """Its time is ahead of our clock."""
    DISORDER = 256
    """A later one of its symbol had arrived before it."""
    FILLED = 512
    """It was not streamed: history filled a gap with it."""
    ONE_SIDED = 1024
    """Nobody bids, or nobody asks; of price bands, there is one limit only."""
    NOT_POSITIVE = 2048
    """A price or size of zero or less, or none at all."""
    LAKE_ONLY = 4096
    """History brought it because the tick lake alone lacked it: the other sinks have had it from the stream."""


def mark_names(bits: int) -> list[str]:
    """As people read them."""
    return [str(mark.name) for mark in TickMark(bits)]
