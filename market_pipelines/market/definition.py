"""What a market is: its exchange, its instruments, the providers that serve it, and when it is refreshed."""

from dataclasses import dataclass
from datetime import date

from market_pipelines.market.instruments import Instrument


class UnknownSymbol(Exception):
    """The market does not list that symbol."""


@dataclass(frozen=True, slots=True)
class IntradayPlan:
    """What is kept of a market's trading within its sessions."""

    interval: str = "5min"
    """The stored one; longer ones are computed from it."""
    extended: bool = False
    """Before the opening and after the closing bell as well."""


@dataclass(frozen=True, slots=True)
class MarketDefinition:
    name: str
    title: str
    mic: str
    currency: str
    since: date
    """Older sessions are not kept for this market."""
    providers: tuple[str, ...]
    """Who is asked, the first one first."""
    instruments: tuple[Instrument, ...]
    indices: tuple[Instrument, ...]
    owners: tuple[str, ...]
    minutes_after_close: int
    """How long after the bell the day's bars are expected to be final."""
    correction_sessions: int = 3
    """How many of the last sessions a refresh asks for again, because providers correct themselves."""
    intraday: IntradayPlan | None = None
    """None: only daily bars are kept."""

    @property
    def everything(self) -> tuple[Instrument, ...]:
        return self.instruments + self.indices

    def instrument(self, symbol: str) -> Instrument:
        for instrument in self.everything:
            if instrument.symbol == symbol:
                return instrument
        raise UnknownSymbol(f"{symbol} is not listed in market {self.name}")
