"""Stooq's history page: the table of daily bars that its site shows to people.

It is read where somebody hands it over; it is never asked for, because what stands before it asks for a person.
One page holds the newest few dozen sessions only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np

from market_pipelines.providers.answers import folded
from market_pipelines.providers.frames import Days, Floats
from market_pipelines.providers.stooq.words import NO_VALUE

LONGEST_PAGE = 4_000_000
MONTHS: Mapping[str, int] = {
    name: number
    for number, names in enumerate(
        (
            ("jan", "sty"),
            ("feb", "lut"),
            ("mar",),
            ("apr", "kwi"),
            ("may", "maj"),
            ("jun", "cze"),
            ("jul", "lip"),
            ("aug", "sie"),
            ("sep", "wrz"),
            ("oct", "paz"),
            ("nov", "lis"),
            ("dec", "gru"),
        ),
        start=1,
    )
    for name in names
}
HEADINGS: Mapping[str, str] = {
    "date": "date",
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "volume",
    "data": "date",
    "otwarcie": "open",
    "najwyzszy": "high",
    "najnizszy": "low",
    "zamkniecie": "close",
    "wolumen": "volume",
}
_TABLE = "fth1"
_DAY = re.compile(r"(\d{1,2}) ([a-z]{3})\.? (\d{4})")
_LINK = re.compile(r"[?&]s=([^&\"'>\s]+)")


@dataclass(frozen=True)
class HistoryPage:
    native: str
    """Whose bars they are, as the page's own download link spells it; empty where there is none."""
    days: Days
    """Oldest first."""
    values: Mapping[str, Floats]
    goes_on: bool
    """The rows' numbers, which count from the oldest bar, say that there are older ones on further pages."""


def parse_history_page(body: bytes) -> HistoryPage | None:
    """The page's table, or None where it has none. `ValueError` where the table cannot be read."""
    if len(body) > LONGEST_PAGE or _TABLE.encode() not in body:
        return None
    reader = _Reader()
    try:
        reader.feed(_decoded(body))
        reader.close()
    except AssertionError as error:  # how html.parser says that a declaration is none
        raise ValueError(f"no readable page: {error}") from None
    places = _places(reader.headings)
    if places is None:
        return None
    # A dividend or a split has a line of its own with fewer, wider cells.
    full = [cells for cells in reader.rows if len(cells) == reader.width]
    rows = [_bar(cells, places) for cells in full]
    numbers = [int(cells[0]) for cells in full if cells[0].isascii() and cells[0].isdigit()]
    days = np.array([day for day, _ in rows], dtype="datetime64[D]")
    values = {
        name: np.array([prices[name] for _, prices in rows], dtype=np.float64)
        for name in ("open", "high", "low", "close", "volume")
    }
    order = np.argsort(days, kind="stable")
    return HistoryPage(
        native=reader.native,
        days=days[order],
        values={name: column[order] for name, column in values.items()},
        goes_on=min(numbers, default=1) > 1,
    )


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("cp1250", errors="replace")


@dataclass
class _Place:
    """Where a heading's cells stand in a row: a heading may span several."""

    name: str
    column: int


def _places(headings: list[tuple[str, int]]) -> list[_Place] | None:
    places, column = [], 0
    for text, span in headings:
        name = HEADINGS.get(folded(text).strip())
        if name is not None:
            places.append(_Place(name, column))
        column += span
    found = {place.name for place in places}
    return places if {"date", "open", "high", "low", "close"} <= found else None


def _bar(cells: list[str], places: list[_Place]) -> tuple[date, dict[str, float]]:
    row = {place.name: cells[place.column] for place in places}
    prices = {name: _number(text) for name, text in row.items() if name != "date"}
    # Currencies have no volume column: unknown is not zero.
    prices.setdefault("volume", np.nan)
    return _day(row["date"]), prices


def _day(text: str) -> date:
    found = _DAY.fullmatch(folded(text).strip())
    month = MONTHS.get(found[2]) if found is not None else None
    if found is None or month is None:
        raise ValueError(f"'{text[:20]}' is no date")
    return date(int(found[3]), month, int(found[1]))


def _number(text: str) -> float:
    plain = text.replace(",", "").replace("\xa0", "").replace(" ", "")
    if plain.lower() in NO_VALUE or plain == "-":
        return np.nan
    value = float(plain)
    if not np.isfinite(value):
        raise ValueError(f"'{text[:20]}' is no price or volume")
    return value


@dataclass
class _Reader(HTMLParser):
    """Collects the cells of the table with the id `fth1`, and whom the page's download link names."""

    headings: list[tuple[str, int]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    native: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._depth = 0
        self._in_head = False
        self._cells: list[tuple[str, int]] | None = None
        self._text: list[str] | None = None
        self._span = 1

    @property
    def width(self) -> int:
        return sum(span for _, span in self.headings)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "a":
            self._link(known.get("href") or "")
        if tag == "table":
            if self._depth or known.get("id") == _TABLE:
                self._depth += 1
        elif self._depth == 1:
            self._open(tag, known)

    def _open(self, tag: str, known: Mapping[str, str | None]) -> None:
        if tag in ("thead", "tbody"):
            self._in_head = tag == "thead"
        elif tag == "tr":
            self._end_row()
            self._cells = []
        elif tag in ("td", "th"):
            self._end_cell()
            span = known.get("colspan") or "1"
            self._span = int(span) if span.isdigit() and len(span) < 3 else 1
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if not self._depth:
            return
        if tag in ("td", "th"):
            self._end_cell()
        elif tag in ("tr", "thead", "tbody"):
            self._end_row()
        elif tag == "table":
            self._end_row()
            self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def _link(self, href: str) -> None:
        found = _LINK.search(href)
        if found is not None and "q/d/l/" in href:
            self.native = self.native or unquote(found[1])

    def _end_cell(self) -> None:
        if self._text is not None and self._cells is not None:
            self._cells.append((" ".join("".join(self._text).split()), self._span))
        self._text = None

    def _end_row(self) -> None:
        self._end_cell()
        cells, self._cells = self._cells, None
        if not cells:
            return
        if self._in_head or not self.headings:
            self.headings = self.headings or cells
        else:
            self.rows.append([text for text, _ in cells])
