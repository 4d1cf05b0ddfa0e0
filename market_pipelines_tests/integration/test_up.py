"""`up` and `down` as a user runs them: real processes, real PostgreSQL, real Dagster, the simulator."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests
from dagster import DagsterInstance

from market_pipelines.cli.dagster_client import DagsterClient
from market_pipelines.cli.dagster_home import (
    LOCATION,
    STORAGE_VARIABLE,
    storage_database,
    storage_in_schema,
    write_dagster_home,
)
from market_pipelines.cli.first_refresh import SESSIONS
from market_pipelines.cli.running import running_platform
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.serving import (
    START_SECONDS,
    STOP_SECONDS,
    Platform,
    environment,
    free_port,
    run,
    short_folder,
    until,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture(scope="module")
def platform(started_platform: Platform) -> Iterator[Platform]:
    yield started_platform
    started_platform.end()


@pytest.fixture
def serving(platform: Platform) -> Platform:
    """The platform, running and filled. A test that stopped it leaves it to the next to start again."""
    if platform.process.poll() is not None:
        platform.start()
    platform.wait_for("Ctrl-C stops everything")
    return platform


@pytest.mark.slow
class TestARunningPlatform:
    def test_it_fills_every_market_and_says_where_it_serves(self, serving: Platform) -> None:
        assert "every market is filled" in serving.said()
        assert f"http://127.0.0.1:{serving.port}" in serving.answered()
        assert "simulated" in serving.answered()
        for market in ("us", "pl"):
            partitions = serving.client().partitions([market, "stock_prices"], SESSIONS)
            assert partitions is not None
            assert partitions.filled == set(partitions.keys)
            assert len(partitions.filled) >= 30

    def test_what_it_filled_is_in_the_tables_and_marked_as_simulated(self, serving: Platform) -> None:
        url = EmbeddedServer(serving.home).url("market_pipelines_simulated")
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT market, count(DISTINCT session), bool_and(provider LIKE 'simulated-%') "
                "FROM market.stock_prices GROUP BY market ORDER BY market"
            ).fetchall()
        assert [(market, sessions >= 30, marked) for market, sessions, marked in rows] == [
            ("pl", True, True),
            ("us", True, True),
        ]

    def test_a_second_one_says_that_one_is_running_and_where(self, serving: Platform) -> None:
        second = run("up", *serving.options(), cwd=serving.folder)
        assert second.returncode == 1
        assert second.stdout == ""
        assert f"process {serving.process.pid}" in second.stderr
        assert f"http://127.0.0.1:{serving.port}" in second.stderr

    def test_a_taken_port_is_named_with_the_way_out(self, serving: Platform, tmp_path: Path) -> None:
        refused = run("up", "--home", str(tmp_path / "h"), "--dagster-port", str(serving.port), cwd=tmp_path)
        assert refused.returncode == 1
        assert f"Port {serving.port} is taken" in refused.stderr
        assert "--dagster-port" in refused.stderr
        assert list((tmp_path / "h" / "run").iterdir()) == []

    def test_a_child_that_dies_is_started_again(self, serving: Platform) -> None:
        serving.child("market_pipelines.orchestration.daemon").kill()
        serving.wait_for("dagster-daemon ended (signal SIGKILL) and is started again")
        until(
            lambda: any(
                "market_pipelines.orchestration.daemon" in " ".join(found.cmdline()) for found in serving.processes()
            ),
            serving.said,
        )

    def test_a_database_that_is_killed_is_started_again(self, serving: Platform) -> None:
        next(found for found in serving.processes() if found.name() == "postgres").kill()
        serving.wait_for("PostgreSQL ended and is started again")
        until(lambda: EmbeddedServer(serving.home).running(), serving.said)
        until(lambda: serving.client().partitions(["us", "stock_prices"], 1) is not None, serving.said, START_SECONDS)

    def test_killed_hard_it_leaves_no_children_and_the_next_one_goes_on(self, serving: Platform) -> None:
        serving.process.kill()
        serving.process.wait()
        until(
            lambda: all(found.name() == "postgres" for found in serving.processes()),
            lambda: "\n".join(" ".join(found.cmdline()) for found in serving.processes()),
        )
        assert running_platform(serving.home) is None
        serving.start()
        serving.wait_for("us: the last 40 sessions of stock_prices are there already")
        serving.wait_for("pl: the last 5 sessions of stock_prices_intraday are there already")

    def test_down_stops_it_and_leaves_nothing(self, serving: Platform) -> None:
        stopped = run("down", "--home", str(serving.home), cwd=serving.folder)
        assert stopped.returncode == 0
        assert "stopped" in stopped.stderr
        assert serving.process.wait(STOP_SECONDS) == 0
        assert serving.processes() == []
        assert list((serving.home / "run").iterdir()) == []
        assert "nothing runs" in run("down", "--home", str(serving.home), cwd=serving.folder).stderr

    def test_a_signal_during_a_run_cancels_it_and_leaves_nothing(self, serving: Platform) -> None:
        client = serving.client()
        location = client.location(LOCATION)
        partitions = client.partitions(["us", "stock_prices"], 2000)
        assert location is not None
        assert partitions is not None
        span = {
            "dagster/asset_partition_range_start": min(partitions.keys),
            "dagster/asset_partition_range_end": max(partitions.keys),
        }
        launched = client.launch(location, "us_daily_refresh", span)
        until(lambda: client.status(launched) == "STARTED", serving.said)
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(STOP_SECONDS) == 0
        assert "cancelling 1 runs in progress" in serving.said()
        assert serving.processes() == []
        assert list((serving.home / "run").iterdir()) == []

        with (
            EmbeddedServer(serving.home) as server,
            psycopg.connect(server.url(storage_database(simulated=True))) as connection,
        ):
            told = connection.execute("SELECT status FROM runs WHERE run_id = %s", (launched,)).fetchone()
        assert told == ("CANCELED",)


class TestAStartThatCannotSucceed:
    def test_a_database_that_does_not_answer_is_one_sentence(self, tmp_path: Path) -> None:
        url = f"postgresql://me:hunter2hunter2@127.0.0.1:{free_port()}/market"
        refused = run("up", "--dagster-port", str(free_port()), cwd=tmp_path, DATABASE_URL=url)
        assert refused.returncode == 1
        assert "127.0.0.1" in refused.stderr
        assert "hunter2" not in refused.stderr
        assert "Traceback" not in refused.stderr

    def test_a_data_folder_of_another_version_is_refused_and_kept(self, folder: Path) -> None:
        with EmbeddedServer(folder / "h") as server:
            version = _data_folder(server) / "PG_VERSION"
        version.write_text("12\n")
        refused = run("up", "--home", str(folder / "h"), "--dagster-port", str(free_port()), cwd=folder)
        assert refused.returncode == 1
        assert "12" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert version.read_text() == "12\n"

    def test_a_data_folder_that_cannot_be_made_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        refused = run("up", "--home", str(tmp_path / "file" / "h"), cwd=tmp_path)
        assert refused.returncode == 1
        assert "--home" in refused.stderr
        assert "Traceback" not in refused.stderr

    def test_a_full_disk_is_refused_before_anything_is_started(self, tmp_path: Path) -> None:
        refused = _up_in_python(
            "from market_pipelines.store import disk; disk.DiskFloor.shortage = lambda *_: 'the disk is full'",
            tmp_path,
        )
        assert "UpError: the disk is full" in refused.stderr
        assert not (tmp_path / "h" / "postgres").exists()

    @pytest.mark.slow
    def test_definitions_that_cannot_be_loaded_are_shown_and_nothing_is_left(self, folder: Path) -> None:
        refused = _up_in_python("", folder, definitions="no_such_definitions")
        assert "no_such_definitions" in refused.stderr
        assert str(folder / "h" / "logs") in refused.stderr
        assert list((folder / "h" / "run").iterdir()) == []
        assert not EmbeddedServer(folder / "h").running()


def _data_folder(server: EmbeddedServer) -> Path:
    with psycopg.connect(server.url("postgres")) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0])


def _up_in_python(
    before: str, folder: Path, definitions: str = "market_pipelines.definitions"
) -> subprocess.CompletedProcess[str]:
    program = (
        f"{before}\n"
        "from market_pipelines.cli.up import UpOptions, up\n"
        "from market_pipelines.settings import read_settings\n"
        "settings = read_settings(None, market_pipelines_home='h', market_pipelines_simulator='off')\n"
        f"up(settings, UpOptions({free_port()}, {definitions!r}), print, print)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    return ended


def test_ports_of_what_is_not_served_yet_are_accepted_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = run("up", "--api-port", "8000", "--gateway-port", "8765", "--home", str(tmp_path / "file"), cwd=tmp_path)
    assert "serves no API, dashboard or gateway yet" in said.stderr


def test_in_an_external_database_dagster_keeps_to_a_schema_of_its_own(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_server.create(migrated=False)
    try:
        monkeypatch.setenv(STORAGE_VARIABLE, storage_in_schema(url))
        monkeypatch.setenv("DAGSTER_HOME", str(write_dagster_home(tmp_path).folder))
        with DagsterInstance.get() as instance:
            assert instance.get_runs() == []
            assert not instance.telemetry_enabled
        with psycopg.connect(url) as connection:
            schemas = connection.execute(
                "SELECT DISTINCT table_schema FROM information_schema.tables "
                "WHERE table_name IN ('runs', 'event_logs', 'jobs')"
            ).fetchall()
        assert schemas == [("dagster",)]
    finally:
        postgres_server.drop(url)


def test_no_password_is_written_into_the_dagster_home(tmp_path: Path) -> None:
    home = write_dagster_home(tmp_path)
    text = "".join(path.read_text() for path in home.folder.iterdir())
    assert "postgresql://" not in text
    assert re.search(rf"env: {STORAGE_VARIABLE}", text)


def test_a_long_data_folder_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    home = write_dagster_home(deep)
    assert len(os.fsencode(home.socket)) < 100
    home.remove_socket()
    assert not home.socket.parent.exists()


def test_a_page_that_is_not_there_is_not_a_location() -> None:
    assert DagsterClient(f"http://127.0.0.1:{free_port()}").location(LOCATION) is None
    with pytest.raises(requests.ConnectionError):
        DagsterClient(f"http://127.0.0.1:{free_port()}").runs_in_progress()
