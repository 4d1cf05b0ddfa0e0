"""The sensor that runs the jobs which people have scheduled at run time (`market-pipelines jobs add`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg
import msgspec

from market_pipelines.orchestration.cron import GOING_ON, lane
from market_pipelines.orchestration.polling_sensors import (
    JOB_TAG,
    TICK_SECONDS,
    PollConfig,
    poll_job_name,
    poll_run_config,
)
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import INTRADAY_LAYER
from market_pipelines.pipeline.jobs import JobState, job_states, note_requested
from market_pipelines.pipeline.platform import Platform

SENSOR = "scheduled_jobs"


class Slots(msgspec.Struct, frozen=True):
    """The slot in which each job was last asked for, as the sensor's cursor says it."""

    jobs: dict[str, datetime] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, cursor: str | None) -> Slots:
        try:
            return msgspec.json.decode(cursor or "", type=cls)
        except msgspec.DecodeError:
            return cls()


def scheduled_jobs_definitions(markets: dg.Definitions) -> dg.Definitions:
    """The sensor over the polling jobs of the markets that are there; nothing where there are none."""
    jobs = [job for job in markets.jobs or () if isinstance(job, dg.JobDefinition) and job.name.endswith("_poll")]
    return dg.Definitions(sensors=[job_sensor(jobs)] if jobs else [])


def job_sensor(jobs: Sequence[dg.JobDefinition]) -> dg.SensorDefinition:
    @dg.sensor(
        name=SENSOR,
        jobs=list(jobs),
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs the polls that were added with `market-pipelines jobs add`, each in its own interval and "
        "only while its exchange trades. A job whose last run still goes on waits.",
    )
    def scheduled_jobs(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
        served = {job.name for job in jobs}
        with platform.opened(asks=False) as opened:
            slots = Slots.of(context.cursor).jobs
            states = job_states(opened, slots)
            now = opened.clock()
            due = [
                state
                for state in states
                if state.next_run is not None
                and state.next_run <= now
                and poll_job_name(opened.market(state.job.market)) in served
                and not _goes_on(context.instance, state.job.name)
            ]
            requests = [_request(opened, state, now) for state in due]
            note_requested(opened, [state.job.name for state in due])
        if not requests:
            return dg.SensorResult(skip_reason=_why_not(states, now))
        kept = {state.job.name: slots[state.job.name] for state in states if state.job.name in slots}
        asked = {state.job.name: state.job.slot(now) for state in due}
        return dg.SensorResult(run_requests=requests, cursor=_cursor({**kept, **asked}))

    return scheduled_jobs


def _request(platform: Platform, state: JobState, now: datetime) -> dg.RunRequest:
    market = platform.market(state.job.market)
    return dg.RunRequest(
        run_key=f"{state.job.name}-{state.job.slot(now):%Y%m%dT%H%M}",
        job_name=poll_job_name(market),
        run_config=poll_run_config(market, PollConfig(job=state.job.name)),
        tags={JOB_TAG: state.job.name, **lane(market.name, INTRADAY_LAYER)},
    )


def _goes_on(instance: dg.DagsterInstance, name: str) -> bool:
    return instance.get_runs_count(dg.RunsFilter(tags={JOB_TAG: name}, statuses=list(GOING_ON))) > 0


def _why_not(states: Sequence[JobState], now: datetime) -> str:
    if not states:
        return "no job is scheduled; `market-pipelines jobs add` adds one"
    coming = sorted((state.next_run, state.job.name) for state in states if state.next_run is not None)
    waiting = [name for at, name in coming if at <= now]
    if waiting:
        return f"the last run of {', '.join(waiting)} still goes on, or its market has no polling job"
    if not coming:
        return "no market of the scheduled jobs is there"
    at, name = coming[0]
    return f"next: {name} at {at:%a %Y-%m-%d %H:%M:%S} UTC"


def _cursor(slots: Mapping[str, datetime]) -> str:
    return msgspec.json.encode(Slots(dict(slots))).decode()
