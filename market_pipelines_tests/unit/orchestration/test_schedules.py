"""The daily schedule runs on the exchange's sessions, after the close, and on no other day."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from market_pipelines.orchestration.schedules import INTRADAY_LATER, after_close_schedule
from market_pipelines.pipeline.markets import read_markets

KNOWN = datetime(2026, 11, 20, 12, tzinfo=UTC)
MARKETS = read_markets()


def evaluated(market: str, local: str) -> dg.SkipReason | dg.RunRequest:
    schedule = after_close_schedule(MARKETS[market], f"{market}_daily_refresh", KNOWN)
    zone = ZoneInfo(str(schedule.execution_timezone))
    moment = datetime.fromisoformat(local).replace(tzinfo=zone)
    result = schedule(dg.build_schedule_context(scheduled_execution_time=moment))
    assert isinstance(result, dg.SkipReason | dg.RunRequest)
    return result


def test_each_market_runs_by_its_own_clock() -> None:
    us, pl = (after_close_schedule(MARKETS[name], "job", KNOWN) for name in ("us", "pl"))
    assert (us.cron_schedule, us.execution_timezone) == ("30 16 * * *", "America/New_York")
    assert (pl.cron_schedule, pl.execution_timezone) == ("45 17 * * *", "Europe/Warsaw")


@pytest.mark.parametrize(
    ("market", "local", "session"),
    [
        ("us", "2026-11-20 16:30", "2026-11-20"),
        ("us", "2026-11-27 16:30", "2026-11-27"),
        ("us", "2026-03-09 16:30", "2026-03-09"),
        ("pl", "2026-03-09 17:45", "2026-03-09"),
        ("pl", "2026-11-26 17:45", "2026-11-26"),
    ],
)
def test_a_session_is_asked_for_once(market: str, local: str, session: str) -> None:
    request = evaluated(market, local)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == session
    assert request.run_key == f"{market}_daily_refresh-{session}"


@pytest.mark.parametrize(
    ("market", "local"),
    [
        ("us", "2026-11-21 16:30"),
        ("us", "2026-11-26 16:30"),
        ("us", "2025-01-09 16:30"),
        ("pl", "2026-11-11 17:45"),
        ("pl", "2025-12-24 17:45"),
    ],
)
def test_a_day_off_is_skipped_with_its_reason(market: str, local: str) -> None:
    skipped = evaluated(market, local)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message is not None
    assert "is not a session of" in skipped.skip_message


def test_bars_within_the_session_come_a_quarter_of_an_hour_after_the_days() -> None:
    schedule = after_close_schedule(MARKETS["us"], "us_intraday_refresh", KNOWN, "intraday", later=INTRADAY_LATER)
    assert (schedule.name, schedule.cron_schedule) == ("us_intraday_after_close", "45 16 * * *")
