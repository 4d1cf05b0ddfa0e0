"""Yahoo's `/v8/finance/chart/{symbol}` with interval 1d.

Prices are 32-bit floats written out as doubles, adjusted for splits; `adjclose` for dividends too. Bars are
stamped with the session's opening; the newest one, on its own day, with its last trade.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.formats.yahoo_refusals import NOT_FOUND, failure
from market_pipelines.simulator.rows import Rows, Spoil, unspoiled
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, Action, Days, Floats, Tape, World

VENUES = {
    "NMS": "NasdaqGS",
    "NGM": "NasdaqGM",
    "NYQ": "NYSE",
    "PCX": "NYSEArca",
    "SNP": "SNP",
    "NIM": "Nasdaq GIDS",
    "DJI": "DJI",
    "WSE": "Warsaw Stock Exchange",
    "LSE": "LSE",
    "JPX": "Tokyo",
}
KINDS = {"equity": "EQUITY", "etf": "ETF", "index": "INDEX"}
VALID_RANGES = ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"]
RANGE_DAYS = {"1mo": 31, "3mo": 92, "6mo": 183, "1y": 366, "2y": 731, "5y": 1827, "10y": 3653}
EXTENDED = {"XNYS": (timedelta(hours=5, minutes=30), timedelta(hours=4))}
"""How long trading goes on before and after the session."""
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Style:
    live_duplicate: bool = False
    """The newest day comes twice: with its opening stamp and with the last trade's."""
    events_mismatch: bool = False
    """The key of an event and its `date` are years apart."""
    shown_symbol: str = ""
    granularity: str = "1d"
    hides_rows: bool = False
    missed_split: date | None = None
    """A split that Yahoo has not heard of: no event, and the prices before it are as they were traded."""


def answer(
    symbol: str,
    query: Mapping[str, str],
    world: World,
    now: datetime,
    *,
    spoil: Spoil = unspoiled,
    style: Style | None = None,
) -> Reply:
    style = style or Style()
    listing = world.spelled("yahoo", style.shown_symbol or symbol)
    if listing is None:
        return NOT_FOUND
    interval = query.get("interval", "1d")
    if interval != "1d":
        return failure(422, "Unprocessable Entity", f"{interval} bars are not simulated.")
    tape = world.tape(listing, now, forming=True)
    if style.missed_split is not None:
        tape = tape.without_split(style.missed_split)
    period = asked_period(query, tape)
    if isinstance(period, Reply):
        return period
    start, end = period
    rows = daily_rows(tape)
    opens = opening_stamps(tape.calendar, rows.sessions)
    first, last = (int(np.searchsorted(opens, edge)) for edge in (start, end))
    meta = chart_meta(tape, rows, max(first, 0), query, style)
    rows = spoil(tape, rows.take(slice(first, first if style.hides_rows else last)))
    if not len(rows):
        result: dict[str, Any] = {"meta": meta, "indicators": {"quote": [{}], "adjclose": [{}]}}
        return Reply(200, msgspec.json.encode({"chart": {"result": [result], "error": None}}), JSON)
    stamps = _stamps(tape, rows)
    if style.live_duplicate:
        rows, stamps = _with_live_duplicate(tape, rows, stamps)
    result = {"meta": meta, "timestamp": stamps}
    events = events_of(tape, start, end, query.get("events", ""), style)
    if events:
        result["events"] = events
    result["indicators"] = indicators(rows)
    return Reply(200, msgspec.json.encode({"chart": {"result": [result], "error": None}}), JSON)


def daily_rows(tape: Tape) -> Rows:
    split = tape.split_factor
    close = tape.bars.close / split
    return Rows(
        tape.sessions,
        {
            "open": tape.bars.open / split,
            "high": tape.bars.high / split,
            "low": tape.bars.low / split,
            "close": close,
            "volume": np.round(tape.bars.volume * split),
            "adjusted_close": close * tape.dividend_factor,
        },
    )


@lru_cache(maxsize=32)
def _openings(calendar: TradingCalendar) -> tuple[Days, np.ndarray]:
    sessions = calendar.all_sessions
    opens = np.array([int(calendar.times(day).opens.timestamp()) for day in sessions], dtype=np.int64)
    return np.array(sessions, dtype="datetime64[D]"), opens


