"""The way through the journal of a sink to which only the service's own marks matter.

Nothing is decoded, and nothing has to be looked back at before the first chunk, which takes a busy stream seconds when
it begins again: whoever waits for a gap is told at once. So is whoever asks where a position stands.
"""

from __future__ import annotations

import threading

from market_pipelines.streaming.decode import read_marks
from market_pipelines.streaming.entries import Chunk, Format, Mark, Reject
from market_pipelines.streaming.journal import JournalClosed, JournalReader, JournalUnreadable, PositionGone
from market_pipelines.streaming.tail import BYTES_AT_ONCE, ENTRIES_AT_ONCE


class Marks:
    """As `Tail`, with chunks that have marks and no table."""

    def __init__(self, reader: JournalReader, *, journal: str) -> None:
        self._reader = reader
        self._journal = journal
        self._closed = threading.Event()

    @property
    def journal(self) -> str:
        return self._journal

    def chunk(self, after: int, timeout: float) -> Chunk | None:
        """What follows that position, or None when nothing came in time or this was closed. Raises `PositionGone`."""
        try:
            if not self._reader.wait(after, timeout):
                return None
            batches = self._reader.read(after, entries=ENTRIES_AT_ONCE, size=BYTES_AT_ONCE)
        except JournalClosed:
            if self._closed.is_set():
                return None
            raise
        if not batches:
            return None
        marks: list[Mark] = []
        unreadable: list[Reject] = []  # kept aside by the sink that keeps everything of the kind
        for batch in batches:
            if batch.format is Format.MARK:
                read_marks(batch, marks, unreadable)
        last = batches[-1]
        return Chunk(
            journal=self._journal,
            after=after,
            upto=last.last,
            tables={},
            marks=tuple(marks),
            events_upto=last.events_before + last.events,
            last_received_ns=max(int(batch.received.max()) for batch in batches),
        )

    def standing(self, position: int) -> tuple[int, int]:
        """The events up to a position, near enough, and when the last of them had arrived; of what is no longer there,
        when the first that still is. Zeros where nothing can be said."""
        try:
            place = max(position, self._reader.first)
            batches = self._reader.read(place - 1, entries=1, size=1)
        except (JournalClosed, JournalUnreadable, PositionGone):
            return 0, 0
        if not batches:
            return 0, 0
        here = batches[0]
        return here.events_before + (here.events if place == position else 0), int(here.received[0])

    def close(self) -> None:
        """Whoever waits gets None. Safe to call twice."""
        self._closed.set()
        self._reader.close()
