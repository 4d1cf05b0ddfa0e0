"""Minute bars of a session out of what was streamed: read from the lake, built, stored, compared with the providers'.

How trades become bars is said by `market.tape`. A minute in which the stream may have missed something is kept and
marked; which bars are trusted more is nobody's decision here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import Hours, hours
from market_pipelines.market.intraday import INTERVALS, Phase, coarser
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.market.tape import bars_of, bars_of_snapshots, columns_of, empty_bars
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.results import logged_job
from market_pipelines.pipeline.stream_delay import delay_of
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.store.bars_from_ticks import begun_in, read_stream_bars, replace_bars
from market_pipelines.store.intraday import read_intraday
from market_pipelines.store.lake import segments
from market_pipelines.store.stream_gaps import GapRow, GapStatus, gaps_between

SYMBOLS_AT_ONCE = 20
"""So many symbols' ticks are in memory together."""
MINUTE = timedelta(minutes=1)
SAME_PRICE, SAME_VOLUME = 1e-6, 1e-6
"""Relative: what is left of a number that went through another's floating point."""
_FAR = np.datetime64("9999-01-01")
_PRICES = ("open", "high", "low", "close")
_FROM_HISTORY = "-rest"
"""A provider's history has a feed's name of its own; its trades are the ones that it streamed."""


class NoTicks(Exception):
    """There is nothing in the lake to build bars from."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our bars beside a provider's of the same spans, as far as both are there and the stream missed nothing."""

    title: str
    compared: int
    equal: int
    within: int
    """Not equal, and no further apart than the market's second opinions may be."""
    differing: pd.DataFrame
    """symbol, ts, provider, close, other_close, bp, volume, other_volume, volume_share; the worst first."""
    only_ours: int
    only_theirs: int

    @property
    def differing_share(self) -> float:
        return len(self.differing) / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the session's regular minutes the stream saw whole."""

    expected: int
    covered: int
    unfilled_gaps: int

    @property
    def share(self) -> float:
        return self.covered / self.expected if self.expected else 1.0


@dataclass(frozen=True, slots=True)
class BuiltBars:
    market: str
    session: date
    source: str
    """trades, snapshots, or both: of each symbol the one or the other."""
    bars: pd.DataFrame
    """`market.tape.BAR_COLUMNS`, and `complete`, `feed`, `source`."""
    ticks: int
    replaced: int
    coverage: Coverage
    comparisons: tuple[Comparison, ...]
    seconds: float

    @property
    def incomplete(self) -> int:
        return int((~self.bars["complete"]).sum())


def build_bars(
    platform: Platform,
    market: MarketDefinition,
    session: date,
    symbols: Sequence[str] | None = None,
    *,
    run_id: str | None = None,
    job_name: str = "bars_from_ticks",
    progress: Progress | None = None,
) -> BuiltBars:
    """Builds and stores a session's bars, of all symbols that were streamed or of some. Doing it again replaces
    them. Symbols of which the lake has nothing keep the bars that they have: their ticks may have been given up."""
    began, now = time.monotonic(), platform.clock()
    calendar = trading_calendar(market.mic, now)
    if not calendar.is_session(session):
        raise NoTicks(f"{session} is no session of {market.mic}")
    day = hours(calendar, session)
    streamed, streams = _streamed(platform, market, session, symbols)
    total = sum(len(chosen) for chosen in streamed.values())
    with platform.database.connection() as connection:
        gaps = [
            gap
            for gap in gaps_between(connection, market.name, day.begins, day.ends)
            if _misses(gap) and gap.stream in streams
        ]
        begun = begun_in(connection, market.name, session)
    delays = {feed: delay_of(platform.settings, feed) for feed in begun}
    everybody = sorted(symbol for chosen in streamed.values() for symbol in chosen)
    with logged_job(platform, job_name, "build", market, everybody, run_id) as job:
        pieces, ticks, done = [], 0, 0
        for kind, chosen in streamed.items():
            mine = [gap for gap in gaps if kind is TickKind.SNAPSHOTS or not gap.channels or "trades" in gap.channels]
            for at in range(0, len(chosen), SYMBOLS_AT_ONCE):
                some = chosen[at : at + SYMBOLS_AT_ONCE]
                if progress is not None:
                    progress(done, total, some[0])
                read = _read(platform, market, kind, session, some, day)
                made = _marked(_built(kind, read, calendar, session), read, mine, streams, begun, delays)
                pieces.append(made.assign(source=kind.value))
                ticks, done = ticks + len(read), done + len(some)
        bars = pd.concat(pieces, ignore_index=True)
        with platform.database.connection() as connection:
            replaced = replace_bars(connection, market.name, session, everybody, bars, now)
        job.processed = len(bars)
    if progress is not None:
        progress(total, total, "")
    return BuiltBars(
        market=market.name,
        session=session,
        source=" and ".join(kind.value for kind in streamed),
        bars=bars,
        ticks=ticks,
        replaced=replaced,
        coverage=_coverage(bars, calendar, session, len(gaps)),
        comparisons=_comparisons(platform, market, session, bars, calendar),
        seconds=time.monotonic() - began,
    )


