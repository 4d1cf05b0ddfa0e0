"""From a parsed frame to committed rows: our bulk writers beside `to_sql` and row-wise inserts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pandas as pd
import psycopg
import sqlalchemy
from psycopg import sql

from benchmarks.measure import Cost, Effort, ServerClock, cost_of, one_core
from benchmarks.results import OURS, Figure, Findings, rate
from benchmarks.workplace import embedded_server, server_clock, temporary_home
from market_pipelines.market.bars import AVAILABLE, BASES, CONSENSUS_COLUMNS, PROVIDER_BAR_COLUMNS
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.store import schema
from market_pipelines.store.bars import write_prices, write_provider_bars
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.upsert import Written
from market_pipelines.store.urls import sqlalchemy_url

TARGET = 150_000
METHOD = (
    "One transaction from a frame in memory to the commit, on the embedded PostgreSQL with fsync on, client and "
    "server bound together to one core. Ours checks for duplicates, compares with what is stored, keeps superseded "
    "rows as revisions and counts by symbol. The peers write into a table with the same columns, keys, indexes and "
    "constraints and do none of that; they get fewer rows, because theirs take so long. A `to_sql` that has to replace "
    "deletes the range first; row-wise inserts then say ON CONFLICT DO UPDATE."
)
ROWS, PEER_ROWS, ROWWISE_ROWS = 100_000, 20_000, 5_000
KNOWN_AT = datetime(2026, 1, 2, 22, tzinfo=UTC)
_SESSIONS = 1_000
_MOST_PARAMETERS = 65_535
_EMPTY, _UNCHANGED, _REVISED = "into an empty range", "the same again", "one row in ten revised"


@dataclass(frozen=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    write: Callable[[Transaction, pd.DataFrame, datetime], Written]


_TABLES = (
    _Table("stock_prices", CONSENSUS_COLUMNS, ("market", "symbol", "session"), write_prices),
    _Table("provider_bars", PROVIDER_BAR_COLUMNS, ("market", "symbol", "session", "provider"), write_provider_bars),
)


def bars(rows: int) -> pd.DataFrame:
    """That many bars of as many symbols as it takes, by symbol and session."""
    sessions = trading_calendar("XNYS", KNOWN_AT).sessions(datetime(2000, 1, 1, tzinfo=UTC).date(), KNOWN_AT.date())
    sessions = sessions[-_SESSIONS:]
    chance = np.random.default_rng(1)
    place = np.arange(rows)
    close = np.round(100 * np.exp(np.cumsum(chance.normal(0, 0.01, rows))), 2)
    close = 50 + close % 400
    opening = np.round(close * chance.normal(1, 0.005, rows), 2)
    return pd.DataFrame(
        {
            "symbol": pd.Series([f"S{number:04d}" for number in place // len(sessions)], dtype="str"),
            "session": np.array(sessions, dtype="datetime64[s]")[place % len(sessions)],
            "open": opening,
            "high": np.round(np.maximum(opening, close) * 1.01, 2),
            "low": np.round(np.minimum(opening, close) * 0.99, 2),
            "close": close,
            "volume": np.round(chance.lognormal(14, 1, rows)),
            "provisional": False,
            "market": "us",
            "provider": "simulated-yahoo",
            "condition": AVAILABLE,
            "basis": BASES[0],
        }
    )


def revised(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(volume=frame["volume"] + (np.arange(len(frame)) % 10 == 0))


def run(effort: Effort) -> Findings:
    sizes = (effort.of(ROWS, 1_000), effort.of(PEER_ROWS, 200), effort.of(ROWWISE_ROWS, 50))
    with temporary_home() as home, one_core() as bound, embedded_server(home) as server:
        server.ensure_database("bench")
        url = server.url("bench")
        schema.upgrade(url)
        with Database(url, statement_timeout=600) as database:
            bench = _Bench(database, sqlalchemy.create_engine(sqlalchemy_url(url)), server_clock(server))
            figures = tuple(figure for table in _TABLES for figure in bench.figures(table, effort, sizes))
            bench.engine.dispose()
    notes = [f"{sizes[0]:,} rows for ours, {sizes[1]:,} for the peers in bulk, {sizes[2]:,} for one execute a row."]
    if not bound:
        notes.append("This system cannot bind processes to a core: client and server had all of them.")
    return Findings(figures, tuple(notes))


@dataclass(frozen=True)
class _Bench:
    database: Database
    engine: sqlalchemy.Engine
    clock: ServerClock

    def figures(self, table: _Table, effort: Effort, sizes: tuple[int, int, int]) -> list[Figure]:
        with self.database.connection() as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS peer")
            connection.execute(
                sql.SQL("CREATE TABLE {peer} (LIKE {ours} INCLUDING ALL)").format(
                    peer=sql.Identifier("peer", table.name), ours=sql.Identifier("market", table.name)
                )
            )
        rows, peer_rows, rowwise_rows = sizes
        ours = bars(rows)[list(table.columns)]
        frame = bars(peer_rows)[list(table.columns)].assign(ingested_at=KNOWN_AT)
        few = frame.head(rowwise_rows)
        costs: dict[tuple[str, str], list[Cost]] = {}

        def note(scenario: str, who: str, work: Callable[[], object]) -> None:
            costs.setdefault((scenario, who), []).append(cost_of(work, self.clock))

        to_sql, to_sql_multi = "pandas to_sql", "pandas to_sql, method='multi'"
        executemany, execute = "psycopg executemany", "psycopg execute, row by row"
        for _ in range(effort.repetitions):
            self._empty(f"market.{table.name}", "market.bar_revisions")
            note(_EMPTY, OURS, partial(self._ours, table, ours, rows, 0))
            note(_UNCHANGED, OURS, partial(self._ours, table, ours, 0, 0))
            note(_REVISED, OURS, partial(self._ours, table, revised(ours), 0, len(range(0, rows, 10))))

            self._empty(f"peer.{table.name}")
            note(_EMPTY, to_sql, partial(self._to_sql, table, frame))
            note(_UNCHANGED, to_sql, partial(self._to_sql, table, frame, replace=True))
            note(_REVISED, to_sql, partial(self._to_sql, table, revised(frame), replace=True))
            self._empty(f"peer.{table.name}")
            note(_EMPTY, to_sql_multi, partial(self._to_sql, table, frame, method="multi"))
            self._empty(f"peer.{table.name}")
            note(_EMPTY, executemany, partial(self._executemany, table, frame))
            note(_UNCHANGED, executemany, partial(self._executemany, table, frame))
            note(_REVISED, executemany, partial(self._executemany, table, revised(frame)))
            self._empty(f"peer.{table.name}")
            note(_EMPTY, execute, partial(self._execute, table, few))

        written = {OURS: rows, execute: len(few)}
        return [
            Figure(
                f"`{table.name}`: {scenario}",
                "rows/s",
                "more",
                ours=rate(OURS, rows, costs[scenario, OURS]),
                peers=tuple(
                    rate(who, written.get(who, len(frame)), measured)
                    for (found, who), measured in costs.items()
                    if found == scenario and who != OURS
                ),
                target=TARGET,
            )
            for scenario in (_EMPTY, _UNCHANGED, _REVISED)
        ]

    def _empty(self, *tables: str) -> None:
        with self.database.connection() as connection:
            for name in tables:
                connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(*name.split("."))))

    def _ours(self, table: _Table, frame: pd.DataFrame, inserted: int, changed: int) -> None:
        with self.database.connection() as connection:
            total = table.write(connection, frame, KNOWN_AT).total
        assert (total.inserted, total.revised) == (inserted, changed)

    def _to_sql(self, table: _Table, frame: pd.DataFrame, method: str | None = None, *, replace: bool = False) -> None:
        with self.engine.begin() as connection:
            if replace:
                connection.execute(
                    sqlalchemy.text(
                        f"DELETE FROM peer.{table.name} "  # noqa: S608 (a name of this file)
                        "WHERE market = 'us' AND session BETWEEN :start AND :end"
                    ),
                    {"start": frame["session"].min(), "end": frame["session"].max()},
                )
            frame.to_sql(
                table.name,
                connection,
                schema="peer",
                if_exists="append",
                index=False,
                method="multi" if method == "multi" else None,
                chunksize=_MOST_PARAMETERS // len(frame.columns) if method == "multi" else None,
            )

    def _executemany(self, table: _Table, frame: pd.DataFrame) -> None:
        with self.database.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(_upsert(table), frame.itertuples(index=False, name=None))

    def _execute(self, table: _Table, frame: pd.DataFrame) -> None:
        statement = _upsert(table)
        with self.database.connection() as connection:
            for row in frame.itertuples(index=False, name=None):
                connection.execute(statement, row)


def _upsert(table: _Table) -> psycopg.sql.Composed:
    columns = (*table.columns, "ingested_at")
    return sql.SQL(
        "INSERT INTO {table} ({columns}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {changes}"
    ).format(
        table=sql.Identifier("peer", table.name),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
        changes=sql.SQL(", ").join(
            sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name))
            for name in columns
            if name not in table.key
        ),
    )
