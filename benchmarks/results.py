"""What a benchmark found, as values, and as JSON on disk. How it is shown is in `document`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from benchmarks.machine import Machine
from benchmarks.measure import Cost

RESULTS = Path(__file__).resolve().parent / "results"
OURS = "market_pipelines"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one contender needed: the median of its repetitions."""

    who: str
    value: float
    repetitions: tuple[float, ...]
    client_cpu: float | None = None
    """Seconds of our processes for one repetition."""
    server_cpu: float | None = None
    """Seconds of PostgreSQL's processes for one repetition."""
    per_cpu_second: float | None = None
    """For a rate: the same by CPU seconds of client and server together."""


@dataclass(frozen=True, slots=True)
class Figure:
    what: str
    unit: str
    better: Literal["more", "less"]
    ours: Reading
    peers: tuple[Reading, ...] = ()
    target: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ours.value >= self.target if self.better == "more" else self.ours.value <= self.target

    def ratio(self, peer: Reading) -> float:
        """How many times better than the peer."""
        return self.ours.value / peer.value if self.better == "more" else peer.value / self.ours.value


@dataclass(frozen=True, slots=True)
class Findings:
    """What a benchmark gives back; who runs it adds where and when."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    title: str
    method: str
    findings: Findings
    machine: Machine
    taken_at: datetime
    seconds: float
    """How long the measuring took."""


def rate(who: str, rows: int, costs: list[Cost]) -> Reading:
    """Rows a second of wall time."""
    return Reading(
        who,
        median(rows / cost.wall for cost in costs),
        tuple(rows / cost.wall for cost in costs),
        median(cost.client for cost in costs),
        median(cost.server for cost in costs),
        median(rows / cost.cpu for cost in costs),
    )


def cpu_rate(who: str, rows: int, costs: list[Cost]) -> Reading:
    """Rows a second of CPU time, where one thread does all the work and waits for nothing."""
    values = tuple(rows / cost.cpu for cost in costs)
    return Reading(who, median(values), values)


def duration(who: str, costs: list[Cost]) -> Reading:
    """Seconds of wall time."""
    values = tuple(cost.wall for cost in costs)
    server = median(cost.server for cost in costs)
    return Reading(who, median(values), values, median(cost.client for cost in costs), server or None)


def single(who: str, values: list[float]) -> Reading:
    return Reading(who, median(values), tuple(values))


def save(result: Result, folder: Path = RESULTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_bytes(as_json(result))
    return path


def as_json(value: Result | list[Result]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def load(names: tuple[str, ...], folder: Path = RESULTS) -> dict[str, Result]:
    """The saved results by name; what was never measured here is left out."""
    found = {}
    for name in names:
        path = folder / f"{name}.json"
        if path.exists():
            found[name] = msgspec.json.decode(path.read_bytes(), type=Result)
    return found
