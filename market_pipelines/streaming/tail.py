"""The journal's tail, decoded once for all sinks that are in step, and anew for each one that lags.

A chunk that was made is kept for a while, under the position that it begins after: whoever asks for that position
next gets the same one. Who is so far behind that it is not kept any more walks on its own, with what it has seen kept
apart, and its chunks end where kept ones begin, so that it falls into step when it has caught up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from market_pipelines.market.columns import Codes, SymbolCodes, bits, chosen, with_marks
from market_pipelines.market.live import TickMark
from market_pipelines.market.quality.ticks import TickRules
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.decode import Columns, Decoder
from market_pipelines.streaming.dedupe import Seen
from market_pipelines.streaming.entries import Batch, Chunk
from market_pipelines.streaming.journal import JournalClosed, JournalReader, PositionGone
from market_pipelines.streaming.recall import Recall, cut
from market_pipelines.streaming.warming import is_near, shared_from, warm_from

ENTRIES_AT_ONCE = 50_000
BYTES_AT_ONCE = 12_000_000
"""Of frames; about a hundred thousand events."""
MOST_SYMBOLS = 2_000_000
"""Of which something is remembered at a time; beyond, remembering begins anew."""
MOST_LINES = 16
WORTH_READING_AHEAD = BYTES_AT_ONCE // 3
"""What was this big has more behind it: while it is looked through, the next parts are being decoded."""
AT_ONCE = 3
"""Parts in hand. Two decoders keep both busy: a core, and what of one the interpreter's lock leaves."""
START_SECONDS = 30.0
"""For which what had been seen where the first line began is kept for others."""
CACHED_SECONDS = 10.0
"""Sinks that are in step come within one or two. What few events a second would let pile up for minutes is memory that
nobody asks for, in thousands of small pieces."""


