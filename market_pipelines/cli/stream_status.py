"""How streams are shown to a person: what is connected, how far behind each sink is, which gaps there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from market_pipelines.cli.output import emit_json, emit_line, emit_table, lasting, say, size
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.stream_gaps import GapRow, GapStatus, newest_gaps
from market_pipelines.store.streams import StreamRow, stream_rows
from market_pipelines.streaming.lease import held_by
from market_pipelines.streaming.status import StreamsState, condition, last_event_age

GAPS_SHOWN = 5
_SHORT = 60
_NOTE = 120
"""Letters of a gap's reason that the table has room for."""
TROUBLED = ("retrying", "refused", "failed")
"""Sinks that are not well: the last error of the others is over."""


def show_status(platform: Platform, state: StreamsState) -> None:
    if not state.rows:
        say("No stream has run yet. A first one: market-pipelines stream run")
        return
    for row in state.rows:
        emit_line(sentence(row))
    emit_line("")
    emit_table(
        ("stream", "connection", "state", "symbols", "frames", "last data", "reconnects", "note"),
        [
            (
                row.stream,
                str(one.get("origin", "")),
                str(one.get("state", "")),
                one.get("symbols"),
                one.get("frames"),
                _ago(one.get("last_data_age_s"), row),
                one.get("reconnects"),
                _short(str(one.get("detail") or "")),
            )
            for row in state.rows
            if not row.state.over
            for one in row.connections
        ],
        "Connections",
    )
    emit_line("")
    emit_table(
        ("stream", "sink", "state", "behind, events", "behind, s", "rows", "errors", "last error"),
        [
            (
                row.stream,
                str(one.get("sink", "")),
                str(one.get("state", "")),
                one.get("cursor_lag_events"),
                one.get("cursor_lag_s"),
                one.get("rows"),
                one.get("errors"),
                _short(str(one.get("last_error") or "")),
            )
            for row in state.rows
            for one in row.sinks
        ],
        "Sinks",
    )
    for told in cut_short(state.rows):
        emit_line(told)
    emit_line("")
    show_gaps(platform, None, open_only=False, limit=GAPS_SHOWN, as_json=False, state=state)


def cut_short(rows: Sequence[StreamRow]) -> Iterator[str]:
    """What the tables have no room for: the end of such a sentence says what to do."""
    for row in rows:
        told = [(one.get("origin"), one.get("detail")) for one in row.connections if not row.state.over]
        told += [(one.get("sink"), one.get("last_error")) for one in row.sinks if one.get("state") in TROUBLED]
        for name, words in told:
            if words and _short(str(words)) != str(words):
                yield f"{row.stream}, {name}: {words}"


def _short(words: str) -> str:
    return words if len(words) <= _SHORT else f"{words[: _SHORT - 1].rstrip()}…"


def sentence(row: StreamRow) -> str:
    """A stream in one line."""
    told = row.counters
    journal = told.get("journal") or {}
    log = [f"log {told['log']}"] if told.get("log") else []
    parts = [f"{row.stream:<16} {condition(row)}"]
    if row.died:
        parts.append(
            f"last heard of {lasting(row.heartbeat_age)} ago: {held_by(row)}. `market-pipelines stream run` goes on "
            "where its journal ends"
        )
        return ", ".join([*parts, *log])
    if row.state.over:
        when = row.stopped_at or row.heartbeat_at
        return ", ".join([*parts, f"since {when:%Y-%m-%d %H:%M:%S} UTC", *([row.detail] if row.detail else []), *log])
    parts.append(f"{row.symbols} symbols of {row.provider}")
    parts.append(f"{int(told.get('events') or 0):,} events ({float(told.get('events_per_s') or 0):,.0f}/s)")
    age = last_event_age(row)
    parts.append("nothing yet" if age is None else f"the last {age:.1f} s ago")
    if row.delay:
        parts.append(f"{row.delay / timedelta(minutes=1):g} min late by its plan")
    if told.get("lag_p99_ms") is not None:
        parts.append(f"lag p50 {told['lag_p50_ms']:.0f} ms, p99 {told['lag_p99_ms']:.0f} ms")
    if journal:
        parts.append(f"journal {size(float(journal.get('bytes') or 0))}")
    parts.append(held_by(row))
    if journal.get("full"):
        parts.append(str(journal["full"]))
    if row.detail:
        parts.append(row.detail)
    return ", ".join([*parts, *log])


def show_gaps(
    platform: Platform,
    stream: str | None,
    *,
    open_only: bool,
    limit: int,
    as_json: bool,
    state: StreamsState | None = None,
) -> None:
    with platform.database.connection() as connection:
        gaps = newest_gaps(connection, stream, limit, open_only=open_only)
        rows = {row.stream: row for row in stream_rows(connection)}
    running = {row.stream for row in rows.values() if row.running}
    # Gaps are told in the exchange's time: on a delayed stream they have been open for so much less.
    now = {name: platform.clock() - row.delay for name, row in rows.items()}
    if as_json:
        emit_json([_gap(one, now.get(one.stream, platform.clock())) for one in gaps])
        return
    if not gaps and state is None:
        say("No gap is open." if open_only else "There has been no gap.")
        return
    title = "Gaps"
    if state is not None:
        counted = {status: sum(one.get(status.value, 0) for one in state.gaps.values()) for status in GapStatus}
        title += ": " + ", ".join(f"{count} {status.value}" for status, count in counted.items())
    emit_table(
        ("stream", "cause", "from (UTC)", "to (UTC)", "seconds", "of", "status", "rows", "note"),
        [
            (
                one.stream,
                one.cause.replace("_", " ") + (f" (only {one.sink})" if one.sink else ""),
                _exact(one.begins_at),
                "goes on" if one.ends_at is None else _exact(one.ends_at),
                None if one.ends_at is None else (one.ends_at - one.begins_at) / timedelta(seconds=1),
                "all" if one.symbols is None else f"{len(one.symbols)} symbols",
                one.status.value,
                one.rows_filled,
                note_of(one, now.get(one.stream, platform.clock()), running=one.stream in running),
            )
            for one in gaps
        ],
        title,
    )


def note_of(one: GapRow, now: datetime, *, running: bool) -> str:
    """What the table has to say of a gap beside its figures."""
    is_open = one.status is GapStatus.OPEN
    parts = [f"open for {lasting(_open_seconds(one, now))}" if is_open else "", one.reason[:_NOTE]]
    if is_open and not running:
        parts.append("its stream does not run")
    elif one.retry_at is not None and running:
        parts.append(f"asked again at {one.retry_at:%H:%M:%S} UTC")
    return "; ".join(part for part in parts if part)


def _gap(one: GapRow, now: datetime) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in GapRow.__dataclass_fields__}
    return told | {"open_s": round(_open_seconds(one, now), 3) if one.status is GapStatus.OPEN else None}


def _open_seconds(one: GapRow, now: datetime) -> float:
    return max(0.0, (now - one.begins_at) / timedelta(seconds=1))


def _exact(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"


def _ago(age: float | None, row: StreamRow) -> str:
    return "none yet" if age is None else f"{age + row.heartbeat_age:.1f} s ago"
