"""Frames in and out of PostgreSQL as CSV through COPY, the fastest way that needs no format of our own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from market_pipelines.store.database import Transaction

TEXT, NUMBER, FLAG = pa.string(), pa.float64(), pa.bool_()
DATE, INSTANT, COUNT = pa.date32(), pa.timestamp("us", tz="UTC"), pa.int64()
_WORTH_ANALYZING = 5_000
_CHUNK_BYTES = 1 << 20


def checked_instant(value: datetime, name: str) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{name} has to be an aware datetime, and {value.isoformat()} has no time zone")
    return value


def checked_frame(frame: pd.DataFrame, columns: Sequence[str], key: Sequence[str]) -> pd.DataFrame:
    """The wanted columns; complains about missing ones and about two rows for one key."""
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        raise ValueError(f"the frame has no column {', '.join(lacking)}; it has {', '.join(map(str, frame.columns))}")
    twice = frame.duplicated(list(key))
    if twice.any():
        first = frame.loc[twice, list(key)].iloc[0].to_dict()
        raise ValueError(f"{int(twice.sum())} rows share their {', '.join(key)} with another, the first is {first}")
    return frame[list(columns)]


def stage(
    connection: Transaction, table: str, frame: pd.DataFrame, columns: Mapping[str, pa.DataType]
) -> sql.Identifier:
    """The frame in a temporary table of this transaction, named `incoming_<table>`, columns typed as in `table`."""
    name = sql.Identifier(f"incoming_{table}")
    selected = sql.SQL(", ").join(map(sql.Identifier, columns))
    connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {name} ON COMMIT DELETE ROWS AS "
            "SELECT {columns} FROM market.{table} WITH NO DATA"
        ).format(name=name, columns=selected, table=sql.Identifier(table))
    )
    connection.execute(sql.SQL("TRUNCATE {name}").format(name=name))
    copy_frame(connection, name, frame, columns)
    if len(frame) >= _WORTH_ANALYZING:
        connection.execute(sql.SQL("ANALYZE {name}").format(name=name))
    return name


def copy_frame(
    connection: Transaction,
    table: sql.Composable,
    frame: pd.DataFrame,
    columns: Mapping[str, pa.DataType],
    constants: Mapping[str, str] | None = None,
) -> None:
    """COPYs the frame's columns, and constants as further columns, into a table."""
    arrow = pa.Table.from_pandas(frame[list(columns)], schema=pa.schema(columns), preserve_index=False, safe=False)
    for name, value in (constants or {}).items():
        arrow = arrow.append_column(name, pa.repeat(pa.scalar(value), len(frame)))
    buffer = pa.BufferOutputStream()
    pyarrow.csv.write_csv(arrow, buffer, pyarrow.csv.WriteOptions(include_header=False, batch_size=65_536))
    statement = sql.SQL("COPY {table} ({columns}) FROM STDIN (FORMAT csv)").format(
        table=table, columns=sql.SQL(", ").join(map(sql.Identifier, arrow.column_names))
    )
    content = memoryview(buffer.getvalue())
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for start in range(0, len(content), _CHUNK_BYTES):
            copy.write(content[start : start + _CHUNK_BYTES])


def read_frame(
    connection: Transaction,
    query: sql.Composable,
    parameters: Mapping[str, Any],
    columns: Mapping[str, pa.DataType],
) -> pd.DataFrame:
    """What a query gives, its columns in the order and with the types that `columns` names."""
    statement = sql.SQL("COPY ({query}) TO STDOUT (FORMAT csv)").format(query=query)
    received = io.BytesIO()
    with connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
        for block in copy:
            received.write(block)
    types = {name: _readable(kind) for name, kind in columns.items()}
    if received.tell() == 0:
        arrow = pa.schema(types).empty_table()
    else:
        received.seek(0)
        arrow = pyarrow.csv.read_csv(
            received,
            read_options=pyarrow.csv.ReadOptions(column_names=list(columns), use_threads=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                true_values=["t"],
                false_values=["f"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    return arrow.to_pandas()


def _readable(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("s") if kind == DATE else kind
