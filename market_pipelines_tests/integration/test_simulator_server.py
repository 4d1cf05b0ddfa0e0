"""The simulator over real sockets: how answers travel, how it starts and how it ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from market_pipelines.simulator.server import Simulator, SimulatorError

NOW = datetime(2025, 6, 12, 22, 0, tzinfo=UTC)
CHART = "/yahoo/v8/finance/chart/AAPL?interval=1d&range=1mo"
WORKS = "/stooq/q/d/l/?s=aapl.us&i=d"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=NOW) as running:
        yield running


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("simulator")]


def test_all_providers_answer_below_one_address(simulator: Simulator, client: requests.Session) -> None:
    addresses = simulator.base_urls()
    names = ("ALPHA_VANTAGE", "YAHOO", "POLYGON", "IEX_CLOUD", "STOOQ")
    assert set(addresses) == {*(f"{name}_BASE_URL" for name in names), "POLYGON_WS_URL", "YAHOO_WS_URL"}
    daily = {"function": "TIME_SERIES_DAILY", "symbol": "AAPL", "apikey": "simulated"}
    answers = [
        client.get(f"{addresses['ALPHA_VANTAGE_BASE_URL']}/query", params=daily, timeout=10),
        client.get(f"{addresses['YAHOO_BASE_URL']}/v8/finance/chart/%5EGSPC", params={"interval": "1d"}, timeout=10),
        client.get(f"{addresses['STOOQ_BASE_URL']}/q/d/l/", params={"s": "^spx", "i": "d"}, timeout=10),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert {answer.headers["X-Simulated-By"] for answer in answers} == {"market_pipelines"}
    assert answers[1].json()["chart"]["result"][0]["meta"]["symbol"] == "^GSPC"
    assert answers[2].text.startswith("Date,Open,High,Low,Close,Volume\r\n1990-01-02,")


def test_one_connection_serves_many_requests(simulator: Simulator) -> None:
    connection = http.client.HTTPConnection(urlsplit(simulator.url).netloc, timeout=10)
    connection.connect()
    first = connection.sock
    for path in ("/health", WORKS, CHART, "/nowhere"):
        connection.request("GET", path)
        connection.getresponse().read()
        assert connection.sock is first, path
    assert len(own_threads()) == 2
    connection.close()


def test_stopping_ends_idle_connections_and_leaves_no_thread() -> None:
    simulator = Simulator(clock=NOW).start()
    idle = [socket.create_connection(("127.0.0.1", urlsplit(simulator.url).port or 0)) for _ in range(5)]
    assert requests.get(f"{simulator.url}/health", timeout=10).ok
    simulator.stop()
    assert own_threads() == []
    for connection in idle:
        connection.settimeout(5)
        assert connection.recv(1) == b""
        connection.close()
    simulator.stop()


def test_stopping_does_not_wait_for_a_stalled_answer() -> None:
    with Simulator(faults=["yahoo.stall=600"], clock=NOW) as simulator:
        asked = socket.create_connection(("127.0.0.1", urlsplit(simulator.url).port or 0))
        asked.sendall(f"GET {CHART} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        deadline = time.monotonic() + 10
        while simulator.requests.count("yahoo") == 0:
            assert time.monotonic() < deadline, "the request did not arrive"
        began = time.monotonic()
        simulator.stop()
        assert time.monotonic() - began < 10
    assert own_threads() == []
    assert asked.recv(1) == b""
    asked.close()


def test_it_starts_again_after_a_stop() -> None:
    simulator = Simulator(clock=NOW)
    for _ in range(2):
        with simulator:
            assert requests.get(f"{simulator.url}/health", timeout=10).json()["status"] == "ok"
    with pytest.raises(SimulatorError, match="not running"):
        simulator.base_urls()


def test_a_taken_port_is_named_with_what_to_do(simulator: Simulator) -> None:
    port = urlsplit(simulator.url).port or 0
    with pytest.raises(SimulatorError, match=rf"port {port} on 127.0.0.1 is taken.*--port"):
        Simulator(port=port).start()


def test_a_stalled_answer_times_out(simulator: Simulator, client: requests.Session) -> None:
    simulator.faults.add("yahoo.stall=600")
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.get(simulator.url + CHART, timeout=0.3)
    assert client.get(simulator.url + WORKS, timeout=10).ok


def test_a_connection_that_closes_without_an_answer(simulator: Simulator, client: requests.Session) -> None:
    simulator.faults.add("yahoo.close=on")
    with pytest.raises(requests.exceptions.ConnectionError):
        client.get(simulator.url + CHART, timeout=10)


def test_a_server_that_closes_in_the_middle_of_the_body(simulator: Simulator) -> None:
    whole = requests.get(simulator.url + WORKS, timeout=10).content
    simulator.faults.add("stooq.close_mid_body=on")
    connection = http.client.HTTPConnection(urlsplit(simulator.url).netloc, timeout=10)
    connection.request("GET", WORKS)
    answer = connection.getresponse()
    assert answer.getheader("Content-Length") == str(len(whole))
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.read()
    assert cut.value.partial == whole[: len(whole) // 2]
    connection.close()


def test_a_body_in_drops_is_slow_but_whole(simulator: Simulator, client: requests.Session) -> None:
    whole = client.get(simulator.url + CHART, timeout=10).content
    simulator.faults.add(f"yahoo.slow_loris={len(whole) * 4}")
    began = time.monotonic()
    assert client.get(simulator.url + CHART, timeout=10).content == whole
    assert time.monotonic() - began > 0.15


def test_a_truncated_body_ends_cleanly(simulator: Simulator, client: requests.Session) -> None:
    simulator.faults.add("yahoo.truncated=on")
    body = client.get(simulator.url + CHART, timeout=10).content
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def control(client: requests.Session, simulator: Simulator, method: str, path: str, body: Any = None) -> Any:
    answer = client.request(method, f"{simulator.url}/control/{path}", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_faults_are_switched_over_http(simulator: Simulator, client: requests.Session) -> None:
    control(client, simulator, "POST", "faults", ["yahoo.status=429:9", "stooq.body=no_data"])
    answer = client.get(simulator.url + CHART, timeout=10)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "9")
    assert client.get(simulator.url + WORKS, timeout=10).text == "No data"
    state = control(client, simulator, "GET", "state")
    assert [fault["fault"] for fault in state["faults"]] == ["yahoo.status=429:9", "stooq.body=no_data"]
    control(client, simulator, "PUT", "faults", ["stooq.status=500"])
    assert client.get(simulator.url + CHART, timeout=10).ok
    control(client, simulator, "DELETE", "faults")
    assert client.get(simulator.url + WORKS, timeout=10).ok
    assert control(client, simulator, "GET", "state")["faults"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("POST", "faults", ["yahoo.nonsense=on"], 400, "live_duplicate"),
        ("POST", "faults", "yahoo.status=429", 400, "JSON list"),
        ("POST", "clock", {"now": "2024-03-01T10:00:00"}, 400, "time zone"),
        ("POST", "clock", {"now": "soon"}, 400, "now:"),
        ("POST", "clock", {}, 400, "expected"),
        ("GET", "truth?symbol=NOSUCH", None, 400, "NOSUCH"),
        ("GET", "truth?symbol=AAPL&from=yesterday", None, 400, "yesterday"),
        ("GET", "nowhere", None, 404, "GET /control/state"),
    ],
)
def test_a_wrong_control_request_says_what_is_wrong(
    simulator: Simulator, client: requests.Session, method: str, path: str, body: Any, status: int, named: str
) -> None:
    answer = client.request(method, f"{simulator.url}/control/{path}", json=body, timeout=10)
    assert answer.status_code == status
    assert named in answer.json()["error"]


def test_the_clock_is_set_over_http(simulator: Simulator, client: requests.Session) -> None:
    control(client, simulator, "POST", "clock", {"now": "2024-03-01T21:30:00Z"})
    assert client.get(simulator.url + WORKS, timeout=10).text.rstrip().rpartition("\n")[2].startswith("2024-03-01,")
    assert control(client, simulator, "GET", "state")["clock"] == "set"
    assert control(client, simulator, "POST", "clock", {"now": None})["clock"] == "running"


def test_the_truth_is_told_for_oracles(simulator: Simulator, client: requests.Session) -> None:
    truth = control(client, simulator, "GET", "truth?symbol=AAPL&mic=XNYS&from=2020-08-28&to=2020-08-31")
    assert [row["session"] for row in truth["rows"]] == ["2020-08-28", "2020-08-31"]
    assert truth["rows"][0]["close"] / truth["rows"][1]["close"] == pytest.approx(4, rel=0.15)
    assert truth["actions"] == [{"ex_date": "2020-08-31", "kind": "split", "value": 4.0}]
    assert control(client, simulator, "GET", "truth?symbol=SIMD")["delisted_on"] == "2023-06-30"


def test_requests_are_counted_and_keys_are_hidden(simulator: Simulator, client: requests.Session) -> None:
    client.get(f"{simulator.url}/alpha_vantage/query?function=X&symbol=IBM&apikey=planted-secret", timeout=10)
    text = client.get(f"{simulator.url}/control/requests", timeout=10).text
    assert json.loads(text)["alpha_vantage"]["symbols"] == {"IBM": 1}
    assert "planted-secret" not in text
    control(client, simulator, "DELETE", "requests")
    assert simulator.requests.count() == 0


def test_many_clients_at_once_get_their_own_answers(simulator: Simulator) -> None:
    wanted = {"AAPL": b"AAPL", "MSFT": b"MSFT", "PKO.WA": b"PKO.WA", "7203.T": b"7203.T"}
    wrong: list[str] = []

    def ask(symbol: str) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(5):
                path = f"/yahoo/v8/finance/chart/{symbol}?interval=1d&range=1mo"
                body = session.get(simulator.url + path, timeout=30).content
                if b'"symbol":"' + wanted[symbol] + b'"' not in body:
                    wrong.append(symbol)

    threads = [threading.Thread(target=ask, args=(symbol,)) for symbol in wanted for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert simulator.requests.count("yahoo") == 80


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_cleanly_on_a_signal(ending: signal.Signals) -> None:
    code = "from market_pipelines.simulator.server import serve; serve(port=0, announce=lambda t: print(t, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        announced = [process.stdout.readline().decode().strip() for _ in range(4)]
        address = dict(line.split("=", 1) for line in announced[1:])["YAHOO_BASE_URL"]
        assert requests.get(address.removesuffix("/yahoo") + "/health", timeout=10).ok
        os.kill(process.pid, ending)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == b""
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(address, timeout=5)
