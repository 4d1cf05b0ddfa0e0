"""Bars within sessions: ask the market's providers, judge what they said, keep it by provider.

As `pull` does for daily bars: each further provider is asked for exactly the symbols that still lack a session.
A provider that answers a limited span at a time is asked in pieces; one that keeps no minutes of so long ago is
not asked for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import pandas as pd

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction, undo_splits
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import hours
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import empty_intraday
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality.intraday import IntradayVerdict, judge_intraday
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.actions import ask_actions
from market_pipelines.pipeline.fetch import Attempt, ProviderRun, converse, merged
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import NOTHING, WORKERS, Progress, PullReport, SymbolPull
from market_pipelines.pipeline.releases import pass_released_within
from market_pipelines.providers.protocol import Ability, Capability, DailyProvider, IntradayQuery, abilities_of
from market_pipelines.store.intraday import write_provider_intraday
from market_pipelines.store.quarantine import quarantine_rows
from market_pipelines.store.reference import read_actions, read_actions_known


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted of one market, whoever delivers it."""

    market: MarketDefinition
    calendar: TradingCalendar
    interval: str
    extended: bool
    start: date
    end: date
    today: date
    purpose: Purpose
    run_id: str


def offering(providers: Sequence[DailyProvider], interval: str) -> tuple[DailyProvider, ...]:
    """Those that have bars of this interval, in the same order."""
    return tuple(one for one in providers if interval in _intervals(one))


def _intervals(provider: DailyProvider) -> tuple[str, ...]:
    ability = abilities_of(provider).get(Capability.INTRADAY)
    return ability.intervals if ability is not None else ()


def spans(ability: Ability, interval: str, start: date, end: date, today: date) -> list[tuple[date, date]]:
    """The pieces in which a range is asked for: as long as one call may be, and no older than there is anything."""
    days_a_call, days_back = ability.reach.get(interval, (ability.days_a_call, ability.days_back))
    if days_back:
        start = max(start, today - timedelta(days=days_back))
    pieces = []
    while start <= end:
        last = min(end, start + timedelta(days=days_a_call - 1)) if days_a_call else end
        pieces.append((start, last))
        start = last + timedelta(days=1)
    return pieces


