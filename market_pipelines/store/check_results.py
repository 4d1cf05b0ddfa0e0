"""What the checks said each time they were asked, and the few questions to the tables that only checks have.

Bars, actions and quarantined rows are read where they are kept; which rules there are is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date, datetime
from typing import LiteralString

import pandas as pd
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row

from market_pipelines.market.bars import DEGRADED, MISSING, VALUE_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality.rules import INDEX_PRICES, INTRADAY, STOCK_PRICES
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.copying import DATE, INSTANT, NUMBER, TEXT, checked_instant, read_frame
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True)
class CheckResult:
    market: str
    asset: str
    rule: str
    at: datetime
    first_session: date
    last_session: date
    passed: bool
    severity: str
    failing_rows: int
    checked: int
    run_id: str | None = None

    @property
    def share(self) -> float:
        """Of what was looked at, how much failed."""
        return self.failing_rows / self.checked if self.checked else 0.0


_COLUMNS: LiteralString = (
    "market, asset, rule, at, first_session, last_session, passed, severity, failing_rows, checked, run_id"
)


def record_results(connection: Transaction, results: Sequence[CheckResult]) -> None:
    """Asked twice at one instant, the later answer counts."""
    for one in results:
        checked_instant(one.at, "at")
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO market.check_results (
                market, asset, rule, at, first_session, last_session, passed, severity, failing_rows, checked, run_id
            )
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (market, asset, rule, at) DO UPDATE
            SET first_session = excluded.first_session, last_session = excluded.last_session,
                passed = excluded.passed, severity = excluded.severity, failing_rows = excluded.failing_rows,
                checked = excluded.checked, run_id = excluded.run_id
            """,
            [astuple(one) for one in results],
        )


def trend(
    connection: Transaction,
    market: str,
    *,
    asset: str | None = None,
    rule: str | None = None,
    since: datetime | None = None,
    limit: int = 1000,
) -> list[CheckResult]:
    """Newest first; a filter that is not given lets everything through."""
    query = sql.SQL("""
        SELECT {columns}
        FROM market.check_results
        WHERE market = %(market)s
              AND (%(asset)s::text IS NULL OR asset = %(asset)s)
              AND (%(rule)s::text IS NULL OR rule = %(rule)s)
              AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
        ORDER BY at DESC, asset, rule
        LIMIT %(limit)s
    """).format(columns=sql.SQL(_COLUMNS))
    parameters = {"market": market, "asset": asset, "rule": rule, "since": since, "limit": limit}
    with connection.cursor(row_factory=class_row(CheckResult)) as cursor:
        return cursor.execute(query, parameters).fetchall()


def changes_of_final_bars(
    connection: Transaction, market: str, symbols: Sequence[str], start: date, end: date, table: str = STOCKS
) -> pd.DataFrame:
    """Every time a final bar as traded got another close or volume: what it was, what it became, and when."""
    if table not in (STOCKS, INDICES):
        raise ValueError(f"{table!r} is not a table of agreed bars; these are: {STOCKS}, {INDICES}")
    columns: dict[str, pa.DataType] = {
        "symbol": TEXT,
        "session": DATE,
        "close": NUMBER,
        "old_close": NUMBER,
        "volume": NUMBER,
        "old_volume": NUMBER,
        "known_to": INSTANT,
    }
    query = sql.SQL("""
        SELECT r.symbol, r.session, coalesce(r.next_close, p.close), r.close, coalesce(r.next_volume, p.volume),
               r.volume, r.known_to
        FROM (
            SELECT symbol, session, close, volume, known_to, provisional, removed, condition,
                   lead(close) OVER later AS next_close, lead(volume) OVER later AS next_volume,
                   lead(true, 1, false) OVER later AS superseded_again
            FROM market.bar_revisions
            WHERE source_table = %(table)s AND market = %(market)s AND symbol = ANY(%(symbols)s)
                  AND session BETWEEN %(start)s AND %(end)s
            WINDOW later AS (PARTITION BY symbol, session ORDER BY known_to, revision_id)
        ) AS r
        LEFT JOIN {current} AS p
            ON p.market = %(market)s AND p.symbol = r.symbol AND p.session = r.session AND NOT r.superseded_again
        WHERE NOT r.provisional AND NOT r.removed AND r.condition <> %(degraded)s
              AND coalesce(r.next_close, p.close) IS NOT NULL
        ORDER BY r.symbol, r.session, r.known_to
    """).format(current=sql.Identifier("market", table))
    parameters = {
        "table": table,
        "market": market,
        "symbols": list(symbols),
        "start": start,
        "end": end,
        "degraded": DEGRADED,
    }
    return read_frame(connection, query, parameters, columns)


