"""The tail of a journal: one decoding for all that are in step, and everybody gets everything once."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import pytest

from market_pipelines.market.columns import bits, integers
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.streaming import tail as tail_module
from market_pipelines.streaming import warming
from market_pipelines.streaming.decode import Columns, Decoder
from market_pipelines.streaming.entries import Batch, Chunk, Mark, MarkKind
from market_pipelines.streaming.journal import JournalReader, PositionGone
from market_pipelines.streaming.tail import Tail
from market_pipelines.streaming.warming import warm_from
from market_pipelines_tests.unit.providers.polygon_events import NOW, frame, minute, quote, trade
from market_pipelines_tests.unit.streaming.journal_made import US, MemoryJournal


class CountingDecoder(Decoder):
    def __init__(self) -> None:
        super().__init__(market=US, providers={}, feed="polygon")
        self.decoded = 0
        self.failing = False

    def decode(self, batches: Any) -> Columns:
        if self.failing:
            raise MemoryError
        self.decoded += sum(len(cast(Batch, batch).bodies) for batch in batches)
        return super().decode(batches)


@contextmanager
def tail_of(journal: MemoryJournal, **more: Any) -> Iterator[tuple[Tail, CountingDecoder]]:
    decoder = CountingDecoder()
    tail = Tail(lambda: cast(JournalReader, journal.reader()), decoder, journal="memory", **more)
    with closing(tail):
        yield tail, decoder


def seqs(chunk: Chunk | None, kind: TickKind = TickKind.TRADES) -> list[int]:
    assert chunk is not None
    found: list[int] = integers(chunk.table(kind)["seq"]).tolist()
    return found


def walk(tail: Tail, after: int, upto: int) -> list[Chunk]:
    found = []
    while after < upto:
        chunk = tail.chunk(after, 1.0)
        assert chunk is not None
        assert chunk.after == after
        found.append(chunk)
        after = chunk.upto
    return found


def several(count: int, first: int = 1) -> list[bytes]:
    return [frame(trade(q=seq)) for seq in range(first, first + count)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of ten entries, and a short look back."""
    monkeypatch.setattr(tail_module, "ENTRIES_AT_ONCE", 10)
    monkeypatch.setattr(warming, "WARMED_WITH", 20)
    monkeypatch.setattr(warming, "WARMED_AT_MOST", 20)


def test_a_chunk_says_all_that_sinks_need() -> None:
    journal = MemoryJournal()
    started = Mark(kind=MarkKind.STARTED, at_ns=1)
    journal.mark(started)
    journal.append(frame(trade(q=1), quote()), frame(trade(q=1)), b"rubbish", frame({"ev": "status"}), frame(minute()))
    with tail_of(journal) as (tail, _):
        chunk = tail.chunk(0, 1.0)
        assert chunk is not None
        assert (chunk.journal, chunk.after, chunk.upto, chunk.events_upto) == ("memory", 0, 6, 6)
        assert chunk.last_received_ns == NOW + 6
        assert chunk.marks == (started,)
        assert (chunk.duplicates, chunk.passed_over, len(chunk.rejects), chunk.rows) == (1, 1, 1, 3)
        assert tail.chunk(6, 0.01) is None


def test_all_that_ask_for_the_same_position_get_the_same_chunk() -> None:
    journal = MemoryJournal()
    journal.append(*several(30))
    with tail_of(journal) as (tail, decoder):
        first = tail.chunk(0, 1.0)
        assert tail.chunk(0, 1.0) is first
        assert decoder.decoded == 30


def test_what_is_there_is_given_at_once_and_what_comes_wakes_all_that_wait() -> None:
    journal = MemoryJournal()
    found: list[tuple[Chunk | None, float]] = []

    def ask(tail: Tail) -> None:
        found.append((tail.chunk(0, 20.0), time.monotonic()))

    with tail_of(journal) as (tail, decoder):
        asking = [threading.Thread(target=ask, args=(tail,)) for _ in range(5)]
        for thread in asking:
            thread.start()
        assert tail.chunk(0, 0.05) is None
        came = time.monotonic()
        journal.append(*several(3))
        for thread in asking:
            thread.join(10)
        assert [seqs(chunk) for chunk, _ in found] == [[1, 2, 3]] * 5
        assert len({id(chunk) for chunk, _ in found}) == 1
        assert max(when for _, when in found) - came < 5
        assert decoder.decoded == 3


