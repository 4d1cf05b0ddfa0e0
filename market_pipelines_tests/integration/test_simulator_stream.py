"""Polygon's socket as the simulator speaks it: the conversation, and that it tells what history tells."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
import websocket

from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.integration.stream_client import Client, Event, waited_for

OPENING = datetime(2026, 11, 19, 14, 28, tzinfo=UTC)
WEEKEND = datetime(2026, 11, 21, 13, 58, tzinfo=UTC)
"""Two minutes before the replay of Friday's session begins anew."""
EVENING = datetime(2026, 11, 20, 0, 58, tzinfo=UTC)
"""Two minutes before the extended hours end."""
SPANS = {"session": OPENING, "weekend": WEEKEND, "evening": EVENING}
LENGTH = timedelta(minutes=4)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=OPENING) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Client]:
    with Client(simulator) as connected:
        yield connected


def history(simulator: Simulator, path: str, **asked: Any) -> list[Event]:
    with requests.Session() as session:
        session.trust_env = False
        rows: list[Event] = []
        address = f"{simulator.url}/polygon{path}"
        while address:
            answer = session.get(address, params=asked, headers={"Authorization": "Bearer k"}, timeout=30).json()
            rows += answer.get("results", [])
            address, asked = answer.get("next_url", ""), {}
        return rows


def ticks(simulator: Simulator, kind: str, symbol: str, start: datetime, end: datetime) -> list[Event]:
    ends = {"timestamp.gte": nanoseconds(start), "timestamp.lt": nanoseconds(end)}
    return history(simulator, f"/v3/{kind}/{symbol}", order="asc", limit=500, **ends)


def bars(simulator: Simulator, span: str, symbol: str, start: datetime, end: datetime) -> list[Event]:
    first, last = nanoseconds(start) // 1_000_000, nanoseconds(end) // 1_000_000
    rows = history(simulator, f"/v2/aggs/ticker/{symbol}/range/1/{span}/{first}/{last}", adjusted="false", limit=50000)
    return [row for row in rows if first <= row["t"] < last]


def nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000_000_000


def identity(trade: Event) -> tuple[Any, ...]:
    return (
        trade["q"],
        trade["t"],
        trade["p"],
        float(trade["ds"] if "ds" in trade else trade["s"]),
        trade["x"],
        trade.get("i"),
    )


def identity_in_history(row: Event) -> tuple[Any, ...]:
    at, size = row["sip_timestamp"] // 1_000_000, float(row["decimal_size"])
    return row["sequence_number"], at, row["price"], size, row["exchange"], row.get("id")


def test_the_conversation_is_worded_as_recorded(client: Client) -> None:
    client.until(lambda: client.statuses == ["connected"])
    client.say("auth", "a key")
    client.until(lambda: len(client.statuses) == 2)
    assert client.frames == [
        '[{"ev":"status","status":"connected","message":"Connected Successfully"}]',
        '[{"ev":"status","status":"auth_success","message":"authenticated"}]',
    ]
    client.subscribed("T.AAPL,AM.*")
    assert client.messages[2:] == ["subscribed to: T.AAPL", "subscribed to: AM.*"]


def test_who_subscribes_before_authenticating_is_told_so(client: Client) -> None:
    client.say("subscribe", "T.AAPL")
    client.until(lambda: client.statuses == ["connected", "auth_required"])


def test_only_news_are_acknowledged(client: Client) -> None:
    client.authenticated()
    client.subscribed("T.AAPL,T.NOSUCH")
    client.say("subscribe", "T.AAPL,X.AAPL,nonsense")
    client.say("unsubscribe", "Q.AAPL")
    client.subscribed("Q.AAPL")
    client.say("unsubscribe", "T.AAPL")
    client.until(lambda: client.messages[-1] == "unsubscribed to: T.AAPL")
    assert client.messages[2:] == [
        "subscribed to: T.AAPL",
        "subscribed to: T.NOSUCH",
        "subscribed to: Q.AAPL",
        "unsubscribed to: T.AAPL",
    ]


@pytest.mark.parametrize("key", ["invalid", ""])
def test_a_refused_key_drops_the_socket_without_a_closing_handshake(client: Client, key: str) -> None:
    client.say("auth", key)
    assert client.to_the_end() == "WebSocketConnectionClosedException"
    assert client.messages[-1] == "authentication failed"


def test_a_clock_that_stands_still_is_silent(client: Client) -> None:
    client.authenticated().subscribed("T.*,Q.*")
    assert not client.hear(0.3)


