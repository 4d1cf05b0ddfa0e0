"""Stooq: CSV in two languages, adjusted for splits and dividends, every refusal with status 200.

Since 2026 the history wants an API key, and may show a page that checks the browser instead. Such a page is
reported and never worked around: the operator's own key or downloaded files are the way in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

import pyarrow as pa
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import CloseKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import (
    is_html,
    malformed,
    no_data,
    one_line,
    shown,
    unfit_csv,
)
from market_pipelines.providers.frames import deliver, empty_outcome
from market_pipelines.providers.intraday_frames import empty_intraday_outcome
from market_pipelines.providers.local_bars import calendar_of, deliver_priced
from market_pipelines.providers.protocol import (
    Ability,
    Answer,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    Parsed,
    QuoteQuery,
)
from market_pipelines.providers.stooq.pages import parse_history_page
from market_pipelines.providers.stooq.quotes import FIELDS, read_quotes
from market_pipelines.providers.stooq.tables import Layout, NoSuchSymbol, layout_of, read_days, read_moments, starts_of
from market_pipelines.providers.stooq.words import refusal
from market_pipelines.providers.symbols import Spelling
from market_pipelines.redaction import register_secret
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://stooq.com"
QUOTA_ZONE = "Europe/Warsaw"
"""The limit by address ends at Warsaw's midnight; its size is not published."""
CODES: Mapping[str, str] = {"5min": "5", "60min": "60"}
"""How Stooq calls an interval. It has no others."""
MOST_QUOTES = 50
"""No limit is known; the address of a request should stay short."""

_FILE_NAME = re.compile(r"(?i)(.+)_(?:d|5|60)\.csv")


