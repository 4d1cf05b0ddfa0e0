"""The thread of one sink: takes chunks from the tail, gives them to the sink, tries again, counts.

A sink that fails is closed and opened again, and goes on after the cursor that it tells then; so what is stored is
decided by the sink's cursor alone and never by what this thread remembers. What sinks store does not belong here.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

import pyarrow as pa

from market_pipelines.market.columns import bits, chosen
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.redaction import redact
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.journal.faults import JournalUnreadable, PositionGone
from market_pipelines.streaming.sinks.protocol import Sink, SinkRefused, SinkUnavailable

LAKE = "lake"
"""The one sink whose own gaps history fills."""
MOST_ROWS = 500_000
"""So many rows are written together at most, however long is collected."""
_PATIENCE = 0.25
"""So long it waits for a chunk before it looks whether somebody wants it to stop."""
LITTLE_ROWS = 20_000
"""A batch of so few is waited for and taken at once; of more, decoding has to begin while the rest still comes in."""
_A_MOMENT_NS = 200_000_000
"""What comes so late is left to the next batch: it would be a chunk of its own, which costs as much as a large one."""
_NEVER_NS = 1 << 62
_REFUSED_PAUSE = 60.0
_TIDY_EVERY = 5.0
_CAUGHT_UP_NS = 3_000_000_000
_FINAL_PAUSE = 0.5
"""Between two tries while it is being stopped."""
_GRACE = 2.0

_log = logging.getLogger(__name__)


class Chunks(Protocol):
    """What is needed of the tail."""

    @property
    def journal(self) -> str: ...

    def chunk(self, after: int, timeout: float) -> Chunk | None: ...


@runtime_checkable
class Collecting(Protocol):
    """A sink that is written to in batches: what came in so many seconds, at most."""

    collects: float


@runtime_checkable
class Tidying(Protocol):
    """A sink with work of its own between two batches."""

    def tidy(self) -> None:
        """A bounded piece of it. Called every few seconds while the sink is not behind."""
        ...


class RunnerState(StrEnum):
    STARTING = "starting"
    LIVE = "live"
    RETRYING = "retrying"
    """The target cannot be written to now."""
    REFUSED = "refused"
    """The target will not take it before a person has acted; it is tried once a minute."""
    FAILED = "failed"
    """The sink itself broke; it is tried once a minute."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class SinkState:
    name: str
    state: RunnerState = RunnerState.STARTING
    position: int = 0
    """Of the journal: everything up to here is stored."""
    events_upto: int = 0
    """Of the whole journal up to `position`; 0 before the first chunk since the start."""
    rows: int = 0
    """Since the start, like all that follows."""
    chunks: int = 0
    errors: int = 0
    last_error: str = ""
    retries: int = 0
    """In a row, without a success in between."""
    given_up: int = 0
    """Positions that the journal no longer had when this sink came for them."""
    last_success_ns: int = 0
    last_received_ns: int = 0
    """When the newest entry that is stored here had arrived."""
    busy_seconds: float = 0.0
    slowest_seconds: float = 0.0

    @property
    def retrying(self) -> bool:
        return self.state in (RunnerState.RETRYING, RunnerState.REFUSED, RunnerState.FAILED)


def _always() -> bool:
    return True


