"""Points in time as Polygon writes them: integers since 1970, of a unit that only their size tells.

Bars come in milliseconds, trades in nanoseconds, and some fields in either. Nanoseconds do not fit a double, so
nothing here goes through one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.sessions import TradingCalendar, known_calendars, trading_calendar

NEW_YORK = ZoneInfo("America/New_York")
LATEST = 9_000_000_000_000_000_000
"""Nanoseconds; in the year 2255."""
DELAY = timedelta(minutes=15)
"""How far behind an answer is that calls itself DELAYED."""

Stamp = Annotated[int, msgspec.Meta(ge=0, le=LATEST)]
Instants = npt.NDArray[np.int64]
"""Nanoseconds since 1970."""
Days = npt.NDArray[np.datetime64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_OF_UNIT = ((9_000_000_000, 1_000_000_000), (9_000_000_000_000, 1_000_000), (9_000_000_000_000_000, 1_000))
"""Seconds, milliseconds, microseconds: up to which number, and how many nanoseconds. Each unit begins where the
one before reaches the year 2255, which for itself is in 1970."""


def nanoseconds(stamp: int) -> int:
    for largest, factor in _LARGEST_OF_UNIT:
        if stamp <= largest:
            return stamp * factor
    return stamp


def in_nanoseconds(stamps: list[int] | Instants) -> Instants:
    raw = np.array(stamps, dtype=np.int64)
    found = raw.copy()
    for largest, factor in reversed(_LARGEST_OF_UNIT):
        smaller = raw <= largest
        found[smaller] = raw[smaller] * factor
    return found


def instant(stamp: int) -> datetime:
    """To the microsecond, which is as fine as a datetime goes."""
    return _EPOCH + timedelta(microseconds=nanoseconds(stamp) // 1000)


def since_epoch(moment: datetime) -> int:
    """Nanoseconds until an aware moment, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def seconds_of(instants: Instants) -> npt.NDArray[np.datetime64]:
    """UTC, datetime64[s] without a zone."""
    seconds: npt.NDArray[np.datetime64] = (instants // 1_000_000_000).astype("datetime64[s]")
    return seconds


def local_days(instants: Instants) -> Days:
    """New York's dates, by the rules of the zone on each of them."""
    local = pd.DatetimeIndex(seconds_of(instants), tz="UTC").tz_convert(NEW_YORK).tz_localize(None)
    days: Days = local.to_numpy().astype("datetime64[D]")
    return days


def midnights_of(days: Days) -> npt.NDArray[np.datetime64]:
    """When New York's dates begin: UTC, datetime64[s] without a zone."""
    local = pd.DatetimeIndex(days.astype("datetime64[s]")).tz_localize(NEW_YORK)
    begins: npt.NDArray[np.datetime64] = local.tz_convert(None).to_numpy().astype("datetime64[s]")
    return begins


def calendar_of(mic: str, moment: datetime) -> TradingCalendar | None:
    return trading_calendar(mic, moment) if mic in known_calendars() else None


def is_over(session: date, calendar: TradingCalendar | None, moment: datetime, *, delayed: bool) -> bool:
    """Whether the closing bell is in what an answer of that moment could show."""
    if calendar is None or not calendar.is_session(session):
        return True
    return calendar.is_closed(session, moment - DELAY if delayed else moment)