def said_to_be_without_trade(
    connection: Transaction, market: str, interval: str, symbols: Sequence[str], start: date, end: date
) -> pd.DataFrame:
    """Missing bars (symbol, session) of which a provider has answered that there is nothing to deliver."""
    columns: dict[str, pa.DataType] = {"symbol": TEXT, "session": DATE}
    query = sql.SQL("""
        SELECT c.symbol, c.session
        FROM market.coverage AS c
        WHERE c.market = %(market)s AND c.interval = %(interval)s AND c.symbol = ANY(%(symbols)s)
              AND c.session BETWEEN %(start)s AND %(end)s AND c.condition = %(missing)s
              AND EXISTS (
                  SELECT FROM market.fetches AS f
                  WHERE f.market = c.market AND f.symbol = c.symbol AND f.outcome = %(nothing)s
                        AND c.session BETWEEN f."from" AND f."to" AND f.fetched_at::date >= c.session
              )
        ORDER BY c.symbol, c.session
    """)
    parameters = {
        "market": market,
        "interval": interval,
        "symbols": list(symbols),
        "start": start,
        "end": end,
        "missing": MISSING,
        "nothing": str(Outcome.EMPTY_EXPECTED),
    }
    return read_frame(connection, query, parameters, columns)


_REFUSED: dict[str, pa.DataType] = {
    "symbol": TEXT,
    "session": DATE,
    "ts": INSTANT,
    **dict.fromkeys(VALUE_COLUMNS, NUMBER),
    "provider": TEXT,
    "rule": TEXT,
    "severity": TEXT,
    "detail": TEXT,
    "decision": TEXT,
}
MOST_REFUSED = 50_000


def refused_rows(
    connection: Transaction, market: str, symbols: Sequence[str], start: date, end: date, *, daily: bool
) -> pd.DataFrame:
    """Rows in quarantine over which nobody has decided, and those that were released; not the dropped ones."""
    query = sql.SQL("""
        SELECT {columns}
        FROM market.quarantine
        WHERE market = %(market)s AND symbol = ANY(%(symbols)s) AND session BETWEEN %(start)s AND %(end)s
              AND (coalesce(interval, '') = '1d') = %(daily)s AND decision IS DISTINCT FROM 'dropped'
        ORDER BY symbol, session, ts, provider, rule
        LIMIT %(limit)s
    """).format(columns=sql.SQL(", ").join(map(sql.Identifier, _REFUSED)))
    parameters = {
        "market": market,
        "symbols": list(symbols),
        "start": start,
        "end": end,
        "daily": daily,
        "limit": MOST_REFUSED,
    }
    return read_frame(connection, query, parameters, _REFUSED)


def tables_with_bars(connection: Transaction, market: str, start: date, end: date) -> frozenset[str]:
    """Which of the tables of agreed bars hold anything of a market between two sessions, by their assets' names."""
    row = connection.execute(
        """
        SELECT EXISTS (SELECT FROM market.stock_prices
                       WHERE market = %(market)s AND session BETWEEN %(start)s AND %(end)s),
               EXISTS (SELECT FROM market.market_index_prices
                       WHERE market = %(market)s AND session BETWEEN %(start)s AND %(end)s),
               EXISTS (SELECT FROM market.stock_prices_intraday
                       WHERE market = %(market)s AND session BETWEEN %(start)s AND %(end)s)
        """,
        {"market": market, "start": start, "end": end},
    ).fetchone()
    found = zip((STOCK_PRICES, INDEX_PRICES, INTRADAY), row or (), strict=False)
    return frozenset(asset for asset, there in found if there)
