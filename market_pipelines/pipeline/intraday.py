"""A whole intraday refresh: pull, then settle on one provider's bars a symbol and session, against the daily bar."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd

from market_pipelines.market.bars import AVAILABLE, DEGRADED, MISSING, PENDING
from market_pipelines.market.definition import IntradayPlan, MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import Phase, lead
from market_pipelines.market.quality import expected_sessions
from market_pipelines.market.quality.intraday import against_daily
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import NOTHING, Progress, result_of
from market_pipelines.pipeline.pull_intraday import pull_intraday
from market_pipelines.pipeline.results import RefreshReport, logged_job, new_run_id
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.coverage import write_coverage
from market_pipelines.store.holes import heal_holes
from market_pipelines.store.intraday import read_provider_intraday, replace_intraday
from market_pipelines.store.read_bars import read_prices
from market_pipelines.store.reference import write_instruments
from market_pipelines.store.upsert import Written


@dataclass(frozen=True)
class IntradaySettled:
    market: str
    interval: str
    start: date
    end: date
    written: Written
    chosen: pd.DataFrame
    """The agreed bars of the range."""
    mismatches: pd.DataFrame
    """`market.quality.intraday.MISMATCH_COLUMNS`: sessions whose minutes contradict their daily bar."""
    missing: pd.DataFrame
    """symbol, session of what was expected and is not there."""


def plan_of(market: MarketDefinition) -> IntradayPlan:
    return market.intraday or IntradayPlan()


def refresh_intraday(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str | None = None,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    job_name: str = "pull",
) -> RefreshReport:
    """Pulls and settles; twice over the same range gives the same rows."""
    wanted = interval or plan_of(market).interval
    symbols = [instrument.symbol for instrument in instruments]
    with logged_job(platform, job_name, f"intraday {wanted}", market, symbols) as job:
        report = intraday_bars(
            platform,
            market,
            instruments,
            start,
            end,
            interval=wanted,
            run_id=new_run_id(),
            providers=providers,
            progress=progress,
        )
        job.count(report.symbols)
    return report


def intraday_bars(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    purpose: Purpose = Purpose.REFRESH,
    sought: Mapping[str, Collection[date]] = NOTHING,
) -> RefreshReport:
    """As `refresh_intraday`, within a job that the caller keeps. `sought`: by symbol, sessions that are known holes."""
    pulled = pull_intraday(
        platform,
        market,
        instruments,
        start,
        end,
        interval=interval,
        extended=plan_of(market).extended,
        run_id=run_id,
        purpose=purpose,
        providers=providers,
        progress=progress,
        sought=sought,
    )
    known = [pull.instrument for pull in pulled.symbols if pull.accepted]
    with platform.database.connection() as connection:
        write_instruments(connection, known, pulled.known_at)
    settled = settle_intraday(
        platform, market, known, pulled.start, pulled.end, interval=interval, run_id=run_id, known_at=pulled.known_at
    )
    rows = settled.chosen["symbol"].value_counts()
    return RefreshReport(
        market=market.name,
        start=pulled.start,
        end=pulled.end,
        run_id=run_id,
        symbols=tuple(
            result_of(
                pull,
                int(rows.get(pull.instrument.symbol, 0)),
                settled.written.of_symbol(pull.instrument.symbol),
            )
            for pull in pulled.symbols
        ),
        sessions=len(trading_calendar(market.mic, pulled.known_at).sessions(pulled.start, pulled.end)),
    )


def settle_intraday(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str,
    run_id: str,
    known_at: datetime,
) -> IntradaySettled:
    """Chooses, compares with the daily bars, writes, and says in the coverage table what is there."""
    calendar = trading_calendar(market.mic, known_at)
    symbols = [instrument.symbol for instrument in instruments]
    precedence = [provider.name for provider in platform.chain(market)]
    with platform.database.connection() as connection:
        delivered = read_provider_intraday(connection, market.name, interval, symbols, start, end)
        chosen = lead(delivered, precedence)
        daily = pd.concat(
            [read_prices(connection, market.name, symbols, start, end, table=table) for table in (STOCKS, INDICES)],
            ignore_index=True,
        )
        mismatches = against_daily(chosen, daily)
        chosen = _marked(chosen, mismatches)
        written = replace_intraday(
            connection,
            chosen,
            known_at,
            run_id,
            market=market.name,
            interval=interval,
            symbols=symbols,
            start=start,
            end=end,
        )
        last = min(end, calendar.last_closed(known_at))
        expected = expected_sessions(calendar, instruments, start, last)
        coverage = expected.merge(_conditions(chosen), on=["symbol", "session"], how="left")
        coverage["condition"] = coverage["condition"].fillna(MISSING)
        write_coverage(connection, coverage, market.name, interval, known_at)
        heal_holes(connection, market.name, interval, known_at, symbols=symbols, start=start, end=end)
    return IntradaySettled(
        market=market.name,
        interval=interval,
        start=start,
        end=end,
        written=written,
        chosen=chosen,
        mismatches=mismatches,
        missing=coverage.loc[coverage["condition"] == MISSING, ["symbol", "session"]],
    )


def _marked(chosen: pd.DataFrame, mismatches: pd.DataFrame) -> pd.DataFrame:
    """Degrades the bars of sessions that seriously contradict their daily bar."""
    serious = mismatches.loc[mismatches["serious"], ["symbol", "session"]].assign(contradicted=True)
    contradicted = chosen.merge(serious, on=["symbol", "session"], how="left")["contradicted"].notna().to_numpy()
    condition = chosen["condition"].mask(contradicted & (chosen["condition"] == AVAILABLE).to_numpy(), DEGRADED)
    return chosen.assign(condition=condition)


def _conditions(chosen: pd.DataFrame) -> pd.DataFrame:
    """The worst condition of each session's regular bars."""
    regular = chosen.loc[chosen["phase"] == str(Phase.REGULAR), ["symbol", "session", "condition"]]
    rank = regular["condition"].map({AVAILABLE: 0, DEGRADED: 1, PENDING: 2}).astype("int64")
    worst = regular.assign(rank=rank).groupby(["symbol", "session"], observed=True)["rank"].max().reset_index()
    words = pd.Series([AVAILABLE, DEGRADED, PENDING], dtype="str")
    return worst.assign(condition=worst["rank"].map(words).astype("str"))[["symbol", "session", "condition"]]
