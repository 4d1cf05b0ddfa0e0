"""The platform's own health in Dagster: an asset whose checks are its parts, looked at every half hour.

As an asset it has a page with its past, a plot of its figures, and a check for each part that turns red by itself;
a part that is broken fails the run.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd

from market_pipelines.orchestration.cron import overtaken, run_going_on
from market_pipelines.orchestration.freshness import states
from market_pipelines.orchestration.present import counted, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.schedules import Decision, once
from market_pipelines.pipeline.health import Condition, Health, Part, Sign, examine, unreachable
from market_pipelines.pipeline.platform import wall_clock
from market_pipelines.store.database import DatabaseUnavailable

JOB = "health_check"
KEY = dg.AssetKey(["platform", "health"])
EVERY_HALF_HOUR = "*/30 * * * *"
QUEUED_TOO_LONG = timedelta(hours=1)
_ROWS_SHOWN = 60
_PARTS = {
    Part.DATABASE: "The database answers, and its schema is the one that this release knows.",
    Part.DISK: "There is room on the disk below the data folder.",
    Part.PROVIDERS: "Every market has a provider that can be asked: neither left alone by its breaker nor spent.",
    Part.FRESHNESS: "The newest session that has to be there is in every market's tables.",
    Part.JOBS: "No job died without a word, none has been running for hours.",
    Part.STREAMS: "Every live stream that somebody began goes on while its exchange trades: heard of, not silent, "
    "its sinks up to date, its gaps filled.",
    Part.BACKLOG: "No session and no run has been waiting for hours.",
}


def health_definitions() -> dg.Definitions:
    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(KEY),
        description="Database, disk, providers, freshness of every market, jobs, backlog. Fails when one is broken.",
    )
    return dg.Definitions(assets=[_health], jobs=[job], schedules=[health_schedule])


@dg.asset(
    key=KEY,
    group_name="platform",
    description="Whether the platform is well: database, disk, providers, freshness of every market against its "
    "calendar, jobs, backlog. What is wrong is said with what to do.",
    kinds={"python", "postgres"},
    owners=["team:market-data"],
    tags={"layer": "operations"},
    check_specs=[
        dg.AssetCheckSpec(part.value, asset=KEY, description=text, blocking=True) for part, text in _PARTS.items()
    ],
)
def _health(
    context: dg.AssetExecutionContext, platform: PlatformResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    found = _examined(platform)
    waiting = _queued(context.instance, found.at)
    signs = (*found.signs, *waiting)
    conditions = [sign.condition for sign in signs]
    yield dg.MaterializeResult(
        asset_key=KEY,
        metadata={
            "broken": conditions.count(Condition.BROKEN),
            "worth_a_look": conditions.count(Condition.WORTH_A_LOOK),
            "signs_by_condition": counted(condition.value for condition in conditions),
            "health": table(_frame(signs), rows=_ROWS_SHOWN),
        },
    )
    for part in Part:
        mine = tuple(sign for sign in signs if sign.part is part)
        if mine:
            yield _result(part, mine)
        else:
            yield dg.AssetCheckResult(
                asset_key=KEY,
                check_name=part.value,
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description="Cannot be seen without the database.",
            )


def _examined(platform: PlatformResource) -> Health:
    try:
        with platform.opened(asks=False) as opened:
            now = opened.clock()
            return examine(opened, lambda market: states(opened, market, now))
    except DatabaseUnavailable as error:
        return unreachable(wall_clock(), error)


def _queued(instance: dg.DagsterInstance, now: datetime) -> tuple[Sign, ...]:
    """The run queue, which only Dagster knows of."""
    queued = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    late = [record for record in queued if now - record.create_timestamp > QUEUED_TOO_LONG]
    if not late:
        return (Sign(Part.BACKLOG, "run queue", Condition.WELL, f"{len(queued)} runs are queued"),)
    names = counted(record.dagster_run.job_name for record in late)
    detail = f"{len(late)} runs have been queued for more than an hour: {names}"
    return (Sign(Part.BACKLOG, "run queue", Condition.WORTH_A_LOOK, detail, "is a run stuck that holds their lane?"),)


def _result(part: Part, signs: tuple[Sign, ...]) -> dg.AssetCheckResult:
    troubled = [sign for sign in signs if sign.condition is not Condition.WELL]
    broken = any(sign.condition is Condition.BROKEN for sign in troubled)
    shown = "; ".join(f"{sign.subject}: {sign.detail}" for sign in troubled[:3])
    return dg.AssetCheckResult(
        asset_key=KEY,
        check_name=part.value,
        passed=not troubled,
        severity=dg.AssetCheckSeverity.ERROR if broken else dg.AssetCheckSeverity.WARN,
        description=shown or f"{len(signs)} looked at, all well.",
        metadata={"troubled": len(troubled), "signs": table(_frame(signs))},
    )


def _frame(signs: tuple[Sign, ...]) -> pd.DataFrame:
    order = {Condition.BROKEN: 0, Condition.WORTH_A_LOOK: 1, Condition.WELL: 2}
    return pd.DataFrame(
        [
            (sign.part.value, sign.subject, sign.condition.value, sign.detail, sign.remedy)
            for sign in sorted(signs, key=lambda sign: order[sign.condition])
        ],
        columns=["part", "subject", "condition", "detail", "what_to_do"],
    )


@dg.schedule(
    name=JOB,
    job_name=JOB,
    cron_schedule=EVERY_HALF_HOUR,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every half hour, whether anything trades or not.",
)
def health_schedule(context: dg.ScheduleEvaluationContext) -> Decision:
    tick = context.scheduled_execution_time.astimezone(UTC)
    if reason := overtaken([EVERY_HALF_HOUR], "UTC", tick, wall_clock()):
        return dg.SkipReason(reason)
    if (going := run_going_on(context.instance, JOB)) is not None:
        return dg.SkipReason(f"the last look is still going on: {going.run_id[:8]}")
    return once(context.instance, JOB, f"{JOB}-{tick:%Y-%m-%dT%H:%M}", {})
