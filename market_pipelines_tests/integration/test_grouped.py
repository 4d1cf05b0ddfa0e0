"""A whole session in one call, where a provider sells it and that is less to ask."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from market_pipelines import redaction
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.reparse import reparse
from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house, untrue_rows

TUESDAY, WEDNESDAY = date(2025, 6, 10), date(2025, 6, 11)
SYMBOLS = ["AAPL", "BRK.B", "KO", "MSFT", "SPY"]


@pytest.fixture
def house(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)
    url = postgres_server.create()
    with Simulator() as simulator, opened_house(tmp_path / "home", url, simulator) as opened:
        yield opened
    postgres_server.drop(url)


def asked(house: House) -> list[str]:
    return [request.target.partition("?")[0] for request in house.simulator.requests.newest("polygon")]


def test_two_sessions_of_five_symbols_take_two_calls(house: House) -> None:
    results = house.refresh(SYMBOLS, TUESDAY, WEDNESDAY, providers=["polygon"])
    assert {(one.outcome.value, one.rows) for one in results.values()} == {("ok", 2)}
    assert sum(one.requests for one in results.values()) == 2
    assert all("/grouped/" in path for path in asked(house))
    assert untrue_rows(house) == []


def test_a_year_of_two_symbols_takes_a_call_each(house: House) -> None:
    results = house.refresh(["AAPL", "KO"], date(2024, 6, 11), WEDNESDAY, providers=["polygon"])
    assert [one.requests for one in results.values()] == [1, 1]
    assert not any("/grouped/" in path for path in asked(house))


def test_a_plan_without_whole_sessions_is_asked_symbol_by_symbol(house: House) -> None:
    house.simulator.faults.add("polygon.status=403#1")
    results = house.refresh(SYMBOLS, WEDNESDAY, WEDNESDAY, providers=["polygon"])
    assert {(one.outcome.value, one.rows) for one in results.values()} == {("ok", 1)}
    assert len(asked(house)) == 1 + len(SYMBOLS) == sum(one.requests for one in results.values())


def test_the_archived_session_rebuilds_the_bars(house: House) -> None:
    house.refresh(SYMBOLS, WEDNESDAY, WEDNESDAY, providers=["polygon"])
    before = house.prices("KO")
    with house.platform.database.connection() as connection:
        connection.execute("TRUNCATE market.provider_bars, market.stock_prices")
    market = house.platform.market("us")
    reparse(house.platform, market, instruments_of(market, SYMBOLS))
    assert house.prices("KO")["close"].tolist() == before["close"].tolist()
    assert len(house.rows("SELECT 1 FROM market.stock_prices")) == len(SYMBOLS)
