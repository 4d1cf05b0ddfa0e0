"""R7: one process streams. A second one is refused; one that stood still for longer than its lease lasts writes
nothing any more once somebody else has taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from market_pipelines.pipeline.ticks import LAKE_FOLDER
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.stream_cursors import read_cursor
from market_pipelines.store.streams import StreamState
from market_pipelines.streaming.lease import StreamHeld
from market_pipelines.streaming.sinks.build import IN_DATABASE
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.streaming import stalled_stream
from market_pipelines_tests.faults.streaming.live import PATIENCE, PLAN, Desk, environment, opened_desk, until

ROOT = Path(__file__).resolve().parents[3]
LEASE_SECONDS = 1.5


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture
def desk(simulator: Simulator, url: str, tmp_path: Path) -> Iterator[Desk]:
    with opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened


def elsewhere(desk: Desk, home: Path) -> Desk:
    """Another machine: a home and journals of its own, the same database, and the lake on a disk that both reach."""
    home.mkdir()
    (home / LAKE_FOLDER).symlink_to(desk.platform.settings.home / LAKE_FOLDER)
    settings = desk.platform.settings.model_copy(update={"market_pipelines_home": home})
    settings.__dict__.pop("home", None)
    return Desk(replace(desk.platform, settings=settings), desk.simulator)


@contextmanager
def process(desk: Desk, url: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    variables: Mapping[str, str] = {
        **os.environ,
        **environment(desk.platform.settings.home, desk.simulator, url),
        "PYTHONPATH": str(ROOT),
        "LOG_LEVEL": "INFO",
    }
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def rows(desk: Desk) -> int:
    return sum(desk.stored().values())


def test_a_second_process_is_refused_and_told_who_streams(desk: Desk, url: str) -> None:
    command = ("market_pipelines.cli", "stream", "run", "--feed", "polygon", "--symbols", "AAPL,MSFT")
    with process(desk, url, *command) as first:
        until(lambda: first.poll() is not None or desk.is_live(), "the first one streams")
        with process(desk, url, *command) as second:
            _, said = second.communicate(timeout=PATIENCE)
        assert second.returncode not in (0, None)
        assert f"is being streamed already by process {first.pid} on" in " ".join(said.split())
        assert desk.row().pid == first.pid
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=PATIENCE)
        assert first.returncode == 0, said


def test_who_stood_still_for_longer_than_its_lease_writes_nothing_after_the_takeover(
    desk: Desk, url: str, tmp_path: Path
) -> None:
    other = elsewhere(desk, tmp_path / "another home")
    with process(desk, url, stalled_stream.__name__, str(LEASE_SECONDS)) as first:
        until(lambda: first.poll() is not None or (desk.is_live() and rows(desk) > 20), "rows in the lake")
        first.send_signal(signal.SIGSTOP)
        refused = other.started()
        until(refused.ended, "refused while the lease is valid")
        assert isinstance(refused.error, StreamHeld)
        until(lambda: not desk.row().running, "the lease has run out")
        left = rows(desk)
        with other.streaming():
            until(lambda: rows(desk) > left + 20, "the second one stores")
            ours = desk.row().journal
            first.send_signal(signal.SIGCONT)
            _, said = first.communicate(timeout=PATIENCE)
            assert first.returncode == stalled_stream.LOST, said
            assert "has been taken over by" in said
            with desk.platform.database.connection() as connection:
                for sink in IN_DATABASE:
                    newest = read_cursor(connection, PLAN.name, sink)
                    assert newest is not None and newest[0] == ours
            now = rows(desk)
            until(lambda: rows(desk) > now, "the second one goes on")
            assert desk.row().journal == ours
        assert set(desk.stored().values()) == {1}, "nothing is there twice"
    assert desk.row().state is StreamState.STOPPED


def test_two_machines_that_stream_in_turns_store_nothing_twice(desk: Desk, tmp_path: Path) -> None:
    other = elsewhere(desk, tmp_path / "another home")
    for place in (desk, other, desk, other):
        before = rows(desk)
        with place.streaming():
            until(lambda before=before: rows(desk) > before + 20, "rows in the lake")  # type: ignore[misc]
    assert set(desk.stored().values()) == {1}
