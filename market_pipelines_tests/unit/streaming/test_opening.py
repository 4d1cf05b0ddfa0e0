"""When a stream that keeps market hours is connected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.streaming.opening import OpeningHours


def opening(mic: str, now: str, *, market_hours: bool = True) -> tuple[bool, str]:
    hours = OpeningHours(partial(trading_calendar, mic), market_hours=market_hours)
    found = hours.at(datetime.fromisoformat(now).replace(tzinfo=UTC))
    return found.is_open, found.words


@pytest.mark.parametrize(
    ("mic", "now", "is_open"),
    [
        ("XNYS", "2026-11-18 08:57", False),
        ("XNYS", "2026-11-18 08:58", True),
        ("XNYS", "2026-11-19 01:09", True),
        ("XNYS", "2026-11-19 01:10", False),
        ("XNYS", "2026-11-21 15:00", False),
        ("XNYS", "2026-11-26 15:00", False),
        ("XNYS", "2026-11-27 22:09", True),
        ("XNYS", "2026-11-27 22:10", False),
        ("XWAR", "2026-11-18 07:57", False),
        ("XWAR", "2026-11-18 07:58", True),
        ("XWAR", "2026-11-18 16:09", True),
        ("XWAR", "2026-11-18 16:10", False),
        ("XWAR", "2026-07-01 06:58", True),
    ],
)
def test_it_connects_a_little_before_and_ends_a_little_after(mic: str, now: str, is_open: bool) -> None:
    assert opening(mic, now)[0] is is_open


def test_a_person_is_told_when_it_connects() -> None:
    assert opening("XNYS", "2026-11-21 15:00")[1] == "connects at 2026-11-23 08:58 UTC, before the market opens"
    assert opening("XNYS", "2026-11-18 15:00")[1] == "until 2026-11-19 01:10 UTC"


def test_a_delayed_feed_is_listened_to_so_much_longer() -> None:
    hours = OpeningHours(partial(trading_calendar, "XNYS"), market_hours=True, delay=timedelta(minutes=15))
    ends = datetime(2026, 11, 19, 1, 25, tzinfo=UTC)
    assert hours.at(ends - timedelta(seconds=1)).is_open
    assert not hours.at(ends).is_open


def test_without_market_hours_it_is_always_open() -> None:
    assert opening("XNYS", "2026-11-21 03:00", market_hours=False) == (True, "")
