"""Frames out of bytes, however the bytes are cut on their way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
import websocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.streaming.frame_reader import Closed, FrameReader
from market_pipelines_tests.websocket_server import text_frame

IN_FLIGHT = 60_000
"""Bytes that are sent before they are read: what the kernel holds of a connection ends somewhere above."""


class Pair:
    """Both ends of a connection whose handshake is over."""

    def __init__(self) -> None:
        self.server, client = socket.socketpair()
        self.client = websocket.WebSocket(enable_multithread=False)
        self.client.sock = client
        client.settimeout(0.5)
        self.server.settimeout(5)

    def close(self) -> None:
        self.server.close()
        if self.client.sock is not None:
            self.client.sock.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def read_all(reader: FrameReader, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count and reader.closed is None:
        found += reader.read()
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.sampled_from([0, 1, 125, 126, 127, 300, 65_535, 65_536]), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 200_000), max_size=12),
    pings=st.booleans(),
)
def test_any_cutting_of_the_bytes_gives_the_same_messages(sizes: list[int], cuts: list[int], pings: bool) -> None:
    messages = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    ping = text_frame(b"!", head=0x89) if pings else b""
    stream = b"".join(ping + text_frame(message) for message in messages)
    edges = sorted({*range(0, len(stream), IN_FLIGHT), len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    made = Pair()
    try:
        reader = FrameReader(made.client)
        found: list[bytes] = []
        for start, stop in pairwise(edges):
            made.server.sendall(stream[start:stop])
            taken = 0
            while taken < stop - start:
                before = reader.received
                found += reader.read()
                taken += reader.received - before
        assert found == messages
    finally:
        made.close()


def test_fragments_are_put_together_around_a_ping(pair: Pair) -> None:
    pair.server.sendall(
        text_frame(b"one ", head=0x01)
        + text_frame(b"?", head=0x89)
        + text_frame(b"two ", head=0x00)
        + text_frame(b"three", head=0x80)
    )
    assert read_all(FrameReader(pair.client), 1) == [b"one two three"]
    assert pair.server.recv(100)[0] == 0x8A


def test_what_came_before_the_closing_frame_is_kept(pair: Pair) -> None:
    pair.server.sendall(text_frame(b"last") + text_frame(b"\x03\xf0max connections", head=0x88) + text_frame(b"never"))
    reader = FrameReader(pair.client)
    assert read_all(reader, 2) == [b"last"]
    assert reader.closed == Closed(1008, "max connections")
    assert str(reader.closed) == "closed by the server (1008: max connections)"


def test_an_end_without_a_closing_frame_is_said(pair: Pair) -> None:
    pair.server.sendall(text_frame(b"half of this")[:5])
    pair.server.close()
    reader = FrameReader(pair.client)
    assert reader.read() == []
    with pytest.raises(websocket.WebSocketConnectionClosedException, match="without a closing frame"):
        reader.read()


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"\xc1\x01a", "extension"),
        (b"\x81\x81\0\0\0\0a", "masked"),
        (b"\x81\xfe\0\x01\0\0\0\0a", "masked"),
        (b"\x80\x01a", "out of place"),
        (b"\x01\x01a\x81\x01b", "out of place"),
        (b"\x09\x01a", "control frame"),
        (b"\x83\x01a", "unknown opcode"),
        (b"\x88\x01a", "closing frame of one byte"),
        (b"\x81\x7f\0\0\0\x01\0\0\0\0", "refused"),
    ],
)
def test_what_the_protocol_forbids_is_refused(pair: Pair, wire: bytes, words: str) -> None:
    pair.server.sendall(wire)
    with pytest.raises(websocket.WebSocketProtocolException, match=words):
        FrameReader(pair.client).read()


def test_a_message_in_endless_fragments_is_refused(pair: Pair) -> None:
    reader = FrameReader(pair.client, largest=100)
    pair.server.sendall(text_frame(b"a" * 60, head=0x01) + text_frame(b"a" * 60, head=0x00))
    with pytest.raises(websocket.WebSocketProtocolException, match="more than 100 bytes"):
        reader.read()


def test_silence_is_a_timeout_and_costs_nothing(pair: Pair) -> None:
    assert pair.client.sock is not None
    pair.client.sock.settimeout(0.01)
    reader = FrameReader(pair.client)
    pair.server.sendall(text_frame(b"whole")[:3])
    assert reader.read() == []
    with pytest.raises(TimeoutError):
        reader.read()
    pair.server.sendall(text_frame(b"whole")[3:])
    assert reader.read() == [b"whole"]
