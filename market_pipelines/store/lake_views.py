"""The tick lake for DuckDB: the views `quotes`, `trades`, `aggregates`, `snapshots` and `bands` over exactly the
segments that are listed, each tick once.

The views hold the list of files as of when they were made: one that is merged into a larger file stays readable for an
hour. Whoever queries for longer asks for the views anew.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

import duckdb

from market_pipelines.market.live import SCHEMAS, STAMP, TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Transaction
from market_pipelines.store.lake import Segment, TickLake, segments

_TYPES = {
    "timestamp[ns, tz=UTC]": "TIMESTAMPTZ_NS",
    "string": "VARCHAR",
    "double": "DOUBLE",
    "int64": "BIGINT",
    "int32": "INTEGER",
}
_VERSION = '"symbol", "start", "end", "feed", "session", "market"'
_MARKS = [mark.name or "" for mark in TickMark if mark]
"""In the order of their bits."""


def connect_lake(
    connection: Transaction,
    lake: TickLake,
    *,
    market: str | None = None,
    symbols: Sequence[str] = (),
    first_session: date | None = None,
    last_session: date | None = None,
) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with the views; what is named narrows down the files behind them, not the rows. Times are
    shown in UTC."""
    memory = duckdb.connect()
    memory.execute("SET TimeZone = 'UTC'")
    statements = lake_views(
        connection, lake, market=market, symbols=symbols, first_session=first_session, last_session=last_session
    )
    for statement in statements:
        memory.execute(statement)
    return memory


def lake_views(
    connection: Transaction,
    lake: TickLake,
    *,
    market: str | None = None,
    symbols: Sequence[str] = (),
    first_session: date | None = None,
    last_session: date | None = None,
) -> Iterator[str]:
    """The statements that make the views, for any DuckDB that can read the lake's files."""
    for kind in TickKind:
        listed = segments(
            connection,
            kind,
            market=market,
            symbols=symbols,
            first_session=first_session,
            last_session=last_session,
        )
        yield view_of(lake.root, kind, listed)


def script(statements: Sequence[str], root: Path, at: datetime) -> str:
    """A file of SQL that says what it is."""
    return (
        f"-- The tick lake {root} as it was listed at {at:%Y-%m-%d %H:%M:%S} UTC: run it in DuckDB, then query\n"
        "-- quotes, trades, aggregates, snapshots and bands. For what came later, have it written again:\n"
        "--   market-pipelines lake views -o views.sql\n"
        "SET TimeZone = 'UTC';\n" + "".join(f"{statement};\n" for statement in statements)
    )


def view_of(root: Path, kind: TickKind, listed: Sequence[Segment]) -> str:
    sources = []
    for market in sorted({one.market for one in listed}):
        streamed = [one for one in listed if one.market == market and one.stream is not None]
        asked = [one for one in listed if one.market == market and one.stream is None]
        named = f"{_text(market)} AS {_name('market')}"
        if streamed:
            sources.append(f"SELECT {_columns(kind)}, {named} FROM {files_of(root, streamed)}")  # noqa: S608 (quoted)
        if asked:
            # They may be older than today's columns, and may hold the same span twice.
            files = files_of(root, asked, union_by_name=True)
            unmarked = f"SELECT NULL::INTEGER AS {_name('marks')} WHERE false"
            whole = f"(SELECT * FROM {files} UNION ALL BY NAME {unmarked})"  # noqa: S608 (quoted)
            sources.append(f"SELECT {_columns(kind, once=True)}, {named} FROM {whole} GROUP BY ALL")  # noqa: S608 (quoted)
    if not sources:
        nothing = ", ".join(f"NULL::{_TYPES[str(field.type)]} AS {_name(field.name)}" for field in SCHEMAS[kind])
        sources.append(
            f"SELECT {nothing}, NULL::DATE AS {_name('session')}, NULL::VARCHAR AS {_name('market')} WHERE false"
        )
    newest = ""
    if kind is TickKind.AGGREGATES:
        newest = f' QUALIFY row_number() OVER (PARTITION BY {_VERSION} ORDER BY "received_at" DESC) = 1'
    rows = " UNION ALL ".join(sources)
    return f"CREATE OR REPLACE VIEW {_name(kind.value)} AS SELECT {_shown(kind)} FROM ({rows}){newest}"  # noqa: S608 (quoted)


def _shown(kind: TickKind) -> str:
    """Times to the microsecond, with which DuckDB can do everything, and the exact one beside them as a number; marks
    by their names, and their bits beside them."""
    names = []
    for field in SCHEMAS[kind]:
        name = _name(field.name)
        if field.type == STAMP:
            name = f"{name}::TIMESTAMPTZ AS {name}"
        elif field.name == "marks":
            name = f"{_mark_names()} AS {name}"
        names.append(name)
    names += [_name("session"), _name("market"), f"{_name('marks')} AS {_name('mark_bits')}"]
    if "ts" in SCHEMAS[kind].names:
        names.append(f"epoch_ns({_name('ts')}) AS {_name('ts_ns')}")
    return ", ".join(names)


def _columns(kind: TickKind, *, once: bool = False) -> str:
    names = []
    for field in SCHEMAS[kind]:
        name = _name(field.name)
        if once and field.name == "received_at":
            name = f"min({name}) AS {name}"
        elif once and field.name == "marks":
            name = f"min(coalesce({name}, 0)) AS {name}"
        names.append(name)
    return ", ".join([*names, _name("session")])


def files_of(root: Path, listed: Sequence[Segment], *, union_by_name: bool = False) -> str:
    """The rows of these segments, for a FROM."""
    paths = ", ".join(_text(glob.escape(str(root / one.path))) for one in listed)
    options = "hive_partitioning = true, hive_types = {'feed': VARCHAR, 'session': DATE}"
    return f"read_parquet([{paths}], {options}{', union_by_name = true' if union_by_name else ''})"


def _mark_names() -> str:
    names = ", ".join(_text(name) for name in _MARKS)
    return f'list_filter([{names}], lambda name, place: (coalesce("marks", 0) >> (place - 1)) & 1 = 1)'


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
