"""Rows that a quality rule kept out or marked: kept as they came, once per row and rule, never thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
from psycopg import sql

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.redaction import redact
from market_pipelines.store.copying import (
    COUNT,
    DATE,
    INSTANT,
    NUMBER,
    TEXT,
    checked_frame,
    checked_instant,
    read_frame,
    stage,
)
from market_pipelines.store.database import Transaction

_ROW: dict[str, pa.DataType] = {
    "symbol": TEXT,
    "session": DATE,
    **dict.fromkeys(VALUE_COLUMNS, NUMBER),
    "provider": TEXT,
    "rule": TEXT,
    "severity": TEXT,
    "detail": TEXT,
}
_KEY = ["symbol", "session", *VALUE_COLUMNS, "provider", "rule"]
_STORED = {"market": TEXT} | _ROW | {"run_id": TEXT, "first_seen": INSTANT, "last_seen": INSTANT, "times_seen": COUNT}

_WRITE = """
WITH written AS (
    INSERT INTO market.quarantine AS q (
        market, symbol, session, open, high, low, close, volume, provider, rule, severity, detail, run_id, first_seen,
        last_seen
    )
    SELECT %(market)s, symbol, session, open, high, low, close, volume, provider, rule, severity,
           coalesce(detail, ''), %(run_id)s, %(at)s, %(at)s
    FROM incoming_quarantine
    ORDER BY symbol, session, provider, rule
    ON CONFLICT (market, symbol, session, provider, rule, open, high, low, close, volume) DO UPDATE
    SET severity = excluded.severity, detail = excluded.detail, run_id = excluded.run_id,
        last_seen = greatest(q.last_seen, excluded.last_seen), times_seen = q.times_seen + 1
    RETURNING xmax = 0 AS new
)
SELECT count(*) FILTER (WHERE new) FROM written
"""


def quarantine_rows(connection: Transaction, frame: pd.DataFrame, market: str, run_id: str | None, at: datetime) -> int:
    """How many of the rows are new here; one that was kept before under the same rule is only counted up."""
    checked_instant(at, "at")
    if frame.empty:
        return 0
    stage(connection, "quarantine", _storable(frame), _ROW)
    row = connection.execute(_WRITE, {"market": market, "run_id": run_id, "at": at}).fetchone()
    return 0 if row is None else int(row[0])


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Bad rows may be bad in any way: what is no number or no date is left empty, `detail` says what it was."""
    rows = frame.copy()
    for name in _KEY:
        if name not in rows.columns:
            rows[name] = None
    rows["session"] = pd.to_datetime(rows["session"], errors="coerce", format="ISO8601").astype("datetime64[s]")
    for name in VALUE_COLUMNS:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype("float64")
    for name in ("symbol", "provider"):
        rows[name] = rows[name].fillna("").astype(str).str.replace("\x00", "")
    rows["detail"] = [redact(str(text)).replace("\x00", "") for text in rows["detail"].fillna("")]
    return checked_frame(rows.drop_duplicates(_KEY), list(_ROW), _KEY)


def read_quarantine(
    connection: Transaction,
    market: str | None = None,
    *,
    symbols: Sequence[str] = (),
    run_id: str | None = None,
    start: date | None = None,
    end: date | None = None,
    limit: int = 1000,
) -> pd.DataFrame:
    """Newest first; a filter that is not given lets everything through. `run_id`: the run that saw a row last."""
    query = sql.SQL("""
        SELECT {columns}
        FROM market.quarantine
        WHERE (%(market)s::text IS NULL OR market = %(market)s)
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
              AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
              AND (%(start)s::date IS NULL OR session >= %(start)s)
              AND (%(end)s::date IS NULL OR session <= %(end)s)
        ORDER BY last_seen DESC, quarantine_id DESC
        LIMIT %(limit)s
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _STORED)))
    parameters = {
        "market": market,
        "symbols": list(symbols) or None,
        "run_id": run_id,
        "start": start,
        "end": end,
        "limit": limit,
    }
    return read_frame(connection, query, parameters, _STORED)
