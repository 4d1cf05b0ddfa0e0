"""From the fields of Polygon's live events, as they stand on the wire, to the house's columns.

Both readers of frames, the quick one and the careful one, end here, so that an event means the same by either way.
How bytes become fields is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.market.columns import (
    Column,
    Flags,
    Floats,
    Instants,
    coded,
    floats,
    integers,
    missing,
    of_flags,
    of_floats,
    of_instants,
    repeated,
    texts,
    whole,
)
from market_pipelines.market.live import AGGREGATES, BANDS, QUOTES, TRADES, TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon.lots import OPTION, ROUND_LOTS_UNTIL, in_shares
from market_pipelines.providers.polygon.stamps import LATEST, in_nanoseconds, since_epoch
from market_pipelines.providers.symbols import LONGEST_WORD, is_word

_WORD: pa.DataType = pa.string()
_COUNT: pa.DataType = pa.int64()
_NUMBER: pa.DataType = pa.float64()
WIRE: Mapping[str, pa.Schema] = MappingProxyType(
    {
        "T": pa.schema(
            {
                "sym": _WORD, "i": _WORD, "x": _COUNT, "p": _NUMBER, "s": _NUMBER, "ds": _WORD,
                "c": pa.list_(_COUNT), "t": _COUNT, "q": _COUNT,
            }
        ),
        "Q": pa.schema(
            {
                "sym": _WORD, "bx": _COUNT, "ax": _COUNT, "bp": _NUMBER, "ap": _NUMBER, "bs": _NUMBER,
                "as": _NUMBER, "c": _COUNT, "t": _COUNT, "q": _COUNT,
            }
        ),
        "A": pa.schema(
            {
                "sym": _WORD, "o": _NUMBER, "h": _NUMBER, "l": _NUMBER, "c": _NUMBER, "v": _NUMBER, "dv": _WORD,
                "vw": _NUMBER, "av": _NUMBER, "dav": _WORD, "s": _COUNT, "e": _COUNT,
            }
        ),
        "LULD": pa.schema(
            {
                "T": _WORD, "h": _NUMBER, "l": _NUMBER, "i": pa.list_(_COUNT), "z": _COUNT, "t": _COUNT, "q": _COUNT,
            }
        ),
    }
)  # fmt: skip
"""The fields of an event that are read, by its `ev`. A minute, `AM`, is spelled like a second, `A`. Price
bands have their symbol under `T`."""
SPAN = MappingProxyType({"A": 1_000_000_000, "AM": 60_000_000_000})
"""Nanoseconds that an aggregate is about where it does not say when it ends."""
KIND = MappingProxyType(
    {
        "T": TickKind.TRADES,
        "Q": TickKind.QUOTES,
        "A": TickKind.AGGREGATES,
        "AM": TickKind.AGGREGATES,
        "LULD": TickKind.BANDS,
    }
)

_compute: Any = pc
_DECIMAL = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
_IDS: Any = pa.array(["", *map(str, range(1024))], type=_WORD)
_NO_SYMBOLS = frozenset({"", "true", "false"})


@dataclass(frozen=True, slots=True)
class House:
    """What this house adds to an event."""

    feed: str
    symbols: Mapping[str, str]
    """The provider's spelling → the house's; what is not in it keeps its own."""
    lots_until: datetime = ROUND_LOTS_UNTIL


def shaped(ev: str, wire: pa.Table, received: Instants, house: House) -> tuple[pa.Table, Flags]:
    """A table of `market.live.SCHEMAS` and which rows cannot be: without a symbol, a time or a price. Those rows
    have something in every column, and are to be left out."""
    return _SHAPES[KIND[ev]](ev, wire, received, house)


def _trades(_: str, wire: pa.Table, received: Instants, house: House) -> tuple[pa.Table, Flags]:
    symbols, nameless = _symbols(wire["sym"], house.symbols)
    stamps, timeless = _stamps(wire["t"])
    price = floats(wire["p"])
    size, unreadable = _decimals(wire["s"], wire["ds"])
    ids = texts(wire["i"])
    endless = _compute.utf8_length(ids).to_numpy(zero_copy_only=False) > LONGEST_WORD
    table = pa.Table.from_arrays(
        [
            symbols,
            of_instants(stamps),
            of_instants(received),
            pa.array(integers(wire["q"])),
            of_floats(price),
            of_floats(size),
            _ids(wire["x"]),
            ids,
            _lists(wire["c"]),
            _zeros(len(wire), np.int64),
            repeated(house.feed, len(wire)),
            _zeros(len(wire), np.int32),
        ],
        schema=TRADES,
    )
    return table, nameless | timeless | unreadable | endless | np.isnan(price)


def _quotes(_: str, wire: pa.Table, received: Instants, house: House) -> tuple[pa.Table, Flags]:
    symbols, nameless = _symbols(wire["sym"], house.symbols)
    stamps, timeless = _stamps(wire["t"])
    bid, ask = floats(wire["bp"]), floats(wire["ap"])
    no_bid, no_ask = np.isnan(bid) | (bid == 0), np.isnan(ask) | (ask == 0)
    bid_size, ask_size = floats(wire["bs"]), floats(wire["as"])
    if (stamps < since_epoch(house.lots_until)).any():
        options = _compute.starts_with(symbols, OPTION).to_numpy(zero_copy_only=False)
        bid_size, ask_size = (in_shares(sizes, stamps, options, house.lots_until) for sizes in (bid_size, ask_size))
    marks = np.where(no_bid | no_ask, np.int32(TickMark.ONE_SIDED), np.int32(0))
    table = pa.Table.from_arrays(
        [
            symbols,
            of_instants(stamps),
            of_instants(received),
            pa.array(integers(wire["q"])),
            of_floats(bid, no_bid),
            of_floats(ask, no_ask),
            of_floats(bid_size, no_bid | np.isnan(bid_size)),
            of_floats(ask_size, no_ask | np.isnan(ask_size)),
            _ids(wire["bx"], no_bid),
            _ids(wire["ax"], no_ask),
            _ids(wire["c"]),
            repeated(house.feed, len(wire)),
            pa.array(marks),
        ],
        schema=QUOTES,
    )
    return table, nameless | timeless


def _aggregates(ev: str, wire: pa.Table, received: Instants, house: House) -> tuple[pa.Table, Flags]:
    symbols, nameless = _symbols(wire["sym"], house.symbols)
    start, timeless = _stamps(wire["s"])
    end, endless = _stamps(wire["e"])
    end = np.where(endless | (end <= start), start + SPAN[ev], end)
    prices = [floats(wire[name]) for name in ("o", "h", "l", "c")]
    volume, unreadable = _decimals(wire["v"], wire["dv"])
    day_volume, of_day = _decimals(wire["av"], wire["dav"])
    table = pa.Table.from_arrays(
        [
            symbols,
            of_instants(start),
            of_instants(end),
            of_instants(received),
            *map(of_floats, prices),
            of_floats(volume),
            of_floats(floats(wire["vw"])),
            of_floats(day_volume),
            repeated(house.feed, len(wire)),
            _zeros(len(wire), np.int32),
        ],
        schema=AGGREGATES,
    )
    return table, nameless | timeless | unreadable | of_day | np.isnan(prices).any(axis=0)


def _bands(_: str, wire: pa.Table, received: Instants, house: House) -> tuple[pa.Table, Flags]:
    """The unit of their times is documented as milliseconds, shown as microseconds and has been nanoseconds."""
    symbols, nameless = _symbols(wire["T"], house.symbols)
    stamps, timeless = _stamps(wire["t"])
    up, down = floats(wire["h"]), floats(wire["l"])
    table = pa.Table.from_arrays(
        [
            symbols,
            of_instants(stamps),
            of_instants(received),
            pa.array(integers(wire["q"])),
            of_floats(up, np.isnan(up) | (up == 0)),
            of_floats(down, np.isnan(down) | (down == 0)),
            _lists(wire["i"]),
            _ids(wire["z"]),
            repeated(house.feed, len(wire)),
            _zeros(len(wire), np.int32),
        ],
        schema=BANDS,
    )
    return table, nameless | timeless


_SHAPES: Mapping[TickKind, Callable[[str, pa.Table, Instants, House], tuple[pa.Table, Flags]]] = MappingProxyType(
    {
        TickKind.TRADES: _trades,
        TickKind.QUOTES: _quotes,
        TickKind.AGGREGATES: _aggregates,
        TickKind.BANDS: _bands,
    }
)


def _zeros(count: int, of: type[np.int32] | type[np.int64]) -> Any:
    return pa.array(np.zeros(count, dtype=of))


def _symbols(column: Column, spelled: Mapping[str, str]) -> tuple[Any, Flags]:
    """Few symbols and many events: only the symbols are looked at one by one."""
    names, codes = coded(column)
    wrong = np.array([name in _NO_SYMBOLS or name[0] in "[{" or not is_word(name) for name in names], dtype=np.bool_)
    bad = wrong[codes] if wrong.any() else np.zeros(len(codes), dtype=np.bool_)
    if any(spelled.get(name, name) != name for name in names):
        house: Any = pa.array([spelled.get(name, name) for name in names], type=_WORD)
        return house.take(pa.array(codes)), bad
    return texts(column), bad


def _stamps(column: Column) -> tuple[Instants, Flags]:
    """Nanoseconds, and where there is no time that can be."""
    raw = integers(column)
    bad = (raw <= 0) | (raw > LATEST)
    return in_nanoseconds(np.where(bad, 0, raw) if bad.any() else raw), bad


def _decimals(column: Column, exact: Column) -> tuple[Floats, Flags]:
    """Shares have been divisible since 2026: the whole ones are in the number, all of it in the text beside it."""
    plain = floats(column)
    if exact.null_count == len(exact):
        return plain, np.zeros(len(plain), dtype=np.bool_)
    told = texts(exact)
    sound = _compute.match_substring_regex(told, _DECIMAL)
    values = floats(_compute.if_else(sound, told, None).cast(_NUMBER))
    given = _compute.not_equal(told, "").to_numpy(zero_copy_only=False)
    bad = given & ~np.isfinite(values)
    return np.where(given & ~bad, values, plain), bad


def _ids(column: Column, absent: Flags | None = None) -> Any:
    """Small numbers as text; none at all where it is missing."""
    values = integers(column, -1)
    if absent is not None and absent.any():
        values = np.where(absent, -1, values)
    if len(values) and (values.min() < -1 or values.max() >= len(_IDS) - 1):
        nothing = missing(column) if absent is None else missing(column) | absent
        return _compute.if_else(of_flags(nothing), "", whole(column).cast(_WORD))
    return _IDS.take(pa.array(values + 1))


def _lists(column: Column) -> Any:
    """[12, 37] as "12,37"."""
    one = whole(column)
    if one.null_count == len(one):
        return repeated("", len(one))
    joined = _compute.binary_join(pa.ListArray.from_arrays(one.offsets, _ids(one.values)), ",")
    return joined if not one.null_count else _compute.if_else(one.is_null(), "", joined)
