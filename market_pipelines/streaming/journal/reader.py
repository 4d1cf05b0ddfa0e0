"""The reading side of a journal: any number of readers, in the writer's process and in others.

A reader sees only what is durable. Rows that are damaged are passed over, and a mark in their place says so.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog

from market_pipelines.streaming.entries import Batch, Format, GapCause, Mark, MarkKind, packed
from market_pipelines.streaming.journal import bells, segments
from market_pipelines.streaming.journal.faults import Damaged, JournalClosed, JournalUnreadable, PositionGone
from market_pipelines.streaming.journal.rows import ROW_ENTRIES, Row, batch_of, received_times, verified
from market_pipelines.streaming.journal.segments import COLUMNS, Birth, Name

POLL_SECONDS = 0.02
_OPEN_SEGMENTS = 4
_MOST_DAMAGED = 1_000
"""One after the other: then damage has made a circle of them."""
_ORIGIN = "journal"
_FROM = f"SELECT {COLUMNS} FROM rows WHERE first >= ? ORDER BY first"  # noqa: S608 - names of columns
_BEFORE = "SELECT first, entries, received_upto FROM rows WHERE first <= ? ORDER BY first DESC LIMIT 1"
_ANSWERS = (
    "SELECT first, entries FROM rows "
    "WHERE first > ? AND first <= ? AND first + entries > ? AND format = 'answer' ORDER BY first"
)
_log = structlog.get_logger(__name__)


class _Segment(NamedTuple):
    name: Name
    birth: Birth
    until: int | None
    """The last position that it could have; None: it is being written to."""
    ended_ns: int


class JournalReader:
    """Safe to share between threads; each that has much to read better has its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = folder.resolve()
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._births: dict[Name, Birth] = {}
        self._unreadable: set[Name] = set()
        self._connections: dict[tuple[Name, bool], sqlite3.Connection] = {}
        self._told: set[int] = set()

    @property
    def id(self) -> str:
        return segments.read_id(self.folder)

    @property
    def first(self) -> int:
        """The oldest position that is still there, or the one that will be the first."""
        with self._reading():
            listed = self._segments()
            return listed[0].birth.first if listed else 1

    @property
    def last(self) -> int:
        """The last durable position; 0: none."""
        with self._reading():
            listed = self._segments()
            return self._last_of(listed[-1]) if listed else 0

    def read(self, after: int, *, entries: int = 20_000, size: int = 4_000_000) -> list[Batch]:
        """What follows a position, in order, about so much at most. Where the journal is damaged, the last of the
        positions that cannot be read is a mark that says so, and those before it are passed over."""
        with self._reading():
            found: list[Batch] = []
            with closing(self._batches(after, entries)) as batches:
                for batch in batches:
                    if found and len(batch.bodies) > entries:
                        break
                    found.append(batch)
                    entries -= len(batch.bodies)
                    size -= sum(map(len, batch.bodies))
                    if entries <= 0 or size <= 0:
                        break
            return found

    def answers(self, after: int, upto: int) -> Iterator[Batch]:
        """The providers' answers of after a position, up to another one; frames are not even looked at."""
        with self._reading():
            found = [
                place
                for segment in self._segments()
                if segment.birth.first <= upto and (segment.until is None or segment.until > after)
                for place in self._answers_in(segment, after, upto)
            ]
        for first, last in found:
            with suppress(PositionGone):  # since then
                batches = self.read(first - 1, entries=last - first + 1, size=1)
                yield from (batch for batch in batches if batch.format is Format.ANSWER)

    def wait(self, after: int, timeout: float) -> bool:
        """Whether there is something after a position, now or before so many seconds have gone."""
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            bell = bells.bell_of(self._key)
            if bell is not None and bell.beyond(after, deadline, self._closed):
                return True
            if bell is None and self.last > after:
                return True
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                return False
            if bell is None:
                self._closed.wait(min(POLL_SECONDS, seconds))
        return False

    def position_at(self, received_ns: int) -> int:
        """The position after which everything is that was received at this time or later, and as little else as
        possible."""
        with self._reading():
            listed = self._segments()
            place = bisect_left([segment.birth.received_upto for segment in listed], received_ns) - 1
            for segment in listed[max(0, place) :]:
                found = self._first_at(segment, received_ns)
                if found is not None:
                    return found - 1
            return self._last_of(listed[-1]) if listed else 0

    def close(self) -> None:
        """Wakes whoever waits. Safe to call twice."""
        self._closed.set()
        bell = bells.bell_of(self._key)
        if bell is not None:
            bell.disturb()
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    # --- segments

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            if self._closed.is_set():
                raise JournalClosed(f"the reader of the journal in {self.folder} is closed")
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise JournalUnreadable(f"the journal in {self.folder} cannot be read now: {error}") from error

    def _segments(self) -> list[_Segment]:
        listed = segments.names(self.folder)
        for name in listed:
            if name not in self._births and name not in self._unreadable:
                self._get_to_know(name, finished=name != listed[-1])
        self._forget(set(listed))
        known = [(name, self._births[name]) for name in listed if name in self._births]
        following = [*((birth.first - 1, birth.created_ns) for _, birth in known[1:]), (None, 0)]
        return [_Segment(name, birth, *end) for (name, birth), end in zip(known, following, strict=bool(known))]

    def _get_to_know(self, name: Name, *, finished: bool) -> None:
        try:
            self._births[name] = segments.birth_of(self._connection(name, finished=finished))
        except sqlite3.DatabaseError as error:
            self._drop((name, finished))
            if not (self.folder / str(name)).exists():
                return  # given up since it was listed
            if not segments.is_damage(error):
                raise
            self._unreadable.add(name)
            _log.error(
                "a segment of the journal cannot be read", segment=str(self.folder / str(name)), reason=str(error)
            )

    def _forget(self, listed: set[Name]) -> None:
        for key in [key for key in self._connections if key[0] not in listed]:
            self._drop(key)
        for name in [name for name in self._births if name not in listed]:
            del self._births[name]

    def _connection(self, name: Name, *, finished: bool) -> sqlite3.Connection:
        key = (name, finished)
        found = self._connections.pop(key, None)
        if found is None:
            self._drop((name, not finished))
            while len(self._connections) >= _OPEN_SEGMENTS:
                self._drop(next(iter(self._connections)))
            found = segments.open_to_read(self.folder, name, finished=finished)
        self._connections[key] = found
        return found

    def _drop(self, key: tuple[Name, bool]) -> None:
        connection = self._connections.pop(key, None)
        if connection is not None:
            connection.close()

    def _open(self, segment: _Segment) -> sqlite3.Connection:
        return self._connection(segment.name, finished=segment.until is not None)

    # --- rows

    def _batches(self, after: int, entries: int) -> Generator[Batch, None, None]:
        listed = self._segments()
        if not listed:
            return
        if after + 1 < listed[0].birth.first:
            raise PositionGone(after + 1, listed[0].birth.first)
        place = bisect_right([segment.birth.first for segment in listed], after + 1) - 1
        for segment in listed[place:]:
            last, last_received = segment.birth.first - 1, segment.birth.last_received_ns
            events = segment.birth.events_before
            for row in self._rows(segment, after + 1):
                if row.first > max(last, after) + 1:
                    yield self._missing(last + 1, row.first - 1, last_received, int(received_times(row)[0]), events)
                last, last_received, events = row.last, int(received_times(row).max()), row.events_before + row.events
                if last > after:
                    yield batch_of(row, after=after, entries=entries)
            if segment.until is not None and segment.until > max(last, after):
                yield self._missing(last + 1, segment.until, last_received, segment.ended_ns, events)

    def _rows(self, segment: _Segment, position: int) -> Iterator[Row]:
        """From the one that holds the position, or the last before it. Damaged ones are left out."""
        connection = self._open(segment)
        start: int | None = self._start(connection, position)
        while start is not None:
            highest, damaged = start - 1, 0
            try:
                with closing(connection.execute(_FROM, (start,))) as cursor:  # an open one keeps the log from ending
                    for columns in cursor:
                        try:
                            row = verified(columns)
                        except Damaged as error:
                            self._report(segment, highest + 1, str(error))
                            damaged += 1
                            if damaged <= _MOST_DAMAGED:
                                continue
                            raise sqlite3.DatabaseError("damaged rows without end") from error
                        if row.first <= highest:
                            raise sqlite3.DatabaseError("rows come in a circle")
                        highest, damaged = row.first, 0
                        yield row
                return
            except sqlite3.DatabaseError as error:
                if not segments.is_damage(error):
                    raise
                self._report(segment, highest + 1, str(error))
            start = _beyond_damage(connection, max(start, highest))

    def _answers_in(self, segment: _Segment, after: int, upto: int) -> list[tuple[int, int]]:
        """The first and last position of each row of them."""
        bounds = (after + 1 - ROW_ENTRIES, upto, after + 1)
        try:
            rows = self._open(segment).execute(_ANSWERS, bounds).fetchall()
        except sqlite3.DatabaseError as error:
            if not segments.is_damage(error):
                raise
            self._report(segment, max(after + 1, segment.birth.first), str(error))
            return []
        return [(max(first, after + 1), min(first + entries - 1, upto)) for first, entries in rows]

    def _start(self, connection: sqlite3.Connection, position: int) -> int:
        try:
            found = connection.execute(_BEFORE, (position,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not segments.is_damage(error):
                raise
            return position
        return position if found is None else int(found[0])

    def _missing(self, first: int, last: int, begins_ns: int, ends_ns: int, events: int) -> Batch:
        begins_ns = begins_ns or ends_ns
        mark = Mark(
            kind=MarkKind.GAP_CLOSED,
            at_ns=ends_ns,
            gap=f"{self.id}:damaged:{first}-{last}",
            cause=GapCause.CRASHED,
            begins_ns=begins_ns,
            ends_ns=max(begins_ns, ends_ns),
            detail="this part of the journal is damaged and cannot be read",
        )
        return Batch(last, Format.MARK, _ORIGIN, np.array([ends_ns], np.int64), [packed(mark)], 0, events)

    def _report(self, segment: _Segment, position: int, reason: str) -> None:
        if position not in self._told:
            self._told.add(position)
            _log.error(
                "a part of the journal is damaged and passed over",
                segment=str(self.folder / str(segment.name)),
                position=position,
                reason=reason,
            )

    def _last_of(self, segment: _Segment) -> int:
        try:
            found = self._open(segment).execute(_BEFORE, (1 << 62,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not segments.is_damage(error):
                raise
            found = None
        return segment.birth.first - 1 if found is None else int(found[0]) + int(found[1]) - 1

    def _first_at(self, segment: _Segment, received_ns: int) -> int | None:
        """By halving: `received_upto` never falls."""
        connection = self._open(segment)
        low, high = segment.birth.first, self._last_of(segment) + 1
        beyond = high
        while low < high:
            middle = (low + high) // 2
            found = connection.execute(_BEFORE, (middle,)).fetchone()
            if found is not None and found[2] >= received_ns:
                high = int(found[0])
            else:
                low = max(middle, 0 if found is None else int(found[0]) + int(found[1]) - 1) + 1
        if high == beyond:
            return None
        try:
            row = verified(connection.execute(f"{_FROM} LIMIT 1", (high,)).fetchone())
        except Damaged:
            return high
        return high + int(np.argmax(received_times(row) >= received_ns))


def _beyond_damage(connection: sqlite3.Connection, position: int) -> int | None:
    """The first row behind a damaged page that can be looked up again."""
    step = 1
    while step < 1 << 40:
        try:
            found = connection.execute("SELECT first FROM rows WHERE first >= ? LIMIT 1", (position + step,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not segments.is_damage(error):
                raise
            step *= 2
            continue
        return None if found is None or found[0] <= position else int(found[0])
    return None
