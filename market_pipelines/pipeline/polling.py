"""Polling: asking for the bars of the running session again and again, in batches, until somebody wants it to stop.

When to ask is said by `market.polling`; what is asked and stored is the ordinary intraday refresh, within the
limits that everybody shares. A loop is never ended by what a provider, a symbol or a callback does.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import hours
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.polling import Pace, Rhythm, Strategy
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.intraday import intraday_bars, plan_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import Progress
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import SymbolResult, logged_job, new_run_id
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.redaction import redact
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.ledger import JobStatus

MAX_RETRIES = 3
BATCH_DELAY = 0.2
"""Seconds between two batches, so that others who want the same provider or table have their turn."""
FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 30.0
"""Seconds before a failed symbol is asked for again; each further wait is twice as long."""
CYCLES_KEPT = 100
_SLICE = 60.0
"""Seconds. A wait looks at the clock so often: it may be set, and a machine may have slept."""
_HOPELESS = frozenset(
    {
        Outcome.UNKNOWN_SYMBOL,
        Outcome.EMPTY_UNEXPECTED,
        Outcome.NOT_ENTITLED,
        Outcome.QUOTA_EXHAUSTED,
        Outcome.CHALLENGE,
        Outcome.RETIRED,
    }
)
"""What a second question a moment later does not change."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Poll:
    """What one cycle asks for."""

    market: MarketDefinition
    instruments: tuple[Instrument, ...]
    interval: str
    batch_size: int
    retries: int = MAX_RETRIES
    """How often a failed symbol is asked for again within its cycle."""
    batch_delay: float = BATCH_DELAY
    extended: bool = False
    """Whether bars before the opening and after the closing bell are wanted too; the market file may want them
    anyway."""
    job_name: str = "poll"

    def __post_init__(self) -> None:
        if self.interval not in INTERVALS:
            raise BadQuestion(f"interval {self.interval!r} cannot be polled; accepted: {', '.join(INTERVALS)}")
        if self.batch_size < 1 or self.retries < 0 or self.batch_delay < 0:
            raise BadQuestion(
                f"batches of {self.batch_size}, {self.retries} retries, {self.batch_delay:g} s between batches; "
                "accepted: a batch of 1 or more, the others not below 0"
            )

    @property
    def definition(self) -> MarketDefinition:
        """The market with the hours that are wanted."""
        plan = plan_of(self.market)
        return replace(self.market, intraday=replace(plan, extended=plan.extended or self.extended))


def poll_of(
    platform: Platform,
    market: str,
    symbols: Sequence[str] | None = None,
    *,
    interval: str | None = None,
    batch_size: int | None = None,
    retries: int = MAX_RETRIES,
    batch_delay: float = BATCH_DELAY,
    extended: bool = False,
    job_name: str = "poll",
) -> Poll:
    """What is not said is all of the market, and as the settings say."""
    definition = platform.market(market)
    wanted = [symbols] if isinstance(symbols, str) else symbols
    return Poll(
        definition,
        instruments_of(definition, wanted) if wanted else definition.everything,
        interval if interval is not None else platform.settings.default_interval.value,
        batch_size if batch_size is not None else platform.settings.batch_size,
        retries,
        batch_delay,
        extended,
        job_name,
    )


class CycleOutcome(StrEnum):
    SUCCESS = "success"
    PARTIAL = "partial"
    """Some symbols failed."""
    FAILURE = "failure"
    """Nothing was delivered."""


@dataclass(frozen=True)
class CycleReport:
    started_at: datetime
    finished_at: datetime
    session: date | None
    symbols: tuple[SymbolResult, ...] = ()
    left: tuple[str, ...] = ()
    """Not asked for, because somebody wanted to stop."""
    error: str = ""
    """What broke the cycle off."""
    number: int = 1
    next_at: datetime | None = None
    """When the next cycle begins; None after the last one."""

    @property
    def changed(self) -> int:
        """New rows, and rows that say something else than before."""
        return sum(result.changed for result in self.symbols)

    @property
    def failed(self) -> tuple[SymbolResult, ...]:
        return tuple(result for result in self.symbols if not result.outcome.delivered)

    @property
    def outcome(self) -> CycleOutcome:
        failed = len(self.failed)
        if self.error or (failed and failed == len(self.symbols)):
            return CycleOutcome.FAILURE
        return CycleOutcome.PARTIAL if failed else CycleOutcome.SUCCESS


