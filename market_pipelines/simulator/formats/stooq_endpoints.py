"""Stooq besides its daily download: intraday downloads, the light quote `/q/l/`, the history page `/q/d/`.

All times are those of Warsaw. Five-minute bars are named by their start, hours by their end, and hours are cut at
the full hour. Refusals and headers come in the language of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from html import escape
from zoneinfo import ZoneInfo

import numpy as np

from market_pipelines.simulator.formats import stooq
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import HTML, Reply, fill
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import Minutes, grouped, minutes_of
from market_pipelines.simulator.rows import Rows, Spoil
from market_pipelines.simulator.truth import Bars, Days, Floats, Tape, World

Active = Mapping[str, tuple[object, ...]]

WARSAW = ZoneInfo("Europe/Warsaw")
INTERVALS = {"5": 5, "60": 60}
REACH = {"5": timedelta(days=30), "60": timedelta(days=365)}
"""How far back the short intervals are shown."""
PAGE_ROWS = 40
QUOTE_FIELDS = "sd2t2ohlcv"
QUOTE_ENGLISH = ("Symbol", "Date", "Time", "Open", "High", "Low", "Close", "Volume")
QUOTE_POLISH = ("Symbol", "Data", "Czas", "Otwarcie", "Najwyzszy", "Najnizszy", "Zamkniecie", "Wolumen")
NO_VALUE, NO_VALUE_POLISH = "N/D", "B/D"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def answer(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply | None:
    path = asked.path.rstrip("/")
    if path == "/q/l":
        return _light_quotes(asked.query, world, now, active)
    if path == "/q/d":
        return _history_page(asked.query, world, now, active, spoil)
    if path == "/q/d/l" and asked.query.get("i", "d") in INTERVALS:
        return _intraday(asked.query, world, now, active, spoil)
    return None


def style_of(active: Active) -> stooq.Style:
    return stooq.Style(
        polish="polish_headers" in active,
        separator=str(active.get("separator", (",",))[-1]),
        volume="no_volume" not in active,
        key_required=str(active.get("key_required", ("",))[-1]),
    )


def adjusted_minutes(
    world: World, listing: Listing, tape: Tape, start: date, end: date, now: datetime, length: int
) -> tuple[Days, Bars]:
    """Warsaw's labels and the bars, restated for splits and dividends as the daily ones are."""
    minutes = minutes_of(world, listing, start, end, now)
    bars = grouped(minutes, length)
    labels = bars.stamps + np.timedelta64(60 * length, "s") if length == 60 else bars.stamps
    factor = _factors(tape, bars)
    opened, high, low, close = (
        stooq.rounded(column * factor) for column in (bars.bars.open, bars.bars.high, bars.bars.low, bars.bars.close)
    )
    restated = Bars(opened, high, low, close, bars.bars.volume / factor)
    return _in_warsaw(labels), restated


def _factors(tape: Tape, bars: Minutes) -> Floats:
    zone = tape.calendar.zone
    days = np.array([_local(stamp, zone).date() for stamp in _seconds(bars.stamps)], dtype="datetime64[D]")
    factor = tape.dividend_factor / tape.split_factor
    if not len(factor):
        return np.ones(len(days))
    # A session under way has no daily bar yet: nothing has been restated for it.
    row = np.searchsorted(tape.sessions, days)
    known = (row < len(tape.sessions)) & (tape.sessions[np.minimum(row, len(tape.sessions) - 1)] == days)
    return np.where(known, factor[np.minimum(row, len(factor) - 1)], 1.0)


def _intraday(query: Mapping[str, str], world: World, now: datetime, active: Active, spoil: Spoil) -> Reply:
    style = style_of(active)
    key = query.get("apikey", "")
    if style.key_required and (not key or style.key_required not in ("any", key)):
        return stooq.KEY_PAGE
    interval = query["i"]
    listing = world.spelled("stooq", query.get("s", ""))
    start, end = _day(query.get("d1"), date.min), _day(query.get("d2"), date.max)
    nothing = stooq.NO_DATA_POLISH if style.polish else stooq.NO_DATA
    if listing is None or start is None or end is None:
        return nothing
    start = max(start, (now - REACH[interval]).date())
    tape = world.tape(listing, now)
    labels, bars = adjusted_minutes(world, listing, tape, start, end, now, INTERVALS[interval])
    if not len(labels):
        return nothing
    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    kept = _spoiled(tape, labels, columns, spoil)
    return Reply(200, _intraday_csv(*kept, style), stooq.CSV_TYPE)


def _spoiled(tape: Tape, labels: Days, columns: dict[str, Floats], spoil: Spoil) -> tuple[Days, dict[str, Floats]]:
    """Faults that change numbers fall on the newest bar; those that add or take rows away are for days."""
    days = labels.astype("datetime64[D]")
    last = Rows(days[-1:], {name: column[-1:] for name, column in columns.items()})
    changed = spoil(tape, last)
    if len(changed) != 1:
        return labels, columns
    return labels, {name: np.append(column[:-1], changed.columns[name]) for name, column in columns.items()}


def _intraday_csv(labels: Days, columns: Mapping[str, Floats], style: stooq.Style) -> bytes:
    headings = list(stooq.POLISH if style.polish else stooq.ENGLISH)
    headings.insert(1, "Czas" if style.polish else "Time")
    names = ["open", "high", "low", "close"]
    pattern = ["%s", "%s", "%.10g", "%.10g", "%.10g", "%.10g"]
    if style.volume:
        names.append("volume")
        pattern.append("%.14g")
    else:
        headings.pop()
    moments = np.datetime_as_string(labels, unit="s").tolist()
    cells = [[each[:10] for each in moments], [each[11:] for each in moments]]
    cells += [columns[name].tolist() for name in names]
    text = fill(style.separator.join(pattern) + "\r\n", cells).replace("nan", NO_VALUE)
    return f"{style.separator.join(headings)}\r\n{text}".encode()


