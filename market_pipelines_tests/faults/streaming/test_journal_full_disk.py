"""R6: on a full disk intake stops with a recorded gap, the journal is intact, and it resumes by itself."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.streaming.entries import Format, GapCause, Mark, MarkKind
from market_pipelines.streaming.journal import Journal, JournalReader
from market_pipelines.streaming.journal import journal as journal_module
from market_pipelines_tests.journals import (
    BEGINNING,
    PATIENCE,
    SECOND,
    Clock,
    Entry,
    Room,
    append,
    entries_of,
    everything,
    in_a_child,
    incompressible,
    opened,
    until,
)

MEGABYTE = 1_000_000
STATUS = Mark(kind=MarkKind.STATUS, at_ns=BEGINNING, detail="a mark is not thrown away")


@pytest.fixture(autouse=True)
def looks_often() -> Iterator[None]:
    with patch.object(journal_module, "LOOK_SECONDS", 0.02):
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only, where mounting is allowed at all")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.sqlite*"):
        with suppress(FileNotFoundError):  # given up meanwhile
            total += path.stat().st_size
    return total


def frame(number: int) -> bytes:
    return b"%06d" % number + incompressible(20_000)


def hand_on(journal: Journal, number: int, clock: Clock) -> Entry:
    clock.pass_(0.001)
    body = frame(number)
    journal.append(Format.MASSIVE, "polygon-1", clock(), body)
    return Entry(0, Format.MASSIVE, "polygon-1", clock(), body)


def assert_nothing_is_missing_without_a_gap(sent: list[Entry], found: list[Entry]) -> int:
    """How many entries are missing; each lies in a gap that is recorded."""
    assert [entry.position for entry in found] == list(range(1, len(found) + 1))
    stored = {entry.body: entry for entry in found if entry.format is Format.MASSIVE}
    assert len(stored) == sum(entry.format is Format.MASSIVE for entry in found), "nothing is there twice"
    gaps = [entry.mark for entry in found if entry.format is Format.MARK and entry.mark.gap]
    assert all((gap.kind, gap.cause) == (MarkKind.GAP_CLOSED, GapCause.DISK_FULL) for gap in gaps)
    missing = [entry for entry in sent if entry.body not in stored]
    for entry in missing:
        assert any(gap.begins_ns <= entry.received_ns <= gap.ends_ns for gap in gaps), entry.body[:6]
    return len(missing)


def test_a_disk_that_is_really_full_leaves_the_journal_whole_and_is_used_again(small_disk: Path) -> None:
    folder, clock = small_disk / "journal", Clock()
    sent: list[Entry] = []
    (small_disk / "somebody else's").write_bytes(bytes(MEGABYTE))
    with opened(folder, clock_ns=clock, segment_bytes=500_000) as journal:
        while not journal.state().full:
            sent.append(hand_on(journal, len(sent), clock))
            journal.wait_durable(None, 0.05)
        told = journal.durable()
        assert told > 20
        assert "cannot be written" in journal.state().full
        for _ in range(50):
            sent.append(hand_on(journal, len(sent), clock))  # returns: the socket is read on
        assert not journal.wait_durable(None, 0.05)
        assert journal.durable() == told
        assert len(everything(folder)) == told, "what was durable can be read on a full disk"

        (small_disk / "somebody else's").unlink()
        until(lambda: not journal.state().full)
        sent.append(hand_on(journal, len(sent), clock))
        assert journal.wait_durable(None, PATIENCE)
        found = everything(folder)
        assert found[told].mark.cause is GapCause.DISK_FULL
        assert found[told].mark.begins_ns == found[told - 1].received_ns
        assert found[-1].body == sent[-1].body
        missing = assert_nothing_is_missing_without_a_gap(sent, found)
        assert missing == journal.state().thrown_away >= 50
    assert len(everything(folder)) == len(found)


def test_a_disk_that_fills_up_again_and_again_never_harms_the_journal(small_disk: Path) -> None:
    folder, clock = small_disk / "journal", Clock()
    sent: list[Entry] = []
    filling = small_disk / "somebody else's"
    with opened(folder, clock_ns=clock, segment_bytes=300_000, keep_seconds=0) as journal:
        for turn in range(6):
            filling.write_bytes(bytes(1_800_000 - turn * 1_000))
            while not journal.state().full:
                sent.append(hand_on(journal, len(sent), clock))
                journal.wait_durable(None, 0.05)
            filling.unlink()
            until(lambda: not journal.state().full)
            if turn < 5:
                journal.needed_from({"lake": 0 if turn < 2 else journal.durable()})
        assert journal.state().given_up
    with closing(JournalReader(folder)) as reader:
        found = entries_of(reader, reader.first - 1)
    assert [entry.position for entry in found] == list(range(found[0].position, found[-1].position + 1))
    bodies = {entry.body for entry in sent}
    assert all(entry.body in bodies for entry in found if entry.format is Format.MASSIVE)


def test_a_floor_is_kept_and_looked_at_not_for_every_commit(tmp_path: Path) -> None:
    clock, room = Clock(), Room()
    sent: list[Entry] = []
    with (
        patch.object(journal_module, "LOOK_SECONDS", 0.2),
        opened(tmp_path, clock_ns=clock, floor=room, commit_seconds=0.0) as journal,
    ):
        for _ in range(30):
            sent.append(hand_on(journal, len(sent), clock))
            assert journal.wait_durable(None, PATIENCE)
        assert len(room.asked) < 15
        room.short = "the disk below here is full"
        until(lambda: journal.state().full == room.short)
        sent += [hand_on(journal, len(sent) + number, clock) for number in range(10)]
        journal.mark(STATUS)
        room.short = ""
        until(lambda: not journal.state().full)
        sent.append(hand_on(journal, len(sent), clock))
    found = everything(tmp_path)
    kinds = [entry.mark.kind for entry in found if entry.format is Format.MARK]
    assert kinds == [MarkKind.GAP_CLOSED, MarkKind.STATUS]
    assert assert_nothing_is_missing_without_a_gap(sent, found) == 10


def test_a_full_disk_without_a_frame_makes_no_gap_and_answers_wait_for_room(tmp_path: Path) -> None:
    room = Room("full")
    with opened(tmp_path, floor=room) as journal:
        until(lambda: bool(journal.state().full))
        journal.append(Format.ANSWER, "yahoo", BEGINNING, b"an answer that filled a gap")
        assert not journal.wait_durable(None, 0.05)
        room.short = ""
        assert journal.wait_durable(None, PATIENCE)
    assert everything(tmp_path) == [(1, Format.ANSWER, "yahoo", BEGINNING, b"an answer that filled a gap")]


def test_a_full_disk_gives_up_what_every_sink_has_before_it_throws_anything_away(tmp_path: Path) -> None:
    clock, room = Clock(), Room()
    with opened(tmp_path, clock_ns=clock, floor=room, segment_bytes=300_000) as journal:
        while journal.state().segments < 4:
            append(journal, frame(0), at_ns=clock())
        journal.needed_from({"lake": journal.durable()})
        room.short = "full"
        until(lambda: journal.state().given_up == 3)
        assert journal.state().segments == 1


def test_closing_on_a_full_disk_ends(tmp_path: Path) -> None:
    room = Room("full")
    with opened(tmp_path, floor=room) as journal:
        until(lambda: bool(journal.state().full))
        journal.mark(STATUS)
        waiting = threading.Thread(target=journal.wait_durable, args=(None, PATIENCE))
        waiting.start()
    waiting.join(PATIENCE / 2)
    assert not waiting.is_alive()
    assert everything(tmp_path) == []


def test_a_quota_is_a_full_disk_too(tmp_path: Path) -> None:
    """EFBIG comes as `disk I/O error`, not as `database or disk is full`."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        clock = Clock()
        sent: list[Entry] = []
        with opened(tmp_path, clock_ns=clock) as journal:
            append(journal, b"x", at_ns=clock())
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
            while not journal.state().full:
                sent.append(hand_on(journal, len(sent), clock))
                journal.wait_durable(None, 0.05)
            assert "disk I/O error" in journal.state().full, journal.state().full
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            until(lambda: not journal.state().full)
            sent.append(hand_on(journal, len(sent), clock))
        found = everything(tmp_path)
        assert found[-1].body == sent[-1].body
        assert assert_nothing_is_missing_without_a_gap(sent, found) > 0

    assert in_a_child(work) == 0


