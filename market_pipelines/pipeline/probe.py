"""Does a provider answer? One small question to each of its abilities, archived and noted like any other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import Attempt, ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Capability,
    DailyProvider,
    DailyQuery,
    GroupedQuery,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    TicksQuery,
    abilities_of,
)

SESSIONS = 5
EXPIRES_WITHIN = timedelta(days=14)
A_WHILE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Probe:
    capability: Capability
    attempt: Attempt
    seconds: float


def probe(
    platform: Platform,
    provider: DailyProvider,
    market: MarketDefinition,
    instrument: Instrument,
    capabilities: Sequence[Capability],
) -> tuple[Probe, ...]:
    """Asks for as little as shows that each of these capabilities works."""
    run_id = new_run_id()
    probes = []
    for capability in capabilities:
        began = time.monotonic()
        # Each has a run of its own: that one is refused says nothing about the next.
        attempt = converse(
            platform,
            ProviderRun(provider),
            capability,
            _question(platform, provider, market, instrument, capability),
            purpose=Purpose.QUOTE,
            run_id=run_id,
            market=market.name,
            symbol=instrument.symbol,
        )
        probes.append(Probe(capability, attempt, time.monotonic() - began))
    return tuple(probes)


def offered(provider: DailyProvider) -> tuple[Capability, ...]:
    return tuple(abilities_of(provider))


def _question(
    platform: Platform,
    provider: DailyProvider,
    market: MarketDefinition,
    one: Instrument,
    capability: Capability,
) -> object:
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    last, today = calendar.last_closed(now), calendar.local_date(now)
    start = calendar.sessions(last - timedelta(days=21), last)[-SESSIONS:][0]
    opens = calendar.times(last).opens
    asked: dict[Capability, object] = {
        Capability.DAILY: DailyQuery(one, start, last, today),
        Capability.INTRADAY: IntradayQuery(one, _interval(provider), last, last, today),
        Capability.GROUPED_DAILY: GroupedQuery((one,), last, today),
        Capability.QUOTE: QuoteQuery((one,)),
        Capability.BULK_QUOTES: QuoteQuery((one,)),
        Capability.PROFILE: ProfileQuery(one),
        Capability.ACTIONS: ActionsQuery(one, date(today.year - 1, 1, 1), today),
        Capability.LISTINGS: ListingsQuery(one.mic),
        Capability.SEARCH: SearchQuery(one.symbol),
        Capability.MARKET_STATUS: StatusQuery(),
        Capability.OPTIONS: OptionsQuery(one, today, today, today + EXPIRES_WITHIN),
        Capability.TRADES: TicksQuery(one, TickKind.TRADES, opens, opens + A_WHILE),
        Capability.QUOTES_HISTORY: TicksQuery(one, TickKind.QUOTES, opens, opens + A_WHILE),
        Capability.SECONDS: TicksQuery(one, TickKind.AGGREGATES, opens, opens + A_WHILE),
    }
    return asked[capability]


def _interval(provider: DailyProvider) -> str:
    """The longest one that the provider has: the fewest rows."""
    ability = abilities_of(provider).get(Capability.INTRADAY)
    return max(ability.intervals, key=lambda name: INTERVALS[name]) if ability and ability.intervals else "60min"
