"""Retention every night: an asset whose metadata is the account of what went and what stayed, its job and schedule."""

from datetime import UTC, timedelta

import dagster as dg
import pandas as pd
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from market_pipelines.orchestration.cron import overtaken, run_going_on
from market_pipelines.orchestration.dagster_log import prune_events, prune_ticks
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.schedules import Decision, once
from market_pipelines.pipeline.platform import wall_clock
from market_pipelines.pipeline.retention import Account, apply_retention

JOB = "retention"
KEY = dg.AssetKey(["platform", "retention"])
AT_NIGHT = "30 3 * * *"


class Housekeeping(dg.Config):
    dry_run: bool = False


def housekeeping() -> dg.Definitions:
    return dg.Definitions(assets=[_retention], jobs=[_job()], schedules=[retention_schedule])


@dg.asset(
    key=KEY,
    group_name="platform",
    description="What is older than the settings RETENTION_… keep and is covered by something else is deleted; "
    "here stands what went, what stayed and why. Dagster's own log is pruned as well.",
    kinds={"python", "postgres"},
    owners=["team:market-data"],
    tags={"layer": "operations"},
)
def _retention(
    context: dg.AssetExecutionContext, config: Housekeeping, platform: PlatformResource
) -> dg.MaterializeResult[None]:
    with platform.opened(asks=False) as opened:
        report = apply_retention(opened, dry_run=config.dry_run)
        settings = opened.settings
    days, tick_days = settings.retention_dagster_events_days, settings.retention_dagster_ticks_days
    accounts = (
        *report.accounts,
        *prune_events(context.instance, days, report.at - timedelta(days=days), dry_run=config.dry_run),
        *prune_ticks(context.instance, tick_days, report.at - timedelta(days=tick_days), dry_run=config.dry_run),
    )
    return dg.MaterializeResult(
        metadata={
            "dry_run": config.dry_run,
            # As floats, which Dagster draws over time.
            "deleted": float(sum(one.deleted for one in accounts)),
            "megabytes_freed": round(sum(one.bytes for one in accounts) / 1e6, 3),
            "old_but_kept": float(sum(one.kept for one in accounts)),
            "accounts": table(_frame(accounts), rows=len(accounts)),
        }
    )


def _frame(accounts: tuple[Account, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        [(one.name, one.keeps, one.total, one.old, one.deleted, one.bytes, one.kept, one.why_kept) for one in accounts],
        columns=["what", "kept for", "there", "old", "deleted", "bytes", "old, but stays", "because"],
    )


def _job() -> UnresolvedAssetJobDefinition:
    @dg.config_mapping
    def everything(config: Housekeeping) -> dict[str, object]:
        return {"ops": {_retention.node_def.name: {"config": {"dry_run": config.dry_run}}}}

    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(KEY),
        config=everything,
        description="Deletes what is old and covered by something else. With `dry_run: true` it only says what.",
    )


@dg.schedule(
    name="retention_nightly",
    job_name=JOB,
    cron_schedule=AT_NIGHT,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="At half past three in the night, UTC, when no exchange of ours trades.",
)
def retention_schedule(context: dg.ScheduleEvaluationContext) -> Decision:
    tick = context.scheduled_execution_time.astimezone(UTC)
    if reason := overtaken([AT_NIGHT], "UTC", tick, wall_clock()):
        return dg.SkipReason(reason)
    if (going := run_going_on(context.instance, JOB)) is not None:
        return dg.SkipReason(f"the last one is still going on: {going.run_id[:8]}")
    return once(context.instance, JOB, f"{JOB}-{tick:%Y-%m-%d}", {})