def pull_intraday(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str,
    extended: bool,
    run_id: str,
    purpose: Purpose = Purpose.REFRESH,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
    sought: Mapping[str, Collection[date]] = NOTHING,
) -> PullReport:
    """Asks for the sessions from `start` to `end` (both included) and keeps what the providers bring. `sought`: by
    symbol, sessions that are known holes."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    today = calendar.local_date(now)
    asked = Asked(
        market, calendar, interval, extended, max(start, market.since), min(end, today), today, purpose, run_id
    )
    closed = [day for day in calendar.sessions(asked.start, asked.end) if calendar.is_closed(day, now)]
    pulls = [
        SymbolPull(
            instrument,
            frozenset(day for day in closed if instrument.trades_on(day)),
            sought=frozenset(sought.get(instrument.symbol, ())),
        )
        for instrument in instruments
    ]
    answered: list[set[date]] = [set() for _ in pulls]
    """By pull: the sessions that some provider has spoken for, with bars or without."""
    day = hours(calendar, today) if calendar.is_session(today) else None
    under_way = day is not None and (day.begins if extended else day.opens) <= now and asked.end >= today
    early = day is not None and now < day.opens
    chain = offering(tuple(providers) if providers is not None else platform.chain(market), interval)
    done = rows = quarantined = 0
    by_session: dict[str, dict[date, int]] = {}
    known_at = now
    if progress is not None:
        progress(0, len(pulls), "")
    for position, provider in enumerate(chain):
        ability = abilities_of(provider)[Capability.INTRADAY]
        questions = {
            place: pieces
            for place, pull in enumerate(pulls)
            if provider.covers(pull.instrument)
            and (pieces := _pieces(ability, pull, asked, answered[place], under_way=under_way, early=early))
        }
        wanted = [pulls[place] for place in questions]
        if not wanted:
            continue
        attempts = _ask_all(platform, provider, wanted, list(questions.values()), asked)
        for place, attempt in zip(questions, attempts, strict=True):
            pull = pulls[place]
            pull.attempts.append(attempt)
            if attempt.outcome.delivered:
                answered[place] |= {
                    day for day in pull.expected for start, end in questions[place] if start <= day <= end
                }
            done += position == 0
            if progress is not None:
                progress(done, len(pulls), attempt.symbol)
        known_at = max([known_at, *(pull.attempts[-1].fetched_at or now for pull in wanted)])
        verdict = keep_intraday(platform, asked, wanted)
        rows += len(verdict.clean)
        quarantined += verdict.rejected
        _book(wanted, verdict)
        for (name, session), bars in verdict.clean.groupby(["provider", "session"], observed=True):
            by_session.setdefault(str(name), {})[pd.Timestamp(str(session)).date()] = len(bars)
    if progress is not None:
        progress(len(pulls), len(pulls), "")
    return PullReport(
        market=market.name,
        start=asked.start,
        end=asked.end,
        run_id=run_id,
        providers=tuple(provider.name for provider in chain),
        symbols=tuple(pulls),
        rows=rows,
        quarantined=quarantined,
        known_at=known_at,
        rows_by_session=by_session,
    )


def _pieces(
    ability: Ability, pull: SymbolPull, asked: Asked, answered: set[date], *, under_way: bool, early: bool
) -> list[tuple[date, date]]:
    """What a provider is asked for one symbol: all of the range, or after others what they did not speak for. That
    a share did not trade on some day is an answer too, but not about the newest session. Before the opening bell
    nobody else is asked about the session under way: many shares do not trade so early."""
    if not pull.attempts:
        wanted = asked.start <= asked.end and bool(pull.expected or under_way)
        return spans(ability, asked.interval, asked.start, asked.end, asked.today) if wanted else []
    newest = max(pull.expected, default=None)
    lacking = {day for day in pull.expected - pull.accepted if day not in answered or day == newest}
    lacking |= (pull.rejected.keys() | pull.sought) - pull.accepted
    if under_way and not pull.filled_by and not (early and _was_answered(pull.attempts[-1])):
        lacking.add(asked.today)
    return spans(ability, asked.interval, min(lacking), max(lacking), asked.today) if lacking else []


def _was_answered(attempt: Attempt) -> bool:
    return attempt.outcome.delivered or attempt.outcome is Outcome.EMPTY_UNEXPECTED


def _ask_all(
    platform: Platform,
    provider: DailyProvider,
    pulls: Sequence[SymbolPull],
    pieces: Sequence[Sequence[tuple[date, date]]],
    asked: Asked,
) -> Iterator[Attempt]:
    """Attempts in the order of the pulls. Whatever interrupts the caller also ends the waiting threads."""
    run = ProviderRun(provider)
    threads = ThreadPoolExecutor(WORKERS, thread_name_prefix=provider.name)
    try:
        yield from threads.map(
            lambda pull, mine: _ask_pieces(platform, run, pull.instrument, mine, asked), pulls, pieces
        )
    finally:
        run.stop.set()
        threads.shutdown(wait=True, cancel_futures=True)


def _ask_pieces(
    platform: Platform,
    run: ProviderRun,
    instrument: Instrument,
    pieces: Sequence[tuple[date, date]],
    asked: Asked,
) -> Attempt:
    """One symbol, piece by piece; a piece that fails is how all of it ended, what came before it is kept."""
    attempts: list[Attempt] = []
    asked_for_actions = _know_actions(platform, run, instrument, pieces[0][0], asked)
    for start, end in pieces:
        attempts.append(
            converse(
                platform,
                run,
                Capability.INTRADAY,
                IntradayQuery(instrument, asked.interval, start, end, asked.today, asked.extended),
                purpose=asked.purpose,
                run_id=asked.run_id,
                market=asked.market.name,
                symbol=instrument.symbol,
                start=start,
                end=end,
            )
        )
        if not _was_answered(attempts[-1]):
            break
    one = joined(attempts)
    return replace(one, requests=one.requests + asked_for_actions)


def _know_actions(platform: Platform, run: ProviderRun, instrument: Instrument, start: date, asked: Asked) -> int:
    """Makes sure that the splits since `start` are known where the provider adjusts for them; the requests it took."""
    if not actions_lacking(platform, asked.market, asked.calendar, run.provider, [instrument.symbol], start):
        return 0
    return ask_actions(
        platform, run, asked.market, instrument, start, asked.today, asked.run_id, asked.purpose
    ).requests


def joined(attempts: Sequence[Attempt]) -> Attempt:
    """The attempts of one symbol with one provider as one."""
    last = attempts[-1]
    if len(attempts) == 1:
        return last
    parsed = merged([one.parsed for one in attempts if one.parsed is not None])
    return Attempt(
        symbol=last.symbol,
        provider=last.provider if last.parsed is not None else attempts[0].provider,
        house_provider=last.house_provider,
        outcome=parsed.outcome if last.parsed is not None else last.outcome,
        reason=last.reason or parsed.reason,
        requests=sum(one.requests for one in attempts),
        basis=last.basis,
        parsed=parsed,
        fetched_at=max((one.fetched_at for one in attempts if one.fetched_at is not None), default=None),
    )


def keep_intraday(platform: Platform, asked: Asked, pulls: Sequence[SymbolPull]) -> IntradayVerdict:
    """Judges the newest attempt of each pull and stores the outcome in one transaction."""
    market = asked.market
    instruments = [pull.instrument for pull in pulls]
    symbols = [instrument.symbol for instrument in instruments]
    attempts = [pull.attempts[-1] for pull in pulls]
    now = max((attempt.fetched_at for attempt in attempts if attempt.fetched_at), default=platform.clock())
    with platform.database.connection() as connection:
        splits = [one for one in read_actions(connection, market.name, symbols) if one.kind is ActionKind.SPLIT]
        known = {
            item.symbol: (item.known_from, item.known_through)
            for item in read_actions_known(connection, market.name, symbols)
        }
        frames = [
            as_traded(attempt, asked.calendar, splits, known.get(attempt.symbol))
            for attempt in attempts
            if attempt.parsed is not None and attempt.parsed.bars is not None and len(attempt.parsed.bars)
        ]
        frame = pd.concat(frames, ignore_index=True) if frames else _nothing()
        frame = frame.assign(
            market=pd.Series(market.name, index=frame.index, dtype="str"),
            interval=pd.Series(asked.interval, index=frame.index, dtype="str"),
        )
        verdict = judge_intraday(
            frame,
            asked.interval,
            asked.calendar,
            instruments,
            now,
            thresholds=market.quality.thresholds,
            off=market.quality.off,
        )
        verdict = pass_released_within(
            connection,
            verdict,
            market.name,
            asked.interval,
            lambda rows, rules: judge_intraday(
                rows,
                asked.interval,
                asked.calendar,
                instruments,
                now,
                thresholds=market.quality.thresholds,
                off=market.quality.off | rules,
            ),
        )
        write_provider_intraday(connection, verdict.clean, now)
        if len(verdict.quarantined):
            quarantine_rows(connection, verdict.quarantined, market.name, asked.run_id, now)
    return verdict


def _nothing() -> pd.DataFrame:
    return empty_intraday().assign(provider=pd.Series(dtype="str"), basis=pd.Series(dtype="str"))


def as_traded(
    attempt: Attempt,
    calendar: TradingCalendar,
    splits: Sequence[CorporateAction],
    known: tuple[date, date] | None,
) -> pd.DataFrame:
    """The delivered bars under their provider's name, later splits undone where all of them are known."""
    if attempt.parsed is None or attempt.parsed.bars is None or attempt.fetched_at is None:
        return _nothing()
    bars = attempt.parsed.bars.assign(provider=attempt.provider, basis=str(attempt.basis))
    if attempt.basis is not Basis.SPLIT:
        return bars
    # The exchange's date stands in for the session: splits happen between sessions.
    dated = bars.assign(session=bars["ts"].dt.tz_convert(calendar.zone).dt.tz_localize(None).dt.normalize())
    dated["session"] = dated["session"].astype("datetime64[s]")
    if known is None or not _covers(known, dated["session"].min().date(), calendar, attempt.fetched_at):
        return bars
    own = [split for split in splits if split.symbol == attempt.symbol]
    return undo_splits(dated, own).assign(basis=str(Basis.TRADED)).drop(columns="session")


