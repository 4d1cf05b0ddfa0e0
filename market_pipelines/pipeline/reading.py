"""Reading bars: the same question from a command and from a notebook.

Only the database is opened; no provider is asked and no simulator started. `market_pipelines.bars` is `bars`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby

import pandas as pd

from market_pipelines.market.actions import adjust
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Kind
from market_pipelines.market.intraday import INTERVALS, coarser
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.pipeline.simulated import uses_simulator
from market_pipelines.settings import Settings, read_settings
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.database import Database, Transaction, open_database
from market_pipelines.store.intraday import read_intraday
from market_pipelines.store.read_bars import latest_sessions, read_prices
from market_pipelines.store.reference import read_actions


class BadQuestion(ValueError):
    """The question cannot be answered as it is put. The message says what is accepted."""


def bars(
    symbols: str | Sequence[str],
    start: date | str | None = None,
    end: date | str | None = None,
    interval: str = DAILY,
    adjusted: bool = False,
    as_of: date | datetime | str | None = None,
    market: str | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Stored bars, both days included, by symbol and oldest first. Of `interval` 1d one row a session, else one a
    bar with its start as `ts`; an interval that is not stored is computed from a finer one that is.

    Prices are as traded unless `adjusted`. `as_of` gives the table as it was known then: a day means the end of
    that day in UTC, an instant needs its time zone. Without `market`, each symbol is looked up in all of them.
    """
    wanted = [symbols] if isinstance(symbols, str) else list(dict.fromkeys(symbols))
    if not wanted:
        raise BadQuestion("no symbol is named; name at least one")
    if interval != DAILY and interval not in INTERVALS:
        raise BadQuestion(f"interval {interval!r} is not served; accepted: {', '.join((DAILY, *INTERVALS))}")
    first, last = _day(start, "start"), _day(end, "end")
    if first is not None and last is not None and first > last:
        raise BadQuestion(f"the range ends ({last}) before it begins ({first})")
    known_at = known_at_of(as_of) if as_of is not None else None
    with opened(settings if settings is not None else read_settings()) as database:
        if interval != DAILY:
            return stored_intraday(
                database, wanted, interval, first, last, adjusted=adjusted, as_of=known_at, market=market
            )
        return stored_bars(database, wanted, first, last, adjusted=adjusted, as_of=known_at, market=market)


def stored_bars(
    database: Database,
    symbols: Sequence[str],
    start: date | None = None,
    end: date | None = None,
    *,
    adjusted: bool = False,
    as_of: datetime | None = None,
    market: str | None = None,
) -> pd.DataFrame:
    """As `bars`, from a database that is open already."""
    markets = read_markets()
    if market is not None and market not in markets:
        raise BadQuestion(f"market {market!r} is not known; there are {', '.join(sorted(markets))}")
    places = _places(database, markets, symbols, market)
    frames = []
    with database.connection() as connection:
        for (name, table), found in groupby(sorted(places, key=lambda place: place[1]), key=lambda place: place[1]):
            listed = [symbol for symbol, _ in found]
            frames.append(
                read_prices(connection, name, listed, start, end, as_of=as_of, adjusted=adjusted, table=table)
            )
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    return filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)


def stored_intraday(
    database: Database,
    symbols: Sequence[str],
    interval: str,
    start: date | None = None,
    end: date | None = None,
    *,
    adjusted: bool = False,
    as_of: datetime | None = None,
    market: str | None = None,
) -> pd.DataFrame:
    """As `bars` for an interval within the session, from a database that is open already."""
    markets = read_markets()
    if market is not None and market not in markets:
        raise BadQuestion(f"market {market!r} is not known; there are {', '.join(sorted(markets))}")
    places = sorted(_places(database, markets, symbols, market), key=lambda place: place[1])
    frames = []
    with database.connection() as connection:
        for name, found in groupby(places, key=lambda place: place[1][0]):
            listed = [symbol for symbol, _ in found]
            frames.append(
                _intraday_of(connection, markets[name], listed, interval, start or date.min, end or date.max, as_of)
            )
            if adjusted and len(frames[-1]):
                closes = read_prices(connection, name, listed, as_of=as_of)
                actions = read_actions(connection, name, listed, as_of=as_of)
                frames[-1] = adjust(frames[-1], actions, closes=closes[["symbol", "session", "close"]])
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    found_bars = filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)
    return found_bars.assign(
        interval=pd.Series(interval, index=found_bars.index, dtype="str"),
        adjusted=adjusted,
        as_of=pd.Series(as_of, index=found_bars.index, dtype="datetime64[us, UTC]"),
    )


