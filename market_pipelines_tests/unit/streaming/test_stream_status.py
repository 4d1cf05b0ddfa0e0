"""What `stream status` says of the rows that a service writes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from market_pipelines.cli.stream_status import cut_short, note_of, sentence
from market_pipelines.store.stream_gaps import GapRow, GapStatus
from market_pipelines.store.streams import StreamRow, StreamState, Wish
from market_pipelines.streaming.status import StreamsState, document

NOW = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
ROW = StreamRow(
    stream="us-polygon",
    market="us",
    feed="polygon",
    asset_class="stocks",
    provider="simulated-polygon",
    holder="desk:7:aa",
    host="desk",
    pid=7,
    hosted_by="process",
    run_id=None,
    journal="j1",
    state=StreamState.LIVE,
    detail="",
    wish=Wish.NONE,
    symbols=50,
    channels=["quotes"],
    connections=[
        {"origin": "polygon-1", "state": "live", "reconnects": 2},
        {"origin": "polygon-2", "state": "waiting", "reconnects": 1},
    ],
    sinks=[{"rows": 9, "sink": "lake", "errors": 0, "cursor_lag_s": 0.4, "cursor_lag_events": 12}],
    counters={"events": 1234, "events_per_s": 50.0, "last_event_age_s": 0.2, "lag_p50_ms": 3.0, "lag_p99_ms": 40.0},
    started_at=NOW,
    heartbeat_at=NOW,
    lease_until=NOW + timedelta(seconds=15),
    stopped_at=None,
    heartbeat_age=1.5,
    valid=True,
)
GAPS = {"open": 1, "filled": 4, "partial": 1, "unfillable": 2}


def test_a_running_stream_has_the_public_shape() -> None:
    told = document(StreamsState((ROW,), {"us-polygon": GAPS}))
    assert told["running"] is True
    assert told["streams"][0]["delay_s"] == 0.0
    assert (told["lease"]["holder"], told["lease"]["heartbeat_age_s"]) == ("desk:7:aa", 1.5)
    (feed,) = told["feeds"]
    assert {name: feed[name] for name in ("feed", "connections", "events", "last_event_age_s", "reconnects")} == {
        "feed": "polygon",
        "connections": 1,
        "events": 1234,
        "last_event_age_s": 1.7,
        "reconnects": 3,
    }
    (sink,) = told["sinks"]
    assert list(sink)[:5] == ["sink", "cursor_lag_events", "cursor_lag_s", "errors", "stream"]
    assert (sink["sink"], sink["cursor_lag_events"]) == ("lake", 12)
    assert told["gaps"] == GAPS


def test_gaps_of_several_streams_are_added_up() -> None:
    told = document(StreamsState((ROW, replace(ROW, stream="pl-stooq")), {"us-polygon": GAPS, "pl-stooq": GAPS}))
    assert told["gaps"]["filled"] == 8
    assert [one["gaps"]["filled"] for one in told["streams"]] == [4, 4]


def test_nothing_runs_where_nothing_ever_ran() -> None:
    told = document(StreamsState((), {}))
    assert told == {
        "running": False,
        "lease": {"holder": None, "heartbeat_age_s": None},
        "feeds": [],
        "sinks": [],
        "gaps": {"open": 0, "filled": 0, "partial": 0, "unfillable": 0},
        "streams": [],
    }


def test_a_lease_that_ran_out_without_a_stop_is_a_death() -> None:
    dead = replace(ROW, valid=False, heartbeat_age=300.0)
    told = document(StreamsState((dead,), {}))
    assert (told["running"], told["feeds"], told["streams"][0]["state"]) == (False, [], "died")
    assert sentence(dead).startswith("us-polygon       died, last heard of 5 minutes ago: process 7 on desk since")


def test_a_stopped_stream_says_since_when_and_why() -> None:
    stopped = replace(ROW, state=StreamState.STOPPED, detail="asked to stop by a signal", stopped_at=NOW)
    assert sentence(stopped) == ("us-polygon       stopped, since 2026-11-18 15:00:00 UTC, asked to stop by a signal")


def test_a_live_stream_in_one_line() -> None:
    said = sentence(ROW)
    assert "late by its plan" not in said
    delayed = sentence(replace(ROW, counters={**ROW.counters, "delay_s": 900.0}))
    assert ", 15 min late by its plan, lag p50 3 ms, p99 40 ms, " in delayed
    for words in ("live", "50 symbols of simulated-polygon", "1,234 events (50/s)", "p99 40 ms", "process 7 on desk"):
        assert words in said


def test_what_a_person_has_to_do_is_told_to_its_end() -> None:
    told = "PocketBase does not allow batch requests; a superuser turns them on in its dashboard"
    sinks = [
        {"sink": "pocketbase", "state": "refused", "last_error": told},
        {"sink": "redis", "state": "live", "last_error": told},
        {"sink": "questdb", "state": "retrying", "last_error": "short"},
    ]
    assert list(cut_short([replace(ROW, sinks=sinks)])) == [f"us-polygon, pocketbase: {told}"]


def test_a_stream_with_a_log_of_its_own_says_where_it_is() -> None:
    logged = replace(ROW, counters={**ROW.counters, "log": "/data/run/stream-us-polygon.log"})
    for row in (logged, replace(logged, valid=False), replace(logged, state=StreamState.STOPPED)):
        assert sentence(row).endswith(", log /data/run/stream-us-polygon.log")
    assert "log /" not in sentence(ROW)


def test_an_open_gap_says_for_how_long_and_whether_anybody_will_ask() -> None:
    begins = NOW - timedelta(days=3)
    gap = GapRow(
        1, "g", "us-polygon", "us", "polygon", "", "crashed", None, ["trades"], None, begins, None, begins,
        GapStatus.OPEN, "", 0, None, 0, None,
    )  # fmt: skip
    assert note_of(gap, NOW, running=True) == "open for 3 days"
    assert note_of(gap, NOW, running=False) == "open for 3 days; its stream does not run"
    settled = replace(gap, status=GapStatus.UNFILLABLE, reason="the quota is spent", retry_at=NOW)
    assert note_of(settled, NOW, running=True) == "the quota is spent; asked again at 15:00:00 UTC"
    assert note_of(settled, NOW, running=False) == "the quota is spent"
