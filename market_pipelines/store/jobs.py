"""The jobs that people have scheduled, and how their last runs ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors

from market_pipelines.market.jobs import ScheduledJob
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.ledger import JobStatus


class JobExists(Exception):
    """Another job has that name already."""


@dataclass(frozen=True, slots=True)
class LastRun:
    started_at: datetime
    finished_at: datetime | None
    status: JobStatus
    records_processed: int
    records_failed: int
    error: str | None
    dagster_run_id: str | None


@dataclass(frozen=True, slots=True)
class StoredJob:
    job: ScheduledJob
    last_run: LastRun | None


def add_job(connection: Transaction, job: ScheduledJob) -> None:
    try:
        with connection.transaction():
            connection.execute(
                """
                INSERT INTO market.scheduled_jobs (
                    name, market, symbols, interval, interval_minutes, extended_hours, created_at
                )
                VALUES (%s, %s, %s, %s, %s, %s, %s)
                """,
                (
                    job.name,
                    job.market,
                    list(job.symbols),
                    job.interval,
                    job.interval_minutes,
                    job.extended_hours,
                    checked_instant(job.created_at, "created_at"),
                ),
            )
    except errors.UniqueViolation:
        raise JobExists(f"there is a job {job.name} already: remove it first, or take another name") from None


def remove_job(connection: Transaction, name: str) -> bool:
    """Whether there was one. The log of its runs stays."""
    return connection.execute("DELETE FROM market.scheduled_jobs WHERE name = %s", (name,)).rowcount == 1


def note_requested(connection: Transaction, names: Sequence[str], at: datetime) -> None:
    connection.execute(
        "UPDATE market.scheduled_jobs SET last_requested_at = %s WHERE name = ANY(%s)",
        (checked_instant(at, "at"), list(names)),
    )


def scheduled_jobs(connection: Transaction, names: Sequence[str] | None = None) -> list[StoredJob]:
    """By name, each with the last of its runs since it was added."""
    rows = connection.execute(
        """
        SELECT j.name, j.market, j.symbols, j.interval, j.interval_minutes, j.extended_hours, j.created_at,
               j.last_requested_at, r.started_at, r.finished_at, r.status, r.records_processed, r.records_failed,
               r.error, r.dagster_run_id
        FROM market.scheduled_jobs AS j
        LEFT JOIN LATERAL (
            SELECT * FROM market.etl_job_logs AS l
            WHERE l.job_name = 'scheduled ' || j.name AND l.started_at >= j.created_at
            ORDER BY l.started_at DESC, l.job_id DESC
            LIMIT 1
        ) AS r ON true
        WHERE %(names)s::text[] IS NULL OR j.name = ANY(%(names)s)
        ORDER BY j.name
        """,
        {"names": None if names is None else list(names)},
    ).fetchall()
    found = []
    for name, market, symbols, interval, minutes, extended, created, requested, started, *rest in rows:
        job = ScheduledJob(name, market, tuple(symbols), interval, minutes, extended, created, requested)
        last = None
        if started is not None:
            finished, status, processed, failed, error, run_id = rest
            last = LastRun(started, finished, JobStatus(status), processed, failed, error, run_id)
        found.append(StoredJob(job, last))
    return found
