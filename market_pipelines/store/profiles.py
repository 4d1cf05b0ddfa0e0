"""Who companies are: the newest profile of each, and the two facts of it that `stocks` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from market_pipelines.market.records import Profile
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import WriteCounts

_UPSERT = """
INSERT INTO market.company_profiles AS p (
    market, symbol, name, description, sector, industry, exchange, country, currency, website, employees, market_cap,
    shares_outstanding, isin, figi, cik, provider, updated_at, checked_at
)
VALUES (
    %(market)s, %(symbol)s, %(name)s, nullif(%(description)s, ''), nullif(%(sector)s, ''), nullif(%(industry)s, ''),
    nullif(%(exchange)s, ''), nullif(%(country)s, ''), nullif(%(currency)s, ''), nullif(%(website)s, ''),
    %(employees)s, %(market_cap)s, %(shares_outstanding)s, nullif(%(isin)s, ''), nullif(%(figi)s, ''),
    nullif(%(cik)s, ''), %(provider)s, %(at)s, %(at)s
)
ON CONFLICT (market, symbol) DO UPDATE
SET name = coalesce(nullif(excluded.name, ''), p.name),
    description = coalesce(excluded.description, p.description), sector = coalesce(excluded.sector, p.sector),
    industry = coalesce(excluded.industry, p.industry), exchange = coalesce(excluded.exchange, p.exchange),
    country = coalesce(excluded.country, p.country), currency = coalesce(excluded.currency, p.currency),
    website = coalesce(excluded.website, p.website), employees = coalesce(excluded.employees, p.employees),
    market_cap = coalesce(excluded.market_cap, p.market_cap),
    shares_outstanding = coalesce(excluded.shares_outstanding, p.shares_outstanding),
    isin = coalesce(excluded.isin, p.isin), figi = coalesce(excluded.figi, p.figi), cik = coalesce(excluded.cik, p.cik),
    provider = excluded.provider, checked_at = excluded.checked_at,
    updated_at = CASE
        WHEN (p.name, p.description, p.sector, p.industry, p.exchange, p.country, p.currency, p.website, p.employees,
              p.market_cap, p.shares_outstanding, p.isin, p.figi, p.cik)
             IS DISTINCT FROM
             (coalesce(nullif(excluded.name, ''), p.name), coalesce(excluded.description, p.description),
              coalesce(excluded.sector, p.sector), coalesce(excluded.industry, p.industry),
              coalesce(excluded.exchange, p.exchange), coalesce(excluded.country, p.country),
              coalesce(excluded.currency, p.currency), coalesce(excluded.website, p.website),
              coalesce(excluded.employees, p.employees), coalesce(excluded.market_cap, p.market_cap),
              coalesce(excluded.shares_outstanding, p.shares_outstanding), coalesce(excluded.isin, p.isin),
              coalesce(excluded.figi, p.figi), coalesce(excluded.cik, p.cik))
        THEN excluded.updated_at
        ELSE p.updated_at
    END
WHERE p.checked_at <= excluded.checked_at
RETURNING xmax = 0, updated_at = checked_at
"""

_SHOW_IN_STOCKS = """
UPDATE market.stocks AS s
SET sector = p.sector, industry = p.industry, figi = coalesce(s.figi, p.figi), updated_at = p.checked_at
FROM market.company_profiles AS p
WHERE p.market = %(market)s AND p.symbol = %(symbol)s AND s.market = p.market AND s.symbol = p.symbol
      AND (s.sector, s.industry, s.figi) IS DISTINCT FROM (p.sector, p.industry, coalesce(s.figi, p.figi))
"""


@dataclass(frozen=True, slots=True)
class StoredProfile:
    profile: Profile
    provider: str
    updated_at: datetime
    checked_at: datetime


def write_profile(connection: Transaction, market: str, profile: Profile, provider: str, at: datetime) -> WriteCounts:
    """What this one leaves empty stays as it was; an older one than is stored changes nothing."""
    scope = {"market": market, "provider": provider, "at": checked_instant(at, "at"), **asdict(profile)}
    row = connection.execute(_UPSERT, scope).fetchone()
    connection.execute(_SHOW_IN_STOCKS, {"market": market, "symbol": profile.symbol})
    if row is None or not row[1]:
        return WriteCounts(unchanged=1)
    return WriteCounts(inserted=1) if row[0] else WriteCounts(revised=1)


def read_profiles(connection: Transaction, market: str, symbols: Sequence[str] = ()) -> list[StoredProfile]:
    """By symbol. No symbols: all of them."""
    rows = connection.execute(
        """
        SELECT symbol, name, coalesce(description, ''), coalesce(sector, ''), coalesce(industry, ''),
               coalesce(exchange, ''), coalesce(country, ''), coalesce(currency, ''), coalesce(website, ''), employees,
               market_cap, shares_outstanding, coalesce(isin, ''), coalesce(figi, ''), coalesce(cik, ''),
               provider, updated_at, checked_at
        FROM market.company_profiles
        WHERE market = %(market)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol
        """,
        {"market": market, "symbols": list(symbols) or None},
    ).fetchall()
    return [StoredProfile(Profile(*row[:-3]), *row[-3:]) for row in rows]
