"""The whole service against the simulator's socket: nothing lost, nothing doubled, and everything said."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import requests
from structlog.testing import capture_logs

from market_pipelines.market.columns import bits, instants
from market_pipelines.market.hours import market_status
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.incidents import open_incidents
from market_pipelines.pipeline.stream_watch import lag, watch
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.settings import SettingsError
from market_pipelines.simulator.aggregates import SECOND_NS, bars_of, middle_of
from market_pipelines.simulator.live import live_trades
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.stream.tape import moment
from market_pipelines.store.stream_gaps import GapStatus
from market_pipelines.store.streams import StreamState, Wish, ask
from market_pipelines.streaming.feeds.protocol import FeedFailed
from market_pipelines.streaming.fill import GapFiller
from market_pipelines.streaming.lease import LeaseLost, StreamHeld
from market_pipelines.streaming.memory import FreedMemory
from market_pipelines.streaming.metrics import served_metrics
from market_pipelines.streaming.plan import Channel, FeedName, StreamPlan
from market_pipelines.streaming.plans import Selection
from market_pipelines.streaming.replay import frames, replay
from market_pipelines.streaming.service import is_unauthorised, journal_folder
from market_pipelines.streaming.tail import Tail
from market_pipelines_tests.faults.streaming.live import PLAN, SYMBOLS, Desk, opened_desk, until
from market_pipelines_tests.serving import free_port


@pytest.fixture
def desk(
    settings_of_this_machine_are_out_of_sight: None, simulator: Simulator, url: str, tmp_path: Path
) -> Iterator[Desk]:
    with opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened


def test_what_the_socket_sent_is_in_the_lake_once(desk: Desk) -> None:
    before = len(desk.simulator.streams)
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 60, "rows in the lake")
    (connection,) = desk.simulator.streams[before:]
    sent = [(one.kind, one.symbol, one.seq) for one in connection.sent]
    stored = desk.stored()
    assert set(stored.values()) == {1}, "nothing is there twice"
    last = max(place for place, tick in enumerate(sent) if tick in stored)
    assert set(stored) == set(sent[: last + 1]), "up to the last one that was read, all of it"
    row = desk.row()
    assert (row.state, row.running, row.symbols) == (StreamState.STOPPED, False, len(SYMBOLS))
    assert {sink["sink"]: sink["cursor_lag_events"] for sink in row.sinks} == {"lake": 0, "postgres": 0, "gaps": 0}
    assert row.counters["events"] >= len(stored)


def test_a_disconnection_is_a_row_within_a_second_and_history_makes_the_set_whole(desk: Desk) -> None:
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
        began = datetime.now(UTC) - timedelta(seconds=1)
        requests.post(f"{desk.simulator.url}/control/stream/drop", timeout=5).raise_for_status()
        until(lambda: [gap for gap in desk.gaps() if gap.ends_at is not None], "the gap has ended")
        (gap,) = desk.gaps()
        assert datetime.now(UTC) - gap.ends_at < timedelta(seconds=1.5)  # type: ignore[operator]
        assert (gap.cause, gap.origin, gap.status) == ("disconnected", "polygon-1", GapStatus.OPEN)
        assert sorted(gap.symbols or ()) == sorted(SYMBOLS)
        until(lambda: desk.gaps()[0].status is GapStatus.FILLED, "the gap is filled")
        ended = datetime.now(UTC) - timedelta(seconds=1)
        assert desk.gaps()[0].rows_filled > 0
    stored = desk.stored()
    assert set(stored.values()) == {1}, "history doubles nothing of what was streamed at its edges"
    assert desk.truth(began, ended).keys() <= set(stored)


def test_of_a_delayed_socket_a_gap_is_what_was_missed_and_its_delay_is_no_lag(desk: Desk) -> None:
    """What is lost with a connection is what happened before: by so much as everything comes later."""
    delay = timedelta(seconds=6)
    plan = replace(PLAN, delay=delay)
    desk.simulator.faults.replace([f"polygon.ws_delay={delay.total_seconds():g}"])
    with desk.streaming(plan):
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
        began = datetime.now(UTC) - delay
        requests.post(f"{desk.simulator.url}/control/stream/drop", timeout=5).raise_for_status()
        until(lambda: [gap for gap in desk.gaps() if gap.status is GapStatus.FILLED], "the gap is filled")
        ended = datetime.now(UTC) - delay - timedelta(seconds=1)
        until(lambda: desk.row().counters["lag_p99_ms"] is not None, "the lag is measured")
        seen, (gap,) = watch(desk.platform, desk.platform.market("us")), desk.gaps()
    noon = datetime(2025, 6, 13, 16, 0, tzinfo=UTC)
    trading = replace(seen, at=noon, status=market_status(trading_calendar("XNYS", noon), noon))
    assert lag(trading).passed
    assert desk.row().counters["delay_s"] == delay.total_seconds()
    assert gap.ends_at is not None
    assert began - timedelta(seconds=1) < gap.begins_at <= gap.ends_at < ended + timedelta(seconds=2)
    stored = desk.stored()
    assert set(stored.values()) == {1}, "what was streamed at its edges is not doubled"
    assert gap.rows_filled > 0
    missed = desk.truth(gap.begins_at, gap.ends_at)
    assert missed
    assert desk.truth(began - timedelta(seconds=1), ended).keys() | missed.keys() <= set(stored)
    with desk.platform.database.connection() as connection:
        for kind in (TickKind.TRADES, TickKind.QUOTES):
            marks = lake_of(desk.platform).table(connection, kind, start=began, end=datetime.now(UTC))["marks"]
            assert len(marks)
            assert not (bits(marks) & TickMark.LATE).any()


def test_a_second_instance_is_refused_and_told_who_streams(desk: Desk, tmp_path: Path) -> None:
    with desk.streaming() as first:
        second = desk.started()
        until(second.ended, "the second one gives up", 3.0)
        assert isinstance(second.error, StreamHeld)
        assert f"process {desk.row().pid} on {desk.row().host} since" in str(second.error)
        elsewhere = settings_elsewhere(desk, tmp_path / "another home")
        third = elsewhere.started()
        until(third.ended, "the third one, with a journal of its own", 3.0)
        assert isinstance(third.error, StreamHeld)
        assert not first.ended()
        assert desk.is_live()


def settings_elsewhere(desk: Desk, home: Path) -> Desk:
    settings = desk.platform.settings.model_copy(update={"market_pipelines_home": home})
    settings.__dict__.pop("home", None)
    return Desk(replace(desk.platform, settings=settings), desk.simulator)


def test_a_wish_in_the_table_stops_it_wherever_it_runs(desk: Desk) -> None:
    with desk.streaming() as running:
        with desk.platform.database.connection() as connection:
            assert ask(connection, PLAN.name, Wish.STOP)
        until(running.ended, "it heeds the wish", 10.0)
    row = desk.row()
    assert (row.state, row.wish) == (StreamState.STOPPED, Wish.NONE)
    assert "stream stop" in row.detail


def test_it_ends_by_itself_when_its_time_is_over(desk: Desk) -> None:
    with desk.streaming(until=datetime.now(UTC) + timedelta(seconds=2)) as running:
        until(running.ended, "it ends by itself", 10.0)
    assert desk.row().detail.startswith("its time was over")


def test_what_it_has_freed_is_given_back_while_it_streams(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr("market_pipelines.streaming.service.FreedMemory", partial(FreedMemory, 0.0))
    monkeypatch.setattr("market_pipelines.streaming.memory.give_back", lambda: given.append(time.monotonic()))
    with desk.streaming():
        until(lambda: bool(given), "memory is given back")


def test_symbols_are_read_again_without_a_reconnect(desk: Desk, tmp_path: Path) -> None:
    listed = tmp_path / "symbols.yaml"
    listed.write_text("[AAPL, MSFT]\n")
    selection = Selection("us", symbols_list=listed)
    plan = replace(PLAN, symbols=("AAPL", "MSFT"))
    with desk.streaming(plan, selection=selection) as running:
        before = len(desk.simulator.streams)
        listed.write_text("[MSFT, KO, IBM]\n")
        with desk.platform.database.connection() as connection:
            assert ask(connection, plan.name, Wish.RELOAD)
        until(lambda: any(symbol == "KO" for _, symbol, _ in desk.stored()), "the new symbol's ticks")
        listed.write_text("no list at all")
        running.service.reload_asked = True
        until(lambda: desk.row().symbols == 3 and not running.service.reload_asked, "it goes on with what it had")
        assert len(desk.simulator.streams) == before
    assert desk.gaps() == []


@pytest.mark.parametrize(("symbols", "markets"), [("['^SPX']", True), ("[KO]", False)])
def test_a_reload_that_leaves_nothing_to_stream_changes_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbols: str, markets: bool
) -> None:
    """Of symbols that the provider does not stream, and of a market whose file has gone."""
    listed = tmp_path / "symbols.yaml"
    listed.write_text(symbols)
    with desk.streaming(selection=Selection("us", symbols_list=listed)) as running:
        if not markets:
            monkeypatch.setattr("market_pipelines.streaming.plans.read_markets", dict)
        with capture_logs() as logs:
            running.service.reload_asked = True
            until(lambda: any("stay as they were" in str(one) for one in logs) or running.ended(), "it is told")
        stored = len(desk.stored())
        until(lambda: len(desk.stored()) > stored or running.ended(), "it goes on")
        assert desk.row().symbols == len(SYMBOLS)


def test_a_refused_key_ends_it_with_an_incident_that_the_next_good_start_closes(desk: Desk) -> None:
    desk.simulator.faults.replace(["polygon.ws_auth_failed=on"])
    running = desk.started()
    until(running.ended, "it gives up")
    assert isinstance(running.error, FeedFailed)
    assert is_unauthorised(str(running.error))
    assert desk.row().state is StreamState.FAILED
    assert [one.key for one in open_incidents(desk.platform)] == ["stream:us-polygon"]
    desk.simulator.faults.clear()
    with desk.streaming():
        until(lambda: not open_incidents(desk.platform), "the incident is over")


def test_a_lease_that_somebody_else_has_by_now_ends_it_in_good_order(desk: Desk) -> None:
    with desk.platform.database.connection() as connection:
        connection.execute("SELECT 1")
    running = desk.started()
    until(desk.is_live, "the stream is live")
    with desk.platform.database.connection() as connection:
        connection.execute("UPDATE market.stream_status SET holder = 'other:1:ff', host = 'other', pid = 77")
    until(running.ended, "it notices")
    assert isinstance(running.error, LeaseLost)
    assert "taken over by process 77 on other" in str(running.error)
    row = desk.row()
    assert (row.holder, row.running) == ("other:1:ff", True), "what is not its own it leaves alone"


def test_a_lease_that_ran_out_unnoticed_is_renewed(desk: Desk) -> None:
    with desk.streaming() as running:
        with desk.platform.database.connection() as connection:
            connection.execute("UPDATE market.stream_status SET lease_until = now() - interval '1 hour'")
        until(lambda: desk.row().running, "the next heartbeat renews it", 10.0)
        assert not running.ended()


def test_a_pause_is_a_gap_that_history_fills(desk: Desk) -> None:
    """Bars of a second too: none is missing, none is there twice, and each says what the made-up world has."""
    began = datetime.now(UTC)
    plan = replace(PLAN, channels=(*PLAN.channels, Channel.SECONDS))
    with desk.streaming(plan):
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
        began = datetime.now(UTC) - timedelta(seconds=1)
    time_of_pause = time.monotonic()
    until(lambda: time.monotonic() - time_of_pause > 1, "a second goes by")
    with desk.streaming(plan):
        until(lambda: [gap for gap in desk.gaps() if gap.status is GapStatus.FILLED], "the pause is filled")
        ended = datetime.now(UTC) - timedelta(seconds=1)
    (gap,) = desk.gaps()
    assert (gap.cause, gap.reason) == ("stopped", "")
    stored = desk.stored()
    assert set(stored.values()) == {1}
    assert desk.truth(began, ended).keys() <= set(stored)
    seconds = seconds_stored(desk)
    assert set(seconds.values()) == {1}
    assert true_seconds(desk, began, ended) == {bar for bar in seconds if began <= moment(bar[1]) < second_of(ended)}


def test_a_gap_is_told_while_nothing_can_be_decoded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy stream has to look back at takes seconds: no sink has had a chunk, and the row is there."""
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 0, "rows in the lake")
    looking_back = threading.Event()

    def looks_back(_tail: Tail, _after: int, timeout: float) -> None:
        looking_back.wait(timeout)

    monkeypatch.setattr(Tail, "chunk", looks_back)
    with desk.streaming():
        until(lambda: [gap for gap in desk.gaps() if gap.ends_at is not None], "the pause has ended")
        (gap,) = desk.gaps()
        assert (gap.cause, gap.status) == ("stopped", GapStatus.OPEN)
        monkeypatch.undo()
        looking_back.set()


