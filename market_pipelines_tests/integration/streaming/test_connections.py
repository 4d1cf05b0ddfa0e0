"""Real sockets against a Polygon that misbehaves: what a connection notices, tells, and does about it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from market_pipelines.streaming import connection
from market_pipelines.streaming.backoff import Backoff
from market_pipelines.streaming.entries import GapCause
from market_pipelines.streaming.plan import Channel
from market_pipelines_tests.integration.streaming.socket_feeds import PLAN, mute_after, streaming
from market_pipelines_tests.websocket_server import KEY, QUICK, FakePolygon, Witness, bare_server, text_frame

ONE = replace(PLAN, symbols=("AAPL",))


def test_what_is_subscribed_arrives_as_it_was_sent() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness) as feed:
        witness.until(lambda: witness.told("subscribed"))
        assert polygon.subscribed() == [{f"{code}.{one}" for code in "QT" for one in PLAN.symbols}]
        polygon.emit("Q", "AAPL", bp=1.25)
        witness.until(lambda: witness.frames)
        origin, body = witness.frames[0]
        assert (origin, json.loads(body)[0]["bp"]) == ("polygon-1", 1.25)
        assert feed.subscribed("polygon-1") == PLAN.symbols
        assert [(one.state, one.symbols, one.attempts) for one in feed.connections()] == [("live", 4, 0)]


def test_a_connection_that_breaks_comes_back_and_says_what_it_missed() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness) as feed:
        witness.until(lambda: witness.told("subscribed"))
        polygon.emit("T", "AAPL")
        witness.until(lambda: witness.frames)
        last = feed.connections()[0].last_data_ns
        polygon.cut()
        witness.until(lambda: len(witness.told("subscribed")) == 2)
        assert [(origin, cause, since) for origin, cause, since, _ in witness.losses] == [
            ("polygon-1", GapCause.DISCONNECTED, last)
        ]
        assert not witness.regains, "an accepted key and subscriptions are no data yet"
        polygon.emit("T", "AAPL")
        witness.until(lambda: witness.regains)
        assert witness.regains[0][1] == feed.connections()[0].last_data_ns > last
        assert feed.connections()[0].reconnects == 1


def test_a_provider_that_closes_right_after_the_key_is_not_stormed(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: the back-off is reset by data, never by `auth_success`."""
    monkeypatch.setattr(connection, "Backoff", partial(Backoff, fraction=lambda: 1.0))
    witness = Witness()
    care = replace(QUICK, first_pause=0.05, longest_pause=0.4)
    with FakePolygon() as polygon:
        polygon.closes_after_auth = True
        with streaming(polygon.url, witness, plan=ONE, care=care) as feed:
            witness.until(lambda: len(witness.told("auth_success")) == 5)
            assert feed.connections()[0].attempts == 5
        gaps = [later - earlier for earlier, later in pairwise(polygon.arrivals)]
        for gap, pause in zip(gaps, (0.1, 0.2, 0.4, 0.4), strict=False):
            assert gap >= pause
        assert len(witness.losses) == 1, "told once until it is regained"


def test_attempts_in_a_row_end_the_feed_where_a_number_is_set() -> None:
    witness = Witness()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"ws://127.0.0.1:{taken.getsockname()[1]}/stocks"
    with streaming(address, witness, plan=replace(ONE, attempts=3)) as feed:
        witness.until(lambda: witness.failures)
        assert "3 attempts in a row brought no data" in witness.failures[0]
        assert "Connection refused" in witness.failures[0]
        assert feed.connections()[0].state == "failed"


def test_data_between_two_breaks_starts_the_count_of_attempts_anew() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=replace(ONE, attempts=2)):
        for number in range(1, 5):
            wanted = number
            witness.until(lambda: len(witness.told("subscribed")) == wanted)  # noqa: B023 (called at once)
            polygon.emit("T", "AAPL")
            witness.until(lambda: len(witness.frames) == wanted)  # noqa: B023
            polygon.cut()
        witness.until(lambda: len(witness.told("subscribed")) == 5)
        assert not witness.failures


def test_a_refused_key_ends_with_words_and_no_loop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    witness = Witness()
    with FakePolygon() as polygon:
        polygon.auth_answer = "auth_failed"
        with streaming(polygon.url, witness):
            witness.until(lambda: witness.failures)
            time.sleep(0.3)  # a loop would have come back by now
        assert len(polygon.arrivals) == 1
    assert "POLYGON_API_KEY" in witness.failures[0]
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets")]
    assert KEY not in f"{witness} {ours}", "the server of the test logs what it gets; we do not"


def test_a_channel_outside_the_plan_is_left_out_and_the_others_go_on() -> None:
    witness = Witness()
    with FakePolygon() as polygon:
        polygon.not_authorized = {"Q"}
        with streaming(polygon.url, witness):
            witness.until(lambda: witness.told("subscribed"))
            assert any("does not cover quotes" in detail for detail in witness.told("not_authorized"))
            polygon.emit("T", "IBM")
            witness.until(lambda: witness.frames)
            asked = len(polygon.asked("subscribe"))
            polygon.cut()
            witness.until(lambda: len(witness.told("subscribed")) == 2)
            assert not [one for one in polygon.asked("subscribe")[asked:] if one.startswith("Q.")]
            assert not witness.failures


def test_a_plan_without_any_of_the_channels_ends_with_words() -> None:
    witness = Witness()
    with FakePolygon() as polygon:
        polygon.not_authorized = {"Q", "T"}
        with streaming(polygon.url, witness):
            witness.until(lambda: witness.failures)
        assert "covers none of the channels" in witness.failures[0]
        assert "quotes, trades" in witness.failures[0]
        assert len(polygon.arrivals) == 1


