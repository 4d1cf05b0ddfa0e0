"""Which of the ticks that history brings into a gap the lake has already: those that were streamed at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Transaction
from market_pipelines.store.lake import TickLake
from market_pipelines.store.lake_columns import Column, instant, numbers

_EDGE = timedelta(seconds=2)
"""A stream tells the time of an event to the millisecond, history to the nanosecond."""
_KEYS = {
    TickKind.TRADES: ("symbol", "seq", "exchange", "trade_id"),
    TickKind.QUOTES: ("symbol", "seq"),
}
_WITHOUT_SEQUENCE = {
    TickKind.TRADES: ("ts", "price", "size"),
    TickKind.QUOTES: ("ts", "bid", "ask", "bid_size", "ask_size"),
}
"""What tells ticks of a feed apart that does not number them."""


def not_there_yet(
    connection: Transaction,
    lake: TickLake,
    kind: TickKind,
    brought: pa.Table,
    beside: pa.Table,
    *,
    market: str,
    feed: str,
    session: date,
) -> pa.Table:
    """The rows of `brought` that are neither listed for that feed and session nor in `beside`, each of them once."""
    numbered = bool((numbers(brought["seq"]) != 0).all())
    keys = _KEYS[kind] if numbered else (*_KEYS[kind], *_WITHOUT_SEQUENCE[kind])
    times = numbers(brought["ts"])
    stored = lake.table(
        connection,
        kind,
        symbols=[str(symbol) for symbol in pc.unique(brought["symbol"]).to_pylist()],
        start=instant(int(times.min())) - _EDGE,
        end=instant(int(times.max())) + _EDGE,
        columns=keys,
        market=market,
        feed=feed,
        session=session,
    )
    known = pa.concat_tables([_plain(stored, keys), _plain(beside, keys)])
    wanted = _plain(brought, keys).append_column("place", pa.array(np.arange(len(brought))))
    missing = wanted.join(known, keys=list(keys), join_type="left anti") if len(known) else wanted
    once = missing.group_by(list(keys)).aggregate([("place", "min")])
    return brought.take(np.sort(numbers(once["place_min"])))


def _plain(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Words as words, numbers as their bits, so that an absent one is equal to an absent one."""
    return pa.Table.from_arrays([_comparable(table[name]) for name in keys], names=list(keys))


def _comparable(column: Column) -> pa.ChunkedArray[Any] | pa.Array[Any]:
    if pa.types.is_floating(column.type):
        return pa.array(column.to_numpy().view(np.int64))
    if pa.types.is_timestamp(column.type) or pa.types.is_integer(column.type):
        return pa.array(numbers(column))
    return column.cast(pa.string())
