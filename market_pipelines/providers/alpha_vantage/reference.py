"""Profiles, the list of everything listed, symbol search, and which markets are open."""

from __future__ import annotations

import re
from collections.abc import Sequence

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Listed, Profile, SymbolMatch, VenueStatus
from market_pipelines.providers.alpha_vantage.cells import (
    Row,
    day,
    number,
    one_object,
    rows_of_objects,
    table,
    text,
    top_level,
    word,
)
from market_pipelines.providers.alpha_vantage.spelling import SPELLING, same_symbol
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.protocol import (
    Answer,
    ListingsQuery,
    Parsed,
    ProfileQuery,
    SearchQuery,
    StatusQuery,
)

OVERVIEW, LISTING_STATUS = "OVERVIEW", "LISTING_STATUS"
SYMBOL_SEARCH, MARKET_STATUS = "SYMBOL_SEARCH", "MARKET_STATUS"
LISTED_EXCHANGES = "XNYS"
"""LISTING_STATUS is about the exchanges of the United States, which share one calendar."""

_LISTING_COLUMNS = ("symbol", "name", "exchange", "assetType", "ipoDate", "delistingDate", "status")
_STATES = {True: "Active", False: "Delisted"}
_WELL_FORMED = re.compile(r"([A-Z0-9]+(?:-[A-Z]{1,3})*)(:[A-Z]+)?", re.ASCII)
"""Root, then class or kind after dashes, then after a colon the venue where the line is about another than its own."""
_TEST_SYMBOL = re.compile(r"(?:[A-Z]TEST|Z[A-Z]ZZT|ZTST|ZZK)(?:-[A-Z])?")
_TEST_NAME = re.compile(r"(?i)\b(?:listed test|test (?:stock|ticker|symbol)|symbology test)\b")
_PREFERRED_SYMBOL = re.compile(r"-P(?:-[A-Z])?$")
_KIND_OF_SUFFIX = {"WS": "warrant", "U": "unit", "R": "right"}
_KINDS_BY_NAME = (
    # A unit's name tells which warrants and rights are in it.
    ("unit", re.compile(r"(?i)(?<!common )\bunits?(?= \(| each\b|$)")),
    ("warrant", re.compile(r"(?i)\b(?:warrants?|wts?)\b")),
    ("right", re.compile(r"(?i)\brights?\b")),
    ("preferred", re.compile(r"(?i)\b(?:preferred (?:stock|shares?)|pfd)\b")),
)
_ASSET_TYPES = {"stock": "equity", "equity": "equity", "etf": "etf", "mutual fund": "fund"}

_MATCH_COLUMNS = (
    "symbol",
    "name",
    "type",
    "region",
    "marketOpen",
    "marketClose",
    "timezone",
    "currency",
    "matchScore",
)


def parameters_of_profile(query: ProfileQuery) -> dict[str, str]:
    return {"function": OVERVIEW, "symbol": SPELLING.native(query.instrument)}


def parameters_of_listings(query: ListingsQuery) -> dict[str, str]:
    state = _STATES[query.active].lower()
    return {"function": LISTING_STATUS, "state": state, **({"date": f"{query.on}"} if query.on is not None else {})}


def parameters_of_search(query: SearchQuery) -> dict[str, str]:
    return {"function": SYMBOL_SEARCH, "keywords": query.text, "datatype": "json"}


def parameters_of_status(_query: StatusQuery) -> dict[str, str]:
    return {"function": MARKET_STATUS}


def parse_profile(body: bytes, _answer: Answer, query: ProfileQuery) -> Parsed:
    row = one_object.decode(body)
    if not row:
        return Parsed(Outcome.UNKNOWN_SYMBOL, "an empty object, as for a symbol that is not listed or is no company")
    if "Symbol" not in row or "Name" not in row:
        return malformed(f"no profile, but {', '.join(list(row)[:4])}")
    if not same_symbol(row["Symbol"], query.instrument):
        return malformed(f"asked for {SPELLING.native(query.instrument)}, the answer is about {row['Symbol']}")

    def written(name: str) -> str:
        return text(row, name) if name in row else ""

    def counted(name: str) -> float | None:
        return number(row, name) if name in row else None

    employees = counted("FullTimeEmployees")
    profile = Profile(
        symbol=query.instrument.symbol,
        name=written("Name"),
        description=written("Description"),
        sector=written("Sector"),
        industry=written("Industry"),
        exchange=written("Exchange"),
        country=written("Country"),
        currency=written("Currency"),
        website=written("OfficialSite"),
        employees=int(employees) if employees is not None else None,
        market_cap=counted("MarketCapitalization"),
        shares_outstanding=counted("SharesOutstanding"),
        cik=written("CIK"),
    )
    return Parsed(Outcome.OK, records=(profile,))


