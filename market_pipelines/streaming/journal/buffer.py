"""What has arrived and is not durable yet: the one thing that the threads of sockets touch.

Entries are put together by format and origin, so that many connections do not make many small rows: within one
commit the order is kept for each origin and around marks, not between origins.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.journal.faults import JournalClosed
from market_pipelines.streaming.journal.rows import Run

_OVERHEAD = 120
"""Bytes of memory that an entry takes besides those of its body."""
_NEVER = 1 << 62
REPLACEABLE = frozenset({Format.MASSIVE, Format.YAHOO})
"""Formats whose sender does not wait for us. Answers and marks wait for room, frames cannot."""


@dataclass(frozen=True, slots=True)
class Thrown:
    entries: int
    since_ns: int
    """When the first of them was received."""
    until_ns: int


class Buffer:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._settled_some = threading.Condition(self._lock)
        self._runs: list[Run] = []
        self._open: dict[tuple[str, str], Run] = {}
        self._run: Run | None = None
        self._bytes = 0
        self._in_flight_bytes = 0
        self._in_flight = 0
        self._wake_at = _NEVER
        self._first_put = 0.0
        self._accepted = 0
        self._settled = 0
        self._thrown = 0
        self._thrown_now = 0
        self._thrown_since = 0
        self._thrown_until = 0
        self._throwing = False
        self._ended = False
        self._closed = "the journal has not been opened"

    # --- the threads of sockets

    def put(self, format: Format, origin: str, received_ns: int, body: bytes) -> None:
        size = len(body) + _OVERHEAD
        with self._lock:
            if (self._closed or self._throwing or self._bytes + size > self._limit) and not self._admits(
                format, received_ns, size
            ):
                return
            run = self._run
            if run is None or run.format is not format or run.origin != origin:
                run = self._run_of(format, origin)
            run.times.append(received_ns)
            run.bodies.append(body)
            self._accepted += 1
            self._bytes += size
            if self._bytes >= self._wake_at:
                self._wake_at = _NEVER
                self._work.notify()

    def _admits(self, format: Format, received_ns: int, size: int) -> bool:
        while True:
            if self._closed:
                raise JournalClosed(self._closed)
            if self._throwing and format in REPLACEABLE:
                self._throw(1, received_ns, received_ns)
                return False
            if self._bytes + size <= self._limit or not self._bytes:
                return True
            self._room.wait()

    def _run_of(self, format: Format, origin: str) -> Run:
        if self._run is None:
            self._first_put = time.monotonic()
        elif Format.MARK in (format, self._run.format):
            self._open.clear()
        key = (format.value, origin)
        run = self._open.get(key)
        if run is None:
            run = self._open[key] = Run(format, origin)
            self._runs.append(run)
        self._run = run
        return run

    def wait_settled(self, timeout: float) -> bool:
        """Whether all that was put so far became durable in time."""
        deadline = time.monotonic() + timeout
        with self._lock:
            wanted, thrown = self._accepted, self._thrown
            while (self._settled < wanted or self._throwing or self._thrown_now) and not self._ended:
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    return False
                self._settled_some.wait(seconds)
            return self._settled >= wanted and self._thrown == thrown

    # --- the writer

    def open(self) -> None:
        with self._lock:
            self._closed = ""

    def close(self, reason: str) -> None:
        """Nobody gets in any more; what is in is still taken."""
        with self._lock:
            self._closed = reason
            self._room.notify_all()
            self._work.notify_all()
            self._settled_some.notify_all()

    def end(self, reason: str) -> int:
        """Nobody takes anything any more. How many entries are left, which are lost."""
        self.close(reason)
        with self._lock:
            self._ended = True
            self._settled_some.notify_all()
            return sum(map(len, self._runs)) + self._in_flight

    def await_entries(self, timeout: float) -> None:
        """Until there is something, or the buffer is closed."""
        self._await(1, time.monotonic() + timeout)

    def collect(self, deadline: float) -> None:
        """Lets more arrive, unless much is waiting or the buffer is closed."""
        self._await(self._limit // 4, deadline)

    def pause(self, seconds: float) -> None:
        self._await(_NEVER, time.monotonic() + seconds)

    def _await(self, size: int, deadline: float) -> None:
        with self._lock:
            while self._bytes < size and not self._closed:
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    break
                self._wake_at = size
                self._work.wait(seconds)
            self._wake_at = _NEVER

    def take(self) -> tuple[list[Run], float]:
        """All that is there, and since when the first of it has waited. `settle` or `give_back` has to follow."""
        with self._lock:
            runs, self._runs = self._runs, []
            self._open.clear()
            self._run = None
            self._in_flight = sum(map(len, runs))
            self._in_flight_bytes = self._bytes
            return runs, self._first_put

    def settle(self) -> None:
        """What was taken is durable."""
        with self._lock:
            self._settled += self._in_flight
            self._bytes -= self._in_flight_bytes
            self._landed()

    def give_back(self, runs: list[Run]) -> None:
        """What was taken cannot be stored now: frames are thrown away, and from now on at once; the rest waits."""
        with self._lock:
            self._throwing = True
            kept = [run for run in runs if run.format not in REPLACEABLE]
            self._throw_runs(runs)
            self._throw_runs(self._runs)
            later = [run for run in self._runs if run.format not in REPLACEABLE]
            self._runs = kept + later
            self._open.clear()
            self._run = self._runs[-1] if self._runs else None
            left = sum(map(len, self._runs))
            self._settled = self._accepted - left
            self._bytes = sum(len(body) + _OVERHEAD for run in self._runs for body in run.bodies)
            self._landed()

    def stop_throwing(self, now_ns: int) -> Thrown | None:
        """From now on everything is kept again; what is missing, if anything is."""
        with self._lock:
            self._throwing = False
            if not self._thrown_now:
                return None
            return Thrown(self._thrown_now, self._thrown_since, max(now_ns, self._thrown_until))

    def forget_thrown(self) -> None:
        """What was thrown away is told durably."""
        with self._lock:
            self._thrown_now = 0

    def _throw_runs(self, runs: list[Run]) -> None:
        for run in runs:
            if run.format in REPLACEABLE:
                self._throw(len(run), min(run.times), max(run.times))

    def _throw(self, entries: int, since_ns: int, until_ns: int) -> None:
        if not self._thrown_now:
            self._thrown_since, self._thrown_until = since_ns, until_ns
        self._thrown_since = min(self._thrown_since, since_ns)
        self._thrown_until = max(self._thrown_until, until_ns)
        self._thrown += entries
        self._thrown_now += entries

    def _landed(self) -> None:
        self._in_flight = self._in_flight_bytes = 0
        self._room.notify_all()
        self._settled_some.notify_all()

    @property
    def closed(self) -> bool:
        return bool(self._closed)

    @property
    def empty(self) -> bool:
        return not self._runs

    def counts(self) -> tuple[int, int, int]:
        """Entries and bytes that wait, and entries thrown away in all."""
        with self._lock:
            return sum(map(len, self._runs)) + self._in_flight, self._bytes, self._thrown
