"""Ticks of the past: trades and quotes asked of a provider, all kinds kept in the tick lake and read back.

`market_pipelines.ticks` is `ticks`.
"""

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
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.fetch import first_delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.reading import BadQuestion, opened
from market_pipelines.pipeline.results import logged_job, new_run_id
from market_pipelines.providers.protocol import Capability, DailyProvider, TicksQuery
from market_pipelines.settings import Settings, read_settings
from market_pipelines.store.database import Transaction
from market_pipelines.store.lake import TickLake
from market_pipelines.store.lake_overview import overview

LAKE_FOLDER = "lake"
CAPABILITY = {TickKind.TRADES: Capability.TRADES, TickKind.QUOTES: Capability.QUOTES_HISTORY}
"""What can be asked of a provider; the other kinds only streams bring."""


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
    return TickLake(platform.settings.home / LAKE_FOLDER)


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


def newest_day(connection: Transaction, market: MarketDefinition, kind: TickKind, now: datetime) -> date:
    """The last session that has closed, or a later day of which the lake has some: a stream's day is looked at while
    it lasts."""
    held = [shelf.session for shelf in overview(connection, market=market.name, sessions=1) if shelf.kind == kind]
    return max([trading_calendar(market.mic, now).last_closed(now), *held])


def read_ticks(
    platform: Platform,
    symbols: Sequence[str],
    kind: TickKind,
    start: datetime,
    end: datetime,
    limit: int | None = None,
    market: str | None = None,
) -> pd.DataFrame:
    """`market`: without it, of whichever market lists a symbol of that name."""
    with platform.database.connection() as connection:
        return lake_of(platform).read(
            connection, kind, symbols=symbols, start=start, end=end, limit=limit, market=market
        )


def ticks(
    symbols: str | Sequence[str],
    kind: str = TickKind.TRADES.value,
    start: date | datetime | str | None = None,
    end: date | datetime | str | None = None,
    market: str = "us",
    limit: int | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Ticks out of the lake, by time: trades, quotes, aggregates, snapshots or bands, whatever was streamed,
    pulled or imported. Nobody is asked.

    `start` and `end` are instants with a time zone (`end` excluded), or days at the exchange, both included. Without
    them: the exchange's last session that has closed, or a later day of which the lake has some.
    """
    wanted = [symbols] if isinstance(symbols, str) else list(dict.fromkeys(symbols))
    if not wanted:
        raise BadQuestion("no symbol is named; name at least one")
    if kind not in tuple(TickKind):
        raise BadQuestion(f"kind {kind!r} is not kept; accepted: {', '.join(TickKind)}")
    markets = read_markets()
    if market not in markets:
        raise BadQuestion(f"market {market!r} is not known; there are {', '.join(sorted(markets))}")
    chosen = settings if settings is not None else read_settings()
    now = datetime.now(UTC)
    calendar = trading_calendar(markets[market].mic, now)
    with opened(chosen) as database, database.connection() as connection:
        begins = start if start is not None else newest_day(connection, markets[market], TickKind(kind), now)
        first = _moment(begins, "start", calendar, 0)
        last = _moment(end if end is not None else first.astimezone(calendar.zone).date(), "end", calendar, 1)
        if first >= last:
            raise BadQuestion(f"the range ends ({last.isoformat()}) before it begins ({first.isoformat()})")
        lake = TickLake(chosen.home / LAKE_FOLDER)
        return lake.read(connection, TickKind(kind), symbols=wanted, start=first, end=last, limit=limit, market=market)


def _moment(told: date | datetime | str, name: str, calendar: TradingCalendar, days: int) -> datetime:
    """A day is its midnight at the exchange, `days` later."""
    if isinstance(told, str):
        try:
            told = datetime.fromisoformat(told) if len(told) > len("2026-11-20") else date.fromisoformat(told)
        except ValueError:
            raise BadQuestion(
                f"{name} {told!r} is neither a day nor an instant; accepted: 2026-11-20, 2026-11-20T15:30:00-05:00"
            ) from None
    if not isinstance(told, datetime):
        return datetime.combine(told + timedelta(days=days), time(), calendar.zone).astimezone(UTC)
    if told.tzinfo is None:
        raise BadQuestion(f"{name} {told.isoformat()} has no time zone; accepted: 2026-11-20T15:30:00-05:00")
    return told.astimezone(UTC)
