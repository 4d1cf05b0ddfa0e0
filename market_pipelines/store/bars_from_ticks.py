"""Minute bars that were built from a stream, and the provider's own that came with it: writing and reading rows.

How a bar is built, and what it is compared with, is decided above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
from psycopg import sql

from market_pipelines.store.copying import (
    COUNT,
    DATE,
    FLAG,
    INSTANT,
    NUMBER,
    TEXT,
    checked_frame,
    checked_instant,
    copy_frame,
    read_frame,
)
from market_pipelines.store.database import Transaction

_COLUMNS: dict[str, pa.DataType] = {
    "market": TEXT,
    "symbol": TEXT,
    "session": DATE,
    "ts": INSTANT,
    "phase": TEXT,
    "open": NUMBER,
    "high": NUMBER,
    "low": NUMBER,
    "close": NUMBER,
    "volume": NUMBER,
    "vwap": NUMBER,
    "trades": COUNT,
    "source": TEXT,
    "complete": FLAG,
    "feed": TEXT,
    "built_at": INSTANT,
}
_STREAMED: dict[str, pa.DataType] = {
    "symbol": TEXT,
    "ts": INSTANT,
    "open": NUMBER,
    "high": NUMBER,
    "low": NUMBER,
    "close": NUMBER,
    "volume": NUMBER,
    "vwap": NUMBER,
    "feed": TEXT,
}


def replace_bars(
    connection: Transaction, market: str, session: date, symbols: Sequence[str], frame: pd.DataFrame, built_at: datetime
) -> int:
    """The bars are all there is of these symbols in that session; how many rows went before. One transaction, so
    that a reader sees the old ones or the new ones."""
    whole = frame.assign(market=market, built_at=checked_instant(built_at, "built_at"))
    rows = checked_frame(whole, list(_COLUMNS), ["symbol", "ts"]).sort_values(["symbol", "ts"], ignore_index=True)
    # Two builders of one session would each delete what they see and meet in the insert.
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"bars_from_ticks {market} {session}",)
    )
    gone = connection.execute(
        "DELETE FROM market.bars_from_ticks WHERE market = %s AND session = %s AND symbol = ANY(%s)",
        (market, session, list(symbols)),
    ).rowcount
    if len(rows):
        copy_frame(connection, sql.Identifier("market", "bars_from_ticks"), rows, _COLUMNS)
    return gone


def read_bars_from_ticks(
    connection: Transaction, market: str, symbols: Sequence[str], start: date, end: date
) -> pd.DataFrame:
    """Between two sessions, both included, by symbol and then oldest first; no symbols: all."""
    query = sql.SQL("""
        SELECT {columns} FROM market.bars_from_ticks
        WHERE market = %(market)s AND session BETWEEN %(start)s AND %(end)s
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol, ts
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))
    parameters = {"market": market, "start": start, "end": end, "symbols": list(symbols) or None}
    frame = read_frame(connection, query, parameters, _COLUMNS)
    return frame.assign(ts=frame["ts"].astype("datetime64[s, UTC]"))


def read_stream_bars(
    connection: Transaction, market: str, symbols: Sequence[str], start: datetime, end: datetime
) -> pd.DataFrame:
    """Minute bars as the stream told them, with `start` <= ts < `end`; of one symbol by one feed."""
    query = sql.SQL("""
        SELECT {columns} FROM market.stream_bars
        WHERE market = %(market)s AND ts >= %(start)s AND ts < %(end)s AND symbol = ANY(%(symbols)s)
        ORDER BY symbol, ts
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _STREAMED)))
    parameters = {"market": market, "start": start, "end": end, "symbols": list(symbols)}
    frame = read_frame(connection, query, parameters, _STREAMED)
    return frame.assign(ts=frame["ts"].astype("datetime64[s, UTC]"))


@dataclass(frozen=True, slots=True)
class StreamedSession:
    """A session of which the lake has something that was streamed."""

    session: date
    built_at: datetime | None
    """Of the oldest of its bars; None: fewer than half of its symbols have any. Somebody has built those of a few."""
    filled_at: datetime | None
    """When history last filled a gap in it."""


def streamed_sessions(
    connection: Transaction, market: str, spans: Mapping[date, tuple[datetime, datetime]]
) -> list[StreamedSession]:
    """Of these sessions, each with its beginning and end, oldest first. What was pulled or imported, and never
    streamed, is not among them."""
    rows = connection.execute(
        """
        SELECT wanted.session,
               (SELECT min(built_at) FROM market.bars_from_ticks AS b
                WHERE b.market = %(market)s AND b.session = wanted.session
                HAVING 2 * count(DISTINCT b.symbol) >= (
                    SELECT count(DISTINCT symbol) FROM market.tick_segments AS t, unnest(t.symbols) AS symbol
                    WHERE t.market = %(market)s AND t.session = wanted.session AND t.stream IS NOT NULL
                          AND t.kind IN ('trades', 'snapshots') AND t.last_ts >= wanted.begins
                          AND t.first_ts < wanted.ends
                )),
               (SELECT max(settled_at) FROM market.stream_gaps AS g
                WHERE g.market = %(market)s AND g.status IN ('filled', 'partial')
                      AND g.begins_at < wanted.ends AND g.ends_at > wanted.begins)
        FROM unnest(%(sessions)s::date[], %(begins)s::timestamptz[], %(ends)s::timestamptz[])
             AS wanted (session, begins, ends)
        WHERE EXISTS (
            SELECT FROM market.tick_segments AS t
            WHERE t.market = %(market)s AND t.session = wanted.session AND t.stream IS NOT NULL
                  AND t.kind IN ('trades', 'snapshots')
        )
        ORDER BY wanted.session
        """,
        {
            "market": market,
            "sessions": list(spans),
            "begins": [begins for begins, _ in spans.values()],
            "ends": [ends for _, ends in spans.values()],
        },
    ).fetchall()
    return [StreamedSession(session, built, filled) for session, built, filled in rows]


def begun_in(connection: Transaction, market: str, session: date) -> dict[str, datetime | None]:
    """Feeds that were streamed in a session for the first time, and when their service was last started. Every later
    pause of a stream is a gap; what was before its first start is none."""
    rows = connection.execute(
        """
        SELECT t.feed, max(s.started_at)
        FROM market.tick_segments AS t
        LEFT JOIN market.stream_status AS s ON s.stream = t.stream
        WHERE t.market = %(market)s AND t.session = %(session)s AND t.stream IS NOT NULL
              AND NOT EXISTS (
                  SELECT FROM market.tick_segments AS earlier
                  WHERE earlier.stream = t.stream AND earlier.market = t.market AND earlier.session < t.session
              )
        GROUP BY t.feed
        """,
        {"market": market, "session": session},
    ).fetchall()
    return dict(rows)
