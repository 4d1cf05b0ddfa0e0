"""Tables of ticks for tests of what is done to them: every column has something, and tests name what matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind

SECOND = 1_000_000_000
NOON = 1_795_280_400 * SECOND
"""2026-11-21 17:00 UTC, noon in New York."""

_USUAL: Mapping[TickKind, Mapping[str, Any]] = {
    TickKind.TRADES: {
        "seq": 0, "price": 10.0, "size": 100.0, "exchange": "4", "trade_id": "1", "conditions": "", "correction": 0,
    },
    TickKind.QUOTES: {
        "seq": 0, "bid": 9.99, "ask": 10.01, "bid_size": 100.0, "ask_size": 100.0, "bid_exchange": "4",
        "ask_exchange": "7", "conditions": "",
    },
    TickKind.AGGREGATES: {"o": 10.0, "h": 10.0, "l": 10.0, "c": 10.0, "v": 100.0, "vw": None, "av": None},
    TickKind.SNAPSHOTS: {
        "price": 10.0, "bid": None, "ask": None, "bid_size": None, "ask_size": None, "open": None, "high": None,
        "low": None, "previous_close": None, "volume": None, "currency": "USD",
    },
    TickKind.BANDS: {"seq": 0, "limit_up": 10.5, "limit_down": 9.5, "indicators": "21", "tape": "3"},
}  # fmt: skip


def made(kind: TickKind, *rows: Mapping[str, Any]) -> pa.Table:
    """Of AAPL, at noon, received a moment later, where a row does not say otherwise."""
    full = []
    for row in rows:
        ts = row.get("start" if kind is TickKind.AGGREGATES else "ts", NOON)
        times = {"start": ts, "end": ts + 60 * SECOND} if kind is TickKind.AGGREGATES else {"ts": ts}
        received = row.get("received_at", times.get("end", ts) + SECOND // 10)
        own = {"symbol": "AAPL", "feed": "polygon", "marks": 0, **_USUAL[kind], **times, "received_at": received}
        full.append({**own, **row})
    return pa.Table.from_pylist(full, schema=SCHEMAS[kind])


def trades(*rows: Mapping[str, Any]) -> pa.Table:
    return made(TickKind.TRADES, *rows)


def quotes(*rows: Mapping[str, Any]) -> pa.Table:
    return made(TickKind.QUOTES, *rows)


def bars(*rows: Mapping[str, Any]) -> pa.Table:
    return made(TickKind.AGGREGATES, *rows)


def snapshots(*rows: Mapping[str, Any]) -> pa.Table:
    return made(TickKind.SNAPSHOTS, *rows)


def bands(*rows: Mapping[str, Any]) -> pa.Table:
    return made(TickKind.BANDS, *rows)
