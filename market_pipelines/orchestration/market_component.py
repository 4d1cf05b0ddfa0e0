"""The `market_pipelines.Market` component: one YAML file becomes a market's assets, checks, jobs and schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import BaseModel
from typing_extensions import override

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.daily_assets import daily_assets
from market_pipelines.orchestration.daily_checks import daily_checks
from market_pipelines.orchestration.partitions import session_partitions
from market_pipelines.orchestration.schedules import daily_schedule
from market_pipelines.pipeline.chain import chain_names
from market_pipelines.pipeline.markets import MarketModel, read_market
from market_pipelines.settings import read_settings


class Market(dg.Component):
    """A market of this platform: its exchange calendar, its instruments, and the providers that serve it."""

    def __init__(self, market: MarketDefinition) -> None:
        self.market = market

    @classmethod
    @override
    def get_model_cls(cls) -> type[BaseModel]:
        return MarketModel

    @classmethod
    @override
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        # The file itself is read once more, because a refusal has to name its line.
        folder = Path(context.path)
        return cls(read_market(folder / "defs.yaml" if folder.is_dir() else folder))

    @override
    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return market_definitions(self.market, datetime.now(UTC))


def market_definitions(market: MarketDefinition, now: datetime) -> dg.Definitions:
    chain = chain_names(market, read_settings())
    partitions = session_partitions(market.mic, market.since, now.date())
    assets = daily_assets(market, chain, partitions)
    checks = daily_checks(market, chain)
    refresh = dg.define_asset_job(
        f"{market.name}_daily_refresh",
        selection=dg.AssetSelection.groups(market.name),
        partitions_def=partitions,
        description=f"Pulls, judges and settles the daily bars of {market.title} for the chosen sessions.",
        tags={"market": market.name},
    )
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[refresh],
        schedules=[daily_schedule(market, refresh.name, now)],
    )
