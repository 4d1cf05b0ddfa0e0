"""The durable journal of a live stream: everything that arrived, in order, before anything is made of it."""

from market_pipelines.streaming.journal.faults import (
    JournalBusy,
    JournalClosed,
    JournalMissing,
    JournalUnreadable,
    PositionGone,
)
from market_pipelines.streaming.journal.journal import Journal, JournalState, Opened
from market_pipelines.streaming.journal.reader import JournalReader

__all__ = [
    "Journal",
    "JournalBusy",
    "JournalClosed",
    "JournalMissing",
    "JournalReader",
    "JournalState",
    "JournalUnreadable",
    "Opened",
    "PositionGone",
]
