"""What is asked of Alpha Vantage, and which reader its answers are handed to."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar

import msgspec
import pyarrow as pa
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import CloseKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage import actions, daily, intraday, options, quotes, reference
from market_pipelines.providers.alpha_vantage.notices import bare, refusal
from market_pipelines.providers.alpha_vantage.spelling import SPELLING
from market_pipelines.providers.answers import malformed
from market_pipelines.providers.protocol import (
    Ability,
    ActionsQuery,
    Answer,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    Parsed,
)
from market_pipelines.redaction import register_secret
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://www.alphavantage.co"
NO_KEY = "keyless"
"""Sent to another address when no key is set, because an empty parameter is refused before anything is read."""
QUOTA_ZONE = "US/Eastern"
"""Not documented by the provider: the zone of its data and of its office."""

Query = TypeVar("Query")
_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, csv.Error, pa.ArrowException)
"""What the readers raise over a body; anything else is a mistake of ours and should be seen."""


class AlphaVantage:
    name = "alpha_vantage"
    basis = Basis.TRADED
    close_kind = CloseKind.OFFICIAL
    quota_zone = QUOTA_ZONE

    def __init__(
        self, key: SecretStr | None, base_url: str = PUBLIC_ADDRESS, *, options_function: str = options.HISTORICAL
    ) -> None:
        if key is not None:
            register_secret(key.get_secret_value())
        self._key = key
        self.base_url = base_url.rstrip("/")
        self._options_function = options_function
        self.abilities: Mapping[Capability, Ability] = self._abilities()

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        address = base_url or settings.alpha_vantage_base_url or PUBLIC_ADDRESS
        return cls(settings.alpha_vantage_api_key, address)

    def covers(self, instrument: Instrument) -> bool:
        return SPELLING.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return SPELLING.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return SPELLING.canonical(native, mic)

    def ready(self) -> str:
        if self._key is None and self.base_url == PUBLIC_ADDRESS:
            return "ALPHA_VANTAGE_API_KEY is not set"
        return ""

    def daily_call(self, query: DailyQuery) -> Call:
        return self._call(daily.parameters(query))

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        return self._read(daily.parse, answer, query)

    def intraday_call(self, query: IntradayQuery) -> Call:
        """The first of one call a month, or the only one about the latest days."""
        return self._intraday_call(query, intraday.months(query)[0])

    def _intraday_call(self, query: IntradayQuery, month: str) -> Call:
        # The answer does not say which month it is about; the endpoint's name does.
        endpoint = f"{intraday.FUNCTION} {month}".strip()
        return self._call(intraday.parameters(query, month), endpoint)

    def parse_intraday(self, answer: Answer, query: IntradayQuery) -> Parsed:
        month = answer.endpoint.removeprefix(intraday.FUNCTION).strip()
        later = [each for each in intraday.months(query) if each > month] if month else []
        parsed = self._read(intraday.parse, answer, intraday.within(query, month))
        # A refused month before anything was listed looks like an unknown symbol; a later one tells.
        goes_on = (Outcome.OK, Outcome.EMPTY_EXPECTED, Outcome.EMPTY_UNEXPECTED) + (
            (Outcome.UNKNOWN_SYMBOL,) if query.instrument.listed_from is None else ()
        )
        if later and parsed.outcome in goes_on:
            return replace(parsed, more=self._intraday_call(query, later[0]))
        return parsed

    def actions_call(self, query: ActionsQuery) -> Call:
        return self._call(actions.parameters(query, actions.SPLITS))

    def parse_actions(self, answer: Answer, query: ActionsQuery) -> Parsed:
        parsed = self._read(actions.parse, answer, query)
        if parsed.outcome.delivered and answer.endpoint == actions.SPLITS:
            return replace(parsed, more=self._call(actions.parameters(query, actions.DIVIDENDS)))
        return parsed

    def _call(self, params: Mapping[str, str], endpoint: str = "") -> Call:
        without_key = {"apikey": NO_KEY} if self._key is None else {}
        return Call(
            provider=self.name,
            endpoint=endpoint or params["function"],
            url=f"{self.base_url}/query",
            params={**params, **without_key},
            secret_params={"apikey": self._key} if self._key is not None else {},
            secret_origin=self.base_url,
        )

    def _read(
        self, parse: Callable[[bytes, Answer, Query], Parsed], answer: Answer, query: Query, *, symbol: bool = True
    ) -> Parsed:
        refused = refusal(answer, self._key.get_secret_value() if self._key is not None else "", names_a_symbol=symbol)
        if refused is not None:
            return refused
        try:
            return parse(bare(answer), answer, query)
        except _UNREADABLE as error:
            return malformed(f"the answer cannot be read: {error}")

    def _abilities(self) -> dict[Capability, Ability]:
        def of(
            parameters: Callable[[Any], dict[str, str]], parse: Callable[[bytes, Answer, Any], Parsed], **more: Any
        ) -> Ability:
            symbol = more.pop("symbol", True)
            return Ability(
                lambda query: self._call(parameters(query)),
                lambda answer, query: self._read(parse, answer, query, symbol=symbol),
                **more,
            )

        return {
            Capability.INTRADAY: Ability(
                self.intraday_call,
                self.parse_intraday,
                note="premium; one call a month beyond the latest four weeks, from 2000-01",
                intervals=tuple(INTERVALS),
                calls=lambda query: len(intraday.months(query)),
            ),
            Capability.QUOTE: of(quotes.parameters_of_one, quotes.parse_one, note="end of day without a premium plan"),
            Capability.BULK_QUOTES: of(quotes.parameters_of_many, quotes.parse_many, note="premium", most=quotes.MOST),
            Capability.PROFILE: of(
                reference.parameters_of_profile, reference.parse_profile, note="companies, no funds"
            ),
            Capability.ACTIONS: Ability(self.actions_call, self.parse_actions, note="two calls: splits, dividends"),
            Capability.LISTINGS: of(
                reference.parameters_of_listings,
                reference.parse_listings,
                note="United States; as it stood on a day from 2010 on",
                symbol=False,
            ),
            Capability.SEARCH: of(reference.parameters_of_search, reference.parse_search, symbol=False),
            Capability.MARKET_STATUS: of(
                reference.parameters_of_status, reference.parse_status, note="now only", symbol=False
            ),
            Capability.OPTIONS: of(
                partial(options.parameters, function=self._options_function),
                options.parse,
                note="premium; the last session's chain",
            ),
        }
