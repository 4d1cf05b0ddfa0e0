"""Keeps calls to one provider apart, so that its rate per minute is held within this process."""

import threading
import time
from collections.abc import Callable

_MINUTE = 60.0


class Pace:
    """At most `per_minute` starts in any minute, evenly spaced. Thread-safe."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._gap = _MINUTE / per_minute
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, stop: threading.Event) -> bool:
        """Waits for this call's turn; False when `stop` was set first."""
        with self._lock:
            turn = max(self._next, self._monotonic())
            self._next = turn + self._gap
        return not stop.wait(max(0.0, turn - self._monotonic()))
