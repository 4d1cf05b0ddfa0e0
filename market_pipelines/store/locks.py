"""Locks between processes on one machine, as files under `flock`. The kernel drops them when a process dies."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

_POLL_SECONDS = 0.02


class LockTimeout(Exception):
    """Another process has held the lock for as long as we were ready to wait."""


class FileLock:
    """One holder's grip on a lock file. Not shared between threads: every holder makes its own."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, self._mode | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:
                os.close(descriptor)
                raise
            if _is_still_at(descriptor, self.path):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # its last holder removed the file between our open and our lock

    def acquire(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise LockTimeout(f"{self.path} has been locked by another process for {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @property
    def in_place(self) -> bool:
        """It is held, and nobody has removed its file: then another process could hold one of the same name."""
        return self._descriptor is not None and _is_still_at(self._descriptor, self.path)

    def release(self, *, remove: bool = False) -> None:
        """Lets go. Only an exclusive holder may remove the file. A fork shares the grip until it lets go too."""
        if self._descriptor is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _is_still_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
