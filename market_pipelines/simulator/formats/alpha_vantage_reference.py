"""Alpha Vantage's OVERVIEW, SPLITS, DIVIDENDS, LISTING_STATUS, SYMBOL_SEARCH and MARKET_STATUS."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from zlib import crc32
from zoneinfo import ZoneInfo

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.formats.alpha_vantage import CSV_TYPE, EMPTY_OBJECT, invalid_call
from market_pipelines.simulator.formats.alpha_vantage_quotes import as_csv, as_json
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, World

LISTING_HEADER = "symbol,name,exchange,assetType,ipoDate,delistingDate,status"
MATCH_HEADER = "symbol,name,type,region,marketOpen,marketClose,timezone,currency,matchScore"
SPLIT_HEADER = "effective_date,split_factor"
DIVIDEND_HEADER = "ex_dividend_date,declaration_date,record_date,payment_date,amount"
MOST_MATCHES = 10
EXCHANGES = {"NMS": "NASDAQ", "NGM": "NASDAQ", "NCM": "NASDAQ", "PCX": "NYSE ARCA", "ASE": "NYSE MKT", "BTS": "BATS"}
"""By the finer code that the list of listings has; New York's main market else."""
ODD_LINES = (
    "-P-HIZ,Presurance Holdings Inc,NASDAQ,Stock,2023-08-30,null,Active",
    "ATEST,ATEST,NYSE ARCA,Stock,2016-03-14,null,Active",
    "ATEST-A,ATEST.A,NYSE MKT,Stock,2016-03-14,null,Active",
    "BC/PB,Brunswick Corp,NYSE,Stock,2018-12-06,null,Active",
    "SPY:BAT,SPDR S&P 500 ETF Trust,BATS,ETF,2026-03-31,null,Active",
    "ZVZZT,NASDAQ TEST STOCK,NASDAQ,Stock,2012-01-03,null,Active",
    "ZZK,,NYSE ARCA,Stock,2020-07-22,null,Active",
)
"""As the real list has them: unreadable symbols, test symbols, lines of another venue, empty names."""
NO_DATES_BEFORE = date(2003, 1, 1)
"""Of older dividends only the ex-date is known."""

VENUES: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("United States", "NASDAQ, NYSE, AMEX, BATS", "09:30", "16:15", "XNYS", ""),
    ("Canada", "Toronto, Toronto Ventures", "09:30", "16:00", "XTSE", ""),
    ("United Kingdom", "London", "08:00", "16:30", "XLON", ""),
    ("Germany", "XETRA, Berlin, Frankfurt, Munich, Stuttgart", "08:00", "20:00", "XETR", ""),
    ("France", "Paris", "09:00", "17:30", "XPAR", ""),
    ("Spain", "Barcelona, Madrid", "09:00", "17:30", "XMAD", ""),
    ("Portugal", "Lisbon", "08:00", "16:30", "XLIS", ""),
    ("Japan", "Tokyo", "09:00", "15:00", "XTKS", "Noon trading break from 11:30 to 12:30 local time"),
    ("India", "NSE, BSE", "09:15", "15:30", "XBOM", ""),
    (
        "Mainland China",
        "Shanghai, Shenzhen",
        "09:30",
        "15:00",
        "XSHG",
        "Noon trading break from 11:30 to 13:00 local time",
    ),
    ("Hong Kong", "Hong Kong", "09:30", "16:00", "XHKG", "Noon trading break from 12:00 to 13:00 local time"),
    ("Brazil", "Sao Paolo", "10:00", "17:30", "BVMF", ""),
    ("Mexico", "Mexico", "08:30", "15:00", "XMEX", ""),
    ("South Africa", "Johannesburg", "09:00", "17:00", "XJSE", ""),
)
FOREX_NOTE = "The forex market is open 24 hours a day, EXCEPT between 16:00 EST on Friday and 17:00 EST on Sunday"
CRYPTO_NOTE = "The cryptocurrency market is open 24 hours a day"
NEW_YORK = ZoneInfo("America/New_York")


