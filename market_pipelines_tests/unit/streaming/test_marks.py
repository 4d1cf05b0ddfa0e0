"""The way of a sink that wants marks alone: every one of them, and nothing else is looked at."""

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from market_pipelines.streaming.entries import Chunk, Format, GapCause, Mark, MarkKind
from market_pipelines.streaming.feeds.protocol import Feed
from market_pipelines.streaming.gaps import GapWatch
from market_pipelines.streaming.journal import Journal, JournalReader, PositionGone
from market_pipelines.streaming.marks import Marks
from market_pipelines.streaming.meter import Meter
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.reporting import Reporter
from market_pipelines.streaming.sinks.runner import RunnerState, SinkState
from market_pipelines_tests.unit.providers.polygon_events import NOW, frame, trade
from market_pipelines_tests.unit.streaming.journal_made import MemoryJournal, MemoryReader
from market_pipelines_tests.unit.streaming.test_tail import tail_of, walk


def marks_of(journal: MemoryJournal) -> Marks:
    return Marks(cast(JournalReader, journal.reader()), journal="memory")


def noticed(number: int) -> Mark:
    return Mark(kind=MarkKind.GAP_OPENED, at_ns=number, gap=f"gap-{number}", cause=GapCause.DISCONNECTED)


def a_journal() -> MemoryJournal:
    journal = MemoryJournal(most=3)
    for number in range(1, 30):
        journal.append(frame(trade(q=number)), b"no JSON at all")
        if number % 4 == 0:
            journal.mark(noticed(number))
    return journal


def whole(chunk: Chunk | None) -> Chunk:
    assert chunk is not None
    return chunk


def test_its_chunks_say_of_marks_and_of_time_what_those_of_the_tail_say() -> None:
    journal = a_journal()
    with tail_of(journal) as (tail, _), closing(marks_of(journal)) as marks:
        (decoded,) = walk(tail, 5, len(journal.entries))
        found = whole(marks.chunk(5, 1.0))
    assert found.marks == decoded.marks != ()
    told = (found.journal, found.after, found.upto, found.events_upto, found.last_received_ns)
    assert told == (decoded.journal, 5, decoded.upto, decoded.events_upto, decoded.last_received_ns)
    assert (found.rows, found.rejects) == (0, ())


def test_what_came_before_is_not_read() -> None:
    journal = a_journal()
    reader = MemoryReader(journal)
    with closing(Marks(cast(JournalReader, reader), journal="memory")) as marks:
        last = len(journal.entries)
        assert whole(marks.chunk(last - 1, 1.0)).upto == last
    assert journal.reads == [(last - 1, 1)]


def test_a_mark_that_cannot_be_read_hides_no_other_one() -> None:
    journal = MemoryJournal()
    journal.mark(noticed(1))
    journal.append(b"\xc1", format=journal.entries[0][0])
    journal.mark(noticed(2))
    with closing(marks_of(journal)) as marks:
        assert [mark.gap for mark in whole(marks.chunk(0, 1.0)).marks] == ["gap-1", "gap-2"]


def test_nothing_comes_in_time_and_a_mark_wakes_whoever_waits() -> None:
    journal = MemoryJournal()
    with closing(marks_of(journal)) as marks:
        assert marks.chunk(0, 0.01) is None
        found: list[Chunk | None] = []
        waiting = threading.Thread(target=lambda: found.append(marks.chunk(0, 30.0)))
        waiting.start()
        journal.mark(noticed(1))
        waiting.join(10.0)
        assert whole(found[0]).upto == 1


def test_closing_ends_a_wait_and_what_is_asked_later() -> None:
    marks = marks_of(MemoryJournal())
    found: list[Chunk | None] = []
    waiting = threading.Thread(target=lambda: found.append(marks.chunk(0, 30.0)))
    waiting.start()
    marks.close()
    waiting.join(10.0)
    assert found == [None]
    assert marks.chunk(0, 30.0) is None
    marks.close()


def test_what_the_journal_has_given_up_is_said() -> None:
    journal = a_journal()
    journal.first = 20
    with closing(marks_of(journal)) as marks, pytest.raises(PositionGone):
        marks.chunk(3, 1.0)


def test_where_a_position_stands() -> None:
    journal = a_journal()
    journal.first = 20
    with closing(marks_of(journal)) as marks:
        assert marks.standing(25) == (25, NOW + 25)
        assert marks.standing(3) == (19, NOW + 20), "what it lacks first of what is still there"
        assert marks.standing(len(journal.entries) + 1) == (0, 0)
    assert marks.standing(25) == (0, 0)


def test_a_sink_that_has_stored_nothing_yet_is_as_late_as_what_it_has_to_begin_with(tmp_path: Path) -> None:
    plan = cast(StreamPlan, None)  # only what a whole report says
    with (
        closing(Journal(tmp_path, limit_bytes=1 << 30, keep_seconds=3600)) as journal,
        closing(Marks(JournalReader(tmp_path), journal="memory")) as marks,
    ):
        journal.open()
        now = time.time_ns()
        for age in (400, 300, 200, 100):
            journal.append(Format.MASSIVE, "test", now - age * 1_000_000_000, frame(trade(q=age)))
        assert journal.wait_durable(None, 10.0)
        reporter = Reporter(plan, journal, Meter())
        reporter.follow(cast(Feed, None), cast(GapWatch, None), (), marks.standing)
        state = journal.state()
        assert reporter.lag(SinkState("lake", position=2), state) == (2, 200.0)
        assert reporter.lag(SinkState("lake", RunnerState.RETRYING, position=2), state)[1] >= 300.0
        assert reporter.lag(SinkState("lake", position=4), state) == (0, 0.0)
