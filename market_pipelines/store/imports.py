"""How far each imported file has been read and committed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg.rows import class_row

from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction

_SAMPLE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImport:
    fingerprint: str
    kind: str
    market: str
    name: str
    bytes: int
    position: str
    """Up to where everything is stored."""
    rows: int
    stored: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


def fingerprint(path: Path, scope: str) -> str:
    """The same file asked for in the same way. Its middle is not read: the file may be larger than memory."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}:{scope}:".encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE))
        file.seek(max(0, size - _SAMPLE))
        digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def begin(connection: Transaction, path: Path, kind: str, market: str, scope: str, at: datetime) -> FileImport:
    """The import's line, as an earlier run left it or new."""
    with connection.cursor(row_factory=class_row(FileImport)) as cursor:
        found = cursor.execute(
            """
            INSERT INTO market.file_imports AS f (fingerprint, kind, market, name, bytes, started_at, updated_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (fingerprint) DO UPDATE SET updated_at = greatest(f.updated_at, excluded.updated_at)
            RETURNING *
            """,
            (
                fingerprint(path, f"{kind}:{market}:{scope}"),
                kind,
                market,
                path.name,
                path.stat().st_size,
                checked_instant(at, "at"),
                at,
            ),
        ).fetchone()
    if found is None:
        raise LookupError("an import was not written down")
    return found


def advance(connection: Transaction, fingerprint: str, position: str, rows: int, stored: int, at: datetime) -> None:
    """In the transaction that stores what was read up to `position`."""
    connection.execute(
        """
        UPDATE market.file_imports
        SET position = %s, rows = rows + %s, stored = stored + %s, updated_at = %s
        WHERE fingerprint = %s
        """,
        (position, rows, stored, checked_instant(at, "at"), fingerprint),
    )


def finish(connection: Transaction, fingerprint: str, at: datetime) -> None:
    connection.execute(
        "UPDATE market.file_imports SET finished_at = %(at)s, updated_at = %(at)s WHERE fingerprint = %(fingerprint)s",
        {"at": checked_instant(at, "at"), "fingerprint": fingerprint},
    )


def start_over(connection: Transaction, fingerprint: str, at: datetime) -> None:
    connection.execute(
        """
        UPDATE market.file_imports
        SET position = '', rows = 0, stored = 0, started_at = %(at)s, updated_at = %(at)s, finished_at = NULL
        WHERE fingerprint = %(fingerprint)s
        """,
        {"at": checked_instant(at, "at"), "fingerprint": fingerprint},
    )
