"""Polygon's aggregates that are made of single trades: seconds, contracts, and what lies between the sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.aggregates import SECOND_NS, bars_of, middle_of
from market_pipelines.simulator.formats.polygon_wire import Row
from market_pipelines.simulator.instruments import Instrument, Option, instrument_named
from market_pipelines.simulator.live import tells_replays
from market_pipelines.simulator.ticks import nanoseconds
from market_pipelines.simulator.truth import World

WIDTHS = {"second": SECOND_NS, "minute": 60 * SECOND_NS, "hour": 3600 * SECOND_NS}


def rows(
    world: World, ticker: str, length: int, span: str, ends: Sequence[str], now: datetime, *, adjusted: bool
) -> list[Row] | None:
    """None: the minutes of the day's own history answer this."""
    instrument = instrument_named(world, ticker, now) if span in WIDTHS else None
    if instrument is None:
        return None
    by_instants = all(text.isdigit() and len(text) > 8 for text in ends)
    start, end = _span(ends, now, by_instants=by_instants)
    replays = by_instants and tells_replays("XNYS", start, end)
    if not replays and span != "second" and not isinstance(instrument, Option):
        return None
    return _rows(instrument, start, end, now, WIDTHS[span] * length, replays=replays, adjusted=adjusted)


def _span(ends: Sequence[str], now: datetime, *, by_instants: bool) -> tuple[datetime, datetime]:
    """The end excluded."""
    if by_instants:
        first, last = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(text)) for text in ends)
        return first, last + timedelta(milliseconds=1)
    zone = trading_calendar("XNYS", now).zone
    begins, ends_with = (_midnight(text, zone) for text in ends)
    return begins, _midnight(str(ends_with.date() + timedelta(days=1)), zone)


def _midnight(text: str, zone: ZoneInfo) -> datetime:
    if text.isdigit() and len(text) > 8:
        text = str(datetime.fromtimestamp(int(text) / 1000, tz=zone).date())
    day = date.fromisoformat(text)
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def _rows(
    instrument: Instrument, start: datetime, end: datetime, now: datetime, width: int, *, replays: bool, adjusted: bool
) -> list[Row]:
    """Of bars that start within the span and are over."""
    whole = timedelta(microseconds=width // 1000)
    trades = instrument.trades(start - whole, min(end + whole, now), now, replays=replays)
    bars = bars_of(trades, width)
    kept = (
        (bars.starts >= nanoseconds(start))
        & (bars.starts < nanoseconds(end))
        & (bars.starts + width <= nanoseconds(now))
    )
    split = np.ones(len(bars))
    if adjusted and len(bars):
        tape = instrument.world.tape(instrument.listing, now, forming=True)
        factor = np.append(tape.split_factor, 1.0)
        days = bars.starts.astype("datetime64[ns]").astype("datetime64[D]")
        split = factor[np.searchsorted(tape.sessions, days)]
    return [
        {
            "v": round(v, 6),
            "vw": middle_of(h, low, c),
            "o": round(o, 6),
            "c": round(c, 6),
            "h": round(h, 6),
            "l": round(low, 6),
            "t": start_of // 1_000_000,
            "n": n,
        }
        for start_of, o, h, low, c, v, n in zip(
            bars.starts[kept].tolist(),
            (bars.open / split)[kept].tolist(),
            (bars.high / split)[kept].tolist(),
            (bars.low / split)[kept].tolist(),
            (bars.close / split)[kept].tolist(),
            (bars.volume * split)[kept].tolist(),
            bars.count[kept].tolist(),
            strict=True,
        )
    ]
