"""The sensor that watches a stream: what it tells the assets, when it asks for a run, and what it makes an incident."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType
from dagster._utils.tags import TagConcurrencyLimitsCounter

from market_pipelines.cli.dagster_home import instance as instance_config
from market_pipelines.definitions import defs
from market_pipelines.orchestration.realtime import SESSION_TAG, realtime_job
from market_pipelines.orchestration.realtime_checks import realtime_checks
from market_pipelines.orchestration.realtime_sensor import stream_sensor
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.health import Condition, Part, examine
from market_pipelines.pipeline.incidents import open_incidents
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.settings import StreamHost
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.stream_gaps import NoticedGap, record_closed
from market_pipelines.store.streams import Claim, Report, StreamState, acquire, release, renew
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

NOON = datetime(2025, 6, 13, 16, 0, tzinfo=UTC)
SATURDAY = datetime(2025, 6, 14, 16, 0, tzinfo=UTC)
MARKETS = read_markets()
SENSORS = {name: stream_sensor(market, realtime_job(market)) for name, market in MARKETS.items()}
CLAIM = Claim(
    stream="us-polygon",
    market="us",
    feed="polygon",
    asset_class="stocks",
    provider="simulated-polygon",
    holder="here:1:a",
    host="here",
    pid=123,
    hosted_by="process",
    run_id=None,
    journal="j",
)
QUOTES, TRADES = dg.AssetKey(["us", "realtime_quotes"]), dg.AssetKey(["us", "realtime_trades"])


def live(events: int = 1000, age: float = 0.3) -> Report:
    return Report(
        state=StreamState.LIVE,
        symbols=50,
        channels=["quotes", "trades", "minutes"],
        connections=[{"origin": "polygon-1", "state": "live", "symbols": 50, "frames": 10, "reconnects": 1}],
        sinks=[{"sink": "lake", "cursor_lag_events": 0, "cursor_lag_s": 0.0, "rows": events, "errors": 0}],
        counters={"events": events, "last_event_age_s": age, "lag_p50_ms": 4.0, "lag_p99_ms": 31.0},
    )


@pytest.fixture(scope="module", autouse=True)
def repository() -> dg.RepositoryDefinition:
    """Loaded before any instance is opened, which Dagster would remember beside it."""
    return defs().get_repository_def()


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
def hosted_by_dagster(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = house.platform.settings.model_copy(update={"stream_hosted_by": StreamHost.DAGSTER})
    platform = replace(house.platform, settings=settings)
    monkeypatch.setattr(PlatformResource, "opened", lambda _self, **_: nullcontext(platform))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


class Watching:
    """The sensor as the daemon evaluates it, its cursor kept."""

    def __init__(self, instance: dg.DagsterInstance, market: str = "us") -> None:
        self.instance = instance
        self._sensor = SENSORS[market]
        self._cursor: str | None = None

    def tick(self) -> Any:
        with dg.build_sensor_context(
            self.instance, cursor=self._cursor, resources={"platform": PlatformResource()}
        ) as context:
            found = self._sensor.evaluate_tick(context)
        self._cursor = found.cursor
        return found

    def observed(self) -> dict[dg.AssetKey, dict[str, Any]]:
        return {
            one.asset_key: {name: value.value for name, value in one.metadata.items()}
            for one in self.tick().asset_events
            if isinstance(one, dg.AssetObservation)
        }

    def checked(self) -> dict[str, dg.AssetCheckEvaluation]:
        return {one.check_name: one for one in self.tick().asset_events if isinstance(one, dg.AssetCheckEvaluation)}


@pytest.fixture
def watching(house: House, instance: dg.DagsterInstance) -> Watching:
    return Watching(instance)


def streams(house: House, report: Report, claim: Claim = CLAIM, seconds: float = 15.0) -> None:
    with house.platform.database.connection() as connection:
        assert acquire(connection, claim) is None
        assert renew(connection, claim.stream, claim.holder, report, seconds=seconds) is not None


def later(house: House, **passed: float) -> None:
    house.clock.set(house.clock() + timedelta(**passed))


# --- definitions -----------------------------------------------------------------------------------------------


def test_the_stream_is_external_lineage_with_a_job_a_sensor_and_checks(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for market in ("us", "pl"):
        quotes, trades, bars = (
            dg.AssetKey([market, name]) for name in ("realtime_quotes", "realtime_trades", "bars_from_ticks")
        )
        instruments = dg.AssetKey([market, "instruments"])
        assert graph.get(quotes).is_external
        assert graph.get(trades).is_external
        assert graph.get(quotes).parent_keys == graph.get(trades).parent_keys == {instruments}
        assert (trades if market == "us" else quotes) in graph.get(bars).parent_keys
        of_sessions = {"crossed_quotes", "quote_outliers", "stream_gap", "latency"}
        assert {one.name for one in graph.asset_check_keys if one.asset_key == quotes} == {
            "not_silent",
            "lag",
            "gaps_filled",
            *of_sessions,
        }
        job = repository.get_job(f"{market}_realtime")
        assert job.tags["dagster/max_runtime"] == "0"
        assert job.tags["market_pipelines/stream"] == market
        assert "market_pipelines/lane" not in job.tags
        sensor = next(one for one in repository.sensor_defs if one.name == f"{market}_stream")
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert "Stays empty" in (graph.get(dg.AssetKey(["pl", "realtime_trades"])).description or "")


# --- what it tells ---------------------------------------------------------------------------------------------


def test_a_running_stream_is_observed_once_a_minute(house: House, watching: Watching) -> None:
    streams(house, live(1000))
    first = watching.observed()
    assert first.keys() == {QUOTES, TRADES}
    told = first[TRADES]
    assert (told["events"], told["reconnects"], told["connections"]) == (1000.0, 1.0, "1 of 1 live")
    assert (told["lag_p50_ms"], told["lag_p99_ms"], told["open_gaps"]) == (4.0, 31.0, 0.0)
    assert told["hosted_by"] == "process, pid 123 on here"
    later(house, seconds=30)
    assert watching.observed() == {}
    streams(house, live(4000))
    later(house, seconds=30)
    assert watching.observed()[QUOTES]["events_per_second"] == 50.0


def test_a_tick_is_cheap_and_says_who_streams(house: House, watching: Watching) -> None:
    streams(house, live())
    watching.tick()
    begun = time.perf_counter()
    found = watching.tick()
    assert time.perf_counter() - begun < 0.5
    assert found.skip_message.startswith("us-polygon is streamed by pid 123 on here, heartbeat 0.")
    assert not found.run_requests


def test_the_run_that_hosts_a_stream_tells_of_it_itself(house: House, watching: Watching) -> None:
    streams(house, live(), replace(CLAIM, hosted_by="dagster", run_id="0123456789"))
    assert watching.observed() == {}
    assert "Dagster run 01234567, pid 123 on here" in watching.tick().skip_message


def test_checks_are_told_when_they_change_and_every_ten_minutes(house: House, watching: Watching) -> None:
    assert {one.passed for one in watching.checked().values()} == {True}
    assert watching.checked() == {}
    streams(house, live(age=100.0))
    (silent,) = [one for one in watching.checked().values() if not one.passed]
    assert (silent.check_name, silent.severity) == ("not_silent", dg.AssetCheckSeverity.ERROR)
    assert silent.asset_key == QUOTES
    assert watching.checked() == {}
    later(house, minutes=11)
    streams(house, live(age=100.0))
    assert len(watching.checked()) == 3


def test_checks_can_be_run_by_hand(house: House) -> None:
    gap = NoticedGap("g", "us-polygon", "us", "polygon", "disconnected", NOON - timedelta(hours=1), ("trades",))
    streams(house, live())
    with house.platform.database.connection() as connection:
        record_closed(connection, gap, NOON - timedelta(minutes=50), NOON)
    job = dg.Definitions(
        assets=[dg.AssetSpec(QUOTES)],
        asset_checks=[realtime_checks(MARKETS["us"])],
        resources={"platform": PlatformResource()},
        jobs=[dg.define_asset_job("look", selection=dg.AssetSelection.all_asset_checks())],
    ).resolve_job_def("look")
    with dg.DagsterInstance.ephemeral() as instance:
        found = {one.check_name: one for one in job.execute_in_process(instance=instance).get_asset_check_evaluations()}
    assert {name: one.passed for name, one in found.items()} == {"not_silent": True, "lag": True, "gaps_filled": False}
    assert "us-polygon disconnected from 2025-06-13 15:00:00" in (found["gaps_filled"].description or "")


# --- incidents and health --------------------------------------------------------------------------------------


def test_a_death_opens_one_incident_and_the_next_start_closes_it(house: House, watching: Watching) -> None:
    streams(house, live(), seconds=0.0)
    for _ in range(3):
        watching.tick()
    (incident,) = open_incidents(house.platform)
    assert (incident.key, incident.title, incident.times_seen) == ("stream:us-polygon", "us-polygon died", 1)
    health = examine(house.platform, lambda market: ())  # noqa: ARG005
    (sign,) = [one for one in health.of(Part.STREAMS) if one.subject == "us-polygon"]
    assert sign.condition is Condition.WORTH_A_LOOK
    streams(house, live())
    watching.tick()
    assert open_incidents(house.platform) == []
    signs = examine(house.platform, lambda market: ()).of(Part.STREAMS)  # noqa: ARG005
    assert {one.condition for one in signs} == {Condition.WELL}


def test_a_stream_that_was_stopped_is_no_incident(house: House, watching: Watching) -> None:
    streams(house, live())
    with house.platform.database.connection() as connection:
        assert release(connection, "us-polygon", CLAIM.holder, replace(live(), state=StreamState.STOPPED))
    watching.tick()
    assert open_incidents(house.platform) == []


# --- runs ------------------------------------------------------------------------------------------------------


def test_streams_hosted_elsewhere_are_left_to_their_hosts(house: House, watching: Watching) -> None:
    found = watching.tick()
    assert not found.run_requests
    assert "hosted outside Dagster (STREAM_HOSTED_BY=process)" in found.skip_message


@pytest.mark.usefixtures("hosted_by_dagster")
def test_a_run_is_asked_for_while_the_exchange_trades(house: House, watching: Watching) -> None:
    (request,) = watching.tick().run_requests
    assert request.run_key == "us_realtime-2025-06-13-20250613T160000"
    assert request.tags[SESSION_TAG] == "2025-06-13"
    house.clock.set(SATURDAY)
    assert watching.tick().skip_message.startswith("XNYS is closed (weekend) until Mon 2025-06-16 04:00")


@pytest.mark.usefixtures("hosted_by_dagster")
@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ("started", "of us_realtime is started"),
        ("terminated", "was terminated by hand; the next session is streamed again"),
        ("done", "as it was asked to"),
        ("failed", "another one follows 5 minutes later"),
    ],
)
def test_a_run_that_goes_on_was_ended_or_just_failed_is_not_followed_by_another(
    watching: Watching, ended: str, said: str
) -> None:
    instance = watching.instance
    run = instance.create_run_for_job(realtime_job(MARKETS["us"]), status=dg.DagsterRunStatus.STARTED)
    match ended:
        case "terminated":
            instance.report_run_canceling(run)
            instance.report_run_canceled(run)
        case "done":
            instance.handle_run_event(run.run_id, run_event(run, DagsterEventType.PIPELINE_SUCCESS))
        case "failed":
            instance.report_run_failed(run)
    found = watching.tick()
    assert not found.run_requests
    assert said in found.skip_message


@pytest.mark.usefixtures("hosted_by_dagster")
def test_a_run_that_ended_with_the_platform_is_followed_at_once(watching: Watching) -> None:
    run = watching.instance.create_run_for_job(realtime_job(MARKETS["us"]), status=dg.DagsterRunStatus.STARTED)
    watching.instance.report_run_canceled(run)
    assert len(watching.tick().run_requests) == 1


def run_event(run: dg.DagsterRun, kind: DagsterEventType) -> dg.DagsterEvent:
    return dg.DagsterEvent(event_type_value=kind.value, job_name=run.job_name)


@pytest.mark.usefixtures("hosted_by_dagster")
def test_the_lease_of_another_process_keeps_the_run_away(house: House, watching: Watching) -> None:
    streams(house, live())
    assert not watching.tick().run_requests


def test_a_hosted_stream_takes_nobodys_place_in_the_run_queue(instance: dg.DagsterInstance) -> None:
    runs = instance_config(2, streams=2)["concurrency"]["runs"]
    assert runs["max_concurrent_runs"] == 4

    @dg.job
    def nothing() -> None: ...

    def run(**tags: str) -> dg.DagsterRun:
        return instance.create_run_for_job(nothing, tags={f"market_pipelines/{key}": tags[key] for key in tags})

    going = [run(stream="us"), run(lane="us_daily")]
    queue = TagConcurrencyLimitsCounter(runs["tag_concurrency_limits"], going)
    assert not queue.is_blocked(run(lane="pl_daily"))
    assert not queue.is_blocked(run(stream="pl"))
    assert queue.is_blocked(run(stream="us"))
    full = TagConcurrencyLimitsCounter(runs["tag_concurrency_limits"], [*going, run(lane="pl_daily")])
    assert full.is_blocked(run(lane="us_intraday"))
    assert not full.is_blocked(run(stream="pl"))
