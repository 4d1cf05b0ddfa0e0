"""Yahoo's streamer as the simulator speaks it, read with a decoder of its own."""

import base64
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.integration.stream_client import Client, waited_for

START = datetime(2026, 11, 19, 15, 0, tzinfo=UTC)
TEXTS, FLOATS = {1, 4, 5, 13}, {2, 8, 10, 11, 12, 15, 16}
SIGNED = {3, 9, 22, 27}


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def fields(message: str) -> dict[int, Any]:
    data, at = base64.b64decode(message), 0
    found: dict[int, Any] = {}
    while at < len(data):
        tag, at = varint(data, at)
        number = tag >> 3
        if number in TEXTS:
            length, at = varint(data, at)
            found[number], at = data[at : at + length].decode(), at + length
        elif number in FLOATS:
            found[number], at = struct.unpack("<f", data[at : at + 4])[0], at + 4
        else:
            value, at = varint(data, at)
            found[number] = (value >> 1) ^ -(value & 1) if number in SIGNED else value
    return found


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=START) as running:
        yield running


def test_a_quote_goes_out_with_every_trade(simulator: Simulator) -> None:
    with Client(simulator, "/yahoo/streamer?version=2") as client, Client(simulator) as tape:
        tape.authenticated().subscribed("T.AAPL")
        client.socket.send(json.dumps({"subscribe": ["AAPL", "PKO.WA", "NOSUCH"]}))
        waited_for(lambda: simulator.streams[0].path == "yahoo/streamer")
        waited_for(lambda: bool(simulator._hub.state()[0]["subscriptions"]))
        simulator.clock.set(START + timedelta(minutes=1))
        client.until(lambda: len(client.frames) >= 2)
        tape.until_quiet()
        told = [json.loads(frame) for frame in client.frames]
        assert {one["type"] for one in told} == {"pricing"}
        quotes = {row[1]: row for row in (fields(one["message"]) for one in told)}
        apple, last = quotes["AAPL"], tape.of("T")[-1]
        assert apple[2] == struct.unpack("<f", struct.pack("<f", last["p"]))[0]
        assert (apple[3], apple[4], apple[6], apple[7]) == (last["t"], "USD", 8, 1)
        assert apple[12] == pytest.approx(apple[2] - apple[16], abs=1e-3)
        assert apple[11] <= apple[2] <= apple[10] and apple[9] > 0
        assert quotes["PKO.WA"][4] == "PLN"
        assert set(quotes) == {"AAPL", "PKO.WA"}
        assert [one.symbol for one in simulator.streams[0].sent] == [fields(one["message"])[1] for one in told]


def test_an_older_client_gets_the_bare_message(simulator: Simulator) -> None:
    with Client(simulator, "/yahoo/streamer") as client:
        client.socket.send(json.dumps({"subscribe": ["AAPL"]}))
        waited_for(lambda: bool(simulator._hub.state()[0]["subscriptions"]))
        simulator.clock.set(START + timedelta(minutes=1))
        client.until(lambda: bool(client.frames))
        assert fields(client.frames[0])[1] == "AAPL"
        client.socket.send(json.dumps({"unsubscribe": ["AAPL"]}))
        waited_for(lambda: not simulator._hub.state()[0]["subscriptions"])


def test_its_socket_fails_as_well(simulator: Simulator) -> None:
    simulator.faults.add("yahoo.ws_close_after=1#1")
    with Client(simulator, "/yahoo/streamer?version=2") as client:
        client.socket.send(json.dumps({"subscribe": ["AAPL", "MSFT"]}))
        waited_for(lambda: bool(simulator._hub.state()[0]["subscriptions"]))
        simulator.clock.set(START + timedelta(minutes=1))
        assert client.to_the_end() == "closed 1001"
        assert len(client.frames) == 1
