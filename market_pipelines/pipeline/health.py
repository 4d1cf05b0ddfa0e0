"""Whether the platform is well: database, disk, providers, markets, jobs and what waits, each with what to do.

Looks and asks no provider. What follows from a bad sign, a failed run or a message, is the caller's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from market_pipelines.market.cadence import daily_cycle, intraday_cycle
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.pipeline.breaker import State
from market_pipelines.pipeline.due import waiting
from market_pipelines.pipeline.estimate import unready
from market_pipelines.pipeline.newest import Freshness
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.quota import DAY, ProviderQuota, provider_quotas
from market_pipelines.pipeline.stream_watch import epitaph, figures, verdicts, watch
from market_pipelines.store import schema
from market_pipelines.store.disk import DiskFloor
from market_pipelines.store.overview import server_facts
from market_pipelines.store.watching import RunningJob, running_jobs

SLOW_SECONDS = 2.0
"""A database that takes longer for one small question is in trouble."""
LONG_RUNNING = timedelta(hours=6)
LATE = timedelta(hours=3)
"""What was due for so long and is still not done is a backlog; until then it is on its way."""
_EARLY_WARNING = DiskFloor(0.10, 1_000_000_000)
_MEGABYTE = 1_000_000


class Part(StrEnum):
    DATABASE = "database"
    DISK = "disk"
    PROVIDERS = "providers"
    FRESHNESS = "freshness"
    JOBS = "jobs"
    STREAMS = "streams"
    BACKLOG = "backlog"


class Condition(StrEnum):
    WELL = "well"
    WORTH_A_LOOK = "worth a look"
    """It may heal by itself, or something stands in for it."""
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Sign:
    part: Part
    subject: str
    condition: Condition
    detail: str
    remedy: str = ""
    """What a person does about it, where there is something to do."""


@dataclass(frozen=True, slots=True)
class Health:
    at: datetime
    signs: tuple[Sign, ...]

    def of(self, part: Part) -> tuple[Sign, ...]:
        return tuple(sign for sign in self.signs if sign.part is part)

    @property
    def broken(self) -> tuple[Sign, ...]:
        return tuple(sign for sign in self.signs if sign.condition is Condition.BROKEN)


def examine(platform: Platform, freshness: Callable[[MarketDefinition], Sequence[Freshness]]) -> Health:
    """`freshness`: of a market's tables, by whoever knows when it is refreshed."""
    now = platform.clock()
    quotas = provider_quotas(platform)
    return Health(
        now,
        (
            *_database(platform),
            *_disk(platform),
            *_providers(platform, quotas),
            *(
                sign
                for market in platform.markets.values()
                for state in freshness(market)
                for sign in _freshness(state)
            ),
            *_jobs(platform, now),
            *(sign for market in platform.markets.values() for sign in _streams(platform, market)),
            *(sign for market in platform.markets.values() for sign in _backlog(platform, market, now)),
        ),
    )


def unreachable(at: datetime, error: Exception) -> Health:
    """When the database does not answer, there is nothing else to be seen."""
    remedy = "market-pipelines db status; a server of your own: is it up, and are its address and password right?"
    return Health(at, (Sign(Part.DATABASE, "server", Condition.BROKEN, str(error), remedy),))


def _database(platform: Platform) -> Iterator[Sign]:
    begun = time.monotonic()
    with platform.database.connection() as connection:
        facts = server_facts(connection)
    seconds = time.monotonic() - begun
    slow = seconds > SLOW_SECONDS
    yield Sign(
        Part.DATABASE,
        "server",
        Condition.WORTH_A_LOOK if slow else Condition.WELL,
        f"PostgreSQL {facts.version} answered in {seconds * 1000:.0f} ms, {facts.size / _MEGABYTE:,.0f} MB",
        "look for long queries: SELECT * FROM pg_stat_activity WHERE state <> 'idle'" if slow else "",
    )
    steps = schema.status(platform.database.url)
    behind = len(steps.pending)
    yield Sign(
        Part.DATABASE,
        "schema",
        Condition.BROKEN if behind else Condition.WELL,
        f"{steps.current}, {behind} steps behind" if behind else f"{steps.current}",
        "market-pipelines db upgrade" if behind else "",
    )


def _disk(platform: Platform) -> Iterator[Sign]:
    home = platform.settings.home
    full, soon = DiskFloor().shortage(home), _EARLY_WARNING.shortage(home)
    if full:
        yield Sign(Part.DISK, str(home), Condition.BROKEN, full, "free room: nothing more is stored until then")
    elif soon:
        yield Sign(Part.DISK, str(home), Condition.WORTH_A_LOOK, "less than a tenth of the disk is free", "free room")
    else:
        yield Sign(Part.DISK, str(home), Condition.WELL, "there is room")


def _providers(platform: Platform, quotas: Mapping[str, ProviderQuota]) -> Iterator[Sign]:
    able: dict[str, bool] = {}
    for name, provider in platform.providers.items():
        lacks = unready(platform, provider)
        sign = _provider(quotas[name], lacks)
        able[name] = sign.condition is Condition.WELL and not lacks
        yield sign
    for market in platform.markets.values():
        chain = [provider.name for provider in platform.chain(market)]
        left = [name for name in chain if able[name]]
        yield Sign(
            Part.PROVIDERS,
            f"chain of {market.name}",
            Condition.WELL if left else Condition.BROKEN,
            f"{len(left)} of {len(chain)} answer: {', '.join(left) or 'none'}",
            "" if left else "market-pipelines provider quota",
        )


