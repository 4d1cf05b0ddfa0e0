"""The feed that a plan means: its address, its key, its symbols. A refusal is for the person who started it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import MarketPhase
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.polygon.wire import MOST_QUOTED_CONTRACTS, PUBLIC_SOCKET
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.streaming.care import Care
from market_pipelines.streaming.connection import Watch
from market_pipelines.streaming.feeds.massive import Contracts, Shares
from market_pipelines.streaming.feeds.massive_dialogue import Entitlements, MassiveDialogue
from market_pipelines.streaming.feeds.polled import PolledFeed, quoting
from market_pipelines.streaming.feeds.protocol import Feed, FeedFailed
from market_pipelines.streaming.feeds.sockets import Resolver, SocketFeed
from market_pipelines.streaming.feeds.stooq import stooq_feed
from market_pipelines.streaming.feeds.yahoo import PUBLIC_STREAMER, YahooDialogue
from market_pipelines.streaming.opening import OpeningHours
from market_pipelines.streaming.plan import ALL, AssetClass, Channel, FeedName, StreamPlan
from market_pipelines.streaming.watchdog import Mute, Silence, mute, phase_at

USUAL_CARE = Care()
SIMULATED_KEY = "simulated"
"""The simulator is never shown a real one."""


def build_feed(platform: Platform, plan: StreamPlan, care: Care = USUAL_CARE) -> Feed:
    market = platform.market(plan.market)
    if not plan.symbols:
        raise FeedFailed(f"the stream {plan.name} has no symbols")
    if not 0 < plan.every_seconds < math.inf:
        raise FeedFailed(f"asked every {plan.every_seconds:g} s: accepted are more than 0")
    care = replace(care, attempts=plan.attempts)
    opening = OpeningHours(partial(_calendar, market.mic), market_hours=plan.market_hours, delay=plan.delay)
    match plan.feed:
        case FeedName.POLYGON:
            return _polygon(platform, market, plan, opening, care)
        case FeedName.YAHOO:
            return _yahoo(platform, market, plan, opening, care)
        case FeedName.STOOQ:
            return stooq_feed(platform, market, plan, opening)
        case FeedName.POLL:
            return PolledFeed(platform, market, plan, _asked(platform, market, plan), opening)


def polygon_address(platform: Platform, asset_class: AssetClass) -> str:
    base = platform.settings.polygon_ws_url or _simulated(platform, "polygon") or PUBLIC_SOCKET
    return f"{base.rstrip('/')}/{asset_class}"


def yahoo_address(platform: Platform) -> str:
    simulated = _simulated(platform, "yahoo")
    return platform.settings.yahoo_ws_url or (f"{simulated}/streamer" if simulated else PUBLIC_STREAMER)


def _polygon(
    platform: Platform, market: MarketDefinition, plan: StreamPlan, opening: OpeningHours, care: Care
) -> SocketFeed:
    key = platform.settings.polygon_api_key
    if key is None and not platform.simulated:
        raise FeedFailed("POLYGON_API_KEY is not set, and Polygon's stream wants one")
    if not plan.channels:
        raise FeedFailed(f"the stream {plan.name} has no channels; accepted: {', '.join(Channel)}")
    _refuse_what_options_lack(plan)
    secret = SIMULATED_KEY if platform.simulated or key is None else key.get_secret_value()
    provider = platform.providers["polygon"]
    entitlements = Entitlements()
    options = plan.asset_class is AssetClass.OPTIONS
    resolver: Resolver = (
        Contracts(platform, market, plan, provider) if options else Shares(provider, market, plan.channels)
    )
    limit = MOST_QUOTED_CONTRACTS if options else plan.symbols_per_connection
    return SocketFeed(
        plan,
        address=polygon_address(platform, plan.asset_class),
        dialogue=lambda: MassiveDialogue(secret, plan.asset_class, entitlements),
        resolver=resolver,
        per_connection=min(plan.symbols_per_connection, limit),
        opening=opening,
        mute=_watch(platform, market, plan),
        clock=platform.clock,
        care=care,
    )


def _yahoo(
    platform: Platform, market: MarketDefinition, plan: StreamPlan, opening: OpeningHours, care: Care
) -> SocketFeed:
    if ALL in plan.symbols:
        raise FeedFailed(f"Yahoo's streamer wants symbols and has no {ALL!r}: name them, or all")
    return SocketFeed(
        plan,
        address=yahoo_address(platform),
        dialogue=YahooDialogue,
        resolver=Shares(platform.providers["yahoo"], market, (Channel.QUOTES,)),
        per_connection=plan.symbols_per_connection,
        opening=opening,
        mute=_watch(platform, market, plan),
        clock=platform.clock,
        care=care,
    )


def _asked(platform: Platform, market: MarketDefinition, plan: StreamPlan) -> tuple[DailyProvider, ...]:
    if plan.provider and plan.provider not in platform.providers:
        known = ", ".join(sorted(platform.providers))
        raise FeedFailed(f"provider {plan.provider!r} is not known; accepted: {known}")
    named = (platform.providers[plan.provider],) if plan.provider else platform.chain(market)
    able = quoting(named)
    ready = [one for one in able if platform.simulated or not one.ready()]
    if not ready:
        words = "; ".join(f"{one.name}: {one.ready()}" for one in able) or "offers no quotes"
        raise FeedFailed(f"nobody can be asked for quotes of {market.name}: {words}")
    return tuple(ready)


def _refuse_what_options_lack(plan: StreamPlan) -> None:
    if plan.asset_class is not AssetClass.OPTIONS:
        return
    if Channel.LULD in plan.channels:
        raise FeedFailed("there are no price bands (luld) of options: leave that channel out")
    if ALL in plan.symbols and Channel.QUOTES in plan.channels:
        raise FeedFailed(
            f"quotes of all options cannot be had: a connection carries {MOST_QUOTED_CONTRACTS:,} contracts' quotes at "
            "most. Name underlyings, or ask for trades and aggregates only (--channels trades,minutes)"
        )


def _watch(platform: Platform, market: MarketDefinition, plan: StreamPlan) -> Watch:
    """The simulator trades round the clock. What a delayed feed tells now is what the exchange did then."""

    def look(silences: Sequence[Silence]) -> Mute | None:
        if platform.simulated:
            return mute(silences, MarketPhase.OPEN, math.inf)
        now = platform.clock() - plan.delay
        return mute(silences, *phase_at(_calendar(market.mic, now), now))

    return look


def _calendar(mic: str, now: datetime) -> TradingCalendar:
    return trading_calendar(mic, now)


def _simulated(platform: Platform, provider: str) -> str:
    """Where the simulator's sockets of a provider are; empty on a platform that is not simulated."""
    if not platform.simulated:
        return ""
    base = str(getattr(platform.providers[provider], "base_url", ""))
    return f"ws{base.removeprefix('http')}" if base.startswith("http") else ""
