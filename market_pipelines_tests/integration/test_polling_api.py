"""The Python classes as a notebook uses them: their names, their fields and the keys that they give."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import market_pipelines
from market_pipelines.market.jobs import JobRefused
from market_pipelines.pipeline.jobs import UnknownJob, note_requested
from market_pipelines.pipeline.polling import CycleReport
from market_pipelines.pipeline.polling_api import (
    AlreadyStreaming,
    DataStreamingService,
    MarketScheduler,
    PollingConfig,
    PollingManager,
)
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.pipeline.stopping import Stop, heeding_signals
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.jobs import JobExists
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

NOON = datetime(2025, 6, 13, 16, 0, tzinfo=UTC)
PROMISED = {
    "total_iterations",
    "successful_cycles",
    "failed_cycles",
    "total_records_processed",
    "start_time",
    "end_time",
    "total_duration",
    "success_rate",
}
SOON = 20.0


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=NOON) as opened:
        yield opened
    postgres_server.drop(url)


def once(*symbols: str) -> PollingConfig:
    return PollingConfig(max_iterations=1, symbols=list(symbols) or ["AAPL"])


# --- polling -------------------------------------------------------------------------------------------------


def test_the_names_are_the_packages_own() -> None:
    assert market_pipelines.PollingManager is PollingManager
    assert market_pipelines.PollingConfig is PollingConfig
    assert market_pipelines.DataStreamingService is DataStreamingService
    assert market_pipelines.MarketScheduler is MarketScheduler


def test_the_configuration_has_the_promised_fields_and_defaults() -> None:
    assert asdict(PollingConfig()) == {
        "interval_minutes": 5,
        "max_iterations": None,
        "symbols": None,
        "interval": "5min",
        "batch_size": 10,
        "retry_on_failure": True,
        "max_retries": 3,
    }


@pytest.mark.parametrize("name", ["continuous_polling", "market_hours_polling", "adaptive_polling"])
def test_every_strategy_gives_the_promised_statistics(house: House, name: str) -> None:
    manager = PollingManager(platform=house.platform)
    found = getattr(manager, name)(once("AAPL", "MSFT"))
    assert found.keys() >= PROMISED
    assert (found["total_iterations"], found["successful_cycles"], found["failed_cycles"]) == (1, 1, 0)
    assert found["total_records_processed"] > 100
    assert found["success_rate"] == 100.0
    assert (found["start_time"], found["total_duration"]) == (NOON.isoformat(), "0:00:00")


def test_a_cycle_that_brings_nothing_lowers_the_success_rate(house: House) -> None:
    found = PollingManager(platform=house.platform).continuous_polling(once("NOPE"))
    assert (found["failed_cycles"], found["success_rate"], found["failed_symbols"]) == (1, 0.0, {"NOPE": 1})


def test_another_market_is_polled_by_its_name(house: House) -> None:
    house.clock.set(datetime(2025, 6, 13, 12, 0, tzinfo=UTC))
    found = PollingManager("pl", platform=house.platform).market_hours_polling(once("PKO"))
    assert found["total_records_processed"] > 10


@pytest.mark.parametrize(
    "config", [PollingConfig(interval_minutes=0), PollingConfig(max_iterations=0), PollingConfig(interval="2min")]
)
def test_a_configuration_that_makes_no_sense_is_refused(house: House, config: PollingConfig) -> None:
    with pytest.raises(BadQuestion, match="accepted"):
        PollingManager(platform=house.platform).continuous_polling(config)


def test_another_thread_stops_a_poll(house: House) -> None:
    manager = PollingManager(platform=house.platform)
    found = manager.continuous_polling(PollingConfig(symbols=["AAPL"]), callback=lambda _: manager.stop())
    assert found["total_iterations"] == 1


# --- streaming in the background -----------------------------------------------------------------------------


def test_a_service_streams_in_the_background_until_it_is_stopped(house: House) -> None:
    polled = threading.Event()
    reports: list[CycleReport] = []

    def callback(report: CycleReport) -> None:
        reports.append(report)
        polled.set()

    service = DataStreamingService(platform=house.platform)
    before = service.get_streaming_status()
    assert (before["is_running"], before["stop_event_set"], before["thread_alive"]) == (False, False, False)
    service.start_streaming(["AAPL"], interval_minutes=5, callback=callback)
    assert polled.wait(SOON)
    running = service.get_streaming_status()
    assert (running["is_running"], running["stop_event_set"], running["thread_alive"]) == (True, False, True)
    assert running["timestamp"] == NOON.isoformat()
    with pytest.raises(AlreadyStreaming):
        service.start_streaming(["AAPL"])
    service.stop_streaming()
    stopped = service.get_streaming_status()
    assert (stopped["is_running"], stopped["stop_event_set"], stopped["thread_alive"]) == (False, True, False)
    assert stopped["statistics"]["total_iterations"] == len(reports) == 1


def test_a_service_ends_by_itself_and_starts_again(house: House) -> None:
    service = DataStreamingService(platform=house.platform)
    for _ in range(2):
        service.start_streaming(["AAPL"], 5, 1)
        assert service._thread is not None
        service._thread.join(SOON)
        assert service.get_streaming_status()["statistics"]["total_iterations"] == 1
    service.stop_streaming()


def test_why_a_service_ended_is_in_its_status(house: House) -> None:
    service = DataStreamingService("moon", platform=house.platform)
    service.start_streaming(["AAPL"], 5, 1)
    assert service._thread is not None
    service._thread.join(SOON)
    status = service.get_streaming_status()
    assert status["is_running"] is False
    assert "market 'moon' is not known" in status["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_service_and_the_next_one_is_the_programs_own(house: House, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    polled = threading.Event()
    service = DataStreamingService(platform=house.platform)
    service.start_streaming(["AAPL"], 5, callback=lambda _: polled.set())
    assert polled.wait(SOON)
    signal.raise_signal(number)
    assert service._thread is not None
    service._thread.join(SOON)
    assert service.get_streaming_status()["thread_alive"] is False
    assert signal.getsignal(number) is before


def test_a_signal_after_the_service_has_ended_is_the_programs_own(house: House) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        service = DataStreamingService(platform=house.platform)
        service.start_streaming(["AAPL"], 5, 1)
        assert service._thread is not None
        service._thread.join(SOON)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_wait_hears_a_signal_at_once() -> None:
    stop = Stop()
    with heeding_signals(stop):
        threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)).start()
        assert stop.wait(SOON)
    assert stop.by_signal == signal.SIGTERM


# --- scheduled jobs ------------------------------------------------------------------------------------------


def test_the_scheduler_lists_its_jobs_and_what_the_market_is_doing(house: House) -> None:
    scheduler = MarketScheduler(platform=house.platform)
    empty = scheduler.get_scheduled_jobs()
    assert (empty["total_jobs"], empty["jobs"], empty["current_time"]) == (0, {}, NOON.isoformat())
    scheduler.schedule_market_job("watch", ["AAPL", "MSFT"], 15)
    MarketScheduler("pl", platform=house.platform).schedule_market_job("warsaw")
    found = scheduler.get_scheduled_jobs()
    assert found["total_jobs"] == 2
    assert found["jobs"]["watch"] | {"created_at": ""} == {
        "name": "watch",
        "market": "us",
        "symbols": ["AAPL", "MSFT"],
        "interval": "5min",
        "interval_minutes": 15,
        "extended_hours": False,
        "created_at": "",
        "last_requested_at": None,
        "next_run": NOON.isoformat(),
        "last_run": None,
    }
    assert found["jobs"]["warsaw"]["interval_minutes"] == 5
    assert found["jobs"]["warsaw"]["next_run"] == "2025-06-16T07:00:00+00:00", "Warsaw has closed for the weekend"


@pytest.mark.parametrize(
    ("at", "market", "flags", "opens", "closes"),
    [
        ("2025-06-13T12:00", "us", (False, True, False), "2025-06-13T13:30:00+00:00", "2025-06-13T20:00:00+00:00"),
        ("2025-06-13T16:00", "us", (True, False, False), "2025-06-16T13:30:00+00:00", "2025-06-13T20:00:00+00:00"),
        ("2025-06-13T21:00", "us", (False, False, True), "2025-06-16T13:30:00+00:00", "2025-06-16T20:00:00+00:00"),
        ("2025-06-14T16:00", "us", (False, False, False), "2025-06-16T13:30:00+00:00", "2025-06-16T20:00:00+00:00"),
        ("2025-06-13T12:00", "pl", (True, False, False), "2025-06-16T07:00:00+00:00", "2025-06-13T15:00:00+00:00"),
    ],
)
def test_the_market_status_has_the_promised_keys(
    house: House, at: str, market: str, flags: tuple[bool, bool, bool], opens: str, closes: str
) -> None:
    house.clock.set(datetime.fromisoformat(at).replace(tzinfo=UTC))
    status = MarketScheduler(market, platform=house.platform).get_scheduled_jobs()["market_status"]
    assert (status["is_market_open"], status["is_pre_market"], status["is_after_hours"]) == flags
    assert (status["next_market_open"], status["next_market_close"]) == (opens, closes)


def test_a_job_that_was_asked_for_is_due_again_in_its_next_slot(house: House) -> None:
    scheduler = MarketScheduler(platform=house.platform)
    scheduler.schedule_market_job("watch", ["AAPL"], 15)
    note_requested(house.platform, ["watch"])
    house.clock.set(NOON + timedelta(minutes=3))
    assert scheduler.get_scheduled_jobs()["jobs"]["watch"]["next_run"] == "2025-06-13T16:15:00+00:00"


def test_jobs_are_refused_with_what_is_accepted(house: House) -> None:
    scheduler = MarketScheduler(platform=house.platform)
    scheduler.schedule_market_job("watch", ["AAPL"], 15)
    with pytest.raises(JobExists):
        scheduler.schedule_market_job("watch")
    with pytest.raises(JobRefused):
        scheduler.schedule_market_job("never", interval_minutes=0)
    with pytest.raises(UnknownJob, match="there is no job moon; there are watch"):
        scheduler.remove_job("moon")
    scheduler.remove_job("watch")
    with pytest.raises(UnknownJob, match="there is none at all"):
        scheduler.remove_job("watch")
