"""The log of a stream in the background: everything that its process says, in a file that does not grow for ever.

Turned over by the process itself, since nobody else is there to do it: what is written to its stdout and stderr
(lines of the log, sentences for a person, the last words of a crash) goes on in a new file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from market_pipelines.settings import SettingsError

LOG_BYTES = 20_000_000
LOGS_KEPT = 4
"""Beside the one that is being written: `.1` is the newest of them."""
_STDOUT, _STDERR = 1, 2


def log_file(home: Path, streams: Sequence[str]) -> Path:
    """The same for every start of these streams. One process at a time has a stream, so that none is shared."""
    return home / "run" / f"stream-{'+'.join(sorted(streams))}.log"


def turn_over(path: Path, kept: int = LOGS_KEPT) -> None:
    """Makes room for a new file of that name; the oldest one goes."""
    if not path.exists():
        return
    older = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, kept + 1))]
    for new, old in reversed(list(zip(older[1:], older, strict=False))):
        if old.exists():
            old.replace(new)


def write_log_to(path: Path, *, most: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
    """From here on, stdout and stderr of this process are that file, and after so many bytes the next one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _redirect(path)
    except OSError as error:
        raise SettingsError(
            f"--log-to: '{path}' cannot be written ({error.strerror}); accepted: a file in a folder that this user "
            "may write"
        ) from None
    logging.getLogger().addHandler(_TurnsOver(path, most, kept))


def _redirect(path: Path) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.dup2(opened, _STDOUT)
        os.dup2(opened, _STDERR)
    finally:
        os.close(opened)


class _TurnsOver(logging.Handler):
    """Writes nothing: it looks how much the others have written. Where no new file can be made, what is said goes on in
    the old one, until that is twice as large."""

    def __init__(self, path: Path, most: int, kept: int) -> None:
        super().__init__()
        self._path = path
        self._most = self._bound = most
        self._kept = kept

    def emit(self, _record: logging.LogRecord) -> None:
        if os.fstat(_STDERR).st_size < self._bound:
            return
        try:
            turn_over(self._path, self._kept)
            _redirect(self._path)
            self._bound = self._most
        except OSError:
            self._bound *= 2
