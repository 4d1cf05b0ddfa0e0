"""The ledgers: fetches, jobs, quarantine, coverage."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd
import psycopg
import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import MASK, register_secret
from market_pipelines.store.coverage import conditions, missing, read_coverage, write_coverage
from market_pipelines.store.database import Database
from market_pipelines.store.ledger import (
    FetchRecord,
    JobStatus,
    fetches,
    hold_job,
    job_finished,
    job_started,
    recent_jobs,
    record_fetch,
    write_off_jobs,
)
from market_pipelines.store.quarantine import quarantine_rows, read_quarantine
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST, consensus, day


def fetch(symbol: str = "AAPL", at: datetime = KNOWN, **more: object) -> FetchRecord:
    values = {
        "provider": "yahoo",
        "endpoint": "chart",
        "outcome": Outcome.OK,
        "fetched_at": at,
        "market": "us",
        "symbol": symbol,
        "start": day("2026-01-01"),
        "end": day("2026-03-01"),
        "sha256": "ab" * 32,
    } | more
    return FetchRecord(**values)  # type: ignore[arg-type]


class TestFetches:
    def test_a_record_is_read_back_as_it_was(self, fresh_database: Database) -> None:
        record = fetch(
            http_status=200,
            rows=3,
            bytes=999,
            archive_path="ab/ab/x.zst",
            duration=0.25,
            url="https://example.org/chart",
            params={"range": "1y"},
            headers={"content-type": "text/csv"},
            reason="fine",
            run_id="run",
        )
        with fresh_database.connection() as connection:
            number = record_fetch(connection, record)
            (stored,) = fetches(connection)
        assert stored.fetch_id == number
        assert stored.outcome is Outcome.OK
        assert all(getattr(stored, name) == getattr(record, name) for name in FetchRecord.__dataclass_fields__)

    def test_no_secret_gets_in(self, fresh_database: Database) -> None:
        register_secret("S3CR3T-KEY")
        record = fetch(
            url="https://example.org/?symbol=A&apikey=S3CR3T-KEY",
            params={"apikey": "unregistered-key", "symbol": "A", "note": "S3CR3T-KEY"},
            headers={"x-echo": "S3CR3T-KEY"},
            reason="your key S3CR3T-KEY has expired",
        )
        with fresh_database.connection() as connection:
            record_fetch(connection, record)
            (stored,) = fetches(connection)
        everything = repr(stored)
        assert "S3CR3T-KEY" not in everything
        assert "unregistered-key" not in everything
        assert stored.params == {"apikey": MASK, "symbol": "A", "note": MASK}

    def test_filters(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            first = record_fetch(connection, fetch("AAPL", KNOWN))
            second = record_fetch(connection, fetch("MSFT", LATER, provider="stooq", endpoint="csv"))
            third = record_fetch(connection, fetch("PKO", LATEST, market="pl", outcome=Outcome.THROTTLED, sha256=None))

            def found(**filters: object) -> list[int]:
                return [row.fetch_id for row in fetches(connection, **filters)]  # type: ignore[arg-type]

            assert found() == [first, second, third]
            assert found(provider="stooq") == [second]
            assert found(endpoint="chart") == [first, third]
            assert found(market="pl") == [third]
            assert found(symbols=["MSFT", "PKO"]) == [second, third]
            assert found(symbols=[]) == []
            assert found(outcomes=[Outcome.THROTTLED]) == [third]
            assert found(since=LATER) == [second, third]
            assert found(until=LATER) == [first, second]
            assert found(archived_only=True) == [first, second]
            assert found(limit=2) == [first, second]

    def test_the_latest_of_each_question(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            record_fetch(connection, fetch("AAPL", KNOWN))
            newer = record_fetch(connection, fetch("AAPL", LATER))
            other_range = record_fetch(connection, fetch("AAPL", KNOWN, end=day("2026-02-01")))
            record_fetch(connection, fetch("AAPL", LATEST, outcome=Outcome.UNAVAILABLE))
            latest = fetches(connection, outcomes=[Outcome.OK], latest_only=True)
        assert {row.fetch_id for row in latest} == {newer, other_range}


class TestJobs:
    def test_a_job_is_running_until_it_is_finished(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            number = job_started(
                connection,
                job_name="us_daily_refresh",
                kind="refresh",
                market="us",
                symbols=["AAPL", "MSFT"],
                started_at=KNOWN,
                dagster_run_id="abc",
            )
            (running,) = recent_jobs(connection)
            job_finished(
                connection,
                number,
                status=JobStatus.PARTIAL,
                finished_at=LATER,
                records_processed=10,
                records_failed=2,
                error="apikey=topsecret was refused",
            )
            (finished,) = recent_jobs(connection)
        assert (running.status, running.finished_at, running.symbols) == (JobStatus.RUNNING, None, ["AAPL", "MSFT"])
        assert (finished.status, finished.finished_at, finished.records_processed) == (JobStatus.PARTIAL, LATER, 10)
        assert finished.error is not None
        assert "topsecret" not in finished.error

    def test_recent_jobs_are_newest_first_and_filtered(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            for market, at in (("us", KNOWN), ("pl", LATER), ("us", LATEST)):
                job_started(
                    connection, job_name=f"{market}_job", kind="refresh", market=market, symbols=[], started_at=at
                )
            assert [job.started_at for job in recent_jobs(connection)] == [LATEST, LATER, KNOWN]
            assert [job.market for job in recent_jobs(connection, market="us", limit=1)] == ["us"]
            assert [job.market for job in recent_jobs(connection, job_name="pl_job")] == ["pl"]

    def test_a_job_whose_process_is_gone_is_written_off_and_one_that_lives_is_not(
        self, fresh_database: Database
    ) -> None:
        with fresh_database.connection() as connection:
            alive, _ = (
                job_started(connection, job_name=name, kind="refresh", market="us", symbols=[], started_at=KNOWN)
                for name in ("alive", "gone")
            )
        with fresh_database.connection() as held:
            hold_job(held, alive)
            with fresh_database.connection() as connection:
                assert write_off_jobs(connection, LATER) == 1
                states = {job.job_name: (job.status, job.error) for job in recent_jobs(connection)}
        assert states["alive"] == (JobStatus.RUNNING, None)
        assert states["gone"] == (JobStatus.FAILURE, "the process ended without a word")
        with fresh_database.connection() as connection:
            assert write_off_jobs(connection, LATER) == 1
            assert recent_jobs(connection, job_name="alive")[0].finished_at == LATER

    def test_a_job_that_has_only_just_been_written_down_is_left_alone(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            job_started(connection, job_name="new", kind="refresh", market="us", symbols=[], started_at=KNOWN)
            assert write_off_jobs(connection, KNOWN + timedelta(seconds=59)) == 0

    def test_a_job_that_never_started_cannot_be_finished(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection, pytest.raises(LookupError, match="4711"):
            job_finished(connection, 4711, status=JobStatus.SUCCESS, finished_at=KNOWN)


def offences(*rules: str, close: float = 10.0) -> pd.DataFrame:
    rows = consensus(*(("AAPL", "2026-03-02", close) for _ in rules))
    return rows.assign(rule=list(rules), severity="block", detail="because")


class TestQuarantine:
    def test_the_same_row_and_rule_is_kept_once_and_counted(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert quarantine_rows(connection, offences("envelope", "positive_price"), "us", "one", KNOWN) == 2
            assert quarantine_rows(connection, offences("envelope", "positive_price"), "us", "two", LATER) == 0
            kept = read_quarantine(connection, "us")
        assert kept["times_seen"].tolist() == [2, 2]
        assert set(kept["run_id"]) == {"two"}
        assert kept["first_seen"].tolist() == [KNOWN, KNOWN]
        assert kept["last_seen"].tolist() == [LATER, LATER]

    def test_other_values_are_another_row(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            quarantine_rows(connection, offences("envelope"), "us", None, KNOWN)
            assert quarantine_rows(connection, offences("envelope", close=11.0), "us", None, KNOWN) == 1

    def test_rows_that_are_bad_in_any_way_can_be_kept(self, fresh_database: Database) -> None:
        bad = offences("schema", "schema", "schema").astype(
            {"session": "object", "close": "object", "symbol": "object"}
        )
        bad.loc[0, ["session", "close", "symbol"]] = ["not a date", "N/D", "A\x00B"]
        bad.loc[1, "close"] = float("inf")
        bad.loc[2, ["session", "close"]] = [None, float("nan")]
        with fresh_database.connection() as connection:
            assert quarantine_rows(connection, bad, "us", None, KNOWN) == 3
            assert quarantine_rows(connection, bad, "us", None, LATER) == 0
            kept = read_quarantine(connection)
        assert set(kept["symbol"]) == {"AB", "AAPL"}
        assert kept["close"].isna().sum() == 2
        assert kept["session"].isna().sum() == 2

    def test_a_row_twice_in_one_frame_is_one_row(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert quarantine_rows(connection, offences("duplicate", "duplicate"), "us", None, KNOWN) == 1

    def test_filters(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            quarantine_rows(connection, offences("a"), "us", "one", KNOWN)
            quarantine_rows(connection, offences("b").assign(symbol="PKO", session="2026-03-05"), "pl", "two", LATER)

            def found(**filters: object) -> list[str]:
                return read_quarantine(connection, **filters)["rule"].tolist()  # type: ignore[arg-type]

            assert found() == ["b", "a"]
            assert found(market="pl") == ["b"]
            assert found(symbols=["AAPL"]) == ["a"]
            assert found(run_id="one") == ["a"]
            assert found(start=day("2026-03-03")) == ["b"]
            assert found(end=day("2026-03-03")) == ["a"]
            assert found(limit=1) == ["b"]


def looked_at(*rows: tuple[str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["symbol", "session", "condition"])
    return frame.astype({"session": "datetime64[s]"})


class TestCoverage:
    def test_only_new_and_changed_conditions_count(self, fresh_database: Database) -> None:
        first = looked_at(("A", "2026-03-02", "available"), ("B", "2026-03-02", "missing"))
        second = looked_at(
            ("A", "2026-03-02", "available"), ("B", "2026-03-02", "degraded"), ("C", "2026-03-02", "missing")
        )
        with fresh_database.connection() as connection:
            assert write_coverage(connection, first, "us", "1d", KNOWN) == 2
            assert write_coverage(connection, first, "us", "1d", KNOWN) == 0
            assert write_coverage(connection, second, "us", "1d", LATER) == 2
            stored = read_coverage(connection, "us", "1d")
        assert stored["condition"].tolist() == ["available", "degraded", "missing"]
        assert (stored["last_checked"] == LATER).all()

    def test_an_older_look_does_not_overwrite_a_newer_one(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_coverage(connection, looked_at(("A", "2026-03-02", "available")), "us", "1d", LATER)
            assert write_coverage(connection, looked_at(("A", "2026-03-02", "missing")), "us", "1d", KNOWN) == 0
            assert read_coverage(connection, "us", "1d")["condition"].tolist() == ["available"]

    def test_missing_is_what_nobody_looked_at_and_what_is_not_there(self, fresh_database: Database) -> None:
        sessions = [day("2026-03-02"), day("2026-03-03")]
        with fresh_database.connection() as connection:
            rows = looked_at(
                ("A", "2026-03-02", "available"), ("A", "2026-03-03", "pending"), ("B", "2026-03-02", "degraded")
            )
            write_coverage(connection, rows, "us", "1d", KNOWN)
            found = missing(connection, "us", "1d", ["A", "B"], sessions)
            assert missing(connection, "us", "1min", ["A"], sessions) == {("A", one) for one in sessions}
        assert found == {("A", sessions[1]), ("B", sessions[1])}

    def test_conditions_are_counted_session_by_session(self, fresh_database: Database) -> None:
        rows = looked_at(
            ("A", "2026-03-02", "available"),
            ("B", "2026-03-02", "available"),
            ("C", "2026-03-02", "missing"),
            ("A", "2026-03-03", "pending"),
        )
        with fresh_database.connection() as connection:
            write_coverage(connection, rows, "us", "1d", KNOWN)
            counts = conditions(connection, "us", "1d", day("2026-03-02"), day("2026-03-03"))
        assert counts[["available", "degraded", "pending", "missing"]].to_numpy().tolist() == [
            [2, 0, 0, 1],
            [0, 0, 1, 0],
        ]

    def test_a_condition_that_is_none_is_refused(self, fresh_database: Database) -> None:
        with pytest.raises(psycopg.errors.CheckViolation), fresh_database.connection() as connection:
            write_coverage(connection, looked_at(("A", "2026-03-02", "fine")), "us", "1d", KNOWN)
