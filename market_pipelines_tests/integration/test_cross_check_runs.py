"""The second opinion as Dagster sees it: when it is asked for, and what a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine

from market_pipelines.market.definition import CrossCheckPlan
from market_pipelines.orchestration.cross_check import cross_check_definitions
from market_pipelines.orchestration.daily_assets import daily_assets
from market_pipelines.orchestration.partitions import session_partitions
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.refresh import instruments_of, refresh_daily
from market_pipelines.settings import read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database

FRIDAY, MONDAY = date(2026, 1, 16), date(2026, 1, 12)
EVENING = datetime(2026, 1, 16, 22, 15, tzinfo=UTC)
STOCKS = dg.AssetKey(["us", "stock_prices"])


@pytest.fixture
def simulator(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator() as running:
        for variable, address in running.base_urls().items():
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        monkeypatch.setenv("DATABASE_URL", fresh_database.url)
        monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
        yield running


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    """The daily tables of both markets and their second opinions."""
    now = datetime.now(UTC)
    parts = [dg.Definitions(resources={"platform": PlatformResource()}, executor=dg.in_process_executor)]
    for market in read_markets().values():
        partitions = session_partitions(market.mic, market.since, now.date())
        parts.append(dg.Definitions(assets=daily_assets(market, market.providers, partitions)))
        parts.append(cross_check_definitions(market, now))
    return dg.Definitions.merge(*parts).get_repository_def()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as opened:
        yield opened


def refresh(simulator: Simulator, start: date = MONDAY, end: date = FRIDAY) -> list[str]:
    """Stores the market's bars and tells whose turn it is on the last day."""
    with open_platform(read_settings()) as platform:
        market = platform.market("us")
        symbols = [one.symbol for one in market.everything]
        yahoo = [platform.providers["yahoo"]]
        refresh_daily(platform, market, instruments_of(market, symbols), start, end, providers=yahoo)
        simulator.requests.clear()
    return symbols


def asking(session: date) -> dict[str, object]:
    return {"ops": {"us_second_opinions": {"config": {"session": session.isoformat()}}}}


def run(repository: dg.RepositoryDefinition, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    with time_machine.travel(EVENING, tick=True):
        return repository.get_job("us_cross_check").execute_in_process(instance=instance, run_config=asking(FRIDAY))


def test_a_run_asks_the_second_provider_and_its_check_tells_how_far_they_are_apart(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> None:
    refresh(simulator)
    simulator.faults.add("alpha_vantage.scale=+25bp")
    simulator.faults.add("stooq.scale=+25bp")
    result = run(repository, instance)
    assert result.success
    (made,) = result.asset_materializations_for_node("us_second_opinions")
    told: dict[str, Any] = {name: value.value for name, value in made.metadata.items()}
    wanted = read_markets()["us"].cross_check.symbols_a_day
    assert (made.asset_key.to_user_string(), told["session"]) == ("us/cross_check", FRIDAY.isoformat())
    assert len(told["opinions"].records) == wanted
    assert told["symbols_compared"] == told["symbols_disagreeing"] == told["requests"] == wanted
    (check,) = result.get_asset_check_evaluations()
    assert (check.asset_key, check.check_name, check.passed) == (STOCKS, "providers_agree", False)
    assert check.severity is dg.AssetCheckSeverity.WARN
    shown: dict[str, Any] = {name: value.value for name, value in check.metadata.items()}
    assert shown["disagreements"] == wanted
    assert shown["widest_bp"] == pytest.approx(25, abs=0.5)
    assert {record.data["session"] for record in shown["offending"].records} == {FRIDAY.isoformat()}
    assert "data:image/svg" in str(shown["bp_apart"]) or "bp:" in str(shown["bp_apart"])


def test_where_the_providers_agree_the_check_is_green(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> None:
    refresh(simulator)
    (check,) = run(repository, instance).get_asset_check_evaluations()
    assert check.passed
    assert "0 disagreements stand; 3 pairs" in str(check.description)


def tick(repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, at: datetime) -> dg.RunRequest | str:
    with (
        time_machine.travel(at, tick=False),
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=at,
            repository_def=repository,
            resources={"platform": PlatformResource()},
        ) as context,
    ):
        asked = repository.get_schedule_def("us_cross_check_after_close").evaluate_tick(context)
    return asked.run_requests[0] if asked.run_requests else str(asked.skip_message)


def test_the_newest_session_whose_bars_are_there_is_asked_about_once(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> None:
    assert tick(repository, instance, EVENING) == "nothing is stored yet that a second provider could be asked about"
    refresh(simulator)
    request = tick(repository, instance, EVENING)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == f"us_cross_check-{FRIDAY}"
    assert request.run_config == asking(FRIDAY)
    job = repository.get_job("us_cross_check")
    instance.create_run_for_job(job, tags={"dagster/run_key": str(request.run_key)})
    assert f"{request.run_key} was run before" in str(tick(repository, instance, EVENING))


def test_there_is_a_tick_after_every_close_half_days_too_and_runs_share_the_lane_of_the_daily_refresh(
    repository: dg.RepositoryDefinition,
) -> None:
    schedule = repository.get_schedule_def("us_cross_check_after_close")
    assert schedule.execution_timezone == "America/New_York"
    # 30 minutes until the bars are expected and 45 more, after 13:00 and 16:00.
    assert list(schedule.cron_schedule) == ["15 14 * * *", "15 17 * * *"]
    assert repository.get_schedule_def("pl_cross_check_after_close").execution_timezone == "Europe/Warsaw"
    job = repository.get_job("us_cross_check")
    assert job.tags["market_pipelines/lane"] == "us_daily"


def test_a_market_may_do_without_second_opinions() -> None:
    now = datetime(2026, 1, 16, tzinfo=UTC)
    market = read_markets()["us"]
    without = replace(market, cross_check=CrossCheckPlan(symbols_a_day=0))
    found = cross_check_definitions(without, now)
    assert not [*(found.jobs or ()), *(found.schedules or ()), *(found.assets or ())]
    assert found.asset_checks, "what refreshes find is told all the same"
