"""How the simulated sockets misbehave: every fault of a stream, seen from a client's side."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests
import websocket

from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.integration.stream_client import Client, Event, waited_for

START = datetime(2026, 11, 19, 16, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SYMBOLS = ("AAPL", "MSFT", "KO", "JPM", "XOM", "PG", "HD", "WMT", "BAC", "AMD")
SEVERAL = ",".join(f"{kind}.{symbol}" for kind in "QT" for symbol in SYMBOLS)
LOST = "WebSocketConnectionClosedException"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=START) as running:
        yield running


def listening(simulator: Simulator, channels: str = "T.AAPL,Q.AAPL") -> Client:
    return Client(simulator).authenticated().subscribed(channels)


def ids(client: Client) -> list[tuple[str, str, int]]:
    return [(one["ev"], one["sym"], one["q"]) for one in client.heard if one.get("ev") in ("T", "Q") and "q" in one]


def sent(simulator: Simulator, number: int = 0) -> list[tuple[str, str, int]]:
    return [(one.kind, one.symbol, one.seq) for one in simulator.streams[number].sent]


def goes_on(simulator: Simulator, minutes: int = 1) -> None:
    until = simulator.clock.now() + minutes * MINUTE
    simulator.clock.set(until)
    waited_for(lambda: simulator.streamed_until == until)


def test_a_socket_fault_does_not_concern_requests(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_mute=on#1")
    with requests.Session() as session:
        session.trust_env = False
        address = f"{simulator.url}/polygon/v2/aggs/ticker/AAPL/prev?apiKey=k"
        assert session.get(address, timeout=10).json()["status"] == "OK"
        assert simulator.faults.state() == [{"fault": "polygon.ws_mute=on#1", "left": 1}]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("ws_auth_failed=on", "authentication failed"),
        ("ws_plan=on", "Your plan doesn't include websocket access."),
    ],
)
def test_authentication_fails(simulator: Simulator, fault: str, message: str) -> None:
    simulator.faults.add(f"polygon.{fault}#1")
    with Client(simulator) as client:
        client.say("auth", "a key")
        assert client.to_the_end() == LOST
        assert (client.statuses[-1], client.messages[-1]) == ("auth_failed", message)
    with Client(simulator) as client:
        client.authenticated()


def test_who_does_not_authenticate_is_sent_away(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_auth_timeout=0.2")
    with Client(simulator) as authenticated, Client(simulator) as client:
        authenticated.authenticated()
        assert client.to_the_end() == LOST
        assert (client.statuses, client.messages[-1]) == (
            ["connected", "auth_timeout"],
            "No authentication request received.",
        )
        assert authenticated.pings()


@pytest.mark.parametrize(
    ("value", "channels"), [("Q", "Q.AAPL,Q.*"), ("Q.*", "Q.AAPL"), ("T.KO", "T.KO"), ("Q,T.KO", "Q.AAPL,T.KO")]
)
def test_a_channel_is_not_in_the_plan(simulator: Simulator, value: str, channels: str) -> None:
    simulator.faults.add(f"polygon.ws_not_authorized={value}")
    with Client(simulator) as client:
        client.authenticated()
        client.say("subscribe", f"{channels},T.AAPL")
        client.until(lambda: client.statuses[-1] == "success")
        assert Counter(client.statuses[2:]) == {"error": len(channels.split(",")), "success": 1}
        assert client.messages[2] == "not authorized"
        goes_on(simulator)
        client.until(lambda: len(client.of("T", "AAPL")) > 10)
        assert not client.of("Q") and not client.of("T", "KO")


@pytest.mark.parametrize("victim", ["older", "newer"])
def test_one_connection_too_many(simulator: Simulator, victim: str) -> None:
    simulator.faults.add(f"polygon.ws_max_connections=1:{victim}")
    with listening(simulator) as older, listening(simulator) as newer, Client(simulator) as stranger:
        stranger.authenticated("another key")
        loser, winner = (older, newer) if victim == "older" else (newer, older)
        assert loser.to_the_end() == "closed 1008"
        assert loser.statuses[-3:] == ["success", "success", "max_connections"]
        assert loser.messages[-1] == "Maximum number of websocket connections exceeded. "
        goes_on(simulator)
        winner.until(lambda: len(winner.of("T")) > 10)
        assert stranger.pings()


def test_another_cluster_has_a_connection_of_its_own(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_max_connections=1")
    with listening(simulator) as stocks, Client(simulator, "/polygon/options") as options:
        options.authenticated()
        time.sleep(0.2)
        assert stocks.pings() and options.pings()


@pytest.mark.parametrize("value", ["Q", "Q.AAPL"])
def test_a_topic_is_acknowledged_and_silent(simulator: Simulator, value: str) -> None:
    simulator.faults.add(f"polygon.ws_silent_topic={value}")
    with listening(simulator) as client:
        goes_on(simulator)
        client.until(lambda: len(client.of("T")) > 10)
        assert not client.of("Q")


def test_a_mute_connection_answers_pings_only(simulator: Simulator) -> None:
    with listening(simulator) as client:
        simulator.faults.add("polygon.ws_mute=on#1")
        waited_for(lambda: simulator.streams[0].muted)
        goes_on(simulator)
        assert client.pings()
        assert not ids(client) and not simulator.sent
    simulator.faults.add("polygon.ws_mute=on")
    with Client(simulator) as client:
        assert client.pings()
        assert not client.heard


def test_a_half_open_connection_says_nothing_at_all(simulator: Simulator) -> None:
    client = listening(simulator)
    simulator.faults.add("polygon.ws_half_open=on#1")
    waited_for(lambda: simulator.streams[0].dead)
    goes_on(simulator)
    assert not client.pings()
    assert not ids(client) and not client.ended
    with listening(simulator) as other:
        goes_on(simulator)
        other.until(lambda: len(ids(other)) > 10)
    client.hang_up()


def test_unanswered_pings_and_data_that_goes_on(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_ping_timeout=on")
    with listening(simulator) as client:
        assert not client.pings()
        goes_on(simulator)
        client.until(lambda: len(ids(client)) > 10)


def test_a_server_that_wants_its_pings_answered(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator.faults.add("polygon.ws_ping_timeout=0.1")
    with listening(simulator) as client:
        for _ in range(4):
            assert client.socket.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_PING
        monkeypatch.setattr(client.socket, "pong", lambda *_: None)
        assert client.to_the_end() == "closed 1011"


def test_a_stall_loses_what_happens_meanwhile(simulator: Simulator) -> None:
    with listening(simulator) as client:
        simulator.faults.add("polygon.ws_stall=0.5")
        goes_on(simulator)
        assert client.pings()
        assert not client.hear(0.5) and not simulator.sent
        goes_on(simulator)
        client.until(lambda: len(ids(client)) > 10)
        first = min(one["t"] for one in client.of("T"))
        assert first >= (START + MINUTE).timestamp() * 1000
        client.until_quiet()
        assert ids(client) == sent(simulator)


def test_what_a_cheaper_plan_tells_happened_before(simulator: Simulator) -> None:
    """From then on, where one subscribes: what is told is whole from the first event, and nothing of it is newer."""
    simulator.faults.add("polygon.ws_delay=900")
    with listening(simulator, "T.AAPL") as client, listening(simulator, "T.AAPL") as other:
        goes_on(simulator, 2)
        client.until(lambda: len(sent(simulator)) == len(ids(client)) > 0)
        other.until(lambda: ids(other) == ids(client))
        times = [one["t"] for one in client.heard if one.get("ev") == "T"]
    begins, ends = ((START + delta).timestamp() * 1000 for delta in (-15 * MINUTE, -13 * MINUTE))
    assert begins <= min(times) < begins + 30_000
    assert ends - 30_000 < max(times) <= ends


def test_duplicates_and_disorder_lose_nothing(simulator: Simulator) -> None:
    simulator.faults.add_all(["polygon.ws_duplicates=0.3", "polygon.ws_disorder=20%"])
    with listening(simulator) as client:
        for _ in range(3):
            goes_on(simulator)
            client.hear(0.2)
        rows = {(one.kind, one.seq) for one in simulator.sent}
        client.until_quiet()
        counts = Counter(ids(client))
        assert counts == Counter(sent(simulator))
        assert {(kind, seq) for kind, _, seq in counts} >= rows
        assert 0.1 < sum(count > 1 for count in counts.values()) / len(counts) < 0.5
        seqs = [seq for kind, _, seq in ids(client) if kind == "T"]
        assert seqs != sorted(seqs)
    simulator.faults.clear()
    with Simulator(clock=START) as honest, listening(honest) as other:
        goes_on(honest, 3)
        other.until(lambda: len(ids(other)) == len(counts))
        assert set(ids(other)) == set(counts)


def test_a_reset_in_the_middle_of_a_frame(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_reset_mid_frame=2#1")
    with listening(simulator) as client:
        goes_on(simulator, 3)
        assert client.to_the_end() in ("ConnectionResetError", LOST)
        assert len([frame for frame in client.frames if '"status"' not in frame]) == 2
        assert ids(client) == sent(simulator)
        waited_for(lambda: simulator.streams[0].ended)
        assert simulator.streams[0].closed_why == "ws_reset_mid_frame"
    with listening(simulator) as client:
        goes_on(simulator, 3)
        client.until(lambda: len(client.frames) > 6)


def test_a_close_at_once_and_a_storm_that_ends(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_close_at_once=on#3")
    for _ in range(3):
        with Client(simulator) as client:
            assert client.to_the_end() in (LOST, "ConnectionResetError")
            assert not client.heard
    with Client(simulator) as client:
        client.authenticated()


def test_a_close_after_some_frames(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_close_after=2#1")
    with listening(simulator) as client:
        goes_on(simulator, 3)
        assert client.to_the_end() == "closed 1001"
        assert ids(client) == sent(simulator)
        assert simulator.streams[0].frames == 2


def test_a_forced_disconnect(simulator: Simulator) -> None:
    with listening(simulator) as client:
        simulator.faults.add("polygon.ws_force_disconnect=on#1")
        assert client.to_the_end() == "closed 1008"
        assert client.statuses[-1] == "force_disconnect"


def test_a_slow_reader_is_cut(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_slow_consumer=100000")
    with Client(simulator, buffer=4096) as client:
        client.authenticated().subscribed(SEVERAL)
        goes_on(simulator, 10)
        waited_for(lambda: simulator.streams[0].closed_why == "slow_consumer")
        assert client.to_the_end() == "closed 1008"
        assert client.statuses[-1] == "slow_consumer"
        assert ids(client) == sent(simulator)


def test_a_slow_reader_who_never_reads_ends_as_well(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market_pipelines.simulator.stream.connection.GOODBYE_SECONDS", 0.2)
    simulator.faults.add("polygon.ws_slow_consumer=100000")
    with Client(simulator, buffer=4096) as client:
        client.authenticated().subscribed(SEVERAL)
        goes_on(simulator, 10)
        waited_for(lambda: simulator.streams[0].ended)
        client.hang_up()


def test_a_set_clock_waits_for_its_readers(simulator: Simulator) -> None:
    with Client(simulator, buffer=4096) as client:
        client.authenticated().subscribed(SEVERAL)
        simulator.clock.set(START + 20 * MINUTE)
        time.sleep(0.5)
        assert max(one.pending for one in simulator.streams) < 2_000_000
        client.until(
            lambda: max((one["t"] for one in client.of("T", "AAPL")), default=0) > START.timestamp() * 1000 + 11.9e5
        )
        client.until_quiet()
        assert ids(client) == sent(simulator)


def test_sizes_as_decimal_text(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_decimals=on")
    with listening(simulator, "T.AAPL,AM.AAPL") as client:
        goes_on(simulator)
        client.until(lambda: bool(client.of("AM")))
        assert all(int(float(one["ds"])) == one["s"] for one in client.of("T"))
        minute = client.of("AM")[0]
        assert (float(minute["dv"]), float(minute["dav"])) == (minute["v"], minute["av"])


@pytest.mark.parametrize(("unit", "digits"), [("ms", 13), ("us", 16), ("ns", 19)])
def test_the_unit_of_limit_bands(simulator: Simulator, unit: str, digits: int) -> None:
    simulator.faults.add(f"polygon.ws_luld_unit={unit}")
    with listening(simulator, "LULD.AAPL") as client:
        goes_on(simulator)
        client.until(lambda: bool(client.of("LULD")))
        assert len(str(client.of("LULD")[0]["t"])) == digits


def test_rubbish_comes_between_whole_frames(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_rubbish=0.5")
    with listening(simulator) as client:
        goes_on(simulator, 10)
        with Simulator(clock=START) as honest, listening(honest) as other:
            goes_on(honest, 10)
            other.until_quiet(0.5)
            waited_for(lambda: set(ids(other)) == set(sent(simulator)))
        client.until_quiet()
        real = [one for one in ids(client) if isinstance(one[2], int)]
        assert real == sent(simulator)
        assert len(client.frames) - 2 > simulator.streams[0].frames


def test_a_minute_comes_again_with_other_values(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_late_minutes=1@AAPL")
    with listening(simulator, "AM.AAPL,AM.KO") as client:
        goes_on(simulator)
        client.until(lambda: len(client.of("AM", "AAPL")) == 2)
        first, last = client.of("AM", "AAPL")
        assert first["s"] == last["s"] and first["v"] < last["v"]
        assert len(client.of("AM", "KO")) == 1
        with requests.Session() as session:
            session.trust_env = False
            day = START.date()
            address = f"{simulator.url}/polygon/v2/aggs/ticker/AAPL/range/1/minute/{day}/{day}"
            rows: list[Event] = session.get(address, params={"apiKey": "k", "limit": "50000"}, timeout=10).json()[
                "results"
            ]
        assert (last["v"], last["c"]) == next((row["v"], row["c"]) for row in rows if row["t"] == last["s"])


def test_fragments_are_one_message(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_fragment=on")
    with listening(simulator) as client:
        goes_on(simulator)
        client.until(lambda: len(ids(client)) > 50)
        client.until_quiet()
        assert ids(client) == sent(simulator)


def test_the_handshake_is_refused(simulator: Simulator) -> None:
    simulator.faults.add("polygon.ws_handshake=429#1")
    with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
        Client(simulator)
    with Client(simulator) as client:
        client.authenticated()


def test_faults_are_switched_at_run_time(simulator: Simulator) -> None:
    with requests.Session() as session, listening(simulator) as client:
        session.trust_env = False
        switched = session.post(
            f"{simulator.url}/control/faults", json=["polygon.ws_force_disconnect=on#1"], timeout=10
        )
        assert switched.ok
        assert client.to_the_end() == "closed 1008"
        assert json.loads(client.frames[-1])[0]["status"] == "force_disconnect"
