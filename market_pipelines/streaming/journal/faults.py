"""How a journal says no. Whether to try again, and what to tell a person, is decided by whoever asked."""

from __future__ import annotations

from pathlib import Path


class JournalBusy(Exception):
    """Another process, or another part of this one, writes this journal."""


class JournalClosed(Exception):
    """Nothing can be appended: the journal was not opened, was closed, or its writer has ended."""


class JournalMissing(Exception):
    """There is no journal in this folder yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"there is no journal in {folder}: no stream has written there yet")


class PositionGone(Exception):
    """What was asked for has been given up: by age, or because the journal had reached its bound."""

    def __init__(self, wanted: int, oldest: int) -> None:
        super().__init__(f"position {wanted} of the journal is gone; the oldest that is there is {oldest}")
        self.wanted = wanted
        self.oldest = oldest


class JournalUnreadable(Exception):
    """The disk does not give back what is there, for now at least: reading again later may help."""


class Damaged(Exception):
    """A row does not hold what its checksum promises."""
