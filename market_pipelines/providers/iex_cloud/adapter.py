"""IEX Cloud: a JSON chart for days and for minutes, refusals in plain text, prices as traded beside restated ones.

The service itself was retired on 2024-08-31. At its old addresses nothing is asked, because every call made for
them has an address that leads nowhere. With `IEX_CLOUD_BASE_URL` any server that speaks the API can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, timedelta
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import CloseKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.frames import deliver, empty_outcome
from market_pipelines.providers.iex_cloud import charts, facts
from market_pipelines.providers.iex_cloud.refusals import (
    RETIRED,
    SCRAMBLED,
    from_a_retired_host,
    nothing,
    refusal,
    unreadable,
)
from market_pipelines.providers.intraday_frames import empty_intraday_outcome
from market_pipelines.providers.local_bars import deliver_priced, grouped, instants_of
from market_pipelines.providers.protocol import (
    Ability,
    ActionsQuery,
    Answer,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    ListingsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
)
from market_pipelines.providers.symbols import EXCHANGE_ZONES, Spelling
from market_pipelines.redaction import register_secret
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://cloud.iexapis.com/stable"
SANDBOX_ADDRESS = "https://sandbox.iexapis.com/stable"
RETIRED_DOMAINS = ("iexapis.com", "iex.cloud", "iextrading.com")
NOWHERE = "retired:"
"""The scheme of every call for a retired address: no server can be found behind it."""
TEST_TOKENS = ("Tpk_", "Tsk_")
VERSIONS = frozenset({"stable", "latest", "v1", "beta", "1.0"})
CHART_RANGES = ((5, "5d"), (27, "1m"), (88, "3m"), (180, "6m"), (364, "1y"), (729, "2y"), (1825, "5y"))
"""Days back that a range surely reaches, however short the months in it are."""
ACTION_RANGES = CHART_RANGES[1:]
WHOLE_HISTORY = "max"
LONGEST_ACTIONS = timedelta(days=1825)
"""Dividends and splits are to be had for five years."""
MOST_SYMBOLS = 100
CONSOLIDATED_DELAY = timedelta(minutes=20)
"""How late the trades of the other exchanges may come: 15 minutes by contract."""

Query = TypeVar("Query")
_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, pa.ArrowException)


class IexCloud:
    name = "iex_cloud"
    basis = Basis.TRADED
    close_kind = CloseKind.LAST_TRADE
    quota_zone = "UTC"

    _spelling = Spelling("iex_cloud", {"XNYS": ""}, lists_indices=False, share_class=".")

    def __init__(self, key: SecretStr | None, base_url: str = PUBLIC_ADDRESS, *, sandbox: bool = False) -> None:
        token = key.get_secret_value() if key is not None else ""
        if token:
            register_secret(token)
        self._key = key
        self.base_url = base_url.rstrip("/")
        self.retired = _is_retired(self.base_url)
        self.scrambled = sandbox or token.startswith(TEST_TOKENS)
        self.abilities: Mapping[Capability, Ability] = {
            Capability.INTRADAY: Ability(
                self.intraday_call,
                self._guarded(self._read_intraday),
                note="one call a session; trades of all exchanges where the server shows them; no extended hours",
                intervals=tuple(INTERVALS),
                days_a_call=1,
            ),
            Capability.QUOTE: Ability(self.quote_call, self._guarded(self._read_quote)),
            Capability.BULK_QUOTES: Ability(self.batch_call, self._guarded(self._read_batch), most=MOST_SYMBOLS),
            Capability.PROFILE: Ability(self.profile_call, self._guarded(self._read_profile)),
            Capability.ACTIONS: Ability(
                self.actions_call,
                self._guarded(self._read_actions),
                note="dividends, then splits; five years back",
            ),
            Capability.LISTINGS: Ability(
                self.listings_call, self._guarded(self._read_listings), note="as the list stands now"
            ),
        }

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        public = SANDBOX_ADDRESS if settings.iex_cloud_sandbox else PUBLIC_ADDRESS
        address = base_url or settings.iex_cloud_base_url or public
        return cls(settings.iex_cloud_api_key, address, sandbox=settings.iex_cloud_sandbox)

    def covers(self, instrument: Instrument) -> bool:
        return self._spelling.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return self._spelling.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return self._spelling.canonical(native, mic)

    def ready(self) -> str:
        if self.retired:
            return RETIRED
        return SCRAMBLED if self.scrambled else ""

    def daily_call(self, query: DailyQuery) -> Call:
        if query.start == query.end < query.today:
            path = f"chart/date/{query.start:%Y%m%d}"
            return self._about(query.instrument, "chart", path, {"chartByDay": "true"})
        return self._about(query.instrument, "chart", f"chart/{_range(query.start, query.today)}")

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        return self._guarded(self._read_daily)(answer, query)

    def intraday_call(self, query: IntradayQuery) -> Call:
        # chart/1d shows the same minutes without the trades of the other exchanges, and chartInterval leaves
        # minutes out instead of adding them up.
        return self._about(query.instrument, "chart/date", f"chart/date/{query.start:%Y%m%d}")

    def quote_call(self, query: QuoteQuery) -> Call:
        return self._about(query.instruments[0], "quote", "quote")

    def batch_call(self, query: QuoteQuery) -> Call:
        natives = ",".join(self.native_symbol(each) for each in query.instruments)
        return self._call("batch", "stock/market/batch", {"symbols": natives, "types": "quote"})

    def profile_call(self, query: ProfileQuery) -> Call:
        return self._about(query.instrument, "company", "company")

    def actions_call(self, query: ActionsQuery) -> Call:
        return self._about(query.instrument, "dividends", f"dividends/{_actions_range(query)}")

    def listings_call(self, _query: ListingsQuery) -> Call:
        return self._call("symbols", "ref-data/symbols", {})

    def _about(self, instrument: Instrument, endpoint: str, path: str, params: Mapping[str, str] | None = None) -> Call:
        symbol = quote(self.native_symbol(instrument), safe="")
        return self._call(endpoint, f"stock/{symbol}/{path}", params or {})

    def _call(self, endpoint: str, path: str, params: Mapping[str, str]) -> Call:
        if self.retired:
            return Call(provider=self.name, endpoint=endpoint, url=f"{NOWHERE}/{path}", params=params)
        versioned = self.base_url.rpartition("/")[2] in VERSIONS
        return Call(
            provider=self.name,
            endpoint=endpoint,
            url=f"{self.base_url}/{path}" if versioned else f"{self.base_url}/stable/{path}",
            params=params,
            secret_params={"token": self._key} if self._key is not None else {},
            secret_origin=self.base_url,
        )

    def _guarded(self, read: Callable[[Answer, Query], Parsed]) -> Callable[[Answer, Query], Parsed]:
        """What holds for every answer: nobody serves at a retired address, and scrambled numbers are no data."""

        def guarded(answer: Answer, query: Query) -> Parsed:
            if self.retired and from_a_retired_host(answer):
                return Parsed(Outcome.RETIRED, RETIRED)
            try:
                parsed = read(answer, query)
            except _UNREADABLE as error:
                parsed = unreadable(error)
            if self.scrambled and parsed.rows and not answer.simulated:
                return Parsed(Outcome.NOT_ENTITLED, SCRAMBLED)
            return parsed

        return guarded

    def _read_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        refused = refusal(answer, _range(query.start, query.today))
        if refused is not None:
            return refused
        if nothing(answer.body):
            return Parsed(empty_outcome(query, answer.received_at), f"no rows from {query.start} to {query.end}")
        table = charts.read_days(answer.body)
        return self._foreign(table.symbols, query.instrument) or deliver(query, answer, table.days, table.values)

    def _read_intraday(self, answer: Answer, query: IntradayQuery) -> Parsed:
        refused = refusal(answer, f"date/{query.start:%Y%m%d}")
        if refused is not None:
            return refused
        if nothing(answer.body):
            reason = f"no bars from {query.start} to {query.end}"
            return Parsed(empty_intraday_outcome(query, answer.received_at), reason)
        table = charts.read_minutes(answer.body)
        foreign = self._foreign(table.symbols, query.instrument)
        if foreign is not None:
            return foreign
        if table.sampled and query.interval != "1min":
            return malformed("minutes are left out (as chartInterval does), so that longer bars cannot be made")
        starts = instants_of(table.local, EXCHANGE_ZONES["XNYS"])
        settled = answer.received_at
        if table.awaited_from is not None and not np.isnat(starts[table.awaited_from]):
            since = pd.Timestamp(starts[table.awaited_from], tz="UTC").to_pydatetime()
            settled = since if since > settled - CONSOLIDATED_DELAY else settled
        reason = "" if table.consolidated else "IEX's own trades only: the answer shows no other exchange's"
        parsed = deliver_priced(replace(query, interval="1min"), answer, starts, table.values, reason=reason)
        return grouped(parsed, query, settled)

    def _read_quote(self, answer: Answer, query: QuoteQuery) -> Parsed:
        instrument = query.instruments[0]
        native = self.native_symbol(instrument)
        refused = refusal(answer)
        if refused is not None:
            return refused
        found = None if nothing(answer.body) else facts.quote_of(answer.body, instrument, native)
        if found is None:
            return Parsed(Outcome.EMPTY_UNEXPECTED, f"IEX has no price of {native}")
        return Parsed(Outcome.OK, records=(found,))

    def _read_batch(self, answer: Answer, query: QuoteQuery) -> Parsed:
        refused = refusal(answer)
        if refused is not None:
            return refused
        asked = {self.native_symbol(each).upper(): each for each in query.instruments}
        found, missing = ((), tuple(asked)) if nothing(answer.body) else facts.quotes_of(answer.body, asked)
        reason = one_line(f"IEX has no price of {', '.join(missing)}") if missing else ""
        return Parsed(Outcome.OK if found else Outcome.UNKNOWN_SYMBOL, reason, records=found)

    def _read_profile(self, answer: Answer, query: ProfileQuery) -> Parsed:
        native = self.native_symbol(query.instrument)
        refused = refusal(answer)
        if refused is not None:
            return refused
        if nothing(answer.body):
            return Parsed(Outcome.EMPTY_UNEXPECTED, f"IEX describes no company {native}")
        return Parsed(Outcome.OK, records=(facts.profile_of(answer.body, query.instrument, native),))

    def _read_actions(self, answer: Answer, query: ActionsQuery) -> Parsed:
        """Dividends lead on to splits; with both read, every action since the query's start is known."""
        asked = _actions_range(query)
        refused = refusal(answer, asked)
        if refused is not None:
            return refused
        native, left_out = self.native_symbol(query.instrument), ""
        empty = nothing(answer.body)
        if answer.endpoint == "splits":
            found = () if empty else facts.splits_of(answer.body, query.instrument, native)
            more = None
        else:
            found, left_out = ((), "") if empty else facts.dividends_of(answer.body, query.instrument, native)
            more = self._about(query.instrument, "splits", f"splits/{asked}")
        within = tuple(action for action in found if query.start <= action.ex_date <= query.today)
        return Parsed(
            Outcome.OK if within else Outcome.EMPTY_EXPECTED,
            one_line(f"left out: {left_out}") if left_out else ("" if within else f"none since {query.start}"),
            actions=within,
            actions_known=more is None and query.today - query.start <= LONGEST_ACTIONS,
            more=more,
        )

    def _read_listings(self, answer: Answer, query: ListingsQuery) -> Parsed:
        refused = refusal(answer)
        if refused is not None:
            return refused
        if query.on is not None and query.on < answer.received_at.astimezone(UTC).date() - timedelta(days=1):
            return Parsed(Outcome.EMPTY_UNEXPECTED, f"IEX shows its list of today only, not that of {query.on}")
        if query.mic not in self._spelling.suffixes:
            return Parsed(Outcome.EMPTY_EXPECTED, f"IEX lists nothing of {query.mic}")
        found = () if nothing(answer.body) else facts.listings_of(answer.body, active=query.active)
        if not found and query.active:
            return Parsed(Outcome.EMPTY_UNEXPECTED, "the list of symbols is empty")
        return Parsed(Outcome.OK if found else Outcome.EMPTY_EXPECTED, "" if found else "none", records=found)

    def _foreign(self, named: frozenset[str], instrument: Instrument) -> Parsed | None:
        native = self.native_symbol(instrument)
        other = sorted(symbol for symbol in named if symbol.upper() != native.upper())
        return malformed(f"asked for {native}, the answer is about {', '.join(other[:3])}") if other else None


def _is_retired(base_url: str) -> bool:
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    return any(host == domain or host.endswith(f".{domain}") for domain in RETIRED_DOMAINS)


def _range(start: date, today: date) -> str:
    """The shortest range that reaches back to `start`."""
    back = (today - start).days
    return next((name for days, name in CHART_RANGES if back <= days), WHOLE_HISTORY)


def _actions_range(query: ActionsQuery) -> str:
    back = (query.today - query.start).days
    return next((name for days, name in ACTION_RANGES if back <= days), ACTION_RANGES[-1][1])