def test_closing_wakes_who_waits() -> None:
    journal = MemoryJournal()
    found: list[Chunk | None] = []
    with tail_of(journal) as (tail, _):
        asking = [threading.Thread(target=lambda: found.append(tail.chunk(0, 60.0))) for _ in range(3)]
        for thread in asking:
            thread.start()
        tail.close()
        for thread in asking:
            thread.join(10)
        assert found == [None] * 3
        assert tail.chunk(0, 1.0) is None


def test_duplicates_and_disorder_are_told_across_chunks(small: None) -> None:
    journal = MemoryJournal()
    journal.append(*several(20), frame(trade(q=7), trade(q=21)), frame(trade(q=30)), frame(trade(q=25)))
    with tail_of(journal) as (tail, _):
        chunks = walk(tail, 0, 23)
        assert [seqs(chunk) for chunk in chunks][-1] == [21, 30, 25]
        assert sum(chunk.duplicates for chunk in chunks) == 1
        assert bits(chunks[-1].table(TickKind.TRADES)["marks"]).tolist()[-1] & TickMark.DISORDER


def test_who_lags_walks_alone_and_falls_into_step(small: None) -> None:
    journal = MemoryJournal()
    journal.append(*several(100))
    with tail_of(journal, cached_events=40) as (tail, decoder):
        ahead = walk(tail, 0, 100)
        decoded = decoder.decoded
        behind = walk(tail, 3, 100)
        assert [seq for chunk in behind for seq in seqs(chunk)] == list(range(4, 101))
        assert behind[-1] is ahead[-1]
        assert behind[-2] is ahead[-2]
        assert decoder.decoded - decoded < 90, "it did not decode what was kept"


def test_a_start_in_the_middle_knows_what_came_before(small: None) -> None:
    journal = MemoryJournal()
    journal.append(*several(50), *several(5, first=46), *several(5, first=51))
    with tail_of(journal) as (tail, _):
        chunk = tail.chunk(50, 1.0)
        assert seqs(chunk) == [51, 52, 53, 54, 55]
        assert chunk is not None
        assert chunk.duplicates == 5
        assert chunk.after == 50


def test_a_start_in_the_middle_knows_all_of_the_last_minute_however_much_that_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warming, "WARMED_WITH", 20)
    monkeypatch.setattr(warming, "SHARED_NS", 0)
    journal = MemoryJournal()
    journal.append(*several(500), *several(5, first=1), *several(5, first=501))
    with tail_of(journal) as (tail, _):
        chunk = tail.chunk(500, 1.0)
        assert seqs(chunk) == [501, 502, 503, 504, 505]
        assert chunk is not None
        assert chunk.duplicates == 5


