"""What leave for one call to a provider costs: one process alone, and four that share one bucket.

`python -m benchmarks.limiter CALLS WHO` is one of the four: it says that it is ready, waits for a line, and times
its calls.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from benchmarks.measure import Effort
from benchmarks.results import OURS, Figure, Findings, single
from benchmarks.workplace import BenchmarkFailed, embedded_server, environment, temporary_home
from market_pipelines.pipeline.limiter import Purpose, permit
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.settings import Settings, SimulatorUse, read_settings

TARGET = 2.0
METHOD = (
    "Milliseconds a leave, on the embedded PostgreSQL with fsync on: alone from asking to having it, of four processes "
    "that ask without a pause the time divided by the leaves given. The limits are computed, and set so high that "
    "nobody has to wait for them. A quota of the day is on disk before leave is given, so that it survives a crash of "
    "the server; windows of seconds and minutes need not be. The first peer is shaped as pyrate-limiter's PostgreSQL "
    "bucket: lock a table of calls, count those of the second and of the minute, insert one; where that gives up at a "
    "taken lock, this one waits. The second is the least that a limiter on disk could cost: one counter, updated in "
    "one statement."
)
CALLS, PROCESSES = 2_000, 4
WINDOWS, DAY = "yahoo", "alpha_vantage"
"""The limits that ours holds: one provider has no quota of the day here, the other one has."""
_FIRST = 10


def run(effort: Effort) -> Findings:
    calls = effort.of(CALLS, 25)
    alone: dict[str, list[float]] = {who: [] for who in CONTENDERS}
    shared: dict[str, list[float]] = {who: [] for who in CONTENDERS}
    slowest: list[float] = []
    waits: list[float] = []
    with temporary_home() as home, embedded_server(home), _platform(home) as platform:
        _tables_of_peers(platform)
        for _ in range(effort.repetitions):
            for who, contender in CONTENDERS.items():
                took = _timed(_warm(contender(platform)), calls)
                alone[who].append(sum(took) / len(took))
                if who == WINDOWS:
                    slowest.append(quantiles(took, n=100)[-1])
            for who in CONTENDERS:
                took, seconds = _together(home, who, calls // 2)
                shared[who].append(seconds * 1_000 / len(took))
                if who == WINDOWS:
                    waits.append(sum(took) / len(took))
    figures = tuple(
        Figure(
            f"{where}, {what}",
            "ms",
            "less",
            replace(single(who, found[who]), who=OURS),
            tuple(single(peer, found[peer]) for peer in PEERS),
            TARGET,
        )
        for where, found in (("one process", alone), ("four processes at once", shared))
        for who, what in ((WINDOWS, "windows"), (DAY, "windows and a quota of the day"))
    )
    note = (
        f"{calls:,} calls alone, {calls // 2:,} by each of {PROCESSES}. Of a hundred calls alone the slowest took "
        f"{median(slowest):.2g} ms; each of the four had it after {median(waits):.2g} ms on average."
    )
    return Findings(figures, (note,))


def _settings(home: Path) -> Settings:
    return read_settings(
        env_file=None,
        market_pipelines_home=home,
        market_pipelines_simulator=SimulatorUse.OFF,
        yahoo_rate_limit=100_000_000,
        yahoo_rate_limit_second=10_000_000,
        yahoo_daily_quota=0,
        alpha_vantage_rate_limit=100_000_000,
        alpha_vantage_rate_limit_second=10_000_000,
        alpha_vantage_daily_quota=2_000_000_000,
    )


@contextmanager
def _platform(home: Path) -> Iterator[Platform]:
    with open_platform(_settings(home), asks=False) as platform:
        yield platform


def _leave(provider: str, platform: Platform) -> Callable[[], None]:
    stop = threading.Event()

    def ask() -> None:
        if not permit(platform, provider, Purpose.REFRESH, stop).granted:
            raise BenchmarkFailed("a call was refused, though the limits are out of reach")

    return ask


def _tables_of_peers(platform: Platform) -> None:
    with platform.database.connection() as connection:
        connection.execute("CREATE TABLE peer_calls (name text, at timestamptz)")
        connection.execute("CREATE INDEX ON peer_calls (at)")
        connection.execute("CREATE TABLE peer_counter (calls bigint) WITH (fillfactor = 50)")
        connection.execute("INSERT INTO peer_counter VALUES (0)")


def _ledger(platform: Platform) -> Callable[[], None]:
    def ask() -> None:
        with platform.database.connection() as connection:
            connection.execute("LOCK TABLE peer_calls IN EXCLUSIVE MODE")
            connection.execute(
                """
                SELECT count(*) FILTER (WHERE at >= now() - interval '1 second'), count(*)
                FROM peer_calls WHERE at >= now() - interval '1 minute'
                """
            ).fetchone()
            connection.execute("INSERT INTO peer_calls VALUES (%s, now())", (WINDOWS,))

    return ask


def _counter(platform: Platform) -> Callable[[], None]:
    def ask() -> None:
        with platform.database.statements() as connection:
            connection.execute("UPDATE peer_counter SET calls = calls + 1 RETURNING calls").fetchone()

    return ask


PEERS: Mapping[str, Callable[[Platform], Callable[[], None]]] = {
    "a table of calls: lock, count, insert": _ledger,
    "a counter: one update": _counter,
}
CONTENDERS: Mapping[str, Callable[[Platform], Callable[[], None]]] = {
    WINDOWS: partial(_leave, WINDOWS),
    DAY: partial(_leave, DAY),
    **PEERS,
}


def _warm(ask: Callable[[], None]) -> Callable[[], None]:
    """The first ones make the row and prepare the statement."""
    for _ in range(_FIRST):
        ask()
    return ask


def _timed(ask: Callable[[], None], calls: int) -> list[float]:
    """Milliseconds of each."""
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1_000)
    return took


def _together(home: Path, who: str, calls: int) -> tuple[list[float], float]:
    """Four processes that begin at once: what each call took, in milliseconds, and how long it was until all ended."""
    command = [sys.executable, "-m", "benchmarks.limiter", str(calls), who]
    root = Path(__file__).resolve().parent.parent
    variables = environment(MARKET_PIPELINES_HOME=str(home))
    processes = [
        subprocess.Popen(
            command, cwd=root, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            if _line(process) != "ready":
                raise BenchmarkFailed("one of the four processes did not start")
        began = time.perf_counter()
        for process in processes:
            if process.stdin is not None:
                process.stdin.write("go\n")
                process.stdin.flush()
        took = [number for process in processes for number in json.loads(_line(process))]
        return took, time.perf_counter() - began
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise BenchmarkFailed("one of the four processes ended early")
    return line.strip()


def _one_of_four(calls: int, who: str) -> None:
    with _platform(read_settings(env_file=None).home) as platform:
        ask = _warm(CONTENDERS[who](platform))
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(_timed(ask, calls)), flush=True)


if __name__ == "__main__":
    _one_of_four(int(sys.argv[1]), sys.argv[2])
