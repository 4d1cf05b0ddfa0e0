"""The one world behind all providers: what was really traded, and which corporate actions really happened.

A bar depends on the seed, the symbol and the session, on nothing else: not on the hour, not on the range
that somebody asks for. Prices are as traded, on the exchange's ticks. How a provider adjusts, words or spoils
them is said elsewhere (`formats/`, `edits`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.simulator.listings import SPELLINGS, Listing, all_listings

DEFAULT_SEED = 20_260_515
Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.datetime64]

SPLIT, DIVIDEND = "split", "dividend"
SESSIONS_A_YEAR = 252
REVERSION = 1 / 400
"""How fast a price returns to its trend, a session: decades of chance must not leave a share at a cent."""
TICKS: dict[str, tuple[tuple[float, float], ...]] = {
    "XNYS": ((0.0, 0.01),),
    "XWAR": ((0.0, 0.01), (100.0, 0.1), (500.0, 0.5), (2000.0, 5.0)),
    "XLON": ((0.0, 0.05), (500.0, 0.5), (5000.0, 2.0)),
    "XTKS": ((0.0, 0.5), (1000.0, 1.0), (10000.0, 5.0)),
}
"""From this price on, prices are multiples of that step."""
LOT = {"XNYS": 100.0}
DIVIDEND_MONTHS = {1: (7,), 2: (4, 10), 4: (2, 5, 8, 11)}


@dataclass(frozen=True, slots=True, order=True)
class Action:
    ex_date: date
    kind: str
    value: float
    """Split: new shares for one old. Dividend: cash per share as paid on the ex-date."""


@dataclass(frozen=True)
class Bars:
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def take(self, chosen: slice | npt.NDArray[np.bool_]) -> Bars:
        return Bars(self.open[chosen], self.high[chosen], self.low[chosen], self.close[chosen], self.volume[chosen])

    def row(self, number: int) -> Bar:
        return Bar(
            float(self.open[number]),
            float(self.high[number]),
            float(self.low[number]),
            float(self.close[number]),
            float(self.volume[number]),
        )

    def ending_with(self, bar: Bar) -> Bars:
        """The same table with another last row."""
        return Bars(
            np.append(self.open[:-1], bar.open),
            np.append(self.high[:-1], bar.high),
            np.append(self.low[:-1], bar.low),
            np.append(self.close[:-1], bar.close),
            np.append(self.volume[:-1], bar.volume),
        )


@dataclass(frozen=True, slots=True)
class Bar:
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True)
class Tape:
    """What is known of one listing at one moment: traded bars, oldest first, and the actions so far."""

    listing: Listing
    calendar: TradingCalendar
    now: datetime
    sessions: Days
    bars: Bars
    actions: tuple[Action, ...]
    forming: bool = False
    """The last bar belongs to a session that has not closed."""

    @cached_property
    def split_factor(self) -> Floats:
        """What divides a traded price to make it comparable with the newest: the product of later splits."""
        return self._later_product([(action.ex_date, action.value) for action in self.actions_of(SPLIT)])

    @cached_property
    def dividend_factor(self) -> Floats:
        """By what a price of each row is multiplied for the dividends paid since."""
        adjusted = self.bars.close / self.split_factor
        steps = []
        for action in self.actions_of(DIVIDEND):
            row = int(np.searchsorted(self.sessions, np.datetime64(action.ex_date)))
            if 0 < row < len(self.sessions):
                amount = action.value / self.split_factor[row]
                steps.append((action.ex_date, 1.0 - float(amount / adjusted[row - 1])))
        return self._later_product(steps)

    def actions_of(self, kind: str) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.kind == kind)

    def without_split(self, ex_date: date) -> Tape:
        """As somebody sees it who has not heard of that split."""
        return replace(self, actions=tuple(one for one in self.actions if (one.kind, one.ex_date) != (SPLIT, ex_date)))

    def _later_product(self, steps: list[tuple[date, float]]) -> Floats:
        """For each row the product of the values whose day lies after the row's session."""
        if not steps:
            return np.ones(len(self.sessions))
        days = np.array([day for day, _ in steps], dtype="datetime64[D]")
        products = np.append(np.cumprod(np.array([value for _, value in steps])[::-1])[::-1], 1.0)
        return np.asarray(products[np.searchsorted(days, self.sessions, side="right")])


