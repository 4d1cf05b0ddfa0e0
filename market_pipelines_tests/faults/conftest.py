"""What every fault test may ask for: a simulator, and a house on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from market_pipelines import redaction
from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests import process_state
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house


@pytest.fixture(autouse=True)
def settings_of_this_machine_are_out_of_sight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, address or `.env` of whoever runs the tests, and no secret that an earlier test registered."""
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def logs_are_set_up_for_one_test_only() -> Iterator[None]:
    with process_state.logs_as_they_were():
        yield


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator) as opened:
        yield opened
    postgres_server.drop(url)
