"""The lease of a stream: one process streams it, a second one is told who does and since when.

Taking, renewing and giving back; the rows are in `store.streams`. What a service does when it has lost its lease is
the service's business.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime

import psycopg
import structlog

from market_pipelines.pipeline.platform import Platform
from market_pipelines.store import streams
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.streams import Claim, Report, StreamRow, Wish

HEARTBEAT_SECONDS = 2.0
BEATS_MISSED = 3
"""So many, and this process may have stood still while its lease ran out: it asks before anything is written."""

_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class StreamHeld(Exception):
    """Somebody else streams this. The message says who, since when and where."""


class LeaseLost(Exception):
    """Somebody else has taken the lease while this process could not renew it."""


def new_holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def held_by(row: StreamRow) -> str:
    """Who streams, for a person."""
    how = f"Dagster run {row.run_id}" if row.hosted_by == "dagster" and row.run_id else f"process {row.pid}"
    return f"{how} on {row.host} since {_minute(row.started_at)} UTC, last heard of {row.heartbeat_age:.0f} s ago"


def refusal(row: StreamRow) -> str:
    return (
        f"{row.stream} is being streamed already by {held_by(row)}. Only one process may stream it: stop that one "
        f"with `market-pipelines stream stop --stream {row.stream}`"
    )


class Lease:
    """One process's claim on one stream. `DatabaseUnavailable` goes through everywhere."""

    def __init__(self, platform: Platform, claim: Claim) -> None:
        self._database = platform.database
        self._claim = claim

    @property
    def stream(self) -> str:
        return self._claim.stream

    def acquire(self) -> None:
        """Call it only with the lock on the claim's journal in hand."""
        with self._database.connection() as connection:
            holder = streams.acquire(connection, self._claim, journal_is_ours=True)
        if holder is not None:
            raise StreamHeld(refusal(holder))

    def renew(self, report: Report) -> Wish:
        """Says how it goes, and what people wish. A lease that ran out is still ours when nobody took it."""
        with self._database.connection() as connection:
            wish = streams.renew(connection, self.stream, self._claim.holder, report)
            if wish is not None:
                return wish
            holder = streams.acquire(connection, self._claim)
        if holder is not None:
            raise LeaseLost(f"{self.stream} has been taken over by {held_by(holder)}")
        return Wish.NONE

    def heeded(self, wish: Wish) -> None:
        with self._database.connection() as connection:
            streams.heeded(connection, self.stream, self._claim.holder, wish)

    def release(self, report: Report) -> None:
        with self._database.connection() as connection:
            streams.release(connection, self.stream, self._claim.holder, report)


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


class Heartbeat:
    """Renews a lease every few seconds in a thread of its own, and brings back what people wish.

    A database that is away ends nothing: the stream goes on into its journal, and the lease is renewed when the
    database is back. Only somebody else's lease ends it.
    """

    def __init__(self, lease: Lease, report: Callable[[], Report], seconds: float = HEARTBEAT_SECONDS) -> None:
        self._lease = lease
        self._report = report
        self._seconds = seconds
        self._over = threading.Event()
        self._asking = threading.Lock()
        self._awake_at = self._renewed_at = _now()
        """When this process was last known to run, and when it last renewed the lease."""
        self._thread = threading.Thread(target=self._run, name=f"lease {lease.stream}", daemon=True)
        self.wish = Wish.NONE
        self.lost = ""
        """Why the lease is gone."""
        self.trouble = ""
        """Why it cannot be renewed now."""

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        self._over.set()
        self._thread.join(seconds)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def heed(self) -> Wish:
        """The wish, once."""
        wish, self.wish = self.wish, Wish.NONE
        if wish is not Wish.NONE:
            self._quietly(lambda: self._lease.heeded(wish))
        return wish

    def still_ours(self) -> bool:
        """Whether the lease was renewed a moment ago. Asked before anything is stored where the lease is kept: one
        that stood still and goes on must find out whether somebody has taken over before it writes."""
        return self._is_fresh(lambda: self._renewed_at)

    def not_lost(self) -> bool:
        """The same for what is stored elsewhere: a database that is away keeps nobody from writing there. Asked only
        where nobody has asked for so long that the process may have stood still."""
        self._is_fresh(lambda: self._awake_at)
        if not self.lost:
            self._awake_at = _now()
        return not self.lost

    def _is_fresh(self, told_at: Callable[[], float]) -> bool:
        longest = BEATS_MISSED * self._seconds
        if not self.lost and _now() - told_at() > longest:
            with self._asking:
                if not self.lost and _now() - told_at() > longest:
                    self._quietly(self._beat)
                    self._awake_at = _now()
        return not self.lost and _now() - told_at() <= longest

    def say(self) -> None:
        """Now rather than with the next beat."""
        self._quietly(self._beat)

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._quietly(self._beat)
            if self.lost:
                return

    def _beat(self) -> None:
        began = _now()
        try:
            wish = self._lease.renew(self._report())
        except LeaseLost as error:
            self.lost = str(error)
            return
        self._renewed_at = began  # the answer may have waited for a process that stood still
        if self.trouble:
            _log.info("the database is back", stream=self._lease.stream)
            self.trouble = ""
        if wish is not Wish.NONE:
            self.wish = wish

    def _quietly(self, action: Callable[[], None]) -> None:
        """Whatever the database has against it, also one whose tables are being restored: none of it ends a stream."""
        try:
            action()
        except (DatabaseUnavailable, psycopg.Error) as error:
            if not self.trouble:
                _log.warning(
                    "the database is away; the stream goes on into its journal",
                    stream=self._lease.stream,
                    reason=str(error),
                )
            self.trouble = str(error) or type(error).__name__


def _now() -> float:
    """Goes on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
