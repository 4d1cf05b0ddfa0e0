"""What the manifest of the tick lake says, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from psycopg.rows import class_row

from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Transaction
from market_pipelines.store.lake_compaction import SMALL_ROWS


@dataclass(frozen=True, slots=True)
class Shelf:
    """The segments of one kind, feed and session."""

    market: str
    kind: str
    feed: str
    session: date
    segments: int
    small: int
    """Of them, those that would be merged."""
    rows: int
    bytes: int
    first_ts: datetime
    last_ts: datetime
    written_at: datetime


def overview(connection: Transaction, *, market: str | None = None, sessions: int = 5) -> list[Shelf]:
    """Of each market, kind and feed the newest sessions, newest first."""
    with connection.cursor(row_factory=class_row(Shelf)) as cursor:
        return cursor.execute(
            """
            SELECT market, kind, feed, session, segments, small, rows, bytes, first_ts, last_ts, written_at
            FROM (
                SELECT market, kind, feed, session, count(*) AS segments,
                       count(*) FILTER (WHERE stream IS NOT NULL AND rows < %(small)s) AS small,
                       sum(rows)::bigint AS rows, sum(bytes)::bigint AS bytes, min(first_ts) AS first_ts,
                       max(last_ts) AS last_ts, max(written_at) AS written_at,
                       row_number() OVER (PARTITION BY market, kind, feed ORDER BY session DESC) AS place
                FROM market.tick_segments
                WHERE %(market)s::text IS NULL OR market = %(market)s
                GROUP BY market, kind, feed, session
            ) AS counted
            WHERE place <= %(sessions)s
            ORDER BY market, kind, feed, session DESC
            """,
            {"small": SMALL_ROWS, "market": market, "sessions": sessions},
        ).fetchall()


def streamed_days(
    connection: Transaction, market: str, kinds: Sequence[TickKind], start: date, end: date
) -> dict[date, list[TickKind]]:
    """The days of which streams brought something, the oldest first."""
    rows = connection.execute(
        """
        SELECT session, array_agg(DISTINCT kind ORDER BY kind) FROM market.tick_segments
        WHERE market = %(market)s AND kind = ANY(%(kinds)s) AND stream IS NOT NULL
              AND session BETWEEN %(start)s AND %(end)s
        GROUP BY session
        ORDER BY session
        """,
        {"market": market, "kinds": [kind.value for kind in kinds], "start": start, "end": end},
    ).fetchall()
    return {session: [TickKind(kind) for kind in found] for session, found in rows}
