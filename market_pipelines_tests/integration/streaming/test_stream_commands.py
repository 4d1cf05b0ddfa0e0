"""The commands over streams where nobody ever streamed, as somebody types them first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration.test_commands import Desk

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
