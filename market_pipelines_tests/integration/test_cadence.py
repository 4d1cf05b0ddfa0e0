"""Schedules under Dagster's own scheduler, with a clock that jumps: half days, days off, a daemon that was away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest
import time_machine
from dagster._core.scheduler.instigation import InstigatorType

from market_pipelines.orchestration import daily_assets
from market_pipelines.orchestration.market_component import market_definitions
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database
from market_pipelines.store.read_bars import read_prices
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration import cadence_days
from market_pipelines_tests.integration.daemon_days import Daemon, daemon_of, instance_on

CHECK = "newest_session"


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


@dataclass
class Days:
    """A daemon that is looked at when the test says so."""

    daemon: Daemon
    clock: time_machine.Traveller
    simulator: Simulator

    def look(self, utc: str) -> None:
        now = datetime.fromisoformat(utc).replace(tzinfo=UTC)
        self.clock.move_to(now)
        self.simulator.clock.set(now)
        self.daemon.look()

    def runs(self, job: str) -> list[dg.DagsterRun]:
        """Oldest first."""
        return list(reversed(self.daemon.instance.get_runs(dg.RunsFilter(job_name=job))))

    def keys(self, job: str) -> list[str]:
        """Of the runs that a schedule asked for."""
        keys = (run.tags.get("dagster/run_key", "") for run in self.runs(job))
        return [key.removeprefix(f"{job}-") for key in keys if key]

    def said(self, schedule: str) -> str:
        """Why the newest tick of a schedule asked for nothing; empty when it did ask."""
        (state,) = [
            one
            for one in self.daemon.instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
            if one.instigator_name == schedule
        ]
        (tick,) = self.daemon.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        return tick.skip_reason or ""

    def backfill(self, job: str, session: str) -> None:
        """As a person does it in the UI, for one old session."""
        repository = cadence_days.defs().get_repository_def()
        done = repository.get_job(job).execute_in_process(
            instance=self.daemon.instance, tags={"dagster/partition": session}
        )
        assert done.success

    def bars(self, database: Database) -> list[tuple[str, int]]:
        """How many final bars of PKO each session has."""
        with database.connection() as connection:
            rows = connection.execute(
                "SELECT session::text, count(*) FROM market.stock_prices_intraday "
                "WHERE symbol = 'PKO' AND NOT provisional GROUP BY 1 ORDER BY 1"
            ).fetchall()
        return [(str(session), int(count)) for session, count in rows]

    def fresh(self, asset: str) -> tuple[bool, dg.AssetCheckSeverity]:
        """What the newest evaluation of the check said."""
        key = dg.AssetCheckKey(dg.AssetKey(asset.split("/")), CHECK)
        records = self.daemon.instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
        evaluated = [one.evaluation for one in records if isinstance(one.evaluation, dg.AssetCheckEvaluation)]
        return evaluated[0].passed, evaluated[0].severity


@contextmanager
def days(
    simulator: Simulator, postgres_server: PostgresServer, folder: Path, begin: str, attribute: str = "defs"
) -> Iterator[Days]:
    url = postgres_server.create(migrated=False)
    start = datetime.fromisoformat(begin).replace(tzinfo=UTC)
    with (
        time_machine.travel(start, tick=True) as clock,
        instance_on(folder, url) as instance,
        daemon_of(instance, cadence_days.__name__, attribute) as daemon,
    ):
        yield Days(daemon, clock, simulator)
    postgres_server.drop(url)


def stored(database: Database, market: str, start: date, end: date) -> set[date]:
    with database.connection() as connection:
        return {day.date() for day in read_prices(connection, market, (), start, end)["session"]}


def test_a_daemon_that_was_off_for_three_days_catches_up_in_one_run(
    simulator: Simulator, postgres_server: PostgresServer, fresh_database: Database, tmp_path: Path
) -> None:
    with days(simulator, postgres_server, tmp_path / "dagster", "2026-11-17 12:00") as week:
        week.look("2026-11-17 12:00")
        assert week.runs("pl_daily_refresh") == []
        week.look("2026-11-17 16:45")
        assert week.keys("pl_daily_refresh") == ["2026-11-13-to-2026-11-17"], "the first one asks for three sessions"
        week.look("2026-11-17 16:46")
        assert len(week.runs("pl_daily_refresh")) == 1
        # Off from Tuesday evening to Sunday morning: Wednesday, Thursday and Friday close without anybody.
        week.look("2026-11-22 10:00")
        assert week.keys("pl_daily_refresh")[1:] == ["2026-11-18-to-2026-11-20"]
        caught_up = week.runs("pl_daily_refresh")[-1]
        assert caught_up.status is dg.DagsterRunStatus.SUCCESS
        assert caught_up.tags["dagster/asset_partition_range_start"] == "2026-11-18"
        assert caught_up.tags["dagster/asset_partition_range_end"] == "2026-11-20"
        assert stored(fresh_database, "pl", date(2026, 11, 18), date(2026, 11, 20)) == {
            date(2026, 11, 18),
            date(2026, 11, 19),
            date(2026, 11, 20),
        }
        week.look("2026-11-22 16:45")
        week.look("2026-11-23 12:00")
        assert len(week.runs("pl_daily_refresh")) == 2, "nothing is due twice"
        assert "2026-11-22 is not a session of XWAR (weekend)" in week.said("pl_after_close")


def test_a_half_day_is_refreshed_after_its_own_close(
    simulator: Simulator, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with days(simulator, postgres_server, tmp_path / "dagster", "2026-11-25 12:00") as week:
        week.look("2026-11-25 12:00")
        week.look("2026-11-25 21:30")
        week.look("2026-11-26 21:30")
        assert week.keys("us_daily_refresh") == ["2026-11-23-to-2026-11-25"]
        assert "holiday: Thanksgiving" in week.said("us_after_close")
        week.look("2026-11-27 18:29")
        assert len(week.runs("us_daily_refresh")) == 1
        week.look("2026-11-27 18:30")
        assert week.keys("us_daily_refresh")[1:] == ["2026-11-27"]
        week.look("2026-11-27 21:30")
        assert len(week.runs("us_daily_refresh")) == 2
        assert "the next session opens Mon 2026-11-30 09:30" in week.said("us_after_close")


def test_a_failed_refresh_turns_the_asset_red_and_goes_into_the_next_one(
    simulator: Simulator, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with days(simulator, postgres_server, tmp_path / "dagster", "2026-11-17 12:00") as week:
        week.look("2026-11-17 12:00")
        week.look("2026-11-17 21:30")
        week.look("2026-11-17 22:30")
        assert week.fresh("us/stock_prices") == (True, dg.AssetCheckSeverity.ERROR)

        with monkeypatch.context() as broken:

            def gone(*_args: object, **_options: object) -> None:
                raise OSError("no space left on device")

            broken.setattr(daily_assets, "settle_daily", gone)
            week.look("2026-11-18 21:30")
        assert [run.status.value for run in week.runs("us_daily_refresh")] == ["SUCCESS", "FAILURE"]
        assert week.fresh("us/stock_prices")[0], "it may still come"
        week.look("2026-11-18 22:30")
        assert week.fresh("us/stock_prices") == (False, dg.AssetCheckSeverity.ERROR)

        asked = len(week.runs("us_freshness"))
        week.look("2026-11-18 23:05")
        assert len(week.runs("us_freshness")) == asked
        assert week.said("us_freshness").startswith("nothing has changed: Overdue since 2026-11-18 22:30 UTC")
        week.backfill("us_daily_refresh", "2026-11-12")
        assert not week.fresh("us/stock_prices")[0], "an old session makes nothing fresh"

        week.look("2026-11-19 18:30")
        assert "us_daily_refresh-2026-11-18 was run before" in week.said("us_after_close")
        week.look("2026-11-19 21:30")
        assert week.keys("us_daily_refresh")[-1] == "2026-11-18-to-2026-11-19"
        assert week.runs("us_daily_refresh")[-1].status is dg.DagsterRunStatus.SUCCESS
        assert week.fresh("us/stock_prices")[0]


def test_while_the_exchange_trades_its_session_is_asked_for_again_and_again(
    simulator: Simulator, postgres_server: PostgresServer, fresh_database: Database, tmp_path: Path
) -> None:
    with days(simulator, postgres_server, tmp_path / "dagster", "2026-11-20 07:00", "trading") as day:
        day.look("2026-11-20 07:00")
        day.look("2026-11-20 08:00")
        assert "trading has just begun" in day.said("pl_intraday_market_hours")
        day.look("2026-11-20 10:00")
        day.look("2026-11-20 10:30")
        day.look("2026-11-20 14:00")
        assert day.keys("pl_intraday_refresh") == ["2026-11-20-1100", "2026-11-20-1500"], "four slots were missed"
        assert {run.status.value for run in day.runs("pl_intraday_refresh")} == {"SUCCESS"}
        assert day.bars(fresh_database) == [("2026-11-20", 6)], "hours that have ended"
        day.look("2026-11-20 16:00")
        assert "after hours; next open Mon 2026-11-23 09:00" in day.said("pl_intraday_market_hours")
        day.look("2026-11-20 17:00")
        assert day.keys("pl_intraday_refresh")[-1] == "2026-11-18-to-2026-11-20"
        day.look("2026-11-20 19:00")
        assert len(day.runs("pl_intraday_refresh")) == 3
        assert day.bars(fresh_database)[-1] == ("2026-11-20", 8)


def test_a_weekly_run_asks_for_its_sessions_and_for_all_reference_data(
    simulator: Simulator, fresh_database: Database, tmp_path: Path
) -> None:
    market = cadence_days.small_markets()["pl"]
    definitions = dg.Definitions.merge(
        market_definitions(market, datetime(2026, 11, 22, tzinfo=UTC)),
        dg.Definitions(resources={"platform": PlatformResource()}),
    )
    folder = tmp_path / "weekly"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        result = definitions.resolve_job_def("pl_weekly_refresh").execute_in_process(
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": "2026-01-15",
                "dagster/asset_partition_range_end": "2026-01-16",
            },
        )
    materialized = {
        (event.asset_key.path[-1], event.partition)
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert {("stock_prices", "2026-01-15"), ("stock_prices", "2026-01-16")} <= materialized
    assert {("latest_quotes", None), ("company_profiles", None), ("instruments", None)} <= materialized
    assert stored(fresh_database, "pl", date(2026, 1, 15), date(2026, 1, 16)) == {
        date(2026, 1, 15),
        date(2026, 1, 16),
    }
