"""Requests and statuses of Polygon's stream."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.providers.polygon import wire
from market_pipelines.providers.polygon.wire import Said

TOPICS = st.lists(st.from_regex(r"(T|Q|AM)\.[A-Z]{1,20}", fullmatch=True), max_size=60)


def one(status: str, message: str = "") -> wire.Status:
    frame = json.dumps([{"ev": "status", "status": status, "message": message}]).encode()
    return wire.statuses(frame).found[0]


def test_requests_are_what_the_provider_documents() -> None:
    assert json.loads(wire.auth("KEY")) == {"action": "auth", "params": "KEY"}
    assert json.loads(wire.subscribe(["T.AAPL", "AM.*"])) == {"action": "subscribe", "params": "T.AAPL,AM.*"}
    assert json.loads(wire.unsubscribe(["Q.MSFT"])) == {"action": "unsubscribe", "params": "Q.MSFT"}


@given(TOPICS, st.integers(1, 120))
def test_chunks_hold_every_topic_once_in_order_and_are_no_longer_than_allowed(topics: list[str], longest: int) -> None:
    parts = wire.chunks(topics, longest)
    assert [topic for part in parts for topic in part] == topics
    assert all(part for part in parts)
    assert all(len(",".join(part)) <= longest or len(part) == 1 for part in parts)
    for part, following in pairwise(parts):
        assert len(",".join((*part, following[0]))) > longest, "nothing is cut that would have fitted"


@pytest.mark.parametrize("status", sorted(set(Said) - {Said.NOT_AUTHORIZED, Said.NO_WEBSOCKET}))
def test_every_documented_status_is_known(status: str) -> None:
    assert one(status).said == status


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        ("error", "not authorized", Said.NOT_AUTHORIZED),
        ("error", "Not authorized to subscribe to: Q.AAPL", Said.NOT_AUTHORIZED),
        ("error", "You don't have access to real-time data.", Said.NOT_AUTHORIZED),
        ("auth_failed", "Your plan doesn't include websocket access. Visit …", Said.NO_WEBSOCKET),
        ("error", "Your plan doesn't include websocket access.", Said.NO_WEBSOCKET),
        ("error", "invalid message", Said.ERROR),
        ("brand_new", "whatever", Said.UNKNOWN),
    ],
)
def test_errors_are_told_apart_by_their_words(status: str, message: str, said: Said) -> None:
    assert one(status, message).said is said


def test_the_topics_that_a_message_names_are_found() -> None:
    assert one("success", "subscribed to: T.BRK.B").topics == ("T.BRK.B",)
    assert one("success", "subscribed to: Q.O:SPY241220P00720000,AM.*").topics == ("Q.O:SPY241220P00720000", "AM.*")
    assert one("connected", "Connected Successfully.").topics == ()


def test_statuses_and_data_may_share_a_frame() -> None:
    mixed = b'[{"ev":"T","sym":"AAPL","p":1.5,"q":9},{"ev":"status","status":"slow_consumer","message":"m"}]'
    read = wire.statuses(mixed)
    assert [status.said for status in read.found] == [Said.SLOW_CONSUMER]
    assert read.data
    assert not wire.statuses(b'[{"ev":"status","status":"success"}]').data


NESTED = b'[{"x":%b%b,"ev":"status","status":"success"}]' % (b"[" * 100_000, b"]" * 100_000)


@pytest.mark.parametrize(
    "frame", [b'{"status"', b'["status"]', b"\xff\xfe", b'[{"ev":"status","status":7}]', b"[]", NESTED]
)
def test_what_is_no_status_is_left_to_the_decoder(frame: bytes) -> None:
    read = wire.statuses(frame)
    assert read.found == ()
    assert read.data is (frame != b"[]")


def test_a_channel_is_known_by_its_topic() -> None:
    assert [wire.channel_of(wire.topic(channel, "X")) for channel in wire.CODES] == list(wire.CODES)
    with pytest.raises(ValueError, match="XT"):
        wire.channel_of("XT.BTC-USD")
