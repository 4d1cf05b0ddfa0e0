"""The first half of a daily refresh: ask the market's providers, judge what they said, keep it by provider.

The chain asks the first provider for everything and each further one for exactly the symbols that are still
lacking. Bad rows go to quarantine and count as lacking. Nothing here decides what the market's price was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime

import pandas as pd

from market_pipelines.market.actions import Basis, CorporateAction, undo
from market_pipelines.market.bars import empty_bars, empty_provider_bars
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality import PreviousClose, Verdict, judge
from market_pipelines.market.repair import ANSWERED
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.fetch import Attempt, ProviderRun, ask, converse, merged
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.releases import pass_released
from market_pipelines.pipeline.results import SymbolResult
from market_pipelines.providers.protocol import (
    Capability,
    DailyProvider,
    DailyQuery,
    GroupedQuery,
    Parsed,
    abilities_of,
)
from market_pipelines.store.bars import write_provider_bars
from market_pipelines.store.quarantine import quarantine_rows
from market_pipelines.store.read_bars import previous_closes, symbols_with_basis
from market_pipelines.store.reference import read_actions, read_actions_known
from market_pipelines.store.upsert import WriteCounts

WORKERS = 6
"""Threads that ask one provider side by side; the provider's rate limit bounds them further."""

NOTHING: Mapping[str, Collection[date]] = {}

Progress = Callable[[int, int, str], None]
"""Called with (done, total, symbol)."""


@dataclass
class SymbolPull:
    """What the chain brought for one symbol."""

    instrument: Instrument
    expected: frozenset[date]
    """Closed sessions in the range on which it traded."""
    attempts: list[Attempt] = field(default_factory=list)
    accepted: set[date] = field(default_factory=set)
    rejected: dict[date, str] = field(default_factory=dict)
    denied: set[date] = field(default_factory=set)
    """Days of refused rows on which there was nothing to trade, as a later provider's answer confirms."""
    filled_by: dict[str, int] = field(default_factory=dict)
    """Rows by the provider that brought them first."""
    riding: frozenset[date] = frozenset()
    """Older sessions that a provider is asked for along with the range, where that is no further request."""
    sought: frozenset[date] = frozenset()
    """Sessions of the range that each provider is asked for in turn until one has them: known holes."""

    @property
    def requests(self) -> int:
        return sum(attempt.requests for attempt in self.attempts)

    @property
    def unmended(self) -> dict[date, str]:
        made_up_for = self.accepted | self.denied
        return {session: rule for session, rule in self.rejected.items() if session not in made_up_for}

    @property
    def lacking(self) -> bool:
        """Whether the next provider should be asked. A hole inside a delivered range is how some shares trade;
        a refused row, a missing newest session or nothing at all is not."""
        if not self.expected:
            return False
        if not any(attempt.outcome.delivered for attempt in self.attempts):
            return True
        return bool(self.unmended) or max(self.expected) not in self.accepted or bool(self.sought - self.accepted)

    def since(self, start: date) -> date:
        return min(start, *self.riding) if self.riding else start

    @property
    def outcome(self) -> Outcome:
        if not self.attempts:
            return Outcome.UNKNOWN_SYMBOL if self.expected else Outcome.EMPTY_EXPECTED
        if self.unmended:
            return Outcome.MALFORMED
        if self.accepted:
            return Outcome.OK
        outcomes = [attempt.outcome for attempt in self.attempts]
        tellings = (Outcome.EMPTY_EXPECTED, Outcome.UNKNOWN_SYMBOL)
        # While the only session is under way nobody wonders about no bars, not even of a share that does not exist.
        for telling in tellings if self.expected else tellings[::-1]:
            if telling in outcomes:
                return telling
        return outcomes[0] if outcomes[0] is not Outcome.OK else Outcome.EMPTY_UNEXPECTED

    @property
    def reason(self) -> str:
        if self.unmended:
            session, rule = min(self.unmended.items())
            return f"{len(self.unmended)} rows refused, first {session}: {rule}"
        if not self.attempts and self.expected:
            return "no provider that was asked lists it"
        return "; ".join(
            f"{attempt.provider}: {attempt.reason or attempt.outcome.value}"
            for attempt in self.attempts
            if attempt.outcome is not Outcome.OK
        )

    @property
    def provider(self) -> str | None:
        """Who brought the most of it."""
        return max(self.filled_by, key=lambda name: self.filled_by[name]) if self.filled_by else None


