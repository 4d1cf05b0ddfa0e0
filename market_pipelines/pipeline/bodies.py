"""One body read by one adapter, outside of any run: what would this provider's parser make of these bytes?

For trying a recorded answer, an answer from the archive, or a suspicious download. Asks nobody, stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.records import TickKind
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Capability,
    DailyProvider,
    DailyQuery,
    GroupedQuery,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    TicksQuery,
    abilities_of,
)

EARLIEST = date(1900, 1, 1)


@dataclass(frozen=True, slots=True)
class Body:
    content: bytes
    status: int = 200
    headers: Mapping[str, str] | None = None
    received_at: datetime | None = None
    endpoint: str = ""
    """Where an ability's conversation has several steps: which of them this answers."""


@dataclass(frozen=True, slots=True)
class About:
    """What the body is taken to be an answer to."""

    instrument: Instrument
    interval: str = "5min"
    start: date | None = None
    end: date | None = None
    text: str = ""


def question(capability: Capability, about: About, today: date) -> object:
    """The widest question of a capability about one instrument."""
    one, start, end = about.instrument, about.start or EARLIEST, about.end or today
    instant = datetime.combine(start, time(), UTC), datetime.combine(end, time.max, UTC)
    asked: Mapping[Capability, Callable[[], object]] = {
        Capability.DAILY: lambda: DailyQuery(one, start, end, today),
        Capability.INTRADAY: lambda: IntradayQuery(one, about.interval, start, end, today, extended=True),
        Capability.GROUPED_DAILY: lambda: GroupedQuery((one,), end, today),
        Capability.QUOTE: lambda: QuoteQuery((one,)),
        Capability.BULK_QUOTES: lambda: QuoteQuery((one,)),
        Capability.PROFILE: lambda: ProfileQuery(one),
        Capability.ACTIONS: lambda: ActionsQuery(one, start, today),
        Capability.LISTINGS: lambda: ListingsQuery(one.mic),
        Capability.SEARCH: lambda: SearchQuery(about.text or one.symbol),
        Capability.MARKET_STATUS: StatusQuery,
        Capability.OPTIONS: lambda: OptionsQuery(one, today, EARLIEST, date.max),
        Capability.TRADES: lambda: TicksQuery(one, TickKind.TRADES, *instant),
        Capability.QUOTES_HISTORY: lambda: TicksQuery(one, TickKind.QUOTES, *instant),
        Capability.SECONDS: lambda: TicksQuery(one, TickKind.AGGREGATES, *instant),
    }
    return asked[capability]()


def read_body(
    provider: DailyProvider, body: Body, about: About, capability: Capability | None = None
) -> dict[Capability, Parsed]:
    """What each ability of the provider (or one of them) reads in the body."""
    received = body.received_at or datetime.now(UTC)
    found = {}
    for name, ability in abilities_of(provider).items():
        if capability is not None and name is not capability:
            continue
        asked = question(name, about, received.date())
        endpoint = body.endpoint
        if not endpoint:
            try:
                endpoint = ability.call(asked).endpoint
            except ValueError:
                endpoint = ""
        answer = Answer(body.status, body.content, dict(body.headers or {}), received, 0.0, endpoint=endpoint)
        found[name] = ability.read(answer, asked)
    return found
