"""How a refresh ended, symbol by symbol, and its line in the job log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.platform import Platform
from market_pipelines.redaction import redact
from market_pipelines.store.ledger import JobStatus, hold_job, job_finished, job_started, write_off_jobs


@dataclass(frozen=True, slots=True)
class SymbolResult:
    symbol: str
    outcome: Outcome
    provider: str | None
    rows: int
    """Stored rows of the symbol in the range, after the refresh."""
    revisions: int
    requests: int
    reason: str
    quarantined: int = 0
    changed: int = 0
    """Of the stored rows: new ones, others than before, and withdrawn ones."""


@dataclass(frozen=True)
class RefreshReport:
    market: str
    start: date
    end: date
    run_id: str
    symbols: tuple[SymbolResult, ...]
    sessions: int
    skipped: tuple[str, ...] = ()
    """Symbols that were complete and not asked for."""

    @property
    def failed(self) -> tuple[SymbolResult, ...]:
        return tuple(result for result in self.symbols if not result.outcome.delivered)

    @property
    def rows(self) -> int:
        return sum(result.rows for result in self.symbols)


@dataclass
class Job:
    """A line of `etl_job_logs` in the making."""

    status: JobStatus = JobStatus.SUCCESS
    processed: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, results: Sequence[SymbolResult]) -> None:
        for result in results:
            self.processed += result.rows
            if not result.outcome.delivered:
                self.fail(result.symbol, result.outcome)

    def fail(self, symbol: str, outcome: Outcome) -> None:
        self.failed += 1
        self.status = JobStatus.PARTIAL
        self.notes.append(f"{symbol}: {outcome.value}")


def new_run_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def logged_job(
    platform: Platform,
    name: str,
    kind: str,
    market: MarketDefinition,
    symbols: Sequence[str],
    dagster_run_id: str | None = None,
) -> Iterator[Job]:
    """Keeps a line in `etl_job_logs` from start to end, whatever the end is."""
    job = Job()
    with platform.database.connection() as connection:
        write_off_jobs(connection, platform.clock())
        job_id = job_started(
            connection,
            job_name=name,
            kind=kind,
            market=market.name,
            symbols=symbols,
            started_at=platform.clock(),
            dagster_run_id=dagster_run_id,
        )
    try:
        with platform.database.connection() as held:
            hold_job(held, job_id)
            yield job
    except BaseException as error:
        job.status = JobStatus.FAILURE
        job.notes.append(f"{type(error).__name__}: {error}")
        raise
    finally:
        with platform.database.connection() as connection:
            job_finished(
                connection,
                job_id,
                status=job.status,
                finished_at=platform.clock(),
                records_processed=job.processed,
                records_failed=job.failed,
                error=redact("; ".join(job.notes))[:2000] or None,
            )
