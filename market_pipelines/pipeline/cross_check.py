"""A second opinion: every day a few symbols are asked of another provider than the one whose bar was agreed on.

What it says is archived, judged and kept under its name like any answer, and settled like any answer: the market's
order of providers decides, and where two disagree that is stored. Never more is asked than the quota leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality import compare_providers
from market_pipelines.market.rotation import whose_turn
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.fetch import ProviderRun, ask
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import SymbolPull, keep_attempts
from market_pipelines.pipeline.quota import ProviderQuota, day_quota, provider_quotas
from market_pipelines.pipeline.results import logged_job, new_run_id
from market_pipelines.pipeline.settle import close_kinds, settle_daily
from market_pipelines.providers.protocol import Capability, DailyProvider, DailyQuery, abilities_of
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.disagreements import read_disagreements
from market_pipelines.store.read_bars import latest_sessions, read_prices, read_provider_bars

LOOK_BACK = timedelta(days=60)
"""A symbol about which providers disagree is asked for since its oldest disagreement, but not for longer."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one symbol's second opinion would take; or why there is none."""

    instrument: Instrument
    session: date
    leader: str | None
    """Whose bar was agreed on."""
    other: str | None
    """Who is asked."""
    start: date
    """The session, or the oldest one about which the two have disagreed."""
    calls: int = 0
    why_not: str = ""
    """Why nobody is asked; empty where somebody is."""
    said_already: bool = False
    """Nobody is asked because the other's bar is there."""

    @property
    def asks(self) -> bool:
        return not self.why_not


@dataclass(frozen=True, slots=True)
class Opinion:
    """How one symbol fared."""

    symbol: str
    session: date
    leader: str | None
    other: str | None
    outcome: str
    """agrees, disagrees, not comparable, not asked, or how the question ended."""
    reason: str
    requests: int = 0
    close: float | None = None
    other_close: float | None = None
    bp: float | None = None
    tolerance_bp: float | None = None


@dataclass(frozen=True)
class CrossCheck:
    market: str
    session: date
    run_id: str
    opinions: tuple[Opinion, ...]
    quota_left: Mapping[str, int | None]
    """By provider that could be asked, before anything was; None: no limit."""

    @property
    def requests(self) -> int:
        return sum(opinion.requests for opinion in self.opinions)

    @property
    def disagreeing(self) -> tuple[Opinion, ...]:
        return tuple(opinion for opinion in self.opinions if opinion.outcome == DISAGREES)


@dataclass(frozen=True)
class Agreement:
    """How far the providers of a market are from each other."""

    pairs: pd.DataFrame
    """`market.quality.cross.COMPARISON_COLUMNS`: whatever two of them delivered of the same bar."""
    unresolved: pd.DataFrame
    """As `store.disagreements.read_disagreements`."""

    def widest(self) -> list[float]:
        """The widest distance of two closes in each session, oldest first."""
        return [float(value) for value in self.pairs.groupby("session")["bp"].max()]


AGREES, DISAGREES, NOT_COMPARABLE, NOT_ASKED = "agrees", "disagrees", "not comparable", "not asked"


def newest_stored(platform: Platform, market: MarketDefinition) -> date | None:
    """The newest session of which there are agreed bars."""
    with platform.database.connection() as connection:
        found = [*latest_sessions(connection, market.name).values()]
        found += latest_sessions(connection, market.name, INDICES).values()
    return max(found, default=None)


def plan(
    platform: Platform,
    market: MarketDefinition,
    session: date | None = None,
    symbols: Sequence[str] = (),
) -> tuple[Question, ...]:
    """Who would be asked for what, by the rotation or for these symbols. Asks nobody and spends nothing."""
    day = session or newest_stored(platform, market)
    if day is None:
        return ()
    instruments = _sample(platform, market, day, symbols)
    quotas = provider_quotas(platform)
    left = quota_left(platform, quotas)
    names = [one.symbol for one in instruments]
    with platform.database.connection() as connection:
        agreed = pd.concat(
            [read_prices(connection, market.name, names, day, day, table=table) for table in (STOCKS, INDICES)],
            ignore_index=True,
        )
        delivered = read_provider_bars(connection, market.name, names, day, day)
        disputed = read_disagreements(connection, market.name, symbols=names, start=day - LOOK_BACK, end=day)
    questions = []
    for one in instruments:
        question = _question(platform, market, one, day, agreed, delivered, disputed)
        if question.asks and question.other is not None:
            question = _within_quota(question, quotas[question.other], left)
        questions.append(question)
    return tuple(questions)


