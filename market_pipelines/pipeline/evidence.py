"""What the rules may look at, read from the store: stretch by stretch, so that a long range needs bounded memory.

Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import pandas as pd

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.quality.examine import LEAD_IN, Evidence
from market_pipelines.market.quality.rules import INDEX_PRICES, INSTRUMENTS, INTRADAY, OPTIONS, STOCK_PRICES
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.stream_evidence import unfilled_gaps
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.check_results import changes_of_final_bars, refused_rows, said_to_be_without_trade
from market_pipelines.store.database import Transaction
from market_pipelines.store.holes import excused_bars
from market_pipelines.store.intraday import read_intraday
from market_pipelines.store.options import contracts_seen, quotes_of_days
from market_pipelines.store.read_bars import read_prices, read_provider_bars
from market_pipelines.store.reference import read_actions, read_instruments
from market_pipelines.store.watching import first_looked_at

ROWS_AT_ONCE = 400_000
"""Bars that are judged together. A longer range is judged in stretches, each with the sessions before it."""
_HOURS, _EXTENDED_HOURS = 6.5, 16.0
_OPTIONS_A_SHARE = 1_000.0
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sessions that are judged together, and the day from which bars are needed to do so."""

    lead: date
    start: date
    end: date
    newest: bool


@dataclass(frozen=True, slots=True)
class Table:
    market: MarketDefinition
    asset: str
    calendar: TradingCalendar
    instruments: tuple[Instrument, ...]

    @property
    def symbols(self) -> list[str]:
        return [one.symbol for one in self.instruments]

    @property
    def prices(self) -> str:
        return INDICES if self.asset == INDEX_PRICES else STOCKS


def table_of(market: MarketDefinition, asset: str, now: datetime) -> Table:
    return Table(market, asset, trading_calendar(market.mic, now), _watched(market, asset))


def _watched(market: MarketDefinition, asset: str) -> tuple[Instrument, ...]:
    if asset == INDEX_PRICES:
        return market.indices
    return market.everything if asset in (INTRADAY, INSTRUMENTS) else market.instruments


def stretches(table: Table, start: date, end: date) -> list[Stretch]:
    sessions = table.calendar.sessions(start, end)
    if not sessions:
        return [Stretch(start, start, end, newest=True)]
    bars_a_session = 1.0
    if table.asset == INTRADAY and table.market.intraday is not None:
        hours = _EXTENDED_HOURS if table.market.intraday.extended else _HOURS
        bars_a_session = max(1.0, hours * 60 / INTERVALS[table.market.intraday.interval])
    if table.asset == OPTIONS:
        bars_a_session = _OPTIONS_A_SHARE
    size = max(1, int(ROWS_AT_ONCE / (bars_a_session * max(1, len(table.instruments)))))
    firsts = sessions[::size]
    days = table.calendar.all_sessions
    position = {session: at for at, session in enumerate(days)}
    return [
        Stretch(
            lead=days[max(0, position[first] - LEAD_IN)],
            # The days around the sessions count too: a bar on a holiday is what one of the rules looks for.
            start=start if at == 0 else first,
            end=end if at == len(firsts) - 1 else firsts[at + 1] - _ONE_DAY,
            newest=at == len(firsts) - 1,
        )
        for at, first in enumerate(firsts)
    ]


