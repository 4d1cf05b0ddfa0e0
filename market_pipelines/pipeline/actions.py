"""Corporate actions into the store: out of the answers that a pull of bars brought, or asked for by themselves.

A pull's answers come from the archive, so that the same bytes can be read again without a network. Whatever the
way, providers are reconciled in one place, `reconcile`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from market_pipelines.market.actions import CorporateAction
from market_pipelines.market.claims import Flag
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.each import Progress, ask_all_of_chain
from market_pipelines.pipeline.fetch import Attempt, Delivered, ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import PullReport
from market_pipelines.pipeline.reconcile import Statement, reconcile_actions
from market_pipelines.pipeline.replay import ArchivedAnswer, archived_answers
from market_pipelines.providers.protocol import ActionsQuery, Capability, DailyProvider
from market_pipelines.store.upsert import WriteCounts


@dataclass(frozen=True)
class ActionsReport:
    counts: WriteCounts
    actions: tuple[CorporateAction, ...]
    answers: int
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class ActionsPull:
    symbols: Mapping[str, Delivered]
    """How each fared; the attempts hold what every provider said."""
    counts: WriteCounts
    flags: tuple[Flag, ...]


def collect_actions(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], run_id: str | None
) -> ActionsReport:
    """Stores the actions in the answers of a run, or in the newest archived answers where the run has none."""
    statements = [
        Statement(
            answer.fetch.symbol,
            answer.fetch.provider,
            answer.parsed.actions,
            answer.fetch.fetched_at,
            answer.query.start,
        )
        for answer in _answers(platform, market, instruments, run_id)
        if answer.parsed.actions_known
    ]
    result = reconcile_actions(platform, market, statements)
    seen = tuple(action for one in statements for action in one.actions)
    return ActionsReport(result.counts, seen, len(statements), result.flags)


def pulled_actions(platform: Platform, market: MarketDefinition, pulled: PullReport) -> ActionsReport:
    """As `collect_actions` for answers that are still at hand: nothing is read from the archive."""
    statements = [
        Statement(attempt.symbol, attempt.provider, attempt.parsed.actions, attempt.fetched_at, pulled.start)
        for pull in pulled.symbols
        for attempt in pull.attempts
        if attempt.parsed is not None and attempt.parsed.actions_known and attempt.fetched_at is not None
    ]
    result = reconcile_actions(platform, market, statements)
    seen = tuple(action for one in statements for action in one.actions)
    return ActionsReport(result.counts, seen, len(statements), result.flags)


def pull_actions(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    *,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
) -> ActionsPull:
    """Asks every provider that offers them, not only the first: what one says is checked against the others."""
    today = trading_calendar(market.mic, platform.clock()).local_date(platform.clock())
    asked = ask_all_of_chain(
        platform,
        market,
        Capability.ACTIONS,
        instruments,
        lambda provider, instrument: ActionsQuery(instrument, start, today) if provider.covers(instrument) else None,
        purpose=Purpose.REFRESH,
        run_id=run_id,
        providers=providers,
        progress=progress,
    )
    statements = [
        Statement(
            symbol,
            attempt.provider,
            attempt.parsed.actions,
            attempt.fetched_at,
            start if attempt.parsed.actions_known and attempt.outcome.delivered else None,
        )
        for symbol, delivered in asked.items()
        for attempt in delivered.attempts
        if attempt.parsed is not None and attempt.fetched_at is not None
    ]
    result = reconcile_actions(platform, market, statements)
    return ActionsPull(asked, result.counts, result.flags)


def ask_actions(
    platform: Platform,
    run: ProviderRun,
    market: MarketDefinition,
    instrument: Instrument,
    start: date,
    today: date,
    run_id: str,
    purpose: Purpose,
) -> Attempt:
    """Asks one provider for one symbol's actions since `start` and stores them: prices that it has adjusted can
    only be turned back with all of them at hand."""
    attempt = converse(
        platform,
        run,
        Capability.ACTIONS,
        ActionsQuery(instrument, start, today),
        purpose=purpose,
        run_id=run_id,
        market=market.name,
        symbol=instrument.symbol,
        start=start,
        end=today,
    )
    if attempt.parsed is not None and attempt.fetched_at is not None and attempt.outcome.delivered:
        since = start if attempt.parsed.actions_known else None
        said = Statement(instrument.symbol, attempt.provider, attempt.parsed.actions, attempt.fetched_at, since)
        reconcile_actions(platform, market, [said])
    return attempt


def _answers(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], run_id: str | None
) -> Iterator[ArchivedAnswer]:
    answers = list(archived_answers(platform, market, instruments, run_id=run_id)) if run_id else []
    if answers:
        yield from answers
        return
    yield from archived_answers(platform, market, instruments, latest_only=True)
