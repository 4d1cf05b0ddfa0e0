"""Polygon's aggregates: daily bars, bars of minutes and seconds, and a whole session of all instruments at once.

A daily bar is stamped with New York's midnight, a minute or second with its start, a row of a whole session with the
session's end. Prices are asked for as traded; a body that says that it is adjusted is labelled so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.actions import Basis
from market_pipelines.market.bars import BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import EXTENDED_HOURS, INTERVALS, INTRADAY_COLUMNS, Phase, phased
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.frames import Floats, deliver
from market_pipelines.providers.polygon.envelope import NEXT_PAGE, Envelope, results_of, text_of
from market_pipelines.providers.polygon.stamps import (
    DELAY,
    Days,
    Instants,
    Stamp,
    calendar_of,
    in_nanoseconds,
    is_over,
    local_days,
    midnights_of,
    seconds_of,
    since_epoch,
)
from market_pipelines.providers.polygon.ticks import empty_ticks
from market_pipelines.providers.protocol import Answer, DailyQuery, GroupedQuery, IntradayQuery, Parsed, TicksQuery

CLIPPED_SESSIONS = 5
"""A history that begins more sessions than this after the start asked for does so for a reason."""
HALF_HOUR = 30
_SECOND, _MINUTE = 1_000_000_000, 60_000_000_000
_HOUR = np.timedelta64(3600, "s")


class _Bar(msgspec.Struct, gc=False):
    stamp: Stamp = msgspec.field(name="t")
    open: float | None = msgspec.field(name="o", default=None)
    high: float | None = msgspec.field(name="h", default=None)
    low: float | None = msgspec.field(name="l", default=None)
    close: float | None = msgspec.field(name="c", default=None)
    volume: float | None = msgspec.field(name="v", default=None)


class _Averaged(_Bar, gc=False):
    vwap: float | None = msgspec.field(name="vw", default=None)


class _BarOf(_Bar, gc=False):
    native: str = msgspec.field(name="T", default="")


_bars = msgspec.json.Decoder(list[_Bar] | None)
_averaged = msgspec.json.Decoder(list[_Averaged] | None)
_bars_of_all = msgspec.json.Decoder(list[_BarOf] | None)


def asked_minutes(interval: str) -> int:
    """Of the bars to ask for. The provider cuts hours by the clock, which would mix the half hour before the
    opening bell with the one after it: an hour is put together from half hours instead."""
    return HALF_HOUR if interval == "60min" else INTERVALS[interval]


def daily(envelope: Envelope, answer: Answer, query: DailyQuery, native: str) -> Parsed:
    wrong = _about_another(envelope, native)
    if wrong is not None:
        return wrong
    rows = _bars.decode(envelope.results) or []
    stamps = in_nanoseconds([row.stamp for row in rows])
    days = local_days(stamps)
    if _has_two_clocks(days, stamps):
        return malformed("several bars of one day at different times: not daily bars")
    live = np.zeros(len(days), dtype=np.bool_)
    if envelope.delayed and len(days):
        calendar = calendar_of(query.instrument.mic, answer.received_at)
        newest: date = days.max().astype(object)
        if not is_over(newest, calendar, answer.received_at, delayed=True):
            live = days == days.max()
    parsed = deliver(query, answer, days, _values(rows), live=live)
    return _with_facts(parsed, envelope, answer, days, query.instrument, query.start)


def _has_two_clocks(days: Days, stamps: Instants) -> bool:
    order = np.lexsort((stamps, days))
    same_day = days[order][1:] == days[order][:-1]
    return bool((same_day & (stamps[order][1:] != stamps[order][:-1])).any())


def intraday(envelope: Envelope, answer: Answer, query: IntradayQuery, native: str) -> Parsed:
    wrong = _about_another(envelope, native)
    if wrong is not None:
        return wrong
    rows = _averaged.decode(envelope.results) or []
    stamps = in_nanoseconds([row.stamp for row in rows])
    if (stamps % _MINUTE).any():
        return malformed("bars that do not start on whole minutes")
    values = _values(rows)
    days = local_days(stamps)
    if len(days) and (seconds_of(stamps) == midnights_of(days)).all():
        return malformed("bars of days instead of minutes")
    wanted = _priced(values) & (days >= np.datetime64(query.start)) & (days <= np.datetime64(query.end))
    nothing = Parsed(
        empty_sessions(query.instrument, query.start, query.end, answer.received_at, envelope),
        f"no bars of {query.interval} from {query.start} to {query.end}",
    )
    if not wanted.any():
        return nothing
    frame = _by_time(rows, values, stamps, wanted, query.instrument.symbol)
    if query.interval == "60min":
        frame = _hours(frame, query, answer.received_at)
        if not len(frame):
            return nothing
    frame = _judged(frame, timedelta(minutes=INTERVALS[query.interval]), envelope, answer)
    # Hours are put together from halves, and the mean of two means is none.
    vwap = None if query.interval == "60min" else frame["vwap"]
    parsed = Parsed(Outcome.OK, bars=frame[list(INTRADAY_COLUMNS)], vwap=vwap)
    return _with_facts(parsed, envelope, answer, days[wanted], query.instrument, query.start)


def seconds(envelope: Envelope, answer: Answer, query: TicksQuery, native: str) -> Parsed:
    """A second in which nobody traded has no bar."""
    wrong = _about_another(envelope, native)
    if wrong is not None:
        return wrong
    rows = _averaged.decode(envelope.results) or []
    stamps = in_nanoseconds([row.stamp for row in rows])
    if (stamps % _SECOND).any():
        return malformed("bars that do not start on whole seconds")
    values = _values(rows)
    wanted = _priced(values) & (stamps >= since_epoch(query.start)) & (stamps < since_epoch(query.end))
    if not wanted.any():
        span = f"from {query.start.isoformat()} to {query.end.isoformat()}"
        return Parsed(empty_ticks(query, answer.received_at), f"no bars of a second {span}")
    frame = _by_time(rows, values, stamps, wanted, query.instrument.symbol)
    frame = _judged(frame, timedelta(seconds=1), envelope, answer)
    basis = Basis.SPLIT if envelope.adjusted else None
    return Parsed(Outcome.OK, bars=frame[list(INTRADAY_COLUMNS)], vwap=frame["vwap"], basis=basis)


def _priced(values: Mapping[str, Floats]) -> npt.NDArray[np.bool_]:
    none: npt.NDArray[np.bool_] = np.all([np.isnan(values[name]) for name in ("open", "high", "low", "close")], axis=0)
    return ~none


def _by_time(
    rows: Sequence[_Averaged],
    values: Mapping[str, Floats],
    stamps: Instants,
    wanted: npt.NDArray[np.bool_],
    symbol: str,
) -> pd.DataFrame:
    moments = seconds_of(stamps[wanted])
    order = np.argsort(moments, kind="stable")
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(symbol, index=pd.RangeIndex(len(order)), dtype="str"),
            "ts": pd.DatetimeIndex(moments[order], tz="UTC"),
            **{name: values[name][wanted][order] for name in VALUE_COLUMNS},
            "vwap": np.array([row.vwap for row in rows], dtype=np.float64)[wanted][order],
        }
    )
    # A bar that was sent again replaces the one before.
    return frame.drop_duplicates("ts", keep="last", ignore_index=True)


def _judged(frame: pd.DataFrame, length: timedelta, envelope: Envelope, answer: Answer) -> pd.DataFrame:
    """Which of them were not over yet in what the answer could show."""
    shown_until = answer.received_at - DELAY if envelope.delayed else answer.received_at
    return frame.assign(provisional=(frame["ts"] + length > pd.Timestamp(shown_until)).to_numpy())


def _hours(half_hours: pd.DataFrame, query: IntradayQuery, received_at: datetime) -> pd.DataFrame:
    """Pairs of half hours, counted from the start of each phase: no hour holds both sides of a bell."""
    calendar = calendar_of(query.instrument.mic, received_at)
    if calendar is None:
        return half_hours
    bars = phased(half_hours, calendar)
    row = np.searchsorted(calendar.days, bars["session"].to_numpy().astype("datetime64[D]"))
    before, _ = EXTENDED_HOURS.get(calendar.mic, (timedelta(), timedelta()))
    opens, closes = calendar.opens[row], calendar.closes[row]
    phase = bars["phase"].to_numpy()
    begins = np.where(
        phase == str(Phase.REGULAR), opens, np.where(phase == str(Phase.POST), closes, opens - np.timedelta64(before))
    )
    stamps = bars["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    starts = begins + (stamps - begins) // _HOUR * _HOUR
    hours = bars.assign(ts=pd.DatetimeIndex(starts, tz="UTC")).groupby(["symbol", "ts"], sort=True, as_index=False)
    made = hours.agg({"open": "first", "high": "max", "low": "min", "close": "last"})
    return made.assign(volume=hours["volume"].sum(min_count=1)["volume"])


def grouped(envelope: Envelope, answer: Answer, query: GroupedQuery, natives: Mapping[str, Instrument]) -> Parsed:
    """`natives`: whose rows are wanted, by the provider's spelling."""
    everything = _bars_of_all.decode(results_of(envelope)) or []
    rows = [row for row in everything if row.native in natives]
    if everything and not any(row.native for row in everything):
        return malformed("rows without their tickers")
    on = local_days(in_nanoseconds([row.stamp for row in everything]))
    if len(on) and not (on == np.datetime64(query.session)).any():
        return malformed(f"asked for {query.session}, the answer is about {on.min()}")
    days = local_days(in_nanoseconds([row.stamp for row in rows]))
    rows = [row for row, same in zip(rows, days == np.datetime64(query.session), strict=True) if same]
    if not rows:
        first = query.instruments[0] if query.instruments else None
        reason = f"{len(everything):,} rows for {query.session}, none of them of the {len(natives):,} asked for"
        if first is None:
            return Parsed(Outcome.EMPTY_EXPECTED, reason)
        return Parsed(empty_sessions(first, query.session, query.session, answer.received_at, envelope), reason)
    order = sorted(range(len(rows)), key=lambda place: natives[rows[place].native].symbol)
    rows = [rows[place] for place in order]
    at, delayed = answer.received_at, envelope.delayed
    under_way = {
        mic
        for mic in {natives[row.native].mic for row in rows}
        if not is_over(query.session, calendar_of(mic, at), at, delayed=delayed)
    }
    frame = pd.DataFrame(
        {
            "symbol": pd.Series([natives[row.native].symbol for row in rows], dtype="str"),
            "session": np.full(len(rows), np.datetime64(query.session, "s")),
            **_values(rows),
            "provisional": [natives[row.native].mic in under_way for row in rows],
        },
        columns=list(BAR_COLUMNS),
    )
    basis = Basis.SPLIT if envelope.adjusted else None
    return Parsed(Outcome.OK, bars=frame.drop_duplicates(ignore_index=True), basis=basis)


