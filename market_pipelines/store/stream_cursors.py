"""How far the sinks that store into this database are, written in the transaction that stored the data."""

from __future__ import annotations

from datetime import datetime

from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


def read_cursor(connection: Transaction, stream: str, sink: str, journal: str = "") -> tuple[str, int] | None:
    """The journal and the position in it up to which the sink has everything; None where it has nothing yet. Without
    a name: the journal that it took something from last."""
    row = connection.execute(
        """
        SELECT journal, position FROM market.stream_cursors
        WHERE stream = %(stream)s AND sink = %(sink)s AND (%(journal)s = '' OR journal = %(journal)s)
        ORDER BY updated_at DESC
        LIMIT 1
        """,
        {"stream": stream, "sink": sink, "journal": journal},
    ).fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


def write_cursor(connection: Transaction, stream: str, sink: str, *, journal: str, position: int, at: datetime) -> None:
    """Within one journal a cursor only moves forward."""
    connection.execute(
        """
        INSERT INTO market.stream_cursors AS c (stream, sink, journal, position, updated_at)
        VALUES (%(stream)s, %(sink)s, %(journal)s, %(position)s, %(at)s)
        ON CONFLICT (stream, sink, journal) DO UPDATE
        SET position = excluded.position, updated_at = excluded.updated_at
        WHERE c.position < excluded.position
        """,
        {
            "stream": stream,
            "sink": sink,
            "journal": journal,
            "position": position,
            "at": checked_instant(at, "at"),
        },
    )


def move_cursor(
    connection: Transaction,
    stream: str,
    sink: str,
    *,
    expected: tuple[str, int] | None,
    journal: str,
    position: int,
    at: datetime,
) -> bool:
    """From where the sink knows it to be; False where it is elsewhere by now: then somebody else has stored something
    (a process that was killed may have left a commit on its way), and the caller's transaction has to be undone."""
    if expected is None or expected[0] != journal:
        statement = """
            INSERT INTO market.stream_cursors (stream, sink, journal, position, updated_at)
            VALUES (%(stream)s, %(sink)s, %(journal)s, %(position)s, %(at)s)
            ON CONFLICT DO NOTHING
        """
    else:
        statement = """
            UPDATE market.stream_cursors SET position = %(position)s, updated_at = %(at)s
            WHERE (stream, sink, journal, position) = (%(stream)s, %(sink)s, %(journal)s, %(expected)s::bigint)
        """
    values = {
        "stream": stream,
        "sink": sink,
        "journal": journal,
        "position": position,
        "at": checked_instant(at, "at"),
        "expected": None if expected is None else expected[1],
    }
    return connection.execute(statement, values).rowcount == 1


def stored_until(connection: Transaction, stream: str) -> datetime | None:
    """When the sink that is furthest behind last stored something, out of whatever journal; None where none has."""
    row = connection.execute(
        """
        SELECT min(newest) FROM (
            SELECT max(updated_at) AS newest FROM market.stream_cursors
            WHERE stream = %s
            GROUP BY sink
        ) AS by_sink
        """,
        (stream,),
    ).fetchone()
    return None if row is None else row[0]


def cursors(connection: Transaction, stream: str, journal: str) -> dict[str, int]:
    """How far each sink that stores here is in that journal."""
    rows = connection.execute(
        "SELECT sink, position FROM market.stream_cursors WHERE stream = %s AND journal = %s ORDER BY sink",
        (stream, journal),
    ).fetchall()
    return {str(sink): int(position) for sink, position in rows}
