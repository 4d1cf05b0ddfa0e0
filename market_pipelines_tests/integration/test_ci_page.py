"""The shell lines of docs/ci.md, run as they stand there: green on clean data, red with a planted fault."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from market_pipelines.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
PATIENCE = 300.0
SETUP = "Environment, from the lock"
"""The step that makes the environment in which this test runs already."""


def fenced(language: str, heading: str) -> str:
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"{heading} has no {language}"
    return found.group(1)


def workflow() -> dict[str, Any]:
    (job,) = yaml.safe_load(fenced("yaml", "GitHub Actions"))["jobs"].values()
    return dict(job)


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder as CI would have it, below a path that is short and open enough for the embedded server."""
    folder = Path(tempfile.mkdtemp(prefix="mp-ci-", dir="/tmp"))
    folder.chmod(0o755)
    shutil.copy(REPOSITORY / "dagster.yaml", folder)
    yield folder
    subprocess.run(
        [*command("db", "stop")], cwd=folder, env=environment(folder), capture_output=True, timeout=60, check=False
    )
    shutil.rmtree(folder)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "market_pipelines.cli", *words]


def environment(folder: Path) -> dict[str, str]:
    """What the job sets, over what a bare machine has: no settings of this one."""
    ours = {name.upper() for name in Settings.model_fields}
    bare = {name: value for name, value in os.environ.items() if name not in ours and name != "DAGSTER_HOME"}
    job = {
        name: str(value).replace("${{ github.workspace }}", str(folder)) for name, value in workflow()["env"].items()
    }
    return bare | job | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(lines: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *options, "-c", lines],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_steps_of_the_workflow_are_green_on_clean_data(checkout: Path) -> None:
    steps = [step for step in workflow()["steps"] if "run" in step and step["name"] != SETUP]
    assert len(steps) == 3
    for step in steps:
        # As GitHub runs a step: it ends with the first line that fails.
        ended = run(step["run"], checkout, "-e")
        assert ended.returncode == 0, f"{step['name']}: {ended.stdout[-2000:]} {ended.stderr[-2000:]}"
    reports = sorted(checkout.glob(workflow()["steps"][-1]["with"]["report_paths"]))
    assert [report.name for report in reports] == ["quality-pl.xml", "quality-us.xml"]
    for report in reports:
        document = ET.parse(report).getroot()  # noqa: S314 (made by the lines above)
        assert int(document.get("tests", "0")) > 50
        assert document.get("failures") == "0"


def test_the_planted_fault_of_the_page_ends_red(checkout: Path) -> None:
    ended = run(fenced("bash", "See it red once"), checkout)
    assert ended.returncode == 1, f"{ended.stdout[-2000:]} {ended.stderr[-2000:]}"
    assert re.search(r"us +stock_prices +positive_price +blocks", ended.stdout)


def test_a_gate_over_nothing_is_red(checkout: Path) -> None:
    gate = next(step["run"] for step in workflow()["steps"] if step.get("name") == "Gate on the checks")
    ended = run(gate, checkout, "-e")
    assert ended.returncode == 1
    assert "nothing is stored of us" in ended.stderr
    document = ET.parse(checkout / "quality-us.xml").getroot()  # noqa: S314
    assert document.get("failures") == "1"
