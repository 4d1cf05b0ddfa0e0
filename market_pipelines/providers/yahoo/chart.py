"""The chart body, which daily and intraday bars share: its columns, its clock, its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Annotated
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd

from market_pipelines.market.currencies import in_units_of
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import malformed
from market_pipelines.providers.frames import Days, Flags, Floats
from market_pipelines.providers.protocol import Parsed
from market_pipelines.providers.yahoo.envelopes import open_envelope

PRICES = ("open", "high", "low", "close")
SINGLE_PRECISION = 2.0**-24
RESTATED_PRECISION = 5e-7
"""Restated prices come with six decimals."""
BEYOND_BELIEF = 1e15
"""No price and no volume is larger; what is would overflow where digits are cut."""

Epoch = Annotated[int, msgspec.Meta(ge=-5_000_000_000, le=100_000_000_000)]


class Period(msgspec.Struct):
    start: Epoch
    end: Epoch


class TradingPeriod(msgspec.Struct):
    regular: Period
    pre: Period | None = None
    post: Period | None = None


class Meta(msgspec.Struct, rename="camel"):
    symbol: str
    currency: str | None = None
    exchange_timezone_name: str = ""
    data_granularity: str = ""
    regular_market_time: Epoch | None = None
    current_trading_period: TradingPeriod | None = None
    trading_periods: msgspec.Raw = msgspec.Raw(b"null")


class Columns(msgspec.Struct):
    open: list[float | None] = []
    high: list[float | None] = []
    low: list[float | None] = []
    close: list[float | None] = []
    volume: list[float | None] = []


class Indicators(msgspec.Struct):
    quote: list[Columns] = []


class Dividend(msgspec.Struct):
    amount: float
    date: Epoch


class Split(msgspec.Struct):
    date: Epoch
    numerator: float
    denominator: float


class Events(msgspec.Struct):
    dividends: dict[str, Dividend] = {}
    splits: dict[str, Split] = {}


class Result(msgspec.Struct):
    meta: Meta
    timestamp: list[Epoch] | None = None
    events: Events | None = None
    indicators: Indicators = msgspec.field(default_factory=Indicators)


_results: msgspec.json.Decoder[list[Result] | None] = msgspec.json.Decoder(list[Result] | None)


def chart_address(base_url: str, native: str) -> str:
    return f"{base_url}/v8/finance/chart/{quote(native, safe='')}"


def read_chart(body: bytes, expected: str) -> Result | Parsed:
    """The chart about a symbol, or what is wrong with the answer; `ValueError` where it cannot be read."""
    chart = open_envelope(body).get("chart")
    results = _results.decode(chart.result) if chart is not None else None
    if not results:
        return malformed("no chart in the answer")
    result = results[0]
    if result.meta.symbol.upper() != expected.upper():
        return malformed(f"asked for {expected}, the answer is about {result.meta.symbol}")
    if not result.timestamp and result.meta.currency is None:
        return Parsed(Outcome.UNKNOWN_SYMBOL, f"{expected} has neither a currency nor a bar")
    return result


def midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, time(), tzinfo=zone).timestamp())


def zone_named(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"'{name}' is not a time zone") from error


def local_days(stamps: list[int], zone: ZoneInfo) -> Days:
    moments = pd.DatetimeIndex(np.array(stamps, dtype=np.int64).astype("datetime64[s]"), tz="UTC")
    days: Days = moments.tz_convert(zone).tz_localize(None).to_numpy().astype("datetime64[D]")
    return days


def columns_of(result: Result, rows: int) -> dict[str, Floats]:
    if not result.indicators.quote:
        raise ValueError("time stamps without prices")
    cells = result.indicators.quote[0]
    columns = {name: getattr(cells, name) for name in (*PRICES, "volume")}
    lengths = {name: len(column) for name, column in columns.items() if len(column) != rows}
    if lengths:
        raise ValueError(f"{rows} time stamps, but {lengths}")
    return {name: _believable(np.array(column, dtype=np.float64)) for name, column in columns.items()}


def priced_rows(values: Mapping[str, Floats]) -> Flags:
    """Which rows have any price at all: Yahoo lists sessions and minutes without a trade as null."""
    priced: Flags = ~np.logical_and.reduce([np.isnan(values[name]) for name in PRICES])
    return priced


def price_unit(currency: str | None, instrument: Instrument) -> float:
    """What turns the body's prices into the instrument's currency: London's come in pence. Points have no unit."""
    if not currency or instrument.kind is Kind.INDEX:
        return 1.0
    return in_units_of(currency, instrument.currency)


def restored(values: Mapping[str, Floats], factor: Floats, unit: float) -> dict[str, Floats]:
    """Prices by `factor` and in another unit, without the digits that single precision or restating made up."""
    with np.errstate(all="ignore"):
        prices = {name: values[name] * (factor * unit) for name in PRICES}
        largest = np.fmax.reduce([np.abs(column) for column in prices.values()])
        error = SINGLE_PRECISION * largest + np.where(factor > 1.0, RESTATED_PRECISION * factor * unit, 0.0)
        decimals = np.nan_to_num(np.floor(-np.log10(2.0 * error)), nan=6.0, posinf=6.0, neginf=2.0)
        scale = 10.0 ** np.clip(decimals, 2.0, 6.0)
        found = {name: _finite(np.rint(column * scale) / scale) for name, column in prices.items()}
        volume = values["volume"]
        found["volume"] = _finite(np.where(factor == 1.0, volume, np.rint(volume / factor)))
    return found


def _believable(column: Floats) -> Floats:
    return np.where(np.abs(column) < BEYOND_BELIEF, column, np.nan)


def _finite(column: Floats) -> Floats:
    return np.where(np.isfinite(column), column, np.nan)
