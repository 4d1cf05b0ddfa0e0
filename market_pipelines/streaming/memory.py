"""What the live service frees goes back to the operating system.

Its data lives for a second to some minutes and is freed by other threads than made it, among data that stays longer;
allocators keep what is freed there for the next time. Nothing of that is lost, but a process that runs for weeks ends
up as large as the busiest moments of all its threads together. Only the allocators are dealt with here; what is held
on purpose is bounded where it is held.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

import pyarrow as pa

RETURN_SECONDS = 30.0
"""Between two times. Each takes some milliseconds, in which a thread that wants memory may wait."""
HEAPS = 2
"""Of the C library, for about thirty threads. It would make one for nearly each, and what one of them has freed is of
no use to the others: the process grows until every heap has had its busiest moment."""
_M_ARENA_MAX = -8
"""glibc's name for it, from malloc.h."""


class FreedMemory:
    """Of the whole process; where several streams share one, a second does no harm."""

    def __init__(self, every_seconds: float = RETURN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        if _trim() is not None:
            # Arrow's own pool keeps a heap a thread and gives back only that of the thread that asks. From here on it
            # allocates with the C library: a stream at full speed was no slower, and its peaks were smaller.
            pa.set_memory_pool(pa.system_memory_pool())
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
        self._every_seconds = every_seconds
        self._clock = clock
        self._next = clock() + every_seconds

    def look(self) -> None:
        """Gives back what is free, where it is time to."""
        if self._clock() >= self._next:
            give_back()
            self._next = self._clock() + self._every_seconds


def give_back() -> None:
    """Whatever is free and can be given back: of Arrow's pool, and of the C library that numpy allocates with. By
    itself glibc returns only the end of a heap, and has a heap for nearly every thread. Other C libraries have no
    such function, and keep their own ways."""
    pa.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    found: Callable[[int], int] = trim
    return found
