"""One HTTP answer, and how many rows become text at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HTML = "text/html; charset=utf-8"
PLAIN = "text/plain"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


def fill(template: str, columns: Sequence[Sequence[Any]], between: str = "") -> str:
    """The template once for every row, filled with its cells. One formatting call for the whole table."""
    count = len(columns[0]) if columns else 0
    if not count:
        return ""
    width = len(columns)
    cells: list[Any] = [None] * (count * width)
    for place, column in enumerate(columns):
        cells[place::width] = column
    return between.join([template] * count) % tuple(cells)
