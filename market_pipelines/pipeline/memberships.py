"""Who belongs to a market's indices, from the universe files into `index_members`."""

from __future__ import annotations

from dataclasses import dataclass

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.universes import Universe
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.universes import load_universe, universe_names
from market_pipelines.store.membership import write_membership
from market_pipelines.store.upsert import WriteCounts


@dataclass(frozen=True)
class MembershipReport:
    universe: Universe
    counts: WriteCounts


def store_memberships(platform: Platform, market: MarketDefinition) -> tuple[MembershipReport, ...]:
    """Makes `index_members` say what the files of the market's exchange say."""
    universes = [load_universe(name) for name in universe_names()]
    with platform.database.connection() as connection:
        return tuple(
            MembershipReport(universe, write_membership(connection, market.name, universe.index, universe.members))
            for universe in universes
            if universe.exchange == market.mic
        )
