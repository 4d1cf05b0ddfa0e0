"""What a stream stores into tables besides the lake: the newest of each symbol, rejects, and ticks where asked for.

Every write is an upsert in key order, so that writers of the same rows wait for each other instead of a deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import pyarrow as pa
from psycopg import sql

from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.staging import stage_columns

_NUMBER, _WORD, _TIME, _COUNT = "double precision", "text", "timestamptz", "bigint"

LATEST_COLUMNS = {
    "symbol": _WORD,
    "price": _NUMBER,
    "priced_at": _TIME,
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
    "as_of": _TIME,
    "provider": _WORD,
    "received_at": _TIME,
}
"""`price` is a trade's where `priced_at` is known, else what the sides allow to say; either may be absent."""

_LATEST: LiteralString = """
INSERT INTO market.latest_quotes AS q (
    market, symbol, price, currency, bid, ask, bid_size, ask_size, open, high, low, previous_close, volume,
    quoted_at, as_of, provider, received_at
)
SELECT %(market)s, s.symbol, coalesce(s.price, known.price), s.currency, s.bid, s.ask, s.bid_size, s.ask_size, s.open,
       s.high, s.low, s.previous_close, s.volume, s.priced_at, s.as_of, s.provider, s.received_at
FROM {staged} AS s
LEFT JOIN market.latest_quotes AS known ON (known.market, known.symbol) = (%(market)s, s.symbol)
WHERE coalesce(s.price, known.price) IS NOT NULL
ORDER BY s.symbol COLLATE "C"
ON CONFLICT (market, symbol) DO UPDATE
SET price = CASE
        -- A trade stands until there is a newer one; without any, the newest middle of bid and ask does.
        WHEN excluded.quoted_at IS NULL AND q.quoted_at IS NOT NULL THEN q.price
        WHEN excluded.quoted_at IS NOT NULL AND q.quoted_at > excluded.quoted_at THEN q.price
        ELSE excluded.price
    END,
    quoted_at = greatest(q.quoted_at, excluded.quoted_at),
    currency = coalesce(nullif(excluded.currency, ''), q.currency),
    bid = CASE WHEN {sides} THEN excluded.bid ELSE q.bid END,
    ask = CASE WHEN {sides} THEN excluded.ask ELSE q.ask END,
    bid_size = CASE WHEN {sides} THEN excluded.bid_size ELSE q.bid_size END,
    ask_size = CASE WHEN {sides} THEN excluded.ask_size ELSE q.ask_size END,
    open = CASE WHEN {later} THEN coalesce(excluded.open, CASE WHEN {same_day} THEN q.open END) ELSE q.open END,
    high = CASE WHEN {later} THEN coalesce(excluded.high, CASE WHEN {same_day} THEN q.high END) ELSE q.high END,
    low = CASE WHEN {later} THEN coalesce(excluded.low, CASE WHEN {same_day} THEN q.low END) ELSE q.low END,
    previous_close = CASE WHEN {later}
        THEN coalesce(excluded.previous_close, CASE WHEN {same_day} THEN q.previous_close END)
        ELSE q.previous_close END,
    volume = CASE WHEN {later} THEN coalesce(excluded.volume, CASE WHEN {same_day} THEN q.volume END) ELSE q.volume END,
    session = NULL,
    as_of = greatest(q.as_of, excluded.as_of),
    provider = CASE WHEN {later} THEN excluded.provider ELSE q.provider END,
    received_at = greatest(q.received_at, excluded.received_at)
WHERE (excluded.as_of, excluded.received_at) >= (q.as_of, q.received_at) OR excluded.quoted_at > q.quoted_at
"""
_LATER: LiteralString = "excluded.as_of >= q.as_of"
_SIDES: LiteralString = f"({_LATER} AND (excluded.bid IS NOT NULL OR excluded.ask IS NOT NULL))"
_SAME_DAY: LiteralString = "(q.as_of AT TIME ZONE %(zone)s)::date = (excluded.as_of AT TIME ZONE %(zone)s)::date"


def merge_latest(connection: Transaction, market: str, zone: str, rows: pa.Table) -> int:
    """Into `latest_quotes`, one row a symbol: what is newer replaces what was there, and what it does not speak of
    stays, as long as it is of the same day at the exchange. How many rows that changed."""
    if not len(rows):
        return 0
    staged = stage_columns(connection, "latest", rows, LATEST_COLUMNS)
    statement = sql.SQL(_LATEST).format(
        staged=staged, later=sql.SQL(_LATER), sides=sql.SQL(_SIDES), same_day=sql.SQL(_SAME_DAY)
    )
    return connection.execute(statement, {"market": market, "zone": zone}).rowcount


# --- ticks ---------------------------------------------------------------------------------------------------

