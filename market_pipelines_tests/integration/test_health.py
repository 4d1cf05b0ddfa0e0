"""The health of the platform as its asset shows it, and runs of one lane that wait for each other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine
import yaml
from dagster._utils.tags import TagConcurrencyLimitsCounter

from market_pipelines.cli.dagster_home import instance as instance_config
from market_pipelines.market.outcomes import Outcome
from market_pipelines.orchestration.cron import lane
from market_pipelines.orchestration.health import JOB, KEY, health_definitions, health_schedule
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.breaker import OPENS_AFTER, learn
from market_pipelines.pipeline.health import Part
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.refresh import refresh_daily
from market_pipelines.settings import read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database
from market_pipelines.store.ledger import job_started
from market_pipelines_tests.integration import cadence_days

EVENING = datetime(2026, 11, 20, 22, 45, tzinfo=UTC)
PARTS = {part.value for part in Part}


@pytest.fixture
def simulator(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator() as running:
        for variable, address in running.base_urls().items():
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        monkeypatch.setenv("DATABASE_URL", fresh_database.url)
        monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
        monkeypatch.setattr("market_pipelines.pipeline.platform.read_markets", cadence_days.small_markets)
        yield running


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as opened:
        yield opened


def filled(simulator: Simulator) -> None:
    """The last sessions of every market."""
    simulator.clock.set(EVENING)
    with open_platform(read_settings()) as platform:
        for market in platform.markets.values():
            report = refresh_daily(
                platform, market, market.everything, (EVENING - timedelta(days=9)).date(), EVENING.date()
            )
            assert not report.failed


def looked(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions.merge(health_definitions(), dg.Definitions(resources={"platform": PlatformResource()}))
    return definitions.resolve_job_def(JOB).execute_in_process(instance=instance, raise_on_error=False)


def parts(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def test_a_platform_that_is_well_is_green_in_every_part(simulator: Simulator, instance: dg.DagsterInstance) -> None:
    with time_machine.travel(EVENING, tick=True):
        filled(simulator)
        result = looked(instance)
    assert result.success
    found = parts(result)
    assert found.keys() == PARTS
    assert {name for name, one in found.items() if not one.passed} == set()
    (materialized,) = result.asset_materializations_for_node("platform__health")
    assert (materialized.asset_key, materialized.metadata["broken"].value) == (KEY, 0)
    table = materialized.metadata["health"].value
    assert isinstance(table, dg.TableMetadataValue | list)


def test_a_market_that_nobody_refreshed_is_worth_a_look(simulator: Simulator, instance: dg.DagsterInstance) -> None:
    with time_machine.travel(EVENING, tick=True):
        filled(simulator)
    with time_machine.travel(EVENING + timedelta(days=3, hours=1), tick=True):
        result = looked(instance)
    # The check `newest_session` of each table is the error.
    assert result.success
    red = {name: one for name, one in parts(result).items() if not one.passed}
    assert {name: one.severity.value for name, one in red.items()} == {"freshness": "WARN", "backlog": "WARN"}
    assert "pl 1d: not refreshed since its close: 2026-11-23" in (red[Part.BACKLOG.value].description or "")
    assert "us/stock_prices: Overdue since 2026-11-23 22:30 UTC" in (red[Part.FRESHNESS.value].description or "")


def test_what_may_heal_by_itself_is_a_warning_and_no_failed_run(
    simulator: Simulator, instance: dg.DagsterInstance, fresh_database: Database
) -> None:
    with time_machine.travel(EVENING, tick=True):
        filled(simulator)
        with fresh_database.connection() as connection:
            started = EVENING - timedelta(hours=2)
            job_started(connection, job_name="pull", kind="daily", market="us", symbols=[], started_at=started)
        with open_platform(read_settings()) as platform:
            for _ in range(OPENS_AFTER):
                learn(platform, "stooq", Outcome.UNAVAILABLE, "HTTP 503")
        result = looked(instance)
    assert result.success
    red = {name: one for name, one in parts(result).items() if not one.passed}
    assert red.keys() == {Part.PROVIDERS.value, Part.JOBS.value}
    assert {one.severity for one in red.values()} == {dg.AssetCheckSeverity.WARN}
    assert "stooq: left alone until" in (red[Part.PROVIDERS.value].description or "")
    assert "its process ended without a word" in (red[Part.JOBS.value].description or "")


def test_a_market_without_anybody_to_ask_is_broken(simulator: Simulator, instance: dg.DagsterInstance) -> None:
    with time_machine.travel(EVENING, tick=True):
        filled(simulator)
        with open_platform(read_settings()) as platform:
            for _ in range(OPENS_AFTER):
                learn(platform, "yahoo", Outcome.UNAVAILABLE, "HTTP 503")
        result = looked(instance)
    assert not result.success
    assert "chain of us: 0 of 1 answer: none" in (parts(result)[Part.PROVIDERS.value].description or "")


def test_a_full_disk_is_broken(
    simulator: Simulator, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    with time_machine.travel(EVENING, tick=True):
        filled(simulator)
        monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=usage.total // 100))
        result = looked(instance)
    assert not result.success
    assert {name for name, one in parts(result).items() if not one.passed} == {Part.DISK.value}


def test_a_database_that_is_gone_is_said_and_not_a_stack_trace(
    simulator: Simulator, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    result = looked(instance)
    assert not result.success
    found = parts(result)
    assert found[Part.DATABASE.value].severity is dg.AssetCheckSeverity.ERROR
    assert "127.0.0.1:1/nothing cannot be used" in (found[Part.DATABASE.value].description or "")
    assert all(not one.passed for one in found.values() if one.check_name != Part.BACKLOG.value)


def test_it_is_looked_at_every_half_hour_and_a_missed_look_is_not_made_up_for(instance: dg.DagsterInstance) -> None:
    assert health_schedule.cron_schedule == "*/30 * * * *"
    tick = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
    for late, asks in ((timedelta(minutes=1), True), (timedelta(minutes=30), False)):
        with (
            time_machine.travel(tick + late, tick=False),
            dg.build_schedule_context(instance=instance, scheduled_execution_time=tick) as context,
        ):
            assert isinstance(health_schedule(context), dg.RunRequest) is asks


# --- lanes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["up", "dagster dev"])
def test_runs_that_write_the_same_tables_wait_for_each_other(source: str, tmp_path: Path) -> None:
    written = yaml.safe_load((Path(__file__).resolve().parents[2] / "dagster.yaml").read_text(encoding="utf-8"))
    config = instance_config(2) if source == "up" else written
    kept = {name: config[name] for name in ("run_coordinator", "concurrency")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")

    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        going, same, other = (
            instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=lane(market, "daily"))
            for market in ("us", "us", "pl")
        )
        counted = TagConcurrencyLimitsCounter(limits.tag_concurrency_limits, [going])
        assert counted.is_blocked(same)
        assert not counted.is_blocked(other)


def test_a_provider_that_may_be_tried_again_has_not_recovered(
    simulator: Simulator, instance: dg.DagsterInstance, fresh_database: Database
) -> None:
    with time_machine.travel(EVENING, tick=True):
        filled(simulator)
        with open_platform(read_settings()) as platform:
            for _ in range(OPENS_AFTER):
                learn(platform, "yahoo", Outcome.UNAVAILABLE, "HTTP 503")
        with fresh_database.connection() as connection:
            waiting = connection.execute(
                "UPDATE market.provider_health SET next_try = opened_at WHERE opened_at NOTNULL"
            )
            assert waiting.rowcount == 1
        result = looked(instance)
    assert not result.success
    said = parts(result)[Part.PROVIDERS.value].description or ""
    assert "yahoo: tried with the next request, after 5 failures in a row: HTTP 503" in said
    assert "chain of us: 0 of 1 answer: none" in said
