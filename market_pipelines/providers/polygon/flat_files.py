"""Polygon's flat files: a session of everybody's bars, trades or quotes in one gzip file, read as a stream.

A file is never in memory as a whole: batches of rows come out in the order of the file, each with how many rows
have been read so far, and reading can begin again after so many. What becomes of them is not decided here.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from market_pipelines.market.bars import BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.records import QUOTE_COLUMNS, TRADE_COLUMNS
from market_pipelines.providers.answers import one_line
from market_pipelines.providers.polygon.lots import in_shares
from market_pipelines.providers.polygon.stamps import LATEST, NEW_YORK, Instants, local_days, midnights_of, seconds_of

BLOCK_BYTES = 1024 * 1024
"""Of text at a time, which is some ten to twenty thousand rows. A dozen of them are in memory at once."""
LONGEST_HEADER = 4096
_MINUTE = 60_000_000_000


class FlatKind(StrEnum):
    DAY_AGGS = "day_aggs"
    MINUTE_AGGS = "minute_aggs"
    TRADES = "trades"
    QUOTES = "quotes"


@dataclass(frozen=True, slots=True)
class FlatBatch:
    kind: FlatKind
    frame: pd.DataFrame
    """In the columns of a provider's parser: `BAR_COLUMNS`, `INTRADAY_COLUMNS`, `TRADE_COLUMNS` or
    `QUOTE_COLUMNS`. Symbols are the provider's spelling."""
    rows_read: int
    """Of the file, up to the end of this batch, rows that were skipped or not wanted included."""
    share: float = 0.0
    """Of the file's bytes that have been read."""


class FlatFileError(Exception):
    """The file is not what it should be. The message names the file and what is wrong with it."""


_INTEGER, _NUMBER, _TEXT = pa.int64(), pa.float64(), pa.string()
_AGGREGATES = {
    "ticker": _TEXT,
    "volume": _NUMBER,
    "open": _NUMBER,
    "close": _NUMBER,
    "high": _NUMBER,
    "low": _NUMBER,
    "window_start": _INTEGER,
    "transactions": _INTEGER,
}
_TRADES = {
    "ticker": _TEXT,
    "conditions": _TEXT,
    "correction": _INTEGER,
    "exchange": _TEXT,
    "id": _TEXT,
    "participant_timestamp": _INTEGER,
    "price": _NUMBER,
    "sequence_number": _INTEGER,
    "sip_timestamp": _INTEGER,
    "size": _NUMBER,
    "tape": _TEXT,
    "trf_id": _TEXT,
    "trf_timestamp": _INTEGER,
}
_QUOTES = {
    "ticker": _TEXT,
    "ask_exchange": _TEXT,
    "ask_price": _NUMBER,
    "ask_size": _NUMBER,
    "bid_exchange": _TEXT,
    "bid_price": _NUMBER,
    "bid_size": _NUMBER,
    "conditions": _TEXT,
    "indicators": _TEXT,
    "participant_timestamp": _INTEGER,
    "sequence_number": _INTEGER,
    "sip_timestamp": _INTEGER,
    "tape": _TEXT,
    "trf_timestamp": _INTEGER,
}
_READ = {
    "aggregates": ("ticker", "volume", "open", "close", "high", "low", "window_start"),
    "trades": (
        "ticker",
        "conditions",
        "correction",
        "exchange",
        "id",
        "price",
        "sequence_number",
        "sip_timestamp",
        "size",
    ),
    "quotes": (
        "ticker",
        "ask_exchange",
        "ask_price",
        "ask_size",
        "bid_exchange",
        "bid_price",
        "bid_size",
        "conditions",
        "sequence_number",
        "sip_timestamp",
    ),
}
"""What is made use of; the other columns are not even parsed."""
_LAYOUTS = {"aggregates": _AGGREGATES, "trades": _TRADES, "quotes": _QUOTES}
_OTHERS = {
    "ticker,open,close,high,low,window_start": "index aggregates, which have no volume",
    "ticker,conditions,correction,exchange,price,sip_timestamp,size": "option trades",
    "ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,sequence_number,sip_timestamp": (
        "option quotes"
    ),
    "ticker,value,timestamp": "index values",
}


def read_flat_file(path: Path, *, skip_rows: int = 0, symbols: Collection[str] | None = None) -> Iterator[FlatBatch]:
    """The rows after the first `skip_rows`, a batch at a time; with `symbols` only those of these tickers.

    Raises `FlatFileError`, which for a file that breaks off comes after the batches before that place.
    """
    layout = _layout(path)
    kind = FlatKind(layout) if layout != "aggregates" else None
    wanted = pa.array(sorted(symbols), _TEXT) if symbols is not None else None
    rows_read = skip_rows
    try:
        size = path.stat().st_size
        with _opened(path) as (stream, plain), _reader(stream, layout, skip_rows) as reader:
            for batch in reader:
                if not batch.num_rows:
                    continue
                if kind is None:
                    kind = _length_of_bars(batch)
                kept = batch if wanted is None else batch.filter(pc.is_in(batch["ticker"], value_set=wanted))
                frame = _FRAMES[kind](kept)
                rows_read += batch.num_rows
                yield FlatBatch(kind, frame, rows_read, plain.tell() / size)
    except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError) as error:
        raise FlatFileError(f"{path}: after {rows_read:,} rows: {one_line(str(error))}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes] | gzip.GzipFile, IO[bytes]]]:
    """The file's text, and the file as it is on the disk."""
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if not packed:
            yield plain, plain
            return
        with gzip.GzipFile(fileobj=plain) as unpacked:
            yield unpacked, plain


def _layout(path: Path) -> str:
    try:
        with _opened(path) as (stream, _):
            header = stream.readline(LONGEST_HEADER).decode("ascii", errors="replace").strip()
            if header and not isinstance(stream, gzip.GzipFile):
                # A packed file has a checksum; of a plain one only its end tells whether it is whole.
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    raise EOFError("the file ends in the middle of a line")
    except (OSError, EOFError, zlib.error) as error:
        raise FlatFileError(f"{path}: {one_line(str(error))}") from error
    names = header.removeprefix("\ufeff")
    for layout, columns in _LAYOUTS.items():
        if names == ",".join(columns):
            return layout
    if names in _OTHERS:
        raise FlatFileError(f"{path}: {_OTHERS[names]} are not imported")
    raise FlatFileError(f"{path}: not the header of a flat file: {one_line(names)[:120]!r}")


def _reader(stream: Any, layout: str, skip_rows: int) -> Any:
    columns = _LAYOUTS[layout]
    read = _READ[layout]
    return pa_csv.open_csv(
        stream,
        read_options=pa_csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=list(columns),
            skip_rows=1,
            skip_rows_after_names=skip_rows,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: columns[name] for name in read},
            include_columns=list(read),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )


