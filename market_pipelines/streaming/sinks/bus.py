"""What a stream tells the event bus of its process: states, not ticks, and trouble as it comes and goes.

Nothing here is durable: a program that was not listening has missed it. Events are published once a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import MarketPhase
from market_pipelines.streaming.bus import EventBus, Topic
from market_pipelines.streaming.day_book import DayBook, PreviousCloses, no_closes
from market_pipelines.streaming.entries import Chunk, GapCause, Mark, MarkKind
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.protocol import Cursor


@dataclass(frozen=True, slots=True)
class GapNews:
    """A gap has opened or closed."""

    stream: str
    market: str
    gap: str
    state: str
    """opened or closed."""
    cause: str
    begins: datetime | None
    ends: datetime | None
    channels: tuple[str, ...]
    symbols: tuple[str, ...] | None
    """None: everything that was subscribed to."""
    detail: str


@dataclass(frozen=True, slots=True)
class ConnectionNews:
    timestamp: datetime
    stream: str
    origin: str
    """Which connection: polygon-1."""
    status: str
    detail: str


@dataclass(frozen=True, slots=True)
class MarketNews:
    timestamp: datetime
    market: str
    market_status: str
    previous: str | None
    """None: the first that this process has seen."""


@dataclass(frozen=True, slots=True)
class ProviderNews:
    timestamp: datetime
    provider: str
    stream: str
    status: str
    """available, or unavailable while a connection to it is lost or mute."""
    detail: str


_PROVIDER_TROUBLE = frozenset({GapCause.DISCONNECTED, GapCause.SILENT, GapCause.SLOW_CONSUMER})


class BusSink:
    name = "bus"

    def __init__(
        self, bus: EventBus, plan: StreamPlan, market: MarketDefinition, previous_closes: PreviousCloses = no_closes
    ) -> None:
        self._bus = bus
        self._plan = plan
        self._market = market
        self._book = DayBook(market.mic, previous_closes)
        self._cursor: Cursor | None = None
        self._phase: MarketPhase | None = None
        self._lost: set[str] = set()
        """Gaps of the provider's own making that are open."""
        self._available: bool | None = None

    def open(self) -> Cursor | None:
        return self._cursor

    def write(self, chunk: Chunk) -> int:
        if self._cursor is not None and self._cursor.journal == chunk.journal and chunk.upto <= self._cursor.position:
            return 0
        for mark in chunk.marks:
            self._tell(mark)
        published = 0
        if chunk.rows:
            self._set_available(True, chunk.last_received_ns, "")
            phase = self._follow_phase(chunk.last_received_ns)
            for symbol in self._book.take(chunk):
                self._bus.publish(Topic.STOCK_UPDATE, self._book.update(symbol, phase))
                published += 1
        self._cursor = Cursor(chunk.journal, chunk.upto)
        return published

    def close(self) -> None:
        """The bus is the process's own and lives on."""

    def _follow_phase(self, at_ns: int) -> MarketPhase:
        phase = self._book.phase(at_ns)
        if phase is not self._phase:
            previous = self._phase.value if self._phase is not None else None
            self._bus.publish(Topic.MARKET_STATUS, MarketNews(_at(at_ns), self._market.name, phase.value, previous))
            self._phase = phase
        return phase

    def _tell(self, mark: Mark) -> None:
        match mark.kind:
            case MarkKind.STATUS:
                self._status(mark, mark.detail.partition(":")[0].strip())
            case MarkKind.STARTED | MarkKind.STOPPED:
                self._status(mark, mark.kind.value)
            case MarkKind.GAP_OPENED | MarkKind.GAP_CLOSED:
                self._gap(mark)

    def _status(self, mark: Mark, status: str) -> None:
        self._bus.publish(
            Topic.CONNECTION_STATUS, ConnectionNews(_at(mark.at_ns), self._plan.name, mark.origin, status, mark.detail)
        )

    def _gap(self, mark: Mark) -> None:
        opened = mark.kind is MarkKind.GAP_OPENED
        news = GapNews(
            stream=self._plan.name,
            market=self._market.name,
            gap=mark.gap,
            state="opened" if opened else "closed",
            cause=mark.cause.value if mark.cause is not None else "",
            begins=_at(mark.begins_ns - self._plan.delay_ns) if mark.begins_ns else None,
            ends=_at(mark.ends_ns - self._plan.delay_ns) if mark.ends_ns else None,
            channels=mark.channels,
            symbols=mark.symbols,
            detail=mark.detail,
        )
        self._bus.publish(Topic.GAP, news)
        if opened and mark.cause in _PROVIDER_TROUBLE:
            self._lost.add(mark.gap)
        elif not opened:
            self._lost.discard(mark.gap)
        self._set_available(not self._lost, mark.at_ns, mark.detail)

    def _set_available(self, available: bool, at_ns: int, detail: str) -> None:
        available = available and not self._lost
        if available is self._available:
            return
        self._available = available
        status = "available" if available else "unavailable"
        self._bus.publish(
            Topic.DATA_PROVIDER_STATUS,
            ProviderNews(_at(at_ns), self._plan.feed.value, self._plan.name, status, detail),
        )


def _at(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1_000_000_000, UTC)
