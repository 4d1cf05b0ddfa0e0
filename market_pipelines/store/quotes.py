"""The newest quote of each symbol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from market_pipelines.market.records import Quote
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction

_FIELDS = (
    "price",
    "currency",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "open",
    "high",
    "low",
    "previous_close",
    "volume",
    "session",
)

_UPSERT = """
INSERT INTO market.latest_quotes AS q (
    market, symbol, price, currency, bid, ask, bid_size, ask_size, open, high, low, previous_close, volume, session,
    quoted_at, as_of, provider, received_at
)
VALUES (
    %(market)s, %(symbol)s, %(price)s, %(currency)s, %(bid)s, %(ask)s, %(bid_size)s, %(ask_size)s, %(open)s, %(high)s,
    %(low)s, %(previous_close)s, %(volume)s, %(session)s, %(quoted_at)s, %(as_of)s, %(provider)s, %(received_at)s
)
ON CONFLICT (market, symbol) DO UPDATE
SET price = excluded.price, currency = excluded.currency, bid = excluded.bid, ask = excluded.ask,
    bid_size = excluded.bid_size, ask_size = excluded.ask_size, open = excluded.open, high = excluded.high,
    low = excluded.low, previous_close = excluded.previous_close, volume = excluded.volume,
    session = excluded.session, quoted_at = excluded.quoted_at, as_of = excluded.as_of, provider = excluded.provider,
    received_at = excluded.received_at
WHERE (q.as_of, q.received_at) <= (excluded.as_of, excluded.received_at)
"""


@dataclass(frozen=True, slots=True)
class LatestQuote:
    quote: Quote
    as_of: datetime
    """The moment that it speaks of: what newest means."""
    provider: str
    received_at: datetime


def write_quotes(connection: Transaction, market: str, quotes: Iterable[LatestQuote]) -> int:
    """How many are newer than what was there; an older one changes nothing."""
    written = 0
    for one in sorted(quotes, key=lambda latest: latest.quote.symbol):
        written += connection.execute(
            _UPSERT,
            {
                "market": market,
                "symbol": one.quote.symbol,
                **{name: getattr(one.quote, name) for name in _FIELDS},
                "quoted_at": one.quote.at,
                "as_of": checked_instant(one.as_of, "as_of"),
                "provider": one.provider,
                "received_at": checked_instant(one.received_at, "received_at"),
            },
        ).rowcount
    return written


def read_quotes(connection: Transaction, market: str, symbols: Sequence[str] = ()) -> list[LatestQuote]:
    """By symbol. No symbols: all of them."""
    rows = connection.execute(
        """
        SELECT symbol, price, quoted_at, currency, bid, ask, bid_size, ask_size, open, high, low, previous_close,
               volume, session, as_of, provider, received_at
        FROM market.latest_quotes
        WHERE market = %(market)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol
        """,
        {"market": market, "symbols": list(symbols) or None},
    ).fetchall()
    return [LatestQuote(Quote(*row[:-3]), *row[-3:]) for row in rows]
