"""The live path as its users start it: `stream run` beside a load generator, until the tick lake has everything."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import psycopg

from benchmarks.measure import Effort
from benchmarks.results import OURS, Figure, Findings, single
from benchmarks.workplace import BenchmarkFailed, embedded_server, environment, running, temporary_home
from market_pipelines.store.embedded import EmbeddedServer

METHOD = (
    "Events a second of wall time, from the first one that the generator sends until the last one is in a Parquet "
    "segment that the manifest lists; journal and PostgreSQL sync to disk. The generator is a program of its own on "
    "the same machine, and sends unique quotes and trades (four to one, about 125 bytes) as fast as it is read. The "
    "peer is the vendor's client `massive`, whose messages go into tables of DuckDB each second; it has no journal. "
    "Freshness is the age of the newest event in the lake each time one looks, at half the rate that was measured. In "
    "the end the events in the lake are counted, all and different ones, and have to be as many as were sent."
)
EVENTS = {50: 12_000_000, 5: 3_000_000, 1: 1_500_000}
"""By events a frame: about half a minute of work for ours."""
SYMBOLS = 1_000
FEW, MANY = 10, 10_000
TARGETS = {50: 400_000.0, 1: 60_000.0}
FRESH_SECONDS, FRESH_TARGET = 20.0, 2.0
PEER = "massive + DuckDB each second"
_PATIENCE = 300.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    rate: float
    cpu: float
    """Seconds of the service, its sinks included, for a million events."""
    memory: float
    """Megabytes at most."""


def run(effort: Effort) -> Findings:
    figures, notes = [], []
    with temporary_home() as home, embedded_server(home) as server:
        rates: dict[int, list[float]] = {}
        peers: dict[int, list[float]] = {}
        memory = 0.0
        for size, full in EVENTS.items():
            events = effort.of(full, 50_000)
            for number in range(effort.repetitions):
                ours = _ours(home, server, f"frames-{size}-{number}", events, size, SYMBOLS)
                rates.setdefault(size, []).append(ours.rate)
                memory = max(memory, ours.memory)
                peers.setdefault(size, []).append(_peer(home, f"{size}-{number}", events // 3, size))
            unit = "events" if size > 1 else "event"
            figures.append(
                Figure(
                    f"journalled, decoded, in the lake: {size} {unit} a frame",
                    "events/s",
                    "more",
                    single(OURS, rates[size]),
                    (single(PEER, peers[size]),),
                    TARGETS.get(size),
                )
            )
        half = median(rates[50]) / 2
        fresh = _freshness(home, server, half, effort.of(int(FRESH_SECONDS), 3))
        figures.append(
            Figure(
                "event to queryable at half that load, 99 of 100 looks",
                "s",
                "less",
                single(OURS, [fresh]),
                (),
                FRESH_TARGET,
            )
        )
        events = effort.of(EVENTS[50] // 3, 50_000)
        cost = {symbols: _ours(home, server, f"symbols-{symbols}", events, 50, symbols).cpu for symbols in (FEW, MANY)}
        figures.append(
            Figure(
                f"CPU of an event with {MANY:,} symbols, as a multiple of that with {FEW}",
                "×",
                "less",
                single(OURS, [cost[MANY] / cost[FEW]]),
            )
        )
        notes.append(
            f"{events:,} events cost {cost[FEW]:.2f} CPU seconds a million with {FEW} symbols and {cost[MANY]:.2f} "
            f"with {MANY:,}. The service had at most {memory:,.0f} MB. Every event was in the lake once."
        )
    return Findings(tuple(figures), tuple(notes))


class Load:
    """A load generator of its own, until it is asked what it sent."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "market_pipelines.cli", "simulate", "--port", "0", "--attached", *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout is None:
            raise BenchmarkFailed("the load generator says nothing")
        self.address: str = json.loads(self._process.stdout.readline())["polygon_ws_url"]
        self._told: dict[str, Any] = {}

    def end(self) -> dict[str, Any]:
        if not self._told:
            said, _ = self._process.communicate(timeout=30)
            self._told = json.loads(said)
        return self._told

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextmanager
def streaming(home: Path, database: str, address: str) -> Iterator[psutil.Process]:
    variables = environment(
        MARKET_PIPELINES_HOME=str(home / database),
        MARKET_PIPELINES_SIMULATOR="off",
        DATABASE_URL=database_url(home, database),
        POLYGON_API_KEY="a-key-of-the-benchmark",
        POLYGON_WS_URL=address,
        LOG_LEVEL="ERROR",
    )
    command = [sys.executable, "-m", "market_pipelines.cli", "stream", "run", "--feed", "polygon", "--symbols", "*"]
    command += ["--channels", "quotes,trades"]
    with running(command, home, variables) as process:
        yield psutil.Process(process.pid)


