"""Stooq's daily download, `/q/d/l/`: CSV, oldest first, CRLF, trailing zeros dropped.

Prices are adjusted backwards for splits and dividends and volume is scaled the other way, so that price times
volume stays what it was. Every refusal comes with status 200 and is a short text or an HTML page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from market_pipelines.simulator.formats.reply import HTML, PLAIN, Reply, fill
from market_pipelines.simulator.rows import Rows, Spoil, unspoiled
from market_pipelines.simulator.truth import Floats, Tape, World

CSV_TYPE = "text/csv"
ENGLISH = ("Date", "Open", "High", "Low", "Close", "Volume")
POLISH = ("Data", "Otwarcie", "Najwyzszy", "Najnizszy", "Zamkniecie", "Wolumen")

NO_DATA = Reply(200, b"No data", PLAIN)
NO_DATA_POLISH = Reply(200, b"Brak danych", PLAIN)
KEY_PAGE = Reply(
    200,
    b"Get your apikey:\r\n\r\n"
    b"1. Open https://stooq.com/q/d/?s=spy.us&get_apikey\r\n"
    b"2. Enter the captcha code.\r\n"
    b"3. Copy the CSV download link at the bottom of the page. It contains the <apikey> variable.\r\n"
    b"4. Append <apikey> with its value to your requests.\r\n",
    PLAIN,
)
PROOF_OF_WORK = Reply(
    200,
    b'<!DOCTYPE html><html><head><meta charset="utf-8"><title>Stooq</title></head><body>'
    b"<noscript>This site requires JavaScript to verify your browser</noscript>"
    b'<script>const c="5f1d0c9ab7e24d3888c1",d=4;'
    b"(async()=>{/* looks for n and posts c and n to /__verify */})();</script></body></html>",
    HTML,
)
HTML_LIMIT = Reply(
    200,
    "<html><head><meta http-equiv=content-type content=text/html;charset=utf-8></head><body>"
    "Przekroczony dzienny limit wywołań strony<br>Przepisz powyższy kod</body></html>".encode(),
    HTML,
)
HTML_LIMIT_CP1250 = Reply(
    200,
    "<html><head><meta http-equiv=content-type content=text/html;charset=windows-1250></head><body>"
    "Przekroczony dzienny limit wywołań strony<br>Przepisz powyższy kod</body></html>".encode("cp1250"),
    "text/html; charset=windows-1250",
)
BODIES: dict[str, Reply] = {
    "no_data": NO_DATA,
    "no_data_pl": NO_DATA_POLISH,
    "daily_limit": Reply(200, b"Exceeded the daily hits limit", PLAIN),
    "daily_limit_pl": Reply(200, b"Przekroczony dzienny limit wywolan", PLAIN),
    "html_limit": HTML_LIMIT,
    "html_limit_cp1250": HTML_LIMIT_CP1250,
    "key_page": KEY_PAGE,
    "proof_of_work": PROOF_OF_WORK,
    "html_limit_en": Reply(
        200,
        b"<html><head><title>Stooq</title></head><body>Exceeded the daily site hits limit<br>"
        b"The data has been hidden. Rewrite the above code</body></html>",
        HTML,
    ),
    "captcha": Reply(
        200, "<html><head><title>Stooq</title></head><body>Przepisz powyższy kod</body></html>".encode(), HTML
    ),
    "access_denied": Reply(200, b"Access denied", PLAIN),
    "light_nd": Reply(
        200,
        b"Symbol,Date,Time,Open,High,Low,Close,Volume\r\nAPPL.US,N/D,N/D,N/D,N/D,N/D,N/D,N/D\r\n",
        CSV_TYPE,
    ),
    "light_nd_pl": Reply(
        200,
        b"Symbol,Data,Czas,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\r\nAPPL.US,B/D,B/D,B/D,B/D,B/D,B/D,B/D\r\n",
        CSV_TYPE,
    ),
}
"""The answers that can be asked for instead of data."""


@dataclass(frozen=True, slots=True)
class Style:
    polish: bool = False
    separator: str = ","
    volume: bool = True
    key_required: str = ""
    """`any`, or the one key that is accepted."""


def answer(
    query: Mapping[str, str],
    world: World,
    now: datetime,
    *,
    spoil: Spoil = unspoiled,
    style: Style | None = None,
) -> Reply:
    style = style or Style()
    no_data = NO_DATA_POLISH if style.polish else NO_DATA
    key = query.get("apikey", "")
    if style.key_required and (not key or style.key_required not in ("any", key)):
        return KEY_PAGE
    listing = world.spelled("stooq", query.get("s", ""))
    start, end = _day(query.get("d1"), date.min), _day(query.get("d2"), date.max)
    if listing is None or query.get("i", "d") != "d" or start is None or end is None:
        return no_data
    tape = world.tape(listing, now)
    rows = spoil(tape, daily_rows(tape).between(start, end))
    return Reply(200, as_csv(rows, style), CSV_TYPE) if len(rows) else no_data


def _day(text: str | None, otherwise: date) -> date | None:
    if not text:
        return otherwise
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a date without a time has no zone
    except ValueError:
        return None


def daily_rows(tape: Tape) -> Rows:
    factor = tape.dividend_factor / tape.split_factor
    return Rows(
        tape.sessions,
        {
            "open": tape.bars.open * factor,
            "high": tape.bars.high * factor,
            "low": tape.bars.low * factor,
            "close": tape.bars.close * factor,
            "volume": tape.bars.volume / factor,
        },
    )


def as_csv(rows: Rows, style: Style) -> bytes:
    headings: tuple[str, ...] = POLISH if style.polish else ENGLISH
    names = ["open", "high", "low", "close"]
    pattern = ["%s", "%.10g", "%.10g", "%.10g", "%.10g"]
    if style.volume:
        names.append("volume")
        pattern.append("%.14g")
    else:
        headings = headings[:-1]
    dates = np.datetime_as_string(rows.sessions, unit="D").tolist()
    cells = [
        dates,
        *((rows.columns[n] if n == "volume" else rounded(rows.columns[n])).tolist() for n in names),
    ]
    text = fill(style.separator.join(pattern) + "\r\n", cells)
    if rows.without_values().any():
        text = text.replace("nan", "N/D")
    return f"{style.separator.join(headings)}\r\n{text}".encode()


def rounded(prices: Floats) -> Floats:
    """Six significant digits as the site keeps adjusted prices, but never fewer than two decimals."""
    size = np.maximum(np.abs(prices), 1e-9)
    decimals = np.clip(5 - np.floor(np.log10(size, where=np.isfinite(size), out=np.zeros_like(size))), 2, 9)
    scale = 10.0**decimals
    return np.asarray(np.round(prices * scale) / scale)
