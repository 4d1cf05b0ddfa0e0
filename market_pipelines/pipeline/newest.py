"""Whether the newest session that should be there is there, judged from the stored bars against the calendar.

Never from when something was written: filling a session of last year makes no market fresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pandas as pd

from market_pipelines.market.cadence import LONGEST_CLOSURE, Cycle, daily_cycle, due_at, intraday_cycle, last_bell
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.quality import RULE
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.holes import closed_sessions
from market_pipelines.store.watching import STOCKS_INTRADAY, newest_stored, symbols_stored

SHOWN_SESSIONS = 5
GRACE = timedelta(minutes=30)
"""What a refresh may take after it was due."""

NextAsking = Callable[[datetime], datetime]
"""The first regular refresh at or after an instant, where a market is refreshed by a fixed cron line."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """One agreed table of one market against its calendar."""

    market: str
    asset: str
    expected: date
    """The newest session that has to be there by now."""
    since: datetime
    """When it had to be."""
    newest: date | None
    """The newest of which anything is stored."""
    symbols: int
    """That traded in the expected session."""
    lacking: tuple[str, ...]
    tolerated: float
    """Less than this share of the symbols may lack it: single holes are for the rule of completeness."""
    behind: int
    """Sessions after the newest stored one, up to the expected one."""
    recent: pd.DataFrame
    """session, symbols, expected: the last sessions."""

    @property
    def fresh(self) -> bool:
        lacking = len(self.lacking)
        return self.symbols == 0 or (
            lacking < self.symbols and (lacking <= 1 or lacking < self.tolerated * self.symbols)
        )

    @property
    def empty(self) -> bool:
        """Nothing was ever stored."""
        return self.newest is None

    @property
    def words(self) -> str:
        if self.empty:
            return f"Nothing is stored; {self.expected} has been due since {self.since:%Y-%m-%d %H:%M} UTC."
        there = f"{self.symbols - len(self.lacking)} of {self.symbols} symbols have {self.expected}"
        if self.fresh:
            return f"{there}."
        late = f"{self.behind} sessions behind" if self.behind > 1 else "one session behind" if self.behind else ""
        return f"Overdue since {self.since:%Y-%m-%d %H:%M} UTC: {there}" + (f"; {late}." if late else ".")


@dataclass(frozen=True, slots=True)
class Watched:
    """A table that has to stay fresh: by its asset's name, with the refresh that fills it."""

    asset: str
    table: str
    cycle: Cycle
    instruments: tuple[Instrument, ...]


def watched(market: MarketDefinition) -> tuple[Watched, ...]:
    """None, where the market file turns the rule off."""
    if "freshness" in market.quality.off:
        return ()
    daily, intraday = daily_cycle(market), intraday_cycle(market)
    shares = tuple(one for one in market.everything if one.kind is not Kind.INDEX)
    indices = tuple(one for one in market.everything if one.kind is Kind.INDEX)
    found = [Watched("stock_prices", STOCKS, daily, shares)]
    if indices:
        found.append(Watched("index_prices", INDICES, daily, indices))
    if intraday is not None:
        found.append(Watched("stock_prices_intraday", STOCKS_INTRADAY, intraday, shares))
    return tuple(found)


def deadline(
    market: MarketDefinition,
    cycle: Cycle,
    calendar: TradingCalendar,
    session: date,
    next_asking: NextAsking | None = None,
) -> datetime:
    """When a session has to be there: so many minutes after its last bell as the rule of freshness says, but never
    before the refresh that brings it has had its time."""
    patience = timedelta(minutes=market.quality.thresholds.get("freshness", RULE["freshness"].threshold or 0.0))
    due = due_at(cycle, calendar, session)
    asked = next_asking(due) if next_asking is not None else due
    return max(last_bell(cycle, calendar, session) + patience, asked + GRACE)


def freshness_of(
    platform: Platform, market: MarketDefinition, one: Watched, now: datetime, next_asking: NextAsking | None = None
) -> Freshness | None:
    """None before the calendar's first session has to be there."""
    calendar = trading_calendar(market.mic, now)
    today = calendar.local_date(now)
    with platform.database.connection() as connection:
        declared = closed_sessions(connection, market.name)
    sessions = [
        session
        for session in calendar.sessions(max(market.since, today - LONGEST_CLOSURE), today)
        if session not in declared and last_bell(one.cycle, calendar, session) <= now
    ]
    over = [session for session in sessions if deadline(market, one.cycle, calendar, session, next_asking) <= now]
    if not over:
        return None
    expected, shown = over[-1], sessions[-SHOWN_SESSIONS:]
    symbols = [instrument.symbol for instrument in one.instruments]
    with platform.database.connection() as connection:
        newest = newest_stored(connection, one.table, market.name, one.cycle.interval)
        stored = symbols_stored(
            connection, one.table, market.name, symbols, sorted({expected, *shown}), one.cycle.interval
        )
    trading = _trading(one, expected)
    return Freshness(
        market=market.name,
        asset=one.asset,
        expected=expected,
        since=deadline(market, one.cycle, calendar, expected, next_asking),
        newest=newest,
        symbols=len(trading),
        lacking=tuple(symbol for symbol in trading if symbol not in stored.get(expected, frozenset())),
        tolerated=market.repair.outage_share,
        behind=0 if newest is None else sum(newest < session <= expected for session in sessions),
        recent=pd.DataFrame(
            [
                (session.isoformat(), len(stored.get(session, frozenset())), len(_trading(one, session)))
                for session in reversed(shown)
            ],
            columns=["session", "symbols", "expected"],
        ),
    )


def _trading(one: Watched, session: date) -> list[str]:
    return [instrument.symbol for instrument in one.instruments if instrument.trades_on(session)]
