"""The thread of a sink: it goes on after the sink's cursor, whatever happens in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from polars.exceptions import PanicException

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.journal import JournalUnreadable, PositionGone
from market_pipelines.streaming.sinks import runner as running
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.runner import RunnerState, SinkRunner, SinkState, joined, meant_for
from market_pipelines_tests.contract.streaming.chunks import JOURNAL, chunk, ids
from market_pipelines_tests.unit.streaming.ticks_made import trades

PATIENCE = 10.0
FILLED = TickMark.FILLED


class Script:
    """A tail of so many chunks, one of which each ten positions begin."""

    def __init__(self, count: int, *, oldest: int = 1) -> None:
        self.journal = JOURNAL
        self.count = count
        self.oldest = oldest

    def chunk(self, after: int, timeout: float) -> Chunk | None:
        if after + 1 < self.oldest:
            raise PositionGone(after + 1, self.oldest)
        if after >= self.count * 10:
            time.sleep(min(timeout, 0.01))
            return None
        return chunk(after // 10)


class Trickle:
    """A tail whose journal grows by a position a millisecond; a chunk is all that there is, as the real one's is."""

    def __init__(self) -> None:
        self.journal = JOURNAL
        self.made = 0
        self._began = time.monotonic()

    def chunk(self, after: int, timeout: float) -> Chunk | None:
        durable = int((time.monotonic() - self._began) * 1000)
        if durable <= after:
            time.sleep(min(timeout, 0.001))
            return None
        self.made += 1
        return replace(chunk(0), after=after, upto=durable, last_received_ns=time.time_ns())


