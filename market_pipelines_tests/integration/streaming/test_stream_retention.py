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
from market_pipelines.store.stream_gaps import (
    GapStatus,
    NoticedGap,
    gap_of,
    gaps_due,
    record_closed,
    record_opened,
    settle,
)
from market_pipelines_tests.contract.streaming.chunks import some_rows, table
from market_pipelines_tests.faults.house import House

OLD = date(2020, 3, 2)


def accounts(house: House, **more: int) -> dict[str, Account]:
    kept = {"retention_ticks_days": 30, "retention_quarantine_days": 30, **more}
    settings = house.platform.settings.model_copy(update=kept)
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
    assert len([*paths, contract]) == 6


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


def test_gaps_go_when_they_are_settled_and_nothing_needs_them(house: House) -> None:
    """By their own age, 90 days where nobody says otherwise."""
    now, old = house.clock(), datetime(2020, 3, 2, 15, 0, tzinfo=UTC)
    kept = {"retention_ticks_days": 0}
    a_segment(house, TickKind.TRADES, "AAPL")
    for key, begins, sink, status in (
        ("old and filled", old, None, GapStatus.FILLED),
        ("old and lost", old, None, GapStatus.UNFILLABLE),
        ("old, and only redis lacks it", old, "redis", GapStatus.UNFILLABLE),
        ("old and open", old, None, GapStatus.OPEN),
        ("old, and of another day than any tick", old - timedelta(days=30), None, GapStatus.PARTIAL),
        ("new and filled", now - timedelta(days=89), None, GapStatus.FILLED),
    ):
        a_gap(house, key, begins, sink, status)
    for _ in range(2):
        dry = next(one for one in apply_retention(house.platform, dry_run=True).accounts if one.name == "stream_gaps")
        assert (dry.old, dry.deleted) == (5, 3)
        assert dry.why_kept.endswith("1 of streams that nobody runs would be settled as unfillable")
    told = accounts(house, **kept)["stream_gaps"]
    assert (told.keeps, told.total, told.old, told.deleted, told.kept) == ("90 days", 6, 4, 3, 1)
    assert "not filled" in told.why_kept
    assert told.why_kept.endswith("1 of streams that nobody runs were settled as unfillable")
    assert {row[0] for row in house.rows("SELECT gap_key FROM market.stream_gaps")} == {
        "old and lost", "old and open", "new and filled",
    }  # fmt: skip
    with house.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.tick_segments")
    assert accounts(house, **kept)["stream_gaps"].deleted == 1, "no bar can be built of that time any more"
    assert accounts(house, retention_stream_gaps_days=0)["stream_gaps"].keeps == "for ever"


def a_gap(house: House, key: str, begins: datetime, sink: str | None, status: GapStatus) -> None:
    ends = begins + timedelta(minutes=1)
    noticed = NoticedGap(key, "us-polygon", "us", "polygon", "disconnected", begins, ("trades",), sink=sink)
    with house.platform.database.connection() as connection:
        record_closed(connection, noticed, ends, ends)
        row = gap_of(connection, key)
        assert row is not None
        if status is not GapStatus.OPEN:
            settle(connection, row.gap_id, status, "", 0, None, ends)


def test_what_a_stream_left_open_is_settled_when_nobody_has_run_it_for_days_and_asked_for_when_it_is_back(
    house: House,
) -> None:
    now = house.clock()
    died, begins = now - timedelta(days=5), now - timedelta(days=6)
    with house.platform.database.connection() as connection:
        for stream, heard in (("us-polygon", died), ("us-yahoo", now)):
            connection.execute(
                """
                INSERT INTO market.stream_status (stream, market, feed, asset_class, provider, holder, host, pid,
                    hosted_by, journal, state, started_at, heartbeat_at, lease_until)
                VALUES (%s, 'us', 'polygon', 'stocks', 'p', 'h', 'here', 1, 'process', 'j', 'live', %s, %s, %s)
                """,
                (stream, heard, heard, heard),
            )
            goes_on = NoticedGap(f"{stream} goes on", stream, "us", "polygon", "disconnected", begins, ("trades",))
            record_opened(connection, goes_on, begins)
    a_gap(house, "ended", begins, None, GapStatus.OPEN)
    accounts(house)
    with house.platform.database.connection() as connection:
        lost, ended, other = (gap_of(connection, key) for key in ("us-polygon goes on", "ended", "us-yahoo goes on"))
        assert lost is not None
        assert ended is not None
        assert other is not None
        assert (other.status, other.ends_at) == (GapStatus.OPEN, None)
        assert (lost.status, lost.ends_at, lost.retry_at) == (GapStatus.UNFILLABLE, died, None)
        assert f"us-polygon has not run since {died:%Y-%m-%d %H:%M} UTC" in lost.reason
        assert [one.gap_key for one in gaps_due(connection, "us-polygon", now, now)] == ["ended"]
        record_closed(connection, replace(goes_on, gap_key="us-polygon goes on", stream="us-polygon"), now, now)
        again = gap_of(connection, "us-polygon goes on")
        assert again is not None
        assert (again.status, again.ends_at, again.reason) == (GapStatus.OPEN, now, "")
