"""The sensor that watches a market's live stream, and starts it where Dagster is to host it.

A tick reads two tables. What it says goes to the assets at most once a minute while somebody streams, and to the
checks when something has changed. Its cursor remembers what was said.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg
import msgspec
from dagster._core.events import DagsterEventType

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import hours
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.cron import run_going_on
from market_pipelines.orchestration.realtime import SESSION_TAG, TELL_EVERY_SECONDS, job_name, keys_of, told
from market_pipelines.orchestration.realtime_checks import evaluation
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.incidents import Recovery, record
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stream_watch import (
    NOBODY,
    Verdict,
    Watched,
    changes,
    figures,
    holder,
    verdicts,
    wants_run,
    watch,
)
from market_pipelines.settings import StreamHost
from market_pipelines.store.streams import StreamRow

TICK_SECONDS = 30
CHECK_EVERY = timedelta(minutes=10)
"""A verdict that stays the same is said again after so long, while somebody streams."""
AGAIN_AFTER = timedelta(minutes=5)
"""A run that failed is followed by another one."""
_TELL_EVERY = timedelta(seconds=TELL_EVERY_SECONDS)


@dataclass(frozen=True)
class Said:
    """What the sensor has said, as its cursor keeps it."""

    observed_at: datetime | None = None
    events: dict[str, int] = field(default_factory=dict)
    """By stream, when it was last observed."""
    checked_at: datetime | None = None
    checks: dict[str, str] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)
    """Keys of those that were opened here and are not over."""
    incidents_known: bool = False
    """False at the first tick: what is over is said of every stream then."""

    def cursor(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def of(cls, cursor: str | None) -> Self:
        """From the beginning where there is no cursor, or none that can be read."""
        try:
            return msgspec.json.decode(cursor or "", type=cls)
        except msgspec.DecodeError:
            return cls()


def stream_sensor(market: MarketDefinition, job: dg.JobDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{market.name}_stream",
        job_name=job.name,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Watches the live stream of {market.title}: tells the realtime assets each minute how it goes, "
        f"evaluates their checks, opens an incident when it dies, and starts {job.name} while {market.mic} trades "
        "where STREAM_HOSTED_BY=dagster and nobody streams.",
        tags={"market": market.name},
    )
    def stream(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
        before = Said.of(context.cursor)
        with platform.opened(asks=False) as opened:
            seen = watch(opened, market)
            said = _told_of_incidents(opened, seen, before)
            host, now = opened.settings.stream_hosted_by, seen.at
        observations, said = _observations(market, seen, before, said)
        evaluations, said = _evaluations(market, seen, before, said)
        request = _request(context.instance, market, seen, host, now)
        return dg.SensorResult(
            run_requests=[request] if isinstance(request, dg.RunRequest) else [],
            skip_reason=request if isinstance(request, dg.SkipReason) else None,
            asset_events=[*observations, *evaluations],
            cursor=said.cursor(),
        )

    return stream


def _told_of_incidents(platform: Platform, seen: Watched, said: Said) -> Said:
    """Opened once, closed once; between the two nothing is written."""
    found = changes(seen, f"{platform.settings.dagster_url}/assets/{seen.market.name}/realtime_quotes")
    open_now = [one.key for one in found if not isinstance(one, Recovery)]
    news = [
        one for one in found if not said.incidents_known or (one.key in said.incidents) == isinstance(one, Recovery)
    ]
    if news:
        record(platform, news)
    over = {one.key for one in found if isinstance(one, Recovery)}
    kept = (key for key in said.incidents if key not in over)
    return replace(said, incidents=sorted({*open_now, *kept}), incidents_known=True)


def _observations(
    market: MarketDefinition, seen: Watched, before: Said, said: Said
) -> tuple[list[dg.AssetObservation], Said]:
    if before.observed_at is not None and seen.at - before.observed_at < _TELL_EVERY:
        return [], said
    found = []
    for row in seen.running:
        if row.hosted_by == StreamHost.DAGSTER.value:
            # Its run tells the same of itself.
            continue
        metadata = told(seen, row, _rate(row, seen.at, before))
        found += [
            dg.AssetObservation(key, description=f"{holder(row)}.", metadata=metadata)
            for key in keys_of(market, row.channels)
        ]
    if not found:
        return [], said
    counts = {row.stream: figures(row).events for row in seen.running}
    return found, replace(said, observed_at=seen.at, events=counts)


def _rate(row: StreamRow, now: datetime, before: Said) -> float | None:
    """Events a second since the last observation; None lets the service's own word count."""
    last = before.events.get(row.stream)
    if last is None or before.observed_at is None or now <= before.observed_at:
        return None
    grown = figures(row).events - last
    # A service that began anew counts from zero.
    return grown / (now - before.observed_at).total_seconds() if grown >= 0 else None


