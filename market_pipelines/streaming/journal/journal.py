"""The writing side of a journal: what arrives becomes durable, many entries at a time, and then it is told.

One thread owns the disk. It never gives up: while the disk takes nothing, frames are thrown away and counted, and the
first entry when there is room again says from when until when. What the entries mean does not belong here.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path

import structlog

from market_pipelines.store.disk import DiskFloor, make_folder, nearest_existing
from market_pipelines.store.locks import FileLock
from market_pipelines.streaming.entries import Format, GapCause, Mark, MarkKind, packed
from market_pipelines.streaming.journal import bells, segments
from market_pipelines.streaming.journal.bounds import Due, due, lost
from market_pipelines.streaming.journal.buffer import Buffer, Thrown
from market_pipelines.streaming.journal.faults import JournalBusy, JournalUnreadable
from market_pipelines.streaming.journal.rows import Run
from market_pipelines.streaming.journal.shelf import Shelf

LOCK_FILE = "writer.lock"
ORIGIN = "journal"
"""Of the marks that the journal itself makes."""
LOOK_SECONDS = 1.0
"""Between two looks at the disk: for room, for age, for whether it takes anything again."""
_SEGMENT_BYTES = 256_000_000
_LEAST_SEGMENT = 256_000
_ROOM_BYTES = 16_000_000
"""What has to be free after a disk was full, lest it be full again with the next commit; of a small disk a tenth."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    id: str
    last: int
    last_received_ns: int
    """Of the last entry: what came after it, until now, is missing."""
    clean: bool
    """Nothing is there, or the last entry says that the service stopped."""
    open_gaps: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class JournalState:
    id: str
    durable: int
    events: int
    """In the whole life of the journal, up to `durable`."""
    last_received_ns: int
    bytes: int
    """On the disk."""
    segments: int
    oldest: int
    buffered_entries: int
    buffered_bytes: int
    thrown_away: int
    """Entries, since it was opened, while the disk took none."""
    given_up: int
    """Segments, since it was opened."""
    commits: int
    commit_p50_seconds: float
    commit_p99_seconds: float
    """From the first entry's arrival until it is durable, over the last 1,000 commits."""
    slowest_commit_seconds: float
    full: str
    """Why the disk takes nothing now; empty: it does."""