@dataclass(frozen=True)
class PullReport:
    market: str
    start: date
    end: date
    run_id: str
    providers: tuple[str, ...]
    symbols: tuple[SymbolPull, ...]
    rows: int
    quarantined: int
    known_at: datetime
    """When the newest of its answers arrived."""
    rows_by_session: Mapping[str, Mapping[date, int]]
    """Accepted rows by provider and session."""


def result_of(pull: SymbolPull, rows: int, counts: WriteCounts) -> SymbolResult:
    return SymbolResult(
        symbol=pull.instrument.symbol,
        outcome=pull.outcome,
        provider=pull.provider,
        rows=rows,
        revisions=counts.revised,
        requests=pull.requests,
        reason=pull.reason,
        quarantined=len(pull.rejected),
        changed=counts.changed,
    )


def answers(pull: SymbolPull) -> bool:
    """Whether somebody said what there is, be it nothing."""
    return any(attempt.outcome in ANSWERED for attempt in pull.attempts)


def pull_daily(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    purpose: Purpose = Purpose.REFRESH,
    riding: Mapping[str, Collection[date]] = NOTHING,
    sought: Mapping[str, Collection[date]] = NOTHING,
) -> PullReport:
    """Asks for the sessions from `start` to `end` (both included) and keeps what the providers bring. By symbol:
    `riding`, older sessions to be asked for along with them, and `sought`, those of them that are known holes."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    today = calendar.local_date(now)
    start, end = max(start, market.since), min(end, today)
    closed = [day for day in calendar.sessions(start, end) if calendar.is_closed(day, now)]
    pulls = {
        instrument.symbol: SymbolPull(
            instrument,
            frozenset(day for day in closed if instrument.trades_on(day)),
            riding=frozenset(riding.get(instrument.symbol, ())),
            sought=frozenset(sought.get(instrument.symbol, ())),
        )
        for instrument in instruments
    }
    chain = tuple(providers) if providers is not None else platform.chain(market)
    total, done = len(pulls), 0
    rows = quarantined = 0
    by_session: dict[str, dict[date, int]] = {}
    known_at = now
    if progress is not None:
        progress(0, total, "")
    for position, provider in enumerate(chain):
        wanted = [pull for pull in pulls.values() if pull.lacking and provider.covers(pull.instrument)]
        if not wanted:
            continue
        run = ProviderRun(provider)
        grouped, spent = ask_grouped(platform, run, market, wanted, today, run_id, purpose)
        if grouped:
            for pull in wanted:
                pull.riding = frozenset()  # every further session would have been a further request
        queries = [DailyQuery(pull.instrument, pull.since(start), end, today) for pull in wanted]
        answers = grouped or _ask_all(platform, run, queries, run_id, purpose)
        for pull, attempt in zip(wanted, answers, strict=True):
            pull.attempts.append(replace(attempt, requests=attempt.requests + spent))
            spent = 0
            done += position == 0
            if progress is not None:
                progress(done, total, attempt.symbol)
        known_at = max([known_at, *(pull.attempts[-1].fetched_at or now for pull in wanted)])
        earliest = min(pull.since(start) for pull in wanted)
        verdict = keep_attempts(platform, market, calendar, wanted, earliest, end, run_id)
        rows += len(verdict.clean)
        quarantined += verdict.rejected
        _book(wanted, verdict)
        for (name, _), bars in verdict.clean.groupby(["provider", "session"], observed=True):
            by_session.setdefault(str(name), {})[bars["session"].iloc[0].date()] = len(bars)
    if progress is not None:
        progress(total, total, "")
    return PullReport(
        market=market.name,
        start=start,
        end=end,
        run_id=run_id,
        providers=tuple(provider.name for provider in chain),
        symbols=tuple(pulls.values()),
        rows=rows,
        quarantined=quarantined,
        known_at=known_at,
        rows_by_session=by_session,
    )


def ask_grouped(
    platform: Platform,
    run: ProviderRun,
    market: MarketDefinition,
    pulls: Sequence[SymbolPull],
    today: date,
    run_id: str,
    purpose: Purpose,
) -> tuple[list[Attempt], int]:
    """A call a session instead of one a symbol, where the provider sells whole sessions and that is less to ask.

    No attempts where it is not, or where the provider refuses: then it is asked symbol by symbol. And the requests
    that the refusal has cost.
    """
    sessions = sorted({day for pull in pulls for day in pull.expected})
    if Capability.GROUPED_DAILY not in abilities_of(run.provider) or not 0 < len(sessions) < len(pulls):
        return [], 0
    attempts = []
    for session in sessions:
        attempts.append(
            converse(
                platform,
                run,
                Capability.GROUPED_DAILY,
                GroupedQuery(tuple(pull.instrument for pull in pulls), session, today),
                purpose=purpose,
                run_id=run_id,
                market=market.name,
                start=session,
                end=session,
            )
        )
        if not attempts[-1].outcome.delivered:
            return [], sum(attempt.requests for attempt in attempts)
    whole = merged([attempt.parsed for attempt in attempts if attempt.parsed is not None])
    rows = whole.bars if whole.bars is not None else empty_bars()
    requests = sum(attempt.requests for attempt in attempts)
    shares = [
        _share(attempts[-1], pull.instrument, rows[rows["symbol"] == pull.instrument.symbol], requests * (place == 0))
        for place, pull in enumerate(pulls)
    ]
    return shares, 0


def _share(whole: Attempt, instrument: Instrument, rows: pd.DataFrame, requests: int) -> Attempt:
    """One symbol's part of an answer about all of them."""
    outcome = Outcome.OK if len(rows) else Outcome.EMPTY_UNEXPECTED
    reason = "" if len(rows) else "not among the rows of the whole session"
    parsed = Parsed(outcome, reason, bars=rows.reset_index(drop=True))
    return replace(whole, symbol=instrument.symbol, outcome=outcome, reason=reason, requests=requests, parsed=parsed)


