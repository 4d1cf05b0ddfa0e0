"""Rules that compare a stored series with its own past.

Windows hold the bars before the judged one, never the bar itself. Closes and volumes are restated for known splits
first, so that a split is no jump and no spike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from functools import cached_property

import numpy as np
import pandas as pd

from market_pipelines.market.quality.findings import Finding, count, finding
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.series import dividends
from market_pipelines.market.quality.sheet import Floats, Instants, Ints, Mask, Sheet

SPLIT_RATIOS = (2, 3, 4, 5, 10, 15, 20, 25, 30, 50)
"""New shares for one old, or old ones for one new: what companies usually choose."""
FEWEST = 20
"""Bars that a window has to hold before anything is compared with it."""
MARKET_OF = 10
"""So many symbols on one session make a market whose common move is taken out of each."""
_CHUNK = 100_000
"""Windows that are laid out in memory at once."""


class Past:
    """The believable bars of a stored table in order, as arrays; `judged` are those that findings may be about."""

    def __init__(self, sheet: Sheet, start: date) -> None:
        usable = np.isfinite(sheet.close) & (sheet.close > 0)
        kept = sheet.order[usable[sheet.order]]
        self.sheet = sheet if len(kept) == len(sheet) and sheet.in_order else sheet.take(kept)
        self.limits = sheet.circumstances.limits
        self.judged: Mask = self.sheet.day >= np.datetime64(start, "D")

    @cached_property
    def first(self) -> Ints:
        """For every row, the first row of its series."""
        new = np.ones(len(self.sheet), dtype=bool)
        new[1:] = self.sheet.series[1:] != self.sheet.series[:-1]
        starts = np.flatnonzero(new)
        return np.asarray(starts[np.cumsum(new) - 1], dtype=np.int64)

    @cached_property
    def follows(self) -> Mask:
        """Rows that have one before them."""
        return np.arange(len(self.sheet)) > self.first

    @cached_property
    def close(self) -> Floats:
        return self.sheet.close * self.sheet.splits

    @cached_property
    def volume(self) -> Floats:
        return self.sheet.volume / self.sheet.splits

    @cached_property
    def before(self) -> Floats:
        """The close before each; NaN at the start of a series."""
        return self._shifted(self.close)

    @cached_property
    def change(self) -> Floats:
        """The share by which each close differs from the one before it."""
        return self.close / self.before - 1

    @cached_property
    def excess(self) -> Floats:
        """`change` beyond what the median share did that day, where enough of them traded."""
        known = np.flatnonzero(np.isfinite(self.change))
        slot = self.sheet.slot[known]
        order = np.lexsort((self.change[known], slot))
        known, slot = known[order], slot[order]
        starts = np.flatnonzero(np.concatenate(([True], slot[1:] != slot[:-1]))) if len(slot) else slot
        sizes = np.diff(np.append(starts, len(slot)))
        middle = self.change[known]
        medians = (middle[starts + (sizes - 1) // 2] + middle[starts + sizes // 2]) / 2
        result = self.change.copy()
        result[known] -= np.repeat(np.where(sizes >= MARKET_OF, medians, 0.0), sizes)
        return result

    def _shifted(self, values: Floats) -> Floats:
        result = np.full(len(values), np.nan)
        at = np.flatnonzero(self.follows)
        result[at] = values[at - 1]
        return result

    def windows(self, values: Floats, at: Ints, length: int) -> Iterator[tuple[Ints, Floats]]:
        """For each of these rows, in pieces: the values of up to `length` rows before it, NaN where there is none."""
        back = np.arange(1, length + 1)
        for begin in range(0, len(at), _CHUNK):
            rows = at[begin : begin + _CHUNK]
            wanted = rows[:, None] - back
            known = wanted >= self.first[rows][:, None]
            yield rows, np.where(known, values[np.maximum(wanted, 0)], np.nan)

    def usual_volume(self, at: Ints, length: int) -> Floats:
        """The median volume of the bars before each of these rows; NaN for less than a handful."""
        found = [np.empty(0)]
        for _, window in self.windows(self.volume, at, length):
            middle, size = _median(window)
            found.append(np.where(size >= 5, middle, np.nan))
        return np.concatenate(found)

    def finding(self, name: str, at: Ints, detail: Callable[[int], str], what: str = "bars") -> Finding:
        """`detail` says what was found at the n-th of the rows `at`."""
        rows = self.sheet.frame.iloc[at]
        offending = rows[["symbol", "session", "close", "volume"]].assign(
            detail=pd.Series([detail(place) for place in range(len(at))], index=rows.index, dtype="str")
        )
        checked = int(self.judged.sum())
        return finding(name, offending, checked, f"{count(offending, checked, what)} {_SAYS[name]}")


_SAYS = {
    "stale_price": "stand still",
    "constant_bar": "have one price on usual volume",
    "zero_volume": "lack trades",
    "return_mad": "moved out of proportion",
    "volume_spike": "have far more volume than usual",
    "split_like_jump": "look like a split that nobody reports",
}


def _median(windows: Floats) -> tuple[Floats, Ints]:
    """Of each line, and how many numbers it has. NaN sorts last."""
    size = np.isfinite(windows).sum(axis=1)
    ordered = np.sort(windows, axis=1)
    lines = np.arange(len(windows))
    low, high = np.maximum(size - 1, 0) // 2, np.minimum(size // 2, windows.shape[1] - 1)
    return (ordered[lines, low] + ordered[lines, high]) / 2, size


def stale_price(past: Past) -> Finding:
    """A feed that died repeats its last price; a share of few ticks repeats it too, and shows that in its past.

    Sessions without trades are passed over: there a carried-forward price is the truth.
    """
    length = int(past.limits("stale_price"))
    usual = past.limits("stale_price", "usual")
    window = int(past.limits("stale_price", "window"))
    rows = np.flatnonzero(past.sheet.volume != 0)
    series, close = past.sheet.series[rows], past.sheet.close[rows]
    same = np.zeros(len(rows), dtype=bool)
    same[1:] = (series[1:] == series[:-1]) & (close[1:] == close[:-1])
    places = np.arange(len(rows))
    begin = np.maximum.accumulate(np.where(same, 0, places))
    long = np.flatnonzero((places - begin + 1 >= length) & past.judged[rows])
    # How often the close had stood still in the bars before the run.
    total = np.concatenate(([0], np.cumsum(same)))
    own = np.maximum.accumulate(np.where(np.concatenate(([True], series[1:] != series[:-1])), places, 0))
    run = begin[long]
    since = np.maximum(run - window, own[long])
    share = (total[run + 1] - total[since]) / np.maximum(run + 1 - since, 1)
    stuck = long[share <= usual]

    def detail(at: int) -> str:
        place = stuck[at]
        since = past.sheet.day[rows[begin[place]]]
        return f"the close is {close[place]:g} for {place - begin[place] + 1} sessions, since {since}"

    return past.finding("stale_price", rows[stuck], detail)


def constant_bar(past: Past) -> Finding:
    sheet = past.sheet
    flat = (sheet.high == sheet.low) & (sheet.volume > 0) & past.judged
    at = np.flatnonzero(flat)
    usual = past.usual_volume(at, int(past.limits("constant_bar", "window")))
    busy = past.volume[at] > past.limits("constant_bar") * usual
    at, usual = at[busy], usual[busy]
    return past.finding(
        "constant_bar",
        at,
        lambda n: f"one price, {sheet.close[at[n]]:g}, for {past.volume[at[n]] / usual[n]:.1f} times the usual volume",
    )


def zero_volume(past: Past) -> Finding:
    sheet = past.sheet
    at = np.flatnonzero((sheet.volume == 0) & past.judged)
    usual = past.usual_volume(at, int(past.limits("zero_volume", "window")))
    moved = (sheet.high[at] > sheet.low[at]) | (np.isfinite(past.before[at]) & (past.close[at] != past.before[at]))
    wrong = moved | (usual >= past.limits("zero_volume"))
    at, usual, moved = at[wrong], usual[wrong], moved[wrong]

    def detail(n: int) -> str:
        return (
            "the price moved and no share was traded" if moved[n] else f"no share was traded, {usual[n]:,.0f} as a rule"
        )

    return past.finding("zero_volume", at, detail)


def return_mad(past: Past) -> Finding:
    """How far a return is from the symbol's own, robustly: one bad bar among them does not hide the next.

    What the whole market did that day is taken out first: on a day of panic nobody should get a warning for every
    share. A deviation is taken to be at least one price step, the smallest change of the close in the window,
    because a share at twelve cents moves by eight percent or not at all.
    """
    most = past.limits("return_mad")
    smallest = past.limits("return_mad", "smallest")
    move = past.excess
    at = np.flatnonzero(past.judged & (np.abs(move) > smallest))
    step = np.abs(past.close - past.before)
    step[step == 0] = np.nan
    length = int(past.limits("return_mad", "window"))
    found = [np.empty((2, 0))]
    for (rows, window), (_, steps) in zip(past.windows(move, at, length), past.windows(step, at, length), strict=True):
        middle, size = _median(window)
        spread, _ = _median(np.abs(window - middle[:, None]))
        tick = np.min(np.where(np.isnan(steps), np.inf, steps), axis=1)
        spread = np.maximum(spread, np.where(np.isfinite(tick), tick, 0.0) / past.before[rows])
        found.append(np.stack([middle, np.where((size >= FEWEST) & (spread > 0), spread, np.inf)]))
    middle, spread = np.concatenate(found, axis=1)
    score = 0.6745 * (move[at] - middle) / spread
    wild = np.flatnonzero(np.abs(score) > most)
    if len(wild):
        paid = dividends(past.sheet, np.arange(len(past.sheet)), at[wild]) / past.before[at[wild]]
        score[wild] += 0.6745 * paid / spread[wild]
        wild = wild[np.abs(score[wild]) > most]
    at, score = at[wild], score[wild]
    return past.finding(
        "return_mad",
        at,
        lambda n: f"{past.change[at[n]]:+.1%} from the close before, {abs(score[n]):.1f} robust deviations off",
    )


def volume_spike(past: Past) -> Finding:
    length = int(past.limits("volume_spike", "window"))
    with np.errstate(divide="ignore"):
        size = np.where(past.volume > 0, np.log(past.volume), np.nan)
    known = np.isfinite(size)
    filled = np.where(known, size, 0.0)
    sums = [np.concatenate(([0.0], np.cumsum(values))) for values in (known, filled, filled**2)]
    rows = np.flatnonzero(past.judged & known)
    since = np.maximum(rows - length, past.first[rows])
    number, total, squares = (sums_of[rows] - sums_of[since] for sums_of in sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / number
        spread = np.sqrt(np.maximum(squares / number - mean**2, 1e-4) * number / (number - 1))
        score = (size[rows] - mean) / spread
    high = (number >= length / 2) & (score > past.limits("volume_spike"))
    at, mean, score = rows[high], mean[high], score[high]
    return past.finding(
        "volume_spike",
        at,
        lambda n: f"{past.volume[at[n]] / np.exp(mean[n]):.1f} times the usual volume, {score[n]:.1f} deviations",
    )


def split_like_jump(past: Past) -> Finding:
    """A split that no provider's list of actions has looks like this, and so does nothing else that is common.

    A fall to a third comes with more volume either way; that volume goes the split's way to within a factor of one
    and a half keeps noise out without losing a split on a quiet day.
    """
    wide = past.limits("split_like_jump")
    jump = np.flatnonzero(past.judged & (np.abs(past.change) > (1 - wide) - 1 / 2))
    ratio = past.close[jump] / past.before[jump]
    factor = np.maximum(ratio, 1 / ratio)
    ratios = np.array(SPLIT_RATIOS, dtype=np.float64)
    nearest = ratios[np.argmin(np.abs(factor[:, None] / ratios - 1), axis=1)] if len(jump) else factor
    near = np.abs(factor / nearest - 1) <= wide
    at, ratio, nearest = jump[near], ratio[near], nearest[near]
    usual = past.usual_volume(at, int(past.limits("split_like_jump", "window")))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = past.volume[at] / usual
        against = np.where(ratio < 1, shares, 1 / shares)
    inverse = ~(against < 1 / 1.5)
    at, ratio, nearest = at[inverse], ratio[inverse], nearest[inverse]

    def detail(n: int) -> str:
        words = f"{nearest[n]:g} for 1" if ratio[n] < 1 else f"1 for {nearest[n]:g}"
        return f"the close went from {past.before[at[n]]:g} to {past.close[at[n]]:g}: a split of {words}?"

    return past.finding("split_like_jump", at, detail)


HISTORY: dict[str, Callable[[Past], Finding]] = {
    "stale_price": stale_price,
    "constant_bar": constant_bar,
    "zero_volume": zero_volume,
    "return_mad": return_mad,
    "volume_spike": volume_spike,
    "split_like_jump": split_like_jump,
}


def revision_size(revisions: pd.DataFrame, start: date, limits: Limits) -> Finding:
    """Final bars that somebody changed afterwards. The first word and the later one are both kept."""
    known = revisions.loc[(revisions["session"] >= pd.Timestamp(start)).to_numpy(dtype=bool)]
    close, old, volume, old_volume = (
        known[name].to_numpy(dtype=np.float64) for name in ("close", "old_close", "volume", "old_volume")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.abs(close / old - 1)
        shares = np.abs(volume / old_volume - 1)
    gone = np.isnan(close) & np.isfinite(old)
    hold = limits("revision_size", "hold")
    large = (moved * 10_000 > limits("revision_size") + 1e-9) | (shares > limits("revision_size", "volume"))
    large |= gone | (np.isfinite(volume) & np.isnan(old_volume))

    def detail(at: int) -> str:
        if gone[at]:
            return f"the bar with close {old[at]:g} was withdrawn"
        parts = [f"close {old[at]:g} became {close[at]:g} ({moved[at] * 10_000:.0f} bp)"] if moved[at] > 0 else []
        if shares[at] > 0 or np.isnan(shares[at]):
            parts.append(f"volume {old_volume[at]:g} became {volume[at]:g}")
        if moved[at] > hold:
            parts.append("so large a change waits for a person when it comes from a refresh")
        return "; ".join(parts)

    offending = known.loc[large].assign(
        detail=pd.Series([detail(at) for at in np.flatnonzero(large).tolist()], index=known.index[large], dtype="str")
    )
    said = f"{count(offending, len(known), 'revisions')} change a final bar by more than rounding"
    return finding("revision_size", offending, len(known), said)


def live_bar_as_final(bars: pd.DataFrame, ends: Instants) -> Finding:
    """Bars that count as final although they were written before `ends`, the end of what each of them covers."""
    written = bars["ingested_at"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    early = ~bars["provisional"].to_numpy(dtype=bool) & (written < ends)
    rows = bars.loc[early]
    offending = rows[[name for name in ("symbol", "session", "ts", "close", "volume") if name in rows]].assign(
        detail=pd.Series(
            [f"written at {at} UTC, over at {end}" for at, end in zip(written[early], ends[early], strict=True)],
            index=rows.index,
            dtype="str",
        )
    )
    said = f"{count(offending, len(bars), 'bars')} were final before their time"
    return finding("live_bar_as_final", offending, len(bars), said)
