"""The weekly refresh of a market: its reference data, and its last daily bars once more."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.cron import lane
from market_pipelines.orchestration.specs import DAILY_LAYER, REFERENCE_LAYER


def weekly_refresh_job(market: MarketDefinition) -> UnresolvedAssetJobDefinition:
    """One job over both groups: the sessions of a run are for the daily bars, reference data has none. It keeps to
    the lane of the daily refresh, whose tables it writes."""
    return dg.define_asset_job(
        f"{market.name}_weekly_refresh",
        selection=dg.AssetSelection.groups(market.name, f"{market.name}_{REFERENCE_LAYER}"),
        description=f"Brings listings, profiles, quotes, options and venues of {market.title} up to date, and asks for "
        "the chosen sessions once more: a week later a provider has corrected what it corrects.",
        tags={"market": market.name, **lane(market.name, DAILY_LAYER)},
    )
