"""Dagster's storages: connections kept open, and an event log fast enough for ranges of thousands of partitions.

Three things made up most of a ranged run, and each is mended here: a connection for every event, an announcement
of each partition written by itself, and a row for every partition and check although the checks look at a table
as a whole. What made up most of the daemon's looks is mended as well: before nearly every statement the database was
asked whether it is there, and whether it has tables that every release of the last years has made. Tables and queries
are the shipped ones, so either class can read what the other wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy
from dagster import DagsterEventType, EventLogEntry
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._record import copy
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

QUIET_SECONDS = 1.0
"""A connection that was used within this time is taken to be alive."""
_USED_AT = "used_at"


class Found:
    """What a database was found to have. That stays, so it is looked for once; what it lacks may still be made by
    `dagster instance migrate`, and is looked for each time."""

    def __init__(self) -> None:
        self._there: set[str] = set()

    def has(self, what: str, look: Callable[[], bool]) -> bool:
        if what not in self._there and look():
            self._there.add(what)
        return what in self._there


class PooledPostgresEventLogStorage(PostgresEventLogStorage):
    """For `market-pipelines up`: on PostgreSQL, with a pool and batches."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._found = Found()
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        self._engine = _pool(self.postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresEventLogStorage:
        return cls(pg_url_from_config(config_value), inst_data)

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        super().optimize_for_webserver(statement_timeout, pool_recycle, max_overflow)
        _look_after(self._engine)

    def has_table(self, table_name: str) -> bool:
        return self._found.has(table_name, partial(super().has_table, table_name))

    def has_asset_key_col(self, column_name: str) -> bool:
        return self._found.has(f"asset_keys.{column_name}", partial(super().has_asset_key_col, column_name))

    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(of_the_whole_table(event))

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        kinds = {event.get_dagster_event().event_type for event in events}
        if kinds != {DagsterEventType.ASSET_MATERIALIZATION_PLANNED}:
            super().store_event_batch(events)
            return
        announcement = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
        with self._connect() as connection:
            ids = [int(row[0]) for row in connection.execute(announcement)]
        newest = {
            event.get_dagster_event().asset_key: (event, number) for event, number in zip(events, ids, strict=True)
        }
        with self.index_transaction() as connection:
            for event, number in newest.values():
                self._store_asset_event(connection, event, number)


class PooledPostgresRunStorage(PostgresRunStorage):
    """The daemon asks for runs at every look: a new connection for each question is most of its price."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._found = Found()
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        self._engine = _pool(self.postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresRunStorage:
        return cls(pg_url_from_config(config_value), inst_data)

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        super().optimize_for_webserver(statement_timeout, pool_recycle, max_overflow)
        _look_after(self._engine)

    def has_run_stats_index_cols(self) -> bool:
        return self._found.has("runs.start_time", super().has_run_stats_index_cols)


class PooledPostgresScheduleStorage(PostgresScheduleStorage):
    """As the run storage, for the ticks."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._found = Found()
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        self._engine = _pool(self.postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresScheduleStorage:
        return cls(pg_url_from_config(config_value), inst_data)

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        super().optimize_for_webserver(statement_timeout, pool_recycle, max_overflow)
        _look_after(self._engine)

    def has_instigators_table(self) -> bool:
        return self._found.has("instigators", super().has_instigators_table)

    def _has_instigators_table(self, conn: sqlalchemy.Connection) -> bool:
        return self._found.has("instigators", partial(super()._has_instigators_table, conn))

    def has_built_index(self, migration_name: str) -> bool:
        return self._found.has(f"the index {migration_name}", partial(super().has_built_index, migration_name))


def _pool(url: str) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=8, pool_recycle=300)
    _look_after(engine)
    return engine


def _look_after(engine: sqlalchemy.Engine) -> None:
    """Also of the web server's connections, which outlive their server otherwise: a page that was asked for after the
    database had been started again showed an error."""
    event.listen(engine, "checkin", _used)
    event.listen(engine, "checkout", partial(_alive, engine.dialect))


def _used(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _alive(dialect: sqlalchemy.Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
    """SQLAlchemy's own `pool_pre_ping` asks before each use, which took nearly as long as all the statements."""
    if time.monotonic() - record.info.get(_USED_AT, time.monotonic()) < QUIET_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        # The pool opens another, also in the place of every one that is older than this finding.
        raise InvalidatePoolError from error


class LocalEventLogStorage(SqliteEventLogStorage):
    """For a plain `dagster dev`: in SQLite files."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> LocalEventLogStorage:
        return cls(inst_data=inst_data, **config_value)

    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(of_the_whole_table(event))


def of_the_whole_table(event: EventLogEntry) -> EventLogEntry:
    """The announcement of a check without the run's partitions: this platform's checks have none of their own,
    and the result that follows names none either."""
    if event.dagster_event is None:
        return event
    planned = event.dagster_event.event_specific_data
    if not isinstance(planned, AssetCheckEvaluationPlanned) or planned.partitions_subset is None:
        return event
    whole = event.dagster_event._replace(event_specific_data=copy(planned, partitions_subset=None))
    return event._replace(dagster_event=whole)
