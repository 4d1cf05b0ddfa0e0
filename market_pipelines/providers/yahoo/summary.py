"""`/v10/finance/quoteSummary/{sym}`: what a company is. Indices and currencies have none, which is a 404."""

from __future__ import annotations

from math import isfinite

import msgspec

from market_pipelines.market.currencies import whole_currency
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Profile
from market_pipelines.providers.answers import malformed, no_data
from market_pipelines.providers.protocol import Answer, Parsed
from market_pipelines.providers.yahoo.envelopes import Amount, number, open_envelope, refusal

MODULES = "assetProfile,price,summaryDetail,defaultKeyStatistics,quoteType"


class _Asset(msgspec.Struct, rename="camel"):
    long_business_summary: str | None = None
    sector: str | None = None
    industry: str | None = None
    country: str | None = None
    website: str | None = None
    full_time_employees: Amount = None


class _Price(msgspec.Struct, rename="camel"):
    symbol: str | None = None
    long_name: str | None = None
    short_name: str | None = None
    exchange_name: str | None = None
    currency: str | None = None
    market_cap: Amount = None


class _Detail(msgspec.Struct, rename="camel"):
    currency: str | None = None
    market_cap: Amount = None


class _Statistics(msgspec.Struct, rename="camel"):
    shares_outstanding: Amount = None


class _Type(msgspec.Struct, rename="camel"):
    symbol: str | None = None
    long_name: str | None = None
    short_name: str | None = None
    exchange: str | None = None


class _Summary(msgspec.Struct, rename="camel"):
    asset_profile: _Asset | None = None
    price: _Price | None = None
    summary_detail: _Detail | None = None
    default_key_statistics: _Statistics | None = None
    quote_type: _Type | None = None


_summaries = msgspec.json.Decoder(list[_Summary] | None)


def read_profile(answer: Answer, instrument: Instrument, expected: str) -> Parsed:
    def empty() -> Outcome:
        return Outcome.EMPTY_UNEXPECTED if instrument.kind is Kind.EQUITY else Outcome.EMPTY_EXPECTED

    refused = refusal(answer, "quoteSummary", empty) or no_data(answer)
    if refused is not None:
        return refused
    try:
        root = open_envelope(answer.body).get("quoteSummary")
        told = _summaries.decode(root.result) if root is not None else None
    except (msgspec.MsgspecError, ValueError) as error:
        return malformed(f"the answer cannot be read: {error}")
    if told is None:
        return malformed("no summary in the answer")
    if not told:
        return Parsed(Outcome.UNKNOWN_SYMBOL, f"{expected} is not known")
    return _profile(told[0], instrument, expected)


def _profile(summary: _Summary, instrument: Instrument, expected: str) -> Parsed:
    asset, price = summary.asset_profile or _Asset(), summary.price or _Price()
    detail, kind = summary.summary_detail or _Detail(), summary.quote_type or _Type()
    about = price.symbol or kind.symbol
    if about is not None and about.upper() != expected.upper():
        return malformed(f"asked for {expected}, the answer is about {about}")
    name = price.long_name or kind.long_name or price.short_name or kind.short_name or ""
    if not name and summary.asset_profile is None:
        return malformed(f"a summary that says nothing about {expected}")
    employees = _counted(asset.full_time_employees)
    statistics = summary.default_key_statistics or _Statistics()
    profile = Profile(
        symbol=instrument.symbol,
        name=_words(name or instrument.name or instrument.symbol),
        description=_words(asset.long_business_summary),
        sector=_words(asset.sector),
        industry=_words(asset.industry),
        exchange=_words(price.exchange_name or kind.exchange),
        country=_words(asset.country),
        # The capitalisation is in pounds where the price is in pence.
        currency=whole_currency(price.currency or detail.currency or ""),
        website=_words(asset.website),
        employees=int(employees) if employees is not None else None,
        market_cap=_counted(price.market_cap) or _counted(detail.market_cap),
        shares_outstanding=_counted(statistics.shares_outstanding),
    )
    return Parsed(Outcome.OK, records=(profile,))


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


def _counted(amount: Amount) -> float | None:
    value = number(amount)
    return value if value is not None and isfinite(value) and value > 0 else None
