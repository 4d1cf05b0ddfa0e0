"""What a command shows: tables and JSON on stdout, words and progress on stderr, and the exit codes.

On a terminal tables are drawn, elsewhere they are plain columns; JSON is one document and nothing else is on
stdout then. Every text passes through redaction. What to show is decided by the commands.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from market_pipelines.redaction import redact

Report = Callable[[int, int, str], None]
"""Called with (done, total, what was done last)."""

_SECONDS_BETWEEN_LINES = 10.0


class ExitCode(IntEnum):
    OK = 0
    ERROR = 1
    USAGE = 2
    PARTIAL = 3
    NOT_AUTHORISED = 4
    INTERRUPTED = 130
    TERMINATED = 143


class CommandFailed(Exception):
    """A command cannot do what was asked. The message says why and what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same orderly way out as Ctrl-C."""


def interruption_code(interruption: KeyboardInterrupt) -> ExitCode:
    return ExitCode.TERMINATED if isinstance(interruption, Terminated) else ExitCode.INTERRUPTED


def say(message: str) -> None:
    """A sentence for the person, never part of the answer."""
    sys.stderr.write(redact(message) + "\n")
    sys.stderr.flush()


def emit_json(value: object) -> None:
    """The one JSON document of a command, indented where a person looks at it."""
    text = msgspec.json.encode(plain(value))
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    sys.stdout.write(text.decode() + "\n")
    sys.stdout.flush()


def emit_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", numbers: Sequence[str] = ()
) -> None:
    """A table. Numbers stand to the right, so that their digits line up; `numbers` names columns of written ones."""
    cells = [[redact(_cell(value)) for value in row] for row in rows]
    right = [name in numbers or _is_numeric(row[at] for row in rows) for at, name in enumerate(columns)]
    if sys.stdout.isatty():
        _draw(columns, cells, right, title)
    else:
        _print_plain(columns, cells, right, title)


def emit_line(text: str) -> None:
    sys.stdout.write(redact(text) + "\n")
    sys.stdout.flush()


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A bar with the time that is left, on a terminal; elsewhere a line now and then."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[last]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None, last="")
        yield lambda done, total, last: bar.update(task, completed=done, total=total, last=last)


@contextmanager
def share_done(what: str) -> Iterator[Callable[[float, str], None]]:
    """As `progress`, for work that is counted as a share of a file."""
    with progress(what) as report:
        yield lambda share, last: report(round(1000 * share), 1000, last)


def plain(value: object) -> Any:
    """A value as JSON has it: texts redacted, days and instants in ISO 8601, what is not a number null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        return [plain(part) for part in value]
    return _plain_scalar(value)


def _plain_scalar(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str | Path):
        return redact(str(value))
    if isinstance(value, int | float) or value is None:
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def lasting(seconds: float) -> str:
    """A length of time as a person says it."""
    if seconds < 1:
        return "under a second"
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _lines(what: str) -> Report:
    last_line = time.monotonic()

    def report(done: int, total: int, last: str) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            say(f"{what}: {done} of {total} {last}".rstrip())

    return report


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], title: str) -> None:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name, to_the_right in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if to_the_right else "left")
    for row in cells:
        # As text: a symbol or a reason in brackets is not a style.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _print_plain(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], title: str) -> None:
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    lines = [title] if title else []
    for row in [columns, *cells]:
        texts = (
            text.rjust(width) if to_the_right else text.ljust(width)
            for text, width, to_the_right in zip(row, widths, right, strict=True)
        )
        lines.append("  ".join(texts).rstrip())
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _is_numeric(values: Iterator[object]) -> bool:
    kinds = {isinstance(value, int | float) and not isinstance(value, bool) for value in values if value is not None}
    return kinds == {True}


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return "-" if math.isnan(value) else f"{value:,.2f}" if abs(value) < 1e6 else f"{value:,.0f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case _:
            return str(value)
