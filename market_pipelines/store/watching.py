"""What somebody who watches asks of the tables: which sessions were looked at, which are there, which jobs died."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from psycopg import sql
from psycopg.rows import class_row

from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.ledger import JOB_GRACE, JOB_LOCKS, JobStatus

STOCKS_INTRADAY = "stock_prices_intraday"
_TABLES = (STOCKS, INDICES, STOCKS_INTRADAY)


def looked_at(
    connection: Transaction, market: str, interval: str, symbols: Sequence[str], after: Mapping[date, datetime]
) -> dict[date, int]:
    """How many of the symbols were last looked at no earlier than the session's instant, by session."""
    rows = connection.execute(
        """
        SELECT c.session, count(*)
        FROM unnest(%(sessions)s::date[], %(instants)s::timestamptz[]) AS due (session, at)
        JOIN market.coverage AS c
            ON c.market = %(market)s AND c.interval = %(interval)s AND c.session = due.session
               AND c.last_checked >= due.at
        WHERE c.symbol = ANY(%(symbols)s)
        GROUP BY c.session
        """,
        {
            "sessions": list(after),
            "instants": [checked_instant(at, "after") for at in after.values()],
            "market": market,
            "interval": interval,
            "symbols": list(symbols),
        },
    ).fetchall()
    return {session: int(count) for session, count in rows}


def newest_looked_at(
    connection: Transaction, market: str, interval: str, symbols: Sequence[str], before: date
) -> tuple[date, int] | None:
    """The newest session before a date that anybody looked at, and for how many of the symbols."""
    row = connection.execute(
        """
        SELECT newest.session, count(c.symbol) FILTER (WHERE c.symbol = ANY(%(symbols)s))
        FROM (
            SELECT max(session) AS session FROM market.coverage
            WHERE market = %(market)s AND interval = %(interval)s AND session < %(before)s
        ) AS newest
        JOIN market.coverage AS c
            ON c.market = %(market)s AND c.interval = %(interval)s AND c.session = newest.session
        GROUP BY newest.session
        """,
        {"market": market, "interval": interval, "symbols": list(symbols), "before": before},
    ).fetchone()
    return None if row is None else (row[0], int(row[1]))


def first_looked_at(connection: Transaction, market: str, interval: str, least: int) -> date | None:
    """The oldest session of which at least so many symbols were ever asked for; None where there is none."""
    row = connection.execute(
        """
        SELECT session FROM market.coverage
        WHERE market = %s AND interval = %s
        GROUP BY session
        HAVING count(*) >= %s
        ORDER BY session
        LIMIT 1
        """,
        (market, interval, least),
    ).fetchone()
    return None if row is None else row[0]


def symbols_stored(
    connection: Transaction,
    table: str,
    market: str,
    symbols: Sequence[str],
    sessions: Sequence[date],
    interval: str | None = None,
) -> dict[date, frozenset[str]]:
    """Which of the symbols have a final bar of each session in an agreed table; of the regular hours, for bars
    within sessions."""
    within = sql.SQL("AND interval = %(interval)s AND phase = 'regular'") if table == STOCKS_INTRADAY else sql.SQL("")
    query = sql.SQL("""
        SELECT session, array_agg(DISTINCT symbol)
        FROM {table}
        WHERE market = %(market)s AND session = ANY(%(sessions)s) AND symbol = ANY(%(symbols)s) AND NOT provisional
              {within}
        GROUP BY session
    """).format(table=_agreed(table), within=within)
    parameters = {"market": market, "sessions": list(sessions), "symbols": list(symbols), "interval": interval}
    return {session: frozenset(found) for session, found in connection.execute(query, parameters).fetchall()}


def newest_stored(connection: Transaction, table: str, market: str, interval: str | None = None) -> date | None:
    """The newest session of which anything is stored."""
    within = sql.SQL("AND interval = %(interval)s") if table == STOCKS_INTRADAY else sql.SQL("")
    query = sql.SQL("SELECT max(session) FROM {table} WHERE market = %(market)s {within}").format(
        table=_agreed(table), within=within
    )
    row = connection.execute(query, {"market": market, "interval": interval}).fetchone()
    return None if row is None else row[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    job_id: int
    job_name: str
    kind: str
    market: str
    started_at: datetime
    held: bool
    """Its process lives."""


def running_jobs(connection: Transaction, at: datetime) -> list[RunningJob]:
    """Jobs that run by the log, past the moment in which they may not be held yet."""
    with connection.cursor(row_factory=class_row(RunningJob)) as cursor:
        return cursor.execute(
            """
            WITH running AS MATERIALIZED (
                SELECT job_id, job_name, kind, market, started_at
                FROM market.etl_job_logs
                WHERE status = %(running)s AND started_at < %(at)s::timestamptz - %(grace)s::interval
            )
            SELECT running.*, NOT pg_try_advisory_xact_lock(%(locks)s, job_id::integer) AS held
            FROM running
            ORDER BY started_at
            """,
            {
                "running": str(JobStatus.RUNNING),
                "at": checked_instant(at, "at"),
                "grace": JOB_GRACE,
                "locks": JOB_LOCKS,
            },
        ).fetchall()


def _agreed(table: str) -> sql.Identifier:
    if table not in _TABLES:
        raise ValueError(f"{table} is no table of agreed bars; there are {', '.join(_TABLES)}")
    return sql.Identifier("market", table)
