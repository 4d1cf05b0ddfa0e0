"""How far the sinks that store into this database are, written in the transaction that stored the data."""

from __future__ import annotations

from datetime import datetime

from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


def read_cursor(connection: Transaction, stream: str, sink: str) -> tuple[str, int] | None:
    """The journal and the position in it up to which the sink has everything; None where it has nothing yet."""
    row = connection.execute(
        "SELECT journal, position FROM market.stream_cursors WHERE stream = %s AND sink = %s", (stream, sink)
    ).fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


def write_cursor(connection: Transaction, stream: str, sink: str, *, journal: str, position: int, at: datetime) -> None:
    """Within one journal a cursor only moves forward."""
    connection.execute(
        """
        INSERT INTO market.stream_cursors AS c (stream, sink, journal, position, updated_at)
        VALUES (%(stream)s, %(sink)s, %(journal)s, %(position)s, %(at)s)
        ON CONFLICT (stream, sink) DO UPDATE
        SET journal = excluded.journal, position = excluded.position, updated_at = excluded.updated_at
        WHERE c.journal <> excluded.journal OR c.position < excluded.position
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
    if expected is None:
        statement = """
            INSERT INTO market.stream_cursors (stream, sink, journal, position, updated_at)
            VALUES (%(stream)s, %(sink)s, %(journal)s, %(position)s, %(at)s)
            ON CONFLICT DO NOTHING
        """
    else:
        statement = """
            UPDATE market.stream_cursors SET journal = %(journal)s, position = %(position)s, updated_at = %(at)s
            WHERE (stream, sink, journal, position)
                  = (%(stream)s, %(sink)s, %(expected_journal)s, %(expected_position)s::bigint)
        """
    values = {
        "stream": stream,
        "sink": sink,
        "journal": journal,
        "position": position,
        "at": checked_instant(at, "at"),
        "expected_journal": None if expected is None else expected[0],
        "expected_position": None if expected is None else expected[1],
    }
    return connection.execute(statement, values).rowcount == 1


def cursors(connection: Transaction, stream: str) -> dict[str, tuple[str, int]]:
    """Of all sinks of the stream that store here: journal and position."""
    rows = connection.execute(
        "SELECT sink, journal, position FROM market.stream_cursors WHERE stream = %s ORDER BY sink", (stream,)
    ).fetchall()
    return {str(sink): (str(journal), int(position)) for sink, journal, position in rows}