Second = tuple[str, int, int, float, float, float, float, float, float]
"""Symbol, start, end, open, high, low, close, volume, mean price."""


def seconds_stored(desk: Desk) -> Counter[Second]:
    day = timedelta(days=1)
    with desk.platform.database.connection() as connection:
        start, end = datetime.now(UTC) - day, datetime.now(UTC) + day
        table = lake_of(desk.platform).table(connection, TickKind.AGGREGATES, start=start, end=end)
    names = ("symbol", "start", "end", "o", "h", "l", "c", "v", "vw")
    values = [instants(table[name]).tolist() if name in ("start", "end") else table[name].to_pylist() for name in names]
    return Counter(zip(*values, strict=True))


def true_seconds(desk: Desk, began: datetime, ended: datetime) -> set[Second]:
    world, first, last = desk.simulator.world, second_of(began) + timedelta(seconds=1), second_of(ended)
    found: set[Second] = set()
    for symbol in SYMBOLS:
        listing = world.find(symbol, "XNYS")
        assert listing is not None
        bars = bars_of(live_trades(world, listing, first, last, last), SECOND_NS)
        for start, o, h, low, c, v in zip(
            *(each.tolist() for each in (bars.starts, bars.open, bars.high, bars.low, bars.close, bars.volume)),
            strict=True,
        ):
            found.add((symbol, start, start + SECOND_NS, o, h, low, c, v, middle_of(h, low, c)))
    return found


