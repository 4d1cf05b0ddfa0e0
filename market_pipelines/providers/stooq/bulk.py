"""Stooq's bulk database: zips with one text file a symbol (`d_us_txt.zip`, `h_us_txt.zip`, `5_us_txt.zip`).

A reader only: it gives one member after the other as a frame, holds one at a time, and stores nothing. Prices are
adjusted as the site's are, so a newer zip replaces all of what an older one brought.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from market_pipelines.market.bars import BAR_COLUMNS, VALUE_COLUMNS, empty_bars
from market_pipelines.market.intraday import INTRADAY_COLUMNS, empty_intraday
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.providers.frames import Days, floats_of, read_csv
from market_pipelines.providers.stooq.tables import starts_of
from market_pipelines.providers.stooq.words import NULLS

DAILY = "1day"
INTERVALS = {"D": DAILY, "60": "60min", "5": "5min"}
"""By the word in the PER column."""
LARGEST_MEMBER = 256 * 1024 * 1024
"""Bytes when unpacked: the longest history of five-minute bars is a fiftieth of that."""
Ints = npt.NDArray[np.int64]
HEADER = b"<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>"
MICS = {"us": "XNYS", "uk": "XLON", "jp": "XTKS", "": "XWAR"}
"""Whose bells cut the first hour short, by the ending of a symbol."""

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
"""What `zipfile` raises for bytes that are no zip, or one in a manner that Stooq does not use."""
_FOLDERS = {"daily": DAILY, "hourly": "60min", "5 min": "5min"}
_PREFIXES = {"d": DAILY, "h": "60min", "5": "5min"}
_COLUMNS = {
    **dict.fromkeys(("ticker", "per"), pa.dictionary(pa.int32(), pa.string())),
    **dict.fromkeys(("date", "time"), pa.int32()),
    **dict.fromkeys(VALUE_COLUMNS, pa.float64()),
    "interest": pa.float64(),
}


class BulkError(Exception):
    """A file that is not what Stooq's database holds. The message names it and what is wrong.

    `member`: which one; reading can go on after it with `after_member`. Empty: the zip itself.
    """

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.member = member


@dataclass(frozen=True)
class BulkMember:
    """One symbol's file."""

    name: str
    """Within the zip."""
    native: str
    """As Stooq spells the symbol, in lower case."""
    interval: str
    """`1day`, or one of `market.intraday.INTERVALS`; of an empty file what its folder says."""
    frame: pd.DataFrame
    """`market.bars.BAR_COLUMNS` or `market.intraday.INTRADAY_COLUMNS` with the native symbol, oldest first. Without
    rows where the file is empty, as some always are."""


def read_bulk(path: Path, *, after_member: str = "", symbols: Collection[str] | None = None) -> Iterator[BulkMember]:
    """The zip's members in its own order, from the one after `after_member` on; of `symbols` only, where given.

    `BulkError` for what cannot be read, at the moment when its turn comes.
    """
    chosen = frozenset(symbol.lower() for symbol in symbols) if symbols is not None else None
    try:
        with zipfile.ZipFile(path) as opened:
            yield from _members(opened, path, after_member, chosen)
    except _BROKEN as error:
        raise BulkError(f"{path.name} is not a whole zip file: {error}; download it again") from None
    except OSError as error:
        raise BulkError(f"{path} cannot be read: {error.strerror or error}") from None


def bulk_size(path: Path) -> tuple[int, int]:
    """How many files the zip holds, and how many bytes they have when unpacked: for a progress bar."""
    try:
        with zipfile.ZipFile(path) as opened:
            texts = [info for info in opened.infolist() if _is_text(info)]
    except _BROKEN as error:
        raise BulkError(f"{path.name} is not a whole zip file: {error}; download it again") from None
    except OSError as error:
        raise BulkError(f"{path} cannot be read: {error.strerror or error}") from None
    return len(texts), sum(info.file_size for info in texts)


def read_member(name: str, body: bytes, of_zip: str = "") -> BulkMember:
    """One file of the database, also where somebody has unpacked it."""
    stem = _stem(name)
    text = body.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        return _empty(name, stem, of_zip)
    header, _, rows = text.partition(b"\n")
    if header.strip().upper() != HEADER:
        shown = header[:60].decode("ascii", errors="replace")
        raise BulkError(f"{name}: '{shown}' is not the header of Stooq's database", name)
    if not rows.strip():
        return _empty(name, stem, of_zip)
    try:
        table = read_csv(text, _COLUMNS, ",", NULLS)
        interval = _one_of(table, "per", "period")
        native = _one_of(table, "ticker", "symbol").lower()
        if interval not in INTERVALS:
            raise ValueError(f"bars of '{interval}', which is neither D nor 60 nor 5")
        if native != stem:
            raise ValueError(f"the rows are about {native}")
        frame = _days(table, native) if interval == "D" else _moments(table, native, INTERVALS[interval])
    except (ValueError, pa.ArrowException) as error:
        raise BulkError(f"{name} cannot be read: {error}", name) from None
    return BulkMember(name, native, INTERVALS[interval], frame)


