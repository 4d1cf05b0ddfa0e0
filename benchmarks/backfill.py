"""A range of sessions through Dagster: the whole run, what Dagster adds to the work, and a run for each session."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from statistics import median

import psycopg
import yaml

from benchmarks.measure import Cost, Effort, alternately, cost_of
from benchmarks.results import OURS, Figure, Findings, Reading, duration, single
from benchmarks.workplace import BenchmarkFailed, Workplace, server_clock, workplace
from market_pipelines.cli.dagster_home import BATCHES, STORAGE_VARIABLE, storage_database, write_dagster_home
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.backfill import backfill_bars
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.store import schema
from market_pipelines.store.database import database_name

TOTAL_TARGET, PARTITION_TARGET = 60.0, 10.0
METHOD = (
    "The job `us_daily_refresh` over the newest sessions, 50 symbols and 3 indices, as `dagster job execute` in a "
    "process of its own (its start and the load of the definitions are in the figure), on an instance configured by "
    "the same function as `market-pipelines up`: Dagster's storage on the embedded PostgreSQL, events in batches. "
    "Providers are the simulator in its own process, every answer is archived, judged, agreed on and committed "
    "with fsync on; each repetition begins with an empty data folder. What Dagster adds is that total less the time of "
    "`backfill_bars` doing the same without Dagster. One run a partition is measured over a few sessions and "
    "multiplied."
)
SESSIONS, SINGLE_RUNS, SHIPPED_SESSIONS = 1_250, 10, 100
MARKET = "us"
_JOB = "us_daily_refresh"
_SHIPPED = "Dagster's shipped event log"
_ONE_BY_ONE = "a run for each partition"
_USE_CASE = "`backfill_bars` without Dagster"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class _Instance:
    """A workplace with Dagster in it."""

    place: Workplace
    environment: dict[str, str]
    storage: str

    def execute(self, **tags: str) -> Cost:
        command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "market_pipelines.definitions"]
        command += ["-j", _JOB, "--tags", json.dumps(tags)]
        finished: list[subprocess.CompletedProcess[str]] = []

        def work() -> None:
            finished.append(
                subprocess.run(
                    command,
                    cwd=self.place.home,
                    env=self.environment,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

        cost = cost_of(work, server_clock(self.place.server))
        status, _ = self.last_run()
        if finished[0].returncode != 0 or status != "SUCCESS":
            raise BenchmarkFailed(f"the run ended as {status}:\n{finished[0].stdout[-3000:]}")
        return cost

    def last_run(self) -> tuple[str, float]:
        """How it ended, and Dagster's own idea of how many seconds it took."""
        with psycopg.connect(self.storage.replace("postgresql+psycopg2", "postgresql")) as connection:
            row = connection.execute(
                "SELECT status, coalesce(end_time - start_time, 0) FROM runs ORDER BY id DESC LIMIT 1"
            ).fetchone()
        return ("NOT THERE", 0.0) if row is None else (str(row[0]), float(row[1]))


def run(effort: Effort) -> Findings:
    sessions = newest_sessions(effort.of(SESSIONS, 5))
    first, last = sessions[0], sessions[-1]
    costs = alternately({OURS: lambda: ranged_run(sessions), _USE_CASE: lambda: use_case(sessions)}, effort.repetitions)
    one_by_one = single_runs(sessions[-effort.of(SINGLE_RUNS, 2) :])
    some = sessions[-effort.of(SHIPPED_SESSIONS, 5) :]
    compared = alternately(
        {OURS: lambda: ranged_run(some), _SHIPPED: lambda: ranged_run(some, as_shipped)}, effort.repetitions
    )
    added = [
        1000 * (ours.wall - theirs.wall) / len(sessions)
        for ours, theirs in zip(costs[OURS], costs[_USE_CASE], strict=True)
    ]
    each = [1000 * max(0.0, cost.wall - _use_case_seconds(costs) / len(sessions)) for cost, _ in one_by_one]
    figures = (
        Figure(
            f"{len(sessions):,} sessions, the whole run",
            "s",
            "less",
            duration(OURS, costs[OURS]),
            (duration(_USE_CASE, costs[_USE_CASE]), _multiplied(one_by_one, len(sessions))),
            TOTAL_TARGET if len(sessions) == SESSIONS else None,
        ),
        Figure(
            "what Dagster adds, by partition",
            "ms",
            "less",
            single(OURS, added),
            (single(_ONE_BY_ONE, each),),
            PARTITION_TARGET if len(sessions) == SESSIONS else None,
        ),
        Figure(
            f"{len(some):,} sessions, the whole run",
            "s",
            "less",
            duration(OURS, compared[OURS]),
            (duration(_SHIPPED, compared[_SHIPPED]),),
        ),
    )
    inside = median(seconds for _, seconds in one_by_one)
    return Findings(
        figures,
        (
            f"{first} to {last}. A partition is one session of the market's six partitioned assets.",
            f"One run a partition: {len(one_by_one)} runs, each a process as Dagster launches them; "
            f"between its start and its end Dagster counts {inside:.1f} s of each.",
        ),
    )


