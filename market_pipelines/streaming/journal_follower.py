"""A thread that reads one journal on and on, from outside of the process that writes it, and hands on its chunks.

A journal that was deleted and begun anew is followed from its beginning; what was given up before it was read is
passed over and told. Who gets the chunks, and what of them, is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import structlog

from market_pipelines.streaming.decode import Decoder, since_epoch
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.journal import JournalMissing, JournalReader, JournalUnreadable, PositionGone
from market_pipelines.streaming.tail import Tail

Delivered = Callable[[Chunk, bool], None]
"""Given a chunk, and whether it is history: of before the follower began. It may block; then it has to return soon
once whoever owns both has let go."""

PATIENCE = 0.5
"""So long the thread waits for something new before it looks whether the journal is still the same."""
PAUSE = 1.0
"""Before a journal that cannot be read is tried again."""
JOIN_SECONDS = 10.0
_ROWS_KEPT = 1
"""By the tail, for others, of whom there are none."""
_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class JournalFollower:
    def __init__(
        self, folder: Path, stream: str, decoder: Decoder, deliver: Delivered, failed: Callable[[str], None]
    ) -> None:
        """`failed` is told when the thread ends without having been asked to."""
        self._folder = folder
        self._stream = stream
        self._decoder = decoder
        self._deliver = deliver
        self._failed = failed
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._tail: Tail | None = None
        self._journal = ""
        self._position = 0
        self._known = 0
        """The last position when it began: up to there it is history."""
        self._thread = threading.Thread(target=self._run, name=f"follow {stream}", daemon=True)

    def open(self, since: datetime | None, *, journal: str = "") -> None:
        """From now on, or from that instant. `journal`: the one that it has to be. Raises `JournalMissing`."""
        with closing(JournalReader(self._folder)) as reader:
            self._journal = reader.id
            if journal and self._journal != journal:
                raise JournalMissing(self._folder)
            self._known = reader.last
            self._position = self._known if since is None else reader.position_at(since_epoch(since))

    def start(self) -> None:
        self._tail = self._new_tail()
        self._thread.start()

    def stop(self) -> None:
        """Safe to call twice."""
        with self._lock:
            self._stopping.set()
            tail = self._tail
        if tail is not None:
            tail.close()
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._read_on()
        finally:
            if not self._stopping.is_set():
                self._failed(f"the thread that follows {self._stream} has ended; the log says where")

    def _read_on(self) -> None:
        tail = self._tail
        assert tail is not None  # noqa: S101 (made before the thread begins)
        try:
            chunk = tail.chunk(self._position, PATIENCE)
            if chunk is None:
                self._look_for_another()
                return
        except PositionGone as gone:
            _log.warning(
                "what was to be followed has been given up by the journal",
                stream=self._stream,
                entries=gone.oldest - gone.wanted,
            )
            self._position = gone.oldest - 1
            return
        except JournalUnreadable as error:
            _log.warning("a journal cannot be followed now", stream=self._stream, reason=str(error))
            self._stopping.wait(PAUSE)
            return
        self._deliver(chunk, chunk.upto <= self._known)
        self._position = chunk.upto

    def _look_for_another(self) -> None:
        try:
            with closing(JournalReader(self._folder)) as reader:
                journal = reader.id
                if journal == self._journal:
                    return
                first = reader.first
        except (JournalMissing, JournalUnreadable):
            return  # deleted, and nobody has begun another one yet
        _log.warning("the journal was begun anew, and is followed from there", stream=self._stream)
        with self._lock:
            if self._stopping.is_set():
                return
            before, self._journal = self._tail, journal
            self._tail, self._position, self._known = self._new_tail(), first - 1, 0
        if before is not None:
            before.close()

    def _new_tail(self) -> Tail:
        return Tail(lambda: JournalReader(self._folder), self._decoder, journal=self._journal, cached_events=_ROWS_KEPT)
