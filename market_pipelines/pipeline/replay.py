"""The archive read again: stored bytes through today's parsers, with no network.

`archived_answers` hands out single answers; `reparse` rebuilds a market's bars from all of them, run by run in
the order in which they were fetched, so that a better parser or a lost table costs no request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from market_pipelines.market.consensus import SIMULATED_PREFIX, house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import widened
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed
from market_pipelines.store.ledger import StoredFetch, fetches


@dataclass(frozen=True)
class ArchivedAnswer:
    fetch: StoredFetch
    query: DailyQuery
    answer: Answer
    parsed: Parsed


def archived_answers(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    *,
    run_id: str | None = None,
    latest_only: bool = False,
) -> Iterator[ArchivedAnswer]:
    """Archived answers about the instruments, parsed anew, oldest first."""
    by_symbol = {instrument.symbol: instrument for instrument in instruments}
    with platform.database.connection() as connection:
        records = fetches(
            connection,
            market=market.name,
            symbols=tuple(by_symbol),
            run_id=run_id,
            latest_only=latest_only,
            archived_only=True,
        )
    for record in records:
        parsed = parse_again(platform, market, record, by_symbol[record.symbol])
        if parsed is not None:
            yield parsed


def parse_again(
    platform: Platform, market: MarketDefinition, record: StoredFetch, instrument: Instrument
) -> ArchivedAnswer | None:
    """The stored answer as its provider's parser reads it today; None where that cannot be told any more."""
    provider = platform.providers.get(house_name(record.provider))
    if provider is None or record.sha256 is None or record.start is None or record.end is None:
        return None
    calendar = trading_calendar(market.mic, record.fetched_at)
    query = DailyQuery(instrument, record.start, record.end, calendar.local_date(record.fetched_at))
    headers = dict(record.headers)
    if record.provider.startswith(SIMULATED_PREFIX):
        headers.setdefault("x-simulated-by", "market_pipelines")
    answer = Answer(
        status=record.http_status,
        body=platform.archive.get(record.sha256),
        headers=headers,
        received_at=record.fetched_at,
        seconds=record.duration,
        failure=record.reason if record.http_status == 0 else "",
    )
    return ArchivedAnswer(record, query, answer, provider.parse_daily(answer, widened(provider, query)))


def by_run(answers: Iterator[ArchivedAnswer]) -> Iterator[tuple[str, list[ArchivedAnswer]]]:
    """Consecutive answers of one run together."""
    for run_id, group in groupby(answers, key=lambda answer: answer.fetch.run_id or ""):
        yield run_id, list(group)
