"""The sink of a db_server against the contract of all sinks, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import pytest
import urllib3

from market_pipelines.market.records import TickKind
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.db_server import DbServerSink
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable
from market_pipelines_tests.contract.streaming.chunks import OPENS, STEP, chunk, joined, row_id, table
from market_pipelines_tests.contract.streaming.sink_contract import Death, SinkContract
from market_pipelines_tests.contract.streaming.test_redis_sink import nanoseconds
from market_pipelines_tests.db_server import DbServer

_GIVE = "market_pipelines.streaming.sinks.db_server.DbServerSink._give"


class DbServerTarget:
    def __init__(self, server: DbServer, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def sink(self) -> DbServerSink:
        return DbServerSink(self.server.address, CursorFile(self._folder / "db_server.json"), rows_a_request=3)

    def read_back(self) -> list[str]:
        found = []
        for data_type, record in self.server.rows():
            ts = nanoseconds(record["timestamp"])
            if "previous_close" in record:
                found.append(row_id(TickKind.SNAPSHOTS, record["ticker"], ts))
            else:
                # What is below the millisecond tells ticks apart and is no part of their time.
                kind = {"quote": TickKind.QUOTES, "trade": TickKind.TRADES}[data_type]
                found.append(row_id(kind, record["ticker"], ts - ts % STEP))
        return found

    def down(self) -> AbstractContextManager[None]:
        return self.server.down()

    def refusing(self) -> None:
        return None


@pytest.fixture
def db_server(tmp_path: Path) -> Iterator[DbServer]:
    server = DbServer(tmp_path / "old.db")
    server.start()
    yield server
    server.stop()


class TestDbServerSink(SinkContract):
    kinds = (TickKind.QUOTES, TickKind.TRADES, TickKind.SNAPSHOTS)
    deaths: ClassVar = {
        "before a symbol": Death(_GIVE, True, 4),
        "between two symbols": Death(_GIVE, False, 2),
        "before the cursor": Death("market_pipelines.streaming.sinks.cursor_file.CursorFile.write", True),
    }

    @pytest.fixture
    def target(self, db_server: DbServer, tmp_path: Path) -> DbServerTarget:
        return DbServerTarget(db_server, tmp_path)


@pytest.fixture
def target(db_server: DbServer, tmp_path: Path) -> DbServerTarget:
    return DbServerTarget(db_server, tmp_path)


@pytest.fixture
def sink(target: DbServerTarget) -> Iterator[DbServerSink]:
    with closing(target.sink()) as made:
        made.open()
        yield made


def test_the_command_is_the_one_of_the_contract(target: DbServerTarget, sink: DbServerSink) -> None:
    sink.write(chunk(0, rows=1, kinds=(TickKind.QUOTES, TickKind.TRADES)))
    quotes, trades = target.server.requests
    assert quotes == {
        "command": "save_realtime_data",
        "params": {
            "ticker": "AAPL",
            "data_type": "quote",
            "data": [
                {
                    "ticker": "AAPL",
                    "timestamp": "2026-03-02T14:30:00.000001000Z",
                    "bid": 99.99,
                    "ask": 100.01,
                    "bid_size": 100.0,
                    "ask_size": 200.0,
                }
            ],
            "index_col": "timestamp",
            "on_duplicate": "ignore",
        },
    }
    assert trades["params"]["data_type"] == "trade"
    assert set(trades["params"]["data"][0]) == {"ticker", "timestamp", "price", "size"}


def test_one_request_for_a_symbol_and_kind(target: DbServerTarget) -> None:
    with closing(DbServerSink(target.server.address, CursorFile(Path(target.server.address)))) as sink:
        sink._cursors = target.sink()._cursors
        sink.open()
        sink.write(chunk(0, rows=30, kinds=(TickKind.QUOTES, TickKind.TRADES)))
    assert len(target.server.requests) == 6
    assert all(len(request["params"]["data"]) == 10 for request in target.server.requests)


def test_trades_of_one_millisecond_are_all_kept(target: DbServerTarget, sink: DbServerSink) -> None:
    trades = [
        {"symbol": "AAPL", "ts": OPENS, "received_at": OPENS, "seq": 500_000 + number, "price": 1.0, "size": 1.0}
        for number in range(5)
    ]
    sink.write(replace(chunk(0), tables={TickKind.TRADES: table(TickKind.TRADES, trades)}))
    times = [record["timestamp"] for _, record in target.server.rows()]
    assert len(set(times)) == 5
    assert times[3] == "2026-03-02T14:30:00.000003500Z"


def test_a_time_that_is_finer_than_a_millisecond_stays_as_it_is(target: DbServerTarget, sink: DbServerSink) -> None:
    trade = {"symbol": "AAPL", "ts": OPENS + 42, "received_at": OPENS, "seq": 7, "price": 1.0, "size": 1.0}
    sink.write(replace(chunk(0), tables={TickKind.TRADES: table(TickKind.TRADES, [trade])}))
    assert target.server.rows()[0][1]["timestamp"] == "2026-03-02T14:30:00.000000042Z"


@pytest.mark.parametrize(
    ("status", "content"), [(503, {}), (429, {}), (200, {"success": False, "message": "disk full"})]
)
def test_what_was_accepted_is_not_sent_again_after_an_error_in_the_middle(
    status: int, content: dict[str, object], target: DbServerTarget, sink: DbServerSink
) -> None:
    fine = (200, {"success": True})
    target.server.answers = [fine, fine, fine, (status, content)]
    with pytest.raises(SinkUnavailable, match="the db_server"):
        sink.write(chunk(0))
    accepted = [_rows_of(request) for request in target.server.requests[:3]]
    target.server.requests.clear()
    sink.close()
    sink.open()
    sink.write(joined(chunk(0), chunk(1)))
    again = [row for request in target.server.requests for row in _rows_of(request)]
    assert not {row for part in accepted for row in part} & set(again)
    assert len(again) == len(set(again)) == 2 * 36 - sum(len(part) for part in accepted)


def test_a_batch_that_is_given_differently_is_sent_from_its_beginning(
    target: DbServerTarget, sink: DbServerSink
) -> None:
    fine: tuple[int, dict[str, object]] = (200, {"success": True})
    target.server.answers = [fine, fine, (503, {})]
    first = chunk(0, kinds=(TickKind.TRADES,))
    with pytest.raises(SinkUnavailable):
        sink.write(first)
    target.server.requests.clear()
    other = replace(first, tables={TickKind.TRADES: first.table(TickKind.TRADES).slice(1)})
    sink.write(other)
    again = [row for request in target.server.requests for row in _rows_of(request)]
    assert len(again) == first.rows - 1


def test_a_page_in_its_place_stores_nothing(db_server: DbServer, tmp_path: Path) -> None:
    cursors = CursorFile(tmp_path / "cursor.json")
    with closing(DbServerSink(db_server.address, cursors)) as sink:
        sink.open()
        page = b"<!doctype html><title>Sign in to the hotel's network</title>"
        with (
            patch.object(urllib3.PoolManager, "request", return_value=urllib3.HTTPResponse(page, status=200)),
            pytest.raises(SinkUnavailable, match="is no db_server but a page"),
        ):
            sink.write(chunk(0))
    assert cursors.read() is None


def test_a_folder_that_is_a_file_is_something_to_wait_for(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("somebody's")
    with pytest.raises(SinkUnavailable, match="cannot be written"):
        CursorFile(tmp_path / "journal" / "db_server.json").write(Cursor("j", 1))


def test_a_command_that_it_does_not_know_is_refused(target: DbServerTarget, sink: DbServerSink) -> None:
    target.server.answers = [(400, {"error": "unknown command"})]
    with pytest.raises(SinkRefused, match="unknown command"):
        sink.write(chunk(0))


def _rows_of(request: dict[str, object]) -> list[tuple[object, ...]]:
    params = request["params"]
    assert isinstance(params, dict)
    return [(params["data_type"], *one.values()) for one in params["data"]]