def _ask_all(
    platform: Platform, run: ProviderRun, queries: Sequence[DailyQuery], run_id: str, purpose: Purpose
) -> Iterator[Attempt]:
    """Attempts in the order of the queries. Whatever interrupts the caller also ends the waiting threads."""
    threads = ThreadPoolExecutor(WORKERS, thread_name_prefix=run.provider.name)
    try:
        yield from threads.map(lambda query: ask(platform, run, query, run_id, purpose), queries)
    finally:
        run.stop.set()
        threads.shutdown(wait=True, cancel_futures=True)


def keep_attempts(
    platform: Platform,
    market: MarketDefinition,
    calendar: TradingCalendar,
    pulls: Sequence[SymbolPull],
    start: date,
    end: date,
    run_id: str,
) -> Verdict:
    """Judges the newest attempt of each pull and stores the outcome in one transaction."""
    instruments = [pull.instrument for pull in pulls]
    symbols = [instrument.symbol for instrument in instruments]
    attempts = [pull.attempts[-1] for pull in pulls]
    with platform.database.connection() as connection:
        stored = read_actions(connection, market.name, symbols)
        known = {
            item.symbol: (item.known_from, item.known_through)
            for item in read_actions_known(connection, market.name, symbols)
        }
        traded = symbols_with_basis(connection, market.name, symbols, str(Basis.TRADED))
        frame = _delivered(market, attempts, stored, known, traded, calendar, start, end)
        fresh = [action for attempt in attempts if attempt.parsed is not None for action in attempt.parsed.actions]
        now = max((attempt.fetched_at for attempt in attempts if attempt.fetched_at), default=platform.clock())
        before = {
            symbol: PreviousClose(session, close)
            for symbol, (session, close) in previous_closes(connection, market.name, symbols, start).items()
        }
        verdict = judge(
            frame,
            calendar,
            instruments,
            now,
            previous_closes=before,
            actions=[*stored, *fresh],
            thresholds=market.quality.thresholds,
            off=market.quality.off,
        )
        verdict = pass_released(connection, verdict, market.name, calendar, now)
        write_provider_bars(connection, verdict.clean, now)
        if len(verdict.quarantined):
            quarantine_rows(connection, verdict.quarantined, market.name, run_id, now)
    return verdict


