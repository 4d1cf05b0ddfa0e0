"""The commands over streams where nobody ever streamed, as somebody types them first."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import requests

from market_pipelines.cli.stream import run_in_front
from market_pipelines.pipeline.platform import Platform
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer, hearing_ctrl_c
from market_pipelines_tests.integration.test_commands import Desk, until

pytestmark = pytest.mark.usefixtures("nothing_of_a_command_stays_behind")


@pytest.fixture(scope="module")
def desk(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    url = postgres_server.create()
    yield Desk(tmp_path_factory.mktemp("streams") / "home", url, simulator)
    postgres_server.drop(url)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("status",), 0, "No stream has run yet. A first one: market-pipelines stream run"),
        (("gaps", "list"), 0, "There has been no gap."),
        (("gaps", "list", "--open"), 0, "No gap is open."),
        (("gaps", "list", "--stream", "us-polygn"), 2, "never ran; there are none"),
        (("stop",), 0, "no stream runs"),
        (("reload",), 1, "no stream runs: nobody reads symbols again"),
        (("run", "--feed", "poll", "--provider", "bloomberg"), 2, "--provider 'bloomberg' is not known; accepted:"),
    ],
)
def test_where_nobody_ever_streamed(words: tuple[str, ...], code: int, said: str, desk: Desk) -> None:
    told = desk.run("stream", *words)
    assert told.code == code
    assert said in told.err


def test_a_symbol_that_nobody_knows_is_told(desk: Desk) -> None:
    told = desk.run("stream", "run", "--symbols", "AAPL,APPL", "--until", "2026-01-01T00:00:00Z")
    assert told.code == 0
    assert "not in the market file of us, asked for as typed: APPL\n" in told.err


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """One that takes connections and says nothing: a sink that waits for it drains slowly."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_hangup_reads_symbols_again_and_a_second_ctrl_c_ends_it_at_once_and_quietly(
    desk: Desk, hanging_server: str, tmp_path: Path
) -> None:
    listed = tmp_path / "symbols.yaml"
    listed.write_text("[AAPL]")
    with hearing_ctrl_c():
        process = desk.start("stream", "run", "--symbols-list", str(listed), "--db-server", hanging_server)

    def subscribed(symbol: str) -> bool:
        assert process.poll() is None, process.communicate()
        state = requests.get(f"{desk.simulator.url}/control/stream", timeout=5).json()
        return any(one["open"] and f"T.{symbol}" in one["subscriptions"] for one in state["connections"])

    until(lambda: subscribed("AAPL"))
    listed.write_text("[AAPL, BRK.B]")
    process.send_signal(signal.SIGHUP)
    until(lambda: subscribed("BRK.B"))
    process.send_signal(signal.SIGINT)
    until(lambda: not subscribed("AAPL"))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert said == "interrupted\n"


def test_what_threads_say_after_a_second_ctrl_c_is_not_heard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """They lose the database under them, and end with the process."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def left_behind() -> None:
        logging.getLogger("market_pipelines.streaming").error("the pool 'pool-1' is already closed")
        raise RuntimeError("the pool 'pool-1' is already closed")

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr("market_pipelines.cli.stream.run_streams", interrupted)
    platform = SimpleNamespace(settings=SimpleNamespace(stream_metrics_port=None))
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_front(cast(Platform, platform), [])
        thread = threading.Thread(target=left_behind)
        thread.start()
        thread.join()
    finally:
        logging.disable(logging.NOTSET)
    assert caplog.text == ""
    assert capsys.readouterr().err == ""


def test_a_start_in_the_background_has_a_log_that_status_names(desk: Desk) -> None:
    log = desk.home / "run" / "stream-pl-stooq.log"
    started = desk.run("stream", "start", "--feed", "stooq", "--market", "pl", "--log-level", "INFO")
    try:
        assert started.code == 0, started.err
        assert f"its log: {log}\n" in started.err
        assert "streaming" in log.read_text()
        assert f", log {log}\n" in desk.run("stream", "status").out
    finally:
        assert desk.run("stream", "stop").code == 0
