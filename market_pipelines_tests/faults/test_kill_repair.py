"""A repair that is killed in the middle heals on the next run, and a large market never gets more than its budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.market.bars import AVAILABLE, MISSING
from market_pipelines.market.definition import MarketDefinition, RepairPlan
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.holes import find_holes
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.refresh import refresh_daily
from market_pipelines.pipeline.repair import repair
from market_pipelines.settings import read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.holes import read_holes
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.dying import Point, deadly, owner_of
from market_pipelines_tests.faults.house import House, HttpByTheClock, opened_house, untrue_rows

EVENING = datetime(2025, 6, 12, 23, 0, tzinfo=UTC)
SPAN = date(2025, 5, 14), date(2025, 6, 12)
SYMBOLS = ("AAPL", "MSFT", "KO", "JPM", "XOM", "IBM")
DAYS = {symbol: SPAN[0] + timedelta(days=6 + at) for at, symbol in enumerate(SYMBOLS[:3])}
"""Tuesday to Thursday: three symbols with a hole each, of which each is a batch."""
ROOT = Path(__file__).resolve().parents[2]

POINTS = {
    "before anything is asked": Point("market_pipelines.pipeline.repair._ask", True),
    "after an answer is archived": Point("market_pipelines.store.archive.RawArchive.put", False, 2),
    "after provider bars are committed, before they are settled": Point(
        "market_pipelines.pipeline.pull.keep_attempts", False, 2
    ),
    "after prices, before their commit": Point("market_pipelines.pipeline.settle.write_coverage", False, 2),
    "after a batch is stored, before the ledger of holes": Point("market_pipelines.pipeline.repair._learn", True, 2),
    "between two batches": Point("market_pipelines.pipeline.repair._learn", False, 2),
}


def market_of(market: MarketDefinition) -> MarketDefinition:
    instruments = tuple(one for one in market.instruments if one.symbol in SYMBOLS)
    return replace(market, instruments=instruments, indices=(), intraday=None, repair=RepairPlan())


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=EVENING) as opened:
        yield opened
    postgres_server.drop(url)


@pytest.mark.parametrize("point", POINTS)
def test_a_repair_killed_anywhere_heals_on_the_next_run(point: str, house: House) -> None:
    market = market_of(house.platform.market("us"))
    house.simulator.faults.replace(
        [f"{provider}.missing_rows={day}@{symbol}" for provider in market.providers for symbol, day in DAYS.items()]
    )
    refresh_daily(house.platform, market, market.everything, *SPAN)
    house.simulator.faults.clear()
    find_holes(house.platform, market)
    house.clock.set(EVENING + timedelta(hours=1))
    killed = subprocess.run(
        [sys.executable, "-m", __name__, point],
        input=json.dumps({"now": house.clock().isoformat()}),
        env={
            **os.environ,
            **house.simulator.base_urls(),
            "MARKET_PIPELINES_HOME": str(house.platform.settings.home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "DATABASE_URL": house.platform.database.url,
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert untrue_rows(house) == []
    house.clock.set(EVENING + timedelta(hours=2))
    done = repair(house.platform, market)
    assert done.stopped == "", "the killed one holds nothing any more"
    with house.platform.database.connection() as connection:
        assert read_holes(connection, "us") == []
    for symbol, day in DAYS.items():
        assert day in house.prices(symbol).index
    assert untrue_rows(house) == []


# --- a large market -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_five_hundred_symbols_with_sixty_sessions_of_holes_stay_within_the_budget(house: House) -> None:
    """Shares that nobody has ever heard of: whatever is asked, it was for nothing."""
    symbols = [f"ZZ{number:03}" for number in range(500)]
    market = replace(
        market_of(house.platform.market("us")),
        providers=("yahoo",),
        instruments=tuple(Instrument(symbol, "us", "XNYS", "USD") for symbol in symbols),
    )
    sessions = trading_calendar("XNYS", EVENING).sessions(date(2025, 1, 2), date(2025, 6, 12))[-60:]
    with house.platform.database.connection() as connection:
        # Of every session each sixth symbol is missing, so that no session is an incident.
        connection.execute(
            """
            INSERT INTO market.coverage (market, interval, symbol, session, condition, last_checked)
            SELECT 'us', '1d', s.symbol, d.session,
                   CASE WHEN (s.at + d.at) %% 6 = 0 THEN %(missing)s ELSE %(available)s END, %(at)s
            FROM unnest(%(symbols)s::text[]) WITH ORDINALITY AS s (symbol, at)
            CROSS JOIN unnest(%(sessions)s::date[]) WITH ORDINALITY AS d (session, at)
            """,
            {
                "missing": MISSING,
                "available": AVAILABLE,
                "at": EVENING - timedelta(hours=2),
                "symbols": symbols,
                "sessions": list(sessions),
            },
        )
    outlook = find_holes(house.platform, market)
    assert (outlook.holes, outlook.incidents) == (5000, 0)
    budget, total = market.repair.symbols_a_run, 0
    for number in range(24):
        house.clock.set(EVENING + timedelta(hours=1, minutes=10 * number))
        house.simulator.requests.clear()
        report = repair(house.platform, market)
        assert report.requests == house.simulator.requests.count() <= budget
        total += report.requests
    assert total == 500, "every symbol once, with all of its holes in one range"
    house.clock.set(EVENING + timedelta(days=6))
    house.simulator.requests.clear()
    repair(house.platform, market)
    assert house.simulator.requests.count() <= budget, "the two sessions since then, and nothing of before"


def main() -> None:
    now = datetime.fromisoformat(json.loads(sys.stdin.read())["now"])
    point = POINTS[sys.argv[1]]
    owner, name = owner_of(point.where)
    with (
        patch.object(owner, name, deadly(getattr(owner, name), point)),
        open_platform(read_settings(env_file=None), lambda: now) as opened,
        HttpByTheClock(lambda: now) as http,
    ):
        repair(replace(opened, http=http), market_of(opened.market("us")))


if __name__ == "__main__":
    main()
