"""Polygon's frames read with care, one event at a time: for everything that the quick way does not understand.

What can be read is read, numbers written as text included; what cannot is told, with its place and a reason. Nothing
here raises because of what is in a frame.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from market_pipelines.providers.answers import one_line
from market_pipelines.providers.polygon.stamps import LATEST
from market_pipelines.providers.symbols import is_word

_LARGEST = 2**63
_BEGINNING = re.compile(rb'\{\s*"ev"\s*:')
_AFTER_AN_EVENT = b" \t\r\n,[]"
_frame = msgspec.json.Decoder(list[msgspec.Raw])
_event = msgspec.json.Decoder(dict[str, Any])

Fields = dict[str, Any]
"""Of one event, under the names of `frame_columns.WIRE`."""


class Unreadable(Exception):
    """Why an event or a frame is none; for a person."""


def events_of(body: bytes) -> Iterator[tuple[int, bytes | Unreadable]]:
    """Each event with its place in the frame, or why there is none; place -1 is the whole frame.

    Of a frame that is broken somewhere, the events around the break are found by how they begin.
    """
    try:
        yield from enumerate(bytes(raw) for raw in _frame.decode(body))
        return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = one_line(str(error)) or type(error).__name__
    begins = [found.start() for found in _BEGINNING.finditer(body)]
    if not begins:
        yield -1, Unreadable(f"no array of events: {reason}")
        return
    whole = True
    for place, (start, end) in enumerate(zip(begins, [*begins[1:], len(body)], strict=True)):
        piece = body[start:end].rstrip(_AFTER_AN_EVENT)
        whole = whole and _is_object(piece)
        yield place, piece
    single = len(begins) == 1 and body.strip() == piece
    if whole and not single:
        yield -1, Unreadable(f"no array of events, but the events in it were read: {reason}")


def _is_object(piece: bytes) -> bool:
    try:
        _event.decode(piece)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def fields_of(raw: bytes) -> tuple[str, Fields]:
    """An event's `ev` and its fields; none of a kind that is not read. Raises `Unreadable`."""
    try:
        event = _event.decode(raw)
        if raw.count(b":") != len(event):
            event = _without_repetitions(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable(one_line(str(error)) or type(error).__name__) from None
    ev = event.get("ev")
    if not isinstance(ev, str):
        raise Unreadable("an event that does not say of what kind it is")
    reader = _READERS.get(ev)
    return ev, {} if reader is None else reader(event)


def _without_repetitions(raw: bytes) -> Fields:
    """Of a name that comes twice, the first one counts, as it does in the quick way."""
    found = json.loads(raw, object_pairs_hook=_first_of_each, parse_constant=_no_number)
    if not isinstance(found, dict):
        raise Unreadable("not an event")
    return found


def _first_of_each(pairs: list[tuple[str, Any]]) -> Fields:
    first: Fields = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return first


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _trade(event: Mapping[str, Any]) -> Fields:
    size, exact = _number(event, "s"), _decimal(event, "ds")
    return {
        "sym": _symbol(event),
        "i": _text(event, "i"),
        "x": _count(event, "x"),
        "p": _needed(event, "p"),
        "s": size,
        "ds": exact,
        "c": _counts(event, "c"),
        "t": _stamp(event, "t"),
        "q": _count(event, "q"),
    }


def _quote(event: Mapping[str, Any]) -> Fields:
    conditions = event.get("c")
    if isinstance(conditions, list):
        event = {**event, "c": conditions[0] if conditions else None}
    return {
        "sym": _symbol(event),
        **{name: _count(event, name) for name in ("bx", "ax")},
        **{name: _number(event, name) for name in ("bp", "ap", "bs", "as")},
        "c": _count(event, "c"),
        "t": _stamp(event, "t"),
        "q": _count(event, "q"),
    }


def _aggregate(event: Mapping[str, Any]) -> Fields:
    return {
        "sym": _symbol(event),
        **{name: _needed(event, name) for name in ("o", "h", "l", "c")},
        "v": _number(event, "v"),
        "dv": _decimal(event, "dv"),
        "vw": _number(event, "vw"),
        "av": _number(event, "av"),
        "dav": _decimal(event, "dav"),
        "s": _stamp(event, "s"),
        "e": _count(event, "e"),
    }


def _band(event: Mapping[str, Any]) -> Fields:
    return {
        "T": _symbol(event, "T"),
        **{name: _number(event, name) for name in ("h", "l")},
        "i": _counts(event, "i"),
        "z": _count(event, "z"),
        "t": _stamp(event, "t"),
        "q": _count(event, "q"),
    }


_READERS = {"T": _trade, "Q": _quote, "A": _aggregate, "AM": _aggregate, "LULD": _band}


def _symbol(event: Mapping[str, Any], name: str = "sym") -> str:
    symbol = _text(event, name)
    if not symbol or symbol in ("true", "false") or symbol[0] in "[{":
        raise Unreadable("an event without a symbol")
    return symbol


def _text(event: Mapping[str, Any], name: str) -> str | None:
    value = event.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unreadable(f"{name} is {_shown(value)}, which is no text")
    text = str(value)
    if not is_word(text):
        raise Unreadable(f"{name} is {_shown(value)}, which nothing is called")
    return text


def _number(event: Mapping[str, Any], name: str) -> float | None:
    value = event.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unreadable(f"{name} is {_shown(value)}, which is no number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Unreadable(f"{name} is {_shown(value)}, which is no number") from None
    if not math.isfinite(number):
        raise Unreadable(f"{name} is {_shown(value)}, which is no number")
    return number


def _needed(event: Mapping[str, Any], name: str) -> float:
    number = _number(event, name)
    if number is None:
        raise Unreadable(f"there is no {name}")
    return number


def _decimal(event: Mapping[str, Any], name: str) -> str | None:
    """As text, which is exact; an empty one says nothing."""
    value = event.get(name)
    if value is None or value == "":
        return None
    number = _number(event, name)
    return None if number is None else repr(number)


def _count(event: Mapping[str, Any], name: str) -> int | None:
    return _whole(event.get(name), name)


def _whole(value: object, name: str) -> int | None:
    """Never through a double: a number of nanoseconds does not fit one."""
    if value is None:
        return None
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not -_LARGEST <= number < _LARGEST:
        raise Unreadable(f"{name} is {_shown(value)}, which is no whole number")
    return number


def _counts(event: Mapping[str, Any], name: str) -> list[int] | None:
    value = event.get(name)
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    return [number for item in items if (number := _whole(item, name)) is not None]


def _stamp(event: Mapping[str, Any], name: str) -> int:
    stamp = _whole(event.get(name), name)
    if stamp is None or not 0 < stamp <= LATEST:
        raise Unreadable(f"{name} is {_shown(event.get(name))}, which is no time")
    return stamp


def _shown(value: object) -> str:
    text = one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}…"
