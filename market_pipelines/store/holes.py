"""The ledger of holes, the closures that people have declared, and what is lacking now.

What a hole is and when it is asked for is decided in `market.repair`; here is only what the tables say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import LiteralString

import pandas as pd
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row

from market_pipelines.market.bars import AVAILABLE, DEGRADED, PENDING
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.repair import ANSWERED, WHOLE_MARKET, Hole, Key, Lack, Voice
from market_pipelines.redaction import redact
from market_pipelines.store.copying import DATE, TEXT, checked_instant, read_frame
from market_pipelines.store.database import Transaction

DAILY = "1d"
_DAILY_CAPABILITIES = ("daily", "grouped_daily")
_INTRADAY_CAPABILITIES = ("intraday",)

_COLUMNS: LiteralString = """
    symbol, session, cause, first_seen, next_ask, last_asked, times_asked, confirmed_at, reason, lacking, expected
"""

_LACKING: LiteralString = """
WITH followed AS (
    -- A symbol is followed from the first session on that anybody looked at; what was never looked at is history
    -- that was not filled, and no hole.
    SELECT u.symbol, u.until, greatest(u.since, (
        SELECT min(c.session) FROM market.coverage AS c
        WHERE c.market = %(market)s AND c.interval = %(interval)s AND c.symbol = u.symbol AND c.session >= %(first)s
    )) AS since
    FROM unnest(%(symbols)s::text[], %(listed)s::date[], %(delisted)s::date[]) AS u (symbol, since, until)
    WHERE EXISTS (
        SELECT FROM market.coverage AS c
        WHERE c.market = %(market)s AND c.interval = %(interval)s AND c.symbol = u.symbol AND c.session >= %(first)s
    )
)
SELECT w.session, count(*),
       coalesce(array_agg(f.symbol) FILTER (WHERE c.condition IS NULL OR c.condition <> ALL(%(present)s)), '{{}}')
FROM unnest(%(sessions)s::date[]) AS w (session)
JOIN followed AS f ON w.session >= f.since AND (f.until IS NULL OR w.session <= f.until)
LEFT JOIN market.coverage AS c
    ON c.market = %(market)s AND c.interval = %(interval)s AND c.symbol = f.symbol AND c.session = w.session
WHERE NOT EXISTS (SELECT FROM market.closures AS x WHERE x.market = %(market)s AND x.session = w.session)
      AND {traded}
GROUP BY w.session
ORDER BY w.session
"""
_TRADED: LiteralString = """
    EXISTS (
        SELECT FROM market.coverage AS d
        WHERE d.market = %(market)s AND d.interval = '1d' AND d.symbol = f.symbol AND d.session = w.session
              AND d.condition = ANY(%(traded)s)
    )
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHole(Hole):
    market: str
    interval: str
    healed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    market: str
    session: date
    declared_at: datetime
    note: str


def lacking(
    connection: Transaction,
    market: str,
    interval: str,
    instruments: Sequence[Instrument],
    sessions: Sequence[date],
    *,
    since: date,
) -> list[Lack]:
    """Session by session, who should have it and who does not; a symbol counts from the first session on, not before
    `since`, that anybody looked at. Within sessions: of those that traded on it."""
    if not sessions:
        return []
    query = sql.SQL(_LACKING).format(traded=sql.SQL("true" if interval == DAILY else _TRADED))
    rows = connection.execute(
        query,
        {
            "market": market,
            "interval": interval,
            "first": since,
            "sessions": list(sessions),
            "symbols": [one.symbol for one in instruments],
            "listed": [one.listed_from for one in instruments],
            "delisted": [one.delisted_on for one in instruments],
            "present": _present(interval),
            "traded": [AVAILABLE, DEGRADED],
        },
    ).fetchall()
    return [Lack(session, expected, frozenset(symbols)) for session, expected, symbols in rows]


def _present(interval: str) -> list[str]:
    """Within a session that has closed, a bar that may still change is there; a daily one is not yet."""
    return [AVAILABLE, DEGRADED] if interval == DAILY else [AVAILABLE, DEGRADED, PENDING]


