"""The tail over a real journal: written by one thread, followed by several, begun anew in the middle."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from market_pipelines.market.columns import integers
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.streaming.decode import Decoder
from market_pipelines.streaming.entries import Format, Mark, MarkKind
from market_pipelines.streaming.journal import Journal, JournalReader, PositionGone
from market_pipelines.streaming.tail import Tail
from market_pipelines_tests.unit.providers.polygon_events import NOW, frame, quote, trade

FRAMES = 3_000
US = read_markets()["us"]


def tail_of(folder: Path, journal: str) -> Tail:
    decoder = Decoder(market=US, providers={}, feed="polygon")
    return Tail(lambda: JournalReader(folder), decoder, journal=journal)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path, limit_bytes=50_000_000, keep_seconds=3600, commit_seconds=0.005)
    one.open()
    yield one
    one.close()


def followed(tail: Tail, after: int, upto: int) -> dict[TickKind, list[int]]:
    found: dict[TickKind, list[int]] = {TickKind.TRADES: [], TickKind.QUOTES: []}
    while after < upto:
        chunk = tail.chunk(after, 5.0)
        assert chunk is not None, f"nothing came after {after} of {upto}"
        assert chunk.after == after
        for kind, seqs in found.items():
            seqs.extend(integers(chunk.table(kind)["seq"]).tolist())
        after = chunk.upto
    return found


def write(journal: Journal, first: int, count: int) -> None:
    for seq in range(first, first + count):
        body = frame(trade(q=seq), quote(q=seq), *([trade(q=seq - 1)] if seq > 1 else []))
        journal.append(Format.MASSIVE, f"polygon-{seq % 3}", NOW + seq, body)


def test_every_follower_gets_every_event_once_while_it_is_written(journal: Journal, tmp_path: Path) -> None:
    journal.mark(Mark(kind=MarkKind.STARTED, at_ns=NOW))
    tail = tail_of(tmp_path, "j")
    results: list[dict[TickKind, list[int]]] = []
    following = [
        threading.Thread(target=lambda: results.append(followed(tail, 0, FRAMES + 1)), daemon=True) for _ in range(3)
    ]
    for thread in following:
        thread.start()
    write(journal, 1, FRAMES)
    for thread in following:
        thread.join(60)
    tail.close()
    everything = list(range(1, FRAMES + 1))
    assert [{kind: sorted(seqs) for kind, seqs in found.items()} for found in results] == [
        {TickKind.TRADES: everything, TickKind.QUOTES: everything}
    ] * 3


def test_who_goes_on_in_the_middle_sees_nothing_twice(journal: Journal, tmp_path: Path) -> None:
    write(journal, 1, FRAMES)
    write(journal, FRAMES - 100, 100)  # sent again
    assert journal.wait_durable(None, 20)
    first = tail_of(tmp_path, "j")
    before = first.chunk(0, 5.0)
    first.close()
    assert before is not None
    later = tail_of(tmp_path, "j")
    found = followed(later, before.upto, FRAMES + 100)
    later.close()
    for kind, seqs in found.items():
        assert sorted([*integers(before.table(kind)["seq"]).tolist(), *seqs]) == list(range(1, FRAMES + 1))


def test_what_the_journal_gave_up_is_told(tmp_path: Path) -> None:
    with_bound = Journal(tmp_path, limit_bytes=400_000, keep_seconds=3600, commit_seconds=0.005, segment_bytes=20_000)
    with_bound.open()
    tail = tail_of(tmp_path, "j")
    try:
        for lot in range(40):
            write(with_bound, 1 + 500 * lot, 500)
            assert with_bound.wait_durable(None, 20)
        with pytest.raises(PositionGone) as gone:
            tail.chunk(0, 1.0)
        chunk = tail.chunk(gone.value.oldest - 1, 1.0)
        assert chunk is not None
        assert chunk.rows
    finally:
        tail.close()
        with_bound.close()