def opening_stamps(calendar: TradingCalendar, days: Days) -> np.ndarray:
    """When each day's session opens, in epoch seconds; a day off opens when its neighbours do."""
    sessions, opens = _openings(calendar)
    places = np.searchsorted(sessions, days).clip(0, len(sessions) - 1)
    stamps = opens[places]
    for row in np.flatnonzero(sessions[places] != days):
        stamps[row] = _usual_opening(calendar, days[row].astype(date))
    return np.asarray(stamps)


def _usual_opening(calendar: TradingCalendar, day: date) -> int:
    known = calendar.times(calendar.all_sessions[-1]).opens.astimezone(calendar.zone).time()
    return int(datetime.combine(day, known, tzinfo=calendar.zone).timestamp())


def asked_period(query: Mapping[str, str], tape: Tape) -> tuple[int, int] | Reply:
    now = int(tape.now.timestamp())
    if "period1" in query or "period2" in query:
        try:
            start, end = int(query.get("period1", "0")), int(query.get("period2", str(now)))
        except ValueError:
            return failure(400, "Bad Request", "Invalid input - period1 and period2 are epoch seconds.")
        if start >= end:
            return failure(
                400,
                "Bad Request",
                f"Invalid input - start date cannot be after end date. startDate = {start}, endDate = {end}",
            )
        return start, end
    wanted = query.get("range", "1mo")
    if wanted not in VALID_RANGES:
        return failure(422, "Unprocessable Entity", f"Invalid input - range={wanted} is not supported. {VALID_RANGES}")
    today = tape.calendar.local_date(tape.now)
    if wanted == "max" or not len(tape.sessions):
        return 0, now + 1
    if wanted in ("1d", "5d"):
        first = tape.sessions[-min(int(wanted[0]), len(tape.sessions))].astype(date)
    elif wanted == "ytd":
        first = date(today.year, 1, 1)
    else:
        first = today - timedelta(days=RANGE_DAYS[wanted])
    return int(datetime.combine(first, datetime.min.time(), tzinfo=tape.calendar.zone).timestamp()), now + 1


def market_time(tape: Tape) -> int:
    """When the listing last traded."""
    if tape.forming:
        return int(tape.now.timestamp())
    return int(tape.calendar.times(tape.sessions[-1].astype(date)).closes.timestamp()) + 1


def _stamps(tape: Tape, rows: Rows) -> list[int]:
    stamps = opening_stamps(tape.calendar, rows.sessions)
    today = tape.calendar.local_date(tape.now)
    if len(tape.sessions) and tape.sessions[-1].astype(date) == today:
        stamps[rows.sessions == np.datetime64(today)] = market_time(tape)
    return [int(stamp) for stamp in stamps]


def _with_live_duplicate(tape: Tape, rows: Rows, stamps: list[int]) -> tuple[Rows, list[int]]:
    newest = rows.take(np.append(np.arange(len(rows)), len(rows) - 1))
    opening = int(opening_stamps(tape.calendar, rows.sessions[-1:])[0])
    traded = market_time(tape) if rows.sessions[-1] == tape.sessions[-1] else opening + 3600
    return newest, [*stamps[:-1], opening, traded]


def widened(column: Floats, empty: np.ndarray) -> list[Any]:
    """Numbers as Yahoo writes them: in single precision, printed in double; null where a row is empty."""
    cells: list[Any] = column.astype(np.float32).astype(np.float64).tolist()
    if np.isnan(column).any():
        # A row without values is null; a number that is not one appears as the bare word of a broken encoder.
        bare = msgspec.Raw(b"NaN")
        cells = [
            None if missing else bare if value != value else value  # noqa: PLR0124 - NaN is what differs from itself
            for value, missing in zip(cells, empty.tolist(), strict=True)
        ]
    return cells


def indicators(rows: Rows) -> dict[str, Any]:
    empty = rows.without_values()
    volume = [None if value != value else int(value) for value in rows.columns["volume"].tolist()]  # noqa: PLR0124
    return {
        "quote": [
            {
                "volume": volume,
                "close": widened(rows.columns["close"], empty),
                "open": widened(rows.columns["open"], empty),
                "low": widened(rows.columns["low"], empty),
                "high": widened(rows.columns["high"], empty),
            }
        ],
        "adjclose": [{"adjclose": widened(rows.columns["adjusted_close"], empty)}],
    }


def events_of(tape: Tape, start: int, end: int, asked: str, style: Style) -> dict[str, Any]:
    words = {word.strip().lower() for word in asked.replace("|", ",").split(",")}
    events: dict[str, Any] = {}
    if {"div", "dividends"} & words:
        events["dividends"] = _listed(tape, tape.actions_of(DIVIDEND), start, end, style)
    if {"split", "splits"} & words:
        events["splits"] = _listed(tape, tape.actions_of(SPLIT), start, end, style)
    return {name: found for name, found in events.items() if found}