def second_of(at: datetime) -> datetime:
    return at.replace(microsecond=0)


def test_quotes_that_are_asked_for_stream_as_well(desk: Desk) -> None:
    plan = StreamPlan("pl", FeedName.STOOQ, ("PKO", "CDR"), channels=(Channel.QUOTES,), every_seconds=1.0)
    with desk.streaming(plan):
        until(lambda: newest_of(desk, "PKO") is not None, "the newest quote is in the table")
    assert desk.row("pl-stooq").provider == "simulated-stooq"


def newest_of(desk: Desk, symbol: str) -> object:
    with desk.platform.database.connection() as connection:
        row = connection.execute("SELECT price FROM market.latest_quotes WHERE symbol = %s", (symbol,)).fetchone()
    return None if row is None else row[0]


def test_metrics_are_served_while_it_streams_and_a_taken_port_is_named(desk: Desk) -> None:
    port = free_port()
    with desk.streaming() as running, served_metrics(port, [running.service]) as address:
        assert address is not None
        until(lambda: sum(desk.stored().values()) > 5, "rows")
        text = requests.get(address, timeout=5).text
        with pytest.raises(SettingsError, match=f"STREAM_METRICS_PORT: read {port}"), served_metrics(port, []):
            pass
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    for name in (
        "stream_last_message_timestamp_seconds",
        "stream_events_total",
        "stream_gap_seconds_total",
        "queue_depth",
        "sink_lag_seconds",
        "sink_errors_total",
        "reconnects_total",
    ):
        assert f"marketpipe_{name}{{" in text
    assert "AAPL" not in text