@dataclass
class PollingStatistics:
    started_at: datetime
    ended_at: datetime
    iterations: int = 0
    outcomes: Counter[CycleOutcome] = field(default_factory=Counter)
    records: int = 0
    failed_symbols: Counter[str] = field(default_factory=Counter)
    """In how many cycles each of them failed."""
    callback_errors: int = 0
    cycles: deque[CycleReport] = field(default_factory=lambda: deque(maxlen=CYCLES_KEPT))
    """The last ones."""

    @property
    def successful(self) -> int:
        """Cycles that brought something, even if not every symbol."""
        return self.iterations - self.failed

    @property
    def failed(self) -> int:
        return self.outcomes[CycleOutcome.FAILURE]

    def count(self, report: CycleReport) -> None:
        self.iterations += 1
        self.outcomes[report.outcome] += 1
        self.records += report.changed
        self.failed_symbols.update(result.symbol for result in report.failed)
        self.cycles.append(report)
        self.ended_at = report.finished_at


Callback = Callable[[CycleReport], object]


def polled_session(calendar: TradingCalendar, now: datetime, *, extended: bool) -> date:
    """The session that is running, or else the last one that was."""
    today = calendar.local_date(now)
    if calendar.is_session(today):
        day = hours(calendar, today)
        if (day.begins if extended else day.opens) <= now:
            return today
    return calendar.last_closed(now)


def poll_cycle(
    platform: Platform,
    poll: Poll,
    stop: Stop,
    *,
    dagster_run_id: str | None = None,
    progress: Progress | None = None,
) -> CycleReport:
    """Asks once for every symbol, batch by batch; each batch is stored and committed by itself."""
    started = platform.clock()
    market = poll.definition
    calendar = trading_calendar(market.mic, started)
    session = polled_session(calendar, started, extended=plan_of(market).extended)
    run_id = dagster_run_id or new_run_id()
    symbols = [one.symbol for one in poll.instruments]
    results: dict[str, SymbolResult] = {}
    if progress is not None:
        progress(0, len(symbols), "")
    with logged_job(platform, poll.job_name, f"intraday {poll.interval}", market, symbols, dagster_run_id) as job:
        for first in range(0, len(poll.instruments), poll.batch_size):
            if stop.asked or (first and stop.wait(poll.batch_delay)):
                break
            batch = poll.instruments[first : first + poll.batch_size]
            for result in _batch(platform, poll, market, batch, session, run_id, stop):
                results[result.symbol] = result
                job.processed += result.changed
                if not result.outcome.delivered:
                    job.fail(result.symbol, result.outcome)
            if progress is not None:
                progress(len(results), len(symbols), batch[-1].symbol)
        left = tuple(symbol for symbol in symbols if symbol not in results)
        if left:
            job.status = JobStatus.PARTIAL
            job.notes.append(f"stopped after {len(results)} of {len(symbols)} symbols")
        elif job.failed == len(symbols) > 0:
            job.status = JobStatus.FAILURE
    return CycleReport(started, platform.clock(), session, tuple(results.values()), left)


def run_polling(
    platform: Platform,
    poll: Poll,
    strategy: Strategy,
    pace: Pace,
    stop: Stop,
    *,
    max_iterations: int | None = None,
    callback: Callback | None = None,
    waiting: Callable[[datetime], object] | None = None,
    progress: Progress | None = None,
) -> PollingStatistics:
    """Polls until `max_iterations` cycles are done or somebody wants it to stop.

    `callback` is told of every cycle, `waiting` of an exchange that has to open first.
    """

    def rhythm(at: datetime) -> Rhythm:
        return Rhythm(strategy, pace, trading_calendar(poll.market.mic, at), poll.extended)

    now = platform.clock()
    statistics = PollingStatistics(now, now)
    interval, due = pace.usual, now
    while not stop.asked and (max_iterations is None or statistics.iterations < max_iterations):
        now = platform.clock()
        begins = rhythm(max(now, due)).first(max(now, due))
        if begins > now:
            if waiting is not None and begins > due:
                waiting(begins)
            _wait_until(begins, platform.clock, stop)
            due = begins
            continue
        report = _safe_cycle(platform, poll, stop, progress)
        interval = rhythm(now).interval_after(interval, now, moved=report.changed > 0)
        due = max(rhythm(now).next_after(now, interval), report.finished_at)
        over = stop.asked or statistics.iterations + 1 == max_iterations
        report = replace(report, number=statistics.iterations + 1, next_at=None if over else due)
        statistics.count(report)
        if callback is not None:
            _tell(callback, report, statistics)
    statistics.ended_at = platform.clock()
    return statistics


