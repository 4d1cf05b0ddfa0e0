"""Corporate actions, and what they do to prices.

Bars are stored as traded. A split or a dividend changes how earlier prices compare with later ones; that
change is computed here when somebody reads, and undone here when a provider only has adjusted prices.

The arithmetic, for one ex-date with a split of s new shares for one old, a cash dividend D per (new) share
and a close C on the last bar before it: earlier prices are multiplied by (1 - D·s/C) / s, volume by s.
Every frame function takes any number of symbols in any row order, one row per symbol and session, and gives
back the same rows in the same order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from fractions import Fraction
from math import isfinite
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.bars import PRICE_COLUMNS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

VolumeScaling = Literal["splits", "full"]
"""`splits`: only splits change the share count. `full`: by the inverse of the price factor, dividends
included, so that price times volume stays put (Stooq)."""


class ActionKind(StrEnum):
    SPLIT = "split"
    DIVIDEND = "dividend"


class Basis(StrEnum):
    """What a provider has already done to the prices it sends."""

    TRADED = "traded"
    SPLIT = "split"
    SPLIT_DIVIDEND = "split_dividend"


@dataclass(frozen=True, slots=True, order=True)
class CorporateAction:
    symbol: str
    ex_date: date
    kind: ActionKind
    value: float
    """Split: new shares for one old (4.0 for 4:1, 0.1 for 1:10). Dividend: cash per share as paid on the
    ex-date, not restated for later splits. A split of the same ex-date has already happened to that share."""

    @property
    def odd_ratio(self) -> bool:
        """A split that nobody would announce, 1.046 for 1: what providers write for shares of a spin-off.

        Splits are ratios of small numbers or whole percents of new shares. Providers give them four decimals.
        """
        if self.kind is not ActionKind.SPLIT or not 1e-4 < self.value < 1e6:
            return False
        many_for_one = Fraction(1, round(1 / self.value)) if self.value < 1 else Fraction(round(self.value))
        few_for_few = Fraction(self.value).limit_denominator(20)
        if any(abs(float(ratio) - self.value) <= 5e-5 for ratio in (many_for_one, few_for_few)):
            return False
        percent = self.value * 100
        return abs(percent - round(percent)) > 1e-6


def adjustment_factors(actions: Iterable[CorporateAction], closes: pd.DataFrame) -> pd.DataFrame:
    """One row per symbol and ex-date with an earlier close in `closes` (symbol, session, close as traded).

    `factor` is that ex-date's own price factor, `cumulative` its product with all later ones: what a price on
    the sessions right before the ex-date is multiplied by. `split_cumulative` is the share of splits in it.
    A dividend that is not smaller than the price before it cannot be true and is left out.
    """
    events = _events(actions, closes)
    eve = events.close.copy()
    factor = _own_factor(events.split, events.dividend, eve)
    # Several ex-dates with no bar between them: a later one meets the price that the earlier one has changed.
    for at in (np.flatnonzero(events.bar[1:] == events.bar[:-1]) + 1).tolist():
        eve[at] = eve[at - 1] * factor[at - 1]
        one = slice(at, at + 1)
        factor[one] = _own_factor(events.split[one], events.dividend[one], eve[one])
    return pd.DataFrame(
        {
            "symbol": events.symbols[events.code],
            "ex_date": events.day.astype("datetime64[D]").astype("datetime64[s]"),
            "split": events.split,
            "dividend": events.dividend,
            "factor": factor,
            "cumulative": _product_of_later(events.code, factor),
            "split_cumulative": _product_of_later(events.code, 1 / events.split),
        }
    )


def _own_factor(split: Floats, dividend: Floats, eve: Floats) -> Floats:
    worth = eve / split
    return np.where(dividend < worth, 1 - dividend / worth, 1.0) / split


def adjust(
    bars: pd.DataFrame,
    actions: Iterable[CorporateAction],
    *,
    closes: pd.DataFrame | None = None,
    volume: VolumeScaling = "splits",
) -> pd.DataFrame:
    """Prices as traded → prices comparable with the newest: adjusted for splits and dividends.

    A dividend is measured by the close before it. Where `bars` ends before the newest ex-date, `closes`
    (symbol, session, close as traded) has to hold the later ones; by default they are the bars' own.
    """
    factors = adjustment_factors(actions, bars if closes is None else closes)
    if factors.empty:
        return bars.copy()
    later = _LaterEvent(factors["symbol"], factors["ex_date"], bars)
    price = later.value(factors["cumulative"].to_numpy())
    shares = price if volume == "full" else later.value(factors["split_cumulative"].to_numpy())
    return _scaled(bars, price, 1 / shares)


def undo(bars: pd.DataFrame, actions: Iterable[CorporateAction], *, volume: VolumeScaling = "full") -> pd.DataFrame:
    """Prices adjusted for splits and dividends → prices as traded.

    Works back from the newest bar, so `actions` must hold every one between the first bar and the moment of
    the provider's answer, and the bars must reach to the last session before the newest ex-date.
    """
    events = _events(actions, bars)
    if len(events.code) == 0:
        return bars.copy()
    cumulative = np.ones(len(events.code))
    factor, code = 1.0, -1
    for at in range(len(events.code) - 1, -1, -1):
        if events.code[at] != code:
            factor, code = 1.0, events.code[at]
        adjusted = events.close[at]
        traded = events.split[at] * (adjusted / factor + events.dividend[at])
        factor = adjusted / traded
        cumulative[at] = factor
    ex_dates = pd.Series(events.day.astype("datetime64[D]").astype("datetime64[s]"))
    later = _LaterEvent(pd.Series(events.symbols[events.code]), ex_dates, bars)
    price = later.value(cumulative)
    shares = price if volume == "full" else later.value(_product_of_later(events.code, 1 / events.split))
    return _scaled(bars, 1 / price, shares)


def adjust_splits(bars: pd.DataFrame, splits: Iterable[CorporateAction]) -> pd.DataFrame:
    """Prices as traded → prices adjusted for splits only. Other kinds of action are passed over."""
    factor = split_factors(bars, splits)
    return _scaled(bars, factor, 1 / factor)


def undo_splits(bars: pd.DataFrame, splits: Iterable[CorporateAction]) -> pd.DataFrame:
    """Prices adjusted for every later split → prices as traded. Other kinds of action are passed over."""
    factor = split_factors(bars, splits)
    return _scaled(bars, 1 / factor, factor)


def split_factors(bars: pd.DataFrame, splits: Iterable[CorporateAction]) -> Floats:
    """Per row of `bars`: what later splits multiply its price by (0.25 before a 4:1 split)."""
    table = _table(action for action in splits if action.kind is ActionKind.SPLIT)
    if table.empty:
        return np.ones(len(bars))
    code = pd.factorize(table["symbol"])[0].astype(np.int64)
    later = _LaterEvent(table["symbol"], table["ex_date"], bars)
    return later.value(_product_of_later(code, 1 / table["split"].to_numpy()))


def dividends_as_paid(actions: Iterable[CorporateAction]) -> tuple[CorporateAction, ...]:
    """Dividend amounts that a provider has divided by later splits → amounts as paid. Splits pass through."""
    known = tuple(actions)
    splits = [action for action in known if action.kind is ActionKind.SPLIT]
    return tuple(
        action if action.kind is ActionKind.SPLIT else replace(action, value=_before(action, splits))
        for action in known
    )


def _before(dividend: CorporateAction, splits: Iterable[CorporateAction]) -> float:
    value = dividend.value
    for split in splits:
        if split.symbol == dividend.symbol and split.ex_date > dividend.ex_date:
            value *= split.value
    return value


@dataclass(frozen=True, slots=True)
class _Events:
    """Ex-dates that have an earlier bar, ordered by symbol and date; `close` is that bar's."""

    symbols: npt.NDArray[np.object_]
    code: Ints
    day: Ints
    bar: Ints
    """Which bar comes last before the ex-date, by its place among all of them."""
    split: Floats
    dividend: Floats
    close: Floats


