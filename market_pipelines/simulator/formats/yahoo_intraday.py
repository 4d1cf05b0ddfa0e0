"""Yahoo's `/v8/finance/chart/{symbol}` with an interval below a day.

Bars are stamped with their start and adjusted for splits, without events. A regular minute in which nobody traded
is a row of nulls; while trading goes on, the last row is the latest trade, stamped with its own second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.formats.yahoo import (
    EXTENDED,
    Style,
    asked_period,
    chart_meta,
    daily_rows,
    edge,
    market_time,
    widened,
)
from market_pipelines.simulator.formats.yahoo_refusals import NOT_FOUND, failure
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import Minutes, grouped, minutes_of
from market_pipelines.simulator.truth import Bars, Days, Tape, World

LENGTHS = {"1m": 1, "2m": 2, "5m": 5, "15m": 15, "30m": 30, "60m": 60, "90m": 90, "1h": 60}
"""Minutes by interval."""
REACH = {"1m": (8, 30), "60m": (730, 730), "1h": (730, 730)}
"""Days in one request, and back from now; others have 60 and 60."""
COLUMNS = ("volume", "close", "open", "low", "high")


@dataclass(frozen=True, slots=True)
class IntradayStyle:
    shown_symbol: str = ""
    granularity: str = ""
    """Answers with these bars, whatever was asked for."""
    live_duplicate: bool = False
    """The session's last trade is a row of its own even in the evening."""
    stray_extended: bool = False
    """Rows from before and after the bells though nobody asked for them."""
    null_rows: int = 0
    """So many of the newest bars have no values."""
    hides_rows: bool = False
    missing: frozenset[date] = frozenset()
    """These sessions are left out."""


def answer(symbol: str, query: Mapping[str, str], world: World, now: datetime, style: IntradayStyle) -> Reply:
    listing = world.spelled("yahoo", style.shown_symbol or symbol)
    if listing is None:
        return NOT_FOUND
    interval = style.granularity if style.granularity in LENGTHS else query["interval"]
    tape = world.tape(listing, now, forming=True)
    period = asked_period(query, tape)
    if isinstance(period, Reply):
        return period
    refused = _beyond_reach(query["interval"], *period, now)
    if refused is not None:
        return refused
    extended = query.get("includePrePost", "false") == "true"
    rows = _rows(world, listing, tape, period, interval, extended=extended or style.stray_extended)
    rows = rows.take(_kept(rows, tape, period, style))
    meta = _meta(tape, period, query, interval, extended=extended, style=style)
    live = _live_stamp(rows, tape, period, style)
    if not len(rows):
        result: dict[str, Any] = {"meta": meta, "indicators": {"quote": [{}]}}
    else:
        stamps, cells = _cells(rows, tape, live, style)
        result = {"meta": meta, "timestamp": stamps, "indicators": {"quote": [cells]}}
    return Reply(200, msgspec.json.encode({"chart": {"result": [result], "error": None}}), JSON)


def _beyond_reach(interval: str, start: int, end: int, now: datetime) -> Reply | None:
    span, back = REACH.get(interval, (60, 60))
    told = f"{interval} data not available for startTime={start} and endTime={end}."
    if end - start > span * 86400:
        told += f" Only {span} days worth of {interval} granularity data are allowed to be fetched per request."
    elif start < now.timestamp() - back * 86400:
        told += f" The requested range must be within the last {back} days."
    else:
        return None
    return failure(422, "Unprocessable Entity", told)


def _rows(
    world: World, listing: Listing, tape: Tape, period: tuple[int, int], interval: str, *, extended: bool
) -> Minutes:
    """Bars of the sessions that the period touches, those without a trade included."""
    zone = tape.calendar.zone
    first, last = (datetime.fromtimestamp(edge, UTC).astimezone(zone).date() for edge in (period[0], period[1] - 1))
    length = LENGTHS[interval]
    minutes = minutes_of(world, listing, first, min(last, tape.calendar.end), tape.now, extended=extended)
    bars = grouped(minutes, length, "bell" if length > 30 else "clock")
    return _with_gaps(bars, tape, first, last, length)


def _with_gaps(bars: Minutes, tape: Tape, first: date, last: date, length: int) -> Minutes:
    silent = np.setdiff1d(_regular_grid(tape, first, last, length), bars.stamps)
    if not len(silent) or not len(bars):
        return bars
    nothing = np.full(len(silent), np.nan)
    joined = Minutes(
        np.concatenate((bars.stamps, silent)),
        Bars(
            *(
                np.concatenate((getattr(bars.bars, name), nothing))
                for name in ("open", "high", "low", "close", "volume")
            )
        ),
        np.concatenate((bars.phase, np.full(len(silent), "regular"))),
        np.concatenate((bars.count, np.zeros(len(silent), dtype=np.int64))),
    )
    order = np.argsort(joined.stamps, kind="stable")
    return Minutes(joined.stamps[order], _in_order(joined.bars, order), joined.phase[order], joined.count[order])


def _in_order(bars: Bars, order: np.ndarray) -> Bars:
    return Bars(bars.open[order], bars.high[order], bars.low[order], bars.close[order], bars.volume[order])


