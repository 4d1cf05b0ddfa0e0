"""What stands in a cell: everything is text, and each endpoint has its own word for nothing.

Nothing gives None or "". Text that is neither nothing nor of the expected kind raises `ValueError`, because an
answer that cannot be read must not pass for one without data.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date

import msgspec

from market_pipelines.providers.answers import shown

NOTHING = frozenset({"", "-", "none", "null", "nan", "n/a", "0000-00-00"})
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]
rows_of_objects = msgspec.json.Decoder(list[dict[str, Cell]])
one_object = msgspec.json.Decoder(dict[str, Cell])
top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])


def word(row: Row, name: str) -> str:
    """The cell under a name that has to be there, as it is: symbols may be called NAN."""
    if name not in row:
        raise ValueError(f"no {name!r}")
    value = row[name]
    return value.strip() if isinstance(value, str) else "" if value is None else f"{value}"


def text(row: Row, name: str) -> str:
    written = word(row, name)
    return "" if written.lower() in NOTHING else written


def number(row: Row, name: str) -> float | None:
    """Infinity is no number that a price or a count could be: it counts as nothing."""
    written = text(row, name)
    if not written or _INFINITE.fullmatch(written):
        return None
    if not _NUMBER.fullmatch(written):
        raise ValueError(f"{name!r} is no number: {written[:40]!r}")
    value = float(written.removesuffix("%"))
    return value if math.isfinite(value) else None


def needed(row: Row, name: str) -> float:
    value = number(row, name)
    if value is None:
        raise ValueError(f"{name!r} is missing")
    return value


def day(row: Row, name: str) -> date | None:
    written = text(row, name)
    if not written:
        return None
    if not _DAY.fullmatch(written):
        raise ValueError(f"{name!r} is no date: {written[:40]!r}")
    return date.fromisoformat(written)


def table(body: bytes, header: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV body that begins with this header and ends with a whole line."""
    names = list(header)
    first = body.split(b"\n", 1)[0].strip()
    if first != ",".join(names).encode():
        raise ValueError(f"not the expected header: {shown(first)}")
    if not body.endswith(b"\n"):
        raise ValueError("the body ends in the middle of a line")
    rows = []
    lines = csv.reader(io.StringIO(body.decode("utf-8"), newline=""), strict=True)
    next(lines)
    for number_of_line, cells in enumerate(lines, 2):
        if not cells:
            continue
        if len(cells) != len(names):
            raise ValueError(f"line {number_of_line} has {len(cells)} cells instead of {len(names)}")
        rows.append(dict(zip(names, cells, strict=True)))
    return rows
