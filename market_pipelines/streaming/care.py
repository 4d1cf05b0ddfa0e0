"""How patient a connection is, and what it knows of its present socket: times, silence, unanswered pings.

Numbers only; who acts on them is the connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from market_pipelines.streaming.backoff import FIRST, LONGEST
from market_pipelines.streaming.dialogue import Ending, EndKind
from market_pipelines.streaming.plan import Channel

HELD_UP = 0.5
"""Seconds in the intake that are worth taking into account."""


@dataclass(frozen=True, slots=True)
class Care:
    """How patient a connection is, in seconds."""

    connect: float = 8.0
    send: float = 5.0
    poll: float = 0.25
    """How long one read waits at most; a wish to stop is heeded after that."""
    leave: float = 0.4
    """For the server's answer to our closing frame, and what it sent before that."""
    ping: float = 25.0
    pong: float = 30.0
    """After a ping; any byte counts as an answer, because a server that sends data is there."""
    watch: float = 1.0
    """How often silence is looked at."""
    first_pause: float = FIRST
    longest_pause: float = LONGEST
    crowded_first: float = 15.0
    crowded_longest: float = 300.0
    """When the only socket is refused because somebody else has one."""
    healthy: float = 600.0
    """A connection that brought data for so long has the socket to itself."""
    slow: float = 120.0
    """An end so soon after `slow_consumer` is put down to it."""
    attempts: int = 0
    """In a row without data, after which the feed gives up; 0: never."""


class Session:
    """What is known of one open connection; times of a clock that only goes forward."""

    def __init__(self, care: Care, now: float, channels: Iterable[Channel]) -> None:
        self.now = self.began = self.alive = now
        self.pinged = 0.0
        self.next_look = now
        self.next_ping = now + care.ping
        self.next_watch = now + care.watch
        self.heard: dict[Channel, float] = {}
        self.unheard = set(channels)
        """Looked for in what comes; each is found once between two looks at the silence, which is enough."""
        self._pong = care.pong

    def held_up(self, seconds: float) -> None:
        """The intake made us wait: that the line was silent meanwhile is our own doing."""
        if seconds < HELD_UP:
            return
        self.now += seconds
        self.alive += seconds
        self.heard = {channel: at + seconds for channel, at in self.heard.items()}

    def unanswered(self) -> Ending | None:
        if self.pinged <= self.alive or self.now - self.pinged <= self._pong:
            return None
        return Ending(
            EndKind.FAULT, f"half-open: not a byte for {self.now - self.alive:.0f} s, not even the answer to a ping"
        )
