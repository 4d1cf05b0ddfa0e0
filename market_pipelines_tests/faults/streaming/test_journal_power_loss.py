"""R1, where the power goes: whatever the journal had told as durable is there, whatever part of the rest is.

A killed process leaves its writes with the kernel, a power cut does not; so every write and sync is recorded, and
what a cut at a moment could leave is put together from them. JOURNAL_POWER_CUTS says how many are tried.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.journal import JournalReader, segments
from market_pipelines_tests.faults.streaming.recording_disk import (
    Disk,
    Event,
    Promised,
    Synced,
    Unrecordable,
    Written,
    recording,
)
from market_pipelines_tests.journals import (
    BEGINNING,
    DAY,
    Clock,
    append,
    entries_of,
    everything,
    journal_in,
    opened,
    until,
)

CUTS = int(os.environ.get("JOURNAL_POWER_CUTS", "80"))
NEEDED = 120
"""The sink has everything up to here: only what lies before may be given up."""


def body(position: int) -> bytes:
    return b"%d:" % position + random.Random(position).randbytes(position * 37 % 9_000)


def write_a_journal(folder: Path) -> None:
    """Commits, checkpoints, segments by size and day, a restart, and segments that are given up."""
    clock, position = Clock(), 0
    for run in range(2):
        with opened(folder, clock_ns=clock, segment_bytes=400_000, keep_seconds=0) as journal:
            for _ in range(30):
                count = 1 + position % 9
                append(journal, *(body(position + place) for place in range(1, count + 1)))
                position += count
            clock.now_ns += DAY
            append(journal, body(position + 1))
            position += 1
            if not run:
                journal.needed_from({"lake": NEEDED})
                append(journal, body(position + 1))
                position += 1
                until(lambda: journal.state().given_up > 0)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Event]]:
    folder = tmp_path_factory.mktemp("recorded").resolve()
    try:
        # Small logs, so that they are written back and begun again many times.
        with patch.object(segments, "CHECKPOINT_PAGES", 12), recording(folder) as seen:
            write_a_journal(folder)
    except Unrecordable as reason:
        pytest.skip(f"power cuts cannot be simulated on this machine: {reason}")
    recorded = seen.events
    assert sum(isinstance(event, Promised) for event in recorded) > 60
    assert sum(isinstance(event, Written) for event in recorded) > 500
    assert sum(isinstance(event, Synced) for event in recorded) > 60
    yield recorded


def test_what_was_told_as_durable_survives_a_power_cut_at_any_moment(events: list[Event], tmp_path: Path) -> None:
    chance = random.Random(20260302)
    moments = sorted(chance.sample(range(len(events)), min(CUTS, len(events))))
    disk, seen = Disk(), 0
    for moment in moments:
        for event in events[seen : moment + 1]:
            disk.see(event)
        seen = moment + 1
        folder = disk.after_a_cut(tmp_path / str(moment), chance)
        try:
            assert_the_journal_keeps_its_promise(folder, disk.promised)
        except BaseException as error:
            error.add_note(f"power cut after event {moment}, {events[moment].__class__.__name__}: {folder}")
            raise


def assert_the_journal_keeps_its_promise(folder: Path, promised: int) -> None:
    journal = journal_in(folder)
    told = journal.open()
    assert told.last >= promised
    with closing(JournalReader(folder)) as reader:
        assert reader.first <= NEEDED + 1, "only what is not needed was given up"
        found = [entry for entry in entries_of(reader, reader.first - 1) if entry.format is Format.MASSIVE]
        positions = [entry.position for entry in found]
        assert positions == list(range(reader.first, reader.first + len(found))), "no hole, nothing twice"
        assert reader.first + len(found) > promised
    assert all(entry.body == body(entry.position) for entry in found)
    journal.append(Format.MASSIVE, "polygon-1", BEGINNING, b"after the cut")
    journal.close()
    last = everything(folder)[-1]
    assert last.body == b"after the cut"
    assert last.position > promised, "no position is given out twice"


def test_the_recorded_disk_without_a_cut_is_the_whole_journal(events: list[Event], tmp_path: Path) -> None:
    """The proof of the proof: a disk to which nothing reached but what was synced has all of it at the end."""
    disk = Disk()
    for event in events:
        disk.see(event)
    found = everything(disk.after_a_cut(tmp_path / "whole", random.Random(1)))
    assert found[-1].position == disk.promised > NEEDED + 100


def test_a_disk_that_lies_about_syncing_is_found_out(events: list[Event], tmp_path: Path) -> None:
    """The proof of the proof: without the syncs the same cuts do lose what was promised."""
    disk, chance, lost = Disk(), random.Random(1), 0
    promises = [place for place, event in enumerate(events) if isinstance(event, Promised)]
    for place, event in enumerate(events):
        if not isinstance(event, Synced):
            disk.see(event)
        if place in promises[5:60:5]:
            folder = disk.after_a_cut(tmp_path / str(place), chance)
            journal = journal_in(folder)
            lost += journal.open().last < disk.promised
            journal.close()
    assert lost
