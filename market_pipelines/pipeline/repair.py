"""Repair: asks for the holes of a market that are due, never for more than the budget.

Goes through the ordinary chain of providers as a backfill does, so that quotes keep their reserve. When a hole is
due, and what an answer means for it, is decided in `market.repair`; the ledger is written after every batch, so a
repair that is killed has lost at most one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.repair import ANSWERED, Ask, Hole, Survey, asked_in_vain
from market_pipelines.pipeline.holes import Outlook, find_holes
from market_pipelines.pipeline.intraday import intraday_bars
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.refresh import daily_bars
from market_pipelines.pipeline.results import Job, RefreshReport, logged_job, new_run_id
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.store.holes import heal_holes, hold_repairs, lacking, write_holes

BATCH = 25
"""Symbols that are asked for and written down together."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for one symbol, and what came of it."""

    interval: str
    symbol: str
    start: date
    end: date
    holes: int
    healed: tuple[date, ...]
    outcome: Outcome
    provider: str | None
    requests: int
    reason: str

    @property
    def answered(self) -> bool:
        return self.outcome in ANSWERED


@dataclass
class RepairReport:
    market: str
    at: datetime
    budget: int
    dry_run: bool = False
    new: int = 0
    """Holes and incidents that nobody knew of."""
    found: int = 0
    """Open holes of single symbols, before the repair."""
    incidents: int = 0
    """Sessions that much of the market lacked, before the repair."""
    due: int = 0
    """Symbols that were due; with a smaller budget some wait for the next run."""
    healed_before: int = 0
    """Filled by refreshes since the last look."""
    asked: list[Asked] = field(default_factory=list)
    confirmed: int = 0
    """Holes and incidents that this run has confirmed."""
    stopped: str = ""
    """Why it ended before its budget did, or did not begin."""
    next_ask: datetime | None = None
    planned: tuple[tuple[str, Ask], ...] = ()
    """Interval and question, within the budget."""

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.asked)

    @property
    def healed(self) -> int:
        return sum(len(one.healed) for one in self.asked)

    def healed_by_session(self, interval: str) -> dict[date, list[str]]:
        found: dict[date, list[str]] = {}
        for one in self.asked:
            if one.interval == interval:
                for session in one.healed:
                    found.setdefault(session, []).append(one.symbol)
        return dict(sorted(found.items()))


def repair(
    platform: Platform,
    market: MarketDefinition,
    *,
    budget: int | None = None,
    dry_run: bool = False,
    dagster_run_id: str | None = None,
    progress: Progress | None = None,
) -> RepairReport:
    """Asks for what is due, the oldest first, for no more symbols than the budget. One repair a market at a time."""
    most = market.repair.symbols_a_run if budget is None else budget
    with _alone(platform, market) as alone:
        if not alone:
            return RepairReport(market.name, platform.clock(), most, stopped="another repair of it is under way")
        before = find_holes(platform, market)
        chosen = _within(before, most)
        report = RepairReport(
            market=market.name,
            at=before.at,
            budget=most,
            dry_run=dry_run,
            new=before.new,
            found=before.holes,
            incidents=before.incidents,
            due=sum(len(one.asks) for one in before.intervals),
            healed_before=before.healed,
            next_ask=before.next_ask,
            planned=tuple(chosen),
        )
        if before.unwell:
            report.stopped = before.unwell
        if dry_run or before.unwell or not chosen:
            return report
        symbols = list(dict.fromkeys(one.symbol for _, one in chosen))
        with logged_job(platform, f"{market.name}_repair", "repair", market, symbols, dagster_run_id) as job:
            _ask_all(platform, market, before, chosen, report, job, dagster_run_id or new_run_id(), progress)
        after = find_holes(platform, market)
        report.confirmed += sum(row.confirmed_at == after.at for one in after.intervals for row in one.survey.incidents)
        report.next_ask = after.next_ask
    return report


def _ask_all(
    platform: Platform,
    market: MarketDefinition,
    outlook: Outlook,
    chosen: Sequence[tuple[str, Ask]],
    report: RepairReport,
    job: Job,
    run_id: str,
    progress: Progress | None,
) -> None:
    surveys = {one.interval: one.survey for one in outlook.intervals}
    listed = {instrument.symbol: instrument for instrument in market.everything}
    if progress is not None:
        progress(0, len(chosen), "")
    for interval, batch in _batches(chosen):
        instruments = [listed[one.symbol] for one in batch]
        refreshed = _ask(platform, market, interval, instruments, batch, run_id)
        learned = _learn(platform, market, interval, surveys[interval], batch, refreshed, outlook.window)
        report.asked.extend(learned.asked)
        report.confirmed += learned.confirmed
        job.processed += sum(len(one.healed) for one in learned.asked)
        for one in learned.asked:
            if not one.answered:
                job.fail(one.symbol, one.outcome)
        if progress is not None:
            progress(len(report.asked), len(chosen), batch[-1].symbol)
        if not any(one.answered for one in learned.asked):
            report.stopped = f"nobody answers: {learned.asked[0].reason or learned.asked[0].outcome.value}"
            break


