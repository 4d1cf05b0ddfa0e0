"""What an instrument trades at: snapshots of one or many, the last trade, the last quote, the day in words.

The short keys mean different things in different places: in a trade `p` is its price, in a quote `p` is the bid
and `P` the ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

import msgspec

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.polygon.envelope import Envelope
from market_pipelines.providers.polygon.stamps import NEW_YORK, Stamp, instant
from market_pipelines.providers.protocol import Answer, Parsed

NAMED = 5
"""Symbols that a reason lists before it says how many more there are."""


class _Bar(msgspec.Struct):
    open: float | None = msgspec.field(name="o", default=None)
    high: float | None = msgspec.field(name="h", default=None)
    low: float | None = msgspec.field(name="l", default=None)
    close: float | None = msgspec.field(name="c", default=None)
    volume: float | None = msgspec.field(name="v", default=None)
    at: Stamp | None = msgspec.field(name="t", default=None)


class _Trade(msgspec.Struct):
    price: float | None = msgspec.field(name="p", default=None)
    at: Stamp | None = msgspec.field(name="t", default=None)


class _Nbbo(msgspec.Struct):
    bid: float | None = msgspec.field(name="p", default=None)
    bid_size: float | None = msgspec.field(name="s", default=None)
    ask: float | None = msgspec.field(name="P", default=None)
    ask_size: float | None = msgspec.field(name="S", default=None)
    at: Stamp | None = msgspec.field(name="t", default=None)


class _Last(_Nbbo):
    """A trade or a quote; only a quote has an ask."""

    ticker: str = msgspec.field(name="T", default="")


class _Snapshot(msgspec.Struct, rename="camel"):
    ticker: str
    day: _Bar | None = None
    min: _Bar | None = None
    prev_day: _Bar | None = None
    last_trade: _Trade | None = None
    last_quote: _Nbbo | None = None
    updated: Stamp | None = None


class _DayInWords(msgspec.Struct):
    """`/v1/open-close`, which has names where the others have letters."""

    symbol: str
    session: date = msgspec.field(name="from")
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float | None = None
    volume: float | None = None


_snapshot = msgspec.json.Decoder(_Snapshot)
_snapshots = msgspec.json.Decoder(list[_Snapshot] | None)
_last = msgspec.json.Decoder(_Last)
_day_in_words = msgspec.json.Decoder(_DayInWords)


def one(envelope: Envelope, answer: Answer, instrument: Instrument, native: str) -> Parsed:
    if bytes(envelope.ticker) != b"null":
        snapshot = _snapshot.decode(envelope.ticker)
        named, quote = snapshot.ticker, _of_snapshot(snapshot, instrument)
    elif bytes(envelope.results) != b"null":
        last = _last.decode(envelope.results)
        named, quote = last.ticker, _of_last(last, instrument)
    elif envelope.symbol is not None:
        words = _day_in_words.decode(answer.body.removeprefix(b"\xef\xbb\xbf"))
        named, quote = words.symbol, _of_day(words, instrument)
    else:
        return malformed("neither a snapshot nor a last trade or quote")
    if named != native:
        return malformed(f"asked for {native}, the answer is about {one_line(named) or 'nothing that it names'}")
    if quote is None:
        return Parsed(Outcome.EMPTY_UNEXPECTED, f"{native} is listed, but there is no price")
    return Parsed(Outcome.OK, records=(quote,))


def many(envelope: Envelope, natives: Mapping[str, Instrument]) -> Parsed:
    """`natives`: who was asked for, by the provider's spelling. Those it does not know are left out of the answer."""
    if {bytes(envelope.results), bytes(envelope.ticker)} != {b"null"} or envelope.symbol:
        return malformed("no list of snapshots")
    found: dict[str, Quote] = {}
    for snapshot in _snapshots.decode(envelope.tickers) or []:
        instrument = natives.get(snapshot.ticker)
        quote = _of_snapshot(snapshot, instrument) if instrument is not None else None
        if quote is not None:
            found[snapshot.ticker] = quote
    missing = [native for native in natives if native not in found]
    reason = ""
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        reason = f"no price of {', '.join(missing[:NAMED])}{more}"
    if not found:
        return Parsed(Outcome.EMPTY_UNEXPECTED, one_line(reason or "no prices at all"))
    return Parsed(Outcome.OK, one_line(reason), records=tuple(found[native] for native in natives if native in found))


def _of_snapshot(snapshot: _Snapshot, instrument: Instrument) -> Quote | None:
    """The newest price there is: a plan without trades still has the minute or the day."""
    day, minute, trade = snapshot.day or _Bar(), snapshot.min or _Bar(), snapshot.last_trade or _Trade()
    before, nbbo = snapshot.prev_day or _Bar(), snapshot.last_quote or _Nbbo()
    for price, stamp in ((trade.price, trade.at), (minute.close, minute.at), (day.close, day.at)):
        if price:
            at = _moment(stamp) or _moment(snapshot.updated)
            break
    else:
        return None
    return Quote(
        symbol=instrument.symbol,
        price=price,
        at=at,
        currency=instrument.currency,
        bid=nbbo.bid or None,
        ask=nbbo.ask or None,
        bid_size=nbbo.bid_size if nbbo.bid else None,
        ask_size=nbbo.ask_size if nbbo.ask else None,
        open=day.open or None,
        high=day.high or None,
        low=day.low or None,
        previous_close=before.close or None,
        # Before the day's first trade its bar is all zeros.
        volume=day.volume if day.close else None,
        session=at.astimezone(NEW_YORK).date() if at is not None else None,
    )


def _of_last(last: _Last, instrument: Instrument) -> Quote | None:
    at = _moment(last.at)
    session = at.astimezone(NEW_YORK).date() if at is not None else None
    if last.ask is None:
        if not last.bid:
            return None
        return Quote(instrument.symbol, last.bid, at, instrument.currency, session=session)
    bid, ask = last.bid or None, last.ask or None
    sides = [side for side in (bid, ask) if side is not None]
    if not sides:
        return None
    return Quote(
        symbol=instrument.symbol,
        price=sum(sides) / len(sides),
        at=at,
        currency=instrument.currency,
        bid=bid,
        ask=ask,
        bid_size=last.bid_size if bid else None,
        ask_size=last.ask_size if ask else None,
        session=session,
    )


def _of_day(words: _DayInWords, instrument: Instrument) -> Quote | None:
    if not words.close:
        return None
    return Quote(
        symbol=instrument.symbol,
        price=words.close,
        at=None,
        currency=instrument.currency,
        open=words.open,
        high=words.high,
        low=words.low,
        volume=words.volume,
        session=words.session,
    )


def _moment(stamp: int | None) -> datetime | None:
    return instant(stamp) if stamp else None
