"""How far back whoever begins in the middle of a journal looks, so that it knows what had come before.

A guarantee of time, since that is what a feed's repetitions are a matter of. Only positions: what is done with the
entries in between is the tail's.
"""

from __future__ import annotations

from market_pipelines.streaming.dedupe import WINDOW
from market_pipelines.streaming.entries import Batch
from market_pipelines.streaming.journal import JournalReader

WARMED_NS = 60_000_000_000
"""Of arrivals before the first chunk."""
WARMED_WITH = 50_000
"""Events, at least: where little comes, they reach further back than a minute."""
WARMED_AT_MOST = WINDOW
"""Events: with more of them the first would be forgotten again. A second's work and more."""
SHARED_NS = 10_000_000_000
"""So long before its own beginning the first one stops for the others, who begin within seconds of it."""
SHARED_WITH = 250_000
"""Events behind that place at most: with more of them, an own look back is as good."""


def warm_from(reader: JournalReader, after: int) -> int:
    """The position from which on, up to `after`, what came has to be looked at. Raises `PositionGone`."""
    oldest, newest = reader.first - 1, _entry_at(reader, after)
    if newest is None:
        return after
    events = newest.events_before + newest.events
    position = max(oldest, min(after, reader.position_at(int(newest.received[0]) - WARMED_NS)))
    between = events - _events_before(reader, position, events)
    if between < WARMED_WITH:
        return max(oldest, _with_events(reader, oldest, position, events - WARMED_WITH + 1) - 1)
    if between > WARMED_AT_MOST:
        return _with_events(reader, position, after, events - WARMED_AT_MOST)
    return position


def shared_from(reader: JournalReader, after: int) -> int:
    """A position a little before this one, for what had been seen there to be of use to others."""
    newest = _entry_at(reader, after)
    if newest is None:
        return after
    return max(reader.first - 1, min(after, reader.position_at(int(newest.received[0]) - SHARED_NS)))


def is_near(reader: JournalReader, shared: int, after: int) -> bool:
    """Whether going on from there is less work than to look back."""
    if not reader.first - 1 <= shared <= after:
        return False
    return shared == after or _events_before(reader, after - 1, 0) - _events_before(reader, shared, 0) <= SHARED_WITH


def _entry_at(reader: JournalReader, position: int) -> Batch | None:
    batches = reader.read(position - 1, entries=1, size=1) if position >= reader.first else []
    return batches[0] if batches else None


def _with_events(reader: JournalReader, low: int, high: int, before: int) -> int:
    """The first of these positions up to which there were so many events, or the last one: by halving."""
    while low < high:
        middle = (low + high) // 2
        if _events_before(reader, middle, before) < before:
            low = middle + 1
        else:
            high = middle
    return low


def _events_before(reader: JournalReader, position: int, unknown: int) -> int:
    """Of the whole journal, up to a position. `unknown`: where nothing can be read behind it."""
    batches = reader.read(position, entries=1, size=1)
    return batches[0].events_before if batches else unknown
