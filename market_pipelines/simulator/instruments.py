"""What Polygon has trades and quotes of: a share of New York, or a contract on one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from market_pipelines.simulator.formats.polygon_options import Contract
from market_pipelines.simulator.formats.polygon_wire import TAPES
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.live import live_quotes, live_trades
from market_pipelines.simulator.option_ticks import contract_named, option_quotes, option_trades
from market_pipelines.simulator.ticks import Quotes, Trades, quotes_of, trades_of
from market_pipelines.simulator.truth import World


@dataclass(frozen=True, slots=True)
class Share:
    world: World
    listing: Listing

    @property
    def symbol(self) -> str:
        return self.listing.symbol

    @property
    def tape(self) -> int | None:
        return TAPES.get(self.listing.venue, 3)

    def trades(self, start: datetime, end: datetime, now: datetime, *, replays: bool) -> Trades:
        """`replays`: with what happens between the sessions."""
        read = live_trades if replays else trades_of
        return read(self.world, self.listing, start, end, now)

    def quotes(self, start: datetime, end: datetime, now: datetime, *, replays: bool) -> Quotes:
        read = live_quotes if replays else quotes_of
        return read(self.world, self.listing, start, end, now)


@dataclass(frozen=True, slots=True)
class Option:
    world: World
    listing: Listing
    """The share it is about."""
    contract: Contract

    @property
    def symbol(self) -> str:
        return self.contract.ticker

    @property
    def tape(self) -> int | None:
        """Options have none."""
        return None

    def trades(self, start: datetime, end: datetime, now: datetime, *, replays: bool) -> Trades:
        return option_trades(self._share_trades(replays), self.listing, self.contract, start, end, now)

    def quotes(self, start: datetime, end: datetime, now: datetime, *, replays: bool) -> Quotes:
        return option_quotes(self._share_trades(replays), self.listing, self.contract, start, end, now)

    def _share_trades(self, replays: bool) -> Callable[[datetime, datetime, datetime], Trades]:
        share = Share(self.world, self.listing)
        return lambda start, end, now: share.trades(start, end, now, replays=replays)


Instrument = Share | Option


def instrument_named(world: World, ticker: str, now: datetime) -> Instrument | None:
    """Case counts."""
    if ticker.startswith("O:"):
        found = contract_named(world, ticker, now)
        return Option(world, *found) if found is not None else None
    listing = world.spelled("polygon", ticker)
    return Share(world, listing) if listing is not None and listing.spelled_by("polygon") == ticker else None
