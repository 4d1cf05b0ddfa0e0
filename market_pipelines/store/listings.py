"""Lists of an exchange in `stocks`, and who bore which ticker when in `listing_history`. Rows are never deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from psycopg import sql

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.listings import Bearer, ListingChanges, kind_of
from market_pipelines.market.records import Listed
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction

_DAY = timedelta(days=1)

_LINES = sql.SQL("""
unnest(
    %(symbols)s::text[], %(names)s::text[], %(kinds)s::text[], %(types)s::text[], %(venues)s::text[],
    %(figis)s::text[], %(starts)s::date[], %(ends)s::date[]
) AS l (symbol, name, kind, type, venue, figi, listed_from, delisted_on)
""")

_UPSERT = sql.SQL("""
INSERT INTO market.stocks AS s (
    symbol, market, company_name, exchange, currency, kind, is_active, listed_from, delisted_on, venue,
    security_type, figi, listed_by, followed, updated_at
)
SELECT l.symbol, %(market)s, l.name, %(mic)s, %(currency)s, l.kind, l.delisted_on IS NULL, l.listed_from,
       l.delisted_on, l.venue, l.type, nullif(l.figi, ''), %(provider)s, false, %(at)s
FROM {lines}
ORDER BY l.symbol
ON CONFLICT (market, symbol) DO UPDATE
SET company_name = CASE
        WHEN s.followed AND s.company_name <> '' THEN s.company_name
        ELSE coalesce(nullif(excluded.company_name, ''), s.company_name)
    END,
    kind = CASE WHEN s.followed THEN s.kind ELSE excluded.kind END,
    listed_from = CASE
        WHEN %(another)s THEN coalesce(excluded.listed_from, %(on)s)
        WHEN s.followed THEN coalesce(s.listed_from, excluded.listed_from)
        ELSE coalesce(excluded.listed_from, s.listed_from)
    END,
    delisted_on = NULL, is_active = true, venue = excluded.venue, security_type = excluded.security_type,
    figi = CASE WHEN %(another)s THEN excluded.figi ELSE coalesce(excluded.figi, s.figi) END,
    listed_by = excluded.listed_by, updated_at = excluded.updated_at
WHERE NOT %(past)s
""").format(lines=_LINES)

_BEGIN = sql.SQL("""
INSERT INTO market.listing_history (
    market, symbol, company_name, figi, venue, security_type, valid_from, valid_to, ended_by, provider, recorded_at
)
SELECT %(market)s, l.symbol, l.name, nullif(l.figi, ''), l.venue, l.type,
       CASE
           WHEN l.delisted_on IS NOT NULL THEN least(l.listed_from, l.delisted_on)
           WHEN l.listed_from > coalesce(
               (
                   SELECT max(h.valid_to) FROM market.listing_history AS h
                   WHERE h.market = %(market)s AND h.symbol = l.symbol
               ),
               '-infinity'
           ) THEN l.listed_from
           ELSE %(on)s
       END,
       l.delisted_on,
       CASE WHEN l.delisted_on IS NOT NULL THEN 'delisted' END, %(provider)s, %(at)s
FROM {lines}
WHERE NOT EXISTS (
    SELECT FROM market.listing_history AS h
    WHERE h.market = %(market)s AND h.symbol = l.symbol
          AND CASE
              WHEN l.delisted_on IS NULL THEN h.valid_to IS NULL
              ELSE abs(h.valid_to - l.delisted_on) <= 31
          END
)
ORDER BY l.symbol
""").format(lines=_LINES)

_RENAME_IN_PLACE = sql.SQL("""
UPDATE market.listing_history AS h
SET company_name = coalesce(nullif(l.name, ''), h.company_name), venue = l.venue, security_type = l.type,
    figi = coalesce(nullif(l.figi, ''), h.figi)
FROM {lines}
WHERE h.market = %(market)s AND h.symbol = l.symbol AND h.valid_to IS NULL
""").format(lines=_LINES)

_END = """
UPDATE market.listing_history AS h
SET valid_to = greatest(h.valid_from, e.last_day), ended_by = e.ended_by, other_symbol = e.other_symbol,
    recorded_at = %(at)s
FROM unnest(%(symbols)s::text[], %(days)s::date[], %(reasons)s::text[], %(others)s::text[])
     AS e (symbol, last_day, ended_by, other_symbol)
