"""Who streams what: one row a stream with its lease, its heartbeat and what people ask of it.

The lease goes by the clock of the database, so that hosts whose clocks differ agree on it. When somebody may take a
lease over, and what is done about a wish, is decided by the service. Gaps are in `stream_gaps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from market_pipelines.store.database import Transaction

LEASE_SECONDS = 15.0
"""A holder that has said nothing for so long may be succeeded."""


class StreamState(StrEnum):
    STARTING = "starting"
    LIVE = "live"
    WAITING = "waiting"
    """Without data: between two attempts to connect, or until the exchange trades."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self in (StreamState.STOPPED, StreamState.FAILED)


class Wish(StrEnum):
    NONE = ""
    STOP = "stop"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who wants to stream what."""

    stream: str
    market: str
    feed: str
    asset_class: str
    provider: str
    """As stored: `simulated-polygon` where the simulator streams."""
    holder: str
    """Names one process for all time."""
    host: str
    pid: int
    hosted_by: str
    """process or dagster."""
    run_id: str | None
    journal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a stream goes, as its holder says with every heartbeat."""

    state: StreamState
    detail: str = ""
    symbols: int = 0
    channels: Sequence[str] = ()
    connections: Sequence[Mapping[str, Any]] = ()
    sinks: Sequence[Mapping[str, Any]] = ()
    counters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    stream: str
    market: str
    feed: str
    asset_class: str
    provider: str
    holder: str
    host: str
    pid: int
    hosted_by: str
    run_id: str | None
    journal: str
    state: StreamState
    detail: str
    wish: Wish
    symbols: int
    channels: list[str]
    connections: list[dict[str, Any]]
    sinks: list[dict[str, Any]]
    counters: dict[str, Any]
    started_at: datetime
    heartbeat_at: datetime
    lease_until: datetime
    stopped_at: datetime | None
    heartbeat_age: float
    """Seconds, by the database's clock."""
    valid: bool
    """The lease has not run out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", StreamState(self.state))
        object.__setattr__(self, "wish", Wish(self.wish))

    @property
    def delay(self) -> timedelta:
        """How much later than the exchange it is by its plan, as its service last said."""
        return timedelta(seconds=float(self.counters.get("delay_s") or 0.0))

    @property
    def running(self) -> bool:
        """Somebody holds the lease now."""
        return self.valid and not self.state.over

    @property
    def died(self) -> bool:
        """Its lease ran out without a stop."""
        return not self.valid and not self.state.over


_COLUMNS: LiteralString = """
stream, market, feed, asset_class, provider, holder, host, pid, hosted_by, run_id, journal, state, detail, wish,
symbols, channels, connections, sinks, counters, started_at, heartbeat_at, lease_until, stopped_at,
greatest(extract(epoch FROM clock_timestamp() - heartbeat_at), 0)::float8 AS heartbeat_age,
lease_until >= clock_timestamp() AS valid
"""
_LEASE: LiteralString = "clock_timestamp() + make_interval(secs => %(seconds)s)"


def acquire(
    connection: Transaction, claim: Claim, *, journal_is_ours: bool = False, seconds: float = LEASE_SECONDS
) -> StreamRow | None:
    """Takes the lease: None. Or tells who holds it: nobody may take it from them while it is valid.

    `journal_is_ours`: the claimant has the lock on the claim's journal, so that nobody on this host can be
    writing it: a holder that did is dead, however long its lease would still be valid.
    """
    taken = connection.execute(
        f"""
        INSERT INTO market.stream_status AS s (
            stream, market, feed, asset_class, provider, holder, host, pid, hosted_by, run_id, journal, state,
            started_at, heartbeat_at, lease_until
        )
        VALUES (
            %(stream)s, %(market)s, %(feed)s, %(asset_class)s, %(provider)s, %(holder)s, %(host)s, %(pid)s,
            %(hosted_by)s, %(run_id)s, %(journal)s, 'starting', clock_timestamp(), clock_timestamp(), {_LEASE}
        )
        ON CONFLICT (stream) DO UPDATE
        SET market = excluded.market, feed = excluded.feed, asset_class = excluded.asset_class,
            provider = excluded.provider, holder = excluded.holder, host = excluded.host, pid = excluded.pid,
            hosted_by = excluded.hosted_by, run_id = excluded.run_id, journal = excluded.journal, state = 'starting',
            detail = '', wish = '', symbols = 0, channels = '{{}}', connections = '[]', sinks = '[]', counters = '{{}}',
            started_at = excluded.started_at, heartbeat_at = excluded.heartbeat_at,
            lease_until = excluded.lease_until, stopped_at = NULL
        WHERE s.holder = excluded.holder OR s.state IN ('stopped', 'failed') OR s.lease_until < clock_timestamp()
              OR (%(journal_is_ours)s AND s.host = excluded.host AND s.journal = excluded.journal)
        """,  # noqa: S608 (constant parts)
        {
            "stream": claim.stream,
            "market": claim.market,
            "feed": claim.feed,
            "asset_class": claim.asset_class,
            "provider": claim.provider,
            "holder": claim.holder,
            "host": claim.host,
            "pid": claim.pid,
            "hosted_by": claim.hosted_by,
            "run_id": claim.run_id,
            "journal": claim.journal,
            "journal_is_ours": journal_is_ours,
            "seconds": seconds,
        },
    ).rowcount
    return None if taken else stream_row(connection, claim.stream)


def renew(
    connection: Transaction, stream: str, holder: str, report: Report, *, seconds: float = LEASE_SECONDS
) -> Wish | None:
    """What people wish of the stream, with the lease valid anew, also when it had run out and nobody took it.
    None: somebody else holds it, or the row is gone."""
    row = connection.execute(
        f"""
        UPDATE market.stream_status
        SET state = %(state)s, detail = %(detail)s, symbols = %(symbols)s, channels = %(channels)s,
            connections = %(connections)s, sinks = %(sinks)s, counters = %(counters)s,
            heartbeat_at = clock_timestamp(), lease_until = {_LEASE}
        WHERE stream = %(stream)s AND holder = %(holder)s
        RETURNING wish
        """,  # noqa: S608 (constant parts)
        {**_values(report), "stream": stream, "holder": holder, "seconds": seconds},
    ).fetchone()
    return None if row is None else Wish(row[0])


def heeded(connection: Transaction, stream: str, holder: str, wish: Wish) -> None:
    """A wish that came after it stays."""
    connection.execute(
        "UPDATE market.stream_status SET wish = '' WHERE stream = %s AND holder = %s AND wish = %s",
        (stream, holder, wish.value),
    )


def release(connection: Transaction, stream: str, holder: str, report: Report) -> bool:
    """Ends the lease; False where somebody else holds it by now."""
    return (
        connection.execute(
            """
            UPDATE market.stream_status
            SET state = %(state)s, detail = %(detail)s, symbols = %(symbols)s, channels = %(channels)s,
                connections = %(connections)s, sinks = %(sinks)s, counters = %(counters)s, wish = '',
                heartbeat_at = clock_timestamp(), lease_until = clock_timestamp(), stopped_at = clock_timestamp()
            WHERE stream = %(stream)s AND holder = %(holder)s
            """,
            {**_values(report), "stream": stream, "holder": holder},
        ).rowcount
        == 1
    )


def bury(connection: Transaction, stream: str, detail: str) -> bool:
    """Says of a stream that died that nobody wants it back; False where it is alive or was stopped."""
    return (
        connection.execute(
            """
            UPDATE market.stream_status SET state = 'stopped', detail = %s, wish = '', stopped_at = clock_timestamp()
            WHERE stream = %s AND state NOT IN ('stopped', 'failed') AND lease_until < clock_timestamp()
            """,
            (detail, stream),
        ).rowcount
        == 1
    )


def ask(connection: Transaction, stream: str, wish: Wish) -> bool:
    """Leaves a wish for whoever runs the stream; False where nobody does."""
    return (
        connection.execute(
            """
            UPDATE market.stream_status SET wish = %s
            WHERE stream = %s AND state NOT IN ('stopped', 'failed') AND lease_until >= clock_timestamp()
            """,
            (wish.value, stream),
        ).rowcount
        == 1
    )


def streamed_elsewhere(connection: Transaction, stream: str, journal: str) -> bool:
    """Whether a lease is valid that was taken with another journal: who has it also fills what this one lacks."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM market.stream_status
            WHERE stream = %s AND journal <> %s AND state NOT IN ('stopped', 'failed')
                  AND lease_until >= clock_timestamp()
        )
        """,
        (stream, journal),
    ).fetchone()
    return row is not None and bool(row[0])


def stream_row(connection: Transaction, stream: str) -> StreamRow | None:
    with connection.cursor(row_factory=class_row(StreamRow)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM market.stream_status WHERE stream = %s",  # noqa: S608 (constant columns)
            (stream,),
        ).fetchone()


def stream_rows(connection: Transaction, *, market: str | None = None) -> list[StreamRow]:
    """Every stream that ever ran, or those of one market, by name."""
    with connection.cursor(row_factory=class_row(StreamRow)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM market.stream_status
            WHERE %(market)s::text IS NULL OR market = %(market)s
            ORDER BY stream
            """,  # noqa: S608 (constant columns)
            {"market": market},
        ).fetchall()


def _values(report: Report) -> dict[str, object]:
    return {
        "state": report.state.value,
        "detail": report.detail,
        "symbols": report.symbols,
        "channels": list(report.channels),
        "connections": Jsonb([dict(one) for one in report.connections]),
        "sinks": Jsonb([dict(one) for one in report.sinks]),
        "counters": Jsonb(dict(report.counters)),
    }
