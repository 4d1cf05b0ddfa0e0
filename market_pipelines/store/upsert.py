"""Replacing rows of a table in bulk without touching the ones that say the same already.

Knows nothing of what the rows mean: a `Target` names the table, its columns, and what tells two rows apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from operator import add
from typing import LiteralString

import numpy as np
import pandas as pd
import pyarrow as pa
from psycopg import errors, sql

from market_pipelines.store.copying import checked_frame, checked_instant, copy_frame, stage
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True)
class WriteCounts:
    inserted: int = 0
    revised: int = 0
    unchanged: int = 0
    removed: int = 0

    @property
    def changed(self) -> int:
        return self.inserted + self.revised + self.removed

    def __add__(self, other: WriteCounts) -> WriteCounts:
        return WriteCounts(
            self.inserted + other.inserted,
            self.revised + other.revised,
            self.unchanged + other.unchanged,
            self.removed + other.removed,
        )


@dataclass(frozen=True, slots=True)
class Written:
    total: WriteCounts = WriteCounts()
    by_symbol: Mapping[str, WriteCounts] = field(default_factory=dict)

    @classmethod
    def of(cls, by_symbol: Mapping[str, WriteCounts]) -> Written:
        return cls(reduce(add, by_symbol.values(), WriteCounts()), by_symbol)

    def of_symbol(self, symbol: str) -> WriteCounts:
        return self.by_symbol.get(symbol, WriteCounts())

    def __add__(self, other: Written) -> Written:
        symbols = self.by_symbol.keys() | other.by_symbol.keys()
        return Written.of({name: self.of_symbol(name) + other.of_symbol(name) for name in sorted(symbols)})


@dataclass(frozen=True, slots=True)
class Target:
    """A table of bars: what tells its rows apart, and what makes a row another version."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    kinds: Mapping[str, pa.DataType]
    """Of the columns; more may be named."""
    within: LiteralString = "true"
    """What narrows a range further, with parameters of its own."""
    newest_word_counts: bool = False
    """Whether a row that is known since later stays. An agreed bar follows from all that is stored, whenever an
    answer arrived; what a provider says is said by its newest answer, also while older ones are read again."""

    @property
    def compared(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in self.key)

    @property
    def types(self) -> dict[str, pa.DataType]:
        return {name: self.kinds[name] for name in self.columns}

    def statement(self, text: LiteralString) -> sql.Composed:
        """Fills the table's and its columns' names into a statement."""
        return sql.SQL(text).format(
            table=sql.Identifier("market", self.table),
            incoming=sql.Identifier(f"incoming_{self.table}"),
            columns=_listed("", self.columns),
            key=_listed("", self.key),
            incoming_columns=_listed("i", self.columns),
            incoming_key=_listed("i", self.key),
            stored_key=_listed("s", self.key),
            incoming_values=_listed("i", self.compared),
            stored_values=_listed("s", self.compared),
            new_values=_listed("excluded", self.compared),
            within=sql.SQL(self.within),
            outdated=sql.SQL("s.ingested_at > excluded.ingested_at" if self.newest_word_counts else "false"),
            changes=sql.SQL(", ").join(
                sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name)) for name in self.compared
            ),
        )


ANY_STORED = """
SELECT EXISTS (
    SELECT FROM unnest(%(symbols)s::text[]) AS wanted (symbol)
    JOIN LATERAL (
        SELECT FROM {table} AS s
        WHERE s.market = %(market)s AND s.symbol = wanted.symbol AND s.session BETWEEN %(start)s AND %(end)s
              AND {within}
        LIMIT 1
    ) AS found ON true
)
"""

