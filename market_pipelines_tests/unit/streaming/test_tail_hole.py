"""To be added to test_tail.py: a damaged hole before where somebody goes on."""

from typing import cast

from market_pipelines.market.columns import integers
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Batch
from market_pipelines.streaming.journal import JournalReader
from market_pipelines.streaming.tail import Tail
from market_pipelines_tests.unit.providers.polygon_events import frame, trade
from market_pipelines_tests.unit.streaming.journal_made import MemoryJournal, MemoryReader
from market_pipelines_tests.unit.streaming.test_recall import DECODER


class Damaged(MemoryReader):
    """Positions 3 to 8 cannot be read."""

    def read(self, after: int, *, entries: int = 20_000, size: int = 4_000_000) -> list[Batch]:
        found: list[Batch] = []
        for batch in super().read(after, entries=10_000, size=size):
            if not 3 <= batch.first <= 8 and len(found) < entries:
                found.append(batch)
        return found


def test_a_hole_in_the_journal_makes_nothing_seen_that_is_still_to_come() -> None:
    journal = MemoryJournal(most=1)
    journal.append(*(frame(trade(q=seq)) for seq in range(1, 21)))
    tail = Tail(lambda: cast(JournalReader, Damaged(journal)), DECODER, journal="memory")
    chunk = tail.chunk(10, 1.0)
    tail.close()
    assert chunk is not None
    assert integers(chunk.table(TickKind.TRADES)["seq"]).tolist() == list(range(11, 21))