def newest_sessions(count: int) -> tuple[date, ...]:
    now = datetime.now(UTC)
    calendar = trading_calendar("XNYS", now)
    return calendar.sessions(calendar.start, calendar.last_closed(now))[-count:]


def ranged_run(sessions: tuple[date, ...], configure: Callable[[_Instance], None] | None = None) -> Cost:
    with workplace() as place:
        instance = dagster_instance(place)
        if configure is not None:
            configure(instance)
        tags = {_RANGE_START: sessions[0].isoformat(), _RANGE_END: sessions[-1].isoformat()}
        cost = instance.execute(**tags)
        _expect_bars(place, sessions)
        return cost


def single_runs(sessions: tuple[date, ...]) -> list[tuple[Cost, float]]:
    """A run for each, one after the other: its cost, and the seconds from its start to its end."""
    with workplace() as place:
        instance = dagster_instance(place)
        runs = [
            (instance.execute(**{"dagster/partition": day.isoformat()}), instance.last_run()[1]) for day in sessions
        ]
        _expect_bars(place, sessions)
        return runs


def use_case(sessions: tuple[date, ...]) -> Cost:
    with workplace() as place, open_platform(place.settings) as platform:
        market = platform.market(MARKET)
        cost = cost_of(
            lambda: backfill_bars(platform, market, market.everything, sessions[0], sessions[-1]),
            server_clock(place.server),
        )
        _expect_bars(place, sessions)
        return cost


def dagster_instance(place: Workplace) -> _Instance:
    """The instance that `up` writes, on the server of this workplace."""
    server = place.server
    bars, storage = database_name(simulated=True), storage_database(simulated=True)
    for name in (bars, storage):
        server.ensure_database(name)
    schema.upgrade(server.url(bars))
    url = server.url(storage, driver="postgresql+psycopg2")
    variables = {
        **place.environment,
        "DAGSTER_HOME": str(write_dagster_home(place.home).folder),
        **BATCHES,
        STORAGE_VARIABLE: url,
    }
    return _Instance(place, variables, url)


def as_shipped(instance: _Instance) -> None:
    """Dagster's own class keeps the events; everything else stays as it is."""
    path = instance.place.home / "dagster" / "dagster.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["event_log_storage"] |= {"module": "dagster_postgres.event_log", "class": "PostgresEventLogStorage"}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def _expect_bars(place: Workplace, sessions: tuple[date, ...]) -> None:
    with psycopg.connect(place.server.url(database_name(simulated=True))) as connection:
        row = connection.execute("SELECT count(DISTINCT session), count(*) FROM market.stock_prices").fetchone()
    covered, bars = row if row is not None else (0, 0)
    if covered != len(sessions) or bars < 49 * len(sessions):
        raise BenchmarkFailed(f"{bars} bars of {covered} sessions were stored, of {len(sessions)} sessions")


def _use_case_seconds(costs: dict[str, list[Cost]]) -> float:
    return median(cost.wall for cost in costs[_USE_CASE])


def _multiplied(runs: list[tuple[Cost, float]], partitions: int) -> Reading:
    each = duration(f"{_ONE_BY_ONE}, multiplied", [cost for cost, _ in runs])
    return Reading(
        each.who,
        each.value * partitions,
        tuple(value * partitions for value in each.repetitions),
        None if each.client_cpu is None else each.client_cpu * partitions,
        None if each.server_cpu is None else each.server_cpu * partitions,
    )
