"""Reading daily bars: as they are, as they were known at an instant, adjusted or as traded, per provider."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, LiteralString

import pandas as pd
import pyarrow as pa
from psycopg import sql

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.copying import DATE, FLAG, INSTANT, NUMBER, TEXT, checked_instant, read_frame
from market_pipelines.store.database import Transaction

_BAR: dict[str, pa.DataType] = {
    "symbol": TEXT,
    "market": TEXT,
    "session": DATE,
    **dict.fromkeys(VALUE_COLUMNS, NUMBER),
    "provider": TEXT,
}
_PRICE = _BAR | {"condition": TEXT, "provisional": FLAG, "ingested_at": INSTANT}
_PROVIDER_BAR = _BAR | {"basis": TEXT, "provisional": FLAG, "ingested_at": INSTANT}
_REVISION = _BAR | {
    "condition": TEXT,
    "provisional": FLAG,
    "known_from": INSTANT,
    "known_to": INSTANT,
    "removed": FLAG,
    "run_id": TEXT,
}

_SOURCES: dict[tuple[str, bool, bool], LiteralString] = {
    # table, as of an instant, adjusted
    (STOCKS, False, False): "market.stock_prices",
    (STOCKS, True, False): "market.stock_prices_as_of(%(as_of)s)",
    (STOCKS, False, True): "market.stock_prices_adjusted",
    (STOCKS, True, True): "market.stock_prices_adjusted_as_of(%(as_of)s)",
    (INDICES, False, False): "market.market_index_prices",
    (INDICES, True, False): "market.market_index_prices_as_of(%(as_of)s)",
    # An index has no corporate actions: its adjusted levels are its levels.
    (INDICES, False, True): "market.market_index_prices",
    (INDICES, True, True): "market.market_index_prices_as_of(%(as_of)s)",
}


def read_prices(
    connection: Transaction,
    market: str,
    symbols: Sequence[str] = (),
    start: date | None = None,
    end: date | None = None,
    *,
    as_of: datetime | None = None,
    adjusted: bool = False,
    table: str = STOCKS,
) -> pd.DataFrame:
    """Agreed bars between two sessions, both included, by symbol and then oldest first. No symbols: all of them.

    `as_of`: as this database knew them at that instant, actions too. `adjusted`: compared with the newest bar.
    """
    _agreed(table)
    parameters: dict[str, Any] = {}
    if as_of is not None:
        parameters["as_of"] = checked_instant(as_of, "as_of")
    source = sql.SQL(_SOURCES[table, as_of is not None, adjusted])
    frame = _read(connection, source, _PRICE, market, symbols, start, end, parameters)
    frame["adjusted"] = adjusted
    frame["as_of"] = pd.Series(as_of, index=frame.index, dtype="datetime64[us, UTC]")
    return frame


def read_provider_bars(
    connection: Transaction,
    market: str,
    symbols: Sequence[str] = (),
    start: date | None = None,
    end: date | None = None,
    providers: Sequence[str] = (),
) -> pd.DataFrame:
    """What each provider says now. No providers: all of them."""
    more: dict[str, Any] = {}
    condition: LiteralString = "true"
    if providers:
        condition, more = "provider = ANY(%(providers)s)", {"providers": list(providers)}
    source = sql.SQL("market.provider_bars")
    return _read(connection, source, _PROVIDER_BAR, market, symbols, start, end, more, condition, "provider")


def read_revisions(
    connection: Transaction,
    market: str,
    symbols: Sequence[str] = (),
    start: date | None = None,
    end: date | None = None,
    table: str = STOCKS,
) -> pd.DataFrame:
    """Superseded versions of agreed bars, each with the instants between which it was the current one."""
    source = sql.SQL("market.bar_revisions")
    condition: LiteralString = "source_table = %(source_table)s"
    more = {"source_table": table}
    return _read(connection, source, _REVISION, market, symbols, start, end, more, condition, "revision_id")


def latest_sessions(connection: Transaction, market: str, table: str = STOCKS) -> dict[str, date]:
    """The newest stored session of every symbol that has one."""
    # Jumps from symbol to symbol in the key instead of reading every row.
    query = sql.SQL("""
        WITH RECURSIVE listed (symbol) AS (
            (SELECT symbol FROM {table} WHERE market = %(market)s ORDER BY symbol LIMIT 1)
            UNION ALL
            SELECT (
                SELECT p.symbol FROM {table} AS p
                WHERE p.market = %(market)s AND p.symbol > listed.symbol ORDER BY p.symbol LIMIT 1
            )
            FROM listed
            WHERE listed.symbol IS NOT NULL
        )
        SELECT symbol, (
            SELECT max(p.session) FROM {table} AS p WHERE p.market = %(market)s AND p.symbol = listed.symbol
        )
        FROM listed
        WHERE symbol IS NOT NULL
    """).format(table=_agreed(table))
    return dict(connection.execute(query, {"market": market}).fetchall())


def previous_closes(
    connection: Transaction, market: str, symbols: Sequence[str], before: date, table: str = STOCKS
) -> dict[str, tuple[date, float]]:
    """The last agreed session before a date and its close as traded, of every symbol that has one."""
    query = sql.SQL("""
        SELECT wanted.symbol, last.session, last.close
        FROM unnest(%(symbols)s::text[]) AS wanted (symbol)
        CROSS JOIN LATERAL (
            SELECT p.session, p.close
            FROM {table} AS p
            WHERE p.market = %(market)s AND p.symbol = wanted.symbol AND p.session < %(before)s
            ORDER BY p.session DESC
            LIMIT 1
        ) AS last
    """).format(table=_agreed(table))
    rows = connection.execute(query, {"symbols": list(symbols), "market": market, "before": before}).fetchall()
    return {symbol: (session, close) for symbol, session, close in rows}


def symbols_with_basis(connection: Transaction, market: str, symbols: Sequence[str], basis: str) -> set[str]:
    """Those of the symbols of which some provider's bars are kept on this basis."""
    rows = connection.execute(
        """
        SELECT wanted.symbol
        FROM unnest(%(symbols)s::text[]) AS wanted (symbol)
        WHERE EXISTS (
            SELECT FROM market.provider_bars AS p
            WHERE p.market = %(market)s AND p.symbol = wanted.symbol AND p.basis = %(basis)s
        )
        """,
        {"symbols": list(symbols), "market": market, "basis": basis},
    ).fetchall()
    return {symbol for (symbol,) in rows}


