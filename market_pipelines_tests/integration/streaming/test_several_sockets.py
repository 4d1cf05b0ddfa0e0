"""Feeds of several sockets: too many of them, other symbols on the way, and the hours in which they connect."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from market_pipelines.streaming.feeds import sockets
from market_pipelines.streaming.feeds.allotment import allot
from market_pipelines.streaming.feeds.sockets import Resolved
from market_pipelines.streaming.feeds.yahoo import YahooDialogue
from market_pipelines_tests.integration.streaming import socket_feeds
from market_pipelines_tests.integration.streaming.socket_feeds import PLAN, AsTheyAre, streaming
from market_pipelines_tests.websocket_server import QUICK, FakePolygon, Witness, bare_server, eventually, text_frame

EIGHT = ("AAPL", "MSFT", "IBM", "KO", "PEP", "XOM", "JPM", "V")
FOUR_SOCKETS = replace(PLAN, symbols=EIGHT, symbols_per_connection=2, max_connections=4)
ALL_TOPICS = {f"{code}.{one}" for code in "QT" for one in EIGHT}


def test_symbols_are_dealt_to_as_many_sockets_as_the_plan_allows() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=FOUR_SOCKETS) as feed:
        witness.until(lambda: len(witness.told("subscribed")) == 4)
        assert [len(topics) for topics in polygon.subscribed()] == [4, 4, 4, 4]
        assert set().union(*polygon.subscribed()) == ALL_TOPICS
        carried = [feed.subscribed(f"polygon-{number}") or () for number in range(1, 5)]
        assert sorted(symbol for part in carried for symbol in part) == sorted(EIGHT)


@pytest.mark.parametrize("evicts_the_older", [False, True], ids=["newcomer refused", "older evicted"])
@pytest.mark.parametrize("most", [1, 2])
def test_too_many_sockets_are_folded_into_fewer_and_the_stream_goes_on(evicts_the_older: bool, most: int) -> None:
    witness = Witness()
    with FakePolygon() as polygon:
        polygon.most, polygon.evicts_the_older = most, evicts_the_older
        with streaming(polygon.url, witness, plan=FOUR_SOCKETS) as feed:
            witness.until(lambda: witness.told("folded"))
            eventually(lambda: sum(map(len, polygon.subscribed())) == len(ALL_TOPICS))
            assert set().union(*polygon.subscribed()) == ALL_TOPICS
            assert len(polygon.subscribed()) == most
            arrivals = len(polygon.arrivals)
            assert arrivals <= 4
            lost = {origin for origin, *_ in witness.losses}
            assert lost, "what the refused socket carried was missing for a moment"
            witness.until(lambda: all(polygon.emit("T", one) == 1 for one in EIGHT))
            witness.until(lambda: {origin for origin, _ in witness.regains} == lost)
            assert len(witness.regains) == len(lost)
            time.sleep(0.5)  # sockets that evict each other in turns would show now
            assert len(polygon.arrivals) == arrivals
            assert not witness.failures
            assert [one.state for one in feed.connections()] == ["live"] * most


def test_the_only_socket_backs_off_for_long_when_somebody_else_has_the_key() -> None:
    witness = Witness()
    care = replace(QUICK, crowded_first=0.4, crowded_longest=1.0)
    with FakePolygon() as polygon:
        polygon.most = 0
        with streaming(polygon.url, witness, care=care) as feed:
            witness.until(lambda: len(witness.told("crowded")) == 2)
            first, second = polygon.arrivals[:2]
            assert second - first >= 0.4
            assert "another connection with this key is open" in witness.told("crowded")[0]
            assert feed.connections()[0].state == "waiting"
            assert not witness.failures
            polygon.most = 1
            witness.until(lambda: witness.told("subscribed"))
            witness.until(lambda: polygon.emit("T", "AAPL") and witness.regains)


def test_other_symbols_change_only_what_differs() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness) as feed:
        witness.until(lambda: witness.told("subscribed"))
        before = len(polygon.asked("subscribe"))
        feed.follow(("AAPL", "MSFT", "IBM", "NVDA"))
        witness.until(lambda: len(witness.told("subscribed")) == 2)
        assert sorted(polygon.asked("subscribe")[before:]) == ["Q.NVDA", "T.NVDA"]
        assert sorted(polygon.asked("unsubscribe")) == ["Q.KO", "T.KO"]
        assert feed.subscribed("polygon-1") == ("AAPL", "MSFT", "IBM", "NVDA")
        assert len(polygon.arrivals) == 1
        assert not witness.losses


def test_more_symbols_open_a_socket_and_fewer_close_one_without_touching_the_others() -> None:
    witness = Witness()
    plan = replace(FOUR_SOCKETS, symbols=EIGHT[:2])
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=plan) as feed:
        witness.until(lambda: witness.told("subscribed"))
        feed.follow(EIGHT[:4])
        witness.until(lambda: len(witness.told("subscribed")) == 2)
        assert [one.symbols for one in feed.connections()] == [2, 2]
        feed.follow(EIGHT[2:4])
        eventually(lambda: len(polygon.subscribed()) == 1)
        assert polygon.subscribed() == [{"Q.IBM", "T.IBM", "Q.KO", "T.KO"}]
        assert len(polygon.arrivals) == 2
        assert not witness.losses


def test_outside_the_market_hours_a_plan_that_keeps_them_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_feeds, "NOON", datetime(2026, 11, 21, 17, 0, tzinfo=UTC))
    witness = Witness()
    with (
        FakePolygon() as polygon,
        streaming(polygon.url, witness, plan=replace(PLAN, market_hours=True)) as feed,
    ):
        witness.until(lambda: witness.told("closed"))
        assert "2026-11-23 08:58 UTC" in witness.told("closed")[0]
        assert [one.state for one in feed.connections()] == ["closed"]
        monkeypatch.setattr(socket_feeds, "NOON", datetime(2026, 11, 23, 9, 0, tzinfo=UTC))
        witness.until(lambda: witness.told("subscribed"))
        monkeypatch.setattr(socket_feeds, "NOON", datetime(2026, 11, 24, 1, 11, tzinfo=UTC))
        witness.until(lambda: len(witness.told("closed")) == 2)
        eventually(lambda: not polygon.subscribed())
        assert not witness.losses, "nothing is missing when the exchange is closed"


def test_what_was_dealt_is_not_dealt_again_with_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt: list[int] = []

    def counted(*told: Any, **named: Any) -> tuple[tuple[str, ...], ...]:
        dealt.append(named["most"])
        return allot(*told, **named)

    monkeypatch.setattr(sockets, "allot", counted)
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=FOUR_SOCKETS) as feed:
        witness.until(lambda: len(witness.told("subscribed")) == 4)
        looked: list[None] = []
        monkeypatch.setattr(feed, "_open_next", lambda: looked.append(None))
        feed.changed()
        eventually(lambda: looked)
        assert dealt == [4]


class Expiring(AsTheyAre):
    """Symbols that there are on some days only, as contracts of the day are."""

    there = True
    looked_at = True

    def resolve(self, symbols: Sequence[str]) -> Resolved:
        self.looked_at = self.there
        return super().resolve(symbols) if self.there else Resolved((), refused="nothing expires on a Saturday")

    def stale(self, _now: datetime, /) -> bool:
        return self.there != self.looked_at


def test_a_day_without_contracts_is_waited_out() -> None:
    witness, resolver = Witness(), Expiring(PLAN.channels)
    with FakePolygon() as polygon, streaming(polygon.url, witness, resolver=resolver) as feed:
        witness.until(lambda: witness.told("subscribed"))
        resolver.there = False
        feed.changed()
        eventually(lambda: not polygon.subscribed())
        assert [(one.state, one.detail) for one in feed.connections()] == [("closed", "nothing expires on a Saturday")]
        resolver.there = True
        feed.changed()
        witness.until(lambda: len(witness.told("subscribed")) == 2)
        assert not witness.failures
        assert not witness.losses, "nothing is missing while there is nothing"


def test_a_stop_is_heeded_at_once() -> None:
    witness = Witness()
    with FakePolygon() as polygon, streaming(polygon.url, witness, plan=FOUR_SOCKETS) as feed:
        witness.until(lambda: len(witness.told("subscribed")) == 4)
        begun = time.monotonic()
        feed.stop(5.0)
        assert time.monotonic() - begun < 0.5
        assert not witness.losses


def test_what_was_sent_before_the_stop_is_handed_on() -> None:
    def burst(accepted: socket.socket) -> None:
        for answer in (b'[{"ev":"status","status":"connected"}]', b'[{"ev":"status","status":"auth_success"}]'):
            accepted.sendall(text_frame(answer))
        accepted.settimeout(0.001)
        while True:
            accepted.sendall(text_frame(b'[{"ev":"T","sym":"AAPL","q":%d}]' % next(numbers)))
            with contextlib.suppress(TimeoutError):
                if 0x88 in accepted.recv(4096)[:1]:
                    accepted.sendall(text_frame(b"", head=0x88))
                    return

    numbers = count(1)
    witness = Witness()
    with bare_server(burst) as address, streaming(address, witness) as feed:
        witness.until(lambda: len(witness.frames) > 20)
        feed.stop(2.0)
    assert len(witness.frames) == next(numbers) - 1


def test_yahoos_list_is_sent_again_and_again() -> None:
    spoken = YahooDialogue(heartbeat=15.0)
    spoken.want(dict.fromkeys(PLAN.channels, ("AAPL", "BTC-USD")))
    assert spoken.opened(0.0).say == ('{"subscribe": ["AAPL", "BTC-USD"]}',)
    assert spoken.settled
    assert spoken.due(14.9).say == ()
    assert spoken.due(15.0).say == ('{"subscribe": ["AAPL", "BTC-USD"]}',)
    spoken.want(dict.fromkeys(PLAN.channels, ("AAPL",)))
    assert not spoken.settled
    assert spoken.due(16.0).say == ('{"unsubscribe": ["BTC-USD"]}', '{"subscribe": ["AAPL"]}')
