"""Alpha Vantage's `/query`: TIME_SERIES_DAILY and TIME_SERIES_DAILY_ADJUSTED, as JSON and as CSV.

Newest first, all numbers are strings, prices as traded. Nearly every refusal comes with status 200.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from market_pipelines.simulator.formats.alpha_vantage_placeholders import placeholder
from market_pipelines.simulator.formats.reply import JSON, Reply, fill
from market_pipelines.simulator.rows import Rows, Spoil, unspoiled
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, Tape, World

DAILY, ADJUSTED = "TIME_SERIES_DAILY", "TIME_SERIES_DAILY_ADJUSTED"
COMPACT_ROWS = 100
TIME_ZONE = "US/Eastern"
CSV_TYPE = "application/x-download"
REFUSED_KEYS = frozenset({"", "invalid", "expired"})
DEMO_KEY = "demo"

INFORMATION = {
    DAILY: "Daily Prices (open, high, low, close) and Volumes",
    ADJUSTED: "Daily Time Series with Splits and Dividend Events",
}
CSV_HEADER = {
    DAILY: "timestamp,open,high,low,close,volume",
    ADJUSTED: "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient",
}
CSV_ROW = {
    DAILY: "%s,%.4f,%.4f,%.4f,%.4f,%.0f\r\n",
    ADJUSTED: "%s,%r,%r,%r,%r,%r,%.0f,%.4f,%r\r\n",
}
JSON_NAMES = {
    DAILY: ("1. open", "2. high", "3. low", "4. close", "5. volume"),
    ADJUSTED: (
        "1. open",
        "2. high",
        "3. low",
        "4. close",
        "5. adjusted close",
        "6. volume",
        "7. dividend amount",
        "8. split coefficient",
    ),
}
COLUMNS = {
    DAILY: ("open", "high", "low", "close", "volume"),
    ADJUSTED: ("open", "high", "low", "close", "adjusted_close", "volume", "dividend", "split"),
}


def notice(key: str, text: str) -> Reply:
    return Reply(200, f'{{\n    "{key}": "{text}"\n}}'.encode(), JSON)


_PREMIUM = "https://www.alphavantage.co/premium/"
_SUPPORT = "https://www.alphavantage.co/support/#api-key"
BAD_KEY = notice(
    "Error Message",
    f"the parameter apikey is invalid or missing. Please claim your free API key on ({_SUPPORT}). "
    "It should take less than 20 seconds.",
)
DEMO = notice(
    "Information",
    "The **demo** API key is for demo purposes only. Please claim your free API key at "
    f"({_SUPPORT}) to explore our full API offerings. It takes fewer than 20 "
    "seconds, and we are committed to making it free forever.",
)
PER_SECOND = notice(
    "Information",
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly "
    f"(1 request per second). You may subscribe to any of the premium plans at {_PREMIUM} "
    "to lift the free key rate limit (25 requests per day), raise the per-second burst limit, and instantly "
    "unlock all premium endpoints",
)
PER_SECOND_2025 = Reply(200, PER_SECOND.body.replace(b" (1 request per second)", b""), JSON)
"""As worded in December 2025."""
PER_MINUTE = notice(
    "Note",
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls "
    f"per day. Please visit {_PREMIUM} if you would like to target a higher API call frequency.",
)
PREMIUM = notice(
    "Information",
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium "
    f"plans at {_PREMIUM} to instantly unlock all premium endpoints",
)
NOT_ACCEPTABLE = Reply(406, b'{"detail":"Could not satisfy the request Accept header."}', JSON)
LETTERS = Reply(200, b"I,n,f,o,r,m,a,t,i,o,n\r\n", CSV_TYPE)
EMPTY_OBJECT = Reply(200, b"{}", JSON)
NO_OPTIONS = Reply(
    200, b'{\n    "endpoint": "Historical Options",\n    "message": "No data for this symbol",\n    "data": []\n}', JSON
)


def letters(kind: str, text: str) -> Reply:
    """A notice that the CSV writer took for a list of rows, each a list of letters."""
    lines = [",".join(f'"{sign}"' if sign in ',"' else sign for sign in line) for line in (kind, text)]
    return Reply(200, "".join(f"{line}\r\n" for line in lines).encode(), CSV_TYPE)


def daily_limit(key: str) -> Reply:
    """The notice repeats the caller's key."""
    return notice(
        "Information",
        f"We have detected your API key as {key} and our standard API rate limit is 25 requests per day. "
        f"Please subscribe to any of the premium plans at {_PREMIUM} to instantly remove all daily rate limits.",
    )


def invalid_call(function: str) -> Reply:
    return notice(
        "Error Message",
        "Invalid API call. Please retry or visit the documentation "
        f"(https://www.alphavantage.co/documentation/) for {function}.",
    )


BODIES = (
    "daily_limit",
    "per_second_limit",
    "minute_limit",
    "premium",
    "demo",
    "expired_key",
    "invalid_call",
    "placeholder",
    "csv_letters",
    "csv_letters_with_text",
    "per_second_limit_2025",
    "no_options",
    "not_acceptable",
    "empty_object",
)
"""The answers that can be asked for instead of data."""


