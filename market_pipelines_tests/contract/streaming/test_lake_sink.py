"""The sink of the tick lake against the contract of all sinks, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.store.database import Database
from market_pipelines.store.lake import TickLake
from market_pipelines.streaming.sinks.lake import LakeSink
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.contract.streaming.chunks import ids_of, passing_clock
from market_pipelines_tests.contract.streaming.reach import out_of_reach
from market_pipelines_tests.contract.streaming.sink_contract import Death, SinkContract, SinkTarget

LONG_AGO, FAR_AHEAD = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")


class LakeTarget:
    def __init__(self, root: Path, database: Database, server: PostgresServer) -> None:
        self.lake = TickLake(root)
        self.database = database
        self._server = server
        self._empty: list[Database] = []

    def sink(self, database: Database | None = None) -> LakeSink:
        return LakeSink(
            database or self.database, self.lake, stream="us-polygon", market="us", zone=NEW_YORK, clock=passing_clock()
        )

    def read_back(self) -> list[str]:
        found: list[str] = []
        with self.database.connection() as connection:
            for kind in TickKind:
                found += ids_of(self.lake.table(connection, kind, start=LONG_AGO, end=FAR_AHEAD), kind)
        return found

    def down(self) -> AbstractContextManager[None]:
        return out_of_reach(self.database)

    def refusing(self) -> LakeSink:
        """One on a database without our tables."""
        self._empty.append(Database(self._server.create(migrated=False)))
        return self.sink(self._empty[-1])

    def close(self) -> None:
        for one in self._empty:
            one.close()
            self._server.drop(one.url)


class TestLakeSink(SinkContract):
    deaths: ClassVar = {
        "before a file is synced": Death("os.fsync", True, 3),
        "before a file gets its name": Death("pathlib.Path.rename", True, 2),
        "between two files": Death("market_pipelines.store.lake.sync_folder", False, 2),
        "before the manifest": Death("market_pipelines.streaming.sinks.lake.list_segments", True),
        "between manifest and cursor": Death("market_pipelines.streaming.sinks.lake.list_segments", False),
        "before the commit": Death("market_pipelines.streaming.sinks.lake.move_cursor", False),
    }

    @pytest.fixture
    def target(self, emptied: Database, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[SinkTarget]:
        made = LakeTarget(tmp_path / "lake", emptied, postgres_server)
        yield made
        made.close()
