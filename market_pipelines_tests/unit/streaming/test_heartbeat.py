"""What a process that may have stood still asks before it writes: whether the stream is still its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast
from unittest.mock import patch

import psycopg
import pytest

from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.streams import Report, Wish
from market_pipelines.streaming import lease
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.lease import BEATS_MISSED, Heartbeat, Lease, LeaseLost
from market_pipelines.streaming.sinks.protocol import Cursor
from market_pipelines.streaming.sinks.runner import SinkRunner
from market_pipelines_tests.contract.streaming.chunks import JOURNAL, chunk

BEAT = 2.0
TOO_LONG = BEATS_MISSED * BEAT + 0.1


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Row:
    """The lease in the table."""

    clock: Clock
    stream: str = "us-polygon"
    trouble: Exception | None = None
    takes: float = 0.0
    asked: list[float] = field(default_factory=list)

    def renew(self, _report: Report) -> Wish:
        self.asked.append(self.clock.now)
        self.clock.now += self.takes
        if self.trouble is not None:
            raise self.trouble
        return Wish.NONE


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    with patch.object(lease, "_now", made):
        yield made


@pytest.fixture
def row(clock: Clock) -> Row:
    return Row(clock)


@pytest.fixture
def heartbeat(row: Row) -> Heartbeat:
    return Heartbeat(cast(Lease, row), lambda: cast(Report, None), BEAT)


def test_who_renewed_a_moment_ago_is_not_asked_again(heartbeat: Heartbeat, row: Row, clock: Clock) -> None:
    clock.now += BEAT
    assert heartbeat.still_ours()
    assert heartbeat.not_lost()
    assert row.asked == []


def test_who_stood_still_asks_first_and_goes_on_where_nobody_took_over(
    heartbeat: Heartbeat, row: Row, clock: Clock
) -> None:
    clock.now += TOO_LONG
    assert heartbeat.not_lost()
    assert heartbeat.still_ours()
    assert len(row.asked) == 1


def test_who_stood_still_and_lost_the_lease_writes_nowhere(heartbeat: Heartbeat, row: Row, clock: Clock) -> None:
    clock.now += TOO_LONG
    row.trouble = LeaseLost("taken over")
    assert not heartbeat.not_lost()
    assert not heartbeat.still_ours()
    assert heartbeat.lost == "taken over"
    assert len(row.asked) == 1


@pytest.mark.parametrize(
    "trouble",
    [DatabaseUnavailable("away"), psycopg.errors.UndefinedTable("while somebody restores it from a backup")],
    ids=["away", "without tables"],
)
def test_without_the_database_nothing_is_written_there_and_elsewhere_it_is(
    trouble: Exception, heartbeat: Heartbeat, row: Row, clock: Clock
) -> None:
    row.trouble = trouble
    clock.now += TOO_LONG
    assert heartbeat.not_lost()
    assert not heartbeat.still_ours()
    asked = len(row.asked)
    for _ in range(20):
        clock.now += BEAT
        assert heartbeat.not_lost()
    assert len(row.asked) == asked, "a database that hangs holds up nobody who writes elsewhere"
    row.trouble = None
    assert heartbeat.still_ours()


def test_a_renewal_counts_from_when_it_was_asked_for(heartbeat: Heartbeat, row: Row, clock: Clock) -> None:
    """Its answer may have waited for a process that stood still."""
    row.takes = 60.0
    heartbeat.say()
    row.takes = 0.0
    row.trouble = LeaseLost("taken over meanwhile")
    assert not heartbeat.still_ours()


# --- the sinks that ask -------------------------------------------------------------------------------------------


@dataclass
class Shelf:
    name: str = "shelf"
    opened: int = 0
    kept: list[Chunk] = field(default_factory=list)

    def open(self) -> Cursor | None:
        self.opened += 1
        return None

    def write(self, given: Chunk) -> int:
        self.kept.append(given)
        return given.rows

    def close(self) -> None:
        """Nothing is held."""


class Script:
    journal = JOURNAL

    def chunk(self, after: int, _timeout: float, /) -> Chunk | None:
        return chunk(after // 10)


def test_who_may_not_write_neither_reads_the_cursor_nor_stores_anything() -> None:
    allowed, shelf = threading.Event(), Shelf()
    refused = threading.Semaphore(0)

    def may_write() -> bool:
        refused.release()
        return allowed.is_set()

    runner = SinkRunner(
        shelf, Script(), start=0, batch_seconds=0.0, first_pause=0.01, longest_pause=0.02, may_write=may_write
    )
    runner.start()
    try:
        for _ in range(3):
            assert refused.acquire(timeout=10)
        assert runner.state().retrying
        assert (shelf.opened, shelf.kept) == (0, [])
        allowed.set()
        wait_for(lambda: len(shelf.kept) > 2)
        allowed.clear()
        wait_for(lambda: runner.state().retrying)
        stored = len(shelf.kept)
        for _ in range(3):
            assert refused.acquire(timeout=10)
        assert len(shelf.kept) == stored
    finally:
        assert runner.stop(0.0)


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)
