"""The state of everything in one look: database, providers, freshness, coverage, jobs. Asks no provider.

Gathers figures; how they are shown is the caller's business, and whether they are good enough is for the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from market_pipelines.market.bars import CONDITIONS
from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.estimate import unready
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.quota import ProviderQuota, Quota, day_quota, day_start, provider_quotas
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.store import schema
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.coverage import conditions
from market_pipelines.store.holes import closed_sessions
from market_pipelines.store.ledger import Job, recent_jobs, write_off_jobs
from market_pipelines.store.overview import ProviderActivity, provider_activity, server_facts
from market_pipelines.store.read_bars import latest_sessions

COVERAGE_SESSIONS = 30
JOBS = 10
_A_DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class DatabaseState:
    url: str
    """Without its password."""
    embedded: bool
    simulated: bool
    server_version: str
    revision: str | None
    pending: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class ProviderState:
    provider: str
    ready: bool
    reason: str
    """What it lacks where it is not ready."""
    simulated: bool
    """Its newest answer came from the simulator."""
    requests_today: int
    quota: Quota
    limits: ProviderQuota
    """All windows, what the provider itself said, and its breaker."""
    per_minute: int
    last_outcome: Outcome | None
    last_reason: str
    last_at: datetime | None
    requests_24h: int
    failed_24h: int

    @property
    def failed_share(self) -> float | None:
        return self.failed_24h / self.requests_24h if self.requests_24h else None


@dataclass(frozen=True, slots=True)
class MarketFreshness:
    market: str
    last_closed: date
    due_at: datetime
    """When the bars of the last closed session are expected to be there."""
    newest_stored: date | None
    symbols: int
    behind: tuple[str, ...]
    """Symbols that traded in the last closed session and lack it."""


@dataclass(frozen=True, slots=True)
class MarketCoverage:
    market: str
    start: date
    end: date
    counts: Mapping[str, int]
    """Symbol-sessions by condition."""
    unknown: int
    """Symbol-sessions that nobody has looked at."""


@dataclass(frozen=True)
class PlatformState:
    at: datetime
    database: DatabaseState
    providers: tuple[ProviderState, ...]
    freshness: tuple[MarketFreshness, ...]
    coverage: tuple[MarketCoverage, ...]
    jobs: tuple[Job, ...]


def platform_state(platform: Platform) -> PlatformState:
    return PlatformState(
        at=platform.clock(),
        database=database_state(platform),
        providers=provider_states(platform),
        freshness=tuple(_freshness(platform, market) for market in platform.markets.values()),
        coverage=tuple(_coverage(platform, market) for market in platform.markets.values()),
        jobs=_jobs(platform),
    )


def database_state(platform: Platform) -> DatabaseState:
    steps = schema.status(platform.database.url)
    with platform.database.connection() as connection:
        facts = server_facts(connection)
    return DatabaseState(
        url=platform.database.safe_url,
        embedded=platform.database.server is not None,
        simulated=platform.simulated,
        server_version=facts.version,
        revision=steps.current,
        pending=steps.pending,
        size=facts.size,
    )


def provider_states(platform: Platform) -> tuple[ProviderState, ...]:
    now = platform.clock()
    with platform.database.connection() as connection:
        lately = _by_house(provider_activity(connection, now - _A_DAY))
        today = {
            name: _by_house(provider_activity(connection, day_start(now, platform.limits(name).reset_zone))).get(
                name, []
            )
            for name in platform.providers
        }
    quotas = provider_quotas(platform)
    states = []
    for name, provider in platform.providers.items():
        reason = unready(platform, provider)
        answered = lately.get(name, [])
        last = max(answered, key=lambda activity: activity.last_at, default=None)
        states.append(
            ProviderState(
                provider=name,
                ready=not reason,
                reason=reason,
                simulated=last is not None and last.provider != name,
                requests_today=sum(activity.requests for activity in today[name]),
                quota=day_quota(platform, quotas[name]),
                limits=quotas[name],
                per_minute=platform.limits(name).per_minute,
                last_outcome=last.last_outcome if last is not None else None,
                last_reason=last.last_reason if last is not None else "",
                last_at=last.last_at if last is not None else None,
                requests_24h=sum(activity.requests for activity in answered),
                failed_24h=sum(activity.failed for activity in answered),
            )
        )
    return tuple(states)


def _by_house(activities: list[ProviderActivity]) -> dict[str, list[ProviderActivity]]:
    """A provider's own answers and those that the simulator gave in its place."""
    found: dict[str, list[ProviderActivity]] = {}
    for activity in activities:
        found.setdefault(house_name(activity.provider), []).append(activity)
    return found


def _freshness(platform: Platform, market: MarketDefinition) -> MarketFreshness:
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    last_closed = calendar.last_closed(now)
    with platform.database.connection() as connection:
        newest = {
            **latest_sessions(connection, market.name, INDICES),
            **latest_sessions(connection, market.name, STOCKS),
        }
    expected = [one.symbol for one in market.everything if one.trades_on(last_closed)]
    return MarketFreshness(
        market=market.name,
        last_closed=last_closed,
        due_at=calendar.times(last_closed).closes + timedelta(minutes=market.minutes_after_close),
        newest_stored=max(newest.values(), default=None),
        symbols=len(expected),
        behind=tuple(symbol for symbol in expected if newest.get(symbol, date.min) < last_closed),
    )


def _coverage(platform: Platform, market: MarketDefinition) -> MarketCoverage:
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    sessions = calendar.sessions(market.since, calendar.last_closed(now))[-COVERAGE_SESSIONS:]
    with platform.database.connection() as connection:
        found = conditions(connection, market.name, DAILY, sessions[0], sessions[-1])
        closed = closed_sessions(connection, market.name)
    counts = {condition: int(found[condition].sum()) for condition in CONDITIONS}
    expected = sum(one.trades_on(session) for one in market.everything for session in sessions if session not in closed)
    return MarketCoverage(
        market=market.name,
        start=sessions[0],
        end=sessions[-1],
        counts=counts,
        unknown=max(0, expected - sum(counts.values())),
    )


def _jobs(platform: Platform) -> tuple[Job, ...]:
    with platform.database.connection() as connection:
        write_off_jobs(connection, platform.clock())
        return tuple(recent_jobs(connection, limit=JOBS))
