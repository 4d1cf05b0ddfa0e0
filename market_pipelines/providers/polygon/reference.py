"""Polygon's reference data: who is listed, what it is, its splits and dividends, and the venues' hours.

Dividends come as they were declared. The newer endpoints add amounts and factors restated for later splits,
which have been seen doubled where a split is on file twice, so they are not read; nor are twins of a record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from math import isfinite

import msgspec

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Listed, Profile, SymbolMatch, VenueStatus
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.polygon.envelope import Envelope, results_of
from market_pipelines.providers.protocol import ActionsQuery, ListingsQuery, Parsed, ProfileQuery, SearchQuery

KINDS = {
    "CS": "equity",
    "OS": "equity",
    "ADRC": "equity",
    "GDR": "equity",
    "NYRS": "equity",
    "ETF": "etf",
    "ETN": "etf",
    "ETS": "etf",
    "ETV": "etf",
    "PFD": "preferred",
    "ADRP": "preferred",
    "WARRANT": "warrant",
    "ADRW": "warrant",
    "RIGHT": "right",
    "ADRR": "right",
    "UNIT": "unit",
    "FUND": "fund",
    "INDEX": "index",
}
_TEST_NAME = re.compile(r"(?i)\btest (?:stock|issue|symbol|security|ticker|common)\b|\btick pilot\b")
_TEST_TICKER = re.compile(r"(?:Z[A-Z]ZZT|ZZZT[A-Z]?|ZTST|ZTEST|[NAPCM]TEST)(?:\..*)?")
_STATUSES = {"extended-hours": "extended_hours", "early-close": "early_close", "early-closing": "early_close"}


class _Ticker(msgspec.Struct, kw_only=True):
    ticker: str
    market: str
    name: str | None = None
    primary_exchange: str | None = None
    type: str | None = None
    active: bool | None = None
    currency_name: str | None = None
    composite_figi: str | None = None
    delisted_utc: str | None = None


class _Details(_Ticker, kw_only=True):
    locale: str | None = None
    description: str | None = None
    sic_description: str | None = None
    homepage_url: str | None = None
    cik: str | None = None
    total_employees: int | float | None = None
    market_cap: float | None = None
    share_class_shares_outstanding: float | None = None
    weighted_shares_outstanding: float | None = None


class _Split(msgspec.Struct, frozen=True):
    ticker: str
    execution_date: date
    split_from: float
    split_to: float


class _Dividend(msgspec.Struct, frozen=True):
    ticker: str
    ex_dividend_date: date
    cash_amount: float
    dividend_type: str | None = None
    distribution_type: str | None = None
    pay_date: str | None = None
    currency: str | None = None


class _MarketNow(msgspec.Struct, rename="camel"):
    exchanges: dict[str, str]
    server_time: str = ""


class _MarketDay(msgspec.Struct):
    exchange: str
    date: date
    status: str
    name: str = ""
    open: str | None = None
    close: str | None = None


_tickers = msgspec.json.Decoder(list[_Ticker] | None)
_details = msgspec.json.Decoder(_Details)
_splits = msgspec.json.Decoder(list[_Split] | None)
_dividends = msgspec.json.Decoder(list[_Dividend] | None)
_now = msgspec.json.Decoder(_MarketNow)
_upcoming = msgspec.json.Decoder(list[_MarketDay])


def is_test_ticker(native: str, name: str = "") -> bool:
    """Instruments that the exchanges list to try their systems with; nobody owns them."""
    return _TEST_TICKER.fullmatch(native) is not None or _TEST_NAME.search(name) is not None


def profile(envelope: Envelope, query: ProfileQuery, native: str) -> Parsed:
    found = _details.decode(results_of(envelope))
    if found.ticker != native:
        return malformed(f"asked for {native}, the answer is about {one_line(found.ticker)}")
    employees = found.total_employees
    record = Profile(
        symbol=query.instrument.symbol,
        name=found.name or "",
        description=found.description or "",
        industry=found.sic_description or "",
        exchange=found.primary_exchange or "",
        country=(found.locale or "").upper(),
        currency=(found.currency_name or "").upper(),
        website=found.homepage_url or "",
        employees=int(employees) if employees is not None else None,
        market_cap=found.market_cap,
        shares_outstanding=found.share_class_shares_outstanding or found.weighted_shares_outstanding,
        figi=found.composite_figi or "",
        cik=found.cik or "",
    )
    return Parsed(Outcome.OK, records=(record,))


def listings(envelope: Envelope, query: ListingsQuery) -> Parsed:
    """Test instruments are left out. A ticker that was used twice is on the list of the delisted twice."""
    rows = _tickers.decode(results_of(envelope)) or []
    kept = [row for row in rows if not is_test_ticker(row.ticker, row.name or "")]
    if not kept:
        return Parsed(Outcome.EMPTY_UNEXPECTED, f"an empty list ({len(rows)} test instruments left out)")
    records = tuple(
        Listed(
            native=row.ticker,
            symbol=row.ticker,
            name=row.name or "",
            exchange=row.primary_exchange or "",
            kind=KINDS.get(row.type or "", "other"),
            active=row.active if row.active is not None else query.active,
            delisted_on=_day(row.delisted_utc),
            figi=row.composite_figi or "",
        )
        for row in kept
    )
    return Parsed(Outcome.OK, records=records)


def _day(text: str | None) -> date | None:
    """The date as it is written: it stands at midnight UTC and would be the day before in New York."""
    return date.fromisoformat(text[:10]) if text else None


def matches(envelope: Envelope, query: SearchQuery) -> Parsed:
    rows = _tickers.decode(results_of(envelope)) or []
    if not rows:
        return Parsed(Outcome.EMPTY_EXPECTED, one_line(f"nothing is found for {query.text!r}"))
    records = tuple(
        SymbolMatch(
            native=row.ticker,
            name=row.name or "",
            kind=KINDS.get(row.type or "", "other"),
            exchange=row.primary_exchange or "",
            currency=(row.currency_name or "").upper(),
        )
        for row in rows
    )
    return Parsed(Outcome.OK, records=records)


def splits(envelope: Envelope, query: ActionsQuery, native: str) -> Parsed:
    rows = _splits.decode(results_of(envelope)) or []
    ours = [row for row in rows if row.ticker == native]
    if rows and not ours:
        return _about_others([row.ticker for row in rows], native)
    for row in ours:
        if not (row.split_from > 0 and row.split_to > 0 and isfinite(row.split_to / row.split_from)):
            return malformed(f"a split of {row.split_to:g} for {row.split_from:g} on {row.execution_date}")
    found = dict.fromkeys(
        CorporateAction(query.instrument.symbol, row.execution_date, ActionKind.SPLIT, row.split_to / row.split_from)
        for row in ours
        if query.start <= row.execution_date <= query.today
    )
    return _actions(tuple(found), "splits", query)


def dividends(envelope: Envelope, query: ActionsQuery, native: str) -> Parsed:
    """Several of one day (a regular and a special one) are one sum; those in another currency are passed over."""
    rows = _dividends.decode(results_of(envelope)) or []
    ours = [row for row in dict.fromkeys(rows) if row.ticker == native]
    if rows and not ours:
        return _about_others([row.ticker for row in rows], native)
    amounts: dict[date, float] = {}
    foreign: dict[str, int] = {}
    for row in ours:
        if not query.start <= row.ex_dividend_date <= query.today or row.cash_amount <= 0:
            continue
        if row.currency and row.currency.upper() != query.instrument.currency.upper():
            foreign[row.currency.upper()] = foreign.get(row.currency.upper(), 0) + 1
            continue
        amounts[row.ex_dividend_date] = amounts.get(row.ex_dividend_date, 0.0) + row.cash_amount
    found = tuple(
        CorporateAction(query.instrument.symbol, day, ActionKind.DIVIDEND, round(amount, 10))
        for day, amount in amounts.items()
        if isfinite(amount)
    )
    passed_over = ", ".join(f"{count} in {currency}" for currency, count in foreign.items())
    return _actions(found, "dividends", query, f"passed over: {passed_over}" if passed_over else "")


def _actions(found: tuple[CorporateAction, ...], what: str, query: ActionsQuery, remark: str = "") -> Parsed:
    if found:
        return Parsed(Outcome.OK, one_line(remark), actions=tuple(sorted(found)))
    nothing = f"no {what} since {query.start}"
    return Parsed(Outcome.EMPTY_EXPECTED, one_line("; ".join(text for text in (nothing, remark) if text)))


def _about_others(named: Sequence[str], native: str) -> Parsed:
    return malformed(f"asked for {native}, the answer is about {one_line(', '.join(sorted(set(named))[:5]))}")


def market_now(body: bytes) -> Parsed:
    found = _now.decode(body)
    if not found.exchanges:
        return Parsed(Outcome.EMPTY_UNEXPECTED, "no venues")
    note = one_line(found.server_time)
    records = tuple(VenueStatus(venue, _STATUSES.get(said, said), note=note) for venue, said in found.exchanges.items())
    return Parsed(Outcome.OK, records=records)


def market_days(body: bytes) -> Parsed:
    """Holidays and short days to come: a bare list, a row a venue."""
    rows = _upcoming.decode(body)
    if not rows:
        return Parsed(Outcome.EMPTY_EXPECTED, "no holidays are announced")
    records = tuple(
        VenueStatus(
            venue=row.exchange,
            status=_STATUSES.get(row.status, row.status),
            on=row.date,
            opens=row.open or "",
            closes=row.close or "",
            note=row.name,
        )
        for row in rows
    )
    return Parsed(Outcome.OK, records=records)
