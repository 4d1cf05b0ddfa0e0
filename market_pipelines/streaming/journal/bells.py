"""Wakes readers in the writer's own process the moment something is durable. Readers elsewhere look for themselves."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


class Bell:
    """Of one journal that is open for writing in this process."""

    def __init__(self, durable: int) -> None:
        self._condition = threading.Condition()
        self._durable = durable
        self._gone = False
        self._pid = os.getpid()

    @property
    def alive(self) -> bool:
        """A forked child inherits the bell, but not the thread that rings it."""
        return not self._gone and self._pid == os.getpid()

    def ring(self, durable: int) -> None:
        with self._condition:
            self._durable = durable
            self._condition.notify_all()

    def remove(self) -> None:
        with self._condition:
            self._gone = True
            self._condition.notify_all()

    def disturb(self) -> None:
        """Lets everybody who waits look whether to go on waiting."""
        with self._condition:
            self._condition.notify_all()

    def beyond(self, position: int, deadline: float, given_up: threading.Event) -> bool:
        with self._condition:
            while self._durable <= position and not self._gone and not given_up.is_set():
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    break
                self._condition.wait(seconds)
            return self._durable > position


_bells: dict[Path, Bell] = {}
_guard = threading.Lock()


def hang(folder: Path, durable: int) -> Bell:
    bell = Bell(durable)
    with _guard:
        _bells[folder.resolve()] = bell
    return bell


def take_down(folder: Path) -> None:
    with _guard:
        bell = _bells.pop(folder.resolve(), None)
    if bell is not None:
        bell.remove()


def bell_of(folder: Path) -> Bell | None:
    bell = _bells.get(folder)
    return bell if bell is not None and bell.alive else None
