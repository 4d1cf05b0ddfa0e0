"""What history brings twice, or again after it was streamed, is told from the journal however long ago it came."""

import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from market_pipelines.market.columns import instants, integers
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import Capability
from market_pipelines.streaming import recall as recall_module
from market_pipelines.streaming.decode import Columns, Decoder
from market_pipelines.streaming.entries import Batch, Format, SavedAnswer
from market_pipelines.streaming.journal import JournalReader
from market_pipelines.streaming.recall import Recall
from market_pipelines_tests.unit.providers.polygon_events import NOW, NOW_MS, frame, quote, trade
from market_pipelines_tests.unit.streaming.journal_made import US, MemoryJournal

SECOND = 1_000_000_000
DECODER = Decoder(market=US, providers={"polygon": Polygon(None)}, feed="polygon")


class CountingDecoder(Decoder):
    answers = 0

    def decode(self, batches: Sequence[Batch]) -> Columns:
        self.answers += sum(len(batch.bodies) for batch in batches if batch.format is Format.ANSWER)
        return super().decode(batches)


def history(kind: TickKind, *seqs: int, symbol: str = "AAPL", at: int = NOW) -> SavedAnswer:
    """The same events as `frame(trade(q=…))` or `frame(quote(q=…))` has them, to the nanosecond."""
    rows: list[dict[str, Any]] = [{"sequence_number": seq, "sip_timestamp": at + 456_789} for seq in seqs]
    for row in rows:
        if kind is TickKind.TRADES:
            row |= {"id": "5096", "exchange": 10, "price": 161.87, "size": 300}
        else:
            row |= {"bid_price": 114.125, "bid_size": 100, "ask_price": 114.128, "ask_size": 160}
    capability = Capability.TRADES if kind is TickKind.TRADES else Capability.QUOTES_HISTORY
    return SavedAnswer(
        provider="polygon",
        capability=capability.value,
        market="us",
        symbols=(symbol,),
        status=200,
        headers={},
        received_ns=NOW + 60 * SECOND,
        body=json.dumps({"results": rows, "status": "OK"}).encode(),
        begins_ns=at - SECOND,
        ends_ns=at + SECOND,
        kind=kind.value,
        gap="g",
    )


def recalled(journal: MemoryJournal, after: int) -> tuple[dict[TickKind, list[int]], int]:
    """Of what comes behind a position, with nothing in mind but what the journal has."""
    reader = journal.reader()
    columns = DECODER.decode(reader.read(after))
    found, left_out = Recall(cast(JournalReader, reader), DECODER).without_known(columns, after)
    return {kind: integers(table["seq"]).tolist() for kind, table in found.tables.items()}, left_out


def test_what_was_streamed_at_the_edge_of_a_gap_does_not_come_again_from_history() -> None:
    journal = MemoryJournal()
    journal.append(frame(trade(q=1)), frame(quote(q=7, sym="AAPL")), frame(trade(q=2)))
    after = journal.append(frame(trade(q=9)))
    journal.answer(history(TickKind.TRADES, 1, 2, 3, 4, 9))
    journal.answer(history(TickKind.QUOTES, 7, 8))
    assert recalled(journal, after) == ({TickKind.TRADES: [3, 4], TickKind.QUOTES: [8]}, 4)


def bar(start_ns: int, seconds: int, **more: Any) -> bytes:
    begins = start_ns // 1_000_000
    width = {"ev": "A" if seconds == 1 else "AM", "s": begins, "e": begins + seconds * 1000}
    told = {"sym": "AAPL", "o": 10.0, "h": 11.0, "l": 9.0, "c": 10.5, "v": 300, "vw": 10.2, "av": 5_000, "z": 3}
    return frame(width | told | more)


