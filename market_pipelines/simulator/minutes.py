"""The minutes behind a daily bar of the made-up world: the same for every provider, whatever range is asked for.

The regular minutes of a session add up to its daily bar: first open, highest high, lowest low, last close, and
all of its volume. Minutes before the bell and after it belong to no daily bar. A thin share has minutes without
a trade, which are missing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt

from market_pipelines.market.sessions import SessionTimes
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import Bars, Days, Floats, World, on_ticks

MINUTE = np.timedelta64(60, "s")
EXTENDED = {"XNYS": (330, 240)}
"""Minutes of trade before and after the regular session."""
BUSY_VOLUME = 400_000.0
"""A session with less than this many shares has minutes without a trade."""
_CACHED = 4096
_flaws: ContextVar[tuple[np.datetime64, ...]] = ContextVar("flaws", default=())
"""Minutes that are told wrongly in the answer that is being made."""

Words = npt.NDArray[np.str_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Minutes:
    stamps: Days
    """When each bar starts, in UTC, as datetime64[s]."""
    bars: Bars
    phase: Words
    count: Counts
    """Trades in it."""

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, chosen: npt.NDArray[np.bool_] | slice) -> Minutes:
        return Minutes(self.stamps[chosen], self.bars.take(chosen), self.phase[chosen], self.count[chosen])


def minutes_of(
    world: World, listing: Listing, start: date, end: date, now: datetime, *, extended: bool = False
) -> Minutes:
    """The whole minutes of the sessions between two dates that are over by `now`."""
    history = world.history(listing, now)
    chosen = history.between(start, end)
    pieces = []
    for row in range(chosen.start, chosen.stop):
        session = history.sessions[row].astype(date)
        times = history.calendar.times(session)
        if times.opens - timedelta(hours=8) > now:
            break
        pieces.append(_session(world.seed, listing, session, times, history.bars.take(slice(row, row + 1))))
    found = _joined(pieces)
    found = _with_flaws(found.take(found.stamps + MINUTE <= np.datetime64(now.replace(tzinfo=None), "s")))
    return found if extended else found.take(found.phase == "regular")


@contextmanager
def flawed(minutes: Iterable[datetime]) -> Iterator[None]:
    """While it lasts, these minutes have a low below zero, in whichever provider's words they are told."""
    token = _flaws.set(tuple(np.datetime64(minute.replace(tzinfo=None), "s") for minute in minutes))
    try:
        yield
    finally:
        _flaws.reset(token)


def _with_flaws(minutes: Minutes) -> Minutes:
    bad = np.isin(minutes.stamps, np.array(_flaws.get(), dtype="datetime64[s]"))
    if not bad.any():
        return minutes
    return replace(minutes, bars=replace(minutes.bars, low=np.where(bad, -minutes.bars.low, minutes.bars.low)))


