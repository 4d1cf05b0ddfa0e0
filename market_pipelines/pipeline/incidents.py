"""Incidents: opened once however often something is seen, closed once it is over, told once each way.

The rule against alarm storms: a recovery counts when it has lasted `NOTIFY_SETTLE_MINUTES`. What breaks again
sooner is the same incident, nobody is told of either, and the next word is that of the lasting recovery. How a
message reads and goes out is in `notices`; who sees what in Dagster is decided in `orchestration`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from market_pipelines.pipeline.notices import Message, Target, send, targets_of, written
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.database import Transaction
from market_pipelines.store.incidents import (
    Incident,
    IncidentSeverity,
    NoticeKind,
    Outbox,
    Sighting,
    UnknownIncident,
    Waiting,
    close,
    give_up,
    incident,
    keep_position,
    lock_keys,
    lock_target,
    mark_failed,
    mark_sent,
    open_incident_of,
    outbox,
    position,
    read_incidents,
    saw,
    take_due,
)

MESSAGES_A_DELIVERY = 20
"""To each target."""
SECONDS_A_DELIVERY = 20.0
"""A sensor has a minute, and the last message begun may take half of it."""
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=15)
GIVE_UP_AFTER = timedelta(days=3)
CURRENT = timedelta(days=7)
"""Something that is wrong with a session this young is over as soon as a newer session is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Something is well."""

    key: str
    detail: str = ""
    span: tuple[date, date] | None = None
    """The sessions that were looked at; None where it is not about sessions."""
    batch: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    opened: int
    repeated: int
    closed: int


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    sent: int
    """Messages that a service took."""
    failed: int
    given_up: int
    """Notifications that are not tried any more."""
    waiting: int
    errors: tuple[str, ...]
    """Target and reason of each message that failed."""


@dataclass(frozen=True, slots=True)
class TargetTest:
    target: str
    error: str
    """Empty when it worked."""


def open_incident(
    platform: Platform,
    key: str,
    title: str,
    detail: str,
    *,
    severity: str = "error",
    source: str,
    url: str | None = None,
    through: date | None = None,
) -> bool:
    """True when it is new. One that is open already is counted up and told nobody again."""
    sighting = Sighting(
        key=key,
        title=title,
        detail=detail,
        severity=IncidentSeverity(severity),
        source=source,
        url=url,
        through=through,
    )
    return record(platform, [sighting]).opened == 1


def close_incident(platform: Platform, key: str, detail: str = "") -> bool:
    """True when it was open: whoever was told of it is told that it is over, once that has lasted."""
    return record(platform, [Recovery(key=key, detail=detail)]).closed == 1


def open_incidents(platform: Platform) -> list[Incident]:
    """The newest first."""
    return all_incidents(platform, open_only=True)


def all_incidents(platform: Platform, *, open_only: bool = False, limit: int = 1000) -> list[Incident]:
    with platform.database.connection() as connection:
        return read_incidents(connection, open_only=open_only, limit=limit)


def outbox_state(platform: Platform) -> Outbox:
    with platform.database.connection() as connection:
        return outbox(connection)


def close_by_hand(platform: Platform, incident_id: int, detail: str) -> Incident:
    """`UnknownIncident` where there is none with that number or it is over already."""
    with platform.database.connection() as connection:
        found = incident(connection, incident_id)
        lock_keys(connection, [found.key])
        if not close(connection, incident_id, detail, platform.clock(), _settle(platform)):
            raise UnknownIncident(f"incident {incident_id} ({found.title}) is over already")
        return incident(connection, incident_id)


def record(platform: Platform, changes: Sequence[Sighting | Recovery]) -> Recorded:
    """In the order given, all or none of it."""
    with platform.database.connection() as connection:
        return _record(platform, connection, changes)


def record_once(
    platform: Platform, source: str, changes: Sequence[Sighting | Recovery], before: str | None, after: str
) -> Recorded | None:
    """As `record`, and remembers in the same transaction that the source was read up to `after`. None, and nothing
    is done, where it is no longer at `before`: somebody else has recorded them."""
    with platform.database.connection() as connection:
        if position(connection, source) != before:
            return None
        recorded = _record(platform, connection, changes)
        keep_position(connection, source, after, platform.clock())
        return recorded


def read_up_to(platform: Platform, source: str) -> str | None:
    with platform.database.connection() as connection:
        return position(connection, source)


def is_over(one: Incident, span: tuple[date, date] | None) -> bool:
    """Whether finding these sessions well ends the incident. A backfill of old ones does not end one of today."""
    if span is None or one.through is None:
        return True
    start, end = span
    if end < one.through:
        return False
    return start <= one.through or one.through >= one.opened_at.date() - CURRENT


def _record(platform: Platform, connection: Transaction, changes: Sequence[Sighting | Recovery]) -> Recorded:
    now, settle = platform.clock(), _settle(platform)
    names = [target.name for target in targets_of(platform.settings)]
    lock_keys(connection, [change.key for change in changes])
    opened = repeated = closed = 0
    for change in changes:
        if isinstance(change, Sighting):
            told = names if change.severity is IncidentSeverity.ERROR or _tells_warnings(platform) else []
            new = saw(connection, change, now, settle, told)
            opened, repeated = opened + new, repeated + (not new)
            continue
        found = open_incident_of(connection, change.key)
        if found is not None and is_over(found, change.span):
            closed += close(connection, found.incident_id, change.detail, now, settle, change.batch)
    return Recorded(opened, repeated, closed)


def _settle(platform: Platform) -> timedelta:
    return timedelta(minutes=platform.settings.notify_settle_minutes)


def _tells_warnings(platform: Platform) -> bool:
    return platform.settings.notify_severity == IncidentSeverity.WARNING.value


# --- delivery ------------------------------------------------------------------------------------------------


def deliver(
    platform: Platform, *, limit: int = MESSAGES_A_DELIVERY, seconds: float = SECONDS_A_DELIVERY
) -> DeliveryReport:
    """Sends what is due, at most `limit` messages to each target, and begins none after `seconds`.
    At least once: a process that is killed between the service's answer and the note of it sends that one again."""
    targets = targets_of(platform.settings)
    now = platform.clock()
    with platform.database.connection() as connection:
        given_up = give_up(connection, now, now - GIVE_UP_AFTER, [target.name for target in targets])
    sent, errors = 0, []
    deadline = time.monotonic() + seconds
    for target in targets:
        for _ in range(limit):
            if time.monotonic() > deadline:
                break
            outcome = _deliver_one(platform, target)
            if outcome is None:
                break
            if outcome:
                # What is down for one message is down for the next: they wait for the next delivery.
                errors.append(f"{target.name}: {outcome}")
                break
            sent += 1
    return DeliveryReport(sent, len(errors), given_up, outbox_state(platform).waiting, tuple(errors))


def _deliver_one(platform: Platform, target: Target) -> str | None:
    """The error, empty where there is none; None where nothing is due, or somebody else delivers to it."""
    with platform.database.connection() as connection:
        if not lock_target(connection, target.name):
            return None
        due = take_due(connection, target.name, platform.clock())
        if not due:
            return None
        message = written(due[0].kind, [one.incident for one in due], simulated=platform.simulated)
        error = send(target, message)
        numbers = [one.notification_id for one in due]
        if error:
            mark_failed(connection, numbers, error, platform.clock() + _pause(due))
        else:
            mark_sent(connection, numbers, platform.clock())
    return error


def _pause(due: Sequence[Waiting]) -> timedelta:
    doublings = min(max(one.attempts for one in due), 10)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def send_test(platform: Platform) -> tuple[TargetTest, ...]:
    """A message to every target, outside the outbox."""
    now: datetime = platform.clock()
    body = f"Sent by `market-pipelines incidents test` at {now:%Y-%m-%d %H:%M} UTC. Nothing is wrong."
    message = Message("market_pipelines: a test", body, NoticeKind.OPENED, IncidentSeverity.WARNING)
    return tuple(TargetTest(target.name, send(target, message)) for target in targets_of(platform.settings))
