"""IEX's chart rows: days and minutes out of JSON, with nothing of the provider's address or the question in it.

A daily row holds two sets of prices: `uOpen` and so on as traded, `open` and so on restated for later splits. A
minute row holds two venues: `marketOpen` and so on of all exchanges, `open` and so on of IEX alone. Either pair is
never mixed within one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from market_pipelines.market.bars import PRICE_COLUMNS, VALUE_COLUMNS
from market_pipelines.providers.frames import Days, Flags, Floats, days_of

MINUTE = np.timedelta64(60, "s")
OLD_GAP = -1.0
"""Where the older API had no trade in a minute, it wrote -1 for every price."""


class NotDaily(ValueError):
    """Rows that are no days, or whose prices come restated for splits only."""


class Day(msgspec.Struct, gc=False):
    date: str
    u_open: float | None = msgspec.field(name="uOpen", default=None)
    u_high: float | None = msgspec.field(name="uHigh", default=None)
    u_low: float | None = msgspec.field(name="uLow", default=None)
    u_close: float | None = msgspec.field(name="uClose", default=None)
    u_volume: float | None = msgspec.field(name="uVolume", default=None)
    minute: str | None = None
    symbol: str | None = None


class Minute(msgspec.Struct, gc=False):
    date: str
    minute: str
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float | None = None
    volume: float | None = None
    market_open: float | None = msgspec.field(name="marketOpen", default=None)
    market_high: float | None = msgspec.field(name="marketHigh", default=None)
    market_low: float | None = msgspec.field(name="marketLow", default=None)
    market_close: float | None = msgspec.field(name="marketClose", default=None)
    market_volume: float | None = msgspec.field(name="marketVolume", default=None)
    symbol: str | None = None


class _Dynamic(msgspec.Struct):
    """`chart/dynamic` wraps its rows and says whether they are days or minutes."""

    data: msgspec.Raw
    range: str = ""


_days = msgspec.json.Decoder(list[Day], strict=False)
_minutes = msgspec.json.Decoder(list[Minute], strict=False)
_dynamic = msgspec.json.Decoder(_Dynamic)


@dataclass(frozen=True)
class DayTable:
    days: Days
    values: Mapping[str, Floats]
    symbols: frozenset[str]
    """As the rows name them, where they do."""


@dataclass(frozen=True)
class MinuteTable:
    local: Days
    """The start of each minute, as New York's clocks show it."""
    values: Mapping[str, Floats]
    symbols: frozenset[str]
    consolidated: bool
    """The trades of all exchanges; otherwise of IEX alone, which are a few in a hundred."""
    awaited_from: int | None
    """The first of the newest minutes whose consolidated values are still to come."""
    sampled: bool
    """Minutes are left out. IEX has a row for every minute, with or without a trade."""


def rows_of(body: bytes) -> bytes:
    """The array of rows, also where it comes wrapped."""
    text = body.removeprefix(b"\xef\xbb\xbf").strip()
    return bytes(_dynamic.decode(text).data) if text.startswith(b"{") else text


def read_days(body: bytes) -> DayTable:
    array = rows_of(body)
    rows = _days.decode(array)
    if any(row.minute is not None for row in rows):
        raise NotDaily("minutes instead of days")
    if rows and b'"uClose"' not in array:
        raise NotDaily("no prices as traded (uOpen, uClose): those restated for splits are not taken for them")
    values = {name: _floats([getattr(row, f"u_{name}") for row in rows]) for name in VALUE_COLUMNS}
    dates = days_of(pa.chunked_array([[row.date for row in rows]], pa.string()).cast(pa.date32()))
    return DayTable(dates, values, _named(rows))


def read_minutes(body: bytes) -> MinuteTable:
    rows = _minutes.decode(rows_of(body))
    stamps = pa.chunked_array([[f"{row.date} {row.minute}" for row in rows]], pa.string()).cast(pa.timestamp("s"))
    own = {name: _gaps(_floats([getattr(row, name) for row in rows])) for name in VALUE_COLUMNS}
    market = {name: _gaps(_floats([getattr(row, f"market_{name}") for row in rows])) for name in VALUE_COLUMNS}
    shown = ~np.logical_or.reduce([np.isnan(market[name]) for name in PRICE_COLUMNS])
    local: Days = stamps.to_numpy().astype("datetime64[s]")
    sampled = len(local) > 1 and bool(np.diff(np.sort(local)).min() > MINUTE)
    if not shown.any():
        return MinuteTable(local, own, _named(rows), consolidated=False, awaited_from=None, sampled=sampled)
    awaited = _awaited(local, shown)
    return MinuteTable(local, market, _named(rows), consolidated=True, awaited_from=awaited, sampled=sampled)


def _awaited(local: Days, shown: Flags) -> int | None:
    """Within a day a minute without a trade is empty for good; the newest ones are empty because they come late."""
    order = np.argsort(local, kind="stable")
    last = int(np.flatnonzero(shown[order])[-1])
    return int(order[last + 1]) if last + 1 < len(order) else None


def _floats(cells: Sequence[float | None]) -> Floats:
    return np.array(cells, dtype=np.float64)


def _gaps(column: Floats) -> Floats:
    return np.where(column == OLD_GAP, np.nan, column)


def _named(rows: Sequence[Day] | Sequence[Minute]) -> frozenset[str]:
    return frozenset(row.symbol for row in rows if row.symbol)