def bars_of_history(seconds: int, *starts_ns: int, **more: Any) -> SavedAnswer:
    rows = [
        {"t": at // 1_000_000, "o": 10.0, "h": 11.0, "l": 9.0, "c": 10.5, "v": 300, "vw": 10.2} | more
        for at in starts_ns
    ]
    return msgspec.structs.replace(
        history(TickKind.TRADES, at=starts_ns[0]),
        capability=(Capability.SECONDS if seconds == 1 else Capability.INTRADAY).value,
        kind=TickKind.AGGREGATES.value if seconds == 1 else "",
        interval="" if seconds == 1 else "1min",
        body=json.dumps({"results": rows, "status": "OK", "ticker": "AAPL"}).encode(),
        ends_ns=starts_ns[-1] + SECOND,
        received_ns=NOW + 300 * SECOND,
    )


@pytest.mark.parametrize("seconds", [1, 60])
def test_a_bar_that_was_told_before_does_not_come_again_and_another_version_of_it_does(seconds: int) -> None:
    """Streamed at the gap's edge; by an answer before a crash; and by that answer with other values."""
    whole = NOW // (60 * SECOND) * 60 * SECOND
    starts = [whole + place * seconds * SECOND for place in range(-1, 3)]
    journal = MemoryJournal()
    journal.append(bar(starts[0], seconds))
    after = journal.answer(bars_of_history(seconds, starts[1]))
    journal.answer(bars_of_history(seconds, *starts))
    journal.answer(bars_of_history(seconds, starts[1], c=10.0))
    reader = journal.reader()
    columns = DECODER.decode(reader.read(after))
    found, left_out = Recall(cast(JournalReader, reader), DECODER).without_known(columns, after)
    told = found.tables[TickKind.AGGREGATES]
    assert list(zip(instants(told["start"]).tolist(), told["c"].to_pylist(), strict=True)) == [
        (starts[2], 10.5), (starts[3], 10.5), (starts[1], 10.0),
    ]  # fmt: skip
    assert left_out == 2


def test_another_symbol_with_the_same_number_is_another_trade() -> None:
    journal = MemoryJournal()
    after = journal.append(frame(trade(q=1, sym="MSFT")))
    journal.answer(history(TickKind.TRADES, 1))
    assert recalled(journal, after) == ({TickKind.TRADES: [1]}, 0)


def test_what_is_streamed_is_never_left_out_here() -> None:
    journal = MemoryJournal()
    after = journal.append(frame(trade(q=1)))
    journal.append(frame(trade(q=1)), frame(trade(q=2)))
    assert recalled(journal, after) == ({TickKind.TRADES: [1, 2]}, 0)


def test_an_answer_that_came_before_a_crash_is_known_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much was streamed in between: answers are looked for by themselves."""
    monkeypatch.setattr(recall_module, "LATE_NS", 5)
    monkeypatch.setattr(recall_module, "STEP_NS", 10)
    journal = MemoryJournal()
    journal.answer(history(TickKind.TRADES, 3, 4))
    after = journal.append(*(frame(trade(q=100 + number, t=NOW_MS + 90_000)) for number in range(200)))
    journal.answer(history(TickKind.TRADES, 3, 4, 5))
    assert recalled(journal, after) == ({TickKind.TRADES: [5]}, 2)


def test_within_one_life_an_answer_is_known_as_well() -> None:
    journal = MemoryJournal()
    first = journal.append(frame(trade(q=1)))
    second = journal.answer(history(TickKind.TRADES, 1, 2))
    journal.answer(history(TickKind.TRADES, 1, 2, 3))
    reader = journal.reader()
    recall = Recall(cast(JournalReader, reader), DECODER)
    found = []
    for after in (first, second):
        columns = DECODER.decode(reader.read(after, entries=1))
        found.append(integers(recall.without_known(columns, after)[0].tables[TickKind.TRADES]["seq"]).tolist())
    assert found == [[2], [3]]


def test_of_a_busy_span_only_the_ends_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other connections brought during one connection's gap is not decoded for it."""
    monkeypatch.setattr(recall_module, "MOST_EVENTS", 100)
    monkeypatch.setattr(recall_module, "LATE_NS", 20)
    monkeypatch.setattr(recall_module, "EARLY_NS", 20)
    monkeypatch.setattr(recall_module, "STEP_NS", 10)
    journal = MemoryJournal()
    journal.append(*(frame(trade(q=number, sym="MSFT")) for number in range(2_000)))
    reader = journal.reader()
    recall = Recall(cast(JournalReader, reader), DECODER)
    journal.reads.clear()
    around = recall._streamed(NOW + 100, NOW + 1_900, 2_000)
    assert 60 <= sum(len(batch.bodies) for batches in around for batch in batches) <= 120


def test_of_a_delayed_stream_what_was_streamed_is_looked_for_where_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "LATE_NS", 20)
    monkeypatch.setattr(recall_module, "EARLY_NS", 20)
    journal = MemoryJournal()
    journal.append(*(frame(trade(q=number)) for number in range(2_000)))
    decoder = Decoder(market=US, providers={"polygon": Polygon(None)}, feed="polygon", delay_ns=1_000)
    around = Recall(cast(JournalReader, journal.reader()), decoder)._streamed(NOW + 100, NOW + 110, 2_000)
    seqs = [seq for batches in around for seq in integers(DECODER.decode(batches).tables[TickKind.TRADES]["seq"])]
    assert (min(seqs), max(seqs)) == (1_079, 1_128)


def test_of_many_gaps_answers_only_those_about_the_same_time_are_read_and_each_of_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after hundreds of crashes: several spans are looked up at once, and most answers are about other ones."""
    monkeypatch.setattr(recall_module, "STEP_NS", 10 * SECOND)
    journal = MemoryJournal()
    for minute in range(30):
        journal.answer(history(TickKind.TRADES, minute, at=NOW - (minute + 1) * 60 * SECOND))
    after = journal.append(frame(trade(q=1_000)))
    for minute in (3, 5, 7):
        journal.answer(history(TickKind.TRADES, minute, 100 + minute, at=NOW - (minute + 1) * 60 * SECOND))
    reader, decoder = journal.reader(), CountingDecoder(market=US, providers={"polygon": Polygon(None)}, feed="polygon")
    columns = DECODER.decode(reader.read(after))
    found, left_out = Recall(cast(JournalReader, reader), decoder).without_known(columns, after)
    assert integers(found.tables[TickKind.TRADES]["seq"]).tolist() == [103, 105, 107]
    assert left_out == 3
    assert decoder.answers == 3


def test_what_the_journal_has_given_up_is_no_obstacle() -> None:
    journal = MemoryJournal()
    journal.append(frame(trade(q=1)), frame(trade(q=2)))
    journal.first = 2
    after = 2
    journal.answer(history(TickKind.TRADES, 1, 2, 3))
    assert recalled(journal, after) == ({TickKind.TRADES: [1, 3]}, 1)
