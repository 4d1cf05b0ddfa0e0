"""Which sinks a stream has: those of the house always, the others where a setting names their target."""

from __future__ import annotations

from pathlib import Path

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.streaming.bus import EventBus
from market_pipelines.streaming.closes import StoredCloses
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.gaps import GapSink
from market_pipelines.streaming.sinks.lake import LakeSink
from market_pipelines.streaming.sinks.postgres import PostgresSink
from market_pipelines.streaming.sinks.protocol import Sink

CURSORS = "cursors"
IN_DATABASE = ("lake", "postgres", "gaps")
"""Those whose cursor is where the lease is."""


def build_sinks(
    platform: Platform,
    plan: StreamPlan,
    market: MarketDefinition,
    *,
    journal: str,
    journal_folder: Path,
    bus: EventBus | None,
) -> list[Sink]:
    """None of them is open yet; one whose package is missing says so when it is opened. `journal`: the one that they
    are going to take from."""
    settings, database = platform.settings, platform.database
    zone = trading_calendar(market.mic, platform.clock()).zone
    sinks: list[Sink] = [
        LakeSink(
            database,
            lake_of(platform),
            stream=plan.name,
            market=market.name,
            zone=zone,
            clock=platform.clock,
            journal=journal,
        ),
        PostgresSink(
            database,
            stream=plan.name,
            market=market.name,
            currency=market.currency,
            zone=zone,
            ticks=settings.stream_ticks_in_database,
            clock=platform.clock,
            journal=journal,
        ),
        GapSink(
            database,
            plan,
            calendar=lambda at: trading_calendar(market.mic, at),
            trades_at_all_hours=platform.simulated,
            clock=platform.clock,
            journal=journal,
        ),
    ]

    def cursors(sink: str) -> CursorFile:
        return CursorFile(journal_folder / CURSORS / f"{sink}.json")

    # The modules of targets that most houses do not have are imported where they are needed.
    if settings.questdb_host is not None:
        from market_pipelines.streaming.sinks.questdb import QuestDbSink  # noqa: PLC0415

        sinks.append(QuestDbSink.from_settings(settings, plan, cursors("questdb")))
    if settings.redis_url is not None:
        from market_pipelines.streaming.sinks.redis import RedisSink  # noqa: PLC0415

        sinks.append(RedisSink.from_settings(settings, plan))
    if settings.pocketbase_url is not None:
        from market_pipelines.streaming.sinks.pocketbase import PocketBaseSink  # noqa: PLC0415

        closes = StoredCloses(database, market.name, market.mic)
        sinks.append(PocketBaseSink.from_settings(settings, plan, market, cursors("pocketbase"), closes))
    if settings.db_server is not None:
        from market_pipelines.streaming.sinks.db_server import DbServerSink  # noqa: PLC0415

        sinks.append(DbServerSink.from_settings(settings, cursors("db_server")))
    if bus is not None:
        from market_pipelines.streaming.sinks.bus import BusSink  # noqa: PLC0415

        sinks.append(BusSink(bus, plan, market, StoredCloses(database, market.name, market.mic)))
    return sinks
