"""The polling sensors and the sensor of scheduled jobs: when they ask for a run, why they do not, what a run shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine

from market_pipelines.definitions import defs
from market_pipelines.market.polling import Strategy
from market_pipelines.orchestration.cron import LANE_TAG
from market_pipelines.orchestration.job_sensor import job_sensor
from market_pipelines.orchestration.polling_sensors import poll_job, polling_sensor
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.jobs import add_job, job_states, remove_job
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.polling import poll_cycle, poll_of
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.settings import read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.ledger import JobStatus
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house
from market_pipelines_tests.integration.daemon_days import Daemon, daemon_of, instance_on

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

NOON = datetime(2025, 6, 13, 16, 0, tzinfo=UTC)
SATURDAY = datetime(2025, 6, 14, 16, 0, tzinfo=UTC)
MARKETS = read_markets()
JOBS = {name: poll_job(market) for name, market in MARKETS.items()}


@pytest.fixture
def house(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=NOON) as opened:
        monkeypatch.setattr(PlatformResource, "opened", lambda _self, **_: nullcontext(opened.platform))
        yield opened
    postgres_server.drop(url)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


class Watched:
    """A sensor whose cursor is kept between ticks, as the daemon does."""

    def __init__(self, sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> None:
        self._sensor, self._instance = sensor, instance
        self.cursor: str | None = None

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        with dg.build_sensor_context(
            self._instance, cursor=self.cursor, resources={"platform": PlatformResource()}
        ) as context:
            result = self._sensor.evaluate_tick(context)
        self.cursor = result.cursor or self.cursor
        return list(result.run_requests or ()), result.skip_message or ""

    @property
    def standing(self) -> dict[str, Any]:
        found = json.loads(self.cursor or "{}")
        assert isinstance(found, dict)
        return found


def polling(strategy: Strategy, instance: dg.DagsterInstance, market: str = "us") -> Watched:
    return Watched(polling_sensor(MARKETS[market], JOBS[market], strategy), instance)


def later(house: House, **time: float) -> None:
    house.clock.set(house.clock() + timedelta(**time))


def refresh(house: House) -> None:
    """What the requested run would do."""
    poll_cycle(house.platform, poll_of(house.platform, "us", ["AAPL"]), Stop())


# --- definitions ---------------------------------------------------------------------------------------------


def test_every_market_has_its_sensors_and_they_are_off_until_somebody_turns_them_on() -> None:
    repository = defs().get_repository_def()
    sensors = {one.name: one for one in repository.sensor_defs}
    for market in ("us", "pl"):
        for strategy in Strategy:
            sensor = sensors[f"{market}_poll_{strategy.value}"]
            assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
            assert sensor.description is not None
            assert "Off until somebody turns it on" in sensor.description
        assert repository.get_job(f"{market}_poll").tags[LANE_TAG] == f"{market}_intraday"
    assert "every 1 to 30 minutes, first after 5" in (sensors["us_poll_adaptive"].description or "")
    assert sensors["scheduled_jobs"].default_status is dg.DefaultSensorStatus.RUNNING


# --- strategies ----------------------------------------------------------------------------------------------


def test_a_continuous_sensor_asks_every_five_minutes_and_says_when(house: House, instance: dg.DagsterInstance) -> None:
    sensor = polling(Strategy.CONTINUOUS, instance)
    (first,), _ = sensor.tick()
    assert first.run_key == "us_poll_continuous-1-20250613T160000"
    assert sensor.standing["iteration"] == 1
    assert sensor.standing["interval_minutes"] == 5
    assert sensor.standing["last_poll"] == "2025-06-13T16:00:00Z"
    later(house, minutes=4, seconds=30)
    requests, reason = sensor.tick()
    assert requests == []
    assert reason == "next poll at Fri 2025-06-13 12:05:00 America/New_York, 5 minutes after the last one"
    later(house, seconds=30)
    (second,), _ = sensor.tick()
    assert second.run_key == "us_poll_continuous-2-20250613T160000"


def test_a_tick_that_is_evaluated_twice_asks_for_the_same_run(house: House, instance: dg.DagsterInstance) -> None:
    sensor = polling(Strategy.CONTINUOUS, instance)
    sensor.tick()
    before = sensor.cursor
    later(house, minutes=5)
    (first,), _ = sensor.tick()
    sensor.cursor = before
    later(house, seconds=40)
    (second,), _ = sensor.tick()
    assert first.run_key == second.run_key


def test_a_market_hours_sensor_waits_until_the_exchange_trades(house: House, instance: dg.DagsterInstance) -> None:
    sensor = polling(Strategy.MARKET_HOURS, instance)
    house.clock.set(SATURDAY)
    assert sensor.tick() == ([], "XNYS is closed until Mon 2025-06-16 04:00:00 America/New_York")
    house.clock.set(datetime(2025, 6, 16, 8, 0, tzinfo=UTC))
    assert len(sensor.tick()[0]) == 1
    warsaw = polling(Strategy.MARKET_HOURS, instance, "pl")
    house.clock.set(datetime(2025, 6, 19, 10, 0, tzinfo=UTC))
    assert warsaw.tick() == ([], "XWAR is closed until Fri 2025-06-20 09:00:00 Europe/Warsaw"), "Corpus Christi"


def test_a_daemon_that_was_off_polls_once_and_not_after_the_close(house: House, instance: dg.DagsterInstance) -> None:
    sensor = polling(Strategy.MARKET_HOURS, instance)
    sensor.tick()
    house.clock.set(SATURDAY)
    assert "is closed until Mon" in sensor.tick()[1]
    house.clock.set(datetime(2025, 6, 16, 15, 0, tzinfo=UTC))
    assert len(sensor.tick()[0]) == 1
    assert len(sensor.tick()[0]) == 0


def test_an_adaptive_sensor_comes_sooner_when_data_moved_and_later_when_not(
    house: House, instance: dg.DagsterInstance
) -> None:
    sensor = polling(Strategy.ADAPTIVE, instance)
    sensor.tick()
    refresh(house)
    later(house, minutes=2, seconds=30)
    assert len(sensor.tick()[0]) == 1, "half of five minutes after bars came"
    assert sensor.standing["interval_minutes"] == 2.5
    later(house, minutes=3)
    assert sensor.tick() == (
        [], "next poll at Fri 2025-06-13 12:06:15 America/New_York, 3.75 minutes after the last one",
    )  # fmt: skip
    later(house, seconds=45)
    assert len(sensor.tick()[0]) == 1
    assert (sensor.standing["iteration"], sensor.standing["interval_minutes"]) == (3, 3.75)


@pytest.mark.parametrize(
    ("cursor", "interval"),
    [
        ("not a cursor", 5.0),
        ('{"interval_minutes": 5000, "iteration": 7, "last_poll": "2025-06-13T15:00:00Z", "last_seen": "x"}', 15.0),
        ('{"interval_minutes": 0, "iteration": 7, "last_poll": "2025-06-13T15:00:00Z", "last_seen": "x"}', 1.0),
    ],
)
def test_a_cursor_that_a_person_edited_does_no_harm(
    house: House, instance: dg.DagsterInstance, cursor: str, interval: float
) -> None:
    sensor = polling(Strategy.ADAPTIVE, instance)
    sensor.cursor = cursor
    assert len(sensor.tick()[0]) == 1
    assert sensor.standing["interval_minutes"] == interval


def test_a_poll_that_still_goes_on_is_waited_for(house: House, instance: dg.DagsterInstance) -> None:
    sensor = polling(Strategy.CONTINUOUS, instance)
    going = instance.create_run_for_job(JOBS["us"], status=dg.DagsterRunStatus.STARTED)
    assert sensor.tick() == ([], f"the last poll is still going: run {going.run_id[:8]}")
    assert sensor.cursor is None


# --- scheduled jobs ------------------------------------------------------------------------------------------


def scheduled(instance: dg.DagsterInstance) -> Watched:
    return Watched(job_sensor(list(JOBS.values())), instance)


def test_a_job_is_run_once_in_each_of_its_slots_while_its_market_trades(
    house: House, instance: dg.DagsterInstance
) -> None:
    sensor = scheduled(instance)
    assert sensor.tick() == ([], "no job is scheduled; `market-pipelines jobs add` adds one")
    add_job(house.platform, "watch", ["AAPL"], interval_minutes=15)
    (request,), _ = sensor.tick()
    assert (request.job_name, request.run_key) == ("us_poll", "watch-20250613T1600")
    assert request.tags[LANE_TAG] == "us_intraday"
    later(house, minutes=14)
    assert sensor.tick() == ([], "next: watch at Fri 2025-06-13 16:15:00 UTC")
    later(house, minutes=2)
    (request,), _ = sensor.tick()
    assert request.run_key == "watch-20250613T1615"
    house.clock.set(SATURDAY)
    assert sensor.tick() == ([], "next: watch at Mon 2025-06-16 13:30:00 UTC")


def test_jobs_of_two_markets_follow_their_own_hours(house: House, instance: dg.DagsterInstance) -> None:
    add_job(house.platform, "new-york", interval_minutes=5)
    add_job(house.platform, "warsaw", ["PKO"], market="pl", interval_minutes=5)
    sensor = scheduled(instance)
    house.clock.set(datetime(2025, 6, 13, 9, 0, tzinfo=UTC))
    assert [request.job_name for request in sensor.tick()[0]] == ["pl_poll"]
    house.clock.set(datetime(2025, 6, 13, 14, 0, tzinfo=UTC))
    assert [request.job_name for request in sensor.tick()[0]] == ["us_poll", "pl_poll"]
    house.clock.set(NOON)
    assert [request.job_name for request in sensor.tick()[0]] == ["us_poll"]


def test_a_job_that_was_removed_is_run_no_more(house: House, instance: dg.DagsterInstance) -> None:
    add_job(house.platform, "watch", ["AAPL"])
    add_job(house.platform, "other", ["KO"])
    sensor = scheduled(instance)
    assert len(sensor.tick()[0]) == 2
    remove_job(house.platform, "watch")
    later(house, minutes=5)
    assert [request.run_key for request in sensor.tick()[0]] == ["other-20250613T1605"]
    assert list(sensor.standing["jobs"]) == ["other"]


def test_a_job_whose_run_goes_on_waits_and_holds_up_no_other(house: House, instance: dg.DagsterInstance) -> None:
    add_job(house.platform, "slow", ["AAPL"])
    add_job(house.platform, "other", ["KO"])
    instance.create_run_for_job(JOBS["us"], status=dg.DagsterRunStatus.STARTED, tags={"market_pipelines/job": "slow"})
    sensor = scheduled(instance)
    assert [request.run_key for request in sensor.tick()[0]] == ["other-20250613T1600"]
    assert "the last run of slow still goes on" in sensor.tick()[1]


# --- from the tick to the run --------------------------------------------------------------------------------


@contextmanager
def daemon(
    postgres_server: PostgresServer, simulator: Simulator, folder: Path, patch: pytest.MonkeyPatch
) -> Iterator[tuple[Daemon, Platform]]:
    simulator.faults.clear()
    simulator.clock.set(None)
    url, dagster_url = postgres_server.create(), postgres_server.create(migrated=False)
    for variable, address in simulator.base_urls().items():
        patch.setenv(variable, address)
    patch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
    patch.setenv("DATABASE_URL", url)
    patch.setenv("MARKET_PIPELINES_HOME", str(folder / "data"))
    with (
        instance_on(folder / "dagster", dagster_url) as instance,
        daemon_of(instance, "market_pipelines_tests.integration.polling_only") as running,
        open_platform(read_settings(), asks=False) as platform,
    ):
        yield running, platform
    postgres_server.drop(url)
    postgres_server.drop(dagster_url)


def test_the_daemon_runs_a_job_and_its_figures_are_on_the_asset(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        time_machine.travel(datetime(2026, 11, 20, 16, 0, 10, tzinfo=UTC), tick=True) as clock,
        daemon(postgres_server, simulator, tmp_path, monkeypatch) as (running, platform),
    ):
        add_job(platform, "watch", ["AAPL", "NOPE"], interval_minutes=15)
        running.look()
        clock.move_to(datetime(2026, 11, 20, 16, 5, tzinfo=UTC))
        running.look()
        clock.move_to(datetime(2026, 11, 20, 16, 15, 5, tzinfo=UTC))
        running.look()
        runs = running.instance.get_runs(dg.RunsFilter(job_name="us_poll"))
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
        (state,) = job_states(platform)
        assert state.last_run is not None
        assert (state.last_run.status, state.last_run.dagster_run_id) == (JobStatus.PARTIAL, runs[0].run_id)
        records = running.instance.fetch_observations(dg.AssetKey(["us", "stock_prices_intraday"]), limit=10).records
        newest, first = (record.asset_observation for record in records)
        assert newest is not None
        assert first is not None
        assert first.metadata["session"].value == "2026-11-20"
        assert first.metadata["symbols_by_outcome"].value == "ok 1 · unknown_symbol 1"
        assert int(str(first.metadata["new_or_changed_rows"].value)) > 30
        assert int(str(newest.metadata["new_or_changed_rows"].value)) in range(1, 8)
