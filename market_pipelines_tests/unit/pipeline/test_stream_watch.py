"""Whether a stream is well: silence and lag by the exchange's hours, gaps by their age, and what is an incident."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from market_pipelines.market.hours import market_status
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.incidents import Recovery
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.stream_watch import (
    Gravity,
    Watched,
    changes,
    figures,
    gaps_filled,
    lag,
    silence,
    streamed_until,
    verdicts,
    wants_run,
)
from market_pipelines.settings import StreamHost
from market_pipelines.store.incidents import Sighting
from market_pipelines.store.stream_gaps import GapRow, GapStatus
from market_pipelines.store.streams import StreamRow, StreamState, Wish

MARKETS = read_markets()
NOON = datetime(2025, 6, 13, 16, 0, tzinfo=UTC)
BEFORE_HOURS = datetime(2025, 6, 13, 10, 0, tzinfo=UTC)
SATURDAY = datetime(2025, 6, 14, 16, 0, tzinfo=UTC)


def row(**more: Any) -> StreamRow:
    usual: dict[str, Any] = {
        "stream": "us-polygon",
        "market": "us",
        "feed": "polygon",
        "asset_class": "stocks",
        "provider": "polygon",
        "holder": "here:1:a",
        "host": "here",
        "pid": 123,
        "hosted_by": "process",
        "run_id": None,
        "journal": "j",
        "state": StreamState.LIVE,
        "detail": "",
        "wish": Wish.NONE,
        "symbols": 50,
        "channels": ["quotes", "trades"],
        "connections": [{"origin": "polygon-1", "state": "live", "reconnects": 2}],
        "sinks": [{"sink": "lake", "cursor_lag_s": 0.5}, {"sink": "redis", "cursor_lag_s": 0.0}],
        "counters": {"events": 1000, "last_event_age_s": 0.4, "lag_p50_ms": 5.0, "lag_p99_ms": 40.0},
        "started_at": NOON - timedelta(hours=2),
        "heartbeat_at": NOON,
        "lease_until": NOON + timedelta(seconds=15),
        "stopped_at": None,
        "heartbeat_age": 1.2,
        "valid": True,
    }
    return StreamRow(**{**usual, **more})


DEAD = row(valid=False, heartbeat_age=60.0)


def gap(**more: Any) -> GapRow:
    usual: dict[str, Any] = {
        "gap_id": 1,
        "gap_key": "g",
        "stream": "us-polygon",
        "market": "us",
        "feed": "polygon",
        "origin": "polygon-1",
        "cause": "disconnected",
        "sink": None,
        "channels": ["trades"],
        "symbols": None,
        "begins_at": NOON - timedelta(hours=1),
        "ends_at": NOON - timedelta(minutes=59),
        "recorded_at": NOON,
        "status": GapStatus.OPEN,
        "reason": "",
        "attempts": 0,
        "retry_at": None,
        "rows_filled": 0,
        "settled_at": None,
    }
    return GapRow(**{**usual, **more})


def seen(*rows: StreamRow, at: datetime = NOON, market: str = "us", gaps: tuple[GapRow, ...] = ()) -> Watched:
    definition = MARKETS[market]
    status = market_status(trading_calendar(definition.mic, at), at)
    return Watched(definition, at, status, rows, gaps)


QUARTER = timedelta(minutes=15)
OPENS, CLOSES = datetime(2025, 6, 13, 13, 30, tzinfo=UTC), datetime(2025, 6, 13, 20, 0, tzinfo=UTC)


def delayed(**counted: float) -> StreamRow:
    return row(counters={"delay_s": 900.0, "last_event_age_s": 0.4, "lag_p99_ms": 40.0, **counted})


# --- silence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [NOON, SATURDAY])
def test_where_nobody_streams_and_nobody_has_to_everything_is_well(at: datetime) -> None:
    assert all(verdict.passed for verdict in verdicts(seen(at=at)))
    assert silence(seen(at=at)).words == "Nobody streams this market."


def test_a_stream_that_says_nothing_while_the_exchange_trades_is_an_error() -> None:
    mute = row(counters={"last_event_age_s": 90.0})
    found = silence(seen(mute))
    assert (found.passed, found.gravity) == (False, Gravity.ERROR)
    assert "us-polygon has said nothing for 91 s while XNYS trades" in found.words


@pytest.mark.parametrize(
    ("at", "passed"),
    [
        (OPENS + timedelta(minutes=5), True),
        (OPENS + QUARTER + timedelta(minutes=5), False),
        (CLOSES + timedelta(minutes=5), False),
        (CLOSES + QUARTER + timedelta(minutes=5), True),
    ],
)
def test_a_delayed_stream_is_silent_by_the_hours_that_it_tells_of(at: datetime, passed: bool) -> None:
    found = silence(seen(delayed(last_event_age_s=120.0), at=at))
    assert found.passed is passed
    assert found.gravity is (Gravity.WARNING if passed else Gravity.ERROR)


def test_the_delay_of_a_plan_is_no_lag_and_what_comes_later_still_is_one() -> None:
    assert lag(seen(delayed())).passed
    found = lag(seen(delayed(lag_p99_ms=7000.0)))
    assert not found.passed
    assert found.words.endswith("one event in a hundred takes 7.0 s to arrive beyond the 15 min of its plan")


def test_a_gap_of_a_delayed_stream_ended_when_its_span_had_arrived() -> None:
    """Its end is told in the exchange's time, and nobody can have filled it before it was noticed."""
    fresh = gap(begins_at=NOON - QUARTER - timedelta(minutes=3), ends_at=NOON - QUARTER - timedelta(minutes=1))
    assert not gaps_filled(seen(row(), gaps=(fresh,))).passed
    assert gaps_filled(seen(delayed(), gaps=(fresh,))).passed


