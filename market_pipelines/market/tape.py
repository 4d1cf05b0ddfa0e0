"""Minute bars out of single trades by the rules of the consolidated tape, and out of what was seen of a symbol.

A trade's conditions say what it counts for: the highest and lowest price, the first and last one, the volume. Who
reads the trades, and what is missing of them, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntFlag
from types import MappingProxyType

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from market_pipelines.market.intraday import Phase, phased
from market_pipelines.market.live import TickMark
from market_pipelines.market.sessions import TradingCalendar

MINUTE_NS = 60_000_000_000
BAR_COLUMNS = (
    "symbol",
    "session",
    "ts",
    "phase",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "vwap",
    "trades",
)
"""What bars are told in: `session` is datetime64[s], `ts` the minute's beginning in datetime64[s, UTC]."""


class Counts(IntFlag):
    """What of a bar a trade moves."""

    NOTHING = 0
    HIGH_LOW = 1
    OPEN_CLOSE = 2
    VOLUME = 4
    EVERYTHING = 7


_NO_LAST = Counts.HIGH_LOW | Counts.VOLUME
FORM_T = 12
"""A trade outside of regular hours."""
CONDITIONS: Mapping[int, Counts] = MappingProxyType(
    {
        2: Counts.VOLUME,  # average price
        5: _NO_LAST,  # bunched, sold out of sequence
        7: Counts.VOLUME,  # cash sale
        10: _NO_LAST,  # derivatively priced
        FORM_T: Counts.VOLUME,
        13: Counts.VOLUME,  # extended hours, sold out of sequence
        # The official prices repeat the auctions' own trades, volume and all.
        15: Counts.NOTHING,  # official close of a market center
        16: Counts.NOTHING,  # official open
        20: Counts.VOLUME,  # settles on the next day
        21: Counts.VOLUME,  # price variation
        22: _NO_LAST,  # priced by an earlier reference
        29: _NO_LAST,  # settles when the seller says
        32: _NO_LAST,  # sold, out of sequence
        33: _NO_LAST,
        35: Counts.VOLUME,  # tied to an option
        37: Counts.VOLUME,  # odd lot
        38: Counts.HIGH_LOW | Counts.OPEN_CLOSE,  # corrected consolidated close
        42: Counts.VOLUME,  # not eligible
        43: Counts.VOLUME,
        44: Counts.NOTHING,  # cancelled
        47: Counts.VOLUME,  # as of an earlier time
        49: Counts.NOTHING,  # cancelled as of an earlier time
        50: Counts.VOLUME,  # out of bounds
        51: Counts.NOTHING,  # a summary
        52: Counts.VOLUME,  # contingent
        53: Counts.VOLUME,  # qualified contingent
        54: Counts.NOTHING,  # errored
    }
)
"""By the id of a condition; one that is not here takes nothing away. The consolidated rules of the tape's processors,
as Polygon's `/v3/reference/conditions` spells them in `update_rules`."""


def counts_of(conditions: str, phase: Phase) -> Counts:
    """What a trade with these ids, commas between, counts for: what none of them takes away.

    By the letter of the tape Form T never makes a price. Its aggregates of extended hours would be empty then: there,
    as at Polygon, it is the ordinary trade.
    """
    found = Counts.EVERYTHING
    for word in conditions.split(","):
        number = int(word) if word.strip().isdigit() else -1
        if number == FORM_T and phase is not Phase.REGULAR:
            continue
        found &= CONDITIONS.get(number, Counts.EVERYTHING)
    return found


def columns_of(table: pa.Table) -> pl.DataFrame:
    """A table of ticks as the functions here take it."""
    found = pl.from_arrow(table)
    if not isinstance(found, pl.DataFrame):
        raise TypeError(f"a table was expected, and there is a {type(found).__name__}")
    return found


def once(trades: pl.DataFrame) -> pl.DataFrame:
    """The trades of one session that stand, each once, however often and by whatever way it came: a stream tells
    it to the millisecond, history to the nanosecond. One that any of its versions cancels or corrects is gone."""
    nameless = (pl.col("seq") == 0) & (pl.col("trade_id").fill_null("") == "")
    keyed = trades.with_columns(
        *(pl.when(nameless).then(pl.col(name)).otherwise(None).alias(f"_{name}") for name in ("ts", "price", "size"))
    )
    key = ["symbol", "seq", "exchange", "trade_id", "_ts", "_price", "_size"]
    taken_back = (pl.col("correction").fill_null(0) != 0) | (
        pl.col("marks").fill_null(0) & int(TickMark.CORRECTED) != 0
    )
    gone = keyed.filter(taken_back).select(key).unique()
    standing = keyed.join(gone, on=key, how="anti", nulls_equal=True) if len(gone) else keyed
    return standing.unique(key, keep="any").select(trades.columns)


