"""Rows that a quality rule kept out or marked: kept as they came, once per row and rule, never thrown away.

And what people decided about them. A decision holds for exactly the values of its row: it is found again by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

import pandas as pd
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.redaction import redact
from market_pipelines.store.copying import (
    COUNT,
    DATE,
    FLAG,
    INSTANT,
    NUMBER,
    TEXT,
    checked_frame,
    checked_instant,
    read_frame,
    stage,
)
from market_pipelines.store.database import Transaction

DAILY = "1d"

_ROW: dict[str, pa.DataType] = {
    "symbol": TEXT,
    "session": DATE,
    **dict.fromkeys(VALUE_COLUMNS, NUMBER),
    "provider": TEXT,
    "rule": TEXT,
    "severity": TEXT,
    "detail": TEXT,
    "interval": TEXT,
    "ts": INSTANT,
    "basis": TEXT,
    "provisional": FLAG,
}
_KEY = ["symbol", "session", *VALUE_COLUMNS, "provider", "rule", "interval", "ts"]
_STORED: dict[str, pa.DataType] = {
    "quarantine_id": COUNT,
    "market": TEXT,
    **_ROW,
    "run_id": TEXT,
    "first_seen": INSTANT,
    "last_seen": INSTANT,
    "times_seen": COUNT,
    "decision": TEXT,
    "decided_at": INSTANT,
    "decided_by": TEXT,
    "reason": TEXT,
}

_WRITE = """
WITH written AS (
    INSERT INTO market.quarantine AS q (
        market, symbol, session, open, high, low, close, volume, provider, rule, severity, detail, interval, ts, basis,
        provisional, run_id, first_seen, last_seen
    )
    SELECT %(market)s, symbol, session, open, high, low, close, volume, provider, rule, severity,
           coalesce(detail, ''), interval, ts, basis, provisional, %(run_id)s, %(at)s, %(at)s
    FROM incoming_quarantine
    ORDER BY symbol, session, provider, rule, ts
    ON CONFLICT (market, symbol, session, provider, rule, interval, ts, open, high, low, close, volume) DO UPDATE
    SET severity = excluded.severity, detail = excluded.detail, basis = excluded.basis,
        provisional = excluded.provisional, run_id = excluded.run_id,
        last_seen = greatest(q.last_seen, excluded.last_seen), times_seen = q.times_seen + 1
    RETURNING xmax = 0 AS new
)
SELECT count(*) FILTER (WHERE new) FROM written
"""


class Decision(StrEnum):
    RELEASED = "released"
    """Exactly these values pass exactly this rule, now and whenever they come again."""
    DROPPED = "dropped"
    """The row stays out, and nobody has to look at it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRow:
    """One row under one rule."""

    quarantine_id: int
    market: str
    symbol: str
    session: date | None
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None
    provider: str
    rule: str
    severity: str
    detail: str
    interval: str | None
    """1d, or that of a bar within its session; None for such a bar of which no more was kept than the session."""
    ts: datetime | None
    basis: str | None
    provisional: bool | None
    run_id: str | None
    first_seen: datetime
    last_seen: datetime
    times_seen: int
    decision: str | None
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None

    @property
    def values(self) -> tuple[float | None, ...]:
        return self.open, self.high, self.low, self.close, self.volume

    @property
    def bar(self) -> tuple[object, ...]:
        """Which bar it claims to be: the same for all versions of it."""
        return self.market, self.symbol, self.session, self.provider, self.interval, self.ts


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
    rows["interval"] = rows["interval"].astype("str") if "interval" in rows.columns else DAILY
    for name in (*_KEY, "basis", "provisional"):
        if name not in rows.columns:
            rows[name] = None
    rows["ts"] = pd.to_datetime(rows["ts"], errors="coerce", utc=True).astype("datetime64[us, UTC]")
    rows["provisional"] = rows["provisional"].astype("boolean")
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
    rule: str | None = None,
    interval: str | None = None,
    run_id: str | None = None,
    start: date | None = None,
    end: date | None = None,
    undecided: bool = False,
    limit: int = 1000,
) -> pd.DataFrame:
    """Newest first; a filter that is not given lets everything through. `run_id`: the run that saw a row last."""
    query = sql.SQL("""
        SELECT {columns}
        FROM market.quarantine
        WHERE (%(market)s::text IS NULL OR market = %(market)s)
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
              AND (%(rule)s::text IS NULL OR rule = %(rule)s)
              AND (%(interval)s::text IS NULL OR interval = %(interval)s)
              AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
              AND (%(start)s::date IS NULL OR session >= %(start)s)
              AND (%(end)s::date IS NULL OR session <= %(end)s)
              AND (decision IS NULL OR NOT %(undecided)s)
        ORDER BY last_seen DESC, quarantine_id DESC
        LIMIT %(limit)s
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _STORED)))
    parameters = {
        "market": market,
        "symbols": list(symbols) or None,
        "rule": rule,
        "interval": interval,
        "run_id": run_id,
        "start": start,
        "end": end,
        "undecided": undecided,
        "limit": limit,
    }
    return read_frame(connection, query, parameters, _STORED)


def open_rows(
    connection: Transaction,
    market: str | None = None,
    *,
    symbols: Sequence[str] = (),
    rule: str | None = None,
    interval: str | None = None,
    start: date | None = None,
    end: date | None = None,
    limit: int = 1000,
) -> pd.DataFrame:
    """The rows about which nobody has decided yet, as `read_quarantine` gives them. `interval`: 1d for daily bars."""
    return read_quarantine(
        connection,
        market,
        symbols=symbols,
        rule=rule,
        interval=interval,
        start=start,
        end=end,
        undecided=True,
        limit=limit,
    )


def count_open(connection: Transaction, market: str | None = None) -> Mapping[tuple[str, str], int]:
    """How many rows nobody has decided about, by market and rule."""
    rows = connection.execute(
        """
        SELECT market, rule, count(*) FROM market.quarantine
        WHERE decision IS NULL AND (%(market)s::text IS NULL OR market = %(market)s)
        GROUP BY market, rule
        ORDER BY market, rule
        """,
        {"market": market},
    ).fetchall()
    return {(of, rule): count for of, rule, count in rows}


def kept_rows(connection: Transaction, ids: Sequence[int], *, hold: bool = False) -> dict[int, KeptRow]:
    """By number, those that there are. `hold`: nobody else decides about them until the transaction ends."""
    with connection.cursor(row_factory=class_row(KeptRow)) as cursor:
        statement = sql.SQL(
            "SELECT {columns} FROM market.quarantine WHERE quarantine_id = ANY(%s) ORDER BY quarantine_id {hold}"
        ).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, _STORED)),
            hold=sql.SQL("FOR UPDATE" if hold else ""),
        )
        return {row.quarantine_id: row for row in cursor.execute(statement, (list(ids),)).fetchall()}


def released_rows(
    connection: Transaction,
    market: str,
    symbols: Sequence[str],
    interval: str,
    start: date | None = None,
    end: date | None = None,
) -> list[KeptRow]:
    """What may pass a rule because somebody said so."""
    with connection.cursor(row_factory=class_row(KeptRow)) as cursor:
        statement = sql.SQL("""
            SELECT {columns}
            FROM market.quarantine
            WHERE decision = 'released' AND market = %(market)s AND symbol = ANY(%(symbols)s)
                  AND interval = %(interval)s
                  AND (%(start)s::date IS NULL OR session >= %(start)s)
                  AND (%(end)s::date IS NULL OR session <= %(end)s)
            ORDER BY quarantine_id
        """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _STORED)))
        parameters = {
            "market": market,
            "symbols": list(symbols),
            "interval": interval,
            "start": start,
            "end": end,
        }
        return cursor.execute(statement, parameters).fetchall()


def write_decision(
    connection: Transaction, ids: Sequence[int], decision: Decision | None, at: datetime, by: str, reason: str
) -> None:
    """Of these rows, whatever was decided before. None: nobody has decided."""
    taken = decision is not None
    connection.execute(
        """
        UPDATE market.quarantine SET decision = %s, decided_at = %s, decided_by = %s, reason = %s
        WHERE quarantine_id = ANY(%s)
        """,
        (
            decision.value if decision is not None else None,
            checked_instant(at, "at") if taken else None,
            redact(by).replace("\x00", "") if taken else None,
            (redact(reason).replace("\x00", "") or None) if taken else None,
            list(ids),
        ),
    )


def withdraw_bar(connection: Transaction, row: KeptRow) -> bool:
    """Takes the row's bar out of what its provider says, if it still has these values; whether it was there."""
    within_a_session = row.interval != DAILY
    done = connection.execute(
        sql.SQL("""
            DELETE FROM {table} AS p
            WHERE p.market = %(market)s AND p.symbol = %(symbol)s AND p.session = %(session)s
                  AND p.provider = %(provider)s AND {same}
                  AND (p.open, p.high, p.low, p.close, p.volume) IS NOT DISTINCT FROM
                      (%(open)s::float8, %(high)s::float8, %(low)s::float8, %(close)s::float8, %(volume)s::float8)
        """).format(
            table=sql.Identifier("market", "provider_bars_intraday" if within_a_session else "provider_bars"),
            same=sql.SQL("p.interval = %(interval)s AND p.ts = %(ts)s" if within_a_session else "true"),
        ),
        {
            "market": row.market,
            "symbol": row.symbol,
            "session": row.session,
            "provider": row.provider,
            "interval": row.interval,
            "ts": row.ts,
            **dict(zip(VALUE_COLUMNS, row.values, strict=True)),
        },
    )
    return done.rowcount > 0
