"""Yahoo's charts of months and quarters, whose events are not to be believed.

An event's key is the bar that it falls into. Of months its `date` is the true time; of quarters it is a date years
away from its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np

from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.formats.yahoo import (
    Style,
    asked_period,
    chart_meta,
    daily_rows,
    events_of,
    indicators,
    opening_stamps,
)
from market_pipelines.simulator.formats.yahoo_refusals import NOT_FOUND
from market_pipelines.simulator.rows import Rows, Spoil
from market_pipelines.simulator.truth import Tape, World

MONTHS = {"1mo": 1, "3mo": 3}
YEARS_AWAY = 150_000_000
_HOW = {"open": 0, "close": -1, "adjusted_close": -1}


def answer(symbol: str, query: Mapping[str, str], world: World, now: datetime, spoil: Spoil) -> Reply:
    listing = world.spelled("yahoo", symbol)
    if listing is None:
        return NOT_FOUND
    tape = world.tape(listing, now, forming=True)
    period = asked_period(query, tape)
    if isinstance(period, Reply):
        return period
    interval = query["interval"]
    daily = daily_rows(tape)
    opens = opening_stamps(tape.calendar, daily.sessions)
    first, last = (int(np.searchsorted(opens, edge)) for edge in period)
    meta = chart_meta(tape, daily, first, query, Style(granularity=interval))
    rows = _by_month(spoil(tape, daily.take(slice(first, last))), MONTHS[interval])
    if not len(rows):
        result: dict[str, Any] = {"meta": meta, "indicators": {"quote": [{}], "adjclose": [{}]}}
    else:
        stamps = [_first_of(day.astype(date), tape) for day in rows.sessions]
        result = {"meta": meta, "timestamp": stamps}
        events = events_of(tape, *period, query.get("events", ""), Style())
        if events:
            result["events"] = {name: _by_bar(found, stamps, interval) for name, found in events.items()}
        result["indicators"] = indicators(rows)
    return Reply(200, msgspec.json.encode({"chart": {"result": [result], "error": None}}), JSON)


def _by_month(rows: Rows, months: int) -> Rows:
    if not len(rows):
        return rows
    number = rows.sessions.astype("datetime64[M]").astype(np.int64) // months * months
    first = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    last = np.append(first[1:], len(rows)) - 1
    columns = {
        name: column[first if place == 0 else last] for name, place in _HOW.items() for column in [rows.columns[name]]
    }
    columns["high"] = np.fmax.reduceat(rows.columns["high"], first)
    columns["low"] = np.fmin.reduceat(rows.columns["low"], first)
    columns["volume"] = np.add.reduceat(np.nan_to_num(rows.columns["volume"]), first)
    return Rows(number[first].astype("datetime64[M]").astype("datetime64[D]"), columns)


def _first_of(day: date, tape: Tape) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=tape.calendar.zone).timestamp())


def _by_bar(found: Mapping[str, Any], stamps: list[int], interval: str) -> dict[str, Any]:
    """Two events of one bar share its key, so only the later one is left: Yahoo loses them like that."""
    placed: dict[str, Any] = {}
    for key, event in found.items():
        bar = stamps[max(int(np.searchsorted(stamps, int(key), side="right")) - 1, 0)]
        placed[str(bar)] = event if interval == "1mo" else {**event, "date": event["date"] - YEARS_AWAY}
    return placed
