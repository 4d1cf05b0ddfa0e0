"""Scheduled jobs on a real PostgreSQL: one of a name, and each with the last of its own runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from market_pipelines.market.jobs import ScheduledJob
from market_pipelines.store.database import Database
from market_pipelines.store.jobs import JobExists, add_job, note_requested, remove_job, scheduled_jobs
from market_pipelines.store.ledger import JobStatus, hold_job, job_finished, job_started, write_off_jobs

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
WATCH = ScheduledJob("watch", "us", ("AAPL", "MSFT"), "5min", 15, True, NOW)
NIGHT = ScheduledJob("everything", "pl", (), "60min", 60, False, NOW)


def added(database: Database, *jobs: ScheduledJob) -> None:
    with database.connection() as connection:
        for job in jobs:
            add_job(connection, job)


def stored(database: Database, *names: str) -> list[ScheduledJob]:
    with database.connection() as connection:
        return [one.job for one in scheduled_jobs(connection, names or None)]


def ran(database: Database, job: ScheduledJob, at: datetime, status: JobStatus, rows: int = 0) -> int:
    with database.connection() as connection:
        number = job_started(
            connection, job_name=job.log_name, kind="intraday", market=job.market, symbols=(), started_at=at
        )
        if status is not JobStatus.RUNNING:
            job_finished(connection, number, status=status, finished_at=at, records_processed=rows)
    return number


def test_a_job_is_read_back_as_it_was_added(fresh_database: Database) -> None:
    added(fresh_database, WATCH, NIGHT)
    assert stored(fresh_database) == [NIGHT, WATCH]
    assert stored(fresh_database, "watch") == [WATCH]


def test_a_second_job_of_a_name_is_refused_and_the_first_one_stays(fresh_database: Database) -> None:
    added(fresh_database, WATCH)
    with fresh_database.connection() as connection:
        with pytest.raises(JobExists, match="there is a job watch already: remove it first"):
            add_job(connection, replace(WATCH, market="pl"))
        add_job(connection, NIGHT)
    assert stored(fresh_database) == [NIGHT, WATCH], "the transaction was not spoiled"


def test_a_job_is_removed_once(fresh_database: Database) -> None:
    added(fresh_database, WATCH)
    with fresh_database.connection() as connection:
        assert remove_job(connection, "watch")
        assert not remove_job(connection, "watch")
    assert stored(fresh_database) == []


def test_it_is_noted_when_a_run_was_asked_for(fresh_database: Database) -> None:
    added(fresh_database, WATCH, NIGHT)
    later = NOW + timedelta(minutes=15)
    with fresh_database.connection() as connection:
        note_requested(connection, ["watch"], later)
    assert [job.last_requested_at for job in stored(fresh_database)] == [None, later]


def test_the_last_run_is_the_newest_of_the_jobs_own_since_it_was_added(fresh_database: Database) -> None:
    added(fresh_database, WATCH, NIGHT)
    ran(fresh_database, WATCH, NOW - timedelta(days=1), JobStatus.FAILURE)
    ran(fresh_database, WATCH, NOW + timedelta(minutes=15), JobStatus.SUCCESS, rows=12)
    ran(fresh_database, WATCH, NOW + timedelta(minutes=30), JobStatus.PARTIAL, rows=2)
    with fresh_database.connection() as connection:
        found = {one.job.name: one.last_run for one in scheduled_jobs(connection)}
    assert found["everything"] is None
    assert found["watch"] is not None
    assert (found["watch"].status, found["watch"].records_processed) == (JobStatus.PARTIAL, 2)
    assert found["watch"].started_at == NOW + timedelta(minutes=30)


def test_a_job_that_is_added_anew_knows_nothing_of_the_former_ones_runs(fresh_database: Database) -> None:
    added(fresh_database, WATCH)
    ran(fresh_database, WATCH, NOW, JobStatus.SUCCESS)
    with fresh_database.connection() as connection:
        remove_job(connection, "watch")
        add_job(connection, replace(WATCH, created_at=NOW + timedelta(hours=1)))
        assert scheduled_jobs(connection)[0].last_run is None


def test_a_run_that_was_killed_is_seen_as_failed(fresh_database: Database) -> None:
    added(fresh_database, WATCH)
    killed = ran(fresh_database, WATCH, NOW, JobStatus.RUNNING)
    with fresh_database.connection() as holder:
        hold_job(holder, killed)
        with fresh_database.connection() as connection:
            write_off_jobs(connection, NOW + timedelta(hours=1))
            (alive,) = scheduled_jobs(connection)
    with fresh_database.connection() as connection:
        write_off_jobs(connection, NOW + timedelta(hours=1))
        (dead,) = scheduled_jobs(connection)
    assert alive.last_run is not None
    assert dead.last_run is not None
    assert (alive.last_run.status, dead.last_run.status) == (JobStatus.RUNNING, JobStatus.FAILURE)


def test_the_table_itself_refuses_an_interval_of_nothing(fresh_database: Database) -> None:
    added(fresh_database, WATCH)
    with pytest.raises(psycopg.errors.CheckViolation), fresh_database.connection() as connection:
        connection.execute("UPDATE market.scheduled_jobs SET interval_minutes = 0")
