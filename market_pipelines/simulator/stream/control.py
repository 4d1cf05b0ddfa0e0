"""The endpoints below `/control/stream`: who is connected, what was really sent to whom, and the wire cutter."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.stream.hub import Hub

PREFIX = "/control/stream"
USUAL_LIMIT = 100_000


class _Cut(msgspec.Struct):
    connection: int | None = None


def answer(hub: Hub, method: str, path: str, query: Mapping[str, str], body: bytes) -> Reply:
    try:
        if (method, path) == ("GET", PREFIX):
            return _json({"connections": hub.state()})
        if (method, path) == ("GET", f"{PREFIX}/sent"):
            return _json(_sent(hub, query))
        if (method, path) == ("POST", f"{PREFIX}/drop"):
            return _json({"dropped": hub.drop(msgspec.json.decode(body or b"{}", type=_Cut).connection)})
    except (ValueError, msgspec.DecodeError) as error:
        return _json({"error": str(error)}, 400)
    known = f"GET {PREFIX}, GET {PREFIX}/sent, POST {PREFIX}/drop"
    return _json({"error": f"{method} {path} is not here; there are {known}"}, 404)


def _sent(hub: Hub, query: Mapping[str, str]) -> dict[str, object]:
    """`connection`, `kind` and `symbol` choose; `after` leaves out so many of the chosen, `limit` shows so many."""
    chosen = _number(query, "connection", -1)
    after, limit = _number(query, "after", 0), _number(query, "limit", USUAL_LIMIT)
    connections = [one for one in hub.connections() if chosen in (-1, one.number)]
    found = [
        (connection.number, *one)
        for connection in connections
        for one in connection.sent.ids(query.get("kind"), query.get("symbol"))
    ]
    return {
        "columns": ("connection", "kind", "symbol", "seq", "ts"),
        "total": len(found),
        "complete": all(connection.sent.complete for connection in connections),
        "sent": found[after : after + limit],
    }


def _number(query: Mapping[str, str], name: str, otherwise: int) -> int:
    text = query.get(name, "")
    if text and not text.isdigit():
        raise ValueError(f"{name}={text!r} is not a number")
    return int(text) if text else otherwise


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value), JSON)
