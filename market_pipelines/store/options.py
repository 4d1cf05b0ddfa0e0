"""Option contracts, and each day's last look at what they traded at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import LiteralString

import pandas as pd
import pyarrow as pa
from psycopg import sql

from market_pipelines.market.records import OptionContract, Right
from market_pipelines.store.copying import DATE, NUMBER, TEXT, checked_instant, read_frame
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import WriteCounts

_CONTRACTS = """
INSERT INTO market.option_contracts AS c (
    market, contract, underlying, "right", strike, expires, shares, style, exchange, provider, first_seen, last_seen
)
SELECT %(market)s, n.contract, n.underlying, n.right_, n.strike, n.expires, n.shares, nullif(n.style, ''),
       nullif(n.exchange, ''), %(provider)s, %(at)s, %(at)s
FROM unnest(
    %(contracts)s::text[], %(underlyings)s::text[], %(rights)s::text[], %(strikes)s::double precision[],
    %(expiries)s::date[], %(shares)s::double precision[], %(styles)s::text[], %(exchanges)s::text[]
) AS n (contract, underlying, right_, strike, expires, shares, style, exchange)
ORDER BY n.contract
ON CONFLICT (market, contract) DO UPDATE
SET underlying = excluded.underlying, "right" = excluded.right, strike = excluded.strike, expires = excluded.expires,
    shares = excluded.shares, style = coalesce(excluded.style, c.style),
    exchange = coalesce(excluded.exchange, c.exchange), provider = excluded.provider,
    last_seen = greatest(c.last_seen, excluded.last_seen)
RETURNING xmax = 0
"""

_QUOTES = """
INSERT INTO market.option_quotes AS q (
    market, contract, quoted_on, last, bid, ask, volume, open_interest, implied_volatility, provider, received_at
)
SELECT %(market)s, n.contract, n.quoted_on, n.last, n.bid, n.ask, n.volume, n.open_interest, n.implied_volatility,
       %(provider)s, %(at)s
FROM unnest(
    %(contracts)s::text[], %(days)s::date[], %(lasts)s::double precision[], %(bids)s::double precision[],
    %(asks)s::double precision[], %(volumes)s::double precision[], %(interests)s::double precision[],
    %(volatilities)s::double precision[]
) AS n (contract, quoted_on, last, bid, ask, volume, open_interest, implied_volatility)
ORDER BY n.contract
ON CONFLICT (market, contract, quoted_on) DO UPDATE
SET last = excluded.last, bid = excluded.bid, ask = excluded.ask, volume = excluded.volume,
    open_interest = excluded.open_interest, implied_volatility = excluded.implied_volatility,
    provider = excluded.provider, received_at = excluded.received_at
