"""The rows of one answer after a provider's adjustment and before its wording: where faults get at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from market_pipelines.simulator.truth import Days, Floats, Tape

PRICES = ("open", "high", "low", "close", "adjusted_close")
"""Columns that are prices, where a provider has them."""


@dataclass(frozen=True)
class Rows:
    """Oldest first. A row whose every column is NaN is one that the provider lists without values."""

    sessions: Days
    columns: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.sessions)

    def take(self, chosen: np.ndarray | slice) -> Rows:
        return Rows(self.sessions[chosen], {name: np.array(column[chosen]) for name, column in self.columns.items()})

    def between(self, start: date, end: date) -> Rows:
        first = int(np.searchsorted(self.sessions, np.datetime64(start)))
        last = int(np.searchsorted(self.sessions, np.datetime64(end), side="right"))
        return self.take(slice(first, last))

    def at(self, day: date | None) -> np.ndarray:
        """The row numbers of a session; with None, of the newest row."""
        if day is None:
            return np.arange(max(len(self) - 1, 0), len(self))
        return np.flatnonzero(self.sessions == np.datetime64(day))

    def without_values(self) -> np.ndarray:
        return np.asarray(np.all([np.isnan(column) for column in self.columns.values()], axis=0))


Spoil = Callable[[Tape, Rows], Rows]


def unspoiled(_tape: Tape, rows: Rows) -> Rows:
    return rows
