"""What most integration tests stand on: a simulator a module, a database and a house of real parts a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage

from market_pipelines import redaction
from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests import process_state
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house


@pytest.fixture(scope="module", autouse=True)
def no_instance_of_an_earlier_module() -> Iterator[None]:
    """Dagster remembers the last instance beside the definitions that it loads, also when that is long closed."""
    with set_defs_state_storage(None):
        yield


@pytest.fixture
def settings_of_this_machine_are_out_of_sight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nothing_of_a_command_stays_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    with process_state.logs_as_they_were():
        yield


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture
def house(
    settings_of_this_machine_are_out_of_sight: None,
    url: str,
    simulator: Simulator,
    tmp_path: Path,
) -> Iterator[House]:
    with opened_house(tmp_path / "home", url, simulator) as opened:
        yield opened