def _delivered(
    market: MarketDefinition,
    attempts: Sequence[Attempt],
    actions: Sequence[CorporateAction],
    known: dict[str, tuple[date, date]],
    traded: set[str],
    calendar: TradingCalendar,
    start: date,
    end: date,
) -> pd.DataFrame:
    """One frame of what the providers delivered, as traded wherever that can be told."""
    frames = []
    for attempt in attempts:
        if attempt.parsed is None or attempt.parsed.bars is None or attempt.fetched_at is None:
            continue
        bars = attempt.parsed.bars.assign(market=market.name, provider=attempt.provider, basis=str(attempt.basis))
        if attempt.basis is Basis.SPLIT_DIVIDEND:
            fetched_session = calendar.last_closed(attempt.fetched_at)
            own = [action for action in actions if action.symbol == attempt.symbol]
            bars = _as_traded(bars, own, known.get(attempt.symbol), attempt.symbol in traded, fetched_session)
        inside = bars["session"].between(pd.Timestamp(start), pd.Timestamp(end))
        frames.append(bars[inside])
    if not frames:
        return empty_provider_bars()
    return pd.concat(frames, ignore_index=True)


def _as_traded(
    bars: pd.DataFrame,
    actions: Sequence[CorporateAction],
    known: tuple[date, date] | None,
    in_traded_series: bool,
    fetched_session: date,
) -> pd.DataFrame:
    """Undoes adjustment where every action between a bar and the fetch is known: from the session before the
    known span on. The newest session, which nothing has adjusted yet, may always go on a series of traded prices;
    where there is none, it stays with the adjusted ones that came with it."""
    if known is not None and known[1] >= fetched_session:
        undoable = bars["session"] >= pd.Timestamp(known[0])
        usable = [action for action in actions if action.ex_date > known[0]]
    else:
        undoable, usable = (bars["session"] >= pd.Timestamp(fetched_session)) & in_traded_series, []
    undone = undo(bars[undoable], usable).assign(basis=str(Basis.TRADED)) if undoable.any() else bars[undoable]
    return pd.concat([bars[~undoable], undone], ignore_index=True)


def _book(asked: Sequence[SymbolPull], verdict: Verdict) -> None:
    """Writes down in the pulls which sessions the judged rows of their newest attempt cover."""
    pulls = {pull.instrument.symbol: pull for pull in asked}
    refused: dict[str, set[date]] = {symbol: set() for symbol in pulls}
    for (symbol, provider), rows in verdict.clean.groupby(["symbol", "provider"], observed=True):
        pull = pulls[str(symbol)]
        sessions = {stamp.date() for stamp in rows["session"]}
        new = len(sessions - pull.accepted)
        if new:
            pull.filled_by[str(provider)] = pull.filled_by.get(str(provider), 0) + new
        pull.accepted |= sessions
    for symbol, session, rule in verdict.quarantined[["symbol", "session", "rule"]].itertuples(index=False):
        if symbol in pulls and not pd.isna(session):
            pulls[symbol].rejected.setdefault(session.date(), rule)
            refused[symbol].add(session.date())
    for symbol, pull in pulls.items():
        if pull.attempts[-1].outcome.delivered:
            pull.denied |= pull.rejected.keys() - pull.expected - refused[symbol]
