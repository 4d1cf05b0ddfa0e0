"""What has come before: duplicates are told from what is new, and what came late from what came in order.

A trade is the same by symbol, day, exchange, sequence number and id; a quote or a price band by symbol, day and
sequence number; a snapshot when it says what the symbol's last one said. A second or minute that comes again with
other values replaces the earlier one and is new. Where a feed numbers nothing, time and content decide.

Nearly everything has a higher number than all of its symbol before it, and is new for that reason alone. Only the
rest is looked up among the last rows, of which this keeps a hash of 64 bits each. What is older than those is let
through, and told apart by the sinks' own keys.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa

from market_pipelines.market.columns import (
    Codes,
    Flags,
    Instants,
    Integers,
    bits,
    by_code,
    grown,
    instants,
    integers,
)
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind

WINDOW = 1_000_000
"""Rows of each kind that are remembered one by one."""
BARS_REMEMBERED = 250_000

Hashes = npt.NDArray[np.uint64]

_NEVER = np.iinfo(np.int64).min
_SEQ_BITS = 44
_SEQ_MOST = (1 << _SEQ_BITS) - 1
_QUARTER = 900 * 1_000_000_000
_SMALL = 16_384
_CONTENT = {
    TickKind.TRADES: ("ts", "price", "size", "exchange", "trade_id"),
    TickKind.QUOTES: ("ts", "bid", "ask", "bid_size", "ask_size", "bid_exchange", "ask_exchange", "conditions"),
    # Not what the day had traded by then: history does not know it, and would take it from a bar that stands.
    TickKind.AGGREGATES: ("o", "h", "l", "c", "v", "vw"),
    TickKind.SNAPSHOTS: (
        "price", "bid", "ask", "bid_size", "ask_size", "open", "high", "low", "previous_close", "volume", "currency",
    ),
    TickKind.BANDS: ("ts", "limit_up", "limit_down", "indicators"),
}  # fmt: skip


class Seen:
    """What one reader of the journal has seen so far. Of one thread at a time."""

    def __init__(self, zone: ZoneInfo, window: int = WINDOW) -> None:
        """`zone`: the exchange's; its midnight is where numbers begin again."""
        self._zone = zone
        self._recent = {kind: Recent(window) for kind in (TickKind.TRADES, TickKind.QUOTES, TickKind.BANDS)}
        self._tops: dict[tuple[TickKind, int], Tops] = {}
        self._bars = _Versions(BARS_REMEMBERED)
        self._last_snapshot: Hashes = np.zeros(0, dtype=np.uint64)

    def news(self, kind: TickKind, table: pa.Table, codes: Codes) -> tuple[Flags, Flags]:
        """Which rows are new, and which of all came after a later one of their symbol."""
        if kind is TickKind.AGGREGATES:
            new, late = self._aggregates(table, codes)
        elif kind is TickKind.SNAPSHOTS:
            new, late = self._snapshots(table, codes)
        else:
            new, late = self._ticks(kind, table, codes)
        return new, late & ((bits(table["marks"]) & TickMark.FILLED) == 0)

    def _top(self, kind: TickKind, number: int) -> Tops:
        return self._tops.setdefault((kind, number), Tops())

    def _ticks(self, kind: TickKind, table: pa.Table, codes: Codes) -> tuple[Flags, Flags]:
        stamps, seq = instants(table["ts"]), integers(table["seq"])
        days = local_days(stamps, self._zone)
        numbered = seq > 0
        keys = _keys(kind, table, codes, days, seq, numbered)
        known = np.zeros(len(codes), dtype=np.bool_)
        late = np.zeros(len(codes), dtype=np.bool_)
        for number, (some, value) in enumerate(
            ((numbered, days << _SEQ_BITS | np.clip(seq, 0, _SEQ_MOST)), (~numbered, stamps))
        ):
            if some.all():
                known, late = self._top(kind, number).raise_to(codes, value)
            elif some.any():
                known[some], late[some] = self._top(kind, number).raise_to(codes[some], value[some])
        new = np.ones(len(codes), dtype=np.bool_)
        recent = self._recent[kind]
        if known.any():
            doubtful = keys[known]
            new[known] = ~recent.has(doubtful)
            alike = np.flatnonzero(np.isin(keys, doubtful))
            first = np.unique(keys[alike], return_index=True)[1]
            again = np.ones(len(alike), dtype=np.bool_)
            again[first] = False
            new[alike[again]] = False
        recent.add(keys if new.all() else keys[new])
        return new, late

    def _aggregates(self, table: pa.Table, codes: Codes) -> tuple[Flags, Flags]:
        start, end = instants(table["start"]), instants(table["end"])
        spans = end - start
        known = np.zeros(len(codes), dtype=np.bool_)
        late = np.zeros(len(codes), dtype=np.bool_)
        for span in np.unique(spans).tolist():
            some = spans == span
            known[some], late[some] = self._top(TickKind.AGGREGATES, span).raise_to(codes[some], start[some])
        bars = _mixed(_mixed(codes.astype(np.uint64), spans), start)
        contents = _content(table, TickKind.AGGREGATES)
        if not known.any():
            self._bars.note(bars.tolist(), contents.tolist())
            return np.ones(len(codes), dtype=np.bool_), late
        new = self._bars.differ(bars.tolist(), contents.tolist())
        return np.array(new, dtype=np.bool_), late

    def _snapshots(self, table: pa.Table, codes: Codes) -> tuple[Flags, Flags]:
        stamps, received = instants(table["ts"]), instants(table["received_at"])
        self._last_snapshot = grown(self._last_snapshot, int(codes.max(initial=-1)) + 1, 0)
        said = _mixed(_content(table, TickKind.SNAPSHOTS), np.where(stamps == received, 0, stamps))
        late = self._top(TickKind.SNAPSHOTS, 0).raise_to(codes, stamps)[1]
        order = by_code(codes)
        sorted_codes, sorted_said = codes[order], said[order]
        before = np.empty_like(sorted_said)
        before[1:] = sorted_said[:-1]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = sorted_codes[1:] != sorted_codes[:-1]
        before[first] = self._last_snapshot[sorted_codes[first]]
        new = np.empty(len(order), dtype=np.bool_)
        new[order] = before != sorted_said
        self._last_snapshot[sorted_codes] = sorted_said
        return new, late


