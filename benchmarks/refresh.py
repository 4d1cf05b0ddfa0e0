"""A daily refresh of 500 symbols over five years, beside the script that people write for it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pandas as pd
import psycopg
import requests
import sqlalchemy
from psycopg import sql

from benchmarks.measure import Cost, Effort, alternately, cost_of
from benchmarks.results import OURS, Figure, Findings, Reading
from benchmarks.workplace import BenchmarkFailed, Workplace, server_clock, workplace
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.refresh import refresh_daily
from market_pipelines.pipeline.simulated import running_simulator
from market_pipelines.store.database import database_name
from market_pipelines.store.urls import sqlalchemy_url

SYMBOLS, YEARS = 500, 5
SCRIPT = "a loop with requests, pandas and `to_sql`"
METHOD = (
    "Yahoo's chart format from the simulator in its own process, without limits; PostgreSQL with fsync on; each "
    "repetition begins with an empty data folder. Ours is `refresh_daily`: six threads ask, every answer is archived "
    "and noted in the ledger, judged by all rules, its splits undone, its dividends and splits stored, agreed on and "
    "committed with coverage. The script asks one symbol after the other, makes a data frame of each answer and "
    "appends it to one table with `to_sql` through SQLAlchemy: no archive, no rules, no revisions, and a second run "
    "would store everything twice."
)


def run(effort: Effort) -> Findings:
    symbols = [f"INV{number:04}" for number in range(1, effort.of(SYMBOLS, 10) + 1)]
    now = datetime.now(UTC)
    calendar = trading_calendar("XNYS", now)
    last = calendar.last_closed(now)
    start = last - timedelta(days=365 * YEARS)
    rows = len(calendar.sessions(start, last)) * len(symbols)
    costs = alternately(
        {OURS: lambda: ours(symbols, start, last, rows), SCRIPT: lambda: script(symbols, start, last, rows)},
        effort.repetitions,
    )
    shape = f"{len(symbols)} symbols, {YEARS} years"
    return Findings(
        (
            Figure(f"{shape}, rows", "rows/s", "more", _rate(OURS, costs, rows), (_rate(SCRIPT, costs, rows),)),
            Figure(
                f"{shape}, requests",
                "requests/s",
                "more",
                _rate(OURS, costs, len(symbols)),
                (_rate(SCRIPT, costs, len(symbols)),),
            ),
        ),
        (f"{start} to {last}: {rows:,} rows. Simulator, PostgreSQL and the client share the machine's cores.",),
    )


def ours(symbols: list[str], start: date, end: date, rows: int) -> Cost:
    with workplace(more_listings=len(symbols)) as place, open_platform(place.settings) as platform:
        market = platform.market("us")
        instruments = [Instrument(symbol, "us", market.mic, market.currency) for symbol in symbols]
        cost = cost_of(lambda: refresh_daily(platform, market, instruments, start, end), server_clock(place.server))
        _expect(place, "market.stock_prices", rows)
        return cost


def script(symbols: list[str], start: date, end: date, rows: int) -> Cost:
    with workplace(more_listings=len(symbols)) as place:
        url = place.server.url(database_name(simulated=True))
        place.server.ensure_database(database_name(simulated=True))
        simulator = running_simulator(place.settings)
        engine = sqlalchemy.create_engine(sqlalchemy_url(url))
        cost = cost_of(lambda: _loop(f"{simulator}/yahoo", symbols, start, end, engine), server_clock(place.server))
        engine.dispose()
        _expect(place, "bars", rows)
        return cost


def _loop(base: str, symbols: list[str], start: date, end: date, engine: sqlalchemy.Engine) -> None:
    edges = [int(datetime.combine(day, time(), UTC).timestamp()) for day in (start, end + timedelta(days=1))]
    params = {"interval": "1d", "period1": str(edges[0]), "period2": str(edges[1]), "events": "div,splits"}
    for symbol in symbols:
        result = requests.get(f"{base}/v8/finance/chart/{symbol}", params=params, timeout=30).json()["chart"]["result"][
            0
        ]
        frame = pd.DataFrame(result["indicators"]["quote"][0])
        frame["session"] = pd.to_datetime(result["timestamp"], unit="s", utc=True).tz_convert("America/New_York").date
        frame["symbol"] = symbol
        frame.to_sql("bars", engine, if_exists="append", index=False)


def _expect(place: Workplace, table: str, rows: int) -> None:
    with psycopg.connect(place.server.url(database_name(simulated=True))) as connection:
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
        found = connection.execute(query).fetchone()
    stored = 0 if found is None else found[0]
    if abs(stored - rows) > rows // 100:
        raise BenchmarkFailed(f"{stored:,} rows were stored, of {rows:,}")


def _rate(who: str, costs: dict[str, list[Cost]], amount: int) -> Reading:
    mine = costs[who]
    rates = tuple(amount / cost.wall for cost in mine)
    middle = sorted(rates)[len(rates) // 2]
    return Reading(who, middle, rates, mine[0].client, mine[0].server)
