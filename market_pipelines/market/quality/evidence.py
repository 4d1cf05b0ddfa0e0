"""What the rules over stored data may look at, and what several of them work out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property

import pandas as pd

from market_pipelines.market.actions import Basis, CorporateAction
from market_pipelines.market.bars import DEGRADED
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality.coverage import days_between
from market_pipelines.market.quality.cross import compare_providers
from market_pipelines.market.quality.history import Past
from market_pipelines.market.quality.intraday import IntradayVerdict, judge_intraday
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.minutes import (
    Minutes,
)
from market_pipelines.market.quality.reference import (
    Adjusted,
    Steps,
    beside,
    steps_of,
)
from market_pipelines.market.quality.sheet import Circumstances, Sheet
from market_pipelines.market.quality.verdict import Verdict, judge
from market_pipelines.market.sessions import TradingCalendar

LEAD_IN = 80
"""How many sessions before the first judged one the rules that look back may need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the rules over stored data may look at; what was not loaded is None and its rules are not asked."""

    market: MarketDefinition
    asset: str
    """One of `rules.ASSETS`."""
    calendar: TradingCalendar
    instruments: Sequence[Instrument]
    start: date
    end: date
    """What is judged, both included."""
    now: datetime
    bars: pd.DataFrame | None = None
    """Agreed bars from `LEAD_IN` sessions before `start` on; those before `start` serve comparison only."""
    provider_bars: pd.DataFrame | None = None
    intraday: pd.DataFrame | None = None
    """Bars of the range within sessions, with `session` and `phase`."""
    actions: Sequence[CorporateAction] = ()
    revisions: pd.DataFrame | None = None
    """Superseded final versions: symbol, session, close, old_close, volume, old_volume, known_to."""
    outcomes: Mapping[str, Mapping[str, Outcome]] | None = None
    """By provider and symbol, how the last attempts ended."""
    excused: pd.DataFrame | None = None
    """Symbol and session of bars that are known not to exist."""
    former: Sequence[Instrument] = ()
    """The instruments as they were before the newest market file; empty where that is unknown."""
    ticks: pd.DataFrame | None = None
    """`streamed.COUNTED` and so on: how many ticks of each session, kind and symbol there are, and are marked."""
    gaps: pd.DataFrame | None = None
    """What streams have missed and nobody has filled: stream, cause, status, reason, symbols, begins_at, ends_at."""
    contracts: pd.DataFrame | None = None
    """Of options: contract, underlying, right, strike, expires, shares, provider, and as `session` the day on which
    it was last seen."""
    option_quotes: pd.DataFrame | None = None
    """The same with last, bid, ask, open_interest, as `session` the day of the quote, and the underlying's `close`."""


BAR = ("symbol", "session", "open", "high", "low", "close", "volume", "provisional")
"""What is judged of a stored bar."""


class Case:
    """The evidence, and what several rules work out of it."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.limits = Limits(evidence.market.quality.thresholds, evidence.market.quality.off)

    @property
    def range(self) -> tuple[TradingCalendar, Sequence[Instrument], date, date]:
        evidence = self.evidence
        return evidence.calendar, evidence.instruments, evidence.start, evidence.end

    @cached_property
    def believable(self) -> pd.DataFrame | None:
        """Bars at prices as traded that no other provider disputes."""
        bars = self.evidence.bars
        if bars is None or "condition" not in bars:
            return bars
        return bars.loc[(bars["condition"] != DEGRADED).to_numpy(dtype=bool)]

    @cached_property
    def accounted_for(self) -> pd.DataFrame | None:
        """Symbol and session of the stored bars and of those that are known not to exist."""
        bars, excused = self.evidence.bars, self.evidence.excused
        if bars is None or excused is None or excused.empty:
            return bars
        keys = ["symbol", "session", "provisional"]
        known = excused[["symbol", "session"]].drop_duplicates().assign(provisional=False)
        known = known.astype({"session": bars["session"].dtype, "symbol": bars["symbol"].dtype})
        return pd.concat([bars[keys], known], ignore_index=True)

    @cached_property
    def verdict(self) -> Verdict | None:
        if self.believable is None:
            return None
        evidence = self.evidence
        return judge(
            self.believable[list(BAR)],
            evidence.calendar,
            evidence.instruments,
            evidence.now,
            actions=evidence.actions,
            thresholds=evidence.market.quality.thresholds,
            off=evidence.market.quality.off,
        )

    @cached_property
    def past(self) -> Past | None:
        if self.verdict is None:
            return None
        evidence = self.evidence
        circumstances = Circumstances(
            evidence.calendar,
            {one.symbol: one for one in evidence.instruments},
            evidence.now,
            {},
            tuple(evidence.actions),
            self.limits,
        )
        final = self.verdict.clean.loc[~self.verdict.clean["provisional"].to_numpy(dtype=bool)]
        return Past(Sheet(final, circumstances), evidence.start)

    @cached_property
    def judged(self) -> int:
        """Rows that findings may be about."""
        bars = self.evidence.bars
        return 0 if bars is None else int((bars["session"] >= pd.Timestamp(self.evidence.start)).sum())

    @cached_property
    def comparisons(self) -> pd.DataFrame | None:
        evidence = self.evidence
        if evidence.provider_bars is None:
            return None
        judged = evidence.provider_bars["session"] >= pd.Timestamp(evidence.start)
        return compare_providers(evidence.provider_bars.loc[judged.to_numpy(dtype=bool)], evidence.market.cross_check)

    @cached_property
    def steps(self) -> Steps | None:
        if self.believable is None:
            return None
        return steps_of(self.believable, self.evidence.actions, self.evidence.start)

    @cached_property
    def series(self) -> list[tuple[str, Basis, Steps]]:
        """The steps of each provider's bars, by what the provider has done to its prices."""
        bars, evidence = self.evidence.provider_bars, self.evidence
        if bars is None:
            return []
        return [
            (str(provider), Basis(str(basis)), steps_of(rows, evidence.actions, evidence.start))
            for (provider, basis), rows in bars.groupby(["provider", "basis"], sort=True, observed=True)
        ]

    @cached_property
    def adjusted(self) -> list[Adjusted] | None:
        if self.steps is None or self.evidence.provider_bars is None:
            return None
        return [
            beside(name, basis, steps, self.steps) for name, basis, steps in self.series if basis is not Basis.TRADED
        ]

    @cached_property
    def minutes(self) -> Minutes | None:
        evidence = self.evidence
        if evidence.intraday is None or evidence.market.intraday is None:
            return None
        days = days_between(evidence.calendar, evidence.start, evidence.end)
        return Minutes.of(
            evidence.intraday,
            evidence.calendar,
            evidence.instruments,
            evidence.market.intraday,
            days,
            evidence.now,
            self.limits,
        )

    @cached_property
    def intraday_verdict(self) -> IntradayVerdict | None:
        evidence = self.evidence
        if evidence.intraday is None or evidence.market.intraday is None:
            return None
        return judge_intraday(
            evidence.intraday[list(INTRADAY_COLUMNS)],
            evidence.market.intraday.interval,
            evidence.calendar,
            evidence.instruments,
            evidence.now,
            thresholds=evidence.market.quality.thresholds,
            off=evidence.market.quality.off,
        )
