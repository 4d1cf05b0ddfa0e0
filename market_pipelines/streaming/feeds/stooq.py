"""Stooq's light quotes: the polled feed with one provider, in batches of as many symbols as it takes."""

from __future__ import annotations

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.pipeline.platform import Platform
from market_pipelines.streaming.feeds.polled import PolledFeed
from market_pipelines.streaming.opening import OpeningHours
from market_pipelines.streaming.plan import StreamPlan

PROVIDER = "stooq"


def stooq_feed(platform: Platform, market: MarketDefinition, plan: StreamPlan, opening: OpeningHours) -> PolledFeed:
    return PolledFeed(platform, market, plan, (platform.providers[PROVIDER],), opening)
