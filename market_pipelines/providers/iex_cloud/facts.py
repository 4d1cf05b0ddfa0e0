"""IEX's quotes, company profiles, dividends, splits and list of symbols: JSON in, values out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import msgspec

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.records import Listed, Profile, Quote

RATIO_TOLERANCE = 0.01
"""How far a split's ratio, which comes rounded, may be from its two factors."""
KINDS: Mapping[str, str] = {
    "cs": "equity",
    "ad": "equity",
    "re": "equity",
    "et": "etf",
    "ps": "preferred",
    "wt": "warrant",
    "ut": "unit",
    "rt": "right",
    "cef": "fund",
    "oef": "fund",
    "mf": "fund",
}
_LATEST_STAMP = 4_102_444_800_000


class Contradiction(ValueError):
    """The answer says two things, or speaks of somebody else."""


class _Quote(msgspec.Struct, rename="camel", gc=False):
    """`changePercent` is left out on purpose: a fraction here, a percentage in charts."""

    latest_price: float | None
    symbol: str | None = None
    latest_update: float | None = None
    latest_volume: float | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    previous_close: float | None = None
    currency: str | None = None
    iex_bid_price: float | None = None
    iex_ask_price: float | None = None
    iex_bid_size: float | None = None
    iex_ask_size: float | None = None
    bid_price: float | None = None
    ask_price: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None


class _Held(msgspec.Struct):
    """One symbol's part of a batch."""

    quote: _Quote | None = None


class _Company(msgspec.Struct, rename="camel"):
    symbol: str
    industry: str | None
    company_name: str | None = None
    description: str | None = None
    sector: str | None = None
    exchange: str | None = None
    country: str | None = None
    website: str | None = None
    employees: float | None = None


class _Dividend(msgspec.Struct, rename="camel"):
    ex_date: str | None = None
    amount: float | str | None = None
    currency: str | None = None
    symbol: str | None = None


class _Split(msgspec.Struct, rename="camel"):
    ex_date: str | None = None
    ratio: float | None = None
    to_factor: float | None = None
    from_factor: float | None = None
    for_factor: float | None = None
    """As the older API called it."""
    symbol: str | None = None


class _Symbol(msgspec.Struct, rename="camel", gc=False):
    symbol: str
    name: str | None
    exchange: str | None = None
    type: str | None = None
    region: str | None = None
    is_enabled: bool | None = None
    figi: str | None = None


_quote = msgspec.json.Decoder(_Quote, strict=False)
_price = msgspec.json.Decoder(float)
_batch = msgspec.json.Decoder(dict[str, _Held | None], strict=False)
_quotes = msgspec.json.Decoder(list[_Quote], strict=False)
_company = msgspec.json.Decoder(_Company, strict=False)
_dividends = msgspec.json.Decoder(list[_Dividend], strict=False)
_splits = msgspec.json.Decoder(list[_Split], strict=False)
_symbols = msgspec.json.Decoder(list[_Symbol])


def quote_of(body: bytes, instrument: Instrument, native: str) -> Quote | None:
    """One quote, or where only a price was asked for, that bare number. None: it has no price."""
    text = body.strip()
    if not text.startswith(b"{"):
        return _valued(_Quote(latest_price=_price.decode(text)), instrument)
    read = _quote.decode(text)
    if read.symbol is None:
        raise Contradiction("no quote: it names no symbol")
    _about(read.symbol, native)
    return _valued(read, instrument)


def quotes_of(body: bytes, asked: Mapping[str, Instrument]) -> tuple[tuple[Quote, ...], tuple[str, ...]]:
    """The quotes of a batch, and which of the asked spellings it holds no price of.

    Symbols that IEX does not know are simply not there.
    """
    text = body.strip()
    read: Iterable[_Quote | None]
    if text.startswith(b"["):
        read = _quotes.decode(text)
    else:
        batch = _batch.decode(text)
        if batch and not {name.upper() for name in batch} & asked.keys():
            raise Contradiction(f"asked for {', '.join(asked)}, the answer is about {', '.join(list(batch)[:3])}")
        for name, held in batch.items():
            if held is not None and held.quote is not None and held.quote.symbol is not None:
                _about(held.quote.symbol, name)
        read = [held.quote for held in batch.values() if held is not None]
    found: dict[str, Quote] = {}
    for each in read:
        native = each.symbol.upper() if each is not None and each.symbol is not None else ""
        if each is None or native not in asked:
            continue
        valued = _valued(each, asked[native])
        if valued is not None:
            found[native] = valued
    return tuple(found.values()), tuple(sorted(asked.keys() - found.keys()))


