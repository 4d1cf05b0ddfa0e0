"""Alpha Vantage's GLOBAL_QUOTE and REALTIME_BULK_QUOTES."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from market_pipelines.simulator.formats.alpha_vantage import CSV_TYPE, invalid_call
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.truth import World

MOST = 100
QUOTE_HEADER = "symbol,open,high,low,price,volume,latestDay,previousClose,change,changePercent"
QUOTE_KEYS = (
    "01. symbol",
    "02. open",
    "03. high",
    "04. low",
    "05. price",
    "06. volume",
    "07. latest trading day",
    "08. previous close",
    "09. change",
    "10. change percent",
)


def as_json(body: Any) -> Reply:
    return Reply(200, json.dumps(body, indent=4).encode(), JSON)


def as_csv(header: str, rows: list[list[str]]) -> Reply:
    lines = "".join(f"{','.join(row)}\r\n" for row in rows)
    return Reply(200, f"{header}\r\n{lines}".encode(), CSV_TYPE)


def global_quote(query: Mapping[str, str], symbol: str, world: World, now: datetime) -> Reply:
    """Of the last closed session, as free keys get it."""
    listing = world.spelled("alpha_vantage", symbol)
    tape = world.tape(listing, now) if listing is not None else None
    wants_csv = query.get("datatype", "json") == "csv"
    if tape is None or len(tape.sessions) < 2:
        return as_csv(QUOTE_HEADER, []) if wants_csv else as_json({"Global Quote": {}})
    bar, before = tape.bars.row(len(tape.sessions) - 1), float(tape.bars.close[-2])
    change = bar.close - before
    cells = [
        symbol,
        *(f"{price:.4f}" for price in (bar.open, bar.high, bar.low, bar.close)),
        f"{bar.volume:.0f}",
        str(tape.sessions[-1]),
        f"{before:.4f}",
        f"{change:.4f}",
        f"{change / before * 100:.4f}%",
    ]
    if wants_csv:
        return as_csv(QUOTE_HEADER, [cells])
    return as_json({"Global Quote": dict(zip(QUOTE_KEYS, cells, strict=True))})


def bulk_quotes(query: Mapping[str, str], _symbol: str, world: World, now: datetime) -> Reply:
    """Symbols that nobody knows are left out."""
    symbols = [symbol for symbol in query.get("symbol", "").split(",") if symbol]
    if not 0 < len(symbols) <= MOST:
        return invalid_call("REALTIME_BULK_QUOTES")
    found = [(symbol, world.spelled("alpha_vantage", symbol)) for symbol in symbols]
    rows = [row for symbol, listing in found if listing is not None and (row := _bulk_row(symbol, listing, world, now))]
    if query.get("datatype", "json") == "csv" and rows:
        return as_csv(",".join(rows[0]), [list(row.values()) for row in rows])
    return as_json({"endpoint": "Realtime Bulk Quotes", "message": "success", "data": rows})


def _bulk_row(symbol: str, listing: Listing, world: World, now: datetime) -> dict[str, str]:
    """The running session's numbers, or the last one's; the extended price beside them where that is newer."""
    tape = world.tape(listing, now)
    if listing.mic != "XNYS" or len(tape.sessions) < 2:
        return {}
    closed = tape.sessions[-1].item()
    minutes = minutes_of(world, listing, closed, tape.calendar.local_date(now), now, extended=True)
    opened = np.datetime64(tape.calendar.times(closed).closes.replace(tzinfo=None), "s")
    running = minutes.take((minutes.phase == "regular") & (minutes.stamps >= opened))
    session = running if len(running) else minutes.take((minutes.phase == "regular") & (minutes.stamps < opened))
    before = float(tape.bars.close[-1 if len(running) else -2])
    bars, close = session.bars, float(session.bars.close[-1])
    outside = str(minutes.phase[-1]) != "regular"
    extended = float(minutes.bars.close[-1])
    local = minutes.stamps[-1].item().replace(tzinfo=UTC).astimezone(tape.calendar.zone)
    return {
        "symbol": symbol,
        "timestamp": f"{local:%Y-%m-%d %H:%M}:59.500",
        "open": _plain(float(bars.open[0])),
        "high": _plain(float(bars.high.max())),
        "low": _plain(float(bars.low.min())),
        "close": _plain(close),
        "volume": f"{bars.volume.sum():.0f}",
        "previous_close": _plain(before),
        "change": _plain(close - before),
        "change_percent": f"{(close / before - 1) * 100:.4f}",
        "extended_hours_quote": _plain(extended) if outside else "",
        "extended_hours_change": _plain(extended - close) if outside else "",
        "extended_hours_change_percent": f"{(extended / close - 1) * 100:.5f}" if outside else "",
    }


def _plain(value: float) -> str:
    """Four decimals at most, and not padded."""
    return f"{round(value, 4)!r}"
