"""What of a journal is to be given up, and what that costs whom. Decides; does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from market_pipelines.streaming.entries import GapCause, Mark, MarkKind
from market_pipelines.streaming.journal.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Due:
    segments: int
    """So many of the oldest."""
    marks: tuple[Mark, ...] = ()
    """One for each sink that loses something by it; to be durable before anything is deleted."""


def due(
    shelf: Shelf, cursors: Mapping[str, int] | None, *, limit_bytes: int, keep_ns: int, now_ns: int, waiting: int
) -> Due:
    """`waiting` bytes are about to be written. Without cursors nobody has said what is needed: nothing goes by age,
    and what goes at the bound is missing for everybody."""
    behind = min(cursors.values(), default=1 << 62) if cursors is not None else -1
    total = shelf.bytes() + waiting
    count = 0
    for stored in shelf.stored:
        old = behind >= stored.last and now_ns - stored.ended_ns >= keep_ns
        if not old and total <= limit_bytes:
            break
        total -= stored.bytes
        count += 1
    if not count or behind >= shelf.stored[count - 1].last:
        return Due(count)
    why = f"the journal reached its bound of {limit_bytes:,} bytes"
    return Due(count, lost(shelf, cursors, shelf.stored[count - 1].last, why=why, now_ns=now_ns))


def lost(shelf: Shelf, cursors: Mapping[str, int] | None, last: int, *, why: str, now_ns: int) -> tuple[Mark, ...]:
    """A mark for each sink that had not taken everything up to a position, up to which nothing can be read now."""
    oldest = shelf.oldest
    everybody = {"": oldest - 1} if cursors is None else cursors
    return tuple(
        _lost(shelf, sink, max(cursor + 1, oldest), last, why, now_ns)
        for sink, cursor in sorted(everybody.items())
        if cursor < last
    )


def _lost(shelf: Shelf, sink: str, first: int, last: int, why: str, now_ns: int) -> Mark:
    begins = shelf.received_at(first)
    whose = f"the sink {sink} had" if sink else "any sink had"
    return Mark(
        kind=MarkKind.GAP_CLOSED,
        at_ns=now_ns,
        gap=f"{shelf.id}:journal_bound:{sink}:{first}-{last}",
        cause=GapCause.JOURNAL_BOUND,
        begins_ns=begins,
        ends_ns=max(begins, shelf.received_at(last)),
        sink=sink,
        detail=f"{why} before {whose} positions {first} to {last}",
    )
