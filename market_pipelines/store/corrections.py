"""Corrections of final bars that are too large to believe unseen: kept apart until a person decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

import pandas as pd
from psycopg.rows import class_row

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


class Decision(StrEnum):
    HELD = "held"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class UnknownCorrection(Exception):
    """No correction with that number waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCorrection:
    held_id: int
    source_table: str
    market: str
    symbol: str
    session: date
    old_open: float
    old_high: float
    old_low: float
    old_close: float
    old_volume: float | None
    old_provider: str
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    provider: str
    condition: str
    change: float
    """The largest relative change among the four prices."""
    first_seen: datetime
    last_seen: datetime
    times_seen: int
    run_id: str | None
    status: str
    decided_at: datetime | None


def hold(connection: Transaction, frame: pd.DataFrame, table: str, at: datetime, run_id: str | None) -> set[int]:
    """Keeps each row of the frame (new and `old_` values, `change`) until somebody decides; the positions of
    those that somebody has accepted already."""
    checked_instant(at, "at")
    accepted: set[int] = set()
    columns = ("market", "symbol", "session", *VALUE_COLUMNS, "provider", "condition", "change")
    old = tuple(f"old_{name}" for name in (*VALUE_COLUMNS, "provider"))
    for position, row in enumerate(frame[[*columns, *old]].itertuples(index=False)):
        values = {name: _plain(value) for name, value in zip((*columns, *old), row, strict=True)}
        found = connection.execute(
            """
            INSERT INTO market.held_corrections AS h (
                source_table, market, symbol, session, old_open, old_high, old_low, old_close, old_volume,
                old_provider, open, high, low, close, volume, provider, condition, change, first_seen, last_seen, run_id
            )
            VALUES (
                %(table)s, %(market)s, %(symbol)s, %(session)s, %(old_open)s, %(old_high)s, %(old_low)s,
                %(old_close)s, %(old_volume)s, %(old_provider)s, %(open)s, %(high)s, %(low)s, %(close)s, %(volume)s,
                %(provider)s, %(condition)s, %(change)s, %(at)s, %(at)s, %(run_id)s
            )
            ON CONFLICT ON CONSTRAINT held_corrections_row DO UPDATE
            SET last_seen = greatest(h.last_seen, excluded.last_seen), times_seen = h.times_seen + 1,
                run_id = excluded.run_id
            RETURNING status
            """,
            values | {"table": table, "at": at, "run_id": run_id},
        ).fetchone()
        if found is not None and found[0] == Decision.ACCEPTED:
            accepted.add(position)
    return accepted


def held(
    connection: Transaction,
    market: str | None = None,
    *,
    symbols: Sequence[str] | None = None,
    start: date | None = None,
    end: date | None = None,
    status: Decision | None = Decision.HELD,
) -> list[HeldCorrection]:
    """Oldest session first; `status` None: also those that were decided."""
    with connection.cursor(row_factory=class_row(HeldCorrection)) as cursor:
        return cursor.execute(
            """
            SELECT * FROM market.held_corrections
            WHERE (%(market)s::text IS NULL OR market = %(market)s)
                  AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
                  AND (%(start)s::date IS NULL OR session >= %(start)s)
                  AND (%(end)s::date IS NULL OR session <= %(end)s)
                  AND (%(status)s::text IS NULL OR status = %(status)s)
            ORDER BY session, market, symbol, held_id
            """,
            {
                "market": market,
                "symbols": None if symbols is None else list(symbols),
                "start": start,
                "end": end,
                "status": None if status is None else status.value,
            },
        ).fetchall()


def decide(connection: Transaction, held_id: int, decision: Decision, at: datetime) -> HeldCorrection:
    """Marks a waiting correction; `UnknownCorrection` where none with that number waits."""
    with connection.cursor(row_factory=class_row(HeldCorrection)) as cursor:
        found = cursor.execute(
            """
            UPDATE market.held_corrections SET status = %s, decided_at = %s
            WHERE held_id = %s AND status = 'held'
            RETURNING *
            """,
            (decision.value, checked_instant(at, "at"), held_id),
        ).fetchone()
    if found is None:
        raise UnknownCorrection(f"no correction {held_id} waits; market-pipelines corrections list shows those that do")
    return found


def _plain(value: object) -> object:
    if isinstance(value, pd.Timestamp):
        return value.date()
    return None if isinstance(value, float) and pd.isna(value) else value