# Rows that are there already are left out first, so that they are not even locked. A row that another transaction
# inserts in between meets ON CONFLICT, which compares again. The order keeps two writers from a deadlock.
_UPSERT = """
WITH written AS (
    INSERT INTO {table} AS s ({columns}, ingested_at)
    SELECT {incoming_columns}, %(known_at)s
    FROM {incoming} AS i
    WHERE NOT EXISTS (
        SELECT FROM {table} AS s
        WHERE ({stored_key}) = ({incoming_key})
              AND ({stored_values}) IS NOT DISTINCT FROM ({incoming_values})
    )
    ORDER BY {incoming_key}
    ON CONFLICT ({key}) DO UPDATE
    SET {changes}, ingested_at = greatest(excluded.ingested_at, s.ingested_at)
    WHERE ({stored_values}) IS DISTINCT FROM ({new_values}) AND NOT {outdated}
    RETURNING s.symbol, s.xmax = 0 AS inserted
)
SELECT symbol, count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted)
FROM written
GROUP BY symbol
"""

REMOVE_OTHERS = """
WITH removed AS (
    DELETE FROM {table} AS s
    WHERE s.market = %(market)s AND s.symbol = ANY(%(symbols)s) AND s.session BETWEEN %(start)s AND %(end)s
          AND {within}
          AND NOT EXISTS (SELECT FROM {incoming} AS i WHERE ({incoming_key}) = ({stored_key}))
    RETURNING s.symbol
)
SELECT symbol, count(*) FROM removed GROUP BY symbol
"""


def write(
    connection: Transaction,
    target: Target,
    frame: pd.DataFrame,
    known_at: datetime,
    *,
    known_empty: bool | None = None,
) -> Written:
    checked_instant(known_at, "known_at")
    rows = _in_key_order(checked_frame(frame, target.columns, target.key), target.key)
    if known_empty is None:
        known_empty = not rows.empty and target.within == "true" and not _any_stored_of(connection, target, rows)
    if known_empty and _copy_in(connection, target, rows, known_at):
        counts = rows["symbol"].value_counts()
        return Written.of({str(symbol): WriteCounts(inserted=int(count)) for symbol, count in counts.items()})
    stage(connection, target.table, rows, target.types)
    if rows.empty:
        return Written()
    answer = connection.execute(target.statement(_UPSERT), {"known_at": known_at}).fetchall()
    changed = {symbol: (inserted, revised) for symbol, inserted, revised in answer}
    by_symbol = {}
    for symbol, count in rows["symbol"].value_counts().items():
        inserted, revised = changed.get(str(symbol), (0, 0))
        by_symbol[str(symbol)] = WriteCounts(inserted, revised, int(count) - inserted - revised)
    return Written.of(by_symbol)


def sign(connection: Transaction, known_at: datetime, run_id: str | None) -> None:
    """Tells the triggers, for this transaction, who changes bars and since when that is known."""
    instant = checked_instant(known_at, "known_at").isoformat()
    connection.execute(
        "SELECT set_config('market.known_at', %s, true), set_config('market.run_id', %s, true)",
        (instant, run_id or ""),
    )


def _in_key_order(rows: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Writers who take the same rows in the same order wait for each other; in any other they can deadlock."""
    ranks = [pd.factorize(rows[name], sort=True)[0] for name in key]
    order = np.lexsort(ranks[::-1])
    return rows if bool((order[1:] > order[:-1]).all()) else rows.take(order)


def _copy_in(connection: Transaction, target: Target, rows: pd.DataFrame, known_at: datetime) -> bool:
    """Straight into the table; false, and nothing done, when another transaction put one of these rows there."""
    try:
        with connection.transaction():
            copy_frame(
                connection,
                sql.Identifier("market", target.table),
                rows,
                target.types,
                {"ingested_at": known_at.isoformat()},
            )
    except errors.UniqueViolation:
        return False
    return True


def _any_stored_of(connection: Transaction, target: Target, rows: pd.DataFrame) -> bool:
    start, end = rows["session"].min().date(), rows["session"].max().date()
    return any(
        any_stored(
            connection,
            target,
            {"market": str(market), "symbols": part["symbol"].unique().tolist(), "start": start, "end": end},
        )
        for market, part in rows.groupby("market")
    )


def any_stored(connection: Transaction, target: Target, scope: Mapping[str, object]) -> bool:
    row = connection.execute(target.statement(ANY_STORED), scope).fetchone()
    return row is not None and bool(row[0])


def _listed(alias: str, names: Sequence[str]) -> sql.Composed:
    parts = [sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names]
    return sql.SQL(", ").join(parts)
