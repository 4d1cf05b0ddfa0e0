"""What a use case needs from outside, assembled once at a door and handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.pipeline.chain import chain_names
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.simulated import simulated_base_urls, uses_simulator
from market_pipelines.providers.http import HttpClient
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.providers.registry import Limits, build_providers, limits
from market_pipelines.settings import Settings
from market_pipelines.store.archive import RawArchive
from market_pipelines.store.database import Database, open_database


def wall_clock() -> datetime:
    return datetime.now(UTC)


class UnknownMarket(Exception):
    """No market file has that name."""


@dataclass(frozen=True)
class Platform:
    settings: Settings
    database: Database
    archive: RawArchive
    http: HttpClient
    providers: Mapping[str, DailyProvider]
    markets: Mapping[str, MarketDefinition]
    simulated: bool
    clock: Callable[[], datetime] = wall_clock
    _limits: dict[str, Limits] = field(default_factory=dict)

    def market(self, name: str) -> MarketDefinition:
        if name not in self.markets:
            raise UnknownMarket(f"market {name!r} is not known; there are {', '.join(sorted(self.markets))}")
        return self.markets[name]

    def chain(self, market: MarketDefinition) -> tuple[DailyProvider, ...]:
        """The market's providers in the order in which they are asked, after the operator's overrides."""
        return tuple(self.providers[name] for name in chain_names(market, self.settings))

    def limits(self, provider: str) -> Limits:
        """What may be asked of it; looked up once, because plug-ins have to be searched for."""
        if provider not in self._limits:
            self._limits[provider] = limits(provider, self.settings)
        return self._limits[provider]


@contextmanager
def open_platform(
    settings: Settings, clock: Callable[[], datetime] = wall_clock, *, asks: bool = True
) -> Iterator[Platform]:
    """Everything a use case needs, closed again at the end of the block. Where nobody is going to be asked, no
    simulator is looked for either."""
    simulated = uses_simulator(settings)
    kind = "simulated" if simulated else "live"
    markets = read_markets()
    addresses: AbstractContextManager[Mapping[str, str]] = simulated_base_urls(settings) if asks else nullcontext({})
    with (
        addresses as base_urls,
        HttpClient() as http,
        open_database(settings, simulated=simulated) as database,
    ):
        yield Platform(
            settings=settings,
            database=database,
            archive=RawArchive(settings.home / kind / "archive"),
            http=http,
            providers=build_providers(settings, base_urls),
            markets=markets,
            simulated=simulated,
            clock=clock,
        )