def grouped(minutes: Minutes, length: int, anchor: Literal["clock", "bell"] = "clock") -> Minutes:
    """Longer bars, cut at the full hours of the clock or counted from each phase's first minute of the day."""
    if not len(minutes) or length == 1:
        return minutes
    stamps = minutes.stamps.astype(np.int64)
    width = length * 60
    day = minutes.stamps.astype("datetime64[D]").astype(np.int64)
    part = np.unique(minutes.phase, return_inverse=True)[1] + 8 * day
    origin = np.zeros(len(stamps), dtype=np.int64)
    if anchor == "bell":
        fresh = np.flatnonzero(np.diff(part, prepend=part[0] - 1))
        # A thin share's first trade may be late; bells ring at half hours and quarters.
        origin = np.repeat(stamps[fresh] // 900 * 900, np.diff(np.append(fresh, len(stamps))))
    bucket = origin + (stamps - origin) // width * width
    fresh_bar = np.diff(bucket, prepend=bucket[0] - 1) != 0
    if anchor == "bell":
        fresh_bar |= np.diff(part, prepend=part[0]) != 0
    firsts = np.flatnonzero(fresh_bar)
    lasts = np.append(firsts[1:], len(stamps)) - 1
    bars = minutes.bars
    return Minutes(
        bucket[firsts].astype("datetime64[s]"),
        Bars(
            bars.open[firsts],
            np.maximum.reduceat(bars.high, firsts),
            np.minimum.reduceat(bars.low, firsts),
            bars.close[lasts],
            np.add.reduceat(bars.volume, firsts),
        ),
        minutes.phase[firsts],
        np.add.reduceat(minutes.count, firsts),
    )


_cache: dict[tuple[int, Listing, date], Minutes] = {}
"""By the whole listing: worlds of one process may tell a symbol's splits differently."""
_lock = threading.Lock()


def _session(seed: int, listing: Listing, session: date, times: SessionTimes, daily: Bars) -> Minutes:
    key = (seed, listing, session)
    with _lock:
        known = _cache.get(key)
    if known is not None:
        return known
    made = _make(seed, listing, session, times, daily)
    with _lock:
        while len(_cache) >= _CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[key] = made
    return made


def _make(seed: int, listing: Listing, session: date, times: SessionTimes, daily: Bars) -> Minutes:
    source = np.random.Generator(
        np.random.PCG64([seed, crc32(f"{listing.mic}:{listing.symbol}".encode()), session.toordinal()])
    )
    regular = _regular(source, listing, times, daily)
    before, after = EXTENDED.get(listing.mic, (0, 0)) if listing.kind != "index" else (0, 0)
    pieces = [regular]
    if before:
        opens = np.datetime64(times.opens.replace(tzinfo=None), "s")
        pieces.insert(0, _outside(source, listing, opens - before * MINUTE, before, float(daily.open[0]), "pre"))
    if after:
        closes = np.datetime64(times.closes.replace(tzinfo=None), "s")
        pieces.append(_outside(source, listing, closes, after, float(daily.close[0]), "post"))
    return _joined(pieces)


def _regular(source: np.random.Generator, listing: Listing, times: SessionTimes, daily: Bars) -> Minutes:
    opens, closes = (np.datetime64(moment.replace(tzinfo=None), "s") for moment in (times.opens, times.closes))
    stamps = np.arange(opens, closes, MINUTE)
    if times.break_starts is not None and times.break_ends is not None:
        pause, resume = (
            np.datetime64(moment.replace(tzinfo=None), "s") for moment in (times.break_starts, times.break_ends)
        )
        stamps = stamps[(stamps < pause) | (stamps >= resume)]
    count = len(stamps)
    whole = daily.row(0)
    steps = source.standard_normal(count)
    walk = np.cumsum(steps) - np.linspace(steps[0], np.sum(steps), count)
    room = max(whole.high - whole.low, 1e-9)
    line = np.linspace(whole.open, whole.close, count + 1)
    line[1:-1] += (walk[:-1] / max(float(np.abs(walk).max()), 1e-9)) * room * 0.6
    path = np.clip(on_ticks(np.clip(line, whole.low, whole.high), listing), whole.low, whole.high)
    path[0], path[-1] = whole.open, whole.close
    start, stop = path[:-1], path[1:]
    wick = np.abs(source.standard_normal((2, count))) * room * 0.01
    high = np.clip(on_ticks(np.maximum(start, stop) + wick[0], listing), np.maximum(start, stop), whole.high)
    low = np.clip(on_ticks(np.minimum(start, stop) - wick[1], listing), whole.low, np.minimum(start, stop))
    top, bottom = int(np.argmax(high)), int(np.argmin(low))
    high[top], low[bottom] = whole.high, whole.low
    weight = _day_shape(count) * np.exp(0.5 * source.standard_normal(count))
    quiet = source.random(count) > np.clip(whole.volume / BUSY_VOLUME, 0.25, 1.0)
    quiet[[0, count - 1, top, bottom]] = False
    volume = _shares(weight, quiet, whole.volume)
    trades = np.maximum(volume / max(whole.volume / count, 1.0) * 40, 1).astype(np.int64)
    keep = ~quiet | (listing.kind == "index")
    made = Minutes(stamps, Bars(start, high, low, stop, volume), np.full(count, "regular"), trades)
    return made.take(np.asarray(keep))


def _day_shape(count: int) -> Floats:
    """Busy at the bells, quiet at noon."""
    place = np.linspace(-1.0, 1.0, count)
    return np.asarray(0.4 + place**2)


def _shares(weight: Floats, quiet: npt.NDArray[np.bool_], total: float) -> Floats:
    """Whole shares that add up to the day's."""
    weight = np.where(quiet, 0.0, weight)
    shares = np.floor(weight / weight.sum() * total)
    shares[-1] += total - shares.sum()
    return np.asarray(shares)


def _outside(
    source: np.random.Generator, listing: Listing, start: np.datetime64, count: int, price: float, phase: str
) -> Minutes:
    stamps = start + np.arange(count) * MINUTE
    drift = np.cumsum(source.standard_normal(count + 1)) * price * 4e-5
    # Before the bell the walk ends at the day's first price, after it begins at the last one.
    path = on_ticks(price + (drift - drift[-1] if phase == "pre" else drift - drift[0]), listing)
    opened, closed = path[:-1], path[1:]
    volume = np.floor(np.exp(source.normal(5.0, 1.0, count)))
    traded = source.random(count) < np.clip(listing.volume / 6e7, 0.05, 0.9)
    made = Minutes(
        stamps,
        Bars(opened, np.maximum(opened, closed), np.minimum(opened, closed), closed, volume),
        np.full(count, phase),
        np.maximum(volume / 50, 1).astype(np.int64),
    )
    return made.take(traded)


def _joined(pieces: list[Minutes]) -> Minutes:
    def column(name: str) -> Floats:
        return np.concatenate([getattr(piece.bars, name) for piece in pieces] or [np.empty(0)])

    return Minutes(
        np.concatenate([piece.stamps for piece in pieces] or [np.empty(0, dtype="datetime64[s]")]),
        Bars(column("open"), column("high"), column("low"), column("close"), column("volume")),
        np.concatenate([piece.phase for piece in pieces] or [np.empty(0, dtype="U7")]),
        np.concatenate([piece.count for piece in pieces] or [np.empty(0, dtype=np.int64)]),
    )