def _agreed(table: str) -> sql.Identifier:
    if table not in (STOCKS, INDICES):
        raise ValueError(f"{table!r} is not a table of agreed bars; these are: {STOCKS}, {INDICES}")
    return sql.Identifier("market", table)


def _read(
    connection: Transaction,
    source: sql.SQL,
    columns: dict[str, pa.DataType],
    market: str,
    symbols: Sequence[str],
    start: date | None,
    end: date | None,
    parameters: dict[str, Any],
    condition: LiteralString = "true",
    then_by: str | None = None,
) -> pd.DataFrame:
    scope = {
        "market": market,
        "start": start if start is not None else date.min,
        "end": end if end is not None else date.max,
    }
    # One symbol is compared as such, so that the planner can follow it through the views.
    which: LiteralString = "true"
    if len(symbols) == 1:
        which, scope["symbol"] = "symbol = %(symbol)s", symbols[0]
    elif symbols:
        which, parameters = "symbol = ANY(%(symbols)s)", parameters | {"symbols": list(symbols)}
    order = ["symbol", "session", *([then_by] if then_by is not None else [])]
    query = sql.SQL("""
        SELECT {columns}
        FROM {source}
        WHERE market = %(market)s AND session BETWEEN %(start)s AND %(end)s AND {which} AND {condition}
        ORDER BY {order}
    """).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        source=source,
        which=sql.SQL(which),
        condition=sql.SQL(condition),
        order=sql.SQL(", ").join(map(sql.Identifier, order)),
    )
    return read_frame(connection, query, scope | parameters, columns)
