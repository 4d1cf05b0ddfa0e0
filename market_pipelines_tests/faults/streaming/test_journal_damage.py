"""A disk that forgets: damage in one place costs what lies there, is told as a gap, and stops nobody."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.streaming.entries import Format, GapCause, MarkKind
from market_pipelines.streaming.journal import JournalReader, segments
from market_pipelines.streaming.journal.shelf import LEAP
from market_pipelines_tests.journals import (
    BEGINNING,
    DAY,
    Clock,
    Entry,
    append,
    change,
    copied,
    entries_of,
    everything,
    in_a_child,
    incompressible,
    journal_in,
    opened,
    segments_of,
)

ROWS = 12


def body(position: int) -> bytes:
    return b"%d:" % position + random.Random(position).randbytes(3_000)


def write(folder: Path, rows: int = ROWS, **options: object) -> None:
    """Two entries a row."""
    with opened(folder, **options) as journal:
        for _ in range(rows):
            last = journal.durable()
            append(journal, body(last + 1), body(last + 2), at_ns=BEGINNING + last + 1)


def die_after_writing(folder: Path, rows: int = ROWS) -> None:
    """So that everything is in the write-ahead log."""

    def work() -> None:
        journal = journal_in(folder)
        journal.open()
        for _ in range(rows):
            last = journal.durable()
            append(journal, body(last + 1), body(last + 2), at_ns=BEGINNING + last + 1)

    assert in_a_child(work) == 0


def assert_right(found: list[Entry], damaged: set[int]) -> None:
    """Everything is there but what is damaged, and a mark with its times stands for that."""
    frames = [entry for entry in found if entry.format is Format.MASSIVE]
    assert [entry.position for entry in frames] == [p for p in range(1, frames[-1].position + 1) if p not in damaged]
    assert all(entry.body == body(entry.position) for entry in frames)
    marks = [entry for entry in found if entry.format is Format.MARK]
    assert {entry.position for entry in marks} == {p for p in damaged if p + 1 not in damaged}
    for entry in marks:
        mark = entry.mark
        assert (mark.kind, mark.cause) == (MarkKind.GAP_CLOSED, GapCause.CRASHED)
        lost = [p for p in damaged if p <= entry.position and set(range(p, entry.position)) <= damaged]
        assert mark.begins_ns <= BEGINNING + min(lost)
        assert mark.ends_ns >= BEGINNING + max(lost)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET body = substr(body, 1, 50) || x'00' || substr(body, 52) WHERE first = 11",
        "UPDATE rows SET heads = x'' WHERE first = 11",
        "UPDATE rows SET entries = 9 WHERE first = 11",
        "UPDATE rows SET events_before = 7 WHERE first = 11",
        "UPDATE rows SET origin = 'polygon-2' WHERE first = 11",
        "UPDATE rows SET format = x'ff' WHERE first = 11",
        "UPDATE rows SET checksum = 'x' WHERE first = 11",
        "DELETE FROM rows WHERE first = 11",
    ],
)
def test_a_damaged_row_in_the_middle_is_passed_over_and_told(statement: str, tmp_path: Path) -> None:
    write(tmp_path)
    change(segments_of(tmp_path)[0], statement)
    assert_right(everything(tmp_path), damaged={11, 12})
    with closing(JournalReader(tmp_path)) as reader:
        assert [entry.position for entry in entries_of(reader, 10)][:2] == [12, 13]
        assert [entry.position for entry in entries_of(reader, 11)][:2] == [12, 13]
        assert [entry.position for entry in entries_of(reader, 12)][:1] == [13]
        assert [entry.mark for entry in entries_of(reader, 10)[:1]] == [
            entry.mark for entry in entries_of(reader, 11)[:1]
        ]
    with opened(tmp_path) as journal:
        append(journal, body(25), at_ns=BEGINNING + 25)
    assert_right(everything(tmp_path), damaged={11, 12})


def test_a_damaged_last_row_keeps_its_positions_and_the_journal_goes_on_behind_it(tmp_path: Path) -> None:
    write(tmp_path)
    change(segments_of(tmp_path)[0], "UPDATE rows SET body = x'00' WHERE first = 23")
    assert [entry.position for entry in everything(tmp_path)] == list(range(1, 23)), "what is before it can be read"
    for _ in range(2):
        journal = journal_in(tmp_path)
        assert journal.open().last >= 24 + LEAP // 2, "nobody knows what was told of it"
        journal.close()
    with opened(tmp_path) as journal:
        append(journal, b"and on")
        assert journal.state().segments == 2
    found = everything(tmp_path)
    assert [entry.position for entry in found[:22]] == list(range(1, 23))
    assert [entry.format for entry in found[22:]] == [Format.MARK, Format.MASSIVE]
    assert found[22].mark.begins_ns == BEGINNING + 22
    assert found[23].body == b"and on"
    with opened(tmp_path) as journal:
        append(journal, b"and on")
    assert everything(tmp_path)[-1].position == found[-1].position + 1


@pytest.mark.parametrize("seed", range(int(os.environ.get("JOURNAL_FLIPS", "25"))))
def test_bytes_that_flip_anywhere_in_a_segment_never_stop_a_reader_or_a_writer(seed: int, tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, clock_ns=clock)
    clock.now_ns += DAY
    write(tmp_path, rows=3, clock_ns=clock)
    chance = random.Random(seed)
    segment = segments_of(tmp_path)[seed % 2]
    data = bytearray(segment.read_bytes())
    page = chance.randrange(0, len(data) // segments.PAGE) * segments.PAGE
    for _ in range(chance.choice([1, 40])):
        data[page + chance.randrange(segments.PAGE if chance.random() < 0.5 else 64)] ^= 1 << chance.randrange(8)
    segment.write_bytes(data)

    found = everything(tmp_path)
    journal = journal_in(tmp_path, clock_ns=clock)
    told = journal.open()
    append(journal, b"and on")
    journal.close()
    after = everything(tmp_path)
    frames = [entry for entry in found if entry.format is Format.MASSIVE]
    assert all(entry.body == body(entry.position) for entry in frames), "nothing is made up"
    assert after[-1].body == b"and on"
    assert told.last >= max((entry.position for entry in found), default=0)
    assert after[-1].position > 30, "no position is given out twice"
    there = {entry.position for entry in after if entry.format is Format.MASSIVE}
    if missing := set(range(after[0].position, 31)) - there:
        marks = [entry for entry in after if entry.format is Format.MARK]
        assert all(any(mark.position >= position for mark in marks) for position in missing)


# --- the write-ahead log -------------------------------------------------------------------------------------


def log_of(folder: Path) -> Path:
    (log,) = folder.glob("*.sqlite-wal")
    return log


def test_a_log_that_is_cut_anywhere_gives_back_everything_before_the_cut(tmp_path: Path) -> None:
    die_after_writing(tmp_path / "whole", rows=6)
    data = log_of(tmp_path / "whole").read_bytes()
    assert len(everything(tmp_path / "whole")) == 12
    chance, counts = random.Random(3), []
    cuts = sorted({0, 31, 32, len(data) - 1, len(data), *chance.sample(range(len(data)), 40)})
    for cut in cuts:
        folder = copied(tmp_path / "whole", tmp_path / str(cut))
        log_of(folder).write_bytes(data[:cut])
        found = everything(folder)
        assert_right(found, set()) if found else None
        counts.append(len(found))
        with opened(folder) as journal:
            append(journal, body(len(found) + 1), at_ns=BEGINNING + len(found) + 1)
        assert_right(everything(folder), set())
    assert counts == sorted(counts)
    assert len(set(counts)) == 7


def test_a_log_that_is_damaged_before_its_end_gives_no_position_out_again(tmp_path: Path) -> None:
    die_after_writing(tmp_path / "whole", rows=6)
    data = log_of(tmp_path / "whole").read_bytes()
    last_commit = len(data) - segments.PAGE
    chance = random.Random(4)
    for place in [12, 20, *chance.sample(range(32, last_commit), 25)]:
        folder = copied(tmp_path / "whole", tmp_path / str(place))
        changed = bytearray(data)
        changed[place] ^= 0x10
        log_of(folder).write_bytes(changed)
        found = everything(folder)
        assert [entry.position for entry in found] == list(range(1, len(found) + 1))
        with opened(folder) as journal:
            append(journal, b"and on")
        *before, last = everything(folder)
        assert last.position > 12 or len(found) >= 12
        if len(found) < 12:
            assert before[-1].mark.cause is GapCause.CRASHED


# --- larger pieces --------------------------------------------------------------------------------------------


def test_a_segment_that_is_not_one_any_more_is_set_aside(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(3):
        write(tmp_path, rows=2, clock_ns=clock)
        clock.now_ns += DAY
    segments_of(tmp_path)[1].write_bytes(incompressible(50_000))
    found = everything(tmp_path)
    assert_right(found, damaged={5, 6, 7, 8})
    write(tmp_path, rows=1, clock_ns=clock)
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    assert_right(everything(tmp_path), damaged={5, 6, 7, 8})


def test_a_journals_name_that_is_lost_is_found_in_its_segments(tmp_path: Path) -> None:
    write(tmp_path, rows=1)
    named = (tmp_path / segments.ID_FILE).read_text(encoding="ascii")
    (tmp_path / segments.ID_FILE).unlink()
    write(tmp_path, rows=1)
    assert (tmp_path / segments.ID_FILE).read_text(encoding="ascii") == named


def test_a_segment_that_is_damaged_under_the_writer_is_left_and_nothing_is_lost_of_what_comes(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, body(1), at_ns=BEGINNING + 1)
        inserted = sqlite3.DatabaseError("database disk image is malformed")
        with patch.object(segments, "make_log", side_effect=[inserted, None, None]):
            journal._shelf._current.logged = False  # type: ignore[union-attr]
            append(journal, b"and on")
        assert journal.state().segments == 2
        assert journal.state().full == ""
    found = everything(tmp_path)
    assert [entry.format for entry in found] == [Format.MASSIVE, Format.MARK, Format.MASSIVE]
    assert found[-1].body == b"and on"
