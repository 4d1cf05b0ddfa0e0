"""Starts child processes, keeps their logs, restarts those that die, and ends them all.

Every child leads a process group of its own, so that a Ctrl-C at the terminal reaches only us and stopping a
child takes its own children with it. What the children are is not known here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TypeVar

from market_pipelines.cli import guard
from market_pipelines.redaction import redact

LOG_BYTES = 5_000_000
_TAIL_LINES = 12
_LINE_LENGTH = 180
_POLL_SECONDS = 0.05
_ASK_SECONDS = 0.2
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Found = TypeVar("Found")


class ChildFailed(Exception):
    """A child ended while starting, or died too often. The message shows its last words."""


class StopAsked(Exception):
    """Somebody wants us to stop: at the next safe point everything is taken down again."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `stop_seconds` is how long it may take to end when asked. One that is not `essential` is given up
    with a word where another one's end would be everybody's."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 10.0
    essential: bool = True


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """A child may die so many times within the window; the pause before each restart doubles."""

    restarts: int = 5
    window_seconds: float = 600.0
    first_pause_seconds: float = 1.0

    def pause(self, deaths: Sequence[float]) -> float | None:
        """How long to wait after the newest of these deaths, or None to give up."""
        recent = [death for death in deaths if deaths[-1] - death < self.window_seconds]
        if len(recent) > self.restarts:
            return None
        return self.first_pause_seconds * float(2 ** (len(recent) - 1))


