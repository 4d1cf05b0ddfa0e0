"""What a provider's history is asked about a gap: which symbols and channels, which spans, which gaps as one.

Values in, questions out; who asks them, and what comes of it, is `fill`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import hours
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.providers.protocol import Capability, DailyProvider
from market_pipelines.store.stream_gaps import GapRow
from market_pipelines.streaming.plan import ALL, Channel

PAD = timedelta(seconds=2)
"""On both sides: events are older than their arrival, and clocks differ."""
PIECE = timedelta(hours=1)
"""Of trades and quotes: as much as one question asks for."""
PIECE_OF_SECONDS = timedelta(hours=12)
"""Fewer than the 50,000 bars that one page of the provider may count."""
LONGEST = timedelta(days=5)
"""Of a gap: its older part is for a backfill to fetch."""
NEAR = timedelta(minutes=1)
"""Two gaps with no more between them are asked for as one."""
HISTORY: Mapping[str, tuple[Capability, TickKind | None]] = {
    Channel.QUOTES: (Capability.QUOTES_HISTORY, TickKind.QUOTES),
    Channel.TRADES: (Capability.TRADES, TickKind.TRADES),
    Channel.SECONDS: (Capability.SECONDS, TickKind.AGGREGATES),
    Channel.MINUTES: (Capability.INTRADAY, None),
}
"""By channel, who tells of it afterwards."""


@dataclass(frozen=True, slots=True)
class Question:
    symbol: str
    channel: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be asked about a gap."""

    questions: tuple[Question, ...] = ()
    cut: str = ""
    """What of it will not be asked, though there is a history of it."""
    lacking: str = ""
    """What nobody has a history of: the gap is as full as it can be without it."""


def questions_about(
    gap: GapRow,
    ended: datetime,
    market: MarketDefinition,
    provider: DailyProvider,
    subscribed: Sequence[str],
    *,
    at_all_hours: bool,
) -> Asked:
    """`subscribed`: now, for a gap that does not say. `at_all_hours`: events come round the clock, as the simulator's
    do. Nothing at all where nobody traded."""
    # Whole seconds, so that each bar of one lies within one question.
    begins, ends = _floor(max(gap.begins_at, ended - LONGEST) - PAD), _floor(ended + PAD + timedelta(seconds=1))
    older = "" if gap.begins_at >= ended - LONGEST else f"only the last {LONGEST.days} days of it are fetched"
    cut = [older] if older else []
    symbols = tuple(gap.symbols) if gap.symbols is not None else tuple(subscribed)
    if ALL in symbols:
        cut.append("the stream follows all symbols, and those of the market file alone are fetched")
        symbols = tuple(one.symbol for one in market.instruments if provider.covers(one))
    channels = [channel for channel in gap.channels if channel in HISTORY]
    missing = sorted(set(gap.channels) - set(channels))
    spans = [(begins, ends)] if at_all_hours else list(_trading(market, begins, ends))
    if not spans:
        return Asked(cut=older)
    found = []
    for channel in channels:
        length = PIECE_OF_SECONDS if channel == Channel.SECONDS else PIECE
        pieces = [piece for span in spans for piece in _pieces(*span, length)] if HISTORY[channel][1] else spans
        found += [Question(symbol, channel, start, end) for start, end in pieces for symbol in symbols]
    lacking = f"there is no history of {', '.join(missing)}" if missing else ""
    return Asked(tuple(found), "; ".join(cut), lacking)


def _trading(market: MarketDefinition, begins: datetime, ends: datetime) -> Iterator[tuple[datetime, datetime]]:
    calendar = trading_calendar(market.mic, ends)
    for session in calendar.sessions(calendar.local_date(begins), calendar.local_date(ends)):
        day = hours(calendar, session)
        start, end = max(begins, day.begins), min(ends, day.ends)
        if start < end:
            yield start, end


def _pieces(begins: datetime, ends: datetime, length: timedelta) -> Iterator[tuple[datetime, datetime]]:
    while begins < ends:
        yield begins, min(begins + length, ends)
        begins += length


def _floor(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def neighbours(gaps: Sequence[GapRow]) -> Iterator[list[GapRow]]:
    """A stream that was started and killed again and again has many short gaps with little between them: asking once
    for all is fewer requests than asking for each. `gaps`: by their beginning."""
    together: list[GapRow] = []
    for gap in gaps:
        if together and not _joins(together, gap):
            yield together
            together = []
        together.append(gap)
    if together:
        yield together


def _joins(gaps: Sequence[GapRow], gap: GapRow) -> bool:
    first = gaps[0]
    alike = all(getattr(gap, name) == getattr(first, name) for name in ("status", "channels", "symbols", "sink"))
    ends = [one.ends_at for one in gaps if one.ends_at is not None]
    return alike and gap.ends_at is not None and gap.ends_at >= max(ends) and gap.begins_at - max(ends) <= NEAR