def _ask(
    platform: Platform,
    market: MarketDefinition,
    interval: str,
    instruments: Sequence[Instrument],
    batch: Sequence[Ask],
    run_id: str,
) -> RefreshReport:
    """One range for all of the batch, by the ordinary way."""
    start, end = batch[0].span
    sought = {one.symbol: one.sessions for one in batch}
    if interval == DAILY:
        return daily_bars(
            platform, market, instruments, start, end, run_id=run_id, purpose=Purpose.BACKFILL, sought=sought
        )
    return intraday_bars(
        platform,
        market,
        instruments,
        start,
        end,
        interval=interval,
        run_id=run_id,
        purpose=Purpose.BACKFILL,
        sought=sought,
    )


@dataclass(frozen=True)
class _Learned:
    asked: tuple[Asked, ...]
    confirmed: int


def _learn(
    platform: Platform,
    market: MarketDefinition,
    interval: str,
    before: Survey,
    batch: Sequence[Ask],
    refreshed: RefreshReport,
    window: Sequence[date],
) -> _Learned:
    """Writes down what the answers mean for each hole of the batch."""
    now = platform.clock()
    results = {result.symbol: result for result in refreshed.symbols}
    known = {hole.key: hole for hole in before.holes} | dict(before.within)
    incidents = {incident.session: incident for incident in before.incidents}
    instruments = [one for one in market.everything if one.symbol in results]
    sessions = sorted({session for one in batch for session in one.sessions})
    answered = {symbol: result.outcome in ANSWERED for symbol, result in results.items()}
    sent = {symbol: result.requests > 0 for symbol, result in results.items()}
    rows: list[Hole] = []
    asked: list[Asked] = []
    with platform.database.connection() as connection:
        heal_holes(connection, market.name, interval, now, symbols=list(results))
        lacks = lacking(connection, market.name, interval, instruments, sessions, since=_earliest(window, sessions))
        absent = {(symbol, lack.session) for lack in lacks for symbol in lack.symbols}
        for one in batch:
            result = results[one.symbol]
            for session in one.sessions:
                key = (one.symbol, session)
                incident = incidents.get(session)
                if key not in absent or (incident is not None and not any(answered.values())):
                    continue
                rows.append(
                    asked_in_vain(
                        known.get(key),
                        key,
                        market.repair,
                        now,
                        answered=answered[one.symbol],
                        sent=sent[one.symbol],
                        seen=incident.first_seen if incident is not None else None,
                    )
                )
            asked.append(
                Asked(
                    interval=interval,
                    symbol=one.symbol,
                    start=one.sessions[0],
                    end=one.sessions[-1],
                    holes=len(one.sessions),
                    healed=tuple(session for session in one.sessions if (one.symbol, session) not in absent),
                    outcome=result.outcome,
                    provider=result.provider,
                    requests=result.requests,
                    reason=result.reason,
                )
            )
        if not any(answered.values()):
            # The whole round begins again later, with everybody.
            rows += [
                asked_in_vain(
                    incidents[session],
                    incidents[session].key,
                    market.repair,
                    now,
                    answered=False,
                    sent=any(sent.values()),
                )
                for session in sessions
                if session in incidents
            ]
        write_holes(connection, market.name, interval, rows)
    return _Learned(tuple(asked), sum(_newly_confirmed(row, now) for row in rows if row.session not in incidents))


def _newly_confirmed(row: Hole, now: datetime) -> bool:
    return row.confirmed_at == now


def _batches(chosen: Sequence[tuple[str, Ask]]) -> Iterator[tuple[str, tuple[Ask, ...]]]:
    """Symbols of one interval and one range together, in the order in which they became due."""
    groups: dict[tuple[str, tuple[date, date]], list[Ask]] = {}
    for interval, one in chosen:
        groups.setdefault((interval, one.span), []).append(one)
    for (interval, _), together in groups.items():
        waiting = iter(together)
        while batch := tuple(islice(waiting, BATCH)):
            yield interval, batch


def _within(outlook: Outlook, budget: int) -> list[tuple[str, Ask]]:
    """Daily bars and those within sessions share the budget; the daily ones go first, they are what the others are
    compared with."""
    everything = [(one.interval, ask) for one in outlook.intervals for ask in one.asks]
    return everything[: max(0, budget)]


def _earliest(window: Sequence[date], sessions: Sequence[date]) -> date:
    return min([*window[:1], *sessions])


@contextmanager
def _alone(platform: Platform, market: MarketDefinition) -> Iterator[bool]:
    with platform.database.connection() as held:
        yield hold_repairs(held, market.name)
