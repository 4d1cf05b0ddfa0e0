"""The sink of QuestDB against the contract of all sinks, and what is its own."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.settings import read_settings
from market_pipelines.streaming.plan import FeedName, StreamPlan
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.protocol import SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.questdb import QuestDbSink
from market_pipelines.streaming.sinks.questdb_tables import TABLES
from market_pipelines_tests.contract.streaming.chunks import OPENS, chunk, row_id, table
from market_pipelines_tests.contract.streaming.sink_contract import Death, SinkContract, opened
from market_pipelines_tests.servers import QuestDbServer


class QuestDbTarget:
    def __init__(self, server: QuestDbServer, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def sink(self, *, password: str | None = None) -> QuestDbSink:
        return QuestDbSink(
            self.server.host,
            CursorFile(self._folder / "questdb.json"),
            market="us",
            user=self.server.user,
            password=password or self.server.password,
            ilp_port=self.server.ilp_port,
            port=self.server.port,
        )

    def read_back(self) -> list[str]:
        self.server.wait_applied()
        known = {name for (name,) in self.server.query("SELECT table_name FROM tables()")}
        found = []
        for kind, of in TABLES.items():
            if of.name in known:
                rows = self.server.query(f"SELECT symbol, ts::long FROM {of.name}")  # noqa: S608  (our own names)
                found += [row_id(kind, str(symbol), int(ts)) for symbol, ts in rows]
        return found

    def down(self) -> AbstractContextManager[None]:
        return self.server.down()

    def refusing(self) -> QuestDbSink:
        return self.sink(password="wrong")


@pytest.fixture
def target(questdb_server: QuestDbServer, tmp_path: Path) -> QuestDbTarget:
    return QuestDbTarget(questdb_server, tmp_path)


class TestQuestDbSink(SinkContract):
    deaths: ClassVar = {
        "before a table's rows": Death("market_pipelines.streaming.sinks.questdb.QuestDbSink._send", True, 3),
        "between two tables": Death("market_pipelines.streaming.sinks.questdb.QuestDbSink._send", False, 2),
        "before the cursor": Death("market_pipelines.streaming.sinks.cursor_file.CursorFile.write", True),
    }

    @pytest.fixture
    def target(self, questdb_server: QuestDbServer, tmp_path: Path) -> QuestDbTarget:
        return QuestDbTarget(questdb_server, tmp_path)


@pytest.fixture
def sink(target: QuestDbTarget) -> Iterator[QuestDbSink]:
    with closing(target.sink()) as made:
        made.open()
        yield made


def test_two_trades_of_one_nanosecond_are_two(target: QuestDbTarget, sink: QuestDbSink) -> None:
    same = {"symbol": "AAPL", "ts": OPENS + 1, "received_at": OPENS, "price": 1.0, "size": 1.0}
    trades = [
        {**same, "seq": 1, "exchange": "4", "trade_id": "1"},
        {**same, "seq": 2, "exchange": "4", "trade_id": "1"},
        {**same, "seq": 1, "exchange": "11", "trade_id": "1"},
        {**same, "seq": 1, "exchange": "4", "trade_id": "2"},
    ]
    given = replace(chunk(0), tables={TickKind.TRADES: table(TickKind.TRADES, trades)})
    sink.write(given)
    sink.write(replace(given, after=10, upto=20))
    target.server.wait_applied()
    assert target.server.query("SELECT count() FROM trades") == [(4,)]


def test_nanoseconds_and_all_columns_are_kept(target: QuestDbTarget, sink: QuestDbSink) -> None:
    quote = {
        **{"symbol": "AAPL", "ts": OPENS + 123_456_789, "received_at": OPENS + 987_654_321, "seq": 7, "bid": None},
        **{"ask": 1.25, "ask_size": 3.0, "ask_exchange": "12", "conditions": "1,81", "marks": 1024},
    }
    sink.write(replace(chunk(0), tables={TickKind.QUOTES: table(TickKind.QUOTES, [quote])}))
    target.server.wait_applied()
    [row] = target.server.query(
        "SELECT ts::long, received_at::long, seq, bid, ask, bid_size, ask_size, ask_exchange, conditions, "
        "market, feed, marks FROM quotes"
    )
    assert row == (
        *(OPENS + 123_456_789, OPENS + 987_654_321, 7, None, 1.25, None, 3.0),
        *("12", "1,81", "us", "simulated-polygon", 1024),
    )


def test_a_bar_that_comes_again_replaces_the_earlier_one(target: QuestDbTarget, sink: QuestDbSink) -> None:
    bar = {"symbol": "AAPL", "start": OPENS, "end": OPENS + 60_000_000_000, "received_at": OPENS, "c": 1.0, "av": 5.0}
    second = {**bar, "end": OPENS + 1_000_000_000, "c": 3.0}
    sink.write(replace(chunk(0), tables={TickKind.AGGREGATES: table(TickKind.AGGREGATES, [bar, second])}))
    sink.write(replace(chunk(1), tables={TickKind.AGGREGATES: table(TickKind.AGGREGATES, [{**bar, "c": 2.0}])}))
    target.server.wait_applied()
    rows = target.server.query("SELECT seconds, close, day_volume FROM bars ORDER BY seconds")
    assert rows == [(1, 3.0, 5.0), (60, 2.0, 5.0)]


def test_a_large_chunk_goes_in_several_transactions(target: QuestDbTarget) -> None:
    with opened(target.sink()) as (sink, _):
        assert isinstance(sink, QuestDbSink)
        sink._rows_a_transaction = 100
        assert sink.write(chunk(0, rows=250, kinds=(TickKind.TRADES,))) == 250
    target.server.wait_applied()
    taken = target.server.query("SELECT sequencerTxn FROM wal_tables() WHERE name = 'trades'")
    assert (target.server.query("SELECT count() FROM trades"), taken) == ([(250,)], [(3,)])


def test_an_older_server_that_knows_microseconds_only_keeps_ticks_apart(target: QuestDbTarget) -> None:
    for of in TABLES.values():
        target.server.query(of.statement("TIMESTAMP"))
    same = {"symbol": "AAPL", "received_at": OPENS, "price": 1.0}
    trades = [{**same, "ts": OPENS + 1, "seq": 1}, {**same, "ts": OPENS + 2, "seq": 2}]
    with opened(target.sink()) as (sink, _):
        sink.write(replace(chunk(0), tables={TickKind.TRADES: table(TickKind.TRADES, trades)}))
    target.server.wait_applied()
    assert target.server.query("SELECT ts::long, seq FROM trades ORDER BY seq") == [
        (OPENS // 1000, 1),
        (OPENS // 1000, 2),
    ]


def test_a_table_that_would_double_rows_is_refused(target: QuestDbTarget) -> None:
    target.server.query("CREATE TABLE trades (ts TIMESTAMP, symbol SYMBOL) TIMESTAMP(ts) PARTITION BY DAY WAL")
    with closing(target.sink()) as sink, pytest.raises(SinkRefused, match="upsert keys are none"):
        sink.open()


def test_a_table_with_other_columns_is_refused(target: QuestDbTarget) -> None:
    statement = TABLES[TickKind.TRADES].statement("TIMESTAMP_NS").replace("price DOUBLE", "price LONG")
    target.server.query(statement)
    with closing(target.sink()) as sink, pytest.raises(SinkRefused, match="another type: price"):
        sink.open()


def test_a_column_that_changed_under_way_is_refused(target: QuestDbTarget, sink: QuestDbSink) -> None:
    target.server.query("ALTER TABLE trades ALTER COLUMN price TYPE TIMESTAMP")
    target.server.wait_applied()
    with pytest.raises(SinkRefused, match="does not take this"):
        sink.write(chunk(0))


def test_a_suspended_table_is_told_of(target: QuestDbTarget, sink: QuestDbSink) -> None:
    sink.write(chunk(0))
    target.server.wait_applied()
    target.server.query("ALTER TABLE trades SUSPEND WAL")
    sink.close()
    with pytest.raises(SinkUnavailable, match="ALTER TABLE trades RESUME WAL"):
        sink.open()
    target.server.query("ALTER TABLE trades RESUME WAL")
    sink.open()


def test_a_password_that_only_http_refuses_is_told_of(target: QuestDbTarget, sink: QuestDbSink) -> None:
    sink.close()
    sink._password = "wrong"
    with patch.object(sink, "_prepare"):
        sink.open()
    with pytest.raises(SinkRefused, match="QUESTDB_PASSWORD"):
        sink.write(chunk(0))


def test_tls_is_asked_for_and_its_lack_told_of(target: QuestDbTarget, tmp_path: Path) -> None:
    with closing(target.sink()) as sink:
        sink._tls = True
        with pytest.raises(SinkRefused, match="QUESTDB_TLS"):
            sink.open()


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    settings = read_settings(None, questdb_host="127.0.0.1")
    plan = StreamPlan("us", FeedName.POLYGON, ("AAPL",))
    with (
        patch.dict(sys.modules, {"questdb": None}),
        closing(QuestDbSink.from_settings(settings, plan, CursorFile(tmp_path / "c"))) as sink,
        pytest.raises(SinkRefused, match=r"pip install 'market_pipelines\[questdb\]'"),
    ):
        sink.open()


def test_a_server_that_stands_still_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It greets as PostgreSQL does, takes the first statement, and says nothing more."""
    monkeypatch.setattr("market_pipelines.streaming.sinks.questdb.SECONDS_TO_PREPARE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"R" + struct.pack("!ii", 8, 0) + b"Z" + struct.pack("!i", 5) + b"I")
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        cursors, port = CursorFile(tmp_path / "questdb.json"), server.getsockname()[1]
        with (
            closing(QuestDbSink("127.0.0.1", cursors, market="us", user="u", password="p", port=port)) as sink,
            pytest.raises(SinkUnavailable, match="cannot be reached"),
        ):
            sink.open()
        thread.join()
