"""The platform as Dagster sees it: definitions, ranged runs, checks, and what they leave behind."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pandas as pd
import pytest
import requests
import yaml
from dagster._core.events import DagsterEventType
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox

from market_pipelines.cli.dagster_home import BATCHES
from market_pipelines.definitions import defs
from market_pipelines.orchestration import Market
from market_pipelines.orchestration.annotations import annotate
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.checks import assets_of, checks_of, may_block
from market_pipelines.pipeline.markets import MarketFileError, read_markets
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database
from market_pipelines.store.read_bars import read_prices, read_provider_bars

RANGE = ("2026-01-05", "2026-01-16")
SESSIONS = 10


@pytest.fixture
def simulator(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """The simulated providers, and settings that point at them and at a database of this test's own."""
    with Simulator() as running:
        for variable, address in running.base_urls().items():
            monkeypatch.setenv(variable, address)
        # Our own limits are not what these runs are about.
        monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        monkeypatch.setenv("DATABASE_URL", fresh_database.url)
        monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
        yield running


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return defs().get_repository_def()


@pytest.fixture(scope="module")
def instance(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    url = postgres_server.create(migrated=False)
    ours = postgres_event_log("market_pipelines.orchestration.storage", "PooledPostgresEventLogStorage", url)
    with local_instance(tmp_path_factory.mktemp("dagster") / "home", **ours) as opened:
        yield opened
    postgres_server.drop(url)


@contextmanager
def local_instance(folder: Path, **config: Any) -> Iterator[dg.DagsterInstance]:
    folder.mkdir()
    settings = {"telemetry": {"enabled": False}, **(config or sqlite_event_log(folder))}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    # As under `up`.
    with patch.dict(os.environ, BATCHES), dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def sqlite_event_log(folder: Path) -> dict[str, Any]:
    return {
        "event_log_storage": {
            "module": "market_pipelines.orchestration.storage",
            "class": "LocalEventLogStorage",
            "config": {"base_dir": str(folder / "events")},
        }
    }


def run_range(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    market: str = "us",
    span: tuple[str, str] = RANGE,
    selection: list[str] | None = None,
) -> dg.ExecuteInProcessResult:
    return repository.get_job(f"{market}_daily_refresh").execute_in_process(
        instance=instance,
        tags={"dagster/asset_partition_range_start": span[0], "dagster/asset_partition_range_end": span[1]},
        asset_selection=[dg.AssetKey(key.split("/")) for key in selection] if selection else None,
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dg.AssetCheckEvaluation]:
    return {
        one.check_name: one
        for one in result.get_asset_check_evaluations()
        if one.asset_key == dg.AssetKey(asset.split("/"))
    }


def stored(database: Database, market: str = "us") -> pd.DataFrame:
    with database.connection() as connection:
        return read_prices(connection, market, (), date.fromisoformat(RANGE[0]), date.fromisoformat(RANGE[1]))


def closes(prices: pd.DataFrame, symbol: str) -> list[float]:
    return [float(value) for value in prices.loc[prices["symbol"] == symbol, "close"]]


def true_closes(simulator: Simulator, symbol: str) -> list[float]:
    answer = requests.get(
        f"{simulator.url}/control/truth",
        params={"symbol": symbol, "mic": "XNYS", "from": RANGE[0], "to": RANGE[1]},
        timeout=10,
    )
    return [row["close"] for row in answer.json()["rows"]]


# --- definitions ---------------------------------------------------------------------------------------------


def test_both_markets_have_their_assets_jobs_and_schedules(repository: dg.RepositoryDefinition) -> None:
    keys = {key.to_user_string() for key in repository.assets_defs_by_key}
    raw = {"us": ("yahoo", "alpha_vantage", "polygon", "stooq"), "pl": ("yahoo", "stooq")}
    everywhere = ("instruments", "corporate_actions", "stock_prices", "index_prices", "stock_prices_intraday")
    reference = ("company_profiles", "index_members", "latest_quotes", "option_contracts")
    live = ("realtime_quotes", "realtime_trades", "bars_from_ticks")
    assert keys == {
        *(f"{market}/{name}" for market in raw for name in (*everywhere, *reference, *live, "cross_check")),
        *(
            f"{market}/raw/{provider}_{layer}"
            for market, providers in raw.items()
            for provider in providers
            for layer in ("daily", "intraday")
        ),
        *(f"platform/{name}" for name in ("health", "incidents", "retention")),
        "us/listings",
        "us/venue_status",
        "us/tick_history",
    }
    jobs = {f"{market}_{job}_refresh" for market in raw for job in ("daily", "intraday", "weekly")}
    assert jobs <= {job.name for job in repository.get_all_jobs()}
    times = ("after_close", "intraday_after_close", "intraday_market_hours", "weekend", "freshness")
    scheduled = {f"{market}_{when}" for market in raw for when in times} | {"health_check"}
    assert scheduled <= {schedule.name for schedule in repository.schedule_defs}


def test_the_lineage_reads_like_a_map(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.group_name.partition("_")[0] == key.path[0]
    prices = graph.get(dg.AssetKey(["us", "stock_prices"]))
    assert dg.AssetKey(["us", "raw", "stooq_daily"]) in prices.parent_keys
    assert dg.AssetKey(["us", "corporate_actions"]) in prices.parent_keys


def test_all_partitioned_assets_of_a_market_share_one_definition_and_run_as_one(
    repository: dg.RepositoryDefinition,
) -> None:
    for market in ("us", "pl"):
        partitioned = [
            one for key, one in repository.assets_defs_by_key.items() if key.path[0] == market and one.partitions_def
        ]
        assert len({id(one.partitions_def) for one in partitioned}) == 1
        assert {one.backfill_policy for one in partitioned} == {dg.BackfillPolicy.single_run()}


def test_every_quality_rule_is_a_check_and_the_blocking_ones_block(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for name, market in read_markets().items():
        for asset in assets_of(market):
            key = dg.AssetKey([name, asset])
            specs = {
                check.name: check
                for check_key in graph.asset_check_keys
                if check_key.asset_key == key
                for check in graph.assets_def_for_key(check_key).check_specs
                if check.key == check_key
            }
            rules = {rule.name: rule for rule in checks_of(asset, market)}
            assert rules.keys() <= specs.keys()
            for rule in rules.values():
                assert specs[rule.name].blocking == may_block(rule), rule.name
                assert specs[rule.name].description == rule.explanation
            assert len({id(graph.assets_def_for_key(dg.AssetCheckKey(key, rule))) for rule in rules}) == 1


def test_a_third_market_is_one_yaml_file() -> None:
    attributes = {
        "name": "lse",
        "title": "United Kingdom",
        "calendar": "XLON",
        "currency": "GBP",
        "since": "2020-01-02",
        "providers": ["yahoo", "stooq"],
        "symbols": [{"symbol": "VOD"}, {"symbol": "HSBA"}],
        "indices": [{"symbol": "^UKX", "providers": {"yahoo": "^FTSE", "stooq": "^ukx"}}],
    }
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=Market,
            defs_yaml_contents={"type": "market_pipelines.Market", "attributes": attributes},
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, definitions):
            assert isinstance(component, Market)
            whole = dg.Definitions.merge(definitions, dg.Definitions(resources={"platform": PlatformResource()}))
            london = whole.get_repository_def()
    keys = {key.to_user_string() for key in london.assets_defs_by_key}
    assert {"lse/instruments", "lse/raw/yahoo_daily", "lse/raw/stooq_daily", "lse/stock_prices"} <= keys
    assert dg.AssetCheckKey(dg.AssetKey(["lse", "index_prices"]), "completeness") in london.asset_graph.asset_check_keys
    assert "lse_daily_refresh" in {job.name for job in london.get_all_jobs()}
    partitions = london.assets_defs_by_key[dg.AssetKey(["lse", "stock_prices"])].partitions_def
    assert partitions is not None
    assert partitions.has_partition_key("2025-01-09")
    assert not partitions.has_partition_key("2025-08-25")


def test_a_wrong_market_file_stops_the_load_with_file_and_line() -> None:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=Market,
            defs_yaml_contents={
                "type": "market_pipelines.Market",
                "attributes": {
                    "name": "lse",
                    "title": "United Kingdom",
                    "calendar": "XLND",
                    "currency": "GBP",
                    "since": "2020-01-02",
                    "providers": ["yahoo"],
                    "symbols": [{"symbol": "VOD"}],
                },
            },
        )
        line = next(
            number
            for number, text in enumerate((path / "defs.yaml").read_text(encoding="utf-8").splitlines(), start=1)
            if "XLND" in text
        )
        with pytest.raises(ComponentTreeException) as caught, sandbox.load_component_and_build_defs(defs_path=path):
            pass
    cause = caught.value.__cause__
    assert isinstance(cause, MarketFileError)
    assert f"defs.yaml:{line}: calendar: read 'XLND'; accepted: " in str(cause)
    assert "XLON" in str(cause)


# --- runs ----------------------------------------------------------------------------------------------------


def test_a_range_is_one_green_run_that_equals_the_truth(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    result = run_range(repository, instance)
    assert result.success
    assert {one.check_name for one in result.get_asset_check_evaluations() if not one.passed} == {
        "freshness",
        "newest_session",
    }
    prices = stored(fresh_database)
    assert prices.groupby("session").size().tolist() == [50] * SESSIONS
    assert set(prices["provider"]) == {"simulated-yahoo"}
    for symbol in ("AAPL", "BRK.B", "SPY"):
        assert closes(prices, symbol) == pytest.approx(true_closes(simulator, symbol), rel=1e-6)
    keys = instance.get_materialized_partitions(dg.AssetKey(["us", "stock_prices"]))
    assert len(keys) == SESSIONS


def test_running_a_range_twice_changes_nothing(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    run_range(repository, instance)
    before = stored(fresh_database)
    assert run_range(repository, instance).success
    after = stored(fresh_database)
    assert after.equals(before)


def test_each_partition_says_how_many_rows_it_has_and_the_newest_tells_the_rest(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator
) -> None:
    result = run_range(repository, instance)
    materialized = {
        event.partition: event.step_materialization_data.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(["us", "stock_prices"])
    }
    assert len(materialized) == SESSIONS
    assert {metadata["dagster/partition_row_count"].value for metadata in materialized.values()} == {50}
    newest = materialized.pop(RANGE[1])
    assert newest["rows"].value == 50 * SESSIONS
    assert newest["rows_by_provider"].value == f"simulated-yahoo {50 * SESSIONS}"
    assert isinstance(newest["newest_session"], dg.TableMetadataValue)
    assert "svg" in str(newest["median_close"].value)
    assert all("newest_session" not in metadata for metadata in materialized.values())


def test_a_provider_that_is_down_is_a_warning_when_another_delivers(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    simulator.faults.add("yahoo.status=403")
    result = run_range(repository, instance)
    assert result.success
    answers = evaluations(result, "us/raw/yahoo_daily")["answers"]
    assert (answers.passed, answers.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluations(result, "us/stock_prices")["completeness"].passed
    assert set(stored(fresh_database)["provider"]) == {"simulated-alpha_vantage"}


def test_a_market_that_nobody_delivers_ends_red(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    for provider in ("yahoo", "alpha_vantage", "polygon", "stooq"):
        simulator.faults.add(f"{provider}.status=403")
    result = run_range(repository, instance)
    assert not result.success
    assert stored(fresh_database).empty
    checks = evaluations(result, "us/stock_prices")
    assert (checks["provider_outage"].passed, checks["provider_outage"].severity) == (
        False,
        dg.AssetCheckSeverity.ERROR,
    )


def test_a_bad_bar_that_another_provider_mends_is_a_warning_with_the_row_shown(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    simulator.faults.add("yahoo.negative_price=2026-01-07@MSFT")
    result = run_range(repository, instance)
    check = evaluations(result, "us/stock_prices")["positive_price"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    offending = check.metadata["offending"]
    assert isinstance(offending, dg.TableMetadataValue)
    assert {str(record.data["symbol"]) for record in offending.records} == {"MSFT"}
    prices = stored(fresh_database)
    assert (prices[["open", "high", "low", "close"]] > 0).all(axis=None)
    assert len(prices) == 50 * SESSIONS


def test_one_raw_asset_alone_asks_only_its_provider(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    result = run_range(repository, instance, market="pl", selection=["pl/raw/stooq_daily"])
    assert result.success
    assert simulator.requests.count("yahoo") == 0
    assert simulator.requests.count("stooq") == 23
    with fresh_database.connection() as connection:
        assert set(read_provider_bars(connection, "pl")["provider"]) == {"simulated-stooq"}


def test_a_plain_dagster_dev_keeps_its_events_in_files(
    repository: dg.RepositoryDefinition, simulator: Simulator, tmp_path: Path
) -> None:
    with local_instance(tmp_path / "dagster") as instance:
        result = run_range(repository, instance, market="pl", span=("2026-01-15", "2026-01-16"))
        assert result.success
        key = dg.AssetKey(["pl", "stock_prices"])
        assert len(instance.get_materialized_partitions(key)) == 2
        check = dg.AssetCheckKey(key, "completeness")
        summary = instance.event_log_storage.get_asset_check_summary_records([check])[check]
        assert summary.last_check_execution_record is not None
        assert summary.last_check_execution_record.status.value == "SUCCEEDED"


def test_jobs_are_logged_with_their_run(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, simulator: Simulator, fresh_database: Database
) -> None:
    result = run_range(repository, instance, market="pl")
    with fresh_database.connection() as connection:
        rows = connection.execute(
            "SELECT job_name, kind, status, records_processed FROM market.etl_job_logs "
            "WHERE dagster_run_id = %s ORDER BY job_id",
            (result.run_id,),
        ).fetchall()
    assert {(name, status) for name, _, status, _ in rows} == {("pl_daily_refresh", "success")}
    assert [kind for _, kind, _, _ in rows] == ["pull", "settle", "settle"]
    assert all(processed > 0 for *_, processed in rows)


# --- the event log -------------------------------------------------------------------------------------------


def postgres_event_log(module: str, name: str, url: str) -> dict[str, Any]:
    address = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    return {"event_log_storage": {"module": module, "class": name, "config": {"postgres_url": address}}}


def test_the_pooled_event_log_reads_back_what_the_shipped_one_would(
    repository: dg.RepositoryDefinition, simulator: Simulator, postgres_server: Any, tmp_path: Path
) -> None:
    url = postgres_server.create(migrated=False)
    ours = postgres_event_log("market_pipelines.orchestration.storage", "PooledPostgresEventLogStorage", url)
    shipped = postgres_event_log("dagster_postgres.event_log", "PostgresEventLogStorage", url)
    key = dg.AssetKey(["pl", "stock_prices"])
    rules = checks_of("stock_prices", read_markets()["pl"])

    def seen(instance: dg.DagsterInstance) -> list[object]:
        log = instance.event_log_storage
        checks = log.get_asset_check_summary_records([dg.AssetCheckKey(key, rule.name) for rule in rules])
        return [
            sorted(instance.get_materialized_partitions(key)),
            [record.asset_entry.last_run_id for record in instance.get_asset_records([key])],
            sorted((check.name, str(summary.last_check_execution_record)) for check, summary in checks.items()),
            len(instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION_PLANNED)),
        ]

    with local_instance(tmp_path / "ours", **ours) as instance:
        result = run_range(repository, instance, market="pl")
        run_id = result.run_id
        assert result.success
        with_ours = seen(instance)
    with local_instance(tmp_path / "shipped", **shipped) as instance:
        assert seen(instance) == with_ours
    assert with_ours[0] and with_ours[3] == 9 * 6
    postgres_server.drop(url)


def test_annotations_say_what_dagsters_own_call_would_say(instance: dg.DagsterInstance) -> None:
    partitions = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")

    def materialized(note: Callable[[dg.AssetExecutionContext], None]) -> dict[str | None, object]:
        @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
        def noted(context: dg.AssetExecutionContext) -> None:
            note(context)

        result = dg.materialize(
            [noted],
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": "2026-01-01",
                "dagster/asset_partition_range_end": "2026-01-03",
            },
        )
        return {
            event.partition: event.step_materialization_data.materialization.metadata["rows"].value
            for event in result.get_asset_materialization_events()
        }

    def by_hand(context: dg.AssetExecutionContext) -> None:
        for number, key in enumerate(context.partition_keys):
            context.add_asset_metadata({"rows": number}, partition_key=key)

    def at_once(context: dg.AssetExecutionContext) -> None:
        notes = {key: {"rows": number} for number, key in enumerate(context.partition_keys)}
        annotate(context, context.asset_key, {**notes, "2026-01-04": {"rows": 99}})

    assert materialized(at_once) == materialized(by_hand) == {"2026-01-01": 0, "2026-01-02": 1, "2026-01-03": 2}
