"""Following a stream that another process runs: what it receives, out of its journal, as it comes.

`follow` hands it to whoever iterates, `publishing` to an event bus of this process. Each stream that is followed is
read and decoded here, by a thread of its own; the process that streams knows nothing of it and never waits. What has
not been taken yet is bounded: beyond, the oldest goes, and what comes next says how much. Whoever needs every tick
for ever takes a sink, which has a cursor. How a journal is read on and on is `journal_follower`'s.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import structlog

from market_pipelines.market.columns import chosen, coded
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.settings import Settings, read_settings
from market_pipelines.store.streams import StreamRow, stream_rows
from market_pipelines.streaming.bus import EventBus
from market_pipelines.streaming.closes import StoredCloses
from market_pipelines.streaming.decode import Decoder
from market_pipelines.streaming.entries import Chunk, Mark
from market_pipelines.streaming.feeds.protocol import FeedFailed
from market_pipelines.streaming.journal import JournalMissing
from market_pipelines.streaming.journal_follower import JournalFollower
from market_pipelines.streaming.replay import plan_of
from market_pipelines.streaming.service import journal_folder, stored_feed
from market_pipelines.streaming.sinks.bus import BusSink

WAITING = 100_000
"""Rows that wait for the reader at most; news of more rows than that waits alone."""

_NANOSECONDS, _MICROSECONDS = pl.Datetime("ns", "UTC"), pl.Datetime("us", "UTC")
_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class FollowRefused(FeedFailed):
    """There is nothing to follow, or nothing any more. The message says why."""


class Event(NamedTuple):
    stream: str
    kind: TickKind
    values: Mapping[str, Any]
    """By the columns of `market.live.SCHEMAS`. Times are to the microsecond, with the exact ones beside them as
    `ts_ns` (of an aggregate `start_ns`) and `received_at_ns`."""


@dataclass(frozen=True, slots=True)
class News:
    """What came at once."""

    stream: str
    tables: Mapping[TickKind, pa.Table]
    """By `market.live.SCHEMAS`, duplicates gone; kinds without a row are left out."""
    marks: tuple[Mark, ...]
    """Gaps, statuses, starts and stops."""
    position: int
    """Of the journal, up to which this reaches."""
    received_at: datetime
    """When the newest of it arrived at the stream."""
    missed: int = 0
    """Rows of this stream before these that the reader was too slow for."""

    @property
    def rows(self) -> int:
        return sum(map(len, self.tables.values()))

    def events(self) -> Iterator[Event]:
        for kind, table in self.tables.items():
            frame = pl.DataFrame(table)
            exact = [
                pl.col(name).cast(pl.Int64).alias(f"{name}_ns")
                for name in ("ts", "start", "received_at")
                if name in frame.columns
            ]
            for row in frame.with_columns(exact).with_columns(pl.col(_NANOSECONDS).cast(_MICROSECONDS)).to_dicts():
                yield Event(self.stream, kind, {**row, "marks": TickMark(row["marks"])})


class Following:
    """What comes, of each stream in the order in which it came. Iterating waits for more, and ends with the block.
    Several threads may take from it: each piece of news goes to one of them."""

    def __init__(self, streams: Sequence[str], *, waiting: int = WAITING, lossless: bool = False) -> None:
        self.streams = tuple(streams)
        self.received = 0
        """Rows."""
        self.missed = 0
        """Rows that went because the reader was too slow."""
        self._waiting = waiting
        self._lossless = lossless
        self._changed = threading.Condition()
        self._queue: deque[News] = deque()
        self._rows = 0
        self._owed: dict[str, int] = {}
        """Rows that went and have not been told of, by stream."""
        self._closed = False
        self._failure = ""

    def take(self, timeout: float | None = None) -> News | None:
        """The next news; None where none came in time, or the block has ended. Raises `FollowRefused` where a stream
        cannot be read any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed or self._failure, timeout)
            if self._closed:
                return None
            if not self._queue:
                if self._failure:
                    raise FollowRefused(self._failure)
                return None
            news = self._queue.popleft()
            self._rows -= news.rows
            self._changed.notify_all()
            return replace(news, missed=self._owed.pop(news.stream, 0))

    def __iter__(self) -> Iterator[News]:
        while (news := self.take()) is not None:
            yield news

    def events(self) -> Iterator[Event]:
        """One after the other, for programs that do not work on columns."""
        for news in self:
            yield from news.events()

    # --- for the threads that read -----------------------------------------------------------------------------

    def put(self, news: News, *, patient: bool) -> None:
        """`patient`: history that was asked for waits for room, since the journal keeps it."""
        with self._changed:
            if patient or self._lossless:
                self._changed.wait_for(lambda: self._closed or not self._queue or self._fits(news))
            if self._closed:
                return
            self._queue.append(news)
            self._rows += news.rows
            self.received += news.rows
            before = self.missed
            while len(self._queue) > 1 and not self._fits():
                self._forget(self._queue.popleft())
            told = not before and self.missed
            self._changed.notify_all()
        if told:
            _log.warning(
                "whoever follows a stream is too slow: the oldest goes", stream=news.stream, waiting=self._waiting
            )

    def fail(self, reason: str) -> None:
        with self._changed:
            self._failure = reason
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()

    def _fits(self, more: News | None = None) -> bool:
        """News without a row takes room as well."""
        rows, pieces = (0, 0) if more is None else (more.rows, 1)
        return self._rows + rows <= self._waiting and len(self._queue) + pieces <= self._waiting

    def _forget(self, gone: News) -> None:
        self._rows -= gone.rows
        self.missed += gone.rows
        self._owed[gone.stream] = self._owed.get(gone.stream, 0) + gone.rows