def _table(actions: Iterable[CorporateAction]) -> pd.DataFrame:
    """Symbol, ex_date, split ratio and dividend: one row per symbol and ex-date, in that order.

    A value that is not a positive number says nothing and is left out.
    """
    rows: dict[tuple[str, date], tuple[float, float]] = {}
    for action in actions:
        if not (action.value > 0 and isfinite(action.value)):
            continue
        split, dividend = rows.get((action.symbol, action.ex_date), (1.0, 0.0))
        if action.kind is ActionKind.SPLIT:
            split *= action.value
        else:
            dividend += action.value
        rows[action.symbol, action.ex_date] = split, dividend
    keys = sorted(rows)
    return pd.DataFrame(
        {
            "symbol": pd.Series([symbol for symbol, _ in keys], dtype="str"),
            "ex_date": pd.Series(np.array([day for _, day in keys], dtype="datetime64[s]")),
            "split": np.array([rows[key][0] for key in keys], dtype=np.float64),
            "dividend": np.array([rows[key][1] for key in keys], dtype=np.float64),
        }
    )


def _events(actions: Iterable[CorporateAction], closes: pd.DataFrame) -> _Events:
    table = _table(actions)
    priced = closes["close"].notna().to_numpy()
    row_code, symbols = pd.factorize(closes["symbol"].to_numpy(dtype=object)[priced])
    row_key = _keys(row_code.astype(np.int64), closes["session"][priced])
    order = np.argsort(row_key, kind="stable")
    row_key = row_key[order]
    close = closes["close"].to_numpy(dtype=np.float64)[priced][order]

    code = pd.Index(symbols).get_indexer(pd.Index(table["symbol"].to_numpy(dtype=object))).astype(np.int64)
    key = _keys(code, table["ex_date"])
    at = np.searchsorted(row_key, key, side="left") - 1
    known = (code >= 0) & (at >= 0)
    known[known] = row_key[at[known]] >> _DAY_BITS == code[known]
    order = np.flatnonzero(known)
    order = order[np.argsort(key[order], kind="stable")]
    return _Events(
        symbols=np.asarray(symbols, dtype=object),
        code=code[order],
        day=_days(table["ex_date"])[order],
        bar=at[order],
        split=table["split"].to_numpy()[order],
        dividend=table["dividend"].to_numpy()[order],
        close=close[at[order]],
    )