def _wait_until(due: datetime, clock: Callable[[], datetime], stop: Stop) -> None:
    while (left := (due - clock()).total_seconds()) > 0:
        if stop.wait(min(left, _SLICE)):
            return


def _safe_cycle(platform: Platform, poll: Poll, stop: Stop, progress: Progress | None) -> CycleReport:
    started = platform.clock()
    try:
        return poll_cycle(platform, poll, stop, progress=progress)
    except Exception as error:  # noqa: BLE001 (the next cycle may meet a database that is back)
        message = redact(f"{type(error).__name__}: {error}")
        _log.warning("a polling cycle of %s broke off: %s", poll.market.name, message)
        return CycleReport(started, platform.clock(), None, error=message)


def _tell(callback: Callback, report: CycleReport, statistics: PollingStatistics) -> None:
    try:
        callback(report)
    except Exception as error:  # noqa: BLE001 (somebody else's code)
        statistics.callback_errors += 1
        _log.warning("the callback after a polling cycle failed: %s", redact(f"{type(error).__name__}: {error}"))


def _batch(
    platform: Platform,
    poll: Poll,
    market: MarketDefinition,
    batch: Sequence[Instrument],
    session: date,
    run_id: str,
    stop: Stop,
) -> Sequence[SymbolResult]:
    """The symbols of a batch, those that failed and may still come once more after a while."""
    results = {one.symbol: one for one in _refreshed(platform, poll, market, batch, session, run_id)}
    pause = FIRST_BACK_OFF
    for _ in range(poll.retries):
        again = [one for one in batch if _may_still_come(results[one.symbol])]
        if not again or stop.asked or stop.wait(pause):
            break
        pause = min(2 * pause, LONGEST_BACK_OFF)
        for newer in _refreshed(platform, poll, market, again, session, run_id):
            results[newer.symbol] = _together(results[newer.symbol], newer)
    return list(results.values())


def _may_still_come(result: SymbolResult) -> bool:
    return not result.outcome.delivered and result.outcome not in _HOPELESS


def _together(earlier: SymbolResult, newer: SymbolResult) -> SymbolResult:
    return replace(
        newer,
        requests=earlier.requests + newer.requests,
        revisions=earlier.revisions + newer.revisions,
        changed=earlier.changed + newer.changed,
    )


def _refreshed(
    platform: Platform,
    poll: Poll,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    session: date,
    run_id: str,
) -> Sequence[SymbolResult]:
    """One refresh of all of them. If that breaks, each by itself: what one symbol does is not the others' fault."""
    try:
        report = intraday_bars(platform, market, instruments, session, session, interval=poll.interval, run_id=run_id)
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a single answer can break must not stop the others)
        if len(instruments) > 1:
            return [
                result for one in instruments for result in _refreshed(platform, poll, market, [one], session, run_id)
            ]
        reason = redact(f"{type(error).__name__}: {error}")
        _log.warning("polling %s failed: %s", instruments[0].symbol, reason)
        return [SymbolResult(instruments[0].symbol, Outcome.MALFORMED, None, 0, 0, 0, reason)]
    if not _nothing_yet(platform, poll, market, session):
        return report.symbols
    return [
        replace(result, outcome=Outcome.EMPTY_EXPECTED, reason="no trade yet")
        if result.outcome is Outcome.EMPTY_UNEXPECTED
        else result
        for result in report.symbols
    ]


def _nothing_yet(platform: Platform, poll: Poll, market: MarketDefinition, session: date) -> bool:
    """Whether a share may well have no bar: before the opening bell, and until the first bars are over."""
    opens = trading_calendar(market.mic, platform.clock()).times(session).opens
    return platform.clock() < opens + 2 * timedelta(minutes=INTERVALS[poll.interval])


def by_outcome(results: Sequence[SymbolResult]) -> Mapping[str, int]:
    return Counter(result.outcome.value for result in results)
