"""What an exchange is doing at an instant: New York and Warsaw on ordinary, short, awkward and free days."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.market.hours import MarketPhase, MarketStatus, hours, market_status
from market_pipelines.market.sessions import TradingCalendar, trading_calendar

ZONES = {"XNYS": "America/New_York", "XWAR": "Europe/Warsaw"}
KNOWN = datetime(2026, 11, 20, 12, tzinfo=UTC)


def calendar(mic: str) -> TradingCalendar:
    return trading_calendar(mic, KNOWN)


def at(mic: str, local: str) -> datetime:
    return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(ZONES[mic])).astimezone(UTC)


def status(mic: str, local: str) -> MarketStatus:
    return market_status(calendar(mic), at(mic, local))


@pytest.mark.parametrize(
    ("mic", "local", "phase"),
    [
        ("XNYS", "2026-11-20 03:59", MarketPhase.CLOSED),
        ("XNYS", "2026-11-20 04:00", MarketPhase.PRE_MARKET),
        ("XNYS", "2026-11-20 09:29", MarketPhase.PRE_MARKET),
        ("XNYS", "2026-11-20 09:30", MarketPhase.OPEN),
        ("XNYS", "2026-11-20 15:59", MarketPhase.OPEN),
        ("XNYS", "2026-11-20 16:00", MarketPhase.AFTER_HOURS),
        ("XNYS", "2026-11-20 19:59", MarketPhase.AFTER_HOURS),
        ("XNYS", "2026-11-20 20:00", MarketPhase.CLOSED),
        ("XNYS", "2026-11-21 12:00", MarketPhase.WEEKEND),
        ("XNYS", "2026-11-22 23:59", MarketPhase.WEEKEND),
        ("XNYS", "2026-11-26 12:00", MarketPhase.HOLIDAY),
        # The day of mourning for Jimmy Carter: no rule gives it.
        ("XNYS", "2025-01-09 12:00", MarketPhase.HOLIDAY),
        ("XWAR", "2026-11-20 08:59", MarketPhase.CLOSED),
        ("XWAR", "2026-11-20 09:00", MarketPhase.OPEN),
        ("XWAR", "2026-11-20 16:59", MarketPhase.OPEN),
        ("XWAR", "2026-11-20 17:00", MarketPhase.CLOSED),
        ("XWAR", "2026-11-22 12:00", MarketPhase.WEEKEND),
        ("XWAR", "2026-11-11 12:00", MarketPhase.HOLIDAY),
        ("XWAR", "2025-12-24 12:00", MarketPhase.HOLIDAY),
        ("XWAR", "2026-11-26 12:00", MarketPhase.OPEN),
    ],
)
def test_the_phase_of_the_day(mic: str, local: str, phase: MarketPhase) -> None:
    assert status(mic, local).phase is phase


@pytest.mark.parametrize(
    ("mic", "local", "opens", "closes"),
    [
        ("XNYS", "2026-11-20 08:00", "2026-11-20 09:30", "2026-11-20 16:00"),
        ("XNYS", "2026-11-20 09:30", "2026-11-23 09:30", "2026-11-20 16:00"),
        ("XNYS", "2026-11-20 16:00", "2026-11-23 09:30", "2026-11-23 16:00"),
        ("XNYS", "2026-11-21 12:00", "2026-11-23 09:30", "2026-11-23 16:00"),
        ("XNYS", "2026-11-25 17:00", "2026-11-27 09:30", "2026-11-27 13:00"),
        ("XWAR", "2026-11-10 17:00", "2026-11-12 09:00", "2026-11-12 17:00"),
        ("XWAR", "2026-12-23 18:00", "2026-12-28 09:00", "2026-12-28 17:00"),
    ],
)
def test_the_next_bells(mic: str, local: str, opens: str, closes: str) -> None:
    found = status(mic, local)
    assert (found.next_open, found.next_close) == (at(mic, opens), at(mic, closes))


def test_a_half_day_closes_at_one_and_trades_on_for_four_hours() -> None:
    day = hours(calendar("XNYS"), date(2026, 11, 27))
    assert day.closes == at("XNYS", "2026-11-27 13:00")
    assert day.ends == at("XNYS", "2026-11-27 17:00")
    assert status("XNYS", "2026-11-27 12:59").phase is MarketPhase.OPEN
    assert status("XNYS", "2026-11-27 13:00").phase is MarketPhase.AFTER_HOURS
    assert status("XNYS", "2026-11-27 17:00").phase is MarketPhase.CLOSED


@pytest.mark.parametrize(
    ("instant", "new_york", "warsaw"),
    [
        # America has put its clocks forward, Europe has not: they trade together for an hour longer.
        ("2026-03-09 13:29", MarketPhase.PRE_MARKET, MarketPhase.OPEN),
        ("2026-03-09 13:30", MarketPhase.OPEN, MarketPhase.OPEN),
        ("2026-03-09 15:59", MarketPhase.OPEN, MarketPhase.OPEN),
        ("2026-03-09 16:00", MarketPhase.OPEN, MarketPhase.CLOSED),
        # Both have.
        ("2026-03-30 13:30", MarketPhase.OPEN, MarketPhase.OPEN),
        ("2026-03-30 15:00", MarketPhase.OPEN, MarketPhase.CLOSED),
        # Europe has put its clocks back, America has not.
        ("2026-10-26 07:59", MarketPhase.CLOSED, MarketPhase.CLOSED),
        ("2026-10-26 08:00", MarketPhase.PRE_MARKET, MarketPhase.OPEN),
        ("2026-10-26 13:30", MarketPhase.OPEN, MarketPhase.OPEN),
        ("2026-11-02 13:30", MarketPhase.PRE_MARKET, MarketPhase.OPEN),
        ("2026-11-02 14:30", MarketPhase.OPEN, MarketPhase.OPEN),
    ],
)
def test_both_exchanges_in_the_weeks_of_the_clock_change(
    instant: str, new_york: MarketPhase, warsaw: MarketPhase
) -> None:
    moment = datetime.fromisoformat(instant).replace(tzinfo=UTC)
    found = [market_status(calendar(mic), moment).phase for mic in ("XNYS", "XWAR")]
    assert found == [new_york, warsaw]


def test_the_session_is_todays_by_the_exchanges_own_date() -> None:
    # It is Friday evening in New York and Saturday in UTC.
    found = market_status(calendar("XNYS"), datetime(2026, 11, 21, 0, 30, tzinfo=UTC))
    assert found.session == date(2026, 11, 20)
    assert found.phase is MarketPhase.AFTER_HOURS
    assert status("XNYS", "2026-11-21 12:00").session is None


@pytest.mark.parametrize(
    ("local", "regular", "extended"),
    [
        ("2026-11-20 05:00", False, True),
        ("2026-11-20 12:00", True, True),
        ("2026-11-20 18:00", False, True),
        ("2026-11-20 21:00", False, False),
        ("2026-11-21 12:00", False, False),
    ],
)
def test_bars_come_in_extended_hours_where_they_are_wanted(local: str, regular: bool, extended: bool) -> None:
    found = status("XNYS", local)
    assert (found.trades(extended=False), found.trades(extended=True)) == (regular, extended)


def test_an_exchange_without_extended_hours_has_none() -> None:
    assert not status("XWAR", "2026-11-20 08:30").trades(extended=True)
    assert not status("XWAR", "2026-11-20 17:30").trades(extended=True)


def test_a_lunch_break_is_no_trading() -> None:
    tokyo = trading_calendar("XTKS", KNOWN)
    noon = datetime(2026, 11, 20, 12, 0, tzinfo=ZoneInfo("Asia/Tokyo")).astimezone(UTC)
    assert market_status(tokyo, noon).phase is MarketPhase.CLOSED
    assert market_status(tokyo, noon.replace(hour=4)).phase is MarketPhase.OPEN
