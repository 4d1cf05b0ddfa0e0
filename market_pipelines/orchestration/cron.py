"""Cron lines as Dagster itself reads them, and what every schedule of ours looks at before it asks for a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG
from dagster._utils.schedules import schedule_execution_time_iterator

LANE_TAG = "market_pipelines/lane"
"""Runs of one lane write the same tables: the run queue lets them through one at a time."""
RANGE_START_TAG, RANGE_END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"
GOING_ON = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_MOMENT = timedelta(seconds=1)


def written(lines: Sequence[str]) -> str | list[str]:
    """As a schedule takes them: the UI explains a single line in words."""
    return lines[0] if len(lines) == 1 else list(lines)


def next_tick(lines: Sequence[str], zone: str, after: datetime) -> datetime:
    """The first tick later than an instant."""
    later = (after + _MOMENT).timestamp()
    ticks = schedule_execution_time_iterator(later, list(lines), zone, ascending=True)
    return next(ticks).astimezone(UTC)


def overtaken(lines: Sequence[str], zone: str, tick: datetime, now: datetime) -> str:
    """Why a tick that is evaluated late does nothing: the next one has come as well. Empty for the newest tick."""
    following = next_tick(lines, zone, tick)
    if following > now:
        return ""
    return f"this tick was missed, and that of {following:%Y-%m-%d %H:%M} UTC has passed too: the newest one covers it"


def run_of_key(instance: dg.DagsterInstance, job_name: str, key: str) -> dg.DagsterRun | None:
    """The run that was started with that key, however it ended. Dagster itself compares keys of one tick only."""
    return next(iter(instance.get_runs(dg.RunsFilter(job_name=job_name, tags={RUN_KEY_TAG: key}), limit=1)), None)


def run_going_on(instance: dg.DagsterInstance, job_name: str) -> dg.DagsterRun | None:
    return next(iter(instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=list(GOING_ON)), limit=1)), None)


def lane(market: str, layer: str) -> dict[str, str]:
    return {LANE_TAG: f"{market}_{layer}"}
