"""How a provider spells the exchange's symbols, by rule, and how such a spelling is read back.

Only the rules and their inverse. Spellings that no rule gives are facts of an instrument
(`Instrument.provider_symbols`), and which exchanges a provider lists is said by its own file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.providers.protocol import DailyProvider

EXCHANGE_ZONES: Mapping[str, ZoneInfo] = {
    "XNYS": ZoneInfo("America/New_York"),
    "XWAR": ZoneInfo("Europe/Warsaw"),
    "XLON": ZoneInfo("Europe/London"),
    "XTKS": ZoneInfo("Asia/Tokyo"),
}
LONGEST_WORD = 64
"""Of a symbol or an id that a feed tells; the longest of options have 26."""


def is_word(text: str) -> bool:
    """Whether it can be a symbol or an id: one that is too long, or has letters that nobody sees, stops every table
    that has it in a key."""
    return len(text) <= LONGEST_WORD and text.isprintable()


@dataclass(frozen=True, slots=True)
class Spelling:
    """One provider's rule: a suffix by exchange, mostly a dash where the exchange writes a share class with a dot.

    A caret marks a world index and takes no suffix.
    """

    provider: str
    suffixes: Mapping[str, str]
    case: Callable[[str], str] = str.upper
    lists_indices: bool = True
    share_class: str = "-"
    """What stands where the exchange writes a share class with a dot."""

    def covers(self, instrument: Instrument) -> bool:
        if self.provider in instrument.provider_symbols:
            return True
        return instrument.mic in self.suffixes and (self.lists_indices or instrument.kind is not Kind.INDEX)

    def native(self, instrument: Instrument) -> str:
        override = instrument.provider_symbols.get(self.provider)
        if override is not None:
            return override
        if not self.covers(instrument):
            raise ValueError(
                f"{self.provider} does not list {instrument.symbol} ({instrument.kind} on {instrument.mic}); "
                f"it lists {', '.join(sorted(self.suffixes))}"
            )
        if instrument.symbol.startswith("^"):
            return self.case(instrument.symbol)
        return self.case(instrument.symbol.replace(".", self.share_class) + self.suffixes[instrument.mic])

    def canonical(self, native: str, mic: str) -> str:
        if mic not in self.suffixes:
            raise ValueError(f"{self.provider} does not list the exchange {mic}")
        if native.startswith("^"):
            return native.upper()
        suffix = self.case(self.suffixes[mic])
        stem = native[: len(native) - len(suffix)]
        foreign_dot = self.share_class != "." and "." in stem
        if not native.endswith(suffix) or not stem or foreign_dot:
            raise ValueError(f"{native!r} is not how {self.provider} spells a symbol of {mic} (suffix {suffix!r})")
        return stem.replace(self.share_class, ".").upper()


def native_symbols(provider: DailyProvider, instruments: Iterable[Instrument]) -> dict[str, str]:
    """Canonical → the provider's spelling, for what the provider covers."""
    return {item.symbol: provider.native_symbol(item) for item in instruments if provider.covers(item)}


def canonical_symbols(provider: DailyProvider, instruments: Iterable[Instrument]) -> dict[str, str]:
    """The provider's spelling → canonical, spellings that no rule gives included."""
    found: dict[str, str] = {}
    for symbol, native in native_symbols(provider, instruments).items():
        other = found.setdefault(native, symbol)
        if other != symbol:
            raise ValueError(f"{provider.name} would answer for both {other} and {symbol} under {native!r}")
    return found