class Stop:
    """Whether we have been asked to stop, by a signal or from inside. A second signal means: at once."""

    _BOUNCE_SECONDS = 1.0
    """A terminal and `make` may both pass on the same Ctrl-C."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._asked_at = 0.0
        self.hurry = False

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        # Under `nohup` a closed terminal is no reason to stop.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._asked.is_set():
            self.hurry = self.hurry or time.monotonic() - self._asked_at > self._BOUNCE_SECONDS
            return
        self.ask()

    def ask(self) -> None:
        self._asked_at = time.monotonic()
        self._asked.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        return self._asked.wait(seconds)

    def check(self) -> None:
        if self._asked.is_set():
            raise StopAsked


class _Log:
    """A child's output on disk: redacted, never larger than two files, and the last lines at hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._written = path.stat().st_size if path.exists() else 0
        self._file: IO[str] | None = path.open("a", encoding="utf-8")

    def follow(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                self._write(redact(_COLOUR.sub("", raw.decode("utf-8", "replace"))))
        if self._file is not None:
            self._file.close()

    def _write(self, line: str) -> None:
        if line.strip():
            self.tail.append(line.rstrip()[:_LINE_LENGTH])
        if self._file is None:
            return
        try:
            if self._written > LOG_BYTES:
                self._file.close()
                self._file = None
                self.path.replace(self.path.with_suffix(".log.1"))
                self._file = self.path.open("a", encoding="utf-8")
                self._written = 0
            self._file.write(line)
            self._file.flush()
            self._written += len(line)
        except OSError:
            # A full disk must not block the child, which would stand still once the pipe is full.
            self._file = None


class Child:
    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self._logs = logs
        self._log = _Log(logs / f"{program.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self.deaths: list[float] = []
        self.due: float | None = None
        """When it is to be started again, after a death."""

    @property
    def group(self) -> int:
        return 0 if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path:
        return self._log.path

    def start(self) -> None:
        self.due = None
        self._log = _Log(self._logs / f"{self.program.name}.log")
        self._process = subprocess.Popen(
            self.program.command,
            env={**os.environ, **self.program.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        assert self._process.stdout is not None  # noqa: S101 (it was asked for, two lines up)
        self._pump = threading.Thread(
            target=self._log.follow,
            args=(self._process.stdout,),
            name=f"log of {self.program.name}",
            daemon=True,
        )
        self._pump.start()

    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def ended(self) -> str:
        """How it ended, for a person."""
        code = self.exit_code()
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"{self.program.name} ended ({how})"

    def last_words(self) -> str:
        if self._pump is not None:
            self._pump.join(1)
        lines = list(self._log.tail) or ["(it said nothing)"]
        return "\n".join([f"The end of {self.log_path}:", *(f"  {line}" for line in lines)])


class Supervisor:
    """All children of one platform. Use it as a context: whatever happens, none of them is left."""

    def __init__(
        self,
        logs: Path,
        stop: Stop,
        say: Callable[[str], None],
        policy: RestartPolicy | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._logs = logs
        self._stop = stop
        self._say = say
        self._policy = policy or RestartPolicy()
        self._environment = dict(environment or {})
        self._children: dict[str, Child] = {}
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Supervisor:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._guard = subprocess.Popen(
            [sys.executable, "-I", guard.__file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all(reversed(list(self._children)))
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()

    def start(self, program: Program) -> Child:
        merged = {**self._environment, **program.environment}
        child = Child(replace(program, environment=merged), self._logs)
        self._children[program.name] = child
        self._launch(child)
        return child

    def wait_for(self, ask: Callable[[], Found | None], what: str, seconds: float) -> Found:
        """Asks until there is an answer. A child that dies meanwhile, or a passed deadline, ends the start."""
        deadline = time.monotonic() + seconds
        while (answer := ask()) is None:
            for child in self._children.values():
                if child.program.essential and child.exit_code() is not None:
                    raise ChildFailed(f"{child.ended()} while starting.\n{child.last_words()}")
            if time.monotonic() > deadline:
                words = "\n".join(child.last_words() for child in self._children.values())
                raise ChildFailed(f"{what} was not ready within {seconds:.0f} s.\n{words}")
            self._stop.wait(_ASK_SECONDS)
            self._stop.check()
        return answer

    def look_after(self) -> list[str]:
        """Starts again what is due and returns the names of those whose death was noticed just now."""
        now = time.monotonic()
        died = []
        for child in list(self._children.values()):
            if child.due is not None:
                if now >= child.due:
                    self._launch(child)
            elif child.exit_code() is not None:
                died.append(child.program.name)
                self._bury(child, now)
        return died

    def stop_all(self, names: Iterable[str]) -> None:
        """Asks these to end, all at once, and kills what has not ended after its time."""
        children = [self._children.pop(name) for name in list(names) if name in self._children]
        for child in children:
            if child.group:
                guard.signal_group(child.group, signal.SIGTERM)
        started = time.monotonic()
        for child in children:
            if child.group and not self._ends_by(child, started + child.program.stop_seconds):
                self._say(f"{child.program.name} did not stop in time and is killed")
                guard.signal_group(child.group, signal.SIGKILL)
                self._ends_by(child, time.monotonic() + 5, whatever_happens=True)
            self._tell_guard("forget", child)

    def _ends_by(self, child: Child, deadline: float, whatever_happens: bool = False) -> bool:
        while child.exit_code() is None or guard.group_is_alive(child.group):
            if time.monotonic() > deadline or (self._stop.hurry and not whatever_happens):
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _launch(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:
            raise ChildFailed(f"{child.program.name} cannot be started: {error}") from None
        self._tell_guard("watch", child)

    def _bury(self, child: Child, now: float) -> None:
        guard.signal_group(child.group, signal.SIGKILL)  # what it started must not meet its successor
        self._tell_guard("forget", child)
        child.deaths.append(now)
        pause = self._policy.pause(child.deaths)
        if pause is None and not child.program.essential:
            del self._children[child.program.name]
            self._say(
                f"{child.ended()}, {len(child.deaths)} times by now, and is not started again; everything else goes on."
                f"\n{child.last_words()}"
            )
            return
        if pause is None:
            raise ChildFailed(
                f"{child.ended()}, {len(child.deaths)} times by now, and is not started again.\n{child.last_words()}"
            )
        child.due = now + pause
        self._say(
            f"{child.ended()} and is started again in {pause:.0f} s "
            f"({len(child.deaths)} of {self._policy.restarts}); its log: {child.log_path}"
        )

    def _tell_guard(self, word: str, child: Child) -> None:
        if self._guard is None or self._guard.stdin is None:
            return
        try:
            self._guard.stdin.write(f"{word} {child.group}\n")
            self._guard.stdin.flush()
        except OSError:
            self._say("the guard process is gone: should this process be killed hard, its children stay")
            self._guard.wait()
            self._guard = None
