"""Ticks as the records that programs outside take: JSON, made a column at a time.

What a quote or a trade record holds is a contract with those programs: they may refuse a key that they do not know.
Snapshots are quotes that know more; aggregates are bars.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Chunk

CHANNELS: Mapping[TickKind, str] = {
    TickKind.QUOTES: "quotes",
    TickKind.TRADES: "trades",
    TickKind.SNAPSHOTS: "quotes",
    TickKind.AGGREGATES: "bars",
    TickKind.BANDS: "bands",
}
"""What the channels of a kind are called before the colon and the symbol."""

_FIELDS: Mapping[TickKind, Mapping[str, str]] = {
    TickKind.QUOTES: {name: name for name in ("bid", "ask", "bid_size", "ask_size")},
    TickKind.TRADES: {name: name for name in ("price", "size")},
    TickKind.SNAPSHOTS: {
        name: name
        for name in (
            *("bid", "ask", "bid_size", "ask_size"),
            *("price", "volume", "open", "high", "low", "previous_close", "currency"),
        )
    },
    TickKind.AGGREGATES: {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "vwap": "vw"},
    TickKind.BANDS: {name: name for name in ("limit_up", "limit_down", "indicators")},
}
_ISO = "%Y-%m-%dT%H:%M:%S%.9fZ"


def frame_of(chunk: Chunk, kind: TickKind) -> pl.DataFrame:
    return pl.DataFrame(chunk.table(kind))


def iso(time: pl.Expr) -> pl.Expr:
    """With nanoseconds, always nine digits: as text they sort by time."""
    return time.dt.strftime(_ISO)


def record(kind: TickKind, timestamp: pl.Expr | None = None) -> pl.Expr:
    """One JSON object a row. `timestamp`: in place of the tick's own."""
    when = pl.col("start") if kind is TickKind.AGGREGATES else pl.col("ts") if timestamp is None else timestamp
    parts = [pl.col("symbol").alias("ticker"), iso(when).alias("timestamp")]
    if kind is TickKind.AGGREGATES:
        parts.append(iso(pl.col("end")).alias("end"))
    parts += [pl.col(column).alias(name) for name, column in _FIELDS[kind].items()]
    return pl.struct(parts).struct.json_encode()