@pytest.mark.parametrize("when", SPANS)
def test_what_is_streamed_is_what_history_tells(simulator: Simulator, when: str) -> None:
    start, end = SPANS[when], SPANS[when] + LENGTH
    simulator.clock.set(start)
    with Client(simulator) as client:
        client.authenticated().subscribed("T.AAPL,Q.AAPL,A.AAPL,AM.AAPL,T.BRK.B")
        simulator.clock.set(end)
        last = nanoseconds(end) // 1_000_000
        expected = {symbol: ticks(simulator, "trades", symbol, start, end) for symbol in ("AAPL", "BRK.B")}
        quotes = ticks(simulator, "quotes", "AAPL", start, end)
        told = len(expected["AAPL"]) + len(expected["BRK.B"]) + len(quotes)
        client.until(lambda: sum(map(len, (client.of("T"), client.of("Q")))) == told)
        client.until(lambda: any(one["e"] == last for one in client.of("AM")))
        for symbol, rows in expected.items():
            assert [identity(one) for one in client.of("T", symbol)] == [identity_in_history(row) for row in rows]
        assert [(one["q"], one["t"], one["bp"], one["ap"], one["bs"], one["as"]) for one in client.of("Q")] == [
            (
                row["sequence_number"],
                row["sip_timestamp"] // 1_000_000,
                row["bid_price"],
                row["ask_price"],
                row["bid_size"],
                row["ask_size"],
            )
            for row in quotes
        ]
        for kind, span in (("AM", "minute"), ("A", "second")):
            streamed = [tuple(one[name] for name in ("s", "o", "h", "l", "c", "v", "vw")) for one in client.of(kind)]
            rows = bars(simulator, span, "AAPL", start, end)
            assert streamed == [tuple(row[name] for name in ("t", "o", "h", "l", "c", "v", "vw")) for row in rows]
            assert len(streamed) >= 3


