"""A stream that is killed again and again while trades and quotes come in: what was durable is stored, once; what was
missed is a row of its gaps, and history fills it.

`STREAM_KILLS=200` for the long form.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from market_pipelines.simulator.server import Simulator
from market_pipelines.store.stream_gaps import GapStatus
from market_pipelines.streaming.journal import JournalMissing, JournalReader
from market_pipelines.streaming.service import journal_folder
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.streaming import nursery
from market_pipelines_tests.faults.streaming.live import PLAN, Desk, environment, opened_desk, until, until_stored

ROOT = Path(__file__).resolve().parents[3]
KILLS = int(os.environ.get("STREAM_KILLS", "25"))
LONGEST_LIFE = 1.5
"""Seconds: long enough to be killed before, while and after data comes in."""


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture
def desk(simulator: Simulator, url: str, tmp_path: Path) -> Iterator[Desk]:
    with opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened


class Nursery:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def child(self, settle_seconds: float = 0.3) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{settle_seconds}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def nursing(desk: Desk, url: str) -> Iterator[Nursery]:
    variables = {
        **os.environ,
        **environment(desk.platform.settings.home, desk.simulator, url),
        "PYTHONPATH": str(ROOT),
        "LOG_LEVEL": "ERROR",
    }
    with subprocess.Popen(
        [sys.executable, "-m", nursery.__name__],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


def durable_position(desk: Desk) -> int:
    try:
        reader = JournalReader(journal_folder(desk.platform, PLAN.name))
    except JournalMissing:
        return 0
    try:
        return reader.last
    finally:
        reader.close()


def test_however_often_it_is_killed_nothing_durable_is_lost_nothing_is_twice_and_every_hole_is_filled(
    desk: Desk, url: str
) -> None:
    chance = random.Random(20261121)
    with nursing(desk, url) as nursery_of_streams:
        first = nursery_of_streams.child()
        until(lambda: sum(desk.stored().values()) > 50, "rows in the lake")
        began = datetime.now(UTC) - timedelta(seconds=1)
        os.kill(first, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(first), "it is gone")
        durable = durable_position(desk)
        for _ in range(KILLS):
            pid = nursery_of_streams.child()
            died = datetime.now(UTC) + timedelta(seconds=chance.uniform(0.05, LONGEST_LIFE))
            until(lambda died=died: datetime.now(UTC) >= died, "its time has come")  # type: ignore[misc]
            assert psutil.pid_exists(pid), "it ended by itself"
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not psutil.pid_exists(pid), "it is gone")  # type: ignore[misc]
            now = durable_position(desk)
            assert now >= durable, "what was durable stays"
            durable = now
    assert set(desk.stored().values()) == {1}, "nothing is there twice"
    restarted = datetime.now(UTC)
    with desk.streaming() as running:
        until(
            lambda: (
                (gaps := desk.gaps())[-1].recorded_at > restarted
                and all(gap.status is GapStatus.FILLED for gap in gaps)
            ),
            "every gap is filled",
            60.0,
        )
        until_stored(running, 60.0)
        ended = datetime.now(UTC) - timedelta(seconds=1)
    stored = desk.stored()
    assert set(stored.values()) == {1}, "nothing is there twice"
    truth = desk.truth(began, ended)
    assert len(truth) > KILLS
    missing = sorted((str(at), tick) for tick, at in truth.items() if tick not in stored)
    assert not missing, [f"{one.cause} {one.begins_at} {one.ends_at} {one.status.value}" for one in desk.gaps()]
