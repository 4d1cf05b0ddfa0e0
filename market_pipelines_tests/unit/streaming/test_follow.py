"""What waits for whoever follows a stream, and a journal that is read on and on from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from market_pipelines.market.columns import integers
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.streaming import journal_follower
from market_pipelines.streaming.decode import Decoder
from market_pipelines.streaming.entries import Chunk, Format
from market_pipelines.streaming.follow import Following, FollowRefused, News, follow
from market_pipelines.streaming.journal import Journal, JournalMissing
from market_pipelines.streaming.journal_follower import JournalFollower
from market_pipelines_tests.unit.providers.polygon_events import NOW, frame, trade
from market_pipelines_tests.unit.streaming.journal_made import US
from market_pipelines_tests.unit.streaming.ticks_made import NOON, bars, trades

STREAM = "us-polygon"
SECONDS = 10.0


def news(position: int, rows: int = 2, stream: str = STREAM) -> News:
    table = trades(*({"seq": position * 100 + number} for number in range(rows)))
    tables = {TickKind.TRADES: table} if rows else {}
    return News(stream, tables, (), position, datetime.fromtimestamp(NOON / 1e9, UTC))


def test_a_reader_that_is_too_slow_loses_the_oldest_and_is_told() -> None:
    following = Following([STREAM, "pl-stooq"], waiting=4)
    for position in range(1, 6):
        following.put(news(position), patient=False)
    following.put(news(1, stream="pl-stooq"), patient=False)
    assert (following.received, following.missed) == (12, 8)
    told = [following.take(0), following.take(0)]
    assert [(one.position, one.stream, one.missed) for one in told if one] == [(5, STREAM, 8), (1, "pl-stooq", 0)]
    assert following.take(0) is None
    following.put(news(6), patient=False)
    assert [one.missed for one in [following.take(0)] if one] == [0], "it is told once"


def test_news_of_more_rows_than_may_wait_waits_alone() -> None:
    following = Following([STREAM], waiting=3)
    following.put(news(1, rows=50), patient=False)
    assert following.missed == 0
    following.put(news(2, rows=50), patient=False)
    assert [one.position for one in [following.take(0)] if one] == [2]
    assert following.missed == 50


def test_marks_take_room_as_well() -> None:
    following = Following([STREAM], waiting=3)
    for position in range(10):
        following.put(news(position, rows=0), patient=False)
    assert [one.position for _ in range(10) if (one := following.take(0))] == [7, 8, 9]


@pytest.mark.parametrize(("patient", "lossless"), [(True, False), (False, True)])
def test_what_the_journal_keeps_waits_for_room_instead(patient: bool, lossless: bool) -> None:
    following = Following([STREAM], waiting=4, lossless=lossless)

    def fill() -> None:
        for position in range(1, 21):
            following.put(news(position), patient=patient)

    thread = threading.Thread(target=fill)
    thread.start()
    taken = [one.position for _ in range(20) if (one := following.take(SECONDS))]
    thread.join(SECONDS)
    assert (taken, following.missed) == ([*range(1, 21)], 0)


def test_the_end_of_the_block_ends_the_iteration_and_whoever_waits_for_room() -> None:
    following = Following([STREAM], waiting=1)
    taken: list[News] = []
    taking = threading.Thread(target=lambda: taken.extend(following))
    taking.start()
    following.end()
    taking.join(SECONDS)
    following = Following([STREAM], waiting=1, lossless=True)

    def fill() -> None:
        for position in (1, 2):
            following.put(news(position), patient=False)

    filling = threading.Thread(target=fill)
    filling.start()
    following.end()
    filling.join(SECONDS)
    assert (taking.is_alive(), filling.is_alive(), taken) == (False, False, [])


def test_a_stream_that_cannot_be_read_on_is_an_error_after_what_had_come() -> None:
    following = Following([STREAM])
    following.put(news(1), patient=False)
    following.fail("the disk is gone")
    assert following.take(0) is not None
    with pytest.raises(FollowRefused, match="the disk is gone"):
        next(iter(following))


def test_events_have_times_for_people_and_exact_ones() -> None:
    told = replace(
        news(1, rows=0),
        tables={
            TickKind.TRADES: trades({"ts": NOON + 123_456_789, "marks": int(TickMark.LATE | TickMark.FILLED)}),
            TickKind.AGGREGATES: bars({"start": NOON + 1}),
        },
    )
    first, second = told.events()
    assert (first.stream, first.kind, first.values["price"]) == (STREAM, TickKind.TRADES, 10.0)
    assert first.values["ts"] == datetime(2026, 11, 21, 17, 0, 0, 123_456, tzinfo=UTC)
    assert (first.values["ts_ns"], first.values["marks"]) == (NOON + 123_456_789, TickMark.LATE | TickMark.FILLED)
    assert (second.kind, second.values["start_ns"], "ts_ns" in second.values) == (TickKind.AGGREGATES, NOON + 1, False)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"kinds": "candles"}, "accepted: trades, quotes, aggregates, snapshots, bands"),
        ({"since": datetime(2026, 3, 2)}, "has no time zone"),  # noqa: DTZ001 (that is the point)
    ],
)
def test_questions_that_cannot_be_answered_are_refused(question: dict[str, object], said: str) -> None:
    with pytest.raises(BadQuestion, match=said), follow(**question):  # type: ignore[arg-type]
        pass


# --- a journal, read from outside --------------------------------------------------------------------------------


class Taken:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.seqs: list[int] = []
        self.history: list[bool] = []
        self.failed = ""

    def __call__(self, chunk: Chunk, patient: bool) -> None:
        with self.changed:
            self.seqs += integers(chunk.table(TickKind.TRADES)["seq"]).tolist()
            self.history.append(patient)
            self.changed.notify_all()

    def fail(self, reason: str) -> None:
        self.failed = reason

    def until(self, seqs: list[int]) -> bool:
        with self.changed:
            self.changed.wait_for(lambda: len(self.seqs) >= len(seqs), SECONDS)
            return self.seqs == seqs


@contextmanager
def writing(folder: Path) -> Iterator[Journal]:
    with closing(Journal(folder, limit_bytes=1 << 30, keep_seconds=3600.0)) as journal:
        journal.open()
        yield journal


def append(journal: Journal, *seqs: int, received: int = NOW) -> None:
    for seq in seqs:
        journal.append(Format.MASSIVE, "polygon-1", received, frame(trade(q=seq)))
    assert journal.wait_durable(None, SECONDS)


@contextmanager
def following(folder: Path, since: datetime | None = None) -> Iterator[Taken]:
    taken = Taken()
    decoder = Decoder(market=US, providers={}, feed="polygon")
    follower = JournalFollower(folder, STREAM, decoder, taken, taken.fail)
    follower.open(since)
    follower.start()
    try:
        yield taken
    finally:
        follower.stop()
    assert not follower.running
    assert taken.failed == ""


def test_it_begins_with_what_is_new(tmp_path: Path) -> None:
    with writing(tmp_path) as journal:
        append(journal, 1, 2)
        with following(tmp_path) as taken:
            append(journal, 3)
            append(journal, 4)
            assert taken.until([3, 4])
        assert not any(taken.history)


def test_or_with_an_instant_that_the_journal_still_has(tmp_path: Path) -> None:
    with writing(tmp_path) as journal:
        append(journal, 1)
        append(journal, 2, received=NOW + 60_000_000_000)
        with following(tmp_path, datetime.fromtimestamp(NOW / 1e9, UTC) + timedelta(seconds=30)) as taken:
            assert taken.until([2])
            append(journal, 3, received=NOW + 61_000_000_000)
            assert taken.until([2, 3])
        assert taken.history == [True, False]


def test_a_journal_that_was_begun_anew_is_followed_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_follower, "PATIENCE", 0.05)
    folder = tmp_path / "journal"
    with writing(folder) as journal:
        append(journal, 1, 2, 3)
    with following(folder) as taken:
        folder.rename(tmp_path / "put aside")
        with writing(folder) as journal:
            append(journal, 7, 8)
            assert taken.until([7, 8])


def test_where_nobody_has_written_there_is_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(JournalMissing), following(tmp_path / "nothing"):
        pass
    with writing(tmp_path / "another"):
        follower = JournalFollower(
            tmp_path / "another", STREAM, Decoder(market=US, providers={}, feed="polygon"), Taken(), Taken().fail
        )
        with pytest.raises(JournalMissing):
            follower.open(None, journal="that of another machine")


def test_a_thread_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where whoever iterates would wait for ever otherwise."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    failed = threading.Event()

    def trip(_chunk: Chunk, _patient: bool) -> None:
        raise RuntimeError("not foreseen")

    with writing(tmp_path) as journal:
        decoder = Decoder(market=US, providers={}, feed="polygon")
        follower = JournalFollower(tmp_path, STREAM, decoder, trip, lambda _: failed.set())
        follower.open(None)
        follower.start()
        append(journal, 1)
        assert failed.wait(SECONDS)
        follower.stop()
