"""What a refresh would cost in requests, provider by provider, against what is left of each quota. Asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import day_start
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.providers.registry import Limits, limits
from market_pipelines.store.ledger import requests_since


@dataclass(frozen=True, slots=True)
class Quota:
    """One provider's requests of today, in its own time zone."""

    limit: int | None
    """None: the provider sets no daily limit."""
    used: int
    resets_at: datetime

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class ProviderCost:
    provider: str
    ready: bool
    reason: str
    """What it lacks where it is not ready; it is then not asked."""
    best: int
    """Requests when the first provider that covers a symbol delivers it."""
    worst: int
    """Requests when every provider before this one fails for everything."""
    quota: Quota
    per_minute: int

    @property
    def fits(self) -> bool:
        return self.quota.remaining is None or self.worst <= self.quota.remaining


@dataclass(frozen=True)
class Estimate:
    symbols: tuple[str, ...]
    """Those that would be asked for."""
    providers: tuple[ProviderCost, ...]

    @property
    def best(self) -> int:
        return sum(cost.best for cost in self.providers)

    @property
    def worst(self) -> int:
        return sum(cost.worst for cost in self.providers)


def estimate_daily(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    providers: Sequence[DailyProvider] | None = None,
) -> Estimate:
    """One request a symbol and provider. What fails in passing is asked again (`fetch.ATTEMPTS`) on top of it."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    closed = [day for day in calendar.sessions(max(start, market.since), end) if calendar.is_closed(day, now)]
    asked = [one for one in instruments if any(one.trades_on(day) for day in closed)]
    chain = tuple(providers) if providers is not None else platform.chain(market)
    unserved = {one.symbol for one in asked}
    costs = []
    for provider in chain:
        reason = unready(platform, provider)
        covered = [] if reason else [one.symbol for one in asked if provider.covers(one)]
        costs.append(
            ProviderCost(
                provider=provider.name,
                ready=not reason,
                reason=reason,
                best=len(unserved.intersection(covered)),
                worst=len(covered),
                quota=quota_of(platform, provider.name),
                per_minute=limits(provider.name, platform.settings).per_minute,
            )
        )
        unserved.difference_update(covered)
    return Estimate(tuple(one.symbol for one in asked), tuple(costs))


def unready(platform: Platform, provider: DailyProvider) -> str:
    """What a provider lacks to be asked; the simulator lacks nothing."""
    return "" if platform.simulated else provider.ready()


def quota_of(platform: Platform, provider: str) -> Quota:
    spent_by = limits(provider, platform.settings)
    now = platform.clock()
    with platform.database.connection() as connection:
        used = requests_since(connection, provider, day_start(now, spent_by.reset_zone))
    return Quota(None if platform.simulated else spent_by.per_day or None, used, next_reset(now, spent_by))


def next_reset(now: datetime, spent_by: Limits) -> datetime:
    """The next midnight where the provider counts its days; the day of a change of clocks is not 24 hours."""
    midnight = day_start(now, spent_by.reset_zone).astimezone(ZoneInfo(spent_by.reset_zone))
    return day_start(midnight + timedelta(days=1, hours=6), spent_by.reset_zone)
