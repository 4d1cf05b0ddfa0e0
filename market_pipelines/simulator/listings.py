"""Which instruments the made-up world lists. The list itself is data: `listings.csv`.

Prices move as `truth` says; how a listing is spelled by a provider is said here, once for the simulator.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files

YAHOO_SUFFIX = {"XNYS": "", "XWAR": ".WA", "XLON": ".L", "XTKS": ".T"}
STOOQ_SUFFIX = {"XNYS": ".us", "XWAR": "", "XLON": ".uk", "XTKS": ".jp"}
ALPHA_VANTAGE_SUFFIX = {"XNYS": "", "XLON": ".LON"}
UNCHANGED_SPELLING = ("polygon", "iex_cloud")
"""They write New York's symbols as the exchange does, and list nothing else."""
SPELLINGS = ("alpha_vantage", "yahoo", "stooq", *UNCHANGED_SPELLING)
NOT_LISTED = "-"
"""In the spelling columns of the data: this provider does not know the instrument."""


@dataclass(frozen=True, slots=True)
class Listing:
    symbol: str
    mic: str
    name: str
    kind: str
    currency: str
    venue: str
    """Yahoo's code of the exchange, which is finer than the calendar: NMS, NYQ, PCX."""
    first_session: date
    delisted_on: date | None
    start_price: float
    """As traded on the first session."""
    drift: float
    """Of the logarithm of the split-adjusted price, a year."""
    volatility: float
    volume: float
    """Shares on an ordinary session, counted in today's shares."""
    dividend_yield: float
    dividends_per_year: int
    dividends_from: date | None
    splits: tuple[tuple[date, float], ...]
    yahoo: str
    stooq: str
    alpha_vantage: str
    halts: bool
    """Trading is suspended on some sessions, which then have no bar."""

    def spelled_by(self, provider: str) -> str | None:
        """The provider's own symbol, or None where it does not list the instrument."""
        if provider in UNCHANGED_SPELLING:
            return self.symbol if self.mic == "XNYS" and self.kind != "index" else None
        written = {"yahoo": self.yahoo, "stooq": self.stooq, "alpha_vantage": self.alpha_vantage}[provider]
        return None if written == NOT_LISTED else written


def _spelling(row: dict[str, str], provider: str, suffixes: dict[str, str]) -> str:
    if row[provider]:
        return row[provider]
    if row["mic"] not in suffixes:
        return NOT_LISTED
    return row["symbol"].replace(".", "-") + suffixes[row["mic"]]


def _day(text: str) -> date | None:
    return date.fromisoformat(text) if text else None


def _split(text: str) -> tuple[date, float]:
    day, _, ratio = text.partition(":")
    return date.fromisoformat(day), float(ratio)


def _listing(row: dict[str, str]) -> Listing:
    return Listing(
        symbol=row["symbol"],
        mic=row["mic"],
        name=row["name"],
        kind=row["kind"],
        currency=row["currency"],
        venue=row["venue"],
        first_session=date.fromisoformat(row["first_session"]),
        delisted_on=_day(row["delisted_on"]),
        start_price=float(row["start_price"]),
        drift=float(row["drift"]),
        volatility=float(row["volatility"]),
        volume=float(row["volume"]),
        dividend_yield=float(row["dividend_yield"]),
        dividends_per_year=int(row["dividends_per_year"]),
        dividends_from=_day(row["dividends_from"]),
        splits=tuple(_split(part) for part in row["splits"].split()),
        yahoo=_spelling(row, "yahoo", YAHOO_SUFFIX),
        stooq=_spelling(row, "stooq", STOOQ_SUFFIX).lower(),
        alpha_vantage=_spelling(row, "alpha_vantage", ALPHA_VANTAGE_SUFFIX),
        halts="halts" in row["flags"].split(),
    )


def invented_listings(count: int) -> tuple[Listing, ...]:
    """So many more shares of New York, INV0001 and on: a market as large as one wants to load."""
    return tuple(
        _listing(
            {
                "symbol": f"INV{number:04}",
                "mic": "XNYS",
                "name": f"Invented Corporation {number}",
                "kind": "equity",
                "currency": "USD",
                "venue": "NYQ",
                "first_session": "2010-01-04",
                "delisted_on": "",
                "start_price": str(10 + number % 90),
                "drift": "0.05",
                "volatility": "0.25",
                "volume": str(200_000 + 10_000 * (number % 100)),
                "dividend_yield": "0.02",
                "dividends_per_year": "4",
                "dividends_from": "2010-01-04",
                "splits": "2022-06-06:2" if number % 10 == 0 else "",
                "yahoo": "",
                "stooq": "",
                "alpha_vantage": "",
                "flags": "",
            }
        )
        for number in range(1, count + 1)
    )


@lru_cache(maxsize=1)
def all_listings() -> tuple[Listing, ...]:
    text = files("market_pipelines.simulator").joinpath("listings.csv").read_text(encoding="utf-8")
    return tuple(_listing(row) for row in csv.DictReader(text.splitlines()))
