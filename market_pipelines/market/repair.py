"""When a hole is asked for again: what is new, what is due, what one run may ask for, and what an answer teaches.

A hole is a bar that should be stored and is not. A session that much of the market lacks is one incident and not
a hole for every symbol. Pure: what is lacking is handed in, and what was decided is handed back as rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum

from market_pipelines.market.definition import RepairPlan
from market_pipelines.market.outcomes import Outcome

WHOLE_MARKET = ""
"""In place of a symbol, where a row is about a session of the whole market."""
PROBES = 3
"""Symbols that are asked for a session on which the exchange seems to have been closed."""
_LEAST_OF_AN_INCIDENT = 2

ANSWERED = frozenset({Outcome.OK, Outcome.EMPTY_EXPECTED, Outcome.EMPTY_UNEXPECTED, Outcome.UNKNOWN_SYMBOL})
"""Somebody has said what there is. Anything else says nothing about the hole."""

Key = tuple[str, date]


class Cause(StrEnum):
    HOLE = "hole"
    OUTAGE = "outage"
    """A provider failed for everything it was asked."""
    CLOSURE = "closure"
    """Everybody answered and nobody has a row: the exchange may have been closed."""
    INCOMPLETE = "incomplete"
    """Everybody answered, and much of the market is missing all the same."""
    NOT_ASKED = "not_asked"
    """Nobody has been asked since the session closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """What is known of a hole; a row of the ledger. With `WHOLE_MARKET` for a symbol: of an incident."""

    symbol: str
    session: date
    cause: Cause
    first_seen: datetime
    next_ask: datetime
    last_asked: datetime | None = None
    times_asked: int = 0
    confirmed_at: datetime | None = None
    reason: str = ""
    lacking: int = 1
    expected: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "cause", Cause(self.cause))

    @property
    def key(self) -> Key:
        return self.symbol, self.session

    @property
    def is_incident(self) -> bool:
        return self.symbol == WHOLE_MARKET

    def due(self, now: datetime) -> bool:
        return self.next_ask <= now


@dataclass(frozen=True, slots=True)
class Lack:
    """What one session lacks now."""

    session: date
    expected: int
    """Symbols that should have it."""
    symbols: frozenset[str]
    """Those that do not."""

    def is_incident(self, share: float) -> bool:
        """A lone symbol is a hole, however few there are of them."""
        return len(self.symbols) >= max(_LEAST_OF_AN_INCIDENT, share * self.expected)


@dataclass(frozen=True, slots=True)
class Voice:
    """How one provider has fared with a session since it closed."""

    provider: str
    asked: int
    """Symbols."""
    answered: int
    last_outcome: Outcome


@dataclass(frozen=True, slots=True)
class Survey:
    """The holes of one interval now, against what was known of them."""

    holes: tuple[Hole, ...]
    """Of one symbol each, outside of incidents; what was known and what is new."""
    incidents: tuple[Hole, ...]
    lacking: Mapping[date, Lack]
    """Of the sessions of the incidents."""
    within: Mapping[Key, Hole]
    """Rows of symbols in sessions that are incidents: when they were last asked for there."""
    new: tuple[Hole, ...]
    """Of the holes and incidents those that nobody knew of."""
    changed: tuple[Hole, ...]
    """Incidents of which something else is known than before."""
    ended: tuple[Hole, ...]
    """Rows that are about nothing any more: nothing is lacking there, or it is no longer an incident."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The sessions that one symbol is to be asked for, in one run."""

    symbol: str
    sessions: tuple[date, ...]
    """Oldest first; all of them are lacking."""
    since: datetime
    """When the first of them became due."""

    @property
    def span(self) -> tuple[date, date]:
        return self.sessions[0], self.sessions[-1]


def again(plan: RepairPlan) -> timedelta:
    return timedelta(hours=plan.again_hours)


def confirmed(plan: RepairPlan) -> timedelta:
    return max(timedelta(days=plan.confirmed_days), again(plan))


def survey(
    lacks: Collection[Lack],
    known: Collection[Hole],
    plan: RepairPlan,
    now: datetime,
    voices: Mapping[date, Sequence[Voice]],
    troubled: Sequence[str] = (),
) -> Survey:
    """Compares what is lacking with what is known. `known` are open rows about the sessions of `lacks`; `troubled`
    are providers that are left alone at present."""
    by_key = {row.key: row for row in known}
    incidents = {lack.session: lack for lack in lacks if lack.is_incident(plan.outage_share)}
    new: list[Hole] = []
    found: list[Hole] = []
    rows: list[Hole] = []
    for session, lack in sorted(incidents.items()):
        cause, reason = cause_of(lack, voices.get(session, ()), troubled)
        old = by_key.get((WHOLE_MARKET, session))
        if old is None:
            row = Hole(
                symbol=WHOLE_MARKET,
                session=session,
                cause=cause,
                reason=reason,
                first_seen=now,
                next_ask=now + again(plan),
                lacking=len(lack.symbols),
                expected=lack.expected,
            )
            new.append(row)
        else:
            row = replace(old, cause=cause, reason=reason, lacking=len(lack.symbols), expected=lack.expected)
            if _no_longer_a_closure(old, row):
                # Somebody has a row after all: the whole session is asked for, and not in a week.
                row = replace(row, confirmed_at=None, next_ask=min(row.next_ask, now + again(plan)))
        rows.append(row)
    for lack in sorted(lacks, key=lambda one: one.session):
        if lack.session in incidents:
            continue
        for symbol in sorted(lack.symbols):
            old = by_key.get((symbol, lack.session))
            if old is None:
                # What is left of an incident is as old as the incident was.
                before = by_key.get((WHOLE_MARKET, lack.session))
                old = Hole(
                    symbol=symbol,
                    session=lack.session,
                    cause=Cause.HOLE,
                    first_seen=before.first_seen if before else now,
                    next_ask=before.next_ask if before else now + again(plan),
                )
                new.append(old)
            found.append(old)
    lacking_now = {(symbol, lack.session) for lack in lacks for symbol in lack.symbols}
    lacking_now |= {(WHOLE_MARKET, session) for session in incidents}
    within = {key: row for key, row in by_key.items() if key[1] in incidents and not row.is_incident}
    after = [_round_over(row, incidents[row.session], within, plan, now) for row in rows]
    fresh = {row.session for row in new if row.is_incident}
    return Survey(
        holes=tuple(found),
        incidents=tuple(after),
        lacking=incidents,
        within=within,
        new=tuple(new),
        changed=tuple(
            row for row in after if row.session not in fresh and row != by_key.get((WHOLE_MARKET, row.session))
        ),
        ended=tuple(row for key, row in sorted(by_key.items(), key=_by_session) if key not in lacking_now),
    )


