"""What a feed's trouble means: every loss of a connection, and every pause of the service, is a gap in the journal.

Marks are made here; the sink `gaps` makes rows of them, and `fill` repairs those. How a feed notices that something
is lost is the feed's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from market_pipelines.redaction import redact
from market_pipelines.streaming.entries import GapCause, Mark, MarkKind
from market_pipelines.streaming.feeds.protocol import ConnectionState
from market_pipelines.streaming.plan import StreamPlan

QUIET_SECONDS = 30.0
"""After the first data of any connection, those that are still quiet are taken to have nothing to say."""

_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class GapWatch:
    """The listener of one stream's feed. Safe to call from any thread."""

    def __init__(
        self,
        plan: StreamPlan,
        mark: Callable[[Mark], None],
        subscribed: Callable[[str], tuple[str, ...] | None],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._stream = plan.name
        self._channels = tuple(channel.value for channel in plan.channels)
        self._mark = mark
        self._subscribed = subscribed
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._lost: dict[str, Mark] = {}
        self._inherited: tuple[Mark, ...] = ()
        self._began_ns = 0
        self._first_data_ns = 0
        self.failure = ""
        """Why the feed has ended for good."""
        self.closed_ns = 0
        """How long the gaps lasted that have ended since the start."""

    # --- the feed's listener ---------------------------------------------------------------------------------

    def lost(self, origin: str, cause: GapCause, since_ns: int, detail: str) -> None:
        now = self._clock_ns()
        begins = min(since_ns or self._began_ns or now, now)
        gap = Mark(
            kind=MarkKind.GAP_OPENED,
            at_ns=now,
            origin=origin,
            gap=f"{self._stream}/{origin}/{begins}",
            cause=cause,
            begins_ns=begins,
            channels=self._channels,
            symbols=self._subscribed(origin),
            detail=redact(detail),
        )
        with self._lock:
            if origin in self._lost:
                return
            self._lost[origin] = gap
        _log.warning("lost", stream=self._stream, connection=origin, cause=cause.value, detail=detail)
        self._mark(gap)

    def regained(self, origin: str, at_ns: int) -> None:
        with self._lock:
            gap = self._lost.pop(origin, None)
        if gap is None:
            return
        closed = self._closed(gap, at_ns)
        _log.info("regained", stream=self._stream, connection=origin, gap_seconds=_seconds(closed))

    def status(self, origin: str, status: str, detail: str) -> None:
        _log.info("status", stream=self._stream, connection=origin, status=status, detail=detail)
        self._mark(
            Mark(kind=MarkKind.STATUS, at_ns=self._clock_ns(), origin=origin, detail=redact(f"{status}: {detail}"))
        )

    def failed(self, reason: str) -> None:
        _log.error("the feed has ended for good", stream=self._stream, reason=reason)
        self.failure = self.failure or redact(reason) or "the feed gave no reason"

    # --- pauses of the service itself --------------------------------------------------------------------------

    def begin(self, last_received_ns: int, *, clean: bool, open_gaps: Sequence[Mark]) -> None:
        """Says that the service runs, and what may be missing since the journal's last entry was received
        (0: it is new)."""
        now = self._began_ns = self._clock_ns()
        self._mark(Mark(kind=MarkKind.STARTED, at_ns=now))
        inherited = [gap for gap in open_gaps if not gap.sink]
        if last_received_ns and not any(not gap.origin and gap.symbols is None for gap in inherited):
            cause = GapCause.STOPPED if clean else GapCause.CRASHED
            begins = min(last_received_ns, now)
            pause = Mark(
                kind=MarkKind.GAP_OPENED,
                at_ns=now,
                gap=f"{self._stream}/{cause.value}/{begins}",
                cause=cause,
                begins_ns=begins,
                channels=self._channels,
                detail="the service did not run" if clean else "the service was killed",
            )
            self._mark(pause)
            inherited.append(pause)
            _log.info("a gap since the last run", stream=self._stream, cause=cause.value, seconds=(now - begins) / 1e9)
        self._inherited = tuple(inherited)

    def look(self, connections: Sequence[ConnectionState]) -> None:
        """Ends the gaps of earlier runs once every connection has data again, or says nothing though others do."""
        if not self._inherited:
            return
        now = self._clock_ns()
        # Live: every channel is subscribed to. The first data of one of them says nothing of the others. Connections
        # are of this life, so that any data will do: the clock may have been set back since it began.
        fresh = [one.state == "live" and one.last_data_ns > 0 for one in connections]
        if not any(fresh):
            return
        self._first_data_ns = self._first_data_ns or now
        if not all(fresh) and now - self._first_data_ns < QUIET_SECONDS * 1e9:
            return
        ended, self._inherited = self._inherited, ()
        for gap in ended:
            closed = self._closed(gap, now)
            _log.info("gap of an earlier run ended", stream=self._stream, cause=gap.cause, seconds=_seconds(closed))

    def end(self, detail: str) -> None:
        """The last entry of an orderly end."""
        self._mark(Mark(kind=MarkKind.STOPPED, at_ns=self._clock_ns(), detail=redact(detail)))

    @property
    def lost_now(self) -> tuple[Mark, ...]:
        with self._lock:
            return tuple(self._lost.values())

    def _closed(self, gap: Mark, at_ns: int) -> Mark:
        closed = msgspec.structs.replace(
            gap, kind=MarkKind.GAP_CLOSED, at_ns=self._clock_ns(), ends_ns=max(at_ns, gap.begins_ns)
        )
        self._mark(closed)
        self.closed_ns += closed.ends_ns - closed.begins_ns
        return closed


def _seconds(gap: Mark) -> float:
    return round((gap.ends_ns - gap.begins_ns) / 1e9, 3)
