"""A whole platform as a user starts it, for the tests that look at one from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from market_pipelines.cli.dagster_client import DagsterClient
from market_pipelines.settings import Settings
from market_pipelines.store.embedded import EmbeddedServer

START_SECONDS = 600.0
STOP_SECONDS = 120.0


def environment(**more: str) -> dict[str, str]:
    ours = {name.upper() for name in Settings.model_fields}
    return {**{name: value for name, value in os.environ.items() if name.upper() not in ours}, **more}


def until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = STOP_SECONDS) -> None:
    tick, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time; so far:\n{what()}"
        tick.wait(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "market_pipelines.cli", *arguments],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STOP_SECONDS,
        check=False,
    )


class Platform:
    """One data folder, and the `up` that runs for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "my data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        self._starts += 1
        with self._output("out").open("wb") as out, self._output("err").open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "market_pipelines.cli", "up", *self.options()],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
            )

    def end(self) -> None:
        """Whatever state it is in, nothing of it is left."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_SECONDS)
        for process in self.processes():
            process.kill()
        EmbeddedServer(self.home).stop(force=True)

    def options(self) -> tuple[str, ...]:
        return ("--home", str(self.home), "--dagster-port", str(self.port))

    def said(self) -> str:
        return self._output("err").read_text()

    def answered(self) -> str:
        return self._output("out").read_text()

    def wait_for(self, words: str) -> None:
        def there() -> bool:
            assert self.process.poll() is None or words in self.said(), f"`up` ended:\n{self.said()}"
            return words in self.said()

        until(there, self.said, START_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Every process of this platform, however far down: they name the data folder or descend from one."""
        found = []
        for process in psutil.process_iter(["cmdline", "status", "environ"]):
            facts = process.info
            named = str(self.home) in " ".join(facts["cmdline"] or ())
            told = (facts["environ"] or {}).get("MARKET_PIPELINES_HOME") == str(self.home)
            if (named or told) and facts["status"] != psutil.STATUS_ZOMBIE and process.pid != self.process.pid:
                found.append(process)
        return found

    def child(self, words: str) -> psutil.Process:
        return next(process for process in self.processes() if words in " ".join(process.cmdline()))

    def client(self) -> DagsterClient:
        return DagsterClient(f"http://127.0.0.1:{self.port}")

    def _output(self, name: str) -> Path:
        return self.folder / f"{name}{self._starts}.txt"


@contextmanager
def short_folder() -> Iterator[Path]:
    """Short, because a socket's path may not be long; open to the account that runs PostgreSQL under root;
    with a space, because a user's may have one."""
    with tempfile.TemporaryDirectory(prefix="mp up ", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)
