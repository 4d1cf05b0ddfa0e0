"""The tick lake as a whole: what is in it, a DuckDB over it, and its housekeeping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

import duckdb

from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.store.lake_compaction import Compaction
from market_pipelines.store.lake_compaction import compact as compact_segments
from market_pipelines.store.lake_overview import Shelf, overview
from market_pipelines.store.lake_views import connect_lake, lake_views, script


def lake_state(platform: Platform, *, market: str | None = None, sessions: int = 5) -> list[Shelf]:
    """What is listed, by market, kind, feed and session; of each kind and feed the newest sessions."""
    with platform.database.connection() as connection:
        return overview(connection, market=market, sessions=sessions)


def compact(
    platform: Platform, *, kind: TickKind | None = None, session: date | None = None, market: str | None = None
) -> Compaction:
    """Merges what streams have left in small segments. Safe at any time, also while they write."""
    return compact_segments(
        platform.database, lake_of(platform), at=platform.clock(), market=market, kind=kind, session=session
    )


@contextmanager
def duckdb_of(
    platform: Platform,
    *,
    market: str | None = None,
    symbols: Sequence[str] = (),
    first_session: date | None = None,
    last_session: date | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with the lake's views, for as long as the block lasts."""
    with platform.database.connection() as connection:
        memory = connect_lake(
            connection,
            lake_of(platform),
            market=market,
            symbols=symbols,
            first_session=first_session,
            last_session=last_session,
        )
    with memory:
        yield memory


def views_script(platform: Platform, *, market: str | None = None) -> str:
    lake = lake_of(platform)
    with platform.database.connection() as connection:
        return script(list(lake_views(connection, lake, market=market)), lake.root, platform.clock())
