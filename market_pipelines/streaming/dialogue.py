"""What is said on one connection, apart from how it travels: the part of a feed that differs from provider to provider.

A dialogue is spoken by the connection's thread alone, but for `want`. It does no I/O: it is told what came and what
time it is, and answers with what is to be sent, told to people, or with the reason why the connection ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from market_pipelines.streaming.entries import Format, GapCause
from market_pipelines.streaming.plan import Channel
from market_pipelines.streaming.watchdog import Watched

Topics = Mapping[Channel, Sequence[str]]
"""What is wanted of each channel, in the provider's spelling."""
SLOW_CONSUMER = "slow_consumer"
"""The name of the status that says that we read too slowly."""


class EndKind(StrEnum):
    STOPPED = "stopped"
    FAULT = "fault"
    """Trying again can help."""
    REFUSED = "refused"
    """Trying again is of no use before a person has acted."""
    CROWDED = "crowded"
    """The provider takes fewer connections than there are."""


@dataclass(frozen=True, slots=True)
class Ending:
    kind: EndKind
    reason: str
    cause: GapCause = GapCause.DISCONNECTED
    since_ns: int = 0
    """Since when something is missing, where that is not the last data of the connection."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something for people."""

    status: str
    detail: str


@dataclass(frozen=True, slots=True)
class Turn:
    say: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    ending: Ending | None = None
    data: bool = True
    """Of a frame that was heard: whether it holds data besides statuses."""


NOTHING = Turn()


@dataclass(frozen=True, slots=True)
class Marker:
    """An event's field, `"ev":"T"`, to be found in what may be tens of kilobytes of them."""

    compact: bytes
    spaced: re.Pattern[bytes]

    @classmethod
    def of(cls, field: str, value: str) -> Self:
        name, text = re.escape(field).encode(), re.escape(value).encode()
        return cls(f'"{field}":"{value}"'.encode(), re.compile(rb'"' + name + rb'"\s*:\s*"' + text + rb'"'))

    def within(self, raw: bytes) -> bool:
        # From the end: the search backwards takes a third of the time of `in`.
        if raw.rfind(self.compact) >= 0:
            return True
        field = self.compact[: self.compact.index(b":") + 2]
        return field not in raw[:_FIRST_EVENT] and self.spaced.search(raw) is not None


_FIRST_EVENT = 512
"""Bytes that hold the first event, from which is seen whether there are blanks between the words."""


class Dialogue(Protocol):
    format: Format
    status_mark: bytes
    """A frame with these bytes may hold a status and is given to `heard`; empty: none ever does."""
    markers: Mapping[Channel, Marker | None]
    """What shows that some bytes hold data of a channel; None: any data does."""

    @property
    def settled(self) -> bool:
        """Everything that is wanted has been asked for, and answered as far as it ever will be."""
        ...

    def want(self, topics: Topics) -> None:
        """Other topics from now on. From any thread."""
        ...

    def opened(self, now: float) -> Turn:
        """A new connection: nothing of the last one holds any longer. `now` is of a clock that only goes forward."""
        ...

    def heard(self, frame: bytes, now: float, /) -> Turn: ...

    def due(self, now: float) -> Turn:
        """What the time, or a new wish, makes necessary."""
        ...

    def watched(self) -> Sequence[Watched]:
        """The channels by which something is expected."""
        ...
