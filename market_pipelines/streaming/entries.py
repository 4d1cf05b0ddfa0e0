"""What passes between the parts of a stream: entries of the journal, marks among them, chunks of columns out of them.

Positions count the entries of one journal from 1; a cursor is the last position that is done, 0 before the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind


class Format(StrEnum):
    """How the bytes of an entry are read."""

    MASSIVE = "massive"
    """A text frame of Polygon's (Massive's) WebSocket."""
    YAHOO = "yahoo"
    """A text frame of Yahoo's streamer."""
    ANSWER = "answer"
    """A provider's HTTP answer with the question that it answers: `SavedAnswer`."""
    MARK = "mark"
    """Something that the service itself has to say: `Mark`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive entries of one format and origin, as the journal gives them back."""

    first: int
    format: Format
    origin: str
    """The connection it came by, or what asked for it."""
    received: npt.NDArray[np.int64]
    """Nanoseconds since 1970, one for each body."""
    bodies: Sequence[bytes]
    events: int
    """Of these entries, as counted when they arrived: near enough to tell how far behind a sink is."""
    events_before: int
    """Of all entries of the journal before these."""

    @property
    def last(self) -> int:
        return self.first + len(self.bodies) - 1


class GapCause(StrEnum):
    DISCONNECTED = "disconnected"
    SILENT = "silent"
    SEQUENCE = "sequence"
    JOURNAL_BOUND = "journal_bound"
    DISK_FULL = "disk_full"
    CRASHED = "crashed"
    STOPPED = "stopped"
    SLOW_CONSUMER = "slow_consumer"
    OVERFLOW = "overflow"


class MarkKind(StrEnum):
    STARTED = "started"
    """The service has opened the journal; without a `STOPPED` before it, the one before was killed."""
    STOPPED = "stopped"
    GAP_OPENED = "gap_opened"
    GAP_CLOSED = "gap_closed"
    """May come without a `GAP_OPENED` before it; then it says everything about the gap itself."""
    STATUS = "status"
    """A status of the provider or the connection, for people."""


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: MarkKind
    at_ns: int
    origin: str = ""
    gap: str = ""
    """The gap's key: the same in `GAP_OPENED` and `GAP_CLOSED`."""
    cause: GapCause | None = None
    begins_ns: int = 0
    ends_ns: int = 0
    channels: tuple[str, ...] = ()
    symbols: tuple[str, ...] | None = None
    """None: everything that is subscribed to."""
    sink: str = ""
    detail: str = ""


class SavedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer with what is needed to read it again by the provider's own reader."""

    provider: str
    """Of the house: yahoo, not simulated-yahoo."""
    capability: str
    """A `providers.protocol.Capability`."""
    market: str
    symbols: tuple[str, ...]
    status: int
    headers: dict[str, str]
    received_ns: int
    body: bytes
    endpoint: str = ""
    kind: str = ""
    """Of ticks: trades or quotes."""
    begins_ns: int = 0
    ends_ns: int = 0
    gap: str = ""
    """The key of the gap that it fills, if it fills one."""
    interval: str = ""
    """Of bars that fill a gap."""
    sink: str = ""
    """The one sink that lacks it; empty: nobody has it."""


_mark_decoder = msgspec.msgpack.Decoder(Mark)
_answer_decoder = msgspec.msgpack.Decoder(SavedAnswer)


def packed(value: Mark | SavedAnswer) -> bytes:
    return msgspec.msgpack.encode(value)


def mark_of(body: bytes) -> Mark:
    return _mark_decoder.decode(body)


def answer_of(body: bytes) -> SavedAnswer:
    return _answer_decoder.decode(body)


@dataclass(frozen=True, slots=True)
class Reject:
    """A frame, or an event within one, that could not be read."""

    position: int
    place: int
    """Of the event within its frame; -1: the whole frame."""
    format: Format
    received_ns: int
    reason: str
    body: bytes
    """Its beginning."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a reader of frames makes of one format's entries, before the stream's own work on it."""

    tables: Mapping[TickKind, pa.Table] = field(default_factory=dict)
    """With all columns of `market.live.SCHEMAS`; `marks` as far as the reader knows, else 0."""
    rejects: tuple[Reject, ...] = ()
    passed_over: int = 0
    """Events of kinds that nobody asked for, statuses among them."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Everything between two positions of the journal, in columns, duplicates gone: what sinks take."""

    journal: str
    after: int
    upto: int
    """A sink that has stored this chunk moves its cursor here."""
    tables: Mapping[TickKind, pa.Table]
    marks: tuple[Mark, ...] = ()
    rejects: tuple[Reject, ...] = ()
    duplicates: int = 0
    passed_over: int = 0
    events_upto: int = 0
    """Of the whole journal up to here."""
    last_received_ns: int = 0

    def table(self, kind: TickKind) -> pa.Table:
        return self.tables.get(kind, _EMPTY[kind])

    @property
    def rows(self) -> int:
        return sum(len(table) for table in self.tables.values())


_EMPTY = {kind: schema.empty_table() for kind, schema in SCHEMAS.items()}
