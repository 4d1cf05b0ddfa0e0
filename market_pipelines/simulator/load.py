"""Frames for load: unique quotes and trades in Polygon's words, made faster than a reader takes them.

The frames are made once, all of one width; for each piece that is sent only the digits of stamps and sequence
numbers are written anew, over whole columns. Each topic of a symbol counts without a hole from `FIRST_SEQ`, so
what a reader must have is known exactly. Who sends them is `load_server`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FIRST_SEQ = 1_000_000_001
PRICE = 100.0
QUOTES_A_TRADE = 4
BLOCK_EVENTS = 20_000
SEQ_DIGITS, MS_DIGITS = 10, 13
TRADE, QUOTE = "T", "Q"

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

_FIVE: Bytes = np.array([list(f"{number:05d}".encode()) for number in range(100_000)], dtype=np.uint8)


@dataclass(frozen=True)
class _Slot:
    """Where the digits are in the text of one event."""

    text: bytes
    seq_at: tuple[int, ...]
    ms_at: int


def _slot(kind: str, symbol: str, width: int, number: int) -> _Slot:
    cents = number * 37 % 97
    price = PRICE + cents / 100
    seq, ms = b"#" * SEQ_DIGITS, b"@" * MS_DIGITS
    name = b'"%b"' % symbol.encode() + b" " * (width - len(symbol))
    if kind == QUOTE:
        text = b'{"ev":"Q","sym":%b,"bx":%d,"bp":%.2f,"bs":%d,"ax":%d,"ap":%.2f,"as":%d,"c":1,"t":%b,"q":%b,"z":3}' % (
            name,
            (11, 12, 19)[number % 3],
            price,
            100 + 100 * (number % 9),
            (10, 15, 21)[number % 3],
            price + 0.02,
            100 + 100 * (number % 7),
            ms,
            seq,
        )
    else:
        conditions = (b',"c":[14,41]', b',"c":[37]   ', b"            ")[number % 3]
        text = b'{"ev":"T","sym":%b,"i":"%b","x":%d,"p":%.2f,"s":%d%b,"t":%b,"q":%b,"z":3}' % (
            name,
            seq,
            (11, 12, 19)[number % 3],
            price + 0.01,
            100 + 100 * (number % 9),
            conditions,
            ms,
            seq,
        )
    places = [text.index(seq)]
    if kind == TRADE:
        places.append(text.index(seq, places[0] + SEQ_DIGITS))
    return _Slot(text, tuple(places), text.index(ms))


class Lane:
    """The endless sequence of events of some symbols, in frames of equal size. Not to be shared between threads."""

    def __init__(self, symbols: Sequence[str], kinds: Sequence[str], events_per_frame: int) -> None:
        self.symbols = tuple(symbols)
        self.kinds = tuple(kinds)
        self.per_frame = events_per_frame
        self.events = 0
        """How many have been sent, in whole frames."""
        pattern = [QUOTE] * QUOTES_A_TRADE + [TRADE] if len(self.kinds) > 1 else list(self.kinds)
        self._pattern = tuple(pattern)
        unit = len(pattern) * len(self.symbols)
        step = math.lcm(unit, events_per_frame)
        self.block_events = step * max(BLOCK_EVENTS // step, 1)
        self._lay_out()

    def _lay_out(self) -> None:
        width = max(len(symbol) for symbol in self.symbols)
        count = dict.fromkeys(self.kinds, 0)
        slots: list[_Slot] = []
        kinds: list[bool] = []
        for number in range(self.block_events):
            kind = self._pattern[number % len(self._pattern)]
            slots.append(_slot(kind, self.symbols[count[kind] % len(self.symbols)], width, number))
            kinds.append(kind == TRADE)
            count[kind] += 1
        self._in_block = {kind: count[kind] // len(self.symbols) for kind in self.kinds}
        self.width = max(len(slot.text) for slot in slots)
        # What is shorter is filled with blanks before its last brace: between two events the provider sends none.
        filled = b"".join(slot.text[:-1].ljust(self.width - 1) + slot.text[-1:] for slot in slots)
        self._framed(np.frombuffer(filled, dtype=np.uint8).reshape(self.block_events, self.width))
        trade = np.array(kinds).reshape(-1, self.per_frame)
        self._groups: list[tuple[npt.NDArray[np.bool_], _Slot, Longs, int]] = []
        """For each topic: which events of a block, where their digits are, their number, and how many a block adds."""
        running = {kind: np.cumsum(trade if kind == TRADE else ~trade).reshape(trade.shape) - 1 for kind in self.kinds}
        for kind in self.kinds:
            example = next(slot for slot, is_trade in zip(slots, kinds, strict=True) if is_trade == (kind == TRADE))
            chosen = trade if kind == TRADE else ~trade
            self._groups.append((chosen, example, running[kind] // len(self.symbols), self._in_block[kind]))

    def _framed(self, events: Bytes) -> None:
        frames = self.block_events // self.per_frame
        payload = self.per_frame * (self.width + 1) + 1
        header = _header(payload)
        self.frame_bytes = len(header) + payload
        self._block = np.full((frames, self.frame_bytes), ord(","), dtype=np.uint8)
        self._block[:, : len(header)] = np.frombuffer(header, dtype=np.uint8)
        self._block[:, len(header)] = ord("[")
        self._block[:, -1] = ord("]")
        first = len(header) + 1
        body = self._block[:, first : first + self.per_frame * (self.width + 1)]
        self._events = np.lib.stride_tricks.as_strided(
            body,
            shape=(frames, self.per_frame, self.width),
            strides=(self.frame_bytes, self.width + 1, 1),
        )
        self._events[:] = events.reshape(frames, self.per_frame, self.width)

    @property
    def frames_in_block(self) -> int:
        return len(self._block)

    def piece(self, frames: int, ms: int) -> memoryview:
        """At most so many of the next frames, with their numbers and this stamp. Sent ones are reported by `sent`."""
        block, place = divmod(self.events // self.per_frame, self.frames_in_block)
        rows = slice(place, min(place + frames, self.frames_in_block))
        stamp = np.frombuffer(b"%d" % ms, dtype=np.uint8)
        events = self._events[rows]
        for chosen, slot, number, per_block in self._groups:
            seq = FIRST_SEQ + block * per_block + number[rows]
            self._write(events, chosen[rows], slot, seq, stamp)
        return self._block[rows].reshape(-1).data

    def _write(self, events: Bytes, chosen: npt.NDArray[np.bool_], slot: _Slot, seq: Longs, stamp: Bytes) -> None:
        everything = len(self.kinds) == 1
        where: Any = (slice(None), slice(None)) if everything else np.nonzero(chosen)
        numbers = seq if everything else seq[where]
        high, low = _FIVE[numbers // 100_000], _FIVE[numbers % 100_000]
        for place in slot.seq_at:
            events[(*where, slice(place, place + 5))] = high
            events[(*where, slice(place + 5, place + SEQ_DIGITS))] = low
        events[(*where, slice(slot.ms_at, slot.ms_at + MS_DIGITS))] = stamp

    def sent(self, frames: int) -> None:
        self.events += frames * self.per_frame

    def last_part(self, count: int, ms: int) -> bytes:
        """A last frame with fewer events than the others."""
        view = bytes(self.piece(1, ms))
        start = len(view) - (self.per_frame * (self.width + 1) + 1) + 1
        payload = b"[" + view[start : start + count * (self.width + 1) - 1] + b"]"
        return _header(len(payload)) + payload

    def told(self) -> dict[str, dict[str, dict[str, int]]]:
        """By symbol and topic the first and the last number and how many there are, without a hole."""
        whole, rest = divmod(self.events, len(self._pattern))
        found: dict[str, dict[str, dict[str, int]]] = {symbol: {} for symbol in self.symbols}
        for kind in self.kinds:
            total = whole * self._pattern.count(kind) + self._pattern[:rest].count(kind)
            for place, symbol in enumerate(self.symbols):
                count = total // len(self.symbols) + (place < total % len(self.symbols))
                if count:
                    found[symbol][kind] = {"first": FIRST_SEQ, "last": FIRST_SEQ + count - 1, "count": count}
        return found


def _header(payload: int) -> bytes:
    if payload < 126:
        return struct.pack("!BB", 0x81, payload)
    if payload < 65536:
        return struct.pack("!BBH", 0x81, 126, payload)
    return struct.pack("!BBQ", 0x81, 127, payload)
