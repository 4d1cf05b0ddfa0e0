"""What is said on Polygon's (Massive's) WebSocket besides data: our requests and the provider's statuses.

Text in, text out: who sends it, when, and what a status leads to is the business of the stream. The data itself is
read in `frames`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

PUBLIC_SOCKET = "wss://socket.massive.com"
CODES: Mapping[str, str] = {"trades": "T", "quotes": "Q", "minutes": "AM", "seconds": "A", "luld": "LULD"}
"""The topic's first part by channel."""
EVERYTHING = "*"
LONGEST_PARAMS = 8_000
"""Characters in one request. No limit is published; servers of this kind take frames of some ten thousand."""
MOST_QUOTED_CONTRACTS = 1_000
"""Option contracts whose quotes one connection may carry."""
STATUS_MARK = b'"status"'
"""A frame without these bytes holds no status."""

_TOPIC = re.compile(r"(?:^|[\s,:])(T|Q|AM|A|LULD)\.([^\s,]+)")
_NO_SOCKET = ("websocket access",)
_NOT_ENTITLED = ("not authorized", "not entitled", "not authorised", "doesn't include", "don't have access")


class Said(StrEnum):
    """What a status means for us."""

    CONNECTED = "connected"
    AUTH_SUCCESS = "auth_success"
    AUTH_TIMEOUT = "auth_timeout"
    AUTH_FAILED = "auth_failed"
    AUTH_REQUIRED = "auth_required"
    SUCCESS = "success"
    NOT_AUTHORIZED = "not_authorized"
    """A channel that the plan does not cover; on the wire an `error`."""
    NO_WEBSOCKET = "no_websocket"
    """The plan covers no stream at all."""
    MAX_CONNECTIONS = "max_connections"
    FORCE_DISCONNECT = "force_disconnect"
    SLOW_CONSUMER = "slow_consumer"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Status:
    said: Said
    name: str
    """As on the wire."""
    message: str

    @property
    def topics(self) -> tuple[str, ...]:
        """Those that the message names, such as `T.AAPL`."""
        return tuple(f"{code}.{symbol}" for code, symbol in _TOPIC.findall(self.message))


@dataclass(frozen=True, slots=True)
class Statuses:
    found: tuple[Status, ...]
    data: bool
    """Whether the frame holds anything else."""


class _Event(msgspec.Struct):
    ev: str = ""
    status: str | None = None
    message: str | None = None


_events = msgspec.json.Decoder(list[_Event] | _Event)


def statuses(frame: bytes) -> Statuses:
    """A frame that cannot be read counts as data: whoever decodes it keeps it aside."""
    try:
        decoded = _events.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Statuses((), data=True)
    events = decoded if isinstance(decoded, list) else [decoded]
    found = tuple(_status(one.status, one.message or "") for one in events if one.ev == "status" and one.status)
    return Statuses(found, data=any(one.ev != "status" for one in events))


def _status(name: str, message: str) -> Status:
    words = message.lower()
    if name in ("error", "auth_failed") and any(part in words for part in _NO_SOCKET):
        return Status(Said.NO_WEBSOCKET, name, message)
    if name == "error" and any(part in words for part in _NOT_ENTITLED):
        return Status(Said.NOT_AUTHORIZED, name, message)
    try:
        return Status(Said(name), name, message)
    except ValueError:
        return Status(Said.UNKNOWN, name, message)


def auth(key: str) -> str:
    return _request("auth", key)


def subscribe(topics: Iterable[str]) -> str:
    return _request("subscribe", ",".join(topics))


def unsubscribe(topics: Iterable[str]) -> str:
    return _request("unsubscribe", ",".join(topics))


def topic(channel: str, native: str) -> str:
    return f"{CODES[channel]}.{native}"


def channel_of(topic: str) -> str:
    """`ValueError` for a topic that is none of ours."""
    code = topic.partition(".")[0]
    for channel, own in CODES.items():
        if own == code:
            return channel
    raise ValueError(f"{topic!r} is no topic such as T.AAPL; known are {', '.join(CODES.values())}")


def chunks(topics: Sequence[str], longest: int = LONGEST_PARAMS) -> list[tuple[str, ...]]:
    """In their order, as many a request as fit; one that is longer than a request gets one to itself."""
    found: list[tuple[str, ...]] = []
    part: list[str] = []
    length = 0
    for one in topics:
        if part and length + 1 + len(one) > longest:
            found.append(tuple(part))
            part, length = [], 0
        length += len(one) + (1 if part else 0)
        part.append(one)
    if part:
        found.append(tuple(part))
    return found


def _request(action: str, params: str) -> str:
    return msgspec.json.encode({"action": action, "params": params}).decode()
