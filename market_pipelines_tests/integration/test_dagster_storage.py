"""Dagster's storages on PostgreSQL: what they ask their database, and what they do when it went away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy
from dagster import RunsFilter
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.schedules import SqlScheduleStorage

from market_pipelines.orchestration import storage
from market_pipelines.orchestration.storage import (
    PooledPostgresEventLogStorage,
    PooledPostgresRunStorage,
    PooledPostgresScheduleStorage,
)
from market_pipelines_tests.conftest import PostgresServer


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create(migrated=False)
    yield made
    postgres_server.drop(made)


@pytest.fixture
def address(url: str) -> str:
    return urlsplit(url)._replace(scheme="postgresql+psycopg2").geturl()


@contextmanager
def statements(engine: sqlalchemy.Engine) -> Iterator[list[str]]:
    told: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        told.append(statement)

    sqlalchemy.event.listen(engine, "before_cursor_execute", hear)
    try:
        yield told
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", hear)


def test_what_the_database_has_is_looked_for_once(address: str) -> None:
    with ExitStack() as stack:
        schedules = PooledPostgresScheduleStorage(address)
        events = PooledPostgresEventLogStorage(address)
        runs = PooledPostgresRunStorage(address)
        for one in (schedules, events, runs):
            stack.callback(one._engine.dispose)

        def look() -> None:
            assert schedules.supports_batch_queries
            assert events.has_table("asset_check_executions")
            assert events.can_read_asset_status_cache()
            assert runs.has_run_stats_index_cols()

        look()
        heard = [stack.enter_context(statements(one._engine)) for one in (schedules, events, runs)]
        look()
        assert heard == [[], [], []]


def test_what_it_lacks_is_there_as_soon_as_somebody_makes_it(address: str, url: str) -> None:
    events = PooledPostgresEventLogStorage(address)
    try:
        assert not events.has_table("made_later")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE made_later ()")
        assert events.has_table("made_later")
    finally:
        events._engine.dispose()


def cut_off(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
    assert ended


def count(runs: SqlRunStorage) -> int:
    return runs.get_runs_count(RunsFilter())


def events_of(events: SqlEventLogStorage) -> int:
    return len(events.get_logs_for_run("a run that was never made"))


def ticks(schedules: SqlScheduleStorage) -> int:
    return len(schedules.get_ticks("an origin", "a selector"))


@pytest.mark.parametrize("for_pages", [False, True])
@pytest.mark.parametrize(
    ("made", "look"),
    [
        (PooledPostgresRunStorage, count),
        (PooledPostgresEventLogStorage, events_of),
        (PooledPostgresScheduleStorage, ticks),
    ],
)
def test_a_connection_that_was_lost_while_it_was_quiet_is_replaced_unseen(
    made: Callable[[str], Any],
    look: Callable[[Any], int],
    for_pages: bool,
    address: str,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "QUIET_SECONDS", 0.0)
    opened = made(address)
    if for_pages:
        opened.optimize_for_webserver(5_000, 3_600, 20)
    try:
        assert look(opened) == 0
        cut_off(url)
        assert look(opened) == 0
    finally:
        opened._engine.dispose()


def test_one_that_is_in_use_is_not_asked_before_each_statement(
    address: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "QUIET_SECONDS", 600.0)
    runs = PooledPostgresRunStorage(address)
    try:
        assert count(runs) == 0
        cut_off(url)
        with pytest.raises(sqlalchemy.exc.OperationalError):
            count(runs)
        assert count(runs) == 0, "the next statement has another connection"
    finally:
        runs._engine.dispose()
