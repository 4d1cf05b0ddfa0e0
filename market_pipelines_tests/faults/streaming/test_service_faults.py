"""The service killed, asked to end, left without its database: what was durable is stored once, and holes are rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from market_pipelines.simulator.server import Simulator
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.stream_gaps import GapStatus
from market_pipelines.store.streams import StreamState
from market_pipelines.streaming.journal import JournalReader
from market_pipelines.streaming.service import journal_folder
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.streaming import dying_stream
from market_pipelines_tests.faults.streaming.live import (
    PATIENCE,
    PLAN,
    Desk,
    environment,
    opened_desk,
    until,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture
def desk(simulator: Simulator, url: str, tmp_path: Path) -> Iterator[Desk]:
    with opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened


@pytest.fixture
def variables(desk: Desk, url: str) -> Mapping[str, str]:
    home = desk.platform.settings.home
    return {**os.environ, **environment(home, desk.simulator, url), "PYTHONPATH": str(ROOT)}


def command(variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """`stream run` as people start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "market_pipelines.cli", "stream", "run", "--feed", "both"],
        env={**variables, "LOG_LEVEL": "WARNING"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def journal_end(desk: Desk) -> int:
    reader = JournalReader(journal_folder(desk.platform, PLAN.name))
    try:
        return reader.last
    finally:
        reader.close()


def assert_whole(desk: Desk, began: datetime, ended: datetime) -> None:
    stored = desk.stored()
    assert set(stored.values()) == {1}, "nothing is there twice"
    missing = sorted((str(at), tick) for tick, at in desk.truth(began, ended).items() if tick not in stored)
    assert not missing, [f"{one.cause} {one.begins_at} {one.ends_at} {one.status.value}" for one in desk.gaps()]


def test_sigterm_drains_and_a_kill_is_a_gap_from_the_last_durable_entry_that_history_fills(
    desk: Desk, variables: Mapping[str, str]
) -> None:
    with command(variables) as process:
        until(lambda: desk.is_live() and sum(desk.stored().values()) > 50, "rows in the lake")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=25)
    assert (process.returncode, out) == (0, ""), err
    row = desk.row()
    assert (row.state, row.detail) == (StreamState.STOPPED, "asked to stop by a signal")
    assert {sink["position"] for sink in row.sinks} == {journal_end(desk)}, "every sink has all of the journal"

    with command(variables) as process:
        until(lambda: desk.row().pid == process.pid and desk.is_live(), "it is live again")
        stored = sum(desk.stored().values())
        until(lambda: sum(desk.stored().values()) > stored + 100, "rows in the lake")
        began = datetime.now(UTC) - timedelta(seconds=1)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    reader = JournalReader(journal_folder(desk.platform, PLAN.name))
    last = reader.read(reader.last - 1)[-1]
    reader.close()
    with desk.streaming():
        until(
            lambda: [gap.status for gap in desk.gaps() if gap.cause == "crashed"] == [GapStatus.FILLED],
            "history has filled it",
        )
        ended = datetime.now(UTC) - timedelta(seconds=1)
    (crashed,) = [gap for gap in desk.gaps() if gap.cause == "crashed"]
    assert crashed.begins_at == datetime.fromtimestamp(int(last.received[-1]) // 1000 / 1e6, UTC)
    assert crashed.symbols is None
    assert_whole(desk, began, ended)


def test_killed_at_any_step_it_heals_and_stores_everything_once(desk: Desk, variables: Mapping[str, str]) -> None:
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 50, "rows in the lake")
        began = datetime.now(UTC) - timedelta(seconds=1)
    for point in dying_stream.POINTS:
        killed = subprocess.run(
            [sys.executable, "-m", dying_stream.__name__, point],
            env={**variables, "LOG_LEVEL": "WARNING"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, f"{point}: {killed.stderr}"
        assert set(desk.stored().values()) == {1}, point
    restarted = datetime.now(UTC)
    with desk.streaming():
        until(
            lambda: (
                (gaps := desk.gaps())[-1].recorded_at > restarted
                and all(gap.status is GapStatus.FILLED for gap in gaps)
            ),
            "every gap is filled",
        )
        ended = datetime.now(UTC) - timedelta(seconds=1)
    assert_whole(desk, began, ended)


def test_without_its_database_it_goes_on_and_the_database_gets_everything_later(simulator: Simulator) -> None:
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        server = EmbeddedServer(home, fsync=False)
        server.start(keep=True)
        try:
            server.ensure_database("live")
            with opened_desk(home, simulator, server.url("live")) as desk, desk.streaming() as running:
                until(lambda: sum(desk.stored().values()) > 50, "rows in the lake")
                began, end_of_journal = datetime.now(UTC) - timedelta(seconds=1), journal_end(desk)
                server.stop(force=True)
                until(lambda: journal_end(desk) > end_of_journal + 60, "the journal grows without the database")
                assert not running.ended()
                server.start(keep=True)
                stopped_at = journal_end(desk)
                until(lambda: lake_position(desk) > stopped_at, "the lake has caught up")
                ended = datetime.now(UTC) - timedelta(seconds=1)
                until(lambda: desk.row().running, "the lease is renewed")
                assert_whole(desk, began, ended)
                assert desk.gaps() == [], "nothing was missed"
        finally:
            server.stop(force=True)


def lake_position(desk: Desk) -> int:
    return max((int(sink["position"]) for sink in desk.row().sinks if sink["sink"] == "lake"), default=0)


def test_nothing_that_a_run_writes_shows_the_key(desk: Desk, variables: Mapping[str, str]) -> None:
    desk.simulator.faults.replace(["polygon.ws_auth_failed=on"])
    secret = "s3cretPolygonKey-9876"
    with command({**variables, "POLYGON_API_KEY": secret, "MARKET_PIPELINES_SIMULATOR": "off"}) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4, err
    assert "the provider refuses the key" in err
    assert secret not in out + err
    for path in desk.platform.settings.home.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
