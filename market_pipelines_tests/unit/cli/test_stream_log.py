"""The log of a stream in the background is bounded, whatever says something and however often it is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from market_pipelines.cli.stream_log import log_file, turn_over, write_log_to
from market_pipelines.settings import SettingsError

TALKS = """
import logging, os, sys
from pathlib import Path
from market_pipelines.cli.stream_log import write_log_to
logging.basicConfig(level=logging.INFO, format="%(message)s")
write_log_to(Path(sys.argv[1]), most=1_000, kept=2)
for number in range(100):
    logging.info("line %03d of %s %s", number, sys.argv[2], "." * 50)
os.write(2, b"the last words of a crash\\n")
"""


def talk(path: Path, life: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", TALKS, str(path), life], capture_output=True, text=True, check=True, timeout=60
    )
    return ended.stdout + ended.stderr


def test_a_log_is_turned_over_within_a_life_and_across_lives(tmp_path: Path) -> None:
    path = log_file(tmp_path, ["us-polygon", "pl-stooq"])
    assert path == tmp_path / "run" / "stream-pl-stooq+us-polygon.log"
    assert talk(path, "one") + talk(path, "two") == ""
    files = sorted(path.parent.iterdir())
    assert [one.name.removeprefix(path.name) for one in files] == ["", ".1", ".2"]
    assert all(one.stat().st_size < 1_200 for one in files)
    said = [line for one in reversed(files) for line in one.read_text().splitlines()]
    assert said[-1] == "the last words of a crash"
    lines = [int(line.split()[1]) for line in said[:-1]]
    assert lines == list(range(lines[0], 100)), "not a line is lost between two files"


def test_turning_over_what_is_not_there_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "stream.log"
    (tmp_path / "stream.log.1").write_text("old")
    turn_over(path, 2)
    assert [one.name for one in tmp_path.iterdir()] == ["stream.log.1"]


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"--log-to: '{tmp_path}' cannot be written"):
        write_log_to(tmp_path)
