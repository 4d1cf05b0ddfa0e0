"""What one stream is to do: which feed, of which market, for whom. Values only; who reads them acts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from market_pipelines.market.records import Right


class FeedName(StrEnum):
    POLYGON = "polygon"
    STOOQ = "stooq"
    YAHOO = "yahoo"
    POLL = "poll"


class AssetClass(StrEnum):
    STOCKS = "stocks"
    OPTIONS = "options"


class Channel(StrEnum):
    QUOTES = "quotes"
    TRADES = "trades"
    SECONDS = "seconds"
    MINUTES = "minutes"
    LULD = "luld"


ALL = "*"
"""In place of symbols: everything that the provider has."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    market: str
    feed: FeedName
    symbols: tuple[str, ...]
    """As this house spells them, or `(ALL,)`; of options their underlyings or single contracts (`O:…`)."""
    asset_class: AssetClass = AssetClass.STOCKS
    channels: tuple[Channel, ...] = (Channel.QUOTES, Channel.TRADES, Channel.MINUTES)
    symbols_per_connection: int = 25
    max_connections: int = 1
    """So many sockets at most: beyond, symbols share them, whatever `symbols_per_connection` says."""
    every_seconds: float = 30.0
    """Of polled feeds."""
    provider: str = ""
    """Of the feed `poll`: who is asked; empty means the market's chain."""
    batch_seconds: float = 1.0
    """How long sinks that are written to in batches collect at most."""
    max_expiry_days: int = 30
    right: Right | None = None
    """Of options; None: calls and puts."""
    market_hours: bool = False
    """Connect only while the exchange trades, extended hours included."""
    attempts: int = 0
    """Connection attempts in a row after which the stream gives up; 0: never."""
    delay: timedelta = timedelta()
    """How much later than the exchange the feed is by the provider's plan. The journal's times are those of arrival;
    gaps are told in the exchange's: what is missing."""

    @property
    def delay_ns(self) -> int:
        return self.delay // timedelta(microseconds=1) * 1_000

    @property
    def name(self) -> str:
        """Of the stream: what its lease, its journal and its gaps go by."""
        kind = "" if self.asset_class is AssetClass.STOCKS else f"-{self.asset_class}"
        return f"{self.market}-{self.feed}{kind}"
