"""The lease of a stream, its heartbeat and what people wish of it, on a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from market_pipelines.store.database import Database
from market_pipelines.store.stream_gaps import (
    GapStatus,
    NoticedGap,
    ask_again,
    gap_of,
    gaps_due,
    newest_gaps,
    record_closed,
    record_opened,
    settle,
)
from market_pipelines.store.streams import (
    Claim,
    Report,
    StreamRow,
    StreamState,
    Wish,
    acquire,
    ask,
    bury,
    heeded,
    release,
    renew,
    stream_row,
    stream_rows,
)

NOW = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)


def claim(stream: str, holder: str = "one:1:aa", host: str = "here", journal: str = "j1") -> Claim:
    return Claim(
        stream=stream,
        market="us",
        feed="polygon",
        asset_class="stocks",
        provider="simulated-polygon",
        holder=holder,
        host=host,
        pid=1,
        hosted_by="process",
        run_id=None,
        journal=journal,
    )


LIVE = Report(
    state=StreamState.LIVE,
    symbols=2,
    channels=["quotes"],
    connections=[{"origin": "polygon-1", "state": "live"}],
    sinks=[{"sink": "lake", "cursor_lag_events": 0}],
    counters={"events": 7},
)


def row(database: Database, stream: str) -> StreamRow:
    with database.connection() as connection:
        found = stream_row(connection, stream)
    assert found is not None
    return found


def test_the_first_one_gets_the_lease_and_a_second_one_is_told_who_has_it(database: Database) -> None:
    with database.connection() as connection:
        assert acquire(connection, claim("first")) is None
        holder = acquire(connection, claim("first", holder="two:2:bb", host="elsewhere", journal="j2"))
    assert holder is not None
    assert (holder.holder, holder.state, holder.running) == ("one:1:aa", StreamState.STARTING, True)
    assert holder.heartbeat_age < 5


def test_streams_of_different_names_do_not_meet(database: Database) -> None:
    with database.connection() as connection:
        assert acquire(connection, claim("apart-1")) is None
        assert acquire(connection, claim("apart-2", holder="two:2:bb")) is None


def test_a_heartbeat_writes_how_it_goes(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, claim("beat"))
        assert renew(connection, "beat", "one:1:aa", LIVE) is Wish.NONE
    found = row(database, "beat")
    assert (found.state, found.symbols, found.channels) == (StreamState.LIVE, 2, ["quotes"])
    assert (found.connections[0]["origin"], found.sinks[0]["sink"], found.counters["events"]) == (
        "polygon-1",
        "lake",
        7,
    )


def test_a_lease_that_ran_out_may_be_taken_and_its_holder_hears_of_it(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, claim("expired"), seconds=0.0)
    assert row(database, "expired").died
    with database.connection() as connection:
        assert acquire(connection, claim("expired", holder="two:2:bb", host="elsewhere", journal="j2")) is None
        assert renew(connection, "expired", "one:1:aa", LIVE) is None
        assert not release(connection, "expired", "one:1:aa", LIVE)
    assert row(database, "expired").holder == "two:2:bb"


def test_a_lease_that_ran_out_and_that_nobody_took_is_still_its_holders(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, claim("late"), seconds=0.0)
        assert renew(connection, "late", "one:1:aa", LIVE) is Wish.NONE
    assert row(database, "late").running


@pytest.mark.parametrize(
    ("host", "journal", "succeeds"),
    [("here", "j1", True), ("elsewhere", "j1", False), ("here", "j2", False)],
)
def test_the_lock_on_a_dead_holders_journal_is_as_good_as_its_lease(
    database: Database, host: str, journal: str, succeeds: bool
) -> None:
    name = f"dead-{host}-{journal}"
    with database.connection() as connection:
        acquire(connection, claim(name))
        taken = acquire(connection, claim(name, "two:2:bb", host, journal), journal_is_ours=True) is None
    assert taken is succeeds


def test_a_stopped_stream_is_free_at_once_and_begins_anew(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, claim("free"))
        renew(connection, "free", "one:1:aa", LIVE)
        assert release(connection, "free", "one:1:aa", replace(LIVE, state=StreamState.STOPPED, detail="asked to"))
    stopped = row(database, "free")
    assert (stopped.running, stopped.died, stopped.detail) == (False, False, "asked to")
    assert stopped.stopped_at is not None
    with database.connection() as connection:
        assert acquire(connection, claim("free", holder="two:2:bb", host="elsewhere", journal="j2")) is None
    begun = row(database, "free")
    assert (begun.state, begun.counters, begun.sinks, begun.stopped_at) == (StreamState.STARTING, {}, [], None)


def test_a_wish_is_told_with_the_next_heartbeat_until_it_is_heeded(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, claim("wish"))
        assert ask(connection, "wish", Wish.RELOAD)
        assert renew(connection, "wish", "one:1:aa", LIVE) is Wish.RELOAD
        assert ask(connection, "wish", Wish.STOP)
        heeded(connection, "wish", "one:1:aa", Wish.RELOAD)
        assert renew(connection, "wish", "one:1:aa", LIVE) is Wish.STOP, "a later wish stays"
        heeded(connection, "wish", "one:1:aa", Wish.STOP)
        assert renew(connection, "wish", "one:1:aa", LIVE) is Wish.NONE


def test_nobody_hears_a_wish_for_a_stream_that_does_not_run(database: Database) -> None:
    with database.connection() as connection:
        assert not ask(connection, "never", Wish.STOP)
        acquire(connection, claim("gone"), seconds=0.0)
        assert not ask(connection, "gone", Wish.STOP)


def test_only_a_dead_stream_can_be_buried(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, claim("alive"))
        assert not bury(connection, "alive", "not wanted")
        acquire(connection, claim("dead"), seconds=0.0)
        assert bury(connection, "dead", "not wanted")
    assert row(database, "dead").state is StreamState.STOPPED


def test_streams_are_listed_by_market(database: Database) -> None:
    with database.connection() as connection:
        acquire(connection, replace(claim("pl-stooq"), market="pl", feed="stooq"))
        assert [one.stream for one in stream_rows(connection, market="pl")] == ["pl-stooq"]


# --- gaps that history is asked for --------------------------------------------------------------------------


def noticed(key: str, stream: str) -> NoticedGap:
    return NoticedGap(key, stream, "us", "polygon", "disconnected", NOW, ("trades",))


def test_a_gap_is_due_once_it_has_ended_and_again_when_its_pause_is_over(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        gap = noticed("g1", "us-polygon")
        record_opened(connection, gap, NOW)
        later = NOW + timedelta(minutes=5)
        assert gaps_due(connection, "us-polygon", later, later) == [], "it goes on"
        record_closed(connection, gap, NOW + timedelta(seconds=30), NOW)
        assert gaps_due(connection, "us-polygon", NOW + timedelta(seconds=20), later) == [], "it has just ended"
        assert gaps_due(connection, "pl-stooq", later, later) == [], "another stream's"
        (due,) = gaps_due(connection, "us-polygon", later, later)
        settle(connection, due.gap_id, GapStatus.OPEN, "throttled", 0, later + timedelta(minutes=1), later)
        assert gaps_due(connection, "us-polygon", later, later) == []
        again = later + timedelta(minutes=1)
        assert [one.gap_key for one in gaps_due(connection, "us-polygon", again, again)] == ["g1"]


def test_a_declared_gap_is_due_only_where_it_is_to_be_asked_for_again(fresh_database: Database) -> None:
    later = NOW + timedelta(minutes=5)
    with fresh_database.connection() as connection:
        for key, status in (("f", GapStatus.FILLED), ("p", GapStatus.PARTIAL), ("u", GapStatus.UNFILLABLE)):
            record_closed(connection, noticed(key, "us-polygon"), NOW + timedelta(seconds=30), NOW)
            stored = gap_of(connection, key)
            assert stored is not None
            settle(connection, stored.gap_id, status, "", 0, None, NOW)
        assert gaps_due(connection, "us-polygon", later, later) == []
        assert ask_again(connection, ["us-polygon"], later) == 2
        assert {one.gap_key for one in gaps_due(connection, "us-polygon", later, later)} == {"p", "u"}


def test_gaps_are_listed_the_newest_first(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        for number in range(3):
            begins = NOW + timedelta(minutes=number)
            record_closed(connection, replace(noticed(f"g{number}", "us-polygon"), begins_at=begins), begins, NOW)
        assert [one.gap_key for one in newest_gaps(connection, None, 2)] == ["g2", "g1"]
        assert newest_gaps(connection, "pl-stooq", 2) == []
