"""The check of what providers say about corporate actions, and when a market's reference data is refreshed."""

from collections.abc import Iterator

import dagster as dg
import pandas as pd
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.present import counted, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import REFERENCE_LAYER, asset_key
from market_pipelines.store.claims import read_flags

WEEKEND = "0 8 * * 6"
"""Saturday morning by the market's own clock: nothing trades, and Friday's corrections are in."""


def reference_checks(market: MarketDefinition) -> list[dg.AssetChecksDefinition]:
    key = asset_key(market, "corporate_actions")

    @dg.multi_asset_check(
        name=f"{market.name}_actions_agree",
        specs=[
            dg.AssetCheckSpec(
                "actions_agree",
                asset=key,
                description="No provider denies an action that another one claims, and their days and amounts agree.",
            )
        ],
    )
    def actions_agree(platform: PlatformResource) -> Iterator[dg.AssetCheckResult]:
        with platform.opened() as opened, opened.database.connection() as connection:
            flags = read_flags(connection, market.name)
        shown = pd.DataFrame(
            [(one.symbol, one.ex_date, one.kind.value, one.problem.value, one.used, one.detail) for one in flags],
            columns=["symbol", "ex_date", "kind", "problem", "used", "detail"],
        ).sort_values("ex_date", ascending=False)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name="actions_agree",
            passed=not flags,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{counted(flag.problem.value for flag in flags)}." if flags else "Nobody contradicts anybody.",
            metadata={"open": len(flags), "flags": table(shown)},
        )

    return [actions_agree]


def weekly_refresh_job(market: MarketDefinition) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"{market.name}_weekly_refresh",
        selection=dg.AssetSelection.groups(f"{market.name}_{REFERENCE_LAYER}"),
        description=f"Brings listings, profiles, quotes, options and venues of {market.title} up to date.",
        tags={"market": market.name},
    )


def weekly_schedule(market: MarketDefinition, job_name: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{market.name}_weekend",
        job_name=job_name,
        cron_schedule=WEEKEND,
        execution_timezone=trading_calendar(market.mic).zone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"On Saturday morning, by the clock of {market.mic}.",
    )
