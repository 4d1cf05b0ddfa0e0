"""Corporate actions of several providers made one: claims in, `corporate_actions` with provenance and flags out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from market_pipelines.market.actions import CorporateAction
from market_pipelines.market.claims import Flag, Shown, reconcile
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.claims import (
    hold_actions,
    read_claims,
    read_standing,
    settle_actions,
    write_claims,
    write_flags,
)
from market_pipelines.store.reference import read_actions_known, write_actions_known
from market_pipelines.store.upsert import WriteCounts


@dataclass(frozen=True, slots=True)
class Statement:
    """What one provider said about one symbol in one answer."""

    symbol: str
    provider: str
    actions: tuple[CorporateAction, ...]
    said_at: datetime
    shown_from: date | None = None
    """Since when it showed all of them, until it spoke; None: these are some of them."""


@dataclass(frozen=True)
class Reconciliation:
    counts: WriteCounts
    flags: tuple[Flag, ...]
    """Everything open about the symbols that were spoken of."""


def reconcile_actions(platform: Platform, market: MarketDefinition, statements: Sequence[Statement]) -> Reconciliation:
    """Keeps each provider's claims, and settles the symbols that they are about."""
    if not statements:
        return Reconciliation(WriteCounts(), ())
    known_at = max(one.said_at for one in statements)
    calendar = trading_calendar(market.mic, known_at)
    symbols = sorted({one.symbol for one in statements})
    with platform.database.connection() as connection:
        hold_actions(connection, market.name)
        for one in sorted(statements, key=lambda one: (one.symbol, one.said_at)):
            through = calendar.local_date(one.said_at)
            complete = None if one.shown_from is None else (one.symbol, one.shown_from, through)
            write_claims(connection, market.name, one.provider, one.actions, one.said_at, complete=complete)
            closed = min(through, calendar.last_closed(one.said_at))
            if one.shown_from is not None and one.shown_from <= closed:
                write_actions_known(
                    connection, market.name, one.symbol, one.provider, one.shown_from, closed, one.said_at
                )
        result = reconcile(
            read_claims(connection, market.name, symbols),
            [
                Shown(known.symbol, known.provider, known.known_from, known.known_through)
                for known in read_actions_known(connection, market.name, symbols)
            ],
            [provider.name for provider in platform.chain(market)],
            calendar.all_sessions,
            read_standing(connection, market.name, symbols),
        )
        counts = settle_actions(connection, market.name, symbols, result.agreed, known_at)
        write_flags(connection, market.name, symbols, result.flags, known_at)
    return Reconciliation(counts, result.flags)