def body_named(name: str, query: Mapping[str, str]) -> Reply:
    fixed = {
        "per_second_limit": PER_SECOND,
        "minute_limit": PER_MINUTE,
        "premium": PREMIUM,
        "demo": DEMO,
        "expired_key": BAD_KEY,
        "csv_letters": LETTERS,
        "per_second_limit_2025": PER_SECOND_2025,
        "no_options": NO_OPTIONS,
        "not_acceptable": NOT_ACCEPTABLE,
        "empty_object": EMPTY_OBJECT,
    }
    if name in fixed:
        return fixed[name]
    if name == "daily_limit":
        return daily_limit(query.get("apikey", ""))
    if name == "placeholder":
        return placeholder(query.get("function", ""), query.get("symbol", ""), query.get("interval", ""))
    if name == "csv_letters_with_text":
        return letters("Information", daily_limit("").body.decode().split('"')[3])
    return invalid_call(query.get("function", ""))


@dataclass(frozen=True, slots=True)
class Style:
    full_is_premium: bool = False
    partial_last_bar: bool = False
    """A session under way already has a row."""
    shown_symbol: str = ""
    """Answer with this one instead of the one that was asked for."""


def answer(
    query: Mapping[str, str],
    world: World,
    now: datetime,
    *,
    accept: str = "",
    spoil: Spoil = unspoiled,
    style: Style | None = None,
) -> Reply:
    style = style or Style()
    function = query.get("function", "")
    refused = refusal(query, accept, full_is_premium=style.full_is_premium)
    if refused is not None:
        return refused
    symbol = style.shown_symbol or query.get("symbol", "")
    listing = world.spelled("alpha_vantage", symbol)
    if function not in CSV_HEADER or listing is None:
        return invalid_call(function)
    full = _asks_for_all(query)
    tape = world.tape(listing, now, forming=style.partial_last_bar)
    rows = daily_rows(tape)
    if not full:
        rows = rows.take(slice(max(len(rows) - COMPACT_ROWS, 0), None))
    rows = spoil(tape, rows)
    if not len(rows):
        return invalid_call(function)
    if query.get("datatype", "json") == "csv":
        return Reply(200, as_csv(function, rows), CSV_TYPE)
    return Reply(200, as_json(function, symbol, tape, rows, full=full), JSON)


def _asks_for_all(query: Mapping[str, str]) -> bool:
    return query.get("outputsize", "compact") == "full"


def refusal(query: Mapping[str, str], accept: str, *, full_is_premium: bool = False) -> Reply | None:
    """What is refused before it is read which function is wanted."""
    key = query.get("apikey", "")
    if "text/csv" in accept:
        return NOT_ACCEPTABLE
    if key in REFUSED_KEYS:
        return BAD_KEY
    if key == DEMO_KEY:
        return DEMO
    return PREMIUM if full_is_premium and _asks_for_all(query) else None


def daily_rows(tape: Tape) -> Rows:
    dividend, split = np.zeros(len(tape.sessions)), np.ones(len(tape.sessions))
    for kind, column in ((DIVIDEND, dividend), (SPLIT, split)):
        for action in tape.actions_of(kind):
            column[np.searchsorted(tape.sessions, np.datetime64(action.ex_date))] = action.value
    return Rows(
        tape.sessions,
        {
            "open": tape.bars.open,
            "high": tape.bars.high,
            "low": tape.bars.low,
            "close": tape.bars.close,
            "adjusted_close": tape.bars.close / tape.split_factor * tape.dividend_factor,
            "volume": tape.bars.volume,
            "dividend": dividend,
            "split": split,
        },
    )


def _cells(function: str, rows: Rows) -> list[list[object]]:
    """Newest first."""
    dates = np.datetime_as_string(rows.sessions[::-1], unit="D").tolist()
    return [dates, *(rows.columns[name][::-1].tolist() for name in COLUMNS[function])]


def as_csv(function: str, rows: Rows) -> bytes:
    return f"{CSV_HEADER[function]}\r\n{fill(CSV_ROW[function], _cells(function, rows))}".encode()


def as_json(function: str, symbol: str, tape: Tape, rows: Rows, *, full: bool) -> bytes:
    names = JSON_NAMES[function]
    numbers = ",\n".join(f'            "{name}": "{"%.0f" if name.endswith("volume") else "%.4f"}"' for name in names)
    series = fill(f'        "%s": {{\n{numbers}\n        }}', _cells(function, rows), between=",\n")
    return (
        "{\n"
        '    "Meta Data": {\n'
        f'        "1. Information": "{INFORMATION[function]}",\n'
        f'        "2. Symbol": "{symbol}",\n'
        f'        "3. Last Refreshed": "{_last_refreshed(tape, rows)}",\n'
        f'        "4. Output Size": "{"Full size" if full else "Compact"}",\n'
        f'        "5. Time Zone": "{TIME_ZONE}"\n'
        "    },\n"
        '    "Time Series (Daily)": {\n'
        f"{series}\n"
        "    }\n"
        "}"
    ).encode()


def _last_refreshed(tape: Tape, rows: Rows) -> str:
    if tape.forming:
        return tape.now.astimezone(tape.calendar.zone).strftime("%Y-%m-%d %H:%M:%S")
    return str(np.datetime_as_string(rows.sessions.max(), unit="D"))
