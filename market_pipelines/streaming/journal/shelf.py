"""The writer's side of a journal's folder: which segment is written to, what comes after it, which were given up.

One thread at a time. When to write, and what to give up, is decided elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from pathlib import Path

import structlog

from market_pipelines.store.disk import make_folder, sync_folder
from market_pipelines.streaming.entries import Format, Mark, MarkKind
from market_pipelines.streaming.journal import segments, wal
from market_pipelines.streaming.journal.faults import Damaged, JournalMissing
from market_pipelines.streaming.journal.rows import Row, RowMaker, Run, batch_of, received_times, verified
from market_pipelines.streaming.journal.segments import COLUMNS, Birth, Name

LEAP = 1_000_000_000
"""Positions that are passed over where it is unknown how many had been given out: more than a segment can hold."""
_INSERT = f"INSERT INTO rows ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - names of columns
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tip:
    """The end of the journal."""

    last: int
    events: int
    received_upto: int
    last_received_ns: int
    stopped: bool
    """Whether the last entry says that the service has stopped."""
    open_gaps: tuple[Mark, ...]


_NOTHING = Tip(0, 0, 0, 0, False, ())


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment that is not written to any more."""

    name: Name
    first: int
    last: int
    """Of the positions that it could hold: the next segment begins behind it."""
    created_ns: int
    ended_ns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Of the segment that was written to last, also while none is open."""

    name: Name
    inode: int
    birth: Birth


@dataclass(slots=True)
class _Current:
    """The segment that is written to."""

    name: Name
    birth: Birth
    connection: sqlite3.Connection
    logged: bool = False
    """Whether its write-ahead log is there and its name durable."""
    worn: bool = False
    """Damaged: it is left as it is."""


class Shelf:
    def __init__(self, folder: Path, *, segment_bytes: int, zone: tzinfo = UTC, clock_ns: Callable[[], int]) -> None:
        self.folder = folder
        self.id = ""
        self.tip = _NOTHING
        self._segment_bytes = segment_bytes
        self._zone = zone
        self._clock_ns = clock_ns
        self._stored: list[Stored] = []
        self._current: _Current | None = None
        self.is_open = False
        self._last: _Place | None = None
        self._newest: Name | None = None
        """Of all names that were ever given: readers know a segment by its name."""

    # --- opening

    def open(self, at_least: int = 0) -> Tip:
        make_folder(self.folder)
        segments.sweep(self.folder)
        births, end_is_lost = self._births()
        self._find_id(births)
        self._stored = []
        for (name, birth), (_, following) in pairwise(births):
            self._store(name, birth, following.first, following.created_ns)
        self.tip, self._last = _NOTHING, None
        if births:
            self._open_last(*births[-1])
        if end_is_lost:
            self.leave_damaged()
        if at_least > self.tip.last:
            _log.error(
                "the journal ends before what a sink has already: its end is lost",
                journal=str(self.folder),
                ends=self.tip.last,
                a_sink_has=at_least,
            )
            self._leave(at_least)
        self.is_open = True
        return self.tip

    def _births(self) -> tuple[list[tuple[Name, Birth]], bool]:
        """Of all segments that can be read, and whether the last was not one of them."""
        found = []
        listed = segments.names(self.folder)
        for name in listed:
            connection = segments.open_to_read(self.folder, name, finished=name != listed[-1])
            try:
                found.append((name, segments.birth_of(connection)))
            except sqlite3.DatabaseError as error:
                if not segments.is_damage(error):
                    raise
                _log.error(
                    "a segment of the journal cannot be read and is set aside",
                    segment=str(self.folder / str(name)),
                    reason=str(error),
                )
            finally:
                connection.close()
            if not found or found[-1][0] != name:
                segments.set_aside(self.folder, name)
        return found, bool(listed) and [name for name, _ in found][-1:] != listed[-1:]

    def _find_id(self, births: Sequence[tuple[Name, Birth]]) -> None:
        try:
            self.id = segments.read_id(self.folder)
        except JournalMissing:
            self.id = self.id or (births[-1][1].journal if births else segments.new_id())
            segments.write_id(self.folder, self.id)

    def _open_last(self, name: Name, birth: Birth) -> None:
        self.tip = Tip(
            birth.first - 1,
            birth.events_before,
            birth.received_upto,
            birth.last_received_ns,
            birth.stopped,
            birth.open_gaps,
        )
        connection = self._hold(name, birth).connection
        try:
            damaged = self._has_lost_commits(connection, self.folder / str(name)) or not segments.is_whole(connection)
            columns = connection.execute(f"SELECT {COLUMNS} FROM rows ORDER BY first DESC LIMIT 1").fetchone()  # noqa: S608
            if columns is not None and not damaged:
                self._read_tip(connection, verified(columns))
        except (Damaged, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.Error) and not segments.is_damage(error):
                raise
            damaged = True
        if damaged:
            _log.error(
                "the end of the journal is damaged: it goes on in a new segment, behind it",
                segment=str(self.folder / str(name)),
            )
            self.tip = replace(self.tip, last=max(self.tip.last, self._last_believed(connection)))
            self.leave_damaged()

    def _hold(self, name: Name, birth: Birth) -> _Current:
        """From now on it is the one that is written to."""
        self._current = current = _Current(name, birth, segments.open_to_write(self.folder, name))
        self._last = _Place(name, segments.inode(self.folder, name), birth)
        self._newest = name if self._newest is None else max(name, self._newest)
        return current

    def _has_lost_commits(self, connection: sqlite3.Connection, path: Path) -> bool:
        connection.execute("SELECT count(*) FROM segment").fetchone()
        log = segments.companions(path)[0]
        if not log.exists() or not log.stat().st_size:
            return False
        _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return wal.has_lost_commits(log, max(0, frames))

    def _last_believed(self, connection: sqlite3.Connection) -> int:
        """Of a damaged segment: as good as any number that is not too small."""
        try:
            found = connection.execute("SELECT max(first) FROM rows").fetchone()
        except sqlite3.DatabaseError:
            return 0
        return found[0] if isinstance(found[0], int) else 0

    def _read_tip(self, connection: sqlite3.Connection, row: Row) -> None:
        gaps = {gap.gap: gap for gap in self.tip.open_gaps}
        last_mark: Mark | None = None
        found = connection.execute(f"SELECT {COLUMNS} FROM rows WHERE format = 'mark' ORDER BY first").fetchall()  # noqa: S608
        for columns in found:
            try:
                marks = segments.marks_in(batch_of(verified(columns)).bodies)
            except Damaged:
                continue
            follow_gaps(gaps, marks)
            last_mark = marks[-1] if marks else None
        self.tip = Tip(
            row.last,
            row.events_before + row.events,
            row.received_upto,
            int(received_times(row).max()),
            row.format == Format.MARK.value and last_mark is not None and last_mark.kind is MarkKind.STOPPED,
            tuple(gaps.values()),
        )

    # --- writing

    def write(self, runs: Sequence[Run]) -> None:
        """Durable when it returns. When it raises, the journal is as it was, and has to be opened again."""
        maker = RowMaker(self.tip.last, self.tip.events, self.tip.received_upto)
        rows = maker.rows(runs)
        connection = self._writable()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, rows)
        connection.execute("COMMIT")
        gaps = {gap.gap: gap for gap in self.tip.open_gaps}
        marks: list[Mark] = []
        for run in runs:
            if run.format is Format.MARK:
                marks = segments.marks_in(run.bodies)
                follow_gaps(gaps, marks)
        ends_in_mark = runs[-1].format is Format.MARK and bool(marks)
        self.tip = Tip(
            maker.last,
            maker.events,
            maker.received_upto,
            max(runs[-1].times),
            ends_in_mark and marks[-1].kind is MarkKind.STOPPED,
            tuple(gaps.values()),
        )

    def _writable(self) -> sqlite3.Connection:
        now = self._clock_ns()
        day = datetime.fromtimestamp(now // 1_000_000_000, self._zone).date().isoformat()
        current = self._current
        following = Name(day, 1) if self._newest is None else self._newest.following(day)
        if current is None:
            current = self._begin_segment(following, now)
        elif current.worn or day > current.name.day or segments.size(self.folder, current.name) >= self._segment_bytes:
            self._let_go(current)
            current = self._begin_segment(following, now)
        if not current.logged:
            segments.make_log(self.folder, current.connection)
            current.logged = True
        return current.connection

    def _begin_segment(self, name: Name, now: int) -> _Current:
        tip, before = self.tip, self._current
        birth = Birth(
            self.id,
            tip.last + 1,
            tip.events,
            tip.received_upto,
            tip.last_received_ns,
            tip.stopped,
            now,
            tip.open_gaps,
        )
        segments.create(self.folder, name, birth)
        if before is not None:
            self._store(before.name, before.birth, birth.first, now)
        return self._hold(name, birth)

    def _let_go(self, current: _Current) -> None:
        try:
            segments.finish(current.connection)
        except sqlite3.DatabaseError as error:
            if not current.worn:
                raise
            _log.warning("a damaged segment could not be closed properly", segment=str(current.name), reason=str(error))

    def leave_damaged(self) -> None:
        """What is written to turned out to be damaged."""
        self._leave(self.tip.last + LEAP)

    def go_on_behind_removed(self) -> None:
        """What was written to is not there any more: its positions are not given out again."""
        tip = self.tip
        self.close()
        self.open(tip.last)
        self.tip = replace(tip, stopped=False)

    def _leave(self, last: int) -> None:
        if self._current is not None:
            self._current.worn = True
        self.tip = replace(self.tip, last=last, stopped=False)

    # --- what there is

    @property
    def stored(self) -> Sequence[Stored]:
        """Segments that are whole, the oldest first."""
        return self._stored

    @property
    def oldest(self) -> int:
        """The first position that is there, or that will be."""
        if self._stored:
            return self._stored[0].first
        return 1 if self._last is None else self._last.birth.first

    @property
    def is_removed(self) -> bool:
        """Somebody has deleted what was written to last: SQLite would go on writing into a file without a name."""
        last = self._last
        return last is not None and segments.inode(self.folder, last.name) != last.inode

    def removed(self) -> int:
        """How many of the oldest somebody has deleted."""
        there = (number for number, one in enumerate(self._stored) if segments.inode(self.folder, one.name))
        return next(there, len(self._stored))

    @property
    def count(self) -> int:
        return len(self._stored) + (self._current is not None)

    def bytes(self) -> int:
        now = segments.size(self.folder, self._current.name) if self._current is not None else 0
        return now + sum(stored.bytes for stored in self._stored)

    def give_up(self, count: int) -> None:
        """The oldest so many."""
        gone = self._stored[:count]
        del self._stored[:count]
        try:
            for stored in gone:
                segments.unlink(self.folder / str(stored.name))
            sync_folder(self.folder)
        except OSError as error:
            _log.warning(
                "segments of the journal that are given up could not be deleted; the next start tries again",
                journal=str(self.folder),
                reason=str(error),
            )

    def received_at(self, position: int) -> int:
        """When the entry at this position was received, or the nearest before it that can be read; 0: none."""
        last, current = self._last, self._current
        stored = next((one for one in reversed(self._stored) if one.first <= position), None)
        try:
            if last is not None and position >= last.birth.first:
                created_ns = last.birth.created_ns
                # Though its file may have been removed, what is open can be read.
                return created_ns if current is None else _received_at(current.connection, position)
            if stored is None:
                return 0
            created_ns = stored.created_ns
            with closing(segments.open_to_read(self.folder, stored.name, finished=True)) as connection:
                return _received_at(connection, position)
        except (Damaged, sqlite3.DatabaseError):
            return created_ns

    def close(self) -> None:
        """Also after an error; what is durable stays so."""
        self.is_open = False
        current, self._current = self._current, None
        if current is None:
            return
        try:
            segments.finish(current.connection)
        except sqlite3.Error as error:
            _log.warning(
                "a segment of the journal was closed with its log unwritten; nothing is lost by that",
                segment=str(current.name),
                reason=str(error),
            )

    def _store(self, name: Name, birth: Birth, following: int, ended_ns: int) -> None:
        size = segments.size(self.folder, name)
        self._stored.append(Stored(name, birth.first, following - 1, birth.created_ns, ended_ns, size))


def _received_at(connection: sqlite3.Connection, position: int) -> int:
    columns = connection.execute(
        f"SELECT {COLUMNS} FROM rows WHERE first <= ? ORDER BY first DESC LIMIT 1",  # noqa: S608 - names of columns
        (position,),
    ).fetchone()
    if columns is None:
        return segments.birth_of(connection).last_received_ns
    row = verified(columns)
    return int(received_times(row)[min(position, row.last) - row.first])


def follow_gaps(gaps: dict[str, Mark], marks: Sequence[Mark]) -> None:
    """Which gaps are open after these marks."""
    for mark in marks:
        if mark.kind is MarkKind.GAP_OPENED:
            gaps[mark.gap] = mark
        elif mark.kind is MarkKind.GAP_CLOSED:
            gaps.pop(mark.gap, None)
