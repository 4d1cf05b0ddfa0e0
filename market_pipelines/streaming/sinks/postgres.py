"""The sink of PostgreSQL: the newest of each symbol, minute bars, what could not be read, and ticks where asked for.

Everything of a chunk and the cursor are one transaction. Chunks are reduced to rows here, on columns; the tables'
own rules of what is newer are in the store.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Database
from market_pipelines.store.lake_columns import instant
from market_pipelines.store.stream_bars import BAR_COLUMNS, write_stream_bars
from market_pipelines.store.stream_cursors import read_cursor, write_cursor
from market_pipelines.store.stream_ticks import (
    BAND_COLUMNS,
    LATEST_COLUMNS,
    QUOTE_COLUMNS,
    TRADE_COLUMNS,
    StoredReject,
    merge_latest,
    write_bands,
    write_quotes,
    write_rejects,
    write_trades,
)
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.protocol import Cursor
from market_pipelines.streaming.sinks.translate import translated

NAME = "postgres"
MOST_REJECTS = 1_000
"""Of one chunk: a feed that sends nothing but rubbish is told of, not stored whole."""
_WHAT = "the tables of the stream in PostgreSQL"
_MINUTE = timedelta(minutes=1)
_NO_PRICE = TickMark.CONDITION | TickMark.CORRECTED | TickMark.OUTLIER | TickMark.NOT_POSITIVE | TickMark.FUTURE
_NO_SIDES = TickMark.CROSSED | TickMark.FUTURE
_OLD = TickMark.FILLED
_STORED = pl.Datetime("us", "UTC")
_TICK_ROWS = {
    TickKind.TRADES: (("exchange", "trade_id", "conditions"), TRADE_COLUMNS),
    TickKind.QUOTES: (("bid_exchange", "ask_exchange", "conditions"), QUOTE_COLUMNS),
    TickKind.BANDS: (("indicators", "tape"), BAND_COLUMNS),
}
"""Texts that are never missing there, and the columns."""


class PostgresSink:
    name = NAME
    collects = 60.0

    def __init__(
        self,
        database: Database,
        *,
        stream: str,
        market: str,
        currency: str,
        zone: ZoneInfo,
        ticks: bool,
        clock: Callable[[], datetime],
        journal: str = "",
    ) -> None:
        """`ticks`: also into `stream_trades`, `stream_quotes` and `stream_bands`."""
        self._database = database
        self._stream = stream
        self._market = market
        self._currency = currency
        self._zone = zone
        self._ticks = ticks
        self._clock = clock
        self._journal = journal

    def open(self) -> Cursor | None:
        with translated(_WHAT), self._database.connection() as connection:
            found = read_cursor(connection, self._stream, NAME, self._journal)
            connection.execute("SELECT FROM market.stream_bars LIMIT 1")
        return None if found is None else Cursor(*found)

    def write(self, chunk: Chunk) -> int:
        latest = latest_of(chunk, self._currency)
        bars = minute_bars(chunk)
        filled = int(TickMark.FILLED)
        with translated(_WHAT), self._database.connection() as connection:
            rows = merge_latest(connection, self._market, self._zone.key, latest)
            rows += write_stream_bars(connection, self._market, bars)
            if self._ticks:
                trades = tick_rows(chunk, TickKind.TRADES, self._zone)
                rows += write_trades(connection, self._market, trades, filled=filled)
                quotes = tick_rows(chunk, TickKind.QUOTES, self._zone)
                rows += write_quotes(connection, self._market, quotes, filled=filled)
                bands = tick_rows(chunk, TickKind.BANDS, self._zone)
                rows += write_bands(connection, self._market, bands, filled=filled)
            rows += write_rejects(connection, self._stream, chunk.journal, _rejects(chunk))
            write_cursor(connection, self._stream, NAME, journal=chunk.journal, position=chunk.upto, at=self._clock())
        return rows

    def close(self) -> None:
        """Its connections are the database's."""


def latest_of(chunk: Chunk, currency: str) -> pa.Table:
    """One row a symbol, of `LATEST_COLUMNS`: the last price, sides and day that the chunk tells of it."""
    told_by = (
        (TickKind.TRADES, _prices),
        (TickKind.QUOTES, _sides),
        (TickKind.SNAPSHOTS, partial(_days, currency=currency)),
        (TickKind.AGGREGATES, _volumes),
    )
    found = [part(chunk) for kind, part in told_by if len(chunk.table(kind))]  # each costs without any rows as well
    parts = [part for part in found if len(part)]
    if not parts:
        return _empty(LATEST_COLUMNS)
    told = pl.concat(parts, how="diagonal").sort("at", maintain_order=True)
    for name in LATEST_COLUMNS:
        if name not in told.columns and name not in ("as_of", "provider"):
            told = told.with_columns(pl.lit(None, dtype=_kind(name)).alias(name))
    sides = told.filter(pl.col("has_sides") if "has_sides" in told.columns else pl.lit(False))
    newest = told.group_by("symbol").agg(
        pl.col("price", "priced_at", "open", "high", "low", "previous_close", "volume", "currency").drop_nulls().last(),
        pl.col("at").max().alias("as_of"),
        pl.col("feed").last().alias("provider"),
        pl.col("received_at").max(),
    )
    of_sides = sides.group_by("symbol").agg(pl.col("bid", "ask", "bid_size", "ask_size").last())
    joined = newest.join(of_sides, on="symbol", how="left").with_columns(
        pl.coalesce("price", pl.col("bid") / 2 + pl.col("ask") / 2).alias("price"),
        pl.col("currency").fill_null(currency),
    )
    return joined.select(*LATEST_COLUMNS).sort("symbol").to_arrow()


