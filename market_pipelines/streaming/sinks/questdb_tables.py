"""QuestDB's tables: what they hold, how they are made over its PostgreSQL wire, and whether what is there is ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from market_pipelines.market.records import TickKind
from market_pipelines.streaming.sinks.protocol import SinkRefused, SinkUnavailable


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    columns: Mapping[str, str]
    """QuestDB's types, the designated timestamp first."""
    keys: tuple[str, ...]
    """Besides the designated timestamp: what tells two events of one nanosecond apart."""
    renamed: Mapping[str, str]
    """Where a column is called otherwise in the chunk."""

    @property
    def symbols(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "SYMBOL"]

    @property
    def upsert_keys(self) -> tuple[str, ...]:
        return ("ts", *self.keys)

    def statement(self, stamp: str) -> str:
        columns = ", ".join(f"{name} {kind.replace('STAMP', stamp)}" for name, kind in self.columns.items())
        keys = ", ".join(self.upsert_keys)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} ({columns}) "
            f"TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS({keys})"
        )


def _numbers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "DOUBLE")


_WHERE_FROM = {"market": "SYMBOL", "feed": "SYMBOL", "marks": "INT"}
_ARRIVED = {"received_at": "STAMP"}

TABLES: Mapping[TickKind, Table] = {
    TickKind.QUOTES: Table(
        "quotes",
        {
            **{"ts": "STAMP", "symbol": "SYMBOL", **_ARRIVED, "seq": "LONG"},
            **_numbers("bid", "ask", "bid_size", "ask_size"),
            **{"bid_exchange": "SYMBOL", "ask_exchange": "SYMBOL", "conditions": "SYMBOL", **_WHERE_FROM},
        },
        ("symbol", "market", "feed", "seq", "bid_exchange", "ask_exchange"),
        {},
    ),
    TickKind.TRADES: Table(
        "trades",
        {
            **{"ts": "STAMP", "symbol": "SYMBOL", **_ARRIVED, "seq": "LONG"},
            **_numbers("price", "size"),
            **{"exchange": "SYMBOL", "trade_id": "VARCHAR", "conditions": "SYMBOL", "correction": "LONG"},
            **_WHERE_FROM,
        },
        ("symbol", "market", "feed", "seq", "exchange", "trade_id"),
        {},
    ),
    TickKind.AGGREGATES: Table(
        "bars",
        {
            **{"ts": "STAMP", "symbol": "SYMBOL", "seconds": "LONG", **_ARRIVED},
            **_numbers("open", "high", "low", "close", "volume", "vwap", "day_volume"),
            **_WHERE_FROM,
        },
        ("symbol", "market", "feed", "seconds"),
        {
            **{"ts": "start", "open": "o", "high": "h", "low": "l", "close": "c"},
            **{"volume": "v", "vwap": "vw", "day_volume": "av"},
        },
    ),
    TickKind.SNAPSHOTS: Table(
        "snapshots",
        {
            **{"ts": "STAMP", "symbol": "SYMBOL", **_ARRIVED},
            **_numbers("price", "bid", "ask", "bid_size", "ask_size"),
            **_numbers("open", "high", "low", "previous_close", "volume"),
            **{"currency": "SYMBOL", **_WHERE_FROM},
        },
        ("symbol", "market", "feed", "received_at"),
        {},
    ),
    TickKind.BANDS: Table(
        "bands",
        {
            **{"ts": "STAMP", "symbol": "SYMBOL", **_ARRIVED, "seq": "LONG"},
            **_numbers("limit_up", "limit_down"),
            **{"indicators": "SYMBOL", "tape": "SYMBOL", **_WHERE_FROM},
        },
        ("symbol", "market", "feed", "seq"),
        {},
    ),
}


def prepare(connection: psycopg.Connection[Any], where: str) -> None:
    """Makes what is missing, and looks whether what is there is ours and QuestDB applies what it takes."""
    for table in TABLES.values():
        _make(connection, table)
        _check(connection, table, where)
    _check_health(connection, where)


def _make(connection: psycopg.Connection[Any], table: Table) -> None:
    try:
        connection.execute(table.statement("TIMESTAMP_NS").encode())
    except psycopg.DatabaseError as error:
        # Before 9.1 it knew microseconds only; the sequence numbers in the keys keep ticks apart there.
        if "unsupported column type" not in str(error):
            raise
        connection.execute(table.statement("TIMESTAMP").encode())


def _check(connection: psycopg.Connection[Any], table: Table, where: str) -> None:
    found = {
        str(name): (str(kind), bool(key))
        for name, kind, key in connection.execute(
            sql.SQL('SELECT "column", type, upsertKey FROM table_columns({})').format(sql.Literal(table.name))
        ).fetchall()
    }
    keys = {name for name, (_, key) in found.items() if key}
    if keys != set(table.upsert_keys):
        raise SinkRefused(
            f"the table {table.name} of {where} is not one of ours: its upsert keys are "
            f"{', '.join(sorted(keys)) or 'none'}, not {', '.join(table.upsert_keys)}; rename it, or run ALTER TABLE "
            f"{table.name} DEDUP ENABLE UPSERT KEYS({', '.join(table.upsert_keys)})"
        )
    wrong = [name for name, kind in table.columns.items() if not _same(found.get(name, ("", False))[0], kind)]
    if wrong:
        raise SinkRefused(
            f"the table {table.name} of {where} is not one of ours: these columns are missing or of another type: "
            f"{', '.join(wrong)}; rename it"
        )


def _same(found: str, wanted: str) -> bool:
    return found in ("TIMESTAMP", "TIMESTAMP_NS") if wanted == "STAMP" else found == wanted


def _check_health(connection: psycopg.Connection[Any], where: str) -> None:
    ours = {table.name for table in TABLES.values()}
    for name, suspended in connection.execute("SELECT name, suspended FROM wal_tables()").fetchall():
        if suspended and str(name) in ours:
            raise SinkUnavailable(
                f"{where} has suspended its table {name} (often a full disk): it takes rows but does not show them. "
                f"Put the cause right and run ALTER TABLE {name} RESUME WAL"
            )
