"""Polygon.io / Massive: how its REST interface is asked, and which of this package's readers reads each answer.

The key travels in a header and only to the configured address. Long answers come in pages; a page names the next
one, and reading it gives the call for that. What the bodies say is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Self
from urllib.parse import quote

from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import CloseKind
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import TickKind
from market_pipelines.providers.answers import malformed
from market_pipelines.providers.polygon import bars, options, quotes, reference, ticks
from market_pipelines.providers.polygon.envelope import (
    NEXT_PAGE,
    UNREADABLE,
    Envelope,
    Refused,
    body_of,
    next_page,
    opened,
)
from market_pipelines.providers.polygon.stamps import since_epoch
from market_pipelines.providers.protocol import (
    Ability,
    ActionsQuery,
    Answer,
    Call,
    Capability,
    DailyQuery,
    GroupedQuery,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    TicksQuery,
)
from market_pipelines.redaction import register_secret
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://api.massive.com"
NO_KEY = "keyless"
"""Sent to another address when no key is set, because a request without one is refused before anything is read."""
QUOTA_ZONE = "America/New_York"
MIC = "XNYS"
"""It lists what trades in the United States, whichever venue; the calendar is New York's."""
MOST_AGGREGATES = "50000"
MOST_TICKS = "50000"
MOST_REFERENCE = "1000"
MOST_SNAPSHOTS = 100
"""Tickers in one address: the provider names no limit, addresses have one."""
MATCHES = "100"
DAYS_A_CALL = 70
"""Fifty sessions from four in the morning to eight in the evening are 48,000 minutes, just below what one page
may count."""
WHOLE_MARKET = 100_000

_STOCKS = "/v2/snapshot/locale/us/markets/stocks/tickers"