def actions_lacking(
    platform: Platform,
    market: MarketDefinition,
    calendar: TradingCalendar,
    provider: DailyProvider,
    symbols: Sequence[str],
    start: date,
) -> set[str]:
    """Those symbols whose actions have to be asked for before the provider's bars can be turned into traded ones."""
    abilities = abilities_of(provider)
    if abilities[Capability.INTRADAY].basis is not Basis.SPLIT or Capability.ACTIONS not in abilities:
        return set()
    now = platform.clock()
    with platform.database.connection() as connection:
        found = read_actions_known(connection, market.name, symbols)
    known = {item.symbol for item in found if _covers((item.known_from, item.known_through), start, calendar, now)}
    return set(symbols) - known


def _covers(known: tuple[date, date], start: date, calendar: TradingCalendar, moment: datetime) -> bool:
    """Whether every action from `start` until the moment is known."""
    return known[0] <= start and known[1] >= _last_closed_before(calendar, moment)


def _last_closed_before(calendar: TradingCalendar, moment: datetime) -> date:
    """The newest session that was over one session ago: the last one's actions may not have been asked for yet."""
    last = calendar.last_closed(moment)
    return calendar.sessions(last - timedelta(days=14), last)[-2:][0]


def _book(asked: Sequence[SymbolPull], verdict: IntradayVerdict) -> None:
    """Writes down in the pulls which sessions the judged bars of their newest attempt are in. A session of which
    a bar was refused has a hole, which the next provider may not have."""
    pulls = {pull.instrument.symbol: pull for pull in asked}
    refused = {
        (symbol, session.date())
        for symbol, session in verdict.quarantined[["symbol", "session"]].itertuples(index=False)
    }
    for (symbol, provider), rows in verdict.clean.groupby(["symbol", "provider"], observed=True):
        pull = pulls[str(symbol)]
        sessions = {pd.Timestamp(stamp).date() for stamp in rows["session"].unique().tolist()}
        sessions = {session for session in sessions if (symbol, session) not in refused}
        new = rows[~rows["session"].dt.date.isin(pull.accepted)]
        if len(new):
            pull.filled_by[str(provider)] = pull.filled_by.get(str(provider), 0) + len(new)
        pull.accepted |= sessions
    for symbol, session, rule in verdict.quarantined[["symbol", "session", "rule"]].itertuples(index=False):
        if symbol in pulls:
            pulls[symbol].rejected.setdefault(session.date(), rule)
