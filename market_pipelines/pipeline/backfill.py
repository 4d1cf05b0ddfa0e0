"""Filling a range for many symbols, in batches that may be interrupted at any point.

Only what is lacking is asked for, before what is stored and after it and in between; each batch is fetched,
settled and committed by itself. A session of which the ledger of holes says that there is no bar is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from math import inf

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.repair import ANSWERED, asked_in_vain
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.market.stretches import Range, months, stretches
from market_pipelines.pipeline.estimate import answers_to_the_present, first_asked, range_calls, seconds_at_limits
from market_pipelines.pipeline.intraday import intraday_bars
from market_pipelines.pipeline.limiter import Purpose, allowance_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.pull_intraday import offering
from market_pipelines.pipeline.refresh import daily_bars
from market_pipelines.pipeline.results import RefreshReport, SymbolResult, logged_job, new_run_id
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.store.coverage import missing
from market_pipelines.store.holes import confirmed_missing, read_holes, write_holes

BATCH = 10
"""Symbols that are fetched, settled and committed together; an interruption loses at most one batch's work."""
ROWS_A_CALL = 500
"""How many rows that are there already may come again to save a request; any number where a day's calls are few."""
_A_TRADING_DAY = 390
"""Minutes."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a backfill has still to do."""

    symbols: int
    requests: int
    """If the first provider of each symbol delivers."""
    seconds: float
    """At the rate so far, and no faster than the limits let it."""


@dataclass(frozen=True, slots=True)
class _Batch:
    span: Range
    instruments: tuple[Instrument, ...]


def backfill_bars(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str = DAILY,
    again: bool = False,
    newest_first: bool = False,
    progress: Progress | None = None,
    batch_done: Callable[[Sequence[SymbolResult]], None] | None = None,
    left: Callable[[Left], None] | None = None,
) -> RefreshReport:
    """Fills a range for many symbols. What is there is left alone unless `again` says otherwise.

    `batch_done` is told what is committed, `progress` how many symbols are done with, `left` what is still to do
    before each batch.
    """
    run_id = new_run_id()
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    start, end = max(start, market.since), min(end, calendar.last_closed(now))
    ranges = lacking_ranges(platform, market, instruments, start, end, interval, again=again)
    skipped = [one.symbol for one in instruments if one.symbol not in ranges]
    batches = list(_batches(instruments, ranges, newest_first=newest_first))
    pace = _Pace(platform, market, interval, batches)
    results: list[SymbolResult] = []
    wanted = [one.symbol for one in instruments if one.symbol in ranges]
    if progress is not None:
        progress(len(skipped), len(instruments), "")
    with logged_job(platform, "backfill", _kind(interval), market, wanted) as job:
        for place, batch in enumerate(batches):
            if left is not None:
                left(pace.left(place))
            report = _refresh(platform, market, batch.instruments, *batch.span, interval, run_id)
            _learn(platform, market, interval, batch, report, calendar)
            job.count(report.symbols)
            results.extend(report.symbols)
            pace.spent(report)
            if progress is not None:
                unfinished = {one.symbol for later in batches[place + 1 :] for one in later.instruments}
                progress(len(instruments) - len(unfinished), len(instruments), batch.instruments[-1].symbol)
            if batch_done is not None:
                batch_done(report.symbols)
    return RefreshReport(
        market=market.name,
        start=start,
        end=end,
        run_id=run_id,
        symbols=by_symbol(results),
        sessions=len(calendar.sessions(start, end)),
        skipped=tuple(skipped),
    )


def by_symbol(results: Sequence[SymbolResult]) -> tuple[SymbolResult, ...]:
    """One result a symbol, in the order in which they were first asked for; where a range failed, that is how all of
    it ended."""
    joined: dict[str, SymbolResult] = {}
    for one in results:
        before = joined.get(one.symbol)
        if before is None:
            joined[one.symbol] = one
            continue
        telling = before if _weight(before.outcome) >= _weight(one.outcome) else one
        joined[one.symbol] = replace(
            telling,
            provider=before.provider if before.rows >= one.rows else one.provider,
            rows=before.rows + one.rows,
            revisions=before.revisions + one.revisions,
            requests=before.requests + one.requests,
            quarantined=before.quarantined + one.quarantined,
            changed=before.changed + one.changed,
        )
    return tuple(joined.values())


def _weight(outcome: Outcome) -> int:
    return 2 if not outcome.delivered else 1 if outcome is Outcome.OK else 0


def _kind(interval: str) -> str:
    return "daily" if interval == DAILY else f"intraday {interval}"


def _refresh(
    platform: Platform,
    market: MarketDefinition,
    batch: Sequence[Instrument],
    start: date,
    end: date,
    interval: str,
    run_id: str,
) -> RefreshReport:
    if interval == DAILY:
        return daily_bars(platform, market, batch, start, end, purpose=Purpose.BACKFILL, run_id=run_id)
    return intraday_bars(
        platform, market, batch, start, end, interval=interval, purpose=Purpose.BACKFILL, run_id=run_id
    )


