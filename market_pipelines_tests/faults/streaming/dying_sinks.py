"""Sinks of the house that are killed while they write: `python -m market_pipelines_tests.faults.streaming.dying_sinks`.

Reads what to do as JSON from stdin. Every life is a fork of this process, with its own database connections and its
own threads, and ends by SIGKILL at a random moment; the last one is left to finish. The journal is a script: chunks
of known rows. Tells as JSON how many lives were ended before their work was done.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from market_pipelines.store.database import Database
from market_pipelines.store.lake import TickLake
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks import lake as lake_sink
from market_pipelines.streaming.sinks.lake import LakeSink
from market_pipelines.streaming.sinks.postgres import PostgresSink
from market_pipelines.streaming.sinks.protocol import Sink
from market_pipelines.streaming.sinks.runner import SinkRunner
from market_pipelines_tests.contract.streaming.chunks import JOURNAL, chunk

STREAM = "us-polygon"
ROWS = 30
PATIENCE = 60.0
NEW_YORK = ZoneInfo("America/New_York")


class Script:
    def __init__(self, count: int) -> None:
        self.journal = JOURNAL
        self.upto = count * 10

    def chunk(self, after: int, timeout: float) -> Chunk | None:
        if after >= self.upto:
            time.sleep(min(timeout, 0.01))
            return None
        return chunk(after // 10, rows=ROWS)


def sinks(database: Database, lake: TickLake) -> list[Sink]:
    def clock() -> datetime:
        return datetime.now(UTC)

    return [
        LakeSink(database, lake, stream=STREAM, market="us", zone=NEW_YORK, clock=clock),
        PostgresSink(database, stream=STREAM, market="us", currency="USD", zone=NEW_YORK, ticks=True, clock=clock),
    ]


def live(url: str, root: Path, count: int) -> None:
    """Until everything is stored. Merging is part of it, much more often than outside of tests."""
    lake_sink.MANY_SMALL, lake_sink._LOOK_SECONDS = 5, 0.0
    runner_module = sys.modules[SinkRunner.__module__]
    runner_module._TIDY_EVERY = 0.05  # type: ignore[attr-defined]
    runner_module._CAUGHT_UP_NS = 1 << 62  # type: ignore[attr-defined]
    tail = Script(count)
    # No two lives cut the journal into the same batches.
    batch_seconds = random.uniform(0.001, 0.03)
    with Database(url, pool_size=4) as database:
        runners = [
            SinkRunner(sink, tail, start=0, batch_seconds=batch_seconds) for sink in sinks(database, TickLake(root))
        ]
        for runner in runners:
            runner.start()
        deadline = time.monotonic() + PATIENCE
        while any(runner.state().position < tail.upto for runner in runners) and time.monotonic() < deadline:
            time.sleep(0.01)
        done = [runner.stop(5.0, drain_to=tail.upto) for runner in runners]
    os._exit(0 if all(done) else 1)


def main() -> None:
    asked = json.loads(sys.stdin.read())
    chance = random.Random(asked["seed"])
    ended = 0
    for _ in range(asked["kills"]):
        child = os.fork()
        if child == 0:
            live(asked["url"], Path(asked["root"]), asked["count"])
        time.sleep(chance.uniform(0.05, asked["longest"]))
        os.kill(child, signal.SIGKILL)
        ended += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    child = os.fork()
    if child == 0:
        live(asked["url"], Path(asked["root"]), asked["count"])
    last = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.write(json.dumps({"killed": ended, "last": last}))


if __name__ == "__main__":
    main()
