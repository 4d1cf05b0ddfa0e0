"""Bars within a session: split-adjusted, stamped with their start, the newest one with its last trade.

Half-hours are asked as quarters and put together here, because Yahoo may answer 30m with 60m bars. The prices stay
adjusted for splits: the events that undo them are believed from daily bars only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt

from market_pipelines.market.intraday import INTERVALS
from market_pipelines.providers.answers import malformed, no_data
from market_pipelines.providers.frames import Flags, Floats
from market_pipelines.providers.intraday_frames import deliver_intraday, empty_intraday_outcome
from market_pipelines.providers.protocol import Answer, IntradayQuery, Parsed
from market_pipelines.providers.symbols import EXCHANGE_ZONES
from market_pipelines.providers.yahoo.chart import (
    Meta,
    Period,
    Result,
    TradingPeriod,
    columns_of,
    local_days,
    midnight,
    price_unit,
    priced_rows,
    read_chart,
    restored,
    zone_named,
)
from market_pipelines.providers.yahoo.envelopes import refusal

ASKED_AS: Mapping[str, str] = {"1min": "1m", "5min": "5m", "15min": "15m", "30min": "15m", "60min": "60m"}
MINUTES: Mapping[str, int] = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "60m": 60, "1h": 60}
"""By Yahoo's name of a granularity."""
REACH: Mapping[str, tuple[int, int]] = {
    "1min": (7, 29),
    "5min": (59, 59),
    "15min": (59, 59),
    "30min": (59, 59),
    "60min": (729, 729),
}
"""Calendar days in one request, and back from today: a day less than Yahoo's 8 and 30, 60, 730, because a day
begins at midnight and now is later."""
NIGHT = timedelta(hours=2)
"""After midnight; nobody trades then. Left out of the request, it pays for the hour by which clocks fall back: with
it the first day would be too old late in the evening."""
TRADES_ARRIVE = timedelta(minutes=30)
"""Some exchanges' trades come 15 to 20 minutes late. Until this long after its end a bar that lies beyond the
latest trade may still change; after it, it is a thin share's."""
RECENT = timedelta(days=4)
"""After this a live mark means that the answer itself is old: a snapshot from within its session."""

Ints = npt.NDArray[np.int64]

_per_day = msgspec.json.Decoder(list[list[Period]])
_per_phase = msgspec.json.Decoder(dict[str, list[list[Period]]])


def intraday_params(query: IntradayQuery) -> Mapping[str, str]:
    known = EXCHANGE_ZONES.get(query.instrument.mic)
    zone, night = (known, NIGHT) if known is not None else (ZoneInfo("UTC"), timedelta())
    return {
        "interval": ASKED_AS[query.interval],
        "period1": str(midnight(query.start, zone) + int(night.total_seconds())),
        "period2": str(midnight(query.end + timedelta(days=1), zone)),
        "includePrePost": "true" if query.extended else "false",
    }


def read_intraday(answer: Answer, query: IntradayQuery, expected: str) -> Parsed:
    refused = refusal(answer, "chart", lambda: empty_intraday_outcome(query, answer.received_at)) or no_data(answer)
    if refused is not None:
        return refused
    try:
        result = read_chart(answer.body, expected)
        return result if isinstance(result, Parsed) else _bars(result, answer, query)
    except (msgspec.MsgspecError, ValueError) as error:
        return malformed(f"the answer cannot be read: {error}")


def _bars(result: Result, answer: Answer, query: IntradayQuery) -> Parsed:
    meta = result.meta
    wanted, given = INTERVALS[query.interval], MINUTES.get(meta.data_granularity, 0)
    if given != wanted and (wanted, given) != (30, 15):
        return malformed(f"asked for bars of {query.interval}, the answer has '{meta.data_granularity}'")
    if not result.timestamp:
        reason = f"no bars from {query.start} to {query.end}"
        return Parsed(empty_intraday_outcome(query, answer.received_at), reason)
    zone = zone_named(meta.exchange_timezone_name)
    stamps = np.array(result.timestamp, dtype=np.int64)
    values = columns_of(result, len(stamps))
    priced = priced_rows(values)
    stamps, values = stamps[priced], {name: column[priced] for name, column in values.items()}
    live = np.zeros(len(stamps), dtype=np.bool_)
    reason = f"{np.count_nonzero(~priced):,} rows without a price" if not priced.any() else ""
    if len(stamps):
        stamps, live = _aligned(stamps, given * 60, meta)
        stamps, values, live = _one_row_a_bar(stamps, values, live)
        if given != wanted:
            stamps, values, live = _grouped(stamps, values, live, wanted * 60)
    unit = price_unit(meta.currency, query.instrument)
    return deliver_intraday(
        query,
        answer,
        stamps.astype("datetime64[s]"),
        local_days(stamps.tolist(), zone),
        restored(values, np.ones(len(stamps)), unit),
        unfinished=_unfinished(stamps, wanted * 60, live, meta.regular_market_time, answer.received_at),
        reason=reason,
    )


