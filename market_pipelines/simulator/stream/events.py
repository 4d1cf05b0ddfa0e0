"""One thing that happened, in the words of Polygon's socket and with the id that tests look for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from market_pipelines.simulator.aggregates import Spans, middle_of
from market_pipelines.simulator.ticks import REPORTING_FACILITY, Quotes, Trades

TRADE, QUOTE, SECOND, MINUTE, BANDS = "T", "Q", "A", "AM", "LULD"
STATUS = "status"
MS = 1_000_000


class Sent(NamedTuple):
    """What identifies an event: `ts` in nanoseconds, of an aggregate its start; `seq` is 0 where it has none."""

    kind: str
    symbol: str
    seq: int
    ts: int


@dataclass(frozen=True, slots=True)
class Event:
    sent: Sent
    at: int
    """When it is told, in nanoseconds: of an aggregate its end."""
    text: bytes


@dataclass(frozen=True, slots=True)
class Wording:
    """What the provider leaves open, or does not keep to."""

    decimals: bool = False
    """Sizes and volumes as text too, whether they are whole or not."""
    bands_unit: int = MS
    """Nanoseconds in a unit of the stamp of LULD."""


@dataclass(frozen=True, slots=True)
class DaySoFar:
    """Of the session or the round of its replay, when a batch of trades begins."""

    open: float
    volume: float
    notional: float


def number(value: float) -> bytes:
    """As the provider writes it: without a fraction where there is none."""
    return b"%d" % int(value) if value == int(value) else repr(round(value, 6)).encode()


def trade_events(symbol: str, trades: Trades, tape: int | None, wording: Wording) -> list[Event]:
    """`tape` None: of an option, which has neither ids nor tapes."""
    name = symbol.encode()
    events = []
    for stamp, seq, price, size, venue, conditions in zip(
        trades.stamps.tolist(),
        trades.seq.tolist(),
        trades.price.tolist(),
        trades.size.tolist(),
        trades.venue.tolist(),
        trades.conditions.tolist(),
        strict=True,
    ):
        text = b'{"ev":"T","sym":"%b"' % name
        if tape is not None:
            text += b',"i":"%d"' % seq
        text += b',"x":%d,"p":%b,"s":%d' % (venue, number(price), int(size))
        if wording.decimals or size != int(size):
            text += b',"ds":"%b"' % str(size).encode()
        if conditions:
            text += b',"c":[%b]' % conditions.encode()
        text += b',"t":%d,"q":%d' % (stamp // MS, seq)
        if tape is not None:
            text += b',"z":%d' % tape
            if venue == REPORTING_FACILITY:
                text += b',"trfi":202,"trft":%d' % ((stamp - 31_001) // MS)
        events.append(Event(Sent(TRADE, symbol, seq, stamp), stamp, text + b"}"))
    return events


def quote_events(symbol: str, quotes: Quotes, tape: int | None) -> list[Event]:
    name = symbol.encode()
    ending = b"" if tape is None else b',"z":%d' % tape
    condition = b"" if tape is None else b',"c":1'
    return [
        Event(
            Sent(QUOTE, symbol, seq, stamp),
            stamp,
            b'{"ev":"Q","sym":"%b","bx":%d,"bp":%b,"bs":%d,"ax":%d,"ap":%b,"as":%d%b,"t":%d,"q":%d%b}'
            % (
                name,
                bid_venue,
                number(bid),
                bid_size,
                ask_venue,
                number(ask),
                ask_size,
                condition,
                stamp // MS,
                seq,
                ending,
            ),
        )
        for stamp, seq, bid, ask, bid_size, ask_size, bid_venue, ask_venue in zip(
            quotes.stamps.tolist(),
            quotes.seq.tolist(),
            quotes.bid.tolist(),
            quotes.ask.tolist(),
            quotes.bid_size.tolist(),
            quotes.ask_size.tolist(),
            quotes.bid_venue.tolist(),
            quotes.ask_venue.tolist(),
            strict=True,
        )
    ]


def aggregate_events(kind: str, symbol: str, bars: Spans, width: int, day: DaySoFar, wording: Wording) -> list[Event]:
    """`day` is as of the first bar's start; the bars that follow add to it."""
    events = []
    volume_so_far, notional_so_far = day.volume, day.notional
    for start, o, h, low, c, v, notional, n in zip(
        bars.starts.tolist(),
        bars.open.tolist(),
        bars.high.tolist(),
        bars.low.tolist(),
        bars.close.tolist(),
        bars.volume.tolist(),
        bars.notional.tolist(),
        bars.count.tolist(),
        strict=True,
    ):
        volume_so_far += v
        notional_so_far += notional
        row: dict[str, object] = {
            "ev": kind,
            "sym": symbol,
            "v": _plain(v),
            "av": _plain(volume_so_far),
            "op": day.open,
            "vw": middle_of(h, low, c),
            "o": o,
            "c": c,
            "h": h,
            "l": low,
            "a": round(notional_so_far / volume_so_far, 4),
            "z": max(round(v / n), 1),
            "s": start // MS,
            "e": (start + width) // MS,
        }
        if wording.decimals:
            row |= {"dv": str(float(v)), "dav": str(float(volume_so_far))}
        events.append(Event(Sent(kind, symbol, 0, start), start + width, msgspec.json.encode(row)))
    return events


def _plain(value: float) -> int | float:
    return int(value) if value == int(value) else value


BAND = 0.05


def band_events(symbol: str, bars: Spans, width: int, tape: int, wording: Wording) -> list[Event]:
    """Limits around the average price of the minute before."""
    events = []
    for start, high, low, close in zip(
        bars.starts.tolist(), bars.high.tolist(), bars.low.tolist(), bars.close.tolist(), strict=True
    ):
        at, reference = start + width, middle_of(high, low, close)
        seq = at // MS % 10_000_000_000
        text = b'{"ev":"LULD","T":"%b","h":%b,"l":%b,"i":[21],"z":%d,"t":%d,"q":%d}' % (
            symbol.encode(),
            number(round(reference * (1 + BAND), 2)),
            number(round(reference * (1 - BAND), 2)),
            tape,
            at // wording.bands_unit,
            seq,
        )
        events.append(Event(Sent(BANDS, symbol, seq, at), at, text))
    return events


def status(word: str, message: str) -> bytes:
    return msgspec.json.encode({"ev": STATUS, "status": word, "message": message})


def array(texts: list[bytes]) -> bytes:
    return b"[" + b",".join(texts) + b"]"
