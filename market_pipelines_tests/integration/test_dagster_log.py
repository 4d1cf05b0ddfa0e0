"""Dagster's own log pruned: the bytes shrink, and all that assets, partitions and checks are known by stays."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import func, select

from market_pipelines.definitions import defs
from market_pipelines.orchestration.dagster_log import CHATTER, prune_events, prune_ticks
from market_pipelines.orchestration.housekeeping import KEY, housekeeping
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.retention import Account
from market_pipelines.store.database import Database
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration.daemon_days import instance_on

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-11")
TOMORROW = timedelta(days=1)


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def prices(context: dg.AssetExecutionContext) -> None:
    context.log.info("a word " * 200)
    if "bad" in context.run.tags:
        raise RuntimeError("no")


@dg.asset_check(asset=prices)
def whole() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="two are missing")


JUDGED = dg.Definitions(
    assets=[prices],
    asset_checks=[whole],
    jobs=[dg.define_asset_job("fill", partitions_def=DAYS)],
    executor=dg.in_process_executor,
)


@pytest.fixture(params=["postgresql", "sqlite"])
def instance(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path
) -> Iterator[dg.DagsterInstance]:
    if request.param == "sqlite":
        home = tmp_path / "dagster"
        home.mkdir()
        config = {
            "telemetry": {"enabled": False},
            "event_log_storage": {
                "module": "market_pipelines.orchestration.storage",
                "class": "LocalEventLogStorage",
                "config": {"base_dir": str(home / "events")},
            },
        }
        (home / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with dg.DagsterInstance.from_config(str(home)) as opened:
            yield opened
        return
    url = postgres_server.create(migrated=False)
    with instance_on(tmp_path / "dagster", url) as opened:
        yield opened
    postgres_server.drop(url)


def fill(instance: dg.DagsterInstance, first: str, last: str, **tags: str) -> str:
    result = (
        JUDGED.get_repository_def()
        .get_job("fill")
        .execute_in_process(
            instance=instance,
            raise_on_error=False,
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last, **tags},
        )
    )
    return result.run_id


def known(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What Dagster's pages say of the asset, its partitions, its check and the runs."""
    keys = JUDGED.get_repository_def().asset_graph.asset_check_keys
    return {
        "partitions": instance.get_materialized_partitions(prices.key),
        "status": instance.get_status_by_partition(prices.key, DAYS.get_partition_keys(), DAYS),
        "newest": instance.get_latest_materialization_event(prices.key),
        "counts": [
            instance.fetch_materializations(dg.AssetRecordsFilter(prices.key, [day]), limit=100).records
            for day in DAYS.get_partition_keys()
        ],
        "checks": {
            key: record.event
            for key, record in instance.event_log_storage.get_latest_asset_check_execution_by_key(sorted(keys)).items()
        },
        "runs": [(run.run_id, run.status, run.tags) for run in instance.get_runs()],
        "failures": [
            event.event_log_entry
            for run in instance.get_runs()
            for event in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
        ],
    }


def stored_bytes(instance: dg.DagsterInstance) -> int:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    size = 0
    for run in instance.get_runs():
        with storage.run_connection(run.run_id) as connection:
            weigh = select(func.sum(func.length(SqlEventLogStorageTable.c.event)))
            size += connection.execute(weigh.where(SqlEventLogStorageTable.c.run_id == run.run_id)).scalar() or 0
    return size


def of(accounts: tuple[Account, ...], name: str) -> Account:
    (found,) = [one for one in accounts if one.name == name]
    return found


def test_partitions_checks_and_runs_are_known_as_before_and_the_bytes_shrink(instance: dg.DagsterInstance) -> None:
    fill(instance, "2026-01-01", "2026-01-05")
    fill(instance, "2026-01-03", "2026-01-08")
    fill(instance, "2026-01-09", "2026-01-10", bad="yes")
    before, bytes_before = known(instance), stored_bytes(instance)
    after_tomorrow = datetime.now(UTC) + TOMORROW
    told = prune_events(instance, 30, after_tomorrow, dry_run=True)
    assert known(instance) == before
    assert stored_bytes(instance) == bytes_before
    done = prune_events(instance, 30, after_tomorrow, dry_run=False)
    assert done[0].deleted == told[0].deleted > 30
    assert done[0].bytes == told[0].bytes == bytes_before - stored_bytes(instance)
    assert known(instance) == before
    assert stored_bytes(instance) < 0.7 * bytes_before
    assert of(prune_events(instance, 30, after_tomorrow, dry_run=False), "dagster_events").deleted == 0


def test_a_run_that_is_young_or_goes_on_keeps_every_line(instance: dg.DagsterInstance) -> None:
    fill(instance, "2026-01-01", "2026-01-02")
    instance.create_run_for_job(JUDGED.get_repository_def().get_job("fill"), status=dg.DagsterRunStatus.STARTED)
    size = stored_bytes(instance)
    prune_events(instance, 30, datetime.now(UTC) - TOMORROW, dry_run=False)
    assert stored_bytes(instance) == size
    prune_events(instance, 0, datetime.now(UTC) + TOMORROW, dry_run=False)
    assert stored_bytes(instance) == size, "0 means for ever"


def test_nothing_that_an_asset_or_a_check_is_known_by_is_chatter() -> None:
    names = {kind.name for kind in CHATTER}
    assert not {name for name in names if name.startswith(("ASSET", "RUN", "FRESHNESS", "PIPELINE")) or "FAIL" in name}


def test_the_newest_tick_of_a_schedule_stays(instance: dg.DagsterInstance) -> None:
    from dagster._core.definitions.run_request import InstigatorType  # noqa: PLC0415
    from dagster._core.scheduler.instigation import TickData, TickStatus  # noqa: PLC0415

    for number in range(5):
        instance.create_tick(
            TickData(
                "origin",
                "weekend",
                InstigatorType.SCHEDULE,
                TickStatus.SUCCESS,
                1.7e9 + number,
                run_ids=[],
                selector_id="s",
            )
        )
    told = prune_ticks(instance, 7, datetime.now(UTC), dry_run=True)
    assert len(instance.get_ticks("origin", "s")) == 5
    assert prune_ticks(instance, 7, datetime.now(UTC), dry_run=False) == told
    assert told[0].deleted == 4
    (left,) = instance.get_ticks("origin", "s")
    assert left.timestamp == 1.7e9 + 4


def test_the_job_shows_its_account_and_a_dry_run_says_that_it_is_one(
    instance: dg.DagsterInstance, fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
    monkeypatch.setenv("DATABASE_URL", fresh_database.url)
    monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
    alone = dg.Definitions.merge(
        housekeeping(),
        dg.Definitions(resources={"platform": PlatformResource()}, executor=dg.in_process_executor),
    )
    result = (
        alone.get_repository_def()
        .get_job("retention")
        .execute_in_process(instance=instance, run_config={"dry_run": True})
    )
    (event,) = result.asset_materializations_for_node("platform__retention")
    assert event.asset_key == KEY
    assert event.metadata["dry_run"].value is True
    names = {record.data["what"] for record in event.metadata["accounts"].value.records}  # type: ignore[union-attr]
    assert {"raw_archive", "provider_bars", "fetches", "dagster_events", "dagster_ticks"} <= names


def test_the_platform_has_the_job_its_schedule_and_the_sensors() -> None:
    repository = defs().get_repository_def()
    assert repository.get_schedule_def("retention_nightly").cron_schedule == "30 3 * * *"
    assert {"failed_runs", "red_checks", "notifications"} <= {sensor.name for sensor in repository.sensor_defs}
