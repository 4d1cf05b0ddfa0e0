"""A run that hosts a stream: launched by Dagster in a process of its own, watched, and terminated from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.events import DagsterEventType
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import BaseWorkspaceRequestContext, WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget

from market_pipelines.definitions import defs
from market_pipelines.orchestration import realtime
from market_pipelines.pipeline.stream_watch import Watched, watch
from market_pipelines.settings import Settings, read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database, DatabaseUnavailable
from market_pipelines.store.streams import Claim, Report, StreamRow, StreamState, acquire, renew, stream_row
from market_pipelines.streaming.entries import Format, MarkKind, mark_of
from market_pipelines.streaming.journal import JournalReader

TRADES = dg.AssetKey(["us", "realtime_trades"])
PATIENCE = 90.0


@pytest.fixture(scope="module", autouse=True)
def job() -> dg.JobDefinition:
    """Loaded before any instance is opened, which Dagster would remember beside it."""
    return defs().get_repository_def().get_job("us_realtime")


@pytest.fixture
def home(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    with Simulator() as running:
        for variable, address in running.base_urls().items():
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        monkeypatch.setenv("DATABASE_URL", fresh_database.url)
        monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
        yield tmp_path / "home"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}}), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


@pytest.fixture
def workspace(home: Path, instance: dg.DagsterInstance) -> Iterator[BaseWorkspaceRequestContext]:
    target = ModuleTarget("market_pipelines.definitions", None, None, "market_pipelines")
    with WorkspaceProcessContext(instance, target) as process:
        yield process.create_request_context()


def config(**more: Any) -> dict[str, Any]:
    until = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    return {
        "ops": {"us_stream_of_session": {"config": {"symbols": ["AAPL", "IBM"], "until": until, **more}}},
        "resources": {"stream": {"config": {"report_every_seconds": 2.0}}},
    }


def launch(instance: dg.DagsterInstance, workspace: BaseWorkspaceRequestContext) -> str:
    location = workspace.get_code_location("market_pipelines")
    (repository,) = location.get_repositories().values()
    job = repository.get_full_job("us_realtime")
    run: dg.DagsterRun = create_run_for_test(
        instance,
        job_name="us_realtime",
        run_config=config(),
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
    )
    instance.launch_run(run.run_id, workspace)
    return run.run_id


def wait_for(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def status_of(database: Database) -> StreamRow | None:
    with database.connection() as connection:
        return stream_row(connection, "us-polygon")


def events_of(instance: dg.DagsterInstance, run_id: str, kind: DagsterEventType) -> int:
    return len(instance.all_logs(run_id, of_type=kind))


def marks(home: Path) -> list[MarkKind]:
    reader = JournalReader(home / "simulated" / "journal" / "us-polygon")
    try:
        found, after = [], 0
        while batches := reader.read(after):
            found += [mark_of(body).kind for batch in batches if batch.format is Format.MARK for body in batch.bodies]
            after = batches[-1].last
        return found
    finally:
        reader.close()


def test_a_run_that_is_terminated_drains_and_leaves_no_process_no_lease_and_a_stopped_mark(
    home: Path, fresh_database: Database, instance: dg.DagsterInstance, workspace: BaseWorkspaceRequestContext
) -> None:
    run_id = launch(instance, workspace)

    def streams() -> bool:
        row = status_of(fresh_database)
        return row is not None and row.running and int(row.counters.get("events") or 0) > 0

    wait_for(streams)
    row = status_of(fresh_database)
    assert row is not None
    assert (row.hosted_by, row.run_id) == ("dagster", run_id)
    wait_for(lambda: events_of(instance, run_id, DagsterEventType.ASSET_OBSERVATION) >= 2)
    worker = psutil.Process(row.pid)
    children = worker.children(recursive=True)

    assert instance.run_launcher.terminate(run_id)
    wait_for(lambda: _status(instance, run_id) is dg.DagsterRunStatus.CANCELED)

    gone, alive = psutil.wait_procs([worker, *children], timeout=30)
    assert gone
    assert alive == []
    ended = status_of(fresh_database)
    assert ended is not None
    assert (ended.state, ended.valid) == (StreamState.STOPPED, False)
    assert ended.detail == "asked to stop by a signal"
    told = marks(home)
    assert (told[0], told[-1]) == (MarkKind.STARTED, MarkKind.STOPPED)
    assert events_of(instance, run_id, DagsterEventType.ASSET_MATERIALIZATION) == 2
    record = instance.get_latest_materialization_event(TRADES)
    assert record is not None
    assert record.asset_materialization is not None
    total = record.asset_materialization.metadata["events"].value
    with fresh_database.connection() as connection:
        stored = connection.execute("SELECT sum(rows) FROM market.tick_segments").fetchone()
    assert stored is not None
    # Beside ticks a stream counts what its connection said of itself.
    assert 0 < stored[0] <= total <= stored[0] + 20


def _status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus | None:
    run = instance.get_run_by_id(run_id)
    return None if run is None else run.status


def test_a_run_ends_by_itself_when_its_time_is_over_though_the_database_was_away_for_a_moment(
    home: Path, fresh_database: Database, job: dg.JobDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def away_at_first(*asked: Any) -> Watched:
        looks.append(1)
        if len(looks) == 1:
            raise DatabaseUnavailable("no connection")
        return watch(*asked)

    monkeypatch.setattr(realtime, "watch", away_at_first)
    until = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    with dg.instance_for_test() as instance:
        result = job.execute_in_process(instance=instance, run_config=config(until=until))
        assert result.success
        assert {event.asset_key for event in result.get_asset_materialization_events()} == {
            TRADES,
            dg.AssetKey(["us", "realtime_quotes"]),
        }
    ended = status_of(fresh_database)
    assert ended is not None
    assert ended.state is StreamState.STOPPED
    assert "its time was over" in ended.detail
    assert len(looks) > 1
    assert marks(home)[-1] is MarkKind.STOPPED


def test_a_lease_that_somebody_else_holds_fails_the_run_and_names_them(
    home: Path, fresh_database: Database, job: dg.JobDefinition
) -> None:
    claim = Claim(
        stream="us-polygon",
        market="us",
        feed="polygon",
        asset_class="stocks",
        provider="simulated-polygon",
        holder="elsewhere:7:a",
        host="elsewhere",
        pid=7,
        hosted_by="process",
        run_id=None,
        journal="other",
    )
    with fresh_database.connection() as connection:
        assert acquire(connection, claim) is None
        renew(connection, "us-polygon", claim.holder, Report(state=StreamState.LIVE), seconds=600)
    with dg.instance_for_test() as instance:
        result = job.execute_in_process(instance=instance, run_config=config(), raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    reason = failure.step_failure_data.user_failure_data
    assert reason is not None
    assert "process 7 on elsewhere" in (reason.description or "")
    holder = status_of(fresh_database)
    assert holder is not None
    assert holder.holder == "elsewhere:7:a"
    assert read_settings().home == home
