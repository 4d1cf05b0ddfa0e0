"""What is wrong, and who has to be told: incidents and the outbox of their notifications.

Everything here works in the caller's transaction, so an incident and its notifications are there together or not
at all. When something is an incident, and how a message reads, is decided by the use case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import class_row

from market_pipelines.redaction import redact
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction

LONGEST_DETAIL = 2000


class IncidentSeverity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


class NoticeKind(StrEnum):
    OPENED = "opened"
    RECOVERED = "recovered"


class UnknownIncident(Exception):
    """No open incident has that number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    incident_id: int
    key: str
    title: str
    detail: str
    severity: IncidentSeverity
    source: str
    url: str | None
    through: date | None
    opened_at: datetime
    last_seen: datetime
    times_seen: int
    closed_at: datetime | None
    closing_detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "severity", IncidentSeverity(self.severity))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Something is wrong."""

    key: str
    title: str
    detail: str
    severity: IncidentSeverity = IncidentSeverity.ERROR
    source: str
    url: str | None = None
    through: date | None = None
    """The newest session that it is about."""
    batch: str | None = None
    """What is told in the same message: all that one run found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A row of the outbox that is due, with its incident."""

    notification_id: int
    kind: NoticeKind
    target: str
    batch: str | None
    queued_at: datetime
    attempts: int
    incident: Incident


@dataclass(frozen=True, slots=True)
class Outbox:
    waiting: int
    failing: int
    """Of those that wait, how many were tried in vain."""
    given_up: int
    last_error: str


_COLUMNS: LiteralString = (
    "incident_id, key, title, detail, severity, source, url, through, opened_at, last_seen, times_seen, closed_at, "
    "closing_detail"
)
_LOCKS = 0x494E4349
"""The class of the advisory locks of keys and targets."""


def lock_keys(connection: Transaction, keys: Iterable[str]) -> None:
    """Whoever changes a key's incidents goes alone until the transaction ends; in order, so that nobody deadlocks."""
    for number in sorted({_lock_number(key) for key in keys}):
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCKS, number))


def saw(connection: Transaction, sighting: Sighting, at: datetime, settle: timedelta, targets: Sequence[str]) -> bool:
    """True where a new incident begins with this. Otherwise it is counted up; one that was closed for less than
    `settle` goes on, and its recovery is told nobody. The key has to be locked."""
    checked_instant(at, "at")
    known = connection.execute(
        """
        SELECT incident_id FROM market.incidents AS i
        WHERE key = %(key)s
              AND (closed_at IS NULL OR closed_at > %(at)s::timestamptz - %(settle)s::interval AND NOT EXISTS (
                  SELECT FROM market.notifications AS n
                  WHERE n.incident_id = i.incident_id AND n.kind = 'recovered' AND n.sent_at IS NOT NULL
              ))
        ORDER BY closed_at DESC NULLS FIRST
        LIMIT 1
        """,
        {"key": sighting.key, "at": at, "settle": settle},
    ).fetchone()
    values = {
        "key": sighting.key,
        "title": _clean(sighting.title),
        "detail": _clean(sighting.detail),
        "severity": sighting.severity.value,
        "source": sighting.source,
        "url": sighting.url,
        "through": sighting.through,
        "at": at,
    }
    if known is None:
        row = connection.execute(
            """
            INSERT INTO market.incidents (key, title, detail, severity, source, url, through, opened_at, last_seen)
            VALUES (
                %(key)s, %(title)s, %(detail)s, %(severity)s, %(source)s, %(url)s, %(through)s, %(at)s, %(at)s
            )
            RETURNING incident_id
            """,
            values,
        ).fetchone()
    else:
        row = connection.execute(
            """
            UPDATE market.incidents
            SET title = %(title)s, detail = %(detail)s, url = coalesce(%(url)s, url),
                severity = CASE WHEN 'error' IN (severity, %(severity)s) THEN 'error' ELSE 'warning' END,
                through = greatest(through, %(through)s), last_seen = greatest(last_seen, %(at)s),
                times_seen = times_seen + 1, closed_at = NULL, closing_detail = ''
            WHERE incident_id = %(id)s
            RETURNING incident_id
            """,
            values | {"id": known[0]},
        ).fetchone()
        connection.execute(
            "DELETE FROM market.notifications WHERE incident_id = %s AND kind = 'recovered' AND sent_at IS NULL",
            known,
        )
    assert row is not None  # noqa: S101 (the key is locked: the row was there, or was just made)
    for target in targets:
        connection.execute(
            """
            INSERT INTO market.notifications (incident_id, kind, target, batch, queued_at, next_try)
            VALUES (%(id)s, 'opened', %(target)s, %(batch)s, %(at)s, %(at)s)
            ON CONFLICT ON CONSTRAINT notifications_once DO NOTHING
            """,
            {"id": row[0], "target": target, "batch": sighting.batch, "at": at},
        )
    return known is None


