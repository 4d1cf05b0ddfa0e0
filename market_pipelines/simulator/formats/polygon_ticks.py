"""Polygon's trades and quotes of the past, the last of each, and snapshots of the day so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import msgspec

from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.polygon_wire import (
    NOT_FOUND,
    NOT_IN_PLAN,
    TAPES,
    Row,
    Style,
    bad_request,
    envelope,
    limit_of,
    page,
    question,
    request_id,
)
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.instruments import instrument_named
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.live import tells_replays
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.ticks import (
    REPORTING_FACILITY,
    Quotes,
    Trades,
    nanoseconds,
    quotes_of,
    trades_of,
)
from market_pipelines.simulator.truth import World

USUAL, MOST = 1000, 50000
LOOKS_BACK = timedelta(days=7)
"""Without a lower end, as far as the simulator looks."""
_HISTORY = re.compile(r"/v3/(trades|quotes)/([^/]+)")
_LAST = re.compile(r"/v2/last/(trade|nbbo)/([^/]+)")
_SNAPSHOTS = "/v2/snapshot/locale/us/markets/stocks/tickers"
_SIZES_IN_LOTS = 100


def answer(asked: Asked, world: World, now: datetime, style: Style) -> Reply | None:
    path = asked.path.rstrip("/")
    found = _HISTORY.fullmatch(path)
    if found is not None:
        return _history(asked, world, now, style, found[1], unquote(found[2]))
    found = _LAST.fullmatch(path)
    if found is not None:
        return _last(asked, world, now, style, found[1], unquote(found[2]))
    if path == _SNAPSHOTS:
        wanted = [unquote(part) for part in asked.query.get("tickers", "").split(",") if part]
        rows = [_snapshot(world, listing, now) for ticker in wanted if (listing := _listing(world, ticker)) is not None]
        body = {"tickers": rows, "status": _status(style), "request_id": request_id(asked), "count": len(rows)}
        return Reply(200, msgspec.json.encode(body), JSON)
    if path.startswith(f"{_SNAPSHOTS}/"):
        listing = _listing(world, style.shown_symbol or unquote(path.removeprefix(f"{_SNAPSHOTS}/")))
        if listing is None:
            return NOT_FOUND
        body = {"request_id": request_id(asked), "status": _status(style), "ticker": _snapshot(world, listing, now)}
        return Reply(200, msgspec.json.encode(body), JSON)
    return None


def _status(style: Style) -> str:
    return "DELAYED" if style.delayed else "OK"


def _listing(world: World, ticker: str) -> Listing | None:
    listing = world.spelled("polygon", ticker)
    return listing if listing is not None and listing.spelled_by("polygon") == ticker else None


def _history(asked: Asked, world: World, now: datetime, style: Style, kind: str, ticker: str) -> Reply:
    instrument = instrument_named(world, ticker, now)
    if instrument is None:
        return envelope(asked, [], style)
    query = question(asked)
    try:
        start, end = _window(query, now)
    except ValueError:
        return bad_request("failed to parse 'timestamp': use a date or nanoseconds")
    if style.refused is not None and _moment(start).date() < style.refused:
        return NOT_IN_PLAN
    ticks: Trades | Quotes
    read: Callable[..., Trades | Quotes] = instrument.trades if kind == "trades" else instrument.quotes
    replays = _by_instants(query) and tells_replays("XNYS", _moment(start), _moment(end + 1000))
    ticks = read(_moment(start) - timedelta(milliseconds=1), _moment(end + 1_000_000), now, replays=replays)
    ticks = ticks.take((ticks.stamps >= start) & (ticks.stamps < end))
    backwards = query.get("order", "desc") != "asc"
    if backwards:
        ticks = ticks.take(slice(None, None, -1))
    shown, following = page(asked, query, len(ticks), limit_of(query, USUAL, MOST), style)
    ticks = ticks.take(shown)
    tape = instrument.tape
    rows = _trades(ticks, tape) if isinstance(ticks, Trades) else _quotes(ticks, tape)
    return envelope(asked, rows, style, following=following)


def _window(query: Mapping[str, str], now: datetime) -> tuple[int, int]:
    """Nanoseconds, the end excluded."""
    start, end = nanoseconds(now - LOOKS_BACK), nanoseconds(now)
    for name, value in query.items():
        if name == "timestamp":
            first, day = _stamp(value)
            start, end = first, first + (86_400_000_000_000 if day else 1)
        elif name in ("timestamp.gte", "timestamp.gt"):
            start = _stamp(value)[0] + (name == "timestamp.gt")
            end = max(end, start)
    for name in ("timestamp.lt", "timestamp.lte"):
        if name in query:
            end = _stamp(query[name])[0] + (name == "timestamp.lte")
    return start, max(end, start)


def _by_instants(query: Mapping[str, str]) -> bool:
    """Whether both ends are told, and neither as a day."""
    told = {name: text for name, text in query.items() if name.partition(".")[0] == "timestamp"}
    ends = {name.partition(".")[2][:1] for name in told}
    return ({"g", "l"} <= ends or "" in ends) and all(text.isdigit() and len(text) > 8 for text in told.values())


def _stamp(text: str) -> tuple[int, bool]:
    if text.isdigit() and len(text) > 8:
        return int(text), False
    day = date.fromisoformat(text[:10])
    return nanoseconds(datetime(day.year, day.month, day.day, tzinfo=UTC)), True


def _moment(stamp: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=stamp // 1000)


def _trades(trades: Trades, tape: int | None) -> list[Row]:
    rows = []
    for stamp, seq, price, size, venue, conditions in zip(
        trades.stamps.tolist(),
        trades.seq.tolist(),
        trades.price.tolist(),
        trades.size.tolist(),
        trades.venue.tolist(),
        trades.conditions.tolist(),
        strict=True,
    ):
        row: Row = {"conditions": [int(code) for code in conditions.split(",")]} if conditions else {}
        row |= {
            "decimal_size": f"{size:.6f}",
            "exchange": venue,
            **({"id": str(seq)} if tape is not None else {}),
            "participant_timestamp": stamp - 213_457,
            "price": price,
            "sequence_number": seq,
            "sip_timestamp": stamp,
            "size": int(size),
            **({"tape": tape} if tape is not None else {}),
        }
        if venue == REPORTING_FACILITY:
            row |= {"trf_id": 202, "trf_timestamp": stamp - 31_001}
        rows.append(row)
    return rows


def _quotes(quotes: Quotes, tape: int | None) -> list[Row]:
    return [
        {
            "ask_exchange": ask_venue,
            "ask_price": ask,
            "ask_size": ask_size,
            "bid_exchange": bid_venue,
            "bid_price": bid,
            "bid_size": bid_size,
            "participant_timestamp": stamp - 188_003,
            "sequence_number": seq,
            "sip_timestamp": stamp,
            **({"tape": tape} if tape is not None else {}),
        }
        for stamp, seq, bid, ask, bid_size, ask_size, bid_venue, ask_venue in zip(
            quotes.stamps.tolist(),
            quotes.seq.tolist(),
            quotes.bid.tolist(),
            quotes.ask.tolist(),
            quotes.bid_size.tolist(),
            quotes.ask_size.tolist(),
            quotes.bid_venue.tolist(),
            quotes.ask_venue.tolist(),
            strict=True,
        )
    ]


def _latest(world: World, listing: Listing, now: datetime) -> tuple[Trades, Quotes]:
    """The last trade and the last quote, or none of either."""
    day = world.history(listing, now).calendar.last_closed(now)
    start = min(now - timedelta(days=1), datetime(day.year, day.month, day.day, tzinfo=UTC))
    trades, quotes = trades_of(world, listing, start, now, now), quotes_of(world, listing, start, now, now)
    return trades.take(slice(-1, None)), quotes.take(slice(-1, None))


def _last(asked: Asked, world: World, now: datetime, style: Style, kind: str, ticker: str) -> Reply:
    listing = _listing(world, ticker)
    if listing is None:
        return NOT_FOUND
    trades, quotes = _latest(world, listing, now)
    found: dict[str, Any]
    tape = TAPES.get(listing.venue, 3)
    if kind == "trade":
        if not len(trades):
            return NOT_FOUND
        row = _trades(trades, tape)[0]
        found = {
            **({"c": row["conditions"]} if "conditions" in row else {}),
            "i": row["id"],
            "p": row["price"],
            "s": row["size"],
            "ds": row["decimal_size"],
            "x": row["exchange"],
            "z": tape,
        }
    else:
        if not len(quotes):
            return NOT_FOUND
        row = _quotes(quotes, tape)[0]
        found = {
            "p": row["bid_price"],
            "s": row["bid_size"],
            "x": row["bid_exchange"],
            "P": row["ask_price"],
            "S": row["ask_size"],
            "X": row["ask_exchange"],
            "z": tape,
        }
    found |= {
        "T": style.shown_symbol or ticker,
        "t": row["sip_timestamp"],
        "y": row["participant_timestamp"],
        "q": row["sequence_number"],
    }
    body = {"results": found, "status": _status(style), "request_id": request_id(asked)}
    return Reply(200, msgspec.json.encode(body), JSON)


def _snapshot(world: World, listing: Listing, now: datetime) -> Row:
    """Before the day's first trade its bar is all zeros."""
    tape = world.tape(listing, now, forming=True)
    today = tape.calendar.local_date(now)
    is_today = bool(len(tape.sessions)) and tape.sessions[-1].astype(date) == today
    nothing: Row = {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "vw": 0}
    day = _bar(tape.bars.row(-1)) if is_today else nothing
    before = len(tape.sessions) - 1 - is_today
    previous = _bar(tape.bars.row(before)) if before >= 0 else nothing
    row: Row = {"day": day}
    updated = 0
    trades, quotes = _latest(world, listing, now)
    if len(quotes):
        last = _quotes(quotes, 3)[0]
        row["lastQuote"] = {
            "P": last["ask_price"],
            "S": last["ask_size"] / _SIZES_IN_LOTS,
            "p": last["bid_price"],
            "s": last["bid_size"] / _SIZES_IN_LOTS,
            "t": last["sip_timestamp"],
        }
        updated = last["sip_timestamp"]
    price = previous["c"]
    if len(trades):
        trade = _trades(trades, 3)[0]
        price = trade["price"]
        row["lastTrade"] = {
            "c": trade.get("conditions"),
            "i": trade["id"],
            "p": price,
            "s": trade["size"],
            "t": trade["sip_timestamp"],
            "x": trade["exchange"],
        }
        updated = max(updated, trade["sip_timestamp"])
    minutes = minutes_of(world, listing, today, today, now, extended=True)
    if len(minutes):
        newest = minutes.take(slice(-1, None))
        row["min"] = {
            "av": float(minutes.bars.volume.sum()),
            **_bar(newest.bars.row(0)),
            "t": int(newest.stamps[0].astype("datetime64[ms]").astype(int)),
            "n": int(newest.count[0]),
        }
    change = price - previous["c"]
    return {
        **row,
        "prevDay": previous,
        "ticker": listing.symbol,
        "todaysChange": round(change, 4),
        "todaysChangePerc": round(100 * change / previous["c"], 4) if previous["c"] else 0,
        "updated": updated,
    }


def _bar(bar: Any) -> Row:
    return {
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "c": bar.close,
        "v": bar.volume,
        "vw": round((bar.high + bar.low + bar.close) / 3, 4),
    }
