"""Half an hour of streaming, to see whether memory, files and delay stay what they are. `SOAK_MINUTES` for longer."""

from __future__ import annotations

import os
import time
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
    "service every five seconds; its growth is the slope of a line through the last two thirds. In the end every "
    "event that was sent has to be in the lake once."
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
            at, memory, files, ages = [], [], [], []
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                time.sleep(_LOOK_SECONDS)
                at.append(time.monotonic() - began)
                memory.append(process.memory_info().rss / 1e6)
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
    slope = float(np.polyfit(at[later:], memory[later:], 1)[0]) * 3600
    share = slope / median(memory[later:]) * 100
    figures = (
        Figure("memory of the service", "MB", "less", single(OURS, [median(memory[later:])])),
        Figure("its growth an hour", "% of it", "less", single(OURS, [max(share, 0.0)]), (), 5.0),
        Figure(
            "age of the newest event in the lake, half of the looks", "s", "less", single(OURS, [median(ages)]), (), 2.0
        ),
    )
    note = (
        f"{wanted:,} events in {seconds / 60:.0f} minutes, every one in the lake once. Memory {memory[later]:.0f} MB "
        f"after {at[later] / 60:.0f} minutes, {memory[-1]:.0f} MB at the end, at most {max(memory):.0f}; open files "
        f"{files[later]:.0f} and {files[-1]:.0f}."
    )
    return Findings(figures, (note,))
