"""What was done: every request that went out (`fetches`), and every job (`etl_job_logs`).

All text that came from a request or an answer is redacted on its way in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import redact
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRecord:
    """One request and how it ended."""

    provider: str
    endpoint: str
    outcome: Outcome
    fetched_at: datetime
    market: str = ""
    symbol: str = ""
    start: date | None = None
    end: date | None = None
    http_status: int = 0
    rows: int = 0
    bytes: int = 0
    sha256: str | None = None
    archive_path: str | None = None
    duration: float = 0.0
    """Seconds."""
    url: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the answer."""
    reason: str = ""
    run_id: str | None = None
    capability: str = "daily"
    """What was asked for: `providers.protocol.Capability`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFetch(FetchRecord):
    fetch_id: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", Outcome(self.outcome))


class JobStatus(StrEnum):
    RUNNING = "running"
    SUCCESS = "success"
    PARTIAL = "partial"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    job_id: int
    job_name: str
    kind: str
    market: str
    symbols: Sequence[str]
    started_at: datetime
    finished_at: datetime | None
    status: JobStatus
    records_processed: int
    records_failed: int
    error: str | None
    dagster_run_id: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", JobStatus(self.status))


_FETCH_COLUMNS: LiteralString = """
    fetch_id, provider, endpoint, outcome, fetched_at, market, symbol, "from" AS start, "to" AS "end", http_status,
    rows, bytes, sha256, archive_path, duration, url, params, headers, reason, run_id, capability
"""


def record_fetch(connection: Transaction, record: FetchRecord) -> int:
    """Writes the request down and gives its fetch_id."""
    row = connection.execute(
        """
        INSERT INTO market.fetches (
            provider, endpoint, market, symbol, "from", "to", outcome, http_status, rows, bytes, sha256, archive_path,
            fetched_at, duration, url, params, headers, reason, run_id, capability
        )
        VALUES (
            %(provider)s, %(endpoint)s, %(market)s, %(symbol)s, %(start)s, %(end)s, %(outcome)s, %(http_status)s,
            %(rows)s, %(bytes)s, %(sha256)s, %(archive_path)s, %(fetched_at)s, %(duration)s, %(url)s, %(params)s,
            %(headers)s, %(reason)s, %(run_id)s, %(capability)s
        )
        RETURNING fetch_id
        """,
        {
            "provider": record.provider,
            "endpoint": record.endpoint,
            "market": record.market,
            "symbol": record.symbol,
            "start": record.start,
            "end": record.end,
            "outcome": str(record.outcome),
            "http_status": record.http_status,
            "rows": record.rows,
            "bytes": record.bytes,
            "sha256": record.sha256,
            "archive_path": record.archive_path,
            "fetched_at": checked_instant(record.fetched_at, "fetched_at"),
            "duration": record.duration,
            "url": redact(record.url),
            "params": _redacted(record.params),
            "headers": _redacted(record.headers),
            "reason": redact(record.reason).replace("\x00", ""),
            "run_id": record.run_id,
            "capability": record.capability,
        },
    ).fetchone()
    return int(_only(row)[0])


def fetches(
    connection: Transaction,
    *,
    provider: str | None = None,
    endpoint: str | None = None,
    market: str | None = None,
    symbols: Sequence[str] | None = None,
    outcomes: Sequence[Outcome] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    run_id: str | None = None,
    capability: str | None = None,
    latest_only: bool = False,
    archived_only: bool = False,
    limit: int | None = None,
) -> list[StoredFetch]:
    """The ledger's rows, oldest first; a filter that is None lets everything through.

    `latest_only` keeps the newest of those that asked the same: one provider, endpoint, symbol and range.
    """
    distinct: LiteralString = 'DISTINCT ON (provider, endpoint, market, symbol, "from", "to")' if latest_only else ""
    order: LiteralString = (
        'provider, endpoint, market, symbol, "from", "to", fetched_at DESC, fetch_id DESC'
        if latest_only
        else "fetched_at, fetch_id"
    )
    query = sql.SQL("""
        SELECT * FROM (
            SELECT {distinct} {columns}
            FROM market.fetches
            WHERE (%(provider)s::text IS NULL OR provider = %(provider)s)
                  AND (%(endpoint)s::text IS NULL OR endpoint = %(endpoint)s)
                  AND (%(market)s::text IS NULL OR market = %(market)s)
                  AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
                  AND (%(outcomes)s::text[] IS NULL OR outcome = ANY(%(outcomes)s))
                  AND (%(since)s::timestamptz IS NULL OR fetched_at >= %(since)s)
                  AND (%(until)s::timestamptz IS NULL OR fetched_at <= %(until)s)
                  AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
                  AND (%(capability)s::text IS NULL OR capability = %(capability)s)
                  AND (NOT %(archived_only)s OR sha256 IS NOT NULL)
            ORDER BY {order}
        ) AS found
        ORDER BY fetched_at, fetch_id
        LIMIT %(limit)s
    """).format(distinct=sql.SQL(distinct), columns=sql.SQL(_FETCH_COLUMNS), order=sql.SQL(order))
    parameters = {
        "provider": provider,
        "endpoint": endpoint,
        "market": market,
        "symbols": None if symbols is None else list(symbols),
        "outcomes": None if outcomes is None else [str(outcome) for outcome in outcomes],
        "since": since,
        "until": until,
        "run_id": run_id,
        "capability": capability,
        "archived_only": archived_only,
        "limit": limit,
    }
    with connection.cursor(row_factory=class_row(StoredFetch)) as cursor:
        return cursor.execute(query, parameters).fetchall()


def fetches_by_id(connection: Transaction, numbers: Sequence[int]) -> list[StoredFetch]:
    query = sql.SQL("SELECT {columns} FROM market.fetches WHERE fetch_id = ANY(%s) ORDER BY fetch_id")
    with connection.cursor(row_factory=class_row(StoredFetch)) as cursor:
        return cursor.execute(query.format(columns=sql.SQL(_FETCH_COLUMNS)), (list(numbers),)).fetchall()


JOB_LOCKS = 0x4A4F4253
"""The class of the advisory locks of running jobs."""
JOB_GRACE = timedelta(minutes=1)
"""A job is written down a moment before it is held."""


def job_started(
    connection: Transaction,
    *,
    job_name: str,
    kind: str,
    market: str,
    symbols: Sequence[str],
    started_at: datetime,
    dagster_run_id: str | None = None,
) -> int:
    """Writes the job down as running and gives its job_id."""
    row = connection.execute(
        """
        INSERT INTO market.etl_job_logs (job_name, kind, market, symbols, started_at, status, dagster_run_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        RETURNING job_id
        """,
        (
            job_name,
            kind,
            market,
            list(symbols),
            checked_instant(started_at, "started_at"),
            str(JobStatus.RUNNING),
            dagster_run_id,
        ),
    ).fetchone()
    return int(_only(row)[0])


def hold_job(connection: Transaction, job_id: int) -> None:
    """Says that the job's process lives, for as long as this transaction does; it may idle for hours."""
    connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (JOB_LOCKS, job_id))


