"""`market-pipelines up` as a person starts it: until the page is served, and until an asset in it is green."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks.measure import Effort
from benchmarks.results import OURS, Figure, Findings, single
from benchmarks.workplace import environment, free_port, running, temporary_home, until
from market_pipelines.cli.dagster_client import DagsterClient, Location
from market_pipelines.cli.dagster_home import LOCATION

FIRST_TARGET, LATER_TARGET, GREEN_TARGET = 60.0, 20.0, 30.0
METHOD = (
    "Seconds from the start of the command, in an environment that is installed, to Dagster serving the loaded "
    "definitions and to the first asset with a materialization in its GraphQL; first with an empty data folder, then "
    "with the folder that the first start has filled. The peer is `dagster dev` with one asset and nothing else."
)
_PATIENCE = 600.0
_GREEN = "{ assetNodes { assetMaterializations(limit: 1) { timestamp } } }"
_ONE_ASSET = "import dagster as dg\n\n\n@dg.asset\ndef one() -> None: ...\n\n\ndefs = dg.Definitions([one])\n"


@dataclass(frozen=True, slots=True)
class Start:
    served: float
    green: float


def run(effort: Effort) -> Findings:
    first, later, peer = [], [], []
    for _ in range(effort.repetitions):
        with temporary_home() as home:
            first.append(start(home))
            later.append(start(home))
        with temporary_home() as folder:
            peer.append(dagster_dev(folder))
    dev = single("dagster dev, one asset", peer)
    return Findings(
        (
            Figure(
                "first start, to the page",
                "s",
                "less",
                single(OURS, [one.served for one in first]),
                (dev,),
                FIRST_TARGET,
            ),
            Figure(
                "first start, to a green asset",
                "s",
                "less",
                single(OURS, [one.green for one in first]),
                (),
                GREEN_TARGET,
            ),
            Figure(
                "later start, to the page",
                "s",
                "less",
                single(OURS, [one.served for one in later]),
                (dev,),
                LATER_TARGET,
            ),
            Figure(
                "later start, to a green asset",
                "s",
                "less",
                single(OURS, [one.green for one in later]),
                (),
                GREEN_TARGET,
            ),
        )
    )


def start(home: Path) -> Start:
    port = free_port()
    command = [sys.executable, "-m", "market_pipelines.cli", "up", "--home", str(home), "--dagster-port", str(port)]
    began = time.perf_counter()
    with running(command, home, environment(MARKET_PIPELINES_SIMULATOR="on")) as process:
        served = until(lambda: _page(port, LOCATION), "Dagster's page", _PATIENCE, process) - began
        green = until(lambda: _first_green(port), "a green asset", _PATIENCE, process) - began
    return Start(served, green)


def dagster_dev(folder: Path) -> float:
    port = free_port()
    (folder / "one.py").write_text(_ONE_ASSET, encoding="utf-8")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    command = [sys.executable, "-m", "dagster", "dev", "-f", "one.py", "-p", str(port), "-h", "127.0.0.1"]
    began = time.perf_counter()
    with running(command, folder, environment(DAGSTER_HOME=str(folder), HOME=os.environ.get("HOME", "/"))) as process:
        return until(lambda: _page(port, "one.py"), "dagster dev", _PATIENCE, process) - began


def _page(port: int, location: str) -> float | None:
    """The moment, once the page is there and the definitions behind it are loaded."""
    address = f"http://127.0.0.1:{port}"
    loaded: Location | None = DagsterClient(address).location(location)
    if loaded is None or not requests.get(address, timeout=5).ok:
        return None
    return time.perf_counter()


def _first_green(port: int) -> float | None:
    answer = requests.post(f"http://127.0.0.1:{port}/graphql", json={"query": _GREEN}, timeout=30).json()
    nodes = (answer.get("data") or {}).get("assetNodes", ())
    return time.perf_counter() if any(node["assetMaterializations"] for node in nodes) else None
