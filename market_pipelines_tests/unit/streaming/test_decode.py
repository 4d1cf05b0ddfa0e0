"""Entries of every format to columns."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from market_pipelines.market.live import SCHEMAS, TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import Capability, DailyProvider
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.streaming.decode import Columns, Decoder
from market_pipelines.streaming.entries import Format, GapCause, Mark, MarkKind, SavedAnswer
from market_pipelines_tests.unit.providers.polygon_answers import aggregate, aggregates
from market_pipelines_tests.unit.providers.polygon_events import NOW, STATUS, frame, minute, quote, rows, trade
from market_pipelines_tests.unit.providers.test_yahoo_streamer import AAPL as YAHOO_AAPL
from market_pipelines_tests.unit.providers.test_yahoo_streamer import single, text
from market_pipelines_tests.unit.streaming.journal_made import US, MemoryJournal, batches

OPENED = datetime(2024, 1, 3, 14, 30, tzinfo=UTC)
START = round(OPENED.timestamp()) * 1_000_000_000
MINUTE = 60_000_000_000
PROVIDERS: dict[str, DailyProvider] = {"polygon": Polygon(None), "yahoo": Yahoo(), "stooq": Stooq(None)}


def decode(journal: MemoryJournal, feed: str = "polygon", **more: Any) -> Columns:
    return Decoder(market=US, providers=PROVIDERS, feed=feed, **more).decode(batches(journal))


def of(columns: Columns, kind: TickKind) -> list[dict[str, Any]]:
    return rows(columns, kind)  # type: ignore[arg-type]  # it has tables, which is all that is read


def saved(body: object, asked: Capability, **more: Any) -> SavedAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual: dict[str, Any] = {
        "provider": "polygon", "capability": asked.value, "market": "us", "symbols": ("AAPL",), "status": 200,
        "headers": {}, "received_ns": START + 90 * MINUTE, "body": raw, "begins_ns": START,
        "ends_ns": START + 2 * MINUTE, "gap": "g1",
    }  # fmt: skip
    return SavedAnswer(**{**usual, **more})


def results(*found: dict[str, Any]) -> dict[str, Any]:
    return {
        "results": list(found),
        "status": "OK",
        "request_id": "1",
        "next_url": "https://api.massive.com/v3/x?cursor=1",
    }


TRADE = {"exchange": 11, "id": "77", "price": 156.43, "sequence_number": 71, "sip_timestamp": START + 5, "size": 10,
         "conditions": [12, 37], "correction": 1}  # fmt: skip
QUOTE = {"ask_exchange": 15, "ask_price": 155.87, "ask_size": 100, "bid_price": 0, "sequence_number": 9,
         "sip_timestamp": START + 6}  # fmt: skip


def test_frames_and_marks_side_by_side() -> None:
    journal = MemoryJournal(most=2)
    gap = Mark(kind=MarkKind.GAP_OPENED, at_ns=5, gap="g", cause=GapCause.SILENT)
    journal.append(frame(STATUS), frame(trade(q=1), quote()), frame(trade(q=2)))
    journal.mark(gap)
    journal.append(frame(trade(q=3)), b"rubbish", frame(minute()))
    found = decode(journal)
    assert [(row["seq"], row["received_at"] - NOW) for row in of(found, TickKind.TRADES)] == [(1, 2), (2, 3), (3, 5)]
    assert set(found.tables) == {TickKind.TRADES, TickKind.QUOTES, TickKind.AGGREGATES}
    assert all(table.schema == SCHEMAS[kind] for kind, table in found.tables.items())
    assert found.marks == (gap,)
    assert found.passed_over == 1
    assert [(one.position, one.place, one.format, one.received_ns) for one in found.rejects] == [
        (6, -1, Format.MASSIVE, NOW + 6)
    ]


def test_nothing_is_nothing() -> None:
    assert decode(MemoryJournal()) == ({}, (), (), 0)


def test_symbols_are_the_houses_by_the_adapters_rules_and_by_what_is_said_beside() -> None:
    journal = MemoryJournal()
    journal.append(text(1, "BRK-B") + single(2, 410.5), YAHOO_AAPL)
    journal.entries = [(Format.YAHOO, base64.b64encode(body)) for _, body in journal.entries]
    assert [row["symbol"] for row in of(decode(journal, "simulated-yahoo"), TickKind.SNAPSHOTS)] == ["BRK.B", "AAPL"]
    named = decode(journal, "yahoo", native_to_symbol={"AAPL": "Apple"})
    assert [row["symbol"] for row in of(named, TickKind.SNAPSHOTS)] == ["BRK.B", "Apple"]
    assert {row["feed"] for row in of(named, TickKind.SNAPSHOTS)} == {"yahoo"}


def test_trades_of_history_are_told_as_filled() -> None:
    journal = MemoryJournal()
    journal.answer(saved(results(TRADE), Capability.TRADES, headers={"x-simulated-by": "market_pipelines"}))
    assert of(decode(journal), TickKind.TRADES) == [
        {
            "symbol": "AAPL", "ts": START + 5, "received_at": START + 90 * MINUTE, "seq": 71, "price": 156.43,
            "size": 10.0, "exchange": "11", "trade_id": "77", "conditions": "12,37", "correction": 1,
            "feed": "simulated-polygon", "marks": int(TickMark.FILLED),
        }
    ]  # fmt: skip


def test_quotes_of_history_are_told_as_filled() -> None:
    journal = MemoryJournal()
    journal.answer(saved(results(QUOTE), Capability.QUOTES_HISTORY))
    (row,) = of(decode(journal), TickKind.QUOTES)
    assert row["marks"] == TickMark.FILLED | TickMark.ONE_SIDED
    assert (row["bid"], row["ask"], row["ask_size"], row["seq"], row["feed"]) == (None, 155.87, 10_000.0, 9, "polygon")


def test_minutes_of_history_are_those_of_the_gap() -> None:
    stamps = [(START - MINUTE + place * MINUTE) // 1_000_000 for place in range(4)]
    body = aggregates([aggregate(stamp) for stamp in stamps])
    journal = MemoryJournal()
    journal.answer(saved(body, Capability.INTRADAY, interval="1min"))
    found = of(decode(journal), TickKind.AGGREGATES)
    assert [(row["start"] - START) // MINUTE for row in found] == [0, 1]
    assert {(row["end"] - row["start"], row["marks"]) for row in found} == {(MINUTE, int(TickMark.FILLED))}
    assert (found[0]["o"], found[0]["h"], found[0]["v"], found[0]["vw"]) == (100.0, 101.0, 1000.0, 100.0)


def test_seconds_of_history_are_those_of_the_gap() -> None:
    second = MINUTE // 60
    # One in which nobody traded is missing, and one beyond the end was asked for by nobody.
    body = aggregates([aggregate((START + place * second) // 1_000_000, v=0.5) for place in (0, 1, 3, 120)])
    journal = MemoryJournal()
    journal.answer(saved(body, Capability.SECONDS, kind=TickKind.AGGREGATES.value))
    found = decode(journal)
    assert found.rejects == ()
    told = of(found, TickKind.AGGREGATES)
    assert [(row["start"] - START) // second for row in told] == [0, 1, 3]
    assert {(row["end"] - row["start"], row["marks"]) for row in told} == {(second, int(TickMark.FILLED))}
    assert [told[0][name] for name in ("o", "h", "l", "c", "v", "vw", "av")] == [
        100.0,
        101.0,
        99.0,
        100.0,
        0.5,
        100.0,
        None,
    ]


def test_a_polled_quote_is_a_snapshot() -> None:
    head = b"Symbol,Date,Time,Open,High,Low,Close,Volume\r\n"
    body = head + b"AAPL.US,2024-01-03,22:00:05,184.2,185.9,183.4,184.25,58414460\r\n"
    journal = MemoryJournal()
    journal.answer(saved(body, Capability.QUOTE, provider="stooq", received_ns=START + 8 * 60 * MINUTE, gap=""))
    found = decode(journal, "poll")
    assert found.rejects == ()
    (row,) = of(found, TickKind.SNAPSHOTS)
    assert (row["symbol"], row["price"], row["high"], row["volume"]) == ("AAPL", 184.25, 185.9, 58414460.0)
    assert (row["feed"], row["marks"], row["bid"]) == ("stooq", 0, None)
    assert row["ts"] <= row["received_at"] == START + 8 * 60 * MINUTE


@pytest.mark.parametrize(
    "broken",
    [
        saved(b"<html>", Capability.TRADES),
        saved(results(TRADE), Capability.TRADES, status=429),
        saved(results(TRADE), Capability.TRADES, provider="nobody"),
        saved(results(TRADE), Capability.TRADES, symbols=()),
        saved(results(TRADE), Capability.SEARCH),
        saved(results(TRADE), Capability.TRADES, capability="tea"),
    ],
)
def test_an_answer_that_cannot_be_read_is_kept_aside(broken: SavedAnswer) -> None:
    journal = MemoryJournal()
    journal.answer(saved(results(TRADE), Capability.TRADES))
    journal.answer(broken)
    found = decode(journal)
    assert len(of(found, TickKind.TRADES)) == 1
    assert [(one.position, one.place, one.format, one.body) for one in found.rejects] == [
        (2, -1, Format.ANSWER, broken.body)
    ]
    assert found.rejects[0].reason


def test_an_entry_that_is_not_what_it_should_be_is_kept_aside() -> None:
    journal = MemoryJournal()
    journal.append(b"\xc1", b"", format=Format.ANSWER)
    journal.append(b"\xc1", format=Format.MARK)
    found = decode(journal)
    assert [(one.position, one.format) for one in found.rejects] == [
        (1, Format.ANSWER),
        (2, Format.ANSWER),
        (3, Format.MARK),
    ]


def test_what_replaces_comes_after_what_it_replaces() -> None:
    """The stream's minute, then history's word on it, then a correction of the stream."""
    stamp = START // 1_000_000
    journal = MemoryJournal()
    journal.append(frame(minute(sym="AAPL", s=stamp, e=stamp + 60_000, v=1)))
    journal.answer(saved(aggregates([aggregate(stamp)]), Capability.INTRADAY, interval="1min"))
    journal.append(frame(minute(sym="AAPL", s=stamp, e=stamp + 60_000, v=3)))
    assert [row["v"] for row in of(decode(journal), TickKind.AGGREGATES)] == [1.0, 1000.0, 3.0]


def test_history_keeps_to_its_span() -> None:
    late = {**TRADE, "sip_timestamp": START + 2 * MINUTE}
    journal = MemoryJournal()
    journal.answer(saved(results(late, TRADE), Capability.TRADES))
    assert len(of(decode(journal), TickKind.TRADES)) == 1


class Tripping(Polygon):
    """Falls over what it is told to, as only a mistake of ours would."""

    def __init__(self, *bodies: bytes) -> None:
        super().__init__(None)
        self.bodies = bodies

    def read_ticks(self, answer: Any, query: Any) -> Any:
        if answer.body in self.bodies:
            raise ZeroDivisionError("apikey=SECRET123 by nothing")
        return super().read_ticks(answer, query)


def test_an_entry_that_a_reader_trips_over_does_not_stand_in_the_way_of_the_others() -> None:
    journal = MemoryJournal(most=3)
    bodies = [json.dumps(results({**TRADE, "sequence_number": seq})).encode() for seq in range(1, 11)]
    for body in bodies:
        journal.answer(saved(body, Capability.TRADES))
    journal.append(frame(trade(q=99)))
    found = Decoder(market=US, providers={"polygon": Tripping(bodies[3], bodies[8])}, feed="polygon").decode(
        batches(journal)
    )
    assert sorted(row["seq"] for row in of(found, TickKind.TRADES)) == [1, 2, 3, 5, 6, 7, 8, 10, 99]
    assert [(one.position, one.place, one.format) for one in found.rejects] == [
        (4, -1, Format.ANSWER),
        (9, -1, Format.ANSWER),
    ]
    assert all(one.reason.startswith("a fault of the reader: ZeroDivisionError") for one in found.rejects)


def test_where_everything_trips_nothing_is_left_out() -> None:
    """That is a fault to be mended, not many entries to be thrown away."""
    journal = MemoryJournal()
    body = json.dumps(results(TRADE)).encode()
    for _ in range(40):
        journal.answer(saved(body, Capability.TRADES))
    with pytest.raises(ZeroDivisionError):
        Decoder(market=US, providers={"polygon": Tripping(body)}, feed="polygon").decode(batches(journal))
