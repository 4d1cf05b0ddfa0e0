"""Who belongs to an index, from when to when: dated lists of symbols, as files give them.

Only values and the reading of a file's text; where the files are is the use case's business. A list says what its
sources say and no more: for a day that no row covers nothing is known, which is another thing than nobody.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

ALIASES: Mapping[str, str] = {"wig80": "swig80", "mw40": "mwig40"}
"""Names that people use. WIG80 has been sWIG80 since 2007."""
COLUMNS = ("symbol", "name", "valid_from", "valid_to", "source")
SYMBOL = re.compile(r"[A-Z0-9^][A-Z0-9.^\-]{0,15}")

_HEADER = re.compile(r"#\s*(\w+)\s*:\s*(.*?)\s*")
_ONCE = ("title", "exchange", "index", "as_of")
_REPEATED = ("source", "note")
_DAY = timedelta(days=1)


class UniverseFileError(Exception):
    """A universe file cannot be used. The message says where and why."""


class UnknownUniverse(Exception):
    """No universe has that name."""


@dataclass(frozen=True, slots=True)
class Member:
    symbol: str
    name: str
    valid_from: date
    valid_to: date | None
    """The last day of membership; None while it is a member."""
    source: str

    def on(self, day: date) -> bool:
        return self.valid_from <= day and (self.valid_to is None or day <= self.valid_to)


@dataclass(frozen=True, slots=True)
class Universe:
    name: str
    title: str
    exchange: str
    """The exchange_calendars code of the markets that can use it."""
    index: str
    """The symbol of the index whose members these are."""
    as_of: date
    """How the newest list stood; whoever is a member then counts as one until a newer list says otherwise."""
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    members: tuple[Member, ...]
    """By symbol, then by day."""

    def on(self, day: date) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.on(day))

    @property
    def today(self) -> tuple[Member, ...]:
        """Those whose membership has no end."""
        return tuple(member for member in self.members if member.valid_to is None)

    @property
    def spans(self) -> tuple[tuple[date, date | None], ...]:
        """The stretches of days that at least one row covers; outside of them nothing is known."""
        found: list[tuple[date, date | None]] = []
        for member in sorted(self.members, key=lambda one: one.valid_from):
            last = found[-1] if found else None
            if last is None or (last[1] is not None and member.valid_from > last[1] + _DAY):
                found.append((member.valid_from, member.valid_to))
            elif last[1] is not None:
                end = None if member.valid_to is None else max(last[1], member.valid_to)
                found[-1] = (last[0], end)
        return tuple(found)


def canonical(name: str, known: Iterable[str]) -> str:
    """The universe's own name for a name in any case, or for an alias."""
    names = sorted(known)
    wanted = ALIASES.get(name.lower(), name.lower())
    if wanted not in names:
        aliases = ", ".join(f"{alias} = {own}" for alias, own in sorted(ALIASES.items()) if own in names)
        also = f" ({aliases})" if aliases else ""
        raise UnknownUniverse(f"universe {name!r} is not known; there are {', '.join(names)}{also}")
    return wanted


def read_universe(name: str, text: str, where: str) -> Universe:
    """The universe in a file's text; a refusal names `where` and the line."""
    header, sources, notes, first_row = _read_header(text, where)
    members = []
    for line, row in _rows(text, first_row, where):
        try:
            members.append((line, _member(row)))
        except ValueError as error:
            raise UniverseFileError(f"{where}:{line}: {error}") from None
    if not members:
        raise UniverseFileError(f"{where}:{first_row}: lists nobody")
    _refuse_overlaps(members, where)
    try:
        as_of = date.fromisoformat(header["as_of"])
    except ValueError:
        raise UniverseFileError(f"{where}:1: as_of: read {header['as_of']!r}; accepted: YYYY-MM-DD") from None
    return Universe(
        name=name,
        title=header["title"],
        exchange=header["exchange"],
        index=header["index"],
        as_of=as_of,
        sources=tuple(sources),
        notes=tuple(notes),
        members=tuple(sorted((member for _, member in members), key=lambda one: (one.symbol, one.valid_from))),
    )


def _read_header(text: str, where: str) -> tuple[dict[str, str], list[str], list[str], int]:
    """What the lines with `#` say, and the number of the line after them."""
    header: dict[str, str] = {}
    repeated: dict[str, list[str]] = {key: [] for key in _REPEATED}
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("#"):
            break
        match = _HEADER.fullmatch(line)
        key, value = match.groups() if match is not None else ("", "")
        if key in repeated:
            repeated[key].append(value)
        elif key in _ONCE and key not in header:
            header[key] = value
        else:
            accepted = ", ".join((*_ONCE, *_REPEATED))
            raise UniverseFileError(
                f"{where}:{number}: read {line[:80]!r}; accepted: '# key: value', each of {accepted}"
            )
    lacking = [key for key in _ONCE if not header.get(key)] + ([] if repeated["source"] else ["source"])
    if lacking:
        raise UniverseFileError(f"{where}:1: does not say {', '.join(lacking)}")
    return header, repeated["source"], repeated["note"], number


def _rows(text: str, first: int, where: str) -> Iterator[tuple[int, list[str]]]:
    """Every row below the column names, with the number of its line."""
    lines = text.splitlines()[first - 1 :]
    if not lines or tuple(lines[0].split(",")) != COLUMNS:
        read = lines[0] if lines else ""
        raise UniverseFileError(f"{where}:{first}: read {read[:80]!r}; accepted: {','.join(COLUMNS)}")
    for number, line in enumerate(lines[1:], start=first + 1):
        if not line.strip():
            continue
        try:
            yield number, next(csv.reader(io.StringIO(line), strict=True))
        except csv.Error as error:
            raise UniverseFileError(f"{where}:{number}: is not CSV: {error}") from None


def _member(row: list[str]) -> Member:
    if len(row) != len(COLUMNS):
        raise ValueError(f"has {len(row)} columns; accepted: {','.join(COLUMNS)}")
    symbol, name, valid_from, valid_to, source = (cell.strip() for cell in row)
    if not SYMBOL.fullmatch(symbol):
        raise ValueError(f"symbol: read {symbol!r}; accepted: capital letters, digits, '.', '-' and '^'")
    if not source:
        raise ValueError(f"{symbol} has no source")
    start = _day("valid_from", valid_from)
    end = _day("valid_to", valid_to) if valid_to else None
    if end is not None and end < start:
        raise ValueError(f"{symbol}: valid_to {end} is before valid_from {start}")
    return Member(symbol, name, start, end, source)


def _day(column: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{column}: read {text!r}; accepted: YYYY-MM-DD") from None


def _refuse_overlaps(members: list[tuple[int, Member]], where: str) -> None:
    ordered = sorted(members, key=lambda one: (one[1].symbol, one[1].valid_from))
    for (earlier_line, earlier), (line, later) in pairwise(ordered):
        if earlier.symbol != later.symbol or (earlier.valid_to is not None and earlier.valid_to < later.valid_from):
            continue
        until = earlier.valid_to or "today"
        raise UniverseFileError(
            f"{where}:{line}: {later.symbol} from {later.valid_from} overlaps line {earlier_line}, which has it from "
            f"{earlier.valid_from} to {until}"
        )