def _evaluations(
    market: MarketDefinition, seen: Watched, before: Said, said: Said
) -> tuple[list[dg.AssetCheckEvaluation], Said]:
    found = verdicts(seen)
    marks = {one.check.value: _mark(one) for one in found}
    again = bool(seen.running) and (before.checked_at is None or seen.at - before.checked_at >= CHECK_EVERY)
    if marks == before.checks and not again:
        return [], said
    return [
        evaluation(market, one)
        for one in found
        if again or marks[one.check.value] != before.checks.get(one.check.value)
    ], (replace(said, checked_at=seen.at, checks=marks))


def _mark(verdict: Verdict) -> str:
    """What makes a verdict another one: not its figures, which always move."""
    return f"{'passed' if verdict.passed else verdict.gravity.value}{' nobody' if verdict.words == NOBODY else ''}"


def _request(
    instance: dg.DagsterInstance, market: MarketDefinition, seen: Watched, host: StreamHost, now: datetime
) -> dg.RunRequest | dg.SkipReason:
    name = job_name(market)
    if reason := wants_run(seen, host):
        return dg.SkipReason(reason)
    if (going := run_going_on(instance, name)) is not None:
        return dg.SkipReason(f"run {going.run_id[:8]} of {name} is {going.status.value.lower()}")
    session = str(seen.status.session)
    last = next(iter(instance.get_run_records(dg.RunsFilter(job_name=name), limit=1)), None)
    if last is not None and (reason := _too_soon(instance, last, name, _begun(market, seen))):
        return dg.SkipReason(reason)
    return dg.RunRequest(run_key=f"{name}-{session}-{now:%Y%m%dT%H%M%S}", tags={SESSION_TAG: session})


def _too_soon(instance: dg.DagsterInstance, last: dg.RunRecord, name: str, since: datetime) -> str:
    """Why the market's last run is not followed by another one yet; empty: it may be."""
    run = last.dagster_run
    ended = datetime.fromtimestamp(last.end_time or last.create_timestamp.timestamp(), UTC)
    again = f"the next session is streamed again, or launch {name}"
    if ended >= since and run.status is dg.DagsterRunStatus.SUCCESS:
        return f"run {run.run_id[:8]} ended at {ended:%H:%M:%S} UTC as it was asked to; {again}"
    if ended >= since and run.status is dg.DagsterRunStatus.CANCELED and _by_hand(instance, run):
        return f"run {run.run_id[:8]} was terminated by hand; {again}"
    if run.status is dg.DagsterRunStatus.FAILURE and datetime.now(UTC) - ended < AGAIN_AFTER:
        minutes = AGAIN_AFTER // timedelta(minutes=1)
        return f"run {run.run_id[:8]} failed at {ended:%H:%M:%S} UTC; another one follows {minutes} minutes later"
    return ""


def _by_hand(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """A run that ends with the whole platform is cancelled too, but nobody has asked Dagster to."""
    return bool(instance.all_logs(run.run_id, of_type=DagsterEventType.PIPELINE_CANCELING))


def _begun(market: MarketDefinition, seen: Watched) -> datetime:
    """When the running session's trading began; only while it goes on is a run wanted."""
    if seen.status.session is None:
        return seen.at
    return hours(trading_calendar(market.mic, seen.at), seen.status.session).begins
