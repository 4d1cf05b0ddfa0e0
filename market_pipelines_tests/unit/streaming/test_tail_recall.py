"""A gap's history at the tail: what was streamed at its edges comes once, though nothing of it is remembered."""

from typing import cast

import pytest

from market_pipelines.market.columns import integers
from market_pipelines.market.records import TickKind
from market_pipelines.streaming import warming
from market_pipelines.streaming.journal import JournalReader
from market_pipelines.streaming.tail import Tail
from market_pipelines_tests.unit.providers.polygon_events import frame, trade
from market_pipelines_tests.unit.streaming.journal_made import MemoryJournal
from market_pipelines_tests.unit.streaming.test_recall import DECODER, history


@pytest.mark.parametrize("begin", [0, 1])
def test_history_brings_nothing_twice_however_little_is_remembered(begin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "WARMED_WITH", 2)
    monkeypatch.setattr(warming, "WARMED_AT_MOST", 2)
    journal = MemoryJournal()
    journal.append(frame(trade(q=1)), frame(trade(q=2)))
    after = journal.append(*(frame(trade(q=100 + one, sym="MSFT")) for one in range(50)), frame(trade(q=9)))
    journal.answer(history(TickKind.TRADES, 1, 2, 3, 9))
    journal.append(*(frame(trade(q=200 + one, sym="MSFT")) for one in range(50)))
    journal.answer(history(TickKind.TRADES, 1, 2, 3, 4, 9))
    found = []
    position = after + begin * 40
    tail = Tail(lambda: cast(JournalReader, journal.reader()), DECODER, journal="memory")
    while (chunk := tail.chunk(position, 0.1)) is not None:
        table = chunk.table(TickKind.TRADES)
        found += [seq for seq in integers(table["seq"]).tolist() if seq < 100]
        position = chunk.upto
    tail.close()
    assert found == [[3, 4], [4]][begin]
