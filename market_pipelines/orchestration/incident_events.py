"""What of Dagster's log is an incident: failed runs and red checks, and what says that they are over.

Nothing is written here: events come in the order in which they were stored, and each becomes a sighting, a recovery
or nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.errors import DagsterAssetCheckFailedError
from dagster._core.events import DagsterEventType, JobFailureData
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._serdes import deserialize_value
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import func, select

from market_pipelines.pipeline.incidents import Recovery
from market_pipelines.redaction import redact
from market_pipelines.settings import NotifySeverity, Settings
from market_pipelines.store.incidents import IncidentSeverity, Sighting

RUN_EVENTS = (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_SUCCESS)
CHECK_EVENTS = (DagsterEventType.ASSET_CHECK_EVALUATION,)
EVENTS_A_LOOK = 500
WAIT_FOR_A_RUN = timedelta(minutes=5)
"""The red checks of a run are told in one message: for so long its end is waited for."""

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_ADHOC_JOB = "__ASSET_JOB"
_DAYS = re.compile(r"(\d{4}-\d\d-\d\d) to (\d{4}-\d\d-\d\d)")
_MODULES = re.compile(r"^(?:\w+\.)+(?=\w+:)")
"""Before an error's own name."""

Change = Sighting | Recovery


@dataclass(frozen=True, slots=True)
class Event:
    number: int
    entry: dg.EventLogEntry

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.entry.timestamp, UTC)


# --- reading Dagster's log -------------------------------------------------------------------------------------


def events_between(
    instance: dg.DagsterInstance,
    after: int,
    upto: int,
    kinds: Sequence[DagsterEventType],
    since: datetime | None = None,
) -> list[Event]:
    """Events of several kinds in the order in which they were stored, which no question of Dagster's own gives: in
    SQLite it numbers check results by run."""
    events = SqlEventLogStorageTable.c
    query = (
        select(events.id, events.event)
        .where(events.id > after, events.id <= upto)
        .where(events.dagster_event_type.in_([kind.value for kind in kinds]))
        .order_by(events.id)
        .limit(EVENTS_A_LOOK)
    )
    if since is not None:
        query = query.where(events.timestamp >= since.astimezone(UTC).replace(tzinfo=None))
    with _storage(instance).index_connection() as connection:
        rows = connection.execute(query).fetchall()
    return [Event(int(number), deserialize_value(text, dg.EventLogEntry)) for number, text in rows]


def newest_event(instance: dg.DagsterInstance) -> int:
    with _storage(instance).index_connection() as connection:
        return int(connection.execute(select(func.max(SqlEventLogStorageTable.c.id))).scalar() or 0)


def name_of(instance: dg.DagsterInstance) -> str:
    """Of the instance whose events these are: another one, or one that was made anew, counts from one again."""
    storage = instance.run_storage
    return storage.get_run_storage_id() if isinstance(storage, SqlRunStorage) else type(storage).__name__


def _storage(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise dg.DagsterInvariantViolationError(
            f"{type(storage).__name__} keeps no events in tables: dagster.yaml of this platform names one that does"
        )
    return storage


def runs_of(instance: dg.DagsterInstance, events: Sequence[Event]) -> dict[str, dg.DagsterRun]:
    numbers = list({event.entry.run_id for event in events if event.entry.run_id})
    return {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=numbers))} if numbers else {}


def of_ended_runs(events: Sequence[Event], runs: Mapping[str, dg.DagsterRun], now: datetime) -> Sequence[Event]:
    """The events before the first one whose run is still under way, unless that takes too long."""
    for at, event in enumerate(events):
        run = runs.get(event.entry.run_id)
        if run is not None and run.status not in _ENDED and event.at > now - WAIT_FOR_A_RUN:
            return events[:at]
    return events


def is_ours(run: dg.DagsterRun, context: dg.SensorEvaluationContext) -> bool:
    """Of this code location; what was started without one, in a notebook or a test, is too."""
    here = context.code_location_origin
    if run.remote_job_origin is None or here is None:
        return True
    return run.remote_job_origin.location_name == here.location_name


# --- what an event means -----------------------------------------------------------------------------------------