def voices(
    connection: Transaction, market: str, interval: str, closes: Mapping[date, datetime]
) -> dict[date, list[Voice]]:
    """How the providers fared with each of these sessions since its closing bell, by the ledger of fetches."""
    if not closes:
        return {}
    rows = connection.execute(
        """
        SELECT w.session, f.provider, count(DISTINCT f.symbol),
               count(DISTINCT f.symbol) FILTER (WHERE f.outcome = ANY(%(answered)s)),
               (array_agg(f.outcome ORDER BY f.fetched_at DESC))[1]
        FROM unnest(%(sessions)s::date[], %(closes)s::timestamptz[]) AS w (session, closed)
        JOIN market.fetches AS f
            ON f.market = %(market)s AND f.fetched_at >= w.closed AND f."from" <= w.session AND f."to" >= w.session
        WHERE f.fetched_at >= %(oldest)s AND f.capability = ANY(%(capabilities)s) AND f.outcome <> %(unknown)s
        GROUP BY w.session, f.provider
        ORDER BY w.session, f.provider
        """,
        {
            "market": market,
            "sessions": list(closes),
            "closes": list(closes.values()),
            "oldest": min(closes.values()),
            "answered": [outcome.value for outcome in ANSWERED],
            "unknown": Outcome.UNKNOWN_SYMBOL.value,
            "capabilities": list(_DAILY_CAPABILITIES if interval == DAILY else _INTRADAY_CAPABILITIES),
        },
    ).fetchall()
    found: dict[date, list[Voice]] = {}
    for session, provider, asked, answered, last in rows:
        found.setdefault(session, []).append(Voice(provider, asked, answered, Outcome(last)))
    return found


def read_holes(
    connection: Transaction,
    market: str | None = None,
    interval: str | None = None,
    *,
    symbols: Sequence[str] | None = None,
    start: date | None = None,
    end: date | None = None,
    healed_since: datetime | None = None,
) -> list[StoredHole]:
    """Open rows, oldest session first; `healed_since`: also those that ended after it."""
    query = sql.SQL("""
        SELECT market, interval, healed_at, {columns}
        FROM market.holes
        WHERE (%(market)s::text IS NULL OR market = %(market)s)
              AND (%(interval)s::text IS NULL OR interval = %(interval)s)
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
              AND (%(start)s::date IS NULL OR session >= %(start)s)
              AND (%(end)s::date IS NULL OR session <= %(end)s)
              AND (healed_at IS NULL OR healed_at >= %(healed_since)s)
        ORDER BY market, interval, session, symbol
    """).format(columns=sql.SQL(_COLUMNS))
    with connection.cursor(row_factory=class_row(StoredHole)) as cursor:
        return cursor.execute(
            query,
            {
                "market": market,
                "interval": interval,
                "symbols": None if symbols is None else list(symbols),
                "start": start,
                "end": end,
                "healed_since": healed_since,
            },
        ).fetchall()


def write_holes(connection: Transaction, market: str, interval: str, holes: Collection[Hole]) -> None:
    """Writes these rows as they are; one that had ended is open again."""
    rows = sorted(holes, key=lambda one: one.key)
    if not rows:
        return
    columns = [name.strip() for name in _COLUMNS.split(",")]
    values = {name: [getattr(one, name) for one in rows] for name in columns}
    values["cause"] = [one.cause.value for one in rows]
    values["reason"] = [redact(one.reason).replace("\x00", "") for one in rows]
    for one in rows:
        checked_instant(one.first_seen, "first_seen")
        checked_instant(one.next_ask, "next_ask")
    connection.execute(
        """
        INSERT INTO market.holes AS h (
            market, interval, symbol, session, cause, first_seen, next_ask, last_asked, times_asked, confirmed_at,
            reason, lacking, expected
        )
        SELECT %(market)s, %(interval)s, i.*
        FROM unnest(
            %(symbol)s::text[], %(session)s::date[], %(cause)s::text[], %(first_seen)s::timestamptz[],
            %(next_ask)s::timestamptz[], %(last_asked)s::timestamptz[], %(times_asked)s::integer[],
            %(confirmed_at)s::timestamptz[], %(reason)s::text[], %(lacking)s::integer[], %(expected)s::integer[]
        ) AS i
        ON CONFLICT (market, interval, symbol, session) DO UPDATE
        SET cause = excluded.cause, first_seen = excluded.first_seen, next_ask = excluded.next_ask,
            last_asked = excluded.last_asked, times_asked = excluded.times_asked,
            confirmed_at = excluded.confirmed_at, reason = excluded.reason, lacking = excluded.lacking,
            expected = excluded.expected, healed_at = NULL
        """,
        {"market": market, "interval": interval, **values},
    )


