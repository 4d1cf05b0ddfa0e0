"""The simulator's own endpoints, below `/control`: faults, clock, requests, and the truth for test oracles."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np

from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import FAULT_HELP, FaultError
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.truth import Tape


class Refused(Exception):
    """A control request that cannot be followed, with the reason for its sender."""


def answer(exchange: Exchange, method: str, path: str, query: Mapping[str, str], body: bytes) -> Reply:
    action = ROUTES.get((method, path))
    if action is None:
        known = ", ".join(f"{verb} {where}" for verb, where in ROUTES)
        return _json({"error": f"{method} {path} is not here; there are {known}"}, 404)
    try:
        return _json(action(exchange, query, body))
    except (Refused, FaultError) as error:
        return _json({"error": str(error)}, 400)


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value), JSON)


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Refused(f"the body is not JSON: {error}") from None


def _health(_exchange: Exchange, _query: Mapping[str, str], _body: bytes) -> object:
    return {"status": "ok", "service": "market_pipelines simulator"}


def _state(exchange: Exchange, _query: Mapping[str, str], _body: bytes) -> object:
    return {
        "seed": exchange.world.seed,
        "now": exchange.clock.now().isoformat(),
        "clock": "set" if exchange.clock.is_set else "running",
        "listings": len(exchange.world.listings),
        "faults": exchange.faults.state(),
        "accepted_faults": [
            {"fault": name, "accepts": accepts, "meaning": meaning} for name, accepts, meaning in FAULT_HELP
        ],
    }


def _fault_list(body: bytes) -> list[str]:
    faults = _read(body)
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        raise Refused('expected a JSON list of faults, for example ["yahoo.status=429"]')
    return faults


def _add_faults(exchange: Exchange, _query: Mapping[str, str], body: bytes) -> object:
    exchange.faults.add_all(_fault_list(body))
    return {"faults": exchange.faults.state()}


def _replace_faults(exchange: Exchange, _query: Mapping[str, str], body: bytes) -> object:
    exchange.faults.replace(_fault_list(body))
    return {"faults": exchange.faults.state()}


def _clear_faults(exchange: Exchange, _query: Mapping[str, str], _body: bytes) -> object:
    exchange.faults.clear()
    return {"faults": []}


def _requests(exchange: Exchange, _query: Mapping[str, str], _body: bytes) -> object:
    return exchange.requests.snapshot()


def _clear_requests(exchange: Exchange, _query: Mapping[str, str], _body: bytes) -> object:
    exchange.requests.clear()
    return {}


def _set_clock(exchange: Exchange, _query: Mapping[str, str], body: bytes) -> object:
    told = _read(body)
    if not isinstance(told, dict) or "now" not in told:
        raise Refused('expected {"now": "2024-03-01T21:30:00Z"} or {"now": null}')
    try:
        exchange.clock.set(None if told["now"] is None else datetime.fromisoformat(str(told["now"])))
    except ValueError as error:
        raise Refused(f"now: {error}") from None
    return {"now": exchange.clock.now().isoformat(), "clock": "set" if exchange.clock.is_set else "running"}


def _truth(exchange: Exchange, query: Mapping[str, str], _body: bytes) -> object:
    symbol, mic = query.get("symbol", ""), query.get("mic", "XNYS")
    listing = exchange.world.find(symbol, mic)
    if listing is None:
        raise Refused(f"no listing {symbol!r} on {mic!r}")
    start, end = _date(query, "from", date.min), _date(query, "to", date.max)
    tape = exchange.world.tape(listing, exchange.clock.now())
    return {
        "symbol": listing.symbol,
        "mic": listing.mic,
        "name": listing.name,
        "currency": listing.currency,
        "first_session": listing.first_session.isoformat(),
        "delisted_on": listing.delisted_on.isoformat() if listing.delisted_on else None,
        "rows": _rows(tape, start, end),
        "actions": [
            {"ex_date": action.ex_date.isoformat(), "kind": action.kind, "value": action.value}
            for action in tape.actions
            if start <= action.ex_date <= end
        ],
    }


def _date(query: Mapping[str, str], name: str, otherwise: date) -> date:
    if not query.get(name):
        return otherwise
    try:
        return date.fromisoformat(query[name])
    except ValueError:
        raise Refused(f"{name}={query[name]!r} is not a date like 2024-03-01") from None


def _rows(tape: Tape, start: date, end: date) -> list[dict[str, object]]:
    first = int(np.searchsorted(tape.sessions, np.datetime64(start)))
    last = int(np.searchsorted(tape.sessions, np.datetime64(end), side="right"))
    rows = []
    for number in range(first, last):
        bar = tape.bars.row(number)
        rows.append(
            {
                "session": tape.sessions[number].astype(date).isoformat(),
                "open": bar.open,
                "high": bar.high,
                "low": bar.low,
                "close": bar.close,
                "volume": bar.volume,
            }
        )
    return rows


ROUTES = {
    ("GET", "/health"): _health,
    ("GET", "/control/state"): _state,
    ("POST", "/control/faults"): _add_faults,
    ("PUT", "/control/faults"): _replace_faults,
    ("DELETE", "/control/faults"): _clear_faults,
    ("GET", "/control/requests"): _requests,
    ("DELETE", "/control/requests"): _clear_requests,
    ("POST", "/control/clock"): _set_clock,
    ("GET", "/control/truth"): _truth,
}