@dataclass(frozen=True)
class History:
    """The whole life of one listing up to the calendar's end, later sessions included."""

    listing: Listing
    calendar: TradingCalendar
    sessions: Days
    bars: Bars
    actions: tuple[Action, ...]

    def between(self, start: date, end: date) -> slice:
        first = int(np.searchsorted(self.sessions, np.datetime64(start)))
        last = int(np.searchsorted(self.sessions, np.datetime64(end), side="right"))
        return slice(first, last)

    def tape(self, now: datetime, *, forming: bool) -> Tape:
        """What is known at `now`; `forming` says whether a session under way already shows a bar."""
        closed = int(np.searchsorted(self.sessions, np.datetime64(self.calendar.last_closed(now)), side="right"))
        bar = self._bar_under_way(now, closed) if forming else None
        shown = closed if bar is None else closed + 1
        bars = self.bars.take(slice(shown))
        if bar is not None:
            bars = bars.ending_with(bar)
        # An action shows together with the first bar that it concerns: a split without its ex-date's bar
        # would restate all earlier prices by an event that nobody can see.
        known = self.sessions[shown - 1].astype(date) if shown else date.min
        return Tape(
            listing=self.listing,
            calendar=self.calendar,
            now=now,
            sessions=self.sessions[:shown],
            bars=bars,
            actions=tuple(action for action in self.actions if action.ex_date <= known),
            forming=bar is not None,
        )

    def _bar_under_way(self, now: datetime, row: int) -> Bar | None:
        today = self.calendar.local_date(now)
        if row >= len(self.sessions) or self.sessions[row].astype(date) != today:
            return None
        times = self.calendar.times(today)
        if not times.opens <= now < times.closes:
            return None
        passed = (now - times.opens) / (times.closes - times.opens)
        whole = self.bars.row(row)
        wanted = whole.open + (whole.close - whole.open) * passed
        last = float(on_ticks(np.array([wanted]), self.listing)[0])
        top, bottom = max(whole.open, whole.close), min(whole.open, whole.close)
        upper = max(whole.open, last) + (whole.high - top) * passed
        lower = min(whole.open, last) - (bottom - whole.low) * passed
        ends = on_ticks(np.array([upper, lower]), self.listing)
        return Bar(
            whole.open,
            max(whole.open, last, float(ends[0])),
            min(whole.open, last, float(ends[1])),
            last,
            float(np.floor(whole.volume * passed)),
        )


def on_ticks(prices: Floats, listing: Listing) -> Floats:
    if listing.kind == "index":
        return np.asarray(np.round(prices, 2))
    bands = TICKS.get(listing.mic, ((0.0, 0.01),))
    floors = np.array([floor for floor, _ in bands])
    steps = np.array([step for _, step in bands])
    step = steps[np.searchsorted(floors, prices, side="right") - 1]
    return np.asarray(np.round(np.maximum(np.round(prices / step), 1.0) * step, 4))


