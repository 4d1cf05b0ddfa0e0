"""The journal as its users see it: what goes in comes out, in order, once, and after any restart."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.streaming.entries import Format, GapCause, Mark, MarkKind, packed
from market_pipelines.streaming.feeds.protocol import Intake
from market_pipelines.streaming.journal import (
    Journal,
    JournalBusy,
    JournalClosed,
    JournalReader,
    PositionGone,
)
from market_pipelines.streaming.journal.shelf import Shelf
from market_pipelines_tests.journals import (
    BEGINNING,
    DAY,
    PATIENCE,
    SECOND,
    Clock,
    append,
    entries_of,
    everything,
    in_a_child,
    incompressible,
    journal_in,
    opened,
    segments_of,
    until,
)

STOPPED = Mark(kind=MarkKind.STOPPED, at_ns=BEGINNING)


def gap(kind: MarkKind, key: str) -> Mark:
    return Mark(kind=kind, at_ns=BEGINNING, gap=key, cause=GapCause.SILENT, begins_ns=BEGINNING)


# --- what goes in comes out ---------------------------------------------------------------------------------


def test_entries_come_back_in_order_with_all_that_they_came_with(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b"one", b"", b"three", at_ns=7)
        journal.append(Format.ANSWER, "yahoo", 5, b"\x00\xff")
        assert journal.wait_durable(4, PATIENCE)
        assert journal.durable() == 4
        assert everything(tmp_path) == [
            (1, Format.MASSIVE, "polygon-1", 7, b"one"),
            (2, Format.MASSIVE, "polygon-1", 8, b""),
            (3, Format.MASSIVE, "polygon-1", 9, b"three"),
            (4, Format.ANSWER, "yahoo", 5, b"\x00\xff"),
        ]


def test_events_of_massive_are_counted_in_their_frames_and_others_by_entry(tmp_path: Path) -> None:
    with opened(tmp_path) as journal, closing(JournalReader(tmp_path)) as reader:
        append(journal, b'[{"ev":"Q"},{"ev":"T"}]', b'[{"ev":"Q"}]')
        journal.append(Format.YAHOO, "yahoo-1", BEGINNING, b'{"ev":"Q"},{"ev":"Q"}')
        assert journal.wait_durable(None, PATIENCE)
        assert journal.state().events == 4
        assert [(batch.events_before, batch.events) for batch in reader.read(0)] == [(0, 3), (3, 1)]
        (first, _) = reader.read(1)
        assert (first.events_before, first.events, first.bodies) == (2, 1, [b'[{"ev":"Q"}]'])
        (first,) = reader.read(0, entries=1)
        assert (first.events_before, first.events, len(first.bodies)) == (0, 2, 1)


def test_many_connections_make_few_rows_and_each_keeps_its_order(tmp_path: Path) -> None:
    with opened(tmp_path, commit_seconds=0.2) as journal, closing(JournalReader(tmp_path)) as reader:
        append(journal, b"the next commit collects for a while")
        for number in range(1_000):
            journal.append(Format.MASSIVE, f"polygon-{number % 10}", BEGINNING, b"%d" % number)
        assert journal.wait_durable(None, PATIENCE)
        batches = reader.read(1)
        assert len(batches) <= 20
        assert [int(body) for batch in batches if batch.origin == "polygon-3" for body in batch.bodies] == list(
            range(3, 1_000, 10)
        )
        assert [batch.first for batch in batches[1:]] == [batch.last + 1 for batch in batches[:-1]]


def test_a_mark_stays_between_what_came_before_and_after_it(tmp_path: Path) -> None:
    with opened(tmp_path, commit_seconds=0.2) as journal:
        append(journal, b"the next commit collects for a while")
        for body in (b"a", b"b"):
            journal.append(Format.MASSIVE, "polygon-1", BEGINNING, body)
            journal.append(Format.MASSIVE, "polygon-2", BEGINNING, body)
            journal.mark(Mark(kind=MarkKind.STATUS, at_ns=BEGINNING, origin="polygon-1"))
        assert journal.wait_durable(None, PATIENCE)
        formats = [entry.format for entry in everything(tmp_path, after=1)]
        assert formats == [Format.MASSIVE, Format.MASSIVE, Format.MARK] * 2


@pytest.mark.parametrize(("entries", "size"), [(1, 1_000_000), (7, 1_000_000), (100_000, 1), (64, 300)])
def test_reading_in_small_pieces_gives_the_same(entries: int, size: int, tmp_path: Path) -> None:
    with opened(tmp_path) as journal, closing(JournalReader(tmp_path)) as reader:
        for number in range(20):
            append(journal, *(b"%d-%d" % (number, place) for place in range(number)), at_ns=BEGINNING + number)
        assert entries_of(reader, entries=entries, size=size) == everything(tmp_path)
        assert len(reader.read(0, entries=entries, size=size)[0].bodies) <= entries


def test_a_row_is_cut_where_it_would_be_more_than_a_reader_takes_at_once(tmp_path: Path) -> None:
    large, many = [b"x" * 900_000] * 5, [b"y"] * 45_000
    with opened(tmp_path, commit_seconds=0.3) as journal, closing(JournalReader(tmp_path)) as reader:
        append(journal, *large)
        append(journal, *many)
        assert [entry.body for entry in entries_of(reader)] == large + many
        for after in (0, 5, 20_005):
            assert sum(len(batch.bodies) for batch in reader.read(after)) <= 20_000
            assert sum(len(body) for batch in reader.read(after) for body in batch.bodies) <= 6_000_000


def test_a_time_is_found_though_clocks_step_back(tmp_path: Path) -> None:
    times = [10, 20, 30, 15, 25, 40, 40, 50]
    with opened(tmp_path) as journal, closing(JournalReader(tmp_path)) as reader:
        assert reader.position_at(5) == 0
        for at_ns in times:
            append(journal, b"x", at_ns=at_ns)
        append(journal, b"x", b"x", b"x", at_ns=60)
        for wanted, after in [
            (0, 0),
            (10, 0),
            (11, 1),
            (21, 2),
            (30, 2),
            (31, 5),
            (40, 5),
            (41, 7),
            (62, 10),
            (63, 11),
        ]:
            assert reader.position_at(wanted) == after, wanted


# --- restarts -----------------------------------------------------------------------------------------------


def test_positions_and_events_go_on_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b'"ev":', b'"ev":', at_ns=100)
        named = journal.state().id
    journal = journal_in(tmp_path)
    told = journal.open()
    assert (told.id, told.last, told.last_received_ns, told.clean) == (named, 2, 101, False)
    append(journal, b'"ev":')
    assert (journal.durable(), journal.state().events) == (3, 3)
    journal.close()
    assert [entry.position for entry in everything(tmp_path)] == [1, 2, 3]


def test_only_a_journal_that_ends_with_its_services_stop_is_clean(tmp_path: Path) -> None:
    def opened_clean(*then: Mark) -> bool:
        journal = journal_in(tmp_path)
        told = journal.open()
        for mark in then:
            journal.mark(mark)
        journal.close()
        return told.clean

    started = Mark(kind=MarkKind.STARTED, at_ns=BEGINNING)
    assert opened_clean(started, STOPPED), "nothing is missing from a journal that is empty"
    assert opened_clean()
    assert opened_clean(started), "opening and closing it again wrote nothing"
    assert not opened_clean(STOPPED, started)
    assert not opened_clean()


def test_gaps_that_were_open_are_told_also_when_their_segment_is_gone(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock_ns=clock, keep_seconds=0) as journal:
        for mark in (
            gap(MarkKind.GAP_OPENED, "first"),
            gap(MarkKind.GAP_OPENED, "second"),
            gap(MarkKind.GAP_CLOSED, "first"),
        ):
            journal.mark(mark)
        append(journal, b"x")
        clock.now_ns += DAY
        append(journal, b"y")
        journal.mark(gap(MarkKind.GAP_OPENED, "third"))
        append(journal, b"z")
        journal.needed_from({"lake": journal.durable()})
        append(journal, b"one segment is given up with this")
        until(lambda: len(segments_of(tmp_path)) == 1)
    journal = journal_in(tmp_path)
    assert [mark.gap for mark in journal.open().open_gaps] == ["second", "third"]
    journal.close()


def test_a_journal_that_ends_before_what_a_sink_has_gives_no_position_out_again(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b"a", b"b", at_ns=100)
    journal = journal_in(tmp_path)
    assert journal.open(at_least=50).last == 50
    append(journal, b"c", at_ns=200)
    journal.close()
    lost = everything(tmp_path)[2]
    assert (lost.position, lost.mark.kind, lost.mark.begins_ns) == (50, MarkKind.GAP_CLOSED, 101)
    assert [(entry.position, entry.body) for entry in everything(tmp_path)[3:]] == [(51, b"c")]
    assert everything(tmp_path, after=50) == everything(tmp_path)[3:]


# --- segments -----------------------------------------------------------------------------------------------


def test_a_day_and_a_size_begin_a_new_segment_and_a_clock_that_steps_back_does_not(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock_ns=clock, segment_bytes=400_000) as journal:
        append(journal, b"a")
        clock.now_ns += DAY
        append(journal, b"b")
        clock.now_ns -= DAY
        append(journal, b"c", incompressible(400_000), b"d")
        append(journal, b"e")
        clock.now_ns += 2 * DAY
        append(journal, b"f")
        names = ["2026-03-02-0001", "2026-03-03-0001", "2026-03-03-0002", "2026-03-04-0001"]
        assert [path.stem for path in segments_of(tmp_path)] == names
        assert [entry.position for entry in everything(tmp_path)] == list(range(1, 8))
        assert journal.state().segments == 4


def test_what_is_consumed_and_old_goes_and_the_rest_stays(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock_ns=clock, keep_seconds=3600) as journal, closing(JournalReader(tmp_path)) as reader:
        for _ in range(3):
            append(journal, b"x", b"y")
            clock.now_ns += DAY
        append(journal, b"nothing goes before a sink has said what it needs")
        assert reader.first == 1
        journal.needed_from({"lake": 7, "postgres": 3})
        append(journal, b"z")
        until(lambda: reader.first > 1)
        append(journal, b"z")
        assert reader.first == 3, "the segment with position 4 is still needed"
        journal.needed_from({"lake": 7, "postgres": 7})
        append(journal, b"z")
        until(lambda: reader.first > 3)
        append(journal, b"z")
        assert reader.first == 5, "the third ended a moment ago"
        clock.now_ns += 3600 * SECOND
        append(journal, b"z")
        until(lambda: reader.first == 7)
        until(lambda: journal.state().given_up == 3)
        with pytest.raises(PositionGone) as gone:
            reader.read(5)
        assert (gone.value.wanted, gone.value.oldest) == (6, 7)
        assert reader.read(6)
        assert not [entry for entry in entries_of(reader, 6) if entry.format is Format.MARK], "nobody lost anything"


# --- one writer, and its end ---------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b"x")

        def try_it() -> None:
            with pytest.raises(JournalBusy, match=r"process \d+ writes the journal in .*: one stream of a name"):
                journal_in(tmp_path).open()

        try_it()
        assert in_a_child(try_it) == 0
        append(journal, b"y")
    with opened(tmp_path) as journal:
        append(journal, b"z")
    assert [entry.body for entry in everything(tmp_path)] == [b"x", b"y", b"z"]


def test_closing_makes_everything_durable_and_then_takes_nothing(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, commit_seconds=60.0)
    with pytest.raises(JournalClosed, match="has not been opened"):
        journal.append(Format.MASSIVE, "polygon-1", BEGINNING, b"too early")
    journal.open()
    append(journal, b"0")
    for number in range(1, 500):
        journal.append(Format.MASSIVE, "polygon-1", BEGINNING, b"%d" % number)
    journal.close()
    journal.close()
    with pytest.raises(JournalClosed, match="is closed"):
        journal.append(Format.MASSIVE, "polygon-1", BEGINNING, b"too late")
    assert not list(tmp_path.glob("*-wal")), "it is one file that can be copied"
    assert [int(entry.body) for entry in everything(tmp_path)] == list(range(500))


def test_a_full_buffer_makes_the_caller_wait_and_loses_nothing(tmp_path: Path) -> None:
    bodies = [b"%04d" % number + bytes(5_000) for number in range(400)]
    with opened(tmp_path, buffer_bytes=50_000) as journal:

        def hand_on(part: list[bytes]) -> None:
            for body in part:
                journal.append(Format.MASSIVE, "polygon-1", BEGINNING, body)

        threads = [threading.Thread(target=hand_on, args=(bodies[start::4],)) for start in range(4)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, journal.state().buffered_bytes)
        assert journal.wait_durable(None, PATIENCE)
        assert most <= 50_000
        journal.append(Format.MASSIVE, "polygon-1", BEGINNING, bytes(200_000))
        assert journal.wait_durable(None, PATIENCE), "one that is larger than the buffer goes in alone"
    assert sorted(entry.body for entry in everything(tmp_path))[1:] == bodies


def test_waiting_for_what_is_not_there_ends_in_time(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert not journal.wait_durable(1, 0.02)
        append(journal, b"x")
        assert journal.wait_durable(1, 0.0)
        assert not journal.wait_durable(2, 0.02)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_ends_by_a_fault_of_ours_lets_nobody_wait(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b"x")
        with patch.object(Shelf, "write", side_effect=RuntimeError("a fault of ours")):
            journal.append(Format.MASSIVE, "polygon-1", BEGINNING, b"y")
            assert not journal.wait_durable(2, PATIENCE)
        with pytest.raises(JournalClosed, match="has ended: a fault of ours"):
            journal.append(Format.MASSIVE, "polygon-1", BEGINNING, b"z")
    with opened(tmp_path) as journal:
        assert journal.durable() == 1


def test_a_mark_is_an_entry_like_others(tmp_path: Path) -> None:
    with opened(tmp_path, clock_ns=Clock(123 * SECOND)) as journal:
        journal.mark(STOPPED)
    assert everything(tmp_path) == [(1, Format.MARK, "", 123 * SECOND, packed(STOPPED))]


def test_the_state_tells_what_a_person_asks(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b"x" * 1_000)
        state = journal.state()
        assert (state.durable, state.segments, state.oldest, state.buffered_entries, state.full) == (1, 1, 1, 0, "")
        assert state.bytes >= sum(path.stat().st_size for path in segments_of(tmp_path)) > 0
        assert 0 < state.commit_p50_seconds <= state.commit_p99_seconds <= state.slowest_commit_seconds < PATIENCE
        assert (state.commits, state.thrown_away, state.given_up) == (1, 0, 0)


def test_the_journals_day_is_the_exchanges_where_one_is_given(tmp_path: Path) -> None:
    night = Clock(BEGINNING + 12 * 3600 * SECOND)
    with opened(tmp_path / "utc", clock_ns=night) as journal:
        append(journal, b"x")
    with opened(tmp_path / "new-york", clock_ns=night, zone=ZoneInfo("America/New_York")) as journal:
        append(journal, b"x")
    assert [path.stem for path in segments_of(tmp_path / "utc")] == ["2026-03-03-0001"]
    assert [path.stem for path in segments_of(tmp_path / "new-york")] == ["2026-03-02-0001"]


def test_a_journal_is_an_intake(tmp_path: Path) -> None:
    journal: Journal = journal_in(tmp_path)
    intake: Intake = journal
    journal.open()
    intake(Format.MASSIVE, "polygon-1", BEGINNING, b"x")
    journal.close()
    assert len(everything(tmp_path)) == 1
