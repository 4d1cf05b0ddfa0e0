"""The sink of Redis against the contract of all sinks, and what is its own."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import redis

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.settings import SettingsError, read_settings
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.plan import FeedName, StreamPlan
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.redis import RedisSink
from market_pipelines_tests.contract.streaming.chunks import JOURNAL, OPENS, chunk, joined, row_id, table
from market_pipelines_tests.contract.streaming.sink_contract import Death, Killed, SinkContract, dying_at, opened
from market_pipelines_tests.servers import RedisServer

ROWS_A_SCRIPT = 10
"""So few that every chunk of these tests goes in several pieces."""
SCRIPT = "redis.commands.core.Script.__call__"


class RedisTarget:
    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def sink(self) -> RedisSink:
        return RedisSink(self.server.url, "us-polygon", market="us", rows_a_script=ROWS_A_SCRIPT)

    def entries(self) -> list[tuple[str, dict[str, Any]]]:
        with self.server.client() as client:
            return [(entry["channel"], json.loads(entry["record"])) for _, entry in client.xrange("ticks")]

    def read_back(self) -> list[str]:
        found = []
        for channel, record in self.entries():
            kind, _, symbol = channel.partition(":")
            assert record["ticker"] == symbol
            of = TickKind.AGGREGATES if kind == "bars" else TickKind(kind)
            if "previous_close" in record:
                of = TickKind.SNAPSHOTS
            found.append(row_id(of, symbol, nanoseconds(record["timestamp"])))
        return found

    def down(self) -> AbstractContextManager[None]:
        return self.server.down()

    def refusing(self) -> RedisSink:
        return RedisSink(self.server.wrong_url, "us-polygon", market="us")

    def latest(self, symbol: str) -> dict[str, str]:
        with self.server.client() as client:
            found: dict[str, str] = client.hgetall(f"latest:{symbol}")
            return found


def nanoseconds(text: str) -> int:
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(seconds + "+00:00").timestamp()) * 1_000_000_000 + int(fraction)


class TestRedisSink(SinkContract):
    deaths: ClassVar = {
        "before the first piece": Death(SCRIPT, True),
        "between two pieces": Death(SCRIPT, False, 2),
        "before the last piece": Death(SCRIPT, True, 5),
        "after the last piece": Death(SCRIPT, False, 5),
    }

    @pytest.fixture
    def target(self, redis_server: RedisServer) -> RedisTarget:
        return RedisTarget(redis_server)


@pytest.fixture
def target(redis_server: RedisServer) -> RedisTarget:
    return RedisTarget(redis_server)


@pytest.fixture
def sink(target: RedisTarget) -> Iterator[RedisSink]:
    with opened(target.sink()) as (made, _):
        assert isinstance(made, RedisSink)
        yield made


def test_price_bands_have_a_channel_and_the_newest_is_kept(target: RedisTarget, sink: RedisSink) -> None:
    band = {"symbol": "AAPL", "ts": OPENS, "received_at": OPENS, "seq": 7, "limit_up": 105.0, "limit_down": 95.0}
    gone = {**band, "ts": OPENS + 1, "seq": 8, "limit_up": None, "marks": int(TickMark.ONE_SIDED)}
    sink.write(Chunk(JOURNAL, 0, 1, {TickKind.BANDS: table(TickKind.BANDS, [{**band, "indicators": "21"}])}))
    ((channel, record),) = target.entries()
    assert (channel, record["limit_up"], record["limit_down"], record["indicators"]) == (
        "bands:AAPL",
        105.0,
        95.0,
        "21",
    )
    sink.write(Chunk(JOURNAL, 1, 2, {TickKind.BANDS: table(TickKind.BANDS, [gone])}))
    kept = target.latest("AAPL")
    assert ("limit_up" in kept, kept["limit_down"], kept["banded_at"]) == (
        False,
        "95.0",
        "2026-03-02T14:30:00.000000001Z",
    )


def test_a_channel_tells_its_subscribers_the_record_of_the_contract(target: RedisTarget, sink: RedisSink) -> None:
    with target.server.client() as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe("quotes:AAPL", "trades:AAPL")
        heard.get_message(timeout=5)
        heard.get_message(timeout=5)
        sink.write(chunk(0, rows=1, kinds=(TickKind.QUOTES, TickKind.TRADES)))
        quote = heard.get_message(timeout=5)
        trade = heard.get_message(timeout=5)
    assert quote is not None
    assert trade is not None
    assert (quote["channel"], json.loads(quote["data"])) == (
        "quotes:AAPL",
        {
            "ticker": "AAPL",
            "timestamp": "2026-03-02T14:30:00.000000000Z",
            "bid": 99.99,
            "ask": 100.01,
            "bid_size": 100.0,
            "ask_size": 200.0,
        },
    )
    assert (trade["channel"], json.loads(trade["data"])) == (
        "trades:AAPL",
        {"ticker": "AAPL", "timestamp": "2026-03-02T14:30:00.000000000Z", "price": 100.0, "size": 100.0},
    )


def test_a_side_without_a_quote_is_null(target: RedisTarget, sink: RedisSink) -> None:
    one_sided = {"symbol": "AAPL", "ts": OPENS, "received_at": OPENS, "seq": 1, "ask": 100.0, "ask_size": 5.0}
    sink.write(_with(chunk(0), TickKind.QUOTES, [one_sided]))
    [(_, record)] = target.entries()
    assert (record["bid"], record["ask"]) == (None, 100.0)
    assert "bid" not in target.latest("AAPL")


def test_the_newest_by_time_is_the_latest_whatever_the_order(target: RedisTarget, sink: RedisSink) -> None:
    quotes = [
        {"symbol": "AAPL", "ts": OPENS + at, "received_at": OPENS, "seq": at, "bid": float(at), "ask": at + 1.0}
        for at in (1, 9, 5)
    ]
    sink.write(_with(chunk(0), TickKind.QUOTES, quotes))
    late = {"symbol": "AAPL", "ts": OPENS + 3, "received_at": OPENS, "seq": 3, "bid": 3.0, "ask": 4.0}
    sink.write(_with(chunk(1), TickKind.QUOTES, [late]))
    assert target.latest("AAPL") == {
        "bid": "9.0",
        "ask": "10.0",
        "quoted_at": "2026-03-02T14:30:00.000000009Z",
        "feed": "simulated-polygon",
        "market": "us",
    }


def test_a_namesake_of_another_market_is_found_under_its_market_and_overwrites_nobody(
    target: RedisTarget, sink: RedisSink
) -> None:
    def quote(at: int, bid: float) -> dict[str, Any]:
        return {"symbol": "ALE", "ts": OPENS + at, "received_at": OPENS, "seq": at, "bid": bid, "ask": bid + 1}

    sink.write(_with(chunk(0), TickKind.QUOTES, [quote(1, 60.0)]))
    with opened(RedisSink(target.server.url, "pl-stooq", market="pl")) as (warsaw, _):
        warsaw.write(_with(chunk(0), TickKind.QUOTES, [quote(2, 30.0)]))
    assert (target.latest("ALE")["market"], target.latest("ALE")["bid"]) == ("us", "60.0")
    sink.write(_with(chunk(1), TickKind.QUOTES, [quote(3, 61.0)]))
    found = {key: target.latest(key) for key in ("ALE", "us:ALE", "pl:ALE")}
    assert {key: (kept["market"], kept["bid"]) for key, kept in found.items()} == {
        "ALE": ("us", "61.0"),
        "us:ALE": ("us", "61.0"),
        "pl:ALE": ("pl", "30.0"),
    }
    with target.server.client() as client:
        assert [entry["market"] for _, entry in client.xrange("ticks")] == ["us", "pl", "us"]


def test_a_trade_that_makes_no_price_is_no_latest(target: RedisTarget, sink: RedisSink) -> None:
    trades = [
        {"symbol": "AAPL", "ts": OPENS, "received_at": OPENS, "seq": 1, "price": 100.0, "size": 1.0},
        {
            **{"symbol": "AAPL", "ts": OPENS + 1, "received_at": OPENS, "seq": 2, "price": 7.0, "size": 1.0},
            "marks": int(TickMark.CONDITION),
        },
    ]
    sink.write(_with(chunk(0), TickKind.TRADES, trades))
    assert target.latest("AAPL")["price"] == "100.0"
    assert len(target.entries()) == 2


def test_the_stream_is_bounded(redis_server: RedisServer) -> None:
    with opened(RedisSink(redis_server.url, "us-polygon", market="us", kept=500)) as (sink, _):
        for number in range(4):
            sink.write(chunk(number, rows=500, kinds=(TickKind.TRADES,)))
    with redis_server.client() as client:
        assert 500 <= client.xlen("ticks") <= 700


def test_killed_between_pieces_it_knows_its_rows_again_in_a_larger_chunk(target: RedisTarget) -> None:
    with opened(target.sink()) as (sink, _), dying_at(Death(SCRIPT, False, 3)), pytest.raises(Killed):
        sink.write(chunk(0))
    assert len(target.entries()) == 3 * ROWS_A_SCRIPT
    with opened(target.sink()) as (sink, cursor):
        assert cursor is None, "not one chunk is there as a whole"
        sink.write(joined(chunk(0), joined(chunk(1), chunk(2))))
    TestRedisSink().assert_holds(target, chunk(0), chunk(1), chunk(2))


def test_rows_that_the_journal_gives_otherwise_are_sent_again_rather_than_lost(target: RedisTarget) -> None:
    with opened(target.sink()) as (sink, _), dying_at(Death(SCRIPT, False, 2)), pytest.raises(Killed):
        sink.write(chunk(0))
    other = chunk(7)
    with opened(target.sink()) as (sink, _):
        sink.write(other)
    assert set(TestRedisSink().expected(other)) <= set(target.read_back())


def test_an_answer_that_got_lost_doubles_nothing(target: RedisTarget, sink: RedisSink) -> None:
    sink.write(chunk(0))
    whole = redis.commands.core.Script.__call__

    def lost(*args: Any, **kwargs: Any) -> Any:
        whole(*args, **kwargs)
        raise redis.TimeoutError("no answer")

    with patch("redis.commands.core.Script.__call__", lost), pytest.raises(SinkUnavailable, match="cannot be reached"):
        sink.write(chunk(1))
    sink.open()
    sink.write(chunk(1))
    TestRedisSink().assert_holds(target, chunk(0), chunk(1))


def test_a_server_that_lost_the_cursor_is_not_written_to_before_it_is_opened_again(
    target: RedisTarget, sink: RedisSink
) -> None:
    sink.write(chunk(0))
    with target.server.client() as client:
        client.flushdb()
    with pytest.raises(SinkUnavailable, match="no longer has the cursor"):
        sink.write(chunk(1))
    assert target.entries() == []
    assert sink.open() is None


def test_two_streams_have_cursors_of_their_own(target: RedisTarget, sink: RedisSink) -> None:
    sink.write(chunk(0))
    with opened(RedisSink(target.server.url, "pl-stooq", market="pl")) as (other, cursor):
        assert cursor is None
        other.write(chunk(1))
    assert sink.open() == Cursor(JOURNAL, chunk(0).upto)


def test_a_key_of_another_kind_is_refused(target: RedisTarget, sink: RedisSink) -> None:
    with target.server.client() as client:
        client.set("ticks", "mine")
    with pytest.raises(SinkRefused, match="WRONGTYPE"):
        sink.write(chunk(0))


def test_without_the_package_it_says_what_to_install() -> None:
    settings = read_settings(None, redis_url="redis://127.0.0.1:1/0")
    sink = RedisSink.from_settings(settings, StreamPlan("us", FeedName.POLYGON, ("AAPL",)))
    with (
        patch.dict(sys.modules, {"redis": None}),
        closing(sink),
        pytest.raises(SinkRefused, match=r"pip install 'market_pipelines\[redis\]'"),
    ):
        sink.open()


def test_no_message_has_the_password(target: RedisTarget) -> None:
    sink = target.sink()
    with closing(sink), target.down(), pytest.raises(SinkUnavailable) as said:
        sink.open()
    assert target.server.password not in str(said.value)


def _with(given: Chunk, kind: TickKind, rows: Sequence[dict[str, Any]]) -> Chunk:
    return replace(given, tables={kind: table(kind, rows)})


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"-MOVED 3999 127.0.0.1:6381", SinkRefused, "is a cluster"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot", SinkRefused, "is a cluster"),
        (b"-ERR The user executing the script can't run this command or subcommand", SinkRefused, "does not take this"),
        (b"-READONLY You can't write against a read only replica.", SinkUnavailable, "read only replica"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.", SinkUnavailable, "maxmemory"),
        (b"$3\r\n\xff\xfe\xfd", SinkRefused, "is no cursor"),
        (b"HTTP/1.1 400 Bad Request", SinkUnavailable, "Protocol Error"),
    ],
)
def test_what_passes_by_itself_is_waited_for_and_the_rest_is_for_a_person(
    answer: bytes, kind: type[Exception], said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                while client.recv(65_536):
                    client.sendall(answer + b"\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"redis://:geheimnis-9@127.0.0.1:{server.getsockname()[1]}/0"
        with closing(RedisSink(url, "us-polygon", market="us")) as sink, pytest.raises(kind, match=said) as told:
            sink.open()
        thread.join()
    assert "geheimnis-9" not in str(told.value)


def test_an_option_in_the_address_that_nobody_understands_is_refused() -> None:
    with pytest.raises(SinkRefused, match=r"REDIS_URL \(127.0.0.1:1/0\) is not understood"):
        RedisSink("redis://127.0.0.1:1/0?socket_timeout=soon", "us-polygon", market="us").open()


@pytest.mark.parametrize("port", ["99999", "abc", "0"])
def test_an_address_with_a_port_that_is_none_is_refused_when_settings_are_read(port: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL"):
        read_settings(redis_url=f"redis://127.0.0.1:{port}/0")
