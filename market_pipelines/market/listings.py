"""What a new list of an exchange means for the companies that are known: who is new, gone, renamed, or another one.

A ticker is not a company. The same FIGI under another ticker is a renaming; another FIGI under the same ticker is
another company. Where the list has no FIGI, names and days have to do. A list that lacks too many is not believed in
what it lacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from market_pipelines.market.instruments import Kind
from market_pipelines.market.records import Listed

MOST_GONE = 0.10
"""Of the listed: if more are lacking at once, the list is short, not the market."""
FEW = 20
"""Below so many listed companies a share of them says nothing."""
MONTH = timedelta(days=31)

SYMBOL = re.compile(r"[A-Za-z0-9^][A-Za-z0-9.^\-]{0,15}")
"""A small letter says something: `ABRpD` is a preferred share, and nothing else is spelled like it."""

_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    _WORD.findall(
        "a ab ag and adr ads akcyjna class co common company corp corporation depositary etf fund group holding "
        "holdings inc incorporated limited llc lp ltd n new nv of ordinary plc preferred s sa se shares spolka stock "
        "the trust units warrant warrants"
    )
)


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who bears a ticker, as it is stored."""

    symbol: str
    name: str
    active: bool = True
    followed: bool = True
    """Named by the market file or pulled: its name there counts."""
    listed_by: str = ""
    """Whose list named it; empty where no list has."""
    figi: str = ""
    venue: str = ""
    security_type: str = ""
    listed_from: date | None = None
    delisted_on: date | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    bearer: Bearer
    last_day: date | None
    """The last session, where the provider's list of delisted ones has it."""


@dataclass(frozen=True, slots=True)
class ListingChanges:
    new: tuple[Listed, ...] = ()
    changed: tuple[Listed, ...] = ()
    """The same company with another name, venue or type, or one that is listed again."""
    reused: tuple[tuple[Bearer, Listed], ...] = ()
    renamed: tuple[tuple[Bearer, Listed], ...] = ()
    gone: tuple[Gone, ...] = ()
    past: tuple[Listed, ...] = ()
    """Delisted companies whose ticker nobody known bears, or another one."""
    unchanged: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    """Lines that cannot be used, and why."""
    held: str = ""
    """Why nobody counts as gone, though some are lacking; empty where the list is believed."""
    lacking: int = 0
    """How many of the known are not on the list."""
    named: tuple[str, ...] = ()
    """Every symbol of the list that can be used."""


def kind_of(security_type: str) -> Kind:
    return Kind.ETF if security_type == "etf" else Kind.EQUITY


def compare(
    stored: Sequence[Bearer],
    listed: Sequence[Listed],
    provider: str,
    *,
    delisted: Sequence[Listed] = (),
    most_gone: float = MOST_GONE,
) -> ListingChanges:
    """What changes when `listed` is the whole list of this provider. Companies that only another one listed are left
    alone."""
    usable, refused = _usable(listed)
    bearers = {bearer.symbol: bearer for bearer in stored}
    sorted_out = _Sorting()
    for symbol, line in usable.items():
        sorted_out.place(bearers.get(symbol), line)
    ended = {line.symbol: line for line in delisted if line.delisted_on is not None}
    missing = [one for one in stored if one.active and one.listed_by == provider and one.symbol not in usable]
    renamed = _renamings(missing, sorted_out.new)
    called_otherwise = {bearer.symbol for bearer, _ in renamed}
    gone = [Gone(one, _last_day(one, ended)) for one in missing if one.symbol not in called_otherwise]
    held = _held(stored, provider, len(usable), len(gone), most_gone)
    new_names = {line.symbol for _, line in renamed}
    return ListingChanges(
        new=tuple(line for line in sorted_out.new if line.symbol not in new_names),
        changed=tuple(sorted_out.changed),
        reused=tuple(sorted_out.reused),
        renamed=renamed,
        gone=() if held else tuple(gone),
        past=_past(bearers, usable, delisted),
        unchanged=sorted_out.unchanged,
        refused=refused,
        held=held,
        lacking=len(gone),
        named=tuple(usable),
    )


