"""The real parts that a benchmark works with: a data folder, PostgreSQL with fsync on, the simulator's process.

All of it is temporary and as `market-pipelines up` sets it up; nothing of the operator's settings is read.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.measure import ServerClock, clock_of_processes
from market_pipelines.pipeline.simulated import running_simulator
from market_pipelines.settings import Settings, read_settings
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.embedded_place import recorded_data
from market_pipelines.store.postmaster import read_postmaster

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
_Found = TypeVar("_Found")


class BenchmarkFailed(Exception):
    """What was to be measured did not happen as it should, so there is no figure."""


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Short, because a socket's path may not be long, and open to the account that runs PostgreSQL under root."""
    with tempfile.TemporaryDirectory(prefix="mpbench", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = folder / "home"
        home.mkdir()
        yield home


@contextmanager
def embedded_server(home: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(home)
    server.start(keep=True)
    try:
        yield server
    finally:
        server.stop(force=True)


def server_clock(server: EmbeddedServer) -> ServerClock:
    postmaster = read_postmaster(recorded_data(server.home))
    if postmaster is None:
        raise BenchmarkFailed(f"the PostgreSQL of {server.home} does not run")
    return clock_of_processes(postmaster.pid)


def environment(**more: str) -> dict[str, str]:
    """Of a child: this process's without what an operator has set for market_pipelines or Dagster."""
    settings = {name.upper() for name in Settings.model_fields}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in settings and not name.startswith(("DAGSTER", "MARKET_PIPELINES"))
    }
    return {**kept, **more}


@dataclass(frozen=True)
class Workplace:
    """A platform with nothing in it yet: server and simulator run."""

    home: Path
    settings: Settings
    server: EmbeddedServer

    @property
    def environment(self) -> dict[str, str]:
        return environment(MARKET_PIPELINES_HOME=str(self.home), MARKET_PIPELINES_SIMULATOR="on")


@contextmanager
def workplace(more_listings: int = 0) -> Iterator[Workplace]:
    with temporary_home() as home, embedded_server(home) as server:
        settings = read_settings(env_file=None, market_pipelines_home=home, market_pipelines_simulator="on")
        place = Workplace(home, settings, server)
        command = [sys.executable, "-m", "market_pipelines.cli", "simulate", "--port", "0"]
        command += ["--more", str(more_listings)]
        with running(command, home, place.environment) as simulator:
            until(lambda: running_simulator(settings), "the simulator", _START_SECONDS, simulator)
            yield place


@contextmanager
def running(command: list[str], folder: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program with a process group of its own, asked to end when the block does."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(
    look: Callable[[], _Found | None],
    what: str,
    seconds: float,
    process: subprocess.Popen[bytes] | None = None,
) -> _Found:
    """What `look` finds once it finds something."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if process is not None and process.poll() is not None:
            raise BenchmarkFailed(f"waiting for {what}: its process ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"waited {seconds:.0f} s for {what} in vain")
        time.sleep(_POLL_SECONDS)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