def _light_quotes(query: Mapping[str, str], world: World, now: datetime, active: Active) -> Reply:
    polish, separator = "polish_headers" in active, str(active.get("separator", (",",))[-1])
    nothing = NO_VALUE_POLISH if polish else NO_VALUE
    named = "with_name" in active or query.get("f", QUOTE_FIELDS).endswith("n")
    headings = (*(QUOTE_POLISH if polish else QUOTE_ENGLISH), *(("Nazwa" if polish else "Name",) if named else ()))
    lines = [] if "headerless" in active or "h" not in query else [headings]
    for symbol in query.get("s", "").replace("+", " ").replace(",", " ").split():
        listing = world.spelled("stooq", symbol)
        cells = _light_quote(world, listing, now, active, nothing) if listing is not None else None
        name = listing.name.upper() if listing is not None else symbol.upper()
        lines.append((symbol.upper(), *(cells or (nothing,) * 7), *((name,) if named else ())))
    body = "".join(f"{separator.join(line)}\r\n" for line in lines)
    return Reply(200, body.encode("cp1250", errors="replace"), stooq.CSV_TYPE)


def _light_quote(world: World, listing: Listing, now: datetime, active: Active, nothing: str) -> tuple[str, ...] | None:
    calendar = world.tape(listing, now).calendar
    today = calendar.local_date(now)
    recent = calendar.sessions(today - timedelta(days=10), today)
    started = [day for day in recent if calendar.times(day).opens < now]
    minutes = minutes_of(world, listing, started[-1], started[-1], now) if started else None
    if minutes is None or not len(minutes):
        return None
    bars = minutes.bars
    latest = _in_warsaw(minutes.stamps[-1:] + np.timedelta64(60, "s"))[0]
    moment = str(np.datetime_as_string(latest, unit="s"))
    without = listing.kind == "index" or "partial_nd" in active
    return (
        moment[:10],
        moment[11:],
        f"{bars.open[0]:.10g}",
        f"{bars.high.max():.10g}",
        f"{bars.low.min():.10g}",
        f"{bars.close[-1]:.10g}",
        nothing if without else f"{bars.volume.sum():.14g}",
    )


def _history_page(query: Mapping[str, str], world: World, now: datetime, active: Active, spoil: Spoil) -> Reply:
    """What a person sees: newest first, a page of forty, the volume with commas."""
    listing = world.spelled("stooq", query.get("s", ""))
    if listing is None:
        return Reply(200, b"<html><body>The page you requested does not exist or has been moved</body></html>", HTML)
    tape = world.tape(listing, now)
    rows = spoil(tape, stooq.daily_rows(tape))
    page = int(query.get("l", "1")) if query.get("l", "1").isdigit() else 1
    last = len(rows) - (max(page, 1) - 1) * PAGE_ROWS
    shown = range(last - 1, max(last - PAGE_ROWS, 0) - 1, -1)
    volume = "no_volume" not in active
    cells = "".join(_page_row(rows, row, volume=volume) for row in shown)
    native = escape(query["s"].lower())
    headings = "<td>No.</td><td>Date</td><td>Open</td><td>High</td><td>Low</td><td>Close</td><td colspan=2>Change</td>"
    return Reply(
        200,
        (
            "<html><head><meta http-equiv=content-type content=text/html;charset=utf-8>"
            f"<title>{native.upper()} - {escape(listing.name)} - Stooq</title></head><body>"
            "<table border=0 class=fth1 id=fth1><thead style=background-color:f3f3f3><tr align=center id=f13>"
            f"{headings}{'<td>Volume</td>' if volume else ''}</tr></thead>"
            f"<tbody style=background-color:ffffff align=right id=f13>{cells}</tbody></table>"
            f"<a href=q/d/?s={native}&i=d&l={page + 1}>></a>"
            f"<a href=q/d/l/?s={native}&i=d>Download data in csv file...</a></body></html>"
        ).encode(),
        HTML,
    )


def _page_row(rows: Rows, row: int, *, volume: bool) -> str:
    day = rows.sessions[row].astype(date)
    prices = [stooq.rounded(rows.columns[name][row : row + 1])[0] for name in ("open", "high", "low", "close")]
    before = float(rows.columns["close"][max(row - 1, 0)])
    change = prices[3] - before
    return (
        f"<tr><td align=center id=t03>{row + 1}</td><td nowrap>{day.day} {_MONTHS[day.month - 1]} {day.year}</td>"
        + "".join(f"<td>{price:.10g}</td>" for price in prices)
        + f"<td id=c1>{change / before:+.2%}</td><td id=c1>{change:+.4f}</td>"
        + (f"<td>{rows.columns['volume'][row]:,.0f}</td>" if volume else "")
        + "</tr>"
    )


def _day(text: str | None, otherwise: date) -> date | None:
    if not text:
        return otherwise
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a date without a time has no zone
    except ValueError:
        return None


def _seconds(stamps: Days) -> list[datetime]:
    found: list[datetime] = stamps.astype("datetime64[s]").tolist()
    return found


def _local(stamp: datetime, zone: ZoneInfo) -> datetime:
    return stamp.replace(tzinfo=ZoneInfo("UTC")).astimezone(zone)


def _in_warsaw(stamps: Days) -> Days:
    return np.array([_local(stamp, WARSAW).replace(tzinfo=None) for stamp in _seconds(stamps)], dtype="datetime64[s]")
