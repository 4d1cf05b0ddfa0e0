"""Failed runs and red checks become incidents, incidents become messages: three sensors, each with a position.

How far events were read is kept in our database, in the transaction of what was made of them, so that a sensor
killed between the two neither loses an incident nor counts one twice. Delivery has a sensor of its own: a receiver
that is slow or down holds up nobody else, and what other sensors and commands open goes out by the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg
import pandas as pd
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.events import DagsterEventType

from market_pipelines.orchestration.incident_events import (
    CHECK_EVENTS,
    EVENTS_A_LOOK,
    RUN_EVENTS,
    Change,
    Event,
    events_between,
    is_ours,
    name_of,
    newest_event,
    of_a_check,
    of_a_run,
    of_ended_runs,
    runs_of,
)
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.incidents import (
    DeliveryReport,
    Recorded,
    all_incidents,
    deliver,
    outbox_state,
    read_up_to,
    record_once,
)
from market_pipelines.pipeline.platform import Platform
from market_pipelines.redaction import redact
from market_pipelines.store.incidents import Incident, Outbox

INCIDENTS = dg.AssetKey(["platform", "incidents"])
SECONDS = 30
FIRST_LOOK_BACK = timedelta(days=1)
"""How old an event may be that a new installation still makes an incident of."""
SHOWN = 100


def notifications() -> dg.Definitions:
    return dg.Definitions(assets=[_incidents_asset()], sensors=[failed_runs, red_checks, deliveries])


def _incidents_asset() -> dg.AssetSpec:
    return dg.AssetSpec(
        INCIDENTS,
        description="What is wrong now: failed runs, red checks, an unhealthy platform. Each is told once, and once "
        "more when it is over (`NOTIFY_URLS`). Observed whenever the list changes.",
        group_name="platform",
        kinds={"postgres"},
        owners=["team:market-data"],
        tags={"layer": "operations"},
    )


# --- the sensors ---------------------------------------------------------------------------------------------


@dg.sensor(
    name="failed_runs",
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A job that fails opens an incident, however often it fails; its next success closes it.",
)
def failed_runs(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    with platform.opened(asks=False) as opened:
        return _look(context, opened, _RUNS)


@dg.sensor(
    name="red_checks",
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A check that fails with an error opens an incident (with a warning too, where NOTIFY_SEVERITY says "
    "so); it passes again, and the incident is closed. The checks of one run are told in one message.",
)
def red_checks(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    with platform.opened(asks=False) as opened:
        return _look(context, opened, _CHECKS)


@dg.sensor(
    name="notifications",
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends what the outbox holds, again and again until it is taken, and shows the open incidents.",
)
def deliveries(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    with platform.opened(asks=False) as opened:
        report = deliver(opened)
        incidents = all_incidents(opened, limit=SHOWN)
        waiting = outbox_state(opened)
    for error in report.errors:
        context.log.warning(f"not delivered: {error}")
    state = _fingerprint(incidents, waiting)
    changed = state != context.cursor
    return dg.SensorResult(
        skip_reason=_delivered(report, incidents),
        cursor=state,
        asset_events=[_observation(incidents, waiting)] if changed else [],
    )


@dataclass(frozen=True, slots=True)
class _Stream:
    name: str
    kinds: tuple[DagsterEventType, ...]


_RUNS = _Stream("runs", RUN_EVENTS)
_CHECKS = _Stream("checks", CHECK_EVENTS)


def _look(context: dg.SensorEvaluationContext, platform: Platform, stream: _Stream) -> dg.SensorResult:
    """One round over the events since the last one. A new installation begins with those of the last day, of which
    only the newest of each job and check counts."""
    instance, now = context.instance, platform.clock()
    source = f"dagster:{name_of(instance)}:{stream.name}"
    before = read_up_to(platform, source)
    newest = newest_event(instance)
    since = now - FIRST_LOOK_BACK if before is None else None
    events = events_between(instance, int(before or 0), newest, stream.kinds, since)
    runs = runs_of(instance, events)
    taken = events if stream is _RUNS else of_ended_runs(events, runs, now)
    changes = [change for event in taken if (change := _change(context, platform, event, runs)) is not None]
    if before is None:
        changes = list({change.key: change for change in changes}.values())
    if len(taken) < len(events):
        after = events[len(taken)].number - 1
    else:
        after = events[-1].number if len(events) == EVENTS_A_LOOK else newest
    recorded = None
    if taken or before is None:
        recorded = record_once(platform, source, changes, before, str(after))
    return dg.SensorResult(skip_reason=_looked(len(taken), len(events) - len(taken), recorded), cursor=str(after))


def _looked(taken: int, waiting: int, recorded: Recorded | None) -> str:
    words = [f"{taken} events"]
    if recorded is not None:
        words.append(f"{recorded.opened} opened, {recorded.repeated} seen again, {recorded.closed} closed")
    if waiting:
        words.append(f"{waiting} events wait for their run to end")
    return "; ".join(words)


def _change(
    context: dg.SensorEvaluationContext, platform: Platform, event: Event, runs: Mapping[str, dg.DagsterRun]
) -> Change | None:
    run = runs.get(event.entry.run_id)
    if run is not None and not is_ours(run, context):
        return None
    what = event.entry.get_dagster_event().event_specific_data
    if isinstance(what, AssetCheckEvaluation):
        return of_a_check(what, run, platform.settings)
    return None if run is None else of_a_run(event.entry, run, platform.settings)


# --- what the UI shows -------------------------------------------------------------------------------------------


def _observation(incidents: Sequence[Incident], waiting: Outbox) -> dg.AssetObservation:
    frame = pd.DataFrame(
        [
            (
                "open" if one.closed_at is None else f"over since {one.closed_at:%Y-%m-%d %H:%M}",
                one.severity.value,
                one.title,
                f"{one.opened_at:%Y-%m-%d %H:%M}",
                one.times_seen,
                one.detail if one.closed_at is None else one.closing_detail,
                one.url or "",
            )
            for one in incidents
        ],
        columns=["state", "severity", "what", "since (UTC)", "seen", "why", "where"],
    )
    still = sum(one.closed_at is None for one in incidents)
    return dg.AssetObservation(
        INCIDENTS,
        description=f"{still} incidents are open." if still else "Nothing is wrong.",
        metadata={
            "open": still,
            "incidents": table(frame, rows=SHOWN),
            "notifications_waiting": waiting.waiting,
            "notifications_failing": waiting.failing,
            "notifications_given_up": waiting.given_up,
            **({"last_error": redact(waiting.last_error)} if waiting.last_error else {}),
        },
    )


def _fingerprint(incidents: Sequence[Incident], waiting: Outbox) -> str:
    """Of what a person would see change; a repetition of the known is none."""
    facts = [(one.incident_id, one.closed_at, one.severity) for one in incidents]
    text = repr((facts, waiting.failing > 0, waiting.given_up))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _delivered(report: DeliveryReport, incidents: Sequence[Incident]) -> str:
    still = sum(one.closed_at is None for one in incidents)
    sent = f"{report.sent} sent, {report.failed} failed, {report.waiting} waiting, {report.given_up} given up"
    return f"{still} incidents are open; messages: {sent}"
