"""What every provider adapter has to be, and the values that pass between it and the house.

An adapter turns a question into a `Call` and an `Answer` into a `Parsed`. Both are pure functions: the same
bytes give the same rows for ever, which is what makes the raw archive worth keeping. A provider offers what its
`abilities` name; daily bars are the one thing that every provider has to offer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Protocol

import pandas as pd
from pydantic import SecretStr

from market_pipelines.market.actions import Basis, CorporateAction
from market_pipelines.market.consensus import CloseKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Right, TickKind


class Capability(StrEnum):
    DAILY = "daily"
    INTRADAY = "intraday"
    GROUPED_DAILY = "grouped_daily"
    QUOTE = "quote"
    BULK_QUOTES = "bulk_quotes"
    PROFILE = "profile"
    ACTIONS = "actions"
    LISTINGS = "listings"
    SEARCH = "search"
    MARKET_STATUS = "market_status"
    OPTIONS = "options"
    TRADES = "trades"
    QUOTES_HISTORY = "quotes_history"
    SECONDS = "seconds"
    """Bars of a second."""


@dataclass(frozen=True, slots=True)
class DailyQuery:
    """Daily bars of one instrument, both ends included."""

    instrument: Instrument
    start: date
    end: date
    today: date
    """The exchange's date when the question is asked."""


@dataclass(frozen=True, slots=True)
class IntradayQuery:
    """Bars within the sessions from `start` to `end`, both included."""

    instrument: Instrument
    interval: str
    """One of `market.intraday.INTERVALS`."""
    start: date
    end: date
    today: date
    extended: bool = False
    """Before the opening and after the closing bell as well."""


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """The daily bars of everything on one exchange for one session."""

    instruments: tuple[Instrument, ...]
    """Whose rows are wanted; the rest of the answer is passed over."""
    session: date
    today: date


@dataclass(frozen=True, slots=True)
class QuoteQuery:
    """One instrument for `QUOTE`; up to the ability's `most` for `BULK_QUOTES`."""

    instruments: tuple[Instrument, ...]


@dataclass(frozen=True, slots=True)
class ProfileQuery:
    instrument: Instrument


@dataclass(frozen=True, slots=True)
class ActionsQuery:
    """Splits and dividends with ex-dates from `start` to today."""

    instrument: Instrument
    start: date
    today: date


@dataclass(frozen=True, slots=True)
class ListingsQuery:
    mic: str
    active: bool = True
    on: date | None = None
    """As the list stood then; None: now."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    text: str


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """The state of the provider's venues now, or with `upcoming` their next holidays."""

    upcoming: bool = False


@dataclass(frozen=True, slots=True)
class OptionsQuery:
    """Contracts on one underlying that expire between two dates, both included."""

    underlying: Instrument
    today: date
    expires_from: date | None = None
    expires_to: date | None = None
    right: Right | None = None
    """None: calls and puts."""


@dataclass(frozen=True, slots=True)
class TicksQuery:
    """Trades or quotes with `start` <= feed time < `end`; of `AGGREGATES` the bars of a second that start then."""

    instrument: Instrument
    kind: TickKind
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Call:
    """One GET request. Secrets travel apart from the rest, so that everything else may be written down."""

    provider: str
    endpoint: str
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_params: Mapping[str, SecretStr] = field(default_factory=dict)
    secret_origin: str = ""
    """`scheme://host[:port]` that the secrets are meant for, from the settings and never from an answer.
    They are sent nowhere else, wherever `url` points."""
    secret_headers: Mapping[str, SecretStr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` 0 means that no complete answer arrived; `failure` then says why."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names in lower case."""
    received_at: datetime
    seconds: float
    failure: str = ""
    endpoint: str = ""
    """Of the call that it answers."""
    sent: bool = True
    """False where the request certainly never left: nobody can have counted it."""

    @property
    def simulated(self) -> bool:
        return self.headers.get("x-simulated-by", "") != ""


@dataclass(frozen=True, slots=True)
class Parsed:
    outcome: Outcome
    reason: str = ""
    """For a person: what the provider said, in one line, without secrets."""
    bars: pd.DataFrame | None = None
    """Rows. Of daily bars `market.bars.BAR_COLUMNS`, oldest first, only sessions of the query, one row a session
    unless the body contradicted itself: then all its versions, for the quality rules to refuse. Of intraday bars
    and seconds `market.intraday.INTRADAY_COLUMNS`, of ticks `market.records.TRADE_COLUMNS` or `QUOTE_COLUMNS`."""
    records: tuple[Any, ...] = ()
    """Of `market.records`: quotes, profiles, listings, matches, venues or option contracts."""
    actions: tuple[CorporateAction, ...] = ()
    actions_known: bool = False
    """The body would have shown every corporate action from the query's start until it was sent."""
    retry_after: float | None = None
    """Seconds, where the provider named them."""
    more: Call | None = None
    """The conversation goes on: a next page, or what had to be asked first. Its rows add to these."""
    basis: Basis | None = None
    """Of these bars, where the body itself says that it is not the one of the ability."""
    vwap: pd.Series | None = None
    """Of intraday bars and seconds, row by row, where the body tells the mean price by volume."""

    @property
    def rows(self) -> int:
        return len(self.records) + len(self.actions) if self.bars is None else len(self.bars)


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that a provider offers: how to ask for it, and how to read the answer."""

    call: Callable[[Any], Call]
    read: Callable[[Answer, Any], Parsed]
    note: str = ""
    """What a person should know: a plan that it needs, how far back it goes."""
    basis: Basis | None = None
    """Of bars, where it differs from the provider's daily ones."""
    intervals: tuple[str, ...] = ()
    """Of intraday bars."""
    most: int = 1
    """Instruments that one call may name."""
    calls: Callable[[Any], int] | None = None
    """How many calls a question takes at least, where that can be told beforehand and is not one."""
    days_a_call: int = 0
    """Of intraday bars: calendar days that one question may span; 0: any number."""
    days_back: int = 0
    """Of intraday bars: how old they may be; 0: any age. Longer intervals may reach further: see `reach`."""
    reach: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(days_a_call, days_back) by interval, where they depend on it."""


class DailyProvider(Protocol):
    """One that knows which close its daily bars end with has an attribute `close_kind`, a
    `market.consensus.CloseKind`: bars of the same kind of close are compared more strictly."""

    name: str
    basis: Basis
    """The basis of the bars that `parse_daily` delivers, after undoing what the body lets it undo."""

    def covers(self, instrument: Instrument) -> bool:
        """Whether the provider lists the instrument's exchange at all."""
        ...

    def native_symbol(self, instrument: Instrument) -> str: ...

    def canonical_symbol(self, native: str, mic: str) -> str: ...

    def ready(self) -> str:
        """Empty when it can be asked; otherwise what is missing, for a person (a key, a base URL). One that will never
        be ready again has an attribute `retired` that is true."""
        ...

    def daily_call(self, query: DailyQuery) -> Call: ...

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed: ...


def abilities_of(provider: DailyProvider) -> Mapping[Capability, Ability]:
    """Everything that a provider offers. One that names no `abilities` offers daily bars."""
    daily = Ability(provider.daily_call, provider.parse_daily, basis=provider.basis)
    named: Mapping[Capability, Ability] = getattr(provider, "abilities", {})
    return {Capability.DAILY: daily, **named}


def close_kind_of(provider: DailyProvider) -> CloseKind | None:
    """None: nobody knows."""
    kind: CloseKind | None = getattr(provider, "close_kind", None)
    return kind
