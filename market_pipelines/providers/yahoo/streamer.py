"""Frames of Yahoo's streamer: what one symbol trades at, as a protobuf message in base64 in JSON.

Only the fields that a snapshot has are read, by their numbers; others are passed over by how they are wired. What
the frame leaves out is zero to Yahoo and missing here.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_pipelines.market.live import SNAPSHOTS, TickMark
from market_pipelines.providers.answers import one_line
from market_pipelines.providers.symbols import is_word

SHOWN = 2_000
"""Bytes of a frame that could not be read that are told."""
LATEST_MS = 9_000_000_000_000
_LONGEST_VARINT = 10
_VARINT, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5

ID, PRICE, TIME, CURRENCY, DAY_VOLUME, DAY_HIGH, DAY_LOW = 1, 2, 3, 4, 9, 10, 11
OPEN, PREVIOUS_CLOSE, BID, BID_SIZE, ASK, ASK_SIZE = 15, 16, 23, 24, 25, 26
_TEXTS = frozenset({ID, CURRENCY})
_SIGNED = frozenset({TIME, DAY_VOLUME, BID_SIZE, ASK_SIZE})
_SINGLES = frozenset({PRICE, DAY_HIGH, DAY_LOW, OPEN, PREVIOUS_CLOSE, BID, ASK})
_PRICES = MappingProxyType(
    {"bid": BID, "ask": ASK, "open": OPEN, "high": DAY_HIGH, "low": DAY_LOW, "previous_close": PREVIOUS_CLOSE}
)
_COUNTS = MappingProxyType({"bid_size": BID_SIZE, "ask_size": ASK_SIZE, "volume": DAY_VOLUME})


class _Frame(msgspec.Struct):
    type: str = ""
    message: str = ""


_frame = msgspec.json.Decoder(_Frame)


class Unreadable(Exception):
    """Why a frame tells nothing; for a person."""


@dataclass(frozen=True, slots=True)
class UnreadFrame:
    position: int
    received_ns: int
    reason: str
    body: bytes
    """Its beginning."""


@dataclass(frozen=True, slots=True)
class Pushed:
    snapshots: pa.Table
    unread: tuple[UnreadFrame, ...]
    passed_over: int
    """Frames of another type than prices."""


def read_frames(
    bodies: Sequence[bytes],
    received: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    *,
    feed: str,
    symbols: Mapping[str, str] = MappingProxyType({}),
) -> Pushed:
    """`received` and `positions` have one number for each body. `symbols`: Yahoo's spelling → the house's."""
    rows: list[dict[str, Any]] = []
    unread: list[UnreadFrame] = []
    passed_over = 0
    for body, received_ns, position in zip(bodies, received.tolist(), positions.tolist(), strict=True):
        try:
            message = _message(body)
            if message is None:
                passed_over += 1
            else:
                rows.append(_row(pricing(message), received_ns, feed, symbols))
        except Unreadable as error:
            unread.append(UnreadFrame(position, received_ns, one_line(str(error)), body[:SHOWN]))
    return Pushed(pa.Table.from_pylist(rows, schema=SNAPSHOTS), tuple(unread), passed_over)


def _message(body: bytes) -> bytes | None:
    """None: a frame that is not about prices. Older versions of the streamer send base64 without JSON around it."""
    text = body.strip()
    if text[:1] == b"{":
        try:
            frame = _frame.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(f"not a frame: {error}") from None
        if frame.type != "pricing":
            return None
        text = frame.message.encode()
    try:
        message = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise Unreadable(f"not base64: {error}") from None
    if not message:
        raise Unreadable("an empty message")
    return message


def pricing(message: bytes) -> dict[int, Any]:
    """The fields of a `PricingData` that are read, by number. Raises `Unreadable`."""
    found: dict[int, Any] = {}
    for number, wired, value in _fields(message):
        if number in _TEXTS and wired == _SIZED:
            try:
                found[number] = bytes(value).decode()
            except UnicodeDecodeError:
                raise Unreadable(f"field {number} is no text") from None
        elif number in _SIGNED and wired == _VARINT:
            found[number] = value >> 1 ^ -(value & 1)
        elif number in _SINGLES and wired == _FOUR:
            found[number] = shortest(struct.unpack("<f", value)[0])
        elif number in _TEXTS | _SIGNED | _SINGLES:
            raise Unreadable(f"field {number} is of another type than it was")
    return found


def shortest(value: float) -> float:
    """The decimal that a price of four bytes was before it became one: 94745.08, not 94745.078125.

    It has at most seven digits that mean something, however many decimals `price_hint` would show: cutting them to the
    hint would take away those of a price between two cents.
    """
    return float(str(np.float32(value)))


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wired = tag >> 3, tag & 7
        if number == 0:
            raise Unreadable("a field without a number")
        if wired == _VARINT:
            value, at = _varint(message, at)
            yield number, wired, value
            continue
        if wired == _SIZED:
            size, at = _varint(message, at)
        elif wired in (_FOUR, _EIGHT):
            size = 4 if wired == _FOUR else 8
        else:
            raise Unreadable(f"field {number} is wired in a way that protobuf gave up")
        if size > end - at:
            raise Unreadable(f"field {number} goes on beyond the end of the message")
        yield number, wired, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + place + 1
    raise Unreadable("a number without an end")


def _row(fields: Mapping[int, Any], received_ns: int, feed: str, symbols: Mapping[str, str]) -> dict[str, Any]:
    native = fields.get(ID, "")
    if not native or not is_word(native):
        raise Unreadable("a price without a symbol")
    if not is_word(fields.get(CURRENCY, "")):
        raise Unreadable(f"a price of {native} in no currency")
    prices = {name: _price(fields, number) for name, number in _PRICES.items()}
    counts = {name: float(fields[number]) if fields.get(number) else None for name, number in _COUNTS.items()}
    price = _price(fields, PRICE)
    if price is None:
        raise Unreadable(f"no price of {native}")
    milliseconds = fields.get(TIME, 0)
    if not 0 <= milliseconds <= LATEST_MS:
        raise Unreadable(f"a price of {native} at a time that cannot be: {milliseconds}")
    one_sided = (prices["bid"] is None) is not (prices["ask"] is None)
    return {
        "symbol": symbols.get(native, native),
        "ts": milliseconds * 1_000_000 if milliseconds else received_ns,
        "received_at": received_ns,
        "price": price,
        **prices,
        **counts,
        "bid_size": counts["bid_size"] if prices["bid"] is not None else None,
        "ask_size": counts["ask_size"] if prices["ask"] is not None else None,
        "currency": fields.get(CURRENCY, ""),
        "feed": feed,
        "marks": int(TickMark.ONE_SIDED if one_sided else TickMark.NONE),
    }


def _price(fields: Mapping[int, Any], number: int) -> float | None:
    value: float = fields.get(number, 0.0)
    if not math.isfinite(value):
        raise Unreadable(f"field {number} is no number")
    return value or None
