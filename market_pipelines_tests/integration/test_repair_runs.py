"""Repair as Dagster runs it: what the sensor asks for, what a run tells, and refreshes that bring holes along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine

from market_pipelines.definitions import with_shared
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.cron import LANE_TAG
from market_pipelines.orchestration.market_component import market_definitions
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.holes import find_holes
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.refresh import refresh_daily
from market_pipelines.settings import read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database
from market_pipelines.store.holes import read_holes

EVENING = datetime(2026, 3, 12, 20, tzinfo=UTC)
SPAN = date(2026, 2, 16), date(2026, 3, 12)
OLD, RECENT = date(2026, 2, 18), date(2026, 3, 5)
PRICES = dg.AssetKey(["pl", "stock_prices"])


@pytest.fixture
def simulator(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator() as running:
        for variable, address in running.base_urls().items():
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        monkeypatch.setenv("DATABASE_URL", fresh_database.url)
        monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
        yield running


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(EVENING, tick=True) as coordinates:
        yield coordinates


@pytest.fixture
def platform(simulator: Simulator, clock: time_machine.Traveller) -> Iterator[Platform]:
    with open_platform(read_settings(env_file=None)) as opened:
        yield opened


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(str(tmp_path / "dagster")) as opened:
        yield opened


def warsaw() -> MarketDefinition:
    market = read_markets()["pl"]
    followed = ("PKN", "PKO", "KGH", "PZU", "CDR", "LPP")
    instruments = tuple(one for one in market.instruments if one.symbol in followed)
    return replace(market, since=date(2026, 1, 2), instruments=instruments, indices=market.indices[:1], intraday=None)


def repository(market: MarketDefinition) -> dg.RepositoryDefinition:
    return with_shared(market_definitions(market, datetime.now(UTC))).get_repository_def()


def with_holes(platform: Platform, simulator: Simulator, market: MarketDefinition, *holes: tuple[str, date]) -> None:
    """A month of the market that lacks these, and the knowledge of it."""
    simulator.faults.replace(
        [f"{provider}.missing_rows={day}@{symbol}" for provider in market.providers for symbol, day in holes]
    )
    refresh_daily(platform, market, market.everything, *SPAN)
    simulator.faults.clear()
    find_holes(platform, market)
    simulator.requests.clear()


def look(market: MarketDefinition, instance: dg.DagsterInstance) -> dg.SensorEvaluationContext | object:
    found = repository(market)
    with dg.build_sensor_context(
        instance=instance, repository_def=found, resources={"platform": PlatformResource()}
    ) as context:
        return found.get_sensor_def("pl_repair").evaluate_tick(context)


def open_holes(platform: Platform) -> set[tuple[str, date]]:
    with platform.database.connection() as connection:
        return {one.key for one in read_holes(connection, "pl")}


def test_the_sensor_says_why_it_starts_nothing(
    platform: Platform, simulator: Simulator, clock: time_machine.Traveller, instance: dg.DagsterInstance
) -> None:
    market = warsaw()
    refresh_daily(platform, market, market.everything, *SPAN)
    quiet = look(market, instance)
    assert quiet.run_requests == []  # type: ignore[attr-defined]
    assert "no holes in the last" in quiet.skip_message  # type: ignore[attr-defined]


def test_a_due_hole_is_requested_once_an_hour_and_a_run_fills_it(
    platform: Platform, simulator: Simulator, clock: time_machine.Traveller, instance: dg.DagsterInstance
) -> None:
    market = warsaw()
    with_holes(platform, simulator, market, ("PKO", RECENT), ("WIG20", OLD))
    waiting = look(market, instance)
    assert waiting.run_requests == []  # type: ignore[attr-defined]
    assert "2 holes; the next is asked for at 2026-03-12 21:0" in waiting.skip_message  # type: ignore[attr-defined]
    assert simulator.requests.count() == 0

    clock.move_to(EVENING + timedelta(minutes=70))
    keys = [look(market, instance).run_requests[0].run_key for _ in range(2)]  # type: ignore[attr-defined]
    assert keys[0] == keys[1]

    job = repository(market).get_job("pl_repair")
    assert job.tags[LANE_TAG] == "pl_daily"
    ended = job.execute_in_process(instance=instance)
    assert ended.success
    assert open_holes(platform) == set()
    assert simulator.requests.count() == 2
    told = {
        (event.asset_key, event.partition)
        for event in ended.all_events
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION
    }
    assert told == {(PRICES, RECENT.isoformat()), (dg.AssetKey(["pl", "index_prices"]), OLD.isoformat())}
    assert instance.get_materialized_partitions(PRICES) == {RECENT.isoformat()}
    (materialization,) = [
        event.step_materialization_data.materialization
        for event in ended.all_events
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key == PRICES
    ]
    assert materialization.metadata["symbols"].value == "PKO"
    assert materialization.metadata["missing"].value == 0
    assert materialization.metadata["available"].value == 7
    summary = [
        event.asset_observation_data.asset_observation
        for event in ended.all_events
        if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION and event.asset_key == PRICES
    ]
    assert [one.metadata["holes_healed"].value for one in summary] == [2]
    assert "no holes" in look(market, instance).skip_message  # type: ignore[attr-defined]


def test_a_scheduled_refresh_brings_an_old_due_hole_along(
    platform: Platform, simulator: Simulator, clock: time_machine.Traveller, instance: dg.DagsterInstance
) -> None:
    market = warsaw()
    with_holes(platform, simulator, market, ("PKO", OLD))
    clock.move_to(EVENING + timedelta(minutes=70))
    job = repository(market).get_job("pl_daily_refresh")
    ended = job.execute_in_process(
        instance=instance, partition_key=SPAN[1].isoformat(), raise_on_error=False, tags={"market": "pl"}
    )
    assert ended.dagster_run.status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
    assert open_holes(platform) == set()
    assert simulator.requests.count("yahoo", "PKO.WA") + simulator.requests.count("yahoo", "PKO") == 1
    assert simulator.requests.count("stooq") == 0


def test_a_market_has_its_repair_job_and_a_sensor_that_runs_from_the_start() -> None:
    found = repository(warsaw())
    sensor = found.get_sensor_def("pl_repair")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 600
    assert "pl_repair" in {job.name for job in found.get_all_jobs()}
