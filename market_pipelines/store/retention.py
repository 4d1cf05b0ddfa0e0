"""Deleting what is old and covered: rows in bounded batches that prove themselves, files only after their rows.

A policy names a table, which of its rows are old, and what has to be there instead of a row before it may go.
After each batch the sets are compared, in the batch's own snapshot: what was there is what is left plus what was
deleted, and every deleted row's cover is still there; otherwise the batch never happened. How long things are kept
is decided by the use case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import psycopg
from psycopg import sql

from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.ledger import StoredFetch, fetches_by_id
from market_pipelines.store.retention_policies import TablePolicy

ROWS_A_BATCH = 20_000
GROUPS_A_BATCH = 500
_TRIES = 3
_BATCH_SECONDS = 600
_LOCK = 0x52455445


class RetentionRefused(Exception):
    """A batch did not add up and was rolled back: nothing more is deleted until a person has looked."""


class RetentionBusy(Exception):
    """Another process deletes already."""


@dataclass(frozen=True, slots=True)
class Survey:
    """How a table stands to a policy."""

    rows: int
    old: int
    deletable: int
    bytes: int
    """Of what is deletable, as stored."""


@contextmanager
def held_for_retention(database: Database) -> Iterator[None]:
    """One at a time over a database, for as long as the block lasts; `RetentionBusy` for the second."""
    with database.connection() as connection:
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, 0)", (_LOCK,)).fetchone()
        if row is None or not row[0]:
            raise RetentionBusy("another process is deleting old data already")
        yield


def survey(connection: Transaction, policy: TablePolicy, cutoff: datetime) -> Survey:
    connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{_BATCH_SECONDS}s",))
    row = connection.execute(
        sql.SQL("""
            SELECT count(*), count(*) FILTER (WHERE is_old), count(*) FILTER (WHERE is_old AND is_covered),
                   coalesce(sum(size) FILTER (WHERE is_old AND is_covered), 0)
            FROM (
                SELECT coalesce({old}, false) AS is_old,
                       CASE WHEN {old} THEN coalesce({covered}, false) ELSE false END AS is_covered,
                       pg_column_size(t.*) AS size
                FROM market.{table} AS t
            ) AS judged
        """).format(**_parts(policy)),
        {"cutoff": checked_instant(cutoff, "cutoff")},
    ).fetchone()
    assert row is not None  # noqa: S101 (an aggregate without groups is one row)
    return Survey(*(int(value) for value in row))


@dataclass(frozen=True, slots=True)
class Deleted:
    rows: int
    bytes: int


def delete_batch(database: Database, policy: TablePolicy, cutoff: datetime) -> Deleted:
    """One batch in a transaction of its own; nothing where there is nothing left. Raises `RetentionRefused`."""
    for _ in range(_TRIES - 1):
        try:
            return _delete_batch(database, policy, cutoff)
        except psycopg.errors.SerializationFailure:
            continue  # somebody changed one of the rows meanwhile: they are judged anew
    return _delete_batch(database, policy, cutoff)


def _delete_batch(database: Database, policy: TablePolicy, cutoff: datetime) -> Deleted:
    parts = _parts(policy)
    values = {
        "cutoff": checked_instant(cutoff, "cutoff"),
        "rows": ROWS_A_BATCH,
        "groups": GROUPS_A_BATCH,
    }
    with database.connection() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{_BATCH_SECONDS}s",))
        before = _count_old(connection, parts, values)
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE doomed ON COMMIT DROP AS SELECT * FROM market.{table} WITH NO DATA").format(
                **parts
            )
        )
        chosen = _WHOLE_GROUPS if policy.group else _SINGLE_ROWS
        deleted = connection.execute(sql.SQL(chosen).format(**parts), values).rowcount
        if not deleted:
            return Deleted(0, 0)
        after = _count_old(connection, parts, values)
        if before != after + deleted:
            raise RetentionRefused(
                f"{policy.table}: {before:,} old rows were there, {deleted:,} were deleted and {after:,} are left; "
                "the batch was taken back"
            )
        for cover in policy.covered_by:
            # Whoever takes a cover out from now on waits; one that was taken out meanwhile makes the batch start anew.
            connection.execute(sql.SQL(_HOLD_COVER).format(cover=sql.Identifier(cover)))
        row = connection.execute(sql.SQL(_UNCOVERED).format(**parts), values).fetchone()
        assert row is not None  # noqa: S101 (an aggregate without groups is one row)
        if row[0]:
            raise RetentionRefused(
                f"{policy.table}: of {deleted:,} deleted rows {row[0]:,} are covered by nothing; "
                "the batch was taken back"
            )
        return Deleted(deleted, int(row[1]))


_SINGLE_ROWS: LiteralString = """
    WITH gone AS (
        DELETE FROM market.{table} AS d
        WHERE d.ctid = ANY(ARRAY(
            SELECT t.ctid FROM market.{table} AS t WHERE ({old}) AND ({covered}) LIMIT %(rows)s
        ))
        RETURNING d.*
    )
    INSERT INTO doomed SELECT * FROM gone
