"""A backfill that kills itself at a named point: `python -m market_pipelines_tests.faults.dying POINT`.

The product knows nothing of this. Functions of its modules are wrapped here, in this process only, and the process
ends by SIGKILL when one of them is reached, as it would by the out-of-memory killer or a power cut.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from importlib import import_module
from typing import Any, NamedTuple, NoReturn
from unittest.mock import patch

from market_pipelines.pipeline import backfill as backfilling
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.settings import read_settings
from market_pipelines_tests.faults.house import HttpByTheClock

BATCH = 2
"""Symbols committed together, here: a backfill of five has a beginning, a middle and an end."""


class Point(NamedTuple):
    where: str
    """Module and name of what is wrapped, as its caller looks it up."""
    before: bool
    """Whether the call is still made."""
    occurrence: int = 1


POINTS = {
    "while an answer is being written to the archive": Point("os.fsync", True, 3),
    "before an archived answer gets its name": Point("pathlib.Path.rename", True, 2),
    "after an answer is archived, before it is in the ledger": Point(
        "market_pipelines.store.archive.RawArchive.put", False, 3
    ),
    "after the ledger's row, before its commit": Point("market_pipelines.pipeline.fetch.record_fetch", False, 3),
    "before provider bars are written": Point("market_pipelines.pipeline.pull.write_provider_bars", True, 2),
    "after provider bars, before their commit": Point("market_pipelines.pipeline.pull.write_provider_bars", False, 2),
    "after the quarantine, before its commit": Point("market_pipelines.pipeline.pull.quarantine_rows", False),
    "after the provider bars are committed": Point("market_pipelines.pipeline.pull.keep_attempts", False, 2),
    "after instruments, before their commit": Point("market_pipelines.pipeline.refresh.write_instruments", False, 2),
    "among the claims of corporate actions": Point("market_pipelines.pipeline.reconcile.write_claims", False, 2),
    "after corporate actions are agreed on, before their commit": Point(
        "market_pipelines.pipeline.reconcile.settle_actions", False, 2
    ),
    "after corporate actions, before prices": Point("market_pipelines.pipeline.refresh.pulled_actions", False, 1),
    "after prices, before their coverage": Point("market_pipelines.pipeline.settle.write_prices", False, 2),
    "after the coverage, before the commit": Point("market_pipelines.pipeline.settle.write_coverage", False, 2),
    "between two batches": Point("market_pipelines.pipeline.refresh.settle_daily", False, 1),
    "before the job's end is written down": Point("market_pipelines.pipeline.results.job_finished", True),
    "after the job's end, before its commit": Point("market_pipelines.pipeline.results.job_finished", False),
}


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


def deadly(function: Callable[..., Any], point: Point) -> Callable[..., Any]:
    calls = 0

    def reached(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < point.occurrence:
            return function(*args, **kwargs)
        if not point.before:
            function(*args, **kwargs)
        die()

    return reached


def owner_of(where: str) -> tuple[object, str]:
    """The module or class that holds the name, and the name."""
    path, _, name = where.rpartition(".")
    try:
        return import_module(path), name
    except ModuleNotFoundError:
        module, _, kind = path.rpartition(".")
        return getattr(import_module(module), kind), name


def backfill(symbols: list[str], start: date, end: date, now: datetime) -> None:
    """As in the house of the tests: with its clock, because what is known through today is among the rows."""

    def clock() -> datetime:
        return now

    with (
        patch.object(backfilling, "BATCH", BATCH),
        open_platform(read_settings(env_file=None), clock) as opened,
        HttpByTheClock(clock) as http,
    ):
        market = opened.market("us")
        backfilling.backfill_bars(replace(opened, http=http), market, instruments_of(market, symbols), start, end)


def main() -> None:
    asked = json.loads(sys.stdin.read())
    point = POINTS[sys.argv[1]]
    owner, name = owner_of(point.where)
    with patch.object(owner, name, deadly(getattr(owner, name), point)):
        backfill(
            asked["symbols"],
            date.fromisoformat(asked["start"]),
            date.fromisoformat(asked["end"]),
            datetime.fromisoformat(asked["now"]),
        )


if __name__ == "__main__":
    main()
