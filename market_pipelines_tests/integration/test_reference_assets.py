"""The reference assets as Dagster runs them, and the check of corporate actions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.claims import Flag, Problem
from market_pipelines.orchestration.quality_checks import quality_checks
from market_pipelines.orchestration.reference_assets import reference_assets
from market_pipelines.orchestration.reference_jobs import weekly_refresh_job
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.claims import write_flags
from market_pipelines.store.database import Database
from market_pipelines.store.quotes import read_quotes

MARKETS = read_markets()
NOW = datetime(2026, 3, 2, 21, tzinfo=UTC)


@pytest.fixture
def simulator(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator() as running:
        for variable, address in running.base_urls().items():
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("DATABASE_URL", fresh_database.url)
        monkeypatch.setenv("MARKET_PIPELINES_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("MARKET_PIPELINES_SIMULATOR", "on")
        yield running


def definitions(name: str) -> dg.Definitions:
    market = MARKETS[name]
    job = weekly_refresh_job(market)
    outside = [dg.AssetSpec(dg.AssetKey([name, key])) for key in ("instruments", "corporate_actions")]
    return dg.Definitions(
        assets=[*reference_assets(market, market.providers), *outside],
        jobs=[job],
        resources={"platform": PlatformResource()},
    )


def run(name: str, *keys: str) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return (
            definitions(name)
            .resolve_job_def(f"{name}_weekly_refresh")
            .execute_in_process(
                instance=instance,
                raise_on_error=False,
                asset_selection=[dg.AssetKey([name, key]) for key in keys] or None,
            )
        )


def rows(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    found: dict[str, object] = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        found[materialization.asset_key.to_user_string()] = materialization.metadata["dagster/row_count"].value
    return found


def keys_of(name: str) -> set[str]:
    return {asset.key.to_user_string() for asset in reference_assets(MARKETS[name], MARKETS[name].providers)}


def test_an_asset_exists_where_a_provider_of_the_market_offers_it() -> None:
    everywhere = {"company_profiles", "latest_quotes", "index_members"}
    assert {f"us/{key}" for key in everywhere | {"listings", "option_contracts", "venue_status"}} == keys_of("us")
    assert {f"pl/{key}" for key in everywhere} <= keys_of("pl")
    assert "pl/listings" not in keys_of("pl")


def test_every_asset_is_described_owned_and_grouped() -> None:
    for name in ("us", "pl"):
        for asset in reference_assets(MARKETS[name], MARKETS[name].providers):
            (spec,) = asset.specs
            assert spec.group_name == f"{name}_reference"
            assert spec.owners == ["team:market-data"]
            assert spec.kinds
            assert spec.description
            assert "dagster/table_name" in spec.metadata


def test_a_weekly_refresh_fills_every_table(simulator: Simulator, fresh_database: Database) -> None:
    result = run("pl")
    assert result.success
    found = rows(result)
    assert found["pl/company_profiles"] == 20
    assert found["pl/latest_quotes"] == 23
    assert found["pl/index_members"] == 290
    with fresh_database.connection() as connection:
        assert len(read_quotes(connection, "pl")) == 23
        jobs = connection.execute(
            "SELECT job_name, kind, status, records_processed FROM market.etl_job_logs"
        ).fetchall()
    assert ("pl_weekly_refresh", "profiles", "success", 20) in jobs
    assert rows(run("pl", "company_profiles")) == {"pl/company_profiles": 0}, "they were asked for a moment ago"


def test_listings_and_venues_are_refreshed(simulator: Simulator) -> None:
    found = rows(run("us", "listings", "venue_status"))
    assert found.keys() == {"us/listings", "us/venue_status"}
    assert all(isinstance(count, int) and count > 0 for count in found.values())


def test_a_first_provider_that_is_down_is_no_failure(simulator: Simulator) -> None:
    simulator.faults.replace(["yahoo.status=503"])
    result = run("us", "latest_quotes")
    assert result.success
    assert rows(result) == {"us/latest_quotes": 53}


def test_when_nobody_answers_the_step_fails_with_the_reason(simulator: Simulator) -> None:
    simulator.faults.replace([f"{name}.status=503" for name in ("yahoo", "alpha_vantage", "polygon", "stooq")])
    result = run("us", "venue_status")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "nobody delivered the state of a venue" in str(failure.step_failure_data.error)


def test_open_flags_of_corporate_actions_are_a_warning(fresh_database: Database, simulator: Simulator) -> None:
    key = dg.AssetKey(["us", "corporate_actions"])
    (check,) = [one for one in quality_checks(MARKETS["us"]) if {spec.asset_key for spec in one.check_specs} == {key}]
    asset = dg.asset(key=key)(lambda: None)

    def evaluated() -> dg.AssetCheckEvaluation:
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [asset, check], instance=instance, resources={"platform": PlatformResource()}, selection="*"
            )
        (one,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "actions_agree"]
        return one

    assert evaluated().passed
    action = CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0)
    flag = Flag(action.symbol, action.ex_date, action.kind, Problem.UNCONFIRMED, True, "why", ("yahoo",), ("polygon",))
    with fresh_database.connection() as connection:
        write_flags(connection, "us", ["AAPL"], [flag], NOW)
    flagged = evaluated()
    assert not flagged.passed
    assert flagged.severity is dg.AssetCheckSeverity.WARN
    assert "AAPL" in str(flagged.metadata)


def test_somebody_who_covers_no_exchange_of_the_market_offers_it_nothing() -> None:
    names = {asset.key.to_user_string() for asset in reference_assets(MARKETS["pl"], ("alpha_vantage", "polygon"))}
    assert names == {"pl/index_members"}
