"""What the rules over streams may look at: ticks counted in the lake, a session at a time, and gaps that are left.

Nothing is judged here. Where nobody has streamed there is nothing to count, and no file is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import pandas as pd

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.rules import LIVE_QUOTES, LIVE_TRADES
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stream_delay import delay_of
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.store.database import Transaction
from market_pipelines.store.lake import segments
from market_pipelines.store.lake_counts import counted
from market_pipelines.store.lake_overview import streamed_days
from market_pipelines.store.stream_gaps import GapRow, GapStatus, gaps_between

KINDS = {LIVE_QUOTES: (TickKind.QUOTES, TickKind.SNAPSHOTS), LIVE_TRADES: (TickKind.TRADES,)}
"""By table, of what it is made."""
_UNFILLED = (GapStatus.OPEN, GapStatus.PARTIAL, GapStatus.UNFILLABLE)
_MISSED_BY_ALL = (None, "lake")
"""Sinks: what only another one lacks is in the lake."""
_GAP = ("stream", "cause", "status", "reason", "symbols", "begins_at", "ends_at")
_ONE_DAY = timedelta(days=1)


def counted_ticks(platform: Platform, market: MarketDefinition, asset: str, start: date, end: date) -> pd.DataFrame:
    """One query a session and kind."""
    late_seconds = Limits(market.quality.thresholds)("latency")
    with platform.database.connection() as connection:
        days = streamed_days(connection, market.name, KINDS[asset], start, end)
    found = []
    for session, kinds in days.items():
        for kind in kinds:
            with platform.database.connection() as connection:
                listed = segments(connection, kind, market=market.name, session=session)
            delays = {one.feed: delay_of(platform.settings, one.feed).total_seconds() for one in listed}
            found.append(counted(lake_of(platform), kind, listed, late_seconds, delays))
    filled = [one for one in found if len(one)]
    if not filled:
        return pd.DataFrame({"session": pd.Series(dtype="datetime64[s]"), "kind": pd.Series(dtype="str")})
    return pd.concat(filled, ignore_index=True)


def unfilled_gaps(
    connection: Transaction, market: MarketDefinition, start: date, end: date, now: datetime
) -> pd.DataFrame:
    """What the lake may lack of these sessions."""
    zone = trading_calendar(market.mic, now).zone
    begins = datetime.combine(start, time(), zone).astimezone(UTC)
    ends = min(datetime.combine(end, time(), zone).astimezone(UTC) + _ONE_DAY, now)
    gaps = gaps_between(connection, market.name, begins, ends, statuses=_UNFILLED) if begins < ends else []
    return _framed([gap for gap in gaps if gap.sink in _MISSED_BY_ALL])


def was_streamed(connection: Transaction, market: MarketDefinition, asset: str, start: date, end: date) -> bool:
    return bool(streamed_days(connection, market.name, KINDS[asset], start, end))


def _framed(gaps: Sequence[GapRow]) -> pd.DataFrame:
    rows = [[getattr(gap, name) for name in _GAP] for gap in gaps]
    return pd.DataFrame(rows, columns=list(_GAP)).assign(status=[gap.status.value for gap in gaps])
