"""What providers say of the exchanges now and of their next holidays, compared with the calendar that counts here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import market_status
from market_pipelines.market.records import VenueStatus
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.fetch import Delivered, first_delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, StatusQuery
from market_pipelines.store.venues import forget_older_holidays, write_venues

SHORT_DAY = timedelta(minutes=30)
"""A session that ends at least so much before the latest usual bell closes early."""


@dataclass(frozen=True, slots=True)
class CalendarView:
    """What our own calendar says of the market."""

    mic: str
    status: str
    """open, closed, or break."""
    next_open: str
    next_close: str
    phase: str
    """`market.hours.MarketPhase`."""
    session: date | None
    """Today's, by the exchange's own date."""


@dataclass(frozen=True)
class VenueReport:
    delivered: Delivered
    venues: tuple[VenueStatus, ...]
    calendar: CalendarView
    contradictions: tuple[str, ...]
    """Days of which the provider says something else than the calendar."""


def pull_venue_status(
    platform: Platform,
    market: MarketDefinition,
    *,
    run_id: str,
    upcoming: bool = False,
    providers: Sequence[DailyProvider] | None = None,
) -> VenueReport:
    """Sessions are counted by the calendar whatever a provider says; a contradiction is for a person to look at."""
    delivered = first_delivered(
        platform,
        market,
        Capability.MARKET_STATUS,
        lambda _: StatusQuery(upcoming),
        purpose=Purpose.QUOTE,
        run_id=run_id,
        providers=providers,
    )
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    attempt = delivered.delivered
    venues: tuple[VenueStatus, ...] = ()
    if attempt is not None and attempt.parsed is not None and attempt.fetched_at is not None:
        venues = tuple(one for one in attempt.parsed.records if isinstance(one, VenueStatus))
        with platform.database.connection() as connection:
            write_venues(connection, market.name, venues, attempt.provider, attempt.fetched_at)
            if upcoming and venues:
                forget_older_holidays(
                    connection, market.name, attempt.provider, calendar.local_date(now), attempt.fetched_at
                )
    return VenueReport(delivered, venues, _view(market, calendar, platform), contradictions(venues, calendar))


def contradictions(venues: Sequence[VenueStatus], calendar: TradingCalendar) -> tuple[str, ...]:
    """Only of days that the calendar knows."""
    found = []
    days: dict[tuple[date, str], list[str]] = {}
    for venue in venues:
        if venue.on is not None and calendar.start <= venue.on <= calendar.end:
            days.setdefault((venue.on, venue.status), []).append(venue.venue)
    for (day, status), names in sorted(days.items()):
        said = f"{', '.join(sorted(names))}: {status} on {day}"
        if status == "closed" and calendar.is_session(day):
            found.append(f"{said}, and the calendar {calendar.mic} has a session")
        elif status == "early_close" and not calendar.is_session(day):
            found.append(f"{said}, and the calendar {calendar.mic} has no session")
        elif status == "early_close" and not _ends_early(calendar, day):
            found.append(f"{said}, and the calendar {calendar.mic} has a whole session")
    return tuple(found)


def _ends_early(calendar: TradingCalendar, day: date) -> bool:
    around = calendar.sessions(day - timedelta(days=30), day + timedelta(days=30))
    lengths = [calendar.times(session).closes.astimezone(calendar.zone).time() for session in around]
    closes = calendar.times(day).closes.astimezone(calendar.zone)
    return closes.replace(hour=max(lengths).hour, minute=max(lengths).minute) - closes >= SHORT_DAY


def _view(market: MarketDefinition, calendar: TradingCalendar, platform: Platform) -> CalendarView:
    now = platform.clock()
    next_open, next_close = calendar.next_open(now), calendar.next_close(now)
    status = "open" if calendar.is_open(now) else "break" if next_close < next_open else "closed"
    doing = market_status(calendar, now)
    return CalendarView(
        market.mic, status, next_open.isoformat(), next_close.isoformat(), doing.phase.value, doing.session
    )
