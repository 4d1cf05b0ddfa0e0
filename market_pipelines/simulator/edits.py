"""What the faults do to the rows of an answer: pure functions from rows to rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import TypeVar

import numpy as np

from market_pipelines.simulator.fault_values import Correction, Place, Scaled
from market_pipelines.simulator.rows import PRICES, Rows
from market_pipelines.simulator.truth import Floats, Tape

DAY = timedelta(days=1)
Value = TypeVar("Value")


def spoiled(active: Mapping[str, tuple[object, ...]], tape: Tape, rows: Rows) -> Rows:
    """All row faults of one request, in an order that lets them meet in one answer."""
    for name, edit in EDITS.items():
        for value in active.get(name, ()):
            if len(rows):
                rows = edit(tape, rows, value)
    return rows


def _as(kind: type[Value], value: object) -> Value:
    if not isinstance(value, kind):
        raise TypeError(f"expected a {kind.__name__}, got {value!r}")
    return value


def _with(rows: Rows, changed: Mapping[str, Floats]) -> Rows:
    return Rows(rows.sessions, {**rows.columns, **changed})


def _price_columns(rows: Rows) -> list[str]:
    return [name for name in PRICES if name in rows.columns]


def _scaled(rows: Rows, where: np.ndarray | slice, factor: float) -> Rows:
    changed = {name: rows.columns[name].copy() for name in _price_columns(rows)}
    for column in changed.values():
        column[where] *= factor
    return _with(rows, changed)


def _set(rows: Rows, where: np.ndarray, name: str, value: Floats | float) -> Rows:
    column = rows.columns[name].copy()
    column[where] = value
    return _with(rows, {name: column})


def missing_rows(_tape: Tape, rows: Rows, value: object) -> Rows:
    gone = np.array(_as(tuple, value), dtype="datetime64[D]")
    return rows.take(np.flatnonzero(~np.isin(rows.sessions, gone)))


def correction(tape: Tape, rows: Rows, value: object) -> Rows:
    told = _as(Correction, value)
    where = rows.at(told.session)
    traded = tape.bars.close[tape.sessions == np.datetime64(told.session)]
    if not len(where) or not len(traded):
        return rows
    ratio = told.ratio if told.ratio is not None else (told.close or 0.0) / float(traded[0])
    changed = {name: rows.columns[name].copy() for name in _price_columns(rows)}
    for name in ("close", "adjusted_close"):
        if name in changed:
            changed[name][where] *= ratio
    # A corrected bar is still a bar: the new close lies within high and low.
    changed["high"][where] = np.maximum(changed["high"][where], changed["close"][where])
    changed["low"][where] = np.minimum(changed["low"][where], changed["close"][where])
    return _with(rows, changed)


def scale(_tape: Tape, rows: Rows, value: object) -> Rows:
    return _scaled(rows, slice(None), _as(Scaled, value).factor)


def readjusted(_tape: Tape, rows: Rows, value: object) -> Rows:
    """As if one more dividend had been taken out of everything before the newest row."""
    factor = _as(Scaled, value).factor
    rows = _scaled(rows, slice(0, -1), factor)
    return _set(rows, np.arange(len(rows) - 1), "volume", rows.columns["volume"][:-1] / factor)


def unit_error(_tape: Tape, rows: Rows, value: object) -> Rows:
    told = _as(Scaled, value)
    return _scaled(rows, rows.at(told.place.session if told.place else None), told.factor)


def negative_price(_tape: Tape, rows: Rows, value: object) -> Rows:
    where = rows.at(_as(Place, value).session)
    return _set(rows, where, "low", -np.abs(rows.columns["low"][where]))


def nan_price(_tape: Tape, rows: Rows, value: object) -> Rows:
    return _set(rows, rows.at(_as(Place, value).session), "close", np.nan)


def high_below_low(_tape: Tape, rows: Rows, value: object) -> Rows:
    where = rows.at(_as(Place, value).session)
    high, low = rows.columns["high"].copy(), rows.columns["low"].copy()
    high[where], low[where] = low[where] - 0.01, high[where] + 0.01
    return _with(rows, {"high": high, "low": low})


def empty_row(_tape: Tape, rows: Rows, value: object) -> Rows:
    where = rows.at(_as(Place, value).session)
    for name in rows.columns:
        rows = _set(rows, where, name, np.nan)
    return rows


def holiday_bar(tape: Tape, rows: Rows, value: object) -> Rows:
    day = _as(Place, value).session or _last_day_off(tape, rows.sessions[-1].astype(date))
    return _with_bar(rows, day)


def tomorrow_bar(tape: Tape, rows: Rows, _value: object) -> Rows:
    return _with_bar(rows, tape.calendar.local_date(tape.now) + DAY)


def duplicate_rows(_tape: Tape, rows: Rows, value: object) -> Rows:
    where = rows.at(_as(Place, value).session)
    return rows.take(np.sort(np.concatenate((np.arange(len(rows)), where))))


def unordered_rows(_tape: Tape, rows: Rows, _value: object) -> Rows:
    order = np.arange(len(rows))
    order[-2:] = order[-2:][::-1]
    return rows.take(order)


def _last_day_off(tape: Tape, before: date) -> date:
    """The last weekday without a session, and where a year has none, the last Sunday."""
    day = before - DAY
    for _ in range(366):
        if day.weekday() < 5 and not tape.calendar.is_session(day):
            return day
        day -= DAY
    return before - timedelta(days=before.weekday() + 1)


def _with_bar(rows: Rows, day: date) -> Rows:
    """A copy of the row before, filed under another day."""
    place = int(np.searchsorted(rows.sessions, np.datetime64(day)))
    copied = max(place - 1, 0)
    order = np.insert(np.arange(len(rows)), place, copied)
    with_copy = rows.take(order)
    sessions = with_copy.sessions.copy()
    sessions[place] = np.datetime64(day)
    return Rows(sessions, with_copy.columns)


EDITS: dict[str, Callable[[Tape, Rows, object], Rows]] = {
    edit.__name__: edit
    for edit in (
        missing_rows,
        correction,
        scale,
        readjusted,
        unit_error,
        negative_price,
        nan_price,
        high_below_low,
        empty_row,
        holiday_bar,
        tomorrow_bar,
        duplicate_rows,
        unordered_rows,
    )
}
