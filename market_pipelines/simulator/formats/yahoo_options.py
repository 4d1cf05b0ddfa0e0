"""Yahoo's option chains: one expiry an answer, the nearest unless `date` names another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import erf, exp, log, sqrt
from typing import Any
from zlib import crc32

from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.formats.yahoo import daily_rows
from market_pipelines.simulator.formats.yahoo_facts import envelope, quoted
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import World

WEEKLY, MONTHLY = 6, 8
"""Expiries on the next Fridays, and after them on third ones."""
STRIKES = 9
"""On each side of the price."""
RATE = 0.04


@dataclass(frozen=True, slots=True)
class ChainStyle:
    """What is wrong with a chain."""

    one_put_in: int = 1
    """Only the first of so many strikes has a put."""
    no_interest: bool = False
    """Open interest is zero everywhere."""
    cheap: bool = False
    """Asks are a tenth of what they should be."""


SOUND = ChainStyle()


def chain(native: str, query: Mapping[str, str], world: World, now: datetime, style: ChainStyle = SOUND) -> Reply:
    listing = world.spelled("yahoo", native)
    if listing is None:
        return envelope("optionChain", [])
    expiries = expiries_of(listing, world, now)
    strikes = strikes_of(listing, world, now) if expiries else []
    wanted = query.get("date", "")
    shown = next((day for day in expiries if str(epoch(day)) == wanted), expiries[0] if expiries else None)
    result: dict[str, Any] = {
        "underlyingSymbol": listing.yahoo,
        "expirationDates": [epoch(day) for day in expiries],
        "strikes": strikes,
        "hasMiniOptions": False,
        "quote": quoted(listing, world, now),
        "options": [],
    }
    if shown is not None:
        price = _price(listing, world, now)
        calls = [contract(listing, price, now, shown, strike, "C") for strike in strikes]
        puts = [contract(listing, price, now, shown, strike, "P") for strike in strikes[:: style.one_put_in]]
        for told in (*calls, *puts):
            if style.no_interest:
                told["openInterest"] = 0
            if style.cheap:
                told |= {"bid": 0.0, "ask": round(told["ask"] / 10, 2)}
        result["options"] = [
            {"expirationDate": epoch(shown), "hasMiniOptions": False, "calls": calls, "puts": puts},
        ]
    return envelope("optionChain", [result])


def epoch(day: date) -> int:
    return int(datetime.combine(day, time(), tzinfo=UTC).timestamp())


def expiries_of(listing: Listing, world: World, now: datetime) -> list[date]:
    """New York's shares and funds have options; nothing else in this world."""
    tape = world.tape(listing, now)
    if listing.mic != "XNYS" or listing.kind == "index" or listing.delisted_on is not None or not len(tape.sessions):
        return []
    today = tape.calendar.local_date(now)
    friday = today + timedelta(days=(4 - today.weekday()) % 7)
    weekly = [friday + timedelta(weeks=week) for week in range(WEEKLY)]
    monthly: list[date] = []
    month = weekly[-1].replace(day=1)
    while len(monthly) < MONTHLY:
        month = (month + timedelta(days=32)).replace(day=1)
        monthly.append(month + timedelta(days=(4 - month.weekday()) % 7 + 14))
    # A holiday's expiry is the session before it.
    return sorted({tape.calendar.sessions(day - timedelta(days=6), day)[-1] for day in weekly + monthly} - {today})


def strikes_of(listing: Listing, world: World, now: datetime) -> list[float]:
    price = _price(listing, world, now)
    step = next(step for limit, step in ((25, 0.5), (100, 1.0), (250, 2.5), (1e12, 5.0)) if price < limit)
    middle = round(price / step)
    return [round(place * step, 2) for place in range(max(middle - STRIKES, 1), middle + STRIKES + 1)]


def _price(listing: Listing, world: World, now: datetime) -> float:
    return float(daily_rows(world.tape(listing, now, forming=True)).columns["close"][-1])


def contract(listing: Listing, price: float, now: datetime, expiry: date, strike: float, right: str) -> dict[str, Any]:
    """One contract, with the share at that price. Those that never traded have no volume, those far out no open
    interest and no bid either."""
    years = max((expiry - now.date()).days, 1) / 365
    worth = _worth(price, strike, years, listing.volatility, right)
    name = f"{listing.symbol.replace('.', '')}{expiry:%y%m%d}{right}{round(strike * 1000):08d}"
    chance = crc32(name.encode())
    told: dict[str, Any] = {
        "contractSymbol": name,
        "strike": strike,
        "currency": listing.currency,
        "lastPrice": round(worth, 2),
        "change": 0,
        "percentChange": 0,
        "volume": chance % 900 + 1,
        "openInterest": chance % 9000,
        "bid": round(worth * 0.98, 2),
        "ask": round(worth * 1.02 + 0.01, 2),
        "contractSize": "REGULAR",
        "expiration": epoch(expiry),
        "lastTradeDate": int(now.timestamp()) - chance % 86_400,
        "impliedVolatility": listing.volatility if worth >= 0.01 else 1.0000000000000003e-05,
        "inTheMoney": price > strike if right == "C" else price < strike,
    }
    if chance % 5 == 0:
        del told["volume"]
    if chance % 10 == 0:
        del told["openInterest"], told["bid"]
    return told


def _worth(price: float, strike: float, years: float, volatility: float, right: str) -> float:
    spread = volatility * sqrt(years)
    up = (log(price / strike) + (RATE + volatility**2 / 2) * years) / spread
    call = price * _below(up) - strike * exp(-RATE * years) * _below(up - spread)
    return call if right == "C" else call - price + strike * exp(-RATE * years)


def _below(value: float) -> float:
    return (1 + erf(value / sqrt(2))) / 2