def bars_of(trades: pl.DataFrame, calendar: TradingCalendar) -> pd.DataFrame:
    """The minute bars of trades (columns of `market.live.TRADES`) of one session, by symbol and minute.

    Trades outside of every phase of the exchange's day make none, and neither does a minute in which no trade makes
    a price: odd lots alone have a volume, but no open. `trades` counts those that count for the volume.
    """
    needed = ["symbol", "ts", "seq", "price", "size", "exchange", "trade_id", "conditions", "correction", "marks"]
    frame = trades.select(needed).filter((pl.col("price") > 0) & (pl.col("size") > 0))
    frame = once(frame).with_columns(pl.col("ts").dt.epoch("ns").alias("at"))
    frame = frame.with_columns((pl.col("at") // MINUTE_NS).alias("minute"))
    minutes = _minutes(frame["minute"].unique().to_list(), calendar)
    if frame.is_empty() or minutes.is_empty():
        return empty_bars()
    rules = _rules(frame["conditions"].fill_null("").unique().to_list())
    counted = (
        frame.select("symbol", "minute", "at", "seq", "price", "size", pl.col("conditions").fill_null(""))
        .join(minutes, on="minute")
        .join(rules, on="conditions")
        .with_columns(pl.when(pl.col("phase") == Phase.REGULAR.value).then("regular").otherwise("extended").alias("is"))
        # A stream's milliseconds and history's nanoseconds go together; within one the sequence decides.
        .sort(pl.col("at") // 1_000_000, "seq", "at")
    )
    priced = pl.col("is") & int(Counts.OPEN_CLOSE) != 0
    ranged = pl.col("is") & int(Counts.HIGH_LOW | Counts.OPEN_CLOSE) != 0
    sized = pl.col("is") & int(Counts.VOLUME) != 0
    bars = (
        counted.group_by("symbol", "minute", "session", "phase", maintain_order=True)
        .agg(
            pl.col("price").filter(priced).first().alias("open"),
            pl.col("price").filter(ranged).max().alias("high"),
            pl.col("price").filter(ranged).min().alias("low"),
            pl.col("price").filter(priced).last().alias("close"),
            pl.col("size").filter(sized).sum().alias("volume"),
            (pl.col("price") * pl.col("size")).filter(sized).sum().alias("turnover"),
            sized.sum().cast(pl.Int64).alias("trades"),
        )
        .filter(pl.col("open").is_not_null())
        .with_columns(
            pl.when(pl.col("volume") > 0).then(pl.col("turnover") / pl.col("volume")).otherwise(None).alias("vwap")
        )
    )
    return _told(bars)


def bars_of_snapshots(snapshots: pl.DataFrame, calendar: TradingCalendar) -> pd.DataFrame:
    """The minute bars of what was seen of symbols (columns of `market.live.SNAPSHOTS`), as far as looks can tell.

    A look counts where something has happened since the one before it. Open and close are the first and last price
    seen; a day's high or low that has moved since the last look was reached in between; the volume is what the
    day's has grown by. What had been traded before the first look belongs to no bar, unless that look falls into
    the minute of the opening bell. `trades` counts the looks.
    """
    needed = ["symbol", "ts", "received_at", "price", "open", "high", "low", "volume"]
    frame = snapshots.select(needed).filter(pl.col("price") > 0)
    frame = frame.with_columns(pl.coalesce("ts", "received_at").dt.epoch("ns").alias("at"))
    frame = frame.with_columns((pl.col("at") // MINUTE_NS).alias("minute"))
    minutes = _minutes(frame["minute"].unique().to_list(), calendar)
    if frame.is_empty() or minutes.is_empty():
        return empty_bars()
    day = ["symbol", "session"]
    looks = (
        frame.join(minutes, on="minute")
        .sort("symbol", "at", "received_at")
        .with_columns(
            pl.col("price").shift(1).over(day).alias("price_before"),
            pl.col("at").shift(1).over(day).alias("at_before"),
            # What a provider does not say once, it has not taken back.
            *(
                pl.col(name).cum_max().forward_fill().shift(1).over(day).alias(f"{name}_before")
                for name in ("high", "volume")
            ),
            pl.col("low").cum_min().forward_fill().shift(1).over(day).alias("low_before"),
        )
    )
    first = pl.col("price_before").is_null()
    at_the_bell = first & pl.col("bell")
    grown = (
        pl.when(at_the_bell)
        .then(pl.col("volume"))
        .when(first)
        .then(0.0)
        .otherwise((pl.col("volume") - pl.col("volume_before")).clip(lower_bound=0.0))
    )
    looks = looks.with_columns(grown.fill_null(0.0).alias("grown"))
    moved = pl.col("price") != pl.col("price_before")
    told_by_time = pl.col("volume").is_null() & (pl.col("at") != pl.col("at_before"))
    seen = looks.filter(first | moved | (pl.col("grown") > 0) | told_by_time).with_columns(
        pl.when(at_the_bell).then(pl.coalesce("open", "price")).otherwise("price").alias("begins"),
        pl.when(at_the_bell | (pl.col("high") > pl.col("high_before"))).then("high").alias("reached"),
        pl.when(at_the_bell | (pl.col("low") < pl.col("low_before"))).then("low").alias("fallen"),
    )
    bars = seen.group_by("symbol", "minute", "session", "phase", maintain_order=True).agg(
        pl.col("begins").first().alias("open"),
        pl.max_horizontal("price", "begins", "reached").max().alias("high"),
        pl.min_horizontal("price", "begins", "fallen").min().alias("low"),
        pl.col("price").last().alias("close"),
        pl.col("grown").sum().alias("volume"),
        pl.lit(None, dtype=pl.Float64).alias("vwap"),
        pl.len().cast(pl.Int64).alias("trades"),
    )
    return _told(bars)


def empty_bars() -> pd.DataFrame:
    numbers = ("open", "high", "low", "close", "volume", "vwap")
    return pd.DataFrame(
        {
            "symbol": pd.Series(dtype="str"),
            "session": pd.Series(dtype="datetime64[s]"),
            "ts": pd.Series(dtype="datetime64[s, UTC]"),
            "phase": pd.Series(dtype="str"),
            **{name: pd.Series(dtype="float64") for name in numbers},
            "trades": pd.Series(dtype="int64"),
        }
    )


def _minutes(minutes: Iterable[int], calendar: TradingCalendar) -> pl.DataFrame:
    """Session and phase of each minute that has any, and whether it begins with the opening bell."""
    known = np.sort(np.fromiter(minutes, dtype=np.int64))
    stamps = pd.DataFrame({"ts": pd.DatetimeIndex((known * 60).astype("datetime64[s]"), tz="UTC")})
    inside = phased(stamps, calendar)
    seconds = inside["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    return pl.DataFrame(
        {
            "minute": seconds.astype(np.int64) // 60,
            "session": inside["session"].to_numpy().astype("datetime64[D]").astype(np.int64).astype(np.int32),
            "phase": inside["phase"].astype(str).tolist(),
            "bell": np.isin(seconds, calendar.opens),
        },
        schema={"minute": pl.Int64, "session": pl.Int32, "phase": pl.String, "bell": pl.Boolean},
    )


def _rules(conditions: Iterable[str]) -> pl.DataFrame:
    words = list(conditions)
    return pl.DataFrame(
        {
            "conditions": words,
            "regular": [int(counts_of(word, Phase.REGULAR)) for word in words],
            "extended": [int(counts_of(word, Phase.PRE)) for word in words],
        },
        schema={"conditions": pl.String, "regular": pl.Int64, "extended": pl.Int64},
    )


def _told(bars: pl.DataFrame) -> pd.DataFrame:
    ordered = bars.sort("symbol", "minute")
    numbers = {name: ordered[name].cast(pl.Float64).to_numpy() for name in ("open", "high", "low", "close", "volume")}
    return pd.DataFrame(
        {
            "symbol": pd.Series(ordered["symbol"].to_list(), dtype="str"),
            "session": ordered["session"].to_numpy().astype("datetime64[D]").astype("datetime64[s]"),
            "ts": pd.DatetimeIndex((ordered["minute"].to_numpy() * 60).astype("datetime64[s]"), tz="UTC"),
            "phase": pd.Series(ordered["phase"].to_list(), dtype="str"),
            **numbers,
            "vwap": ordered["vwap"].cast(pl.Float64).to_numpy(),
            "trades": ordered["trades"].to_numpy(),
        }
    )[list(BAR_COLUMNS)]
