"""Stooq's light quote: one line a symbol, with or without a header and a name, in Warsaw's local time."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.records import Quote
from market_pipelines.providers.answers import decoded, folded
from market_pipelines.providers.stooq.tables import WARSAW
from market_pipelines.providers.stooq.words import NO_VALUE

FIELDS = "sd2t2ohlcv"
"""Symbol, date, time, open, high, low, close, volume: what is asked for, and in which order."""
ORDER = ("symbol", "date", "time", "open", "high", "low", "close", "volume")
NAMES: Mapping[str, str] = {
    **{name: name for name in (*ORDER, "name")},
    "data": "date",
    "czas": "time",
    "otwarcie": "open",
    "najwyzszy": "high",
    "najnizszy": "low",
    "zamkniecie": "close",
    "kurs": "close",
    "wolumen": "volume",
    "nazwa": "name",
}
"""English or Polish heading → field."""
LONGEST_BODY = 100_000


class NotQuotes(ValueError):
    """Lines that are no light quotes."""


@dataclass(frozen=True)
class LightQuotes:
    found: tuple[Quote, ...]
    without_price: tuple[str, ...]
    """Asked spellings that came with N/D, or not at all."""
    unasked: tuple[str, ...]


def read_quotes(body: bytes, asked: Mapping[str, Instrument]) -> LightQuotes:
    """`asked` by the spelling in upper case, which is how Stooq writes it back."""
    if len(body) > LONGEST_BODY:
        raise NotQuotes(f"{len(body):,} bytes are no light quotes")
    lines = [line for line in decoded(body).splitlines() if line.strip()]
    if not lines:
        raise NotQuotes("no line")
    delimiter = ";" if lines[0].count(";") > lines[0].count(",") else ","
    rows = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
    fields = _headings(rows[0])
    if fields is None:
        fields = ORDER if len(rows[0]) == len(ORDER) else (*ORDER, "name")
    else:
        rows = rows[1:]
    found: dict[str, Quote] = {}
    unasked = []
    for cells in rows:
        row = _row(cells, fields)
        symbol = row["symbol"].strip().upper()
        if symbol not in asked:
            unasked.append(symbol)
            continue
        quote = _quote(row, asked[symbol])
        if quote is not None:
            found[symbol] = quote
    return LightQuotes(tuple(found.values()), tuple(sorted(asked.keys() - found.keys())), tuple(unasked))


def _headings(cells: Sequence[str]) -> tuple[str, ...] | None:
    plain = [folded(cell).strip() for cell in cells]
    if not plain or plain[0] not in ("symbol",):
        return None
    fields = tuple(NAMES.get(name, "") for name in plain)
    if not {"symbol", "close"} <= set(fields):
        raise NotQuotes(f"headings without a price: {', '.join(plain)[:80]}")
    return fields


def _row(cells: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    if len(cells) > len(fields) and fields[-1] == "name":
        cells = [*cells[: len(fields) - 1], ",".join(cells[len(fields) - 1 :])]
    if len(cells) != len(fields):
        raise NotQuotes(f"{len(cells)} fields where {len(fields)} belong")
    return dict(zip(fields, cells, strict=True))


def _quote(row: Mapping[str, str], instrument: Instrument) -> Quote | None:
    price = _positive(row.get("close", ""))
    if price is None:
        return None
    at, day = _when(row.get("date", ""), row.get("time", ""))
    return Quote(
        symbol=instrument.symbol,
        price=price,
        at=at,
        open=_positive(row.get("open", "")),
        high=_positive(row.get("high", "")),
        low=_positive(row.get("low", "")),
        volume=_number(row.get("volume", "")),
        session=day if at is None else None,
    )


def _when(day: str, clock: str) -> tuple[datetime | None, date | None]:
    """The instant; without a time (or with one that the clocks showed twice) only the day."""
    if day.strip().lower() in NO_VALUE:
        return None, None
    on = _as_date(day)
    if clock.strip().lower() in NO_VALUE:
        return None, on
    try:
        local = datetime.combine(on, time.fromisoformat(clock.strip()))
    except ValueError:
        raise NotQuotes(f"'{clock}' is no time") from None
    earlier, later = (local.replace(tzinfo=WARSAW, fold=fold).astimezone(UTC) for fold in (0, 1))
    return (earlier, on) if earlier == later else (None, on)


def _as_date(text: str) -> date:
    text = text.strip()
    try:
        if len(text) != 10 or not "1900" <= text[:4] < "2200":
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise NotQuotes(f"'{text[:20]}' is no date") from None


def _number(text: str) -> float | None:
    if text.strip().lower() in NO_VALUE:
        return None
    try:
        value = float(text)
    except ValueError:
        raise NotQuotes(f"'{text[:20]}' is no number") from None
    if not math.isfinite(value) or value < 0:
        raise NotQuotes(f"'{text[:20]}' is no price or volume")
    return value


def _positive(text: str) -> float | None:
    return _number(text) or None