def database_url(home: Path, name: str) -> str:
    return EmbeddedServer(home).url(name)


def _ours(home: Path, server: EmbeddedServer, name: str, events: int, size: int, symbols: int) -> Run:
    database = f"bench_{name.replace('-', '_')}"
    server.ensure_database(database)
    options = ("--load", "max", "--events-per-frame", str(size), "--symbols-in-load", str(symbols))
    with Load(*options, "--events", str(events)) as load, streaming(home, database, load.address) as process:
        memory, cpu = 0.0, 0.0
        deadline = time.monotonic() + _PATIENCE
        with psycopg.connect(database_url(home, database), autocommit=True) as connection:
            while rows(connection) < events:
                if time.monotonic() > deadline:
                    raise BenchmarkFailed(f"only {rows(connection):,} of {events:,} events came to the lake")
                memory = max(memory, process.memory_info().rss / 1e6)
                time.sleep(_LOOK_SECONDS)
            ended = time.time()
            times = process.cpu_times()
            cpu = times.user + times.system
            prove(connection, home / database, events)
        began = load.end()["began"]
    return Run(events / (ended - began), cpu / events * 1e6, memory)


def rows(connection: psycopg.Connection[Any]) -> int:
    try:
        row = connection.execute("SELECT coalesce(sum(rows), 0)::bigint FROM market.tick_segments").fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    return int(row[0]) if row is not None else 0


def freshest(connection: psycopg.Connection[Any]) -> float | None:
    """Seconds since the newest event of the lake happened."""
    try:
        row = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - max(last_ts)) FROM market.tick_segments"
        ).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None or row[0] is None else float(row[0])


def prove(connection: psycopg.Connection[Any], home: Path, events: int) -> None:
    """Every event is there once."""
    import duckdb  # noqa: PLC0415 (only here, after the clock has stopped)

    listed = connection.execute("SELECT kind, path FROM market.tick_segments").fetchall()
    total = 0
    for kind in {kind for kind, _ in listed}:
        files = [str(home / "lake" / path) for listed_kind, path in listed if listed_kind == kind]
        with duckdb.connect() as lake:
            ((found, different),) = lake.execute(
                "SELECT count(*), count(DISTINCT (symbol, seq)) FROM read_parquet(?)", [files]
            ).fetchall()
        if found != different:
            raise BenchmarkFailed(f"of {kind} the lake has {found:,} rows and {different:,} different ones")
        total += found
    if total != events:
        raise BenchmarkFailed(f"{events:,} events were sent and {total:,} are in the lake")


def _peer(home: Path, name: str, events: int, size: int) -> float:
    options = ("--load", "max", "--events-per-frame", str(size), "--symbols-in-load", str(SYMBOLS))
    with Load(*options, "--events", str(events)) as load:
        command = [sys.executable, "-m", "benchmarks.stream_peer"]
        command += [load.address.removeprefix("ws://"), str(home / f"peer-{name}.duckdb"), str(events)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline() or "{}")
    if told.get("events", 0) < events:
        raise BenchmarkFailed(f"the peer stored {told.get('events', 0):,} of {events:,} events")
    return float(told["events"] / told["seconds"])


def _freshness(home: Path, server: EmbeddedServer, rate: float, seconds: int) -> float:
    """Seconds between now and the newest event that a reader finds, looked at again and again while it streams."""
    database = "bench_fresh"
    server.ensure_database(database)
    options = ("--load", str(int(rate)), "--events-per-frame", "50", "--symbols-in-load", str(SYMBOLS))
    ages: list[float] = []
    with Load(*options) as load, streaming(home, database, load.address):
        deadline = time.monotonic() + _PATIENCE
        with psycopg.connect(database_url(home, database), autocommit=True) as connection:
            while rows(connection) < rate * 3:
                if time.monotonic() > deadline:
                    raise BenchmarkFailed("no event came to the lake")
                time.sleep(_LOOK_SECONDS)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                if (age := freshest(connection)) is not None:
                    ages.append(age)
                time.sleep(_LOOK_SECONDS)
    return quantiles(ages, n=100)[-1]
