"""The checks as Dagster runs them: over stored data alone, one by one, in front of what is downstream, and cheaply."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from market_pipelines.pipeline.checks import assets_of, checks_of
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration import small_markets
from market_pipelines_tests.integration.test_dagster_runs import evaluations, local_instance, postgres_event_log

FIRST, LAST = "2026-06-01", "2026-06-12"
SESSIONS = 10
TAGS = {"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": LAST}
DAYS = {"start": FIRST, "end": LAST}
STOCKS, MINUTES = dg.AssetKey(["us", "stock_prices"]), dg.AssetKey(["us", "stock_prices_intraday"])
SECONDS_OF_A_HUNDRED = 30.0
"""What may be spent on a hundred checks on a slow and busy machine; alone it is a few."""


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    url = postgres_server.create()
    with Database(url, pool_size=4) as opened:
        yield opened
    postgres_server.drop(url)


@pytest.fixture(scope="module")
def simulator(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with Simulator() as running, pytest.MonkeyPatch.context() as patch:
        for variable, address in running.base_urls().items():
            patch.setenv(variable, address)
        patch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        patch.setenv("DATABASE_URL", database.url)
        patch.setenv("MARKET_PIPELINES_HOME", str(tmp_path_factory.mktemp("home")))
        yield running


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return small_markets.defs().get_repository_def()


@pytest.fixture(scope="module")
def instance(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    url = postgres_server.create(migrated=False)
    log = postgres_event_log("market_pipelines.orchestration.storage", "PooledPostgresEventLogStorage", url)
    with local_instance(tmp_path_factory.mktemp("dagster") / "home", **log) as opened:
        yield opened
    postgres_server.drop(url)


@pytest.fixture(scope="module")
def refreshed(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> dg.ExecuteInProcessResult:
    """Two weeks of the small American market, by the job that makes them every day."""
    result = repository.get_job("us_daily_refresh").execute_in_process(instance=instance, tags=TAGS)
    repository.get_job("us_intraday_refresh").execute_in_process(instance=instance, tags=TAGS)
    return result


def asked(
    job: dg.JobDefinition, instance: dg.DagsterInstance, config: Mapping[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def without_triggers(database: Database, *statements: str) -> None:
    with database.connection() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            assert connection.execute(statement.encode()).rowcount > 0


def test_the_checks_job_judges_the_named_days_and_asks_no_provider(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    simulator: Simulator,
    refreshed: dg.ExecuteInProcessResult,
) -> None:
    simulator.requests.clear()
    result = asked(repository.get_job("us_checks"), instance, DAYS)
    assert result.success
    assert sum(simulator.requests.count(name) for name in ("yahoo", "alpha_vantage", "polygon", "stooq")) == 0
    market = small_markets.small_markets()["us"]
    found = {(one.asset_key.path[-1], one.check_name): one for one in result.get_asset_check_evaluations()}
    assert set(found) == {(asset, rule.name) for asset in assets_of(market) for rule in checks_of(asset, market)}
    assert {one.metadata["sessions"].value for one in found.values()} == {f"{FIRST} to {LAST}"}
    assert {name for name, one in found.items() if not one.passed} == {
        ("stock_prices", "freshness"),
        ("index_prices", "freshness"),
    }


def test_without_days_the_last_sessions_are_judged(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> None:
    result = asked(repository.get_job("us_checks"), instance)
    check = evaluations(result, "us/stock_prices")["completeness"]
    assert check.metadata["checked"].value == 30.0 * 5
    assert not check.passed


def test_a_check_tells_its_numbers_and_shows_the_worst_rows(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    database: Database,
    refreshed: dg.ExecuteInProcessResult,
) -> None:
    without_triggers(
        database,
        "CREATE TABLE public.kept AS TABLE market.stock_prices",
        "DELETE FROM market.stock_prices WHERE symbol = 'KO'",
    )
    try:
        check = evaluations(asked(repository.get_job("us_checks"), instance, DAYS), "us/stock_prices")["completeness"]
    finally:
        without_triggers(database, "INSERT INTO market.stock_prices SELECT * FROM public.kept WHERE symbol = 'KO'")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    numbers = {name: check.metadata[name] for name in ("failing_rows", "checked", "failing_share")}
    assert all(isinstance(value, dg.FloatMetadataValue) for value in numbers.values())
    assert {name: value.value for name, value in numbers.items()} == {
        "failing_rows": 10.0,
        "checked": 50.0,
        "failing_share": 0.2,
    }
    offending = check.metadata["offending"]
    assert isinstance(offending, dg.TableMetadataValue)
    assert {record.data["symbol"] for record in offending.records} == {"KO"}
    assert check.description == "40 of 50 expected bars are stored."


@pytest.mark.parametrize(
    ("job", "config"),
    [("us_checks", None), ("__ASSET_JOB", {"ops": {"us_stock_prices_checks": {"config": DAYS}}})],
)
def test_one_check_can_be_asked_alone(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    refreshed: dg.ExecuteInProcessResult,
    job: str,
    config: dict[str, Any] | None,
) -> None:
    wanted = {dg.AssetCheckKey(STOCKS, "nulls"), dg.AssetCheckKey(STOCKS, "return_cap")}
    result = asked(repository.get_job(job).get_subset(asset_check_selection=wanted), instance, config)
    assert result.success
    assert {(one.asset_key, one.check_name) for one in result.get_asset_check_evaluations()} == {
        (key.asset_key, key.name) for key in wanted
    }


def test_days_in_the_wrong_order_are_refused(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> None:
    result = asked(repository.get_job("us_checks"), instance, {"start": LAST, "end": FIRST})
    assert not result.success
    assert not result.get_asset_check_evaluations()


def test_a_blocking_check_stops_what_is_downstream(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    database: Database,
    refreshed: dg.ExecuteInProcessResult,
) -> None:
    spoil = "UPDATE market.provider_bars SET low = {} WHERE symbol = 'KO' AND session = '2026-06-03'"
    job = repository.get_implicit_global_asset_job_def()

    def both() -> dg.ExecuteInProcessResult:
        return job.get_subset(asset_selection={STOCKS, MINUTES}).execute_in_process(
            instance=instance, tags=TAGS, raise_on_error=False
        )

    def made(result: dg.ExecuteInProcessResult) -> set[dg.AssetKey | None]:
        return {event.asset_key for event in result.get_asset_materialization_events()}

    without_triggers(
        database,
        "CREATE TABLE public.honest AS TABLE market.provider_bars",
        spoil.format("-1"),
        # A correction that large waits for a person; a first bar does not.
        "DELETE FROM market.stock_prices WHERE symbol = 'KO' AND session = '2026-06-03'",
    )
    try:
        stopped = both()
    finally:
        without_triggers(
            database,
            "DELETE FROM market.provider_bars",
            "INSERT INTO market.provider_bars SELECT * FROM public.honest",
            "DELETE FROM market.stock_prices WHERE symbol = 'KO' AND session = '2026-06-03'",
        )
    assert not stopped.success
    assert made(stopped) == {STOCKS}
    check = evaluations(stopped, "us/stock_prices")["positive_price"]
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.ERROR, True)
    mended = both()
    assert mended.success
    assert made(mended) == {STOCKS, MINUTES}


def test_each_partition_says_in_what_condition_its_session_is(refreshed: dg.ExecuteInProcessResult) -> None:
    told = {
        event.partition: event.step_materialization_data.materialization.metadata
        for event in refreshed.get_asset_materialization_events()
        if event.asset_key == STOCKS
    }
    assert len(told) == SESSIONS
    assert {metadata["condition"].value for metadata in told.values()} == {"available"}
    assert {metadata["symbols_by_condition"].value for metadata in told.values()} == {"available 5"}


def test_a_hundred_checks_cost_little(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    refreshed: dg.ExecuteInProcessResult,
    capsys: pytest.CaptureFixture[str],
) -> None:
    began = time.monotonic()
    result = asked(repository.get_job("us_checks"), instance, DAYS)
    seconds = time.monotonic() - began
    checks = len(result.get_asset_check_evaluations())
    steps = {event.step_key for event in result.all_events if event.is_step_start}
    of_a_hundred = seconds / checks * 100
    with capsys.disabled():
        print(f"\n{checks} checks in {len(steps)} steps: {seconds:.1f} s, {of_a_hundred:.1f} s a hundred")
    assert len(steps) == len(assets_of(small_markets.small_markets()["us"]))
    assert of_a_hundred < SECONDS_OF_A_HUNDRED


def test_a_hole_is_what_its_partition_says(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    simulator: Simulator,
    refreshed: dg.ExecuteInProcessResult,
) -> None:
    for provider in ("yahoo", "alpha_vantage", "polygon", "stooq"):
        simulator.faults.add(f"{provider}.missing_rows=2026-05-06@KO")
    span = {"dagster/asset_partition_range_start": "2026-05-05", "dagster/asset_partition_range_end": "2026-05-07"}
    result = repository.get_job("us_daily_refresh").execute_in_process(
        instance=instance, tags=span, raise_on_error=False
    )
    simulator.faults.clear()
    told = {
        event.partition: event.step_materialization_data.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key == STOCKS
    }
    assert {key: metadata["condition"].value for key, metadata in told.items()} == {
        "2026-05-05": "available",
        "2026-05-06": "missing",
        "2026-05-07": "available",
    }
    assert told["2026-05-06"]["symbols_by_condition"].value == "available 4 · missing 1"