_DAY_BITS = 32
_DAY_ZERO = 1 << 31


def _days(sessions: pd.Series) -> Ints:
    return sessions.to_numpy().astype("datetime64[D]").astype(np.int64)


def _keys(code: Ints, sessions: pd.Series) -> Ints:
    """Symbol number and day in one integer that orders by symbol, then by day."""
    return (code << _DAY_BITS) + (_days(sessions) + _DAY_ZERO)


class _LaterEvent:
    """For every bar, the first ex-date after its session; events are ordered by symbol and date."""

    def __init__(self, symbols: pd.Series, ex_dates: pd.Series, bars: pd.DataFrame) -> None:
        code, names = pd.factorize(symbols.to_numpy(dtype=object))
        event_key = _keys(code.astype(np.int64), ex_dates)
        row_code, row_names = pd.factorize(bars["symbol"])
        row_code = pd.Index(names).get_indexer(pd.Index(row_names.to_numpy(dtype=object)))[row_code]
        row_code = row_code.astype(np.int64)
        at = np.searchsorted(event_key, _keys(row_code, bars["session"]), side="right")
        found = at < len(event_key)
        found[found] = event_key[at[found]] >> _DAY_BITS == row_code[found]
        self._found = found
        self._at = at[found]

    def value(self, per_event: Floats) -> Floats:
        result = np.ones(len(self._found))
        result[self._found] = per_event[self._at]
        return result


def _product_of_later(code: Ints, factor: Floats) -> Floats:
    """Per event, its factor times those of the later events of its symbol."""
    backwards = pd.Series(factor[::-1]).groupby(code[::-1], sort=False).cumprod()
    return np.asarray(backwards, dtype=np.float64)[::-1]


def _scaled(bars: pd.DataFrame, price: Floats, volume: Floats) -> pd.DataFrame:
    changed = {name: bars[name].to_numpy() * price for name in PRICE_COLUMNS if name in bars}
    if "volume" in bars:
        changed["volume"] = bars["volume"].to_numpy() * volume
    return bars.assign(**changed)
