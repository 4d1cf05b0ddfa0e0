"""Rules about stored bars within sessions: their grid, their bells, what is missing of a day, and its daily bar.

A share of which few trades are made lacks bars honestly. What is missing is therefore always compared with what the
symbol itself, or the whole market in that minute, usually has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import pandas as pd

from market_pipelines.market.definition import IntradayPlan
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS, Phase
from market_pipelines.market.quality.coverage import FEWEST_SESSIONS, alive, by_symbol, counted, present, unusual
from market_pipelines.market.quality.findings import Finding, count, finding, severities
from market_pipelines.market.quality.intraday import against_daily, off_grid, starts_of
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.sheet import Floats, Instants, Ints, Mask
from market_pipelines.market.sessions import Days, TradingCalendar, utc_second

CHANCE = 1e-9
"""An outage is called one where honest silence would explain it less often than this."""
SHIFT = 3600
"""Seconds: what a wrong time zone or a missed change of the clock moves bars by, at least."""


@dataclass(frozen=True)
class Minutes:
    """Stored bars of one interval, and the sessions that are over."""

    bars: pd.DataFrame
    calendar: TradingCalendar
    universe: Sequence[Instrument]
    plan: IntradayPlan
    asked: Days
    """All sessions of the range."""
    days: Days
    """The judged sessions of which all bars should be there by now."""
    now: datetime
    limits: Limits

    @classmethod
    def of(
        cls,
        bars: pd.DataFrame,
        calendar: TradingCalendar,
        instruments: Sequence[Instrument],
        plan: IntradayPlan,
        days: Days,
        now: datetime,
        limits: Limits,
    ) -> Minutes:
        grace = timedelta(minutes=plan.every_minutes + limits("intraday_freshness"))
        over = calendar.closes[np.searchsorted(calendar.days, days)] <= utc_second(now - grace)
        return cls(bars, calendar, by_symbol(instruments), plan, days, days[over], now, limits)

    @property
    def length(self) -> int:
        """Seconds a bar."""
        return INTERVALS[self.plan.interval] * 60

    @cached_property
    def day_row(self) -> Ints:
        """Where each bar's session stands among the calendar's."""
        return np.searchsorted(self.calendar.days, self.bars["session"].to_numpy().astype("datetime64[D]"))

    @cached_property
    def starts(self) -> Instants:
        return starts_of(self.bars)

    @cached_property
    def ends(self) -> Instants:
        """When what each bar covers is over; a session's last bar ends with it."""
        ends = self.starts + np.timedelta64(self.length, "s")
        close = self.calendar.closes[self.day_row]
        return np.asarray(np.where(self.regular, np.minimum(ends, close), ends), dtype="datetime64[s]")

    @cached_property
    def regular(self) -> Mask:
        return (self.bars["phase"] == str(Phase.REGULAR)).to_numpy(dtype=bool)

    @cached_property
    def line(self) -> Ints:
        """Where each bar's symbol stands in the universe; -1 for one that is not of it."""
        code, names = pd.factorize(self.bars["symbol"])
        symbols = pd.Index([one.symbol for one in self.universe], dtype="str")
        return np.asarray(symbols.get_indexer(pd.Index(names))[code], dtype=np.int64)

    def slots(self, at: int) -> Instants:
        """When the regular bars of a session begin."""
        row = int(np.searchsorted(self.calendar.days, self.days[at]))
        starts = np.arange(self.calendar.opens[row], self.calendar.closes[row], np.timedelta64(self.length, "s"))
        pauses, resumes = (breaks[row] for breaks in self.calendar.breaks)
        if np.isnat(pauses):
            return starts
        return np.asarray(starts[(starts < pauses) | (starts >= resumes)])

    @cached_property
    def presence(self) -> list[Mask]:
        """For each session: whether each symbol (line) has each of its regular bars (column)."""
        chosen = np.flatnonzero(self.regular & (self.line >= 0))
        day = np.searchsorted(self.days, self.calendar.days[self.day_row[chosen]])
        inside = day < len(self.days)
        inside[inside] = self.days[day[inside]] == self.calendar.days[self.day_row[chosen[inside]]]
        chosen, day = chosen[inside], day[inside]
        order = np.argsort(day, kind="stable")
        chosen, day = chosen[order], day[order]
        bounds = np.searchsorted(day, np.arange(len(self.days) + 1))
        found = []
        for at in range(len(self.days)):
            rows = chosen[bounds[at] : bounds[at + 1]]
            slots = self.slots(at)
            there = np.zeros((len(self.universe), len(slots)), dtype=bool)
            column = np.searchsorted(slots, self.starts[rows], side="right") - 1
            kept = column >= 0
            there[self.line[rows[kept]], column[kept]] = True
            found.append(there)
        return found

    @cached_property
    def filled(self) -> Floats:
        """The share of its regular bars that each symbol (line) has of each session (column)."""
        shares = [there.mean(axis=1) for there in self.presence]
        return np.stack(shares, axis=1) if shares else np.zeros((len(self.universe), 0))

    @cached_property
    def usual(self) -> Floats:
        """The median of a symbol's shares over the sessions on which it traded; NaN for too few of them."""
        traded = np.where(self.filled > 0, self.filled, np.nan)
        enough = np.isfinite(traded).sum(axis=1) >= FEWEST_SESSIONS
        result = np.full(len(traded), np.nan)
        if enough.any():
            result[enough] = np.nanmedian(traded[enough], axis=1)
        return result

    @cached_property
    def shares_a_bar(self) -> Floats:
        """The volume of an ordinary regular bar of each symbol; NaN without volume."""
        chosen = np.flatnonzero(self.regular & (self.line >= 0))
        volume = self.bars["volume"].to_numpy(dtype=np.float64)[chosen]
        medians = pd.Series(volume).groupby(self.line[chosen]).median()
        return medians.reindex(range(len(self.universe))).to_numpy(dtype=np.float64)

    def symbols(self, lines: Ints) -> pd.Series:
        return pd.Series([self.universe[at].symbol for at in lines.tolist()], dtype="str")