def test_the_journal_can_be_read_again(desk: Desk) -> None:
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
    before = desk.stored()
    done = replay(desk.platform, PLAN.name, "lake", None, None)
    assert (done.rows, desk.stored()) == (0, before), "what has everything takes nothing twice"
    lines = list(frames(desk.platform, PLAN.name, None, None))
    assert '"kind":"started"' in lines[0]
    assert '"kind":"stopped"' in lines[-1]
    assert any('\\"ev\\":\\"Q\\"' in line for line in lines)
    with pytest.raises(FeedFailed, match="accepted: gaps, lake, postgres"):
        replay(desk.platform, PLAN.name, "kafka", None, None)


def test_a_replay_never_carries_a_sink_past_what_it_never_got(desk: Desk) -> None:
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
    before, late = desk.stored(), datetime.now(UTC)
    with desk.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.tick_segments")
        connection.execute("UPDATE market.stream_cursors SET position = 0 WHERE sink = 'lake'")
    replay(desk.platform, PLAN.name, "lake", late, None)
    assert desk.stored() == before
    with desk.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.tick_segments")
        connection.execute("DELETE FROM market.stream_cursors WHERE sink = 'lake'")
    with pytest.raises(FeedFailed, match="has nothing of this journal yet"):
        replay(desk.platform, PLAN.name, "lake", late, None)
    replay(desk.platform, PLAN.name, "lake", None, None)
    assert desk.stored() == before


@pytest.mark.parametrize("wholly", [True, False])
def test_a_journal_that_was_deleted_is_a_gap_since_what_is_stored(wholly: bool, desk: Desk) -> None:
    with desk.streaming():
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
    stopped = datetime.now(UTC)
    folder = journal_folder(desk.platform, PLAN.name)
    if wholly:
        shutil.rmtree(folder)
    for segment in folder.glob("*.sqlite*"):
        segment.unlink()
    with desk.streaming():
        until(lambda: any(gap.ends_at is not None for gap in desk.gaps()), "the gap has ended")
        (gap,) = desk.gaps()
        before = sum(desk.stored().values())
        until(lambda: sum(desk.stored().values()) > before, "what comes is stored")
    assert timedelta() < stopped - gap.begins_at < timedelta(seconds=60)


def test_a_gap_that_nobody_foresaw_ends_neither_the_others_nor_the_stream(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tripped(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    with desk.streaming() as running:
        monkeypatch.setattr(GapFiller, "_attempt", tripped)
        requests.post(f"{desk.simulator.url}/control/stream/drop", timeout=5).raise_for_status()
        until(lambda: [gap for gap in desk.gaps() if gap.status is GapStatus.PARTIAL], "the gap says what happened")
        (gap,) = desk.gaps()
        assert gap.reason == "a fault of the filler: ZeroDivisionError: by nothing"
        assert gap.retry_at is not None
        with pytest.raises(AssertionError):
            until(running.ended, "it goes on", 3.0)