def cross_check(
    platform: Platform,
    market: MarketDefinition,
    session: date | None = None,
    symbols: Sequence[str] = (),
    *,
    run_id: str | None = None,
    dagster_run_id: str | None = None,
) -> CrossCheck:
    """Asks, keeps and settles; twice on one day asks again only where providers disagree."""
    questions = plan(platform, market, session, symbols)
    day = questions[0].session if questions else session or platform.clock().date()
    left = quota_left(platform, provider_quotas(platform))
    run = run_id or new_run_id()
    names = [question.instrument.symbol for question in questions]
    opinions: dict[str, Opinion] = {}
    with logged_job(platform, f"{market.name}_cross_check", "cross_check", market, names, dagster_run_id) as job:
        by_provider: dict[str, list[Question]] = {}
        for question in questions:
            if question.asks and question.other is not None:
                by_provider.setdefault(question.other, []).append(question)
        for name, asked in by_provider.items():
            for opinion in _ask(platform, market, platform.providers[name], asked, run):
                opinions[opinion.symbol] = opinion
        compared = _compared(platform, market, questions, day)
        for question in questions:
            symbol = question.instrument.symbol
            opinions[symbol] = _opinion(question, opinions.get(symbol), compared.get(symbol))
        job.processed = sum(opinion.bp is not None for opinion in opinions.values())
        for opinion in opinions.values():
            if opinion.outcome not in (AGREES, DISAGREES, NOT_COMPARABLE, NOT_ASKED):
                job.fail(opinion.symbol, Outcome(opinion.outcome))
    return CrossCheck(market.name, day, run, tuple(opinions[name] for name in names), left)


def agreement(platform: Platform, market: MarketDefinition, start: date, end: date) -> Agreement:
    """Of all that is stored between two sessions, both included; open disagreements of any session."""
    with platform.database.connection() as connection:
        delivered = read_provider_bars(connection, market.name, (), start, end)
        unresolved = read_disagreements(connection, market.name)
    return Agreement(compare_providers(delivered, market.cross_check, close_kinds(platform)), unresolved)


def quota_left(platform: Platform, quotas: Mapping[str, ProviderQuota]) -> dict[str, int | None]:
    """What refreshes may still ask of each provider today, the reserve for quotes left out."""
    return {name: day_quota(platform, quota).left_for(Purpose.REFRESH) for name, quota in quotas.items()}


def _sample(platform: Platform, market: MarketDefinition, day: date, symbols: Sequence[str]) -> tuple[Instrument, ...]:
    """Those whose turn it is, of all that traded and that two providers of the chain list; or those that are named."""
    if symbols:
        return tuple(market.instrument(symbol) for symbol in dict.fromkeys(symbols))
    chain = platform.chain(market)
    universe = {
        one.symbol: one
        for one in market.everything
        if one.trades_on(day) and sum(provider.covers(one) for provider in chain) > 1
    }
    calendar = trading_calendar(market.mic, platform.clock())
    turn = int(np.searchsorted(calendar.days, np.datetime64(day, "D")))
    return tuple(universe[name] for name in whose_turn(list(universe), turn, market.cross_check.symbols_a_day))


def _question(
    platform: Platform,
    market: MarketDefinition,
    instrument: Instrument,
    day: date,
    agreed: pd.DataFrame,
    delivered: pd.DataFrame,
    disputed: pd.DataFrame,
) -> Question:
    mine = agreed.loc[agreed["symbol"] == instrument.symbol]
    if mine.empty:
        return Question(instrument, day, None, None, day, why_not=f"no bar of {day} is stored to compare with")
    leader = str(mine["provider"].iloc[0])
    if bool(mine["provisional"].iloc[0]):
        return Question(instrument, day, leader, None, day, why_not="its bar is still moving")
    others = _others(platform, market, instrument, house_name(leader))
    if not others:
        why = f"no provider besides {house_name(leader)} lists it and is ready"
        return Question(instrument, day, leader, None, day, why_not=why)
    other = others[0]
    quarrels = disputed.loc[disputed["symbol"] == instrument.symbol, "session"]
    start = min(quarrels.min().date(), day) if len(quarrels) else day
    question = Question(instrument, day, leader, other.name, start, calls=_calls(other, instrument, start, day))
    said = delivered.loc[(delivered["symbol"] == instrument.symbol) & ~delivered["provisional"], "provider"]
    if quarrels.empty and other.name in {house_name(str(name)) for name in said}:
        return replace(question, calls=0, why_not=f"{other.name} has said it already", said_already=True)
    return question


def _others(platform: Platform, market: MarketDefinition, instrument: Instrument, leader: str) -> list[DailyProvider]:
    """Who can be asked, from the one after the leader on."""
    chain = list(platform.chain(market))
    place = next((at for at, provider in enumerate(chain) if provider.name == leader), -1)
    return [
        provider
        for provider in (*chain[place + 1 :], *chain[: max(place, 0)])
        if provider.covers(instrument) and (platform.simulated or not provider.ready())
    ]


