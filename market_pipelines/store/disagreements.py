"""What providers say differently of the same daily bar: kept once a pair, counted, and closed when they agree again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
from psycopg import sql

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
    "provider": TEXT,
    "other": TEXT,
    "close": NUMBER,
    "other_close": NUMBER,
    "bp": NUMBER,
    "volume": NUMBER,
    "other_volume": NUMBER,
    "volume_share": NUMBER,
    "kind": TEXT,
    "tolerance_bp": NUMBER,
}
_KEY = ["symbol", "session", "provider", "other"]
_STORED: dict[str, pa.DataType] = {
    "disagreement_id": COUNT,
    "market": TEXT,
    **_ROW,
    "first_seen": INSTANT,
    "last_seen": INSTANT,
    "times_seen": COUNT,
    "resolved_at": INSTANT,
    "run_id": TEXT,
}

_WRITE = """
WITH written AS (
    INSERT INTO market.provider_disagreements AS d (
        market, symbol, session, provider, other, close, other_close, bp, volume, other_volume, volume_share, kind,
        tolerance_bp, first_seen, last_seen, run_id
    )
    SELECT %(market)s, symbol, session, provider, other, close, other_close, bp, volume, other_volume, volume_share,
           kind, tolerance_bp, %(at)s, %(at)s, %(run_id)s
    FROM incoming_provider_disagreements
    ORDER BY symbol, session, provider, other
    ON CONFLICT ON CONSTRAINT provider_disagreements_pair DO UPDATE
    SET close = excluded.close, other_close = excluded.other_close, bp = excluded.bp, volume = excluded.volume,
        other_volume = excluded.other_volume, volume_share = excluded.volume_share, kind = excluded.kind,
        tolerance_bp = excluded.tolerance_bp, run_id = excluded.run_id, resolved_at = NULL,
        last_seen = greatest(d.last_seen, excluded.last_seen), times_seen = d.times_seen + 1
    RETURNING xmax = 0 AS new
)
SELECT count(*), count(*) FILTER (WHERE new) FROM written
"""

_RESOLVE = """
UPDATE market.provider_disagreements AS d
SET resolved_at = greatest(%(at)s, d.last_seen)
WHERE d.resolved_at IS NULL AND d.market = %(market)s AND d.symbol = ANY(%(symbols)s)
      AND d.session BETWEEN %(start)s AND %(end)s
      AND NOT EXISTS (
          SELECT FROM incoming_provider_disagreements AS i
          WHERE (i.symbol, i.session, i.provider, i.other) = (d.symbol, d.session, d.provider, d.other)
      )
"""


@dataclass(frozen=True, slots=True)
class DisagreementCounts:
    standing: int
    """That were found now."""
    new: int
    resolved: int


def write_disagreements(
    connection: Transaction,
    frame: pd.DataFrame,
    market: str,
    symbols: Sequence[str],
    start: date,
    end: date,
    *,
    at: datetime,
    run_id: str | None,
) -> DisagreementCounts:
    """All that there is of these symbols between two sessions, both included: what is not in the frame is resolved."""
    checked_instant(at, "at")
    stage(connection, "provider_disagreements", checked_frame(frame, list(_ROW), _KEY), _ROW)
    parameters = {
        "market": market,
        "symbols": list(symbols),
        "start": start,
        "end": end,
        "at": at,
        "run_id": run_id,
    }
    resolved = connection.execute(_RESOLVE, parameters).rowcount
    standing, new = connection.execute(_WRITE, parameters).fetchone() or (0, 0)
    return DisagreementCounts(standing, new, resolved)


def read_disagreements(
    connection: Transaction,
    market: str | None = None,
    *,
    symbols: Sequence[str] = (),
    start: date | None = None,
    end: date | None = None,
    unresolved: bool = True,
    limit: int = 1000,
) -> pd.DataFrame:
    """Newest session first, within it the widest first. `unresolved` False: also those that are over."""
    query = sql.SQL("""
        SELECT {columns}
        FROM market.provider_disagreements
        WHERE (%(market)s::text IS NULL OR market = %(market)s)
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
              AND (%(start)s::date IS NULL OR session >= %(start)s)
              AND (%(end)s::date IS NULL OR session <= %(end)s)
              AND (resolved_at IS NULL OR NOT %(unresolved)s)
        ORDER BY session DESC, bp DESC, disagreement_id
        LIMIT %(limit)s
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _STORED)))
    parameters = {
        "market": market,
        "symbols": list(symbols) or None,
        "start": start,
        "end": end,
        "unresolved": unresolved,
        "limit": limit,
    }
    return read_frame(connection, query, parameters, _STORED)
