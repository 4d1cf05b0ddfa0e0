"""A whole daily refresh: pull, corporate actions, settle, written down as a job.

`refresh_daily` does one set of symbols over one range; `backfill_daily` cuts a large one into batches, leaves
out what is already complete, and can be interrupted at any point.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.actions import collect_actions
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress, PullReport, SymbolPull, pull_daily
from market_pipelines.pipeline.settle import DAILY, SettleReport, settle_daily
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.redaction import redact
from market_pipelines.store.coverage import missing
from market_pipelines.store.ledger import JobStatus, hold_job, job_finished, job_started, write_off_jobs
from market_pipelines.store.reference import write_instruments

BATCH = 10
"""Symbols that are fetched, settled and committed together; an interruption loses at most one batch's work."""


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


def instruments_of(market: MarketDefinition, symbols: Sequence[str]) -> tuple[Instrument, ...]:
    """The market's own instruments by symbol; one it does not list is taken as a share of its exchange."""
    listed = {instrument.symbol: instrument for instrument in market.everything}
    return tuple(
        listed.get(symbol) or Instrument(symbol, market.name, market.mic, market.currency)
        for symbol in dict.fromkeys(symbols)
    )


def refresh_daily(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    job_name: str = "pull",
) -> RefreshReport:
    """Pulls, collects corporate actions and settles; twice over the same range gives the same rows."""
    run_id = new_run_id()
    symbols = [instrument.symbol for instrument in instruments]
    with logged_job(platform, job_name, "daily", market, symbols) as job:
        report = _refresh(platform, market, instruments, start, end, run_id, providers, progress)
        job.count(report.symbols)
    return report


def _refresh(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    run_id: str,
    providers: Sequence[DailyProvider] | None,
    progress: Progress | None,
) -> RefreshReport:
    pulled = pull_daily(
        platform, market, instruments, start, end, run_id=run_id, providers=providers, progress=progress
    )
    known = [pull.instrument for pull in pulled.symbols if pull.accepted]
    with platform.database.connection() as connection:
        write_instruments(connection, known, pulled.known_at)
    collect_actions(platform, market, known, run_id)
    settled = settle_daily(platform, market, known, pulled.start, pulled.end, run_id=run_id, known_at=pulled.known_at)
    return RefreshReport(
        market=market.name,
        start=pulled.start,
        end=pulled.end,
        run_id=run_id,
        symbols=tuple(symbol_results(pulled, settled)),
        sessions=len(trading_calendar(market.mic, pulled.known_at).sessions(pulled.start, pulled.end)),
    )


def symbol_results(pulled: PullReport, settled: Sequence[SettleReport]) -> Iterator[SymbolResult]:
    rows: dict[str, int] = {}
    revised: dict[str, int] = {}
    for report in settled:
        rows |= {str(symbol): int(count) for symbol, count in report.chosen["symbol"].value_counts().items()}
        revised |= {symbol: counts.revised for symbol, counts in report.written.by_symbol.items()}
    for pull in pulled.symbols:
        yield _result(pull, rows.get(pull.instrument.symbol, 0), revised.get(pull.instrument.symbol, 0))


def _result(pull: SymbolPull, rows: int, revisions: int) -> SymbolResult:
    return SymbolResult(
        symbol=pull.instrument.symbol,
        outcome=pull.outcome,
        provider=pull.provider,
        rows=rows,
        revisions=revisions,
        requests=pull.requests,
        reason=pull.reason,
        quarantined=len(pull.rejected),
    )


def backfill_daily(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    again: bool = False,
    progress: Progress | None = None,
    batch_done: Callable[[Sequence[SymbolResult]], None] | None = None,
) -> RefreshReport:
    """Fills a range for many symbols. What is complete is left alone unless `again` says otherwise."""
    run_id = new_run_id()
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    start, end = max(start, market.since), min(end, calendar.last_closed(now))
    wanted = list(instruments) if again else incomplete(platform, market, instruments, start, end)
    skipped = [one.symbol for one in instruments if one not in wanted]
    results: list[SymbolResult] = []
    if progress is not None:
        progress(len(skipped), len(instruments), "")
    with logged_job(platform, "backfill", "daily", market, [one.symbol for one in wanted]) as job:
        for first in range(0, len(wanted), BATCH):
            batch = wanted[first : first + BATCH]
            report = _refresh(platform, market, batch, start, end, run_id, None, None)
            job.count(report.symbols)
            results.extend(report.symbols)
            if progress is not None:
                progress(len(skipped) + len(results), len(instruments), batch[-1].symbol)
            if batch_done is not None:
                batch_done(report.symbols)
    return RefreshReport(
        market=market.name,
        start=start,
        end=end,
        run_id=run_id,
        symbols=tuple(results),
        sessions=len(calendar.sessions(start, end)),
        skipped=tuple(skipped),
    )


def incomplete(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], start: date, end: date
) -> list[Instrument]:
    """Instruments that still lack a session in the range. A session that was asked for and confirmed missing
    is asked for again: only the repair schedule may decide that a hole stays."""
    sessions = trading_calendar(market.mic, platform.clock()).sessions(start, end)
    symbols = [instrument.symbol for instrument in instruments]
    with platform.database.connection() as connection:
        lacking = missing(connection, market.name, DAILY, symbols, sessions)
    lacks: dict[str, list[date]] = {}
    for symbol, session in lacking:
        lacks.setdefault(symbol, []).append(session)
    return [
        instrument
        for instrument in instruments
        if any(instrument.trades_on(session) for session in lacks.get(instrument.symbol, ()))
    ]
