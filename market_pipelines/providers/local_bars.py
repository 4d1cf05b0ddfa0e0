"""Intraday bars whose stamps are a clock on some wall: instants out of local time, and longer bars out of minutes.

What the providers need who write neither UTC nor an offset. Order, range and unfinished bars are `intraday_frames`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from market_pipelines.market.bars import PRICE_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.intraday import INTERVALS, INTRADAY_COLUMNS, coarser, phased
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import TradingCalendar, known_calendars, trading_calendar, utc_second
from market_pipelines.providers.answers import malformed
from market_pipelines.providers.frames import Days, Floats
from market_pipelines.providers.intraday_frames import deliver_intraday
from market_pipelines.providers.protocol import Answer, IntradayQuery, Parsed
from market_pipelines.providers.symbols import EXCHANGE_ZONES

EARLIEST, LATEST = np.datetime64("1900-01-01", "s"), np.datetime64("2200-01-01", "s")


def instants_of(local: Days, zone: ZoneInfo) -> Days:
    """Naive local times → UTC instants, both datetime64[s].

    Not-a-time stays so; so becomes the hour that the clocks skip or show twice, because it names no one instant.
    """
    stamps = local.astype("datetime64[s]")
    stamps = np.where((stamps >= EARLIEST) & (stamps < LATEST), stamps, np.datetime64("NaT", "s"))
    moments = pd.DatetimeIndex(stamps).tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    instants: Days = moments.tz_convert(None).to_numpy().astype("datetime64[s]")
    return instants


def deliver_priced(
    query: IntradayQuery,
    answer: Answer,
    starts: Days,
    values: Mapping[str, Floats],
    *,
    reason: str = "",
) -> Parsed:
    """The bars that start at these UTC instants, without those that have no price or no instant.

    Two versions of one bar are no bar: nothing says which of them happened.
    """
    if any(np.isinf(values[name]).any() for name in VALUE_COLUMNS):
        return malformed("a price or volume that is no finite number")
    priced = ~np.logical_and.reduce([np.isnan(values[name]) for name in PRICE_COLUMNS])
    kept = priced & ~np.isnat(starts)
    stamps, columns = starts[kept], {name: values[name][kept] for name in VALUE_COLUMNS}
    versions = pd.DataFrame({"ts": stamps, **columns}).drop_duplicates()["ts"]
    if not versions.is_unique:
        return malformed(f"two different bars at {versions[versions.duplicated()].iloc[0]:%Y-%m-%d %H:%M} UTC")
    if not kept.any() and len(starts):
        reason = "no row has a price" if not reason else f"{reason}; no row has a price"
    days = local_days(stamps, query.instrument.mic)
    return deliver_intraday(query, answer, stamps, days, columns, reason=reason)


def grouped(parsed: Parsed, query: IntradayQuery, complete: datetime) -> Parsed:
    """An answer of one-minute bars as one of the query's interval, counted from the exchange's bell.

    Minutes outside of the trading day take part in no longer bar. `complete`: until when every minute is there.
    """
    if parsed.bars is None or query.interval == "1min":
        return parsed
    calendar = calendar_of(query.instrument.mic, complete)
    if calendar is None:
        return malformed(f"no calendar of {query.instrument.mic} says where bars of {query.interval} begin")
    bars = coarser(phased(parsed.bars, calendar), query.interval, calendar)
    if bars.empty:
        return Parsed(Outcome.EMPTY_UNEXPECTED, "no minute of the answer lies within a trading day")
    stamps = bars["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    moving = bars["provisional"].to_numpy() | (_ends(stamps, query.interval) > utc_second(complete))
    bars = bars.assign(provisional=moving).sort_values("ts", ignore_index=True)[list(INTRADAY_COLUMNS)]
    return Parsed(Outcome.OK, parsed.reason, bars=bars)


def calendar_of(mic: str, moment: datetime) -> TradingCalendar | None:
    return trading_calendar(mic, moment) if mic in known_calendars() else None


def local_days(instants: Days, mic: str) -> Days:
    """The exchange's dates of UTC instants."""
    zone = EXCHANGE_ZONES.get(mic, ZoneInfo("UTC"))
    moments = pd.DatetimeIndex(instants.astype("datetime64[s]"), tz="UTC").tz_convert(zone).tz_localize(None)
    days: Days = moments.to_numpy().astype("datetime64[D]")
    return days


def _ends(starts: Days, interval: str) -> Days:
    ends: Days = starts + np.timedelta64(INTERVALS[interval] * 60, "s")
    return ends
