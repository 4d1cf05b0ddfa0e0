"""A jump that looks like a split nobody has reported is a question to the other providers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from market_pipelines.pipeline.suspicion import suspected_splits
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.reference import read_actions
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house, untrue_rows

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

SPLIT = date(2020, 8, 31)
TWO_DAYS_LATER = datetime(2020, 9, 2, 22, 0, tzinfo=UTC)
AROUND = date(2020, 7, 1), date(2020, 9, 2)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=TWO_DAYS_LATER) as opened:
        yield opened
    postgres_server.drop(url)


def splits(house: House) -> list[tuple[date, float]]:
    with house.platform.database.connection() as connection:
        return [(one.ex_date, one.value) for one in read_actions(connection, "us", ["AAPL"]) if one.kind == "split"]


def test_a_split_that_the_first_provider_misses_is_learnt_from_another(house: House, simulator: Simulator) -> None:
    simulator.faults.add_all([f"yahoo.missed_split={SPLIT}@AAPL"])
    house.refresh(["AAPL", "MSFT"], *AROUND)
    assert splits(house) == [(SPLIT, 4.0)]
    assert untrue_rows(house) == []


def test_who_does_not_jump_is_not_asked_about(house: House) -> None:
    house.refresh(["AAPL", "MSFT"], *AROUND)
    market = house.platform.market("us")
    assert suspected_splits(house.platform, market, market.instruments, *AROUND) == ()