class Silence(Trickle):
    """A tail that has nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def chunk(self, _after: int, _timeout: float) -> Chunk | None:
        self.asked.set()
        return None


class Flood(Trickle):
    """A tail that always has more."""

    def chunk(self, after: int, _timeout: float) -> Chunk | None:
        return replace(chunk(0), after=after, upto=after + 1, last_received_ns=time.time_ns())


@dataclass
class Shelf:
    """A sink that keeps chunks, and fails as it is told: each plan is asked before a write."""

    name: str = "shelf"
    cursor: Cursor | None = None
    plan: Callable[[int], Exception | None] = lambda _: None
    kept: list[Chunk] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    def open(self) -> Cursor | None:
        self.opened += 1
        return self.cursor

    def write(self, given: Chunk) -> int:
        self.attempts.append(time.monotonic())
        trouble = self.plan(len(self.attempts))
        if trouble is not None:
            raise trouble
        self.kept.append(given)
        self.cursor = Cursor(given.journal, given.upto)
        return given.rows

    def close(self) -> None:
        self.closed += 1


@dataclass
class Batches(Shelf):
    collects: float = 60.0
    tidied: int = 0

    def tidy(self) -> None:
        self.tidied += 1


@pytest.fixture
def started() -> Iterator[Callable[..., SinkRunner]]:
    runners: list[SinkRunner] = []

    def start(sink: Shelf, tail: Script | Trickle, *, start: int = 0, batch_seconds: float = 0.0) -> SinkRunner:
        made = SinkRunner(
            sink,
            tail,
            start=start,
            batch_seconds=batch_seconds,
            first_pause=0.01,
            longest_pause=0.05,
            refused_pause=0.05,
        )
        runners.append(made)
        made.start()
        return made

    yield start
    for one in runners:
        one.stop(0.0)


def until(runner: SinkRunner, holds: Callable[[SinkState], bool]) -> SinkState:
    deadline = time.monotonic() + PATIENCE
    while not holds(runner.state()):
        assert time.monotonic() < deadline, runner.state()
        time.sleep(0.002)
    return runner.state()


Started = Callable[..., SinkRunner]


def test_it_takes_chunk_after_chunk_and_counts(started: Started) -> None:
    sink = Shelf()
    state = until(started(sink, Script(4)), lambda told: told.position == 40)
    assert [one.upto for one in sink.kept] == [10, 20, 30, 40]
    assert (state.state, state.rows, state.chunks, state.errors) == (RunnerState.LIVE, 4 * chunk(0).rows, 4, 0)
    assert state.events_upto == chunk(3).events_upto
    assert state.last_received_ns == chunk(3).last_received_ns
    assert state.last_success_ns > 0


@pytest.mark.parametrize(
    ("cursor", "start", "first"),
    [
        pytest.param(None, 0, 10, id="none yet"),
        pytest.param(None, 20, 30, id="none yet, and it begins later"),
        pytest.param(Cursor(JOURNAL, 10), 30, 20, id="its own"),
        pytest.param(Cursor("another", 30), 20, 10, id="of another journal"),
    ],
)
def test_it_begins_after_the_cursor(cursor: Cursor | None, start: int, first: int, started: Started) -> None:
    sink = Shelf(cursor=cursor)
    until(started(sink, Script(4), start=start), lambda told: told.position == 40)
    assert sink.kept[0].upto == first


def test_a_target_that_is_down_is_tried_again_without_loss_or_doubling(started: Started) -> None:
    sink = Shelf(plan=lambda attempt: SinkUnavailable("shelf at x: refused") if 2 <= attempt <= 5 else None)
    runner = started(sink, Script(3))
    state = until(runner, lambda told: told.position == 30)
    assert [one.upto for one in sink.kept] == [10, 20, 30]
    assert (state.errors, state.last_error, state.retries) == (4, "shelf at x: refused", 0)
    assert state.state is RunnerState.LIVE
    assert sink.opened == sink.closed + 1 == 5


def test_pauses_grow_up_to_a_bound_with_full_jitter(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    asked: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0.0
        asked.append(high)
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)
    sink = Shelf(plan=lambda attempt: SinkUnavailable("down") if attempt <= 5 else None)
    until(started(sink, Script(1)), lambda told: told.position == 10)
    assert asked == [0.01, 0.02, 0.04, 0.05, 0.05]


def test_pauses_begin_anew_after_a_success(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    asked: list[float] = []

    def uniform(low: float, high: float) -> float:
        asked.append(high)
        return low

    monkeypatch.setattr("random.uniform", uniform)
    sink = Shelf(plan=lambda attempt: SinkUnavailable("down") if attempt in (1, 2, 4) else None)
    until(started(sink, Script(2)), lambda told: told.position == 20)
    assert asked == [0.01, 0.02, 0.01]


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [(SinkRefused("wrong password"), RunnerState.REFUSED), (ZeroDivisionError("a fault"), RunnerState.FAILED)],
)
def test_what_only_a_person_can_mend_is_said_and_tried_now_and_then(
    trouble: Exception, expected: RunnerState, started: Started
) -> None:
    mended = threading.Event()
    sink = Shelf(plan=lambda _: None if mended.is_set() else trouble)
    runner = started(sink, Script(1))
    state = until(runner, lambda told: told.errors >= 2)
    assert state.state is expected
    assert state.retrying
    assert state.last_error == str(trouble)
    assert sink.attempts[1] - sink.attempts[0] >= 0.05
    mended.set()
    assert until(runner, lambda told: told.position == 10).state is RunnerState.LIVE


def test_an_error_shows_no_secret(started: Started) -> None:
    sink = Shelf(plan=lambda _: SinkUnavailable("redis://me:hunter22@host refused"))
    assert "hunter22" not in until(started(sink, Script(1)), lambda told: told.errors > 0).last_error


def test_what_the_journal_gave_up_is_passed_over_and_counted(started: Started) -> None:
    sink = Shelf()
    state = until(started(sink, Script(4, oldest=21)), lambda told: told.position == 40)
    assert [one.upto for one in sink.kept] == [30, 40]
    assert state.given_up == 20


def test_a_sink_that_collects_gets_chunks_joined(started: Started) -> None:
    sink = Batches()
    runner = started(sink, Script(5), batch_seconds=0.1)
    until(runner, lambda told: told.position == 50)
    assert [(one.after, one.upto) for one in sink.kept] == [(0, 50)]
    assert ids(sink.kept) == ids([chunk(number) for number in range(5)])


def test_collecting_ends_when_there_is_enough(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    monkeypatch.setattr(running, "MOST_ROWS", 2 * chunk(0).rows)
    sink = Batches()
    until(started(sink, Script(5), batch_seconds=0.05), lambda told: told.position == 50)
    assert [one.upto for one in sink.kept] == [20, 40, 50]


def test_little_is_taken_once_a_batch_and_not_with_each_commit(started: Started) -> None:
    sink, tail = Batches(), Trickle()
    runner = started(sink, tail, batch_seconds=0.2)
    until(runner, lambda told: told.chunks == 1)
    made = tail.made
    until(runner, lambda told: told.chunks == 4)
    assert tail.made - made <= 10, "chunks have been made while nobody needed them"


def test_much_is_taken_as_it_comes(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    monkeypatch.setattr(running, "LITTLE_ROWS", 1)
    sink, tail = Batches(), Trickle()
    runner = started(sink, tail, batch_seconds=0.3)
    until(runner, lambda told: told.chunks == 1)
    made = tail.made
    until(runner, lambda told: told.chunks == 3)
    assert tail.made - made > 4, "more chunks than batches"


def test_what_comes_without_a_pause_holds_no_batch_open(started: Started) -> None:
    sink = Batches()
    until(started(sink, Flood(), batch_seconds=0.05), lambda _: len(sink.kept) >= 3)
    assert [one.after for one in sink.kept[1:]] == [one.upto for one in sink.kept[:-1]]


def test_a_sink_that_waits_for_its_time_stops_at_once(started: Started) -> None:
    tail = Silence()
    runner = started(Batches(), tail, batch_seconds=60.0)
    assert tail.asked.wait(PATIENCE)
    began = time.monotonic()
    assert runner.stop(20.0, drain_to=0)
    assert time.monotonic() - began < 3.0


def test_stopping_stores_what_is_there_up_to_a_position(started: Started) -> None:
    sink = Batches()
    runner = started(sink, Script(40), batch_seconds=30.0)
    began = time.monotonic()
    assert runner.stop(5.0, drain_to=400)
    assert time.monotonic() - began < 3.0, "collecting is cut short"
    assert sink.kept[-1].upto == 400
    assert runner.state().state is RunnerState.STOPPED
    assert sink.closed == sink.opened


def test_stopping_does_not_wait_longer_than_it_may(started: Started) -> None:
    sink = Shelf(plan=lambda _: SinkUnavailable("down"))
    runner = started(sink, Script(1))
    began = time.monotonic()
    assert not runner.stop(0.3, drain_to=10)
    assert time.monotonic() - began < 2.0
    assert runner.state().state is RunnerState.STOPPED
    assert runner.state().last_error == "down"


def test_stopping_before_the_start_is_nothing(started: Started) -> None:
    assert SinkRunner(Shelf(), Script(1), start=0, batch_seconds=0.0).stop(0.1)


def test_a_sink_tidies_up_when_it_is_not_behind(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    monkeypatch.setattr(running, "_TIDY_EVERY", 0.0)
    sink = Batches()
    until(started(sink, Script(1)), lambda told: told.position == 10 and sink.tidied > 0)


def test_joined_chunks_say_all_that_each_of_them_said() -> None:
    first = replace(chunk(0), duplicates=1, passed_over=2, last_received_ns=9)
    second = replace(chunk(1, kinds=(TickKind.TRADES,)), duplicates=3, last_received_ns=5)
    whole = joined([first, second])
    assert (whole.after, whole.upto, whole.duplicates, whole.passed_over) == (0, 20, 4, 2)
    assert (whole.events_upto, whole.last_received_ns) == (second.events_upto, 9)
    assert ids([whole]) == ids([first, second])


@pytest.mark.parametrize(("name", "kept"), [("lake", 3), ("questdb", 2), ("redis", 2)])
def test_what_history_brought_for_the_lake_alone_reaches_no_other_sink(name: str, kept: int) -> None:
    """The others had it from the stream: it would be there twice."""
    table = trades({"seq": 1}, {"seq": 2, "marks": FILLED}, {"seq": 3, "marks": FILLED | TickMark.LAKE_ONLY})
    given = meant_for(name, Chunk(JOURNAL, 0, 3, {TickKind.TRADES: table}))
    assert given.table(TickKind.TRADES)["seq"].to_pylist() == [1, 2, 3][:kept]


def test_a_journal_that_cannot_be_read_for_a_moment_is_tried_again_soon(started: Started) -> None:
    tail = Script(2)
    told, failures = tail.chunk, [JournalUnreadable("the disk is away")] * 2

    def chunk_or_not(after: int, timeout: float) -> Chunk | None:
        if failures:
            raise failures.pop()
        return told(after, timeout)

    tail.chunk = chunk_or_not  # type: ignore[method-assign]
    sink = Shelf()
    runner = started(sink, tail)
    assert until(runner, lambda told: told.position == 20).errors == 2


def test_a_panic_does_not_end_the_thread(started: Started) -> None:
    """One of polars is no `Exception`."""

    def panic(attempt: int) -> None:
        if attempt == 1:
            raise PanicException("attempt to subtract with overflow")

    assert until(started(Shelf(plan=panic), Script(2)), lambda told: told.position == 20).errors == 1
