"""The single trades and quotes behind the minutes of the made-up world: the same for every provider and channel.

The trades of a minute are its bar: the first is its open, the last its close, the dearest its high, the cheapest
its low, and their sizes add up to its volume. Every trade has a quote just before it that it lies within.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import Minutes, flawed, minutes_of
from market_pipelines.simulator.truth import Floats, World

MINUTE_NS = 60_000_000_000
VENUES = np.array([4, 8, 10, 11, 12, 15, 19, 21])
"""Exchange ids of the wire: 4 is the trade reporting facility, 12 Nasdaq."""
REPORTING_FACILITY = 4
ODD_LOT, FORM_T, INTERMARKET_SWEEP = "37", "12", "14"
ROUND_LOT = 100
_PARTS = np.array([0.0, 0.125, 0.25, 0.5])
"""Parts of a share that a double holds exactly, so that the sizes of a minute add up to its volume."""
_CACHED = 64

Longs = npt.NDArray[np.int64]
Texts = npt.NDArray[np.str_]
Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Trades:
    stamps: Longs
    """Nanoseconds since 1970, rising."""
    seq: Longs
    """Rises with gaps; begins anew every session."""
    price: Floats
    size: Floats
    venue: Longs
    conditions: Texts
    """Ids with commas between; empty for an ordinary trade."""

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, chosen: npt.NDArray[np.bool_] | slice) -> Trades:
        return Trades(
            self.stamps[chosen],
            self.seq[chosen],
            self.price[chosen],
            self.size[chosen],
            self.venue[chosen],
            self.conditions[chosen],
        )


@dataclass(frozen=True)
class Quotes:
    stamps: Longs
    seq: Longs
    bid: Floats
    """0 where nobody bids."""
    ask: Floats
    bid_size: Floats
    ask_size: Floats
    bid_venue: Longs
    ask_venue: Longs

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, chosen: npt.NDArray[np.bool_] | slice) -> Quotes:
        return Quotes(
            self.stamps[chosen],
            self.seq[chosen],
            self.bid[chosen],
            self.ask[chosen],
            self.bid_size[chosen],
            self.ask_size[chosen],
            self.bid_venue[chosen],
            self.ask_venue[chosen],
        )


def trades_of(world: World, listing: Listing, start: datetime, end: datetime, now: datetime) -> Trades:
    """Trades with `start` <= stamp < `end` that have happened by `now`."""
    pieces = [_of_session(world, listing, day, now)[0] for day in _days(listing, world, start, end, now)]
    return joined_trades([piece.take(_between(piece.stamps, start, end, now)) for piece in pieces])


def quotes_of(world: World, listing: Listing, start: datetime, end: datetime, now: datetime) -> Quotes:
    pieces = [_of_session(world, listing, day, now)[1] for day in _days(listing, world, start, end, now)]
    return joined_quotes([piece.take(_between(piece.stamps, start, end, now)) for piece in pieces])


def trades_per_minute(minutes: Minutes) -> Longs:
    """How many trades each minute is made of: as many as its bar says, and no fewer than its prices need."""
    bars = minutes.bars
    same = (bars.open == bars.close) & (bars.high == bars.open) & (bars.low == bars.open)
    needed = np.where(same, 1, 2 + _needs_high(minutes).astype(np.int64) + _needs_low(minutes).astype(np.int64))
    # Where there are fewer shares than trades, the smallest number of trades divides them.
    wanted = np.minimum(minutes.count, np.maximum(bars.volume, 1)).astype(np.int64)
    return np.asarray(np.maximum(needed, wanted), dtype=np.int64)


def nanoseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def _needs_high(minutes: Minutes) -> npt.NDArray[np.bool_]:
    return np.asarray(minutes.bars.high > np.maximum(minutes.bars.open, minutes.bars.close))


def _needs_low(minutes: Minutes) -> npt.NDArray[np.bool_]:
    return np.asarray(minutes.bars.low < np.minimum(minutes.bars.open, minutes.bars.close))


def _days(listing: Listing, world: World, start: datetime, end: datetime, now: datetime) -> tuple[date, ...]:
    calendar = world.history(listing, now).calendar
    return calendar.sessions(calendar.local_date(start), calendar.local_date(min(end, now)))


def _between(stamps: Longs, start: datetime, end: datetime, now: datetime) -> npt.NDArray[np.bool_]:
    last = min(nanoseconds(end), nanoseconds(now))
    return np.asarray((stamps >= nanoseconds(start)) & (stamps < last))


_cache: dict[tuple[int, Listing, date], tuple[Trades, Quotes]] = {}
"""By the whole listing: worlds of one process may tell a symbol's splits differently."""
_lock = threading.Lock()


