"""What providers say about instruments besides their bars: quotes, profiles, listings, options, ticks.

Values only. Where a provider says nothing about a field, it is None or empty, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum


class Right(StrEnum):
    CALL = "call"
    PUT = "put"


class TickKind(StrEnum):
    TRADES = "trades"
    QUOTES = "quotes"
    AGGREGATES = "aggregates"
    """Seconds and minutes as a stream tells them."""
    SNAPSHOTS = "snapshots"
    """What a polled or pushed quote said of a symbol: its last price and its day so far."""
    BANDS = "bands"
    """Between which prices a symbol may trade for now: limit up, limit down (LULD)."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What one instrument trades at, in whole units of its currency and as a fraction for the change."""

    symbol: str
    price: float
    at: datetime | None
    """Of the latest trade; None where the provider does not say."""
    currency: str = ""
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    previous_close: float | None = None
    volume: float | None = None
    session: date | None = None
    """The session that the price belongs to, where only that is known."""

    @property
    def change(self) -> float | None:
        return None if self.previous_close is None else self.price - self.previous_close

    @property
    def change_share(self) -> float | None:
        return self.price / self.previous_close - 1 if self.previous_close else None


@dataclass(frozen=True, slots=True)
class Profile:
    symbol: str
    name: str
    description: str = ""
    sector: str = ""
    industry: str = ""
    exchange: str = ""
    """As the provider names it."""
    country: str = ""
    currency: str = ""
    website: str = ""
    employees: int | None = None
    market_cap: float | None = None
    shares_outstanding: float | None = None
    isin: str = ""
    figi: str = ""
    cik: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of an exchange's list."""

    native: str
    """As the provider spells it, whose case may matter."""
    symbol: str
    """As this house spells it."""
    name: str
    exchange: str
    """As the provider names it: NASDAQ, XNYS."""
    kind: str
    """equity, etf, index, preferred, warrant, unit, right, fund, other."""
    active: bool
    listed_from: date | None = None
    delisted_on: date | None = None
    figi: str = ""


@dataclass(frozen=True, slots=True)
class SymbolMatch:
    native: str
    name: str
    kind: str
    exchange: str
    """Or region, where the provider names no exchange."""
    currency: str = ""
    score: float | None = None
    """From 0 to 1."""


@dataclass(frozen=True, slots=True)
class VenueStatus:
    venue: str
    status: str
    """open, closed, extended_hours, or for a day to come: closed, early_close."""
    on: date | None = None
    """The day that it is about; None: now."""
    opens: str = ""
    closes: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class OptionContract:
    native: str
    underlying: str
    right: Right
    strike: float
    expires: date
    shares: float = 100.0
    style: str = ""
    exchange: str = ""
    last: float | None = None
    bid: float | None = None
    ask: float | None = None
    volume: float | None = None
    open_interest: float | None = None
    implied_volatility: float | None = None
    quoted_on: date | None = None


TRADE_COLUMNS = ("symbol", "ts", "seq", "price", "size", "exchange", "trade_id", "conditions", "correction")
"""`ts` is the exchange's feed time, datetime64[ns, UTC]; `seq` int64; `exchange` and `conditions` text (ids with
commas between); `correction` int64, 0 for a trade that stands."""
QUOTE_COLUMNS = (
    "symbol",
    "ts",
    "seq",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "bid_exchange",
    "ask_exchange",
    "conditions",
)
"""A side without a quote is NaN, never zero."""
