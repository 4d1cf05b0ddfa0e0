"""What happens at any hour: the sessions as they are, and between them the last one's regular hours once more.

Nights, weekends and holidays replay the session before them, in a loop, with shifted stamps and sequence numbers
that rise from round to round. So there is life whenever somebody looks. A day's own history knows nothing of it:
only the stream, and history that is asked for by instants between the sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np

from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import EXTENDED
from market_pipelines.simulator.ticks import (
    Quotes,
    Trades,
    joined_quotes,
    joined_trades,
    nanoseconds,
    quotes_of,
    trades_of,
)
from market_pipelines.simulator.truth import World

ROUND = 10_000_000
"""What a round of replay adds to sequence numbers: more than any session has."""
OTHER_SESSION = 500_000_000
"""Added for every second session, so that the nights on both sides of one share no number on any date."""
LONGEST_PAUSE = timedelta(days=14)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A session with its extended hours, or one round of its replay."""

    session: date
    starts: datetime
    ends: datetime
    shift: timedelta = timedelta(0)
    """What is added to the session's stamps."""
    seq_added: int = 0

    @property
    def replayed(self) -> bool:
        return bool(self.shift)


def stretches(mic: str, start: datetime, end: datetime) -> Iterator[Stretch]:
    """What the time from `start` to `end` is made of, without a hole, oldest first."""
    calendar = trading_calendar(mic, end)
    days = calendar.sessions(calendar.local_date(start) - LONGEST_PAUSE, calendar.local_date(end))
    before, after = (timedelta(minutes=minutes) for minutes in EXTENDED.get(mic, (0, 0)))
    for day in days:
        times = calendar.times(day)
        opened, closed = times.opens - before, times.closes + after
        if start < closed and opened < end:
            yield Stretch(day, opened, closed)
        yield from _rounds(calendar, day, closed, start, end, before)


def _rounds(
    calendar: TradingCalendar, day: date, closed: datetime, start: datetime, end: datetime, before: timedelta
) -> Iterator[Stretch]:
    times = calendar.times(day)
    length = times.closes - times.opens
    following = _following(calendar, day)
    until = calendar.times(following).opens - before if following is not None else closed + LONGEST_PAUSE
    first = max((start - closed) // length, 0)
    base = calendar.all_sessions.index(day) % 2 * OTHER_SESSION if closed < end and start < until else 0
    number = first
    while (begins := closed + number * length) < min(until, end):
        yield Stretch(day, begins, min(begins + length, until), begins - times.opens, base + (number + 1) * ROUND)
        number += 1


def _following(calendar: TradingCalendar, day: date) -> date | None:
    later = calendar.sessions(day + timedelta(days=1), day + LONGEST_PAUSE)
    return later[0] if later else None


def stretch_at(mic: str, instant: datetime) -> Stretch:
    for stretch in stretches(mic, instant, instant + timedelta(microseconds=1)):
        if stretch.starts <= instant < stretch.ends:
            return stretch
    raise ValueError(f"{mic}: no session is known before {instant.isoformat()}")


def tells_replays(mic: str, start: datetime, end: datetime) -> bool:
    """Whether history of this span, asked for by instants, is to have what was streamed between the sessions.

    A span with a whole session in it is asked for the session's sake, whose history must not change.
    """
    found = list(stretches(mic, start, end))
    whole = any(not one.replayed and start <= one.starts and one.ends <= end for one in found)
    return not whole and any(one.replayed for one in found)


def live_trades(world: World, listing: Listing, start: datetime, end: datetime, now: datetime) -> Trades:
    """What is streamed with `start` <= stamp < `end` and has happened by `now`."""
    pieces = []
    for stretch, first, last in _cut(world, listing, start, min(end, now)):
        found = trades_of(world, listing, first - stretch.shift, last - stretch.shift, last - stretch.shift)
        if stretch.replayed:
            shift = nanoseconds(_EPOCH + stretch.shift)
            found = replace(found, stamps=found.stamps + shift, seq=found.seq + stretch.seq_added)
        pieces.append(found)
    return joined_trades(pieces)


def live_quotes(world: World, listing: Listing, start: datetime, end: datetime, now: datetime) -> Quotes:
    pieces = []
    for stretch, first, last in _cut(world, listing, start, min(end, now)):
        found = quotes_of(world, listing, first - stretch.shift, last - stretch.shift, last - stretch.shift)
        if stretch.replayed:
            shift = nanoseconds(_EPOCH + stretch.shift)
            found = replace(found, stamps=found.stamps + shift, seq=found.seq + stretch.seq_added)
        pieces.append(found)
    return joined_quotes(pieces)


def _cut(
    world: World, listing: Listing, start: datetime, end: datetime
) -> Iterator[tuple[Stretch, datetime, datetime]]:
    if end <= start:
        return
    history = world.history(listing, end)
    for stretch in stretches(listing.mic, start, end):
        row = int(np.searchsorted(history.sessions, np.datetime64(stretch.session)))
        if row < len(history.sessions) and history.sessions[row] == np.datetime64(stretch.session):
            yield stretch, max(start, stretch.starts), min(end, stretch.ends)
