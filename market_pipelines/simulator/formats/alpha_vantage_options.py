"""Alpha Vantage's HISTORICAL_OPTIONS and REALTIME_OPTIONS: a chain made up around the day's close."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, timedelta

from market_pipelines.simulator.formats.alpha_vantage import invalid_call
from market_pipelines.simulator.formats.alpha_vantage_quotes import as_csv, as_json
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import World

WEEKS = (0, 1, 2, 4, 8, 13, 26, 52)
STRIKES = range(-10, 11)
STEPS = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 500.0)
GREEKS = ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")


def historical(query: Mapping[str, str], symbol: str, world: World, now: datetime) -> Reply:
    return _answer(query, symbol, world, now, "Historical Options", greeks=True)


def realtime(query: Mapping[str, str], symbol: str, world: World, now: datetime) -> Reply:
    greeks = query.get("require_greeks", "false") == "true"
    return _answer(query, symbol, world, now, "Realtime Options", greeks=greeks)


def _answer(
    query: Mapping[str, str], symbol: str, world: World, now: datetime, endpoint: str, *, greeks: bool
) -> Reply:
    listing = world.spelled("alpha_vantage", symbol)
    if listing is None or listing.mic != "XNYS":
        return invalid_call(query.get("function", ""))
    tape = world.tape(listing, now)
    wanted = query.get("date", "")
    session = date.fromisoformat(wanted) if wanted else tape.sessions[-1].item()
    at = [number for number, day in enumerate(tape.sessions.tolist()) if day == session]
    if not at:
        return as_json({"endpoint": endpoint, "message": f"No data for symbol {symbol} on {session}", "data": []})
    rows = _chain(symbol, listing, float(tape.bars.close[at[0]]), session)
    if not greeks:
        rows = [{name: cell for name, cell in row.items() if name not in GREEKS} for row in rows]
    if query.get("contract"):
        rows = [row for row in rows if row["contractID"] == query["contract"]]
    if query.get("datatype", "json") == "csv" and rows:
        return as_csv(",".join(rows[0]), [list(row.values()) for row in rows])
    return as_json({"endpoint": endpoint, "message": "success", "data": rows})


def _chain(symbol: str, listing: Listing, spot: float, session: date) -> list[dict[str, str]]:
    step = next((step for step in STEPS if spot * 0.03 <= step), STEPS[-1])
    middle = round(spot / step)
    friday = session + timedelta(days=(4 - session.weekday()) % 7)
    return [
        _contract(symbol, right, (middle + number) * step, spot, listing.volatility, session, expires)
        for expires in (friday + timedelta(weeks=weeks) for weeks in WEEKS)
        for number in STRIKES
        if middle + number > 0
        for right in ("call", "put")
    ]


def _contract(
    symbol: str, right: str, strike: float, spot: float, volatility: float, session: date, expires: date
) -> dict[str, str]:
    """Worth what Black and Scholes say, without interest. Far from the money nobody bids."""
    years = max((expires - session).days, 0.5) / 365
    root = volatility * math.sqrt(years)
    first = math.log(spot / strike) / root + root / 2
    call = spot * _normal(first) - strike * _normal(first - root)
    worth = call if right == "call" else call - spot + strike
    delta = _normal(first) - (0.0 if right == "call" else 1.0)
    density = math.exp(-first * first / 2) / math.sqrt(2 * math.pi)
    spread = max(0.05, 0.02 * worth)
    bid = max(0.0, math.floor((worth - spread / 2) * 20) / 20)
    interest = int(1000 * density)
    return {
        "contractID": f"{symbol}{expires:%y%m%d}{right[0].upper()}{strike * 1000:08.0f}",
        "symbol": symbol,
        "expiration": expires.isoformat(),
        "strike": f"{strike:.2f}",
        "type": right,
        "last": f"{worth if interest > 100 else 0.0:.2f}",
        "mark": f"{worth:.2f}",
        "bid": f"{bid:.2f}",
        "bid_size": "10" if bid else "0",
        "ask": f"{bid + spread:.2f}",
        "ask_size": "10",
        "volume": f"{interest // 7}",
        "open_interest": f"{interest}",
        "date": session.isoformat(),
        "implied_volatility": f"{volatility:.5f}",
        "delta": f"{delta:.5f}",
        "gamma": f"{density / (spot * root):.5f}",
        "theta": f"{-spot * density * volatility / (2 * math.sqrt(years)) / 365:.5f}",
        "vega": f"{spot * density * math.sqrt(years) / 100:.5f}",
        "rho": "0.00000",
    }


def _normal(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))