class SinkRunner:
    def __init__(
        self,
        sink: Sink,
        tail: Chunks,
        *,
        start: int,
        batch_seconds: float,
        first_pause: float = 1.0,
        longest_pause: float = 30.0,
        refused_pause: float = _REFUSED_PAUSE,
        may_write: Callable[[], bool] = _always,
    ) -> None:
        """`start`: the position after which a sink begins that has no cursor yet. `may_write`: asked before a cursor
        is read and before each batch, because somebody else may store this stream by now."""
        self._sink = sink
        self._tail = tail
        self._start = start
        self._collects = min(batch_seconds, sink.collects) if isinstance(sink, Collecting) else 0.0
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._refused_pause = refused_pause
        self._may_write = may_write
        self._state = SinkState(sink.name)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._drain_to: int | None = None
        self._rests = False
        """Little comes: between two batches it sleeps rather than taking each commit of the journal as it is made."""
        self._tidied = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"sink-{sink.name}", daemon=True)

    @property
    def name(self) -> str:
        return self._sink.name

    def start(self) -> None:
        self._thread.start()

    def state(self) -> SinkState:
        return self._state

    def stop(self, seconds: float, drain_to: int | None = None) -> bool:
        """Ends the thread once everything up to `drain_to` is stored, at the latest after about so many seconds; not
        before the batch that is being written is done with. Whether everything was stored and the thread is over."""
        self.ask_to_stop(seconds, drain_to)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds) + _GRACE)
        return not self._thread.is_alive() and (drain_to is None or self._state.position >= drain_to)

    def ask_to_stop(self, seconds: float, drain_to: int | None = None) -> None:
        """As `stop`, without waiting for it: for stopping several at once."""
        self._deadline = time.monotonic() + seconds
        self._drain_to = drain_to
        self._stopping.set()

    # --- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over():
            pause = 0.0
            try:
                self._open_and_follow()
            except (SinkUnavailable, JournalUnreadable) as error:
                ceiling = min(self._longest_pause, self._first_pause * 2.0 ** min(self._state.retries, 30))
                pause = random.uniform(0.0, ceiling)  # full jitter: sinks of one target do not come back as one
                self._failed(RunnerState.RETRYING, error)
            except SinkRefused as error:
                pause = self._refused_pause
                self._failed(RunnerState.REFUSED, error)
            except BaseException as error:  # noqa: BLE001 (no fault ends a sink for good; polars' panics are no Exception)
                pause = self._refused_pause
                self._failed(RunnerState.FAILED, error)
            finally:
                self._sink.close()
            if pause and not self._over():
                self._wait(pause)
        self._state = replace(self._state, state=RunnerState.STOPPED)

    def _open_and_follow(self) -> None:
        self._check_right()
        cursor = self._sink.open()
        position = self._start if cursor is None else cursor.position
        if cursor is not None and cursor.journal != self._tail.journal:
            position = 0
        self._rests = False
        if not self._state.retries:
            self._state = replace(self._state, state=RunnerState.LIVE)
        self._state = replace(self._state, position=position)
        while not self._over():
            chunk = self._next()
            if chunk is not None:
                self._write(chunk)
            elif self._state.retries:
                # Opened, and nothing to write: all is well again.
                self._state = replace(self._state, state=RunnerState.LIVE, retries=0)
            self._tidy(quiet=chunk is None)

    def _over(self) -> bool:
        if not self._stopping.is_set():
            return False
        drained = self._drain_to is None or self._state.position >= self._drain_to
        return drained or time.monotonic() >= self._deadline

    def _next(self) -> Chunk | None:
        """What comes after the sink's position, joined for as long as the sink collects."""
        # By the clock, so that all sinks come together and share the chunk that the first of them has made.
        rested = self._rests and not self._stopping.wait(self._collects - time.monotonic() % self._collects)
        try:
            chunk = self._tail.chunk(self._state.position, _PATIENCE)
        except PositionGone as gone:
            # The journal has written the gap down; here it is only counted.
            lost = max(0, gone.oldest - 1 - self._state.position)
            _log.warning("sink %s: %d positions of the journal were given up before it had them", self.name, lost)
            self._state = replace(
                self._state, position=self._state.position + lost, given_up=self._state.given_up + lost
            )
            return None
        if chunk is not None and self._collects > 0:
            chunk = self._with_what_follows(chunk, at_once=rested)
        self._rests = self._collects > 0 and (chunk is None or chunk.rows < LITTLE_ROWS)
        return chunk

    def _with_what_follows(self, chunk: Chunk, *, at_once: bool) -> Chunk:
        """Joined with what comes while the sink collects; `at_once`: with what had come until a moment ago."""
        parts, rows, until = [chunk], chunk.rows, time.monotonic() + self._collects
        until_ns = time.time_ns() - _A_MOMENT_NS if at_once else _NEVER_NS
        while rows < MOST_ROWS and parts[-1].last_received_ns < until_ns:
            left = 0.0 if at_once or self._stopping.is_set() else until - time.monotonic()
            try:
                following = self._tail.chunk(parts[-1].upto, min(_PATIENCE, max(0.0, left)))
            except PositionGone:
                break
            if following is not None:
                parts.append(following)
                rows += following.rows
            more = at_once or self._is_to_drain(beyond=parts[-1].upto)
            if left <= 0 and (following is None or not more):
                break
        return joined(parts)

    def _is_to_drain(self, *, beyond: int) -> bool:
        return self._stopping.is_set() and self._drain_to is not None and beyond < self._drain_to

    def _check_right(self) -> None:
        if not self._may_write():
            raise SinkUnavailable("whether this process still streams could not be made sure of; nothing is written")

    def _write(self, chunk: Chunk) -> None:
        self._check_right()
        began = time.monotonic()
        rows = self._sink.write(meant_for(self.name, chunk))
        took = time.monotonic() - began
        if self._state.retries:
            _log.info("sink %s goes on", self.name)
        self._state = replace(
            self._state,
            state=RunnerState.LIVE,
            position=chunk.upto,
            events_upto=chunk.events_upto,
            rows=self._state.rows + rows,
            chunks=self._state.chunks + 1,
            retries=0,
            last_success_ns=time.time_ns(),
            last_received_ns=max(chunk.last_received_ns, self._state.last_received_ns),
            busy_seconds=self._state.busy_seconds + took,
            slowest_seconds=max(self._state.slowest_seconds, took),
        )

    def _tidy(self, *, quiet: bool) -> None:
        if not isinstance(self._sink, Tidying) or self._stopping.is_set():
            return
        behind = time.time_ns() - self._state.last_received_ns > _CAUGHT_UP_NS
        if time.monotonic() - self._tidied < _TIDY_EVERY or (behind and not quiet):
            return
        self._sink.tidy()
        self._tidied = time.monotonic()

    def _failed(self, state: RunnerState, error: BaseException) -> None:
        said = redact(str(error)) or type(error).__name__
        if self._state.state is not state or self._state.last_error != said:
            trace = error if state is RunnerState.FAILED else None
            _log.error("sink %s is %s: %s", self.name, state.value, said, exc_info=trace)
        self._state = replace(
            self._state, state=state, errors=self._state.errors + 1, last_error=said, retries=self._state.retries + 1
        )

    def _wait(self, seconds: float) -> None:
        if not self._stopping.wait(seconds):
            return
        # Asked to stop, with something left to store: a few more tries until the deadline.
        left = self._deadline - time.monotonic()
        if left > 0:
            time.sleep(min(_FINAL_PAUSE, left))


