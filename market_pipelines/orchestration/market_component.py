"""The `market_pipelines.Market` component: one YAML file becomes a market's assets, checks, jobs and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import BaseModel
from typing_extensions import override

from market_pipelines.market.cadence import daily_cycle, intraday_cycle
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.quality.rules import OPTIONS
from market_pipelines.orchestration.cron import lane
from market_pipelines.orchestration.cross_check import cross_check_definitions
from market_pipelines.orchestration.daily_assets import daily_assets
from market_pipelines.orchestration.freshness import freshness_definitions
from market_pipelines.orchestration.intraday_assets import intraday_assets
from market_pipelines.orchestration.partitions import SessionPartitionsDefinition, session_partitions
from market_pipelines.orchestration.polling_sensors import polling_definitions
from market_pipelines.orchestration.quality_checks import checks_job, quality_checks
from market_pipelines.orchestration.raw_checks import raw_checks
from market_pipelines.orchestration.realtime import STREAM, realtime_job, realtime_specs
from market_pipelines.orchestration.realtime_bars import bars_definitions
from market_pipelines.orchestration.realtime_checks import realtime_checks, tick_checks
from market_pipelines.orchestration.realtime_sensor import stream_sensor
from market_pipelines.orchestration.reference_assets import reference_assets
from market_pipelines.orchestration.reference_jobs import weekly_refresh_job
from market_pipelines.orchestration.repair import repair_definitions
from market_pipelines.orchestration.schedules import after_close_schedule, market_hours_schedule, weekly_schedule
from market_pipelines.orchestration.specs import DAILY_LAYER, INTRADAY_LAYER, asset_key
from market_pipelines.orchestration.tick_assets import tick_assets
from market_pipelines.pipeline.chain import chain_names
from market_pipelines.pipeline.markets import MarketModel, read_market
from market_pipelines.pipeline.pull_intraday import offering
from market_pipelines.providers.protocol import Capability, DailyProvider, abilities_of
from market_pipelines.providers.registry import build_providers
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
    reference = _reference(market, chain)
    checks = quality_checks(market, without=() if _has(reference, market, OPTIONS) else (OPTIONS,))
    ticks = tick_checks(market)
    refresh = dg.define_asset_job(
        f"{market.name}_daily_refresh",
        selection=dg.AssetSelection.groups(market.name),
        partitions_def=partitions,
        description=f"Pulls, judges and settles the daily bars of {market.title} for the chosen sessions.",
        tags={"market": market.name, **lane(market.name, DAILY_LAYER)},
    )
    daily = dg.Definitions(
        assets=assets,
        asset_checks=[*checks, raw_checks(market, chain)],
        jobs=[refresh, checks_job(market, [*checks, *ticks])],
        schedules=[after_close_schedule(market, refresh.name, daily_cycle(market), now)],
    )
    known = build_providers(read_settings())
    providers = [
        known[name] for name in chain if name in known and any(known[name].covers(one) for one in market.everything)
    ]
    return dg.Definitions.merge(
        daily,
        *_intraday(market, providers, partitions, now),
        reference,
        *_ticks(market, providers, partitions),
        freshness_definitions(market, now),
        polling_definitions(market),
        cross_check_definitions(market, now),
        repair_definitions(market),
        *_realtime(market, ticks, partitions, now),
    )


def _has(definitions: dg.Definitions, market: MarketDefinition, name: str) -> bool:
    wanted = asset_key(market, name)
    return any(isinstance(one, dg.AssetsDefinition) and wanted in one.keys for one in definitions.assets or ())


def _reference(market: MarketDefinition, chain: tuple[str, ...]) -> dg.Definitions:
    refresh = weekly_refresh_job(market)
    return dg.Definitions(
        assets=reference_assets(market, chain),
        jobs=[refresh],
        schedules=[weekly_schedule(market, refresh.name)],
    )


def _ticks(
    market: MarketDefinition, providers: Sequence[DailyProvider], partitions: SessionPartitionsDefinition
) -> list[dg.Definitions]:
    if not any(Capability.TRADES in abilities_of(provider) for provider in providers):
        return []
    return [dg.Definitions(assets=tick_assets(market, partitions))]


def _intraday(
    market: MarketDefinition,
    providers: Sequence[DailyProvider],
    partitions: SessionPartitionsDefinition,
    now: datetime,
) -> list[dg.Definitions]:
    cycle = intraday_cycle(market)
    if market.intraday is None or cycle is None:
        return []
    names = [provider.name for provider in offering(providers, market.intraday.interval)]
    refresh = dg.define_asset_job(
        f"{market.name}_intraday_refresh",
        selection=dg.AssetSelection.groups(f"{market.name}_{INTRADAY_LAYER}"),
        partitions_def=partitions,
        description=f"Pulls, judges and settles the bars within the chosen sessions of {market.title}.",
        tags={"market": market.name, **lane(market.name, INTRADAY_LAYER)},
    )
    return [
        dg.Definitions(
            assets=intraday_assets(market, market.intraday, names, partitions),
            asset_checks=[raw_checks(market, names, INTRADAY_LAYER)],
            jobs=[refresh],
            schedules=[
                after_close_schedule(market, refresh.name, cycle, now, INTRADAY_LAYER),
                market_hours_schedule(market, market.intraday, refresh.name, now),
            ],
        )
    ]


def _realtime(
    market: MarketDefinition,
    ticks: list[dg.AssetChecksDefinition],
    partitions: SessionPartitionsDefinition,
    now: datetime,
) -> list[dg.Definitions]:
    setup = market.stream
    if setup is None:
        return []
    job = realtime_job(market)
    return [
        dg.Definitions(
            assets=realtime_specs(market, setup),
            asset_checks=[realtime_checks(market), *ticks],
            jobs=[job],
            sensors=[stream_sensor(market, job)],
            resources={"stream": STREAM},
        ),
        bars_definitions(market, setup, partitions, now, ticks),
    ]
