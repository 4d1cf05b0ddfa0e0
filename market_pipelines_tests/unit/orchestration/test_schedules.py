"""The schedules of a market ask by the exchange's clock, say why when they do not ask, and never ask twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import time_machine
from dagster import DagsterInstance
from typing_extensions import override

from market_pipelines.market.cadence import Cycle, Due, daily_cycle, intraday_cycle
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration import schedules
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.schedules import after_close_schedule, market_hours_schedule, weekly_schedule
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform

KNOWN = datetime(2026, 11, 20, 12, tzinfo=UTC)
MARKETS = read_markets()


class NoPlatform(PlatformResource):
    """What is stored is said by `coverage` in these tests."""

    @override
    @contextmanager
    def opened(self, *, asks: bool = True) -> Iterator[Platform]:
        yield cast(Platform, None)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as opened:
        yield opened


@pytest.fixture
def instance(storage: DagsterInstance) -> DagsterInstance:
    for run in storage.get_runs():
        storage.delete_run(run.run_id)
    return storage


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> list[Due | None]:
    """What the coverage table says to be due: the last of the list."""
    said: list[Due | None] = [None]

    def waiting(platform: Platform, market: MarketDefinition, cycle: Cycle, now: datetime) -> Due | None:
        return said[-1]

    monkeypatch.setattr(schedules, "waiting", waiting)
    return said


def daily(market: MarketDefinition) -> dg.ScheduleDefinition:
    return after_close_schedule(market, f"{market.name}_daily_refresh", daily_cycle(market), KNOWN)


def intraday(market: MarketDefinition) -> dg.ScheduleDefinition:
    assert market.intraday is not None
    return market_hours_schedule(market, market.intraday, f"{market.name}_intraday_refresh", KNOWN)


def evaluated(
    schedule: dg.ScheduleDefinition, instance: DagsterInstance, local: str, late: timedelta = timedelta()
) -> dg.RunRequest | dg.SkipReason:
    zone = ZoneInfo(str(schedule.execution_timezone))
    tick = datetime.fromisoformat(local).replace(tzinfo=zone)
    with (
        time_machine.travel(tick + late, tick=False),
        dg.build_schedule_context(
            instance=instance, scheduled_execution_time=tick, resources={"platform": NoPlatform()}
        ) as context,
    ):
        result = schedule(context)
    assert isinstance(result, dg.SkipReason | dg.RunRequest)
    return result


def request(
    schedule: dg.ScheduleDefinition, instance: DagsterInstance, local: str
) -> tuple[str | None, dict[str, str]]:
    result = evaluated(schedule, instance, local)
    assert isinstance(result, dg.RunRequest), result
    return result.run_key, dict(result.tags)


def skipped(
    schedule: dg.ScheduleDefinition, instance: DagsterInstance, local: str, late: timedelta = timedelta()
) -> str:
    result = evaluated(schedule, instance, local, late)
    assert isinstance(result, dg.SkipReason), result
    return result.skip_message or ""


def run_of(instance: DagsterInstance, job: str, status: dg.DagsterRunStatus, tags: dict[str, str]) -> None:
    @dg.job(name=job)
    def nothing() -> None: ...

    instance.create_run_for_job(nothing, status=status, tags=tags)


# --- after the close -----------------------------------------------------------------------------------------


def test_there_is_a_tick_after_every_closing_bell_by_the_exchanges_own_clock() -> None:
    us, pl = daily(MARKETS["us"]), daily(MARKETS["pl"])
    assert (us.cron_schedule, us.execution_timezone) == (["30 13 * * *", "30 16 * * *"], "America/New_York")
    assert (pl.cron_schedule, pl.execution_timezone) == ("45 17 * * *", "Europe/Warsaw")


def test_bars_within_the_session_come_a_quarter_of_an_hour_after_the_days() -> None:
    for market, ticks in (("us", ["45 17 * * *", "45 20 * * *"]), ("pl", "0 18 * * *")):
        cycle = intraday_cycle(MARKETS[market])
        assert cycle is not None
        schedule = after_close_schedule(MARKETS[market], "job", cycle, KNOWN, "intraday")
        assert (schedule.name, schedule.cron_schedule) == (f"{market}_intraday_after_close", ticks)


def test_a_fixed_hour_of_the_world_replaces_the_close(instance: DagsterInstance, due: list[Due | None]) -> None:
    market = replace(MARKETS["us"], cadence=replace(MARKETS["us"].cadence, daily_cron="0 9 * * *"))
    schedule = daily(market)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 9 * * *", "UTC")
    due.append(Due(date(2026, 11, 20), date(2026, 11, 20)))
    assert request(schedule, instance, "2026-11-21 09:00")[0] == "us_daily_refresh-2026-11-20"


def test_a_session_is_asked_for_as_a_partition(instance: DagsterInstance, due: list[Due | None]) -> None:
    due.append(Due(date(2026, 11, 20), date(2026, 11, 20)))
    key, tags = request(daily(MARKETS["us"]), instance, "2026-11-20 16:30")
    assert key == "us_daily_refresh-2026-11-20"
    assert tags == {"dagster/partition": "2026-11-20"}


def test_missed_sessions_are_asked_for_as_one_range(instance: DagsterInstance, due: list[Due | None]) -> None:
    due.append(Due(date(2026, 11, 18), date(2026, 11, 20)))
    key, tags = request(daily(MARKETS["us"]), instance, "2026-11-21 16:30")
    assert key == "us_daily_refresh-2026-11-18-to-2026-11-20"
    assert tags == {
        "dagster/asset_partition_range_start": "2026-11-18",
        "dagster/asset_partition_range_end": "2026-11-20",
    }


@pytest.mark.parametrize(
    ("market", "local", "words"),
    [
        ("us", "2026-11-20 13:30", "that of 2026-11-20 is due at Fri 2026-11-20 16:30 America/New_York"),
        ("us", "2026-11-27 16:30", "the next session opens Mon 2026-11-30 09:30"),
        ("us", "2026-11-21 16:30", "2026-11-21 is not a session of XNYS (weekend)"),
        ("us", "2026-11-26 16:30", "2026-11-26 is not a session of XNYS (holiday: Thanksgiving)"),
        ("us", "2025-01-09 16:30", "(holiday: closed for this day alone)"),
        ("pl", "2026-11-11 17:45", "(holiday: National Independence Day)"),
        ("pl", "2026-12-24 17:45", "(holiday: Christmas Eve)"),
        ("pl", "2026-12-31 17:45", "(holiday: New Year's Eve)"),
    ],
)
def test_a_tick_that_asks_for_nothing_says_why(
    market: str, local: str, words: str, instance: DagsterInstance, due: list[Due | None]
) -> None:
    assert words in skipped(daily(MARKETS[market]), instance, local)


def test_a_missed_tick_leaves_it_to_the_newest(instance: DagsterInstance, due: list[Due | None]) -> None:
    due.append(Due(date(2026, 11, 18), date(2026, 11, 18)))
    reason = skipped(daily(MARKETS["us"]), instance, "2026-11-18 16:30", late=timedelta(days=2))
    assert "that of 2026-11-19 18:30 UTC has passed too" in reason
    assert isinstance(
        evaluated(daily(MARKETS["us"]), instance, "2026-11-18 16:30", late=timedelta(hours=20)), dg.RunRequest
    )


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
def test_one_key_is_one_run_however_it_ended(
    status: dg.DagsterRunStatus, instance: DagsterInstance, due: list[Due | None]
) -> None:
    due.append(Due(date(2026, 11, 20), date(2026, 11, 20)))
    run_of(instance, "us_daily_refresh", status, {"dagster/run_key": "us_daily_refresh-2026-11-20"})
    reason = skipped(daily(MARKETS["us"]), instance, "2026-11-21 16:30")
    assert reason.startswith("us_daily_refresh-2026-11-20 was run before")
    assert status.value.lower() in reason


# --- while it trades -----------------------------------------------------------------------------------------


def test_the_running_session_is_asked_for_slot_by_slot(instance: DagsterInstance) -> None:
    schedule = intraday(MARKETS["us"])
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("*/15 4-20 * * *", "America/New_York")
    key, tags = request(schedule, instance, "2026-11-20 15:45")
    assert key == "us_intraday_refresh-2026-11-20-1545"
    assert tags == {"dagster/partition": "2026-11-20"}


@pytest.mark.parametrize(
    ("market", "local", "words"),
    [
        ("us", "2026-11-21 12:00", "weekend; next open Mon 2026-11-23 09:30"),
        ("us", "2026-11-26 12:00", "holiday: Thanksgiving; next open Fri 2026-11-27 09:30"),
        ("us", "2026-11-20 20:00", "after hours; next open Mon 2026-11-23 09:30"),
        ("us", "2026-11-27 17:00", "after hours; next open Mon 2026-11-30 09:30"),
        ("us", "2026-11-20 04:00", "trading has just begun; its first bar ends at Fri 2026-11-20 04:05"),
        ("pl", "2026-12-24 12:00", "holiday: Christmas Eve"),
        ("pl", "2026-11-20 17:00", "after hours; next open Mon 2026-11-23 09:00"),
    ],
)
def test_outside_of_its_hours_nothing_is_asked_for(
    market: str, local: str, words: str, instance: DagsterInstance
) -> None:
    assert words in skipped(intraday(MARKETS[market]), instance, local)


@pytest.mark.parametrize("day", ["2026-03-09", "2026-03-30", "2026-10-26", "2026-11-02"])
def test_the_first_and_last_slot_follow_the_clocks_of_the_exchange(day: str, instance: DagsterInstance) -> None:
    for market, first, last in (("us", "04:15", "19:45"), ("pl", "09:15", "16:45")):
        for slot in (first, last):
            assert isinstance(evaluated(intraday(MARKETS[market]), instance, f"{day} {slot}"), dg.RunRequest)


def test_without_extended_hours_the_bells_count(instance: DagsterInstance) -> None:
    plan = MARKETS["us"].intraday
    assert plan is not None
    schedule = intraday(replace(MARKETS["us"], intraday=replace(plan, extended=False)))
    assert "after hours" in skipped(schedule, instance, "2026-11-27 13:00")
    assert isinstance(evaluated(schedule, instance, "2026-11-27 12:45"), dg.RunRequest)
    assert isinstance(evaluated(schedule, instance, "2026-11-20 15:45"), dg.RunRequest)


def test_a_run_that_is_still_going_is_left_to_end(instance: DagsterInstance) -> None:
    run_of(instance, "us_intraday_refresh", dg.DagsterRunStatus.STARTED, {})
    assert "is still going" in skipped(intraday(MARKETS["us"]), instance, "2026-11-20 12:00")


def test_missed_slots_are_not_made_up_for(instance: DagsterInstance) -> None:
    reason = skipped(intraday(MARKETS["us"]), instance, "2026-11-20 12:00", late=timedelta(minutes=15))
    assert "the newest one covers it" in reason


# --- weekly --------------------------------------------------------------------------------------------------


def test_on_sunday_the_last_sessions_are_asked_for_once_more(instance: DagsterInstance) -> None:
    for market, zone in (("us", "America/New_York"), ("pl", "Europe/Warsaw")):
        schedule = weekly_schedule(MARKETS[market], f"{market}_weekly_refresh")
        assert (schedule.name, schedule.cron_schedule) == (f"{market}_weekend", "0 8 * * 0")
        assert schedule.execution_timezone == zone
    key, tags = request(weekly_schedule(MARKETS["us"], "us_weekly_refresh"), instance, "2026-11-29 08:00")
    assert key == "us_weekly_refresh-2026-11-29"
    assert tags == {
        "dagster/asset_partition_range_start": "2026-11-13",
        "dagster/asset_partition_range_end": "2026-11-27",
    }