def _regular_grid(tape: Tape, first: date, last: date, length: int) -> Days:
    """The starts of all whole regular bars of the tape's sessions so far."""
    now = np.datetime64(tape.now.replace(tzinfo=None), "s")
    grids = [np.empty(0, dtype="datetime64[s]")]
    for session in tape.calendar.sessions(first, last):
        if np.datetime64(session) not in tape.sessions:
            continue  # The listing was suspended.
        times = tape.calendar.times(session)
        halves = (
            [(times.opens, times.break_starts), (times.break_ends, times.closes)]
            if times.break_starts is not None
            else [(times.opens, times.closes)]
        )
        for begins, ends in halves:
            if begins is None or ends is None:
                continue
            start, stop = (np.datetime64(edge.replace(tzinfo=None), "s") for edge in (begins, ends))
            grids.append(np.arange(start, min(stop, now), np.timedelta64(length * 60, "s")))
    return np.concatenate(grids)


def _kept(rows: Minutes, tape: Tape, period: tuple[int, int], style: IntradayStyle) -> np.ndarray:
    seconds = rows.stamps.astype(np.int64)
    kept = (seconds >= period[0]) & (seconds < period[1])
    if style.hides_rows:
        kept[:] = False
    if style.missing:
        kept &= ~np.isin(_local_days(rows.stamps, tape), np.array(sorted(style.missing), dtype="datetime64[D]"))
    return kept


def _local_days(stamps: Days, tape: Tape) -> Days:
    moments = pd.DatetimeIndex(stamps, tz="UTC").tz_convert(tape.calendar.zone).tz_localize(None)
    return np.asarray(moments.to_numpy(), dtype="datetime64[D]")


def _live_stamp(rows: Minutes, tape: Tape, period: tuple[int, int], style: IntradayStyle) -> int | None:
    """Of the latest trade, where the body shows it as a row of its own."""
    traded = np.isfinite(rows.bars.close).any()
    if not (tape.forming or style.live_duplicate) or not traded or style.hides_rows:
        return None
    stamp = market_time(tape)
    shown = period[0] <= stamp < period[1] and stamp not in rows.stamps.astype(np.int64)
    return stamp if shown else None


def _cells(rows: Minutes, tape: Tape, live: int | None, style: IntradayStyle) -> tuple[list[int], dict[str, list[Any]]]:
    places = np.searchsorted(tape.sessions, _local_days(rows.stamps, tape)).clip(0, max(len(tape.sessions) - 1, 0))
    split = tape.split_factor[places] if len(tape.sessions) else np.ones(len(rows))
    bars = rows.bars
    columns = {
        "open": bars.open / split,
        "high": bars.high / split,
        "low": bars.low / split,
        "close": bars.close / split,
        "volume": np.round(bars.volume * split),
    }
    stamps = rows.stamps.astype(np.int64).tolist()
    if style.null_rows:
        for column in columns.values():
            column[-style.null_rows :] = np.nan
    if live is not None:
        at = int(np.searchsorted(rows.stamps.astype(np.int64), live))
        before = columns["close"][:at]
        price = float(before[np.isfinite(before)][-1]) if np.isfinite(before).any() else np.nan
        stamps.insert(at, live)
        columns = {name: np.insert(column, at, 0.0 if name == "volume" else price) for name, column in columns.items()}
    empty = np.isnan(columns["close"])
    cells: dict[str, list[Any]] = {name: widened(columns[name], empty) for name in COLUMNS if name != "volume"}
    cells["volume"] = [
        None if missing else int(shares) for shares, missing in zip(columns["volume"], empty, strict=True)
    ]
    return stamps, cells


def _meta(
    tape: Tape,
    period: tuple[int, int],
    query: Mapping[str, str],
    interval: str,
    *,
    extended: bool,
    style: IntradayStyle,
) -> dict[str, Any]:
    zone = tape.calendar.zone
    first, last = (datetime.fromtimestamp(edge, UTC).astimezone(zone).date() for edge in (period[0], period[1] - 1))
    row = int(np.searchsorted(tape.sessions, np.datetime64(first)))
    meta = chart_meta(tape, daily_rows(tape), row, query, Style(granularity=style.granularity or interval))
    if "chartPreviousClose" in meta:
        meta["previousClose"] = meta["chartPreviousClose"]
    meta["scale"] = 3
    days = [_phases(tape, session) for session in tape.calendar.sessions(first, min(last, tape.calendar.end))]
    if extended:
        meta["tradingPeriods"] = {name: [[day[name]] for day in days] for name in ("pre", "regular", "post")}
    else:
        meta["tradingPeriods"] = [[day["regular"]] for day in days]
    return meta


def _phases(tape: Tape, session: date) -> dict[str, dict[str, Any]]:
    times = tape.calendar.times(session)
    before, after = EXTENDED.get(tape.listing.mic, (timedelta(0), timedelta(0)))
    return {
        "pre": edge(times.opens - before, times.opens, tape.calendar),
        "regular": edge(times.opens, times.closes, tape.calendar),
        "post": edge(times.closes, times.closes + after, tape.calendar),
    }
