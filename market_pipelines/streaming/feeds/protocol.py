"""What every feed has to be, and what it may tell the service that owns it.

A feed starts its own threads and ends them. It hands every frame on the moment it arrives, and reports trouble as
it sees it: what trouble means (a gap, a row, an alarm) is not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from market_pipelines.streaming.entries import Format, GapCause


class FeedFailed(Exception):
    """The feed cannot go on and trying again is of no use: a wrong key, a plan without the channel. For a person."""


class Intake(Protocol):
    """Takes frames. Quick, safe to call from any thread; when too much waits to be written, it makes the caller
    wait rather than lose anything."""

    def __call__(self, format: Format, origin: str, received_ns: int, body: bytes) -> None: ...


class Listener(Protocol):
    """Hears of the feed's connections. Called from the feed's threads; returns at once."""

    def lost(self, origin: str, cause: GapCause, since_ns: int, detail: str) -> None:
        """Nothing has come by this connection since then, though something should have. Told once until `regained`."""
        ...

    def regained(self, origin: str, at_ns: int) -> None:
        """The first data after `lost`."""
        ...

    def status(self, origin: str, status: str, detail: str) -> None:
        """What the provider or the connection said, for people: connected, auth_success, slow_consumer …"""
        ...

    def failed(self, reason: str) -> None:
        """The feed has ended for good."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionState:
    origin: str
    """`polygon-1`: the feed and the number of the connection."""
    state: str
    """connecting, live, silent, waiting, closed, failed."""
    symbols: int
    frames: int
    reconnects: int
    attempts: int
    """In a row without data."""
    last_data_ns: int
    """0: none yet."""
    detail: str = ""


class Feed(Protocol):
    def start(self, intake: Intake, listener: Listener) -> None: ...

    def stop(self, seconds: float) -> None:
        """Ends every connection and thread, within about so many seconds. Nothing is handed on afterwards."""
        ...

    def follow(self, symbols: Sequence[str]) -> None:
        """Other symbols from now on; connections that keep theirs stay open."""
        ...

    def connections(self) -> Sequence[ConnectionState]: ...

    def subscribed(self, origin: str) -> tuple[str, ...] | None:
        """The symbols of one connection in the house's spelling; None: all of the stream's."""
        ...
