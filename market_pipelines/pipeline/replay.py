"""The archive read again: stored bytes through today's parsers, with no network.

`archived_answers` hands out single answers; `reparse` rebuilds a market's bars from all of them, run by run in
the order in which they were fetched, so that a better parser or a lost table costs no request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from market_pipelines.market.consensus import SIMULATED_PREFIX, house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import widened
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Answer, Capability, DailyQuery, GroupedQuery, Parsed, abilities_of
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
    """Archived answers about the instruments' daily bars, parsed anew, oldest first."""
    by_symbol = {instrument.symbol: instrument for instrument in instruments}
    with platform.database.connection() as connection:
        records = [
            record
            for capability, symbols in ((Capability.DAILY, tuple(by_symbol)), (Capability.GROUPED_DAILY, ("",)))
            for record in fetches(
                connection,
                market=market.name,
                symbols=symbols,
                run_id=run_id,
                capability=capability.value,
                latest_only=latest_only,
                archived_only=True,
            )
        ]
    for record in sorted(records, key=lambda record: (record.fetched_at, record.fetch_id)):
        if record.capability == Capability.GROUPED_DAILY:
            yield from _shares(platform, market, record, instruments)
            continue
        parsed = parse_again(platform, market, record, by_symbol[record.symbol])
        if parsed is not None:
            yield parsed


def _shares(
    platform: Platform, market: MarketDefinition, record: StoredFetch, instruments: Sequence[Instrument]
) -> Iterator[ArchivedAnswer]:
    """A whole session's answer, as one answer about each of the instruments in it."""
    provider = platform.providers.get(house_name(record.provider))
    if provider is None or record.sha256 is None or record.start is None:
        return
    ability = abilities_of(provider).get(Capability.GROUPED_DAILY)
    covered = tuple(one for one in instruments if provider.covers(one))
    if ability is None or not covered:
        return
    today = trading_calendar(market.mic, record.fetched_at).local_date(record.fetched_at)
    answer = _stored_answer(platform, record, record.sha256)
    parsed = ability.read(answer, GroupedQuery(covered, record.start, today))
    if parsed.bars is None:
        return
    for instrument in covered:
        rows = parsed.bars[parsed.bars["symbol"] == instrument.symbol]
        if len(rows):
            query = DailyQuery(instrument, record.start, record.start, today)
            share = replace(parsed, bars=rows.reset_index(drop=True))
            yield ArchivedAnswer(replace(record, symbol=instrument.symbol), query, answer, share)


def parse_again(
    platform: Platform, market: MarketDefinition, record: StoredFetch, instrument: Instrument
) -> ArchivedAnswer | None:
    """The stored answer as its provider's parser reads it today; None where that cannot be told any more."""
    provider = platform.providers.get(house_name(record.provider))
    if provider is None or record.sha256 is None or record.start is None or record.end is None:
        return None
    calendar = trading_calendar(market.mic, record.fetched_at)
    query = DailyQuery(instrument, record.start, record.end, calendar.local_date(record.fetched_at))
    answer = _stored_answer(platform, record, record.sha256)
    return ArchivedAnswer(record, query, answer, provider.parse_daily(answer, widened(provider, query)))


def _stored_answer(platform: Platform, record: StoredFetch, sha256: str) -> Answer:
    headers = dict(record.headers)
    if record.provider.startswith(SIMULATED_PREFIX):
        headers.setdefault("x-simulated-by", "market_pipelines")
    return Answer(
        status=record.http_status,
        body=platform.archive.get(sha256),
        headers=headers,
        received_at=record.fetched_at,
        seconds=record.duration,
        failure=record.reason if record.http_status == 0 else "",
        endpoint=record.endpoint,
    )


def by_run(answers: Iterator[ArchivedAnswer]) -> Iterator[tuple[str, list[ArchivedAnswer]]]:
    """Consecutive answers of one run together."""
    for run_id, group in groupby(answers, key=lambda answer: answer.fetch.run_id or ""):
        yield run_id, list(group)
