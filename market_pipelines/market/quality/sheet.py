"""A table of well-formed bars as the arrays that the rules work on, and the circumstances of judging it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.actions import Basis, CorporateAction, split_factors
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality.limits import OWN, Limits
from market_pipelines.market.sessions import Days, TradingCalendar, utc_second

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Instants = npt.NDArray[np.datetime64]
"""In UTC, to the second."""


class PreviousClose(NamedTuple):
    """The newest stored close, as traded, before the first bar of the table."""

    session: date
    close: float


@dataclass(frozen=True, slots=True)
class Circumstances:
    calendar: TradingCalendar
    instruments: Mapping[str, Instrument]
    now: datetime
    previous_closes: Mapping[str, PreviousClose]
    actions: Sequence[CorporateAction]
    limits: Limits = OWN


@dataclass(frozen=True, slots=True)
class Offence:
    """The rows that break a rule, and for each of them, in order, what was found."""

    mask: Mask
    details: Sequence[str]


def offence(mask: Mask, detail: Callable[[int], str]) -> Offence:
    return Offence(mask, [detail(at) for at in np.flatnonzero(mask).tolist()])


class Sheet:
    """Bars with a symbol and a date each. A series is the bars of one symbol from one provider."""

    def __init__(self, frame: pd.DataFrame, circumstances: Circumstances) -> None:
        self.frame = frame
        self.circumstances = circumstances
        self.open, self.high, self.low, self.close, self.volume = (
            frame[name].to_numpy(dtype=np.float64) for name in ("open", "high", "low", "close", "volume")
        )
        self.provisional: Mask = frame["provisional"].to_numpy(dtype=bool)
        self.day: Days = frame["session"].to_numpy().astype("datetime64[D]")
        code, names = pd.factorize(frame["symbol"])
        self.symbol: Ints = code.astype(np.int64)
        self.symbols: list[str] = [str(name) for name in names]
        self.series = self.symbol
        if "provider" in frame:
            provider, providers = pd.factorize(frame["provider"])
            self.series = self.symbol * (len(providers) + 1) + provider
        self.traded: Mask = (
            (frame["basis"] == Basis.TRADED.value).to_numpy(dtype=bool)
            if "basis" in frame
            else np.ones(len(frame), dtype=bool)
        )

    def __len__(self) -> int:
        return len(self.day)

    @cached_property
    def key(self) -> Ints:
        """Series and session in one integer that orders by series, then by session."""
        return (self.series << 32) + (self.day.astype(np.int64) + (1 << 31))

    @cached_property
    def in_order(self) -> bool:
        """No session comes twice or late."""
        return bool((self.key[1:] > self.key[:-1]).all())

    @cached_property
    def order(self) -> Ints:
        """Positions of the rows by series, then by session."""
        return np.arange(len(self)) if self.in_order else np.argsort(self.key, kind="stable")

    @cached_property
    def slot(self) -> Ints:
        """The position of the row's date among the calendar's sessions, or of the session after it."""
        return np.searchsorted(self.circumstances.calendar.days, self.day)

    @cached_property
    def is_session(self) -> Mask:
        days = self.circumstances.calendar.days
        inside = self.slot < len(days)
        inside[inside] = days[self.slot[inside]] == self.day[inside]
        return inside

    @cached_property
    def had_opened(self) -> Mask:
        """The row's session had begun at the time of judging; for a date without one, the date had."""
        calendar = self.circumstances.calendar
        opened = calendar.opens <= utc_second(self.circumstances.now)
        result = self.day <= np.datetime64(calendar.local_date(self.circumstances.now), "D")
        result[self.is_session] = opened[self.slot[self.is_session]]
        return np.asarray(result, dtype=bool)

    @cached_property
    def had_closed(self) -> Mask:
        closed = self.circumstances.calendar.closes <= utc_second(self.circumstances.now)
        result = np.ones(len(self), dtype=bool)
        result[self.is_session] = closed[self.slot[self.is_session]]
        return result

    @cached_property
    def splits(self) -> Floats:
        """What the splits after a row's session multiply its price by; 1 where the provider has done so."""
        return np.where(self.traded, split_factors(self.frame, self.circumstances.actions), 1.0)

    @cached_property
    def previous(self) -> tuple[Floats, Days]:
        """By symbol: the stored close, restated for all splits since, and its session, or NaN and NaT."""
        closes = np.full(len(self.symbols), np.nan)
        sessions = np.full(len(self.symbols), np.datetime64("NaT"), dtype="datetime64[D]")
        for at, name in enumerate(self.symbols):
            if name in self.circumstances.previous_closes:
                sessions[at], closes[at] = self.circumstances.previous_closes[name]
        held = np.flatnonzero(~np.isnan(closes))
        if len(held):
            stored = pd.DataFrame(
                {
                    "symbol": pd.Series([self.symbols[at] for at in held], dtype="str"),
                    "session": sessions[held].astype("datetime64[s]"),
                }
            )
            closes[held] *= split_factors(stored, self.circumstances.actions)
        return closes, sessions

    def take(self, rows: Ints) -> Sheet:
        """The same bars, only these and in this order."""
        return Sheet(self.frame.iloc[rows], self.circumstances)

    def text(self, at: int) -> str:
        return str(self.day[at])