"""
_WHOLE_GROUPS: LiteralString = """
    WITH gone AS (
        DELETE FROM market.{table} AS d
        USING (
            SELECT DISTINCT {group} FROM market.{table} AS t WHERE ({old}) AND ({covered}) LIMIT %(groups)s
        ) AS chosen
        WHERE {same_group}
        RETURNING d.*
    )
    INSERT INTO doomed SELECT * FROM gone
"""


_HOLD_COVER: LiteralString = """
    SELECT FROM market.{cover} AS c JOIN doomed AS t USING (market, symbol, session) FOR KEY SHARE OF c
"""
_UNCOVERED: LiteralString = """
    SELECT count(*) FILTER (WHERE NOT coalesce({covered}, false)), sum(pg_column_size(t.*)) FROM doomed AS t
"""


def _count_old(connection: Transaction, parts: dict[str, sql.Composable], values: dict[str, object]) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM market.{table} AS t WHERE {old}").format(**parts), values
    ).fetchone()
    return 0 if row is None else int(row[0])


def _parts(policy: TablePolicy) -> dict[str, sql.Composable]:
    return {
        "table": sql.Identifier(policy.table),
        "old": sql.SQL(policy.old),
        "covered": sql.SQL(policy.covered),
        "group": sql.SQL(", ").join(sql.Identifier("t", name) for name in policy.group),
        "same_group": sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("d", name), sql.Identifier("chosen", name))
            for name in policy.group
        ),
    }


# --- answers and segments, whose bytes are in files --------------------------------------------------------------


def final_sessions(connection: Transaction, market: str, symbols: Sequence[str]) -> set[tuple[str, str]]:
    """Symbol and session (ISO) of every final agreed daily bar."""
    rows = connection.execute(
        """
        SELECT symbol, session::text FROM market.stock_prices
        WHERE market = %(market)s AND symbol = ANY(%(symbols)s) AND condition IN ('available', 'degraded')
              AND NOT provisional
        UNION
        SELECT symbol, session::text FROM market.market_index_prices
        WHERE market = %(market)s AND symbol = ANY(%(symbols)s) AND condition IN ('available', 'degraded')
              AND NOT provisional
        """,
        {"market": market, "symbols": list(symbols)},
    ).fetchall()
    return {(symbol, session) for symbol, session in rows}


def forget_bodies(connection: Transaction, hashes: Sequence[str], at: datetime) -> int:
    """The ledger names these answers no longer; how many of its rows that were."""
    return connection.execute(
        """
        UPDATE market.fetches SET sha256 = NULL, archive_path = NULL, pruned_at = %s
        WHERE sha256 = ANY(%s)
        """,
        (checked_instant(at, "at"), list(hashes)),
    ).rowcount


def named_bodies(connection: Transaction, hashes: Sequence[str]) -> set[str]:
    rows = connection.execute(
        "SELECT DISTINCT sha256 FROM market.fetches WHERE sha256 = ANY(%s)", (list(hashes),)
    ).fetchall()
    return {row[0] for row in rows}


@dataclass(frozen=True, slots=True)
class OldBody:
    """An archived answer and the newest of the requests that got it."""

    sha256: str
    last_fetched: datetime
    bytes: int


def count_bodies(connection: Transaction) -> int:
    row = connection.execute("SELECT count(DISTINCT sha256) FROM market.fetches").fetchone()
    return 0 if row is None else int(row[0])


def old_bodies(connection: Transaction, cutoff: datetime, after: OldBody | None, limit: int) -> list[OldBody]:
    """Oldest first; `after` goes on where an earlier question ended."""
    rows = connection.execute(
        """
        SELECT sha256, max(fetched_at) AS last, max(bytes) FROM market.fetches
        WHERE sha256 IS NOT NULL
        GROUP BY sha256
        HAVING max(fetched_at) < %(cutoff)s
               AND (%(last)s::timestamptz IS NULL OR (max(fetched_at), sha256) > (%(last)s, %(sha256)s))
        ORDER BY last, sha256
        LIMIT %(limit)s
        """,
        {
            "cutoff": checked_instant(cutoff, "cutoff"),
            "last": None if after is None else after.last_fetched,
            "sha256": None if after is None else after.sha256,
            "limit": limit,
        },
    ).fetchall()
    return [OldBody(*row) for row in rows]


def requests_of_bodies(connection: Transaction, hashes: Sequence[str]) -> list[tuple[StoredFetch, bool]]:
    """Every request that got one of the bodies, and whether a newer archived answer to its kind of question, from
    the same provider about the same symbol, is there."""
    rows = connection.execute(
        """
        SELECT f.fetch_id, EXISTS (
            SELECT FROM market.fetches AS newer
            WHERE (newer.market, newer.symbol, newer.provider, newer.endpoint, newer.capability)
                  = (f.market, f.symbol, f.provider, f.endpoint, f.capability)
                  AND newer.fetched_at > f.fetched_at AND newer.outcome = 'ok' AND newer.sha256 IS NOT NULL
                  AND newer.sha256 <> f.sha256
        )
        FROM market.fetches AS f
        WHERE f.sha256 = ANY(%s)
        """,
        (list(hashes),),
    ).fetchall()
    newer = {int(number): bool(is_there) for number, is_there in rows}
    return [(record, newer[record.fetch_id]) for record in fetches_by_id(connection, list(newer))]


@dataclass(frozen=True, slots=True)
class OldSegment:
    path: str
    rows: int
    bytes: int
    covered: bool


def count_segments(connection: Transaction) -> int:
    row = connection.execute("SELECT count(*) FROM market.tick_segments").fetchone()
    return 0 if row is None else int(row[0])


def old_segments(connection: Transaction, cutoff: datetime) -> list[OldSegment]:
    """Segments of old sessions; covered where each of its symbols has the final daily bar of its session (a contract
    of options, which has none, by its age alone), or where bars were built from what was streamed."""
    rows = connection.execute(
        """
        SELECT s.path, s.rows, s.bytes, NOT EXISTS (
            SELECT FROM unnest(s.symbols) AS t (symbol)
            WHERE t.symbol NOT LIKE 'O:%%' AND NOT EXISTS (
                SELECT FROM market.stock_prices AS p
                WHERE (p.market, p.symbol, p.session) = (s.market, t.symbol, s.session)
                      AND p.condition IN ('available', 'degraded') AND NOT p.provisional
            ) AND NOT EXISTS (
                SELECT FROM market.market_index_prices AS p
                WHERE (p.market, p.symbol, p.session) = (s.market, t.symbol, s.session)
                      AND p.condition IN ('available', 'degraded') AND NOT p.provisional
            )
        ) OR (s.stream IS NOT NULL AND EXISTS (
            SELECT FROM market.bars_from_ticks AS b WHERE (b.market, b.session) = (s.market, s.session)
        ))
        FROM market.tick_segments AS s
        WHERE s.session < (%(cutoff)s AT TIME ZONE 'UTC')::date
        ORDER BY s.session, s.path
        """,
        {"cutoff": checked_instant(cutoff, "cutoff")},
    ).fetchall()
    return [OldSegment(*row) for row in rows]


def unlist_segments(connection: Transaction, paths: Sequence[str]) -> int:
    return connection.execute("DELETE FROM market.tick_segments WHERE path = ANY(%s)", (list(paths),)).rowcount


def listed_segments(connection: Transaction, paths: Sequence[str]) -> set[str]:
    rows = connection.execute("SELECT path FROM market.tick_segments WHERE path = ANY(%s)", (list(paths),)).fetchall()
    return {row[0] for row in rows}
