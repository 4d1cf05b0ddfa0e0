"""What belongs to the whole process: what a test may change is put back, what it may not is named.

The files that a worker runs share one process, in an order that is another one each time. What one of them leaves
behind makes another fail, seldom and far from its cause; so each is held to it where it is left.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from market_pipelines import logs, redaction

ENDING_SECONDS = 30.0
"""For a thread that has been told to end and has not done so yet."""
OF_OTHERS = ("PYTEST_CURRENT_TEST", "PYARROW_IGNORE_TIMEZONE", "SPARK_LOCAL_IP")
"""Variables that pytest sets, and pandera when it is imported."""


@contextmanager
def logs_as_they_were() -> Iterator[None]:
    """A command that runs in this process sets up logs and hooks; whoever comes after it gets their own back."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    hooks = sys.excepthook, threading.excepthook
    # What pytest puts in place for each test would be closed by the command.
    root.handlers = []
    # While it is on, warnings do not reach whoever expects them.
    logging.captureWarnings(False)
    try:
        with levels_as_they_were():
            yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        sys.excepthook, threading.excepthook = hooks
        logging.captureWarnings(False)
        structlog.reset_defaults()


@contextmanager
def levels_as_they_were() -> Iterator[None]:
    """Below a level that a command has set, or Dagster, nobody hears what they expect."""
    named = {logging.getLogger(name) for name in logs._CHATTY}
    named |= {one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)}
    levels = {one: one.level for one in (logging.root, *named)}
    try:
        yield
    finally:
        for logger, level in levels.items():
            if logger.level != level:
                logger.setLevel(level)


@contextmanager
def put_back() -> Iterator[None]:
    """What a command, a stream or a run changes for the whole of its process, as it has to."""
    known = (
        redaction._known
    )  # a process forgets no secret: an earlier file's key would be masked in a later one's words
    pool = pa.default_memory_pool()
    # Dagster gives SIGTERM the handler of SIGINT, which a process in the background ignores, and so do its children.
    handlers = _handlers()
    with ExitStack() as stack:
        stack.enter_context(levels_as_they_were())
        try:
            yield
        finally:
            redaction._known = known
            pa.set_memory_pool(pool)
            for number, handler in handlers.items():
                if signal.getsignal(number) != handler:
                    signal.signal(number, handler)


def _handlers() -> Mapping[signal.Signals, Any]:
    # An alarm ends a test that stands still; a handler that was not set in Python cannot be set again.
    numbers = (signal.Signals(one) for one in signal.valid_signals() - {signal.SIGALRM} if one in set(signal.Signals))
    return {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}


class Found:
    """What a file of tests found, which it has to leave as it was."""

    def __init__(self) -> None:
        self._state = _state()
        self._threads = frozenset(threading.enumerate())

    def changed(self) -> list[str]:
        after = _state()
        return [
            f"{name}: {self._state.get(name)!r} became {after.get(name)!r}"
            for name in sorted(self._state.keys() | after.keys())
            if self._state.get(name) != after.get(name)
        ] + [f"the thread {one.name} goes on" for one in self._not_ended()]

    def _not_ended(self) -> list[threading.Thread]:
        known = self._threads | _of_libraries()
        fresh = [one for one in threading.enumerate() if one not in known]
        deadline = time.monotonic() + ENDING_SECONDS
        for one in fresh:
            one.join(max(0.0, deadline - time.monotonic()))
        return [one for one in fresh if one.is_alive()]


def _of_libraries() -> frozenset[threading.Thread]:
    """Apprise sends by threads that it keeps for as long as the process lasts."""
    apprise = sys.modules.get("apprise.apprise")
    pools = (getattr(apprise, name, None) for name in ("_shared_executor", "_coordinator_executor"))
    return frozenset(thread for pool in pools if pool is not None for thread in pool._threads)


def _state() -> Mapping[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "the working folder": Path.cwd(),
        "the umask": umask,
        "the time zone": time.tzname,
        "the search path of modules": tuple(sys.path),
        "what is done with an error that nobody caught": (sys.excepthook, threading.excepthook),
        "whether logs are switched off": logging.root.manager.disable,
        "who hears all logs": [one for one in logging.root.handlers if not type(one).__module__.startswith("_pytest")],
        "where structlog writes": type(structlog.get_config()["logger_factory"]),
        **{f"the variable {name}": value for name, value in os.environ.items() if name not in OF_OTHERS},
    }
