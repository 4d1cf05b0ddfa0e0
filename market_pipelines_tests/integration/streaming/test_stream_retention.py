"""How long what streams have stored is kept: it goes when it is old and something else covers it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.retention import Account, apply_retention
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.store.lake import Streamed, list_segments
from market_pipelines.store.lake_columns import encoded
from market_pipelines_tests.contract.streaming.chunks import some_rows, table
from market_pipelines_tests.faults.house import House

OLD = date(2020, 3, 2)


def accounts(house: House) -> dict[str, Account]:
    settings = house.platform.settings.model_copy(update={"retention_ticks_days": 30, "retention_quarantine_days": 30})
    done = apply_retention(replace(house.platform, settings=settings))
    return {one.name: one for one in done.accounts}


def a_segment(house: House, kind: TickKind, symbol: str, *, stream: str | None = "us-polygon") -> Path:
    lake = lake_of(house.platform)
    one = lake.put(
        encoded(table(kind, some_rows(kind, 0, 3, [symbol])), kind),
        kind,
        feed="simulated-polygon",
        market="us",
        session=OLD,
        name=f"s0123456789ab-000000000001-000000000002-{abs(hash(symbol))}",
        source="",
        at=house.clock(),
        streamed=None if stream is None else Streamed(stream, 1, 2),
    )
    with house.platform.database.connection() as connection:
        list_segments(connection, [one])
    return lake.root / one.path


def test_old_segments_of_every_kind_go_once_bars_were_built_from_the_session(house: House) -> None:
    paths = [a_segment(house, kind, "AAPL") for kind in TickKind]
    pulled = a_segment(house, TickKind.TRADES, "MSFT", stream=None)
    contract = a_segment(house, TickKind.QUOTES, "O:AAPL200320C00200000")
    told = accounts(house)["ticks"]
    assert (told.total, told.old, told.deleted) == (len(SCHEMAS) + 2, len(SCHEMAS) + 2, 1), "contracts have no bars"
    with house.platform.database.connection() as connection:
        connection.execute(
            """
            INSERT INTO market.bars_from_ticks VALUES (
                'us', 'AAPL', %s, %s, 'regular', 1, 1, 1, 1, 1, 1, 1, 'trades', true, 'simulated-polygon', now()
            )
            """,
            (OLD, datetime(2020, 3, 2, 14, 30, tzinfo=UTC)),
        )
    told = accounts(house)["ticks"]
    assert (told.deleted, told.kept) == (len(SCHEMAS), 1)
    assert told.why_kept
    assert pulled.exists()
    assert len([*paths, contract]) == 5


def test_rows_in_the_database_go_by_their_own_covers(house: House) -> None:
    old = datetime(2020, 3, 2, 14, 30, tzinfo=UTC)
    with house.platform.database.connection() as connection:
        for symbol in ("AAPL", "O:AAPL200320C00200000"):
            connection.execute(
                """
                INSERT INTO market.stream_trades VALUES (
                    'us', %s, %s, %s, 0, %s, 1, 1, 1, '4', 't', '', 0, 'simulated-polygon'
                )
                """,
                (symbol, OLD, old, old),
            )
        for at in (old, old + timedelta(minutes=1)):
            connection.execute(
                "INSERT INTO market.stream_bars VALUES ('us', 'AAPL', %s, 1, 1, 1, 1, 1, 1, 'simulated-polygon', %s)",
                (at, at),
            )
        connection.execute(
            """
            INSERT INTO market.bars_from_ticks VALUES (
                'us', 'AAPL', %s, %s, 'regular', 1, 1, 1, 1, 1, 1, 1, 'trades', true, 'simulated-polygon', now()
            )
            """,
            (OLD, old),
        )
        connection.execute(
            "INSERT INTO market.stream_rejects VALUES ('us-polygon', 'j', 1, -1, 'massive', %s, 'no JSON', '')", (old,)
        )
    told = accounts(house)
    assert (told["stream_trades"].deleted, told["stream_trades"].kept) == (1, 1)
    assert (told["stream_bars"].deleted, told["stream_bars"].kept) == (1, 1)
    assert (told["stream_rejects"].deleted, told["stream_rejects"].kept) == (1, 0)
