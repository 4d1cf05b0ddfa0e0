"""How long to wait before the next attempt: full jitter below a ceiling that doubles. Arithmetic only.

Jitter keeps many clients that lost the same server from coming back in one wave. The floor is there because a pause
drawn near zero, time after time, would be the storm that backing off is meant to prevent.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST = 1.0
LONGEST = 30.0
_DOUBLINGS = 30
"""Beyond, every ceiling is the longest one; keeps the power a small number."""


class Backoff:
    """Pauses between `first` and `longest` seconds. Not for several threads."""

    def __init__(
        self, first: float = FIRST, longest: float = LONGEST, fraction: Callable[[], float] = random.random
    ) -> None:
        if not 0 < first <= longest:
            raise ValueError(f"pauses from {first:g} to {longest:g} s are none; accepted: 0 < first <= longest")
        self.first = first
        self.longest = longest
        self.failures = 0
        """In a row."""
        self._fraction = fraction

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        self.failures += 1
        return self.first + self._fraction() * (self.ceiling(self.failures) - self.first)

    def ceiling(self, failures: int) -> float:
        return float(min(self.longest, self.first * 2 ** min(failures, _DOUBLINGS)))

    def reset(self) -> None:
        self.failures = 0
