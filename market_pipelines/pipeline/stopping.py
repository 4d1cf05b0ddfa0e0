"""Asking a loop to stop: from a signal, from another thread, or by whoever waits for it.

The loop ends between two steps of its work, never within one.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A wish to stop, and the wait that it interrupts. One thread waits; anybody may ask.

    It can be asked from a signal handler, which for a `threading.Event` may end in a deadlock: the handler runs in
    the thread that waits, and a queue of this kind is the one that may be entered twice.
    """

    def __init__(self) -> None:
        self.asked = False
        self.by_signal: int | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ask(self, by_signal: int | None = None) -> None:
        self.by_signal = self.by_signal or by_signal
        self.asked = True
        self._wake.put(None)

    def wait(self, seconds: float) -> bool:
        """Waits so long, or until somebody asks; whether somebody has asked."""
        if not self.asked and seconds > 0:
            try:
                self._wake.get(timeout=seconds)
            except queue.Empty:
                return self.asked
        return self.asked


@contextmanager
def heeding_signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM ask to stop for as long as the block lasts; the second one does what it did before.

    Only the main thread can listen; in another one nothing changes.
    """
    hearing = SignalHearing(stop)
    try:
        yield
    finally:
        hearing.end()


class SignalHearing:
    """The signals' way to a `Stop`, from now until `end`, or for as long as there is anything to stop."""

    def __init__(self, stop: Stop, runs: Callable[[], bool] = lambda: True) -> None:
        self._stop = stop
        self._runs = runs
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._heard) for number in STOP_SIGNALS}

    def end(self) -> None:
        """Gives the signals back, unless somebody else has taken them meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._heard:
                signal.signal(number, handler)
        self._previous = {}

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self.end()
        if self._runs():
            self._stop.ask(number)
        else:
            signal.raise_signal(number)
