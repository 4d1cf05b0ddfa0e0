"""R9: a provider that closes at once, has too few connections or refuses the key is not stormed, and it is told why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.pipeline.incidents import open_incidents
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.stream_gaps import GapStatus
from market_pipelines.store.streams import StreamState
from market_pipelines.streaming.backoff import Backoff
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.streaming.desks import IMPATIENT, caring
from market_pipelines_tests.faults.streaming.live import LOOKED_AT, PLAN, SYMBOLS, Desk, environment, opened_desk, until

FIRST, LONGEST = 0.2, 0.6
ATTEMPTS = 5
SLACK = 1.0
"""Seconds that a busy machine takes for an attempt beyond its pause."""


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture
def desk(simulator: Simulator, url: str, tmp_path: Path) -> Iterator[Desk]:
    with opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened


def drop(desk: Desk) -> None:
    requests.post(f"{desk.simulator.url}/control/stream/drop", timeout=5).raise_for_status()


def rows(desk: Desk) -> int:
    return sum(desk.stored().values())


def arrivals(desk: Desk, since: int) -> list[datetime]:
    return [datetime.fromtimestamp(one.opened_at, UTC) for one in desk.simulator.streams[since:]]


def assert_whole(desk: Desk, began: datetime) -> None:
    stored = desk.stored()
    assert set(stored.values()) == {1}, "nothing is there twice"
    ended = datetime.now(UTC) - timedelta(seconds=2)
    assert not [tick for tick in desk.truth(began, ended) if tick not in stored], desk.gaps()


def test_a_provider_that_closes_at_once_is_called_within_the_bound_and_the_status_tells_why(desk: Desk) -> None:
    simulator = desk.simulator
    with caring(replace(IMPATIENT, first_pause=FIRST, longest_pause=LONGEST)), desk.streaming():
        until(lambda: rows(desk) > 20, "rows in the lake")
        began, before = datetime.now(UTC) - timedelta(seconds=1), len(simulator.streams)
        simulator.faults.replace(["polygon.ws_close_at_once=on"])
        drop(desk)
        until(lambda: len(simulator.streams) >= before + ATTEMPTS, "attempts")
        until(
            lambda: (
                (row := desk.row()).state is StreamState.WAITING
                and "again in" in row.detail
                and row.connections[0]["attempts"] >= 2
            ),
            "the status says that it waits, how often it tried, and when it tries again",
        )
        simulator.faults.clear()
        until(desk.is_live, "data again")
        until(lambda: [one.status for one in desk.gaps()] == [GapStatus.FILLED], "one gap for all of it, filled")
        calls = arrivals(desk, before)
        bound = Backoff(FIRST, LONGEST)
        for number, (one, other) in enumerate(pairwise(calls), 2):
            assert FIRST <= (other - one).total_seconds() <= bound.ceiling(number) + SLACK, number
        assert [connection["attempts"] for connection in desk.row().connections] == [0], "data resets it"

        again = len(simulator.streams)
        cut = datetime.now(UTC)
        drop(desk)
        until(lambda: len(simulator.streams) > again, "it comes again")
        pause = (arrivals(desk, again)[0] - cut).total_seconds()
        assert pause <= bound.ceiling(1) + SLACK / 2, "as after a first failure"
        until(lambda: [one.status for one in desk.gaps()] == [GapStatus.FILLED] * 2, "filled")
    assert_whole(desk, began)


@pytest.mark.parametrize("victim", ["older", "newer"])
def test_more_connections_than_the_plan_has_are_folded_and_nothing_is_missing(desk: Desk, victim: str) -> None:
    desk.simulator.faults.replace([f"polygon.ws_max_connections=1:{victim}"])
    symbols = [symbol for symbol in SYMBOLS if symbol not in LOOKED_AT]
    before = len(desk.simulator.streams)
    # Those that are looked at are on all three.
    dealt = [symbol for place in range(3) for symbol in (*LOOKED_AT[place::3], *symbols[place::3])]
    plan = replace(PLAN, symbols=tuple(dealt), symbols_per_connection=7, max_connections=3)
    with caring(), desk.streaming(plan):
        until(
            lambda: (
                (row := desk.row()).symbols == len(SYMBOLS) and [one["state"] for one in row.connections] == ["live"]
            ),
            "one connection has all symbols",
        )
        began = datetime.now(UTC)
        until(lambda: rows(desk) > 20, "rows in the lake")
        until(lambda: all(gap.status is GapStatus.FILLED for gap in desk.gaps()), "what was missed is filled")
        count = rows(desk)
        until(lambda: rows(desk) > count + 20, "it goes on")
        assert len(desk.simulator.streams) - before <= plan.max_connections + 1, "they do not evict each other in turns"
        ended = datetime.now(UTC) - timedelta(seconds=2)
    assert_whole(desk, began)
    stored = desk.stored()
    for gap in desk.gaps():
        missed = [tick for tick in desk.truth(gap.begins_at, ended) if tick not in stored]
        assert not [symbol for _, symbol, _ in missed if symbol in (gap.symbols or SYMBOLS)], gap


def test_a_refused_key_ends_every_run_with_its_code_and_there_is_one_incident(
    desk: Desk, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.simulator.faults.replace(["polygon.ws_auth_failed=on"])
    for name, value in environment(desk.platform.settings.home, desk.simulator, url).items():
        monkeypatch.setenv(name, value)
    before = len(desk.simulator.streams)
    for _ in range(2):
        ended = CliRunner().invoke(app, ["stream", "run", "--feed", "polygon", "--symbols", "AAPL"])
        assert ended.exit_code == 4, ended.output
        assert "refuses the key" in ended.output
    assert len(desk.simulator.streams) == before + 2, "a key is not tried again"
    assert [one.key for one in open_incidents(desk.platform)] == ["stream:us-polygon"]
    assert desk.row().state is StreamState.FAILED
