"""The running platform of a data folder: one at a time, known by a locked file that says where it serves.

The kernel drops the lock when its holder dies, so a platform that was killed never stands in the way; what it
left behind is found by the mark that all its processes carry.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from market_pipelines.cli.output import CommandFailed
from market_pipelines.store.locks import FileLock, LockTimeout

MARK = "MARKET_PIPELINES_UP"
"""The environment variable that every process of one `up` inherits."""

_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.2
"""Whoever only looks whether a platform runs holds the lock for a moment."""


@dataclass(frozen=True, slots=True)
class Running:
    """What the file says about the platform that holds it."""

    pid: int
    mark: str
    addresses: Mapping[str, str] = field(default_factory=dict)


class AlreadyRunning(CommandFailed):
    def __init__(self, home: Path, running: Running | None) -> None:
        who = f"process {running.pid}" if running else "another process"
        where = "".join(f", {name} {address}" for name, address in (running.addresses if running else {}).items())
        super().__init__(
            f"The platform is already running for {home} ({who}{where}). Stop it with `market-pipelines "
            "down`, or run a second one with another --home and other ports."
        )


class RunningFile:
    """Our claim on a data folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = FileLock(_file(home))
        self.mark = uuid.uuid4().hex

    def claim(self) -> Running | None:
        """Takes the folder, or raises AlreadyRunning. Returns what a platform that was killed has left."""
        _file(self.home).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(_LOOK_SECONDS)
        except LockTimeout:
            raise AlreadyRunning(self.home, _read(self.home)) from None
        left = _read(self.home)
        self.publish({})
        return left

    def publish(self, addresses: Mapping[str, str]) -> None:
        text = json.dumps({"pid": os.getpid(), "mark": self.mark, "addresses": dict(addresses)})
        _file(self.home).write_text(text, encoding="utf-8")  # in place: the lock is on this very file

    def release(self) -> None:
        self._lock.release(remove=True)


def running_platform(home: Path) -> Running | None:
    """The platform that runs for this folder now, if any."""
    if not _file(home).exists():
        return None
    lock = FileLock(_file(home), shared=True)
    if lock.try_acquire():
        lock.release()
        return None
    return _read(home)


def stop_running(home: Path, seconds: float) -> bool | None:
    """Asks the running platform to stop and waits for it. None: there was none. False: not in time."""
    running = running_platform(home)
    if running is None:
        return None
    try:
        os.kill(running.pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    deadline = time.monotonic() + seconds
    while running_platform(home) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def end_leftovers(mark: str, grace_seconds: float = 5.0) -> int:
    """Ends the processes that carry the mark of a platform that was killed, and says how many there were."""
    found = processes_with(mark)
    for number, wait in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, grace_seconds)):
        deadline = time.monotonic() + wait
        for process in processes_with(mark):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        while processes_with(mark) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    return len(found)


def processes_with(mark: str) -> list[int]:
    """Empty where there is no /proc: there the guard process alone takes care of what is left."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = entry in (process / "environ").read_bytes().split(b"\0")
            state = (process / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue  # ended while we looked, or another user's
        if marked and state not in {b"Z", b"X"}:
            found.append(int(process.name))
    return [process for process in found if process != os.getpid()]


def _file(home: Path) -> Path:
    return home / "run" / "up.json"


def _read(home: Path) -> Running | None:
    try:
        facts = json.loads(_file(home).read_text(encoding="utf-8"))
        return Running(int(facts["pid"]), str(facts["mark"]), dict(facts["addresses"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # empty or half written: the lock alone tells whether somebody runs