def empty_sessions(
    instrument: Instrument, start: date, end: date, asked_at: datetime, envelope: Envelope | None = None
) -> Outcome:
    """Whether nothing is the right answer: no session had begun, or the instrument was not listed then."""
    calendar = calendar_of(instrument.mic, asked_at)
    if calendar is None or start < calendar.start:
        return Outcome.EMPTY_UNEXPECTED
    delayed = envelope is not None and envelope.delayed
    over = (
        session
        for session in calendar.sessions(start, end)
        if instrument.trades_on(session) and is_over(session, calendar, asked_at, delayed=delayed)
    )
    return Outcome.EMPTY_UNEXPECTED if next(over, None) is not None else Outcome.EMPTY_EXPECTED


def _values(rows: Sequence[_Bar]) -> dict[str, Floats]:
    return {
        "open": np.array([row.open for row in rows], dtype=np.float64),
        "high": np.array([row.high for row in rows], dtype=np.float64),
        "low": np.array([row.low for row in rows], dtype=np.float64),
        "close": np.array([row.close for row in rows], dtype=np.float64),
        "volume": np.array([row.volume for row in rows], dtype=np.float64),
    }


def _about_another(envelope: Envelope, native: str) -> Parsed | None:
    """Case counts: `BAPA` and `BApA` are two instruments."""
    named = text_of(envelope.ticker)
    if named == native:
        return None
    return malformed(f"asked for {native}, the answer is about {one_line(named) if named else 'nothing that it names'}")


def _with_facts(
    parsed: Parsed, envelope: Envelope, answer: Answer, days: Days, instrument: Instrument, start: date
) -> Parsed:
    """What the body says of all its bars: their basis, and whether the history is shorter than the question."""
    if parsed.bars is None:
        return parsed
    if envelope.adjusted:
        parsed = replace(parsed, basis=Basis.SPLIT, reason="the answer calls its prices adjusted for splits")
    if answer.endpoint.endswith(NEXT_PAGE):
        return parsed
    calendar = calendar_of(instrument.mic, answer.received_at)
    if calendar is None:
        return parsed
    first: date = days.min().astype(object)
    missing = [day for day in calendar.sessions(start, first - timedelta(days=1)) if instrument.trades_on(day)]
    if len(missing) <= CLIPPED_SESSIONS:
        return parsed
    clipped = (
        f"clipped: begins on {first}, {len(missing):,} sessions after {start}; the plan reaches no further back, "
        f"or {instrument.symbol} was not listed before"
    )
    return replace(parsed, reason="; ".join(text for text in (parsed.reason, clipped) if text))