def _of_session(world: World, listing: Listing, day: date, now: datetime) -> tuple[Trades, Quotes]:
    """All of a session, whatever of it has happened so far: what comes later must not change what came before."""
    key = (world.seed, listing, day)
    with _lock:
        known = _cache.get(key)
    if known is not None:
        return known
    with flawed(()):  # a wrongly told minute is a fault of one answer, and what is made here is kept
        minutes = minutes_of(world, listing, day, day, now + timedelta(days=2), extended=True)
    trades = _trades(_chance(world, listing, day, "trades"), minutes)
    made = trades, _quotes(_chance(world, listing, day, "quotes"), trades)
    with _lock:
        while len(_cache) >= _CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[key] = made
    return made


def _chance(world: World, listing: Listing, day: date, stream: str) -> np.random.Generator:
    name = f"{listing.mic}:{listing.symbol}:{stream}"
    return np.random.Generator(np.random.PCG64([world.seed, crc32(name.encode()), day.toordinal()]))


def _trades(source: np.random.Generator, minutes: Minutes) -> Trades:
    if not len(minutes):
        return joined_trades([])
    count = trades_per_minute(minutes)
    total = int(count.sum())
    owner = np.repeat(np.arange(len(minutes)), count)
    first = np.cumsum(count) - count
    last = first + count - 1

    spread = source.integers(0, MINUTE_NS, total)
    offsets = spread[np.lexsort((spread, owner))]
    stamps = minutes.stamps.astype("datetime64[ns]").astype(np.int64)[owner] + offsets

    bars = minutes.bars
    low, high = bars.low[owner], bars.high[owner]
    price = np.clip(np.round(low + (high - low) * source.random(total), 2), low, high)
    price[first], price[last] = bars.open, bars.close
    dear, cheap = _needs_high(minutes), _needs_low(minutes)
    price[first[dear] + 1] = bars.high[dear]
    price[first[cheap] + 1 + dear[cheap]] = bars.low[cheap]

    marks_bar = np.zeros(total, dtype=np.bool_)
    for places in (first, last, first[dear] + 1, first[cheap] + 1 + dear[cheap]):
        marks_bar[places] = True
    size = _sizes(source, bars.volume, count, owner, first)
    regular = minutes.phase[owner] == "regular"
    swept = source.random(total) < 0.15
    odd = (size < ROUND_LOT) & ~marks_bar
    return Trades(
        stamps=stamps,
        seq=np.cumsum(source.integers(1, 7, total)) + 1000,
        price=price,
        size=size,
        venue=VENUES[source.integers(0, len(VENUES), total)],
        conditions=_conditions(regular, odd, swept),
    )


def _sizes(source: np.random.Generator, volume: Floats, count: Longs, owner: Longs, first: Longs) -> Floats:
    """Shares of each trade: whole ones, but for some neighbours that divide a share between them."""
    weight = source.exponential(1.0, len(owner))
    share = weight / np.add.reduceat(weight, first)[owner]
    spare = np.maximum(volume - count, 0.0)
    size = 1.0 + np.floor(share * spare[owner])
    size[first + count - 1] += spare - np.add.reduceat(size - 1.0, first)
    few = volume < count
    for minute in np.flatnonzero(few):
        size[first[minute] : first[minute] + count[minute]] = _divided(float(volume[minute]), int(count[minute]))
    part = _PARTS[source.integers(0, len(_PARTS), len(owner))]
    part[source.random(len(owner)) > 0.1] = 0.0
    # A trade gives a part of a share to the next one of its minute, never the last one of the minute.
    part[first + count - 1] = 0.0
    part[few[owner] | (size <= 1.0)] = 0.0
    size = size - part
    size[1:] += part[:-1]
    return np.asarray(size)


