"""Charts that somebody has kept from IEX's days: JSON files of daily or minute rows.

A reader only: it gives one chart after the other as a frame, holds one file at a time, and stores nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from market_pipelines.market.bars import BAR_COLUMNS, PRICE_COLUMNS, empty_bars
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.providers.frames import Floats
from market_pipelines.providers.iex_cloud import charts
from market_pipelines.providers.local_bars import instants_of
from market_pipelines.providers.symbols import EXCHANGE_ZONES

DAILY, MINUTES = "1day", "1min"
LARGEST_FILE = 256 * 1024 * 1024
"""Bytes. A year of minutes of one share has a fifth of that."""

_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, pa.ArrowException)


class ChartFileError(Exception):
    """A file that holds no charts of IEX's. The message names it and what is wrong."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Chart:
    name: str
    """Of the file."""
    native: str
    interval: str
    """`1day` or `1min`."""
    frame: pd.DataFrame
    """`market.bars.BAR_COLUMNS` as traded, or `market.intraday.INTRADAY_COLUMNS`, with the native symbol."""
    consolidated: bool = True
    """Of minutes: the trades of all exchanges; otherwise of IEX alone."""


class _Held(msgspec.Struct):
    chart: msgspec.Raw


_batch = msgspec.json.Decoder(dict[str, _Held])
_any_row = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def read_folder(folder: Path, *, after_file: str = "", symbols: Collection[str] | None = None) -> Iterator[Chart]:
    """The charts of a folder's `*.json` in the order of their names, from the one after `after_file` on."""
    chosen = frozenset(symbol.upper() for symbol in symbols) if symbols is not None else None
    for path in sorted(folder.glob("*.json")):
        if path.name > after_file:
            yield from (chart for chart in read_file(path) if chosen is None or chart.native.upper() in chosen)


def read_file(path: Path, *, symbol: str = "") -> Iterator[Chart]:
    """One chart, or those of a batch.

    Rows of older files do not say whose they are: then it is `symbol`, and without one what the file's name begins
    with (`MSFT.json`, `BRK.B_20190306.json`).
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ChartFileError(f"{path.name} has {path.stat().st_size:,} bytes, more than any chart", path.name)
        body = path.read_bytes()
    except OSError as error:
        raise ChartFileError(f"{path} cannot be read: {error.strerror or error}", path.name) from None
    try:
        for native, rows in _charts(body):
            yield _chart(rows, path.name, native or symbol)
    except _UNREADABLE as error:
        raise ChartFileError(f"{path.name} holds no chart of IEX's: {error}", path.name) from None


def _charts(body: bytes) -> Iterator[tuple[str, bytes]]:
    text = body.removeprefix(b"\xef\xbb\xbf").strip()
    if text.startswith(b"{") and b'"chart"' in text:
        for native, held in _batch.decode(text).items():
            yield native, bytes(held.chart)
    else:
        yield "", charts.rows_of(text)


def _chart(rows: bytes, name: str, native: str) -> Chart:
    known = _any_row.decode(rows)
    if not known:
        return Chart(name, native or _named(name), DAILY, empty_bars())
    if "minute" in known[0]:
        return _minutes(rows, name, native)
    table = charts.read_days(rows)
    owner = _owner(table.symbols, native, name)
    frame = _frame(owner, "session", table.days.astype("datetime64[s]"), dict(table.values))
    return Chart(name, owner, DAILY, _unique(frame, "session")[list(BAR_COLUMNS)])


def _minutes(rows: bytes, name: str, native: str) -> Chart:
    table = charts.read_minutes(rows)
    owner = _owner(table.symbols, native, name)
    starts = instants_of(table.local, EXCHANGE_ZONES["XNYS"])
    priced = ~np.isnat(starts) & ~np.logical_and.reduce([np.isnan(table.values[each]) for each in PRICE_COLUMNS])
    values = {each: column[priced] for each, column in table.values.items()}
    frame = _frame(owner, "ts", pd.DatetimeIndex(starts[priced].astype("datetime64[s]"), tz="UTC"), values)
    return Chart(name, owner, MINUTES, _unique(frame, "ts")[list(INTRADAY_COLUMNS)], table.consolidated)


def _frame(native: str, key: str, stamps: object, values: dict[str, Floats]) -> pd.DataFrame:
    if any(np.isinf(column).any() for column in values.values()):
        raise ValueError("a price or volume that is no finite number")
    rows = len(values["close"])
    return pd.DataFrame(
        {
            "symbol": pd.Series(native, index=pd.RangeIndex(rows), dtype="str"),
            key: stamps,
            **values,
            "provisional": np.zeros(rows, dtype=np.bool_),
        }
    )


def _unique(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    frame = frame.drop_duplicates(ignore_index=True).sort_values(key, kind="stable", ignore_index=True)
    if not frame[key].is_unique:
        raise ValueError(f"two different rows of {frame[key][frame[key].duplicated()].iloc[0]}")
    return frame


def _owner(named: frozenset[str], told: str, name: str) -> str:
    """Whose rows they are: what they say of themselves must not contradict what was told."""
    owners = {symbol.upper() for symbol in named} | ({told.upper()} if told else set())
    if len(owners) > 1:
        raise ValueError(f"the rows are about {' and '.join(sorted(owners))}")
    return owners.pop() if owners else _named(name)


def _named(name: str) -> str:
    return name.removesuffix(".json").partition("_")[0].upper()