@pytest.mark.parametrize(
    ("time", "least", "most", "begins"),
    [(100, 10, 300, 399), (100, 200, 300, 300), (100, 10, 50, 450), (10**9, 10, 10**6, 0), (5, 10**6, 10**7, 0)],
)
def test_how_far_back_a_start_looks(
    time: int, least: int, most: int, begins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry a nanosecond, one event each."""
    monkeypatch.setattr(warming, "WARMED_NS", time)
    monkeypatch.setattr(warming, "WARMED_WITH", least)
    monkeypatch.setattr(warming, "WARMED_AT_MOST", most)
    journal = MemoryJournal()
    journal.append(*several(600))
    reader = cast(JournalReader, journal.reader())
    assert warm_from(reader, 500) == begins
    journal.first = 421
    assert warm_from(reader, 500) == max(begins, 420)
    assert warm_from(reader, 420) == 420


def test_lines_that_begin_near_each_other_look_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As sinks do after a crash."""
    monkeypatch.setattr(warming, "SHARED_NS", 10)
    journal = MemoryJournal()
    journal.append(*several(520), *several(5, first=1), *several(5, first=518), *several(5, first=521))
    now = [100.0]
    with tail_of(journal, clock=lambda: now[0]) as (tail, decoder):
        for after, looked_at in ((500, 500), (515, 26), (505, 16), (480, 480)):
            decoder.decoded = 0
            chunk = tail.chunk(after, 1.0)
            assert seqs(chunk) == [*range(after + 1, 521), *range(521, 526)][: len(seqs(chunk))]
            assert chunk is not None
            assert decoder.decoded == looked_at + chunk.upto - after
        now[0] += tail_module.START_SECONDS + 1
        journal.append(frame(trade(q=600)))
        assert seqs(tail.chunk(535, 1.0)) == [600]
        decoder.decoded = 0
        tail.chunk(485, 1.0)
        assert decoder.decoded > 400, "nobody has kept for so long what had been seen"


def test_a_start_after_what_was_given_up_begins_with_what_is_there(small: None) -> None:
    journal = MemoryJournal()
    journal.append(*several(50))
    journal.first = 31
    with tail_of(journal) as (tail, _):
        with pytest.raises(PositionGone) as gone:
            tail.chunk(10, 0.1)
        assert gone.value.oldest == 31
        assert seqs(tail.chunk(30, 1.0))[0] == 31
        assert seqs(tail.chunk(45, 1.0))[0] == 46


def test_what_is_kept_is_bounded(small: None) -> None:
    journal = MemoryJournal()
    with tail_of(journal, cached_events=30) as (tail, _):
        for lot in range(50):
            journal.append(*several(10, first=10 * lot + 1))
            walk(tail, 10 * lot, 10 * lot + 10)
            assert sum(chunk.rows for chunk in tail._kept.values()) <= 40
            assert len(tail._lines) == 1


def test_what_is_kept_is_not_kept_for_long_though_it_is_little(small: None) -> None:
    journal = MemoryJournal()
    now = [100.0]
    with tail_of(journal, cached_seconds=10.0, clock=lambda: now[0]) as (tail, decoder):
        for after, moment in enumerate((100.0, 105.0, 110.0, 110.5)):
            now[0] = moment
            journal.append(*several(10, first=1 + 10 * after))
            assert tail.chunk(10 * after, 1.0) is not None
        decoded = decoder.decoded
        assert seqs(tail.chunk(10, 1.0)) == list(range(11, 21))
        assert decoder.decoded == decoded, "made five seconds ago"
        assert seqs(tail.chunk(0, 1.0)) == list(range(1, 11))
        assert decoder.decoded == decoded + 10, "made ten seconds ago and more: read anew"


def test_a_failure_is_told_to_who_asked_and_the_next_one_gets_the_chunk_whole() -> None:
    journal = MemoryJournal()
    journal.append(*several(10))
    with tail_of(journal) as (tail, decoder):
        assert tail.chunk(0, 1.0) is not None
        journal.append(*several(5, first=8))
        decoder.failing = True
        with pytest.raises(MemoryError):
            tail.chunk(10, 1.0)
        decoder.failing = False
        assert seqs(tail.chunk(10, 1.0)) == [11, 12], "and it knows what came before all the same"


def test_many_at_different_speeds_all_get_everything_once(small: None) -> None:
    """With duplicates near each other, and a cache too small for the slow ones."""
    chance = random.Random(5)
    journal = MemoryJournal(most=7)
    results: dict[int, list[int]] = {}
    total = 600

    def follow(tail: Tail, number: int) -> None:
        own, after, found = random.Random(number), 0, []
        while after < 2 * total:
            chunk = tail.chunk(after, 0.05)
            if chunk is None:
                continue
            found.extend(seqs(chunk))
            after = chunk.upto
            if own.random() < 0.1 * number:
                time.sleep(0.003)
        results[number] = found

    with tail_of(journal, cached_events=50) as (tail, _):
        following = [threading.Thread(target=follow, args=(tail, number)) for number in range(6)]
        for thread in following:
            thread.start()
        for seq in range(1, total + 1):
            journal.append(frame(trade(q=seq)), frame(trade(q=max(1, seq - chance.randint(0, 5)))))
        for thread in following:
            thread.join(30)
            assert not thread.is_alive()
        assert all(results[number] == list(range(1, total + 1)) for number in range(6))
        assert len(tail._lines) <= 6