def evidence_of(connection: Transaction, table: Table, stretch: Stretch, now: datetime) -> Evidence:
    market, symbols = table.market, table.symbols
    asked = Evidence(
        market=market,
        asset=table.asset,
        calendar=table.calendar,
        instruments=table.instruments,
        start=stretch.start,
        end=stretch.end,
        now=now,
        actions=read_actions(connection, market.name, symbols),
    )
    match table.asset:
        case "realtime_quotes" | "realtime_trades" | "option_contracts":
            return _besides_bars(connection, table, stretch, asked)
        case "stock_prices" | "index_prices":
            return replace(
                asked,
                bars=read_prices(connection, market.name, symbols, stretch.lead, stretch.end, table=table.prices),
                provider_bars=read_provider_bars(connection, market.name, symbols, stretch.start, stretch.end),
                revisions=changes_of_final_bars(
                    connection, market.name, symbols, stretch.start, stretch.end, table.prices
                ),
                excused=_excused(connection, market, "1d", symbols, stretch),
            )
        case "stock_prices_intraday":
            interval = "" if market.intraday is None else market.intraday.interval
            begins = first_looked_at(connection, market.name, interval, max(1, len(symbols) // 2))
            if begins is None or begins > stretch.end:
                return asked
            # What nobody has ever asked for is not lacking.
            stretch = replace(stretch, start=max(stretch.start, begins))
            return replace(
                asked,
                start=stretch.start,
                bars=_all_prices(connection, market, stretch),
                intraday=read_intraday(connection, market.name, interval, symbols, stretch.start, stretch.end),
                excused=_excused(connection, market, interval, symbols, stretch),
            )
        case "corporate_actions":
            return replace(
                asked,
                bars=read_prices(connection, market.name, symbols, stretch.lead, stretch.end),
                provider_bars=read_provider_bars(connection, market.name, symbols, stretch.lead, stretch.end),
            )
        case _:
            return replace(
                asked,
                bars=_all_prices(connection, market, stretch),
                former=tuple(read_instruments(connection, market.name, followed_only=True)),
            )


def _besides_bars(connection: Transaction, table: Table, stretch: Stretch, asked: Evidence) -> Evidence:
    market, start, end = table.market, stretch.start, stretch.end
    if table.asset != OPTIONS:
        return replace(asked, gaps=unfilled_gaps(connection, market, start, end, asked.now))
    until = options_until(table.calendar, end, asked.now) if stretch.newest else end
    return replace(
        asked,
        contracts=contracts_seen(connection, market.name, table.calendar.zone.key, start, until),
        option_quotes=quotes_of_days(connection, market.name, start, until),
    )


def options_until(calendar: TradingCalendar, end: date, now: datetime) -> date:
    """A chain is asked for at weekends and while the exchange trades: a range up to the last closed session reaches
    to today."""
    return max(end, calendar.local_date(now)) if end >= calendar.last_closed(now) else end


def _all_prices(connection: Transaction, market: MarketDefinition, stretch: Stretch) -> pd.DataFrame:
    symbols = [one.symbol for one in market.everything]
    return pd.concat(
        [
            read_prices(connection, market.name, symbols, stretch.lead, stretch.end, table=table)
            for table in (STOCKS, INDICES)
        ],
        ignore_index=True,
    )


def newest_bars(connection: Transaction, table: Table, now: datetime) -> pd.DataFrame | None:
    """Which daily bars of the last closed session are there, wherever the judged range ends."""
    if table.asset not in (STOCK_PRICES, INDEX_PRICES):
        return None
    newest = table.calendar.last_closed(now)
    return read_prices(connection, table.market.name, table.symbols, newest, newest, table=table.prices)


def refused_of(connection: Transaction, table: Table, stretch: Stretch, evidence: Evidence) -> pd.DataFrame:
    """What was kept out of the table, with `mended` where another bar stands in its place."""
    daily = table.asset != INTRADAY
    rows = refused_rows(connection, table.market.name, table.symbols, stretch.start, stretch.end, daily=daily)
    present = evidence.bars if daily else evidence.intraday
    if table.asset not in (STOCK_PRICES, INDEX_PRICES, INTRADAY) or present is None:
        return rows.iloc[:0].assign(mended=False)
    key = ["symbol", "session"] if daily else ["symbol", "session", "ts"]
    if not daily:
        rows["ts"] = rows["ts"].astype(present["ts"].dtype)
    found = rows.merge(present[key].assign(mended=True), on=key, how="left")
    return found.assign(mended=found["mended"].notna())


def _excused(
    connection: Transaction, market: MarketDefinition, interval: str, symbols: Sequence[str], stretch: Stretch
) -> pd.DataFrame:
    """What providers have said not to exist, and what a person has: a session on which the exchange was closed."""
    said = said_to_be_without_trade(connection, market.name, interval, symbols, stretch.start, stretch.end)
    closed = excused_bars(connection, market.name, symbols, stretch.start, stretch.end)
    keys = ["symbol", "session"]
    return pd.concat([said[keys], closed[keys]], ignore_index=True).drop_duplicates(ignore_index=True)
