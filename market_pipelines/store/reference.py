"""What is traded and what happened to it: instruments, members of indices, corporate actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

from psycopg import sql
from psycopg.types.json import Jsonb

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.claims import combined
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.store.claims import write_claims
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction
from market_pipelines.store.upsert import WriteCounts


@dataclass(frozen=True, slots=True)
class ActionsKnown:
    """Between these dates a provider has shown every action of a symbol."""

    symbol: str
    provider: str
    known_from: date
    known_through: date


_UPSERT_STOCK: LiteralString = """
INSERT INTO market.stocks AS s (
    symbol, market, company_name, exchange, currency, kind, listed_from, delisted_on, provider_symbols, updated_at
)
VALUES (
    %(symbol)s, %(market)s, %(name)s, %(mic)s, %(currency)s, %(kind)s, %(listed_from)s, %(delisted_on)s,
    %(provider_symbols)s, %(at)s
)
ON CONFLICT (market, symbol) DO UPDATE
SET company_name = {name}, exchange = excluded.exchange, currency = excluded.currency,
    kind = excluded.kind, listed_from = {listed_from}, delisted_on = {delisted_on},
    provider_symbols = excluded.provider_symbols, is_active = true, followed = true, updated_at = excluded.updated_at
WHERE (s.company_name, s.exchange, s.currency, s.kind, s.listed_from, s.delisted_on, s.provider_symbols, s.is_active,
       s.followed)
      IS DISTINCT FROM
      ({name}, excluded.exchange, excluded.currency, excluded.kind, {listed_from}, {delisted_on},
       excluded.provider_symbols, true, true)
RETURNING xmax = 0
"""

# What a list of the exchange says fills in what an instrument does not say about itself.
_FILLED_IN: dict[str, sql.Composable] = {
    "name": sql.SQL("coalesce(nullif(excluded.company_name, ''), s.company_name)"),
    "listed_from": sql.SQL(
        "CASE WHEN s.listed_by IS NULL THEN excluded.listed_from ELSE coalesce(excluded.listed_from, s.listed_from) END"
    ),
    "delisted_on": sql.SQL(
        "CASE WHEN s.listed_by IS NULL THEN excluded.delisted_on ELSE coalesce(excluded.delisted_on, s.delisted_on) END"
    ),
}

_UPSERT_INDEX: LiteralString = """
INSERT INTO market.market_indices AS s (
    symbol, market, name, exchange, currency, listed_from, delisted_on, provider_symbols, updated_at
)
VALUES (
    %(symbol)s, %(market)s, %(name)s, %(mic)s, %(currency)s, %(listed_from)s, %(delisted_on)s, %(provider_symbols)s,
    %(at)s
)
ON CONFLICT (market, symbol) DO UPDATE
SET name = excluded.name, exchange = excluded.exchange, currency = excluded.currency,
    listed_from = excluded.listed_from, delisted_on = excluded.delisted_on,
    provider_symbols = excluded.provider_symbols, is_active = true, updated_at = excluded.updated_at
WHERE (s.name, s.exchange, s.currency, s.listed_from, s.delisted_on, s.provider_symbols, s.is_active)
      IS DISTINCT FROM
      (excluded.name, excluded.exchange, excluded.currency, excluded.listed_from, excluded.delisted_on,
       excluded.provider_symbols, true)
RETURNING xmax = 0
"""

_UPSERT_ACTION: LiteralString = """
INSERT INTO market.corporate_actions AS s (symbol, market, ex_date, kind, factor, amount, provider, ingested_at)
VALUES (%(symbol)s, %(market)s, %(ex_date)s, %(kind)s, %(factor)s, %(amount)s, %(provider)s, %(known_at)s)
ON CONFLICT (market, symbol, ex_date, kind) DO UPDATE
SET factor = excluded.factor, amount = excluded.amount, provider = excluded.provider,
    ingested_at = greatest(excluded.ingested_at, s.ingested_at)
WHERE (s.factor, s.amount) IS DISTINCT FROM (excluded.factor, excluded.amount)
RETURNING xmax = 0
"""

_WITHDRAW_ACTIONS: LiteralString = """
DELETE FROM market.corporate_actions AS a
WHERE a.market = %(market)s AND a.symbol = %(symbol)s AND a.provider = %(provider)s
      AND a.ex_date BETWEEN %(start)s AND %(end)s
      AND NOT EXISTS (
          SELECT FROM unnest(%(dates)s::date[], %(kinds)s::text[]) AS said (ex_date, kind)
          WHERE said.ex_date = a.ex_date AND said.kind = a.kind
      )
