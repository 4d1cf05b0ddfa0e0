"""How Alpha Vantage spells symbols, and in which money it quotes them."""

from __future__ import annotations

from collections.abc import Mapping

from market_pipelines.market.currencies import in_units_of
from market_pipelines.market.instruments import Instrument
from market_pipelines.providers.symbols import Spelling

SPELLING = Spelling("alpha_vantage", {"XNYS": "", "XLON": ".LON"}, lists_indices=False)
QUOTED_IN: Mapping[str, str] = {"XLON": "GBX"}
"""By exchange, where it is not the instrument's currency. A London line in dollars stays in dollars."""


def money(instrument: Instrument) -> float:
    """What its prices are multiplied by to be in the instrument's currency."""
    quoted = QUOTED_IN.get(instrument.mic)
    return 1.0 if quoted is None else in_units_of(quoted, instrument.currency)


def same_symbol(written: object, instrument: Instrument) -> bool:
    """Whether an answer that names `written` is about the instrument."""
    return isinstance(written, str) and written.strip().upper() == SPELLING.native(instrument).upper()
