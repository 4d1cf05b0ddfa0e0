"""IEX's chart rows: days with two sets of prices, minutes with two venues.

Days come oldest first with prices restated for later splits and, behind a `u`, as traded. Minutes start where they
are labelled, on New York's clock; IEX alone sees a few shares in a hundred, and in some minutes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zlib import crc32
from zoneinfo import ZoneInfo

import numpy as np

from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.rows import Rows, Spoil
from market_pipelines.simulator.truth import Bars, Floats, Tape, World

NEW_YORK = ZoneInfo("America/New_York")
OWN_SHARE = 0.025
"""Of the volume: what IEX sees itself."""
OWN_GAPS = 70
"""In one minute of so many, nobody trades at IEX."""
LATE = timedelta(minutes=15)
"""By contract, the other exchanges' trades come so much later."""
MONTHS = {"1m": 1, "3m": 3, "6m": 6, "1y": 12, "2y": 24, "5y": 60}
MAX_YEARS = 15

OWN_ORDER = (
    "date",
    "minute",
    "label",
    "high",
    "low",
    "open",
    "close",
    "average",
    "volume",
    "notional",
    "numberOfTrades",
)
"""The keys of a row of `chart/1d`, which shows neither the other exchanges nor changes."""

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Style:
    own_trades_only: bool = False
    """Minutes without the other exchanges, as `chart/1d` has always shown them."""
    old_gaps: bool = False
    """-1 where there was no trade, as the older API wrote."""
    untraded: int = 0
    """In every one of so many minutes nobody trades anywhere."""
    restated_only: bool = False
    """Days without their prices as traded."""