@contextmanager
def follow(
    symbols: str | Sequence[str] = (),
    kinds: str | Sequence[str] = (),
    *,
    market: str | None = None,
    stream: str | None = None,
    since: datetime | None = None,
    waiting: int = WAITING,
    lossless: bool = False,
    platform: Platform | None = None,
    settings: Settings | None = None,
) -> Iterator[Following]:
    """What the running streams of this machine receive from now on, or since an instant that their journals still
    have, until the end of the block.

    Without `symbols` and `kinds` (quotes, trades, aggregates, snapshots, bands) everything; without `market` and
    `stream` (us-polygon) every stream that runs. A stream that is named need not run: it is waited for.

    `waiting` rows wait at most. Who is slower loses the oldest of what is new, and nothing of what came before the
    block began; with `lossless` nothing goes, and the reader falls behind as far as the journals reach.
    """
    wanted, some = _kinds(kinds), _symbols(symbols)
    with _ready(market, stream, since, platform, settings) as (house, rows):
        following = Following([row.stream for row in rows], waiting=waiting, lossless=lossless)

        def deliver(row: StreamRow) -> Callable[[Chunk, bool], None]:
            def delivered(chunk: Chunk, patient: bool) -> None:
                found = _of(chunk, some).tables.items()
                tables = {kind: table for kind, table in found if kind in wanted and len(table)}
                if tables or chunk.marks:
                    at = datetime.fromtimestamp(chunk.last_received_ns / 1_000_000_000, UTC)
                    following.put(News(row.stream, tables, chunk.marks, chunk.upto, at), patient=patient)

            return delivered

        with _reading(house, rows, deliver, following.fail, since):
            try:
                yield following
            finally:
                following.end()