def test_a_delayed_stream_is_wanted_until_its_last_events_have_come() -> None:
    crashed = replace(delayed(), valid=False, heartbeat_age=60.0)
    night = datetime(2025, 6, 14, 0, 5, tzinfo=UTC)
    assert wants_run(seen(DEAD, at=night), StreamHost.DAGSTER)
    assert wants_run(seen(crashed, at=night), StreamHost.DAGSTER) == ""
    assert wants_run(seen(crashed, at=night + QUARTER), StreamHost.DAGSTER)


def test_a_quarter_of_an_hour_of_silence_is_usual_before_hours() -> None:
    quiet = row(counters={"last_event_age_s": 600.0})
    assert silence(seen(quiet, at=BEFORE_HOURS)).passed
    quieter = row(counters={"last_event_age_s": 1000.0})
    found = silence(seen(quieter, at=BEFORE_HOURS))
    assert (found.passed, found.gravity) == (False, Gravity.WARNING)


def test_a_closed_exchange_is_silent() -> None:
    found = silence(seen(row(counters={"last_event_age_s": 90_000.0}), at=SATURDAY))
    assert found.passed
    assert found.words == "XNYS is closed (weekend) until Mon 2025-06-16 04:00 America/New_York"


def test_a_polled_feed_may_miss_two_of_its_looks() -> None:
    warsaw = datetime(2025, 6, 13, 10, 0, tzinfo=UTC)
    polled = row(stream="pl-stooq", market="pl", feed="stooq", counters={"last_event_age_s": 80.0})
    assert silence(seen(polled, at=warsaw, market="pl")).passed
    late = replace(polled, counters={"last_event_age_s": 100.0})
    assert not silence(seen(late, at=warsaw, market="pl")).passed


def test_one_that_never_heard_anything_is_measured_from_its_start() -> None:
    young = row(counters={}, started_at=NOON - timedelta(seconds=20))
    assert silence(seen(young)).passed
    assert not silence(seen(row(counters={}))).passed


def test_a_stream_that_died_is_told_once_by_its_incident_and_here_as_a_warning() -> None:
    found = silence(seen(DEAD))
    assert (found.passed, found.gravity) == (False, Gravity.WARNING)
    assert "us-polygon died: pid 123 on here" in found.words
    assert silence(seen(DEAD, at=SATURDAY)).passed


# --- lag -------------------------------------------------------------------------------------------------------


def test_a_sink_that_falls_behind_is_a_warning_and_one_that_stands_still_an_error() -> None:
    assert lag(seen(row())).passed
    late = row(sinks=[{"sink": "redis", "cursor_lag_s": 45.0, "last_error": "refused"}])
    found = lag(seen(late))
    assert (found.passed, found.gravity) == (False, Gravity.WARNING)
    assert "us-polygon: redis is 45 s behind the journal (refused)" in found.words
    assert lag(seen(replace(late, sinks=[{"sink": "redis", "cursor_lag_s": 700.0}]))).gravity is Gravity.ERROR


def test_events_that_take_long_to_arrive_are_late_unless_the_feed_is_a_delayed_one() -> None:
    slow = row(counters={"last_event_age_s": 0.1, "lag_p99_ms": 9000.0})
    assert "one event in a hundred takes 9.0 s" in lag(seen(slow)).words
    assert lag(seen(replace(slow, feed="stooq"))).passed


# --- gaps ------------------------------------------------------------------------------------------------------


def test_a_gap_may_be_open_for_a_quarter_of_an_hour() -> None:
    fresh = gap(ends_at=NOON - timedelta(minutes=5))
    assert gaps_filled(seen(row(), gaps=(fresh,))).passed
    found = gaps_filled(seen(row(), gaps=(gap(),)))
    assert not found.passed
    assert found.words.startswith("us-polygon disconnected from 2025-06-13 15:00:00 to 15:01:00 UTC, open")


