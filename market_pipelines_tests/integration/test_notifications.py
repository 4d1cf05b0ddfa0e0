"""Failed runs and red checks of a real Dagster, told to a real receiver: once, and once more when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine

from market_pipelines import redaction
from market_pipelines.pipeline.incidents import all_incidents
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.settings import read_settings
from market_pipelines.store.database import Database
from market_pipelines.store.incidents import Incident
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration import incident_jobs
from market_pipelines_tests.integration.daemon_days import Daemon, daemon_of, instance_on
from market_pipelines_tests.receiver import TOKEN, Receiver, receiver

BEGIN = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
INCIDENTS = dg.AssetKey(["platform", "incidents"])


@dataclass
class Watch:
    daemon: Daemon
    clock: time_machine.Traveller
    hook: Receiver
    trouble: Path

    def run(self, job: str, *troubles: str, tags: dict[str, str] | None = None) -> str:
        self.trouble.write_text(" ".join(troubles), encoding="utf-8")
        repository = incident_jobs.defs().get_repository_def()
        result = repository.get_job(job).execute_in_process(
            instance=self.daemon.instance, raise_on_error=False, tags=tags
        )
        return result.run_id

    def later(self, minutes: float = 1) -> None:
        """The clock goes on, and the daemon looks; twice, because sensors are evaluated in any order."""
        for _ in range(2):
            self.clock.shift(timedelta(minutes=minutes / 2))
            self.daemon.look()

    def incidents(self) -> list[Incident]:
        with open_platform(read_settings(None), asks=False) as platform:
            return all_incidents(platform)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def watch(
    fresh_database: Database,
    postgres_server: PostgresServer,
    hook: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Watch]:
    monkeypatch.setattr(redaction, "_known", ())
    redaction.register_secret("S3CR3T-KEY-9")
    trouble = tmp_path / "trouble"
    trouble.write_text("", encoding="utf-8")
    for name, value in {
        "MARKET_PIPELINES_SIMULATOR": "on",
        "DATABASE_URL": fresh_database.url,
        "MARKET_PIPELINES_HOME": str(tmp_path / "home"),
        "NOTIFY_URLS": hook.url,
        "DAGSTER_URL": "http://desk.example:3000",
        incident_jobs.TROUBLE: str(trouble),
    }.items():
        monkeypatch.setenv(name, value)
    url = postgres_server.create(migrated=False)
    with (
        time_machine.travel(BEGIN, tick=True) as clock,
        instance_on(tmp_path / "dagster", url) as instance,
        daemon_of(instance, incident_jobs.__name__) as daemon,
    ):
        opened = Watch(daemon, clock, hook, trouble)
        opened.later()
        yield opened
    postgres_server.drop(url)


def test_a_failing_job_is_told_once_and_its_recovery_once(watch: Watch) -> None:
    run = watch.run("nightly", "nightly")
    watch.later()
    assert watch.hook.titles == ["nightly failed"]
    (message,) = watch.hook.messages
    assert message["message"].splitlines() == [
        "in work: RuntimeError: the key [redacted] was refused in the second line",
        "Since 2026-03-06 22:01 UTC",
        f"http://desk.example:3000/runs/{run}",
    ]
    watch.run("nightly", "nightly")
    watch.run("nightly", "nightly")
    watch.later()
    watch.later()
    assert len(watch.hook.messages) == 1
    (incident,) = watch.incidents()
    assert incident.times_seen == 3

    watch.run("nightly")
    watch.later()
    assert len(watch.hook.messages) == 1, "a recovery has to last before it is one"
    watch.later(20)
    watch.later(20)
    assert watch.hook.titles == ["nightly failed", "recovered: nightly failed"]


def test_what_fails_again_at_once_was_never_over(watch: Watch) -> None:
    for _ in range(3):
        watch.run("nightly", "nightly")
        watch.later()
        watch.run("nightly")
        watch.later()
    assert watch.hook.titles == ["nightly failed"]
    assert len(watch.incidents()) == 1
    watch.later(20)
    assert watch.hook.titles == ["nightly failed", "recovered: nightly failed"]


def test_twenty_red_checks_of_a_run_are_one_message_and_twenty_incidents(watch: Watch) -> None:
    watch.run("judge", *incident_jobs.CHECKS)
    watch.later()
    (message,) = watch.hook.messages
    assert message["title"].endswith("20 incidents at once")
    assert all(f"us/prices: {name} is red: what {name} says" in message["message"] for name in incident_jobs.CHECKS)
    assert len(watch.incidents()) == 20
    watch.run("judge", "rule_07")
    watch.later()
    watch.later(20)
    assert watch.hook.titles == ["20 incidents at once", "19 incidents are over"]
    assert [one.key for one in watch.incidents() if one.closed_at is None] == ["check:us/prices:rule_07"]


def test_a_check_that_stops_its_run_is_told_once_and_not_as_a_failed_run_too(watch: Watch) -> None:
    run = watch.run("judge", incident_jobs.STOPS)
    ended = watch.daemon.instance.get_run_by_id(run)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    watch.later()
    assert watch.hook.titles == ["us/prices: rule_00 is red"]


@pytest.mark.parametrize(("severity", "told"), [("error", []), ("warning", ["us/prices: rule_03 is red"])])
def test_a_warning_is_an_incident_only_where_warnings_are_told(
    severity: str, told: list[str], watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SEVERITY", severity)
    watch.run("judge", "rule_03", "mild")
    watch.later()
    assert watch.hook.titles == told


def test_a_receiver_that_was_down_is_told_later_and_once(watch: Watch) -> None:
    watch.hook.status = 503
    watch.run("nightly", "nightly")
    for _ in range(6):
        watch.later(2)
    assert watch.hook.messages == []
    watch.hook.status = 200
    for _ in range(10):
        watch.later(4)
    assert watch.hook.titles == ["nightly failed"]


def test_a_backfill_of_old_sessions_does_not_end_an_incident_of_today(watch: Watch) -> None:
    watch.run("nightly", "nightly", tags={"dagster/partition": "2026-03-06"})
    watch.later()
    watch.run(
        "nightly",
        tags={"dagster/asset_partition_range_start": "2025-01-02", "dagster/asset_partition_range_end": "2025-12-31"},
    )
    watch.later()
    (incident,) = watch.incidents()
    assert incident.closed_at is None
    watch.run("nightly", tags={"dagster/partition": "2026-03-09"})
    watch.later()
    (incident,) = watch.incidents()
    assert incident.closed_at is not None


def test_open_incidents_stand_in_dagster_and_are_observed_only_when_they_change(watch: Watch) -> None:
    def observations() -> list[dg.EventLogRecord]:
        return list(watch.daemon.instance.fetch_observations(INCIDENTS, limit=50).records)

    before = len(observations())
    watch.run("nightly", "nightly")
    for _ in range(5):
        watch.later()
    newest, *rest = observations()
    assert len(rest) == before
    observation = newest.asset_observation
    assert observation is not None
    assert observation.metadata["open"].value == 1
    assert "nightly failed" in str(observation.metadata["incidents"].value)


def test_no_token_of_the_receiver_is_written_anywhere(
    watch: Watch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", logger="urllib3")
    watch.hook.status = 500
    watch.run("nightly", "nightly")
    watch.later()
    watch.hook.status = 200
    watch.later(5)
    assert watch.hook.titles == ["nightly failed"]
    with open_platform(read_settings(None), asks=False) as platform, platform.database.connection() as connection:
        rows = connection.execute("SELECT n::text FROM market.notifications AS n").fetchall()
        rows += connection.execute("SELECT i::text FROM market.incidents AS i").fetchall()
    assert rows
    assert TOKEN not in str(rows)
    assert "POST /[redacted] HTTP/1.1" in caplog.text, "what was looked through is what was sent"
    assert TOKEN not in caplog.text
    ticks = [
        repr(tick)
        for state in watch.daemon.instance.all_instigator_state()
        for tick in watch.daemon.instance.get_ticks(state.instigator_origin_id, state.selector_id)
    ]
    assert any("failed" in tick for tick in ticks)
    assert TOKEN not in str(ticks)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
