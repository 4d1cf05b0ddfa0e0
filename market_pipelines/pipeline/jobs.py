"""Jobs scheduled at run time: adding and removing them, saying when each is due, and what its run polls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from market_pipelines.market.hours import MarketStatus, market_status
from market_pipelines.market.jobs import ScheduledJob, next_due
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.polling import Poll, poll_of
from market_pipelines.store import jobs as stored
from market_pipelines.store.jobs import LastRun
from market_pipelines.store.ledger import write_off_jobs


class UnknownJob(Exception):
    """No job has that name."""


@dataclass(frozen=True, slots=True)
class JobState:
    job: ScheduledJob
    last_run: LastRun | None
    next_run: datetime | None
    """None where its market is not there any more."""


def add_job(
    platform: Platform,
    name: str,
    symbols: Sequence[str] = (),
    *,
    market: str = "us",
    interval_minutes: int | None = None,
    interval: str | None = None,
    extended_hours: bool = False,
) -> ScheduledJob:
    """What is not said is all of the market, and as the settings say."""
    settings = platform.settings
    job = ScheduledJob(
        name,
        platform.market(market).name,
        tuple(dict.fromkeys(symbols)),
        interval if interval is not None else settings.default_interval.value,
        interval_minutes if interval_minutes is not None else settings.default_polling_interval,
        extended_hours,
        platform.clock(),
    )
    with platform.database.connection() as connection:
        stored.add_job(connection, job)
    return job


def remove_job(platform: Platform, name: str) -> None:
    with platform.database.connection() as connection:
        if not stored.remove_job(connection, name):
            known = ", ".join(one.job.name for one in stored.scheduled_jobs(connection))
            raise UnknownJob(f"there is no job {name}; there {f'are {known}' if known else 'is none at all'}")


def job_states(platform: Platform, last_slots: Mapping[str, datetime] | None = None) -> list[JobState]:
    """Every job with its last run and its next one. `last_slots` says which have had their run; without it the
    time of the last request does."""
    now = platform.clock()
    with platform.database.connection() as connection:
        write_off_jobs(connection, now)
        found = stored.scheduled_jobs(connection)
    return [JobState(one.job, one.last_run, _next(platform, one.job, last_slots, now)) for one in found]


def _next(
    platform: Platform, job: ScheduledJob, last_slots: Mapping[str, datetime] | None, now: datetime
) -> datetime | None:
    if job.market not in platform.markets:
        return None
    requested = job.last_requested_at
    last = last_slots.get(job.name) if last_slots is not None else requested and job.slot(requested)
    return next_due(job, trading_calendar(platform.market(job.market).mic, now), last, now)


def note_requested(platform: Platform, names: Sequence[str]) -> None:
    with platform.database.connection() as connection:
        stored.note_requested(connection, names, platform.clock())


def poll_of_job(platform: Platform, name: str) -> Poll:
    with platform.database.connection() as connection:
        found = stored.scheduled_jobs(connection, [name])
    if not found:
        raise UnknownJob(f"there is no job {name}: it was removed after its run was asked for")
    job = found[0].job
    return poll_of(
        platform,
        job.market,
        job.symbols,
        interval=job.interval,
        extended=job.extended_hours,
        job_name=job.log_name,
    )


def status_of(platform: Platform, market: str) -> MarketStatus:
    now = platform.clock()
    return market_status(trading_calendar(platform.market(market).mic, now), now)