def _no_longer_a_closure(old: Hole, row: Hole) -> bool:
    return old.cause is Cause.CLOSURE and row.cause is not Cause.CLOSURE


def _by_session(item: tuple[Key, Hole]) -> tuple[date, str]:
    return item[0][1], item[0][0]


def cause_of(lack: Lack, voices: Sequence[Voice], troubled: Sequence[str] = ()) -> tuple[Cause, str]:
    """Why so many symbols lack a session, and in words."""
    asked = [voice for voice in voices if voice.asked]
    if not asked:
        if troubled:
            return Cause.OUTAGE, f"left alone since it fails: {', '.join(troubled)}"
        return Cause.NOT_ASKED, "nobody has been asked since it closed"
    failed = [voice for voice in asked if not voice.answered]
    if failed:
        words = ", ".join(f"{one.provider} for {one.asked} symbols ({one.last_outcome.value})" for one in failed)
        return Cause.OUTAGE, f"failed: {words}"
    names = ", ".join(voice.provider for voice in asked)
    if len(lack.symbols) == lack.expected:
        return Cause.CLOSURE, f"{names} answered, and nobody has a row"
    return Cause.INCOMPLETE, f"{names} answered, without {len(lack.symbols)} of {lack.expected} symbols"


def asks(found: Survey, now: datetime, budget: int | None = None) -> tuple[Ask, ...]:
    """What to ask for now: oldest due first, then by symbol; no more symbols than the budget."""
    due: dict[str, list[tuple[datetime, date]]] = {}
    for hole in found.holes:
        if hole.due(now):
            due.setdefault(hole.symbol, []).append((hole.next_ask, hole.session))
    for incident in found.incidents:
        for symbol in outstanding(found, incident, now):
            due.setdefault(symbol, []).append((incident.next_ask, incident.session))
    chosen = [
        Ask(symbol, tuple(sorted({session for _, session in wanted})), min(since for since, _ in wanted))
        for symbol, wanted in due.items()
    ]
    chosen.sort(key=lambda one: (one.since, one.symbol))
    return tuple(chosen if budget is None else chosen[: max(0, budget)])


def outstanding(found: Survey, incident: Hole, now: datetime) -> tuple[str, ...]:
    """The symbols of an incident that have not been asked for since it became due: all that lack the session, or of
    a session without any trade a few."""
    return _outstanding(incident, found.lacking[incident.session], found.within) if incident.due(now) else ()


def _round_over(row: Hole, lack: Lack, within: Mapping[Key, Hole], plan: RepairPlan, now: datetime) -> Hole:
    """Everybody has been asked since it became due, by whomever, and it is still there."""
    if not row.due(now) or _outstanding(row, lack, within):
        return row
    return asked_in_vain(row, row.key, plan, now, answered=True)


def _outstanding(incident: Hole, lack: Lack, within: Mapping[Key, Hole]) -> tuple[str, ...]:
    symbols = sorted(lack.symbols)
    if incident.cause is Cause.CLOSURE:
        first = incident.times_asked * PROBES % len(symbols)
        symbols = [*symbols[first:], *symbols[:first]][:PROBES]
    return tuple(symbol for symbol in symbols if not _asked_since_due(within.get((symbol, incident.session)), incident))


def _asked_since_due(row: Hole | None, incident: Hole) -> bool:
    return row is not None and row.last_asked is not None and row.last_asked >= incident.next_ask


def asked_in_vain(
    row: Hole | None,
    key: Key,
    plan: RepairPlan,
    now: datetime,
    *,
    answered: bool,
    sent: bool = True,
    seen: datetime | None = None,
) -> Hole:
    """The row after somebody was asked for it and it is still there. `seen`: since when, of a row that is new;
    `sent`: a request went out, and was not kept back by a limit.

    An answer confirms what was seen before. No answer says nothing; each one in a row doubles the wait.
    """
    if row is None:
        first_seen = seen or now
        row = Hole(symbol=key[0], session=key[1], cause=Cause.HOLE, first_seen=first_seen, next_ask=now)
    if not sent and not answered:
        return replace(row, next_ask=now + again(plan))
    times = row.times_asked + 1
    if answered and row.first_seen + again(plan) <= now:
        return replace(
            row,
            last_asked=now,
            times_asked=times,
            confirmed_at=row.confirmed_at or now,
            next_ask=now + confirmed(plan),
        )
    doublings = 0 if answered else min(times - 1, 16)
    wait = min(again(plan) * 2**doublings, confirmed(plan))
    return replace(row, last_asked=now, times_asked=times, next_ask=now + wait)
