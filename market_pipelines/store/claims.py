"""What each provider says about corporate actions, and where they contradict each other.

What is agreed on is in `corporate_actions`, which `store.reference` reads; `settle_actions` is how it gets there from
claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.claims import Agreed, Claim, Flag, Problem, combined
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import WriteCounts

_WITHDRAW = """
DELETE FROM market.provider_actions AS a
WHERE a.market = %(market)s AND a.symbol = %(symbol)s AND a.provider = %(provider)s
      AND a.ex_date BETWEEN %(start)s AND %(end)s
      AND NOT EXISTS (
          SELECT FROM unnest(%(symbols)s::text[], %(dates)s::date[], %(kinds)s::text[]) AS said (symbol, ex_date, kind)
          WHERE said.symbol = a.symbol AND said.ex_date = a.ex_date AND said.kind = a.kind
      )
"""

_CLAIM = """
INSERT INTO market.provider_actions AS a (market, symbol, provider, ex_date, kind, value, claimed_at)
SELECT %(market)s, said.symbol, %(provider)s, said.ex_date, said.kind, said.value, %(at)s
FROM unnest(%(symbols)s::text[], %(dates)s::date[], %(kinds)s::text[], %(values)s::double precision[])
     AS said (symbol, ex_date, kind, value)
ORDER BY said.symbol, said.ex_date, said.kind
ON CONFLICT (market, symbol, provider, ex_date, kind) DO UPDATE
SET value = excluded.value, claimed_at = excluded.claimed_at
WHERE a.value <> excluded.value
"""

_AGREE = """
INSERT INTO market.corporate_actions AS a (symbol, market, ex_date, kind, factor, amount, provider, ingested_at)
SELECT g.symbol, %(market)s, g.ex_date, g.kind, CASE WHEN g.kind = 'split' THEN g.value END,
       CASE WHEN g.kind = 'dividend' THEN g.value END, g.provider, %(at)s
FROM unnest(
    %(symbols)s::text[], %(dates)s::date[], %(kinds)s::text[], %(values)s::double precision[], %(providers)s::text[]
) AS g (symbol, ex_date, kind, value, provider)
ORDER BY g.symbol, g.ex_date, g.kind
ON CONFLICT (market, symbol, ex_date, kind) DO UPDATE
SET factor = excluded.factor, amount = excluded.amount, provider = excluded.provider,
    ingested_at = greatest(excluded.ingested_at, a.ingested_at)
WHERE (a.factor, a.amount) IS DISTINCT FROM (excluded.factor, excluded.amount)
RETURNING xmax = 0
"""

_DROP_OTHERS = """
DELETE FROM market.corporate_actions AS a
WHERE a.market = %(market)s AND a.symbol = ANY(%(scope)s)
      AND NOT EXISTS (
          SELECT FROM unnest(%(symbols)s::text[], %(dates)s::date[], %(kinds)s::text[]) AS g (symbol, ex_date, kind)
          WHERE g.symbol = a.symbol AND g.ex_date = a.ex_date AND g.kind = a.kind
      )
"""

_FLAG = """
INSERT INTO market.action_flags AS f (
    market, symbol, ex_date, kind, problem, used, detail, claimed_by, denied_by, first_seen
)
VALUES (
    %(market)s, %(symbol)s, %(ex_date)s, %(kind)s, %(problem)s, %(used)s, %(detail)s, %(claimed_by)s, %(denied_by)s,
    %(at)s
)
ON CONFLICT (market, symbol, ex_date, kind, problem) DO UPDATE
SET used = excluded.used, detail = excluded.detail, claimed_by = excluded.claimed_by, denied_by = excluded.denied_by,
    first_seen = CASE WHEN f.resolved_at IS NULL THEN f.first_seen ELSE excluded.first_seen END, resolved_at = NULL
"""

_RESOLVE = """
UPDATE market.action_flags AS f
SET resolved_at = %(at)s
WHERE f.market = %(market)s AND f.symbol = ANY(%(scope)s) AND f.resolved_at IS NULL
      AND NOT EXISTS (
          SELECT FROM unnest(%(symbols)s::text[], %(dates)s::date[], %(kinds)s::text[], %(problems)s::text[])
               AS g (symbol, ex_date, kind, problem)
          WHERE g.symbol = f.symbol AND g.ex_date = f.ex_date AND g.kind = f.kind AND g.problem = f.problem
      )
"""


def hold_actions(connection: Transaction, market: str) -> None:
    """Waits until nobody else reconciles this market: two that see half of each other's claims would both be wrong."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"market.corporate_actions {market}",))