def of_a_run(entry: dg.EventLogEntry, run: dg.DagsterRun, settings: Settings) -> Change | None:
    name = _name_of(run)
    span = span_of_tags(run.tags)
    if entry.get_dagster_event().event_type is DagsterEventType.RUN_SUCCESS:
        return Recovery(key=f"run:{name}", detail=f"The job succeeded{_about(span)}.", span=span, batch=_batch(run))
    if run.tags.get("dagster/will_retry") == "true" or _stopped_by_a_check(entry):
        # Its repetition tells how it ends; a check that stopped it is an incident by itself.
        return None
    return Sighting(
        key=f"run:{name}",
        title=f"{name} failed",
        detail=f"{_reason(entry)}{_about(span)}",
        source="runs",
        url=f"{settings.dagster_url}/runs/{run.run_id}",
        through=None if span is None else span[1],
    )


def of_a_check(check: AssetCheckEvaluation, run: dg.DagsterRun | None, settings: Settings) -> Change:
    asset = check.asset_key.to_user_string()
    key = f"check:{asset}:{check.check_name}"
    span = _span_of(check, run)
    serious = check.severity is dg.AssetCheckSeverity.ERROR or settings.notify_severity is NotifySeverity.WARNING
    detail = check.description or "The check gives no reason."
    if check.passed or not serious:
        words = detail if check.passed else f"Only a warning now: {detail}"
        return Recovery(key=key, detail=words, span=span, batch=_batch(run))
    place = f"runs/{run.run_id}" if run is not None else f"assets/{asset}?view=checks"
    return Sighting(
        key=key,
        title=f"{asset}: {check.check_name} is red",
        detail=f"{detail}{_about(span)}",
        severity=_SEVERITIES[check.severity],
        source="checks",
        url=f"{settings.dagster_url}/{place}",
        through=None if span is None else span[1],
        batch=_batch(run),
    )


_SEVERITIES = {
    dg.AssetCheckSeverity.ERROR: IncidentSeverity.ERROR,
    dg.AssetCheckSeverity.WARN: IncidentSeverity.WARNING,
}


def _name_of(run: dg.DagsterRun) -> str:
    """The job, or for assets that somebody chose by hand, which those were."""
    if run.job_name != _ADHOC_JOB:
        return run.job_name
    chosen = sorted(key.to_user_string() for key in run.asset_selection or ())
    text = " ".join(chosen) or "assets"
    return text if len(text) <= 100 else f"{text[:80]}… ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _batch(run: dg.DagsterRun | None) -> str | None:
    return None if run is None else f"run {run.run_id}"


def span_of_tags(tags: Mapping[str, str]) -> tuple[date, date] | None:
    """The sessions of a run; None for one that has none, or whose partitions are no days."""
    partition = tags.get("dagster/partition", "")
    try:
        return (
            date.fromisoformat(tags.get("dagster/asset_partition_range_start", partition)),
            date.fromisoformat(tags.get("dagster/asset_partition_range_end", partition)),
        )
    except ValueError:
        return None


def _span_of(check: AssetCheckEvaluation, run: dg.DagsterRun | None) -> tuple[date, date] | None:
    """What the check says it has looked at; otherwise what its run was about."""
    said = check.metadata.get("sessions")
    days = _DAYS.fullmatch(str(said.value)) if said is not None else None
    if days is not None:
        return date.fromisoformat(days[1]), date.fromisoformat(days[2])
    return None if run is None else span_of_tags(run.tags)


def _about(span: tuple[date, date] | None) -> str:
    if span is None:
        return ""
    return f" (session {span[1]})" if span[0] == span[1] else f" (sessions {span[0]} to {span[1]})"


def _stopped_by_a_check(entry: dg.EventLogEntry) -> bool:
    data = entry.get_dagster_event().event_specific_data
    step = data.first_step_failure_event if isinstance(data, JobFailureData) else None
    error = None if step is None else step.step_failure_data.error
    while error is not None and error.cls_name != DagsterAssetCheckFailedError.__name__:
        error = error.cause
    return error is not None


def _reason(entry: dg.EventLogEntry) -> str:
    """The first cause: what Dagster wraps around it says only where, not what."""
    event = entry.get_dagster_event()
    data = event.event_specific_data
    if isinstance(data, JobFailureData):
        step = data.first_step_failure_event
        if step is not None:
            where = f"in {step.step_key}: " if step.step_key else ""
            return where + (_first_cause(step.step_failure_data.error) or step.message or "")
        if data.error is not None:
            return _first_cause(data.error)
    return event.message or entry.user_message or "Dagster gives no reason."


def _first_cause(error: SerializableErrorInfo | None) -> str:
    while error is not None and error.cause is not None:
        error = error.cause
    return "" if error is None else redact(_MODULES.sub("", " ".join(error.message.split())))
