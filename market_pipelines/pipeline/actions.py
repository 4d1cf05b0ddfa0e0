"""Corporate actions out of the answers that a pull brought, into the store.

The answers come from the archive, so that the same bytes can be asked again without a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from market_pipelines.market.actions import CorporateAction
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.replay import ArchivedAnswer, archived_answers
from market_pipelines.store.bars import WriteCounts
from market_pipelines.store.reference import write_actions, write_actions_known


@dataclass(frozen=True)
class ActionsReport:
    counts: WriteCounts
    actions: tuple[CorporateAction, ...]
    answers: int


def collect_actions(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], run_id: str | None
) -> ActionsReport:
    """Stores the actions in the answers of a run, or in the newest archived answers where the run has none."""
    calendar = trading_calendar(market.mic, platform.clock())
    counts = WriteCounts()
    seen: list[CorporateAction] = []
    answers = 0
    # By symbol: runs that overlap then wait for each other instead of blocking each other.
    read = sorted(
        _answers(platform, market, instruments, run_id), key=lambda one: (one.fetch.symbol, one.fetch.fetched_at)
    )
    with platform.database.connection() as connection:
        for answer in read:
            if not answer.parsed.actions_known:
                continue
            answers += 1
            since = answer.query.start
            through: date = calendar.local_date(answer.fetch.fetched_at)
            counts += write_actions(
                connection,
                market.name,
                answer.parsed.actions,
                answer.fetch.provider,
                answer.fetch.fetched_at,
                complete=(answer.fetch.symbol, since, through),
            )
            write_actions_known(
                connection,
                market.name,
                answer.fetch.symbol,
                answer.fetch.provider,
                since,
                min(through, calendar.last_closed(answer.fetch.fetched_at)),
                answer.fetch.fetched_at,
            )
            seen.extend(answer.parsed.actions)
    return ActionsReport(counts, tuple(seen), answers)


def _answers(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], run_id: str | None
) -> Iterator[ArchivedAnswer]:
    answers = list(archived_answers(platform, market, instruments, run_id=run_id)) if run_id else []
    if answers:
        yield from answers
        return
    yield from archived_answers(platform, market, instruments, latest_only=True)