# --- reading ---------------------------------------------------------------------------------------------------


def _streamed(
    platform: Platform, market: MarketDefinition, session: date, symbols: Sequence[str] | None
) -> tuple[dict[TickKind, list[str]], dict[str, set[str]]]:
    """Whose bars are built of what: of trades where a symbol has any, otherwise of what was seen of it. And which
    streams brought which symbols: the gaps of the others concern them not."""
    day = hours(trading_calendar(market.mic, platform.clock()), session)
    streams: dict[str, set[str]] = {}
    whose: dict[tuple[TickKind, bool], set[str]] = {}
    for kind in (TickKind.TRADES, TickKind.SNAPSHOTS):
        with platform.database.connection() as connection:
            listed = segments(
                connection,
                kind,
                symbols=symbols or (),
                start=day.begins,
                end=day.ends,
                market=market.name,
                session=session,
            )
        for one in listed:
            mine = set(one.symbols) & set(symbols) if symbols else set(one.symbols)
            whose.setdefault((kind, one.stream is not None), set()).update(mine)
            if one.stream is not None:
                streams.setdefault(one.stream, set()).update(mine)
    found: dict[TickKind, list[str]] = {}
    known: set[str] = set()
    # Trades that were pulled may be those of five minutes: what was streamed of a symbol comes before them.
    for kind, live in ((kind, live) for live in (True, False) for kind in (TickKind.TRADES, TickKind.SNAPSHOTS)):
        chosen = whose.get((kind, live), set()) - known
        if chosen:
            found[kind] = sorted({*found.get(kind, ()), *chosen})
            known |= chosen
    if found:
        return found, streams
    of = f" of {', '.join(symbols)}" if symbols else ""
    raise NoTicks(
        f"the lake has no trades and no snapshots{of} of {market.name} in {session}: it was not streamed. "
        "`market-pipelines stream run` streams; `market-pipelines ticks` says what there is"
    )


def _read(
    platform: Platform, market: MarketDefinition, kind: TickKind, session: date, symbols: Sequence[str], day: Hours
) -> pl.DataFrame:
    with platform.database.connection() as connection:
        return columns_of(
            lake_of(platform).table(
                connection,
                kind,
                symbols=symbols,
                start=day.begins,
                end=day.ends,
                market=market.name,
                session=session,
            )
        )


def _built(kind: TickKind, ticks: pl.DataFrame, calendar: TradingCalendar, session: date) -> pd.DataFrame:
    pieces = [empty_bars().assign(feed=pd.Series(dtype="str"))]
    for feed, symbols in _feed_of_symbols(ticks).items():
        mine = ticks.filter(pl.col("symbol").is_in(symbols) & pl.col("feed").is_in([feed, f"{feed}{_FROM_HISTORY}"]))
        made = bars_of(mine, calendar) if kind is TickKind.TRADES else bars_of_snapshots(mine, calendar)
        pieces.append(made[made["session"] == pd.Timestamp(session)].assign(feed=feed))
    return pd.concat([piece for piece in pieces if len(piece)] or pieces[:1], ignore_index=True)


