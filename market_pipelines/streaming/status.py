"""What runs, how far behind each sink is and which gaps there are, as one document. Read from the tables alone.

The service writes its rows with every heartbeat; who shows them, and how, is the doors' business. `marketpipe_`
metrics of one process are in `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.stream_gaps import GapStatus, gap_counts
from market_pipelines.store.streams import StreamRow, stream_rows


@dataclass(frozen=True, slots=True)
class StreamsState:
    rows: tuple[StreamRow, ...]
    gaps: Mapping[str, Mapping[str, int]]
    """How many by status, by stream."""


def streams_state(platform: Platform, stream: str | None = None) -> StreamsState:
    with platform.database.connection() as connection:
        rows = tuple(row for row in stream_rows(connection) if stream in (None, row.stream))
        return StreamsState(rows, {row.stream: gap_counts(connection, row.stream) for row in rows})


def document(state: StreamsState) -> dict[str, Any]:
    """The public shape. `lease` is that of the first stream that runs; `streams` has each one's own."""
    running = [row for row in state.rows if row.running]
    return {
        "running": bool(running),
        "lease": _lease(running[0]) if running else {"holder": None, "heartbeat_age_s": None},
        "feeds": [_feed(row) for row in running],
        "sinks": [sink for row in running for sink in _sinks(row)],
        "gaps": _summed(state.gaps.values()),
        "streams": [_stream(row, state.gaps.get(row.stream, {})) for row in state.rows],
    }


def last_event_age(row: StreamRow) -> float | None:
    """Seconds since the newest event came, by now."""
    told = row.counters.get("last_event_age_s")
    return None if told is None else round(float(told) + row.heartbeat_age, 3)


def condition(row: StreamRow) -> str:
    """In a word or two, for a person."""
    if row.died:
        return "died"
    return row.state.value


def _stream(row: StreamRow, gaps: Mapping[str, int]) -> dict[str, Any]:
    return {
        "stream": row.stream,
        "market": row.market,
        "feed": row.feed,
        "asset_class": row.asset_class,
        "provider": row.provider,
        "state": condition(row),
        "detail": row.detail,
        "running": row.running,
        "lease": _lease(row),
        "hosted_by": row.hosted_by,
        "run_id": row.run_id,
        "symbols": row.symbols,
        "channels": row.channels,
        "delay_s": row.delay.total_seconds(),
        "started_at": row.started_at,
        "stopped_at": row.stopped_at,
        "last_event_age_s": last_event_age(row),
        "connections": row.connections,
        "sinks": row.sinks,
        "counters": row.counters,
        "gaps": _summed([gaps]),
    }


def _lease(row: StreamRow) -> dict[str, Any]:
    return {
        "holder": row.holder,
        "heartbeat_age_s": round(row.heartbeat_age, 3),
        "host": row.host,
        "pid": row.pid,
        "valid": row.running,
    }


def _feed(row: StreamRow) -> dict[str, Any]:
    return {
        "feed": row.feed,
        "stream": row.stream,
        "connections": sum(1 for one in row.connections if one.get("state") == "live"),
        "events": int(row.counters.get("events", 0)),
        "last_event_age_s": last_event_age(row),
        "reconnects": sum(int(one.get("reconnects", 0)) for one in row.connections),
    }


def _sinks(row: StreamRow) -> list[dict[str, Any]]:
    first = ("sink", "cursor_lag_events", "cursor_lag_s", "errors")
    return [{**{name: sink.get(name) for name in first}, "stream": row.stream, **sink} for sink in row.sinks]


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = {status.value: 0 for status in GapStatus}
    for one in counts:
        for status, count in one.items():
            total[status] = total.get(status, 0) + count
    return total