def _learn(
    platform: Platform,
    market: MarketDefinition,
    interval: str,
    batch: _Batch,
    report: RefreshReport,
    calendar: TradingCalendar,
) -> None:
    """What somebody answered and is lacking all the same is a known hole from now on, confirmed the second time."""
    answered = {result.symbol for result in report.symbols if result.outcome in ANSWERED}
    listed = {one.symbol: one for one in batch.instruments if one.symbol in answered}
    now = platform.clock()
    sessions = [session for session in calendar.sessions(*batch.span) if calendar.is_closed(session, now)]
    with platform.database.connection() as connection:
        lacking = missing(connection, market.name, interval, sorted(listed), sessions)
        absent = [(symbol, session) for symbol, session in sorted(lacking) if listed[symbol].trades_on(session)]
        if not absent:
            return
        known = {
            row.key: row
            for row in read_holes(
                connection, market.name, interval, symbols=sorted(listed), start=batch.span[0], end=batch.span[1]
            )
        }
        rows = [asked_in_vain(known.get(key), key, market.repair, now, answered=True) for key in absent]
        write_holes(connection, market.name, interval, rows)


def lacking_ranges(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    interval: str = DAILY,
    *,
    again: bool = False,
) -> dict[str, tuple[Range, ...]]:
    """By symbol the ranges to ask for: those that lack sessions, few requests weighed against few rows. Whoever
    lacks nothing is not among them. `again`: everything, for whoever traded."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    start, end = max(start, market.since), min(end, calendar.last_closed(now))
    sessions = calendar.sessions(start, end)
    lacks = _lacking(platform, market, instruments, sessions, interval, again=again)
    chain = platform.chain(market) if interval == DAILY else offering(platform.chain(market), interval)
    needs = range_calls(platform, market, interval)
    today = calendar.local_date(now)
    found: dict[str, tuple[Range, ...]] = {}
    for instrument in instruments:
        lacking = lacks.get(instrument.symbol)
        if not lacking:
            continue
        provider = first_asked(platform, chain, instrument)
        alive = sum(instrument.trades_on(session) for session in sessions)
        if again or provider is None or len(lacking) == alive:
            # The same range for everybody who lacks everything: they are asked for side by side.
            ranges: tuple[Range, ...] = ((start, end),)
        else:
            ranges = stretches(
                lacking,
                sessions,
                partial(needs, provider, instrument),
                rows_a_session=1 if interval == DAILY else _A_TRADING_DAY / INTERVALS[interval],
                rows_a_call=inf if allowance_of(platform, provider.name).per_day else ROWS_A_CALL,
                open_ended=interval == DAILY and answers_to_the_present(provider, instrument, start, today),
            )
        if interval != DAILY:
            ranges = tuple(piece for span in ranges for piece in months(*span))
        found[instrument.symbol] = ranges
    return found


def _lacking(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    sessions: Sequence[date],
    interval: str,
    *,
    again: bool,
) -> dict[str, list[date]]:
    if again:
        return {one.symbol: [day for day in sessions if one.trades_on(day)] for one in instruments}
    symbols = [one.symbol for one in instruments]
    with platform.database.connection() as connection:
        absent = missing(connection, market.name, interval, symbols, sessions)
        if absent:
            absent -= confirmed_missing(connection, market.name, interval, symbols, sessions[0], sessions[-1])
    listed = {one.symbol: one for one in instruments}
    lacks: dict[str, list[date]] = {}
    for symbol, session in sorted(absent):
        if listed[symbol].trades_on(session):
            lacks.setdefault(symbol, []).append(session)
    return lacks


def incomplete(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    interval: str = DAILY,
) -> list[Instrument]:
    """Instruments that still lack a session in the range, other than those that are confirmed to be missing."""
    ranges = lacking_ranges(platform, market, instruments, start, end, interval)
    return [instrument for instrument in instruments if instrument.symbol in ranges]


def _batches(
    instruments: Sequence[Instrument], ranges: Mapping[str, Sequence[Range]], *, newest_first: bool
) -> Iterator[_Batch]:
    """Symbols of one range together; ranges in the order of the symbols, or the newest first."""
    groups: dict[Range, list[Instrument]] = {}
    for instrument in instruments:
        for span in ranges.get(instrument.symbol, ()):
            groups.setdefault(span, []).append(instrument)
    spans = sorted(groups, key=lambda span: (span[1], span[0]), reverse=True) if newest_first else list(groups)
    for span in spans:
        together = groups[span]
        for first in range(0, len(together), BATCH):
            yield _Batch(span, tuple(together[first : first + BATCH]))


class _Pace:
    """How long the rest takes, from how long it has taken so far and from the limits."""

    def __init__(self, platform: Platform, market: MarketDefinition, interval: str, batches: Sequence[_Batch]) -> None:
        self._platform = platform
        chain = platform.chain(market) if interval == DAILY else offering(platform.chain(market), interval)
        needs = range_calls(platform, market, interval)
        self._calls: list[dict[str, int]] = []
        for batch in batches:
            calls: dict[str, int] = {}
            for instrument in batch.instruments:
                provider = first_asked(platform, chain, instrument)
                if provider is not None:
                    calls[provider.name] = calls.get(provider.name, 0) + needs(provider, instrument, *batch.span)
            self._calls.append(calls)
        self._symbols = [{one.symbol for one in batch.instruments} for batch in batches]
        self._began = time.monotonic()
        self._requests = 0

    def spent(self, report: RefreshReport) -> None:
        self._requests += sum(result.requests for result in report.symbols)

    def left(self, place: int) -> Left:
        """Before the batch at this place."""
        calls: dict[str, int] = {}
        for batch in self._calls[place:]:
            for provider, count in batch.items():
                calls[provider] = calls.get(provider, 0) + count
        requests = sum(calls.values())
        limits = sum(seconds_at_limits(count, allowance_of(self._platform, name)) for name, count in calls.items())
        rate = (time.monotonic() - self._began) / self._requests if self._requests else 0.0
        symbols: set[str] = set().union(*self._symbols[place:])
        return Left(len(symbols), requests, max(limits, rate * requests))
