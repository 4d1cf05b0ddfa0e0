"""What every sink has to be.

A sink is owned by one thread, which calls `open`, then `write` with chunk after chunk, then `close`. When `write`
returns, the chunk and the cursor are stored as durably as the target can. A chunk may come again after a crash
or an error, and then changes nothing. A sink neither retries nor sleeps: it raises, and its owner tries again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from market_pipelines.streaming.entries import Chunk


class SinkUnavailable(Exception):
    """The target cannot be written to now. The message says which, where and why, without secrets."""


class SinkRefused(Exception):
    """The target will never take this: wrong password, wrong schema, a missing package. Trying again is of no use
    before a person has acted."""


@dataclass(frozen=True, slots=True)
class Cursor:
    journal: str
    position: int


class Sink(Protocol):
    name: str
    """Lower case, a word: lake, postgres, questdb, redis, pocketbase, db_server, bus, gaps."""

    def open(self) -> Cursor | None:
        """Connects, creates what is missing, and tells what is stored; None where the target has no cursor yet."""
        ...

    def write(self, chunk: Chunk) -> int:
        """Stores it and the cursor; the number of rows that the target took."""
        ...

    def close(self) -> None:
        """Ends its connections. Safe to call at any time, also twice."""
        ...
