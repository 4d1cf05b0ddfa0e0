"""R6: the disk of the journal is full while a stream runs: it says so, goes on by itself when there is room again,
what was not written is a gap, and history fills it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from market_pipelines.cli.stream_status import sentence
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.stream_gaps import GapStatus
from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.journal import JournalReader
from market_pipelines.streaming.service import journal_folder
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.streaming.live import PLAN, Desk, opened_desk, until


@pytest.fixture
def desk(simulator: Simulator, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Desk]:
    url = postgres_server.create()
    with opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened
    postgres_server.drop(url)


@pytest.fixture
def small_disk(desk: Desk) -> Iterator[Path]:
    """Below the journal. The floor that the house keeps free everywhere fits in, and a little more."""
    folder = journal_folder(desk.platform, PLAN.name)
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only, where mounting is allowed at all")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """To the last page."""
    room = os.statvfs(path.parent)
    with path.open("wb", buffering=0) as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, (room.f_bavail - 256) * room.f_frsize)
        file.seek(0, os.SEEK_END)
        while file.write(bytes(room.f_frsize)):
            pass


def assert_intact(desk: Desk) -> None:
    """Every entry can be read, one after the other."""
    reader = JournalReader(journal_folder(desk.platform, PLAN.name))
    try:
        after = reader.first - 1
        while batches := reader.read(after):
            for batch in batches:
                assert batch.first == after + 1
                assert batch.format in Format
                after = batch.last
        assert after == reader.last
    finally:
        reader.close()


def test_a_full_disk_is_told_of_survived_and_what_it_cost_is_filled(desk: Desk, small_disk: Path) -> None:
    with desk.streaming() as running:
        until(lambda: sum(desk.stored().values()) > 20, "rows in the lake")
        began = datetime.now(UTC) - timedelta(seconds=1)
        fill(small_disk / "somebody else's")
        until(lambda: desk.row().counters["journal"]["full"], "the status says that it is full")
        assert "full" in sentence(desk.row())
        until(lambda: desk.row().counters["journal"]["thrown_away"] > 5, "what comes is read and thrown away")
        assert desk.is_live(), "the provider sees nothing of it"
        assert not running.ended()

        (small_disk / "somebody else's").unlink()
        until(lambda: not desk.row().counters["journal"]["full"], "it goes on by itself")
        until(lambda: [gap.cause for gap in desk.gaps()] == ["disk_full"], "the gap is a row")
        until(lambda: desk.gaps()[0].status is GapStatus.FILLED, "history has filled it")
        ended = datetime.now(UTC) - timedelta(seconds=1)
        reconnects = sum(one["reconnects"] for one in desk.row().connections)
    assert reconnects == 0
    assert desk.gaps()[0].rows_filled > 0
    assert_intact(desk)
    stored = desk.stored()
    assert set(stored.values()) == {1}, "nothing is there twice"
    missing = [tick for tick in desk.truth(began, ended) if tick not in stored]
    assert not missing, desk.gaps()