def test_what_cannot_be_had_is_told_with_the_reason() -> None:
    lost = gap(status=GapStatus.UNFILLABLE, reason="the feed has no history", sink="lake", symbols=["AAPL", "IBM"])
    found = gaps_filled(seen(row(), gaps=(lost,)))
    assert (found.passed, found.gravity) == (False, Gravity.WARNING)
    assert "of 2 symbols" in found.words
    assert "only in lake, unfillable: the feed has no history" in found.words


def test_what_has_no_history_is_told_and_alarms_nobody() -> None:
    full = gap(status=GapStatus.FILLED, reason="there is no history of luld")
    found = gaps_filled(replace(seen(row()), noted=(full,)))
    assert (found.passed, found.figures) == (True, {"unfilled_gaps": 0.0})
    assert found.words.startswith("All that history has is there. us-polygon disconnected from 2025-06-13 15:00:00")
    assert found.words.endswith("filled: there is no history of luld")


# --- figures, incidents, runs ----------------------------------------------------------------------------------


def test_figures_are_read_from_what_the_service_counts() -> None:
    found = figures(row())
    assert (found.events, found.reconnects, found.live, found.connections) == (1000, 2, 1, 1)
    assert (found.event_age, found.lag_p50_ms, found.lag_p99_ms) == (1.6, 5.0, 40.0)
    assert (found.sink_lag, found.slowest_sink) == (0.5, "lake")
    assert figures(row(counters={}, sinks=[], connections=[])).events == 0


def test_a_death_is_an_incident_while_the_exchange_trades_and_over_when_it_streams_again() -> None:
    (died,) = changes(seen(DEAD), "http://here")
    assert isinstance(died, Sighting)
    assert (died.key, died.title) == ("stream:us-polygon", "us-polygon died")
    assert changes(seen(DEAD, at=SATURDAY), "http://here") == ()
    (back,) = changes(seen(row()), "http://here")
    assert isinstance(back, Recovery)
    assert back.key == died.key


def test_one_that_gave_up_is_an_incident_and_one_that_was_stopped_is_none() -> None:
    (failed,) = changes(seen(row(state=StreamState.FAILED, detail="the key is wrong", valid=False)), "")
    assert isinstance(failed, Sighting)
    assert failed.detail == "the key is wrong"
    (stopped,) = changes(seen(row(state=StreamState.STOPPED, valid=False)), "")
    assert isinstance(stopped, Recovery)


def test_one_that_died_days_ago_is_nobodys_any_more() -> None:
    old = row(valid=False, heartbeat_age=5 * 86400.0)
    (over,) = changes(seen(old), "")
    assert isinstance(over, Recovery)
    assert silence(seen(old)).passed


def test_a_run_is_wanted_only_where_dagster_hosts_while_the_exchange_trades_and_nobody_streams() -> None:
    assert wants_run(seen(), StreamHost.DAGSTER) == ""
    assert wants_run(seen(at=BEFORE_HOURS), StreamHost.DAGSTER) == ""
    assert wants_run(seen(at=SATURDAY), StreamHost.DAGSTER).startswith("XNYS is closed (weekend) until Mon")
    assert wants_run(seen(row()), StreamHost.DAGSTER) == (
        "us-polygon is streamed by pid 123 on here, heartbeat 1.2 s ago"
    )
    assert "STREAM_HOSTED_BY=process" in wants_run(seen(), StreamHost.PROCESS)
    assert "us-polygon died" in wants_run(seen(DEAD), StreamHost.PROCESS)


def test_a_run_streams_to_the_end_of_extended_hours_half_days_by_their_own() -> None:
    new_york = trading_calendar("XNYS")
    assert streamed_until(new_york, NOON) == datetime(2025, 6, 14, 0, 2, tzinfo=UTC)
    assert streamed_until(new_york, SATURDAY) == datetime(2025, 6, 17, 0, 2, tzinfo=UTC)
    assert streamed_until(new_york, NOON, QUARTER) == datetime(2025, 6, 14, 0, 17, tzinfo=UTC)
    assert streamed_until(new_york, datetime(2025, 6, 14, 0, 5, tzinfo=UTC), QUARTER).day == 14
    half = datetime(2025, 11, 28, 16, 0, tzinfo=UTC)
    assert streamed_until(new_york, half) == datetime(2025, 11, 28, 22, 2, tzinfo=UTC)
    assert streamed_until(trading_calendar("XWAR"), NOON - timedelta(hours=5)) == datetime(
        2025, 6, 13, 15, 2, tzinfo=UTC
    )