# --- the bound -----------------------------------------------------------------------------------------------


def test_at_its_bound_the_oldest_goes_and_each_sink_that_needed_it_is_told(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock_ns=clock, limit_bytes=2_000_000, segment_bytes=400_000) as journal:
        journal.needed_from({"lake": 10**9, "postgres": 5, "redis": 3})
        number = 0
        while not journal.state().given_up:
            number += 1
            clock.pass_(1)
            append(journal, frame(number), at_ns=clock())
            assert journal.state().bytes <= 2_000_000
        found = everything(tmp_path)
        assert found[0].position > 5
        until(lambda: journal.state().oldest == found[0].position)
    told = {entry.mark.sink: entry.mark for entry in found if entry.format is Format.MARK}
    assert sorted(told) == ["postgres", "redis"], "one mark a sink, none for one that has everything"
    for sink, cursor in (("postgres", 5), ("redis", 3)):
        assert (told[sink].kind, told[sink].cause) == (MarkKind.GAP_CLOSED, GapCause.JOURNAL_BOUND)
        assert told[sink].begins_ns == BEGINNING + (cursor + 1) * SECOND
        assert told[sink].ends_ns == found[0].received_ns - SECOND


def test_what_is_given_up_before_anybody_said_what_he_needs_is_missing_for_everybody(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=1_500_000, segment_bytes=400_000) as journal:
        while not journal.state().given_up:
            append(journal, frame(1))
    (mark,) = [entry.mark for entry in everything(tmp_path) if entry.format is Format.MARK]
    assert (mark.cause, mark.sink) == (GapCause.JOURNAL_BOUND, "")


def test_under_load_the_journal_stays_within_its_bound(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=3_000_000, buffer_bytes=200_000) as journal:
        journal.needed_from({"lake": 0})
        for number in range(1_000):
            journal.append(Format.MASSIVE, "polygon-1", BEGINNING + number, frame(number))
            if number % 10 == 0:
                assert size_of(tmp_path) < 3_600_000
        assert journal.wait_durable(None, PATIENCE)
        assert journal.state().bytes <= 3_000_000
        assert journal.state().given_up > 20
