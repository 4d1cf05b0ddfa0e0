"""Two small markets with nothing but their daily assets, the schedules that refresh them, and freshness.

A code location of its own for the tests of the cadence, so that a simulated week costs seconds.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import dagster as dg

from market_pipelines.market.cadence import daily_cycle, intraday_cycle
from market_pipelines.market.definition import IntradayPlan, MarketDefinition
from market_pipelines.orchestration.cron import lane
from market_pipelines.orchestration.daily_assets import daily_assets
from market_pipelines.orchestration.freshness import freshness_definitions
from market_pipelines.orchestration.intraday_assets import intraday_assets
from market_pipelines.orchestration.partitions import session_partitions
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.schedules import after_close_schedule, market_hours_schedule
from market_pipelines.orchestration.specs import DAILY_LAYER
from market_pipelines.pipeline.markets import read_markets

FOLLOWED = {"us": ("AAPL", "KO"), "pl": ("PKO", "KGH")}


def small_markets() -> dict[str, MarketDefinition]:
    return {
        name: replace(
            market,
            since=date(2026, 1, 2),
            providers=("yahoo",),
            instruments=tuple(one for one in market.instruments if one.symbol in FOLLOWED[name]),
            indices=market.indices[:1],
            intraday=None,
        )
        for name, market in read_markets().items()
    }


def market_defs(market: MarketDefinition, now: datetime) -> dg.Definitions:
    partitions = session_partitions(market.mic, market.since, now.date())
    job = dg.define_asset_job(
        f"{market.name}_daily_refresh",
        selection=dg.AssetSelection.groups(market.name),
        partitions_def=partitions,
        tags=lane(market.name, DAILY_LAYER),
    )
    schedule = after_close_schedule(market, job.name, daily_cycle(market), now)
    mine = dg.Definitions(assets=daily_assets(market, market.providers, partitions), jobs=[job], schedules=[schedule])
    return dg.Definitions.merge(mine, freshness_definitions(market, now))


def hourly_market() -> MarketDefinition:
    """Warsaw with bars of an hour."""
    market, plan = small_markets()["pl"], IntradayPlan("60min", every_minutes=60)
    return replace(market, intraday=plan)


@dg.definitions
def trading() -> dg.Definitions:
    """The bars within sessions of one market."""
    now, market = datetime.now(UTC), hourly_market()
    plan, cycle = market.intraday, intraday_cycle(market)
    assert plan is not None
    assert cycle is not None
    partitions = session_partitions(market.mic, market.since, now.date())
    job = dg.define_asset_job(
        f"{market.name}_intraday_refresh",
        selection=dg.AssetSelection.groups(f"{market.name}_intraday"),
        partitions_def=partitions,
    )
    return dg.Definitions(
        assets=intraday_assets(market, plan, market.providers, partitions),
        jobs=[job],
        schedules=[
            market_hours_schedule(market, plan, job.name, now),
            after_close_schedule(market, job.name, cycle, now, "intraday"),
        ],
        resources={"platform": PlatformResource()},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    now = datetime.now(UTC)
    return dg.Definitions.merge(
        *(market_defs(market, now) for market in small_markets().values()),
        dg.Definitions(resources={"platform": PlatformResource()}, executor=dg.in_process_executor),
    )
