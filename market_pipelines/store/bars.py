"""Writing daily bars in bulk: what each provider says, and what was agreed on.

A row that is already there is not touched. A row that differs replaces the old one, and for the agreed tables
the database itself keeps the old one in `bar_revisions`, in the same transaction. Reading is in `read_bars`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import pandas as pd
import pyarrow as pa

from market_pipelines.market.bars import BASES, CONSENSUS_COLUMNS, DEGRADED, PROVIDER_BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.store.copying import DATE, FLAG, NUMBER, TEXT
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import REMOVE_OTHERS, Target, WriteCounts, Written, any_stored, sign, write

STOCKS = "stock_prices"
INDICES = "market_index_prices"
_AGREED = (STOCKS, INDICES)

_TYPES: Mapping[str, pa.DataType] = {
    "symbol": TEXT,
    "session": DATE,
    **dict.fromkeys(VALUE_COLUMNS, NUMBER),
    "provisional": FLAG,
    "market": TEXT,
    "provider": TEXT,
    "condition": TEXT,
    "basis": TEXT,
}


_PROVIDER_BARS = Target(
    "provider_bars", PROVIDER_BAR_COLUMNS, ("market", "symbol", "session", "provider"), _TYPES, newest_word_counts=True
)
_PRICES = {table: Target(table, CONSENSUS_COLUMNS, ("market", "symbol", "session"), _TYPES) for table in _AGREED}

_REMOVE_ADJUSTED = """
DELETE FROM {table} AS s
USING market.provider_bars AS p
WHERE s.market = %(market)s AND s.symbol = ANY(%(symbols)s) AND s.condition = %(degraded)s
      AND (p.market, p.symbol, p.session, p.provider) = (s.market, s.symbol, s.session, s.provider)
      AND p.basis <> %(traded)s
RETURNING s.symbol, s.session
"""


def write_provider_bars(connection: Transaction, frame: pd.DataFrame, known_at: datetime) -> Written:
    """Bars as providers sent them; a bar that a provider has changed replaces what it said before, and an older
    answer never what it said since."""
    return write(connection, _PROVIDER_BARS, frame, known_at)


def write_prices(
    connection: Transaction,
    frame: pd.DataFrame,
    known_at: datetime,
    run_id: str | None = None,
    table: str = STOCKS,
) -> Written:
    """Agreed bars. Rows that the frame lacks stay as they are."""
    target = _agreed(table)
    sign(connection, known_at, run_id)
    return write(connection, target, frame, known_at)


def replace_prices(
    connection: Transaction,
    frame: pd.DataFrame,
    known_at: datetime,
    run_id: str | None = None,
    table: str = STOCKS,
    *,
    market: str,
    symbols: Sequence[str],
    start: date,
    end: date,
) -> Written:
    """Agreed bars that are all there is for these symbols between two sessions, both included.

    Stored rows of that range which the frame lacks are removed, and kept in `bar_revisions`.
    """
    target = _agreed(table)
    sign(connection, known_at, run_id)
    _refuse_rows_outside(frame, market, symbols, start, end)
    scope = {"market": market, "symbols": list(symbols), "start": start, "end": end}
    if not any_stored(connection, target, scope):
        return write(connection, target, frame, known_at, known_empty=True)
    written = write(connection, target, frame, known_at, known_empty=False)
    rows = connection.execute(target.statement(REMOVE_OTHERS), scope).fetchall()
    return written + Written.of({symbol: WriteCounts(removed=count) for symbol, count in rows})


def remove_adjusted_prices(
    connection: Transaction,
    market: str,
    symbols: Sequence[str],
    known_at: datetime,
    run_id: str | None = None,
    table: str = STOCKS,
) -> set[tuple[str, date]]:
    """Takes out the agreed bars of these symbols whose prices are not as traded; `bar_revisions` keeps them.

    Gives symbol and session of each.
    """
    target = _agreed(table)
    sign(connection, known_at, run_id)
    parameters = {"market": market, "symbols": list(symbols), "degraded": DEGRADED, "traded": BASES[0]}
    return set(connection.execute(target.statement(_REMOVE_ADJUSTED), parameters).fetchall())


def _agreed(table: str) -> Target:
    if table not in _PRICES:
        raise ValueError(f"{table!r} is not a table of agreed bars; these are: {', '.join(_AGREED)}")
    return _PRICES[table]


def _refuse_rows_outside(frame: pd.DataFrame, market: str, symbols: Sequence[str], start: date, end: date) -> None:
    inside = (
        (frame["market"] == market)
        & frame["symbol"].isin(list(symbols))
        & frame["session"].between(pd.Timestamp(start), pd.Timestamp(end))
    )
    if not inside.all():
        row = frame.loc[~inside].iloc[0]
        raise ValueError(
            f"{row['symbol']} of {row['market']} on {row['session']:%Y-%m-%d} is outside of what is replaced: "
            f"{market}, {len(symbols)} symbols, {start} to {end}"
        )
