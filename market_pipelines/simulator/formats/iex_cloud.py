"""IEX Cloud's API as it was: charts, quotes, companies, dividends, splits and the list of symbols.

The service was retired, so this one closes every connection without an answer until `iex_cloud.serving=on`.
Refusals are a few words of plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from urllib.parse import unquote

import numpy as np

from market_pipelines.simulator.formats import iex_charts
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.iex_charts import NEW_YORK, Style, number
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.rows import Spoil
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, Tape, World

Active = Mapping[str, tuple[object, ...]]

TEXT = "text/html; charset=utf-8"
UNKNOWN_SYMBOL = Reply(404, b"Unknown symbol", TEXT)
BAD_KEY = Reply(403, b"The API key provided is not valid.", TEXT)
"""Also what an unknown range of a chart gets."""
INVALID_VALUES = Reply(400, b"You have supplied invalid values for this request", TEXT)
BODIES: dict[str, Reply] = {
    "unknown_symbol": UNKNOWN_SYMBOL,
    "bad_key": BAD_KEY,
    "invalid_values": INVALID_VALUES,
    "bad_option": Reply(400, b'{"error":"\\"badOption\\" is not allowed"}', JSON),
    "empty_list": Reply(200, b"[]", JSON),
    "empty_object": Reply(200, b"{}", JSON),
    "null": Reply(200, b"null", JSON),
    "bare_number": Reply(200, b"119.36", JSON),
    "over_limit": Reply(402, b"", TEXT),
    "too_many": Reply(429, b"", TEXT),
}
"""The answers that can be asked for instead of data. The words of the last two are not known."""

OPTIONS = frozenset(
    (
        "token",
        "chartByDay",
        "chartCloseOnly",
        "chartIEXOnly",
        "chartIEXWhenNull",
        "chartInterval",
        "chartLast",
        "chartReset",
        "chartSimplify",
        "changeFromClose",
        "exactDate",
        "includeToday",
        "sort",
        "symbols",
        "types",
        "displayPercent",
    )
)
EXCHANGES = {"NMS": "NASDAQ", "NYQ": "New York Stock Exchange", "PCX": "NYSE Arca"}
CODES = {"NMS": "NAS", "NYQ": "NYS", "PCX": "PSE"}
KINDS = {"equity": "cs", "etf": "et"}
MOST_SYMBOLS = 100
_STOCK = re.compile(r"/[^/]+/stock/([^/]+)/(.+)")
_BATCH = re.compile(r"/[^/]+/stock/market/batch")
_SYMBOLS = re.compile(r"/[^/]+/ref-data/symbols")


@dataclass(frozen=True)
class _Stock:
    """One request about one listing."""

    listing: Listing
    tape: Tape
    query: Mapping[str, str]
    world: World
    now: datetime
    active: Active
    spoil: Spoil

    @property
    def today(self) -> date:
        return self.now.astimezone(NEW_YORK).date()

    @property
    def style(self) -> Style:
        untraded = self.active.get("null_minutes", (0,))[-1]
        return Style(
            own_trades_only="own_trades_only" in self.active,
            old_gaps="old_gaps" in self.active,
            untraded=untraded if isinstance(untraded, int) else 0,
            restated_only="restated_only" in self.active,
        )


def silent(active: Active) -> bool:
    """Whether nobody serves, as since the end of August 2024."""
    return "serving" not in active


def answer(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply | None:
    wanted = active.get("key_required", ("",))[-1]
    token = asked.query.get("token", "")
    if wanted and (not token or wanted not in ("any", token)):
        return BAD_KEY
    odd = next((name for name in asked.query if name not in OPTIONS), None)
    if odd is not None:
        return _json({"error": f'"{odd}" is not allowed'}, 400)
    if _SYMBOLS.fullmatch(asked.path):
        return _json([_symbol(each, now) for each in world.listings if each.spelled_by("iex_cloud") is not None])
    if _BATCH.fullmatch(asked.path):
        return _batch(asked, world, now, active, spoil)
    found = _STOCK.fullmatch(asked.path)
    if found is None:
        return None
    stock = _stock(unquote(found[1]), asked.query, world, now, active, spoil)
    return UNKNOWN_SYMBOL if stock is None else _about(stock, found[2].strip("/"))


def _stock(
    native: str, query: Mapping[str, str], world: World, now: datetime, active: Active, spoil: Spoil
) -> _Stock | None:
    listing = world.spelled("iex_cloud", native)
    return _Stock(listing, world.tape(listing, now), query, world, now, active, spoil) if listing is not None else None


def _about(stock: _Stock, path: str) -> Reply | None:
    what, _, rest = path.partition("/")
    read = _ENDPOINTS.get(what)
    return read(stock, rest) if read is not None else None


def _batch(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply:
    symbols = [part for part in asked.query.get("symbols", "").split(",") if part]
    if not symbols or len(symbols) > MOST_SYMBOLS or asked.query.get("types", "") != "quote":
        return INVALID_VALUES
    found = (_stock(symbol, asked.query, world, now, active, spoil) for symbol in symbols)
    return _json({stock.listing.symbol: {"quote": _quote(stock)} for stock in found if stock is not None})


def _chart(stock: _Stock, rest: str) -> Reply:
    wanted, _, day = (rest or "1m").partition("/")
    if "range_refused" in stock.active:
        return BAD_KEY
    if wanted == "date":
        return _chart_of_date(stock, day or stock.query.get("exactDate", ""))
    if wanted in ("1d", "dynamic"):
        rows = iex_charts.minutes(stock.world, stock.listing, _latest_session(stock), stock.now, _own(stock.style))
        return _json({"range": "1d", "data": rows} if wanted == "dynamic" else _thinned(stock, rows))
    start = iex_charts.first_day(wanted, stock.today)
    if start is None:
        return BAD_KEY
    rows = iex_charts.days(stock.tape, start, stock.today - timedelta(days=1), stock.spoil, stock.style)
    return _json(_thinned(stock, rows[-5:] if wanted == "5d" else rows))


def _chart_of_date(stock: _Stock, text: str) -> Reply:
    try:
        day = datetime.strptime(text, "%Y%m%d").replace(tzinfo=NEW_YORK).date()
    except ValueError:
        return INVALID_VALUES
    if stock.query.get("chartByDay", "").lower() != "true":
        return _json(_thinned(stock, iex_charts.minutes(stock.world, stock.listing, day, stock.now, stock.style)))
    rows = iex_charts.days(stock.tape, day, day, stock.spoil, stock.style)
    return _json([iex_charts.by_day(row) for row in rows])


def _intraday_prices(stock: _Stock, _rest: str) -> Reply:
    rows = iex_charts.minutes(stock.world, stock.listing, _latest_session(stock), stock.now, stock.style)
    return _json(_thinned(stock, rows))


def _thinned(stock: _Stock, rows: list[iex_charts.Row]) -> list[iex_charts.Row]:
    every, last = stock.query.get("chartInterval", ""), stock.query.get("chartLast", "")
    rows = iex_charts.sampled(rows, int(every)) if every.isdigit() else rows
    return rows[-int(last) :] if last.isdigit() and int(last) else rows


def _own(style: Style) -> Style:
    return Style(own_trades_only=True, old_gaps=style.old_gaps, untraded=style.untraded)


def _latest_session(stock: _Stock) -> date:
    calendar = stock.tape.calendar
    sessions = calendar.sessions(stock.today - timedelta(days=10), stock.today)
    return next(day for day in reversed(sessions) if calendar.times(day).opens < stock.now)


def _quote(stock: _Stock) -> dict[str, object]:
    bars, tape = stock.tape.bars, stock.tape
    session = _latest_session(stock)
    times = tape.calendar.times(session)
    trading = stock.now < times.closes
    minutes = minutes_of(stock.world, stock.listing, session, session, stock.now)
    if not len(minutes):
        return {"symbol": stock.listing.symbol, "companyName": stock.listing.name, "latestPrice": None}
    latest = float(minutes.bars.close[-1])
    earlier = bars.close[tape.sessions < np.datetime64(session)]
    factor = tape.split_factor[-1] if len(tape.split_factor) else 1.0
    previous = float(earlier[-1]) / factor if len(earlier) else latest
    updated = _milliseconds(minutes.stamps[-1].astype(datetime).replace(tzinfo=UTC) + timedelta(minutes=1))
    local = (stock.now if trading else times.closes).astimezone(NEW_YORK)
    shown = f"{local:%I:%M:%S %p}".lstrip("0") if trading else f"{local:%B} {local.day}, {local.year}"
    return {
        "symbol": stock.listing.symbol,
        "companyName": stock.listing.name,
        "calculationPrice": "tops" if trading else "close",
        "open": number(float(minutes.bars.open[0])),
        "openTime": _milliseconds(times.opens),
        "close": None if trading else number(latest),
        "closeTime": None if trading else _milliseconds(times.closes),
        "high": number(float(minutes.bars.high.max())),
        "low": number(float(minutes.bars.low.min())),
        "latestPrice": number(latest),
        "latestSource": "IEX real time price" if trading else "Close",
        "latestTime": shown,
        "latestUpdate": updated,
        "latestVolume": number(float(minutes.bars.volume.sum())),
        "iexRealtimePrice": number(latest) if trading else 0,
        "previousClose": number(previous),
        "change": number(latest - previous),
        "changePercent": number(latest / previous - 1, 5),
        "iexBidPrice": number(latest - 0.01) if trading else 0,
        "iexBidSize": 100 if trading else 0,
        "iexAskPrice": number(latest + 0.01) if trading else 0,
        "iexAskSize": 200 if trading else 0,
        "marketCap": None,
        "peRatio": None,
        "week52High": number(float(bars.high[-252:].max())),
        "week52Low": number(float(bars.low[-252:].min())),
        "ytdChange": None,
    }


def _company(stock: _Stock, _rest: str) -> Reply:
    listing = stock.listing
    return _json(
        {
            "symbol": listing.symbol,
            "companyName": listing.name,
            "exchange": EXCHANGES.get(listing.venue, listing.venue),
            "industry": "",
            "website": f"http://www.{listing.symbol.lower().replace('.', '')}.example",
            "description": f"{listing.name} is simulated",
            "CEO": "",
            "securityName": listing.name,
            "issueType": KINDS.get(listing.kind, ""),
            "sector": "",
            "employees": None,
            "tags": [],
        }
    )


def _dividends(stock: _Stock, rest: str) -> Reply:
    """Newest first. A range that IEX does not know gets an empty list, and nobody is told."""
    start = iex_charts.first_day(rest, stock.today)
    found = [each for each in stock.tape.actions_of(DIVIDEND) if start is not None and each.ex_date >= start]
    return _json(
        [
            {
                "exDate": each.ex_date.isoformat(),
                "paymentDate": (each.ex_date + timedelta(days=29)).isoformat(),
                "recordDate": (each.ex_date + timedelta(days=1)).isoformat(),
                "declaredDate": (each.ex_date - timedelta(days=60)).isoformat(),
                "amount": number(each.value),
                "flag": "Cash",
                "currency": stock.listing.currency,
                "description": f"{stock.listing.name} declares a dividend",
                "frequency": {1: "Annual", 2: "Semi-Annual"}.get(stock.listing.dividends_per_year, "Quarterly"),
            }
            for each in reversed(found)
        ]
    )


def _splits(stock: _Stock, rest: str) -> Reply:
    start = iex_charts.first_day(rest, stock.today)
    found = [each for each in stock.tape.actions_of(SPLIT) if start is not None and each.ex_date >= start]
    factors = [(each, Fraction(each.value).limit_denominator(100)) for each in reversed(found)]
    return _json(
        [
            {
                "exDate": each.ex_date.isoformat(),
                "declaredDate": (each.ex_date - timedelta(days=30)).isoformat(),
                "ratio": round(1 / each.value, 6),
                "toFactor": value.numerator,
                "fromFactor": value.denominator,
                "description": f"{value.numerator}-for-{value.denominator} split",
            }
            for each, value in factors
        ]
    )


def _price(stock: _Stock, _rest: str) -> Reply:
    return _json(_quote(stock)["latestPrice"])


def _ohlc(stock: _Stock, _rest: str) -> Reply:
    quote = _quote(stock)
    ends = {name: {"price": quote[name], "time": quote[f"{name}Time"]} for name in ("open", "close")}
    return _json({**ends, "high": quote["high"], "low": quote["low"], "symbol": quote["symbol"]})


def _symbol(listing: Listing, now: datetime) -> dict[str, object]:
    gone = listing.delisted_on is not None and listing.delisted_on < now.astimezone(NEW_YORK).date()
    return {
        "symbol": listing.symbol,
        "exchange": CODES.get(listing.venue, listing.venue),
        "name": listing.name,
        "date": now.astimezone(NEW_YORK).date().isoformat(),
        "type": KINDS.get(listing.kind, ""),
        "iexId": f"IEX_{listing.symbol.encode().hex().upper()}",
        "region": "US",
        "currency": listing.currency,
        "isEnabled": not gone,
        "figi": None,
        "cik": None,
    }


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _json(value: object, status: int = 200) -> Reply:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Reply(status, body.encode(), JSON, {"iexcloud-messages-used": "1"})


_ENDPOINTS: Mapping[str, Callable[[_Stock, str], Reply]] = {
    "chart": _chart,
    "intraday-prices": _intraday_prices,
    "quote": lambda stock, _rest: _json(_quote(stock)),
    "company": _company,
    "dividends": _dividends,
    "splits": _splits,
    "price": _price,
    "ohlc": _ohlc,
}
