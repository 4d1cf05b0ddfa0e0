"""R1, for the sinks of the house: whenever their process is killed, nothing is lost and nothing is there twice.

`KILLS` in the environment sets how often it is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Database
from market_pipelines.store.lake import TickLake
from market_pipelines_tests.contract.streaming.chunks import chunk, ids, ids_of
from market_pipelines_tests.contract.streaming.test_postgres_sinks import stored_ticks
from market_pipelines_tests.faults.streaming import dying_sinks

KEPT_IN_POSTGRES = (TickKind.TRADES, TickKind.QUOTES, TickKind.AGGREGATES, TickKind.BANDS)
KILLS = int(os.environ.get("KILLS", "20"))
ROOT = Path(__file__).resolve().parents[3]
CHUNKS = 400


def test_whenever_it_is_killed_nothing_is_lost_and_nothing_is_doubled(fresh_database: Database, tmp_path: Path) -> None:
    root = tmp_path / "lake"
    count = CHUNKS * KILLS // 20
    asked = {"url": fresh_database.url, "root": str(root), "count": count, "kills": KILLS, "longest": 0.3, "seed": 7}
    done = subprocess.run(
        [sys.executable, "-m", dying_sinks.__name__],
        input=json.dumps(asked),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120 + KILLS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["last"] == 0, done.stderr
    assert told["killed"] >= KILLS * 3 // 4, "most lives ended within their work"

    given = [chunk(number, rows=dying_sinks.ROWS) for number in range(count)]
    lake = TickLake(root)
    stored: list[str] = []
    with fresh_database.connection() as connection:
        for kind in TickKind:
            every = lake.table(
                connection, kind, start=datetime(2000, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC)
            )
            stored += ids_of(every, kind)
        merged = connection.execute("SELECT count(*) FROM market.tick_segments WHERE path LIKE '%/m%'").fetchone()
    assert sorted(stored) == ids(given)
    assert merged is not None
    assert merged[0] > 0, "segments were merged meanwhile"
    assert sorted(stored_ticks(fresh_database)) == ids(given, KEPT_IN_POSTGRES)
