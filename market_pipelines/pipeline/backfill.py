"""Filling a range for many symbols, in batches that may be interrupted at any point.

What is already complete is left out; each batch is fetched, settled and committed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.intraday import intraday_bars
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.refresh import daily_bars
from market_pipelines.pipeline.results import RefreshReport, SymbolResult, logged_job, new_run_id
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.store.coverage import missing

BATCH = 10
"""Symbols that are fetched, settled and committed together; an interruption loses at most one batch's work."""


def backfill_bars(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str = DAILY,
    again: bool = False,
    progress: Progress | None = None,
    batch_done: Callable[[Sequence[SymbolResult]], None] | None = None,
) -> RefreshReport:
    """Fills a range for many symbols. What is complete is left alone unless `again` says otherwise."""
    run_id = new_run_id()
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    start, end = max(start, market.since), min(end, calendar.last_closed(now))
    wanted = list(instruments) if again else incomplete(platform, market, instruments, start, end, interval)
    skipped = [one.symbol for one in instruments if one not in wanted]
    results: list[SymbolResult] = []
    if progress is not None:
        progress(len(skipped), len(instruments), "")
    with logged_job(platform, "backfill", _kind(interval), market, [one.symbol for one in wanted]) as job:
        for first in range(0, len(wanted), BATCH):
            batch = wanted[first : first + BATCH]
            report = _refresh(platform, market, batch, start, end, interval, run_id)
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


def _kind(interval: str) -> str:
    return "daily" if interval == DAILY else f"intraday {interval}"


def _refresh(
    platform: Platform,
    market: MarketDefinition,
    batch: Sequence[Instrument],
    start: date,
    end: date,
    interval: str,
    run_id: str,
) -> RefreshReport:
    if interval == DAILY:
        return daily_bars(platform, market, batch, start, end, purpose=Purpose.BACKFILL, run_id=run_id)
    return intraday_bars(
        platform, market, batch, start, end, interval=interval, purpose=Purpose.BACKFILL, run_id=run_id
    )


def incomplete(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    interval: str = DAILY,
) -> list[Instrument]:
    """Instruments that still lack a session in the range. A session that was asked for and confirmed missing
    is asked for again: only the repair schedule may decide that a hole stays."""
    sessions = trading_calendar(market.mic, platform.clock()).sessions(start, end)
    symbols = [instrument.symbol for instrument in instruments]
    with platform.database.connection() as connection:
        lacking = missing(connection, market.name, interval, symbols, sessions)
    lacks: dict[str, list[date]] = {}
    for symbol, session in lacking:
        lacks.setdefault(symbol, []).append(session)
    return [
        instrument
        for instrument in instruments
        if any(instrument.trades_on(session) for session in lacks.get(instrument.symbol, ()))
    ]
