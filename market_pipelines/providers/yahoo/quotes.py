"""`/v7/finance/quote`: what one or many symbols trade at now. Unknown ones are missing without a word."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from math import isfinite

import msgspec

from market_pipelines.market.currencies import whole_currency
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.providers.answers import malformed, no_data, one_line
from market_pipelines.providers.protocol import Answer, Parsed
from market_pipelines.providers.yahoo.chart import Epoch, price_unit, zone_named
from market_pipelines.providers.yahoo.envelopes import Amount, number, open_envelope, refusal

MOST_SYMBOLS = 50
STALE = timedelta(days=10)
"""A price older than this is told apart in the reason: what is no longer traded keeps its last price for years."""
UNIT_DECIMALS = 8


class _Quoted(msgspec.Struct, rename="camel"):
    symbol: str
    quote_type: str = ""
    currency: str | None = None
    exchange_timezone_name: str | None = None
    regular_market_price: Amount = None
    regular_market_time: Epoch | None = None
    regular_market_open: Amount = None
    regular_market_day_high: Amount = None
    regular_market_day_low: Amount = None
    regular_market_previous_close: Amount = None
    regular_market_volume: Amount = None
    bid: Amount = None
    ask: Amount = None
    bid_size: Amount = None
    ask_size: Amount = None


_quoted = msgspec.json.Decoder(list[_Quoted] | None)


def read_quotes(answer: Answer, expected: Sequence[tuple[str, Instrument]]) -> Parsed:
    """`expected` pairs Yahoo's spelling with the instrument."""
    names = ", ".join(native for native, _ in expected)
    refused = refusal(answer, "quoteResponse", lambda: Outcome.EMPTY_UNEXPECTED) or no_data(answer)
    if refused is not None:
        return refused
    try:
        root = open_envelope(answer.body).get("quoteResponse")
        told = _quoted.decode(root.result) if root is not None else None
        if told is None:
            return malformed("no quotes in the answer")
        return _judged(told, expected, answer.received_at, names)
    except (msgspec.MsgspecError, ValueError) as error:
        return malformed(f"the answer cannot be read: {error}")


def _judged(
    told: Sequence[_Quoted], expected: Sequence[tuple[str, Instrument]], received_at: datetime, names: str
) -> Parsed:
    by_symbol = {one.symbol.upper(): one for one in told}
    quotes, notes, priceless = [], [], 0
    for native, instrument in expected:
        one = by_symbol.get(native.upper())
        if one is None:
            notes.append(f"{native} is not known")
            continue
        quote = _quote(one, instrument)
        if quote is None:
            priceless += 1
            notes.append(f"{native} has no price (type {one.quote_type or 'unnamed'})")
            continue
        quotes.append(quote)
        if quote.at is not None and received_at - quote.at > STALE:
            notes.append(f"{native} last traded on {quote.at.date()}")
    reason = one_line("; ".join(notes))
    if quotes:
        return Parsed(Outcome.OK, reason, records=tuple(quotes))
    if priceless:
        gone = all(_gone(instrument, received_at.date()) for _, instrument in expected)
        return Parsed(Outcome.EMPTY_EXPECTED if gone else Outcome.EMPTY_UNEXPECTED, reason)
    if told:
        return malformed(f"asked for {names}, the answer is about {', '.join(one.symbol for one in told)}")
    return Parsed(Outcome.UNKNOWN_SYMBOL, reason or "no symbol was asked for")


def _gone(instrument: Instrument, today: date) -> bool:
    return instrument.delisted_on is not None and instrument.delisted_on < today


def _quote(one: _Quoted, instrument: Instrument) -> Quote | None:
    price = _positive(one.regular_market_price)
    if price is None:
        return None
    unit = price_unit(one.currency, instrument)

    def money(amount: Amount) -> float | None:
        # A zero is how Yahoo writes that there is none: before the opening, for an index, for a side without orders.
        value = _positive(amount)
        return value if value is None or unit == 1.0 else round(value * unit, UNIT_DECIMALS)

    at = datetime.fromtimestamp(one.regular_market_time, UTC) if one.regular_market_time is not None else None
    zone = zone_named(one.exchange_timezone_name) if one.exchange_timezone_name else None
    bid, ask = money(one.bid), money(one.ask)
    volume = number(one.regular_market_volume)
    return Quote(
        symbol=instrument.symbol,
        price=price if unit == 1.0 else round(price * unit, UNIT_DECIMALS),
        at=at,
        currency=_currency(one.currency, instrument),
        bid=bid,
        ask=ask,
        bid_size=_positive(one.bid_size) if bid is not None else None,
        ask_size=_positive(one.ask_size) if ask is not None else None,
        open=money(one.regular_market_open),
        high=money(one.regular_market_day_high),
        low=money(one.regular_market_day_low),
        previous_close=money(one.regular_market_previous_close),
        volume=None if instrument.kind is Kind.INDEX and not volume else volume,
        session=at.astimezone(zone).date() if at is not None and zone is not None else None,
    )


def _currency(quoted: str | None, instrument: Instrument) -> str:
    """The unit that the numbers are in now."""
    if not quoted or instrument.kind is Kind.INDEX or whole_currency(quoted) != whole_currency(instrument.currency):
        return quoted or ""
    return instrument.currency


def _positive(amount: Amount) -> float | None:
    value = number(amount)
    return value if value is not None and isfinite(value) and value > 0 else None
