"""Somebody deletes a journal's files by hand: what is lost by that is told, and nothing after it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.store.disk import DiskFloor
from market_pipelines.streaming.entries import Format, GapCause, Mark
from market_pipelines.streaming.journal import Journal, JournalBusy, JournalReader, PositionGone
from market_pipelines.streaming.journal import journal as journal_module
from market_pipelines_tests.journals import BEGINNING, DAY, Clock, append, everything, journal_in, opened, segments_of


@pytest.fixture(autouse=True)
def looks_often() -> Iterator[None]:
    with patch.object(journal_module, "LOOK_SECONDS", 0.02):
        yield


def lost(folder: Path) -> list[Mark]:
    marks = [entry.mark for entry in everything(folder) if entry.format is Format.MARK]
    return [mark for mark in marks if mark.cause is GapCause.JOURNAL_BOUND]


@pytest.mark.parametrize("everything_goes", [True, False])
def test_what_is_deleted_while_it_is_written_to_is_a_gap_of_who_had_not_taken_it(
    everything_goes: bool, tmp_path: Path
) -> None:
    folder, clock = tmp_path / "us-polygon", Clock()
    with opened(folder, clock_ns=clock) as journal, closing(JournalReader(folder)) as reader:
        append(journal, b"of another day", at_ns=BEGINNING)
        clock.now_ns += DAY
        append(journal, b'{"ev":"T"}', b"b", b"c", at_ns=BEGINNING + DAY)
        assert len(reader.read(0)) == 2
        journal.needed_from({"lake": 2, "postgres": 4})
        if everything_goes:
            folder.rename(tmp_path / "gone")
        else:
            segments_of(folder)[-1].unlink()
        append(journal, b"d", at_ns=BEGINNING + DAY + 100)
        (gap,) = lost(folder)
        assert (gap.sink, gap.begins_ns, gap.ends_ns) == ("lake", BEGINNING + DAY + 1, BEGINNING + DAY + 2)
        assert "deleted" in gap.detail
        assert (batch := reader.read(4)[-1]).bodies == [b"d"]
        assert reader.wait(batch.last, 0) is False
        assert journal.state().events == 2, "the first event, and the mark"
        with pytest.raises(JournalBusy):
            journal_in(folder).open()
    assert len({path.name for path in segments_of(folder)}) == len(segments_of(folder))
    names = [path.stem for path in segments_of(folder)]
    assert names[-1] == "2026-03-03-0002", "a name is not given twice: a reader may hold the old file"


def test_old_segments_that_are_deleted_are_a_gap_of_who_had_not_taken_them(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock_ns=clock) as journal, closing(JournalReader(tmp_path)) as reader:
        for number in range(3):
            append(journal, b"x", b"y", at_ns=BEGINNING + number * DAY)
            clock.now_ns += DAY
        journal.needed_from({"lake": 1, "postgres": 6})
        for path in segments_of(tmp_path)[:2]:
            path.unlink()
        append(journal, b"z")
        (gap,) = lost(tmp_path)
        assert (gap.sink, gap.gap.rpartition(":")[2]) == ("lake", "2-4")
        with pytest.raises(PositionGone):
            reader.read(1)
        assert journal.state().segments == 2


def test_a_journal_that_was_emptied_gives_no_position_out_again(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal, b"a", b"b")
    for path in tmp_path.glob("*.sqlite*"):
        path.unlink()
    journal = journal_in(tmp_path)
    assert journal.open(at_least=2).last == 2
    append(journal, b"c")
    journal.close()
    assert [entry.position for entry in everything(tmp_path)] == [3]


class Unseeable(DiskFloor):
    def shortage(self, folder: Path) -> str:
        raise OSError(5, "Input/output error", str(folder))


def test_a_disk_that_cannot_be_looked_at_is_written_to_all_the_same(tmp_path: Path) -> None:
    journal: Journal
    with opened(tmp_path, floor=Unseeable()) as journal:
        append(journal, b"a")
        append(journal, b"b")
        assert journal.state().durable == 2
