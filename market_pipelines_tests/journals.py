"""Journals for tests: small ones, with what they hold as plain tuples."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from market_pipelines.streaming.entries import Format, Mark, mark_of
from market_pipelines.streaming.journal import Journal, JournalReader

PATIENCE = 20.0
BEGINNING = int(datetime(2026, 3, 2, 14, 30, tzinfo=UTC).timestamp()) * 1_000_000_000
SECOND = 1_000_000_000
DAY = 86_400 * SECOND


class Entry(NamedTuple):
    position: int
    format: Format
    origin: str
    received_ns: int
    body: bytes

    @property
    def mark(self) -> Mark:
        return mark_of(self.body)


@dataclass
class Clock:
    now_ns: int = BEGINNING

    def __call__(self) -> int:
        return self.now_ns

    def pass_(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)


@dataclass
class Room:
    """A floor that a test raises and lowers; `asked` tells how often the journal looked."""

    short: str = ""
    asked: list[Path] = field(default_factory=list)

    def shortage(self, folder: Path) -> str:
        self.asked.append(folder)
        return self.short


def journal_in(folder: Path, **options: Any) -> Journal:
    return Journal(
        folder, **{"limit_bytes": 1 << 40, "keep_seconds": 1e9, "commit_seconds": 0.001, "clock_ns": Clock(), **options}
    )


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Journal]:
    journal = journal_in(folder, **options)
    journal.open()
    try:
        yield journal
    finally:
        journal.close()


def append(journal: Journal, *bodies: bytes, origin: str = "polygon-1", at_ns: int = BEGINNING) -> None:
    """Durably."""
    for number, body in enumerate(bodies):
        journal.append(Format.MASSIVE, origin, at_ns + number, body)
    assert journal.wait_durable(None, PATIENCE)


def incompressible(size: int) -> bytes:
    return os.urandom(size)


def entries_of(reader: JournalReader, after: int = 0, **limits: int) -> list[Entry]:
    found: list[Entry] = []
    while batches := reader.read(after, **limits):
        for batch in batches:
            found += [
                Entry(batch.first + place, batch.format, batch.origin, int(batch.received[place]), body)
                for place, body in enumerate(batch.bodies)
            ]
        after = found[-1].position
    return found


def everything(folder: Path, after: int = 0) -> list[Entry]:
    with closing(JournalReader(folder)) as reader:
        return entries_of(reader, max(after, reader.first - 1))


def segments_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sqlite"))


def copied(folder: Path, to: Path) -> Path:
    """By another process: in ours, closing a file drops SQLite's locks on it."""
    subprocess.run(["cp", "-r", str(folder), str(to)], check=True)
    return to


def change(segment: Path, statement: str, *values: object) -> None:
    """What a disk that forgets would do to a row."""
    with closing(sqlite3.connect(segment, isolation_level=None)) as connection:
        assert connection.execute(statement, values).rowcount == 1


def until(ready: Callable[[], bool]) -> None:
    """For what the journal does after it has told what is durable."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, "not ready in time"
        threading.Event().wait(0.002)


def in_a_child(work: Callable[[], None]) -> int:
    """Forks, works, and waits for the child's end: its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        _work_and_leave(work)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work_and_leave(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)
