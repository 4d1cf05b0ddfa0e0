"""What providers say of their venues: open or closed now, and the holidays that they expect."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from market_pipelines.market.records import VenueStatus
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction

_STATUS = """
INSERT INTO market.venue_status (market, provider, venue, status, opens, closes, note, checked_at)
VALUES (%(market)s, %(provider)s, %(venue)s, %(status)s, %(opens)s, %(closes)s, %(note)s, %(at)s)
ON CONFLICT (market, provider, venue) DO UPDATE
SET status = excluded.status, opens = excluded.opens, closes = excluded.closes, note = excluded.note,
    checked_at = excluded.checked_at
WHERE market.venue_status.checked_at <= excluded.checked_at
"""

_HOLIDAY = """
INSERT INTO market.venue_holidays (market, provider, venue, day, status, opens, closes, note, checked_at)
VALUES (%(market)s, %(provider)s, %(venue)s, %(day)s, %(status)s, %(opens)s, %(closes)s, %(note)s, %(at)s)
ON CONFLICT (market, provider, venue, day) DO UPDATE
SET status = excluded.status, opens = excluded.opens, closes = excluded.closes, note = excluded.note,
    checked_at = excluded.checked_at
WHERE market.venue_holidays.checked_at <= excluded.checked_at
"""

_TAKEN_BACK = """
DELETE FROM market.venue_holidays
WHERE market = %(market)s AND provider = %(provider)s AND day >= %(from)s AND checked_at < %(at)s
"""


def write_venues(
    connection: Transaction, market: str, venues: Sequence[VenueStatus], provider: str, at: datetime
) -> None:
    """Those about a day are holidays, the others the state of now."""
    checked_instant(at, "at")
    for one in sorted(venues, key=lambda venue: (venue.venue, venue.on or date.min)):
        connection.execute(
            _STATUS if one.on is None else _HOLIDAY,
            {
                "market": market,
                "provider": provider,
                "venue": one.venue,
                "day": one.on,
                "status": one.status,
                "opens": one.opens,
                "closes": one.closes,
                "note": one.note,
                "at": at,
            },
        )


def forget_older_holidays(connection: Transaction, market: str, provider: str, start: date, at: datetime) -> int:
    """Days from `start` on that the provider named before `at` and does not name any more."""
    return connection.execute(
        _TAKEN_BACK, {"market": market, "provider": provider, "from": start, "at": checked_instant(at, "at")}
    ).rowcount


def read_holidays(connection: Transaction, market: str, start: date) -> list[tuple[str, VenueStatus]]:
    """(provider, day) from `start` on, by day and venue."""
    rows = connection.execute(
        """
        SELECT provider, venue, status, day, opens, closes, note
        FROM market.venue_holidays
        WHERE market = %s AND day >= %s
        ORDER BY day, provider, venue
        """,
        (market, start),
    ).fetchall()
    return [(provider, VenueStatus(*rest)) for provider, *rest in rows]