def _length_of_bars(batch: pa.RecordBatch) -> FlatKind:
    """Days and minutes have one header. Nobody trades at New York's midnight, with which a day is stamped."""
    first = pd.Timestamp(batch["window_start"][0].as_py() or 0, unit="ns", tz="UTC").tz_convert(NEW_YORK)
    return FlatKind.DAY_AGGS if first == first.normalize() else FlatKind.MINUTE_AGGS


def _day_aggregates(batch: pa.RecordBatch) -> pd.DataFrame:
    stamps = _stamps(batch, "window_start")
    days = local_days(stamps)
    if (seconds_of(stamps) != midnights_of(days)).any():
        raise ValueError("a bar among days that does not start at midnight")
    return pd.DataFrame(
        {
            "symbol": _symbols(batch),
            "session": days.astype("datetime64[s]"),
            **{name: _numbers(batch, name) for name in VALUE_COLUMNS},
            "provisional": np.zeros(batch.num_rows, dtype=np.bool_),
        },
        columns=list(BAR_COLUMNS),
    )


def _minute_aggregates(batch: pa.RecordBatch) -> pd.DataFrame:
    stamps = _stamps(batch, "window_start")
    if (stamps % _MINUTE).any():
        raise ValueError("a bar that does not start on a whole minute")
    return pd.DataFrame(
        {
            "symbol": _symbols(batch),
            "ts": pd.DatetimeIndex(seconds_of(stamps), tz="UTC"),
            **{name: _numbers(batch, name) for name in VALUE_COLUMNS},
            "provisional": np.zeros(batch.num_rows, dtype=np.bool_),
        },
        columns=list(INTRADAY_COLUMNS),
    )


def _trades(batch: pa.RecordBatch) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": _symbols(batch),
            "ts": _instants(_stamps(batch, "sip_timestamp")),
            "seq": _integers(batch, "sequence_number"),
            "price": _numbers(batch, "price"),
            "size": _numbers(batch, "size"),
            "exchange": _texts(batch, "exchange"),
            "trade_id": _texts(batch, "id"),
            "conditions": _texts(batch, "conditions"),
            "correction": _integers(batch, "correction"),
        },
        columns=list(TRADE_COLUMNS),
    )


def _quotes(batch: pa.RecordBatch) -> pd.DataFrame:
    """A side that nobody quotes has the price 0, and then its size and venue say nothing either."""
    stamps = _stamps(batch, "sip_timestamp")
    sides: dict[str, object] = {}
    for side in ("bid", "ask"):
        price = _numbers(batch, f"{side}_price")
        empty = price == 0
        sides[side] = np.where(empty, np.nan, price)
        sides[f"{side}_size"] = in_shares(np.where(empty, np.nan, _numbers(batch, f"{side}_size")), stamps)
        sides[f"{side}_exchange"] = _texts(batch, f"{side}_exchange").where(~empty, "")
    return pd.DataFrame(
        {
            "symbol": _symbols(batch),
            "ts": _instants(stamps),
            "seq": _integers(batch, "sequence_number"),
            **sides,
            "conditions": _texts(batch, "conditions"),
        },
        columns=list(QUOTE_COLUMNS),
    )


_FRAMES = {
    FlatKind.DAY_AGGS: _day_aggregates,
    FlatKind.MINUTE_AGGS: _minute_aggregates,
    FlatKind.TRADES: _trades,
    FlatKind.QUOTES: _quotes,
}


def _stamps(batch: pa.RecordBatch, name: str) -> Instants:
    column = batch[name]
    if column.null_count:
        raise ValueError(f"a row without {name}")
    stamps: Instants = column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    if len(stamps) and (int(stamps.min()) < 0 or int(stamps.max()) > LATEST):
        raise ValueError(f"{name} is no point in time that can be")
    return stamps


def _symbols(batch: pa.RecordBatch) -> pd.Series:
    symbols = _texts(batch, "ticker")
    if (symbols == "").any():
        raise ValueError("a row without a ticker")
    return symbols


def _instants(stamps: Instants) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(stamps.view("datetime64[ns]"), tz="UTC")


def _numbers(batch: pa.RecordBatch, name: str) -> Any:
    """Empty cells become not-a-number; the words for infinity, which the parser knows, are no prices."""
    values = batch[name].to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    if np.isinf(values).any():
        raise ValueError(f"{name} is infinite")
    return values


def _integers(batch: pa.RecordBatch, name: str) -> Any:
    return batch[name].fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _texts(batch: pa.RecordBatch, name: str) -> pd.Series:
    return pd.Series(batch[name].to_pandas(), dtype="str")