def write_claims(
    connection: Transaction,
    market: str,
    provider: str,
    actions: Sequence[CorporateAction],
    at: datetime,
    *,
    complete: tuple[str, date, date] | None = None,
) -> None:
    """`complete` = (symbol, from, through): that is all the provider has of this symbol between two dates, so what it
    claimed there before and says no more is withdrawn."""
    said = combined(actions)
    scope = {
        "market": market,
        "provider": provider,
        "at": checked_instant(at, "at"),
        "symbols": [action.symbol for action in said],
        "dates": [action.ex_date for action in said],
        "kinds": [str(action.kind) for action in said],
        "values": [action.value for action in said],
    }
    if complete is not None:
        symbol, start, end = complete
        connection.execute(_WITHDRAW, scope | {"symbol": symbol, "start": start, "end": end})
    if said:
        connection.execute(_CLAIM, scope)


def read_claims(connection: Transaction, market: str, symbols: Sequence[str] = ()) -> list[Claim]:
    """By symbol, ex-date and provider. No symbols: all of them."""
    rows = connection.execute(
        """
        SELECT provider, symbol, ex_date, kind, value
        FROM market.provider_actions
        WHERE market = %(market)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol, ex_date, kind, provider
        """,
        {"market": market, "symbols": list(symbols) or None},
    ).fetchall()
    return [
        Claim(provider, CorporateAction(symbol, ex_date, ActionKind(kind), value))
        for provider, symbol, ex_date, kind, value in rows
    ]


def read_standing(
    connection: Transaction, market: str, symbols: Sequence[str]
) -> dict[tuple[str, date, ActionKind], tuple[str, float]]:
    """What is agreed on: (provider, value) by symbol, ex-date and kind."""
    rows = connection.execute(
        """
        SELECT symbol, ex_date, kind, provider, coalesce(factor, amount)
        FROM market.corporate_actions
        WHERE market = %s AND symbol = ANY(%s)
        """,
        (market, list(symbols)),
    ).fetchall()
    return {(symbol, ex_date, ActionKind(kind)): (provider, value) for symbol, ex_date, kind, provider, value in rows}


def settle_actions(
    connection: Transaction, market: str, symbols: Sequence[str], agreed: Sequence[Agreed], known_at: datetime
) -> WriteCounts:
    """Makes `corporate_actions` of these symbols what was agreed on; superseded versions are kept by trigger."""
    connection.execute(
        "SELECT set_config('market.known_at', %s, true)", (checked_instant(known_at, "known_at").isoformat(),)
    )
    scope = {
        "market": market,
        "scope": list(symbols),
        "at": known_at,
        "symbols": [one.action.symbol for one in agreed],
        "dates": [one.action.ex_date for one in agreed],
        "kinds": [str(one.action.kind) for one in agreed],
        "values": [one.action.value for one in agreed],
        "providers": [one.provider for one in agreed],
    }
    removed = connection.execute(_DROP_OTHERS, scope).rowcount
    written = [inserted for (inserted,) in connection.execute(_AGREE, scope).fetchall()]
    return WriteCounts(sum(written), len(written) - sum(written), len(agreed) - len(written), removed)


def write_flags(
    connection: Transaction, market: str, symbols: Sequence[str], flags: Sequence[Flag], at: datetime
) -> None:
    """All there is to complain about these symbols; what was flagged before and is not any more is resolved."""
    scope = {
        "market": market,
        "scope": list(symbols),
        "at": checked_instant(at, "at"),
        "symbols": [flag.symbol for flag in flags],
        "dates": [flag.ex_date for flag in flags],
        "kinds": [str(flag.kind) for flag in flags],
        "problems": [str(flag.problem) for flag in flags],
    }
    connection.execute(_RESOLVE, scope)
    for flag in flags:
        connection.execute(
            _FLAG,
            {
                "market": market,
                "symbol": flag.symbol,
                "ex_date": flag.ex_date,
                "kind": str(flag.kind),
                "problem": str(flag.problem),
                "used": flag.used,
                "detail": flag.detail,
                "claimed_by": list(flag.claimed_by),
                "denied_by": list(flag.denied_by),
                "at": at,
            },
        )


def read_flags(connection: Transaction, market: str, symbols: Sequence[str] = ()) -> list[Flag]:
    """What is open, by symbol and ex-date. No symbols: all of them."""
    rows = connection.execute(
        """
        SELECT symbol, ex_date, kind, problem, used, detail, claimed_by, denied_by
        FROM market.action_flags
        WHERE market = %(market)s AND resolved_at IS NULL
              AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol, ex_date, kind, problem
        """,
        {"market": market, "symbols": list(symbols) or None},
    ).fetchall()
    return [
        Flag(symbol, ex_date, ActionKind(kind), Problem(problem), used, detail, tuple(claimed_by), tuple(denied_by))
        for symbol, ex_date, kind, problem, used, detail, claimed_by, denied_by in rows
    ]
