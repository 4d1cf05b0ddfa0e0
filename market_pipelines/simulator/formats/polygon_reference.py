"""Polygon's reference endpoints: the list of tickers, one in detail, splits and dividends, the venues' hours.

Beside the listings of the world the list holds what exchanges list too: instruments that only serve for tests,
and tickers whose lower-case letters count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from fractions import Fraction
from urllib.parse import unquote

import msgspec

from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.polygon_wire import (
    NOT_FOUND,
    Row,
    Style,
    envelope,
    limit_of,
    matching,
    page,
    question,
    request_id,
)
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, World

MICS = {"NMS": "XNAS", "NGM": "XNAS", "NYQ": "XNYS", "PCX": "ARCX", "BTS": "BATS", "ASE": "XASE"}
TYPES = {"equity": "CS", "etf": "ETF"}
ODDITIES = (
    ("ATEST.A", "NYSE American Test Symbol Class A", "XASE", "CS"),
    ("BApA", "Boeing Co. Depositary Shares Series A Mandatory Convertible Preferred", "XNYS", "PFD"),
    ("BCATrw", "BlackRock Capital Allocation Term Trust Rights When Issued", "XNYS", "RIGHT"),
    ("NTEST.Q", "NYSE Test Stock Class Q", "XNYS", "CS"),
    ("ZTST", "Cboe BZX Test Symbol", "BATS", "CS"),
    ("ZVZZT", "NASDAQ TEST STOCK", "XNAS", "CS"),
)
"""Ticker, name, venue, type: listed, but nothing of the world."""
UPDATED = "2026-11-19T00:00:00Z"
VENUES = ("NYSE", "NASDAQ", "OTC")
LOOKS_AHEAD = timedelta(days=270)
_TICKERS = "/v3/reference/tickers"
_HOLIDAYS = {
    1: "Martin Luther King, Jr. Day",
    2: "Washington's Birthday",
    3: "Good Friday",
    4: "Good Friday",
    5: "Memorial Day",
    6: "Juneteenth",
    7: "Independence Day",
    9: "Labor Day",
    11: "Thanksgiving",
    12: "Christmas",
}


def answer(asked: Asked, world: World, now: datetime, style: Style) -> Reply | None:
    path = asked.path.rstrip("/")
    if path == _TICKERS:
        return _tickers(asked, world, now, style)
    if path.startswith(f"{_TICKERS}/"):
        return _details(asked, world, now, style, unquote(path.removeprefix(f"{_TICKERS}/")))
    handler = _PATHS.get(path)
    return handler(asked, world, now, style) if handler is not None else None


def _figi(listing: Listing, level: str) -> str:
    digest = hashlib.sha256(f"{listing.mic}:{listing.symbol}:{level}".encode()).hexdigest()
    return f"BBG00{digest[:7].upper()}"


def _ticker(listing: Listing, today: date) -> Row:
    gone = listing.delisted_on
    row: Row = {
        "ticker": listing.symbol,
        "name": listing.name,
        "market": "stocks",
        "locale": "us",
        "primary_exchange": MICS.get(listing.venue, "XNYS"),
        "type": TYPES.get(listing.kind, "CS"),
        "active": gone is None or gone >= today,
        "currency_name": listing.currency.lower(),
        "cik": f"{int(hashlib.sha256(listing.symbol.encode()).hexdigest()[:6], 16) % 2_000_000:010d}",
        "composite_figi": _figi(listing, "composite"),
        "share_class_figi": _figi(listing, "class"),
        "last_updated_utc": UPDATED,
    }
    if gone is not None and gone < today:
        row["delisted_utc"] = f"{gone}T00:00:00Z"
    return row


def _all_tickers(world: World, on: date) -> list[Row]:
    rows = [
        _ticker(listing, on)
        for listing in world.listings
        if listing.spelled_by("polygon") is not None and listing.first_session <= on
    ]
    rows.extend(
        {
            "ticker": ticker,
            "name": name,
            "market": "stocks",
            "locale": "us",
            "primary_exchange": venue,
            "type": kind,
            "active": True,
            "currency_name": "usd",
            "last_updated_utc": UPDATED,
        }
        for ticker, name, venue, kind in ODDITIES
    )
    return sorted(rows, key=lambda row: str(row["ticker"]))


def _tickers(asked: Asked, world: World, now: datetime, style: Style) -> Reply:
    query = question(asked)
    today = trading_calendar("XNYS", now).local_date(now)
    on = date.fromisoformat(query["date"]) if "date" in query else today
    active = query.get("active", "true") != "false"
    words = query.get("search", "").lower()
    rows = [
        row
        for row in _all_tickers(world, on)
        if row["active"] is active
        and matching(row, query, "ticker")
        and query.get("type", row["type"]) == row["type"]
        and query.get("exchange", row["primary_exchange"]) == row["primary_exchange"]
        and (words in str(row["ticker"]).lower() or words in str(row["name"]).lower())
    ]
    if query.get("order", "asc") == "desc":
        rows.reverse()
    shown, following = page(asked, query, len(rows), limit_of(query, 100, 1000), style)
    return envelope(asked, rows[shown], style, following=following, count=len(rows[shown]))


def _details(asked: Asked, world: World, now: datetime, style: Style, ticker: str) -> Reply:
    listing = world.spelled("polygon", style.shown_symbol or ticker)
    if listing is None or listing.symbol != (style.shown_symbol or ticker):
        return NOT_FOUND
    tape = world.tape(listing, now)
    close = float(tape.bars.close[-1]) if len(tape.sessions) else listing.start_price
    shares = round(listing.volume * 260)
    row = {
        **_ticker(listing, trading_calendar("XNYS", now).local_date(now)),
        "market_cap": round(close * shares),
        "phone_number": "(212) 555-0100",
        "address": {"address1": "1 SIMULATED PLAZA", "city": "NEW YORK", "state": "NY", "postal_code": "10005"},
        "description": f"{listing.name} exists in the simulator's world only.",
        "sic_code": "6770",
        "sic_description": "BLANK CHECKS",
        "ticker_root": listing.symbol.partition(".")[0],
        "homepage_url": f"https://{listing.symbol.lower().replace('.', '-')}.example",
        "total_employees": round(listing.volume / 100),
        "list_date": str(listing.first_session),
        "share_class_shares_outstanding": shares,
        "weighted_shares_outstanding": shares,
    }
    body = {"results": row, "status": "DELAYED" if style.delayed else "OK", "request_id": request_id(asked)}
    return Reply(200, msgspec.json.encode(body), JSON)


def _events(world: World, query: Mapping[str, str], now: datetime, kind: str) -> list[tuple[Listing, date, float]]:
    """Of the ticker that is asked for, or of everybody."""
    ticker = query.get("ticker", "")
    one = world.spelled("polygon", ticker)
    listings = world.listings if not ticker else (one,) if one is not None and one.symbol == ticker else ()
    return [
        (listing, action.ex_date, action.value)
        for listing in listings
        if listing is not None and listing.spelled_by("polygon") is not None
        for action in world.tape(listing, now, forming=True).actions_of(kind)
    ]


def _splits(asked: Asked, world: World, now: datetime, style: Style) -> Reply:
    query = question(asked)
    newer = asked.path.startswith("/stocks/")
    rows = []
    for listing, day, value in _events(world, query, now, SPLIT):
        ratio = Fraction(value).limit_denominator(1000)
        row: Row = {
            "execution_date": str(day),
            "split_from": ratio.denominator,
            "split_to": ratio.numerator,
            "ticker": listing.symbol,
        }
        if newer:
            row["adjustment_type"] = "forward_split" if value > 1 else "reverse_split"
            row["historical_adjustment_factor"] = round(1 / value, 8)
            row["id"] = _identity(row)
        rows.append(row)
    return _page_of_events(asked, query, rows, "execution_date", style, newer=newer)


def _dividends(asked: Asked, world: World, now: datetime, style: Style) -> Reply:
    query = question(asked)
    newer = asked.path.startswith("/stocks/")
    rows = []
    for listing, day, value in _events(world, query, now, DIVIDEND):
        later = [ratio for on, ratio in listing.splits if on > day]
        row: Row = {
            "cash_amount": value,
            "declaration_date": str(day - timedelta(days=21)),
            "ex_dividend_date": str(day),
            "frequency": listing.dividends_per_year,
            "pay_date": str(day + timedelta(days=18)),
            "record_date": str(day),
            "ticker": listing.symbol,
        }
        if newer:
            restated = value
            for ratio in later:
                restated /= ratio
            row |= {
                "currency": listing.currency,
                "distribution_type": "recurring",
                "historical_adjustment_factor": 0.99,
                "split_adjusted_cash_amount": round(restated, 8),
            }
            row["id"] = _identity(row)
        else:
            row["dividend_type"] = "CD"
        rows.append(row)
    return _page_of_events(asked, query, rows, "ex_dividend_date", style, newer=newer)


def _identity(row: Row) -> str:
    return "E" + hashlib.sha256(msgspec.json.encode(row)).hexdigest()[:40]


def _page_of_events(
    asked: Asked, query: Mapping[str, str], rows: list[Row], day: str, style: Style, *, newer: bool
) -> Reply:
    rows = [row for row in rows if matching(row, query, day)]
    rows.sort(key=lambda row: str(row[day]), reverse=query.get("order", "desc") == "desc")
    usual, most = (100, 5000) if newer else (10, 1000)
    shown, following = page(asked, query, len(rows), limit_of(query, usual, most), style)
    return envelope(asked, rows[shown], style, following=following)


def _market_now(_asked: Asked, _world: World, now: datetime, _style: Style) -> Reply:
    calendar = trading_calendar("XNYS", now)
    early, late = _around(calendar, now)
    market = "open" if calendar.is_open(now) else "extended-hours" if early or late else "closed"
    body = {
        "afterHours": late,
        "currencies": {"crypto": "open", "fx": "open" if calendar.local_date(now).weekday() < 5 else "closed"},
        "earlyHours": early,
        "exchanges": {venue.lower(): market for venue in ("NASDAQ", "NYSE", "OTC")},
        "market": market,
        "serverTime": now.astimezone(calendar.zone).isoformat(timespec="seconds"),
    }
    return Reply(200, msgspec.json.encode(body), JSON)


def _around(calendar: TradingCalendar, now: datetime) -> tuple[bool, bool]:
    today = calendar.local_date(now)
    if not calendar.is_session(today):
        return False, False
    times = calendar.times(today)
    early = times.opens - timedelta(hours=5, minutes=30) <= now < times.opens
    return early, times.closes <= now < times.closes + timedelta(hours=4)


def _market_days(_asked: Asked, _world: World, now: datetime, _style: Style) -> Reply:
    """A bare list, a row a venue."""
    calendar = trading_calendar("XNYS", now)
    day, last = calendar.local_date(now), calendar.local_date(now) + LOOKS_AHEAD
    rows: list[Row] = []
    while day <= last:
        session = calendar.is_session(day)
        short = session and (calendar.times(day).closes - calendar.times(day).opens) < timedelta(hours=6)
        if day.weekday() < 5 and (short or not session):
            name = "New Years Day" if (day.month, day.day) in ((1, 1), (1, 2), (12, 31)) else _HOLIDAYS.get(day.month)
            row: Row = {"date": str(day), "name": name or "Holiday", "status": "early-close" if short else "closed"}
            if short:
                times = calendar.times(day)
                row |= {"open": _iso(times.opens), "close": _iso(times.closes)}
            rows.extend({"exchange": venue, **row} for venue in VENUES)
        day += timedelta(days=1)
    return Reply(200, msgspec.json.encode(rows), JSON)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


_PATHS: dict[str, Callable[[Asked, World, datetime, Style], Reply]] = {
    "/v3/reference/splits": _splits,
    "/stocks/v1/splits": _splits,
    "/v3/reference/dividends": _dividends,
    "/stocks/v1/dividends": _dividends,
    "/v1/marketstatus/now": _market_now,
    "/v1/marketstatus/upcoming": _market_days,
}
