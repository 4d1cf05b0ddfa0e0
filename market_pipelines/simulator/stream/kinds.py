"""The faults of sockets: how they are named, how their values are read, what they mean. What they do is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from market_pipelines.simulator import fault_values as read
from market_pipelines.simulator.stream.events import BANDS, MINUTE, QUOTE, SECOND, TRADE

PREFIX = "ws_"
TOPICS = (TRADE, QUOTE, SECOND, MINUTE, BANDS)
UNITS = {"ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class MostConnections:
    number: int
    older_goes: bool


@dataclass(frozen=True, slots=True)
class Pings:
    every: float | None
    """None: the client's pings get no answer. Else the seconds between the server's own."""


def _share(text: str) -> object:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise ValueError
    return value


def _most(text: str) -> object:
    number, _, victim = text.partition(":")
    if int(number) < 1 or victim not in ("", "older", "newer"):
        raise ValueError
    return MostConnections(int(number), victim != "newer")


def _status(text: str) -> object:
    if not 400 <= int(text) <= 599:
        raise ValueError
    return int(text)


def _unit(text: str) -> object:
    if text not in UNITS:
        raise ValueError
    return UNITS[text]


def _channels(text: str) -> object:
    channels = tuple(part.strip() for part in text.split(","))
    if not all(channel.partition(".")[0] in TOPICS for channel in channels):
        raise ValueError
    return channels


def _pings(text: str) -> object:
    return Pings(None) if text == "on" else Pings(float(str(read.seconds(text))))


Told = tuple[str, Callable[[str], object], str, str]
_SHARE = "a share: 0.1 or 10%"
_CHANNELS = "channels: Q, Q.* or T.AAPL,T.MSFT"
POLYGON_STREAM: tuple[Told, ...] = (
    ("ws_auth_failed", read.switch, "on", "every key is refused, and the socket drops without a closing handshake"),
    ("ws_plan", read.switch, "on", "the plan has no websockets: said instead of auth_success, then the socket drops"),
    ("ws_not_authorized", _channels, _CHANNELS, "subscribing it gets `not authorized`"),
    ("ws_auth_timeout", read.seconds, "seconds", "who has not authenticated by then is sent away; without it 30"),
    (
        "ws_max_connections",
        _most,
        "N, N:older or N:newer",
        "the plan has so many connections for a key: beyond, the older or the newer one is closed after success",
    ),
    ("ws_silent_topic", _channels, _CHANNELS, "acknowledged, and not an event of it"),
    ("ws_force_disconnect", read.switch, "on", "the provider says so and closes"),
    ("ws_delay", read.seconds, "seconds", "every event comes so much later than it happens, as by a cheaper plan"),
    ("ws_decimals", read.switch, "on", "ds, dv and dav: sizes as decimal text"),
    ("ws_luld_unit", _unit, "ms, us or ns", "the unit of LULD's stamps; without it ms"),
    (
        "ws_late_minutes",
        _share,
        _SHARE,
        "so many minute bars come without their last trades first, and again when these are known",
    ),
)
BOTH_STREAMS: tuple[Told, ...] = (
    ("ws_handshake", _status, "400 to 599", "this HTTP status instead of the handshake"),
    ("ws_close_at_once", read.switch, "on", "the socket closes right after the handshake"),
    ("ws_close_after", read.count, "frames", "closes with 1001 after so many frames with events"),
    ("ws_reset_mid_frame", read.count, "frames", "after so many frames with events the next breaks off in a reset"),
    ("ws_half_open", read.switch, "on", "not a byte more, no pong and no end"),
    ("ws_mute", read.switch, "on", "pings are answered, and nothing else"),
    ("ws_stall", read.seconds, "seconds", "so long no events, which are lost to this connection; pings are answered"),
    ("ws_slow_consumer", read.positive, "bytes", "a reader so far behind is cut; without it 64 MB"),
    ("ws_ping_timeout", _pings, "on or seconds", "pings get no answer; or the server pings so often and wants one"),
    ("ws_duplicates", _share, _SHARE, "so many events come twice"),
    ("ws_disorder", _share, _SHARE, "so many events come after later ones"),
    ("ws_rubbish", _share, _SHARE, "before so many frames comes a broken one or an event that nobody knows"),
    ("ws_fragment", read.switch, "on", "frames with events come in three fragments"),
)