def heal_holes(
    connection: Transaction,
    market: str,
    interval: str,
    at: datetime,
    *,
    symbols: Sequence[str] | None = None,
    start: date | None = None,
    end: date | None = None,
) -> list[Key]:
    """Ends the holes whose bar is stored by now, whoever brought it."""
    rows = connection.execute(
        """
        UPDATE market.holes AS h
        SET healed_at = %(at)s, reason = 'filled'
        WHERE h.market = %(market)s AND h.interval = %(interval)s AND h.healed_at IS NULL AND h.symbol <> %(whole)s
              AND (%(symbols)s::text[] IS NULL OR h.symbol = ANY(%(symbols)s))
              AND (%(start)s::date IS NULL OR h.session >= %(start)s)
              AND (%(end)s::date IS NULL OR h.session <= %(end)s)
              AND EXISTS (
                  SELECT FROM market.coverage AS c
                  WHERE c.market = h.market AND c.interval = h.interval AND c.symbol = h.symbol
                        AND c.session = h.session AND c.condition = ANY(%(present)s)
              )
        RETURNING h.symbol, h.session
        """,
        {
            "market": market,
            "interval": interval,
            "whole": WHOLE_MARKET,
            "present": _present(interval),
            "at": checked_instant(at, "at"),
            "symbols": None if symbols is None else list(symbols),
            "start": start,
            "end": end,
        },
    ).fetchall()
    return sorted((symbol, session) for symbol, session in rows)


def end_holes(
    connection: Transaction, market: str, interval: str, keys: Collection[Key], reason: str, at: datetime
) -> int:
    """Ends rows that are about nothing any more."""
    wanted = sorted(keys)
    done = connection.execute(
        """
        UPDATE market.holes AS h
        SET healed_at = %(at)s, reason = %(reason)s
        FROM unnest(%(symbols)s::text[], %(sessions)s::date[]) AS k (symbol, session)
        WHERE h.market = %(market)s AND h.interval = %(interval)s AND h.symbol = k.symbol AND h.session = k.session
              AND h.healed_at IS NULL
        """,
        {
            "market": market,
            "interval": interval,
            "symbols": [symbol for symbol, _ in wanted],
            "sessions": [session for _, session in wanted],
            "reason": reason,
            "at": checked_instant(at, "at"),
        },
    )
    return done.rowcount


def confirmed_missing(
    connection: Transaction, market: str, interval: str, symbols: Sequence[str], start: date, end: date
) -> set[Key]:
    """Sessions of which somebody has said more than once that there is no bar, and declared closures."""
    rows = connection.execute(
        """
        SELECT symbol, session FROM market.holes
        WHERE market = %(market)s AND interval = %(interval)s AND symbol = ANY(%(symbols)s)
              AND session BETWEEN %(start)s AND %(end)s AND healed_at IS NULL AND confirmed_at IS NOT NULL
        UNION
        SELECT s.symbol, c.session
        FROM market.closures AS c CROSS JOIN unnest(%(symbols)s::text[]) AS s (symbol)
        WHERE c.market = %(market)s AND c.session BETWEEN %(start)s AND %(end)s
        """,
        {"market": market, "interval": interval, "symbols": list(symbols), "start": start, "end": end},
    ).fetchall()
    return {(symbol, session) for symbol, session in rows}


