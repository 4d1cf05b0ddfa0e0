"""Yahoo's streamer on one socket: who is listened to, and their state as the protobuf message PricingData.

A message goes out whenever a symbol has traded since the last look. Nothing is acknowledged, and an unknown symbol
is nothing but silent.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from market_pipelines.simulator.instruments import Share
from market_pipelines.simulator.stream.connection import Connection
from market_pipelines.simulator.stream.events import MS, Event, Sent
from market_pipelines.simulator.stream.misbehaviour import Misbehaviour
from market_pipelines.simulator.stream.tape import LiveTape, State, moment
from market_pipelines.simulator.truth import World

PRICING = "pricing"
QUOTE_TYPES = {"equity": 8, "index": 9, "etf": 20}
MARKET_HOURS = {"pre": 0, "regular": 1, "post": 2}


class _Order(msgspec.Struct):
    subscribe: list[str] = []
    unsubscribe: list[str] = []


class YahooDialogue:
    def __init__(
        self,
        connection: Connection,
        world: World,
        misbehaviour: Misbehaviour,
        since: Callable[[Callable[[int], None]], None],
        *,
        bare: bool,
    ) -> None:
        """`bare`: without `version=2` a message is the base64 text alone."""
        self.connection = connection
        self.symbols: Mapping[str, int] = {}
        self._world = world
        self._misbehaviour = misbehaviour
        self._since = since
        self._bare = bare
        self._tapes: dict[str, LiveTape | None] = {}

    def opened(self) -> None:
        """It says nothing before it has something to tell."""

    def heard(self, text: str) -> None:
        try:
            order = msgspec.json.decode(text, type=_Order)
        except msgspec.DecodeError:
            return
        self._since(lambda stamp: self._change(order, stamp))

    def _change(self, order: _Order, stamp: int) -> None:
        left = {symbol: since for symbol, since in self.symbols.items() if symbol not in order.unsubscribe}
        # The whole list comes again every few seconds, as a sign of life.
        self.symbols = {**dict.fromkeys(order.subscribe, stamp), **left}

    def look(self) -> None:
        self._misbehaviour.look(self.connection)

    def restart(self, stamp: int) -> None:
        self.symbols = dict.fromkeys(self.symbols, stamp)

    def tell(self, symbols: Mapping[str, int], start: int, end: int) -> None:
        events = []
        for symbol, since in symbols.items():
            tape = self._tape(symbol)
            state = tape.state(max(start, since), end) if tape is not None else None
            if tape is not None and state is not None:
                message = base64.b64encode(pricing(self._world, tape, symbol, state)).decode()
                text = message.encode() if self._bare else msgspec.json.encode({"type": PRICING, "message": message})
                events.append(Event(Sent(PRICING, symbol, state.seq, state.at), state.at, text))
        events.sort(key=lambda event: event.at)
        if events:
            self._misbehaviour.send(self.connection, events, 1)

    def _tape(self, symbol: str) -> LiveTape | None:
        if symbol not in self._tapes:
            listing = self._world.spelled("yahoo", symbol)
            self._tapes[symbol] = LiveTape(Share(self._world, listing)) if listing is not None else None
        return self._tapes[symbol]


def pricing(world: World, tape: LiveTape, symbol: str, state: State) -> bytes:
    listing = tape.instrument.listing
    known = world.tape(listing, moment(state.at))
    before = known.sessions < np.datetime64(state.session)
    previous = float(known.bars.close[before][-1]) if before.any() else state.open
    change = state.price - previous
    fields: tuple[tuple[int, str, str | float], ...] = (
        (1, "text", symbol),
        (2, "float", state.price),
        (3, "signed", state.at // MS),
        (4, "text", listing.currency),
        (5, "text", listing.venue),
        (6, "plain", QUOTE_TYPES.get(listing.kind, 8)),
        (7, "plain", MARKET_HOURS[state.phase]),
        (8, "float", 100 * change / previous),
        (9, "signed", int(state.volume)),
        (10, "float", state.high),
        (11, "float", state.low),
        (12, "float", change),
        (13, "text", listing.name),
        (15, "float", state.open),
        (16, "float", previous),
        (22, "signed", int(state.size)),
        (27, "signed", 2),
    )
    return b"".join(_field(number, kind, value) for number, kind, value in fields)


def _field(number: int, kind: str, value: str | float) -> bytes:
    """Proto3: what is zero or empty is not written."""
    if not value:
        return b""
    if kind == "text":
        data = str(value).encode()
        return _varint(number << 3 | 2) + _varint(len(data)) + data
    if kind == "float":
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    whole = int(value)
    return _varint(number << 3) + _varint((whole << 1) ^ (whole >> 63) if kind == "signed" else whole)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