class World:
    """All listings, and their histories as they are asked for. Safe to share between threads."""

    def __init__(
        self, seed: int = DEFAULT_SEED, listings: tuple[Listing, ...] | None = None, cached: int = 512
    ) -> None:
        self.seed = seed
        self.listings = all_listings() if listings is None else listings
        self._by_symbol = {(listing.symbol, listing.mic): listing for listing in self.listings}
        self._by_spelling = {
            (provider, spelled.upper()): listing
            for provider in SPELLINGS
            for listing in self.listings
            if (spelled := listing.spelled_by(provider)) is not None
        }
        self._histories: dict[tuple[str, str, date], History] = {}
        self._cached = cached
        self._lock = threading.Lock()

    def find(self, symbol: str, mic: str) -> Listing | None:
        return self._by_symbol.get((symbol, mic))

    def spelled(self, provider: str, native: str) -> Listing | None:
        """The listing that a provider means by its own spelling, whatever the case."""
        return self._by_spelling.get((provider, native.upper()))

    def history(self, listing: Listing, now: datetime) -> History:
        calendar = trading_calendar(listing.mic, now)
        key = (listing.symbol, listing.mic, calendar.end)
        with self._lock:
            known = self._histories.get(key)
        if known is not None:
            return known
        made = make_history(self.seed, listing, calendar)
        with self._lock:
            while len(self._histories) >= self._cached:
                self._histories.pop(next(iter(self._histories)))
            self._histories[key] = made
        return made

    def tape(self, listing: Listing, now: datetime, *, forming: bool = False) -> Tape:
        return self.history(listing, now).tape(now, forming=forming)


@lru_cache(maxsize=32)
def session_days(calendar: TradingCalendar) -> Days:
    return np.array(calendar.all_sessions, dtype="datetime64[D]")


def make_history(seed: int, listing: Listing, calendar: TradingCalendar) -> History:
    # Every stream of chance runs over all sessions of the calendar, from its start: a longer calendar only
    # adds values at the end, and the exchange's common mood falls on the same day for all its listings.
    days = session_days(calendar)
    chance = _Chance(seed, listing, len(days))
    first = int(np.searchsorted(days, np.datetime64(listing.first_session)))
    days = days[first:]
    daily = listing.volatility / np.sqrt(SESSIONS_A_YEAR)
    common = 0.95 if listing.kind == "index" else 0.55
    shocks = daily * (
        common * chance.of_exchange()[first:] + np.sqrt(1 - common**2) * chance.of_listing("return")[first:]
    )
    path = _reverting(shocks) + _trend(listing, days)
    path += np.log(listing.start_price) - path[0]
    ratio = _splits_so_far(listing, days)
    close = np.exp(path)
    gap = 0.35 * np.diff(path, prepend=path[0]) + 0.2 * daily * chance.of_listing("gap")[first:]
    opened = np.exp(np.concatenate((path[:1], path[:-1])) + gap)
    upper = np.maximum(opened, close) * np.exp(0.4 * daily * np.abs(chance.of_listing("high")[first:]))
    lower = np.minimum(opened, close) * np.exp(-0.4 * daily * np.abs(chance.of_listing("low")[first:]))
    bars = _between_ticks(
        [on_ticks(column / ratio, listing) for column in (opened, upper, lower, close)],
        volume=_volume(listing, path, ratio, chance.of_listing("volume")[first:]),
        fills=chance.of_listing("fill")[first:] if listing.mic == "XNYS" and listing.kind != "index" else None,
    )
    kept = _trading_days(listing, days, chance.of_listing("halt")[first:])
    actions = _actions(listing, days[kept], ratio[kept])
    return History(listing, calendar, days[kept], bars.take(kept), actions)


class _Chance:
    """Repeatable normal numbers, one for each session of the calendar."""

    def __init__(self, seed: int, listing: Listing, count: int) -> None:
        self._seed, self._listing, self._count = seed, listing, count

    def of_exchange(self) -> Floats:
        return self._draw(self._listing.mic, "exchange")

    def of_listing(self, stream: str) -> Floats:
        return self._draw(f"{self._listing.mic}:{self._listing.symbol}", stream)

    def _draw(self, name: str, stream: str) -> Floats:
        source = np.random.Generator(np.random.PCG64([self._seed, crc32(name.encode()), crc32(stream.encode())]))
        return source.standard_normal(self._count)