"""


def write_instruments(
    connection: Transaction,
    instruments: Sequence[Instrument],
    at: datetime,
    *,
    deactivate_others_of: str | None = None,
) -> WriteCounts:
    """Indices into market_indices, everything else into stocks. What was inactive and is named becomes active.

    `deactivate_others_of` names a market whose list this is in full: what it lacks becomes inactive (`removed`),
    unless a list of the exchange names it.
    """
    checked_instant(at, "at")
    counts = WriteCounts()
    upsert_stock, upsert_index = sql.SQL(_UPSERT_STOCK).format(**_FILLED_IN), sql.SQL(_UPSERT_INDEX)
    for instrument in sorted(instruments, key=lambda one: (one.market, one.symbol)):
        row = connection.execute(
            upsert_index if instrument.kind is Kind.INDEX else upsert_stock,
            {
                "symbol": instrument.symbol,
                "market": instrument.market,
                "name": instrument.name,
                "mic": instrument.mic,
                "currency": instrument.currency,
                "kind": str(instrument.kind),
                "listed_from": instrument.listed_from,
                "delisted_on": instrument.delisted_on,
                "provider_symbols": Jsonb(dict(instrument.provider_symbols)),
                "at": at,
            },
        ).fetchone()
        counts += _counted(row)
    if deactivate_others_of is not None:
        counts += _deactivate_others(connection, instruments, deactivate_others_of, at)
    return counts


def read_instruments(
    connection: Transaction, market: str, *, active_only: bool = True, followed_only: bool = False
) -> list[Instrument]:
    """Shares and funds, then indices, each by symbol. Followed is what the market's file names; a list of the exchange
    adds all others."""
    rows = connection.execute(
        """
        SELECT symbol, market, exchange, currency, company_name, kind, listed_from, delisted_on, provider_symbols
        FROM market.stocks
        WHERE market = %(market)s AND (is_active OR NOT %(active_only)s) AND (followed OR NOT %(followed_only)s)
        UNION ALL
        SELECT symbol, market, exchange, currency, name, 'index', listed_from, delisted_on, provider_symbols
        FROM market.market_indices
        WHERE market = %(market)s AND (is_active OR NOT %(active_only)s)
        """,
        {"market": market, "active_only": active_only, "followed_only": followed_only},
    ).fetchall()
    found = [
        Instrument(symbol, at, mic, currency, name, Kind(kind), listed_from, delisted_on, provider_symbols)
        for symbol, at, mic, currency, name, kind, listed_from, delisted_on, provider_symbols in rows
    ]
    return sorted(found, key=lambda one: (one.kind is Kind.INDEX, one.symbol))


def write_actions(
    connection: Transaction,
    market: str,
    actions: Sequence[CorporateAction],
    provider: str,
    known_at: datetime,
    *,
    complete: tuple[str, date, date] | None = None,
) -> WriteCounts:
    """What one provider says, taken as it is: its claims, and what is agreed on with nobody else being asked.

    An action that is there with the same value is left alone, whoever said it; another value replaces it.

    `complete` = (symbol, from, through): the provider has shown all there is of this symbol between two dates, so what
    it said before and says no more is withdrawn. Superseded versions are kept in corporate_action_revisions.
    """
    checked_instant(known_at, "known_at")
    connection.execute("SELECT set_config('market.known_at', %s, true)", (known_at.isoformat(),))
    write_claims(connection, market, provider, actions, known_at, complete=complete)
    counts = WriteCounts()
    for action in combined(actions):
        split = action.kind is ActionKind.SPLIT
        row = connection.execute(
            _UPSERT_ACTION,
            {
                "symbol": action.symbol,
                "market": market,
                "ex_date": action.ex_date,
                "kind": str(action.kind),
                "factor": action.value if split else None,
                "amount": None if split else action.value,
                "provider": provider,
                "known_at": known_at,
            },
        ).fetchone()
        counts += _counted(row)
    if complete is not None:
        symbol, start, end = complete
        said = [action for action in actions if action.symbol == symbol]
        withdrawn = connection.execute(
            _WITHDRAW_ACTIONS,
            {
                "market": market,
                "symbol": symbol,
                "provider": provider,
                "start": start,
                "end": end,
                "dates": [action.ex_date for action in said],
                "kinds": [str(action.kind) for action in said],
            },
        )
        counts += WriteCounts(removed=withdrawn.rowcount)
    return counts


def read_actions(
    connection: Transaction, market: str, symbols: Sequence[str] = (), *, as_of: datetime | None = None
) -> list[CorporateAction]:
    """By symbol and ex-date. `as_of`: what was known at that instant. No symbols: all of them."""
    source = sql.SQL("market.corporate_actions" if as_of is None else "market.corporate_actions_as_of(%(as_of)s)")
    rows = connection.execute(
        sql.SQL("""
            SELECT symbol, ex_date, kind, coalesce(factor, amount)
            FROM {source}
            WHERE market = %(market)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
            ORDER BY symbol, ex_date, kind
        """).format(source=source),
        {
            "market": market,
            "symbols": list(symbols) or None,
            "as_of": None if as_of is None else checked_instant(as_of, "as_of"),
        },
    ).fetchall()
    return [CorporateAction(symbol, ex_date, ActionKind(kind), value) for symbol, ex_date, kind, value in rows]


def write_actions_known(
    connection: Transaction,
    market: str,
    symbol: str,
    provider: str,
    known_from: date,
    known_through: date,
    at: datetime,
) -> None:
    """Ranges that touch or overlap become one; of two apart, the one that reaches further stays."""
    connection.execute(
        """
        INSERT INTO market.actions_known AS s (symbol, market, provider, known_from, known_through, checked_at)
        VALUES (%(symbol)s, %(market)s, %(provider)s, %(known_from)s, %(known_through)s, %(at)s)
        ON CONFLICT (market, symbol, provider) DO UPDATE
        SET known_from = CASE
                WHEN excluded.known_from <= s.known_through + 1 AND s.known_from <= excluded.known_through + 1
                    THEN least(s.known_from, excluded.known_from)
                WHEN excluded.known_through > s.known_through THEN excluded.known_from
                ELSE s.known_from
            END,
            known_through = greatest(s.known_through, excluded.known_through),
            checked_at = greatest(s.checked_at, excluded.checked_at)
        """,
        {
            "symbol": symbol,
            "market": market,
            "provider": provider,
            "known_from": known_from,
            "known_through": known_through,
            "at": checked_instant(at, "at"),
        },
    )


def read_actions_known(connection: Transaction, market: str, symbols: Sequence[str] = ()) -> list[ActionsKnown]:
    rows = connection.execute(
        """
        SELECT symbol, provider, known_from, known_through
        FROM market.actions_known
        WHERE market = %(market)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))
        ORDER BY symbol, provider
        """,
        {"market": market, "symbols": list(symbols) or None},
    ).fetchall()
    return [ActionsKnown(*row) for row in rows]


def write_index_members(
    connection: Transaction, market: str, index_symbol: str, symbols: Sequence[str], on: date, source: str
) -> WriteCounts:
    """The members on a date, all of them: new ones begin on it, those that are missing ended the day before."""
    scope = {"market": market, "index": index_symbol, "symbols": list(symbols), "on": on, "source": source}
    # One that joined on this very date never was a member; its row goes, because it would end before it began.
    dropped = connection.execute(
        """
        DELETE FROM market.index_members
        WHERE market = %(market)s AND index_symbol = %(index)s AND valid_to IS NULL AND valid_from >= %(on)s
              AND symbol <> ALL(%(symbols)s)
        """,
        scope,
    ).rowcount
    ended = connection.execute(
        """
        UPDATE market.index_members
        SET valid_to = %(on)s::date - 1
        WHERE market = %(market)s AND index_symbol = %(index)s AND valid_to IS NULL AND symbol <> ALL(%(symbols)s)
        """,
        scope,
    ).rowcount
    begun = connection.execute(
        """
        INSERT INTO market.index_members (market, index_symbol, symbol, valid_from, source)
        SELECT %(market)s, %(index)s, named.symbol, %(on)s, %(source)s
        FROM (SELECT DISTINCT unnest(%(symbols)s::text[])) AS named (symbol)
        WHERE NOT EXISTS (
            SELECT FROM market.index_members AS m
            WHERE m.market = %(market)s AND m.index_symbol = %(index)s AND m.symbol = named.symbol
                  AND m.valid_to IS NULL
        )
        ON CONFLICT (market, index_symbol, symbol, valid_from) DO UPDATE
        SET valid_to = NULL
        """,
        scope,
    ).rowcount
    return WriteCounts(inserted=begun, unchanged=len(set(symbols)) - begun, removed=ended + dropped)


def read_index_members(connection: Transaction, market: str, index_symbol: str, on: date) -> list[str]:
    rows = connection.execute(
        """
        SELECT symbol
        FROM market.index_members
        WHERE market = %(market)s AND index_symbol = %(index)s
              AND valid_from <= %(on)s AND (valid_to IS NULL OR valid_to >= %(on)s)
        ORDER BY symbol
        """,
        {"market": market, "index": index_symbol, "on": on},
    ).fetchall()
    return [symbol for (symbol,) in rows]


def _deactivate_others(
    connection: Transaction, instruments: Sequence[Instrument], market: str, at: datetime
) -> WriteCounts:
    tables = {"stocks": False, "market_indices": True}
    removed = 0
    for table, indices in tables.items():
        named = [one.symbol for one in instruments if one.market == market and (one.kind is Kind.INDEX) is indices]
        query = sql.SQL(
            "UPDATE {} SET is_active = false, updated_at = %s "
            "WHERE market = %s AND is_active AND symbol <> ALL(%s) AND {}"
        ).format(sql.Identifier("market", table), sql.SQL("true" if indices else "listed_by IS NULL"))
        removed += connection.execute(query, (at, market, named)).rowcount
        if not indices:
            # The exchange lists them still; this market's file names them no longer.
            connection.execute(
                "UPDATE market.stocks SET followed = false, updated_at = %s "
                "WHERE market = %s AND followed AND listed_by IS NOT NULL AND symbol <> ALL(%s)",
                (at, market, named),
            )
    return WriteCounts(removed=removed)


def _counted(row: tuple[Any, ...] | None) -> WriteCounts:
    """What an upsert says about its row: nothing where it was left alone, otherwise whether it is new."""
    if row is None:
        return WriteCounts(unchanged=1)
    return WriteCounts(inserted=1) if row[0] else WriteCounts(revised=1)