WHERE q.received_at <= excluded.received_at
"""


def write_options(
    connection: Transaction, market: str, contracts: Sequence[OptionContract], provider: str, today: date, at: datetime
) -> WriteCounts:
    """Counts of contracts. One that names no day, though it has a price, was quoted `today`; one without any price is
    only listed."""
    known = list({one.native: one for one in contracts}.values())
    scope = {
        "market": market,
        "provider": provider,
        "at": checked_instant(at, "at"),
        "contracts": [one.native for one in known],
        "underlyings": [one.underlying for one in known],
        "rights": [str(one.right) for one in known],
        "strikes": [one.strike for one in known],
        "expiries": [one.expires for one in known],
        "shares": [one.shares for one in known],
        "styles": [one.style for one in known],
        "exchanges": [one.exchange for one in known],
    }
    inserted = [row[0] for row in connection.execute(_CONTRACTS, scope).fetchall()]
    quoted = [one for one in known if _quoted(one)]
    connection.execute(
        _QUOTES,
        {
            "market": market,
            "provider": provider,
            "at": at,
            "contracts": [one.native for one in quoted],
            "days": [one.quoted_on or today for one in quoted],
            "lasts": [one.last for one in quoted],
            "bids": [one.bid for one in quoted],
            "asks": [one.ask for one in quoted],
            "volumes": [one.volume for one in quoted],
            "interests": [one.open_interest for one in quoted],
            "volatilities": [one.implied_volatility for one in quoted],
        },
    )
    return WriteCounts(inserted=sum(inserted), unchanged=len(inserted) - sum(inserted))


def read_options(
    connection: Transaction,
    market: str,
    underlying: str,
    expires_from: date | None = None,
    expires_to: date | None = None,
    right: Right | None = None,
) -> list[OptionContract]:
    """By expiry, strike and right, each with its newest quote."""
    rows = connection.execute(
        """
        SELECT c.contract, c.underlying, c.right, c.strike, c.expires, c.shares, coalesce(c.style, ''),
               coalesce(c.exchange, ''), q.last, q.bid, q.ask, q.volume, q.open_interest, q.implied_volatility,
               q.quoted_on
        FROM market.option_contracts AS c
        LEFT JOIN LATERAL (
            SELECT * FROM market.option_quotes AS q
            WHERE q.market = c.market AND q.contract = c.contract
            ORDER BY q.quoted_on DESC
            LIMIT 1
        ) AS q ON true
        WHERE c.market = %(market)s AND c.underlying = %(underlying)s
              AND (%(start)s::date IS NULL OR c.expires >= %(start)s)
              AND (%(end)s::date IS NULL OR c.expires <= %(end)s)
              AND (%(right)s::text IS NULL OR c.right = %(right)s)
        ORDER BY c.expires, c.strike, c.right, c.contract
        """,
        {
            "market": market,
            "underlying": underlying,
            "start": expires_from,
            "end": expires_to,
            "right": None if right is None else str(right),
        },
    ).fetchall()
    return [OptionContract(native, symbol, Right(side), *rest) for native, symbol, side, *rest in rows]


_TERMS: dict[str, pa.DataType] = {
    "contract": TEXT,
    "underlying": TEXT,
    "right": TEXT,
    "strike": NUMBER,
    "expires": DATE,
    "shares": NUMBER,
    "provider": TEXT,
    "session": DATE,
}
_QUOTED: dict[str, pa.DataType] = {**_TERMS, **dict.fromkeys(("last", "bid", "ask", "open_interest", "close"), NUMBER)}
_CONTRACTS_SEEN: LiteralString = """
    SELECT contract, underlying, "right", strike, expires, shares, provider, (last_seen AT TIME ZONE %(zone)s)::date
    FROM market.option_contracts
    WHERE market = %(market)s AND (last_seen AT TIME ZONE %(zone)s)::date BETWEEN %(start)s AND %(end)s
    ORDER BY underlying, expires, strike, "right", contract
"""
_QUOTES_OF_DAYS: LiteralString = """
    SELECT q.contract, c.underlying, c.right, c.strike, c.expires, c.shares, q.provider, q.quoted_on, q.last, q.bid,
           q.ask, q.open_interest, p.close
    FROM market.option_quotes AS q
    JOIN market.option_contracts AS c ON c.market = q.market AND c.contract = q.contract
    LEFT JOIN market.stock_prices AS p
        ON p.market = q.market AND p.symbol = c.underlying AND p.session = q.quoted_on
    WHERE q.market = %(market)s AND q.quoted_on BETWEEN %(start)s AND %(end)s
    ORDER BY c.underlying, q.quoted_on, c.expires, c.strike, c.right, q.contract
"""


def contracts_seen(connection: Transaction, market: str, zone: str, start: date, end: date) -> pd.DataFrame:
    """Contracts that were last seen between two days of the exchange; as `session` that day."""
    days = {"market": market, "zone": zone, "start": start, "end": end}
    return read_frame(connection, sql.SQL(_CONTRACTS_SEEN), days, _TERMS)


def quotes_of_days(connection: Transaction, market: str, start: date, end: date) -> pd.DataFrame:
    """What contracts were quoted at; as `session` the day, and as `close` the underlying's, where it is stored."""
    days = {"market": market, "start": start, "end": end}
    return read_frame(connection, sql.SQL(_QUOTES_OF_DAYS), days, _QUOTED)


def has_options(connection: Transaction, market: str, start: date, end: date) -> bool:
    row = connection.execute(
        """
        SELECT EXISTS (SELECT FROM market.option_contracts
                       WHERE market = %(market)s AND last_seen >= %(start)s AND first_seen < %(end)s::date + 1)
            OR EXISTS (SELECT FROM market.option_quotes
                       WHERE market = %(market)s AND quoted_on BETWEEN %(start)s AND %(end)s)
        """,
        {"market": market, "start": start, "end": end},
    ).fetchone()
    return row is not None and bool(row[0])


def _quoted(contract: OptionContract) -> bool:
    return any(
        value is not None
        for value in (contract.last, contract.bid, contract.ask, contract.open_interest, contract.implied_volatility)
    )
