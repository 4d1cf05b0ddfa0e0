"""What several providers say about splits and dividends, made into one list, with what they contradict each other in.

Two claims are one action when they are of the same kind and date, or a session apart with the same value. A provider
that would have shown an action and does not, denies it. Pure: who is asked, and where the claims are kept, is not
decided here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import pairwise
from math import isclose

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.consensus import house_name

SPLIT_TOLERANCE = 1e-3
"""Relative: 1046 for 1000 in one answer is 1.046 in another."""
DIVIDEND_TOLERANCE = 0.02
"""Relative: providers round to cents, and restate old dividends from amounts divided by later splits."""
DIVIDEND_ROUNDING = 5e-4


class Problem(StrEnum):
    UNCONFIRMED = "unconfirmed"
    """Another provider would have shown it, and does not."""
    VALUE = "value"
    EX_DATE = "ex_date"


@dataclass(frozen=True, slots=True)
class Claim:
    provider: str
    action: CorporateAction


@dataclass(frozen=True, slots=True)
class Shown:
    """Between these dates a provider has shown every action of a symbol."""

    symbol: str
    provider: str
    start: date
    end: date


@dataclass(frozen=True, slots=True)
class Agreed:
    action: CorporateAction
    provider: str
    """Whose value and date were taken."""
    claimed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Flag:
    symbol: str
    ex_date: date
    kind: ActionKind
    problem: Problem
    used: bool
    """Whether the action counts nevertheless."""
    detail: str
    claimed_by: tuple[str, ...]
    denied_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconciled:
    agreed: tuple[Agreed, ...]
    flags: tuple[Flag, ...]


Standing = Mapping[tuple[str, date, ActionKind], tuple[str, float]]
"""What is agreed on so far: (provider, value) by symbol, ex-date and kind."""


def combined(actions: Iterable[CorporateAction]) -> tuple[CorporateAction, ...]:
    """One action a symbol, date and kind: dividends add up, splits follow each other."""
    values: dict[tuple[str, date, ActionKind], float] = {}
    for action in actions:
        key = (action.symbol, action.ex_date, action.kind)
        if key not in values:
            values[key] = action.value
        elif action.kind is ActionKind.SPLIT:
            values[key] *= action.value
        else:
            values[key] += action.value
    return tuple(CorporateAction(*key, value) for key, value in sorted(values.items()))


def reconcile(
    claims: Iterable[Claim],
    shown: Iterable[Shown],
    order: Sequence[str],
    sessions: Sequence[date],
    standing: Standing | None = None,
) -> Reconciled:
    """`order` are the market's providers, the first one first; `sessions` its exchange's days, oldest first.

    What stands stays as it is as long as its provider still says it and no more others say something else. Of
    providers that contradict each other the more count, and of as many the side of the one that comes first.
    """
    rank = {name: place for place, name in enumerate(order)}
    judge = _Judge(rank, standing or {}, {})
    for one in shown:
        judge.shown.setdefault(one.symbol, []).append(one)
    groups: dict[tuple[str, ActionKind], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.action.symbol, claim.action.kind), []).append(claim)
    agreed: list[Agreed] = []
    flags: list[Flag] = []
    for key in sorted(groups):
        for cluster in _clusters(groups[key], sessions):
            taken, found = judge.decide(cluster)
            if taken is not None:
                agreed.append(taken)
            flags.extend(found)
    return Reconciled(tuple(agreed), tuple(sorted(flags)))


def alike(one: CorporateAction, other: CorporateAction) -> bool:
    """Whether two values of the same kind differ by no more than rounding."""
    if one.kind is ActionKind.SPLIT:
        return isclose(one.value, other.value, rel_tol=SPLIT_TOLERANCE)
    return isclose(one.value, other.value, rel_tol=DIVIDEND_TOLERANCE, abs_tol=DIVIDEND_ROUNDING)


def _clusters(claims: Sequence[Claim], sessions: Sequence[date]) -> list[list[Claim]]:
    """Claims of one action together. Dates come first: only what is then left alone is compared across a session."""
    by_date: dict[date, list[Claim]] = {}
    for claim in claims:
        by_date.setdefault(claim.action.ex_date, []).append(claim)
    clusters = [by_date[day] for day in sorted(by_date)]
    for at in range(len(clusters) - 1, 0, -1):
        earlier, later = clusters[at - 1], clusters[at]
        if _one_action(earlier, later, sessions):
            clusters[at - 1 : at + 1] = [[*earlier, *later]]
    return clusters


def _one_action(earlier: Sequence[Claim], later: Sequence[Claim], sessions: Sequence[date]) -> bool:
    strangers = {claim.provider for claim in earlier}.isdisjoint(claim.provider for claim in later)
    first, last = earlier[0].action, later[-1].action
    apart = bisect_left(sessions, last.ex_date) - bisect_left(sessions, first.ex_date)
    return strangers and apart <= 1 and all(alike(one.action, two.action) for one in earlier for two in later)


@dataclass(frozen=True, slots=True)
class _Judge:
    rank: Mapping[str, int]
    standing: Standing
    shown: dict[str, list[Shown]]

    def decide(self, cluster: Sequence[Claim]) -> tuple[Agreed | None, list[Flag]]:
        ordered = sorted(cluster, key=lambda claim: self._place(claim.provider))
        claimers = tuple(claim.provider for claim in ordered)
        best = max(ordered, key=lambda claim: (self._support(claim, ordered), self._stands(claim)))
        deniers = self._deniers(ordered)
        used = not deniers or (len(claimers), self._first(claimers, deniers)) > (len(deniers), False)
        flags = []
        if deniers:
            flags.append(
                _flag(
                    best,
                    Problem.UNCONFIRMED,
                    used,
                    _unconfirmed(ordered, deniers),
                    claimers,
                    [d.provider for d in deniers],
                )
            )
        if any(not alike(best.action, claim.action) for claim in ordered):
            flags.append(_flag(best, Problem.VALUE, used, _listed(ordered), claimers))
        if any(one.action.ex_date != two.action.ex_date for one, two in pairwise(ordered)):
            flags.append(_flag(best, Problem.EX_DATE, used, _listed(ordered), claimers))
        return (Agreed(best.action, best.provider, claimers) if used else None), flags

    def _place(self, provider: str) -> tuple[int, str]:
        return self.rank.get(house_name(provider), len(self.rank)), provider

    def _first(self, claimers: Sequence[str], deniers: Sequence[Shown]) -> bool:
        return min(map(self._place, claimers)) < min(self._place(denier.provider) for denier in deniers)

    def _support(self, claim: Claim, cluster: Sequence[Claim]) -> int:
        return sum(
            other.action.ex_date == claim.action.ex_date and alike(other.action, claim.action) for other in cluster
        )

    def _stands(self, claim: Claim) -> bool:
        action = claim.action
        return self.standing.get((action.symbol, action.ex_date, action.kind)) == (claim.provider, action.value)

    def _deniers(self, cluster: Sequence[Claim]) -> list[Shown]:
        """Who covers the days of the action and more, and does not have it. On the last covered day a provider may
        just not have it yet."""
        days = [claim.action.ex_date for claim in cluster]
        claimers = {claim.provider for claim in cluster}
        covering = [
            one
            for one in self.shown.get(cluster[0].action.symbol, [])
            if one.provider not in claimers and one.start <= min(days) and max(days) < one.end
        ]
        return sorted(covering, key=lambda one: self._place(one.provider))


def _flag(
    claim: Claim, problem: Problem, used: bool, detail: str, claimed_by: Sequence[str], denied_by: Sequence[str] = ()
) -> Flag:
    action = claim.action
    return Flag(action.symbol, action.ex_date, action.kind, problem, used, detail, tuple(claimed_by), tuple(denied_by))


def _listed(cluster: Sequence[Claim]) -> str:
    return "; ".join(
        f"{claim.provider}: {claim.action.value:g} on {claim.action.ex_date}"
        f"{', which is a spin-off rather than a split' if claim.action.odd_ratio else ''}"
        for claim in cluster
    )


def _unconfirmed(cluster: Sequence[Claim], deniers: Sequence[Shown]) -> str:
    denied = "; ".join(f"{one.provider} shows {one.start} to {one.end} without it" for one in deniers)
    return f"{_listed(cluster)}; {denied}"
