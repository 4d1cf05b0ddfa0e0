"""What is the tick lake's own: sessions, gaps' edges, versions, merging of segments, sweeping, and its views."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market_pipelines.market.live import SCHEMAS, TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.store import lake_compaction
from market_pipelines.store.database import Database
from market_pipelines.store.disk import DiskFloor
from market_pipelines.store.lake import LakeError, Segment, TickLake, segments
from market_pipelines.store.lake_columns import encoded
from market_pipelines.store.lake_compaction import compact, sweep
from market_pipelines.store.lake_overview import overview
from market_pipelines.store.lake_views import connect_lake, lake_views, script
from market_pipelines.store.streams import Claim, acquire
from market_pipelines.streaming.sinks.lake import LakeSink
from market_pipelines.streaming.sinks.protocol import SinkUnavailable
from market_pipelines_tests.contract.streaming.chunks import FEED, NOW, OPENS, chunk, ids, ids_of, some_rows, table
from market_pipelines_tests.contract.streaming.sink_contract import Death, Killed, dying_at
from market_pipelines_tests.contract.streaming.test_lake_sink import FAR_AHEAD, LONG_AGO, NEW_YORK

HOUR = 3_600_000_000_000
TRADES, QUOTES, AGGREGATES = TickKind.TRADES, TickKind.QUOTES, TickKind.AGGREGATES
MONDAY = date(2026, 3, 2)


class House:
    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self.lake = TickLake(root)

    def sink(self) -> LakeSink:
        made = LakeSink(self.database, self.lake, stream="us-polygon", market="us", zone=NEW_YORK, clock=lambda: NOW)
        made.open()
        return made

    def written(self, number: int, kind: TickKind, rows: list[dict[str, object]]) -> int:
        return self.sink().write(replace(chunk(number), tables={kind: table(kind, rows)}))

    def listed(self, kind: TickKind) -> list[Segment]:
        with self.database.connection() as connection:
            return segments(connection, kind)

    def stored(self, kind: TickKind) -> pa.Table:
        with self.database.connection() as connection:
            return self.lake.table(connection, kind, start=LONG_AGO, end=FAR_AHEAD)

    def values(self, kind: TickKind, column: str) -> list[Any]:
        return sorted(self.stored(kind)[column].to_pylist())

    def files(self) -> set[str]:
        return {path.relative_to(self.lake.root).as_posix() for path in self.lake.root.rglob("*.parquet")}


@pytest.fixture
def house(emptied: Database, tmp_path: Path) -> House:
    return House(emptied, tmp_path / "it's the [lake]")


# --- segments ---------------------------------------------------------------------------------------------------


def test_the_names_of_new_folders_are_as_durable_as_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("market_pipelines.store.disk.sync_folder", synced.append)
    lake = TickLake(tmp_path / "lake")
    rows = encoded(table(TRADES, some_rows(TRADES, 0, 1)), TRADES)
    put = lake.put(rows, TRADES, feed=FEED, market="us", session=MONDAY, name="one", source="a test", at=NOW)
    session = (lake.root / put.path).parent
    assert synced == [tmp_path, lake.root, lake.root / "trades", session.parent]


def test_a_tick_belongs_to_the_exchanges_own_date(house: House) -> None:
    late = OPENS + 12 * HOUR  # half past nine in the evening in New York, and Tuesday in Greenwich
    rows = [{"symbol": "AAPL", "ts": at, "seq": 1, "price": 1.0} for at in (OPENS, late, late + 3 * HOUR)]
    house.written(0, TRADES, [{**row, "received_at": row["ts"]} for row in rows])
    assert {one.session: one.rows for one in house.listed(TRADES)} == {MONDAY: 2, date(2026, 3, 3): 1}
    assert all(f"session={one.session}" in one.path for one in house.listed(TRADES))


def test_a_segment_is_sorted_and_the_manifest_says_what_is_in_it(house: House) -> None:
    rows = some_rows(QUOTES, 0, 9)
    rows[1]["ts"], rows[7]["ts"] = rows[7]["ts"], rows[1]["ts"]  # one came late
    house.written(3, QUOTES, rows[::-1])
    (one,) = house.listed(QUOTES)
    stored = pq.ParquetFile(house.lake.root / one.path).read()
    keys = list(zip(stored["symbol"].to_pylist(), stored["ts"].cast(pa.int64()).to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert stored.schema.equals(SCHEMAS[QUOTES]), "whoever reads without our schema sees its types"
    assert (one.rows, one.symbols, one.feed) == (9, ["AAPL", "BRK.B", "ŻÓŁĆ"], FEED)
    assert (one.stream, one.first_position, one.last_position) == ("us-polygon", 31, 40)
    assert one.first_ts == datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    assert (one.last_ts - one.first_ts).microseconds == 8_000


def test_history_adds_to_a_gap_and_not_to_its_edges(house: House) -> None:
    streamed = some_rows(TRADES, 0, 6)
    house.written(0, TRADES, streamed)
    # To the nanosecond, as history has it, where the stream had milliseconds.
    brought = [
        {**row, "ts": int(str(row["ts"])) + 123, "marks": int(TickMark.FILLED)} for row in some_rows(TRADES, 3, 6)
    ]
    assert house.written(1, TRADES, [*brought, brought[-1]]) == 3
    assert house.values(TRADES, "trade_id") == [f"t{n}" for n in range(9)]
    assert house.written(2, TRADES, brought) == 0
    quotes = [{**row, "marks": int(TickMark.FILLED)} for row in some_rows(QUOTES, 0, 4)]
    house.written(3, QUOTES, [*some_rows(QUOTES, 0, 2), *quotes])
    assert house.values(QUOTES, "seq") == [1, 2, 3, 4], "also where both come together"


def test_ticks_without_a_sequence_are_told_apart_by_what_they_say(house: House) -> None:
    first = {"symbol": "AAPL", "ts": OPENS, "received_at": OPENS, "seq": 0, "bid": 1.0, "ask": None}
    again, other = {**first, "marks": int(TickMark.FILLED)}, {**first, "bid": 1.1, "marks": int(TickMark.FILLED)}
    house.written(0, QUOTES, [first])
    assert house.written(1, QUOTES, [again, other]) == 1
    assert house.values(QUOTES, "bid") == [1.0, 1.1]


def test_of_an_aggregate_the_newest_version_counts_and_all_are_kept(house: House) -> None:
    (row,) = some_rows(AGGREGATES, 0, 1)
    house.written(0, AGGREGATES, [{**row, "v": 2.0, "received_at": OPENS + 70 * 10**9}])
    house.written(1, AGGREGATES, [{**row, "v": 1.0, "received_at": OPENS + 61 * 10**9}])
    assert house.values(AGGREGATES, "v") == [1.0, 2.0]
    with house.database.connection() as connection:
        assert house.lake.read(connection, AGGREGATES, start=LONG_AGO, end=FAR_AHEAD)["v"].tolist() == [2.0]
        with connect_lake(connection, house.lake) as memory:
            assert memory.execute("SELECT v FROM aggregates").fetchall() == [(2.0,)]


def test_a_cursor_that_somebody_else_has_moved_stops_the_batch(house: House) -> None:
    """What a killed process left on its way into the database may be committed after its successor has begun."""
    slow, quick = house.sink(), house.sink()
    quick.write(chunk(0))
    with pytest.raises(SinkUnavailable, match="another process"):
        slow.write(replace(chunk(0), upto=25))
    assert sorted(ids_of(house.stored(TRADES), TRADES)) == ids([chunk(0)], [TRADES])


def test_whose_lease_was_taken_while_a_batch_was_being_written_does_not_list_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who took it over may have filled from history what this batch holds."""
    sink = house.sink()
    sink.write(chunk(0))
    files = house.lake.put

    def slowly(*told: Any, **named: Any) -> Segment:
        with house.database.connection() as connection:
            assert acquire(connection, claim("another", journal="of another machine")) is None
        return files(*told, **named)

    monkeypatch.setattr(house.lake, "put", slowly)
    with pytest.raises(SinkUnavailable, match="streamed by another process"):
        sink.write(chunk(1))
    assert everything(house) == ids([chunk(0)])
    cursor = house.sink().open()
    assert cursor is not None and cursor.position == chunk(0).upto