def grid(minutes: Minutes) -> Finding:
    wrong = off_grid(minutes.bars, minutes.plan.interval, minutes.calendar)
    offending = minutes.bars.loc[wrong, ["symbol", "session", "ts"]]
    offending = offending.assign(
        detail=pd.Series(
            [f"begins at {at} UTC, off the grid of {minutes.plan.interval}" for at in minutes.starts[wrong]],
            index=offending.index,
            dtype="str",
        )
    )
    return finding(
        "grid", offending, len(minutes.bars), f"{count(offending, len(minutes.bars), 'bars')} lie off the grid"
    )


def session_clock(minutes: Minutes) -> Finding:
    """Regular bars against the day's own bells: summer and winter, and on half days.

    Bars that are an hour off look like a session of which everybody lacks the first hour, or the last. Where all
    symbols of the market lack it, the clock is wrong and the finding blocks; where one does whose session is full
    otherwise, it warns.
    """
    opens, closes = minutes.calendar.opens[minutes.day_row], minutes.calendar.closes[minutes.day_row]
    outside = minutes.regular & ((minutes.starts < opens) | (minutes.starts >= closes))
    bars = minutes.bars.loc[outside, ["symbol", "session"]].assign(
        severity="block",
        detail=[f"a regular bar at {at} UTC, outside of the day's bells" for at in minutes.starts[outside]],
    )
    found = [bars]
    for at, there in enumerate(minutes.presence):
        slots = minutes.slots(at)
        some = np.flatnonzero(there.any(axis=1))
        if not len(some) or len(slots) * minutes.length < 3 * SHIFT:
            continue
        hour = SHIFT // minutes.length
        late = ~there[some, :hour].any(axis=1) & there[some, -1]
        early = ~there[some, -hour:].any(axis=1) & there[some, 0]
        full = there[some].sum(axis=1) >= 0.95 * (len(slots) - hour)
        everybody = len(some) > 1 and ((late & full).all() or (early & full).all())
        shifted = (late | early) & full
        lines = some[shifted]
        found.append(
            pd.DataFrame(
                {
                    "symbol": minutes.symbols(lines),
                    "session": np.full(len(lines), minutes.days[at]).astype("datetime64[s]"),
                    "severity": severities(np.full(len(lines), everybody)),
                    "detail": pd.Series(
                        [
                            f"lacks the {'first' if is_late else 'last'} hour and nothing else"
                            for is_late in late[shifted]
                        ],
                        dtype="str",
                    ),
                }
            )
        )
    offending = pd.concat([frame for frame in found if len(frame)] or [bars], ignore_index=True)
    checked = int(sum(there.any(axis=1).sum() for there in minutes.presence))
    return finding(
        "session_clock", offending, checked, f"{count(offending, checked, 'sessions')} disagree with the bells"
    )


