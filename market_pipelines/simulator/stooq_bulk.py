"""Stooq's bulk database as a zip: the same world as its site, one file a symbol in folders by exchange.

As in the real ones, a file is empty here and there, and tickers stand in upper case.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np

from market_pipelines.simulator.formats import stooq
from market_pipelines.simulator.formats.reply import fill
from market_pipelines.simulator.formats.stooq_endpoints import adjusted_minutes
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.truth import World

HEADER = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\r\n"
FOLDERS = {"d": "daily", "h": "hourly", "5": "5 min"}
PERIODS = {"d": "D", "h": "60", "5": "5"}
LENGTHS = {"h": 60, "5": 5}
PLACES = {
    ("XNYS", "NMS", "equity"): "us/nasdaq stocks/1",
    ("XNYS", "NYQ", "equity"): "us/nyse stocks/1",
    ("XNYS", "PCX", "etf"): "us/nyse etfs/1",
}
OTHER_PLACES = {
    "XNYS": "us/nysemkt stocks",
    "XWAR": "pl/wse stocks",
    "XLON": "uk/lse stocks",
    "XTKS": "jp/tse stocks/1",
}
EMPTY = "zzempty"
"""The stem of the file without a byte that every zip holds."""
REACH = timedelta(days=30)
"""Of the short intervals, so far back."""


def write_bulk(
    path: Path,
    world: World,
    now: datetime,
    *,
    interval: str = "d",
    mic: str = "XNYS",
    symbols: Iterable[str] | None = None,
    sessions: int | None = None,
) -> list[str]:
    """Writes `d_us_txt.zip` and the like; the names of its files, in its order. `sessions`: only the newest ones."""
    chosen = frozenset(symbols) if symbols is not None else None
    listings = [
        each
        for each in world.listings
        if each.mic == mic and (chosen is None or each.symbol in chosen) and each.spelled_by("stooq") is not None
    ]
    names = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as written:
        for name, text in _files(world, listings, now, interval, mic, sessions):
            written.writestr(name, text)
            names.append(name)
    return names


def member_text(world: World, listing: Listing, now: datetime, interval: str, sessions: int | None = None) -> str:
    """One symbol's file."""
    ticker = (listing.spelled_by("stooq") or "").upper()
    tape = world.tape(listing, now)
    if interval == "d":
        rows = stooq.daily_rows(tape)
        rows = rows.take(slice(-sessions, None)) if sessions is not None else rows
        labels, columns = rows.sessions.astype("datetime64[s]"), rows.columns
    else:
        today: date = tape.calendar.local_date(now)
        labels, bars = adjusted_minutes(world, listing, tape, today - REACH, today, now, LENGTHS[interval])
        columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    moments = np.datetime_as_string(labels, unit="s").tolist()
    prices = [stooq.rounded(columns[name]).tolist() for name in ("open", "high", "low", "close")]
    cells = [
        [each[:10].replace("-", "") for each in moments],
        [each[11:].replace(":", "") for each in moments],
        *prices,
        columns["volume"].tolist(),
    ]
    pattern = f"{ticker},{PERIODS[interval]},%s,%s,%.10g,%.10g,%.10g,%.10g,%.14g,0\r\n"
    return HEADER + fill(pattern, cells)


def _files(
    world: World, listings: list[Listing], now: datetime, interval: str, mic: str, sessions: int | None
) -> Iterator[tuple[str, str]]:
    root = f"data/{FOLDERS[interval]}"
    ending = {"XNYS": ".us", "XLON": ".uk", "XTKS": ".jp"}.get(mic, "")
    empty_at = len(listings) // 2
    for place, listing in enumerate(listings):
        if place == empty_at:
            yield f"{root}/{OTHER_PLACES[mic]}/{EMPTY}{ending}.txt", ""
        folder = PLACES.get((listing.mic, listing.venue, listing.kind), OTHER_PLACES[mic])
        yield f"{root}/{folder}/{listing.spelled_by('stooq')}.txt", member_text(world, listing, now, interval, sessions)