class Tail:
    """Shared by all sinks of one stream; safe to call from any thread."""

    def __init__(
        self,
        reader_of: Callable[[], JournalReader],
        decoder: Decoder,
        *,
        journal: str,
        cached_events: int = 1_000_000,
        cached_seconds: float = CACHED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cached_events`, `cached_seconds`: rows of chunks that are kept for whoever comes later, and for how long."""
        self._reader_of = reader_of
        self._decoder = decoder
        self._journal = journal
        self._most_rows = cached_events
        self._most_seconds = cached_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: dict[int, Chunk] = {}
        """By the position that they begin after, which is also their order."""
        self._made_at: dict[int, float] = {}
        self._kept_rows = 0
        self._lines: dict[int, _Line] = {}
        """By the position that they have come to; the one used last comes last."""
        self._at_work: dict[int, _Line] = {}
        self._start = _Start(clock)
        self._ahead = ThreadPoolExecutor(AT_ONCE - 1, thread_name_prefix="decode")
        self._closed = False

    @property
    def journal(self) -> str:
        return self._journal

    def chunk(self, after: int, timeout: float) -> Chunk | None:
        """The next chunk after that position, or None when nothing came in time or the tail was closed. Raises
        `PositionGone`."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if self._closed:
                    return None
                kept = self._kept.get(after)
                if kept is not None:
                    return kept
                if after not in self._at_work:
                    break
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return None
            line = self._lines.pop(after, None) or self._new_line()
            self._at_work[after] = line
            upto = min((begin for begin in (*self._kept, *self._at_work) if begin > after), default=None)
        made: Chunk | None = None
        try:
            made = line.next(after, upto, deadline)
        except JournalClosed:
            if not self._closed:
                raise
        finally:
            self._put_back(line, after, made)
        return made

    def close(self) -> None:
        """Whoever waits gets None. Safe to call twice."""
        with self._changed:
            self._closed = True
            lines = [*self._lines.values(), *self._at_work.values()]
            self._lines.clear()
            self._kept.clear()
            self._made_at.clear()
            self._kept_rows = 0
            self._changed.notify_all()
        for line in lines:
            line.close()
        self._ahead.shutdown()

    def _new_line(self) -> _Line:
        return _Line(self._reader_of(), self._decoder, self._journal, self._ahead, self._start)

    def _put_back(self, line: _Line, after: int, made: Chunk | None) -> None:
        dropped: list[_Line] = []
        with self._changed:
            del self._at_work[after]
            if made is not None and not self._closed:
                self._keep(made)
            if self._closed or line.spoilt or (made is not None and made.upto in self._kept):
                dropped.append(line)  # somebody else has been here before: from here on, the same chunks serve both
            else:
                replaced = self._lines.pop(line.position, None)
                self._lines[line.position] = line
                dropped.extend([replaced] if replaced is not None else [])
            while len(self._lines) > MOST_LINES:
                dropped.append(self._lines.pop(next(iter(self._lines))))
            self._changed.notify_all()
        self._start.cool()
        for one in dropped:
            one.close()

    def _keep(self, made: Chunk) -> None:
        """Those furthest behind go first, but never the one that a line made last: others may be about to ask."""
        now = self._clock()
        self._kept[made.after], self._made_at[made.after] = made, now
        self._kept_rows += _weight(made)
        oldest = now - self._most_seconds
        if self._kept_rows <= self._most_rows and next(iter(self._made_at.values())) >= oldest:
            return
        newest = {line.made for line in (*self._lines.values(), *self._at_work.values())} | {made.after}
        for begin in sorted(self._kept.keys() - newest):
            if self._kept_rows > self._most_rows or self._made_at[begin] < oldest:
                self._kept_rows -= _weight(self._kept.pop(begin))
                del self._made_at[begin]


def _weight(chunk: Chunk) -> int:
    """A chunk of statuses takes room as well."""
    return chunk.rows + 1


@dataclass(slots=True)
class _Memory:
    """What has come before, as far as it matters."""

    zone: ZoneInfo
    delay_ns: int
    codes: SymbolCodes = field(default_factory=SymbolCodes)
    rules: TickRules = field(init=False)
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        self.rules, self.seen = TickRules(delay_ns=self.delay_ns), Seen(self.zone)


class _Start:
    """What had been seen at one position, for every line that begins a little behind it: after a crash each sink goes
    on somewhere else, within seconds of the others, and to look back is a second's work for each at full speed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[int, _Memory, float] | None = None

    def memory(
        self, is_near: Callable[[int], bool], look_back: Callable[[], tuple[int, _Memory]]
    ) -> tuple[int, _Memory]:
        """The position and what had been seen there, to be gone on with. `look_back` where nothing near is known."""
        with self._lock:
            if self._seen is None or not is_near(self._seen[0]):
                self._seen = (*look_back(), self._clock())
            position, memory, _ = self._seen
            return position, deepcopy(memory)

    def cool(self) -> None:
        """Forgets what nobody has to begin with any more."""
        if self._lock.acquire(blocking=False):
            try:
                if self._seen is not None and self._clock() - self._seen[2] > START_SECONDS:
                    self._seen = None
            finally:
                self._lock.release()


@dataclass(frozen=True, slots=True)
class _Part:
    """Consecutive entries that have been read and are being decoded, not yet held against what came before."""

    after: int
    batches: Sequence[Batch]
    columns: Future[Columns]

    @property
    def last(self) -> int:
        return self.batches[-1].last

    @property
    def size(self) -> int:
        return sum(len(body) for batch in self.batches for body in batch.bodies)


class _Line:
    """Somebody's way through the journal. Of one thread at a time."""

    def __init__(
        self, reader: JournalReader, decoder: Decoder, journal: str, elsewhere: Executor, start: _Start
    ) -> None:
        """`elsewhere`: where the next part is decoded while this one is looked through."""
        self.reader = reader
        self.position = -1
        self.made = -1
        """The position that its last chunk begins after."""
        self.spoilt = False
        """It failed while it took something in: what it remembers is not what has come."""
        self._decoder = decoder
        self._journal = journal
        self._elsewhere = elsewhere
        self._start = start
        self._coming: deque[_Part] = deque()
        self._memory = _Memory(decoder.zone, decoder.delay_ns)
        self._recall = Recall(reader, decoder)

    def close(self) -> None:
        self._forget_what_is_coming()
        self.reader.close()

    def next(self, after: int, upto: int | None, deadline: float) -> Chunk | None:
        """Ends at `upto` at the latest."""
        if self.position != after:
            self.spoilt = True
            self._warm_up(after)
            self.position, self.spoilt = after, False
        if self._coming and (self._coming[0].after != after or upto is not None):
            self._forget_what_is_coming()
        entries = ENTRIES_AT_ONCE if upto is None else min(ENTRIES_AT_ONCE, upto - after)
        while not self._coming:
            if not self.reader.wait(after, max(0.0, deadline - time.monotonic())):
                return None
            self._begin(after, entries)
        while upto is None and len(self._coming) < AT_ONCE and self._coming[-1].size >= WORTH_READING_AHEAD:
            if not self._begin(self._coming[-1].last, ENTRIES_AT_ONCE):
                break
        self.spoilt = True
        chunk = self._chunk(self._coming.popleft())
        self.position, self.made, self.spoilt = chunk.upto, after, False
        return chunk

    def _begin(self, after: int, entries: int) -> bool:
        """Reads what comes then and has it decoded; false where there is nothing yet."""
        batches = self.reader.read(after, entries=entries, size=BYTES_AT_ONCE)
        if batches:
            self._coming.append(_Part(after, batches, self._elsewhere.submit(self._decoder.decode, batches)))
        return bool(batches)

    def _forget_what_is_coming(self) -> None:
        while self._coming:
            self._coming.pop().columns.cancel()

    def _warm_up(self, after: int) -> None:
        try:
            position, self._memory = self._start.memory(
                lambda shared: is_near(self.reader, shared, after), lambda: self._looked_back(after)
            )
            self._look_at(position, after)
        except PositionGone:
            return  # given up while it was read: then as much as there was

    def _looked_back(self, after: int) -> tuple[int, _Memory]:
        self._memory = _Memory(self._decoder.zone, self._decoder.delay_ns)
        shared = shared_from(self.reader, after)
        self._look_at(warm_from(self.reader, shared), shared)
        return shared, self._memory

    def _look_at(self, position: int, after: int) -> None:
        while position < after:
            batches = self._between(position, after)
            if not batches:
                return
            self._remember(self._decoder.decode(batches))
            position = batches[-1].last

    def _between(self, position: int, after: int) -> list[Batch]:
        read = self.reader.read(position, entries=after - position, size=BYTES_AT_ONCE)
        # Where the journal is damaged, fewer entries reach further: what lies beyond is still to come.
        return [cut(batch, after) for batch in read if batch.first <= after]

    def _chunk(self, part: _Part) -> Chunk:
        columns, known = self._recall.without_known(part.columns.result(), part.after)
        tables, duplicates = self._remember(columns)
        last = part.batches[-1]
        return Chunk(
            journal=self._journal,
            after=part.after,
            upto=last.last,
            tables=tables,
            marks=columns.marks,
            rejects=columns.rejects,
            duplicates=duplicates + known,
            passed_over=columns.passed_over,
            events_upto=last.events_before + last.events,
            last_received_ns=max(int(batch.received.max()) for batch in part.batches),
        )

    def _remember(self, columns: Columns) -> tuple[dict[TickKind, pa.Table], int]:
        """What is new, with its marks, and how much was not."""
        if len(self._memory.codes) > MOST_SYMBOLS:
            self._memory = _Memory(self._decoder.zone, self._decoder.delay_ns)
        memory = self._memory
        tables: dict[TickKind, pa.Table] = {}
        codes: dict[TickKind, Codes] = {}
        duplicates = 0
        for kind, table in columns.tables.items():
            symbols = memory.codes.of(table["symbol"])
            new, late = memory.seen.news(kind, table, symbols)
            duplicates += len(table) - int(new.sum())
            if not new.any():
                continue
            tables[kind], codes[kind] = chosen(table, new), symbols if new.all() else symbols[new]
            if late.any():
                out_of_order = np.where(late[new], np.int32(TickMark.DISORDER), np.int32(0))
                tables[kind] = with_marks(tables[kind], bits(tables[kind]["marks"]) | out_of_order)
        return memory.rules.marked(tables, codes), duplicates
