"""The sink of PocketBase against the contract of all sinks, and what is its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import requests

from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.pocketbase import PocketBaseSink
from market_pipelines.streaming.sinks.protocol import SinkRefused, SinkUnavailable
from market_pipelines_tests.contract.streaming.chunks import OPENS, chunk, row_id, table
from market_pipelines_tests.contract.streaming.sink_contract import Death, SinkContract
from market_pipelines_tests.contract.streaming.test_redis_sink import nanoseconds
from market_pipelines_tests.servers import PocketBaseServer

_PUT = "market_pipelines.streaming.sinks.pocketbase.PocketBaseSink._put"


class PocketBaseTarget:
    made: ClassVar[type[PocketBaseSink]] = PocketBaseSink

    def __init__(self, server: PocketBaseServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self.closes: dict[str, float] = {}

    def sink(self, *, password: str | None = None) -> PocketBaseSink:
        return self.made(
            self.server.url,
            self.server.email,
            password or self.server.password,
            CursorFile(self._folder / "pocketbase.json"),
            stream="us-polygon",
            market=read_markets()["us"],
            previous_closes=lambda symbols, _: {one: self.closes[one] for one in symbols if one in self.closes},
        )

    def read_back(self) -> list[str]:
        found = []
        for record in self.server.records("stock_data"):
            for kind, name in ((TickKind.QUOTES, "quoted_at"), (TickKind.TRADES, "traded_at")):
                if record[name]:
                    found.append(row_id(kind, record["symbol"], nanoseconds(record[name])))
        return found

    def down(self) -> AbstractContextManager[None]:
        return self.server.down()

    def refusing(self) -> PocketBaseSink:
        return self.sink(password="of-somebody-else")

    def stock(self, symbol: str = "AAPL") -> dict[str, Any]:
        [found] = [one for one in self.server.records("stock_data") if one["symbol"] == symbol]
        return found


class TestPocketBaseSink(SinkContract):
    kinds = (TickKind.QUOTES, TickKind.TRADES)
    state_only = True
    deaths: ClassVar = {
        "before the records": Death(_PUT, True),
        "after the records": Death(_PUT, False),
        "before the cursor": Death("market_pipelines.streaming.sinks.cursor_file.CursorFile.write", True),
    }

    @pytest.fixture
    def target(self, pocketbase_server: PocketBaseServer, tmp_path: Path) -> PocketBaseTarget:
        return _Ticks(pocketbase_server, tmp_path)


class _TicksSink(PocketBaseSink):
    def write(self, chunk: Chunk) -> int:
        only = {kind: rows for kind, rows in chunk.tables.items() if kind in TestPocketBaseSink.kinds}
        return super().write(replace(chunk, tables=only))


class _Ticks(PocketBaseTarget):
    """Of quotes and trades alone: a bar and a snapshot have prices and times of their own."""

    made = _TicksSink


@pytest.fixture
def target(pocketbase_server: PocketBaseServer, tmp_path: Path) -> PocketBaseTarget:
    return PocketBaseTarget(pocketbase_server, tmp_path)


@pytest.fixture
def sink(target: PocketBaseTarget) -> Iterator[PocketBaseSink]:
    with closing(target.sink()) as made:
        made.open()
        yield made


def test_a_symbol_has_one_record_with_its_state(target: PocketBaseTarget, sink: PocketBaseSink) -> None:
    target.closes = {"AAPL": 80.0}
    for number in (0, 1):
        sink.write(chunk(number, symbols=("AAPL",), kinds=TestPocketBaseSink.kinds))
    stock = target.stock()
    expected = {
        **{"market": "us", "stream": "us-polygon", "market_status": "open", "data_source": "simulated-polygon"},
        **{"session": "2026-03-02", "price": 100.23, "change": 20.23, "change_percent": 25.2875, "open": 100.0},
        **{"high": 100.23, "low": 100.0, "volume": 0, "bid": 100.22, "bid_size": 100, "ask_size": 200},
        **{"timestamp": "2026-03-02 14:30:00.023Z", "quoted_at": "2026-03-02T14:30:00.023000000Z"},
    }
    assert {name: stock[name] for name in expected} == expected


def test_the_market_has_one_record(target: PocketBaseTarget, sink: PocketBaseSink) -> None:
    target.closes = {"AAPL": 90.0, "MSFT": 110.0, "IBM": 100.0}
    trades: list[dict[str, object]] = [
        {"symbol": symbol, "ts": OPENS, "received_at": OPENS, "seq": 1, "price": 100.0, "size": 1.0}
        for symbol in ("AAPL", "MSFT", "IBM", "NEW")
    ]
    sink.write(replace(chunk(0), tables={TickKind.TRADES: table(TickKind.TRADES, trades)}))
    [market] = target.server.records("market_updates")
    names = ("market", "market_status", "symbols", "advancing", "declining", "unchanged")
    assert [market[name] for name in names] == ["us", "open", 4, 1, 1, 1]


def test_what_another_process_had_written_stays(target: PocketBaseTarget) -> None:
    trade = chunk(0, rows=1, kinds=(TickKind.TRADES,))
    quote = chunk(1, rows=1, kinds=(TickKind.QUOTES,), symbols=("AAPL",))
    for given in (trade, quote):
        with closing(target.sink()) as sink:
            sink.open()
            sink.write(given)
    stock = target.stock()
    assert (stock["price"], stock["bid"], stock["high"]) == (100.0, 100.0, 100.0)


def test_more_symbols_than_a_batch_takes_go_in_several(target: PocketBaseTarget) -> None:
    target.server.allow_batches(4)
    try:
        with closing(target.sink()) as sink:
            sink.open()
            sink.write(chunk(0, rows=11, kinds=(TickKind.TRADES,), symbols=[f"S{number}" for number in range(11)]))
    finally:
        target.server.allow_batches()
    assert len(target.server.records("stock_data")) == 11


def test_batches_that_are_not_allowed_are_told_of(target: PocketBaseTarget) -> None:
    target.server.ask("PATCH", "/api/settings", {"batch": {"enabled": False}})
    try:
        with closing(target.sink()) as sink, pytest.raises(SinkRefused, match="Batch API"):
            sink.open()
    finally:
        target.server.allow_batches()


def test_the_three_collections_are_there_and_locked(target: PocketBaseTarget, sink: PocketBaseSink) -> None:
    for name in ("stock_data", "market_updates", "alerts"):
        assert target.server.records(name) == []
        assert requests.get(f"{target.server.url}/api/collections/{name}/records", timeout=5).status_code == 403


def test_fields_that_a_collection_lacks_are_added_and_the_others_stay(target: PocketBaseTarget) -> None:
    own = {"name": "stock_data", "type": "base", "fields": [{"name": "note", "type": "text"}]}
    target.server.ask("POST", "/api/collections", own)
    with closing(target.sink()) as sink:
        sink.open()
        sink.write(chunk(0))
    assert {"note", "price"} <= set(target.stock())


def test_a_collection_of_another_kind_is_refused(target: PocketBaseTarget) -> None:
    own = {"name": "stock_data", "type": "base", "fields": [{"name": "price", "type": "text"}]}
    target.server.ask("POST", "/api/collections", own)
    with closing(target.sink()) as sink, pytest.raises(SinkRefused, match="price is text, not number"):
        sink.open()


def test_a_token_near_its_end_is_renewed(target: PocketBaseTarget, sink: PocketBaseSink) -> None:
    sink._token, sink._token_ends = "out of date", 0.0
    sink.write(chunk(0))
    assert target.stock()["symbol"] == "AAPL"


def test_a_token_that_is_no_longer_known_is_taken_anew_on_opening(
    target: PocketBaseTarget, sink: PocketBaseSink
) -> None:
    sink._token = "unknown"
    with pytest.raises(SinkUnavailable, match="no longer knows us"):
        sink.write(chunk(0))
    sink.open()
    sink.write(chunk(0))
    assert target.stock()["symbol"] == "AAPL"


def test_too_many_requests_is_no_refusal(target: PocketBaseTarget, sink: PocketBaseSink) -> None:
    answer = requests.Response()
    answer.status_code, answer._content = 429, b'{"message":"Too Many Requests."}'
    answer.headers["retry-after"] = "7"
    with (
        patch.object(requests.Session, "request", return_value=answer),
        pytest.raises(SinkUnavailable, match="pause of 7 s"),
    ):
        sink.write(chunk(0))


def test_without_a_superuser_it_says_what_to_set(tmp_path: Path) -> None:
    made = PocketBaseSink(
        "http://127.0.0.1:1", "", "", CursorFile(tmp_path / "c"), stream="us-polygon", market=read_markets()["us"]
    )
    with closing(made), pytest.raises(SinkRefused, match="POCKETBASE_EMAIL"):
        made.open()


def test_a_new_day_begins_with_nothing_of_the_last(target: PocketBaseTarget, sink: PocketBaseSink) -> None:
    sink.write(chunk(0, rows=1, kinds=(TickKind.TRADES,)))
    sink.close()
    sink.open()
    day = 86_400_000_000_000
    later = {"symbol": "AAPL", "ts": OPENS + day, "received_at": OPENS + day, "seq": 1, "bid": 5.0, "ask": 6.0}
    given = replace(chunk(1), tables={TickKind.QUOTES: table(TickKind.QUOTES, [later])}, last_received_ns=OPENS + day)
    sink.write(given)
    stock = target.stock()
    assert (stock["session"], stock["price"], stock["high"]) == (date(2026, 3, 3).isoformat(), 100.0, 0)


class Impostor(ThreadingHTTPServer):
    """What may answer in PocketBase's place: to everything the same."""

    status, location = 200, ""
    body = b'{"token":"a.b.c","batch":{"enabled":true,"maxRequests":50},"items":[],"fields":[]}'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Impostor

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.server.status)
        self.send_header("location", self.server.location)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    with Impostor(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(impostor: Impostor, tmp_path: Path) -> Iterator[PocketBaseSink]:
    cursors, us = CursorFile(tmp_path / "pocketbase.json"), read_markets()["us"]
    url = f"http://127.0.0.1:{impostor.server_port}"
    with closing(PocketBaseSink(url, "a@b.c", "not-so-secret", cursors, stream="us-polygon", market=us)) as sink:
        sink.open()
        yield sink


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (301, b"", SinkRefused, "sends us elsewhere (301): https://new.example/; put that into POCKETBASE_URL"),
        (200, b"<html>Sign in to the hotel's network</html>", SinkUnavailable, "with no JSON"),
        (200, b"null", SinkUnavailable, "does not say that it stored what was sent"),
        (200, b"", SinkUnavailable, "does not say that it stored what was sent"),
        (408, b"", SinkUnavailable, "cannot take this now (408)"),
    ],
)
def test_an_answer_that_is_not_pocketbases_stores_nothing(
    opened: PocketBaseSink, impostor: Impostor, status: int, body: bytes, kind: type[Exception], said: str
) -> None:
    impostor.status, impostor.body, impostor.location = status, body, "https://new.example/"
    with pytest.raises(kind, match=re.escape(said)):
        opened.write(chunk(0, rows=3))
    assert opened._cursors.read() is None


@pytest.mark.parametrize("body", [b"{}", b"null", b'{"token":null}', b'{"token":"a.b.c","batch":null}'])
def test_who_is_no_pocketbase_is_told_of_on_opening(opened: PocketBaseSink, impostor: Impostor, body: bytes) -> None:
    impostor.body = body
    with pytest.raises(SinkUnavailable, match="does not speak as PocketBase does"):
        opened.open()


def test_a_record_that_somebody_changed_by_hand_is_passed_over(opened: PocketBaseSink, impostor: Impostor) -> None:
    by_hand = b'{"symbol":"AAPL","session":"yesterday"},{"symbol":"MSFT","session":"2026-03-02","traded_at":"noon"}'
    good = b'{"symbol":"BRK.B","session":"2026-03-02","price":500.5,"traded_at":"2026-03-02T15:00:00.000000001Z"}'
    impostor.body = impostor.body.replace(b"[]", b"[" + by_hand + b"," + good + b"]", 1)
    opened.open()
    assert [(one.symbol, one.price, one.traded_at % 10) for one in opened._book.standings()] == [("BRK.B", 500.5, 1)]