def claim(holder: str, journal: str) -> Claim:
    return Claim(
        stream="us-polygon",
        market="us",
        feed="polygon",
        asset_class="stocks",
        provider=FEED,
        holder=holder,
        host=holder,
        pid=1,
        hosted_by="process",
        run_id=None,
        journal=journal,
    )


def test_segments_of_before_ticks_were_marked_are_still_read(house: House) -> None:
    frame = table(TRADES, some_rows(TRADES, 0, 3)).to_pandas().drop(columns=["marks", "feed"])
    with house.database.connection() as connection:
        one = house.lake.write(
            connection, frame, TRADES, feed="polygon-rest", market="us", session=MONDAY, name="old", source="", at=NOW
        )
    path = house.lake.root / one.path
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["marks"]), path)
    for beside in (False, True):
        if beside:
            house.written(0, TRADES, some_rows(TRADES, 3, 3))
        with house.database.connection() as connection:
            found = house.lake.read(connection, TRADES, start=LONG_AGO, end=FAR_AHEAD)
            assert found["marks"].tolist() == [0] * (6 if beside else 3)
            with connect_lake(connection, house.lake) as memory:
                seen = memory.execute("SELECT marks, mark_bits FROM trades").fetchall()
        assert seen == [([], 0)] * len(found)