def _divided(volume: float, count: int) -> list[float]:
    """At most four trades, in parts that add up exactly."""
    pieces = {1: (1.0,), 2: (0.5, 0.5), 3: (0.5, 0.25, 0.25), 4: (0.25,) * 4}[count]
    return [volume * piece for piece in pieces]


def _conditions(
    regular: npt.NDArray[np.bool_], odd: npt.NDArray[np.bool_], swept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.str_]:
    table = np.array(
        [
            ",".join(code for code, on in ((FORM_T, outside), (INTERMARKET_SWEEP, sweep), (ODD_LOT, lot)) if on)
            for outside in (False, True)
            for sweep in (False, True)
            for lot in (False, True)
        ]
    )
    return np.asarray(table[(~regular).astype(int) * 4 + swept.astype(int) * 2 + odd.astype(int)])


def _quotes(source: np.random.Generator, trades: Trades) -> Quotes:
    total = len(trades)
    width = 0.01 * source.integers(1, 4, total)
    above = source.random(total)
    bid = np.maximum(np.floor((trades.price - width * above) * 100 + 1e-6) / 100, 0.0)
    ask = np.maximum(np.ceil(trades.price * 100 - 1e-6) / 100, bid + 0.01)
    one_sided = source.random(total) < 0.002
    early = np.maximum(trades.stamps - source.integers(50_000, 2_000_000, total), 0)
    # A quote must not slip before the one that was there already.
    stamps = np.maximum.accumulate(early) if total else early
    return Quotes(
        stamps=stamps,
        seq=np.cumsum(source.integers(1, 30, total)) + 500,
        bid=np.where(one_sided, 0.0, np.round(bid, 2)),
        ask=np.asarray(np.round(ask, 2), dtype=np.float64),
        bid_size=np.where(one_sided, 0.0, source.integers(1, 30, total) * 100.0),
        ask_size=np.asarray(source.integers(1, 30, total) * 100, dtype=np.float64),
        bid_venue=np.where(one_sided, 0, VENUES[source.integers(1, len(VENUES), total)]),
        ask_venue=VENUES[source.integers(1, len(VENUES), total)],
    )


def joined_trades(pieces: list[Trades]) -> Trades:
    return Trades(
        stamps=_joined([piece.stamps for piece in pieces], np.int64),
        seq=_joined([piece.seq for piece in pieces], np.int64),
        price=_joined([piece.price for piece in pieces], np.float64),
        size=_joined([piece.size for piece in pieces], np.float64),
        venue=_joined([piece.venue for piece in pieces], np.int64),
        conditions=np.concatenate([piece.conditions for piece in pieces] or [np.empty(0, dtype="U8")]),
    )


def joined_quotes(pieces: list[Quotes]) -> Quotes:
    return Quotes(
        stamps=_joined([piece.stamps for piece in pieces], np.int64),
        seq=_joined([piece.seq for piece in pieces], np.int64),
        bid=_joined([piece.bid for piece in pieces], np.float64),
        ask=_joined([piece.ask for piece in pieces], np.float64),
        bid_size=_joined([piece.bid_size for piece in pieces], np.float64),
        ask_size=_joined([piece.ask_size for piece in pieces], np.float64),
        bid_venue=_joined([piece.bid_venue for piece in pieces], np.int64),
        ask_venue=_joined([piece.ask_venue for piece in pieces], np.int64),
    )


def _joined(columns: list[npt.NDArray[Number]], kind: type[Number]) -> npt.NDArray[Number]:
    return np.concatenate(columns or [np.empty(0, dtype=kind)])
