"""`/v1/finance/search`: symbols by name. It wants no crumb and wraps its answer in no envelope."""

from __future__ import annotations

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import SymbolMatch
from market_pipelines.providers.answers import malformed, no_data, one_line
from market_pipelines.providers.protocol import Answer, Parsed
from market_pipelines.providers.yahoo.envelopes import refusal

MOST_MATCHES = 20
KINDS = {"EQUITY": "equity", "ETF": "etf", "INDEX": "index", "MUTUALFUND": "fund"}


class _Match(msgspec.Struct, rename="camel"):
    symbol: str | None = None
    """Companies that are not traded come without one."""
    longname: str | None = None
    shortname: str | None = None
    quote_type: str | None = None
    exch_disp: str | None = None
    exchange: str | None = None


class _Found(msgspec.Struct):
    quotes: list[_Match]


_found = msgspec.json.Decoder(_Found)


def read_matches(answer: Answer, text: str) -> Parsed:
    refused = refusal(answer, "finance", lambda: Outcome.EMPTY_EXPECTED) or no_data(answer)
    if refused is not None:
        return refused
    try:
        found = _found.decode(answer.body)
    except (msgspec.MsgspecError, ValueError) as error:
        return malformed(f"the answer cannot be read: {error}")
    matches = {
        one.symbol: SymbolMatch(
            native=one.symbol,
            # Names are cut at a fixed width and filled up with blanks.
            name=" ".join((one.longname or one.shortname or "").split()),
            kind=KINDS.get(one.quote_type or "", "other"),
            exchange=one.exch_disp or one.exchange or "",
        )
        for one in reversed(found.quotes)
        if one.symbol
    }
    if not matches:
        return Parsed(Outcome.EMPTY_EXPECTED, one_line(f"nothing is called '{text}'"))
    return Parsed(Outcome.OK, records=tuple(reversed(matches.values())))
