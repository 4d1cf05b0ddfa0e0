"""What is left of each provider's limits, for people, for metrics and for those who plan. Spends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.breaker import BreakerState, State, breaker_states
from market_pipelines.pipeline.limiter import Purpose, allowance_of, bucket_of, reserve_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.quota import WindowUse, day_end, quota_use

SECOND, MINUTE, DAY = "second", "minute", "day"
WINDOWS = (SECOND, MINUTE, DAY)


@dataclass(frozen=True, slots=True)
class Spending:
    """One window of one provider's limits."""

    provider: str
    window: str
    limit: int | None
    """As it is set; None where there is none."""
    used: int
    resets_at: datetime | None
    """When the oldest call of a rolling window stops counting; when the provider's day ends."""
    reserve: int
    """Calls of the day that are kept for quotes."""

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class ProviderQuota:
    """Everything that limits the calls to one provider now."""

    provider: str
    enforced: bool
    """False against the simulator, which has no limits."""
    windows: Mapping[str, Spending]
    blocked_until: datetime | None
    blocked_as: Outcome | None
    blocked_because: str
    breaker: BreakerState

    @property
    def day(self) -> Spending:
        return self.windows[DAY]


@dataclass(frozen=True, slots=True)
class Quota:
    """One provider's calls of its own day, against what holds: nothing does against the simulator."""

    limit: int | None
    """None: the provider sets no daily limit."""
    used: int
    resets_at: datetime
    reserve: int = 0

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)

    def left_for(self, purpose: Purpose) -> int | None:
        """What this purpose may still spend today."""
        if self.limit is None:
            return None
        return max(0, self.limit - self.used - (0 if purpose is Purpose.QUOTE else self.reserve))


@dataclass(frozen=True, slots=True)
class Metric:
    """One sample as Prometheus knows it."""

    name: str
    labels: Mapping[str, str]
    value: float


def provider_quotas(platform: Platform) -> Mapping[str, ProviderQuota]:
    """Of every provider, by its plain name, also of those that were never asked."""
    buckets = {name: bucket_of(platform, name) for name in platform.providers}
    breakers = breaker_states(platform)
    with platform.database.connection() as connection:
        found: dict[tuple[str, str], dict[str, WindowUse]] = {}
        for use in quota_use(connection, list(buckets.values())):
            found.setdefault((use.provider, use.key), {})[use.window] = use
        ends = {zone: day_end(connection, zone) for zone in {bucket.zone for bucket in buckets.values()}}
    quotas = {}
    for name, bucket in buckets.items():
        allowed = platform.limits(name)
        stated = {SECOND: allowed.per_second or None, MINUTE: allowed.per_minute, DAY: allowed.per_day or None}
        uses = found.get((bucket.provider, bucket.key), {})
        windows = {
            window: Spending(
                provider=name,
                window=window,
                limit=stated[window],
                used=uses[window].used if window in uses else 0,
                resets_at=ends[bucket.zone] if window == DAY else uses[window].resets_at if window in uses else None,
                reserve=reserve_of(allowed, platform.settings.quote_reserve) if window == DAY else 0,
            )
            for window in WINDOWS
        }
        block = uses.get(DAY)
        quotas[name] = ProviderQuota(
            provider=name,
            enforced=not platform.simulated,
            windows=windows,
            blocked_until=block.blocked_until if block is not None else None,
            blocked_as=block.blocked_as if block is not None else None,
            blocked_because=(block.blocked_because or "") if block is not None else "",
            breaker=breakers[name],
        )
    return quotas


def day_quota(platform: Platform, quota: ProviderQuota) -> Quota:
    """The day as it binds a run."""
    held = allowance_of(platform, quota.provider)
    # The zone's next midnight is always known.
    resets_at = quota.day.resets_at or platform.clock()
    return Quota(held.per_day, quota.day.used, resets_at, held.reserve)


def quota_metrics(platform: Platform) -> tuple[Metric, ...]:
    """Figures for Prometheus; where there is no limit there is no figure for it."""
    metrics = []
    for quota in provider_quotas(platform).values():
        for spending in quota.windows.values():
            labels = {"provider": quota.provider, "window": spending.window}
            metrics.append(Metric("marketpipe_provider_quota_used", labels, spending.used))
            if quota.enforced and spending.limit is not None and spending.remaining is not None:
                metrics.append(Metric("marketpipe_provider_quota_limit", labels, spending.limit))
                metrics.append(Metric("marketpipe_provider_quota_remaining", labels, spending.remaining))
        if quota.enforced and quota.day.limit is not None:
            labels = {"provider": quota.provider}
            metrics.append(Metric("marketpipe_provider_quota_reserve", labels, quota.day.reserve))
        blocked = 0.0 if quota.blocked_until is None else quota.blocked_until.timestamp()
        metrics.append(
            Metric("marketpipe_provider_blocked_until_timestamp_seconds", {"provider": quota.provider}, blocked)
        )
        for state in State:
            labels = {"provider": quota.provider, "state": state.value}
            metrics.append(Metric("marketpipe_provider_breaker_state", labels, float(quota.breaker.state is state)))
    return tuple(metrics)


def day_start(now: datetime, zone: str) -> datetime:
    """Midnight in the zone in which the provider counts its days."""
    local = now.astimezone(ZoneInfo(zone))
    return local.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