def close(
    connection: Transaction, incident_id: int, detail: str, at: datetime, settle: timedelta, batch: str | None = None
) -> bool:
    """True where it was open. Who was to be told of it is told of its end, once `settle` has passed."""
    checked_instant(at, "at")
    done = connection.execute(
        "UPDATE market.incidents SET closed_at = %s, closing_detail = %s WHERE incident_id = %s AND closed_at IS NULL",
        (at, _clean(detail), incident_id),
    )
    if not done.rowcount:
        return False
    connection.execute(
        """
        INSERT INTO market.notifications (incident_id, kind, target, batch, queued_at, next_try)
        SELECT incident_id, 'recovered', target, %(batch)s, %(at)s, %(at)s::timestamptz + %(settle)s::interval
        FROM market.notifications
        WHERE incident_id = %(id)s AND kind = 'opened' AND given_up_at IS NULL
        ON CONFLICT ON CONSTRAINT notifications_once DO NOTHING
        """,
        {"id": incident_id, "batch": batch, "at": at, "settle": settle},
    )
    return True


def open_incident_of(connection: Transaction, key: str) -> Incident | None:
    found = _incidents(connection, "WHERE key = %(key)s AND closed_at IS NULL", {"key": key})
    return found[0] if found else None


def incident(connection: Transaction, incident_id: int) -> Incident:
    found = _incidents(connection, "WHERE incident_id = %(id)s", {"id": incident_id})
    if not found:
        raise UnknownIncident(
            f"there is no incident {incident_id}; market-pipelines incidents list --all shows those that there are"
        )
    return found[0]


def read_incidents(connection: Transaction, *, open_only: bool = True, limit: int = 1000) -> list[Incident]:
    """The open ones first, then the newest."""
    return _incidents(
        connection,
        """
        WHERE closed_at IS NULL OR NOT %(open_only)s
        ORDER BY closed_at DESC NULLS FIRST, opened_at DESC, incident_id DESC
        LIMIT %(limit)s
        """,
        {"open_only": open_only, "limit": limit},
    )


def _incidents(connection: Transaction, rest: LiteralString, parameters: dict[str, Any]) -> list[Incident]:
    with connection.cursor(row_factory=class_row(Incident)) as cursor:
        return cursor.execute(
            sql.SQL("SELECT {columns} FROM market.incidents {rest}").format(
                columns=sql.SQL(_COLUMNS), rest=sql.SQL(rest)
            ),
            parameters,
        ).fetchall()


# --- the outbox ----------------------------------------------------------------------------------------------


def lock_target(connection: Transaction, target: str) -> bool:
    """False where somebody else delivers to it right now."""
    row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", (_LOCKS, _lock_number(target))).fetchone()
    return row is not None and bool(row[0])


_DUE: LiteralString = """
    n.target = %(target)s AND n.sent_at IS NULL AND n.given_up_at IS NULL AND n.next_try <= %(at)s
    AND NOT (n.kind = 'recovered' AND EXISTS (
        SELECT FROM market.notifications AS first
        WHERE first.incident_id = n.incident_id AND first.target = n.target AND first.kind = 'opened'
              AND first.sent_at IS NULL AND first.given_up_at IS NULL
    ))
"""