def first_day(wanted: str, today: date) -> date | None:
    """Since when a range reaches back; None for a range that IEX does not know."""
    if wanted == "5d":
        return today - timedelta(days=7)
    if wanted == "ytd":
        return date(today.year, 1, 1)
    if wanted == "max":
        return date(today.year - MAX_YEARS, 1, 1)
    if wanted not in MONTHS:
        return None
    months = today.year * 12 + today.month - 1 - MONTHS[wanted]
    return _latest_day(months // 12, months % 12 + 1, today.day)


def days(tape: Tape, start: date, end: date, spoil: Spoil, style: Style) -> list[Row]:
    """Sessions between two dates, both included."""
    bars = tape.bars
    columns = {"open": bars.open, "high": bars.high, "low": bars.low, "close": bars.close, "volume": bars.volume}
    rows = spoil(tape, Rows(tape.sessions, columns).between(start, end))
    if not len(rows):
        return []
    place = np.minimum(np.searchsorted(tape.sessions, rows.sessions), len(tape.sessions) - 1)
    factor = tape.split_factor[place]
    close = rows.columns["close"] / factor
    before = np.concatenate((close[:1], close[:-1]))
    return [_day(rows, row, float(factor[row]), float(before[row]), float(close[0]), style) for row in range(len(rows))]


def by_day(row: Row) -> Row:
    """The one row of `chartByDay`: other keys first, and a currency that is empty."""
    first = ("date", "uClose", "uOpen", "uHigh", "uLow", "uVolume", "close", "open", "high", "low", "volume")
    rest = {name: row[name] for name in ("change", "changePercent", "label", "changeOverTime")}
    return {**{name: row[name] for name in first if name in row}, "currency": "", **rest}


def minutes(world: World, listing: Listing, session: date, now: datetime, style: Style) -> list[Row]:
    """A row for every minute of the session that has passed, with or without a trade."""
    history = world.history(listing, now)
    if not history.calendar.is_session(session):
        return []
    times = history.calendar.times(session)
    traded = minutes_of(world, listing, session, session, now)
    if not len(traded):
        return []
    place = {stamp: row for row, stamp in enumerate(traded.stamps.astype("datetime64[s]").tolist())}
    rows = []
    opened: dict[str, float] = {}
    start = times.opens
    while start < times.closes and start + timedelta(minutes=1) <= now:
        number = (start - times.opens) // timedelta(minutes=1)
        found = place.get(start.replace(tzinfo=None))
        if style.untraded and number % style.untraded == style.untraded - 1:
            found = None
        row = _minute(traded.bars, traded.count, found, start, f"{listing.symbol}{session}{number}", style)
        if style.own_trades_only:
            row = {name: row[name] for name in OWN_ORDER}
        else:
            if start > now - LATE:
                row.update({name: None for name in row if name.startswith("market")})
            _changes(row, opened)
        rows.append(row)
        start += timedelta(minutes=1)
    return rows


def sampled(rows: Sequence[Row], every: int) -> list[Row]:
    """`chartInterval`: every so-many-th row, and none of what happened between."""
    return list(rows[:: max(every, 1)])


def number(value: float, decimals: int = 4) -> int | float | None:
    """As IEX writes numbers: whole ones without a point, missing ones as null."""
    if not np.isfinite(value):
        return None
    rounded = round(float(value), decimals)
    return int(rounded) if rounded == int(rounded) else rounded


def _day(rows: Rows, place: int, factor: float, before: float, first: float, style: Style) -> Row:
    traded = {name: float(column[place]) for name, column in rows.columns.items()}
    restated = {name: value * factor if name == "volume" else value / factor for name, value in traded.items()}
    day = rows.sessions[place].astype(date)
    change = restated["close"] - before
    row: Row = {"date": day.isoformat()}
    for name in ("open", "close", "high", "low", "volume"):
        row[name] = number(restated[name], 0 if name == "volume" else 4)
    for name in () if style.restated_only else ("open", "close", "high", "low", "volume"):
        row[f"u{name.title()}"] = number(traded[name])
    row["change"] = number(change, 2)
    row["changePercent"] = number(100 * change / before)
    row["label"] = f"{day:%b} {day.day}"
    row["changeOverTime"] = number(restated["close"] / first - 1, 6)
    return row


def _minute(bars: Bars, counts: np.ndarray, found: int | None, start: datetime, chance: str, style: Style) -> Row:
    local = start.astimezone(NEW_YORK)
    dice = crc32(chance.encode())
    own = found if found is not None and dice % OWN_GAPS else None
    gap = -1 if style.old_gaps else None
    row: Row = {"date": local.date().isoformat(), "minute": f"{local:%H:%M}", "label": _label(local)}
    row |= {"high": _cell(bars.high, own, gap), "low": _cell(bars.low, own, gap)}
    row["average"] = gap if own is None else number(_average(bars, own), 3)
    volume = 0.0 if own is None else max(np.floor(float(bars.volume[own]) * OWN_SHARE), 1.0)
    row |= {
        "volume": int(volume),
        "notional": 0 if own is None else number(volume * _average(bars, own), 3),
        "numberOfTrades": 0 if own is None else max(int(counts[own] * OWN_SHARE), 1),
    }
    if not style.own_trades_only:
        row |= {
            "marketHigh": _cell(bars.high, found, gap),
            "marketLow": _cell(bars.low, found, gap),
            "marketAverage": gap if found is None else number(_average(bars, found), 3),
            "marketVolume": 0 if found is None else number(float(bars.volume[found])),
            "marketNotional": 0 if found is None else number(float(bars.volume[found]) * _average(bars, found)),
            "marketNumberOfTrades": 0 if found is None else int(counts[found]),
        }
    row |= {"open": _cell(bars.open, own, gap), "close": _cell(bars.close, own, gap)}
    if not style.own_trades_only:
        row |= {"marketOpen": _cell(bars.open, found, gap), "marketClose": _cell(bars.close, found, gap)}
    return row


def _changes(row: Row, opened: dict[str, float]) -> None:
    """Of each venue's price since its first one of the day."""
    for close, change in (("close", "changeOverTime"), ("marketClose", "marketChangeOverTime")):
        price = row[close]
        if not isinstance(price, int | float) or price <= 0:
            row[change] = None
            continue
        row[change] = price / opened.setdefault(close, float(price)) - 1


def _cell(column: Floats, place: int | None, gap: int | None) -> int | float | None:
    return gap if place is None else number(float(column[place]))


def _average(bars: Bars, place: int) -> float:
    return float(bars.high[place] + bars.low[place]) / 2


def _label(local: datetime) -> str:
    """`09:30 AM`, but `10 AM` at the full hour and `3:59 PM` in the afternoon."""
    hour = f"{local:%I}" if local.hour < 12 else f"{int(f'{local:%I}')}"
    return f"{hour} {local:%p}" if local.minute == 0 else f"{hour}:{local:%M} {local:%p}"


def _latest_day(year: int, month: int, day: int) -> date:
    while True:
        try:
            return date(year, month, day)
        except ValueError:
            day -= 1
