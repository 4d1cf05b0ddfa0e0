"""Polygon.io / Massive over REST: who answers which path, and the aggregates.

Aggregates are restated for splits unless `adjusted=false`. A day is stamped with New York's midnight, a minute
with its start, and in the bars of a whole session every row with the session's end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.formats import (
    polygon_bars,
    polygon_flat,
    polygon_options,
    polygon_reference,
    polygon_ticks,
)
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.polygon_wire import (
    NO_KEY,
    NOT_ENTITLED,
    NOT_FOUND,
    NOT_IN_PLAN,
    REFUSED_KEYS,
    TOO_MANY,
    UNKNOWN_KEY,
    Active,
    Row,
    Style,
    bad_request,
    envelope,
    key_of,
    limit_of,
    midnights,
    page,
    question,
    request_id,
)
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import Minutes, grouped, minutes_of
from market_pipelines.simulator.rows import Rows, Spoil
from market_pipelines.simulator.ticks import trades_per_minute
from market_pipelines.simulator.truth import Tape, World

BODIES: dict[str, Reply] = {
    "unknown_key": UNKNOWN_KEY,
    "no_key": NO_KEY,
    "not_in_plan": NOT_IN_PLAN,
    "not_entitled": NOT_ENTITLED,
    "too_many": TOO_MANY,
    "not_found": NOT_FOUND,
    "bad_request": bad_request("Could not parse the time parameter: 'to'. Use YYYY-MM-DD or Unix MS Timestamps"),
}
"""The answers that can be asked for instead of data."""
SHARES_A_TRADE = 120.0
_RANGE = re.compile(r"/v2/aggs/ticker/([^/]+)/range/(\d+)/(\w+)/([^/]+)/([^/]+)")
_GROUPED = re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/([^/]+)")
_PREVIOUS = re.compile(r"/v2/aggs/ticker/([^/]+)/prev")
_OPEN_CLOSE = re.compile(r"/v1/open-close/([^/]+)/([^/]+)")
_MINUTES = {"minute": 1, "hour": 60}


def answer(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply | None:
    flat = polygon_flat.answer(asked, world, now, active)
    if flat is not None:
        return flat
    key = key_of(asked)
    if not key:
        return NO_KEY
    if key in REFUSED_KEYS:
        return UNKNOWN_KEY
    style = Style.of(active)
    try:
        for others in (polygon_reference.answer, polygon_options.answer, polygon_ticks.answer):
            reply = others(asked, world, now, style)
            if reply is not None:
                return reply
        return _aggregates(asked, world, now, style, spoil)
    except ValueError as error:
        return bad_request(str(error))


def _aggregates(asked: Asked, world: World, now: datetime, style: Style, spoil: Spoil) -> Reply | None:
    routes: tuple[tuple[re.Pattern[str], Callable[..., Reply]], ...] = (
        (_RANGE, _range),
        (_GROUPED, _whole_session),
        (_PREVIOUS, _previous),
        (_OPEN_CLOSE, _open_close),
    )
    reply: Reply | None = None
    for pattern, handler in routes:
        found = pattern.fullmatch(asked.path.rstrip("/"))
        if found is not None:
            reply = handler(asked, world, now, style, spoil, *map(unquote, found.groups()))
    return reply


def _range(
    asked: Asked,
    world: World,
    now: datetime,
    style: Style,
    spoil: Spoil,
    ticker: str,
    length: str,
    span: str,
    *ends: str,
) -> Reply:
    listing = _listing(world, style.shown_symbol or ticker)
    calendar = trading_calendar("XNYS", now)
    try:
        start, end = (_date(text, calendar.zone) for text in ends)
    except ValueError:
        return BODIES["bad_request"]
    if style.refused is not None and start < style.refused:
        return NOT_IN_PLAN
    query = question(asked)
    adjusted = style.adjusted_anyway or query.get("adjusted", "true") != "false"
    head: Row = {"ticker": style.shown_symbol or ticker, "queryCount": 0, "resultsCount": 0, "adjusted": adjusted}
    if span not in ("day", "second", *_MINUTES) or (span == "day" and length != "1") or int(length) < 1:
        return bad_request(f"The simulator has no aggregates of {length} {span}")
    told = polygon_bars.rows(world, style.shown_symbol or ticker, int(length), span, ends, now, adjusted=adjusted)
    if style.clipped is not None:
        start = max(start, style.clipped)
    if told is not None:
        rows, base = told, int(length) * _MINUTES.get(span, 1)
    elif listing is None:
        return envelope(asked, [], style, before=head)
    elif span == "day":
        rows = _days(world.tape(listing, now, forming=True), start, end, spoil, adjusted=adjusted)
        base = 1
    else:
        base = int(length) * _MINUTES[span]
        rows = _minute_rows(world, listing, start, end, now, base, adjusted=adjusted)
    if query.get("sort", "asc") == "desc":
        rows.reverse()
    # The limit counts the bars that the asked ones are made of.
    limit = max(limit_of(query, 5000, 50000) // base, 1)
    shown, following = page(asked, query, len(rows), limit, style)
    rows = rows[shown]
    head |= {"queryCount": len(rows) * base, "resultsCount": len(rows)}
    return envelope(asked, rows, style, following=following, before=head, count=len(rows))


def _days(tape: Tape, start: date, end: date, spoil: Spoil, *, adjusted: bool) -> list[Row]:
    split = tape.split_factor if adjusted else np.ones(len(tape.sessions))
    bars = tape.bars
    rows = Rows(
        tape.sessions,
        {
            "open": bars.open / split,
            "high": bars.high / split,
            "low": bars.low / split,
            "close": bars.close / split,
            "volume": bars.volume * split,
        },
    )
    rows = spoil(tape, rows.between(start, end))
    columns = {name: column.tolist() for name, column in rows.columns.items()}
    empty = rows.without_values().tolist()
    stamps = midnights(rows.sessions, tape.calendar)
    return [
        _row(stamp, o, h, low, c, v, hollow=hollow)
        for stamp, o, h, low, c, v, hollow in zip(
            stamps,
            columns["open"],
            columns["high"],
            columns["low"],
            columns["close"],
            columns["volume"],
            empty,
            strict=True,
        )
    ]


def _row(stamp: int, o: float, h: float, low: float, c: float, v: float, *, hollow: bool = False, n: int = 0) -> Row:
    def shown(value: float) -> Any:
        if value == value:  # noqa: PLR0124 - what is not a number differs from itself
            return round(value, 6)
        return None if hollow else msgspec.Raw(b"NaN")

    middle = round((h + low + c) / 3, 4)
    count = n or (1 if v != v else max(int(v / SHARES_A_TRADE), 1))  # noqa: PLR0124
    return {
        "v": shown(v),
        "vw": shown(middle),
        "o": shown(o),
        "c": shown(c),
        "h": shown(h),
        "l": shown(low),
        "t": stamp,
        "n": count,
    }


def _minute_rows(
    world: World, listing: Listing, start: date, end: date, now: datetime, length: int, *, adjusted: bool
) -> list[Row]:
    minutes = minutes_of(world, listing, start, end, now, extended=True)
    if not len(minutes):
        return []
    trades = trades_per_minute(minutes)
    # One phase for all: the clock's hour at nine holds minutes from both sides of the opening bell.
    whole = Minutes(minutes.stamps, minutes.bars, np.full(len(minutes), "all"), trades)
    cut = grouped(whole, length)
    split = np.ones(len(cut))
    if adjusted:
        tape = world.tape(listing, now, forming=True)
        factor = np.append(tape.split_factor, 1.0)
        split = factor[np.searchsorted(tape.sessions, cut.stamps.astype("datetime64[D]"))]
    bars = cut.bars
    stamps = (cut.stamps.astype("datetime64[s]").astype(np.int64) * 1000).tolist()
    return [
        _row(stamp, o, h, low, c, v, n=n)
        for stamp, o, h, low, c, v, n in zip(
            stamps,
            (bars.open / split).tolist(),
            (bars.high / split).tolist(),
            (bars.low / split).tolist(),
            (bars.close / split).tolist(),
            (bars.volume * split).tolist(),
            cut.count.tolist(),
            strict=True,
        )
    ]


def _whole_session(asked: Asked, world: World, now: datetime, style: Style, _spoil: Spoil, text: str) -> Reply:
    calendar = trading_calendar("XNYS", now)
    try:
        session = date.fromisoformat(text)
    except ValueError:
        return BODIES["bad_request"]
    if style.refused is not None and session < style.refused:
        return NOT_IN_PLAN
    adjusted = style.adjusted_anyway or asked.query.get("adjusted", "true") != "false"
    rows: list[Row] = []
    if calendar.is_session(session) and not (style.clipped is not None and session < style.clipped):
        ends = int(calendar.times(session).closes.timestamp()) * 1000
        for listing in world.listings:
            if listing.spelled_by("polygon") is None:
                continue
            tape = world.tape(listing, now, forming=True)
            found = _days(tape, session, session, lambda _tape, kept: kept, adjusted=adjusted)
            rows.extend({"T": listing.symbol, **row, "t": ends} for row in found)
    head: Row = {"queryCount": len(rows), "resultsCount": len(rows), "adjusted": adjusted}
    return envelope(asked, rows, style, before=head, count=len(rows))


def _previous(asked: Asked, world: World, now: datetime, style: Style, spoil: Spoil, ticker: str) -> Reply:
    """Of the last session that is over, stamped with its end."""
    listing = _listing(world, ticker)
    head: Row = {"ticker": ticker, "queryCount": 1, "resultsCount": 1, "adjusted": True}
    if listing is None:
        return envelope(asked, [], style, before=head)
    tape = world.tape(listing, now)
    last = tape.sessions[-1].astype(date)
    ends = int(tape.calendar.times(last).closes.timestamp()) * 1000
    rows = [{"T": ticker, **row, "t": ends} for row in _days(tape, last, last, spoil, adjusted=True)]
    return envelope(asked, rows, style, before=head, count=len(rows))


def _open_close(
    asked: Asked, world: World, now: datetime, style: Style, _spoil: Spoil, ticker: str, text: str
) -> Reply:
    listing = _listing(world, ticker)
    try:
        session = date.fromisoformat(text)
    except ValueError:
        return BODIES["bad_request"]
    rows = [] if listing is None else _days(world.tape(listing, now), session, session, lambda _t, r: r, adjusted=True)
    if listing is None or not rows:
        return replace(NOT_FOUND, body=NOT_FOUND.body.replace(b"Ticker not found.", b"Data not found."))
    minutes = minutes_of(world, listing, session, session, now, extended=True)
    before, after = (np.flatnonzero(minutes.phase == phase) for phase in ("pre", "post"))
    body: Row = {
        "status": "DELAYED" if style.delayed else "OK",
        "from": text,
        "symbol": ticker,
        "open": rows[0]["o"],
        "high": rows[0]["h"],
        "low": rows[0]["l"],
        "close": rows[0]["c"],
        "volume": rows[0]["v"],
        "afterHours": float(minutes.bars.close[after[-1]]) if len(after) else rows[0]["c"],
        "preMarket": float(minutes.bars.open[before[0]]) if len(before) else rows[0]["o"],
        "request_id": request_id(asked),
    }
    return Reply(200, msgspec.json.encode(body), JSON)


def _listing(world: World, ticker: str) -> Listing | None:
    """Case counts here, which it does nowhere else."""
    listing = world.spelled("polygon", ticker)
    return listing if listing is not None and listing.spelled_by("polygon") == ticker else None


def _date(text: str, zone: Any) -> date:
    if text.isdigit() and len(text) > 8:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(text))).astimezone(zone).date()
    return date.fromisoformat(text)
