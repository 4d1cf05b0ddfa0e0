"""The benchmarks run, and the document says what they measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.document import PAGE, page
from benchmarks.registry import BENCHMARKS
from benchmarks.results import Result, load

ROOT = Path(__file__).resolve().parents[2]
QUICK_ONES = ("store", "parse", "limiter", "definitions")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """A look at the cheap ones with a fraction of the data, as a user runs it."""
    written = tmp_path_factory.mktemp("benchmarks") / "quick.json"
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(written), *QUICK_ONES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    results = json.loads(written.read_text(encoding="utf-8"))
    assert isinstance(results, list)
    return results


def test_each_that_ran_has_figures_beside_a_peer(quick: list[dict[str, object]]) -> None:
    assert [result["name"] for result in quick] == list(QUICK_ONES)
    for result in quick:
        findings = result["findings"]
        assert isinstance(findings, dict)
        for figure in findings["figures"]:
            assert figure["ours"]["value"] > 0, figure["what"]
            assert figure["peers"], figure["what"]
            assert all(peer["value"] > 0 for peer in figure["peers"])


def test_the_machine_and_the_versions_are_told(quick: list[dict[str, object]]) -> None:
    machine = quick[0]["machine"]
    assert isinstance(machine, dict)
    assert machine["cores"] >= 1
    assert "dagster" in json.dumps(machine)


def test_the_document_has_a_section_for_every_benchmark() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [one.title for one in BENCHMARKS.values()]


def test_a_benchmark_that_was_not_run_is_said_to_be_missing() -> None:
    none: dict[str, Result] = {}
    text = page(none, {name: one.title for name, one in BENCHMARKS.items()})
    assert text.count("Not measured yet") == len(BENCHMARKS)


def test_results_of_another_day_are_read_back_as_they_were_kept() -> None:
    for name, result in load(tuple(BENCHMARKS)).items():
        assert result.name == name
        assert result.title in page({name: result}, {name: result.title})


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 2
    assert "store" in finished.stderr
