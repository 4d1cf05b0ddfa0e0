"""Option chains: the last session's from HISTORICAL_OPTIONS, the running one's from REALTIME_OPTIONS."""

from __future__ import annotations

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import OptionContract, Right
from market_pipelines.providers.alpha_vantage.cells import (
    Row,
    day,
    needed,
    number,
    rows_of_objects,
    table,
    text,
    top_level,
    word,
)
from market_pipelines.providers.alpha_vantage.series import nothing_inside
from market_pipelines.providers.alpha_vantage.spelling import SPELLING, same_symbol
from market_pipelines.providers.answers import malformed
from market_pipelines.providers.protocol import Answer, OptionsQuery, Parsed

HISTORICAL, REALTIME = "HISTORICAL_OPTIONS", "REALTIME_OPTIONS"

_QUOTED = (
    "contractID",
    "symbol",
    "expiration",
    "strike",
    "type",
    "last",
    "mark",
    "bid",
    "bid_size",
    "ask",
    "ask_size",
    "volume",
    "open_interest",
    "date",
)
_GREEKS = ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")


def parameters(query: OptionsQuery, function: str) -> dict[str, str]:
    greeks = {"require_greeks": "true"} if function == REALTIME else {}
    return {"function": function, "symbol": SPELLING.native(query.underlying), "datatype": "json", **greeks}


def parse(body: bytes, _answer: Answer, query: OptionsQuery) -> Parsed:
    rows: list[Row]
    if body.startswith(b"{"):
        top = top_level.decode(body)
        if "data" not in top:
            return malformed(f"no option contracts, but {', '.join(list(top)[:4])}") if top else nothing_inside()
        rows = list(rows_of_objects.decode(top["data"]))
    else:
        greeks = _GREEKS if body.split(b"\n", 1)[0].strip().endswith(b",rho") else ()
        rows = list(table(body, (*_QUOTED, *greeks)))
    chain: dict[str, OptionContract] = {}
    for row in rows:
        if not same_symbol(word(row, "symbol"), query.underlying):
            return malformed(f"asked for {SPELLING.native(query.underlying)}, a row is about {word(row, 'symbol')}")
        contract = _contract(row, query.underlying.symbol)
        if chain.setdefault(contract.native, contract) != contract:
            return malformed(f"two versions of {contract.native}")
    wanted = tuple(contract for contract in chain.values() if _asked_for(contract, query))
    if wanted:
        return Parsed(Outcome.OK, records=wanted)
    if chain:
        return Parsed(Outcome.EMPTY_EXPECTED, f"none of the {len(chain)} contracts expires then")
    return Parsed(Outcome.EMPTY_UNEXPECTED, "no option contracts")


def _asked_for(contract: OptionContract, query: OptionsQuery) -> bool:
    if query.right is not None and contract.right is not query.right:
        return False
    if query.expires_from is not None and contract.expires < query.expires_from:
        return False
    return query.expires_to is None or contract.expires <= query.expires_to


def _contract(row: Row, underlying: str) -> OptionContract:
    native, expires, strike = word(row, "contractID"), day(row, "expiration"), needed(row, "strike")
    if not native or expires is None or strike <= 0:
        raise ValueError(f"a contract without name, expiry or strike: {native[:40]!r}")
    return OptionContract(
        native=native,
        underlying=underlying,
        right=Right(text(row, "type").lower()),
        strike=strike,
        expires=expires,
        # Zeros stand for no trade and for an empty side of the book.
        last=number(row, "last") or None,
        bid=number(row, "bid") if number(row, "bid_size") else None,
        ask=number(row, "ask") if number(row, "ask_size") else None,
        volume=number(row, "volume"),
        open_interest=number(row, "open_interest"),
        implied_volatility=number(row, "implied_volatility") if "implied_volatility" in row else None,
        quoted_on=day(row, "date"),
    )