def intraday_completeness(minutes: Minutes, daily: pd.DataFrame | None, excused: pd.DataFrame | None) -> Finding:
    """Regular bars of whole sessions. A session with a daily bar and no others lacks all of them."""
    limits = minutes.limits
    due = alive(list(minutes.universe), minutes.days)
    if daily is not None:
        traded = present(daily, list(minutes.universe), minutes.days)
        # Symbols whose daily bars were not handed in at all say nothing.
        due &= traded | ~traded.any(axis=1, keepdims=True)
    if excused is not None:
        due &= ~present(excused, list(minutes.universe), minutes.days)
    slots = np.array([there.shape[1] for there in minutes.presence], dtype=np.int64)
    liquid = minutes.shares_a_bar >= limits("intraday_completeness", "liquid")
    usual = minutes.usual[:, None]
    noise = 4 * np.sqrt(np.maximum(usual * (1 - usual), 0) / np.maximum(slots, 1))
    honest = np.minimum(limits("intraday_completeness", "others") * usual, usual - noise)
    least = np.where(liquid[:, None], limits("intraday_completeness"), np.nan_to_num(honest, nan=0.0))
    short = due & ((minutes.filled < least) | (minutes.filled == 0))
    line, column = np.nonzero(short)
    has = np.round(minutes.filled[line, column] * slots[column]).astype(np.int64)
    offending = pd.DataFrame(
        {
            "symbol": minutes.symbols(line),
            "session": minutes.days[column].astype("datetime64[s]"),
            "bars": has,
            "expected": slots[column],
            "detail": pd.Series(
                [
                    f"{own} of {all_of_them} regular bars" + ("" if np.isnan(share) else f", {share:.0%} as a rule")
                    for own, all_of_them, share in zip(has, slots[column], minutes.usual[line], strict=True)
                ],
                dtype="str",
            ),
        }
    )
    checked = int(due.sum())
    return finding(
        "intraday_completeness", offending, checked, f"{count(offending, checked, 'sessions')} are short of bars"
    )


def minute_outage(minutes: Minutes) -> Finding:
    """Bars that much of the market lacks at once, although each of those symbols is hardly ever silent."""
    most = minutes.limits("minute_outage")
    offences: list[tuple[np.datetime64, np.datetime64, int, int]] = []
    checked = 0
    for at, there in enumerate(minutes.presence):
        traded = there[there.any(axis=1)]
        slots = minutes.slots(at)
        checked += len(slots)
        if len(traded) < 2:
            continue
        # What everybody lacks says nothing about how steady a symbol is.
        common = traded.mean(axis=0) > 0
        steady = traded[:, common].mean(axis=1) >= 0.9
        universe = traded[steady]
        if len(universe) < 2:
            continue
        missing = (~universe).sum(axis=0)
        silence = max(float((~universe[:, common]).mean()), 1e-4)
        share = missing / len(universe)
        unlikely = np.asarray(_exceeds(share, silence) * len(universe) > -np.log(CHANCE), dtype=bool)
        bad = np.flatnonzero((share >= most) & (missing >= 2) & unlikely).tolist()
        offences += [(minutes.days[at], slots[slot], int(missing[slot]), len(universe)) for slot in bad]
    offending = pd.DataFrame(
        {
            "session": pd.Series([day for day, *_ in offences], dtype="datetime64[s]"),
            "ts": pd.Series([slot for _, slot, _, _ in offences], dtype="datetime64[s]").dt.tz_localize("UTC"),
            "missing": pd.Series([lacking for *_, lacking, _ in offences], dtype="int64"),
            "expected": pd.Series([size for *_, size in offences], dtype="int64"),
            "detail": pd.Series(
                [f"{lacking} of {size} steady symbols have no bar" for *_, lacking, size in offences], dtype="str"
            ),
        }
    )
    return finding(
        "minute_outage", offending, checked, f"{count(offending, checked, 'bar times')} lack much of the market"
    )


