"""The journal against a model that is a list: whatever is done in whatever order, both hold the same."""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from market_pipelines.streaming.entries import Format, GapCause, Mark, MarkKind, packed
from market_pipelines.streaming.journal import Journal, JournalReader, PositionGone
from market_pipelines.streaming.journal import journal as journal_module
from market_pipelines_tests.journals import (
    DAY,
    PATIENCE,
    Clock,
    Entry,
    Room,
    copied,
    entries_of,
    journal_in,
)

BODIES = st.binary(max_size=40) | st.integers(1_000, 60_000).map(lambda size: bytes(size // 2) + b"x" * (size // 2))
ORIGINS = st.sampled_from(["polygon-1", "polygon-2", "yahoo-1"])
GAPS = st.sampled_from(["a", "b", "c"])
SINKS = ("lake", "postgres")


class JournalMachine(RuleBasedStateMachine):
    """Every rule leaves the journal durable, so that what it must hold is known exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Lock()
        turn = Journal._turn

        def turn_by_turn(journal: Journal) -> None:
            with self.writing:
                turn(journal)

        self.patched = ExitStack()
        self.patched.enter_context(patch.object(journal_module, "LOOK_SECONDS", 0.001))
        self.patched.enter_context(patch.object(Journal, "_turn", turn_by_turn))
        self.root = Path(tempfile.mkdtemp(prefix="journal-model-"))
        self.places = 0
        self.folder = self.root / "0"
        self.clock = Clock()
        self.room = Room()
        self.entries: list[Entry] = []
        self.cursors = dict.fromkeys(SINKS, 0)
        self.open_gaps: dict[str, Mark] = {}
        self.stopped = False
        self._open()

    def _open(self) -> None:
        self.journal = journal_in(
            self.folder,
            clock_ns=self.clock,
            segment_bytes=150_000,
            keep_seconds=3600,
            floor=self.room,
            commit_seconds=0.0,
        )
        told = self.journal.open()
        assert told.last == len(self.entries)
        assert told.clean == (self.stopped or not self.entries)
        assert {mark.gap: mark for mark in told.open_gaps} == self.open_gaps
        if self.entries:
            assert told.last_received_ns >= self.entries[-1].received_ns
        self.reader = JournalReader(self.folder)
        self.journal.needed_from(self.cursors)

    def _append(self, format: Format, origin: str, body: bytes) -> None:
        self.clock.pass_(0.5)
        self.journal.append(format, origin, self.clock(), body)
        assert self.journal.wait_durable(None, PATIENCE)
        self._expect(format, origin, body)

    def _expect(self, format: Format, origin: str, body: bytes) -> None:
        self.entries.append(Entry(len(self.entries) + 1, format, origin, self.clock(), body))
        self.stopped = False

    @rule(bodies=st.lists(BODIES, min_size=1, max_size=6), origin=ORIGINS)
    def append(self, bodies: list[bytes], origin: str) -> None:
        for body in bodies:
            self._append(Format.YAHOO, origin, body)

    @rule(gap=GAPS, opens=st.booleans())
    def mark_a_gap(self, gap: str, opens: bool) -> None:
        kind = MarkKind.GAP_OPENED if opens else MarkKind.GAP_CLOSED
        mark = Mark(kind=kind, at_ns=self.clock(), gap=gap, cause=GapCause.SILENT)
        self._append(Format.MARK, "journal", packed(mark))
        if opens:
            self.open_gaps[gap] = mark
        else:
            self.open_gaps.pop(gap, None)

    @rule()
    def stop_and_start(self) -> None:
        self._append(Format.MARK, "", packed(Mark(kind=MarkKind.STOPPED, at_ns=self.clock())))
        self.stopped = True
        self._leave()
        self._open()

    @rule()
    def close_and_open(self) -> None:
        self._leave()
        self._open()

    @rule()
    def crash(self) -> None:
        """What a killed process leaves: the files as they are at one moment, with nothing put away."""
        self.places += 1
        with self.writing:
            folder = copied(self.folder, self.root / str(self.places))
        self._leave()
        shutil.rmtree(self.folder)
        self.folder = folder
        self._open()

    @rule(seconds=st.sampled_from([10, 4_000, DAY // 10**9]))
    def time_passes(self, seconds: int) -> None:
        self.clock.pass_(seconds)

    @rule(sink=st.sampled_from(SINKS), share=st.floats(0, 1))
    def a_sink_moves_on(self, sink: str, share: float) -> None:
        behind = len(self.entries) - self.cursors[sink]
        self.cursors[sink] += int(behind * share)
        self.journal.needed_from(self.cursors)

    @rule(frames=st.lists(BODIES, max_size=3), mark=st.booleans())
    def the_disk_is_full_for_a_while(self, frames: list[bytes], mark: bool) -> None:
        self.room.short = "full"
        while not self.journal.state().full:
            self.journal.wait_durable(len(self.entries) + 1, 0.001)
        for frame in frames:
            self.clock.pass_(0.5)
            self.journal.append(Format.YAHOO, "yahoo-1", self.clock(), frame)
        told = Mark(kind=MarkKind.STATUS, at_ns=self.clock())
        if mark:
            self.journal.mark(told)
        self.room.short = ""
        while self.journal.state().full:
            self.journal.wait_durable(len(self.entries) + 2, 0.001)
        assert self.journal.wait_durable(None, PATIENCE)
        if frames:
            found = entries_of(self.reader, len(self.entries))[0]
            assert found.mark.cause is GapCause.DISK_FULL
            assert found.mark.ends_ns == self.clock()
            self._expect(Format.MARK, "journal", found.body)
        if mark:
            self._expect(Format.MARK, "", packed(told))

    @precondition(lambda self: self.entries)
    @rule(share=st.floats(0, 1))
    def a_time_is_looked_up(self, share: float) -> None:
        wanted = self.entries[int((len(self.entries) - 1) * share)].received_ns
        after = next(entry.position for entry in self.entries if entry.received_ns >= wanted) - 1
        with self.writing:
            oldest = self.reader.first
            assert self.reader.position_at(wanted) == max(after, oldest - 1)
            assert self.reader.position_at(self.entries[-1].received_ns + 1) == len(self.entries)

    @rule(share=st.floats(0, 1), entries=st.integers(1, 50), size=st.integers(1, 100_000))
    def read_on_from_somewhere(self, share: float, entries: int, size: int) -> None:
        after = int(len(self.entries) * share)
        try:
            with self.writing:
                found = entries_of(self.reader, after, entries=entries, size=size)
        except PositionGone as gone:
            assert after + 1 < gone.oldest
        else:
            assert found == self.entries[after:]

    @invariant()
    def everything_that_is_needed_is_there(self) -> None:
        with self.writing:  # or something is given up between two looks
            oldest = self.reader.first
            assert oldest <= min(self.cursors.values()) + 1
            assert entries_of(self.reader, oldest - 1) == self.entries[oldest - 1 :]
            assert self.journal.durable() == self.reader.last == len(self.entries)

    def _leave(self) -> None:
        self.reader.close()
        self.journal.close()

    def teardown(self) -> None:
        self._leave()
        shutil.rmtree(self.root)
        self.patched.close()


TestJournalModel = JournalMachine.TestCase
TestJournalModel.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
