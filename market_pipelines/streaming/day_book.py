"""Where every symbol of a stream stands: its newest price and quote, and its day so far.

What is folded in may come late, out of order or twice, and the book is the same: the newest by time wins, a high is
the highest of all. It does not add up sizes for that reason; the day's volume is the provider's own. Open, high and
low are of the regular session, as far as this stream has seen it. Who is told of a change is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import polars as pl

from market_pipelines.market.hours import MarketPhase, market_status
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.streaming.entries import Chunk

MOST_SYMBOLS = 50_000
"""Beyond, the ones that were silent for longest are forgotten."""

OLDEST = 946_684_800_000_000_000
"""The year 2000, in nanoseconds: what says that it happened before has no time at all, and calendars end there."""

_MAKES_NO_PRICE = int(
    TickMark.OUTLIER | TickMark.CONDITION | TickMark.CORRECTED | TickMark.FUTURE | TickMark.NOT_POSITIVE
)
_MAKES_NO_QUOTE = int(TickMark.OUTLIER | TickMark.FUTURE)

PreviousCloses = Callable[[Sequence[str], date], Mapping[str, float]]
"""The closes of the session before a day, as far as they are known."""


def no_closes(_symbols: Sequence[str], _day: date) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, slots=True)
class StockUpdate:
    """One symbol as it stands. What nobody has said is None."""

    timestamp: datetime
    symbol: str
    price: float | None
    """Of the last trade that makes one; of a symbol without any, the middle between bid and ask."""
    change: float | None
    """From the close of the session before."""
    change_percent: float | None
    volume: float | None
    high: float | None
    low: float | None
    open: float | None
    market_status: str
    data_source: str
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    previous_close: float | None = None


@dataclass(slots=True)
class Standing:
    """What is known of one symbol. Times are nanoseconds since 1970, 0 for never."""

    symbol: str
    source: str = ""
    price: float | None = None
    traded_at: int = 0
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    quoted_at: int = 0
    open: float | None = None
    opened_at: int = 0
    high: float | None = None
    low: float | None = None
    volume: float | None = None
    counted_at: int = 0
    previous_close: float | None = None

    @property
    def newest(self) -> int:
        return max(self.traded_at, self.quoted_at)

    @property
    def shown_price(self) -> float | None:
        if self.price is None and self.bid is not None and self.ask is not None:
            return (self.bid + self.ask) / 2
        return self.price

    def begin_day(self) -> None:
        self.open = self.high = self.low = self.volume = self.previous_close = None
        self.opened_at = self.counted_at = 0


@dataclass(frozen=True, slots=True)
class _Day:
    """In nanoseconds. Open, high and low are of what lies between `opens` and `closes`."""

    day: date
    begins: int
    ends: int
    opens: int
    closes: int


@dataclass(slots=True)
class DayBook:
    mic: str
    previous_closes: PreviousCloses = no_closes
    most_symbols: int = MOST_SYMBOLS
    _standings: dict[str, Standing] = field(default_factory=dict)
    """Those that moved last at the end."""
    _today: _Day | None = None

    @property
    def day(self) -> date | None:
        return self._today.day if self._today is not None else None

    def __len__(self) -> int:
        return len(self._standings)

    def standings(self) -> Iterable[Standing]:
        return self._standings.values()

    def standing(self, symbol: str) -> Standing:
        return self._standings[symbol]

    def restore(self, standings: Iterable[Standing], day: date) -> None:
        """What was known at an earlier end of the process."""
        self._today = self._day_of(day)
        for standing in standings:
            self._standings[standing.symbol] = standing

    def take(self, chunk: Chunk) -> list[str]:
        """Folds a chunk in, and tells which symbols changed."""
        frames = {kind: _frame(chunk, kind) for kind in _COLUMNS}
        self._turn_to(max((int(_highest(frame["at"])) for frame in frames.values() if len(frame)), default=0))
        changed: dict[str, None] = {}
        if self._today is None:
            return []
        for row in _last_quotes(frames[TickKind.QUOTES]):
            self._quoted(self._moved(row, changed), row)
        for row in _last_trades(frames[TickKind.TRADES]):
            self._traded(self._moved(row, changed), row["price"], row["at"])
        for row in self._extremes(frames[TickKind.TRADES], "price", "price", "price"):
            self._ranged(self._moved(row, changed), row)
        bars = frames[TickKind.AGGREGATES]
        for row in _last_bars(bars):
            standing = self._moved(row, changed)
            self._traded(standing, row["price"], row["at"])
            self._counted(standing, row["volume"], row["at"])
        for row in self._extremes(bars, "open", "high", "low"):
            self._ranged(self._moved(row, changed), row)
        for row in _last_snapshots(frames[TickKind.SNAPSHOTS]):
            self._seen(self._moved(row, changed), row)
        self._look_up(changed)
        self._forget()
        return [symbol for symbol in changed if symbol in self._standings]

    def update(self, symbol: str, phase: MarketPhase) -> StockUpdate:
        now = self._standings[symbol]
        price = now.shown_price
        before = now.previous_close
        change = round(price - before, 6) if price is not None and before is not None else None
        return StockUpdate(
            timestamp=_instant(now.newest),
            symbol=symbol,
            price=price,
            change=change,
            change_percent=round(100 * change / before, 6) if change is not None and before else None,
            volume=now.volume,
            high=now.high,
            low=now.low,
            open=now.open,
            market_status=phase.value,
            data_source=now.source,
            bid=now.bid,
            ask=now.ask,
            bid_size=now.bid_size,
            ask_size=now.ask_size,
            previous_close=before,
        )

    def phase(self, at_ns: int) -> MarketPhase:
        at = _instant(at_ns)
        return market_status(trading_calendar(self.mic, at), at).phase

    # --- the day ---------------------------------------------------------------------------------------------

    def _turn_to(self, newest: int) -> None:
        if not newest or (self._today is not None and newest < self._today.ends):
            return
        at = _instant(newest)
        self._today = self._day_of(trading_calendar(self.mic, at).local_date(at))
        for standing in self._standings.values():
            standing.begin_day()
        self._look_up(self._standings)

    def _day_of(self, day: date) -> _Day:
        calendar = trading_calendar(self.mic, datetime(day.year, day.month, day.day, tzinfo=UTC))
        midnight = datetime(day.year, day.month, day.day, tzinfo=calendar.zone)
        after = day + timedelta(days=1)
        next_midnight = datetime(after.year, after.month, after.day, tzinfo=calendar.zone)
        begins, ends = _ns(midnight), _ns(next_midnight)
        if not calendar.is_session(day):
            # Whoever trades then (the simulator does) trades all day.
            return _Day(day, begins, ends, begins, ends)
        times = calendar.times(day)
        return _Day(day, begins, ends, _ns(times.opens), _ns(times.closes))

    def _is_today(self, at: int) -> bool:
        return self._today is not None and self._today.begins <= at < self._today.ends

    def _look_up(self, symbols: Iterable[str]) -> None:
        unknown = [symbol for symbol in symbols if self._standings[symbol].previous_close is None]
        if unknown and self._today is not None:
            for symbol, close in self.previous_closes(unknown, self._today.day).items():
                if symbol in self._standings:
                    self._standings[symbol].previous_close = close

    # --- one symbol ------------------------------------------------------------------------------------------

    def _moved(self, row: Mapping[str, object], changed: dict[str, None]) -> Standing:
        symbol = str(row["symbol"])
        standing = self._standings.pop(symbol, None) or Standing(symbol)
        standing.source = str(row["feed"])
        self._standings[symbol] = standing
        changed[symbol] = None
        return standing

    def _forget(self) -> None:
        while len(self._standings) > self.most_symbols:
            del self._standings[next(iter(self._standings))]

    def _quoted(self, standing: Standing, row: Mapping[str, object]) -> None:
        if _int(row["at"]) >= standing.quoted_at:
            standing.quoted_at = _int(row["at"])
            standing.bid, standing.ask = _number(row["bid"]), _number(row["ask"])
            standing.bid_size, standing.ask_size = _number(row["bid_size"]), _number(row["ask_size"])

    def _traded(self, standing: Standing, price: object, at: object) -> None:
        if price is not None and _int(at) >= standing.traded_at:
            standing.price, standing.traded_at = _number(price), _int(at)

    def _counted(self, standing: Standing, volume: object, at: object) -> None:
        if volume is not None and self._is_today(_int(at)) and _int(at) >= standing.counted_at:
            standing.volume, standing.counted_at = _number(volume), _int(at)

    def _ranged(self, standing: Standing, row: Mapping[str, object]) -> None:
        high, low, first_at = _number(row["high"]), _number(row["low"]), _int(row["first_at"])
        if high is not None:
            standing.high = high if standing.high is None else max(standing.high, high)
        if low is not None:
            standing.low = low if standing.low is None else min(standing.low, low)
        if row["open"] is not None and (not standing.opened_at or first_at < standing.opened_at):
            standing.open, standing.opened_at = _number(row["open"]), first_at

    def _seen(self, standing: Standing, row: Mapping[str, object]) -> None:
        """A snapshot says itself what the day was; where it says nothing, what is known stays."""
        at = _int(row["at"])
        self._traded(standing, row["price"], at)
        if row["bid"] is not None or row["ask"] is not None:
            self._quoted(standing, row)
        if not self._is_today(at) or at < standing.counted_at:
            return
        standing.counted_at = at
        for name in ("open", "high", "low", "volume", "previous_close"):
            if row[name] is not None:
                setattr(standing, name, _number(row[name]))

    def _extremes(self, frame: pl.DataFrame, opened: str, high: str, low: str) -> Iterable[dict[str, object]]:
        """The day so far, of rows within the regular session."""
        if self._today is None or not len(frame):
            return ()
        within = frame.filter(
            # A bar that begins with the close is of what comes after it; a trade of that very moment is the auction's.
            pl.col("begins") >= self._today.opens,
            pl.col("at") <= self._today.closes,
            pl.col(opened).is_not_null(),
        )
        return (
            within.group_by("symbol", maintain_order=True)
            .agg(
                pl.col("feed").last(),
                pl.col(high).max().alias("high"),
                pl.col(low).min().alias("low"),
                pl.col(opened).sort_by("begins", "seq").first().alias("open"),
                pl.col("begins").min().alias("first_at"),
            )
            .iter_rows(named=True)
        )


# Price bands are not among them: they say where a symbol may trade, not where it does.
_COLUMNS: Mapping[TickKind, Mapping[str, pl.Expr]] = {
    TickKind.QUOTES: {name: pl.col(name) for name in ("seq", "bid", "ask", "bid_size", "ask_size")},
    TickKind.TRADES: {name: pl.col(name) for name in ("seq", "price")},
    TickKind.AGGREGATES: {
        "seq": pl.lit(0),
        "price": pl.col("c"),
        "open": pl.col("o"),
        "high": pl.col("h"),
        "low": pl.col("l"),
        "volume": pl.col("av"),
    },
    TickKind.SNAPSHOTS: {
        "seq": pl.lit(0),
        **{
            name: pl.col(name)
            for name in (
                *("price", "bid", "ask", "bid_size", "ask_size"),
                *("open", "high", "low", "previous_close", "volume"),
            )
        },
    },
}


def _frame(chunk: Chunk, kind: TickKind) -> pl.DataFrame:
    """What of a kind counts, with the time at which it was true (`at`) and at which it began."""
    begins, at = ("start", "end") if kind is TickKind.AGGREGATES else ("ts", "ts")
    unfit = _MAKES_NO_QUOTE if kind is TickKind.QUOTES else _MAKES_NO_PRICE
    frame = pl.DataFrame(chunk.table(kind)).filter(pl.col("marks") & unfit == 0, pl.col(at).cast(pl.Int64) >= OLDEST)
    return frame.select(
        "symbol",
        "feed",
        pl.col(begins).cast(pl.Int64).alias("begins"),
        pl.col(at).cast(pl.Int64).alias("at"),
        **_COLUMNS[kind],
    )


def _highest(column: pl.Series) -> int:
    highest = column.max()
    return highest if isinstance(highest, int) else 0


def _newest(frame: pl.DataFrame, columns: Sequence[str]) -> Iterable[dict[str, object]]:
    if not len(frame):
        return ()
    ordered = frame.sort("at", "seq", maintain_order=True).group_by("symbol", maintain_order=True)
    return ordered.agg(pl.col("feed", "at", *columns).last()).iter_rows(named=True)


def _last_quotes(frame: pl.DataFrame) -> Iterable[dict[str, object]]:
    return _newest(frame, ("bid", "ask", "bid_size", "ask_size"))


def _last_trades(frame: pl.DataFrame) -> Iterable[dict[str, object]]:
    return _newest(frame.filter(pl.col("price").is_not_null()), ("price",))


def _last_bars(frame: pl.DataFrame) -> Iterable[dict[str, object]]:
    return _newest(frame, ("price", "volume"))


def _last_snapshots(frame: pl.DataFrame) -> Iterable[dict[str, object]]:
    names = ("price", "bid", "ask", "bid_size", "ask_size", "open", "high", "low", "previous_close", "volume")
    return _newest(frame, names)


def _instant(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC) + timedelta(microseconds=ns % 1_000_000_000 // 1000)


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
