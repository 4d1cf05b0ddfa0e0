"""Columns into a temporary table of the transaction by COPY: the first half of every bulk upsert of a stream."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from market_pipelines.store.database import Transaction

_CHUNK_BYTES = 1 << 20


def stage_columns(connection: Transaction, table: str, columns: pa.Table, types: Mapping[str, str]) -> sql.Identifier:
    """The temporary table `staged_<table>` with these columns, each of the PostgreSQL type that `types` names. Once a
    transaction: the commit empties it."""
    name = sql.Identifier(f"staged_{table}")
    definition = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in types.items()
    )
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(name, definition)
    )
    buffer = pa.BufferOutputStream()
    chosen = columns.select(list(types))
    pyarrow.csv.write_csv(chosen, buffer, pyarrow.csv.WriteOptions(include_header=False, batch_size=65_536))
    content = memoryview(buffer.getvalue())
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
        name, sql.SQL(", ").join(map(sql.Identifier, types))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for start in range(0, len(content), _CHUNK_BYTES):
            copy.write(content[start : start + _CHUNK_BYTES])
    return name
