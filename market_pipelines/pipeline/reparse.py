"""Bars rebuilt from the archive: every kept answer through today's parsers, rules and consensus, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.actions import collect_actions
from market_pipelines.pipeline.fetch import Attempt
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress, SymbolPull, keep_attempts
from market_pipelines.pipeline.replay import ArchivedAnswer, archived_answers, by_run
from market_pipelines.pipeline.settle import settle_daily
from market_pipelines.store.upsert import WriteCounts


@dataclass(frozen=True)
class ReparseReport:
    market: str
    answers: int
    runs: int
    rows: int
    counts: WriteCounts


def reparse(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    progress: Progress | None = None,
) -> ReparseReport:
    """Replays the archive run by run, in the order and with the knowledge times of the first fetch."""
    counts = WriteCounts()
    answers = runs = rows = 0
    for run_id, group in by_run(archived_answers(platform, market, instruments)):
        answers += len(group)
        runs += 1
        rows += _replay_run(platform, market, group, run_id)
        concerned = list({answer.fetch.symbol: answer.query.instrument for answer in group}.values())
        known_at = max(answer.fetch.fetched_at for answer in group)
        collect_actions(platform, market, concerned, run_id)
        for report in settle_daily(
            platform,
            market,
            concerned,
            min(answer.query.start for answer in group),
            max(answer.query.end for answer in group),
            run_id=run_id,
            known_at=known_at,
        ):
            counts += report.written.total
        if progress is not None:
            progress(answers, answers, run_id)
    return ReparseReport(market.name, answers, runs, rows, counts)


def _replay_run(platform: Platform, market: MarketDefinition, group: Sequence[ArchivedAnswer], run_id: str) -> int:
    rows = 0
    by_provider: dict[str, list[ArchivedAnswer]] = {}
    for answer in group:
        by_provider.setdefault(answer.fetch.provider, []).append(answer)
    for answers in by_provider.values():
        # Several attempts at one question: the last one is what the run went on with.
        last = {answer.fetch.symbol: answer for answer in answers}
        calendar = trading_calendar(market.mic, max(answer.fetch.fetched_at for answer in answers))
        pulls = [_as_pull(platform, answer) for answer in last.values()]
        start = min(answer.query.start for answer in answers)
        end = max(answer.query.end for answer in answers)
        rows += len(keep_attempts(platform, market, calendar, pulls, start, end, run_id).clean)
    return rows


def _as_pull(platform: Platform, answer: ArchivedAnswer) -> SymbolPull:
    provider = platform.providers[house_name(answer.fetch.provider)]
    pull = SymbolPull(answer.query.instrument, frozenset())
    pull.attempts.append(
        Attempt(
            symbol=answer.fetch.symbol,
            provider=answer.fetch.provider,
            house_provider=provider.name,
            outcome=answer.parsed.outcome,
            reason=answer.parsed.reason,
            requests=0,
            basis=answer.parsed.basis or provider.basis,
            parsed=answer.parsed,
            fetched_at=answer.fetch.fetched_at,
        )
    )
    return pull
