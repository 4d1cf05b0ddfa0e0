"""Which sessions of which symbols are there, in what condition, and when that was last looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
from psycopg import sql

from market_pipelines.market.bars import AVAILABLE, DEGRADED
from market_pipelines.store.copying import (
    COUNT,
    DATE,
    INSTANT,
    TEXT,
    checked_frame,
    checked_instant,
    read_frame,
    stage,
)
from market_pipelines.store.database import Transaction

_ROW: dict[str, pa.DataType] = {"symbol": TEXT, "session": DATE, "condition": TEXT}

_WRITE = """
WITH changed AS (
    SELECT count(*) AS rows
    FROM incoming_coverage AS i
    LEFT JOIN market.coverage AS c
        ON c.market = %(market)s AND c.interval = %(interval)s AND c.symbol = i.symbol AND c.session = i.session
    WHERE c.symbol IS NULL OR (c.condition <> i.condition AND c.last_checked <= %(at)s)
), written AS (
    INSERT INTO market.coverage AS c (market, interval, symbol, session, condition, last_checked)
    SELECT %(market)s, %(interval)s, symbol, session, condition, %(at)s
    FROM incoming_coverage
    ORDER BY symbol, session
    ON CONFLICT (market, interval, symbol, session) DO UPDATE
    SET condition = excluded.condition, last_checked = excluded.last_checked
    WHERE c.last_checked <= excluded.last_checked
)
SELECT rows FROM changed
"""


def write_coverage(connection: Transaction, frame: pd.DataFrame, market: str, interval: str, at: datetime) -> int:
    """How many rows are new or have another condition than before. An older look does not overwrite a newer one."""
    checked_instant(at, "at")
    rows = checked_frame(frame, list(_ROW), ["symbol", "session"])
    if rows.empty:
        return 0
    stage(connection, "coverage", rows, _ROW)
    row = connection.execute(_WRITE, {"market": market, "interval": interval, "at": at}).fetchone()
    return 0 if row is None else int(row[0])


def read_coverage(
    connection: Transaction,
    market: str,
    interval: str,
    symbols: Sequence[str] = (),
    start: date | None = None,
    end: date | None = None,
) -> pd.DataFrame:
    columns = _ROW | {"last_checked": INSTANT}
    query = sql.SQL("""
        SELECT {columns}
        FROM market.coverage
        WHERE market = %(market)s AND interval = %(interval)s
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
              AND (%(start)s::date IS NULL OR session >= %(start)s)
              AND (%(end)s::date IS NULL OR session <= %(end)s)
        ORDER BY symbol, session
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, columns)))
    parameters = {
        "market": market,
        "interval": interval,
        "symbols": list(symbols) or None,
        "start": start,
        "end": end,
    }
    return read_frame(connection, query, parameters, columns)


def conditions(connection: Transaction, market: str, interval: str, start: date, end: date) -> pd.DataFrame:
    """How many symbols are in which condition, session by session, without declared closures."""
    columns: dict[str, pa.DataType] = {
        "session": DATE,
        "available": COUNT,
        "degraded": COUNT,
        "pending": COUNT,
        "missing": COUNT,
    }
    query = sql.SQL("""
        SELECT session,
               count(*) FILTER (WHERE condition = 'available'),
               count(*) FILTER (WHERE condition = 'degraded'),
               count(*) FILTER (WHERE condition = 'pending'),
               count(*) FILTER (WHERE condition = 'missing')
        FROM market.coverage AS c
        WHERE market = %(market)s AND interval = %(interval)s AND session BETWEEN %(start)s AND %(end)s
              AND NOT EXISTS (SELECT FROM market.closures AS x WHERE x.market = c.market AND x.session = c.session)
        GROUP BY session
        ORDER BY session
    """)
    parameters = {"market": market, "interval": interval, "start": start, "end": end}
    return read_frame(connection, query, parameters, columns)


def missing(
    connection: Transaction, market: str, interval: str, symbols: Sequence[str], sessions: Sequence[date]
) -> set[tuple[str, date]]:
    """Of all pairs of these symbols and sessions, those that are neither available nor degraded."""
    rows = connection.execute(
        """
        SELECT wanted.symbol, asked.session
        FROM unnest(%(symbols)s::text[]) AS wanted (symbol)
        CROSS JOIN unnest(%(sessions)s::date[]) AS asked (session)
        WHERE NOT EXISTS (
            SELECT FROM market.coverage AS c
            WHERE c.market = %(market)s AND c.interval = %(interval)s AND c.symbol = wanted.symbol
                  AND c.session = asked.session AND c.condition = ANY(%(present)s)
        )
        """,
        {
            "symbols": list(symbols),
            "sessions": list(sessions),
            "market": market,
            "interval": interval,
            "present": [AVAILABLE, DEGRADED],
        },
    ).fetchall()
    return {(symbol, session) for symbol, session in rows}
