"""The ledger of what live streams may have missed: one row a gap, from its noticing to its settlement.

A gap is known by its key, so that telling of it again changes nothing. Which part of a span counts (trading hours)
and whether history can fill it is decided by the streams; here are only rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from psycopg.rows import class_row

from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


class GapStatus(StrEnum):
    OPEN = "open"
    FILLED = "filled"
    PARTIAL = "partial"
    UNFILLABLE = "unfillable"


@dataclass(frozen=True, slots=True)
class NoticedGap:
    """What is known of a gap when it is noticed, or at the latest when it ends."""

    gap_key: str
    stream: str
    market: str
    feed: str
    cause: str
    begins_at: datetime
    channels: tuple[str, ...]
    symbols: tuple[str, ...] | None = None
    """None: everything that the stream was subscribed to."""
    origin: str = ""
    sink: str | None = None
    """Only this sink missed something; None: nobody has it."""


@dataclass(frozen=True, slots=True)
class GapRow:
    gap_id: int
    gap_key: str
    stream: str
    market: str
    feed: str
    origin: str
    cause: str
    sink: str | None
    channels: list[str]
    symbols: list[str] | None
    begins_at: datetime
    ends_at: datetime | None
    """None while it goes on."""
    recorded_at: datetime
    status: GapStatus
    reason: str
    attempts: int
    retry_at: datetime | None
    rows_filled: int
    settled_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", GapStatus(self.status))


_INSERT = """
INSERT INTO market.stream_gaps AS g (
    gap_key, stream, market, feed, origin, cause, sink, channels, symbols, begins_at, ends_at, recorded_at
)
VALUES (
    %(gap_key)s, %(stream)s, %(market)s, %(feed)s, %(origin)s, %(cause)s, %(sink)s, %(channels)s, %(symbols)s,
    %(begins_at)s, %(ends_at)s, %(at)s
)
"""
_ENDED = """
ON CONFLICT (gap_key) DO UPDATE
SET ends_at = excluded.ends_at, status = 'open', reason = '', retry_at = NULL, settled_at = NULL
WHERE g.ends_at IS NULL OR g.ends_at < excluded.ends_at
"""
_ABANDON = """
UPDATE market.stream_gaps AS g
SET status = 'unfillable', settled_at = %(at)s, retry_at = CASE WHEN g.ends_at IS NULL THEN NULL ELSE %(at)s END,
    ends_at = coalesce(g.ends_at, greatest(g.begins_at, heard.at)),
    reason = g.stream || ' has not run since ' || to_char(heard.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
             || ' UTC: nobody asks history for it before it runs again'
FROM (
    SELECT o.gap_id, coalesce(s.heartbeat_at, o.recorded_at) AS at
    FROM market.stream_gaps AS o LEFT JOIN market.stream_status AS s USING (stream)
    WHERE o.status = 'open'
) AS heard
WHERE g.gap_id = heard.gap_id AND heard.at < %(since)s AND coalesce(g.ends_at, g.recorded_at) < %(since)s
"""
_COLUMNS = """
gap_id, gap_key, stream, market, feed, origin, cause, sink, channels, symbols, begins_at, ends_at, recorded_at, status,
reason, attempts, retry_at, rows_filled, settled_at
"""


def record_opened(connection: Transaction, gap: NoticedGap, at: datetime) -> bool:
    """Whether the gap was new. It goes on until `record_closed`."""
    return connection.execute(_INSERT + "ON CONFLICT (gap_key) DO NOTHING", _values(gap, None, at)).rowcount == 1


def record_closed(connection: Transaction, gap: NoticedGap, ends_at: datetime, at: datetime) -> bool:
    """Whether anything changed: a gap that was noticed before gets its end (and keeps its beginning), one that was
    not is written whole. One that lasted longer than was thought (`abandon`) is open again: its stream is back."""
    return connection.execute(_INSERT + _ENDED, _values(gap, ends_at, at)).rowcount == 1


def abandon(connection: Transaction, unheard_since: datetime, at: datetime) -> int:
    """Settles what is open of streams that nobody has run since then: nobody will ask history for it. It ends, where
    it went on, when the stream was last heard of. When the stream runs again, what had ended is due at once, and what
    went on gets its true end. How many gaps."""
    return connection.execute(
        _ABANDON, {"since": checked_instant(unheard_since, "unheard_since"), "at": checked_instant(at, "at")}
    ).rowcount


def forget(connection: Transaction, gap_key: str) -> bool:
    """A gap that went on and turns out to lie outside what counts."""
    return (
        connection.execute(
            "DELETE FROM market.stream_gaps WHERE gap_key = %s AND ends_at IS NULL AND status = 'open'", (gap_key,)
        ).rowcount
        == 1
    )


def gap_of(connection: Transaction, gap_key: str) -> GapRow | None:
    with connection.cursor(row_factory=class_row(GapRow)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM market.stream_gaps WHERE gap_key = %s",  # noqa: S608 (constant columns)
            (gap_key,),
        ).fetchone()


def open_gaps(connection: Transaction, stream: str) -> list[GapRow]:
    """The stream's gaps that nothing has settled, oldest first: those that go on (`ends_at` None) as well. One that
    was noticed at night and would begin with the next trading is none yet."""
    with connection.cursor(row_factory=class_row(GapRow)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM market.stream_gaps
            WHERE stream = %s AND status = 'open' AND (ends_at IS NOT NULL OR begins_at <= now())
            ORDER BY begins_at, gap_id
            """,  # noqa: S608 (constant columns)
            (stream,),
        ).fetchall()


