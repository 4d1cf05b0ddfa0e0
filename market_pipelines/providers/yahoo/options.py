"""`/v7/finance/options/{sym}`: one expiry a call. The first answer shows the nearest and lists all of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from math import isfinite

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import OptionContract, Right
from market_pipelines.providers.answers import malformed, no_data
from market_pipelines.providers.protocol import Answer, Call, OptionsQuery, Parsed
from market_pipelines.providers.yahoo.chart import Epoch, zone_named
from market_pipelines.providers.yahoo.envelopes import Amount, number, open_envelope, refusal

ENDPOINT = "options"
SHARES = {"REGULAR": 100.0, "MINI": 10.0}
LEAST_VOLATILITY = 1e-4
"""Yahoo writes 0.00001 where it could not work one out."""


class _Contract(msgspec.Struct, rename="camel"):
    contract_symbol: str
    strike: Amount
    expiration: Epoch
    last_price: Amount = None
    bid: Amount = None
    ask: Amount = None
    volume: Amount = None
    open_interest: Amount = None
    implied_volatility: Amount = None
    contract_size: str = "REGULAR"


class _Expiry(msgspec.Struct, rename="camel"):
    expiration_date: Epoch
    calls: list[_Contract] = []
    puts: list[_Contract] = []


class _Underlying(msgspec.Struct, rename="camel"):
    regular_market_time: Epoch | None = None
    exchange_timezone_name: str | None = None


class _Chain(msgspec.Struct, rename="camel"):
    underlying_symbol: str
    expiration_dates: list[Epoch] = []
    quote: _Underlying | None = None
    options: list[_Expiry] = []


_chains = msgspec.json.Decoder(list[_Chain] | None)


def endpoint_of(expiry: date) -> str:
    """The name of the call for one expiry: the answer does not say what it was asked."""
    return f"{ENDPOINT}:{expiry.isoformat()}"


def expiry_of(endpoint: str) -> date | None:
    _, _, day = endpoint.partition(":")
    try:
        return date.fromisoformat(day)
    except ValueError:
        return None


def read_options(answer: Answer, query: OptionsQuery, expected: str, call_for: Callable[[date], Call]) -> Parsed:
    refused = refusal(answer, "optionChain", lambda: Outcome.EMPTY_UNEXPECTED) or no_data(answer)
    if refused is not None:
        return refused
    try:
        root = open_envelope(answer.body).get("optionChain")
        chains = _chains.decode(root.result) if root is not None else None
        if chains is None:
            return malformed("no option chain in the answer")
        if not chains:
            return Parsed(Outcome.UNKNOWN_SYMBOL, f"{expected} is not known")
        return _read(chains[0], answer, query, expected, call_for)
    except (msgspec.MsgspecError, ValueError) as error:
        return malformed(f"the answer cannot be read: {error}")


def _read(
    chain: _Chain, answer: Answer, query: OptionsQuery, expected: str, call_for: Callable[[date], Call]
) -> Parsed:
    if chain.underlying_symbol.upper() != expected.upper():
        return malformed(f"asked for {expected}, the answer is about {chain.underlying_symbol}")
    asked = expiry_of(answer.endpoint)
    listed = sorted({_day(stamp) for stamp in chain.expiration_dates})
    wanted = [day for day in listed if _within(day, query)]
    shown = _day(chain.options[0].expiration_date) if chain.options else None
    if asked is not None and shown != asked:
        return malformed(f"asked for the expiry {asked}, the answer shows {shown or 'none'}")
    if not wanted:
        known = f"it lists {len(listed)} from {listed[0]} to {listed[-1]}" if listed else f"{expected} has none"
        return Parsed(Outcome.EMPTY_EXPECTED, f"no expiry in question: {known}")
    first = asked is None
    usable = shown in wanted and (not first or shown == wanted[0])
    later = [day for day in wanted if shown is None or not usable or day > shown] if first or usable else []
    contracts = _contracts(chain, query) if usable else ()
    outcome = Outcome.OK if contracts or later else Outcome.EMPTY_EXPECTED
    reason = "" if contracts else f"no contract in question among those of {shown}"
    return Parsed(outcome, reason if not later else "", records=contracts, more=call_for(later[0]) if later else None)


def _contracts(chain: _Chain, query: OptionsQuery) -> tuple[OptionContract, ...]:
    quoted_on = _quoted_on(chain.quote)
    sides = ((Right.CALL, chain.options[0].calls), (Right.PUT, chain.options[0].puts))
    return tuple(
        OptionContract(
            native=one.contract_symbol,
            underlying=query.underlying.symbol,
            right=right,
            strike=strike,
            expires=_day(one.expiration),
            shares=SHARES.get(one.contract_size, 100.0),
            last=_positive(one.last_price),
            bid=_positive(one.bid),
            ask=_positive(one.ask),
            volume=number(one.volume),
            open_interest=number(one.open_interest),
            implied_volatility=_volatility(one.implied_volatility),
            quoted_on=quoted_on,
        )
        for right, contracts in sides
        if query.right in (None, right)
        for one in contracts
        if (strike := _positive(one.strike)) is not None and _within(_day(one.expiration), query)
    )


def _quoted_on(quote: _Underlying | None) -> date | None:
    """The session that the chain is of: the underlying's last one."""
    if quote is None or quote.regular_market_time is None or not quote.exchange_timezone_name:
        return None
    zone = zone_named(quote.exchange_timezone_name)
    return datetime.fromtimestamp(quote.regular_market_time, UTC).astimezone(zone).date()


def _day(stamp: int) -> date:
    """Expiries are midnights in UTC."""
    return datetime.fromtimestamp(stamp, UTC).date()


def _within(day: date, query: OptionsQuery) -> bool:
    after = query.expires_from is None or day >= query.expires_from
    return after and (query.expires_to is None or day <= query.expires_to)


def _positive(amount: Amount) -> float | None:
    """A side without an order, or a contract that never traded, is written as zero."""
    value = number(amount)
    return value if value is not None and isfinite(value) and value > 0 else None


def _volatility(amount: Amount) -> float | None:
    value = _positive(amount)
    return value if value is not None and value >= LEAST_VOLATILITY else None
