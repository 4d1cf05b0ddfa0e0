"""What is traded, under the name that this house uses for it.

The canonical symbol is the exchange's own: `BRK.B` in New York, `PKO` in Warsaw, `^SPX` for an index that
needs telling apart from a share. How a provider spells it is the provider's business (`providers/`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum


class Kind(StrEnum):
    EQUITY = "equity"
    ETF = "etf"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Instrument:
    symbol: str
    market: str
    mic: str
    """The exchange_calendars code, which is the operating MIC: XNYS, XWAR, XLON, XTKS."""
    currency: str
    name: str = ""
    kind: Kind = Kind.EQUITY
    listed_from: date | None = None
    delisted_on: date | None = None
    """The last session on which it traded."""
    provider_symbols: Mapping[str, str] = field(default_factory=dict)
    """Spellings that no rule gives, by provider name."""

    def trades_on(self, session: date) -> bool:
        if self.listed_from is not None and session < self.listed_from:
            return False
        return self.delisted_on is None or session <= self.delisted_on
