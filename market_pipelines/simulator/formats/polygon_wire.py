"""What all of Polygon's simulated endpoints share: envelopes, refusals, pages, and how the day is stamped.

A page names its successor by an address that holds a cursor and never a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
import numpy as np

from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.truth import Days

TAPES = {"NYQ": 1, "ASE": 2, "PCX": 2, "NMS": 3, "NGM": 3}
"""By the venue of a listing."""
REFUSED_KEYS = frozenset({"invalid", "expired"})
Row = dict[str, Any]
Active = Mapping[str, tuple[object, ...]]


def refusal(status: int, word: str, key: str, text: str) -> Reply:
    body = {"status": word, "request_id": "31d59dda80ea4f2c9a1a1c6c4bb0b3f0", key: text}
    return Reply(status, msgspec.json.encode(body), JSON)


UNKNOWN_KEY = refusal(401, "ERROR", "error", "Unknown API Key")
NO_KEY = refusal(401, "ERROR", "error", "API Key was not provided")
TOO_MANY = refusal(
    429,
    "ERROR",
    "error",
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue. "
    "https://polygon.io/pricing",
)
NOT_IN_PLAN = refusal(
    403,
    "NOT_AUTHORIZED",
    "message",
    "Your plan doesn't include this data timeframe. Please upgrade your plan at https://polygon.io/pricing",
)
NOT_ENTITLED = refusal(
    403,
    "NOT_AUTHORIZED",
    "message",
    "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing",
)
NOT_FOUND = refusal(404, "NOT_FOUND", "message", "Ticker not found.")


def bad_request(text: str) -> Reply:
    return refusal(400, "ERROR", "error", text)


@dataclass(frozen=True, slots=True)
class Style:
    """The faults that are not about rows."""

    delayed: bool = False
    no_results: str = ""
    """How `results` looks without rows: missing, null, empty; empty text: rows are shown."""
    clipped: date | None = None
    """The plan's history begins here, and says nothing about it."""
    refused: date | None = None
    """A question that begins earlier is refused as a whole."""
    page_size: int | None = None
    foreign: str = ""
    """The host that next pages are said to be at."""
    shown_symbol: str = ""
    adjusted_anyway: bool = False

    @classmethod
    def of(cls, active: Active) -> Style:
        def last(name: str) -> object:
            values = active.get(name)
            return values[-1] if values else None

        clipped, refused, size = last("clipped_history"), last("refused_history"), last("page_size")
        return cls(
            delayed="delayed" in active,
            no_results=str(last("no_results") or ""),
            clipped=clipped if isinstance(clipped, date) else None,
            refused=refused if isinstance(refused, date) else None,
            page_size=size if isinstance(size, int) else None,
            foreign=str(last("foreign_next_url") or ""),
            shown_symbol=str(last("wrong_symbol") or ""),
            adjusted_anyway="adjusted_anyway" in active,
        )


def key_of(asked: Asked) -> str:
    scheme, _, token = asked.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else asked.query.get("apiKey", "")


class BadCursor(ValueError):
    pass


def question(asked: Asked) -> dict[str, str]:
    """The parameters, those that a cursor stands for included."""
    cursor = asked.query.get("cursor", "")
    if not cursor:
        return dict(asked.query)
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise BadCursor(f"Invalid cursor: {cursor[:40]}") from error
    return {**asked.query, **dict(parse_qsl(text))}


def offset_of(query: Mapping[str, str]) -> int:
    text = query.get("ap", "0")
    if not text.isdigit():
        raise BadCursor("Invalid cursor")
    return int(text)


def limit_of(query: Mapping[str, str], usual: int, most: int) -> int:
    text = query.get("limit", str(usual))
    return min(max(int(text), 1), most) if text.isdigit() else usual


def next_url(asked: Asked, query: Mapping[str, str], offset: int, style: Style) -> str:
    kept = {name: value for name, value in query.items() if name not in ("cursor", "apiKey")}
    cursor = base64.urlsafe_b64encode(urlencode({**kept, "ap": str(offset)}).encode()).decode().rstrip("=")
    home = f"https://{style.foreign}" if style.foreign else asked.base_url
    return f"{home}{asked.path}?cursor={cursor}"


def page(asked: Asked, query: Mapping[str, str], total: int, limit: int, style: Style) -> tuple[slice, str]:
    """Which of so many rows this page shows, and the address of the next one, if there is one."""
    start = offset_of(query)
    stop = min(start + min(limit, style.page_size or limit), total)
    return slice(start, stop), next_url(asked, query, stop, style) if stop < total else ""


def request_id(asked: Asked) -> str:
    text = asked.path + urlencode(sorted(asked.query.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def envelope(
    asked: Asked, rows: Sequence[Any], style: Style, *, following: str = "", before: Row | None = None, **after: object
) -> Reply:
    """`before` and `after` are the endpoint's own fields on both sides of the results."""
    body: Row = dict(before or {})
    hidden = style.no_results
    if hidden == "null":
        body["results"] = None
    elif hidden in ("", "empty"):
        body["results"] = [] if hidden else rows
    if hidden or not len(rows):
        for name in ("queryCount", "resultsCount"):
            if name in body:
                body[name] = 0
        if not hidden and "queryCount" in body:
            # Bars without rows come without the field as well.
            body.pop("results")
    body["status"] = "DELAYED" if style.delayed else "OK"
    body["request_id"] = request_id(asked)
    body.update(after)
    if following and not hidden:
        body["next_url"] = following
    return Reply(200, msgspec.json.encode(body), JSON)


@lru_cache(maxsize=32)
def _midnights(calendar: TradingCalendar) -> tuple[Days, np.ndarray]:
    sessions = calendar.all_sessions
    return np.array(sessions, dtype="datetime64[D]"), np.array([midnight(day, calendar) for day in sessions])


def midnight(day: date, calendar: TradingCalendar) -> int:
    """Milliseconds until the exchange's midnight at which the day begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=calendar.zone).timestamp()) * 1000


def midnights(days: Days, calendar: TradingCalendar) -> list[int]:
    sessions, stamps = _midnights(calendar)
    places = np.searchsorted(sessions, days).clip(0, len(sessions) - 1)
    found = stamps[places]
    for row in np.flatnonzero(sessions[places] != days):
        found[row] = midnight(days[row].astype(date), calendar)
    return [int(stamp) for stamp in found]


def matching(row: Row, query: Mapping[str, str], name: str) -> bool:
    """`name=`, `name.gt=`, `name.gte=`, `name.lt=`, `name.lte=`, compared as text, which dates and tickers allow."""
    value = str(row[name])
    return (
        query.get(name, value) == value
        and not value <= query.get(f"{name}.gt", "")
        and not value < query.get(f"{name}.gte", "")
        and (f"{name}.lt" not in query or value < query[f"{name}.lt"])
        and (f"{name}.lte" not in query or value <= query[f"{name}.lte"])
    )
