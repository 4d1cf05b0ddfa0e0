"""Polygon's option contracts: the list of an underlying's, one of them, and the chain with prices.

Contracts expire on the third Friday of a month and on the Fridays ahead; where that is a day off, on the session
before it. A split within two years has left contracts with an adjusted root behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from urllib.parse import unquote

import msgspec
import numpy as np

from market_pipelines.market.sessions import TradingCalendar
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
from market_pipelines.simulator.ticks import nanoseconds
from market_pipelines.simulator.truth import Tape, World

MONTHS_BACK, MONTHS_AHEAD, WEEKS_AHEAD = 12, 6, 4
STRIKES = 7
LISTED_BEFORE = timedelta(days=120)
"""How long before its expiry a contract's strikes are set, around the price of that day."""
STEPS = ((25.0, 1.0), (100.0, 2.5), (250.0, 5.0), (1000.0, 10.0))
LAST_STEP = 50.0
VOLATILITY = 0.3
_CONTRACTS = "/v3/reference/options/contracts"
_CHAIN = "/v3/snapshot/options/"


@dataclass(frozen=True, slots=True)
class Contract:
    ticker: str
    underlying: str
    right: str
    strike: float
    expires: date
    shares: float

    def row(self) -> Row:
        row: Row = {
            "cfi": "OCASPS" if self.right == "call" else "OPASPS",
            "contract_type": self.right,
            "exercise_style": "american",
            "expiration_date": str(self.expires),
            "primary_exchange": "BATO",
            "shares_per_contract": int(self.shares),
            "strike_price": int(self.strike) if self.strike == int(self.strike) else self.strike,
            "ticker": self.ticker,
            "underlying_ticker": self.underlying,
        }
        if self.shares != 100:
            row["additional_underlyings"] = [{"amount": 44.75, "type": "currency", "underlying": "USD"}]
        return row


def answer(asked: Asked, world: World, now: datetime, style: Style) -> Reply | None:
    path = asked.path.rstrip("/")
    if path == _CONTRACTS:
        return _list(asked, world, now, style)
    if path.startswith(f"{_CONTRACTS}/"):
        return _single(asked, world, now, unquote(path.removeprefix(f"{_CONTRACTS}/")))
    if path.startswith(_CHAIN):
        return _chain(asked, world, now, style, unquote(path.removeprefix(_CHAIN)))
    return None


def contracts_of(world: World, listing: Listing, now: datetime) -> list[Contract]:
    """Those that have expired within a year and those that have not, by expiry, strike and right."""
    tape = world.tape(listing, now)
    if not len(tape.sessions):
        return []
    root = listing.symbol.replace(".", "")
    today = tape.calendar.local_date(now)
    recent = [day for day, _ in listing.splits if day <= today and (today - day).days < 730]
    found = []
    for expires in expiries(tape.calendar, today):
        series = [("", 100.0)]
        if recent and expires > today and expires.day > 14:
            series.append(("1", 150.0))
        for digit, shares in series:
            for strike in _strikes(tape, expires):
                for right in ("call", "put"):
                    ticker = f"O:{root}{digit}{expires:%y%m%d}{right[0].upper()}{round(strike * 1000):08d}"
                    found.append(Contract(ticker, listing.symbol, right, strike, expires, shares))
    return sorted(found, key=lambda one: (one.expires, one.strike, one.right, one.ticker))