def test_a_full_disk_is_waited_for(emptied: Database, tmp_path: Path) -> None:
    house = House(emptied, tmp_path / "lake")
    house.lake = TickLake(house.lake.root, floor=DiskFloor(bytes=1 << 60))
    with pytest.raises(SinkUnavailable, match="is full"):
        house.sink().write(chunk(0))
    house.lake = TickLake(house.lake.root)
    house.sink().write(chunk(0))
    assert everything(house) == ids([chunk(0)])


# --- merging ----------------------------------------------------------------------------------------------------


def small_ones(house: House, count: int = 6) -> list[str]:
    sink = house.sink()
    for number in range(count):
        sink.write(chunk(number))
    return ids([chunk(number) for number in range(count)])


def everything(house: House) -> list[str]:
    return sorted(one for kind in TickKind for one in ids_of(house.stored(kind), kind))


def test_small_segments_become_one_and_say_the_same(house: House) -> None:
    expected = small_ones(house)
    before = house.files()
    done = compact(house.database, house.lake, at=NOW)
    assert (done.segments_before, done.segments_after, done.rows) == (
        6 * len(TickKind),
        len(TickKind),
        6 * 12 * len(TickKind),
    )
    (one,) = house.listed(QUOTES)
    assert (one.rows, one.first_position, one.last_position, one.stream) == (72, 1, 60, "us-polygon")
    assert everything(house) == expected
    assert before < house.files(), "whoever has a list of the old ones can still read them"
    assert compact(house.database, house.lake, at=NOW).segments_before == 0


@pytest.mark.parametrize(
    "death",
    [
        Death("os.fsync", True),
        Death("pathlib.Path.rename", False),
        Death("market_pipelines.store.lake_compaction._compare", False),
        Death("os.utime", False, 3),
        Death("market_pipelines.store.lake_compaction.list_segments", True),
        Death("market_pipelines.store.lake_compaction.list_segments", False),
    ],
    ids=lambda death: death.where.rpartition(".")[2],
)
def test_merging_that_is_killed_anywhere_changes_nothing_and_can_be_done_again(death: Death, house: House) -> None:
    expected = small_ones(house, 3)
    with dying_at(death), pytest.raises(Killed):
        compact(house.database, house.lake, at=NOW)
    assert everything(house) == expected
    compact(house.database, house.lake, at=NOW)
    assert everything(house) == expected
    assert len(house.listed(QUOTES)) == 1


def test_a_merged_file_that_is_not_the_same_never_counts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = small_ones(house, 3)
    monkeypatch.setattr(
        "market_pipelines.store.lake_compaction.encoded", lambda told, kind: encoded(told, kind).slice(1)
    )
    with pytest.raises(LakeError, match="they stay"):
        compact(house.database, house.lake, at=NOW)
    assert everything(house) == expected
    assert not [path for path in house.files() if "/m" in path]


def test_of_two_who_merge_the_same_only_one_takes_their_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = small_ones(house, 4)
    compare = lake_compaction._compare

    def overtaken(*told: object) -> None:
        monkeypatch.setattr(lake_compaction, "_compare", compare)
        house.sink().write(chunk(4))
        compact(house.database, house.lake, at=NOW, kind=TickKind.TRADES)
        compare(*told)  # type: ignore[arg-type]

    monkeypatch.setattr(lake_compaction, "_compare", overtaken)
    compact(house.database, house.lake, at=NOW, kind=TickKind.TRADES)
    assert everything(house) == sorted([*expected, *ids([chunk(4)])])
    assert len(house.listed(TRADES)) == 1


def test_the_sink_merges_what_it_has_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market_pipelines.streaming.sinks.lake.MANY_SMALL", 4)
    monkeypatch.setattr("market_pipelines.streaming.sinks.lake._LOOK_SECONDS", 0.0)
    expected = small_ones(house, 3)
    sink = house.sink()
    for _ in range(5):
        sink.tidy()
    assert len(house.listed(QUOTES)) == 3
    sink.write(chunk(3))
    for _ in range(5):
        sink.tidy()
    assert [len(house.listed(kind)) for kind in TickKind] == [1] * len(TickKind)
    assert everything(house) == sorted([*expected, *ids([chunk(3)])])


