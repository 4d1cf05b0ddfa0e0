"""What people decided, and who it was: one row a decision, in the transaction that carries it out."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from market_pipelines.redaction import redact
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    entry_id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def system_user() -> str:
    """Who this process belongs to; in a container that may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def record_decision(
    connection: Transaction,
    *,
    at: datetime,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, object] | None = None,
) -> int:
    """The number of the new entry. `detail` is kept as JSON: texts, numbers, lists and maps of them."""
    row = connection.execute(
        """
        INSERT INTO market.audit_log (at, actor, action, subject, detail)
        VALUES (%s, %s, %s, %s, %s)
        RETURNING entry_id
        """,
        (checked_instant(at, "at"), _clean(actor), action, subject, Jsonb(_plain(detail or {}))),
    ).fetchone()
    if row is None:
        raise LookupError("the statement gave no row")
    return int(row[0])


def audit_entries(
    connection: Transaction,
    *,
    subject: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """Newest first. `action`: it, or everything before a dot in it (`quarantine`)."""
    with connection.cursor(row_factory=class_row(AuditEntry)) as cursor:
        return cursor.execute(
            """
            SELECT entry_id, at, actor, action, subject, detail
            FROM market.audit_log
            WHERE (%(subject)s::text IS NULL OR subject = %(subject)s)
                  AND (%(action)s::text IS NULL OR action = %(action)s OR starts_with(action, %(action)s || '.'))
                  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
            ORDER BY at DESC, entry_id DESC
            LIMIT %(limit)s
            """,
            {"subject": subject, "action": action, "since": since, "limit": limit},
        ).fetchall()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        # What is no number has no form in JSON.
        return value if value - value == 0 else None
    return value if isinstance(value, int) or value is None else _clean(str(value))


def _clean(text: str) -> str:
    return redact(text).replace("\x00", "")