class Polygon:
    name = "polygon"
    basis = Basis.TRADED
    close_kind = CloseKind.CONSOLIDATED
    quota_zone = QUOTA_ZONE

    def __init__(self, key: SecretStr | None, base_url: str = PUBLIC_ADDRESS) -> None:
        if key is not None:
            register_secret(key.get_secret_value())
        self._key = key
        self.base_url = base_url.rstrip("/")
        self.abilities: Mapping[Capability, Ability] = self._abilities()

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        return cls(settings.polygon_api_key, base_url or settings.polygon_base_url or PUBLIC_ADDRESS)

    def _abilities(self) -> dict[Capability, Ability]:
        return {
            Capability.INTRADAY: Ability(
                self.intraday_call,
                self.read_intraday,
                note="as far back as the plan (Basic: 2 years); always with the hours outside the session",
                intervals=tuple(INTERVALS),
                days_a_call=DAYS_A_CALL,
            ),
            Capability.GROUPED_DAILY: Ability(
                self.grouped_call, self.read_grouped, note="a whole session in one call", most=WHOLE_MARKET
            ),
            Capability.QUOTE: Ability(self.quote_call, self.read_quote, note="Starter and above, there 15 min late"),
            Capability.BULK_QUOTES: Ability(
                self.bulk_call, self.read_bulk, note="Starter and above, there 15 min late", most=MOST_SNAPSHOTS
            ),
            Capability.PROFILE: Ability(self.profile_call, self.read_profile),
            Capability.ACTIONS: Ability(self.actions_call, self.read_actions, note="dividends as declared"),
            Capability.LISTINGS: Ability(self.listings_call, self.read_listings, note="delisted ones too"),
            Capability.SEARCH: Ability(self.search_call, self.read_search, note=f"the first {MATCHES} matches"),
            Capability.MARKET_STATUS: Ability(self.status_call, self.read_status),
            Capability.OPTIONS: Ability(self.options_call, self.read_options, note="contracts, without prices"),
            Capability.TRADES: Ability(self.ticks_call, self.read_ticks, note="Developer and above"),
            Capability.QUOTES_HISTORY: Ability(self.ticks_call, self.read_ticks, note="Advanced and above"),
            Capability.SECONDS: Ability(self.seconds_call, self.read_seconds, note="for the gaps of a stream"),
        }

    def covers(self, instrument: Instrument) -> bool:
        return self.name in instrument.provider_symbols or (instrument.mic == MIC and instrument.kind is not Kind.INDEX)

    def native_symbol(self, instrument: Instrument) -> str:
        """As the exchange writes it, case included: `BRK.B`, and `BApA` for a preferred share."""
        override = instrument.provider_symbols.get(self.name)
        if override is not None:
            return override
        if not self.covers(instrument):
            raise ValueError(
                f"{self.name} does not list {instrument.symbol} ({instrument.kind} on {instrument.mic}); it lists "
                f"shares and funds on {MIC}, and indices by a symbol of their own (I:SPX)"
            )
        return instrument.symbol

    def canonical_symbol(self, native: str, mic: str) -> str:
        if mic != MIC:
            raise ValueError(f"{self.name} does not list the exchange {mic}")
        return native

    def ready(self) -> str:
        if self._key is None and self.base_url == PUBLIC_ADDRESS:
            return "POLYGON_API_KEY is not set"
        return ""

    # Daily bars

    def daily_call(self, query: DailyQuery) -> Call:
        return self._aggregates("day", query.instrument, 1, query.start, query.end)

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        return self._read(
            answer, lambda envelope: bars.daily(envelope, answer, query, self.native_symbol(query.instrument))
        )

    # Intraday bars and whole sessions

    def intraday_call(self, query: IntradayQuery) -> Call:
        return self._aggregates("minute", query.instrument, bars.asked_minutes(query.interval), query.start, query.end)

    def read_intraday(self, answer: Answer, query: IntradayQuery) -> Parsed:
        return self._read(
            answer, lambda envelope: bars.intraday(envelope, answer, query, self.native_symbol(query.instrument))
        )

    def grouped_call(self, query: GroupedQuery) -> Call:
        return self._call(
            "grouped",
            f"/v2/aggs/grouped/locale/us/market/stocks/{query.session}",
            adjusted="false",
            include_otc="false",
        )

    def read_grouped(self, answer: Answer, query: GroupedQuery) -> Parsed:
        return self._read(
            answer, lambda envelope: bars.grouped(envelope, answer, query, self._natives(query.instruments))
        )

    # Quotes

    def quote_call(self, query: QuoteQuery) -> Call:
        return self._call("snapshot", f"{_STOCKS}/{_in_path(self.native_symbol(query.instruments[0]))}")

    def read_quote(self, answer: Answer, query: QuoteQuery) -> Parsed:
        def read(envelope: Envelope) -> Parsed:
            if len(query.instruments) != 1:
                raise ValueError(f"a quote of {len(query.instruments)} instruments")
            return quotes.one(envelope, answer, query.instruments[0], self.native_symbol(query.instruments[0]))

        return self._read(answer, read)

    def bulk_call(self, query: QuoteQuery) -> Call:
        return self._call("snapshots", _STOCKS, tickers=",".join(map(self.native_symbol, query.instruments)))

    def read_bulk(self, answer: Answer, query: QuoteQuery) -> Parsed:
        return self._read(answer, lambda envelope: quotes.many(envelope, self._natives(query.instruments)))

    # Reference data

    def profile_call(self, query: ProfileQuery) -> Call:
        return self._call("ticker", f"/v3/reference/tickers/{_in_path(self.native_symbol(query.instrument))}")

    def read_profile(self, answer: Answer, query: ProfileQuery) -> Parsed:
        return self._read(
            answer, lambda envelope: reference.profile(envelope, query, self.native_symbol(query.instrument))
        )

    def actions_call(self, query: ActionsQuery) -> Call:
        """Splits first; their last page leads to the dividends."""
        return self._actions_of("splits", "execution_date", query)

    def _actions_of(self, what: str, day: str, query: ActionsQuery) -> Call:
        asked = {"ticker": self.native_symbol(query.instrument), f"{day}.gte": f"{query.start}"}
        return self._call(what, f"/v3/reference/{what}", **asked, sort=day, order="asc", limit=MOST_REFERENCE)

    def read_actions(self, answer: Answer, query: ActionsQuery) -> Parsed:
        of_dividends = answer.endpoint.startswith("dividends") or b'"ex_dividend_date"' in answer.body

        def read(envelope: Envelope) -> Parsed:
            reader = reference.dividends if of_dividends else reference.splits
            return reader(envelope, query, self.native_symbol(query.instrument))

        parsed = self._read(answer, read)
        if parsed.more is not None or not parsed.outcome.delivered:
            return parsed
        if of_dividends:
            return replace(parsed, actions_known=True)
        return replace(parsed, more=self._actions_of("dividends", "ex_dividend_date", query))

    def listings_call(self, query: ListingsQuery) -> Call:
        if query.mic != MIC:
            raise ValueError(f"{self.name} does not list the exchange {query.mic}")
        asked = {"market": "stocks", "active": "true" if query.active else "false"}
        if query.on is not None:
            asked["date"] = f"{query.on}"
        return self._call("tickers", "/v3/reference/tickers", **asked, sort="ticker", order="asc", limit=MOST_REFERENCE)

    def read_listings(self, answer: Answer, query: ListingsQuery) -> Parsed:
        return self._read(answer, lambda envelope: reference.listings(envelope, query))

    def search_call(self, query: SearchQuery) -> Call:
        return self._call(
            "search", "/v3/reference/tickers", search=query.text, market="stocks", active="true", limit=MATCHES
        )

    def read_search(self, answer: Answer, query: SearchQuery) -> Parsed:
        parsed = self._read(answer, lambda envelope: reference.matches(envelope, query))
        # Who searches wants the best matches, not all of them.
        return replace(parsed, more=None)

    def status_call(self, query: StatusQuery) -> Call:
        which = "upcoming" if query.upcoming else "now"
        return self._call(f"marketstatus_{which}", f"/v1/marketstatus/{which}")

    def read_status(self, answer: Answer, query: StatusQuery) -> Parsed:
        try:
            body = body_of(answer)
            return reference.market_days(body) if query.upcoming else reference.market_now(body)
        except Refused as refused:
            return refused.parsed
        except UNREADABLE as error:
            return malformed(f"the answer cannot be read: {error}")

    # Options

    def options_call(self, query: OptionsQuery) -> Call:
        """Contracts that have expired are on a list of their own, which is asked first where the dates need both."""
        past = query.expires_from is not None and query.expires_from < query.today
        return self._contracts(query, expired=past)

    def _contracts(self, query: OptionsQuery, *, expired: bool) -> Call:
        asked = {"underlying_ticker": self._underlying(query), "expired": "true" if expired else "false"}
        if query.expires_from is not None:
            asked["expiration_date.gte"] = f"{query.expires_from}"
        if query.expires_to is not None:
            asked["expiration_date.lte"] = f"{query.expires_to}"
        if query.right is not None:
            asked["contract_type"] = query.right.value
        return self._call(
            "options_expired" if expired else "options",
            "/v3/reference/options/contracts",
            **asked,
            sort="expiration_date",
            order="asc",
            limit=MOST_REFERENCE,
        )

    def read_options(self, answer: Answer, query: OptionsQuery) -> Parsed:
        parsed = self._read(answer, lambda envelope: options.contracts(envelope, query, self._underlying(query)))
        both = query.expires_to is None or query.expires_to >= query.today
        if answer.endpoint.startswith("options_expired") and both and parsed.more is None and parsed.outcome.delivered:
            return replace(parsed, more=self._contracts(query, expired=False))
        return parsed

    def _underlying(self, query: OptionsQuery) -> str:
        """An index loses its prefix here, as in the contracts' own tickers."""
        return self.native_symbol(query.underlying).removeprefix("I:")

    # Trades, quotes and bars of a second

    def ticks_call(self, query: TicksQuery) -> Call:
        asked = {
            "timestamp.gte": str(since_epoch(query.start)),
            "timestamp.lt": str(since_epoch(query.end)),
        }
        return self._call(
            query.kind.value,
            f"/v3/{query.kind.value}/{_in_path(self.native_symbol(query.instrument))}",
            **asked,
            sort="timestamp",
            order="asc",
            limit=MOST_TICKS,
        )

    def read_ticks(self, answer: Answer, query: TicksQuery) -> Parsed:
        reader = ticks.trades if query.kind is TickKind.TRADES else ticks.quotes
        return self._read(answer, lambda envelope: reader(envelope, answer, query))

    def seconds_call(self, query: TicksQuery) -> Call:
        """Both ends are asked for as the bars' starts in milliseconds, the last one included."""
        first, last = since_epoch(query.start) // 1_000_000, (since_epoch(query.end) - 1) // 1_000_000
        return self._aggregates("second", query.instrument, 1, first, last)

    def read_seconds(self, answer: Answer, query: TicksQuery) -> Parsed:
        return self._read(
            answer, lambda envelope: bars.seconds(envelope, answer, query, self.native_symbol(query.instrument))
        )

    def _aggregates(
        self, timespan: str, instrument: Instrument, multiplier: int, first: date | int, last: date | int
    ) -> Call:
        ticker = _in_path(self.native_symbol(instrument))
        path = f"/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{first}/{last}"
        return self._call(f"aggs_{timespan}", path, adjusted="false", sort="asc", limit=MOST_AGGREGATES)

    def _call(self, endpoint: str, path: str, **params: str) -> Call:
        return self._to(endpoint, f"{self.base_url}{path}", params)

    def _to(self, endpoint: str, url: str, params: Mapping[str, str]) -> Call:
        bearer = f"Bearer {NO_KEY if self._key is None else self._key.get_secret_value()}"
        return Call(
            provider=self.name,
            endpoint=endpoint,
            url=url,
            params=params,
            headers={} if self._key is not None else {"Authorization": bearer},
            secret_headers={"Authorization": SecretStr(bearer)} if self._key is not None else {},
            secret_origin=self.base_url,
        )

    def _read(self, answer: Answer, reader: Callable[[Envelope], Parsed]) -> Parsed:
        """What any bytes mean: rows, or why there are none. Never an exception."""
        try:
            envelope = opened(answer)
            following = next_page(envelope, self.base_url)
            parsed = reader(envelope)
        except Refused as refused:
            return refused.parsed
        except UNREADABLE as error:
            return malformed(f"the answer cannot be read: {error}")
        if following is None:
            return parsed
        if parsed.outcome is Outcome.EMPTY_UNEXPECTED:
            # A page of which nothing is left says nothing about the pages after it.
            parsed = replace(parsed, outcome=Outcome.EMPTY_EXPECTED)
        if not parsed.outcome.delivered:
            return parsed
        endpoint = answer.endpoint.removesuffix(NEXT_PAGE) + NEXT_PAGE
        return replace(parsed, more=self._to(endpoint, following.url, following.params))

    def _natives(self, instruments: tuple[Instrument, ...]) -> dict[str, Instrument]:
        return {self.native_symbol(one): one for one in instruments if self.covers(one)}


def _in_path(native: str) -> str:
    return quote(native, safe=":")