def _intraday_of(
    connection: Transaction,
    market: MarketDefinition,
    symbols: Sequence[str],
    interval: str,
    start: date,
    end: date,
    as_of: datetime | None,
) -> pd.DataFrame:
    """What is stored of the interval; for symbols without, what the longest finer interval that divides it gives."""
    found = read_intraday(connection, market.name, interval, symbols, start, end, as_of=as_of)
    calendar = trading_calendar(market.mic)
    for finer in sorted(INTERVALS, key=lambda name: -INTERVALS[name]):
        lacking = [symbol for symbol in symbols if symbol not in set(found["symbol"])]
        if not lacking:
            break
        if INTERVALS[finer] < INTERVALS[interval] and INTERVALS[interval] % INTERVALS[finer] == 0:
            parts = read_intraday(connection, market.name, finer, lacking, start, end, as_of=as_of)
            if len(parts):
                computed = coarser(parts, interval, calendar)
                found = computed if found.empty else pd.concat([found, computed], ignore_index=True)
    return found


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The database that commands of these settings write to."""
    with open_database(settings, simulated=uses_simulator(settings)) as database:
        yield database


def known_at_of(moment: date | datetime | str) -> datetime:
    """The instant that `as_of` means."""
    if isinstance(moment, str):
        moment = _moment(moment)
    if not isinstance(moment, datetime):
        return datetime.combine(moment, time(), UTC) + timedelta(days=1, microseconds=-1)
    if moment.tzinfo is None:
        raise BadQuestion(
            f"as_of {moment.isoformat()} has no time zone; accepted: 2024-03-01 (the end of that day in UTC), "
            "2024-03-01T21:00:00Z, 2024-03-01T16:00:00-05:00"
        )
    return moment


def _moment(text: str) -> date | datetime:
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadQuestion(
            f"as_of {text!r} is not a day or an instant; accepted: 2024-03-01 (the end of that day in UTC), "
            "2024-03-01T21:00:00Z, 2024-03-01T16:00:00-05:00"
        ) from None


def _day(value: date | str | None, name: str) -> date | None:
    if isinstance(value, datetime):
        return value.date()
    if value is None or isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise BadQuestion(f"{name} {value!r} is not a day; accepted: YYYY-MM-DD") from None


def _places(
    database: Database, markets: Mapping[str, MarketDefinition], symbols: Sequence[str], market: str | None
) -> list[tuple[str, tuple[str, str]]]:
    """Each symbol with its market and table: as a market file lists it, else where there are rows of it."""
    candidates = [markets[market]] if market is not None else list(markets.values())
    listed = {
        symbol: [
            (one.name, INDICES if instrument.kind is Kind.INDEX else STOCKS)
            for one in candidates
            for instrument in one.everything
            if instrument.symbol == symbol
        ]
        for symbol in symbols
    }
    unlisted = [symbol for symbol, found in listed.items() if not found]
    if unlisted:
        with database.connection() as connection:
            for one in candidates:
                stored = latest_sessions(connection, one.name)
                for symbol in unlisted:
                    if symbol in stored:
                        listed[symbol].append((one.name, STOCKS))
    for symbol, found in listed.items():
        if len(found) > 1:
            raise BadQuestion(
                f"{symbol} is in the markets {', '.join(sorted(name for name, _ in found))}; say which by market"
            )
    return [(symbol, found[0] if found else (candidates[0].name, STOCKS)) for symbol, found in listed.items()]
