"""Which connection carries which symbols. Values only.

What is carried stays where it is for as long as it can: moving a symbol costs two requests and a moment without it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import ceil


def allot(
    carried: Sequence[Sequence[str]], wanted: Sequence[str], *, per_connection: int, most: int
) -> tuple[tuple[str, ...], ...]:
    """The symbols of each connection, those of `carried` first and in their order; an empty one is to end.

    There are `most` connections at most, however many symbols each of them then has to take.
    """
    if per_connection < 1 or most < 1:
        raise ValueError("a connection carries a symbol at least, and there is one at least")
    symbols = dict.fromkeys(wanted)
    dealt: list[list[str]] = []
    placed: set[str] = set()
    for one in carried:
        kept = [symbol for symbol in one if symbol in symbols and symbol not in placed]
        placed.update(kept)
        dealt.append(kept)
    for extra in _least(dealt, most):
        placed.difference_update(dealt[extra])
        dealt[extra] = []
    homeless = [symbol for symbol in symbols if symbol not in placed]
    used = [number for number, one in enumerate(dealt) if one]
    needed = min(most, max(1, ceil(len(symbols) / per_connection)))
    free = [number for number, one in enumerate(dealt) if not one]
    while homeless and len(used) < needed:
        if free:
            used.append(free.pop(0))
        else:
            dealt.append([])
            used.append(len(dealt) - 1)
    heap = [(len(dealt[number]), number) for number in used]
    heapq.heapify(heap)
    for symbol in homeless:
        size, number = heap[0]
        dealt[number].append(symbol)
        heapq.heapreplace(heap, (size + 1, number))
    return tuple(map(tuple, dealt))


def _least(dealt: Sequence[Sequence[str]], most: int) -> list[int]:
    """The connections that have to end because there are too many: those that carry least, the newest first."""
    used = [number for number, one in enumerate(dealt) if one]
    used.sort(key=lambda number: (len(dealt[number]), -number))
    return used[: max(0, len(used) - most)]