def expiries(calendar: TradingCalendar, today: date) -> list[date]:
    months = [today.year * 12 + today.month - 1 + offset for offset in range(-MONTHS_BACK, MONTHS_AHEAD + 1)]
    fridays = {_third_friday(month // 12, month % 12 + 1) for month in months}
    ahead = today + timedelta(days=(4 - today.weekday()) % 7)
    fridays |= {ahead + timedelta(weeks=week) for week in range(WEEKS_AHEAD)}
    return sorted({calendar.sessions(friday - timedelta(days=6), friday)[-1] for friday in fridays})


def _third_friday(year: int, month: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(4 - first.weekday()) % 7 + 14)


def _strikes(tape: Tape, expires: date) -> list[float]:
    row = int(np.searchsorted(tape.sessions, np.datetime64(expires - LISTED_BEFORE), side="right")) - 1
    price = float(tape.bars.close[max(row, 0)])
    step = next((step for bound, step in STEPS if price < bound), LAST_STEP)
    middle = max(round(price / step), 1)
    return [number * step for number in range(max(middle - STRIKES // 2, 1), middle + STRIKES // 2 + 1)]


def _underlying(world: World, ticker: str) -> Listing | None:
    listing = world.spelled("polygon", ticker)
    return listing if listing is not None and listing.symbol == ticker else None


def _list(asked: Asked, world: World, now: datetime, style: Style) -> Reply:
    query = question(asked)
    listing = _underlying(world, style.shown_symbol or query.get("underlying_ticker", ""))
    rows: list[Row] = []
    if listing is not None:
        today = world.history(listing, now).calendar.local_date(now)
        expired = query.get("expired", "false") == "true"
        rows = [
            contract.row() for contract in contracts_of(world, listing, now) if (contract.expires < today) is expired
        ]
    rows = [
        row
        for row in rows
        if matching(row, query, "expiration_date")
        and query.get("contract_type", row["contract_type"]) == row["contract_type"]
    ]
    shown, following = page(asked, query, len(rows), limit_of(query, 10, 1000), style)
    return envelope(asked, rows[shown], style, following=following)


def _single(asked: Asked, world: World, now: datetime, ticker: str) -> Reply:
    for listing in world.listings:
        if listing.spelled_by("polygon") is None or not ticker.startswith(f"O:{listing.symbol.replace('.', '')}"):
            continue
        for contract in contracts_of(world, listing, now):
            if contract.ticker == ticker:
                body = {"results": contract.row(), "status": "OK", "request_id": request_id(asked)}
                return Reply(200, msgspec.json.encode(body), JSON)
    return NOT_FOUND


def _chain(asked: Asked, world: World, now: datetime, style: Style, ticker: str) -> Reply:
    query = question(asked)
    listing = _underlying(world, style.shown_symbol or ticker)
    if listing is None:
        return envelope(asked, [], style)
    tape = world.tape(listing, now)
    today = tape.calendar.local_date(now)
    rows = [
        _priced(contract, tape, today) for contract in contracts_of(world, listing, now) if contract.expires >= today
    ]
    rows = [
        row
        for row in rows
        if matching(row["details"], query, "expiration_date")
        and query.get("contract_type", row["details"]["contract_type"]) == row["details"]["contract_type"]
    ]
    shown, following = page(asked, query, len(rows), limit_of(query, 10, 250), style)
    return envelope(asked, rows[shown], style, following=following)


def _priced(contract: Contract, tape: Tape, today: date) -> Row:
    """What it is worth at once, and a little for the time that is left."""
    price = float(tape.bars.close[-1])
    worth = max(price - contract.strike if contract.right == "call" else contract.strike - price, 0.0)
    years = max((contract.expires - today).days, 1) / 365
    waiting = 0.4 * price * VOLATILITY * math.sqrt(years) * math.exp(-abs(price - contract.strike) / price * 4)
    value = round(max(worth + waiting, 0.01), 2)
    last = tape.sessions[-1].astype(date)
    closed = nanoseconds(tape.calendar.times(last).closes)
    row = contract.row()
    open_interest = round(1000 * math.exp(-abs(price - contract.strike) / price * 8))
    return {
        "break_even_price": round(contract.strike + (value if contract.right == "call" else -value), 4),
        "day": {
            "change": 0,
            "change_percent": 0,
            "close": value,
            "high": value,
            "last_updated": closed,
            "low": value,
            "open": value,
            "previous_close": value,
            "volume": open_interest // 10,
            "vwap": value,
        },
        "details": {
            name: row[name]
            for name in (
                "contract_type",
                "exercise_style",
                "expiration_date",
                "shares_per_contract",
                "strike_price",
                "ticker",
            )
        },
        "greeks": {"delta": 0.5, "gamma": 0.006, "theta": -0.03, "vega": 0.6},
        "implied_volatility": VOLATILITY,
        "last_quote": {
            "ask": round(value + 0.05, 2),
            "ask_size": 20,
            "bid": round(max(value - 0.05, 0.0), 2),
            "bid_size": 20,
            "last_updated": closed,
            "midpoint": value,
            "timeframe": "REAL-TIME",
        },
        "last_trade": {
            "price": value,
            "sip_timestamp": closed,
            "size": 1,
            "conditions": [209],
            "exchange": 309,
            "timeframe": "REAL-TIME",
        },
        "open_interest": open_interest,
        "underlying_asset": {
            "change_to_break_even": 0,
            "last_updated": closed,
            "price": price,
            "ticker": contract.underlying,
            "timeframe": "REAL-TIME",
        },
    }