def write_off_jobs(connection: Transaction, at: datetime) -> int:
    """Ends the jobs whose process was killed: those that run by the log and that nobody holds."""
    done = connection.execute(
        """
        WITH running AS MATERIALIZED (
            SELECT job_id FROM market.etl_job_logs
            WHERE status = %(running)s AND started_at < %(at)s::timestamptz - %(grace)s::interval
        ),
        dead AS MATERIALIZED (
            SELECT job_id FROM running WHERE pg_try_advisory_xact_lock(%(locks)s, job_id::integer)
        )
        UPDATE market.etl_job_logs AS log
        SET status = %(failure)s, finished_at = %(at)s, error = 'the process ended without a word'
        FROM dead
        WHERE log.job_id = dead.job_id
        """,
        {
            "running": str(JobStatus.RUNNING),
            "failure": str(JobStatus.FAILURE),
            "at": checked_instant(at, "at"),
            "grace": JOB_GRACE,
            "locks": JOB_LOCKS,
        },
    )
    return done.rowcount


def job_finished(
    connection: Transaction,
    job_id: int,
    *,
    status: JobStatus,
    finished_at: datetime,
    records_processed: int = 0,
    records_failed: int = 0,
    error: str | None = None,
) -> None:
    done = connection.execute(
        """
        UPDATE market.etl_job_logs
        SET status = %s, finished_at = %s, records_processed = %s, records_failed = %s, error = %s
        WHERE job_id = %s
        """,
        (
            str(status),
            checked_instant(finished_at, "finished_at"),
            records_processed,
            records_failed,
            None if error is None else redact(error).replace("\x00", ""),
            job_id,
        ),
    )
    if done.rowcount != 1:
        raise LookupError(f"there is no job {job_id} to finish")


def recent_jobs(
    connection: Transaction, *, market: str | None = None, job_name: str | None = None, limit: int = 20
) -> list[Job]:
    """Newest first."""
    with connection.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(
            """
            SELECT job_id, job_name, kind, market, symbols, started_at, finished_at, status, records_processed,
                   records_failed, error, dagster_run_id
            FROM market.etl_job_logs
            WHERE (%(market)s::text IS NULL OR market = %(market)s)
                  AND (%(job_name)s::text IS NULL OR job_name = %(job_name)s)
            ORDER BY started_at DESC, job_id DESC
            LIMIT %(limit)s
            """,
            {"market": market, "job_name": job_name, "limit": limit},
        ).fetchall()


def _redacted(pairs: Mapping[str, str]) -> Jsonb:
    """Each value beside its name, because some secrets are known only by the name of their parameter."""
    clean = {}
    for name, value in pairs.items():
        prefix = f"{name}="
        together = redact(f"{prefix}{value}")
        clean[name] = (
            together.removeprefix(prefix).replace("\x00", "") if together.startswith(prefix) else redact(value)
        )
    return Jsonb(clean)


def _only(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if row is None:
        raise LookupError("the statement gave no row")
    return row
