"""What is odd about live quotes and trades, as marks on their rows. Nothing is ever left out.

The rules 32 to 35 and 37 of the canon (Barndorff-Nielsen, Hansen, Lunde and Shephard; Brownlees and Gallo). What
they compare with is kept for each symbol and bounded; the cost of a row does not depend on how many symbols there
are. Where the textbook's figure would be too dear or too strict for a live stream, the limit says what is done instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_pipelines.market.columns import (
    Codes,
    Flags,
    Floats,
    Instants,
    Integers,
    bits,
    by_code,
    coded,
    floats,
    grown,
    instants,
    integers,
    with_marks,
)
from market_pipelines.market.live import TickMark
from market_pipelines.market.quality.neighbours import Neighbours
from market_pipelines.market.records import TickKind
from market_pipelines.market.tape import CONDITIONS, FORM_T, Counts

CANCELLED = frozenset({44, 49, 54, 201, 203, 205, 207})
"""Conditions that take a trade back: of the consolidated tape, and of OPRA from 201 on."""
OUT_OF_TURN = frozenset({202, 204, 206, 208})
"""Of options: reported late."""
NO_PRICE = (
    frozenset(one for one, counts in CONDITIONS.items() if one != FORM_T and not counts & Counts.OPEN_CLOSE)
    | OUT_OF_TURN
)
"""Conditions of trades that are never a last price. Trades outside of regular hours are fine where they are."""

Marks = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TickLimits:
    late_seconds: float = 2.0
    late_aggregate_seconds: float = 15.0
    """After the end of what it is about."""
    future_seconds: float = 60.0
    wide: float = 50.0
    """So many times the symbol's usual spread, which is a running median: it moves towards where half the spreads
    are above it, lot by lot."""
    wide_after: int = 50
    """Spreads of a symbol that have to be known before one of them can be wide."""
    quote_width: float = 10.0
    """A mid may be so many usual deviations from the middle around it."""
    trade_width: float = 4.5
    """So many usual deviations from the middle of the trades around it: three standard deviations. Asked where there
    is no quote to hold a trade against."""
    least_share: float = 0.0005
    """No deviation is smaller than this share of the price: where the last fifty are the same to the cent, one cent
    more is not an outlier."""
    granularity: float = 0.02
    """What a trade may always be off, in the currency's units."""
    quote_seconds: float = 60.0
    """How old a quote may be that a trade is held against."""


