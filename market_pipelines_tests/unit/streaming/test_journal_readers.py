"""Readers of the journal: before it is there, beside the writer, in other processes."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.journal import JournalClosed, JournalMissing, JournalReader, PositionGone, segments
from market_pipelines_tests.journals import (
    DAY,
    PATIENCE,
    Clock,
    append,
    in_a_child,
    incompressible,
    opened,
    segments_of,
)


def test_a_reader_is_there_before_the_journal_is(tmp_path: Path) -> None:
    with closing(JournalReader(tmp_path / "later")) as reader:
        assert (reader.first, reader.last, reader.read(0), reader.wait(0, 0.01)) == (1, 0, [], False)
        with pytest.raises(JournalMissing):
            _ = reader.id
        with opened(tmp_path / "later") as journal:
            assert reader.read(0) == []
            append(journal, b"x")
            assert (reader.first, reader.last, reader.id) == (1, 1, journal.state().id)
            assert reader.read(1) == []


def test_a_reader_in_the_writers_process_is_woken_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as journal, closing(JournalReader(tmp_path)) as reader:
        woken = threading.Event()

        def wait() -> None:
            if reader.wait(0, PATIENCE) and reader.read(0):
                woken.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not reader.wait(0, 0.01)
        append(journal, b"x")
        thread.join(PATIENCE)
        assert woken.is_set()


def test_a_reader_in_another_process_sees_what_becomes_durable(tmp_path: Path) -> None:
    def read_on() -> None:
        seen = 0
        with closing(JournalReader(tmp_path)) as reader:
            while seen < 50:
                assert reader.wait(seen, PATIENCE)
                seen = reader.read(seen)[-1].last

    def write_on() -> None:
        with opened(tmp_path) as journal:
            for _ in range(50):
                append(journal, b"x")

    codes: list[int] = []
    follower = threading.Thread(target=lambda: codes.append(in_a_child(read_on)))
    follower.start()
    write_on()
    follower.join(PATIENCE)
    assert codes == [0]


def test_many_readers_while_it_is_written_see_everything_once(tmp_path: Path) -> None:
    total = 3_000
    seen: dict[int, list[bytes]] = {}

    def follow(number: int) -> None:
        found: list[bytes] = []
        with closing(JournalReader(tmp_path)) as reader:
            while len(found) < total and reader.wait(len(found), PATIENCE):
                found += [body for batch in reader.read(len(found)) for body in batch.bodies]
        seen[number] = found

    with opened(tmp_path, segment_bytes=256_000) as journal:
        readers = [threading.Thread(target=follow, args=(number,)) for number in range(6)]
        for thread in readers:
            thread.start()
        bodies = [b"%d" % number + incompressible(200) for number in range(total)]
        for start in range(0, total, 500):
            append(journal, *bodies[start : start + 500])
        for thread in readers:
            thread.join(PATIENCE)
        assert len(segments_of(tmp_path)) > 1
    assert all(seen[number] == bodies for number in range(6))


def test_closing_a_reader_ends_its_waiting(tmp_path: Path) -> None:
    with opened(tmp_path):
        reader = JournalReader(tmp_path)
        thread = threading.Thread(target=reader.wait, args=(0, PATIENCE))
        began = time.monotonic()
        thread.start()
        reader.close()
        thread.join(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        reader.close()
        with pytest.raises(JournalClosed):
            reader.read(0)


def test_a_segment_that_goes_while_it_is_looked_at_is_not_made_anew(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock_ns=clock) as journal:
        append(journal, b"x")
        clock.now_ns += DAY
        append(journal, b"y")
        listed = segments.names(tmp_path)
        segments.unlink(tmp_path / str(listed[0]))
        with closing(JournalReader(tmp_path)) as reader, patch.object(segments, "names", return_value=listed):
            assert reader.first == 2
            with pytest.raises(PositionGone):
                reader.read(0)
        assert not (tmp_path / str(listed[0])).exists()


def test_answers_are_found_among_frames_in_every_segment(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=100_000) as journal, closing(JournalReader(tmp_path)) as reader:
        for number in range(6):
            append(journal, *(incompressible(2_000) for _ in range(20)))
            for name in "ab":
                journal.append(Format.ANSWER, "fill:g", DAY, f"{number}{name}".encode())
            assert journal.wait_durable(None, PATIENCE)
        assert len(segments_of(tmp_path)) > 1

        def found(after: int, upto: int) -> list[bytes]:
            return [body for batch in reader.answers(after, upto) for body in batch.bodies]

        assert found(0, 132) == [f"{number}{name}".encode() for number in range(6) for name in "ab"]
        assert found(21, 43) == [b"0b", b"1a"]
        assert found(22, 42) == []
        assert [batch.first for batch in reader.answers(21, 43)] == [22, 43]
