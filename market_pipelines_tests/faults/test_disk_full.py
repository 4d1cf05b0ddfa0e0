"""R6: a disk that is nearly full is refused, not corrupted, and the work goes on when there is room again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.pipeline.backfill import backfill_bars
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.store import archive as archive_module
from market_pipelines.store.archive import ArchiveFull, RawArchive
from market_pipelines.store.disk import DiskFloor
from market_pipelines_tests.faults.house import House, contents, unreadable_answers, untrue_rows

START, END = date(2025, 3, 3), date(2025, 6, 12)
SYMBOLS = ["AAPL", "MSFT", "KO"]
NO_DISK_HAS_THIS = DiskFloor(bytes=10**18)
ANY_DISK_HAS_THIS = DiskFloor(fraction=0.0, bytes=0)


@dataclass
class FillingDisk:
    """A disk that has room until so many answers are archived."""

    room_for: int
    asked: int = 0

    def usage(self, _folder: Path) -> shutil._ntuple_diskusage:
        self.asked += 1
        free = 10**12 if self.asked <= self.room_for else 10**6
        return shutil._ntuple_diskusage(total=10**12, used=10**12 - free, free=free)


def pull(house: House) -> tuple[int, str]:
    """The command, in this process, so that its disk can be a full one."""
    ended = CliRunner().invoke(
        app,
        ["pull", *SYMBOLS, "--from", str(START), "--to", str(END), "--json"],
        env={
            **house.simulator.base_urls(),
            "MARKET_PIPELINES_HOME": str(house.platform.settings.home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "DATABASE_URL": house.platform.database.url,
            "LOG_LEVEL": "WARNING",
        },
    )
    return ended.exit_code, ended.stderr


def files(house: House) -> list[Path]:
    return [path for path in house.archive.root.rglob("*") if path.is_file()]


def test_an_archive_below_its_floor_ends_the_run_with_a_sentence_and_a_later_run_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(archive_module, "DiskFloor", lambda: NO_DISK_HAS_THIS)
        code, said = pull(house)
    assert code == 1
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "was not archived: the disk below" in sentence
    assert str(house.archive.root) in sentence
    assert "choose another MARKET_PIPELINES_HOME" in sentence
    assert "Traceback" not in said
    assert files(house) == []
    with house.platform.database.connection() as connection:
        assert not any(contents(connection).values()), "nothing is stored that the archive cannot answer for"
    assert house.rows("SELECT count(*) FROM market.fetches") == [(0,)]
    ((status, error),) = house.rows("SELECT status, error FROM market.etl_job_logs")
    assert status == "failure"
    assert error.startswith("ArchiveFull: ")

    code, said = pull(house)
    assert code == 0, said
    assert untrue_rows(house) == []
    assert house.rows("SELECT count(*) FROM market.stock_prices") == [(3 * 72,)]
    assert unreadable_answers(house.archive.root) == []


def test_a_disk_that_fills_up_during_a_backfill_keeps_the_batches_before_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = house.platform.market("us")
    instruments = market.instruments[:15]
    with monkeypatch.context() as filling:
        filling.setattr(shutil, "disk_usage", FillingDisk(room_for=12).usage)
        with pytest.raises(ArchiveFull, match=r"are free"):
            backfill_bars(house.platform, market, instruments, START, END)
    assert house.rows("SELECT count(DISTINCT symbol) FROM market.stock_prices") == [(10,)]
    assert unreadable_answers(house.archive.root) == []
    assert untrue_rows(house) == []

    again = backfill_bars(house.platform, market, instruments, START, END)
    assert len(again.skipped) == 10
    assert not again.failed
    assert house.rows("SELECT count(DISTINCT symbol) FROM market.stock_prices") == [(15,)]
    assert untrue_rows(house) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fails", ["write", "sync", "rename"])
def test_a_disk_that_is_full_sooner_than_the_floor_says_leaves_no_half_written_file(
    number: int, fails: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.archive.put(b"what was there before")
    before = files(house)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    opened = Path.open

    def refuse_new_files(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        if "x" in mode:
            refuse()
        return opened(path, mode, *args, **kwargs)

    places: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
        "write": lambda patching: patching.setattr(Path, "open", refuse_new_files),
        "sync": lambda patching: patching.setattr(os, "fsync", refuse),
        "rename": lambda patching: patching.setattr(Path, "rename", refuse),
    }
    with monkeypatch.context() as full:
        places[fails](full)
        with pytest.raises(ArchiveFull, match=r"the disk below .* is full"):
            house.refresh(["AAPL"], START, END)
    assert files(house) == before
    assert house.rows("SELECT count(*) FROM market.stock_prices") == [(0,)]

    market = house.platform.market("us")
    assert not backfill_bars(house.platform, market, instruments_of(market, ["AAPL"]), START, END).failed
    assert untrue_rows(house) == []


def test_what_is_in_the_archive_already_needs_no_room(tmp_path: Path) -> None:
    RawArchive(tmp_path, floor=ANY_DISK_HAS_THIS).put(b"an answer")
    full = RawArchive(tmp_path, floor=NO_DISK_HAS_THIS)
    assert full.put(b"an answer").new is False
    with pytest.raises(ArchiveFull):
        full.put(b"another answer")
