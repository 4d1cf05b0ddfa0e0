"""Yahoo Finance: unofficial, JSON, no key; a cookie and a crumb in front of half of it.

What the provider is and offers, and how each thing is asked for. How the answers are read is in a module each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Self
from urllib.parse import quote

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import CloseKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.providers.protocol import (
    Ability,
    ActionsQuery,
    Answer,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
)
from market_pipelines.providers.symbols import Spelling
from market_pipelines.providers.yahoo.chart import chart_address
from market_pipelines.providers.yahoo.crumb import Gate
from market_pipelines.providers.yahoo.daily import daily_params, read_daily
from market_pipelines.providers.yahoo.intraday import ASKED_AS, REACH, intraday_params, read_intraday
from market_pipelines.providers.yahoo.matches import MOST_MATCHES, read_matches
from market_pipelines.providers.yahoo.options import ENDPOINT as OPTIONS
from market_pipelines.providers.yahoo.options import endpoint_of, expiry_of, read_options
from market_pipelines.providers.yahoo.quotes import MOST_SYMBOLS, read_quotes
from market_pipelines.providers.yahoo.summary import MODULES, read_profile
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://query1.finance.yahoo.com"


class Yahoo:
    name = "yahoo"
    basis = Basis.TRADED
    close_kind = CloseKind.OFFICIAL
    quota_zone = "UTC"

    _spelling = Spelling("yahoo", {"XNYS": "", "XWAR": ".WA", "XLON": ".L", "XTKS": ".T"})

    def __init__(self, base_url: str = PUBLIC_ADDRESS) -> None:
        self.base_url = base_url.rstrip("/")
        self._gate = Gate(self.base_url)
        self.abilities: Mapping[Capability, Ability] = {
            Capability.INTRADAY: Ability(
                self._intraday_call,
                self._read_intraday,
                "1min for the last 30 days, 5min to 30min for 60 days, 60min for 730 days; adjusted for splits",
                basis=Basis.SPLIT,
                intervals=tuple(ASKED_AS),
                days_a_call=min(span for span, _ in REACH.values()),
                days_back=min(back for _, back in REACH.values()),
                reach=REACH,
            ),
            Capability.QUOTE: Ability(self._quotes_call, self._read_quotes, "US real time, others up to 20 min late"),
            Capability.BULK_QUOTES: Ability(self._quotes_call, self._read_quotes, most=MOST_SYMBOLS),
            Capability.PROFILE: Ability(self._profile_call, self._read_profile),
            Capability.ACTIONS: Ability(self._actions_call, self._read_actions, "splits and dividends as paid"),
            Capability.SEARCH: Ability(self._search_call, self._read_search),
            Capability.OPTIONS: Ability(
                self._options_call, self._read_options, "the chains of today, an expiry a call"
            ),
        }

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        return cls(base_url or settings.yahoo_base_url or PUBLIC_ADDRESS)

    def covers(self, instrument: Instrument) -> bool:
        return self._spelling.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return self._spelling.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return self._spelling.canonical(native, mic)

    def ready(self) -> str:
        return ""

    def daily_call(self, query: DailyQuery) -> Call:
        return self._chart_call("chart", query.instrument, daily_params(query))

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        return read_daily(answer, query, self.native_symbol(query.instrument))

    def _actions_call(self, query: ActionsQuery) -> Call:
        return self._chart_call("chart_events", query.instrument, daily_params(_daily(query)))

    def _read_actions(self, answer: Answer, query: ActionsQuery) -> Parsed:
        return replace(self.parse_daily(answer, _daily(query)), bars=None)

    def _intraday_call(self, query: IntradayQuery) -> Call:
        return self._chart_call("chart_intraday", query.instrument, intraday_params(query))

    def _read_intraday(self, answer: Answer, query: IntradayQuery) -> Parsed:
        return read_intraday(answer, query, self.native_symbol(query.instrument))

    def _chart_call(self, endpoint: str, instrument: Instrument, params: Mapping[str, str]) -> Call:
        return self._call(endpoint, chart_address("", self.native_symbol(instrument)), params)

    def _search_call(self, query: SearchQuery) -> Call:
        params = {"q": query.text, "quotesCount": str(MOST_MATCHES), "newsCount": "0", "listsCount": "0"}
        return self._call("search", "/v1/finance/search", params)

    def _read_search(self, answer: Answer, query: SearchQuery) -> Parsed:
        return read_matches(answer, query.text)

    def _quotes_call(self, query: QuoteQuery) -> Call:
        return self._gate.opened(self._quotes(query))

    def _quotes(self, query: QuoteQuery) -> Call:
        symbols = ",".join(self.native_symbol(instrument) for instrument in query.instruments)
        return self._call("quote", "/v7/finance/quote", {"symbols": symbols})

    def _read_quotes(self, answer: Answer, query: QuoteQuery) -> Parsed:
        expected = [(self.native_symbol(instrument), instrument) for instrument in query.instruments]
        return self._gate.read(answer, lambda _: self._quotes(query), lambda data: read_quotes(data, expected))

    def _profile_call(self, query: ProfileQuery) -> Call:
        return self._gate.opened(self._profile(query))

    def _profile(self, query: ProfileQuery) -> Call:
        symbol = quote(self.native_symbol(query.instrument), safe="")
        return self._call("profile", f"/v10/finance/quoteSummary/{symbol}", {"modules": MODULES, "formatted": "false"})

    def _read_profile(self, answer: Answer, query: ProfileQuery) -> Parsed:
        native = self.native_symbol(query.instrument)
        return self._gate.read(
            answer, lambda _: self._profile(query), lambda data: read_profile(data, query.instrument, native)
        )

    def _options_call(self, query: OptionsQuery) -> Call:
        return self._gate.opened(self._options(query, None))

    def _options(self, query: OptionsQuery, expiry: date | None) -> Call:
        symbol = quote(self.native_symbol(query.underlying), safe="")
        endpoint, params = (OPTIONS, {}) if expiry is None else (endpoint_of(expiry), {"date": str(_epoch(expiry))})
        return self._call(endpoint, f"/v7/finance/options/{symbol}", {"formatted": "false", **params})

    def _read_options(self, answer: Answer, query: OptionsQuery) -> Parsed:
        native = self.native_symbol(query.underlying)
        return self._gate.read(
            answer,
            lambda endpoint: self._options(query, expiry_of(endpoint)),
            lambda data: read_options(data, query, native, lambda expiry: self._options(query, expiry)),
        )

    def _call(self, endpoint: str, path: str, params: Mapping[str, str]) -> Call:
        return Call(provider=self.name, endpoint=endpoint, url=f"{self.base_url}{path}", params=params)


def _daily(query: ActionsQuery) -> DailyQuery:
    return DailyQuery(query.instrument, query.start, query.today, query.today)


def _epoch(day: date) -> int:
    return int(datetime.combine(day, time(), tzinfo=UTC).timestamp())
