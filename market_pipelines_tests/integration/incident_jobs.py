"""A code location whose job fails and whose checks turn red when a file says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from market_pipelines.orchestration.notifications import notifications
from market_pipelines.orchestration.resources import PlatformResource

TROUBLE = "TROUBLE_FILE"
"""Names the file with the words: `nightly` for the job, a check's name for the check."""
CHECKS = tuple(f"rule_{number:02}" for number in range(20))
STOPS = "rule_00"
"""The check that stops a run."""
PRICES = dg.AssetKey(["us", "prices"])


def _troubled(word: str) -> bool:
    return word in Path(os.environ[TROUBLE]).read_text(encoding="utf-8").split()


@dg.op
def work() -> None:
    if _troubled("nightly"):
        raise RuntimeError("the key S3CR3T-KEY-9 was refused\nin the second line")


@dg.job
def nightly() -> None:
    work()


@dg.asset(key=PRICES)
def prices() -> None:
    pass


@dg.multi_asset_check(specs=[dg.AssetCheckSpec(name, asset=PRICES, blocking=name == STOPS) for name in CHECKS])
def rules() -> Iterator[dg.AssetCheckResult]:
    for name in CHECKS:
        yield dg.AssetCheckResult(
            asset_key=PRICES,
            check_name=name,
            passed=not _troubled(name),
            severity=dg.AssetCheckSeverity.WARN if _troubled("mild") else dg.AssetCheckSeverity.ERROR,
            description=f"what {name} says",
        )


@dg.definitions
def defs() -> dg.Definitions:
    judged = dg.define_asset_job("judge", selection=dg.AssetSelection.assets(PRICES))
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[prices],
            asset_checks=[rules],
            jobs=[nightly, judged],
            resources={"platform": PlatformResource()},
            executor=dg.in_process_executor,
        ),
        notifications(),
    )