@contextmanager
def publishing(
    bus: EventBus,
    symbols: str | Sequence[str] = (),
    *,
    market: str | None = None,
    stream: str | None = None,
    platform: Platform | None = None,
    settings: Settings | None = None,
) -> Iterator[tuple[str, ...]]:
    """Until the end of the block, `bus` is told what the running streams of this machine receive, as if this process
    hosted them: states of symbols, statuses, gaps. Gives the names of the streams."""
    some = _symbols(symbols)
    with _ready(market, stream, None, platform, settings) as (house, rows):

        def deliver(row: StreamRow) -> Callable[[Chunk, bool], None]:
            its_market = house.market(row.market)
            closes = StoredCloses(house.database, its_market.name, its_market.mic)
            sink = BusSink(bus, plan_of(row), its_market, closes)

            def delivered(chunk: Chunk, _: bool) -> None:
                sink.write(_of(chunk, some))

            return delivered

        def failed(reason: str) -> None:
            _log.error("the event bus hears no more of a stream", reason=reason)

        with _reading(house, rows, deliver, failed, None):
            yield tuple(row.stream for row in rows)


@contextmanager
def _ready(
    market: str | None, stream: str | None, since: datetime | None, platform: Platform | None, settings: Settings | None
) -> Iterator[tuple[Platform, list[StreamRow]]]:
    if since is not None and since.tzinfo is None:
        raise BadQuestion(
            f"since {since.isoformat()} has no time zone; accepted: datetime.now(UTC) - timedelta(hours=1)"
        )
    with ExitStack() as stack:
        if platform is None:
            platform = stack.enter_context(open_platform(settings or read_settings(), asks=False))
        yield platform, _streams(platform, market, stream)


def _streams(platform: Platform, market: str | None, stream: str | None) -> list[StreamRow]:
    if market is not None:
        platform.market(market)
    with platform.database.connection() as connection:
        rows = stream_rows(connection, market=market)
    if stream is not None:
        named = [row for row in rows if row.stream == stream]
        if not named:
            raise FollowRefused(f"{stream} never ran; there are {', '.join(row.stream for row in rows) or 'none'}")
        return named
    running = [row for row in rows if row.running]
    if not running:
        of = "" if market is None else f" of {market}"
        raise FollowRefused(f"no stream{of} runs: `market-pipelines stream start` starts one")
    return running


@contextmanager
def _reading(
    platform: Platform,
    rows: Sequence[StreamRow],
    deliver: Callable[[StreamRow], Callable[[Chunk, bool], None]],
    failed: Callable[[str], None],
    since: datetime | None,
) -> Iterator[None]:
    followers = []
    for row in rows:
        decoder = Decoder(
            market=platform.market(row.market),
            providers=platform.providers,
            feed=stored_feed(platform, plan_of(row)),
            delay_ns=plan_of(row).delay_ns,
        )
        follower = JournalFollower(journal_folder(platform, row.stream), row.stream, decoder, deliver(row), failed)
        try:
            follower.open(since, journal=row.journal if row.running else "")
        except JournalMissing as missing:
            raise FollowRefused(
                f"{row.stream} streams on {row.host}, and its journal is not here ({missing}): follow it there, or "
                "listen to Redis"
            ) from None
        followers.append(follower)
    with ExitStack() as stack:
        for follower in followers:
            stack.callback(follower.stop)
            follower.start()
        yield


def _of(chunk: Chunk, symbols: frozenset[str]) -> Chunk:
    if not symbols:
        return chunk
    return replace(chunk, tables={kind: _only(table, symbols) for kind, table in chunk.tables.items()})


def _only(table: pa.Table, symbols: frozenset[str]) -> pa.Table:
    names, codes = coded(table["symbol"])
    return chosen(table, np.array([name in symbols for name in names], dtype=np.bool_)[codes])


def _symbols(symbols: str | Sequence[str]) -> frozenset[str]:
    return frozenset([symbols] if isinstance(symbols, str) else symbols)


def _kinds(kinds: str | Sequence[str]) -> frozenset[TickKind]:
    named = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in named:
        if kind not in tuple(TickKind):
            raise BadQuestion(f"kind {kind!r} is not streamed; accepted: {', '.join(TickKind)}")
    return frozenset(map(TickKind, named or TickKind))
