"""Minute bars as a stream tells them: the newest version of each."""

from __future__ import annotations

from typing import LiteralString

import pyarrow as pa
from psycopg import sql

from market_pipelines.store.database import Transaction
from market_pipelines.store.staging import stage_columns

BAR_COLUMNS = {
    "symbol": "text",
    "ts": "timestamptz",
    "open": "double precision",
    "high": "double precision",
    "low": "double precision",
    "close": "double precision",
    "volume": "double precision",
    "vwap": "double precision",
    "feed": "text",
    "received_at": "timestamptz",
}
_UPSERT: LiteralString = """
INSERT INTO market.stream_bars AS b (market, {columns})
SELECT %(market)s, {columns} FROM {staged}
ORDER BY symbol COLLATE "C", ts
ON CONFLICT (market, symbol, ts) DO UPDATE
SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
    vwap = excluded.vwap, feed = excluded.feed, received_at = excluded.received_at
WHERE b.received_at < excluded.received_at
"""


def write_stream_bars(connection: Transaction, market: str, rows: pa.Table) -> int:
    """One row a symbol and minute; how many are new or newer than what was there."""
    if not len(rows):
        return 0
    statement = sql.SQL(_UPSERT).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, BAR_COLUMNS)),
        staged=stage_columns(connection, "stream_bars", rows, BAR_COLUMNS),
    )
    return connection.execute(statement, {"market": market}).rowcount