def _members(
    opened: zipfile.ZipFile, path: Path, after_member: str, chosen: frozenset[str] | None
) -> Iterator[BulkMember]:
    texts = [info for info in opened.infolist() if _is_text(info)]
    if after_member:
        places = [number for number, info in enumerate(texts) if info.filename == after_member]
        if not places:
            raise BulkError(f"{path.name} holds no {after_member}, after which to go on: it is another zip")
        texts = texts[places[-1] + 1 :]
    for info in texts:
        if chosen is None or _stem(info.filename) in chosen:
            yield read_member(info.filename, _unpacked(opened, info), path.name)


def _unpacked(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > LARGEST_MEMBER:
        raise BulkError(f"{info.filename} has {info.file_size:,} bytes, more than any file of Stooq's", info.filename)
    try:
        with opened.open(info) as member:
            # The announced size may be a lie: no more is unpacked than is bearable.
            body = member.read(LARGEST_MEMBER + 1)
    except _BROKEN as error:
        raise BulkError(f"{info.filename} cannot be unpacked: {error}", info.filename) from None
    if len(body) > LARGEST_MEMBER:
        raise BulkError(f"{info.filename} is larger than any file of Stooq's", info.filename)
    return body


def _is_text(info: zipfile.ZipInfo) -> bool:
    return not info.is_dir() and info.filename.lower().endswith(".txt")


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name.lower().removesuffix(".txt")


def _empty(name: str, stem: str, of_zip: str) -> BulkMember:
    folders = PurePosixPath(name.replace("\\", "/").lower()).parts
    prefix = of_zip.lower().partition("_")[0]
    interval = next((_FOLDERS[part] for part in folders if part in _FOLDERS), _PREFIXES.get(prefix, DAILY))
    return BulkMember(name, stem, interval, empty_bars() if interval == DAILY else empty_intraday())


def _one_of(table: pa.Table, column: str, what: str) -> str:
    found = table[column].unique()
    if len(found) != 1 or not found[0].is_valid:
        raise ValueError(f"{len(found)} {what}s in one file")
    return str(found[0].as_py())


def _days(table: pa.Table, native: str) -> pd.DataFrame:
    frame = _frame(table, native, "session", _dates(table["date"]).astype("datetime64[s]"))
    return _unique(frame, "session")[list(BAR_COLUMNS)]


def _moments(table: pa.Table, native: str, interval: str) -> pd.DataFrame:
    local: Days = np.asarray(_dates(table["date"]).astype("datetime64[s]") + _clock(table["time"]), "datetime64[s]")
    mic = MICS.get(native.rpartition(".")[2] if "." in native else "")
    starts = starts_of(local, interval, trading_calendar(mic) if mic is not None else None)
    frame = _frame(table, native, "ts", pd.DatetimeIndex(starts.astype("datetime64[s]"), tz="UTC"))
    return _unique(frame[frame["ts"].notna()], "ts")[list(INTRADAY_COLUMNS)]


def _dates(column: pa.ChunkedArray[Any]) -> Days:
    """`20260220` → 2026-02-20."""
    year, month, day = _parts(column)
    months = (year - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]")
    dates: Days = np.asarray(first.astype("datetime64[D]") + (day - 1), "datetime64[D]")
    real = (year >= 1800) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    if not (real & (dates.astype("datetime64[M]") == first)).all():
        raise ValueError("a date that is none")
    return dates


def _clock(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.timedelta64]:
    """`153000` → seconds since midnight."""
    hour, minute, second = _parts(column)
    if not ((hour >= 0) & (hour < 24) & (minute < 60) & (second < 60)).all():
        raise ValueError("a time that is none")
    return (hour * 3600 + minute * 60 + second).astype("timedelta64[s]")


def _parts(column: pa.ChunkedArray[Any]) -> tuple[Ints, Ints, Ints]:
    """A number of which the last two pairs of digits have a meaning of their own."""
    if column.null_count:
        raise ValueError("a row without a date or time")
    number: Ints = column.to_numpy().astype(np.int64)
    return number // 10_000, number // 100 % 100, number % 100


def _frame(table: pa.Table, native: str, key: str, stamps: object) -> pd.DataFrame:
    values = {name: floats_of(table[name]) for name in VALUE_COLUMNS}
    if any(np.isinf(column).any() for column in values.values()):
        raise ValueError("a price or volume that is no finite number")
    rows = len(table)
    return pd.DataFrame(
        {
            "symbol": pd.Series(native, index=pd.RangeIndex(rows), dtype="str"),
            key: stamps,
            **values,
            "provisional": np.zeros(rows, dtype=np.bool_),
        }
    )


def _unique(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    if frame[key].is_monotonic_increasing and frame[key].is_unique:
        return frame.reset_index(drop=True)
    frame = frame.drop_duplicates(ignore_index=True)
    if frame[key].duplicated().any():
        raise ValueError(f"two different rows of {frame[key][frame[key].duplicated()].iloc[0]}")
    return frame if frame[key].is_monotonic_increasing else frame.sort_values(key, ignore_index=True)