def _calls(provider: DailyProvider, instrument: Instrument, start: date, end: date) -> int:
    calls = abilities_of(provider)[Capability.DAILY].calls
    return 1 if calls is None else calls(DailyQuery(instrument, start, end, end))


def _within_quota(question: Question, quota: ProviderQuota, left: dict[str, int | None]) -> Question:
    """Takes the question's calls from what is left; where that is not enough, nobody is asked."""
    remaining = left[quota.provider]
    if remaining is None:
        return question
    if remaining < question.calls:
        day = quota.day
        why = f"the quota of {quota.provider} leaves {remaining} calls: {day.used} of {day.limit} are used today"
        if day.reserve:
            why += f" and the last {day.reserve} are kept for quotes"
        if day.resets_at is not None:
            why += f"; it begins anew at {day.resets_at:%Y-%m-%d %H:%M} UTC"
        return replace(question, why_not=why)
    left[quota.provider] = remaining - question.calls
    return question


def _ask(
    platform: Platform,
    market: MarketDefinition,
    provider: DailyProvider,
    questions: Sequence[Question],
    run_id: str,
) -> list[Opinion]:
    """One provider's opinions, one after the other: there are few, and nobody waits for them."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    today, run = calendar.local_date(now), ProviderRun(provider)
    opinions = []
    for question in questions:
        one = question.instrument
        query = DailyQuery(one, question.start, question.session, today)
        pull = SymbolPull(one, frozenset(_expected(calendar, question)))
        pull.attempts.append(ask(platform, run, query, run_id, Purpose.REFRESH))
        attempt = pull.attempts[-1]
        verdict = keep_attempts(platform, market, calendar, [pull], question.start, question.session, run_id)
        if len(verdict.clean):
            settle_daily(
                platform,
                market,
                [one],
                question.start,
                question.session,
                run_id=run_id,
                known_at=attempt.fetched_at or now,
            )
        reason = attempt.reason
        if attempt.outcome.delivered and verdict.rejected:
            reason = f"{verdict.rejected} rows went to quarantine"
        opinions.append(
            Opinion(
                one.symbol,
                question.session,
                question.leader,
                attempt.provider,
                attempt.outcome.value,
                reason,
                attempt.requests,
            )
        )
    return opinions


def _expected(calendar: TradingCalendar, question: Question) -> list[date]:
    return [day for day in calendar.sessions(question.start, question.session) if question.instrument.trades_on(day)]


def _compared(
    platform: Platform, market: MarketDefinition, questions: Sequence[Question], day: date
) -> dict[str, pd.DataFrame]:
    """By symbol, the pairs of the session."""
    names = [question.instrument.symbol for question in questions]
    if not names:
        return {}
    with platform.database.connection() as connection:
        delivered = read_provider_bars(connection, market.name, names, day, day)
    pairs = compare_providers(delivered, market.cross_check, close_kinds(platform))
    return {str(symbol): rows for symbol, rows in pairs.groupby("symbol")}


def _opinion(question: Question, asked: Opinion | None, pairs: pd.DataFrame | None) -> Opinion:
    """What came of a question: the two closes where both are there, and whether they agree."""
    opinion = asked or Opinion(
        question.instrument.symbol, question.session, question.leader, question.other, NOT_ASKED, question.why_not
    )
    known = question.said_already if asked is None else asked.outcome == Outcome.OK
    pair = _pair_of(question, pairs)
    if pair is None:
        unlike = known and not opinion.reason
        reason = "its prices are on another basis" if unlike else opinion.reason
        return replace(opinion, outcome=NOT_COMPARABLE if known else opinion.outcome, reason=reason)
    leads = house_name(str(pair["provider"])) == house_name(question.leader or "")
    breach = str(pair["breach"])
    return replace(
        opinion,
        outcome=(DISAGREES if breach else AGREES) if known else opinion.outcome,
        reason="; ".join(part for part in (breach, opinion.reason) if part),
        close=float(pair["close" if leads else "other_close"]),
        other_close=float(pair["other_close" if leads else "close"]),
        bp=float(pair["bp"]),
        tolerance_bp=float(pair["tolerance_bp"]),
    )


def _pair_of(question: Question, pairs: pd.DataFrame | None) -> Mapping[str, Any] | None:
    if pairs is None or question.leader is None or question.other is None:
        return None
    wanted = {house_name(question.leader), house_name(question.other)}
    for pair in pairs.to_dict("records"):
        if {house_name(pair["provider"]), house_name(pair["other"])} == wanted:
            return {str(name): value for name, value in pair.items()}
    return None
