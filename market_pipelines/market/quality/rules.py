"""What a quality rule is: its name, how bad a breach is, what it looks at and which tables it is asked of.

The rules themselves are listed in `canon`; the numbers that a market may change are handed on as `limits`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

STOCK_PRICES, INDEX_PRICES, INTRADAY = "stock_prices", "index_prices", "stock_prices_intraday"
ACTIONS, INSTRUMENTS = "corporate_actions", "instruments"
LIVE_QUOTES, LIVE_TRADES = "realtime_quotes", "realtime_trades"
OPTIONS = "option_contracts"
ASSETS = (STOCK_PRICES, INDEX_PRICES, INTRADAY, ACTIONS, INSTRUMENTS, LIVE_QUOTES, LIVE_TRADES, OPTIONS)
"""The tables, by the last part of their asset keys, of which rules are asked."""


class Severity(StrEnum):
    BLOCK = "block"
    """The row does not reach a table; it is kept in quarantine."""
    WARN = "warn"
    """The row is kept and somebody should look."""
    INFO = "info"
    """What was done to the row, or what is unusual without being wrong: for the record."""


class Scope(StrEnum):
    FRAME = "frame"
    """The table as a whole."""
    ROW = "row"
    """Each bar by itself."""
    SERIES = "series"
    """The bars of one symbol against each other, within what was delivered at once."""
    STORED = "stored"
    """What is stored against what should be."""
    HISTORY = "history"
    """What is stored of a symbol against what came before it, and against its own earlier versions."""
    MINUTES = "minutes"
    """The bars within a session against its bells, its grid and its daily bar."""
    PROVIDERS = "providers"
    """One provider against another, or against the agreed bars and the known actions."""
    REFERENCE = "reference"
    """Instruments and corporate actions against the bars and against their own past."""
    STREAMED = "streamed"
    """What a live stream has left of a session: how much of it is marked as odd, late or missing."""
    CHAINS = "chains"
    """Option contracts and their quotes against each other and against their underlying."""

    @property
    def judged(self) -> bool:
        """Asked of every table that a provider delivers, before anything is stored."""
        return self in (Scope.FRAME, Scope.ROW, Scope.SERIES)


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    severity: Severity
    scope: Scope
    explanation: str
    threshold: float | None = None
    number: int | None = None
    """In the usual list of checks of market data; None for one of our own."""
    assets: tuple[str, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Further numbers; a market file calls one `<rule>.<parameter>`."""
    required: bool = False
    """The tables themselves rely on it: no market can do without."""