class Journal:
    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        keep_seconds: float,
        commit_seconds: float = 0.05,
        buffer_bytes: int = 64_000_000,
        floor: DiskFloor | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        segment_bytes: int | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._reserve = min(limit_bytes // 16, _ROOM_BYTES)
        self._keep_ns = int(keep_seconds * 1e9)
        self._commit_seconds = commit_seconds
        self._floor = floor
        self._clock_ns = clock_ns
        size = segment_bytes or max(_LEAST_SEGMENT, min(_SEGMENT_BYTES, limit_bytes // 8))
        self._shelf = Shelf(folder, segment_bytes=size, zone=zone, clock_ns=clock_ns)
        self._buffer = Buffer(buffer_bytes)
        self._lock = FileLock(folder / LOCK_FILE)
        self._thread: threading.Thread | None = None
        self._bell = bells.Bell(0)
        self._told = threading.Condition()
        self._durable = 0
        self._ended = False
        self._cursors: Mapping[str, int] | None = None
        self._owed: list[Mark] = []
        """To be written before anything else."""
        self._full = ""
        self._shortage = ""
        self._look_at = 0.0
        self._commit_began = 0.0
        self._commits = 0
        self._waits: deque[float] = deque(maxlen=1_000)
        self._slowest = 0.0
        self._given_up = 0
        self._disk = (0, 0, 1)

    # --- from any thread

    def open(self, at_least: int = 0) -> Opened:
        """`at_least` is the furthest that any sink says it has: a journal that ends before has lost its end, and must
        not give those positions out again."""
        make_folder(self.folder)
        _grip(self._lock)
        try:
            tip = self._shelf.open(at_least)
            self._durable = tip.last
            self._measure()
        except BaseException as error:
            self._shelf.close()
            self._lock.release()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise JournalUnreadable(f"the journal in {self.folder} cannot be opened: {error}") from error
            raise
        self._bell = bells.hang(self.folder, tip.last)
        self._buffer.open()
        self._thread = threading.Thread(target=self._write_on, name=f"journal {self.folder.name}", daemon=True)
        self._thread.start()
        return Opened(self._shelf.id, tip.last, tip.last_received_ns, tip.stopped or not tip.last, tip.open_gaps)

    def append(self, format: Format, origin: str, received_ns: int, body: bytes) -> None:
        self._buffer.put(format, origin, received_ns, body)

    __call__ = append

    def mark(self, mark: Mark) -> None:
        self._buffer.put(Format.MARK, mark.origin, self._clock_ns(), packed(mark))

    def durable(self) -> int:
        return self._durable

    def wait_durable(self, position: int | None, timeout: float) -> bool:
        """None: everything that was appended before this call. False also where some of it had to be thrown away."""
        if position is None:
            return self._buffer.wait_settled(timeout)
        with self._told:
            self._told.wait_for(lambda: self._durable >= position or self._ended, timeout)
            return self._durable >= position

    def needed_from(self, cursors: Mapping[str, int]) -> None:
        """How far each sink is. Segments that all of them have go by age, and at once where there is no room."""
        self._cursors = dict(cursors)

    def state(self) -> JournalState:
        entries, waiting, thrown = self._buffer.counts()
        tip, (size, count, oldest) = self._shelf.tip, self._disk
        waits = sorted(self._waits.copy())
        return JournalState(
            id=self._shelf.id,
            durable=self._durable,
            events=tip.events,
            last_received_ns=tip.last_received_ns,
            bytes=size,
            segments=count,
            oldest=oldest,
            buffered_entries=entries,
            buffered_bytes=waiting,
            thrown_away=thrown,
            given_up=self._given_up,
            commits=self._commits,
            commit_p50_seconds=_quantile(waits, 0.5),
            commit_p99_seconds=_quantile(waits, 0.99),
            slowest_commit_seconds=self._slowest,
            full=self._full,
        )

    def close(self) -> None:
        """Everything that was appended is durable first, unless the disk takes nothing. Safe to call twice."""
        self._buffer.close(f"the journal in {self.folder} is closed")
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join()
        self._lock.release()

    # --- the writer's thread

    def _write_on(self) -> None:
        reason = f"the journal in {self.folder} is closed"
        try:
            while not (self._buffer.closed and (self._buffer.empty or self._full)):
                if self._full:
                    self._buffer.pause(LOOK_SECONDS)
                else:
                    self._buffer.await_entries(LOOK_SECONDS)
                    if not self._buffer.empty:
                        self._buffer.collect(self._commit_began + self._commit_seconds)
                self._turn()
        except BaseException as error:
            reason = f"the writer of the journal in {self.folder} has ended: {error}"
            raise
        finally:
            left = self._buffer.end(reason)
            if left:
                _log.error(
                    "the journal was closed without these entries",
                    journal=str(self.folder),
                    entries=left,
                    reason=self._full or reason,
                )
            self._shelf.close()
            bells.take_down(self.folder)
            with self._told:
                self._ended = True
                self._told.notify_all()

    def _turn(self) -> None:
        """One commit, or a look at a disk that takes nothing."""
        self._commit_began = time.monotonic()
        shortage = self._look()
        now_ns = self._clock_ns()
        thrown = self._buffer.stop_throwing(now_ns) if self._full and not shortage else None
        runs, since = self._buffer.take()
        if shortage:
            self._stand_still(shortage, runs)
            return
        try:
            given_up = self._store(runs, thrown, now_ns)
        except (sqlite3.Error, OSError) as error:
            self._shelf.close()
            self._stand_still(_told(error, self.folder), runs)
            return
        if thrown is not None:
            self._buffer.forget_thrown()
        self._measure()
        self._tell(runs, since)
        if self._full:
            _log.warning("the disk takes entries of the journal again", journal=str(self.folder))
            self._full = ""
        if given_up:
            self._give_up(given_up)

    def _store(self, runs: list[Run], thrown: Thrown | None, now_ns: int) -> int:
        """How many segments are to be given up, now that it is durable that they are."""
        self._look_for_removed(now_ns)
        if not self._shelf.is_open:
            self._shelf.open(self._durable)
        size = sum(len(body) for run in runs for body in run.bodies)
        going = self._due(self._reserve + 2 * size)  # once in the log and once in the segment
        marks = [*self._owed, *going.marks]
        if thrown is not None:
            marks.insert(0, self._missing(thrown, now_ns))
        if marks:
            runs = [Run(Format.MARK, ORIGIN, [now_ns] * len(marks), [packed(mark) for mark in marks]), *runs]
        if runs:
            try:
                self._shelf.write(runs)
            except sqlite3.DatabaseError as error:
                if not segments.is_damage(error):
                    raise
                _log.error(
                    "the segment that is written to is damaged: the journal goes on behind it",
                    journal=str(self.folder),
                    reason=str(error),
                )
                self._shelf.leave_damaged()
                self._shelf.write(runs)
        self._owed = []
        return going.segments

    def _look_for_removed(self, now_ns: int) -> None:
        """What somebody deletes while it is written to is missing like what is given up, and is told like that."""
        shelf = self._shelf
        whole = shelf.is_removed
        count = shelf.removed()
        if not whole and not count:
            return
        _log.error("segments of the journal were deleted by somebody: it goes on behind them", journal=str(self.folder))
        if not self._lock.in_place:
            make_folder(self.folder)
            self._lock.release()
            _grip(self._lock)
        last = self._durable if whole else shelf.stored[count - 1].last
        self._owed += lost(shelf, self._cursors, last, why="somebody deleted the journal's files", now_ns=now_ns)
        if whole:
            shelf.go_on_behind_removed()
        else:
            shelf.give_up(count)

    def _missing(self, thrown: Thrown, now_ns: int) -> Mark:
        begins = min(self._shelf.tip.last_received_ns or thrown.since_ns, thrown.since_ns)
        return Mark(
            kind=MarkKind.GAP_CLOSED,
            at_ns=now_ns,
            gap=f"{self._shelf.id}:disk_full:{begins}",
            cause=GapCause.DISK_FULL,
            begins_ns=begins,
            ends_ns=max(begins, thrown.until_ns),
            detail=f"{thrown.entries} frames were thrown away: {self._full}",
        )

    def _tell(self, runs: list[Run], since: float) -> None:
        self._durable = self._shelf.tip.last
        self._buffer.settle()
        if runs:
            self._commits += 1
            seconds = time.monotonic() - since
            self._waits.append(seconds)
            self._slowest = max(self._slowest, seconds)
        self._bell.ring(self._durable)
        with self._told:
            self._told.notify_all()

    def _stand_still(self, reason: str, runs: list[Run]) -> None:
        if not self._full:
            _log.error(
                "the disk takes nothing: frames are thrown away until it does, and a gap will say so",
                journal=str(self.folder),
                reason=reason,
            )
        self._full = reason
        self._buffer.give_back(runs)

    def _look(self) -> str:
        """Why nothing may be written now, as of at most a second ago."""
        now = time.monotonic()
        if now >= self._look_at and (self._floor is not None or self._full):
            self._look_at = now + LOOK_SECONDS
            try:
                self._shortage = self._no_room()
                if self._shortage and self._make_room():
                    self._shortage = self._no_room()
            except OSError as error:  # whether it takes anything, writing will show
                _log.warning("the disk cannot be looked at", journal=str(self.folder), reason=str(error))
                self._shortage = ""
        return self._shortage

    def _no_room(self) -> str:
        if self._floor is not None and (shortage := self._floor.shortage(self.folder)):
            return shortage
        if self._full:
            disk = shutil.disk_usage(nearest_existing(self.folder))
            if disk.free < min(_ROOM_BYTES, disk.total // 10):
                return self._full
        return ""

    def _make_room(self) -> bool:
        """Gives up what every sink has, whatever its age."""
        count = due(self._shelf, self._cursors, limit_bytes=1 << 62, keep_ns=0, now_ns=1 << 62, waiting=0).segments
        if count:
            self._give_up(count)
        return bool(count)

    def _give_up(self, count: int) -> None:
        self._shelf.give_up(count)
        self._given_up += count
        self._measure()

    def _due(self, waiting: int) -> Due:
        return due(
            self._shelf,
            self._cursors,
            limit_bytes=self._limit_bytes,
            keep_ns=self._keep_ns,
            now_ns=self._clock_ns(),
            waiting=waiting,
        )

    def _measure(self) -> None:
        if not self._shelf.is_open:
            return
        self._disk = (self._shelf.bytes(), self._shelf.count, self._shelf.oldest)


def _grip(lock: FileLock) -> None:
    path = lock.path
    if not lock.try_acquire():
        holder = path.read_text(encoding="ascii", errors="replace").strip()
        by = f"process {holder}" if holder else "another process"
        raise JournalBusy(f"{by} writes the journal in {path.parent}: one stream of a name runs at a time")
    with suppress(OSError):  # on a full disk the lock holds without a name
        path.write_text(f"{os.getpid()}\n", encoding="ascii")


def _told(error: Exception, folder: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    return f"the journal in {folder} cannot be written: {error}{f' ({name})' if name else ''}"


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
