"""The holes of a market: found against the calendar, written down, and told of. Nobody is asked for anything here.

What a hole is, and when it is asked for, is decided in `market.repair`; asking is `pipeline.repair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from market_pipelines.market.cadence import Cycle, daily_cycle, due_at, intraday_cycle
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.repair import Ask, Cause, Key, Survey, asks, survey
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.breaker import State
from market_pipelines.pipeline.estimate import unready
from market_pipelines.pipeline.incidents import Recovery, open_incidents, record
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull_intraday import offering
from market_pipelines.pipeline.quota import day_quota, provider_quotas
from market_pipelines.store.database import Transaction
from market_pipelines.store.holes import (
    Closure,
    closures,
    declare_closure,
    end_holes,
    heal_holes,
    lacking,
    read_holes,
    undo_closure,
    voices,
    write_holes,
)
from market_pipelines.store.incidents import IncidentSeverity, Sighting

SETTLING = timedelta(minutes=60)
"""A bar is a hole when it has been due for so long: whoever fetches it regularly goes first."""
A_DAY = timedelta(days=1)
_MAYBE_TOO_YOUNG = 10
_INCIDENT_SOURCE = "repair"
_TROUBLE = frozenset({Cause.OUTAGE, Cause.CLOSURE, Cause.INCOMPLETE})


class NoSession(Exception):
    """A closure was declared for a date that is no session anyway."""


@dataclass(frozen=True)
class IntervalOutlook:
    interval: str
    survey: Survey
    healed: tuple[Key, ...]
    """Holes that this look found filled, whoever had brought the bar."""
    asks: tuple[Ask, ...]
    """Everything that is due, without a budget."""


@dataclass(frozen=True)
class Outlook:
    """The holes of a market at an instant."""

    market: str
    at: datetime
    window: tuple[date, ...]
    """The sessions among which holes are looked for; the daily ones."""
    intervals: tuple[IntervalOutlook, ...]
    unwell: str
    """Why nobody can be asked now; empty where somebody can."""
    closures: tuple[Closure, ...]

    @property
    def due(self) -> int:
        """Symbols that could be asked for now."""
        return 0 if self.unwell else sum(len(one.asks) for one in self.intervals)

    @property
    def holes(self) -> int:
        return sum(len(one.survey.holes) for one in self.intervals)

    @property
    def incidents(self) -> int:
        return sum(len(one.survey.incidents) for one in self.intervals)

    @property
    def new(self) -> int:
        return sum(len(one.survey.new) for one in self.intervals)

    @property
    def healed(self) -> int:
        return sum(len(one.healed) for one in self.intervals)

    @property
    def next_ask(self) -> datetime | None:
        times = [row.next_ask for one in self.intervals for row in (*one.survey.holes, *one.survey.incidents)]
        return min(times, default=None)


def find_holes(platform: Platform, market: MarketDefinition, *, notify: bool = True) -> Outlook:
    """Looks at what is stored, writes down what is new and what has healed, and says what is due. Asks nobody."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    troubled = _troubled(platform, market)
    outlooks, windows = [], []
    for cycle in _cycles(platform, market):
        windows.append(_window(market, cycle, calendar, now))
        with platform.database.connection() as connection:
            since = windows[-1][0] if windows[-1] else None
            healed = heal_holes(connection, market.name, cycle.interval, now, start=since)
            found = _survey(connection, market, cycle.interval, calendar, windows[-1], troubled, now)
            _write(connection, market, cycle.interval, found, now)
        outlooks.append(IntervalOutlook(cycle.interval, found, tuple(healed), asks(found, now)))
    with platform.database.connection() as connection:
        declared = closures(connection, market.name)
    outlook = Outlook(
        market=market.name,
        at=now,
        window=windows[0],
        intervals=tuple(outlooks),
        unwell=_unwell(platform, market),
        closures=tuple(declared),
    )
    if notify:
        _tell(platform, market, outlook)
    return outlook


def _survey(
    connection: Transaction,
    market: MarketDefinition,
    interval: str,
    calendar: TradingCalendar,
    window: Sequence[date],
    troubled: Sequence[str],
    now: datetime,
) -> Survey:
    if not window:
        return survey((), (), market.repair, now, {})
    lacks = lacking(connection, market.name, interval, market.everything, window, since=window[0])
    closes = {
        lack.session: calendar.times(lack.session).closes
        for lack in lacks
        if lack.is_incident(market.repair.outage_share)
    }
    known = read_holes(connection, market.name, interval, start=window[0], end=window[-1])
    said = voices(connection, market.name, interval, closes)
    return survey(lacks, known, market.repair, now, said, troubled)


