"""Which ranges to ask for when single sessions are lacking: few requests against few rows that are there already."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from datetime import date, timedelta

Range = tuple[date, date]

LONGEST_AT_ONCE = timedelta(days=62)
"""Bars within sessions of a longer range are fetched and stored month by month."""


def stretches(
    lacking: Collection[date],
    sessions: Sequence[date],
    calls: Callable[[date, date], int],
    *,
    rows_a_session: float = 1,
    rows_a_call: float = 500,
    open_ended: bool = False,
) -> tuple[Range, ...]:
    """The ranges that hold all lacking sessions, oldest first. `sessions` are all of them, in order.

    Two stretches become one where the calls that it saves are worth more than the rows between them, that would be
    fetched again; `rows_a_call` says how much a call is worth. `open_ended`: an answer holds everything after its
    start anyway, so that the rows between cost nothing.
    """
    found: list[Range] = []
    for start, end in _runs(lacking, sessions):
        if found:
            before = found[-1]
            between = bisect_left(sessions, start) - bisect_right(sessions, before[1])
            again = 0 if open_ended else between * rows_a_session
            saved = calls(*before) + calls(start, end) - calls(before[0], end)
            if saved > 0 and again <= saved * rows_a_call:
                found[-1] = before[0], end
                continue
        found.append((start, end))
    return tuple(found)


def months(start: date, end: date) -> tuple[Range, ...]:
    """A long range in calendar months, a short one as it is."""
    if end - start <= LONGEST_AT_ONCE:
        return ((start, end),)
    pieces = []
    while start <= end:
        following = (start.replace(day=1) + timedelta(days=32)).replace(day=1)
        pieces.append((start, min(end, following - timedelta(days=1))))
        start = following
    return tuple(pieces)


def _runs(lacking: Collection[date], sessions: Sequence[date]) -> list[Range]:
    """Lacking sessions that follow each other."""
    wanted = set(lacking)
    runs: list[Range] = []
    open_run: Range | None = None
    for session in sessions:
        if session in wanted:
            open_run = (open_run[0], session) if open_run else (session, session)
        elif open_run:
            runs.append(open_run)
            open_run = None
    return [*runs, open_run] if open_run else runs
