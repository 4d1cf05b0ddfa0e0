"""How a running stream goes, in figures: what the heartbeat writes and the metrics show. Looks, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from market_pipelines.store.streams import Report, StreamState
from market_pipelines.streaming.feeds.protocol import ConnectionState, Feed
from market_pipelines.streaming.gaps import GapWatch
from market_pipelines.streaming.journal import Journal, JournalState
from market_pipelines.streaming.meter import Meter
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.runner import SinkRunner, SinkState

RATE_SECONDS = 10.0
"""Over which events a second are counted."""


class Reporter:
    """Of one life of one stream. Safe to ask from any thread."""

    def __init__(self, plan: StreamPlan, journal: Journal, meter: Meter, *, log: str = "") -> None:
        self.plan = plan
        self._log = log
        self.watch: GapWatch | None = None
        self._journal = journal
        self._meter = meter
        self._feed: Feed | None = None
        self._runners: Sequence[SinkRunner] = ()
        self._standing: Callable[[int], tuple[int, int]] = lambda _position: (0, 0)
        self._events_before = journal.state().events
        self._began_ns = time.time_ns()
        self._over: tuple[StreamState, str] | None = None
        self._counted: list[tuple[float, int]] = []

    def follow(
        self, feed: Feed, watch: GapWatch, runners: Sequence[SinkRunner], standing: Callable[[int], tuple[int, int]]
    ) -> None:
        """`standing`: the events up to a position of the journal, and when the last of them had arrived."""
        self._feed, self.watch, self._runners, self._standing = feed, watch, runners, standing

    def over(self, state: StreamState, detail: str) -> None:
        """It is ending, or has ended: no look at its connections says otherwise any more."""
        self._over = state, detail

    def state(self) -> tuple[StreamState, str]:
        return self._over or _state(self._connections())

    def report(self) -> Report:
        journal = self._journal.state()
        connections = self._connections()
        state, detail = self._over or _state(connections)
        return Report(
            state=state,
            detail=detail,
            symbols=sum(one.symbols for one in connections),
            channels=[channel.value for channel in self.plan.channels],
            connections=[_connection(one) for one in connections],
            sinks=[self._sink(runner.state(), journal) for runner in self._runners],
            counters=self._counters(journal, connections),
        )

    def _connections(self) -> tuple[ConnectionState, ...]:
        return tuple(self._feed.connections()) if self._feed is not None else ()

    def _sink(self, sink: SinkState, journal: JournalState) -> dict[str, Any]:
        events, seconds = self.lag(sink, journal)
        return {
            "sink": sink.name,
            "state": sink.state.value,
            "cursor_lag_events": events,
            "cursor_lag_s": seconds,
            "errors": sink.errors,
            "last_error": sink.last_error if sink.retrying else "",
            "rows": sink.rows,
            "position": sink.position,
            "given_up": sink.given_up,
        }

    def lag(self, sink: SinkState, journal: JournalState) -> tuple[int, float]:
        """How far behind the journal's durable end a sink is, in events and in seconds."""
        if sink.position >= journal.durable:
            return 0, 0.0
        upto, since = sink.events_upto, sink.last_received_ns
        if not since:  # it has stored nothing in this life
            upto, since = self._standing(sink.position)
        behind = journal.events - upto if upto else journal.durable - sink.position
        since = since or self._began_ns
        newest = journal.last_received_ns or time.time_ns()
        late = time.time_ns() - since if sink.retrying else newest - since
        return max(0, behind), round(max(0.0, late / 1e9), 3)

    def _counters(self, journal: JournalState, connections: Sequence[ConnectionState]) -> dict[str, Any]:
        figures = self._meter.figures()
        events = journal.events - self._events_before
        newest = max((one.last_data_ns for one in connections), default=0)
        watch = self.watch
        return {
            "events": events,
            "events_per_s": self._rate(events),
            "frames": sum(one.frames for one in connections),
            "last_event_age_s": round((time.time_ns() - newest) / 1e9, 3) if newest else None,
            "delay_s": self.plan.delay.total_seconds(),
            "lag_p50_ms": figures.lag_p50_ms,
            "lag_p99_ms": figures.lag_p99_ms,
            "rows": dict(figures.rows),
            "duplicates": figures.duplicates,
            "rejects": figures.rejects,
            "passed_over": figures.passed_over,
            "gap_seconds": round(watch.closed_ns / 1e9, 3) if watch is not None else 0.0,
            "lost": len(watch.lost_now) if watch is not None else 0,
            "journal": asdict(journal),
            "log": self._log,
        }

    def _rate(self, events: int) -> float:
        now = time.monotonic()
        self._counted = [one for one in self._counted if now - one[0] <= RATE_SECONDS] + [(now, events)]
        (since, before), seconds = self._counted[0], now - self._counted[0][0]
        return round((events - before) / seconds, 1) if seconds >= 1 and since < now else 0.0


def _state(connections: Sequence[ConnectionState]) -> tuple[StreamState, str]:
    if any(one.state == "live" for one in connections):
        quiet = [one for one in connections if one.state != "live"]
        return StreamState.LIVE, "; ".join(f"{one.origin} {one.state}: {one.detail}" for one in quiet)
    waiting = [one for one in connections if one.state in ("waiting", "silent", "closed")]
    if waiting:
        return StreamState.WAITING, waiting[0].detail or waiting[0].state
    return StreamState.STARTING, next((one.detail for one in connections if one.detail), "")


def _connection(one: ConnectionState) -> dict[str, Any]:
    age = round((time.time_ns() - one.last_data_ns) / 1e9, 3) if one.last_data_ns else None
    return {
        "origin": one.origin,
        "state": one.state,
        "symbols": one.symbols,
        "frames": one.frames,
        "reconnects": one.reconnects,
        "attempts": one.attempts,
        "last_data_age_s": age,
        "detail": one.detail,
    }
