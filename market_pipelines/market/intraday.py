"""The shape of a table of intraday bars, the phases of a trading day, and coarser bars from finer ones.

One row is one symbol from `ts` (UTC, the start of the bar) on, for the length of its interval. Which minutes
belong to a session is said by the exchange's calendar, never by the provider that sent them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.bars import AVAILABLE, DEGRADED, PENDING, VALUE_COLUMNS
from market_pipelines.market.consensus import house_name
from market_pipelines.market.sessions import TradingCalendar

INTERVALS: Mapping[str, int] = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
"""Minutes by the name of an interval."""
INTRADAY_COLUMNS = ("symbol", "ts", *VALUE_COLUMNS, "provisional")
"""What a provider's parser delivers: `ts` is datetime64[s, UTC]; `volume` may be NaN."""
EXTENDED_HOURS: Mapping[str, tuple[timedelta, timedelta]] = {
    "XNYS": (timedelta(hours=5, minutes=30), timedelta(hours=4)),
}
"""How long before the opening and after the closing bell an exchange's shares trade; half days keep the lengths."""

_AGGREGATES = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


class Phase(StrEnum):
    PRE = "pre"
    REGULAR = "regular"
    POST = "post"


def empty_intraday() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": pd.Series(dtype="str"),
            "ts": pd.Series(dtype="datetime64[s, UTC]"),
            **{name: pd.Series(dtype="float64") for name in VALUE_COLUMNS},
            "provisional": pd.Series(dtype="bool"),
        }
    )


def phased(bars: pd.DataFrame, calendar: TradingCalendar) -> pd.DataFrame:
    """The bars with their `session` (datetime64[s]) and `phase`; those outside of every phase are left out."""
    stamps = bars["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    before, after = EXTENDED_HOURS.get(calendar.mic, (timedelta(), timedelta()))
    begins = calendar.opens - np.timedelta64(before)
    ends = calendar.closes + np.timedelta64(after)
    row = np.searchsorted(begins, stamps, side="right") - 1
    inside = (row >= 0) & (stamps < ends[np.maximum(row, 0)])
    row = np.where(inside, row, 0)
    phase = np.where(
        stamps < calendar.opens[row],
        str(Phase.PRE),
        np.where(stamps < calendar.closes[row], str(Phase.REGULAR), str(Phase.POST)),
    )
    inside &= ~_in_break(stamps, row, calendar)
    with_session = bars.assign(
        session=calendar.days[row].astype("datetime64[s]"), phase=pd.Series(phase, index=bars.index, dtype="str")
    )
    kept: pd.DataFrame = with_session.loc[inside]
    return kept


def _in_break(
    stamps: npt.NDArray[np.datetime64], row: npt.NDArray[np.intp], calendar: TradingCalendar
) -> npt.NDArray[np.bool_]:
    starts, stops = calendar.breaks
    # A missing break is not-a-time, which compares as false.
    paused: npt.NDArray[np.bool_] = (stamps >= starts[row]) & (stamps < stops[row])
    return paused


def coarser(bars: pd.DataFrame, interval: str, calendar: TradingCalendar) -> pd.DataFrame:
    """Bars of a longer interval from `phased` ones, counted from the bell that begins their phase.

    A bar takes the provider of its first part; it is provisional where one of its parts is.
    """
    if bars.empty:
        return bars
    row = np.searchsorted(calendar.days, bars["session"].to_numpy().astype("datetime64[D]"))
    bell = calendar.opens[row].astype(np.int64)
    stamps = bars["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    _, resumes = calendar.breaks
    afternoon = ~np.isnat(resumes[row]) & (stamps >= resumes[row].astype(np.int64))
    bell = np.where(afternoon, resumes[row].astype(np.int64), bell)
    before, _ = EXTENDED_HOURS.get(calendar.mic, (timedelta(), timedelta()))
    bell = np.where((bars["phase"] == str(Phase.PRE)).to_numpy(), bell - int(before.total_seconds()), bell)
    bell = np.where((bars["phase"] == str(Phase.POST)).to_numpy(), calendar.closes[row].astype(np.int64), bell)
    length = INTERVALS[interval] * 60
    starts = bell + (stamps - bell) // length * length
    grouped = bars.assign(ts=pd.DatetimeIndex(starts.astype("datetime64[s]"), tz="UTC")).groupby(
        ["symbol", "session", "phase", "ts"], sort=True, observed=True
    )
    others = {name: "first" for name in ("market", "provider", "basis", "condition", "ingested_at") if name in bars}
    result = grouped.agg({**_AGGREGATES, "provisional": "any", **others}).reset_index()
    # A sum over nothing but gaps is a gap.
    result.loc[(grouped["volume"].count() == 0).to_numpy(), "volume"] = np.nan
    result["ts"] = result["ts"].astype("datetime64[s, UTC]")
    return result[[name for name in bars.columns if name in result.columns]]


def session_bars(bars: pd.DataFrame) -> pd.DataFrame:
    """One row a symbol and session out of the regular phase's bars: what the daily bar should say."""
    regular = bars[bars["phase"] == str(Phase.REGULAR)].sort_values(["symbol", "ts"])
    grouped = regular.groupby(["symbol", "session"], sort=True, observed=True)
    return grouped.agg({**_AGGREGATES}).assign(bars=grouped.size()).reset_index()


FULL_SHARE = 0.99
"""Of the fullest provider's regular bars: with less, a provider's session is not whole."""


def lead(bars: pd.DataFrame, precedence: Sequence[str]) -> pd.DataFrame:
    """One provider a symbol and session, out of the `phased` bars of several: never a mixture within a session.

    The first in the order of precedence whose session is whole compared with the fullest one; prices as traded
    go before adjusted ones. Adds `condition`: pending while the bar moves, degraded where the prices are adjusted.
    """
    if bars.empty:
        return bars.assign(condition=pd.Series(dtype="str"))
    names = {name: place for place, name in enumerate(precedence)}
    regular = (bars["phase"] == str(Phase.REGULAR)).astype("int64")
    keys = ["market", "symbol", "interval", "session", "provider"]
    offered = bars.assign(regular=regular, adjusted=bars["basis"] != "traded").groupby(keys, observed=True, sort=True)
    sizes = offered.agg(regular=("regular", "sum"), adjusted=("adjusted", "any")).reset_index()
    fullest = sizes.groupby(keys[:-1], observed=True)["regular"].transform("max")
    sizes["short"] = sizes["regular"] < FULL_SHARE * fullest
    sizes["place"] = [names.get(house_name(name), len(names)) for name in sizes["provider"]]
    best = sizes.sort_values([*keys[:-1], "adjusted", "short", "place", "provider"]).drop_duplicates(keys[:-1])
    chosen = bars.merge(best[keys], on=keys)
    condition = np.where(chosen["provisional"], PENDING, np.where(chosen["basis"] != "traded", DEGRADED, AVAILABLE))
    return chosen.assign(condition=pd.Series(condition, index=chosen.index, dtype="str"))
