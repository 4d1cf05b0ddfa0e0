"""Stooq: CSV in two languages, adjusted for splits and dividends, every refusal with status 200.

Since 2026 the history wants an API key, and may show a page that checks the browser instead. Such a page is
reported and never worked around: the operator's own key or downloaded files are the way in.
"""

from __future__ import annotations

import re
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import (
    decoded,
    folded,
    malformed,
    no_data,
    one_line,
    retry_after,
    shown,
    unfit_csv,
)
from market_pipelines.providers.frames import days_of, deliver, empty_outcome, floats_of, read_csv
from market_pipelines.providers.protocol import Answer, Call, DailyQuery, Parsed
from market_pipelines.providers.symbols import Spelling
from market_pipelines.redaction import register_secret
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://stooq.com"
QUOTA_ZONE = "Europe/Warsaw"
"""The limit by address ends at Warsaw's midnight; its size is not published."""

_FILE_NAME = re.compile(r"(?i)(.+)_d\.csv")
_COLUMNS = ["session", "open", "high", "low", "close", "volume"]
_HEADERS = (
    ("date", "open", "high", "low", "close", "volume"),
    ("data", "otwarcie", "najwyzszy", "najnizszy", "zamkniecie", "wolumen"),
)
_NULLS = ["", "N/D", "NaN", "nan"]
_EMPTY_WORDS = ("no data", "brak danych")
_LIMIT_WORDS = ("exceeded the daily", "przekroczony dzienny limit")
_KEY_WORDS = "get your apikey"
_CHALLENGES = (
    ("requires javascript to verify", "Stooq checks the browser instead of answering"),
    ("/__verify", "Stooq checks the browser instead of answering"),
    ("przepisz powyzszy kod", "Stooq shows a captcha instead of answering"),
    ("access denied", "Stooq denies access to this address"),
)


class Stooq:
    name = "stooq"
    basis = Basis.SPLIT_DIVIDEND
    quota_zone = QUOTA_ZONE

    _spelling = Spelling("stooq", {"XNYS": ".us", "XWAR": "", "XLON": ".uk", "XTKS": ".jp"}, case=str.lower)

    def __init__(self, key: SecretStr | None, base_url: str = PUBLIC_ADDRESS) -> None:
        if key is not None:
            register_secret(key.get_secret_value())
        self._key = key
        self.base_url = base_url.rstrip("/")

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        return cls(settings.stooq_api_key, base_url or settings.stooq_base_url or PUBLIC_ADDRESS)

    def covers(self, instrument: Instrument) -> bool:
        return self._spelling.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return self._spelling.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return self._spelling.canonical(native, mic)

    def ready(self) -> str:
        if self._key is None and self.base_url == PUBLIC_ADDRESS:
            return "STOOQ_API_KEY is not set"
        return ""

    def daily_call(self, query: DailyQuery) -> Call:
        return Call(
            provider=self.name,
            endpoint="daily",
            url=f"{self.base_url}/q/d/l/",
            params={
                "s": self.native_symbol(query.instrument),
                "i": "d",
                "d1": f"{query.start:%Y%m%d}",
                "d2": f"{query.end:%Y%m%d}",
            },
            secret_params={"apikey": self._key} if self._key is not None else {},
            secret_origin=self.base_url,
        )

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
        layout = _layout(body)
        if layout is None:
            return self._refusal(answer, query)
        unfit = no_data(answer) or unfit_csv(answer, _FILE_NAME, self.native_symbol(query.instrument))
        if unfit is not None:
            return unfit
        try:
            return _read(body, *layout, answer, query)
        except (ValueError, pa.ArrowException) as error:
            return malformed(f"the answer cannot be read: {error}")

    def _refusal(self, answer: Answer, query: DailyQuery) -> Parsed:
        """What the words on a page without data mean. A limit may be told on a page with a captcha."""
        words = folded(decoded(answer.body)).strip() if answer.status != 0 else ""
        parsed = None
        if any(limit in words for limit in _LIMIT_WORDS):
            parsed = Parsed(Outcome.QUOTA_EXHAUSTED, "Stooq's daily limit for this address is used up")
        elif words.startswith(_KEY_WORDS):
            verdict = "asks for an API key (STOOQ_API_KEY)" if self._key is None else "refuses the API key"
            parsed = Parsed(Outcome.CHALLENGE, f"Stooq {verdict}")
        elif words.startswith(_EMPTY_WORDS) and len(words) < 40:
            outcome = empty_outcome(query, answer.received_at)
            parsed = Parsed(outcome, one_line(f"Stooq says '{decoded(answer.body)}'"))
        elif _is_unknown_quote(words):
            parsed = Parsed(Outcome.UNKNOWN_SYMBOL, "N/D in every field")
        else:
            reason = next((reason for sign, reason in _CHALLENGES if sign in words), None)
            if reason is not None:
                parsed = Parsed(Outcome.CHALLENGE, reason, retry_after=retry_after(answer))
        return parsed or no_data(answer) or malformed(f"not the header of daily bars: {shown(answer.body)}")


def _layout(body: bytes) -> tuple[str, bool] | None:
    """The delimiter and whether there is a volume column, where the first line is a header of daily bars."""
    header = folded(decoded(body[:200].split(b"\n", 1)[0])).strip()
    for delimiter in ",;":
        names = tuple(header.split(delimiter))
        for known in _HEADERS:
            if names in (known, known[:-1]):
                return delimiter, names == known
    return None


def _read(body: bytes, delimiter: str, has_volume: bool, answer: Answer, query: DailyQuery) -> Parsed:
    names = _COLUMNS if has_volume else _COLUMNS[:-1]
    types = {name: pa.date32() if name == "session" else pa.float64() for name in names}
    table = read_csv(body, types, delimiter, _NULLS)
    if len(table) and table["session"].null_count == len(table):
        return Parsed(Outcome.UNKNOWN_SYMBOL, "N/D in every field")
    days = days_of(table["session"])
    values = {name: floats_of(table[name]) for name in names if name != "session"}
    # Currencies, rates and some indices have no volume column: unknown is not zero.
    values.setdefault("volume", np.full(len(days), np.nan))
    return deliver(query, answer, days, values)


def _is_unknown_quote(words: str) -> bool:
    """A light quote's answer for a symbol that does not exist, with or without its header."""
    cells = words.splitlines()[-1].split(",") if words else []
    return len(cells) > 4 and all(cell == "n/d" for cell in cells[1:])