def gaps_due(connection: Transaction, stream: str, ended_before: datetime, now: datetime) -> list[GapRow]:
    """Gaps that have ended and that history is to be asked for now, the oldest first: those that nothing has settled
    yet, and declared ones that may still be filled."""
    with connection.cursor(row_factory=class_row(GapRow)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM market.stream_gaps
            WHERE stream = %(stream)s AND ends_at <= %(ended)s
                  AND (status = 'open' AND (retry_at IS NULL OR retry_at <= %(now)s)
                       OR status IN ('partial', 'unfillable') AND retry_at <= %(now)s)
            ORDER BY begins_at, gap_id
            """,  # noqa: S608 (constant columns)
            {
                "stream": stream,
                "ended": checked_instant(ended_before, "ended_before"),
                "now": checked_instant(now, "now"),
            },
        ).fetchall()


def newest_gaps(connection: Transaction, stream: str | None, limit: int, *, open_only: bool = False) -> list[GapRow]:
    """Of one stream or of all, the newest first."""
    with connection.cursor(row_factory=class_row(GapRow)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM market.stream_gaps
            WHERE (%(stream)s::text IS NULL OR stream = %(stream)s) AND (ends_at IS NOT NULL OR begins_at <= now())
                  AND (NOT %(open_only)s OR status = 'open')
            ORDER BY begins_at DESC, gap_id DESC
            LIMIT %(limit)s
            """,  # noqa: S608 (constant columns)
            {"stream": stream, "open_only": open_only, "limit": limit},
        ).fetchall()


def ask_again(connection: Transaction, streams: Sequence[str], at: datetime) -> int:
    """Has history asked again for what is not filled; how many gaps that is."""
    return connection.execute(
        """
        UPDATE market.stream_gaps SET retry_at = %(at)s
        WHERE stream = ANY(%(streams)s) AND ends_at IS NOT NULL AND status <> 'filled'
        """,
        {"streams": list(streams), "at": checked_instant(at, "at")},
    ).rowcount


def gaps_between(
    connection: Transaction, market: str, start: datetime, end: datetime, *, statuses: Sequence[GapStatus] = ()
) -> list[GapRow]:
    """Every gap of a market that touches `start` <= t < `end`, by its beginning. No statuses: all of them."""
    with connection.cursor(row_factory=class_row(GapRow)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM market.stream_gaps
            WHERE market = %(market)s AND begins_at < %(end)s AND coalesce(ends_at, 'infinity') >= %(start)s
                  AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s))
            ORDER BY begins_at, gap_id
            """,  # noqa: S608 (constant columns)
            {
                "market": market,
                "start": checked_instant(start, "start"),
                "end": checked_instant(end, "end"),
                "statuses": [status.value for status in statuses] or None,
            },
        ).fetchall()


def settle(
    connection: Transaction,
    gap_id: int,
    status: GapStatus,
    reason: str,
    rows: int,
    retry_at: datetime | None,
    at: datetime,
) -> bool:
    """What came of an attempt to fill a gap that has ended; `OPEN` with `retry_at` where it is tried again. False:
    there is no such gap, or it still goes on."""
    return (
        connection.execute(
            """
            UPDATE market.stream_gaps
            SET status = %(status)s, reason = %(reason)s, rows_filled = %(rows)s, retry_at = %(retry_at)s,
                attempts = attempts + 1, settled_at = CASE WHEN %(status)s = 'open' THEN NULL ELSE %(at)s END
            WHERE gap_id = %(gap_id)s AND ends_at IS NOT NULL
            """,
            {
                "gap_id": gap_id,
                "status": status.value,
                "reason": reason,
                "rows": rows,
                "retry_at": retry_at,
                "at": checked_instant(at, "at"),
            },
        ).rowcount
        == 1
    )


def gap_counts(connection: Transaction, stream: str | None = None) -> dict[str, int]:
    """By status, each status named; of one stream or of all."""
    rows = connection.execute(
        """
        SELECT status, count(*) FROM market.stream_gaps
        WHERE (%(stream)s::text IS NULL OR stream = %(stream)s) AND (ends_at IS NOT NULL OR begins_at <= now())
        GROUP BY status
        """,
        {"stream": stream},
    ).fetchall()
    return {status.value: 0 for status in GapStatus} | {str(status): int(count) for status, count in rows}


def _values(gap: NoticedGap, ends_at: datetime | None, at: datetime) -> dict[str, object]:
    return {
        "gap_key": gap.gap_key,
        "stream": gap.stream,
        "market": gap.market,
        "feed": gap.feed,
        "origin": gap.origin,
        "cause": gap.cause,
        "sink": gap.sink,
        "channels": list(gap.channels),
        "symbols": None if gap.symbols is None else list(gap.symbols),
        "begins_at": checked_instant(gap.begins_at, "begins_at"),
        "ends_at": None if ends_at is None else checked_instant(ends_at, "ends_at"),
        "at": checked_instant(at, "at"),
    }