class TickRules:
    """Remembers what it needs of the rows before. Of one thread at a time."""

    def __init__(self, limits: TickLimits | None = None, delay_ns: int = 0) -> None:
        """`delay_ns`: so much later than it happens everything comes, by the provider's plan."""
        self.limits = limits or TickLimits()
        self._delay_ns = delay_ns
        self._spreads = _UsualSpread()
        self._mids, self._prices = Neighbours(), Neighbours()
        self._last = _LastQuotes()

    def marked(self, tables: Mapping[TickKind, pa.Table], codes: Mapping[TickKind, Codes]) -> dict[TickKind, pa.Table]:
        """The tables with what is odd about their rows added to their marks. `codes`: the symbol of each row as a
        number, the same one every time."""
        found = dict(tables)
        quotes = _Quotes.none()
        if TickKind.QUOTES in tables:
            quotes, marks = self._quotes(tables[TickKind.QUOTES], codes[TickKind.QUOTES])
            found[TickKind.QUOTES] = _added(tables[TickKind.QUOTES], marks)
        if TickKind.TRADES in tables:
            marks = self._trades(tables[TickKind.TRADES], codes[TickKind.TRADES], quotes)
            found[TickKind.TRADES] = _added(tables[TickKind.TRADES], marks)
        self._last.remember(quotes)
        if TickKind.AGGREGATES in tables:
            found[TickKind.AGGREGATES] = _added(tables[TickKind.AGGREGATES], self._aggregates(tables))
        if TickKind.SNAPSHOTS in tables:
            found[TickKind.SNAPSHOTS] = _added(tables[TickKind.SNAPSHOTS], self._snapshots(tables))
        if TickKind.BANDS in tables:
            found[TickKind.BANDS] = _added(tables[TickKind.BANDS], self._bands(tables[TickKind.BANDS]))
        return found

    def _quotes(self, table: pa.Table, codes: Codes) -> tuple[_Quotes, Marks]:
        bid, ask = floats(table["bid"]), floats(table["ask"])
        marks = self._when(table, "ts", self.limits.late_seconds)
        marks |= _sides(bid, ask)
        bad = (bid <= 0) | (ask <= 0)
        bad |= ~np.isnan(bid) & ~(floats(table["bid_size"]) > 0)
        bad |= ~np.isnan(ask) & ~(floats(table["ask_size"]) > 0)
        bad |= np.isnan(bid) & np.isnan(ask)
        marks[bad] |= TickMark.NOT_POSITIVE
        order = by_code(codes)
        sound = ((ask > bid) & (bid > 0))[order]
        rows = order[sound]
        spread = ask[rows] - bid[rows]
        wide = self._spreads.exceeds(codes[rows], spread, self.limits.wide, self.limits.wide_after)
        middle, width = self._mids.around(codes[rows], (ask[rows] + bid[rows]) / 2)
        least = np.maximum(spread / 2, self.limits.least_share * middle)
        far = np.abs((ask[rows] + bid[rows]) / 2 - middle) > self.limits.quote_width * np.maximum(width, least)
        marks[rows[wide]] |= TickMark.WIDE
        marks[rows[far & ~wide]] |= TickMark.OUTLIER
        sound[sound] = ~(far | wide)
        standing = (np.where(sound, side[order], np.nan) for side in (bid, ask))
        return _Quotes(codes[order], instants(table["ts"])[order], *standing), marks

    def _trades(self, table: pa.Table, codes: Codes, quotes: _Quotes) -> Marks:
        price = floats(table["price"])
        marks = self._when(table, "ts", self.limits.late_seconds)
        marks[~((price > 0) & (floats(table["size"]) > 0))] |= TickMark.NOT_POSITIVE
        marks |= _conditions(table["conditions"])
        marks[integers(table["correction"]) != 0] |= TickMark.CORRECTED
        rows = np.flatnonzero((price > 0) & (marks & (TickMark.CONDITION | TickMark.CORRECTED) == 0))
        rows = rows[by_code(codes[rows])]
        symbols, stamps, paid = codes[rows], instants(table["ts"])[rows], price[rows]
        bid, ask = quotes.before(symbols, stamps, self._last, round(self.limits.quote_seconds * 1e9))
        slack = np.maximum(ask - bid, self.limits.least_share * paid)
        middle, width = self._prices.around(symbols, paid)
        allowed = self.limits.trade_width * np.maximum(width, self.limits.least_share * middle)
        alone = np.isnan(bid)
        far = np.where(
            alone,
            np.abs(paid - middle) > allowed + self.limits.granularity,
            (paid > ask + slack) | (paid < bid - slack),
        )
        marks[rows[far]] |= TickMark.OUTLIER
        return marks

    def _aggregates(self, tables: Mapping[TickKind, pa.Table]) -> Marks:
        table = tables[TickKind.AGGREGATES]
        marks = self._when(table, "end", self.limits.late_aggregate_seconds)
        prices = np.vstack([floats(table[name]) for name in ("o", "h", "l", "c")])
        marks[~(prices > 0).all(axis=0)] |= TickMark.NOT_POSITIVE
        return marks

    def _snapshots(self, tables: Mapping[TickKind, pa.Table]) -> Marks:
        """They say when somebody last traded, so that none of them is late."""
        table = tables[TickKind.SNAPSHOTS]
        marks = self._when(table, "ts", np.inf)
        bid, ask = floats(table["bid"]), floats(table["ask"])
        marks |= np.where(np.isnan(bid) & np.isnan(ask), np.int32(0), _sides(bid, ask))
        marks[~(floats(table["price"]) > 0)] |= TickMark.NOT_POSITIVE
        return marks

    def _bands(self, table: pa.Table) -> Marks:
        up, down = floats(table["limit_up"]), floats(table["limit_down"])
        marks = self._when(table, "ts", self.limits.late_seconds) | _sides(down, up)
        marks[(up <= 0) | (down <= 0) | (np.isnan(up) & np.isnan(down))] |= TickMark.NOT_POSITIVE
        return marks

    def _when(self, table: pa.Table, name: str, late_seconds: float) -> Marks:
        on_the_way = instants(table["received_at"]) - instants(table[name])
        marks: Marks = np.zeros(len(table), dtype=np.int32)
        filled = bits(table["marks"]) & TickMark.FILLED != 0
        marks[(on_the_way - self._delay_ns > late_seconds * 1e9) & ~filled] |= TickMark.LATE
        marks[on_the_way < -self.limits.future_seconds * 1e9] |= TickMark.FUTURE
        return marks


