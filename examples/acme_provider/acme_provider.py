"""A provider of one's own: ACME serves daily bars as CSV and quotes as JSON.

    GET /daily.csv?symbol=AAPL&from=2024-01-02&to=2024-01-08    date,symbol,open,high,low,close,volume
    GET /quote.json?symbol=AAPL                                 {"symbol", "price", "time"} or {"error"}

Both `…_call` methods only describe a request and both readers only look at bytes: asking, waiting, trying again,
archiving and storing is done for them.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from datetime import date, datetime
from typing import Self

import numpy as np

from market_pipelines.market.actions import Basis
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.providers.answers import decoded, malformed, no_data, one_line
from market_pipelines.providers.frames import deliver
from market_pipelines.providers.protocol import Ability, Answer, Call, Capability, DailyQuery, Parsed, QuoteQuery
from market_pipelines.providers.symbols import Spelling
from market_pipelines.settings import Settings

HEADER = ["date", "symbol", "open", "high", "low", "close", "volume"]
VALUES = ("open", "high", "low", "close", "volume")


class Acme:
    name = "acme"
    basis = Basis.TRADED
    rate_limit = 120
    """Requests a minute; without it a plug-in may ask sixty times."""

    _spelling = Spelling("acme", {"XNYS": ""})

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:  # noqa: ARG003 (the protocol's)
        return cls(base_url or os.environ.get("ACME_BASE_URL", ""))

    @property
    def abilities(self) -> Mapping[Capability, Ability]:
        return {Capability.QUOTE: Ability(self.quote_call, self.read_quote, note="delayed by a minute")}

    def covers(self, instrument: Instrument) -> bool:
        return self._spelling.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return self._spelling.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return self._spelling.canonical(native, mic)

    def ready(self) -> str:
        return "" if self.base_url else "ACME_BASE_URL is not set"

    def daily_call(self, query: DailyQuery) -> Call:
        span = {"from": query.start.isoformat(), "to": query.end.isoformat()}
        params = {"symbol": self.native_symbol(query.instrument), **span}
        return Call(self.name, "daily", f"{self.base_url}/daily.csv", params)

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        refused = no_data(answer)
        if refused is not None:
            return refused
        if not answer.body.endswith(b"\n"):
            return malformed("the body ends in the middle of a line")
        header, *rows = csv.reader(decoded(answer.body).splitlines())
        if header != HEADER:
            return malformed(f"not the header of daily bars: {','.join(header)}")
        wanted = self.native_symbol(query.instrument)
        try:
            for row in rows:
                if row[1].upper() != wanted:
                    return malformed(f"asked for {wanted}, the answer is about {row[1]}")
            days = np.array([date.fromisoformat(row[0]) for row in rows], dtype="datetime64[D]")
            values = {
                name: np.array([float(row[place] or "nan") for row in rows], dtype=np.float64)
                for place, name in enumerate(VALUES, start=2)
            }
        except (ValueError, IndexError) as error:
            return malformed(f"the answer cannot be read: {error}")
        return deliver(query, answer, days, values)

    def quote_call(self, query: QuoteQuery) -> Call:
        params = {"symbol": self.native_symbol(query.instruments[0])}
        return Call(self.name, "quote", f"{self.base_url}/quote.json", params)

    def read_quote(self, answer: Answer, query: QuoteQuery) -> Parsed:
        refused = no_data(answer)
        if refused is not None:
            return refused
        wanted = query.instruments[0]
        try:
            said = json.loads(answer.body)
            if "error" in said:
                return Parsed(Outcome.UNKNOWN_SYMBOL, one_line(str(said["error"])))
            price, at = float(said["price"]), datetime.fromisoformat(said["time"])
            if said["symbol"] != self.native_symbol(wanted) or not math.isfinite(price) or at.tzinfo is None:
                return malformed("not a quote of what was asked for")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return malformed(f"the answer cannot be read: {type(error).__name__} {error}")
        return Parsed(Outcome.OK, records=(Quote(wanted.symbol, price, at, currency=wanted.currency),))
