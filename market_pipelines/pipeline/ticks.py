"""Trades and quotes of the past: asked of a provider, kept in the tick lake, read back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import pandas as pd

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import first_delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.results import logged_job, new_run_id
from market_pipelines.providers.protocol import Capability, DailyProvider, TicksQuery
from market_pipelines.store.lake import TickLake

CAPABILITY = {TickKind.TRADES: Capability.TRADES, TickKind.QUOTES: Capability.QUOTES_HISTORY}


@dataclass(frozen=True, slots=True)
class TickPull:
    symbol: str
    session: date
    outcome: Outcome
    provider: str | None
    rows: int
    requests: int
    reason: str


def lake_of(platform: Platform) -> TickLake:
    return TickLake(platform.settings.home / "lake")


def pull_ticks(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    kind: TickKind,
    start: datetime,
    end: datetime,
    *,
    purpose: Purpose = Purpose.BACKFILL,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    job_name: str = "ticks",
    run_id: str | None = None,
) -> tuple[TickPull, ...]:
    """Every tick with `start` <= ts < `end`, day by day of the exchange, each day of each symbol a segment."""
    run = run_id or new_run_id()
    pieces = list(_pieces(market, start, end, platform.clock()))
    pulls: list[TickPull] = []
    total = len(pieces) * len(instruments)
    symbols = [one.symbol for one in instruments]
    with logged_job(platform, job_name, kind.value, market, symbols) as job:
        for instrument in instruments:
            for session, first, last in pieces:
                if progress is not None:
                    progress(len(pulls), total, instrument.symbol)
                pulls.append(_pull(platform, market, instrument, kind, session, first, last, purpose, providers, run))
                job.processed += pulls[-1].rows
                if not pulls[-1].outcome.delivered:
                    job.fail(instrument.symbol, pulls[-1].outcome)
    if progress is not None:
        progress(total, total, "")
    return tuple(pulls)


def _pieces(
    market: MarketDefinition, start: datetime, end: datetime, now: datetime
) -> list[tuple[date, datetime, datetime]]:
    """The exchange's days that the span touches and that are sessions, each with its part of the span."""
    calendar = trading_calendar(market.mic, now)
    found = []
    for session in calendar.sessions(calendar.local_date(start), calendar.local_date(end)):
        midnight = datetime.combine(session, time(), calendar.zone).astimezone(UTC)
        tomorrow = datetime.combine(session + timedelta(days=1), time(), calendar.zone).astimezone(UTC)
        first, last = max(start, midnight), min(end, tomorrow)
        if first < last:
            found.append((session, first, last))
    return found


def _pull(
    platform: Platform,
    market: MarketDefinition,
    instrument: Instrument,
    kind: TickKind,
    session: date,
    start: datetime,
    end: datetime,
    purpose: Purpose,
    providers: Sequence[DailyProvider] | None,
    run_id: str,
) -> TickPull:
    answered = first_delivered(
        platform,
        market,
        CAPABILITY[kind],
        lambda provider: TicksQuery(instrument, kind, start, end) if provider.covers(instrument) else None,
        purpose=purpose,
        run_id=run_id,
        symbol=instrument.symbol,
        providers=providers,
    )
    requests = sum(attempt.requests for attempt in answered.attempts)
    delivered = answered.delivered
    if delivered is None or delivered.parsed is None:
        return TickPull(instrument.symbol, session, answered.outcome, None, 0, requests, answered.reason)
    frame = delivered.parsed.bars
    rows = 0 if frame is None else len(frame)
    if frame is not None and rows:
        span = f"{instrument.symbol}:{start.isoformat()}:{end.isoformat()}"
        now = platform.clock()
        with platform.database.connection() as connection:
            lake_of(platform).write(
                connection,
                frame,
                kind,
                feed=f"{delivered.provider}-rest",
                market=market.name,
                session=session,
                name=f"rest-{hashlib.sha256(span.encode()).hexdigest()[:16]}",
                source=f"run {run_id}",
                at=now,
            )
    return TickPull(instrument.symbol, session, delivered.outcome, delivered.provider, rows, requests, "")


def read_ticks(
    platform: Platform,
    symbols: Sequence[str],
    kind: TickKind,
    start: datetime,
    end: datetime,
    limit: int | None = None,
) -> pd.DataFrame:
    with platform.database.connection() as connection:
        return lake_of(platform).read(connection, kind, symbols=symbols, start=start, end=end, limit=limit)