def _feed_of_symbols(ticks: pl.DataFrame) -> dict[str, list[str]]:
    """One feed a symbol: the one that has told most of it. Two providers' trades are the same ones twice."""
    counts = (
        ticks.group_by("symbol", pl.col("feed").str.strip_suffix(_FROM_HISTORY))
        .len()
        .sort(["symbol", "len", "feed"], descending=[False, True, False])
        .unique("symbol", keep="first", maintain_order=True)
    )
    found: dict[str, list[str]] = {}
    for symbol, feed in counts.select("symbol", "feed").iter_rows():
        found.setdefault(feed, []).append(symbol)
    return found


# --- what is missing -------------------------------------------------------------------------------------------


def _misses(gap: GapRow) -> bool:
    """Whether the lake may lack something for it."""
    return gap.status is not GapStatus.FILLED and gap.sink in (None, "lake")


def _marked(
    bars: pd.DataFrame,
    ticks: pl.DataFrame,
    gaps: Sequence[GapRow],
    streams: Mapping[str, set[str]],
    begun: Mapping[str, datetime | None],
    delays: Mapping[str, timedelta],
) -> pd.DataFrame:
    """With `complete`: false in a minute that touches an unfilled gap of a stream that brings the symbol, and in those
    up to the first start of a stream (of what a delayed one told then), which only history can make whole."""
    starts = bars["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[us]")
    missed = np.zeros(len(bars), dtype=np.bool_)
    for gap in gaps:
        ends = _FAR if gap.ends_at is None else _naive(gap.ends_at)
        touched = (starts < ends) & (starts + np.timedelta64(MINUTE) > _naive(gap.begins_at))
        concerned = streams[gap.stream] if gap.symbols is None else streams[gap.stream].intersection(gap.symbols)
        touched &= bars["symbol"].isin(list(concerned)).to_numpy()
        missed |= touched
    by_history = pl.col("feed").str.ends_with(_FROM_HISTORY) | (
        pl.col("marks").fill_null(0) & int(TickMark.FILLED) != 0
    )
    for feed, started in begun.items():
        first = ticks.filter((pl.col("feed") == feed) & ~by_history).select(pl.col("received_at").min()).item()
        if first is not None:
            since = min(first, started) if started is not None else first
            early = (bars["feed"] == feed).to_numpy() & (starts < _naive(since - delays[feed]))
            missed |= early & ~_told_of(bars, ticks.filter(by_history))
    return bars.assign(complete=~missed)