TRADE_COLUMNS = {
    "symbol": _WORD,
    "session": "date",
    "ts": _TIME,
    "ts_ns": _COUNT,
    "received_at": _TIME,
    "seq": _COUNT,
    "price": _NUMBER,
    "size": _NUMBER,
    "exchange": _WORD,
    "trade_id": _WORD,
    "conditions": _WORD,
    "marks": "integer",
    "feed": _WORD,
}
QUOTE_COLUMNS = {
    "symbol": _WORD,
    "session": "date",
    "ts": _TIME,
    "ts_ns": _COUNT,
    "received_at": _TIME,
    "seq": _COUNT,
    "bid": _NUMBER,
    "ask": _NUMBER,
    "bid_size": _NUMBER,
    "ask_size": _NUMBER,
    "bid_exchange": _WORD,
    "ask_exchange": _WORD,
    "conditions": _WORD,
    "marks": "integer",
    "feed": _WORD,
}
BAND_COLUMNS = {
    "symbol": _WORD,
    "session": "date",
    "ts": _TIME,
    "ts_ns": _COUNT,
    "received_at": _TIME,
    "seq": _COUNT,
    "limit_up": _NUMBER,
    "limit_down": _NUMBER,
    "indicators": _WORD,
    "tape": _WORD,
    "marks": "integer",
    "feed": _WORD,
}
_TICKS: LiteralString = """
INSERT INTO market.{table} (market, {columns})
SELECT %(market)s, {columns} FROM {staged} AS s
WHERE {wanted}
ORDER BY {key}
ON CONFLICT DO NOTHING
"""
_NOT_STREAMED: LiteralString = """
    s.marks & %(filled)s = 0 OR s.seq = 0 OR NOT EXISTS (
        SELECT FROM market.stream_quotes AS q
        WHERE (q.market, q.symbol, q.session, q.seq) = (%(market)s, s.symbol, s.session, s.seq)
    )
"""
"""A stream tells the time to the millisecond and history to the nanosecond: at a gap's edges only numbers agree."""


def write_trades(connection: Transaction, market: str, rows: pa.Table, *, filled: int) -> int:
    """Those that are new. `filled`: the bit of `marks` that says that history brought a tick."""
    key: LiteralString = 'symbol COLLATE "C", session, seq, exchange, trade_id'
    return _write(connection, market, "stream_trades", rows, TRADE_COLUMNS, key, "s.price IS NOT NULL", filled)


def write_quotes(connection: Transaction, market: str, rows: pa.Table, *, filled: int) -> int:
    key: LiteralString = 'symbol COLLATE "C", session, seq, ts_ns'
    return _write(connection, market, "stream_quotes", rows, QUOTE_COLUMNS, key, _NOT_STREAMED, filled)


def write_bands(connection: Transaction, market: str, rows: pa.Table, *, filled: int) -> int:
    key: LiteralString = 'symbol COLLATE "C", session, seq, ts_ns'
    return _write(connection, market, "stream_bands", rows, BAND_COLUMNS, key, "true", filled)


def _write(
    connection: Transaction,
    market: str,
    table: str,
    rows: pa.Table,
    types: dict[str, str],
    key: LiteralString,
    wanted: LiteralString,
    filled: int,
) -> int:
    if not len(rows):
        return 0
    statement = sql.SQL(_TICKS).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, types)),
        staged=stage_columns(connection, table, rows, types),
        wanted=sql.SQL(wanted),
        key=sql.SQL(key),
    )
    return connection.execute(statement, {"market": market, "filled": filled}).rowcount


# --- rejects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredReject:
    position: int
    place: int
    format: str
    received_at: datetime
    reason: str
    body: bytes


def write_rejects(connection: Transaction, stream: str, journal: str, rejects: Sequence[StoredReject]) -> int:
    if not rejects:
        return 0
    ordered = sorted(rejects, key=lambda one: (one.position, one.place))
    return connection.execute(
        """
        INSERT INTO market.stream_rejects (stream, journal, position, place, format, received_at, reason, body)
        SELECT %(stream)s, %(journal)s, * FROM unnest(
            %(positions)s::bigint[], %(places)s::integer[], %(formats)s::text[], %(times)s::timestamptz[],
            %(reasons)s::text[], %(bodies)s::bytea[]
        )
        ON CONFLICT DO NOTHING
        """,
        {
            "stream": stream,
            "journal": journal,
            "positions": [one.position for one in ordered],
            "places": [one.place for one in ordered],
            "formats": [one.format for one in ordered],
            "times": [checked_instant(one.received_at, "received_at") for one in ordered],
            "reasons": [one.reason.replace("\x00", "") for one in ordered],
            "bodies": [one.body for one in ordered],
        },
    ).rowcount
