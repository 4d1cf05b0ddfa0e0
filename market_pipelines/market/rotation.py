"""Which few of many are looked at on a day, so that all have their turn."""

from __future__ import annotations

from collections.abc import Sequence


def whose_turn(names: Sequence[str], turn: int, count: int) -> tuple[str, ...]:
    """So many of the names, in their alphabetical order, going on where the turn before ended.

    As many turns in a row as it takes, `ceil(len(names) / count)`, name all of them. Nothing is remembered: the same
    names and turn always give the same answer.
    """
    ordered = sorted(set(names))
    if not ordered or count <= 0:
        return ()
    first = turn * count % len(ordered)
    return tuple((ordered[first:] + ordered[:first])[:count])
