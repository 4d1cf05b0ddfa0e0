"""All rules over stored data: what is there, handed in as values, and one finding for each rule that it allows.

Nothing here reads a store. What was not loaded is None, and the rules that need it are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import numpy as np
import pandas as pd

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.intraday import phased
from market_pipelines.market.quality.canon import RULES
from market_pipelines.market.quality.chains import CHAINS
from market_pipelines.market.quality.coverage import completeness, freshness, provider_outage, row_count
from market_pipelines.market.quality.evidence import BAR, LEAD_IN, Case, Evidence
from market_pipelines.market.quality.findings import Finding, count, finding
from market_pipelines.market.quality.history import HISTORY, live_bar_as_final, revision_size
from market_pipelines.market.quality.intraday import starts_of
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.minutes import (
    Minutes,
    bar_count,
    grid,
    intraday_completeness,
    intraday_freshness,
    minute_outage,
    roll_up,
    session_clock,
)
from market_pipelines.market.quality.reference import (
    Adjusted,
    adjusted_consistency,
    currency,
    dividend_not_applied,
    split_without_jump,
    symbol_continuity,
)
from market_pipelines.market.quality.rules import (
    ACTIONS,
    INDEX_PRICES,
    INSTRUMENTS,
    INTRADAY,
    LIVE_QUOTES,
    LIVE_TRADES,
    OPTIONS,
    STOCK_PRICES,
    Rule,
)
from market_pipelines.market.quality.streamed import STREAMED

__all__ = ["LEAD_IN", "Evidence", "examine", "rules_of"]


def rules_of(asset: str, market: MarketDefinition) -> tuple[Rule, ...]:
    """The rules that are asked of a table of this market, whether or not their evidence will be there."""
    return tuple(rule for rule in RULES if asset in rule.assets and rule.name not in market.quality.off)


def examine(evidence: Evidence) -> list[Finding]:
    """One finding for each rule that is asked of the table and whose evidence is there, in the rules' order."""
    answers = _ANSWERS[evidence.asset]
    case = Case(evidence)
    found = []
    with np.errstate(all="ignore"):  # what NaN and inf give in a comparison is itself a finding
        for rule in rules_of(evidence.asset, evidence.market):
            answer = answers[rule.name](case)
            if answer is not None:
                found.append(answer)
    return found


Answer = Callable[[Case], Finding | None]


def _of_verdict(name: str) -> Answer:
    def answer(case: Case) -> Finding | None:
        if case.verdict is None:
            return None
        refused, noted = case.verdict.quarantined, case.verdict.warnings
        rows = pd.concat([refused[refused["rule"] == name], noted[noted["rule"] == name]], ignore_index=True)
        rows = rows[~(rows["session"] < pd.Timestamp(case.evidence.start))]
        offending = rows[[*BAR[:-1], "severity", "detail"]]
        return finding(name, offending, case.judged, f"{count(offending, case.judged, 'bars')} {_BREACH}")

    return answer


def _of_intraday_verdict(name: str) -> Answer:
    def answer(case: Case) -> Finding | None:
        verdict = case.intraday_verdict
        if verdict is None or case.evidence.intraday is None:
            return None
        rows = verdict.quarantined[verdict.quarantined["rule"] == name]
        offending = rows[["symbol", "session", "ts", *BAR[2:-1], "severity", "detail"]]
        checked = len(case.evidence.intraday)
        return finding(name, offending, checked, f"{count(offending, checked, 'bars')} {_BREACH}")

    return answer


_BREACH = "break the rule"


def _of_past(name: str) -> Answer:
    return lambda case: None if case.past is None else HISTORY[name](case.past)


def _completeness(case: Case) -> Finding | None:
    if case.accounted_for is None:
        return None
    return completeness(case.accounted_for, *case.range, now=case.evidence.now, limits=case.limits)


def _freshness(case: Case) -> Finding | None:
    """A range in the past can be whole while today's bars are late: it is not asked."""
    evidence = case.evidence
    delay = timedelta(minutes=case.limits("freshness"))
    if case.accounted_for is None or evidence.end < evidence.calendar.last_closed(evidence.now - delay):
        return None
    return freshness(case.accounted_for, evidence.calendar, evidence.instruments, evidence.now, delay)


def _provider_outage(case: Case) -> Finding | None:
    if case.accounted_for is None:
        return None
    outcomes = case.evidence.outcomes
    return provider_outage(
        case.accounted_for, *case.range, now=case.evidence.now, outcomes=outcomes, limits=case.limits
    )


def _row_count(case: Case) -> Finding | None:
    if case.evidence.asset == INTRADAY:
        return None if case.minutes is None else bar_count(case.minutes)
    if case.accounted_for is None:
        return None
    return row_count(case.accounted_for, *case.range, now=case.evidence.now, limits=case.limits)


def _revision_size(case: Case) -> Finding | None:
    if case.evidence.revisions is None:
        return None
    return revision_size(case.evidence.revisions, case.evidence.start, case.limits)


def _live_bar_as_final(case: Case) -> Finding | None:
    evidence = case.evidence
    if evidence.asset == INTRADAY:
        if case.minutes is None or "ingested_at" not in case.minutes.bars:
            return None
        return live_bar_as_final(case.minutes.bars, case.minutes.ends)
    if evidence.bars is None or "ingested_at" not in evidence.bars:
        return None
    bars = evidence.bars.loc[(evidence.bars["session"] >= pd.Timestamp(evidence.start)).to_numpy(dtype=bool)]
    days = evidence.calendar.days
    at = np.minimum(np.searchsorted(days, bars["session"].to_numpy().astype("datetime64[D]")), len(days) - 1)
    return live_bar_as_final(bars, evidence.calendar.closes[at])


