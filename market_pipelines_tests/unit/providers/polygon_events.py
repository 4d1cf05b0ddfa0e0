"""Live events as Polygon writes them, and what is read out of frames of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from market_pipelines.market.columns import instants
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon.frames import Frames, read_frames
from market_pipelines.providers.polygon.lots import ROUND_LOTS_UNTIL

NOW_MS = 1_795_271_400_123
NOW = NOW_MS * 1_000_000
STATUS = {"ev": "status", "status": "connected", "message": "Connected Successfully"}

Event = dict[str, Any]


def trade(**more: Any) -> Event:
    return {
        "ev": "T", "sym": "AAPL", "i": "5096", "x": 10, "p": 161.87, "s": 300, "c": [14, 41], "t": NOW_MS,
        "q": 4009402, "z": 3,
    } | more  # fmt: skip


def quote(**more: Any) -> Event:
    return {
        "ev": "Q", "sym": "MSFT", "bx": 4, "bp": 114.125, "bs": 100, "ax": 7, "ap": 114.128, "as": 160, "c": 0,
        "i": [604], "t": NOW_MS, "q": 50385480, "z": 3,
    } | more  # fmt: skip


def minute(**more: Any) -> Event:
    return {
        "ev": "AM", "sym": "GTE", "v": 4110, "av": 9470157, "op": 0.4372, "vw": 0.4488, "o": 0.4488, "c": 0.4486,
        "h": 0.4489, "l": 0.4486, "a": 0.4352, "z": 685, "s": NOW_MS - 60_123, "e": NOW_MS - 123,
    } | more  # fmt: skip


def band(**more: Any) -> Event:
    return {
        "ev": "LULD", "T": "MSFT", "h": 218.96, "l": 198.11, "i": [21], "z": 3, "t": NOW_MS, "q": 290317,
    } | more  # fmt: skip


def without(event: Event, *names: str) -> Event:
    return {name: value for name, value in event.items() if name not in names}


def frame(*events: Event) -> bytes:
    return json.dumps(events, separators=(",", ":")).encode()


def read(*bodies: bytes, symbols: Mapping[str, str] | None = None, lots_until: datetime = ROUND_LOTS_UNTIL) -> Frames:
    count = len(bodies)
    return read_frames(
        bodies,
        NOW + np.arange(count, dtype=np.int64),
        np.arange(101, 101 + count, dtype=np.int64),
        feed="polygon",
        symbols=symbols or {},
        lots_until=lots_until,
    )


def rows(found: Frames, kind: TickKind) -> list[dict[str, Any]]:
    """With times as nanoseconds."""
    table = found.tables.get(kind)
    if table is None:
        return []
    columns = {
        name: instants(table[name]).tolist() if "timestamp" in str(table[name].type) else table[name].to_pylist()
        for name in table.column_names
    }
    return [{name: values[row] for name, values in columns.items()} for row in range(len(table))]


def everything(found: Frames) -> dict[TickKind, list[dict[str, Any]]]:
    return {kind: rows(found, kind) for kind in found.tables}


def places(found: Frames) -> Sequence[tuple[int, int]]:
    return [(one.position, one.place) for one in found.unread]
