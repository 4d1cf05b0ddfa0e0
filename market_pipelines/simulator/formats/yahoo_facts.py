"""Yahoo's quotes, company summaries and symbol search."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.formats.yahoo import KINDS, VENUES, daily_rows, market_time
from market_pipelines.simulator.formats.yahoo_refusals import failure
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import Tape, World

COUNTRIES = {"XNYS": "United States", "XWAR": "Poland", "XLON": "United Kingdom", "XTKS": "Japan"}
SECTORS = (
    ("Technology", "Consumer Electronics"),
    ("Financial Services", "Banks - Diversified"),
    ("Energy", "Oil & Gas Integrated"),
    ("Healthcare", "Drug Manufacturers - General"),
    ("Consumer Defensive", "Discount Stores"),
    ("Industrials", "Aerospace & Defense"),
)
SHARES_PER_TRADED = 250
"""Shares outstanding for each that changes hands on an ordinary day."""


def envelope(root: str, result: Sequence[Any]) -> Reply:
    return Reply(200, msgspec.json.encode({root: {"result": list(result), "error": None}}), JSON)


def quotes(symbols: str, world: World, now: datetime, *, stale_since: date | None = None) -> Reply:
    """Unknown symbols are left out without a word."""
    found = []
    for native in dict.fromkeys(symbols.split(",")):
        listing = world.spelled("yahoo", native)
        if listing is not None:
            found.append(quoted(listing, world, now, stale_since=stale_since))
    return envelope("quoteResponse", found)


def quoted(listing: Listing, world: World, now: datetime, *, stale_since: date | None = None) -> dict[str, Any]:
    tape = world.tape(listing, now, forming=True)
    facts: dict[str, Any] = {"language": "en-US", "region": "US", "symbol": listing.yahoo, "triggerable": True}
    if listing.delisted_on is not None and listing.delisted_on < tape.calendar.local_date(now):
        return {**facts, "quoteType": "NONE", "customPriceAlertConfidence": "NONE", "triggerable": False}
    rows = daily_rows(tape)
    if not len(rows):
        return {**facts, "quoteType": "NONE"}
    row = len(rows) - 1
    if stale_since is not None:
        row = max(int(np.searchsorted(tape.sessions, np.datetime64(stale_since), side="right")) - 1, 0)
    stale = row < len(rows) - 1
    last = {name: float(column[row]) for name, column in rows.columns.items()}
    previous = float(rows.columns["close"][max(row - 1, 0)])
    closes = tape.calendar.times(tape.sessions[row].astype(date)).closes
    here = now.astimezone(tape.calendar.zone)
    offset = here.utcoffset()
    index = listing.kind == "index"
    price = round(last["close"], 4)
    facts |= {
        "quoteType": KINDS[listing.kind],
        "typeDisp": KINDS[listing.kind].title(),
        "currency": listing.currency,
        "shortName": listing.name[:31],
        "longName": listing.name,
        "exchange": listing.venue,
        "fullExchangeName": VENUES[listing.venue],
        "exchangeTimezoneName": str(tape.calendar.zone),
        "exchangeTimezoneShortName": here.tzname(),
        "gmtOffSetMilliseconds": int(offset.total_seconds() * 1000) if offset else 0,
        "marketState": _state(tape),
        "regularMarketTime": int(closes.timestamp()) + 1 if stale else market_time(tape),
        "regularMarketPrice": price,
        "regularMarketOpen": 0 if index else round(last["open"], 4),
        "regularMarketDayHigh": round(last["high"], 4),
        "regularMarketDayLow": round(last["low"], 4),
        "regularMarketPreviousClose": round(previous, 4),
        "regularMarketChange": round(price - previous, 6),
        "regularMarketChangePercent": round((price / previous - 1) * 100, 6),
        "regularMarketVolume": 0 if index else int(last["volume"]),
        "bid": 0 if index else round(price * 0.9995, 2),
        "ask": 0 if index else round(price * 1.0005, 2),
        "bidSize": 0 if index else 2,
        "askSize": 0 if index else 1,
        "priceHint": 2,
        "sourceInterval": 15,
        "exchangeDataDelayedBy": 0 if listing.mic == "XNYS" else 15,
        "tradeable": False,
    }
    return facts


def _state(tape: Tape) -> str:
    if tape.forming:
        return "REGULAR"
    today = tape.calendar.local_date(tape.now)
    if not tape.calendar.is_session(today):
        return "CLOSED"
    return "PRE" if tape.now < tape.calendar.times(today).opens else "POST"


def summary(native: str, query: Mapping[str, str], world: World, now: datetime) -> Reply:
    listing = world.spelled("yahoo", native)
    if listing is None:
        return failure(404, "Not Found", f"Quote not found for symbol: {native}", root="quoteSummary")
    modules = [name.strip() for name in query.get("modules", "").split(",") if name.strip()]
    if listing.kind == "index":
        told = f"No fundamentals data found for any of the summaryTypes={','.join(modules)}"
        return failure(404, "Not Found", told, root="quoteSummary")
    everything = _modules(listing, world, now)
    return envelope("quoteSummary", [{name: everything[name] for name in modules if name in everything}])


def _modules(listing: Listing, world: World, now: datetime) -> dict[str, Any]:
    rows = daily_rows(world.tape(listing, now, forming=True))
    price = float(rows.columns["close"][-1]) if len(rows) else 0.0
    shares = int(listing.volume * SHARES_PER_TRADED)
    whole = price / 100 if listing.currency == "GBp" else price
    sector, industry = SECTORS[crc32(listing.symbol.encode()) % len(SECTORS)]
    named = {"symbol": listing.yahoo, "shortName": listing.name[:31], "longName": listing.name}
    return {
        "assetProfile": {
            "longBusinessSummary": f"{listing.name} is a made-up company of a made-up world.",
            "sector": sector,
            "industry": industry,
            "country": COUNTRIES[listing.mic],
            "website": f"https://{listing.yahoo.lower().replace('.', '-')}.example",
            "fullTimeEmployees": crc32(listing.name.encode()) % 200_000 + 100,
        },
        "price": {
            **named,
            "currency": listing.currency,
            "exchangeName": VENUES[listing.venue],
            "quoteType": KINDS[listing.kind],
            "regularMarketPrice": round(price, 4),
            "marketCap": int(whole * shares),
        },
        "summaryDetail": {"currency": listing.currency, "marketCap": int(whole * shares)},
        "defaultKeyStatistics": {"sharesOutstanding": shares},
        "quoteType": {**named, "exchange": listing.venue, "quoteType": KINDS[listing.kind]},
    }


def search(query: Mapping[str, str], world: World) -> Reply:
    wanted = _plain(query.get("q", ""))
    most = int(query.get("quotesCount", "6")) if query.get("quotesCount", "6").isdigit() else 6
    scored = sorted(
        ((_score(listing, wanted), listing.yahoo, listing) for listing in world.listings if wanted), reverse=True
    )
    matches = [_match(listing, score) for score, native, listing in scored if score and native != "-"][:most]
    body = {"explains": [], "count": len(matches), "quotes": matches, "news": [], "nav": [], "lists": []}
    return Reply(200, msgspec.json.encode(body), JSON)


def _match(listing: Listing, score: int) -> dict[str, Any]:
    return {
        "exchange": listing.venue,
        # Names are cut at a fixed width and filled up with blanks.
        "shortname": f"{listing.name.upper()[:29]:<30}R",
        "quoteType": KINDS[listing.kind],
        "symbol": listing.yahoo,
        "index": "quotes",
        "score": float(20_000 + score),
        "typeDisp": KINDS[listing.kind].title(),
        "longname": listing.name,
        "exchDisp": VENUES[listing.venue],
        "isYahooFinance": True,
    }


def _score(listing: Listing, wanted: str) -> int:
    name, symbol = _plain(listing.name), _plain(listing.symbol)
    if wanted == symbol:
        return 20_000
    return 5_000 if name.startswith(wanted) else 100 if wanted in name or symbol.startswith(wanted) else 0


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign)).lower().strip()