def _reverting(shocks: Floats) -> Floats:
    """x[t] = (1 - REVERSION) x[t-1] + shock[t], without a loop: scale up, sum, scale down."""
    decay = np.exp(-REVERSION * np.arange(len(shocks)))
    return np.asarray(np.cumsum(shocks / decay) * decay)


def _trend(listing: Listing, days: Days) -> Floats:
    years = (days - days[0]).astype("timedelta64[D]").astype(np.float64) / 365.25
    return np.asarray(listing.drift * years)


def _splits_so_far(listing: Listing, days: Days) -> Floats:
    ratio = np.ones(len(days))
    for day, value in listing.splits:
        ratio[days >= np.datetime64(day)] *= value
    return ratio


def _between_ticks(columns: list[Floats], *, volume: Floats, fills: Floats | None) -> Bars:
    """Keeps the bar's envelope; in New York some highs and lows are fills at fractions of a cent."""
    opened, high, low, close = columns
    high, low = np.maximum.reduce([opened, high, close]), np.minimum.reduce([opened, low, close])
    if fills is not None:
        part = np.round(np.abs(fills) % 0.01, 4)
        high = np.where(fills > 1.3, high + part, high)
        low = np.where((fills < -1.3) & (low > 1.0), low - part, low)
    return Bars(opened, np.asarray(np.round(high, 4)), np.asarray(np.round(low, 4)), close, volume)


def _volume(listing: Listing, path: Floats, ratio: Floats, noise: Floats) -> Floats:
    later_splits = np.prod([value for _, value in listing.splits]) / ratio
    moved = np.abs(np.diff(path, prepend=path[0]))
    shares = listing.volume / later_splits * np.exp(0.32 * noise - 0.05 + 8.0 * np.minimum(moved, 0.1))
    lot = LOT.get(listing.mic, 1.0)
    return np.asarray(np.maximum(np.round(shares / lot), 1.0) * lot)


def _trading_days(listing: Listing, days: Days, chance: Floats) -> npt.NDArray[np.bool_]:
    kept = np.ones(len(days), dtype=np.bool_)
    if listing.delisted_on is not None:
        kept &= days <= np.datetime64(listing.delisted_on)
    if listing.halts:
        single = chance > 2.2
        # A suspension that is not over in a day: a rare start keeps the next four sessions closed as well.
        long = np.convolve(chance < -2.9, np.ones(5), mode="full")[: len(days)] > 0
        halted = single | long
        halted[0] = False
        kept &= ~halted
    return kept


def _actions(listing: Listing, days: Days, ratio: Floats) -> tuple[Action, ...]:
    if not len(days):
        return ()
    last = days[-1].astype(date)
    found = [Action(day, SPLIT, value) for day, value in listing.splits if day <= last]
    if listing.dividends_per_year and listing.dividends_from is not None:
        found.extend(_dividends(listing, days, ratio))
    return tuple(sorted(found))


def _dividends(listing: Listing, days: Days, ratio: Floats) -> list[Action]:
    start = max(listing.dividends_from or listing.first_session, listing.first_session)
    day_of_month = 5 + crc32(listing.symbol.encode()) % 20
    paid = []
    for year in range(start.year, days[-1].astype(date).year + 1):
        age = (date(year, 1, 1) - listing.first_session) / timedelta(days=365.25)
        yearly = listing.dividend_yield * listing.start_price * float(np.exp(listing.drift * age))
        for month in DIVIDEND_MONTHS[listing.dividends_per_year]:
            wanted = date(year, month, day_of_month)
            row = int(np.searchsorted(days, np.datetime64(wanted)))
            if wanted <= start or row >= len(days):
                continue
            ex_date = days[row].astype(date)
            amount = round(yearly / listing.dividends_per_year / float(ratio[row]), 4)
            if amount > 0:
                paid.append(Action(ex_date, DIVIDEND, amount))
    return paid
