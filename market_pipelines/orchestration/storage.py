"""Dagster's storages: connections kept open, and an event log fast enough for ranges of thousands of partitions.

Three things made up most of a ranged run, and each is mended here: a connection for every event, an announcement
of each partition written by itself, and a row for every partition and check although the checks look at a table
as a whole. Tables and queries are the shipped ones, so either class can read what the other wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class PooledPostgresEventLogStorage(PostgresEventLogStorage):
    """For `market-pipelines up`: on PostgreSQL, with a pool and batches."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        self._engine = _pool(self.postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresEventLogStorage:
        return cls(pg_url_from_config(config_value), inst_data)

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
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        self._engine = _pool(self.postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresRunStorage:
        return cls(pg_url_from_config(config_value), inst_data)


class PooledPostgresScheduleStorage(PostgresScheduleStorage):
    """As the run storage, for the ticks."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url=postgres_url, inst_data=inst_data)
        self._engine = _pool(self.postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresScheduleStorage:
        return cls(pg_url_from_config(config_value), inst_data)


def _pool(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=8, pool_recycle=300, pool_pre_ping=True
    )


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
