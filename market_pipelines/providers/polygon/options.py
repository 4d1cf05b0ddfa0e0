"""Option contracts: what their tickers say, the list of an underlying's contracts, and a chain with prices.

A ticker is `O:`, the root, for adjusted contracts one digit, the expiry as YYMMDD, C or P, and the strike in
thousandths: `O:AAPL230616C00150000`. An index has roots of its own (`SPX` settles in the morning, `SPXW` in the
afternoon), so the root does not always name the underlying.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import OptionContract, Right
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.polygon.envelope import Envelope, results_of
from market_pipelines.providers.polygon.stamps import NEW_YORK, Stamp, instant
from market_pipelines.providers.protocol import OptionsQuery, Parsed

_TICKER = re.compile(r"O:([A-Za-z][A-Za-z.]*?)([0-9]?)([0-9]{6})([CP])([0-9]{8})")


@dataclass(frozen=True, slots=True)
class OptionTicker:
    root: str
    adjustment: str
    """A digit where a corporate action has changed what the contract delivers; else empty."""
    expires: date
    right: Right
    strike: float


def parse_option_ticker(text: str) -> OptionTicker:
    """`ValueError` for what is no option ticker."""
    found = _TICKER.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no option ticker such as O:AAPL230616C00150000")
    root, adjustment, day, right, strike = found.groups()
    expires = date(2000 + int(day[:2]), int(day[2:4]), int(day[4:]))
    return OptionTicker(root, adjustment, expires, Right.CALL if right == "C" else Right.PUT, int(strike) / 1000)


def option_ticker(ticker: OptionTicker) -> str:
    right = "C" if ticker.right is Right.CALL else "P"
    return f"O:{ticker.root}{ticker.adjustment}{ticker.expires:%y%m%d}{right}{round(ticker.strike * 1000):08d}"


class _Contract(msgspec.Struct):
    ticker: str
    underlying_ticker: str | None = None
    contract_type: str | None = None
    strike_price: float | None = None
    expiration_date: date | None = None
    shares_per_contract: float | None = None
    exercise_style: str | None = None
    primary_exchange: str | None = None


class _Day(msgspec.Struct):
    close: float | None = None
    volume: float | None = None
    last_updated: Stamp | None = None


class _Sides(msgspec.Struct):
    bid: float | None = None
    ask: float | None = None


class _LastTrade(msgspec.Struct):
    price: float | None = None


class _Underlying(msgspec.Struct):
    ticker: str | None = None


class _Row(_Contract):
    """A line of the list, or with `details` one of a chain with prices."""

    ticker: str = ""
    details: _Contract | None = None
    day: _Day | None = None
    last_quote: _Sides | None = None
    last_trade: _LastTrade | None = None
    implied_volatility: float | None = None
    open_interest: float | None = None
    underlying_asset: _Underlying | None = None


_rows = msgspec.json.Decoder(list[_Row] | _Row | None)


def contracts(envelope: Envelope, query: OptionsQuery, underlying: str) -> Parsed:
    """`underlying`: as the provider spells it in lists of contracts."""
    decoded = _rows.decode(results_of(envelope))
    rows = [decoded] if isinstance(decoded, _Row) else decoded or []
    found = []
    for row in rows:
        terms = row.details or row
        named = terms.underlying_ticker or (row.underlying_asset.ticker if row.underlying_asset else None)
        if named is not None and named.removeprefix("I:") != underlying:
            return malformed(f"asked for options on {underlying}, the answer has one on {one_line(named)}")
        contract = _contract(row, terms, query.underlying.symbol)
        if contract is not None and _is_wanted(contract, query):
            found.append(contract)
    if found:
        return Parsed(Outcome.OK, records=tuple(found))
    return Parsed(Outcome.EMPTY_EXPECTED, f"no contracts on {underlying} among {len(rows)} rows")


def _contract(row: _Row, terms: _Contract, symbol: str) -> OptionContract | None:
    """None for the few contracts that are neither calls nor puts."""
    spelled = parse_option_ticker(terms.ticker)
    right = Right(terms.contract_type) if terms.contract_type in ("call", "put") else None
    if right is None and terms.contract_type is not None:
        return None
    expires = terms.expiration_date or spelled.expires
    strike = spelled.strike if terms.strike_price is None else terms.strike_price
    if (right or spelled.right, expires) != (spelled.right, spelled.expires):
        raise ValueError(f"{terms.ticker} is said to be a {terms.contract_type} that expires on {expires}")
    day, sides, trade = row.day or _Day(), row.last_quote or _Sides(), row.last_trade or _LastTrade()
    return OptionContract(
        native=terms.ticker,
        underlying=symbol,
        right=spelled.right,
        strike=strike,
        expires=expires,
        shares=100.0 if terms.shares_per_contract is None else terms.shares_per_contract,
        style=terms.exercise_style or "",
        exchange=terms.primary_exchange or "",
        last=trade.price if trade.price is not None else day.close,
        # A side without a quote is written as zero.
        bid=sides.bid or None,
        ask=sides.ask or None,
        volume=day.volume,
        open_interest=row.open_interest,
        implied_volatility=row.implied_volatility,
        quoted_on=instant(day.last_updated).astimezone(NEW_YORK).date() if day.last_updated else None,
    )


def _is_wanted(contract: OptionContract, query: OptionsQuery) -> bool:
    if query.expires_from is not None and contract.expires < query.expires_from:
        return False
    if query.expires_to is not None and contract.expires > query.expires_to:
        return False
    return query.right is None or contract.right is query.right
