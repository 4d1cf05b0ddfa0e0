"""From what a person or a market file says to the plans of streams: which market, which feed, whose symbols.

Nothing is connected here. How symbols are found is in `symbols`, what a plan means to a feed in `feeds`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from market_pipelines.market.definition import MarketDefinition, StreamSetup
from market_pipelines.market.records import Right
from market_pipelines.market.universes import UnknownUniverse
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stream_delay import delay_of
from market_pipelines.pipeline.universes import load_universe
from market_pipelines.settings import SettingsError
from market_pipelines.streaming.keys import keyless
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName, StreamPlan
from market_pipelines.streaming.symbols import chosen_symbols

PROVIDER_OF = {FeedName.POLYGON: "polygon", FeedName.STOOQ: "stooq", FeedName.YAHOO: "yahoo"}
"""Who stands behind a feed; of `poll` it is the plan's provider, or the market's chain."""


class NothingToStream(SettingsError):
    """No stream is named, and no market file has one."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose ticks are wanted, as a person said it: it can be looked up again while the stream runs."""

    market: str
    symbols: tuple[str, ...] = ()
    symbols_list: Path | None = None
    types: tuple[str, ...] = ()

    def resolve(self, platform: Platform) -> tuple[str, ...]:
        return chosen_symbols(
            platform, market=self.market, symbols=self.symbols, symbols_list=self.symbols_list, types=self.types
        )

    def again(self, platform: Platform) -> tuple[str, ...]:
        """With market files, lists and universes as they are now."""
        return self.resolve(replace(platform, markets=read_markets()))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for; None and empty: as the market file says."""

    market: str | None = None
    feed: FeedName | None = None
    symbols: tuple[str, ...] = ()
    symbols_list: Path | None = None
    types: tuple[str, ...] = ()
    asset_class: AssetClass = AssetClass.STOCKS
    channels: tuple[Channel, ...] = ()
    symbols_per_connection: int = 25
    max_connections: int = 1
    batch_seconds: float = 1.0
    max_expiry_days: int = 30
    right: Right | None = None
    market_hours: bool = False
    provider: str = ""
    every_seconds: float | None = None
    attempts: int | None = None

    @property
    def names_something(self) -> bool:
        """Whether one stream is meant, rather than every market's own."""
        symbols = self.symbols or self.symbols_list or self.types
        return bool(self.market or self.feed or symbols or self.asset_class is AssetClass.OPTIONS)


@dataclass(frozen=True, slots=True)
class Planned:
    plan: StreamPlan
    selection: Selection


def planned(platform: Platform, wanted: Wanted | None = None) -> tuple[Planned, ...]:
    """The streams that are meant: one where a feed, a market or symbols are named, otherwise every market's own."""
    wanted = wanted or Wanted()
    if wanted.names_something:
        return (_planned(platform, market_of(platform, wanted), wanted),)
    own = [market for market in platform.markets.values() if market.stream is not None]
    if not own:
        raise NothingToStream("no market file has a section 'stream': name a feed with --feed")
    return tuple(_planned(platform, market, wanted) for market in own)


def market_of(platform: Platform, wanted: Wanted) -> MarketDefinition:
    """The market that is named; else the one that lists what is wanted; else the one whose own feed it is; else the
    first one whose provider streams so."""
    if wanted.market is not None:
        return platform.market(wanted.market)
    listing = _listing(platform, wanted)
    if listing and (wanted.feed is not FeedName.POLYGON or wanted.types):
        return listing[0]
    feed = wanted.feed or FeedName.POLYGON
    markets = _in_order(platform)
    own = [one for one in markets if one.stream is not None and one.stream.feed == feed]
    provider = platform.providers.get(PROVIDER_OF.get(feed) or wanted.provider)
    served = [one for one in markets if provider is not None and any(map(provider.covers, one.instruments))]
    return (own or served or markets)[0]


def unready(platform: Platform, plan: StreamPlan) -> str:
    """Why it cannot be streamed at all, for a person; empty where it can."""
    reason = keyless(platform.settings, plan.feed, simulated=platform.simulated)
    if reason or platform.simulated or plan.feed is FeedName.YAHOO:
        return reason
    provider = platform.providers.get(PROVIDER_OF.get(plan.feed) or plan.provider)
    return "" if provider is None or plan.feed is FeedName.POLYGON else provider.ready()


def _planned(platform: Platform, market: MarketDefinition, wanted: Wanted) -> Planned:
    setup = market.stream or StreamSetup(feed=FeedName.POLL.value)
    feed = wanted.feed or (FeedName.POLYGON if wanted.asset_class is AssetClass.OPTIONS else FeedName(setup.feed))
    selection = Selection(market.name, wanted.symbols, wanted.symbols_list, wanted.types)
    plan = StreamPlan(
        market=market.name,
        feed=feed,
        symbols=selection.resolve(platform),
        asset_class=wanted.asset_class,
        channels=_channels(feed, wanted.channels, setup),
        symbols_per_connection=wanted.symbols_per_connection,
        max_connections=wanted.max_connections,
        every_seconds=setup.every_seconds if wanted.every_seconds is None else wanted.every_seconds,
        provider=wanted.provider,
        batch_seconds=wanted.batch_seconds,
        max_expiry_days=wanted.max_expiry_days,
        right=wanted.right,
        market_hours=wanted.market_hours,
        attempts=platform.settings.stream_reconnect_attempts if wanted.attempts is None else wanted.attempts,
        delay=delay_of(platform.settings, feed),
    )
    return Planned(plan, selection)


def _channels(feed: FeedName, asked: Sequence[Channel], setup: StreamSetup) -> tuple[Channel, ...]:
    """Feeds that look again and again have quotes alone."""
    if feed is not FeedName.POLYGON:
        return (Channel.QUOTES,)
    return tuple(dict.fromkeys(asked)) or tuple(Channel(name) for name in setup.channels)


def _listing(platform: Platform, wanted: Wanted) -> list[MarketDefinition]:
    """The markets that have every symbol that is named, or the exchange of the first universe."""
    symbols = {symbol.upper() for symbol in wanted.symbols}
    if symbols:
        return [one for one in _in_order(platform) if symbols <= {listed.symbol for listed in one.everything}]
    for word in wanted.types:
        try:
            exchange = load_universe(re.sub(r"[-_ ]", "", word)).exchange
        except UnknownUniverse:
            continue  # `all`, or what `symbols` refuses with what there is
        return [one for one in _in_order(platform) if one.mic == exchange]
    return []


def _in_order(platform: Platform) -> list[MarketDefinition]:
    """Those with Polygon's stream first: where nothing tells markets apart, it is meant."""
    return sorted(
        platform.markets.values(), key=lambda one: one.stream is None or one.stream.feed != FeedName.POLYGON.value
    )
