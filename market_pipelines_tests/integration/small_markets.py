"""The definitions of the platform for two small markets: the ones of `defs/` with a few of their instruments.

Loaded by Dagster as a code location of its own, also anew for every run.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from functools import cache

import dagster as dg

from market_pipelines.definitions import with_shared
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.market_component import market_definitions
from market_pipelines.pipeline.markets import read_markets

FOLLOWED = {"us": ("AAPL", "MSFT", "KO", "WMT", "JPM"), "pl": ("PKN", "PKO", "KGH")}


def small_markets() -> dict[str, MarketDefinition]:
    return {name: _small(market) for name, market in read_markets().items()}


def _small(market: MarketDefinition) -> MarketDefinition:
    followed = FOLLOWED[market.name]
    intraday = market.intraday
    assert intraday is not None
    return replace(
        market,
        since=date(2026, 1, 2),
        instruments=tuple(one for one in market.instruments if one.symbol in followed),
        indices=market.indices[:1],
        intraday=replace(intraday, interval="60min", every_minutes=60, extended=False),
    )


@dg.definitions
def defs() -> dg.Definitions:
    return _definitions(datetime.now(UTC).date())


@cache
def _definitions(today: date) -> dg.Definitions:
    """Dagster loads them for every run."""
    now = datetime.combine(today, time(), UTC)
    return with_shared(dg.Definitions.merge(*(market_definitions(market, now) for market in small_markets().values())))