def test_a_segment_that_cannot_be_read_holds_up_neither_storing_nor_other_merges(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market_pipelines.streaming.sinks.lake.MANY_SMALL", 3)
    monkeypatch.setattr("market_pipelines.streaming.sinks.lake._LOOK_SECONDS", 0.0)
    small_ones(house, 3)
    (house.lake.root / house.listed(QUOTES)[1].path).unlink()
    sink = house.sink()
    for _ in range(len(TickKind)):
        sink.tidy()
    assert [len(house.listed(kind)) for kind in TickKind if kind is not QUOTES] == [1] * (len(TickKind) - 1)
    assert len(house.listed(QUOTES)) == 3, "what is left of them stays as it is"
    assert sink.write(chunk(3))


def test_files_that_no_longer_count_go_after_a_while(house: House) -> None:
    expected = small_ones(house, 3)
    compact(house.database, house.lake, at=NOW)
    folder = (house.lake.root / house.listed(QUOTES)[0].path).parent
    foreign, unfinished = folder / "rest-0011.parquet", folder / ".s0123456789ab-000000000001-000000000002.77.0a1b2c3d"
    for path in (foreign, unfinished):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    assert sweep(house.database, house.lake, [FEED]).count == 0, "a reader may still have a list of them"
    assert not unfinished.exists()
    assert sweep(house.database, house.lake, ["polygon"], grace_seconds=-60).count == 0, "not of this database"
    assert sweep(house.database, house.lake, [FEED], grace_seconds=-60).count == 3 * len(TickKind)
    assert foreign.exists(), "it is not a stream's"
    assert everything(house) == expected
    assert len(house.files()) == len(TickKind) + 1


def test_a_reader_that_meets_a_merge_reads_the_merged_file(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = small_ones(house, 3)
    listed = segments
    calls = 0

    def overtaken(*told: object, **named: object) -> list[Segment]:
        nonlocal calls
        calls += 1
        found = listed(*told, **named)  # type: ignore[arg-type]
        if calls == 1:
            compact(house.database, house.lake, at=NOW)
            sweep(house.database, house.lake, [FEED], grace_seconds=-60)
        return found

    monkeypatch.setattr("market_pipelines.store.lake.segments", overtaken)
    assert everything(house) == expected
    assert calls == len(TickKind) + 1


# --- the views --------------------------------------------------------------------------------------------------


def test_the_views_show_what_is_listed_and_nothing_else(house: House, tmp_path: Path) -> None:
    small_ones(house, 2)
    stray = house.lake.root / house.listed(QUOTES)[0].path
    (stray.parent / "s0123456789ab-000000000001-000000000002.parquet").write_bytes(stray.read_bytes())
    with house.database.connection() as connection:
        with connect_lake(connection, house.lake) as memory:
            for kind in TickKind:
                assert memory.view(kind.value).count("*").fetchall() == [(24,)]
            row = memory.execute(
                "SELECT symbol, ts::VARCHAR, ts_ns, session::VARCHAR, market, feed FROM quotes ORDER BY ts LIMIT 1"
            ).fetchone()
            assert row == ("AAPL", "2026-03-02 14:30:00+00", OPENS, "2026-03-02", "us", FEED)
            minutes = memory.execute("SELECT DISTINCT date_trunc('minute', ts)::VARCHAR FROM trades").fetchall()
            assert minutes == [("2026-03-02 14:30:00+00",)]
        with connect_lake(connection, house.lake, market="pl") as memory:
            assert memory.execute("SELECT count(*) FROM trades").fetchone() == (0,)
        text = script(list(lake_views(connection, house.lake)), house.lake.root, NOW)
    assert text.count("CREATE OR REPLACE VIEW") == len(TickKind)
    assert "2026-03-02 15:00:00 UTC" in text


def test_marks_have_names_in_the_views(house: House) -> None:
    (row,) = some_rows(QUOTES, 0, 1)
    house.written(0, QUOTES, [{**row, "marks": int(TickMark.CROSSED | TickMark.NOT_POSITIVE)}])
    with house.database.connection() as connection, connect_lake(connection, house.lake) as memory:
        found = memory.execute("SELECT marks FROM quotes WHERE list_contains(marks, 'CROSSED')").fetchone()
    assert found == (["CROSSED", "NOT_POSITIVE"],)


def test_a_span_that_was_pulled_twice_is_in_the_views_once(house: House) -> None:
    frame = table(TRADES, some_rows(TRADES, 0, 3)).to_pandas()
    with house.database.connection() as connection:
        for name in ("one", "two"):
            told = frame.assign(received_at=pd.Timestamp.now("UTC"))
            house.lake.write(
                connection, told, TRADES, feed="polygon-rest", market="us", session=MONDAY, name=name, source="", at=NOW
            )
        with connect_lake(connection, house.lake) as memory:
            assert memory.execute("SELECT count(*) FROM trades").fetchone() == (3,)


def test_the_overview_counts_segments_and_rows(house: House) -> None:
    small_ones(house, 3)
    with house.database.connection() as connection:
        shelves = overview(connection, sessions=1)
    assert [(one.kind, one.segments, one.small, one.rows) for one in shelves] == [
        (kind, 3, 3, 36) for kind in sorted(TickKind)
    ]
    assert all(one.bytes > 0 and time.time() > one.first_ts.timestamp() for one in shelves)