def delivered_unsettled(
    connection: Transaction, market: str, since: date, limit: int = 200
) -> dict[str, tuple[date, date]]:
    """By symbol the span of its daily holes of which some provider has brought a bar that nobody has settled yet."""
    rows = connection.execute(
        """
        SELECT h.symbol, min(h.session), max(h.session)
        FROM market.holes AS h
        WHERE h.market = %(market)s AND h.interval = %(interval)s AND h.healed_at IS NULL AND h.symbol <> %(whole)s
              AND h.session >= %(since)s
              AND EXISTS (
                  SELECT FROM market.provider_bars AS p
                  LEFT JOIN market.coverage AS c
                      ON c.market = p.market AND c.interval = %(interval)s AND c.symbol = p.symbol
                         AND c.session = p.session
                  WHERE p.market = h.market AND p.symbol = h.symbol AND p.session = h.session AND NOT p.provisional
                        AND (c.last_checked IS NULL OR p.ingested_at > c.last_checked)
              )
        GROUP BY h.symbol
        ORDER BY h.symbol
        LIMIT %(limit)s
        """,
        {"market": market, "interval": DAILY, "whole": WHOLE_MARKET, "since": since, "limit": limit},
    ).fetchall()
    return {symbol: (first, last) for symbol, first, last in rows}


def declare_closure(connection: Transaction, market: str, session: date, note: str, at: datetime) -> bool:
    """Says that nobody traded on a session of the calendar; whether that is news. What is known of holes in it ends."""
    scope = {"market": market, "session": session, "at": checked_instant(at, "at"), "note": redact(note)}
    done = connection.execute(
        """
        INSERT INTO market.closures (market, session, declared_at, note)
        VALUES (%(market)s, %(session)s, %(at)s, %(note)s)
        ON CONFLICT (market, session) DO NOTHING
        """,
        scope,
    )
    connection.execute(
        """
        UPDATE market.holes SET healed_at = %(at)s, reason = 'a closure, as a person has said'
        WHERE market = %(market)s AND session = %(session)s AND healed_at IS NULL
        """,
        scope,
    )
    return done.rowcount > 0


def undo_closure(connection: Transaction, market: str, session: date) -> bool:
    """Whether there was one. The next look finds the holes again."""
    done = connection.execute("DELETE FROM market.closures WHERE market = %s AND session = %s", (market, session))
    return done.rowcount > 0


def closures(connection: Transaction, market: str | None = None) -> list[Closure]:
    with connection.cursor(row_factory=class_row(Closure)) as cursor:
        return cursor.execute(
            """
            SELECT market, session, declared_at, note FROM market.closures
            WHERE %(market)s::text IS NULL OR market = %(market)s
            ORDER BY market, session
            """,
            {"market": market},
        ).fetchall()


def closed_sessions(connection: Transaction, market: str) -> frozenset[date]:
    return frozenset(one.session for one in closures(connection, market))


def hold_repairs(connection: Transaction, market: str) -> bool:
    """Whether this transaction is now the market's one repair; it stays so for as long as it lasts, idle or not."""
    connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (f"market.repair {market}",)
    ).fetchone()
    return row is not None and bool(row[0])


def excused_bars(connection: Transaction, market: str, symbols: Sequence[str], start: date, end: date) -> pd.DataFrame:
    """Symbol and session of the bars that nobody expects, because a person has said that the exchange was closed."""
    columns: dict[str, pa.DataType] = {"symbol": TEXT, "session": DATE}
    query = sql.SQL("""
        SELECT s.symbol, c.session
        FROM market.closures AS c CROSS JOIN unnest(%(symbols)s::text[]) AS s (symbol)
        WHERE c.market = %(market)s AND c.session BETWEEN %(start)s AND %(end)s
        ORDER BY s.symbol, c.session
    """)
    parameters = {"market": market, "symbols": list(symbols), "start": start, "end": end}
    return read_frame(connection, query, parameters, columns)
