"""Which sessions of a market wait to be refreshed, judged from what the coverage table says was looked at and when.

That a symbol is missing does not make a session due again: it was looked at, and holes are for the repair.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from market_pipelines.market.cadence import Cycle, Due, due_at, due_range, window_of
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.holes import closed_sessions
from market_pipelines.store.watching import looked_at, newest_looked_at

WHOLE_MARKET = 0.5
"""A session counts as refreshed when so much of the market was looked at: one symbol that a person pulled is no
refresh, and one that the market file has gained is no reason for another."""


def due_sessions(
    platform: Platform,
    market: MarketDefinition,
    interval: str,
    now: datetime,
    *,
    delay: timedelta,
    extended: bool = False,
) -> Due | None:
    """The sessions to refresh, from the first that was missed, no further back than `catch_up_sessions`, to the
    newest whose last bell rang `delay` ago. None: everything was looked at after that.

    A session that was pulled before its bell, or right after it, is due again. Where nothing was ever refreshed,
    only the last `correction_sessions` are: the past is a backfill's business.
    """
    return waiting(platform, market, Cycle(interval, delay, extended), now)


def waiting(platform: Platform, market: MarketDefinition, cycle: Cycle, now: datetime) -> Due | None:
    """As `due_sessions`, of one of the market's regular refreshes."""
    calendar = trading_calendar(market.mic, now)
    with platform.database.connection() as connection:
        declared = closed_sessions(connection, market.name)
    window = tuple(day for day in window_of(cycle, market, calendar, now) if day not in declared)
    if not window:
        return None
    refreshed, before = _refreshed(platform, market, cycle, calendar, window)
    return due_range(window, refreshed, before=before, correction_sessions=market.correction_sessions)


def _refreshed(
    platform: Platform,
    market: MarketDefinition,
    cycle: Cycle,
    calendar: TradingCalendar,
    window: tuple[date, ...],
) -> tuple[frozenset[date], bool]:
    """The sessions of the window that were looked at as a whole in time, and whether any before it ever was."""
    symbols = [one.symbol for one in market.everything]
    with platform.database.connection() as connection:
        counts = looked_at(
            connection,
            market.name,
            cycle.interval,
            symbols,
            {session: due_at(cycle, calendar, session) for session in window},
        )
        older = newest_looked_at(connection, market.name, cycle.interval, symbols, window[0])
    refreshed = frozenset(session for session, count in counts.items() if _is_whole(market, session, count))
    return refreshed, older is not None and _is_whole(market, *older)


def _is_whole(market: MarketDefinition, session: date, count: int) -> bool:
    expected = sum(one.trades_on(session) for one in market.everything)
    return count > 0 and count >= WHOLE_MARKET * expected
