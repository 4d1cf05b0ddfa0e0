"""Alpha Vantage's TIME_SERIES_INTRADAY: minutes on New York's wall clock, newest first, as JSON and as CSV.

Bars of an hour begin on the full hour where the extended hours are in, and at the bell where they are not; what
the provider does there is not documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from market_pipelines.simulator.formats.alpha_vantage import COMPACT_ROWS, CSV_TYPE, TIME_ZONE, invalid_call
from market_pipelines.simulator.formats.reply import JSON, Reply, fill
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import MINUTE, Minutes, grouped, minutes_of
from market_pipelines.simulator.rows import Rows, Spoil
from market_pipelines.simulator.truth import Bars, Days, World

FUNCTION = "TIME_SERIES_INTRADAY"
LENGTHS = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
FULL_REACH = timedelta(days=30)
COLUMNS = ("open", "high", "low", "close", "volume")
CSV_HEADER = "timestamp,open,high,low,close,volume"
CSV_ROW = "%s,%.4f,%.4f,%.4f,%.4f,%.0f\r\n"
JSON_ROW = (
    '        "%s": {\n            "1. open": "%.4f",\n            "2. high": "%.4f",\n            "3. low": "%.4f",\n'
    '            "4. close": "%.4f",\n            "5. volume": "%.0f"\n        }'
)


@dataclass(frozen=True, slots=True)
class Style:
    labels_ends: bool = False
    """Stamps name the end of a bar, as they did in 2020 and 2021."""
    compact_only: bool = False
    """100 rows, whatever was asked for."""
    partial_last_bar: bool = False
    """The bar under way is shown."""
    missing: frozenset[date] = frozenset()
    """Sessions that are left out."""


def answer(query: Mapping[str, str], symbol: str, world: World, now: datetime, spoil: Spoil, style: Style) -> Reply:
    listing = world.spelled("alpha_vantage", symbol)
    length = LENGTHS.get(query.get("interval", ""))
    span = _span(query.get("month", ""), now)
    if listing is None or listing.mic != "XNYS" or length is None or span is None:
        return invalid_call(FUNCTION)
    extended = query.get("extended_hours", "true") != "false"
    minutes = _bars(world, listing, span, now, length, extended=extended, partial=style.partial_last_bar)
    rows = _rows(world, listing, minutes, now, adjusted=query.get("adjusted", "true") != "false")
    if style.missing:
        gone = np.array(sorted(style.missing), dtype="datetime64[D]")
        rows = rows.take(np.flatnonzero(~np.isin(rows.sessions.astype("datetime64[D]"), gone)))
    if style.labels_ends:
        rows = Rows(rows.sessions + length * MINUTE, rows.columns)
    full = query.get("outputsize", "compact") == "full" and not style.compact_only
    if not full:
        rows = rows.take(slice(max(len(rows) - COMPACT_ROWS, 0), None))
    rows = spoil(world.tape(listing, now), rows)
    if not len(rows):
        return invalid_call(FUNCTION)
    if query.get("datatype", "json") == "csv":
        name = f"attachment; filename=intraday_{query['interval']}_{symbol}.csv"
        return Reply(200, as_csv(rows), CSV_TYPE, {"Content-Disposition": name})
    return Reply(200, as_json(rows, symbol, query["interval"], full=full), JSON)


def _span(month: str, now: datetime) -> tuple[date, date] | None:
    """First and last day; None for a month that cannot be asked for."""
    if not month:
        return (now - FULL_REACH).date(), now.date()
    try:
        first = date.fromisoformat(f"{month}-01")
    except ValueError:
        return None
    if first < date(2000, 1, 1) or first > now.date():
        return None
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def _bars(
    world: World,
    listing: Listing,
    span: tuple[date, date],
    now: datetime,
    length: int,
    *,
    extended: bool,
    partial: bool,
) -> Minutes:
    known_until = now + timedelta(minutes=1) if partial else now
    minutes = minutes_of(world, listing, *span, known_until, extended=extended)
    second = np.datetime64(now.replace(tzinfo=None), "s")
    if partial and len(minutes) and minutes.stamps[-1] + MINUTE > second:
        minutes = _begun(minutes, second)
    bars = grouped(minutes, length, "bell" if length == 60 and not extended else "clock")
    return bars if partial else bars.take(bars.stamps + length * MINUTE <= second)


def _begun(minutes: Minutes, now: np.datetime64) -> Minutes:
    """The last minute as far as it has come: its first price, and a part of its volume."""
    share = float((now - minutes.stamps[-1]) / MINUTE)
    last = minutes.bars.row(len(minutes) - 1)
    bars = minutes.bars
    started = Bars(
        bars.open,
        np.append(bars.high[:-1], last.open),
        np.append(bars.low[:-1], last.open),
        np.append(bars.close[:-1], last.open),
        np.append(bars.volume[:-1], np.floor(last.volume * share)),
    )
    return replace(minutes, bars=started)


def _rows(world: World, listing: Listing, minutes: Minutes, now: datetime, *, adjusted: bool) -> Rows:
    """On New York's clock, with the prices that `adjusted` asks for."""
    calendar = world.history(listing, now).calendar
    there = pd.DatetimeIndex(minutes.stamps, tz="UTC").tz_convert(calendar.zone).tz_localize(None)
    local: Days = there.to_numpy().astype("datetime64[s]")
    columns = {name: getattr(minutes.bars, name) for name in COLUMNS}
    if adjusted:
        tape = world.tape(listing, now)
        row = np.searchsorted(tape.sessions, local.astype("datetime64[D]"))
        row = np.minimum(row, len(tape.sessions) - 1)
        factor = tape.dividend_factor[row] / tape.split_factor[row]
        columns = {name: column * (factor if name != "volume" else 1.0) for name, column in columns.items()}
        columns["volume"] = columns["volume"] * tape.split_factor[row]
    return Rows(local, columns)


def _cells(rows: Rows) -> list[list[object]]:
    """Newest first."""
    stamps = np.char.replace(np.datetime_as_string(rows.sessions[::-1].astype("datetime64[s]")), "T", " ").tolist()
    return [stamps, *(rows.columns[name][::-1].tolist() for name in COLUMNS)]


def as_csv(rows: Rows) -> bytes:
    return f"{CSV_HEADER}\r\n{fill(CSV_ROW, _cells(rows))}".encode()


def as_json(rows: Rows, symbol: str, interval: str, *, full: bool) -> bytes:
    cells = _cells(rows)
    return (
        "{\n"
        '    "Meta Data": {\n'
        f'        "1. Information": "Intraday ({interval}) open, high, low, close prices and volume",\n'
        f'        "2. Symbol": "{symbol}",\n'
        f'        "3. Last Refreshed": "{cells[0][0]}",\n'
        f'        "4. Interval": "{interval}",\n'
        f'        "5. Output Size": "{"Full size" if full else "Compact"}",\n'
        f'        "6. Time Zone": "{TIME_ZONE}"\n'
        "    },\n"
        f'    "Time Series ({interval})": {{\n'
        f"{fill(JSON_ROW, cells, between=',' + chr(10))}\n"
        "    }\n"
        "}"
    ).encode()
