"""Which sessions and instruments a Dagster run is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar

_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
RECENT_SESSIONS = 30
"""What a check looks at when it is run without partitions."""


@dataclass(frozen=True)
class Span:
    start: date
    end: date

    @property
    def keys(self) -> tuple[str, str]:
        return self.start.isoformat(), self.end.isoformat()


def span_of_run(tags: Mapping[str, str], market: MarketDefinition, now: datetime) -> Span:
    """The partitions of a run; for a run without any, the market's recent sessions."""
    if _RANGE_START in tags and _RANGE_END in tags:
        return Span(date.fromisoformat(tags[_RANGE_START]), date.fromisoformat(tags[_RANGE_END]))
    if _PARTITION in tags:
        session = date.fromisoformat(tags[_PARTITION])
        return Span(session, session)
    calendar = trading_calendar(market.mic, now)
    last = calendar.last_closed(now)
    sessions = calendar.sessions(last - timedelta(days=RECENT_SESSIONS * 2), last)
    return Span(sessions[-RECENT_SESSIONS], last)


def with_corrections(span: Span, market: MarketDefinition, now: datetime) -> Span:
    """A run of the newest session asks for the last ones once more: providers correct themselves for some days."""
    calendar = trading_calendar(market.mic, now)
    if span.end < calendar.last_closed(now):
        return span
    window = calendar.sessions(market.since, span.end)[-market.correction_sessions :]
    return Span(min(span.start, window[0]), span.end) if window else span