def profile_of(body: bytes, instrument: Instrument, native: str) -> Profile:
    read = _company.decode(body.strip())
    _about(read.symbol, native)
    employees = read.employees
    return Profile(
        symbol=instrument.symbol,
        name=read.company_name or "",
        description=read.description or "",
        sector=read.sector or "",
        industry=read.industry or "",
        exchange=read.exchange or "",
        country=read.country or "",
        website=read.website or "",
        employees=int(employees) if employees is not None and math.isfinite(employees) and employees > 0 else None,
    )


def dividends_of(body: bytes, instrument: Instrument, native: str) -> tuple[tuple[CorporateAction, ...], str]:
    """Dividends in the instrument's own currency, and what was left out of them."""
    found, left_out = [], []
    for row in _dividends.decode(body.strip()):
        if row.symbol:
            _about(row.symbol, native)
        if row.ex_date is None and row.amount is None:
            raise Contradiction("no dividends: a row has neither exDate nor amount")
        day, amount = _date(row.ex_date), _positive(row.amount)
        if day is None or amount is None:
            left_out.append(f"ex-date '{row.ex_date}', amount '{row.amount}'")
        elif row.currency and row.currency.upper() != instrument.currency.upper():
            left_out.append(f"{day}: paid in {row.currency}")
        else:
            found.append(CorporateAction(instrument.symbol, day, ActionKind.DIVIDEND, amount))
    return tuple(sorted(dict.fromkeys(found))), "; ".join(left_out)


def splits_of(body: bytes, instrument: Instrument, native: str) -> tuple[CorporateAction, ...]:
    found = []
    for row in _splits.decode(body.strip()):
        if row.symbol:
            _about(row.symbol, native)
        day = _date(row.ex_date)
        value = _new_for_old(row)
        if day is None or value is None:
            raise Contradiction(f"a split that cannot be read: ex-date '{row.ex_date}', ratio {row.ratio}")
        if value != 1.0:
            found.append(CorporateAction(instrument.symbol, day, ActionKind.SPLIT, value))
    return tuple(sorted(dict.fromkeys(found)))


def listings_of(body: bytes, *, active: bool) -> tuple[Listed, ...]:
    """The lines of IEX's own list of American shares that are (or are no longer) traded."""
    found: dict[str, Listed] = {}
    for row in _symbols.decode(body.strip()):
        enabled = row.is_enabled is not False
        if not row.symbol or enabled is not active or (row.region or "US") != "US":
            continue
        found[row.symbol] = Listed(
            native=row.symbol,
            symbol=row.symbol.upper(),
            name=row.name or "",
            exchange=row.exchange or "",
            kind=KINDS.get((row.type or "").lower(), "other"),
            active=enabled,
            figi=row.figi or "",
        )
    return tuple(found.values())


def _valued(read: _Quote, instrument: Instrument) -> Quote | None:
    price = _positive(read.latest_price)
    if price is None:
        return None
    bid = _positive(read.iex_bid_price) or _positive(read.bid_price)
    ask = _positive(read.iex_ask_price) or _positive(read.ask_price)
    return Quote(
        symbol=instrument.symbol,
        price=price,
        at=_instant(read.latest_update),
        currency=(read.currency or "").upper(),
        bid=bid,
        ask=ask,
        bid_size=(_positive(read.iex_bid_size) or _positive(read.bid_size)) if bid is not None else None,
        ask_size=(_positive(read.iex_ask_size) or _positive(read.ask_size)) if ask is not None else None,
        open=_positive(read.open),
        high=_positive(read.high),
        low=_positive(read.low),
        previous_close=_positive(read.previous_close),
        volume=_count(read.latest_volume),
    )


def _about(named: str, native: str) -> None:
    if named.upper() != native.upper():
        raise Contradiction(f"asked for {native}, the answer is about {named}")


def _positive(value: float | str | None) -> float | None:
    """A price or size. IEX writes 0 where there is none, such as the bid of a closed market."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if value is not None and math.isfinite(value) and value > 0 else None


def _count(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _instant(milliseconds: float | None) -> datetime | None:
    if milliseconds is None or not 0 < milliseconds < _LATEST_STAMP:
        return None
    return datetime.fromtimestamp(int(milliseconds) // 1000, UTC).replace(microsecond=int(milliseconds) % 1000 * 1000)


def _date(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text is not None and len(text) == 10 else None
    except ValueError:
        return None


def _new_for_old(row: _Split) -> float | None:
    """New shares for one old. IEX's own ratio is the other way round: 0.142857 for seven new ones."""
    to, before = _positive(row.to_factor), _positive(row.from_factor) or _positive(row.for_factor)
    if to is None or before is None:
        return None
    value = to / before
    ratio = _positive(row.ratio)
    if ratio is not None and abs(ratio * value - 1) > RATIO_TOLERANCE:
        raise Contradiction(f"a split of {to:g} for {before:g} with a ratio of {ratio:g}")
    return value