@dataclass(frozen=True, slots=True)
class _Quotes:
    """By symbol and time. Without prices where a quote is none to go by: of one side, crossed or far off."""

    codes: Codes
    stamps: Instants
    bid: Floats
    ask: Floats

    @staticmethod
    def none() -> _Quotes:
        nothing = np.zeros(0)
        return _Quotes(nothing.astype(np.int32), nothing.astype(np.int64), nothing, nothing)

    def before(self, codes: Codes, stamps: Instants, last: _LastQuotes, oldest: int) -> tuple[Floats, Floats]:
        """The quote that stood when each trade was made, NaN where none is known that is young enough."""
        since, bid, ask = last.of(codes)
        if len(self.codes) and len(codes):
            first = min(int(self.stamps.min()), int(stamps.min()))
            span = max(int(self.stamps.max()), int(stamps.max())) - first + 1
            most = max(int(self.codes[-1]), int(codes[-1])) + 1
            coarser = max(0, span.bit_length() + most.bit_length() - 62)
            width = span.bit_length() - coarser
            here = np.maximum.accumulate(_ordered(self.codes, self.stamps - first, width, coarser))
            place = np.searchsorted(here, _ordered(codes, stamps - first, width, coarser), side="right") - 1
            at = np.maximum(place, 0)
            found = (place >= 0) & (self.codes[at] == codes)
            since = np.where(found, self.stamps[at], since)
            bid, ask = np.where(found, self.bid[at], bid), np.where(found, self.ask[at], ask)
        gone = (stamps - since > oldest) | (since > stamps)
        return np.where(gone, np.nan, bid), np.where(gone, np.nan, ask)


def _ordered(codes: Codes, since: Integers, width: int, coarser: int) -> Integers:
    """One number by which rows are in order of symbol, then of time."""
    found: Integers = codes.astype(np.int64) << width | since >> coarser
    return found


class _LastQuotes:
    def __init__(self) -> None:
        self._stamps: Integers = np.zeros(0, dtype=np.int64)
        self._bid: Floats = np.zeros(0)
        self._ask: Floats = np.zeros(0)

    def remember(self, quotes: _Quotes) -> None:
        if not len(quotes.codes):
            return
        self._grow(int(quotes.codes[-1]) + 1)
        rows = np.flatnonzero(np.append(quotes.codes[1:] != quotes.codes[:-1], True))
        rows = rows[quotes.stamps[rows] >= self._stamps[quotes.codes[rows]]]
        symbols = quotes.codes[rows]
        self._stamps[symbols], self._bid[symbols], self._ask[symbols] = (
            quotes.stamps[rows],
            quotes.bid[rows],
            quotes.ask[rows],
        )

    def of(self, codes: Codes) -> tuple[Integers, Floats, Floats]:
        self._grow(int(codes.max(initial=-1)) + 1)
        return self._stamps[codes], self._bid[codes], self._ask[codes]

    def _grow(self, size: int) -> None:
        self._stamps = grown(self._stamps, size, 0)
        self._bid, self._ask = grown(self._bid, size, np.nan), grown(self._ask, size, np.nan)


class _UsualSpread:
    """The running median of each symbol's spread, as a logarithm."""

    _STEP = 0.5

    def __init__(self) -> None:
        self._usual: Floats = np.zeros(0)
        self._count: Integers = np.zeros(0, dtype=np.int64)

    def exceeds(self, codes: Codes, spreads: Floats, times: float, after: int) -> Flags:
        """Rows come in the order of their symbols."""
        if not len(codes):
            return np.zeros(0, dtype=np.bool_)
        self._usual, self._count = (
            grown(self._usual, int(codes[-1]) + 1, 0),
            grown(self._count, int(codes[-1]) + 1, 0),
        )
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        symbols, lengths = codes[starts], np.diff(np.append(starts, len(codes)))
        logs = np.log(spreads)
        unknown = self._count[symbols] == 0
        first = np.add.reduceat(logs, starts) / lengths
        self._usual[symbols[unknown]] = first[unknown]
        self._count[symbols] += lengths
        over = logs - self._usual[codes]
        balance = np.add.reduceat(np.sign(over), starts) / lengths
        self._usual[symbols] += self._STEP * balance
        wide: Flags = (over > np.log(times)) & (self._count[codes] > after)
        return wide


def _sides(bid: Floats, ask: Floats) -> Marks:
    marks: Marks = np.zeros(len(bid), dtype=np.int32)
    marks[bid > ask] |= TickMark.CROSSED
    marks[bid == ask] |= TickMark.LOCKED
    marks[np.isnan(bid) | np.isnan(ask)] |= TickMark.ONE_SIDED
    return marks


def _conditions(column: Any) -> Marks:
    """Few combinations and many trades: only the combinations are looked at one by one."""
    combinations, codes = coded(column)
    marks = [TickMark.NONE] * len(combinations)
    for place, text in enumerate(combinations):
        ids = {int(part) for part in text.split(",") if part.lstrip("-").isdecimal()}
        if ids & NO_PRICE:
            marks[place] |= TickMark.CONDITION
        if ids & CANCELLED:
            marks[place] |= TickMark.CORRECTED
    return np.array(marks, dtype=np.int32)[codes]


def _added(table: pa.Table, marks: Marks) -> pa.Table:
    return with_marks(table, bits(table["marks"]) | marks)