def overview(_query: Mapping[str, str], symbol: str, world: World, now: datetime) -> Reply:
    """Of companies; what this world does not know is `None` or `-`, as with the provider."""
    listing = world.spelled("alpha_vantage", symbol)
    tape = world.tape(listing, now) if listing is not None and listing.kind == "equity" else None
    if listing is None or tape is None or not len(tape.sessions):
        return EMPTY_OBJECT
    year = tape.bars.take(slice(-252, None))
    close, shares = float(tape.bars.close[-1]), listing.volume * 150
    paid = tape.actions_of(DIVIDEND)
    return as_json(
        {
            "Symbol": symbol,
            "AssetType": "Common Stock",
            "Name": listing.name,
            "Description": f"{listing.name} as it trades in a simulated market.",
            "CIK": f"{crc32(listing.symbol.encode()) % 10_000_000}",
            "Exchange": _exchange(listing),
            "Currency": _currency(listing),
            "Country": "USA" if listing.mic == "XNYS" else "None",
            "Sector": "None",
            "Industry": "None",
            "Address": "None",
            "OfficialSite": "None",
            "FiscalYearEnd": "December",
            "MarketCapitalization": f"{close * shares:.0f}",
            "PERatio": "-",
            "PEGRatio": "None",
            "DividendYield": f"{listing.dividend_yield:.4f}" if paid else "None",
            "52WeekHigh": f"{float(year.high.max()):.2f}",
            "52WeekLow": f"{float(year.low.min()):.2f}",
            "50DayMovingAverage": f"{float(tape.bars.close[-50:].mean()):.2f}",
            "200DayMovingAverage": f"{float(tape.bars.close[-200:].mean()):.2f}",
            "SharesOutstanding": f"{shares:.0f}",
            "ExDividendDate": f"{paid[-1].ex_date}" if paid else "None",
        }
    )


def splits(query: Mapping[str, str], symbol: str, world: World, now: datetime) -> Reply:
    listing = world.spelled("alpha_vantage", symbol)
    if listing is None:
        return EMPTY_OBJECT
    found = reversed(world.tape(listing, now).actions_of(SPLIT))
    rows = [[f"{action.ex_date}", f"{action.value:.4f}"] for action in found]
    return _events(query, symbol, SPLIT_HEADER, rows)


def dividends(query: Mapping[str, str], symbol: str, world: World, now: datetime) -> Reply:
    listing = world.spelled("alpha_vantage", symbol)
    if listing is None:
        return EMPTY_OBJECT
    found = reversed(world.tape(listing, now).actions_of(DIVIDEND))
    rows = [[f"{action.ex_date}", *_around(action.ex_date), f"{action.value:g}"] for action in found]
    return _events(query, symbol, DIVIDEND_HEADER, rows)


def _around(ex_date: date) -> list[str]:
    """Declared two weeks before, on record on the ex-date, paid a month after."""
    if ex_date < NO_DATES_BEFORE:
        return ["None", "None", "None"]
    return [f"{ex_date - timedelta(days=14)}", f"{ex_date}", f"{ex_date + timedelta(days=30)}"]


def _events(query: Mapping[str, str], symbol: str, header: str, rows: list[list[str]]) -> Reply:
    if query.get("datatype", "json") == "csv":
        return as_csv(header, rows)
    names = header.split(",")
    return as_json({"symbol": symbol, "data": [dict(zip(names, row, strict=True)) for row in rows]})


def listing_status(query: Mapping[str, str], _symbol: str, world: World, now: datetime) -> Reply:
    """CSV whatever is asked for, except for a date that the list does not reach."""
    today = now.astimezone(NEW_YORK).date()
    try:
        on = date.fromisoformat(query["date"]) if query.get("date") else today
    except ValueError:
        return invalid_call("LISTING_STATUS")
    state = query.get("state", "active")
    if on <= date(2010, 1, 1) or state not in ("active", "delisted"):
        return EMPTY_OBJECT
    lines = [
        _listing_line(listing, active=state == "active")
        for listing in world.listings
        if listing.mic == "XNYS" and listing.kind != "index" and listing.first_session <= on
        if (listing.delisted_on is None or listing.delisted_on >= on) == (state == "active")
    ]
    if state == "active":
        lines += ODD_LINES
    body = "".join(f"{line}\r\n" for line in [LISTING_HEADER, *sorted(lines)])
    name = {"Content-Disposition": "attachment; filename=listing_status.csv"}
    return Reply(200, body.encode(), CSV_TYPE, name)