def _provider(quota: ProviderQuota, lacks: str) -> Sign:
    name, breaker = quota.provider, quota.breaker
    if lacks:
        return Sign(Part.PROVIDERS, name, Condition.WELL, f"off: {lacks}")
    if breaker.state is not State.CLOSED:
        until = f" until {breaker.next_try:%Y-%m-%d %H:%M} UTC" if breaker.next_try is not None else ""
        # Half-open it may be asked, but nobody has had an answer yet: that is no recovery.
        now = f"left alone{until}" if breaker.state is State.OPEN else "tried with the next request"
        return Sign(
            Part.PROVIDERS,
            name,
            Condition.WORTH_A_LOOK,
            f"{now}, after {breaker.failures} failures in a row: {breaker.reason or breaker.outcome}",
            f"market-pipelines provider check {name}",
        )
    day = quota.windows[DAY]
    if quota.enforced and day.remaining == 0:
        when = f", again from {day.resets_at:%Y-%m-%d %H:%M} UTC" if day.resets_at is not None else ""
        return Sign(Part.PROVIDERS, name, Condition.WORTH_A_LOOK, f"the day's {day.limit} requests are spent{when}")
    spent = f"{day.used} of {day.limit}" if quota.enforced and day.limit is not None else f"{day.used}"
    return Sign(Part.PROVIDERS, name, Condition.WELL, f"{spent} requests today, breaker {breaker.state.value}")


def _freshness(state: Freshness) -> Iterator[Sign]:
    subject = f"{state.market}/{state.asset}"
    if state.empty:
        yield Sign(Part.FRESHNESS, subject, Condition.WELL, "nothing is stored yet")
    elif state.fresh:
        yield Sign(Part.FRESHNESS, subject, Condition.WELL, state.words)
    else:
        # The table's own check is an error for it and is told; here it is not told again.
        yield Sign(
            Part.FRESHNESS,
            subject,
            Condition.WORTH_A_LOOK,
            state.words,
            f"materialize {subject} for {state.expected}; if the providers refuse: market-pipelines provider quota",
        )


def _jobs(platform: Platform, now: datetime) -> Iterator[Sign]:
    with platform.database.connection() as connection:
        jobs = running_jobs(connection, now)
    for job in jobs:
        if not job.held:
            detail = f"its process ended without a word; it began {job.started_at:%Y-%m-%d %H:%M} UTC"
            yield Sign(
                Part.JOBS, _named(job), Condition.WORTH_A_LOOK, detail, "run it again; the next job writes it off"
            )
        elif now - job.started_at > LONG_RUNNING:
            detail = f"has been running since {job.started_at:%Y-%m-%d %H:%M} UTC"
            yield Sign(Part.JOBS, _named(job), Condition.WORTH_A_LOOK, detail, "is it waiting for a provider's limit?")
    alive = sum(job.held for job in jobs)
    yield Sign(Part.JOBS, "running", Condition.WELL, f"{alive} jobs are running")


def _named(job: RunningJob) -> str:
    return f"{job.job_name} {job.kind} ({job.market}, job {job.job_id})"


def _streams(platform: Platform, market: MarketDefinition) -> Iterator[Sign]:
    seen = watch(platform, market)
    for row in seen.died if seen.trades else ():
        # Its death is an incident of its own and is told; here it is not told again.
        yield Sign(Part.STREAMS, row.stream, Condition.WORTH_A_LOOK, epitaph(row), "market-pipelines stream run")
    for row in seen.running:
        counted = figures(row)
        detail = f"{row.state.value}, {counted.events:,} events, heartbeat {row.heartbeat_age:.1f} s ago"
        yield Sign(Part.STREAMS, row.stream, Condition.WELL, detail)
    if not seen.running:
        yield Sign(Part.STREAMS, market.name, Condition.WELL, "nobody streams")
        return
    for verdict in verdicts(seen):
        if not verdict.passed:
            yield Sign(
                Part.STREAMS, market.name, Condition.WORTH_A_LOOK, verdict.words, "market-pipelines stream status"
            )


def _backlog(platform: Platform, market: MarketDefinition, now: datetime) -> Iterator[Sign]:
    cycles = [cycle for cycle in (daily_cycle(market), intraday_cycle(market)) if cycle is not None]
    for cycle in cycles:
        subject = f"{market.name} {cycle.interval}"
        late = waiting(platform, market, cycle, now - LATE)
        if late is None or late.first:
            yield Sign(Part.BACKLOG, subject, Condition.WELL, "no session waits")
            continue
        span = f"{late.start}" if late.start == late.end else f"{late.start} to {late.end}"
        yield Sign(
            Part.BACKLOG,
            subject,
            Condition.WORTH_A_LOOK,
            f"not refreshed since its close: {span}",
            f"the next tick of the schedule takes it; or materialize the range of {market.name} yourself",
        )