def _cross_provider(name: str, word: str) -> Answer:
    def answer(case: Case) -> Finding | None:
        pairs = case.comparisons
        if pairs is None:
            return None
        offending = pairs.loc[pairs["breach"].str.contains(word).to_numpy(dtype=bool)]
        told = (
            offending["bp"].map("{:.1f} bp apart".format)
            if word == "close"
            else offending["volume_share"].map("{:.1%} apart".format)
        )
        offending = offending.drop(columns="breach").assign(detail=told.astype("str"))
        said = f"{count(offending, len(pairs), 'pairs')} of providers' bars differ by too much"
        return finding(name, offending, len(pairs), said)

    return answer


def _session_membership(case: Case) -> Finding | None:
    bars = case.evidence.intraday
    if bars is None:
        return None
    inside = phased(bars[["ts"]].reset_index(drop=True), case.evidence.calendar).index
    outside = np.ones(len(bars), dtype=bool)
    outside[inside] = False
    offending = bars.loc[outside, ["symbol", "session", "ts"]].assign(detail="lies outside of the exchange's hours")
    return finding("session_membership", offending, len(bars), f"{count(offending, len(bars), 'bars')} {_BREACH}")


def _order(case: Case) -> Finding | None:
    bars = case.evidence.intraday
    if bars is None:
        return None
    code, _ = pd.factorize(bars["symbol"])
    by_symbol = np.argsort(code, kind="stable")
    stamps, code = starts_of(bars)[by_symbol], code[by_symbol]
    late = np.zeros(len(bars), dtype=bool)
    late[by_symbol[1:]] = (code[1:] == code[:-1]) & (stamps[1:] < stamps[:-1])
    offending = bars.loc[late, ["symbol", "session", "ts"]].assign(detail="comes after a later bar")
    return finding("order", offending, len(bars), f"{count(offending, len(bars), 'bars')} {_BREACH}")


def _of_minutes(answer: Callable[[Minutes], Finding | None]) -> Answer:
    return lambda case: None if case.minutes is None else answer(case.minutes)


def _intraday_completeness(case: Case) -> Finding | None:
    if case.minutes is None:
        return None
    return intraday_completeness(case.minutes, case.evidence.bars, case.evidence.excused)


def _roll_up(case: Case) -> Finding | None:
    if case.minutes is None or case.believable is None:
        return None
    return roll_up(case.minutes, case.believable)


def _split_without_jump(case: Case) -> Finding | None:
    return None if case.steps is None else split_without_jump(case.steps, case.series, case.limits)


def _of_adjusted(answer: Callable[[Sequence[Adjusted], Limits], Finding]) -> Answer:
    return lambda case: None if case.adjusted is None else answer(case.adjusted, case.limits)


def _currency(case: Case) -> Finding | None:
    return currency(case.evidence.instruments, case.evidence.former)


def _symbol_continuity(case: Case) -> Finding | None:
    evidence = case.evidence
    return symbol_continuity(evidence.instruments, evidence.former, case.believable, evidence.start, case.limits)


_DAILY: Mapping[str, Answer] = {
    **{rule.name: _of_verdict(rule.name) for rule in RULES if rule.scope.judged},
    "completeness": _completeness,
    "freshness": _freshness,
    "provider_outage": _provider_outage,
    "live_bar_as_final": _live_bar_as_final,
    **{name: _of_past(name) for name in HISTORY},
    "revision_size": _revision_size,
    "row_count": _row_count,
    "cross_provider_close": _cross_provider("cross_provider_close", "close"),
    "cross_provider_volume": _cross_provider("cross_provider_volume", "volume"),
}
_WITHIN_SESSIONS: Mapping[str, Answer] = {
    **{rule.name: _of_intraday_verdict(rule.name) for rule in RULES if rule.scope.judged},
    "session_membership": _session_membership,
    "order": _order,
    "live_bar_as_final": _live_bar_as_final,
    "row_count": _row_count,
    "grid": _of_minutes(grid),
    "session_clock": _of_minutes(session_clock),
    "intraday_completeness": _intraday_completeness,
    "minute_outage": _of_minutes(minute_outage),
    "intraday_freshness": _of_minutes(intraday_freshness),
    "roll_up": _roll_up,
}
_ABOUT_ACTIONS: Mapping[str, Answer] = {
    "split_without_jump": _split_without_jump,
    "dividend_not_applied": _of_adjusted(dividend_not_applied),
    "adjusted_consistency": _of_adjusted(adjusted_consistency),
}
_ABOUT_INSTRUMENTS: Mapping[str, Answer] = {"currency": _currency, "symbol_continuity": _symbol_continuity}
_ANSWERS: Mapping[str, Mapping[str, Answer]] = {
    STOCK_PRICES: _DAILY,
    INDEX_PRICES: _DAILY,
    INTRADAY: _WITHIN_SESSIONS,
    ACTIONS: _ABOUT_ACTIONS,
    INSTRUMENTS: _ABOUT_INSTRUMENTS,
    LIVE_QUOTES: STREAMED,
    LIVE_TRADES: STREAMED,
    OPTIONS: CHAINS,
}
