"""The members of an index over time, as a dated list gives them."""

from __future__ import annotations

from collections.abc import Sequence

from market_pipelines.market.universes import Member
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import WriteCounts

_REMOVE_OTHERS = """
DELETE FROM market.index_members AS m
WHERE m.market = %(market)s AND m.index_symbol = %(index)s
      AND NOT EXISTS (
          SELECT FROM unnest(%(symbols)s::text[], %(starts)s::date[]) AS listed (symbol, valid_from)
          WHERE listed.symbol = m.symbol AND listed.valid_from = m.valid_from
      )
"""

_UPSERT = """
INSERT INTO market.index_members AS m (market, index_symbol, symbol, valid_from, valid_to, source)
SELECT %(market)s, %(index)s, listed.symbol, listed.valid_from, listed.valid_to, listed.source
FROM unnest(%(symbols)s::text[], %(starts)s::date[], %(ends)s::date[], %(sources)s::text[])
     AS listed (symbol, valid_from, valid_to, source)
ORDER BY listed.symbol, listed.valid_from
ON CONFLICT (market, index_symbol, symbol, valid_from) DO UPDATE
SET valid_to = excluded.valid_to, source = excluded.source
WHERE (m.valid_to, m.source) IS DISTINCT FROM (excluded.valid_to, excluded.source)
RETURNING xmax = 0
"""


def write_membership(connection: Transaction, market: str, index_symbol: str, members: Sequence[Member]) -> WriteCounts:
    """All there is to say about an index: stored rows that the list lacks are removed."""
    scope = {
        "market": market,
        "index": index_symbol,
        "symbols": [member.symbol for member in members],
        "starts": [member.valid_from for member in members],
        "ends": [member.valid_to for member in members],
        "sources": [member.source for member in members],
    }
    removed = connection.execute(_REMOVE_OTHERS, scope).rowcount
    written = [inserted for (inserted,) in connection.execute(_UPSERT, scope).fetchall()]
    inserted = sum(written)
    return WriteCounts(inserted, len(written) - inserted, len(members) - len(written), removed)