def _told_of(bars: pd.DataFrame, ticks: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Bars of a symbol and minute of which these ticks say anything."""
    at = pl.coalesce("ts", "received_at") if "received_at" in ticks.columns else pl.col("ts")
    told = ticks.select("symbol", at.dt.epoch("s") // 60).unique().rows()
    minutes = bars["ts"].astype("int64") // 60
    return np.asarray(pd.MultiIndex.from_arrays([bars["symbol"], minutes]).isin(told), dtype=np.bool_)


def _coverage(bars: pd.DataFrame, calendar: TradingCalendar, session: date, unfilled: int) -> Coverage:
    """A minute counts when any symbol has a whole bar of it: a thin share has minutes without a trade."""
    times = calendar.times(session)
    expected = int((times.closes - times.opens) / MINUTE)
    if times.break_starts is not None and times.break_ends is not None:
        expected -= int((times.break_ends - times.break_starts) / MINUTE)
    whole = bars[bars["complete"] & (bars["phase"] == Phase.REGULAR.value)]
    return Coverage(expected, int(whole["ts"].nunique()), unfilled)


def _naive(at: datetime) -> np.datetime64:
    return np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")


# --- comparing -------------------------------------------------------------------------------------------------


def _comparisons(
    platform: Platform, market: MarketDefinition, session: date, bars: pd.DataFrame, calendar: TradingCalendar
) -> tuple[Comparison, ...]:
    if bars.empty:
        return ()
    symbols = sorted(set(bars["symbol"]))
    day = hours(calendar, session)
    found = []
    with platform.database.connection() as connection:
        streamed = read_stream_bars(connection, market.name, symbols, day.begins, day.ends)
        plan = market.intraday
        stored = (
            None if plan is None else read_intraday(connection, market.name, plan.interval, symbols, session, session)
        )
    if len(streamed):
        theirs = streamed.rename(columns={"feed": "provider"})
        found.append(compared("the stream's own minutes", bars, theirs, MINUTE, market))
    if stored is not None and plan is not None and len(stored):
        length = timedelta(minutes=INTERVALS[plan.interval])
        ours = rolled_up(bars, plan.interval, calendar)
        found.append(compared(f"stock_prices_intraday, {plan.interval}", ours, stored, length, market))
    return tuple(found)


def rolled_up(bars: pd.DataFrame, interval: str, calendar: TradingCalendar) -> pd.DataFrame:
    """Longer bars; one is complete where all its minutes are."""
    if INTERVALS[interval] == 1:
        return bars
    # `coarser` says of a longer bar whether any part of it is provisional.
    whole = coarser(bars.assign(provisional=~bars["complete"]), interval, calendar)
    return whole.assign(complete=~whole["provisional"])


def compared(
    title: str, ours: pd.DataFrame, theirs: pd.DataFrame, length: timedelta, market: MarketDefinition
) -> Comparison:
    """Bars of both within the time that the stream saw: what lies before or after it is nobody's difference."""
    seen = ours[ours["complete"]]
    if seen.empty or theirs.empty:
        return Comparison(title, 0, 0, 0, _differences(), 0, 0)
    within = theirs[(theirs["ts"] >= seen["ts"].min()) & (theirs["ts"] <= seen["ts"].max())]
    names = [*_PRICES, "volume"]
    pairs = ours[["symbol", "ts", "complete", *names]].merge(
        within[["symbol", "ts", "provider", *names]],
        on=["symbol", "ts"],
        how="outer",
        suffixes=("", "_other"),
        indicator="whose",
    )
    both = pairs[(pairs["whose"] == "both") & pairs["complete"].eq(True)]
    apart = pd.concat([(both[name] / both[f"{name}_other"] - 1).abs() for name in _PRICES], axis=1).max(axis=1)
    volumes = both[["volume", "volume_other"]].to_numpy()
    # A provider that tells no volume does not contradict ours.
    share = pd.Series(
        np.nan_to_num(np.abs(volumes[:, 0] - volumes[:, 1]) / np.maximum(volumes.max(axis=1), 1.0)), index=both.index
    )
    equal = (apart <= SAME_PRICE) & (share <= SAME_VOLUME)
    near = (apart * 10_000 <= market.cross_check.same_close_bp) & (share <= market.cross_check.volume_share)
    worst = (
        both.assign(bp=apart * 10_000, volume_share=share)[~equal & ~near]
        .sort_values(["bp", "volume_share"], ascending=False, ignore_index=True)
        .rename(columns={"close_other": "other_close", "volume_other": "other_volume"})
    )
    seen_end = seen["ts"].max() + length
    only_ours = pairs[(pairs["whose"] == "left_only") & pairs["complete"].eq(True) & (pairs["ts"] < seen_end)]
    return Comparison(
        title,
        len(both),
        int(equal.sum()),
        int((near & ~equal).sum()),
        worst[list(_differences().columns)],
        len(only_ours),
        int((pairs["whose"] == "right_only").sum()),
    )


def _differences() -> pd.DataFrame:
    columns = ("symbol", "ts", "provider", "close", "other_close", "bp", "volume", "other_volume", "volume_share")
    return pd.DataFrame(columns=list(columns))