def test_topics_without_an_answer_are_reported_and_hold_nothing_up() -> None:
    witness = Witness()
    with FakePolygon() as polygon:
        polygon.silent_topics = {"T.KO"}
        with streaming(polygon.url, witness):
            witness.until(lambda: witness.told("subscribed"))
            assert witness.told("unacknowledged") == [
                "1 of 4 topics of trades were not acknowledged within 0.3 s: T.KO"
            ]
            polygon.emit("Q", "KO")
            witness.until(lambda: witness.frames)


def test_a_slow_reader_that_is_warned_reads_on() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=ONE):
        witness.until(lambda: witness.told("subscribed"))
        polygon.say("slow_consumer", "too slow")
        witness.until(lambda: witness.told("slow_consumer"))
        polygon.emit("T", "AAPL")
        witness.until(lambda: witness.frames)
        assert not witness.losses
        polygon.cut()
        witness.until(lambda: witness.losses)
        assert witness.losses[0][1] is GapCause.SLOW_CONSUMER


def test_connected_but_mute_is_a_fault() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=ONE, mute=mute_after(0.3)):
        witness.until(lambda: witness.told("subscribed"))
        polygon.emit("T", "AAPL")
        witness.until(lambda: witness.losses)
        _, cause, _, detail = witness.losses[0]
        assert cause is GapCause.SILENT
        assert "connected but mute" in detail
        witness.until(lambda: len(polygon.arrivals) >= 2)


def test_one_mute_channel_beside_a_lively_one_is_a_fault_that_does_not_repeat_every_time() -> None:
    witness = Witness()
    quotes_mute = mute_after(0.2, Channel.QUOTES)
    over = threading.Event()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=ONE, mute=quotes_mute) as feed:

        def trade() -> None:
            while not over.wait(0.02):
                polygon.emit("T", "AAPL")

        trading = threading.Thread(target=trade)
        trading.start()
        try:
            witness.until(lambda: witness.losses)
            assert witness.losses[0][1] is GapCause.SILENT
            assert "no quotes" in witness.losses[0][3]
            witness.until(lambda: len(polygon.arrivals) == 3)
            first, second, third = polygon.arrivals
            assert third - second > second - first + 0.1, "more patience each time"
            assert not witness.regains, "trades do not make up for quotes"
            witness.until(lambda: polygon.emit("Q", "AAPL") and witness.regains)
            assert feed.connections()[0].state == "live"
        finally:
            over.set()
            trading.join()


def test_a_half_open_connection_is_noticed_by_its_pings() -> None:
    def swallow(accepted: socket.socket) -> None:
        accepted.sendall(text_frame(b'[{"ev":"T","sym":"AAPL"}]'))
        while accepted.recv(4096):
            pass

    witness = Witness()
    with bare_server(swallow) as address, streaming(address, witness, care=replace(QUICK, pong=0.2)):
        witness.until(lambda: witness.losses)
    # No greeting comes either, but that is found out later.
    assert "half-open" in witness.losses[0][3]


def test_a_reset_in_the_middle_of_a_frame_hands_nothing_broken_on() -> None:
    whole = b'[{"ev":"T","sym":"AAPL","q":1}]'

    def reset(accepted: socket.socket) -> None:
        accepted.sendall(text_frame(whole) + text_frame(b'[{"ev":"T","sym":"AAPL","q":2}]')[:-9])
        witness.until(lambda: witness.frames)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    witness = Witness()
    with bare_server(reset) as address, streaming(address, witness):
        witness.until(lambda: witness.losses)
    assert {body for _, body in witness.frames} == {whole}


def test_fragments_and_pings_between_them_make_one_frame() -> None:
    def fragments(accepted: socket.socket) -> None:
        accepted.sendall(text_frame(b'[{"ev":"T",', head=0x01))
        accepted.sendall(text_frame(b"are you there", head=0x89))
        accepted.sendall(text_frame(b'"sym":"AAPL"}]', head=0x80))
        pongs.append(accepted.recv(4096)[0])
        with contextlib.suppress(TimeoutError):
            accepted.recv(1)

    pongs: list[int] = []
    witness = Witness()
    with bare_server(fragments) as address, streaming(address, witness, care=replace(QUICK, ping=9.0)):
        witness.until(lambda: witness.frames)
        assert witness.frames[0][1] == b'[{"ev":"T","sym":"AAPL"}]'
        witness.until(lambda: pongs)
    assert pongs[0] == 0x8A


def test_pings_alone_are_no_data() -> None:
    def only_pings(accepted: socket.socket) -> None:
        for answer in (b'[{"ev":"status","status":"connected"}]', b'[{"ev":"status","status":"auth_success"}]'):
            accepted.sendall(text_frame(answer))
        while True:
            accepted.sendall(text_frame(b"", head=0x89))
            time.sleep(0.02)

    witness = Witness()
    with bare_server(only_pings) as address, streaming(address, witness, plan=ONE, mute=mute_after(0.4)) as feed:
        witness.until(lambda: witness.losses)
        assert witness.losses[0][1] is GapCause.SILENT
        assert feed.connections()[0].last_data_ns == 0


def test_a_redirect_is_not_followed_with_a_key() -> None:
    def redirect(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted:
            accepted.recv(4096)
            accepted.sendall(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    witness = Witness()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=redirect, args=(listening,))
        thread.start()
        address = f"ws://127.0.0.1:{listening.getsockname()[1]}/stocks"
        with streaming(address, witness, plan=replace(ONE, attempts=1)):
            witness.until(lambda: witness.failures)
        thread.join()
    assert "edirect" in witness.failures[0]
