"""The files that Dagster reads under `up`: its instance and where it finds our code.

They are written anew at every start, so they always fit the database and the release that run. A plain
`dagster dev` uses the `workspace.yaml` and `dagster.yaml` of the repository instead.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
import yaml
from psycopg import sql

from market_pipelines.pipeline.markets import read_markets
from market_pipelines.settings import Settings, StreamHost

STORAGE_VARIABLE = "MARKET_PIPELINES_DAGSTER_STORAGE"
"""Carries the address of Dagster's storage to its processes: in a file it would be a password at rest."""

BATCHES = {"DAGSTER_EVENT_BATCH_SIZE": "250"}
"""For the environment of Dagster's processes. Undocumented: how many events of one kind are written together, which
halves the time of a run over a range of partitions."""

ONE_A_LANE = {"key": "market_pipelines/lane", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
"""Runs of one lane write the same tables; a second one waits in the queue until the first has ended."""

ONE_STREAM = {"key": "market_pipelines/stream", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
"""Runs that host a market's live stream, a whole session long: in no lane, and in places of their own."""

TICK_DAYS = 7
"""After which the ticks of schedules and sensors go, where the settings do not say."""

LOCATION = "market_pipelines"
_SCHEMA = "dagster"
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True, slots=True)
class DagsterHome:
    folder: Path
    socket: Path
    """Where the code server listens: a socket file, so that no other user of the machine reaches it."""

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace.yaml"

    def remove_socket(self) -> None:
        self.socket.unlink(missing_ok=True)
        if not self.socket.is_relative_to(self.folder.parent):
            self.socket.parent.rmdir()


def storage_database(*, simulated: bool) -> str:
    """Dagster's own database on the embedded server; two, as for the bars: green must not mean simulated."""
    return "dagster_simulated" if simulated else "dagster"


def write_dagster_home(
    home: Path, cores: int | None = None, tick_days: int = TICK_DAYS, streams: int = 0
) -> DagsterHome:
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    written = DagsterHome(folder, _socket(home))
    (folder / "dagster.yaml").write_text(
        yaml.safe_dump(instance(cores or os.cpu_count() or 1, tick_days, streams)), encoding="utf-8"
    )
    workspace = {
        "load_from": [{"grpc_server": {"socket": str(written.socket), "location_name": LOCATION}}],
    }
    written.workspace.write_text(yaml.safe_dump(workspace), encoding="utf-8")
    return written


def hosted_streams(settings: Settings) -> int:
    """How many live streams Dagster is to host."""
    if settings.stream_hosted_by is not StreamHost.DAGSTER:
        return 0
    return sum(market.stream is not None for market in read_markets().values())


def instance(cores: int, tick_days: int = TICK_DAYS, streams: int = 0) -> dict[str, Any]:
    """The content of dagster.yaml. Two runs per core are too many: pulling waits, but writing does not. `streams`:
    how many live streams runs may host beside them."""
    at_once = max(2, cores)
    limits = [ONE_A_LANE, {"key": ONE_A_LANE["key"], "limit": at_once}, ONE_STREAM]
    return {
        "run_storage": _storage("market_pipelines.orchestration.storage", "PooledPostgresRunStorage"),
        "event_log_storage": _storage("market_pipelines.orchestration.storage", "PooledPostgresEventLogStorage"),
        "schedule_storage": _storage("market_pipelines.orchestration.storage", "PooledPostgresScheduleStorage"),
        "run_launcher": {"module": "dagster", "class": "DefaultRunLauncher"},
        "run_coordinator": {
            "module": "dagster",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
        "concurrency": {"runs": {"max_concurrent_runs": at_once + streams, "tag_concurrency_limits": limits}},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 120, "poll_interval_seconds": 30},
        # 0 would be read as "at once"; for ever is -1.
        "retention": {kind: {"purge_after_days": tick_days or -1} for kind in ("schedule", "sensor")},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }


def _storage(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class": name, "config": {"postgres_url": {"env": STORAGE_VARIABLE}}}


def storage_in_schema(url: str) -> str:
    """Dagster's tables in an external database: a schema of their own beside ours, made if missing."""
    with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(_SCHEMA)))
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query), ("options", f"-csearch_path={_SCHEMA}")]
    return urlunsplit(
        (
            "postgresql+psycopg2",
            parts.netloc,
            parts.path,
            urlencode(query, quote_via=quote),
            "",
        )
    )


def _socket(home: Path) -> Path:
    """In the data folder, or in a private one where that path is longer than a socket's may be."""
    socket = home / "run" / "code.sock"
    if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="market_pipelines-")) / "code.sock"
    socket.unlink(missing_ok=True)
    return socket