class Tops:
    """The highest value of each symbol so far."""

    def __init__(self) -> None:
        self._top: Integers = np.full(0, _NEVER, dtype=np.int64)

    def raise_to(self, codes: Codes, values: Integers) -> tuple[Flags, Flags]:
        """Which values are no higher than one of their symbol before them, and which of those are lower."""
        count = len(codes)
        if not count:
            return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
        self._top = grown(self._top, int(codes.max()) + 1, _NEVER)
        order = by_code(codes)
        symbol, value = codes[order], values[order]
        first = np.ones(count, dtype=np.bool_)
        first[1:] = symbol[1:] != symbol[:-1]
        last = np.append(first[1:], True)
        before = np.empty(count, dtype=np.int64)
        before[1:] = value[:-1]
        before[first] = self._top[symbol[first]]
        if (value > before).all():
            self._top[symbol[last]] = value[last]
            none = np.zeros(count, dtype=np.bool_)
            return none, none
        highest = np.maximum(pd.Series(value).groupby(np.cumsum(first)).cummax().to_numpy(), self._top[symbol])
        before[1:] = highest[:-1]
        before[first] = self._top[symbol[first]]
        self._top[symbol[last]] = highest[last]
        known, late = np.empty(count, dtype=np.bool_), np.empty(count, dtype=np.bool_)
        known[order], late[order] = value <= before, value < before
        return known, late


