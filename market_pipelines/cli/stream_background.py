"""`stream start` and `stream stop`: the service as a process of its own, begun and ended from another one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from market_pipelines.cli.output import CommandFailed, ExitCode
from market_pipelines.cli.stream_log import log_file
from market_pipelines.pipeline.platform import Platform
from market_pipelines.redaction import redact
from market_pipelines.store.streams import StreamRow, StreamState, Wish, ask, bury, stream_row
from market_pipelines.streaming.lease import refusal

Say = Callable[[str], None]

START_SECONDS = 90.0
"""For the first data; option contracts may have to be looked up before."""
_LOOK_SECONDS = 0.2
_LAST_WORDS = 12


def start_in_background(
    platform: Platform, names: Sequence[str], words: Sequence[str], log_to: Path | None, say: Say
) -> ExitCode:
    """Runs `stream run` with the same words, and waits until each stream has data or has failed. `log_to`: as the
    words say."""
    for name in names:
        row = _row(platform, name)
        if row is not None and row.running:
            raise CommandFailed(refusal(row))
    log = log_to or log_file(platform.settings.home, names)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "market_pipelines.cli", "stream", "run", "--log-to", str(log), *words]
    with log.open("ab") as output:
        began = output.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    say(f"process {process.pid} streams; its log: {log}")
    waiting, failed = list(names), False
    deadline = time.monotonic() + START_SECONDS
    while waiting:
        over = process.poll() is not None
        for name in list(waiting):
            row = _row(platform, name)
            if row is None or row.pid != process.pid:
                continue
            if row.state in (StreamState.LIVE, StreamState.WAITING) or row.state.over:
                waiting.remove(name)
                failed |= row.state.over
                say(f"{name} is {row.state.value}{f': {row.detail}' if row.detail else ''}")
        if waiting and over:
            raise CommandFailed(f"it ended with exit code {process.returncode}.\n{_last_words(log, began)}")
        if waiting and time.monotonic() > deadline:
            say(f"{', '.join(waiting)}: no data after {START_SECONDS:.0f} s, and still trying: see {log}")
            return ExitCode.PARTIAL
        if waiting:
            time.sleep(_LOOK_SECONDS)
    return ExitCode.ERROR if failed else ExitCode.OK


def stop_streams(platform: Platform, names: Sequence[str], seconds: float, say: Say) -> ExitCode:
    """Asks by the table, so that it does not matter where a stream runs."""
    asked: dict[str, datetime] = {}
    buried = False
    for name in names:
        row = _row(platform, name)
        if row is None or not row.running:
            if row is not None and row.died:
                buried |= _bury(platform, name, say)
            continue
        with platform.database.connection() as connection:
            if ask(connection, name, Wish.STOP):
                asked[name] = row.started_at
    if not asked:
        say("no other stream runs" if buried else "no stream runs")
        return ExitCode.OK
    deadline = time.monotonic() + seconds
    left = dict(asked)
    while left:
        for name, started in list(left.items()):
            row = _row(platform, name)
            if row is None or row.state.over or row.started_at != started:
                left.pop(name)
                say(f"{name} has stopped")
            elif row.died:
                left.pop(name)
                _bury(platform, name, say)
        if left and time.monotonic() > deadline:
            raise CommandFailed(f"{', '.join(left)}: still stopping after {seconds:.0f} s")
        if left:
            time.sleep(_LOOK_SECONDS)
    return ExitCode.OK


def _bury(platform: Platform, name: str, say: Say) -> bool:
    with platform.database.connection() as connection:
        done = bury(connection, name, "it had died, and was then said to be stopped")
    say(f"{name} had died; it counts as stopped now")
    return done


def _row(platform: Platform, name: str) -> StreamRow | None:
    with platform.database.connection() as connection:
        return stream_row(connection, name)


def _last_words(log: Path, began: int) -> str:
    with log.open("rb") as file:
        file.seek(began)
        text = file.read().decode("utf-8", "replace")
    lines = redact(text).strip().splitlines()[-_LAST_WORDS:]
    return "\n".join([f"The end of {log}:", *(f"  {line[:200]}" for line in lines or ["(it said nothing)"])])
