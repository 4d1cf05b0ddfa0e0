"""Pruning Dagster's own log: what nobody reads of runs that ended long ago, and old ticks.

A run is never deleted, nor is any event that says what an asset, a partition or a check is like: materializations,
observations, check results, their announcements, failures, and how runs began and ended. What goes is the chatter of
steps, in a list of what may go, and the captured output.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage
from sqlalchemy import ColumnElement, case, create_engine, delete, func, or_, select

from market_pipelines.pipeline.retention import Account, keeps

CHATTER = (
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.STEP_WORKER_STARTING,
    DagsterEventType.STEP_WORKER_STARTED,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_INPUT,
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_SKIPPED,
    DagsterEventType.STEP_RESTARTED,
    DagsterEventType.LOADED_INPUT,
    DagsterEventType.HANDLED_OUTPUT,
    DagsterEventType.OBJECT_STORE_OPERATION,
    DagsterEventType.LOGS_CAPTURED,
)
"""And lines that were only logged, which have no type."""
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_MARK = "market_pipelines/log_pruned_up_to"
_WHAT_STAYS = "it says what assets, partitions and checks are like, or how the run ended"


def prune_events(instance: dg.DagsterInstance, days: int, before: datetime, *, dry_run: bool) -> tuple[Account, ...]:
    """Of runs that ended before that instant. What earlier nights did is remembered; a run that was cut short is
    gone through again."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return ()
    runs = _ended_runs(instance, before) if days else []
    old = deleted = freed = logs = logged = 0
    for run in runs:
        events, chatter, size = _weigh(storage, run)
        old, deleted, freed = old + events, deleted + chatter, freed + size
        files, length = _captured(instance, run)
        logs, logged = logs + files, logged + length
        if dry_run:
            continue
        if chatter:
            _delete(storage, run)
            left, _, _ = _weigh(storage, run)
            if left != events - chatter:
                raise dg.DagsterInvariantViolationError(
                    f"run {run}: of {events} events {chatter} were to go, and {left} are left"
                )
        if files:
            instance.compute_log_manager.delete_logs(prefix=[run])
    if days and not dry_run:
        instance.daemon_cursor_storage.set_cursor_values({_MARK: before.isoformat()})
    with storage.index_connection() as connection:
        total = int(connection.execute(select(func.count()).select_from(SqlEventLogStorageTable)).scalar() or 0)
    why = _WHAT_STAYS if old > deleted else ""
    return (
        Account("dagster_events", keeps(days), total, old, deleted, freed, old - deleted, why),
        Account("dagster_output_files", keeps(days), logs, logs, logs, logged, 0),
    )


def prune_ticks(instance: dg.DagsterInstance, days: int, before: datetime, *, dry_run: bool) -> tuple[Account, ...]:
    """Old ticks, but the newest of each schedule and sensor: from it the daemon goes on."""
    storage = instance.schedule_storage
    if not isinstance(storage, SqlScheduleStorage):
        return ()
    ticks = JobTickTable.c
    newest = select(func.max(ticks.id)).group_by(ticks.job_origin_id, ticks.selector_id)
    is_old = ticks.timestamp < before.astimezone(UTC).replace(tzinfo=None)
    with storage.connect() as connection:
        total = int(connection.execute(select(func.count()).select_from(JobTickTable)).scalar() or 0)
        if not days:
            return (Account("dagster_ticks", keeps(days), total, 0, 0, 0, 0),)
        old = int(connection.execute(select(func.count()).select_from(JobTickTable).where(is_old)).scalar() or 0)
        may_go = (is_old, ticks.id.not_in(newest))
        count, size = connection.execute(
            select(func.count(), func.coalesce(func.sum(func.length(ticks.tick_body)), 0)).where(*may_go)
        ).one()
        if not dry_run:
            connection.execute(delete(JobTickTable).where(*may_go))
    why = "it is the newest of its schedule or sensor" if old > count else ""
    return (Account("dagster_ticks", keeps(days), total, old, int(count), int(size), old - int(count), why),)


def _ended_runs(instance: dg.DagsterInstance, before: datetime) -> Sequence[str]:
    mark = instance.daemon_cursor_storage.get_cursor_values({_MARK}).get(_MARK)
    since = datetime.fromisoformat(mark) if mark is not None else None
    return instance.get_run_ids(dg.RunsFilter(statuses=list(ENDED), updated_after=since, updated_before=before))


def _is_chatter() -> ColumnElement[bool]:
    kinds = SqlEventLogStorageTable.c.dagster_event_type
    return or_(kinds.is_(None), kinds.in_([kind.value for kind in CHATTER]))


def _weigh(storage: SqlEventLogStorage, run: str) -> tuple[int, int, int]:
    """Its events, how many of them are chatter, and the size of those."""
    events = SqlEventLogStorageTable.c
    counted = select(
        func.count(),
        func.coalesce(func.sum(case((_is_chatter(), 1), else_=0)), 0),
        func.coalesce(func.sum(case((_is_chatter(), func.length(events.event)), else_=0)), 0),
    ).where(events.run_id == run)
    with storage.run_connection(run) as connection:
        found = connection.execute(counted).one()
    return int(found[0]), int(found[1]), int(found[2])


def _delete(storage: SqlEventLogStorage, run: str) -> None:
    with storage.run_connection(run) as connection:
        connection.execute(
            delete(SqlEventLogStorageTable).where(SqlEventLogStorageTable.c.run_id == run, _is_chatter())
        )
    if isinstance(storage, SqliteEventLogStorage):
        # A file of its own, which does not shrink by itself.
        engine = create_engine(storage.conn_string_for_shard(run), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM")
        engine.dispose()


def _captured(instance: dg.DagsterInstance, run: str) -> tuple[int, int]:
    """Files and bytes of what the run's steps printed."""
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return 0, 0
    # The folder of a run; asked for by a name in it, because the manager tells of files only.
    folder = Path(manager.get_captured_local_path([run, "any"], "out")).parent
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return len(sizes), sum(sizes)