def _write(connection: Transaction, market: MarketDefinition, interval: str, found: Survey, now: datetime) -> None:
    write_holes(connection, market.name, interval, [*found.new, *found.changed])
    whole = [row.key for row in found.ended if row.is_incident]
    rest = [row.key for row in found.ended if not row.is_incident]
    end_holes(connection, market.name, interval, whole, "no longer much of the market", now)
    end_holes(connection, market.name, interval, rest, "no longer expected", now)


def _cycles(platform: Platform, market: MarketDefinition) -> tuple[Cycle, ...]:
    within = intraday_cycle(market)
    if within is None or not offering(platform.chain(market), within.interval):
        return (daily_cycle(market),)
    return daily_cycle(market), within


def _window(market: MarketDefinition, cycle: Cycle, calendar: TradingCalendar, now: datetime) -> tuple[date, ...]:
    """The sessions whose bars should have been there for some time, as many as the plan says."""
    patience = SETTLING + (A_DAY if cycle.daily and market.cadence.daily_cron is not None else timedelta())
    sessions = calendar.sessions(market.since, calendar.local_date(now))
    # More than the last few are never too young.
    late = [session for session in sessions[-_MAYBE_TOO_YOUNG:] if due_at(cycle, calendar, session) + patience <= now]
    return (*sessions[:-_MAYBE_TOO_YOUNG], *late)[-market.repair.window_sessions :]


def _troubled(platform: Platform, market: MarketDefinition) -> tuple[str, ...]:
    quotas = provider_quotas(platform)
    return tuple(
        provider.name for provider in platform.chain(market) if quotas[provider.name].breaker.state is not State.CLOSED
    )


def _unwell(platform: Platform, market: MarketDefinition) -> str:
    """Why none of the market's providers can be asked now; empty where one can."""
    quotas = provider_quotas(platform)
    reasons = []
    for provider in platform.chain(market):
        if not any(provider.covers(instrument) for instrument in market.everything):
            continue
        quota = quotas[provider.name]
        reason = unready(platform, provider)
        if not reason and quota.breaker.state is State.OPEN:
            reason = f"fails ({quota.breaker.reason or 'unknown'})"
        if not reason and day_quota(platform, quota).left_for(Purpose.BACKFILL) == 0:
            reason = "has nothing left of today's quota"
        if not reason:
            return ""
        reasons.append(f"{provider.name}: {reason}")
    return "no provider can be asked: " + "; ".join(reasons)


def close_session(platform: Platform, market: MarketDefinition, session: date, note: str = "") -> bool:
    """Takes a person's word that the exchange was closed; whether that is news."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    if not calendar.is_session(session):
        raise NoSession(f"{session} is no session of {market.mic}: nothing is expected of it")
    with platform.database.connection() as connection:
        fresh = declare_closure(connection, market.name, session, note, now)
    record(platform, [Recovery(key=incident_key(market, session), detail="a closure, as a person has said")])
    return fresh


def reopen_session(platform: Platform, market: MarketDefinition, session: date) -> bool:
    """Takes it back; the next look finds what is lacking."""
    with platform.database.connection() as connection:
        return undo_closure(connection, market.name, session)


def incident_key(market: MarketDefinition, session: date) -> str:
    return f"repair:{market.name}:{session}"


def _tell(platform: Platform, market: MarketDefinition, outlook: Outlook) -> None:
    """One incident a session, whatever it lacks; over when it is no longer much of the market."""
    troubles: dict[date, list[str]] = {}
    for one in outlook.intervals:
        for row in one.survey.incidents:
            if row.cause in _TROUBLE:
                troubles.setdefault(row.session, []).append(
                    f"{one.interval}: {row.lacking} of {row.expected} symbols lack it; {row.cause.value}: {row.reason}"
                )
    known = {one.key for one in open_incidents(platform)}
    mine = {key for key in known if key.startswith(f"repair:{market.name}:")}
    current = {incident_key(market, session): session for session in troubles}
    changes: list[Sighting | Recovery] = [
        Sighting(
            key=key,
            title=f"{market.title}: much of the market lacks {session}",
            detail="; ".join(troubles[session]),
            severity=IncidentSeverity.ERROR,
            source=_INCIDENT_SOURCE,
            url=None,
            through=session,
        )
        for key, session in current.items()
        if key not in mine
    ]
    changes += [Recovery(key=key, detail="the session is there") for key in sorted(mine - current.keys())]
    if changes:
        record(platform, changes)
