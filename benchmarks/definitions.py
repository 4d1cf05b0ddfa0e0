"""How long a fresh process needs for the Dagster definitions, beside what Dagster and pandas need to be imported."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.measure import Cost, Effort, alternately, cost_of
from benchmarks.results import OURS, Figure, Findings, duration
from benchmarks.workplace import environment, temporary_home

TARGET = 3.0
METHOD = (
    "A fresh Python process from its start to its end, bytecode compiled before: `market_pipelines.definitions` "
    "imported, both markets read and built into a repository. The peers are processes that only import what no "
    "definitions over these calendars can do without."
)
LOAD = "from market_pipelines.definitions import defs; defs().get_repository_def()"
PEERS = {
    "import dagster": "import dagster",
    "import dagster, pandas": "import dagster, pandas",
}


def run(effort: Effort) -> Findings:
    with temporary_home() as home:
        contenders = {name: partial(_process, code, home) for name, code in {OURS: LOAD, **PEERS}.items()}
        for compile_first in contenders.values():
            compile_first()
        costs = alternately(contenders, effort.repetitions)
    peers = tuple(duration(name, costs[name]) for name in PEERS)
    return Findings((Figure("load in a fresh process", "s", "less", duration(OURS, costs[OURS]), peers, TARGET),))


def _process(code: str, home: Path) -> Cost:
    command = [sys.executable, "-W", "ignore", "-c", code]
    variables = environment(MARKET_PIPELINES_HOME=str(home))
    return cost_of(lambda: subprocess.run(command, cwd=home, env=variables, check=True, stdout=subprocess.DEVNULL))
