"""Dagster's daemon in the test's own process, one look at a time: the real scheduler, sensors and run queue.

Time is what `time_machine` says it is; nothing here sleeps. Runs are executed where they are launched, so when
`look` returns, everything that was due has been done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import dagster as dg
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import ScheduleIterationTimes, launch_scheduled_runs

from market_pipelines.cli.dagster_home import BATCHES
from market_pipelines.cli.dagster_home import instance as instance_config

_log = logging.getLogger("daemon")


@contextmanager
def instance_on(folder: Path, url: str) -> Iterator[dg.DagsterInstance]:
    """The instance that `up` writes, on a database of the test, but runs are executed in this process."""
    folder.mkdir(parents=True)
    address = urlsplit(url)._replace(scheme="postgresql+psycopg2").geturl()
    config = instance_config(2)
    for storage in ("run_storage", "event_log_storage", "schedule_storage"):
        config[storage]["config"] = {"postgres_url": address}
    config["run_launcher"] = {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    }
    config["run_monitoring"] = {"enabled": False}
    # Nobody reads what the runs print, and catching it starts two processes for each of them.
    config["compute_logs"] = {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with patch.dict(os.environ, BATCHES), dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


class Daemon:
    def __init__(self, workspace: WorkspaceProcessContext, queue: QueuedRunCoordinatorDaemon) -> None:
        self._workspace = workspace
        self._queue = queue
        self._schedule_times: dict[str, ScheduleIterationTimes] = {}
        self._scheduled: dict[str, Future[Any]] = {}
        self._sensed: dict[str, Future[Any]] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._workspace.instance

    def look(self) -> None:
        """Schedules, then sensors, then the queue until it is empty: what a daemon does all the time."""
        self._pass(
            launch_scheduled_runs(
                self._workspace,
                _log,
                end_datetime_utc=datetime.now(UTC),
                iteration_times=self._schedule_times,
            )
        )
        self._pass(execute_sensor_iteration(self._workspace, _log, None, None))
        self.drain()

    def drain(self) -> None:
        while self.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            self._pass(self._queue.run_iteration(self._workspace))

    @staticmethod
    def _pass(iteration: Any) -> None:
        for found in iteration:
            if found is not None and hasattr(found, "to_string"):
                raise AssertionError(found.to_string())


@contextmanager
def lending(instance: dg.DagsterInstance) -> Iterator[None]:
    """Every look at a schedule or a sensor opens an instance of its own, a tenth of all that a look takes: here they
    are lent the daemon's."""
    with patch.object(dg.DagsterInstance, "from_ref", lambda _ref: nullcontext(instance)):
        yield


@contextmanager
def daemon_of(instance: dg.DagsterInstance, module: str, attribute: str = "defs") -> Iterator[Daemon]:
    origin = InProcessCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(module_name=module, attribute=attribute),
        location_name="market_pipelines",
    )
    with (
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as workspace,
        QueuedRunCoordinatorDaemon(interval_seconds=1) as queue,
        lending(instance),
    ):
        yield Daemon(workspace, queue)
