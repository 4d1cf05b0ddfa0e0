"""The journal read once more: into a sink, or as it is for a person's own tools.

A sink whose cursor is stored with its data (lake, postgres, gaps, redis) takes nothing twice: it gets what it lacks.
The others are sent everything again, and their keys make that change nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.streams import StreamRow, stream_row
from market_pipelines.streaming.decode import Decoder
from market_pipelines.streaming.entries import Format, answer_of, mark_of
from market_pipelines.streaming.feeds.protocol import FeedFailed
from market_pipelines.streaming.journal import JournalMissing, JournalReader, JournalUnreadable, PositionGone
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName, StreamPlan
from market_pipelines.streaming.service import journal_folder, stored_feed
from market_pipelines.streaming.sinks.build import build_sinks
from market_pipelines.streaming.sinks.protocol import Cursor, Sink, SinkRefused, SinkUnavailable
from market_pipelines.streaming.tail import Tail

KEEPS_ITS_CURSOR = frozenset({"lake", "postgres", "gaps", "redis"})
_PATIENCE = 5.0
_ENTRIES = 2_000


class ReplayRefused(FeedFailed):
    """It cannot be replayed. The message says why."""


class UnknownSink(ReplayRefused):
    """No sink of this installation has that name."""


@dataclass(frozen=True, slots=True)
class Replayed:
    stream: str
    sink: str
    entries: int
    rows: int
    after: int
    upto: int


def replay(platform: Platform, stream: str, name: str, start: datetime | None, end: datetime | None) -> Replayed:
    """Everything that was received from `start` to before `end`, as far as the journal still has it."""
    row = _row(platform, stream)
    plan = plan_of(row)
    market = platform.market(plan.market)
    folder = journal_folder(platform, stream)
    with _opened(folder) as reader, tempfile.TemporaryDirectory(prefix="replay-") as cursors:
        sinks = {
            one.name: one
            for one in build_sinks(platform, plan, market, journal=reader.id, journal_folder=Path(cursors), bus=None)
        }
        if name not in sinks:
            raise UnknownSink(f"--sink {name!r} is none of this installation's; accepted: {', '.join(sorted(sinks))}")
        decoder = Decoder(
            market=market,
            providers=platform.providers,
            feed=stored_feed(platform, plan),
            delay_ns=plan.delay_ns,
        )
        with closing(Tail(lambda: JournalReader(folder), decoder, journal=reader.id)) as tail:
            after, upto = _span(reader, start, end)
            return _sent(tail, sinks[name], row, reader.first - 1, after, upto)


def _sent(tail: Tail, sink: Sink, row: StreamRow, oldest: int, after: int, upto: int) -> Replayed:
    rows = 0
    try:
        cursor = sink.open()
        if sink.name in KEEPS_ITS_CURSOR:
            after = _from_its_cursor(sink.name, cursor, tail.journal, row, oldest, after, upto)
        position = after
        while position < upto:
            chunk = tail.chunk(position, _PATIENCE)
            if chunk is None:
                raise ReplayRefused(f"the journal ends at {position}, before {upto}")
            rows += sink.write(chunk)
            position = chunk.upto
    except (SinkUnavailable, SinkRefused, PositionGone, JournalUnreadable) as error:
        raise ReplayRefused(str(error)) from None
    finally:
        sink.close()
    return Replayed(row.stream, sink.name, position - after, rows, after, position)


def _from_its_cursor(
    name: str, cursor: Cursor | None, journal: str, row: StreamRow, oldest: int, after: int, upto: int
) -> int:
    """Such a sink goes on where it stands, whatever was asked for: a later beginning would move its cursor over what
    it never got."""
    stands = cursor.position if cursor is not None and cursor.journal == journal else None
    if row.running and (stands is None or stands < upto):
        raise ReplayRefused(f"{name} takes nothing twice, and the running service gives it what it lacks")
    if stands is None and after > oldest:
        raise ReplayRefused(f"{name} has nothing of this journal yet: replay it from its beginning, without --from")
    return min(oldest if stands is None else stands, upto)


def frames(platform: Platform, stream: str, start: datetime | None, end: datetime | None) -> Iterator[str]:
    """One JSON document an entry: when it came, by which connection, and its text as it was."""
    with _opened(journal_folder(platform, stream)) as reader:
        after, upto = _span(reader, start, end)
        try:
            while after < upto and (batches := reader.read(after, entries=_ENTRIES)):
                for batch in batches:
                    for number, (received, body) in enumerate(zip(batch.received, batch.bodies, strict=True)):
                        if batch.first + number > upto:
                            return
                        yield _line(batch.first + number, batch.format, batch.origin, int(received), body)
                after = batches[-1].last
        except (PositionGone, JournalUnreadable) as error:
            raise ReplayRefused(str(error)) from None


def _line(position: int, format: Format, origin: str, received_ns: int, body: bytes) -> str:
    try:
        told = _told(format, body)
    except msgspec.MsgspecError:  # of another release, or rubbish: as it is
        told = body.decode("utf-8", "replace")
    seconds, rest = divmod(received_ns, 1_000_000_000)
    at = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    line = {"position": position, "received_at": at, "format": format.value, "origin": origin, "entry": told}
    return msgspec.json.encode(line).decode()


def _told(format: Format, body: bytes) -> object:
    match format:
        case Format.MARK:
            return msgspec.to_builtins(mark_of(body))
        case Format.ANSWER:
            answer = answer_of(body)
            return {
                **msgspec.to_builtins(msgspec.structs.replace(answer, body=b"")),
                "body": answer.body.decode("utf-8", "replace"),
            }
        case _:
            return body.decode("utf-8", "replace")


def _span(reader: JournalReader, start: datetime | None, end: datetime | None) -> tuple[int, int]:
    after = reader.first - 1 if start is None else reader.position_at(_ns(start))
    return after, reader.last if end is None else reader.position_at(_ns(end))


def _opened(folder: Path) -> closing[JournalReader]:
    reader = JournalReader(folder)
    try:
        _ = reader.id
    except JournalMissing as error:
        raise ReplayRefused(str(error)) from None
    return closing(reader)


def _row(platform: Platform, stream: str) -> StreamRow:
    with platform.database.connection() as connection:
        row = stream_row(connection, stream)
    if row is None:
        raise ReplayRefused(f"{stream} never ran")
    return row


def plan_of(row: StreamRow) -> StreamPlan:
    channels = tuple(Channel(name) for name in row.channels)
    asset_class, delay = AssetClass(row.asset_class), row.delay
    return StreamPlan(row.market, FeedName(row.feed), (), asset_class, channels, delay=delay)


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000
