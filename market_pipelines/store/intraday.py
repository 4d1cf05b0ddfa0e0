"""Bars within a session: what each provider says, what was agreed on, and reading them back.

Written as daily bars are (`upsert`): an unchanged row is not touched, a superseded one is kept by the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, LiteralString

import pandas as pd
import pyarrow as pa
from psycopg import sql

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.store.copying import DATE, FLAG, INSTANT, NUMBER, TEXT, checked_instant, read_frame
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import REMOVE_OTHERS, Target, WriteCounts, Written, any_stored, sign, write

_BAR: Mapping[str, pa.DataType] = {
    "symbol": TEXT,
    "market": TEXT,
    "interval": TEXT,
    "session": DATE,
    "ts": INSTANT,
    "phase": TEXT,
    **dict.fromkeys(VALUE_COLUMNS, NUMBER),
    "provider": TEXT,
    "provisional": FLAG,
    "basis": TEXT,
    "condition": TEXT,
}
_KEY = ("market", "symbol", "interval", "session", "ts")
_AGREED_COLUMNS = tuple(name for name in _BAR if name != "basis")
_DELIVERED_COLUMNS = tuple(name for name in _BAR if name != "condition")
_OF_INTERVAL: LiteralString = "s.interval = %(interval)s"
_AGREED = Target("stock_prices_intraday", _AGREED_COLUMNS, _KEY, _BAR, _OF_INTERVAL)
_DELIVERED = Target("provider_bars_intraday", _DELIVERED_COLUMNS, (*_KEY, "provider"), _BAR, newest_word_counts=True)
_STORED = {"ingested_at": INSTANT}


def write_provider_intraday(connection: Transaction, frame: pd.DataFrame, known_at: datetime) -> Written:
    """Bars as a provider sent them; its newest answer about a bar is what counts."""
    return write(connection, _DELIVERED, frame, known_at)


def replace_intraday(
    connection: Transaction,
    frame: pd.DataFrame,
    known_at: datetime,
    run_id: str | None = None,
    *,
    market: str,
    interval: str,
    symbols: Sequence[str],
    start: date,
    end: date,
) -> Written:
    """Agreed bars that are all there is of these symbols between two sessions, both included: a bar that its
    provider has withdrawn is removed, and kept as a revision."""
    sign(connection, checked_instant(known_at, "known_at"), run_id)
    scope = {"market": market, "interval": interval, "symbols": list(symbols), "start": start, "end": end}
    if not any_stored(connection, _AGREED, scope):
        return write(connection, _AGREED, frame, known_at, known_empty=True)
    written = write(connection, _AGREED, frame, known_at, known_empty=False)
    rows = connection.execute(_AGREED.statement(REMOVE_OTHERS), scope).fetchall()
    return written + Written.of({symbol: WriteCounts(removed=count) for symbol, count in rows})


def read_provider_intraday(
    connection: Transaction, market: str, interval: str, symbols: Sequence[str], start: date, end: date
) -> pd.DataFrame:
    columns = {name: _BAR[name] for name in _DELIVERED_COLUMNS}
    return _read(connection, "market.provider_bars_intraday", columns, market, interval, symbols, start, end)


def read_intraday(
    connection: Transaction,
    market: str,
    interval: str,
    symbols: Sequence[str],
    start: date,
    end: date,
    *,
    as_of: datetime | None = None,
) -> pd.DataFrame:
    """Agreed bars of the stored interval between two sessions, by symbol and then oldest first."""
    columns = {name: _BAR[name] for name in _AGREED_COLUMNS} | _STORED
    if as_of is None:
        return _read(connection, "market.stock_prices_intraday", columns, market, interval, symbols, start, end)
    source: LiteralString = "(SELECT *, bar_ts AS ts FROM market.stock_prices_intraday_as_of(%(as_of)s)) AS known"
    more = {"as_of": checked_instant(as_of, "as_of")}
    return _read(connection, source, columns, market, interval, symbols, start, end, more)


def latest_intraday(connection: Transaction, market: str, interval: str) -> dict[str, datetime]:
    """When the newest stored bar of every symbol begins."""
    rows = connection.execute(
        """
        SELECT symbol, max(ts) FROM market.stock_prices_intraday
        WHERE market = %s AND interval = %s GROUP BY symbol
        """,
        (market, interval),
    ).fetchall()
    return dict(rows)


def newest_change(connection: Transaction, market: str, interval: str, session: date) -> tuple[datetime | None, int]:
    """Since when the newest version of a session's agreed bars has been known, and how many bars there are."""
    row = connection.execute(
        """
        SELECT max(ingested_at), count(*) FROM market.stock_prices_intraday
        WHERE market = %s AND interval = %s AND session = %s
        """,
        (market, interval, session),
    ).fetchone()
    return (row[0], int(row[1])) if row is not None else (None, 0)


def _read(
    connection: Transaction,
    source: LiteralString,
    columns: Mapping[str, pa.DataType],
    market: str,
    interval: str,
    symbols: Sequence[str],
    start: date,
    end: date,
    more: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    which: LiteralString = "symbol = ANY(%(symbols)s)" if symbols else "true"
    query = sql.SQL("""
        SELECT {columns} FROM {source}
        WHERE market = %(market)s AND interval = %(interval)s AND session BETWEEN %(start)s AND %(end)s AND {which}
        ORDER BY symbol, ts
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, columns)), source=sql.SQL(source), which=sql.SQL(which))
    parameters = {"market": market, "interval": interval, "start": start, "end": end, "symbols": list(symbols)}
    frame = read_frame(connection, query, parameters | dict(more or {}), columns)
    frame["ts"] = frame["ts"].astype("datetime64[s, UTC]")
    return frame
