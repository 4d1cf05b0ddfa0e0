"""What a hundred checks of a table cost in Dagster, and what the rules cost without it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from statistics import median

from benchmarks.backfill import dagster_instance
from benchmarks.measure import Cost, Effort, alternately, cost_of
from benchmarks.results import OURS, Figure, Findings, Reading, duration
from benchmarks.workplace import BenchmarkFailed, Workplace, server_clock, workplace
from market_pipelines.market.quality import Evidence, examine
from market_pipelines.market.quality.rules import STOCK_PRICES
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.simulator.truth import World
from market_pipelines_tests.false_positives import END, ten_years

CHECKS, YEARS = 100, 10
ONE_EACH = "a check a function, as Dagster's tutorials show it"
METHOD = (
    "One run in a fresh process over one small asset with a hundred checks that look at nothing, so that only "
    "Dagster's own price is in the figure: as one step that gives all results, which is how the checks of this "
    "platform are made, and as a function for each. Storage on PostgreSQL as `up` configures it. The rules are timed "
    "by themselves, in one process: every rule that is asked of daily bars, over the bars of three simulated providers."
)
RUN = """
import sys
import dagster as dg

COUNT, TOGETHER = {count}, {together}

@dg.asset
def prices(): ...

names = [f"rule_{{number}}" for number in range(COUNT)]
passed = dict(passed=True, metadata={{"failing_rows": 0.0, "checked": 1000.0}})

if TOGETHER:
    @dg.multi_asset_check(specs=[dg.AssetCheckSpec(name, asset="prices") for name in names])
    def checks():
        for name in names:
            yield dg.AssetCheckResult(check_name=name, asset_key="prices", **passed)
    found = [checks]
else:
    def check(name):
        @dg.asset_check(asset="prices", name=name)
        def one():
            return dg.AssetCheckResult(**passed)
        return one
    found = [check(name) for name in names]

defs = dg.Definitions(
    assets=[prices], asset_checks=found, jobs=[dg.define_asset_job("all", "*")], executor=dg.in_process_executor
)
with dg.DagsterInstance.get() as instance:
    result = defs.get_job_def("all").execute_in_process(instance=instance)
    sys.exit(0 if len(result.get_asset_check_evaluations()) == COUNT else 1)
"""


def run(effort: Effort) -> Findings:
    count = effort.of(CHECKS, 5)
    with workplace() as place:
        contenders = {
            OURS: partial(_dagster, place, count, together=True),
            ONE_EACH: partial(_dagster, place, count, together=False),
        }
        for warm in contenders.values():
            warm()
        costs = alternately(contenders, effort.repetitions)
    clean = _evidence(effort)
    judged = 0 if clean.bars is None else len(clean.bars)
    examine(clean)
    rules = alternately({OURS: lambda: cost_of(lambda: examine(clean))}, effort.repetitions)
    rates = tuple(judged / cost.wall for cost in rules[OURS])
    return Findings(
        (
            Figure(
                f"{count} checks in one run",
                "s",
                "less",
                duration(OURS, costs[OURS]),
                (duration(ONE_EACH, costs[ONE_EACH]),),
            ),
            Figure("all rules of daily bars", "bars/s", "more", Reading(OURS, median(rates), rates)),
        ),
        (f"The rules looked at {judged:,} agreed bars of {clean.market.name}, {clean.start} to {clean.end}.",),
    )


def _dagster(place: Workplace, count: int, *, together: bool) -> Cost:
    code = RUN.format(count=count, together=together)
    variables = dagster_instance(place).environment
    command = [sys.executable, "-W", "ignore", "-c", code]

    def work() -> None:
        done = subprocess.run(command, cwd=place.home, env=variables, capture_output=True, check=False, timeout=300)
        if done.returncode:
            raise BenchmarkFailed(f"the run of {count} checks failed: {done.stderr.decode()[-300:]}")

    return cost_of(work, server_clock(place.server))


def _evidence(effort: Effort) -> Evidence:
    first = END.replace(year=END.year - max(1, round(YEARS * effort.share)))
    return ten_years(read_markets()["us"], World(), STOCK_PRICES, first, END)
