"""The simulated now: the machine's clock until somebody sets it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime


class SimulatedClock:
    def __init__(self, now: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._now: datetime | None = None
        self.set(now)

    def now(self) -> datetime:
        with self._lock:
            return self._now if self._now is not None else datetime.now(UTC)

    @property
    def is_set(self) -> bool:
        with self._lock:
            return self._now is not None

    def set(self, now: datetime | None) -> None:
        """Stops the clock at an instant; None lets it run with the machine's again."""
        if now is not None and now.tzinfo is None:
            raise ValueError(f"{now.isoformat()} has no time zone; write for example 2024-03-01T21:30:00Z")
        with self._lock:
            self._now = None if now is None else now.astimezone(UTC)