def _prices(chunk: Chunk) -> pl.DataFrame:
    return (
        _frame(chunk, TickKind.TRADES)
        .filter(_unmarked(_NO_PRICE | _OLD) & pl.col("price").is_finite())
        .sort("ts", "seq", maintain_order=True)
        .unique("symbol", keep="last", maintain_order=True)
        .select("symbol", "price", _us("ts").alias("priced_at"), _us("ts").alias("at"), _us("received_at"), "feed")
    )


def _sides(chunk: Chunk) -> pl.DataFrame:
    names = ("bid", "ask", "bid_size", "ask_size")
    return (
        _frame(chunk, TickKind.QUOTES)
        .filter(_unmarked(_NO_SIDES | _OLD))
        .sort("ts", "seq", maintain_order=True)
        .unique("symbol", keep="last", maintain_order=True)
        .select("symbol", *names, pl.lit(True).alias("has_sides"), _us("ts").alias("at"), _us("received_at"), "feed")
    )


def _days(chunk: Chunk, currency: str) -> pl.DataFrame:
    sides = ("bid", "ask", "bid_size", "ask_size")
    day = ("open", "high", "low", "previous_close", "volume")
    found = (
        _frame(chunk, TickKind.SNAPSHOTS)
        .filter(_unmarked(TickMark.FUTURE | _OLD) & pl.col("price").is_finite())
        .sort("ts", "received_at", maintain_order=True)
        .unique("symbol", keep="last", maintain_order=True)
    )
    said = pl.when(pl.col("currency") != "").then(pl.col("currency")).otherwise(pl.lit(currency))
    has_sides = pl.col("bid").is_not_null() | pl.col("ask").is_not_null()
    return found.select(
        "symbol",
        "price",
        *sides,
        *day,
        said.alias("currency"),
        has_sides.alias("has_sides"),
        _us("ts").alias("priced_at"),
        _us("ts").alias("at"),
        _us("received_at"),
        "feed",
    )


def _volumes(chunk: Chunk) -> pl.DataFrame:
    """An aggregate says how much the day has traded so far."""
    return (
        _frame(chunk, TickKind.AGGREGATES)
        .filter(_unmarked(TickMark.FUTURE | _OLD) & pl.col("av").is_not_null())
        .sort("end", "received_at", maintain_order=True)
        .unique("symbol", keep="last", maintain_order=True)
        # What it tells of is the moment before it ends: a trade at its very end is newer.
        .select("symbol", pl.col("av").alias("volume"), _us("start").alias("at"), _us("received_at"), "feed")
    )


def minute_bars(chunk: Chunk) -> pa.Table:
    """The newest version of each minute that the chunk tells of."""
    if not len(chunk.table(TickKind.AGGREGATES)):
        return _empty(BAR_COLUMNS)
    found = _frame(chunk, TickKind.AGGREGATES).filter((pl.col("end") - pl.col("start")) == _MINUTE)
    names = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "vw": "vwap"}
    whole = pl.all_horizontal(pl.col("o", "h", "l", "c", "v").is_finite())
    return (
        found.filter(whole)
        .sort("received_at", maintain_order=True)
        .unique(["symbol", "start"], keep="last", maintain_order=True)
        .rename(names)
        .with_columns(_us("start").alias("ts"), _us("received_at"))
        .select(*BAR_COLUMNS)
        .sort("symbol", "ts")
        .to_arrow()
    )


def tick_rows(chunk: Chunk, kind: TickKind, zone: ZoneInfo) -> pa.Table:
    words, columns = _TICK_ROWS[kind]
    return (
        _frame(chunk, kind)
        .with_columns(
            pl.col("ts").dt.convert_time_zone(zone.key).dt.date().alias("session"),
            pl.col("ts").dt.epoch("ns").alias("ts_ns"),
            pl.col(words).fill_null(""),
            pl.col("seq").fill_null(0),
        )
        .with_columns(_us("ts"), _us("received_at"))
        .select(*columns)
        .to_arrow()
    )


def _rejects(chunk: Chunk) -> list[StoredReject]:
    return [
        StoredReject(one.position, one.place, one.format.value, instant(one.received_ns), one.reason, one.body)
        for one in chunk.rejects[:MOST_REJECTS]
    ]


def _frame(chunk: Chunk, kind: TickKind) -> pl.DataFrame:
    return pl.DataFrame(chunk.table(kind))


def _unmarked(marks: TickMark) -> pl.Expr:
    return (pl.col("marks") & int(marks)) == 0


def _us(name: str) -> pl.Expr:
    """As much of a time as PostgreSQL keeps; what is beyond is cut off, never rounded up."""
    return pl.col(name).cast(_STORED)


def _kind(name: str) -> pl.DataType:
    match LATEST_COLUMNS[name]:
        case "timestamptz":
            return _STORED
        case "text":
            return pl.String()
        case _:
            return pl.Float64()


def _empty(columns: dict[str, str]) -> pa.Table:
    return pl.DataFrame(schema=dict.fromkeys(columns, pl.String())).to_arrow()
