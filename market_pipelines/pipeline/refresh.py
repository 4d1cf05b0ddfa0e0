"""A whole daily refresh of one set of symbols over one range: pull, corporate actions, settle, logged as a job."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.actions import pulled_actions
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import NOTHING, Progress, PullReport, pull_daily, result_of
from market_pipelines.pipeline.results import RefreshReport, SymbolResult, logged_job, new_run_id
from market_pipelines.pipeline.riding import asked_along, riding_holes, settle_riders
from market_pipelines.pipeline.settle import SettleReport, settle_daily
from market_pipelines.pipeline.suspicion import confirm_splits
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.store.reference import write_instruments
from market_pipelines.store.upsert import Written


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
    symbols = [instrument.symbol for instrument in instruments]
    with logged_job(platform, job_name, "daily", market, symbols) as job:
        report = daily_bars(
            platform, market, instruments, start, end, run_id=new_run_id(), providers=providers, progress=progress
        )
        job.count(report.symbols)
    return report


def daily_bars(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    purpose: Purpose = Purpose.REFRESH,
    sought: Mapping[str, Collection[date]] = NOTHING,
) -> RefreshReport:
    """As `refresh_daily`, within a job that the caller keeps. `sought`: by symbol, sessions that are known holes; a
    refresh looks for older ones along the way."""
    symbols = [instrument.symbol for instrument in instruments]
    riders = riding_holes(platform, market, symbols, start) if purpose is Purpose.REFRESH else NOTHING
    pulled = pull_daily(
        platform,
        market,
        instruments,
        start,
        end,
        run_id=run_id,
        providers=providers,
        progress=progress,
        purpose=purpose,
        riding=riders,
        sought=sought,
    )
    known = [pull.instrument for pull in pulled.symbols if pull.accepted]
    with platform.database.connection() as connection:
        write_instruments(connection, known, pulled.known_at)
    pulled_actions(platform, market, pulled)
    confirm_splits(platform, market, known, pulled.start, pulled.end, run_id=run_id)
    settled = settle_daily(platform, market, known, pulled.start, pulled.end, run_id=run_id, known_at=pulled.known_at)
    settle_riders(platform, market, run_id=run_id, known_at=pulled.known_at)
    if purpose is Purpose.REFRESH:
        asked_along(platform, market, pulled)
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
    written = Written()
    for report in settled:
        rows |= {str(symbol): int(count) for symbol, count in report.chosen["symbol"].value_counts().items()}
        written += report.written
    for pull in pulled.symbols:
        yield result_of(pull, rows.get(pull.instrument.symbol, 0), written.of_symbol(pull.instrument.symbol))
