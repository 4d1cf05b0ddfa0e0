"""Yahoo's streamer: protobuf in base64 in JSON."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_pipelines.market.columns import instants
from market_pipelines.market.live import SNAPSHOTS, TickMark
from market_pipelines.providers.yahoo import streamer
from market_pipelines.providers.yahoo.streamer import Pushed, read_frames, shortest

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "yahoo"
NOW = 1_795_271_400_123_456_789
NOW_MS = NOW // 1_000_000


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def text(number: int, value: str) -> bytes:
    return varint(number << 3 | 2) + varint(len(value.encode())) + value.encode()


def single(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def signed(number: int, value: int) -> bytes:
    return varint(number << 3) + varint((value << 1 ^ value >> 63) & 0xFFFFFFFFFFFFFFFF)


AAPL = text(1, "AAPL") + single(2, 172.49) + signed(3, NOW_MS)
UNKNOWN = varint(6 << 3) + varint(8) + varint(32 << 3 | 1) + struct.pack("<d", 1e12) + text(99, "new")


def frame(message: bytes) -> bytes:
    return json.dumps({"type": "pricing", "message": base64.b64encode(message).decode()}).encode()


def read(*bodies: bytes, **more: Any) -> Pushed:
    count = len(bodies)
    return read_frames(bodies, np.full(count, NOW), np.arange(7, 7 + count), feed="yahoo", **more)


def row(message: bytes, **more: Any) -> dict[str, Any]:
    found = read(frame(message), **more)
    assert found.unread == ()
    assert found.snapshots.schema == SNAPSHOTS
    (one,) = found.snapshots.drop_columns(["ts"]).to_pylist()
    return {**one, "ts": instants(found.snapshots["ts"]).item()}


def test_a_price() -> None:
    message = AAPL + text(4, "USD") + signed(9, 51_234_567) + single(10, 173.5) + single(11, 170.25) + UNKNOWN
    message += single(15, 171.1) + single(16, 170.9) + single(23, 172.48) + single(25, 172.5)
    found = row(message + signed(24, 300) + signed(26, 100))
    assert {name: value for name, value in found.items() if name != "received_at"} == {
        "symbol": "AAPL", "ts": NOW_MS * 1_000_000, "price": 172.49, "bid": 172.48, "ask": 172.5, "bid_size": 300.0,
        "ask_size": 100.0, "open": 171.1, "high": 173.5, "low": 170.25, "previous_close": 170.9,
        "volume": 51_234_567.0, "currency": "USD", "feed": "yahoo", "marks": 0,
    }  # fmt: skip


def test_what_is_left_out_is_missing_and_not_zero() -> None:
    found = row(text(1, "EURUSD=X") + single(2, 1.0851))
    assert found["ts"] == NOW, "then it speaks of the moment of its arrival"
    assert {name for name, value in found.items() if value is None} == {
        "bid", "ask", "bid_size", "ask_size", "open", "high", "low", "previous_close", "volume",
    }  # fmt: skip
    assert row(AAPL + single(23, 0.0) + single(25, 172.5))["marks"] == TickMark.ONE_SIDED


def test_symbols_are_spelled_as_the_house_does() -> None:
    assert row(text(1, "PKO.WA") + single(2, 60.5), symbols={"PKO.WA": "PKO"})["symbol"] == "PKO"


@pytest.mark.parametrize("price", [94745.08, 0.1234, 10.1234, 1.08512, 5031.25, 131072.02, 0.00001234, 4.0])
def test_a_price_of_four_bytes_is_the_decimal_that_it_was(price: float) -> None:
    assert row(text(1, "X") + single(2, price))["price"] == price
    assert shortest(struct.unpack("<f", struct.pack("<f", price))[0]) == price


def test_bare_base64_is_read_and_other_types_of_frames_are_counted() -> None:
    found = read(base64.b64encode(AAPL), b'{"type":"heartbeat"}', frame(AAPL))
    assert (len(found.snapshots), found.passed_over, found.unread) == (2, 1, ())


@pytest.mark.parametrize(
    "broken",
    [
        b"", b"{", b"[]", b'{"type":"pricing"}', b'{"type":"pricing","message":5}', b'{"type":"pricing","message":"%"}',
        b'{"x":' + b"[" * 100_000, b"\xff\xfe", frame(AAPL[:-1]), frame(AAPL + b"\xff" * 12), frame(b"\x00\x00"),
        frame(text(1, "AAPL")), frame(single(2, 1.0)), frame(AAPL + single(23, float("nan"))), frame(signed(2, 5)),
        frame(text(1, "AAPL") + single(2, float("inf"))), frame(AAPL + signed(3, -5)), frame(AAPL + signed(3, 2**62)),
        frame(AAPL + varint(5 << 3 | 3)), frame(varint(1 << 3 | 2) + varint(2) + b"\xff\xfe" + single(2, 1.0)),
        frame(AAPL + varint(13 << 3 | 2) + varint(2**40)),
    ],
)  # fmt: skip
def test_a_broken_frame_is_kept_aside_and_the_others_stay(broken: bytes) -> None:
    found = read(frame(AAPL), broken, frame(AAPL))
    assert len(found.snapshots) == 2
    assert [(one.position, one.received_ns) for one in found.unread] == [(8, NOW)]
    assert found.unread[0].reason


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_any_bytes_at_all_are_read_or_kept_aside(messages: list[bytes], wrapped: bool) -> None:
    bodies = [frame(message) if wrapped else message for message in messages]
    found = read(*bodies, frame(AAPL))
    assert len(found.snapshots) + len(found.unread) + found.passed_over == len(messages) + 1


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_decimal_is_the_same_four_bytes(value: float) -> None:
    assert struct.pack("<f", shortest(value)) == struct.pack("<f", value)


def test_the_recorded_message() -> None:
    path = RECORDED / "ws_pricingdata_btcusd.b64"
    if not path.is_file():
        pytest.skip(f"{path} is not there: recordings are not part of a clone")
    message = base64.b64decode(path.read_bytes())
    found = row(message)
    assert (found["symbol"], found["price"], found["ts"], found["currency"]) == (
        "BTC-USD",
        94745.08,
        1_736_509_140_000_000_000,
        "USD",
    )
    assert streamer.pricing(message)[streamer.DAY_VOLUME] == 59_712_028_672