def test_options_are_streamed_as_their_history_tells(simulator: Simulator) -> None:
    start, end = OPENING, OPENING + timedelta(minutes=30)
    contracts = history(simulator, "/v3/reference/options/contracts", underlying_ticker="AAPL", limit=40)
    contract = contracts[20]["ticker"]
    with Client(simulator, "/polygon/options") as client:
        asked = ",".join(f"{kind}.{contract}" for kind in ("T", "Q", "A", "AM"))
        client.authenticated().subscribed(f"{asked},T.O:NOSUCH261218C00001000")
        simulator.clock.set(end)
        rows = ticks(simulator, "trades", contract, start, end)
        client.until(lambda: len(client.of("T")) == len(rows) > 5)
        assert [identity(one) for one in client.of("T")] == [identity_in_history(row) for row in rows]
        assert set(client.of("T")[0]) == {"ev", "sym", "x", "p", "s", "c", "t", "q"}
        assert set(client.of("Q")[0]) == {"ev", "sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "q"}
        assert {one["sym"] for one in client.of("AM")} == {contract}
        seconds = bars(simulator, "second", contract, start, end)
        client.until(lambda: len(client.of("A")) == len(seconds) > 5)
        told = [tuple(one[name] for name in ("s", "o", "h", "l", "c", "v", "vw")) for one in client.of("A")]
        assert told == [tuple(row[name] for name in ("t", "o", "h", "l", "c", "v", "vw")) for row in seconds]


def test_events_have_the_recorded_fields(simulator: Simulator, client: Client) -> None:
    client.authenticated().subscribed("T.AAPL,Q.AAPL,A.AAPL,AM.AAPL,LULD.AAPL")
    simulator.clock.set(OPENING + LENGTH)
    client.until(lambda: len(client.of("LULD")) >= 3)
    trades = set().union(*client.of("T"))
    assert {"ev", "sym", "i", "x", "p", "s", "c", "t", "q", "z"} <= trades
    assert any("c" not in one for one in client.of("T")), "a trade without conditions has no c"
    assert all(one["i"] == str(one["q"]) for one in client.of("T"))
    assert set(client.of("Q")[0]) == {"ev", "sym", "bx", "bp", "bs", "ax", "ap", "as", "c", "t", "q", "z"}
    aggregate = {"ev", "sym", "v", "av", "op", "vw", "o", "c", "h", "l", "a", "z", "s", "e"}
    assert set(client.of("AM")[0]) == set(client.of("A")[0]) == aggregate
    assert set(client.of("LULD")[0]) == {"ev", "T", "h", "l", "i", "z", "t", "q"}


def test_only_what_happens_after_subscribing_is_told(simulator: Simulator, client: Client) -> None:
    client.authenticated().subscribed("T.AAPL")
    simulator.clock.set(OPENING + LENGTH)
    client.until(lambda: len(client.of("T", "AAPL")) > 100)
    client.subscribed("T.KO")
    client.say("unsubscribe", "T.AAPL")
    client.until(lambda: client.messages[-1] == "unsubscribed to: T.AAPL")
    known = len(client.of("T", "AAPL"))
    simulator.clock.set(OPENING + 2 * LENGTH)
    client.until(lambda: len(client.of("T", "KO")) > 100)
    assert len(client.of("T", "AAPL")) == known
    assert min(one["t"] for one in client.of("T", "KO")) >= nanoseconds(OPENING + LENGTH) // 1_000_000


def test_everything_is_one_subscription_and_symbols_mix_in_a_frame(simulator: Simulator, client: Client) -> None:
    client.authenticated().subscribed("AM.*")
    simulator.clock.set(OPENING + LENGTH)
    client.until(lambda: len({one["sym"] for one in client.of("AM")}) > 60)
    assert any(len({one["sym"] for one in json.loads(frame)}) > 1 for frame in client.frames[3:])


def test_a_running_clock_tells_what_happens_now() -> None:
    with Simulator() as simulator, Client(simulator) as client:
        began = datetime.now(UTC)
        client.authenticated().subscribed("Q.*")
        client.until(lambda: len(client.of("Q")) > 20)
        assert min(one["t"] for one in client.of("Q")) >= nanoseconds(began) // 1_000_000 - 1000
        assert max(one["t"] for one in client.of("Q")) <= datetime.now(UTC).timestamp() * 1000


def test_what_was_sent_is_known_event_by_event(simulator: Simulator) -> None:
    with Client(simulator) as client, Client(simulator) as other:
        client.authenticated().subscribed("T.AAPL")
        other.authenticated().subscribed("Q.KO")
        simulator.clock.set(OPENING + LENGTH)
        rows = ticks(simulator, "trades", "AAPL", OPENING, OPENING + LENGTH)
        client.until(lambda: len(client.of("T")) == len(rows))
        waited_for(lambda: len(simulator.streams[0].sent) == len(rows))
        assert [one.ts for one in simulator.streams[0].sent] == [row["sip_timestamp"] for row in rows]
        with requests.Session() as session:
            session.trust_env = False
            state = session.get(f"{simulator.url}/control/stream", timeout=10).json()["connections"]
            asked = {"connection": "1", "kind": "T", "symbol": "AAPL", "limit": "3", "after": "1"}
            sent = session.get(f"{simulator.url}/control/stream/sent", params=asked, timeout=10).json()
            wrong = session.get(f"{simulator.url}/control/stream/sent", params={"limit": "x"}, timeout=10)
            dropped = session.post(f"{simulator.url}/control/stream/drop", json={"connection": 2}, timeout=10).json()
        assert [one["subscriptions"] for one in state] == [["T.AAPL"], ["Q.KO"]]
        assert state[0]["events"] == len(rows)
        assert (sent["total"], sent["complete"]) == (len(rows), True)
        assert sent["sent"] == [[1, "T", "AAPL", row["sequence_number"], row["sip_timestamp"]] for row in rows[1:4]]
        assert wrong.status_code == 400
        assert dropped == {"dropped": 1}
        assert other.to_the_end() == "WebSocketConnectionClosedException"
        assert client.pings()


def test_stopping_ends_sockets_and_leaves_no_thread(simulator: Simulator) -> None:
    clients = [Client(simulator).authenticated().subscribed("T.*") for _ in range(3)]
    simulator.clock.set(OPENING + LENGTH)
    simulator.stop()
    assert [one.name for one in threading.enumerate() if one.name.startswith("simulator")] == []
    for client in clients:
        client.to_the_end()
        client.close()


def test_sockets_take_no_place_from_requests(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator.stop()
    monkeypatch.setattr("market_pipelines.simulator.server.MOST_CONNECTIONS", 2)
    monkeypatch.setattr("market_pipelines.simulator.server.MOST_STREAMS", 3)
    simulator.start()
    clients = [Client(simulator).authenticated() for _ in range(3)]
    assert len(ticks(simulator, "trades", "AAPL", OPENING - LENGTH, OPENING)) > 1
    with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
        Client(simulator)
    clients.pop().close()
    waited_for(lambda: sum(not one.ended for one in simulator.streams) == 2)
    clients.append(Client(simulator).authenticated())
    for client in clients:
        client.close()


def test_other_paths_are_no_sockets(simulator: Simulator) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        Client(simulator, "/nowhere")