class Recent:
    """The last hashes, at least so many. They are put in order only when somebody asks, since hardly anybody does."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._sorted: list[Hashes] = []
        """Oldest first, and longest."""
        self._new: list[Hashes] = []
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, hashes: Hashes) -> None:
        if not len(hashes):
            return
        if self._new and len(self._new[-1]) + len(hashes) <= _SMALL:
            self._new[-1] = np.concatenate((self._new[-1], hashes))
        else:
            self._new.append(hashes)
        self._held += len(hashes)
        while True:
            oldest = self._sorted[0] if self._sorted else self._new[0]
            if self._held - len(oldest) < self._least:
                break
            (self._sorted if self._sorted else self._new).pop(0)
            self._held -= len(oldest)

    def has(self, hashes: Hashes) -> Flags:
        self._put_in_order()
        order = np.argsort(hashes)
        wanted = hashes[order]  # those that are near each other are looked up one after the other
        there = np.zeros(len(hashes), dtype=np.bool_)
        for block in self._sorted:
            place = np.searchsorted(block, wanted)
            there |= block[np.minimum(place, len(block) - 1)] == wanted
        found = np.empty(len(hashes), dtype=np.bool_)
        found[order] = there
        return found

    def _put_in_order(self) -> None:
        """Blocks of like length become one, so that few are searched; none grows beyond a quarter of them all, so
        that not too much is forgotten at once."""
        for block in self._new:
            self._sorted.append(np.sort(block))
            while (
                len(self._sorted) > 1
                and len(self._sorted[-1]) * 2 > len(self._sorted[-2])
                and len(self._sorted[-1]) + len(self._sorted[-2]) <= max(self._least // 4, _SMALL)
            ):
                newer = self._sorted.pop()
                self._sorted[-1] = np.sort(np.concatenate((self._sorted[-1], newer)))
        self._new = []


class _Versions:
    """The last version of each of the last bars."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._now: dict[int, int] = {}
        self._before: dict[int, int] = {}

    def note(self, bars: list[int], contents: list[int]) -> None:
        self._now.update(zip(bars, contents, strict=True))
        self._forget()

    def differ(self, bars: list[int], contents: list[int]) -> list[bool]:
        """Notes them too. False: the version before says the same."""
        new = []
        for bar, content in zip(bars, contents, strict=True):
            known = self._now.get(bar)
            if known is None:
                known = self._before.get(bar)
            new.append(known != content)
            self._now[bar] = content
        self._forget()
        return new

    def _forget(self) -> None:
        if len(self._now) > self._most:
            self._now, self._before = {}, self._now


def local_days(stamps: Instants, zone: ZoneInfo) -> Integers:
    """Days since 1970 by the clocks of a place. Zones differ from UTC by whole quarters of an hour."""
    if not len(stamps):
        return np.zeros(0, dtype=np.int64)
    quarters = stamps // _QUARTER
    first, last = int(quarters.min()), int(quarters.max())
    day = _local_day(first, zone)
    if day == _local_day(last, zone):
        return np.full(len(stamps), day, dtype=np.int64)
    different, place = np.unique(quarters, return_inverse=True)
    return np.array([_local_day(quarter, zone) for quarter in different.tolist()], dtype=np.int64)[place]


def _local_day(quarter: int, zone: ZoneInfo) -> int:
    local = datetime.fromtimestamp(quarter * 900, zone)
    return local.toordinal() - _EPOCH_DAY


_EPOCH_DAY = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC")).toordinal()


def keys_of(kind: TickKind, table: pa.Table, zone: ZoneInfo) -> Hashes:
    """What makes trades, quotes, price bands or versions of a bar the same, without anything that has to be
    remembered."""
    if kind is TickKind.AGGREGATES:
        bars = _mixed(_mixed(_hashes(table["symbol"]), instants(table["start"])), instants(table["end"]))
        return _mixed(bars, _content(table, kind))
    seq = integers(table["seq"])
    return _keys(kind, table, _hashes(table["symbol"]), local_days(instants(table["ts"]), zone), seq, seq > 0)


def _keys(
    kind: TickKind, table: pa.Table, symbols: Codes | Hashes, days: Integers, seq: Integers, numbered: Flags
) -> Hashes:
    symbol = _mixed(symbols.astype(np.uint64), days)
    keys = _mixed(symbol, seq)
    if kind is TickKind.TRADES:
        keys = _mixed(_mixed(keys, _hashes(table["exchange"])), _hashes(table["trade_id"]))
    if not numbered.all():
        keys = np.where(numbered, keys, _mixed(symbol, _content(table, kind)))
    return keys


def _hashes(column: Any) -> Hashes:
    return pl.Series(values=column).hash(seed=7).to_numpy()


def _content(table: pa.Table, kind: TickKind) -> Hashes:
    return pl.DataFrame(table.select(list(_CONTENT[kind]))).hash_rows(seed=7).to_numpy()


def _mixed(hashes: Hashes, values: npt.NDArray[Any]) -> Hashes:
    """One number out of two, of which every bit depends on every bit (the last steps of splitmix64)."""
    found = hashes * np.uint64(0x9E3779B97F4A7C15) + values.astype(np.uint64)
    found ^= found >> np.uint64(30)
    found *= np.uint64(0xBF58476D1CE4E5B9)
    found ^= found >> np.uint64(27)
    found *= np.uint64(0x94D049BB133111EB)
    found ^= found >> np.uint64(31)
    return found
