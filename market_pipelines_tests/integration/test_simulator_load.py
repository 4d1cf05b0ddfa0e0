"""The load generator: what it says it sent is what a reader has, every number once."""

import json
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from typing import Any

import pytest
import requests
import websocket

from market_pipelines.simulator.load import FIRST_SEQ
from market_pipelines.simulator.load_server import LoadPlan, LoadServer, load_symbols

Numbers = dict[tuple[str, str], list[int]]


class Reader:
    def __init__(self, url: str, channels: str = "T.*,Q.*") -> None:
        self.socket = websocket.create_connection(f"{url}/stocks", timeout=10)
        self.statuses: list[str] = []
        self.numbers: Numbers = defaultdict(list)
        self.sizes: list[int] = []
        self.total = 0
        for action, params in (("auth", "a key"), ("subscribe", channels)):
            self.socket.send(json.dumps({"action": action, "params": params}))

    def read(self, events: int) -> "Reader":
        while self.total < events:
            told: list[dict[str, Any]] = json.loads(self.socket.recv())
            rows = [one for one in told if one["ev"] != "status"]
            self.statuses += [one["status"] for one in told if one["ev"] == "status"]
            self.sizes += [len(rows)] if rows else []
            self.total += len(rows)
            for row in rows:
                assert row["ev"] == "Q" or row["i"] == str(row["q"])
                self.numbers[row["sym"], row["ev"]].append(row["q"])
        return self

    def hang_up(self) -> None:
        assert self.socket.sock is not None
        self.socket.sock.close()


def told(server: LoadServer) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        report: dict[str, Any] = session.get(f"{server.url}/control/load", timeout=10).json()
        return report


@pytest.mark.parametrize(("per_frame", "symbols"), [(1, 3), (5, 10), (50, 7)])
def test_every_number_comes_once_and_in_order(per_frame: int, symbols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that the frames are used again and again.
    monkeypatch.setattr("market_pipelines.simulator.load.BLOCK_EVENTS", 1000)
    wanted = 6_007
    plan = LoadPlan(None, per_frame, symbols, wanted)
    with LoadServer(plan) as server:
        reader = Reader(server.socket_url).read(wanted)
        assert server.finished.wait(10)
        report = told(server)
        reader.socket.settimeout(0.2)
        with pytest.raises(websocket.WebSocketTimeoutException):
            reader.socket.recv()
        reader.socket.close()
    assert reader.statuses == ["connected", "auth_success", "success", "success"]
    assert report["events"] == reader.total == wanted
    assert set(reader.sizes[:-1]) == {per_frame}
    assert set(report["symbols"]) == set(load_symbols(symbols))
    for symbol, topics in report["symbols"].items():
        for kind, numbers in topics.items():
            assert numbers["first"] == FIRST_SEQ
            assert numbers["last"] - numbers["first"] + 1 == numbers["count"]
            assert reader.numbers[symbol, kind] == list(range(numbers["first"], numbers["last"] + 1))
    trades = sum(topics["T"]["count"] for topics in report["symbols"].values())
    assert trades == pytest.approx(wanted / 5, abs=per_frame)


def test_named_symbols_and_one_topic_are_served_too() -> None:
    with LoadServer(LoadPlan(None, 10, 100, 1000)) as server:
        reader = Reader(server.socket_url, "T.AAPL,T.BRK.B,AM.AAPL").read(1000)
        reader.socket.close()
    assert {key: len(numbers) for key, numbers in reader.numbers.items()} == {("AAPL", "T"): 500, ("BRK.B", "T"): 500}


def test_who_comes_again_goes_on_where_it_ended() -> None:
    with LoadServer(LoadPlan(50_000, 5, 4)) as server:
        first = Reader(server.socket_url).read(500)
        first.hang_up()
        second = Reader(server.socket_url).read(500)
        second.socket.close()
    for key, numbers in second.numbers.items():
        assert numbers[0] > first.numbers[key][-1]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_rate_is_kept_and_pings_are_answered() -> None:
    with LoadServer(LoadPlan(20_000, 50, 10, seconds=0.5)) as server:
        reader = Reader(server.socket_url).read(1000)
        reader.socket.ping("?")
        seen = []
        while websocket.ABNF.OPCODE_PONG not in seen:
            seen.append(reader.socket.recv_data(control_frame=True)[0])
        assert server.finished.wait(10)
        assert told(server)["events"] == pytest.approx(10_000, rel=0.2)
        reader.socket.close()


def test_nothing_is_left_after_the_end() -> None:
    with LoadServer(LoadPlan()) as server:
        reader = Reader(server.socket_url).read(1000)
    assert [one.name for one in threading.enumerate() if "load" in one.name] == []
    reader.hang_up()


def test_as_a_program_it_says_where_it_is_and_what_it_sent() -> None:
    command = [sys.executable, "-m", "market_pipelines.cli", "simulate", "--port", "0", "--load", "max"]
    options = ["--events", "5000", "--events-per-frame", "5", "--symbols-in-load", "2"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reader = Reader(json.loads(process.stdout.readline())["polygon_ws_url"]).read(5000)
        reader.socket.close()
        process.send_signal(signal.SIGTERM)
        report = json.loads(process.stdout.readline())
        assert process.wait(10) == 0
    assert (report["events"], report["frames"]) == (5000, 1000)
    assert report["symbols"]["INV0001"]["Q"] == {"first": FIRST_SEQ, "last": FIRST_SEQ + 1999, "count": 2000}
