"""From an intraday parser's columns to the frame that it delivers: order, range, duplicates, unfinished bars.

The like of `frames` for bars within a session. Whether a minute belongs to a session, and whether its numbers are
credible, is decided by the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.intraday import INTERVALS, INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import known_calendars, trading_calendar
from market_pipelines.providers.frames import Days, Flags, Floats
from market_pipelines.providers.protocol import Answer, IntradayQuery, Parsed

FIRST_BARS = timedelta(minutes=30)
"""So long after the opening bell even a delayed feed has something to show."""


def deliver_intraday(
    query: IntradayQuery,
    answer: Answer,
    stamps: Days,
    days: Days,
    values: Mapping[str, Floats],
    *,
    unfinished: Flags | None = None,
    reason: str = "",
) -> Parsed:
    """The bars that the query asked for, or which kind of nothing it is.

    `stamps` are the starts of the bars in UTC (datetime64[s]), `days` their dates on the exchange's clock. Where a
    start comes twice, the later row counts. `unfinished` marks bars of which the body itself says so.
    """
    wanted = (days >= np.datetime64(query.start, "D")) & (days <= np.datetime64(query.end, "D"))
    if not wanted.any():
        told = f"no bars from {query.start} to {query.end}{f': {reason}' if reason else ''}"
        if len(days):
            told += f"; the answer has {len(days)} from {days.min()} to {days.max()}"
        return Parsed(empty_intraday_outcome(query, answer.received_at), told)
    chosen = np.flatnonzero(wanted)
    chosen = chosen[np.argsort(stamps[chosen], kind="stable")]
    starts = stamps[chosen]
    last_of_its_start = np.append(starts[1:] != starts[:-1], True)
    chosen, starts = chosen[last_of_its_start], starts[last_of_its_start]
    length = np.timedelta64(INTERVALS[query.interval] * 60, "s")
    moving = starts + length > np.datetime64(answer.received_at.replace(tzinfo=None), "s")
    if unfinished is not None:
        moving |= unfinished[chosen]
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(query.instrument.symbol, index=pd.RangeIndex(len(chosen)), dtype="str"),
            "ts": pd.Series(pd.DatetimeIndex(starts.astype("datetime64[s]"), tz="UTC")),
            **{name: values[name][chosen] for name in VALUE_COLUMNS},
            "provisional": moving,
        },
        columns=list(INTRADAY_COLUMNS),
        copy=False,
    )
    return Parsed(Outcome.OK, reason, bars=frame)


def empty_intraday_outcome(query: IntradayQuery, asked_at: datetime) -> Outcome:
    """Whether an answer without bars is right: no session had begun, or the instrument was not listed then."""
    mic = query.instrument.mic
    if mic not in known_calendars():
        return Outcome.EMPTY_UNEXPECTED
    calendar = trading_calendar(mic, asked_at)
    if query.start < calendar.start:
        return Outcome.EMPTY_UNEXPECTED
    begun = (
        session
        for session in calendar.sessions(query.start, query.end)
        if query.instrument.trades_on(session) and calendar.times(session).opens + FIRST_BARS <= asked_at
    )
    return Outcome.EMPTY_UNEXPECTED if next(begun, None) is not None else Outcome.EMPTY_EXPECTED
