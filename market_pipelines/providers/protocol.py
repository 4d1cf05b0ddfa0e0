"""What every provider adapter has to be, and the values that pass between it and the house.

An adapter turns a question into a `Call` and an `Answer` into a `Parsed`. Both are pure functions: the same
bytes give the same rows for ever, which is what makes the raw archive worth keeping.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

import pandas as pd
from pydantic import SecretStr

from market_pipelines.market.actions import Basis, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class DailyQuery:
    """Daily bars of one instrument, both ends included."""

    instrument: Instrument
    start: date
    end: date
    today: date
    """The exchange's date when the question is asked."""


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

    @property
    def simulated(self) -> bool:
        return self.headers.get("x-simulated-by", "") != ""


@dataclass(frozen=True, slots=True)
class Parsed:
    outcome: Outcome
    reason: str = ""
    """For a person: what the provider said, in one line, without secrets."""
    bars: pd.DataFrame | None = None
    """`market.bars.BAR_COLUMNS`, oldest first, only sessions of the query. One row a session, unless the body
    contradicted itself: then all its versions, for the quality rules to refuse."""
    actions: tuple[CorporateAction, ...] = ()
    actions_known: bool = False
    """The body would have shown every corporate action from the query's start until it was sent."""
    retry_after: float | None = None
    """Seconds, where the provider named them."""


class DailyProvider(Protocol):
    name: str
    basis: Basis
    """The basis of the bars that `parse_daily` delivers, after undoing what the body lets it undo."""

    def covers(self, instrument: Instrument) -> bool:
        """Whether the provider lists the instrument's exchange at all."""
        ...

    def native_symbol(self, instrument: Instrument) -> str: ...

    def canonical_symbol(self, native: str, mic: str) -> str: ...

    def ready(self) -> str:
        """Empty when it can be asked; otherwise what is missing, for a person (a key, a base URL)."""
        ...

    def daily_call(self, query: DailyQuery) -> Call: ...

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed: ...
