"""The contract suite of every ability, for the providers that ship, with good answers from the simulator."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.providers.http import HttpClient
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
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    TicksQuery,
    abilities_of,
)
from market_pipelines.providers.registry import build_providers
from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.testing import AbilitiesContract, Good

APPLE = Instrument("AAPL", "us", "XNYS", "USD", name="Apple Inc.")
MICROSOFT = Instrument("MSFT", "us", "XNYS", "USD")
KEY = "PLANTEDKEY0123456789"
STEPS = 40


def questions(provider: DailyProvider, now: datetime) -> dict[Capability, Any]:
    calendar = trading_calendar("XNYS", now)
    session = calendar.last_closed(now)
    today = calendar.local_date(now)
    opens = calendar.times(session).opens
    abilities = abilities_of(provider)
    interval = abilities[Capability.INTRADAY].intervals[0] if Capability.INTRADAY in abilities else "5min"
    month = today - timedelta(days=30)
    every = {
        Capability.DAILY: DailyQuery(APPLE, month, session, today),
        Capability.INTRADAY: IntradayQuery(APPLE, interval, session, session, today),
        Capability.GROUPED_DAILY: GroupedQuery((APPLE, MICROSOFT), session, today),
        Capability.QUOTE: QuoteQuery((APPLE,)),
        Capability.BULK_QUOTES: QuoteQuery((APPLE, MICROSOFT)),
        Capability.PROFILE: ProfileQuery(APPLE),
        Capability.ACTIONS: ActionsQuery(APPLE, today - timedelta(days=3000), today),
        Capability.LISTINGS: ListingsQuery("XNYS"),
        Capability.SEARCH: SearchQuery("Apple"),
        Capability.MARKET_STATUS: StatusQuery(),
        Capability.OPTIONS: OptionsQuery(APPLE, today),
        Capability.TRADES: TicksQuery(APPLE, TickKind.TRADES, opens, opens + timedelta(minutes=2)),
        Capability.QUOTES_HISTORY: TicksQuery(APPLE, TickKind.QUOTES, opens, opens + timedelta(minutes=2)),
        Capability.SECONDS: TicksQuery(APPLE, TickKind.AGGREGATES, opens, opens + timedelta(minutes=2)),
    }
    return {capability: every[capability] for capability in abilities}


def conversation(http: HttpClient, provider: DailyProvider, capability: Capability, question: Any) -> Answer:
    """The first answer of a conversation that brings rows."""
    ability = abilities_of(provider)[capability]
    call = ability.call(question)
    told = ""
    for _ in range(STEPS):
        answer = http.get(call)
        parsed = ability.read(answer, question)
        if parsed.rows:
            return answer
        told = f"{parsed.outcome}: {parsed.reason} {answer.body[:200]!r}"
        if parsed.more is None:
            break
        call = parsed.more
    raise AssertionError(f"{provider.name} delivered no {capability}: {told}")


@cache
def examples(name: str) -> Mapping[Capability, Good]:
    now = datetime.now(UTC)
    faults = ["iex_cloud.serving=on"] if name == "iex_cloud" else []
    with Simulator(faults=faults) as simulator, HttpClient() as http:
        provider = built(name, simulator.url)
        return {
            capability: Good(question, conversation(http, provider, capability, question))
            for capability, question in questions(provider, now).items()
        }


@cache
def settings() -> Settings:
    """Made once: a provider is built for every one of some thousand answers."""
    keys = {f"{one}_api_key": KEY for one in ("alpha_vantage", "polygon", "iex_cloud", "stooq")}
    return Settings(_env_file=None, **keys)  # type: ignore[arg-type]  # pydantic reads texts as secrets


def built(name: str, url: str) -> DailyProvider:
    return build_providers(settings(), {name: f"{url}/{name}"})[name]


class Shipped(AbilitiesContract):
    secret = KEY
    name: str

    def provider(self) -> DailyProvider:
        return built(self.name, "http://127.0.0.1:9")

    def good(self) -> Mapping[Capability, Good]:
        return examples(self.name)


class TestAlphaVantage(Shipped):
    name = "alpha_vantage"


class TestYahoo(Shipped):
    name = "yahoo"


class TestPolygon(Shipped):
    name = "polygon"


class TestIexCloud(Shipped):
    name = "iex_cloud"


class TestStooq(Shipped):
    name = "stooq"


# The class that the others share has no provider of its own.
del Shipped