def _aligned(stamps: Ints, length: int, meta: Meta) -> tuple[Ints, Flags]:
    """The starts of the bars, and which rows are stamped with a trade inside of one: the newest row is.

    A bar starts a whole number of lengths after the bell or the row before it; the clock alone does not say it,
    because hours are counted from a bell at half past.
    """
    grid = min(length, 1800)
    latest = int(np.argmax(stamps))
    odd = stamps % grid != 0
    if meta.regular_market_time == stamps[latest]:
        odd[latest] = True
    if not odd.any():
        return stamps, odd
    anchors = np.unique(np.concatenate((stamps[~odd], _bells(meta))))
    starts = stamps.copy()
    for row in np.flatnonzero(odd).tolist():
        starts[row] = _start_of(int(stamps[row]), length, anchors)
    return starts, odd & (starts != stamps)


def _start_of(stamp: int, length: int, anchors: Ints) -> int:
    before = int(np.searchsorted(anchors, stamp, side="right")) - 1
    anchor = int(anchors[before]) if before >= 0 else 0
    return anchor + (stamp - anchor) // length * length


def _bells(meta: Meta) -> Ints:
    """When the phases of the days in the body begin and end, as far as it says so."""
    periods: list[Period] = []
    current: TradingPeriod | None = meta.current_trading_period
    if current is not None:
        periods += [phase for phase in (current.pre, current.regular, current.post) if phase is not None]
    for decode in (_per_day.decode, _per_phase.decode):
        try:
            told = decode(meta.trading_periods)
        except msgspec.MsgspecError:
            continue  # It comes as a list of days, with extended hours as one such list a phase, or not at all.
        lists = told.values() if isinstance(told, dict) else [told]
        periods += [period for each in lists for day in each for period in day]
    return np.unique(np.array([edge for period in periods for edge in (period.start, period.end)], dtype=np.int64))


def _one_row_a_bar(stamps: Ints, values: Mapping[str, Floats], live: Flags) -> tuple[Ints, dict[str, Floats], Flags]:
    """Oldest first; what was stamped within a bar is laid over the row that the bar has already.

    Such a row knows the latest price, often nothing else: it has the last word on the close, and takes nothing
    from the bar's range and volume. Of plain rows with the same stamp the later one counts.
    """
    order = np.lexsort((live, stamps))
    stamps, live = stamps[order], live[order]
    values = {name: column[order] for name, column in values.items()}
    last = np.append(stamps[1:] != stamps[:-1], True)
    for row in np.flatnonzero(live[1:] & (stamps[1:] == stamps[:-1])).tolist():
        _lay_over(values, row, row + 1)
    return stamps[last], {name: column[last] for name, column in values.items()}, live[last]


def _lay_over(values: Mapping[str, Floats], below: int, above: int) -> None:
    merged = {
        "open": values["open"][below],
        "high": np.fmax(values["high"][below], values["high"][above]),
        "low": np.fmin(values["low"][below], values["low"][above]),
        "close": values["close"][above],
        "volume": np.fmax(values["volume"][below], values["volume"][above]),
    }
    for name, value in merged.items():
        if not np.isnan(value):
            values[name][above] = value
        elif np.isnan(values[name][above]):
            values[name][above] = values[name][below]


def _grouped(
    stamps: Ints, values: Mapping[str, Floats], live: Flags, length: int
) -> tuple[Ints, dict[str, Floats], Flags]:
    """Longer bars from sorted shorter ones, cut at the clock: bells ring at half hours."""
    starts = stamps // length * length
    first = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    opened = _filled(values["open"][::-1], starts[::-1])[::-1]
    closed = _filled(values["close"], starts)
    last = np.append(first[1:], len(starts)) - 1
    volume = values["volume"]
    known = np.add.reduceat((~np.isnan(volume)).astype(np.int64), first)
    return (
        starts[first],
        {
            "open": opened[first],
            "high": np.fmax.reduceat(values["high"], first),
            "low": np.fmin.reduceat(values["low"], first),
            "close": closed[last],
            "volume": np.where(known > 0, np.add.reduceat(np.nan_to_num(volume), first), np.nan),
        },
        np.logical_or.reduceat(live, first),
    )


def _filled(column: Floats, groups: Ints) -> Floats:
    """Each gap takes the value before it of the same group, so that a group's last is its last known one."""
    known = np.where(np.isnan(column), -1, np.arange(len(column)))
    source = np.maximum.accumulate(known)
    usable = (source >= 0) & (groups[np.maximum(source, 0)] == groups)
    return np.where(usable, column[np.maximum(source, 0)], np.nan)


def _unfinished(stamps: Ints, length: int, live: Flags, latest_trade: int | None, received_at: datetime) -> Flags:
    since_end = received_at.timestamp() - (stamps + length)
    late = np.zeros(len(stamps), dtype=np.bool_)
    if latest_trade is not None:
        late = (stamps + length > latest_trade) & (since_end < TRADES_ARRIVE.total_seconds())
    found: Flags = late | (live & ((since_end < TRADES_ARRIVE.total_seconds()) | (since_end > RECENT.total_seconds())))
    return found
