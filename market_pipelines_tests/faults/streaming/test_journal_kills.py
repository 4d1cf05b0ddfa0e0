"""R1: what the journal had told as durable survives `kill -9` at any time, and no position is lost or given out twice.

JOURNAL_KILLS says how many kills at random moments are tried, beside those at named points.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.streaming.entries import Format, GapCause, Mark, MarkKind
from market_pipelines.streaming.journal import Journal, JournalReader, segments
from market_pipelines_tests.faults.dying import Point, deadly, die, owner_of
from market_pipelines_tests.journals import BEGINNING, PATIENCE, Entry, append, entries_of, everything, journal_in

KILLS = int(os.environ.get("JOURNAL_KILLS", "60"))
_POSITION = struct.Struct("<q")
_JOURNAL = "market_pipelines.streaming.journal"

POINTS = {
    "before a batch is compressed": Point(f"{_JOURNAL}.rows.RowMaker.rows", True, 5),
    "before a batch is written": Point(f"{_JOURNAL}.rows.RowMaker.rows", False, 5),
    "after the commit, before anybody is told": Point(f"{_JOURNAL}.shelf.Shelf.write", False, 5),
    "before the first segment": Point(f"{_JOURNAL}.segments.create", True),
    "while a segment is made": Point(f"{_JOURNAL}.segments.sync_file", True, 2),
    "before a new segment has its name": Point("pathlib.Path.rename", True, 3),
    "after a new segment has its name": Point("pathlib.Path.rename", False, 3),
    "before the next segment is opened": Point(f"{_JOURNAL}.segments.create", False, 2),
    "before a log is made": Point(f"{_JOURNAL}.segments.make_log", True, 2),
    "after a log is made": Point(f"{_JOURNAL}.segments.make_log", False, 2),
    "before a segment is finished": Point(f"{_JOURNAL}.segments.finish", True),
    "after a segment is finished": Point(f"{_JOURNAL}.segments.finish", False),
    "before a segment is given up": Point(f"{_JOURNAL}.shelf.Shelf.give_up", True),
    "while segments are given up": Point(f"{_JOURNAL}.segments.unlink", False, 4),
    "after segments are given up": Point(f"{_JOURNAL}.shelf.Shelf.give_up", False),
    "before the journal has a name": Point(f"{_JOURNAL}.segments.write_id", True),
    "after the journal has a name": Point(f"{_JOURNAL}.segments.write_id", False),
}


def body(position: int) -> bytes:
    return b"%d:" % position + random.Random(position).randbytes(position * 101 % 4_000)


def expected(position: int) -> Entry:
    return Entry(position, Format.MASSIVE, "polygon-1", BEGINNING + position, body(position))


class Load:
    """A process that writes to a journal under load and tells its parent what is durable, until it is killed."""

    def __init__(self, folder: Path, consumed: int = 0) -> None:
        self._reading, writing = os.pipe()
        self._child = os.fork()
        if not self._child:
            try:
                self._write_on(folder, consumed, writing)
            finally:
                os._exit(1)
        os.close(writing)

    def _write_on(self, folder: Path, consumed: int, told: int) -> None:
        journal = journal_in(folder, segment_bytes=400_000, keep_seconds=0, commit_seconds=0.002, buffer_bytes=100_000)
        position = journal.open().last
        journal.needed_from({"lake": consumed})
        teller = threading.Thread(target=self._tell, args=(journal, told), daemon=True)
        teller.start()
        while True:
            position += 1
            journal.append(Format.MASSIVE, "polygon-1", BEGINNING + position, body(position))

    def _tell(self, journal: Journal, told: int) -> None:
        position = journal.durable()
        while True:
            os.write(told, _POSITION.pack(position))
            journal.wait_durable(position + 1, PATIENCE)
            position = journal.durable()

    def told(self) -> Iterator[int]:
        """What it told was durable, as it tells, to its end."""
        while data := os.read(self._reading, _POSITION.size):
            yield _POSITION.unpack(data)[0]

    def kill(self) -> None:
        os.kill(self._child, signal.SIGKILL)

    def end(self) -> int:
        os.close(self._reading)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])


def keeps_its_promise(folder: Path, after: int, promised: int) -> int:
    """The last position; all since the one that is known to be right are looked at."""
    with closing(JournalReader(folder)) as reader:
        assert reader.first <= after + 1, "what was still needed is there"
        found = entries_of(reader, after)
    assert [entry.position for entry in found] == list(range(after + 1, after + 1 + len(found)))
    assert all(
        entry == Entry(p, Format.MASSIVE, "polygon-1", BEGINNING + p, body(p))
        for entry in found
        for p in [entry.position]
    )
    assert after + len(found) >= promised, "what was told as durable is lost"
    return after + len(found)


def test_kills_at_random_moments_lose_nothing_that_was_durable(tmp_path: Path) -> None:
    chance, known, most = random.Random(9), 0, 0
    for _ in range(KILLS):
        load = Load(tmp_path, consumed=known)
        promised, commits = known, chance.randint(0, 12)
        for number, told in enumerate(load.told()):
            promised = told
            if number == commits:
                threading.Event().wait(chance.random() * 0.004)
                load.kill()
        assert load.end() == -signal.SIGKILL
        known = keeps_its_promise(tmp_path, known, promised)
        most = max(most, promised)
    assert most > 10 * KILLS
    assert everything(tmp_path)[0].position > 1, "segments were given up between"


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_loses_nothing_that_was_durable(point: str, tmp_path: Path) -> None:
    killed_at(POINTS[point], tmp_path)


def killed_at(point: Point, folder: Path) -> None:
    owner, name = owner_of(point.where)
    with patch.object(owner, name, deadly(getattr(owner, name), point)):
        load = Load(folder, consumed=10_000)
    dies_and_heals(load, folder)


def dies_and_heals(load: Load, folder: Path) -> None:
    promised = max(load.told(), default=0)
    assert load.end() == -signal.SIGKILL
    with closing(JournalReader(folder)) as reader:
        first = reader.first
    known = keeps_its_promise(folder, first - 1, promised)
    journal = journal_in(folder)
    told = journal.open()
    assert (told.last, told.clean) == (known, known == 0)
    assert told.last_received_ns == (BEGINNING + known if known else 0)
    append(journal, b"and on")
    journal.close()
    assert everything(folder, after=known) == [Entry(known + 1, Format.MASSIVE, "polygon-1", BEGINNING, b"and on")]
    assert not list(folder.glob("*.new*"))


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT", "PRAGMA wal_checkpoint(TRUNCATE)"])
def test_a_kill_within_sqlite_loses_nothing_that_was_durable(statement: str, tmp_path: Path) -> None:
    with killing_at_the_third(statement):
        load = Load(tmp_path, consumed=10_000)
    dies_and_heals(load, tmp_path)


@contextmanager
def killing_at_the_third(statement: str) -> Iterator[None]:
    opened, seen = segments.open_to_write, 0

    def watch(text: str) -> None:
        nonlocal seen
        if text.startswith(statement):
            seen += 1
            if seen == 3:
                die()

    def watched(*args: Path) -> object:
        connection = opened(*args)  # type: ignore[arg-type]
        connection.set_trace_callback(watch)
        return connection

    with patch.object(segments, "open_to_write", watched):
        yield


def test_after_a_kill_the_gap_that_was_open_is_told(tmp_path: Path) -> None:
    opened = Mark(
        kind=MarkKind.GAP_OPENED, at_ns=BEGINNING, gap="polygon-1:1", cause=GapCause.SILENT, begins_ns=BEGINNING
    )

    def work() -> None:
        journal = journal_in(tmp_path)
        journal.open()
        journal.mark(Mark(kind=MarkKind.STARTED, at_ns=BEGINNING))
        journal.mark(opened)
        append(journal, b"x", at_ns=BEGINNING + 5)
        die()

    assert in_a_dying_child(work) == -signal.SIGKILL
    journal = journal_in(tmp_path)
    told = journal.open()
    journal.close()
    assert (told.last, told.last_received_ns, told.clean, told.open_gaps) == (3, BEGINNING + 5, False, (opened,))


def in_a_dying_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_reader_beside_a_killed_writer_goes_on_with_the_next_one(tmp_path: Path) -> None:
    """It keeps the segment open, so that what the writer had left is not looked at anew."""
    with closing(JournalReader(tmp_path)) as reader:
        seen = promised = 0
        for _ in range(5):
            load = Load(tmp_path)
            for number, told in enumerate(load.told()):
                promised = told
                for batch in reader.read(seen):
                    assert batch.bodies == [body(batch.first + place) for place in range(len(batch.bodies))]
                    seen = batch.last
                if number == 4:
                    load.kill()
            assert load.end() == -signal.SIGKILL
        seen = max([seen, *(entry.position for entry in entries_of(reader, seen))])
        assert seen >= promised
        assert seen == keeps_its_promise(tmp_path, 0, promised)
