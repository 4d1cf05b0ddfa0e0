"""Quotes: one instrument's from GLOBAL_QUOTE, up to a hundred from REALTIME_BULK_QUOTES."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.market.sessions import known_calendars, trading_calendar
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
from market_pipelines.providers.alpha_vantage.series import nothing_inside
from market_pipelines.providers.alpha_vantage.spelling import SPELLING, money, same_symbol
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.protocol import Answer, Parsed, QuoteQuery

SINGLE, BULK = "GLOBAL_QUOTE", "REALTIME_BULK_QUOTES"
MOST = 100
ZONE = ZoneInfo("America/New_York")

_SINGLE_KEY = "Global Quote"
"""Of delayed data the key goes on: `Global Quote - DATA DELAYED BY 15 MINUTES`."""
_SINGLE_COLUMNS = (
    "symbol",
    "open",
    "high",
    "low",
    "price",
    "volume",
    "latestDay",
    "previousClose",
    "change",
    "changePercent",
)
_SINGLE_NAMES = dict(
    zip(
        _SINGLE_COLUMNS,
        (
            "01. symbol",
            "02. open",
            "03. high",
            "04. low",
            "05. price",
            "06. volume",
            "07. latest trading day",
            "08. previous close",
            "09. change",
            "10. change percent",
        ),
        strict=True,
    )
)
_BULK_COLUMNS = (
    "symbol",
    "timestamp",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "previous_close",
    "change",
    "change_percent",
    "extended_hours_quote",
    "extended_hours_change",
    "extended_hours_change_percent",
)


def parameters_of_one(query: QuoteQuery) -> dict[str, str]:
    return {"function": SINGLE, "symbol": SPELLING.native(query.instruments[0]), "datatype": "json"}


def parameters_of_many(query: QuoteQuery) -> dict[str, str]:
    symbols = ",".join(SPELLING.native(instrument) for instrument in query.instruments)
    return {"function": BULK, "symbol": symbols, "datatype": "json"}


def parse_one(body: bytes, _answer: Answer, query: QuoteQuery) -> Parsed:
    instrument = query.instruments[0]
    rows: list[Row]
    if body.startswith(b"{"):
        top = top_level.decode(body)
        key = next((name for name in top if name.startswith(_SINGLE_KEY)), None)
        if key is None:
            return malformed(f"no quote, but {', '.join(list(top)[:4])}") if top else nothing_inside()
        named = one_object.decode(top[key])
        rows = [{name: named[there] for name, there in _SINGLE_NAMES.items() if there in named}] if named else []
    else:
        rows = list(table(body, _SINGLE_COLUMNS))
    if not rows:
        return Parsed(Outcome.UNKNOWN_SYMBOL, "an empty quote, as for a symbol that is not listed")
    row = rows[0]
    if len(rows) > 1:
        return malformed(f"{len(rows)} quotes instead of one")
    if not same_symbol(word(row, "symbol"), instrument):
        return malformed(f"asked for {SPELLING.native(instrument)}, the answer is about {word(row, 'symbol')}")
    for checked in ("change", "changePercent"):
        number(row, checked)
    quote = _quote(instrument, row, number(row, "price"), None, day(row, "latestDay"), "previousClose")
    if quote is None:
        return Parsed(Outcome.EMPTY_UNEXPECTED, "a quote without a price")
    return Parsed(Outcome.OK, records=(quote,))


def parse_many(body: bytes, _answer: Answer, query: QuoteQuery) -> Parsed:
    """Those of the instruments that the answer has; rows about others are passed over."""
    rows: list[Row]
    if body.startswith(b"{"):
        top = top_level.decode(body)
        if "data" not in top:
            return malformed(f"no quotes, but {', '.join(list(top)[:4])}") if top else nothing_inside()
        rows = list(rows_of_objects.decode(top["data"]))
    else:
        rows = list(table(body, _BULK_COLUMNS))
    asked = {SPELLING.native(instrument).upper(): instrument for instrument in query.instruments}
    quotes: dict[str, Quote] = {}
    for row in rows:
        instrument = asked.get(word(row, "symbol").upper())
        quote = _bulk_quote(instrument, row) if instrument is not None else None
        if quote is not None:
            quotes.setdefault(quote.symbol, quote)
    if quotes:
        missing = sorted(one.symbol for one in asked.values() if one.symbol not in quotes)
        note = one_line(f"no quote of {', '.join(missing)}") if missing else ""
        return Parsed(Outcome.OK, note, records=tuple(quotes.values()))
    if rows:
        others = ", ".join(word(row, "symbol") for row in rows[:4])
        return malformed(f"no quote of what was asked for, but {others}")
    return Parsed(Outcome.UNKNOWN_SYMBOL, "no quote of any of the symbols")


def _bulk_quote(instrument: Instrument, row: Row) -> Quote | None:
    """Outside of the regular hours the latest price is the extended one, and the time is that price's."""
    written = text(row, "timestamp")
    local = datetime.fromisoformat(written).replace(tzinfo=ZONE) if written else None
    at = local.astimezone(UTC) if local is not None else None
    price, extended = number(row, "close"), number(row, "extended_hours_quote")
    if extended and at is not None and not _regular(instrument, at):
        price = extended
    return _quote(instrument, row, price, at, local.date() if local is not None else None, "previous_close")


def _regular(instrument: Instrument, at: datetime) -> bool:
    return instrument.mic in known_calendars() and trading_calendar(instrument.mic, at).is_open(at)


def _quote(
    instrument: Instrument, row: Row, price: float | None, at: datetime | None, session: date | None, before: str
) -> Quote | None:
    """None without a price: zeros stand for a listing that no longer trades."""
    if price is None or price <= 0:
        return None
    scale = money(instrument)

    def scaled(name: str) -> float | None:
        value = number(row, name)
        return value * scale if value else None

    return Quote(
        symbol=instrument.symbol,
        price=price * scale,
        at=at,
        currency=instrument.currency,
        open=scaled("open"),
        high=scaled("high"),
        low=scaled("low"),
        previous_close=scaled(before),
        volume=number(row, "volume"),
        session=session,
    )