def same_company(bearer: Bearer, line: Listed) -> bool:
    """Whether a line of a list is about the company that bore its ticker so far."""
    if bearer.figi and line.figi:
        return bearer.figi == line.figi
    alike = names_alike(bearer.name, line.name)
    if line.delisted_on is not None and bearer.listed_from is not None and line.delisted_on < bearer.listed_from:
        return False
    if line.listed_from is not None:
        if bearer.delisted_on is not None and line.listed_from > bearer.delisted_on:
            return False
        if bearer.listed_from is not None and line.listed_from > bearer.listed_from + MONTH:
            return alike
    return alike or bearer.active


def names_alike(one: str, other: str) -> bool:
    """Whether two names share a word that says something. An empty name contradicts nobody."""
    first, second = _words(one), _words(other)
    return not first or not second or not first.isdisjoint(second)


def _words(name: str) -> frozenset[str]:
    words = frozenset(_WORD.findall(name.casefold()))
    return words - _COMMON or frozenset({name.casefold()} - {""})


def _usable(listed: Sequence[Listed]) -> tuple[dict[str, Listed], tuple[tuple[str, str], ...]]:
    usable: dict[str, Listed] = {}
    refused = []
    for line in listed:
        if line.kind == "index":
            continue
        if not SYMBOL.fullmatch(line.symbol):
            refused.append((line.native, "is not a symbol"))
        elif line.symbol in usable:
            refused.append((line.native, f"{line.symbol} is on the list twice"))
        else:
            usable[line.symbol] = line
    return usable, tuple(refused)


@dataclass
class _Sorting:
    new: list[Listed] = field(default_factory=list)
    changed: list[Listed] = field(default_factory=list)
    reused: list[tuple[Bearer, Listed]] = field(default_factory=list)
    unchanged: int = 0

    def place(self, bearer: Bearer | None, line: Listed) -> None:
        if bearer is None or not (bearer.listed_by or bearer.name):
            self.new.append(line)
        elif not same_company(bearer, line):
            self.reused.append((bearer, line))
        elif not bearer.listed_by:
            self.new.append(line)
        elif not bearer.active or _differs(bearer, line):
            self.changed.append(line)
        else:
            self.unchanged += 1


def _differs(bearer: Bearer, line: Listed) -> bool:
    name = not bearer.followed and line.name not in ("", bearer.name)
    figi = bool(line.figi) and line.figi != bearer.figi
    return name or figi or (bearer.venue, bearer.security_type) != (line.exchange, line.kind)


def _renamings(missing: Sequence[Bearer], new: Sequence[Listed]) -> tuple[tuple[Bearer, Listed], ...]:
    by_figi = {line.figi: line for line in new if line.figi}
    return tuple((bearer, by_figi[bearer.figi]) for bearer in missing if bearer.figi in by_figi)


def _last_day(bearer: Bearer, ended: Mapping[str, Listed]) -> date | None:
    line = ended.get(bearer.symbol)
    return line.delisted_on if line is not None and same_company(bearer, line) else None


def _held(stored: Sequence[Bearer], provider: str, listed: int, gone: int, most_gone: float) -> str:
    known = sum(one.active and one.listed_by == provider for one in stored)
    if known and not listed:
        return f"the list is empty, and {known} companies were on the last one"
    if known >= FEW and gone > known * most_gone:
        return f"{gone} of {known} listed companies are lacking at once, which is more than {most_gone:.0%}"
    return ""


def _past(
    bearers: Mapping[str, Bearer], usable: Mapping[str, Listed], delisted: Sequence[Listed]
) -> tuple[Listed, ...]:
    """Delisted companies that are not the bearers of their tickers."""
    found = []
    for line in delisted:
        if line.delisted_on is None or line.kind == "index" or not SYMBOL.fullmatch(line.symbol):
            continue
        bearer = bearers.get(line.symbol)
        if bearer is not None and same_company(bearer, line) and names_alike(bearer.name, line.name):
            continue
        current = usable.get(line.symbol)
        if bearer is None and current is not None and _same_line(current, line):
            continue
        found.append(line)
    return tuple(found)


def _same_line(current: Listed, line: Listed) -> bool:
    if current.figi and line.figi:
        return current.figi == line.figi
    return current.listed_from == line.listed_from and names_alike(current.name, line.name)