def _listed(tape: Tape, actions: tuple[Action, ...], start: int, end: int, style: Style) -> dict[str, Any]:
    if not actions:
        return {}
    days = np.array([action.ex_date for action in actions], dtype="datetime64[D]")
    stamps = opening_stamps(tape.calendar, days).tolist()
    later = tape.split_factor[np.searchsorted(tape.sessions, days)].tolist()
    found: dict[str, Any] = {}
    for action, stamp, divisor in zip(actions, stamps, later, strict=True):
        if not start <= stamp < end:
            continue
        when = stamp - 150_000_000 if style.events_mismatch else stamp
        if action.kind == DIVIDEND:
            found[str(stamp)] = {"amount": round(action.value / divisor, 6), "date": when}
        else:
            ratio = Fraction(action.value).limit_denominator(1000)
            found[str(stamp)] = {
                "date": when,
                "numerator": float(ratio.numerator),
                "denominator": float(ratio.denominator),
                "splitRatio": f"{ratio.numerator}:{ratio.denominator}",
            }
    return found


def chart_meta(tape: Tape, rows: Rows, first: int, query: Mapping[str, str], style: Style) -> dict[str, Any]:
    listing, zone = tape.listing, tape.calendar.zone
    here = tape.now.astimezone(zone)
    offset = here.utcoffset()
    meta: dict[str, Any] = {
        "currency": listing.currency,
        "symbol": listing.yahoo,
        "exchangeName": listing.venue,
        "fullExchangeName": VENUES[listing.venue],
        "instrumentType": KINDS[listing.kind],
        "firstTradeDate": None,
        "regularMarketTime": int(tape.now.timestamp()),
        "hasPrePostMarketData": listing.mic == "XNYS" and listing.kind != "index",
        "gmtoffset": int(offset.total_seconds()) if offset else 0,
        "timezone": here.tzname(),
        "exchangeTimezoneName": str(zone),
    }
    if len(rows):
        close, high, low = (rows.columns[name] for name in ("close", "high", "low"))
        meta["firstTradeDate"] = int(opening_stamps(tape.calendar, tape.sessions[:1])[0])
        meta["regularMarketTime"] = market_time(tape)
        meta["regularMarketPrice"] = round(float(close[-1]), 3)
        meta["fiftyTwoWeekHigh"] = round(float(high[-252:].max()), 3)
        meta["fiftyTwoWeekLow"] = round(float(low[-252:].min()), 3)
        meta["regularMarketDayHigh"] = round(float(high[-1]), 3)
        meta["regularMarketDayLow"] = round(float(low[-1]), 3)
        meta["regularMarketVolume"] = int(rows.columns["volume"][-1])
    meta["longName"] = listing.name
    meta["shortName"] = listing.name[:31]
    if len(rows):
        before = min(max(first - 1, 0), len(rows) - 1)
        meta["chartPreviousClose"] = round(float(rows.columns["close"][before]), 3)
    meta["priceHint"] = 2
    meta["currentTradingPeriod"] = _trading_periods(tape)
    meta["dataGranularity"] = style.granularity
    meta["range"] = "" if "period1" in query or "period2" in query else query.get("range", "1mo")
    meta["validRanges"] = VALID_RANGES
    return meta


def _trading_periods(tape: Tape) -> dict[str, Any]:
    """Of today's session, or of the next one on a day off."""
    calendar = tape.calendar
    today = calendar.local_date(tape.now)
    session = calendar.sessions(today, today + 30 * DAY)[0]
    times = calendar.times(session)
    before, after = EXTENDED.get(tape.listing.mic, (timedelta(0), timedelta(0)))
    edges = {
        "pre": (times.opens - before, times.opens),
        "regular": (times.opens, times.closes),
        "post": (times.closes, times.closes + after),
    }
    return {name: edge(start, end, calendar) for name, (start, end) in edges.items()}


def edge(start: datetime, end: datetime, calendar: TradingCalendar) -> dict[str, Any]:
    local = start.astimezone(calendar.zone)
    offset = local.utcoffset()
    return {
        "timezone": local.tzname(),
        "start": int(start.timestamp()),
        "end": int(end.timestamp()),
        "gmtoffset": int(offset.total_seconds()) if offset else 0,
    }
