"""Stooq's CSV files of daily and intraday bars, in two languages, with or without volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.providers.answers import decoded, folded
from market_pipelines.providers.frames import Days, Floats, days_of, floats_of, read_csv
from market_pipelines.providers.local_bars import instants_of
from market_pipelines.providers.stooq.words import NULLS

WARSAW = ZoneInfo("Europe/Warsaw")
"""Whatever the exchange, Stooq writes the time of its own office."""
LABELLED_AT_THE_END = frozenset({"60min"})
"""Hours are named by the moment they end, five minutes by the moment they begin: New York's first ones are 16:00
and 15:30 in Warsaw. Read off files that others have; Stooq documents neither."""
VOLUME = "volume"

_DAILY = (
    ("date", "open", "high", "low", "close", "volume"),
    ("data", "otwarcie", "najwyzszy", "najnizszy", "zamkniecie", "wolumen"),
)
_INTRADAY = tuple((date, time, *rest) for (date, *rest), time in zip(_DAILY, ("time", "czas"), strict=True))


@dataclass(frozen=True)
class Layout:
    delimiter: str
    has_volume: bool
    has_time: bool


def layout_of(body: bytes) -> Layout | None:
    """How the body is written, where its first line is a header of bars."""
    header = folded(decoded(body[:200].split(b"\n", 1)[0])).strip()
    for delimiter in ",;":
        names = tuple(header.split(delimiter))
        for known, has_time in ((_DAILY, False), (_INTRADAY, True)):
            for full in known:
                if names in (full, full[:-1]):
                    return Layout(delimiter, names == full, has_time)
    return None


class NoSuchSymbol(Exception):
    """Every row is N/D."""


def read_days(body: bytes, layout: Layout) -> tuple[Days, Mapping[str, Floats]]:
    table = _read(body, layout, {"session": pa.date32()})
    if len(table) and table["session"].null_count == len(table):
        raise NoSuchSymbol
    return days_of(table["session"]), _values(table, layout)


def read_moments(body: bytes, layout: Layout) -> tuple[Days, Mapping[str, Floats]]:
    """Warsaw's local times as they are written, and the values."""
    table = _read(body, layout, {"date": pa.string(), "time": pa.string()})
    if len(table) and table["date"].null_count == len(table):
        raise NoSuchSymbol
    written = [
        f"{date} {time}" for date, time in zip(table["date"].to_pylist(), table["time"].to_pylist(), strict=True)
    ]
    moments = pa.chunked_array([written], pa.string()).cast(pa.timestamp("s"))
    local: Days = moments.to_numpy().astype("datetime64[s]")
    return local, _values(table, layout)


def starts_of(local: Days, interval: str, calendar: TradingCalendar | None) -> Days:
    """The UTC instants at which bars begin that Warsaw's clock labels so.

    Hours are cut at the full hour: of one in which the exchange opens, or comes back from lunch, only the part
    after that is meant, and there it begins.
    """
    labels = instants_of(local, WARSAW)
    if interval not in LABELLED_AT_THE_END:
        return labels
    length = np.timedelta64(timedelta(minutes=INTERVALS[interval]), "s")
    starts = labels - length
    if calendar is None:
        return starts
    for bells in (calendar.opens, calendar.breaks[1]):
        rung = bells[~np.isnat(bells)]
        if len(rung):
            at = np.minimum(np.searchsorted(rung, starts, side="right"), len(rung) - 1)
            within = (rung[at] > starts) & (rung[at] < labels)
            starts = np.where(within, rung[at], starts)
    result: Days = starts
    return result


def _read(body: bytes, layout: Layout, keys: dict[str, pa.DataType]) -> pa.Table:
    names = [name for name in VALUE_COLUMNS if layout.has_volume or name != VOLUME]
    types = {**keys, **dict.fromkeys(names, pa.float64())}
    return read_csv(body, types, layout.delimiter, NULLS)


def _values(table: pa.Table, layout: Layout) -> dict[str, Floats]:
    values = {name: floats_of(table[name]) for name in VALUE_COLUMNS if layout.has_volume or name != VOLUME}
    # Currencies, rates and some indices have no volume column: unknown is not zero.
    values.setdefault(VOLUME, np.full(len(table), np.nan))
    if any(np.isinf(column).any() for column in values.values()):
        raise ValueError("a price or volume that is no finite number")
    return values