def take_due(connection: Transaction, target: str, at: datetime, most: int = 500) -> list[Waiting]:
    """The notifications that make the next message to a target: one, or the due ones of its batch. The rows stay
    locked until the transaction ends. A recovery never goes before its opening."""
    checked_instant(at, "at")
    first = connection.execute(
        sql.SQL("""
            SELECT n.kind, n.batch, n.notification_id FROM market.notifications AS n
            WHERE {due}
            ORDER BY n.next_try, n.notification_id
            LIMIT 1
        """).format(due=sql.SQL(_DUE)),
        {"target": target, "at": at},
    ).fetchone()
    if first is None:
        return []
    kind, batch, number = first
    rows = connection.execute(
        sql.SQL("""
            SELECT n.notification_id, n.kind, n.target, n.batch, n.queued_at, n.attempts, n.incident_id
            FROM market.notifications AS n
            WHERE {due} AND n.kind = %(kind)s
                  AND CASE WHEN %(batch)s::text IS NULL THEN n.notification_id = %(number)s ELSE n.batch = %(batch)s END
            ORDER BY n.notification_id
            LIMIT %(most)s
            FOR UPDATE OF n SKIP LOCKED
        """).format(due=sql.SQL(_DUE)),
        {"target": target, "at": at, "kind": kind, "batch": batch, "number": number, "most": most},
    ).fetchall()
    about = {
        one.incident_id: one
        for one in _incidents(connection, "WHERE incident_id = ANY(%(ids)s)", {"ids": [row[6] for row in rows]})
    }
    return [
        Waiting(
            notification_id=row[0],
            kind=NoticeKind(row[1]),
            target=row[2],
            batch=row[3],
            queued_at=row[4],
            attempts=row[5],
            incident=about[row[6]],
        )
        for row in rows
    ]


def mark_sent(connection: Transaction, numbers: Sequence[int], at: datetime) -> None:
    connection.execute(
        """
        UPDATE market.notifications SET sent_at = %s, attempts = attempts + 1, error = ''
        WHERE notification_id = ANY(%s)
        """,
        (checked_instant(at, "at"), list(numbers)),
    )


def mark_failed(connection: Transaction, numbers: Sequence[int], error: str, next_try: datetime) -> None:
    connection.execute(
        """
        UPDATE market.notifications SET attempts = attempts + 1, error = %s, next_try = %s
        WHERE notification_id = ANY(%s)
        """,
        (_clean(error), checked_instant(next_try, "next_try"), list(numbers)),
    )


def give_up(connection: Transaction, at: datetime, queued_before: datetime, targets: Sequence[str]) -> int:
    """Writes off what waits for longer than is worth it, and what goes to targets that are no longer set."""
    done = connection.execute(
        """
        UPDATE market.notifications
        SET given_up_at = %(at)s,
            error = CASE WHEN target = ANY(%(targets)s) THEN error ELSE 'NOTIFY_URLS no longer names this target' END
        WHERE sent_at IS NULL AND given_up_at IS NULL
              AND (queued_at < %(before)s OR NOT target = ANY(%(targets)s))
        """,
        {
            "at": checked_instant(at, "at"),
            "before": checked_instant(queued_before, "queued_before"),
            "targets": list(targets),
        },
    )
    return done.rowcount


def outbox(connection: Transaction) -> Outbox:
    row = connection.execute(
        """
        SELECT count(*) FILTER (WHERE given_up_at IS NULL),
               count(*) FILTER (WHERE given_up_at IS NULL AND attempts > 0),
               count(*) FILTER (WHERE given_up_at IS NOT NULL),
               coalesce((
                   SELECT target || ': ' || error FROM market.notifications
                   WHERE sent_at IS NULL AND error <> '' ORDER BY next_try DESC LIMIT 1
               ), '')
        FROM market.notifications
        WHERE sent_at IS NULL
        """
    ).fetchone()
    assert row is not None  # noqa: S101 (an aggregate without groups is one row)
    return Outbox(*row)


# --- how far events were read ----------------------------------------------------------------------------------


def position(connection: Transaction, source: str) -> str | None:
    """How far the source was read; whoever asks holds it until the transaction ends."""
    lock_keys(connection, [f"position:{source}"])
    row = connection.execute("SELECT position FROM market.incident_positions WHERE source = %s", (source,)).fetchone()
    return None if row is None else str(row[0])


def keep_position(connection: Transaction, source: str, position: str, at: datetime) -> None:
    connection.execute(
        """
        INSERT INTO market.incident_positions (source, position, updated_at) VALUES (%s, %s, %s)
        ON CONFLICT (source) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
        """,
        (source, position, checked_instant(at, "at")),
    )


def _lock_number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True)


def _clean(text: str) -> str:
    return redact(text).replace("\x00", "")[:LONGEST_DETAIL]