class Stooq:
    name = "stooq"
    basis = Basis.SPLIT_DIVIDEND
    close_kind = CloseKind.OFFICIAL
    quota_zone = QUOTA_ZONE

    _spelling = Spelling("stooq", {"XNYS": ".us", "XWAR": "", "XLON": ".uk", "XTKS": ".jp"}, case=str.lower)

    def __init__(self, key: SecretStr | None, base_url: str = PUBLIC_ADDRESS) -> None:
        if key is not None:
            register_secret(key.get_secret_value())
        self._key = key
        self.base_url = base_url.rstrip("/")
        self.abilities: Mapping[Capability, Ability] = {
            Capability.INTRADAY: Ability(
                self.intraday_call,
                self.read_intraday,
                note="recent days only; clock, labels and adjustment are not documented; hours begin at the full hour",
                basis=Basis.SPLIT_DIVIDEND,
                intervals=tuple(CODES),
            ),
            Capability.QUOTE: Ability(self.quote_call, self.read_quote, note="delayed"),
            Capability.BULK_QUOTES: Ability(self.quote_call, self.read_quote, note="delayed", most=MOST_QUOTES),
        }

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
        return self._download("daily", "d", query)

    def intraday_call(self, query: IntradayQuery) -> Call:
        return self._download("intraday", CODES[query.interval], query)

    def quote_call(self, query: QuoteQuery) -> Call:
        """No key: the light quote has never asked for one, and a secret is not sent where it is not needed."""
        return Call(
            provider=self.name,
            endpoint="quote",
            url=f"{self.base_url}/q/l/",
            # In an address the blank is written `+`, which is how Stooq joins symbols.
            params={
                "s": " ".join(self.native_symbol(each) for each in query.instruments),
                "f": FIELDS,
                "h": "",
                "e": "csv",
            },
        )

    def _download(self, endpoint: str, interval: str, query: DailyQuery | IntradayQuery) -> Call:
        return Call(
            provider=self.name,
            endpoint=endpoint,
            url=f"{self.base_url}/q/d/l/",
            params={
                "s": self.native_symbol(query.instrument),
                "i": interval,
                "d1": f"{query.start:%Y%m%d}",
                "d2": f"{query.end:%Y%m%d}",
            },
            secret_params={"apikey": self._key} if self._key is not None else {},
            secret_origin=self.base_url,
        )

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
        layout = layout_of(body)
        if layout is None or layout.has_time:
            return self._refused(answer, empty_outcome(query, answer.received_at)) or self._page_or_nothing(
                answer, query
            )
        unfit = self._unfit(answer, query.instrument)
        if unfit is not None:
            return unfit
        try:
            days, values = read_days(body, layout)
            return deliver(query, answer, days, values)
        except NoSuchSymbol:
            return Parsed(Outcome.UNKNOWN_SYMBOL, "N/D in every field")
        except (ValueError, pa.ArrowException) as error:
            return malformed(f"the answer cannot be read: {error}")

    def read_intraday(self, answer: Answer, query: IntradayQuery) -> Parsed:
        body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
        layout = layout_of(body)
        if layout is None or not layout.has_time:
            refused = self._refused(answer, empty_intraday_outcome(query, answer.received_at))
            return refused or no_data(answer) or _other_table(answer, "intraday bars")
        unfit = self._unfit(answer, query.instrument)
        if unfit is not None:
            return unfit
        try:
            return self._read_moments(body, layout, answer, query)
        except NoSuchSymbol:
            return Parsed(Outcome.UNKNOWN_SYMBOL, "N/D in every field")
        except (ValueError, pa.ArrowException) as error:
            return malformed(f"the answer cannot be read: {error}")

    def _read_moments(self, body: bytes, layout: Layout, answer: Answer, query: IntradayQuery) -> Parsed:
        local, values = read_moments(body, layout)
        calendar = calendar_of(query.instrument.mic, answer.received_at)
        return deliver_priced(query, answer, starts_of(local, query.interval, calendar), values)

    def read_quote(self, answer: Answer, query: QuoteQuery) -> Parsed:
        asked = {self.native_symbol(each).upper(): each for each in query.instruments}
        refused = refusal(
            answer, Outcome.EMPTY_UNEXPECTED, key_was_sent=self._key is not None, one_symbol=len(asked) == 1
        )
        unfit = refused or no_data(answer)
        if unfit is not None:
            return unfit
        try:
            read = read_quotes(answer.body.removeprefix(b"\xef\xbb\xbf"), asked)
        except ValueError as error:
            return malformed(f"not the lines of light quotes: {error}")
        if read.unasked and not read.found:
            return malformed(f"asked for {', '.join(asked)}, the answer is about {', '.join(read.unasked)}")
        reason = one_line(f"N/D for {', '.join(read.without_price)}") if read.without_price else ""
        return Parsed(Outcome.OK if read.found else Outcome.UNKNOWN_SYMBOL, reason, records=read.found)

    def _refused(self, answer: Answer, empty: Outcome) -> Parsed | None:
        return refusal(answer, empty, key_was_sent=self._key is not None)

    def _unfit(self, answer: Answer, instrument: Instrument) -> Parsed | None:
        return no_data(answer) or unfit_csv(answer, _FILE_NAME, self.native_symbol(instrument))

    def _page_or_nothing(self, answer: Answer, query: DailyQuery) -> Parsed:
        """Bars out of a history page, where somebody has kept one."""
        nothing = no_data(answer) or _other_table(answer, "daily bars")
        if not 200 <= answer.status < 300 or not is_html(answer.body):
            return nothing
        try:
            page = parse_history_page(answer.body)
            if page is None:
                return nothing
        except ValueError as error:
            return malformed(f"the page cannot be read: {error}")
        expected = self.native_symbol(query.instrument)
        if page.native.lower() != expected.lower():
            return malformed(f"asked for {expected}, the page is about {page.native or 'nobody'}")
        parsed = deliver(query, answer, page.days, page.values)
        if parsed.bars is None or not page.goes_on or page.days[0].astype(object) <= query.start:
            return parsed
        older = f"the page ends at {page.days[0]}; older bars are on further pages, which are not asked for"
        return Parsed(parsed.outcome, older, bars=parsed.bars)


def _other_table(answer: Answer, wanted: str) -> Parsed:
    return malformed(f"not the header of {wanted}: {shown(answer.body)}")