def _listing_line(listing: Listing, *, active: bool) -> str:
    kind = "ETF" if listing.kind == "etf" else "Stock"
    gone = "null" if active or listing.delisted_on is None else f"{listing.delisted_on}"
    cells = (
        listing.alpha_vantage,
        # The provider's own list has no commas in names.
        listing.name.replace(",", ""),
        _exchange(listing),
        kind,
        f"{listing.first_session}",
        gone,
        "Active" if active else "Delisted",
    )
    return ",".join(cells)


def symbol_search(query: Mapping[str, str], _symbol: str, world: World, now: datetime) -> Reply:
    wanted = query.get("keywords", "").strip().lower()
    if not wanted:
        return invalid_call("SYMBOL_SEARCH")
    listed = [one for one in world.listings if world.spelled("alpha_vantage", one.alpha_vantage) is one]
    scored = sorted(((_score(wanted, one), one) for one in listed), key=lambda each: (-each[0], each[1].symbol))
    rows = [_match(one, score, now) for score, one in scored[:MOST_MATCHES] if score > 0]
    if query.get("datatype", "json") == "csv":
        return as_csv(MATCH_HEADER, rows)
    names = [f"{number}. {name}" for number, name in enumerate(MATCH_HEADER.split(","), 1)]
    return as_json({"bestMatches": [dict(zip(names, row, strict=True)) for row in rows]})


def _score(wanted: str, listing: Listing) -> float:
    symbol, name = listing.alpha_vantage.lower(), listing.name.lower()
    if symbol == wanted:
        return 1.0
    if symbol.startswith(wanted):
        return len(wanted) / len(symbol)
    return 0.5 * len(wanted) / len(name) if wanted in name else 0.0


def _match(listing: Listing, score: float, now: datetime) -> list[str]:
    calendar = trading_calendar(listing.mic, now)
    offset = now.astimezone(calendar.zone).utcoffset() or timedelta()
    hours = round(offset / timedelta(hours=1))
    region, opens, closes = (
        ("United States", "09:30", "16:00") if listing.mic == "XNYS" else ("United Kingdom", "08:00", "16:30")
    )
    return [
        listing.alpha_vantage,
        listing.name.replace(",", ""),
        "ETF" if listing.kind == "etf" else "Equity",
        region,
        opens,
        closes,
        f"UTC{hours:+03d}",
        _currency(listing),
        f"{score:.4f}",
    ]


def market_status(_query: Mapping[str, str], _symbol: str, _world: World, now: datetime) -> Reply:
    markets = [
        _venue("Equity", region, exchanges, opens, closes, _is_open(mic, opens, closes, now), note)
        for region, exchanges, opens, closes, mic, note in VENUES
    ]
    there = now.astimezone(NEW_YORK)
    rests = {4: there.time() >= time(16), 5: True, 6: there.time() < time(17)}
    forex = not rests.get(there.weekday(), False)
    markets.append(_venue("Forex", "Global", "Global", "00:00", "23:59", forex, FOREX_NOTE))
    markets.append(_venue("Cryptocurrency", "Global", "Global", "00:00", "23:59", True, CRYPTO_NOTE))
    return as_json({"endpoint": "Global Market Open & Close Status", "markets": markets})


def _venue(kind: str, region: str, exchanges: str, opens: str, closes: str, is_open: bool, note: str) -> dict[str, str]:
    return {
        "market_type": kind,
        "region": region,
        "primary_exchanges": exchanges,
        "local_open": opens,
        "local_close": closes,
        "current_status": "open" if is_open else "closed",
        "notes": note,
    }


def _is_open(mic: str, opens: str, closes: str, now: datetime) -> bool:
    """By the clock on a session's day: the provider knows neither half days nor lunch breaks."""
    calendar = trading_calendar(mic, now)
    there = now.astimezone(calendar.zone)
    return calendar.is_session(there.date()) and time.fromisoformat(opens) <= there.time() < time.fromisoformat(closes)


def _exchange(listing: Listing) -> str:
    return "LSE" if listing.mic == "XLON" else EXCHANGES.get(listing.venue, "NYSE")


def _currency(listing: Listing) -> str:
    return "GBX" if listing.currency == "GBp" else listing.currency