WHERE h.market = %(market)s AND h.symbol = e.symbol AND h.valid_to IS NULL
"""

_DEACTIVATE = """
UPDATE market.stocks AS s
SET is_active = false, delisted_on = coalesce(e.delisted_on, s.delisted_on), updated_at = %(at)s
FROM unnest(%(symbols)s::text[], %(delisted)s::date[]) AS e (symbol, delisted_on)
WHERE s.market = %(market)s AND s.symbol = e.symbol AND s.symbol <> ALL(%(kept)s)
"""

_NAMED = """
UPDATE market.stocks
SET listed_by = %(provider)s
WHERE market = %(market)s AND symbol = ANY(%(symbols)s) AND listed_by IS DISTINCT FROM %(provider)s
"""


@dataclass(frozen=True, slots=True)
class BearerPeriod:
    """A line of `listing_history`."""

    symbol: str
    name: str
    figi: str
    venue: str
    valid_from: date
    valid_to: date | None
    ended_by: str
    other_symbol: str


def read_bearers(connection: Transaction, market: str) -> list[Bearer]:
    """Everybody in `stocks`, the inactive ones too, by symbol."""
    rows = connection.execute(
        """
        SELECT symbol, company_name, is_active, followed, coalesce(listed_by, ''), coalesce(figi, ''),
               coalesce(venue, ''), coalesce(security_type, ''), listed_from, delisted_on
        FROM market.stocks
        WHERE market = %s
        ORDER BY symbol
        """,
        (market,),
    ).fetchall()
    return [Bearer(*row) for row in rows]


def write_listings(
    connection: Transaction,
    market: MarketDefinition,
    changes: ListingChanges,
    provider: str,
    on: date,
    at: datetime,
) -> None:
    """Applies a comparison. Symbols of the market file stay active: its word counts until a person changes it."""
    checked_instant(at, "at")
    scope = {
        "market": market.name,
        "mic": market.mic,
        "currency": market.currency,
        "provider": provider,
        "on": on,
        "at": at,
        "kept": [one.symbol for one in market.everything],
    }
    renamed = [line for _, line in changes.renamed]
    reused = [line for _, line in changes.reused]
    ended = [
        *((gone.bearer.symbol, gone.last_day or on - _DAY, "delisted" if gone.last_day else "vanished", None)
          for gone in changes.gone),
        *((bearer.symbol, on - _DAY, "renamed", line.symbol) for bearer, line in changes.renamed),
        *((bearer.symbol, _day_before(line, on), "reused", None) for bearer, line in changes.reused),
    ]  # fmt: skip
    connection.execute(
        _END,
        scope
        | {
            "symbols": [symbol for symbol, _, _, _ in ended],
            "days": [day for _, day, _, _ in ended],
            "reasons": [reason for _, _, reason, _ in ended],
            "others": [other for _, _, _, other in ended],
        },
    )
    left = [(gone.bearer.symbol, gone.last_day) for gone in changes.gone] + [
        (bearer.symbol, on - _DAY) for bearer, _ in changes.renamed
    ]
    connection.execute(
        _DEACTIVATE, scope | {"symbols": [symbol for symbol, _ in left], "delisted": [day for _, day in left]}
    )
    for lines, another in ((list(changes.new) + renamed + list(changes.changed), False), (reused, True)):
        connection.execute(_UPSERT, scope | _columns(lines) | {"another": another, "past": False})
    connection.execute(_UPSERT, scope | _columns(_newest_of_each(changes.past)) | {"another": False, "past": True})
    connection.execute(_RENAME_IN_PLACE, scope | _columns(changes.changed))
    since_today = [replace(line, listed_from=None) for line in renamed]
    connection.execute(_BEGIN, scope | _columns([*changes.new, *since_today, *reused, *changes.changed]))
    connection.execute(_BEGIN, scope | _columns(changes.past))
    connection.execute(_NAMED, scope | {"symbols": list(changes.named)})


def read_listing_history(connection: Transaction, market: str, symbols: Sequence[str] = ()) -> list[BearerPeriod]:
    """By symbol, the oldest bearer first."""
    rows = connection.execute(
        """
        SELECT symbol, company_name, coalesce(figi, ''), coalesce(venue, ''), valid_from, valid_to,
               coalesce(ended_by, ''), coalesce(other_symbol, '')
        FROM market.listing_history
        WHERE market = %(market)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol, valid_from, listing_id
        """,
        {"market": market, "symbols": list(symbols) or None},
    ).fetchall()
    return [BearerPeriod(*row) for row in rows]


def _day_before(line: Listed, on: date) -> date:
    return (line.listed_from if line.listed_from is not None and line.listed_from <= on else on) - _DAY


def _newest_of_each(past: Sequence[Listed]) -> list[Listed]:
    """Of several companies that once bore a ticker, the last one stands in `stocks`; the history has all of them."""
    newest: dict[str, Listed] = {}
    for line in sorted(past, key=lambda one: one.delisted_on or date.min):
        newest[line.symbol] = line
    return list(newest.values())


def _columns(lines: Sequence[Listed]) -> dict[str, list[Any]]:
    return {
        "symbols": [line.symbol for line in lines],
        "names": [line.name for line in lines],
        "kinds": [str(kind_of(line.kind)) for line in lines],
        "types": [line.kind for line in lines],
        "venues": [line.exchange for line in lines],
        "figis": [line.figi for line in lines],
        "starts": [line.listed_from for line in lines],
        "ends": [None if line.active else line.delisted_on for line in lines],
    }
