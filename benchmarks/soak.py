"""Half an hour of streaming, to see whether memory, files and delay stay what they are. `SOAK_MINUTES` for longer."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import psycopg

from benchmarks.measure import Effort
from benchmarks.results import OURS, Figure, Findings, single
from benchmarks.stream import Load, database_url, freshest, prove, rows, streaming
from benchmarks.workplace import BenchmarkFailed, embedded_server, temporary_home

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
RATE = 10_000
SYMBOLS = 500
METHOD = (
    f"`stream run` for {MINUTES:g} minutes at {RATE:,} events a second of {SYMBOLS} symbols, about two hundred times "
    "what the simulator's fifty shares make, with lake and PostgreSQL as sinks. Memory is the resident set of the "
    "service every five seconds, code that its libraries map from files included, and beside it what is in no file; "
    "growth is the slope of a line through the last two thirds, with the error of that slope "
    "as noise around the line makes it. In the end every event that was sent has to be in the lake once."
)
_LOOK_SECONDS = 5.0
_PATIENCE = 120.0


def run(effort: Effort) -> Findings:
    seconds = max(60.0 * MINUTES * effort.share, 30.0)
    with temporary_home() as home, embedded_server(home) as server:
        server.ensure_database("soak")
        options = ("--load", str(RATE), "--events-per-frame", "5", "--symbols-in-load", str(SYMBOLS))
        with (
            Load(*options, "--events", str(int(RATE * seconds))) as load,
            streaming(home, "soak", load.address) as process,
            psycopg.connect(database_url(home, "soak"), autocommit=True) as connection,
        ):
            at: list[float] = []
            memory: list[float] = []
            own: list[float] = []
            files: list[float] = []
            ages: list[float] = []
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                time.sleep(_LOOK_SECONDS)
                at.append(time.monotonic() - began)
                found = process.memory_info()
                memory.append(found.rss / 1e6)
                own.append((found.rss - found.shared) / 1e6)
                files.append(float(process.num_fds()))
                if (age := freshest(connection)) is not None:
                    ages.append(age)
            deadline = time.monotonic() + _PATIENCE
            wanted = int(RATE * seconds)
            while rows(connection) < wanted:
                if time.monotonic() > deadline:
                    raise BenchmarkFailed(f"only {rows(connection):,} of {wanted:,} events came to the lake")
                time.sleep(0.2)
            prove(connection, home / "soak", wanted)
            load.end()
    later = len(at) // 3
    resident, alone = _trend(at[later:], memory[later:]), _trend(at[later:], own[later:])
    figures = (
        Figure("memory of the service", "MB", "less", single(OURS, [resident.usual])),
        Figure("its growth an hour", "% of it", "less", single(OURS, [max(resident.growth, 0.0)]), (), 5.0),
        Figure("of it in no file", "MB", "less", single(OURS, [alone.usual])),
        Figure("its growth an hour", "% of it", "less", single(OURS, [max(alone.growth, 0.0)]), (), 5.0),
        Figure(
            "age of the newest event in the lake, half of the looks", "s", "less", single(OURS, [median(ages)]), (), 2.0
        ),
    )
    note = (
        f"{wanted:,} events in {seconds / 60:.0f} minutes, every one in the lake once. Memory {memory[later]:.0f} MB "
        f"after {at[later] / 60:.0f} minutes, {memory[-1]:.0f} MB at the end, at most {max(memory):.0f}; growth "
        f"{resident.growth:+.1f} % an hour, give or take {resident.error:.1f} (what is in no file {alone.growth:+.1f}, "
        f"give or take {alone.error:.1f}). Open files {files[later]:.0f} and {files[-1]:.0f}."
    )
    return Findings(figures, (note,))


@dataclass(frozen=True, slots=True)
class _Trend:
    usual: float
    growth: float
    """Of the usual, in percent an hour."""
    error: float
    """Of the growth: one standard error."""


def _trend(at: Sequence[float], values: Sequence[float]) -> _Trend:
    usual = median(values)
    (slope, _), covariance = np.polyfit(at, values, 1, cov=True)
    share = 3600 / usual * 100
    return _Trend(usual, float(slope) * share, float(np.sqrt(covariance[0][0])) * share)