def parse_listings(body: bytes, _answer: Answer, query: ListingsQuery) -> Parsed:
    """Every line whose symbol can be one, without the exchanges' test symbols; a symbol comes once."""
    if query.mic != LISTED_EXCHANGES:
        return Parsed(Outcome.NOT_ENTITLED, f"the list is about exchanges of the United States, not about {query.mic}")
    if body.startswith(b"{"):
        top = top_level.decode(body)
        if top:
            return malformed(f"no list, but {', '.join(list(top)[:4])}")
        return Parsed(Outcome.EMPTY_UNEXPECTED, "an empty object instead of a list")
    rows = table(body, _LISTING_COLUMNS)
    wanted = [row for row in rows if row["status"].strip() == _STATES[query.active]]
    if rows and not wanted:
        return malformed(f"asked for the {_STATES[query.active].lower()}, the list has others only")
    found: dict[str, Listed] = {}
    tests = unfit = 0
    # Lines of another venue last: where the symbol has a line of its own as well, that one counts.
    for row in sorted(wanted, key=lambda row: ":" in row["symbol"]):
        parts = _WELL_FORMED.fullmatch(row["symbol"].strip())
        if parts is None:
            unfit += 1
        elif _TEST_SYMBOL.fullmatch(parts[1]) or _TEST_NAME.search(row["name"]):
            tests += 1
        else:
            symbol = SPELLING.canonical(parts[1], LISTED_EXCHANGES)
            found.setdefault(symbol, _listed(row, parts[1], symbol))
    again = len(wanted) - tests - unfit - len(found)
    note = f"left out: {tests} test symbols, {unfit} unreadable symbols, {again} lines of a symbol that has another"
    if not found:
        return Parsed(Outcome.EMPTY_UNEXPECTED, "an empty list" if not rows else note)
    records = tuple(found[symbol] for symbol in sorted(found))
    return Parsed(Outcome.OK, note if tests or unfit or again else "", records=records)


def _listed(row: Row, stem: str, symbol: str) -> Listed:
    name = text(row, "name")
    return Listed(
        native=word(row, "symbol"),
        symbol=symbol,
        name=name,
        exchange=text(row, "exchange"),
        kind=_kind(stem, name, text(row, "assetType")),
        active=text(row, "status") == _STATES[True],
        listed_from=day(row, "ipoDate"),
        delisted_on=day(row, "delistingDate"),
    )


def _kind(stem: str, name: str, asset_type: str) -> str:
    """The list itself tells shares and funds apart and nothing else."""
    plain = _ASSET_TYPES.get(asset_type.lower(), "other")
    if plain != "equity":
        return plain
    if _PREFERRED_SYMBOL.search(stem):
        return "preferred"
    for suffix in stem.split("-")[1:]:
        if suffix in _KIND_OF_SUFFIX:
            return _KIND_OF_SUFFIX[suffix]
    return next((kind for kind, pattern in _KINDS_BY_NAME if pattern.search(name)), plain)


def parse_search(body: bytes, _answer: Answer, query: SearchQuery) -> Parsed:
    rows: Sequence[Row]
    if body.startswith(b"{"):
        top = top_level.decode(body)
        if "bestMatches" not in top:
            return malformed(f"no matches, but {', '.join(list(top)[:4]) or 'an empty object'}")
        rows = [_without_numbers(row) for row in rows_of_objects.decode(top["bestMatches"])]
    else:
        rows = table(body, _MATCH_COLUMNS)
    matches = tuple(_match(row) for row in rows)
    if not matches:
        return Parsed(Outcome.EMPTY_EXPECTED, one_line(f"nothing matches '{query.text}'"))
    return Parsed(Outcome.OK, records=matches)


def _without_numbers(row: Row) -> Row:
    """`1. symbol` is `symbol`."""
    return {name.partition(". ")[2]: value for name, value in row.items()}


def _match(row: Row) -> SymbolMatch:
    native, score, kind = word(row, "symbol"), number(row, "matchScore"), text(row, "type").lower()
    if not native:
        raise ValueError("a match without a symbol")
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"a match of {score:g}, which is not from 0 to 1")
    return SymbolMatch(
        native=native,
        name=text(row, "name"),
        kind=_ASSET_TYPES.get(kind, kind or "other"),
        exchange=text(row, "region"),
        currency=text(row, "currency"),
        score=score,
    )


def parse_status(body: bytes, _answer: Answer, query: StatusQuery) -> Parsed:
    """One line a market; opening and closing are wall-clock times there, as the provider keeps them."""
    if query.upcoming:
        return Parsed(Outcome.NOT_ENTITLED, "only the present state is told, not the holidays to come")
    top = top_level.decode(body)
    if "markets" not in top:
        return malformed(f"no markets, but {', '.join(list(top)[:4]) or 'an empty object'}")
    venues = tuple(_venue(row) for row in rows_of_objects.decode(top["markets"]))
    if not venues:
        return Parsed(Outcome.EMPTY_UNEXPECTED, "no market is named")
    return Parsed(Outcome.OK, records=venues)


def _venue(row: Row) -> VenueStatus:
    """`Global` is a region that several markets share; those go by their type."""
    region, kind, exchanges = (text(row, name) for name in ("region", "market_type", "primary_exchanges"))
    venue = region if kind.lower() == "equity" else kind
    status = text(row, "current_status").lower()
    if not venue or not status:
        raise ValueError("a market without a name or a state")
    notes = [part for part in (exchanges if exchanges != region else "", text(row, "notes")) if part]
    return VenueStatus(
        venue=venue,
        status=status,
        opens=text(row, "local_open"),
        closes=text(row, "local_close"),
        note="; ".join(notes),
    )
