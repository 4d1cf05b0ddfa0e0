"""From the columns that a parser read to the frame that it delivers: order, range, duplicates, open sessions.

Whether a row is credible is not decided here: negative, missing or contradictory prices pass through to the
quality rules. Only what the question did not ask for is cut off.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from market_pipelines.market.actions import CorporateAction
from market_pipelines.market.bars import BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import TradingCalendar, known_calendars, trading_calendar
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.datetime64]
Flags = npt.NDArray[np.bool_]


def read_csv(body: bytes, columns: dict[str, Any], delimiter: str, nulls: list[str]) -> pa.Table:
    """The body's rows under the names of `columns`; `ValueError` at the first cell of another type."""
    return pa_csv.read_csv(
        io.BytesIO(body),
        read_options=pa_csv.ReadOptions(
            use_threads=False,
            column_names=list(columns),
            skip_rows=1,
            block_size=max(len(body), 1) + 1,
        ),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, quote_char=False),
        convert_options=pa_csv.ConvertOptions(
            column_types=columns, null_values=nulls, strings_can_be_null=True, check_utf8=False
        ),
    )


def days_of(column: pa.ChunkedArray[Any]) -> Days:
    """A date column as days; raises `ValueError` where a date is missing."""
    if column.null_count:
        raise ValueError("a row without a date")
    days: Days = column.to_numpy().astype("datetime64[D]")
    return days


def floats_of(column: pa.ChunkedArray[Any]) -> Floats:
    values: Floats = column.to_numpy()
    return values.astype(np.float64, copy=False)


def deliver(
    query: DailyQuery,
    answer: Answer,
    days: Days,
    values: Mapping[str, Floats],
    *,
    live: Flags | None = None,
    actions: tuple[CorporateAction, ...] = (),
    actions_known: bool = False,
) -> Parsed:
    """The rows that the query asked for, or which kind of nothing it is."""
    wanted = (days >= np.datetime64(query.start, "D")) & (days <= np.datetime64(query.end, "D"))
    if not wanted.any():
        outcome = empty_outcome(query, answer.received_at)
        reason = f"no rows from {query.start} to {query.end}"
        if len(days):
            reason += f"; the answer has {len(days)} from {days.min()} to {days.max()}"
        return Parsed(outcome, reason, actions=actions, actions_known=actions_known)

    if not wanted.all():
        days = days[wanted]
        values = {name: column[wanted] for name, column in values.items()}
        live = live[wanted] if live is not None else None
    moving = _still_open(days, query, answer.received_at)
    if live is not None:
        moving |= live

    if (days[1:] < days[:-1]).any():
        order = np.argsort(days, kind="stable")
        days, moving = days[order], moving[order]
        values = {name: column[order] for name, column in values.items()}
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(query.instrument.symbol, index=pd.RangeIndex(len(days)), dtype="str"),
            "session": days.astype("datetime64[s]"),
            **{name: values[name] for name in VALUE_COLUMNS},
            "provisional": moving,
        },
        columns=list(BAR_COLUMNS),
        copy=False,
    )
    if (days[1:] == days[:-1]).any():
        frame = frame.drop_duplicates(ignore_index=True)
    return Parsed(Outcome.OK, bars=frame, actions=actions, actions_known=actions_known)


def empty_outcome(query: DailyQuery, asked_at: datetime) -> Outcome:
    """Whether an answer without rows is right: nothing had closed, or the instrument was not listed then."""
    calendar = _calendar(query.instrument.mic, asked_at)
    if calendar is None or query.start < calendar.start:
        return Outcome.EMPTY_UNEXPECTED
    closed = (
        session
        for session in calendar.sessions(query.start, query.end)
        if query.instrument.trades_on(session) and calendar.is_closed(session, asked_at)
    )
    return Outcome.EMPTY_UNEXPECTED if next(closed, None) is not None else Outcome.EMPTY_EXPECTED


def sessions_back(mic: str, start: date, today: date) -> int | None:
    """How many sessions there are from `start` to today, both included; None where no calendar says so."""
    calendar = _calendar(mic, datetime.combine(today, time(), tzinfo=UTC))
    if calendar is None or start < calendar.start:
        return None
    return len(calendar.sessions(start, today))


def _still_open(days: Days, query: DailyQuery, received_at: datetime) -> Flags:
    """Rows of sessions whose closing bell had not rung when the answer came."""
    flags = np.zeros(len(days), dtype=np.bool_)
    recent = np.flatnonzero(days >= np.datetime64(received_at.date(), "D") - 1)
    if not len(recent):
        return flags
    calendar = _calendar(query.instrument.mic, received_at)
    if calendar is None:
        return flags
    for row in recent:
        day: date = days[row].astype(object)
        flags[row] = calendar.is_session(day) and not calendar.is_closed(day, received_at)
    return flags


def _calendar(mic: str, moment: datetime) -> TradingCalendar | None:
    return trading_calendar(mic, moment) if mic in known_calendars() else None
