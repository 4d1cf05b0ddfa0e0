"""When the platform works on simulated data, and how a process finds the simulator.

Without any provider key the platform runs against the simulator: one that is already running for this data
folder, or else one that this process starts for as long as it needs it. The simulator is a program of its own;
nothing here imports it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from market_pipelines.settings import Settings, SimulatorUse

_STOP_SECONDS = 5.0
PREFIXES = {
    "ALPHA_VANTAGE_BASE_URL": "alpha_vantage",
    "IEX_CLOUD_BASE_URL": "iex_cloud",
    "POLYGON_BASE_URL": "polygon",
    "STOOQ_BASE_URL": "stooq",
    "YAHOO_BASE_URL": "yahoo",
}
"""The provider behind each variable, which is also its path on the simulator."""
RETIRED = {"IEX_CLOUD_BASE_URL"}
"""Of a service that is no more: nobody has to name another address for it."""


class SimulatorUnavailable(Exception):
    """Simulated data was wanted and no simulator could be had."""


def uses_simulator(settings: Settings) -> bool:
    use = settings.market_pipelines_simulator
    if use is SimulatorUse.AUTO:
        return not settings.has_provider_key and bool(PREFIXES.keys() - RETIRED - named_addresses(settings).keys())
    return use is SimulatorUse.ON


def named_addresses(settings: Settings) -> dict[str, str]:
    """The provider addresses that the operator set by hand; they win over the simulator's."""
    values = {variable: getattr(settings, variable.lower()) for variable in PREFIXES}
    return {variable: value for variable, value in values.items() if value}


def announcement(settings: Settings) -> Path:
    """Where a running simulator of this data folder says what its address is."""
    return settings.home / "run" / "simulator.json"


@contextmanager
def simulated_base_urls(settings: Settings) -> Iterator[Mapping[str, str]]:
    """Addresses by provider for those that are to be simulated; empty where none is."""
    if not uses_simulator(settings):
        yield {}
        return
    missing = PREFIXES.keys() - named_addresses(settings).keys()
    if not missing:
        yield {}
        return
    running = running_simulator(settings)
    if running is not None:
        yield _addresses(running, missing)
        return
    with _own_simulator() as url:
        yield _addresses(url, missing)


def running_simulator(settings: Settings) -> str | None:
    try:
        url = str(json.loads(announcement(settings).read_text(encoding="utf-8"))["url"])
        alive = requests.get(f"{url}/health", timeout=2).ok
    except (OSError, ValueError, KeyError, requests.RequestException):
        return None
    return url if alive else None


def _addresses(url: str, variables: set[str]) -> dict[str, str]:
    return {PREFIXES[variable]: f"{url}/{PREFIXES[variable]}" for variable in variables}


@contextmanager
def _own_simulator() -> Iterator[str]:
    """A simulator that ends with this process: it stops when its standard input closes."""
    command = [sys.executable, "-m", "market_pipelines.cli", "simulate", "--port", "0", "--attached"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _announced_url(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _announced_url(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError):
        raise SimulatorUnavailable(
            f"the simulator did not start (it said {line.strip()[:200]!r}); try: market-pipelines simulate"
        ) from None
