"""The benchmarks there are, by name, in the order in which they run and are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks import backfill, checks, definitions, limiter, parse, refresh, soak, store, stream, up
from benchmarks.measure import Effort
from benchmarks.results import Findings


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    title: str
    method: str
    """How it is measured, for the reader of the figures."""
    run: Callable[[Effort], Findings]
    repetitions: int
    by_default: bool = True


_ALL = (
    Benchmark("store", "Daily bars into PostgreSQL", store.METHOD, store.run, 5),
    Benchmark("parse", "A provider's answer into judged bars", parse.METHOD, parse.run, 7),
    Benchmark("backfill", "A range of sessions through Dagster", backfill.METHOD, backfill.run, 3),
    Benchmark("refresh", "A daily refresh of 500 symbols", refresh.METHOD, refresh.run, 2),
    Benchmark("checks", "A hundred checks, and the rules behind them", checks.METHOD, checks.run, 3),
    Benchmark("limiter", "Leave for one call to a provider", limiter.METHOD, limiter.run, 5),
    Benchmark("definitions", "Loading the definitions", definitions.METHOD, definitions.run, 5),
    Benchmark("stream", "From a provider's socket to the tick lake", stream.METHOD, stream.run, 2),
    Benchmark("soak", "Half an hour of streaming", soak.METHOD, soak.run, 1, by_default=False),
    Benchmark("up", "From nothing to a served page", up.METHOD, up.run, 2, by_default=False),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