def meant_for(sink: str, chunk: Chunk) -> Chunk:
    """Without what history brought for the lake alone, for every other sink."""
    if sink == LAKE:
        return chunk
    tables = dict(chunk.tables)
    for kind, table in chunk.tables.items():
        others = (bits(table["marks"]) & TickMark.LAKE_ONLY) == 0
        if not others.all():
            tables[kind] = chosen(table, others)
    return replace(chunk, tables=tables)


def joined(parts: Sequence[Chunk]) -> Chunk:
    """Consecutive chunks as one."""
    if len(parts) == 1:
        return parts[0]
    tables: dict[TickKind, pa.Table] = {}
    for kind in TickKind:
        found = [part.tables[kind] for part in parts if kind in part.tables and len(part.tables[kind])]
        if found:
            tables[kind] = pa.concat_tables(found)
    return Chunk(
        journal=parts[0].journal,
        after=parts[0].after,
        upto=parts[-1].upto,
        tables=tables,
        marks=tuple(mark for part in parts for mark in part.marks),
        rejects=tuple(reject for part in parts for reject in part.rejects),
        duplicates=sum(part.duplicates for part in parts),
        passed_over=sum(part.passed_over for part in parts),
        events_upto=parts[-1].events_upto,
        last_received_ns=max(part.last_received_ns for part in parts),
    )
