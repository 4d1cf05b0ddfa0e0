"""Which symbols a running stream is subscribed to: what they are now, and how they are read again.

How a feed carries them is the feed's business, how words become symbols that of `symbols`.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from market_pipelines.market.universes import UniverseFileError, UnknownUniverse
from market_pipelines.pipeline.markets import MarketFileError
from market_pipelines.pipeline.platform import Platform, UnknownMarket
from market_pipelines.settings import SettingsError
from market_pipelines.streaming.feeds.protocol import Feed, FeedFailed
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.plans import Selection

_SLIPS = (FeedFailed, SettingsError, MarketFileError, UnknownMarket, UnknownUniverse, UniverseFileError, OSError)
"""Of whoever wrote the files: none of them ends a stream that runs."""

_log = structlog.stdlib.get_logger("market_pipelines.streaming")


def read_again(platform: Platform, stream: str, selection: Selection, feed: Feed) -> None:
    """Has the feed follow what market file, list and universes say now; where they say nothing, what it has."""
    try:
        symbols = selection.again(platform)
        feed.follow(symbols)
    except _SLIPS as error:
        _log.error("the symbols stay as they were", stream=stream, reason=str(error))
        return
    _log.info("symbols reloaded", stream=stream, symbols=len(symbols))


def subscribed_now(feed: Feed, plan: StreamPlan) -> Sequence[str]:
    """What is subscribed to now, contracts rather than their underlyings."""
    found: dict[str, None] = {}
    for connection in feed.connections():
        symbols = feed.subscribed(connection.origin)
        if symbols is None:
            return plan.symbols
        found.update(dict.fromkeys(symbols))
    return tuple(found) or plan.symbols