def _exceeds(share: Floats, usual: float) -> Floats:
    """Chernoff's exponent: the chance of so large a share among n symbols is at most exp(-n times this)."""
    share = np.clip(share, usual, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - usual)), 0.0)
    return np.asarray(share * np.log(share / usual) + rest)


def intraday_freshness(minutes: Minutes) -> Finding | None:
    """The running session's bars, or those of the last one that closed; not asked of a range that ends before it.

    A symbol that is often silent is late only if it has no bar of the session at all.
    """
    calendar = minutes.calendar
    allowed = timedelta(minutes=minutes.plan.every_minutes + minutes.limits("intraday_freshness"))
    until = minutes.now - allowed - timedelta(seconds=minutes.length)
    row = int(np.searchsorted(calendar.opens, utc_second(until), side="right")) - 1
    if row < 0 or calendar.days[row] not in minutes.asked:
        return None
    session = calendar.days[row]
    wanted = min(utc_second(until), calendar.closes[row] - np.timedelta64(minutes.length, "s"))
    pauses, resumes = (breaks[row] for breaks in calendar.breaks)
    if pauses <= wanted < resumes:
        wanted = pauses - np.timedelta64(minutes.length, "s")
    own = (minutes.line >= 0) & (calendar.days[minutes.day_row] == session) & minutes.regular
    newest = np.full(len(minutes.universe), np.datetime64("NaT"), dtype="datetime64[s]")
    np.fmax.at(newest, minutes.line[own], minutes.starts[own])
    listed = alive(list(minutes.universe), np.array([session]))[:, 0]
    silent = minutes.usual < 0.9
    late = listed & ~(newest >= wanted) & (~silent | np.isnat(newest))
    nobody = bool(listed.any()) and not bool((newest[listed] >= wanted).any())
    lines = np.flatnonzero(listed & ~(newest >= wanted)) if nobody else np.flatnonzero(late)
    offending = pd.DataFrame(
        {
            "symbol": minutes.symbols(lines),
            "session": np.full(len(lines), session).astype("datetime64[s]"),
            "newest": newest[lines],
            "severity": severities(np.full(len(lines), nobody)),
            "detail": pd.Series([f"no bar from {wanted} UTC on"] * len(lines), dtype="str"),
        }
    )
    checked = int(listed.sum())
    return finding(
        "intraday_freshness", offending, checked, f"{count(offending, checked, 'symbols')} lack {wanted} UTC"
    )


def roll_up(minutes: Minutes, daily: pd.DataFrame) -> Finding:
    """Sessions that are over and should be whole by now."""
    over = np.isin(minutes.calendar.days[minutes.day_row], minutes.days)
    bars = minutes.bars.loc[over]
    offending = against_daily(bars, daily, minutes.limits).drop(columns="serious")
    checked = len(bars[["symbol", "session"]].drop_duplicates())
    return finding("roll_up", offending, checked, f"{count(offending, checked, 'sessions')} contradict their daily bar")


def bar_count(minutes: Minutes) -> Finding:
    """As `coverage.row_count`, for the regular bars of all symbols together: the share of what there could be."""
    listed = alive(list(minutes.universe), minutes.days)
    slots = np.array([there.shape[1] for there in minutes.presence], dtype=np.int64)
    possible = listed.sum(axis=0) * slots
    rows = np.array([int(there.sum()) for there in minutes.presence], dtype=np.int64)
    far, judged = unusual(rows, possible, np.ones(len(rows), dtype=bool), minutes.limits)
    offending = counted(minutes.days, rows, far, "bars")
    said = f"{count(offending, judged, 'sessions')} have an unusual number of bars"
    return finding("row_count", offending, judged, said)
