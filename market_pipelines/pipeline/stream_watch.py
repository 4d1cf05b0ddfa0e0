"""Whether the live streams of a market are well: read from the tables, judged by rules that need nothing else.

Looks and never connects to a feed. Who streams and keeps those tables is the live service; what follows from a
verdict (a check, an incident, a run) is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from market_pipelines.market.cadence import LONGEST_CLOSURE, Cycle, intraday_cycle, window_of
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import MarketPhase, MarketStatus, hours, market_status
from market_pipelines.market.intraday import EXTENDED_HOURS
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.incidents import Recovery
from market_pipelines.pipeline.platform import Platform
from market_pipelines.settings import StreamHost
from market_pipelines.store.bars_from_ticks import StreamedSession, streamed_sessions
from market_pipelines.store.incidents import Sighting
from market_pipelines.store.stream_gaps import GapRow, GapStatus, gaps_between
from market_pipelines.store.streams import StreamRow, StreamState, stream_rows

SILENT_SECONDS = 60.0
"""In regular hours, of a feed that is pushed: in a market of dozens of symbols something always happens."""
QUIET_SECONDS = 900.0
"""In extended hours."""
POLLS_MISSED = 3
"""A polled feed is silent after so many of its intervals without an answer."""
LATE_SECONDS = 5.0
"""From an event to its arrival, for one in a hundred, of a feed that is pushed."""
SINK_LATE_SECONDS, SINK_STUCK_SECONDS = 30.0, 600.0
FILLED_WITHIN = timedelta(minutes=15)
"""A gap that has ended is filled by then, as far as it can be."""
FORGOTTEN = timedelta(days=4)
"""A stream that died so long ago and was never started again is nobody's any more."""
_LOOK_BACK = timedelta(days=7)
_GAPS_SHOWN = 3
_POLLED = ("stooq", "poll")
_BARS_LATER = timedelta(minutes=15)
"""After the providers' own bars within the session, which ours are compared with."""
NOBODY = "Nobody streams this market."


class StreamCheck(StrEnum):
    NOT_SILENT = "not_silent"
    LAG = "lag"
    GAPS_FILLED = "gaps_filled"


class Gravity(StrEnum):
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    check: StreamCheck
    passed: bool
    words: str
    gravity: Gravity = Gravity.WARNING
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """What one stream counts, as far as its service tells."""

    events: int
    rate: float | None
    """Events a second, by now."""
    event_age: float | None
    """Seconds since the newest event."""
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    reconnects: int
    live: int
    connections: int
    sink_lag: float
    """Seconds, of the sink that is furthest behind."""
    slowest_sink: str


@dataclass(frozen=True, slots=True)
class Watched:
    """A market's streams at an instant."""

    market: MarketDefinition
    at: datetime
    status: MarketStatus
    rows: tuple[StreamRow, ...]
    unfilled: tuple[GapRow, ...]
    """Gaps of the last days that history has not filled: those that are open, and of the newest session all."""
    noted: tuple[GapRow, ...] = ()
    """Filled ones of the newest session that have something to say: what history cannot bring, above all."""

    @property
    def running(self) -> tuple[StreamRow, ...]:
        return tuple(row for row in self.rows if row.running)

    @property
    def died(self) -> tuple[StreamRow, ...]:
        return tuple(row for row in self.rows if row.died and row.heartbeat_age < FORGOTTEN.total_seconds())

    @property
    def trades(self) -> bool:
        """Extended hours included, where the exchange has any, and what a delayed stream still has to tell of them."""
        return self.status.trades(extended=True) or any(self.told_by(row).trades(extended=True) for row in self.rows)

    def told_by(self, row: StreamRow) -> MarketStatus:
        """What the exchange did when that happened which comes now."""
        if not row.delay:
            return self.status
        then = self.at - row.delay
        return market_status(trading_calendar(self.market.mic, then), then)

    def gaps_of(self, stream: str) -> tuple[GapRow, ...]:
        return tuple(gap for gap in self.unfilled if gap.stream == stream)


def watch(platform: Platform, market: MarketDefinition) -> Watched:
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    status = market_status(calendar, now)
    with platform.database.connection() as connection:
        rows = stream_rows(connection, market=market.name)
        gaps = gaps_between(connection, market.name, now - _LOOK_BACK, now) if rows else []
    newest = _newest_session_begins(calendar, status)
    kept = [gap for gap in gaps if gap.status is GapStatus.OPEN or (gap.ends_at or now) >= newest]
    unfilled = tuple(gap for gap in kept if gap.status is not GapStatus.FILLED)
    noted = tuple(gap for gap in kept if gap.status is GapStatus.FILLED and gap.reason)
    return Watched(market, now, status, tuple(rows), unfilled, noted)


def figures(row: StreamRow) -> StreamFigures:
    told = row.counters
    lags = [(float(sink.get("cursor_lag_s") or 0.0), str(sink.get("sink", ""))) for sink in row.sinks]
    worst = max(lags, default=(0.0, ""))
    age = _number(told.get("last_event_age_s"))
    return StreamFigures(
        events=int(told.get("events") or 0),
        rate=_number(told.get("events_per_s")),
        event_age=None if age is None else age + row.heartbeat_age,
        lag_p50_ms=_number(told.get("lag_p50_ms")),
        lag_p99_ms=_number(told.get("lag_p99_ms")),
        reconnects=sum(int(one.get("reconnects") or 0) for one in row.connections),
        live=sum(one.get("state") == "live" for one in row.connections),
        connections=len(row.connections),
        sink_lag=worst[0],
        slowest_sink=worst[1],
    )


# --- verdicts --------------------------------------------------------------------------------------------------


def verdicts(seen: Watched) -> tuple[Verdict, ...]:
    return (silence(seen), lag(seen), gaps_filled(seen))


def silence(seen: Watched) -> Verdict:
    """Connected but mute is a fault; a closed exchange is not."""
    check = StreamCheck.NOT_SILENT
    if not seen.running:
        if seen.died and seen.trades:
            # Told as an incident of its own.
            return Verdict(check, False, "; ".join(epitaph(row) for row in seen.died))
        return Verdict(check, True, NOBODY if not seen.died else f"{NOBODY} {_closed(seen)}")
    ages = {row.stream: _silent_for(row) for row in seen.running}
    worst = max(ages.values())
    told = {"seconds_since_an_event": worst}
    if not seen.trades:
        return Verdict(check, True, _closed(seen), figures=told)
    mute = [
        row
        for row in seen.running
        if seen.told_by(row).trades(extended=True) and ages[row.stream] > _patience(seen, row)
    ]
    if not mute:
        return Verdict(check, True, f"The newest event is {worst:.0f} s old.", figures=told)
    words = "; ".join(
        f"{row.stream} has said nothing for {ages[row.stream]:.0f} s while {seen.market.mic} trades "
        f"({row.state.value}{f': {row.detail}' if row.detail else ''})"
        for row in mute
    )
    gravity = Gravity.ERROR if any(seen.told_by(row).is_open for row in mute) else Gravity.WARNING
    return Verdict(check, False, words, gravity, told)


def lag(seen: Watched) -> Verdict:
    """How long an event takes to arrive, and from the journal to where it is read."""
    check = StreamCheck.LAG
    if not seen.running:
        return Verdict(check, True, NOBODY)
    late, stuck, told = [], False, {"sink_lag_seconds": 0.0, "lag_p99_ms": 0.0}
    for row in seen.running:
        counted = figures(row)
        told["sink_lag_seconds"] = max(told["sink_lag_seconds"], counted.sink_lag)
        told["lag_p99_ms"] = max(told["lag_p99_ms"], counted.lag_p99_ms or 0.0)
        if counted.sink_lag > SINK_LATE_SECONDS:
            stuck |= counted.sink_lag > SINK_STUCK_SECONDS
            slowest = next((one for one in row.sinks if one.get("sink") == counted.slowest_sink), {})
            why = str(slowest.get("last_error") or "")
            late.append(
                f"{row.stream}: {counted.slowest_sink} is {counted.sink_lag:.0f} s behind the journal"
                + (f" ({why})" if why else "")
            )
        on_the_way = (counted.lag_p99_ms or 0.0) / 1000
        if row.feed not in _POLLED and seen.told_by(row).is_open and on_the_way > LATE_SECONDS:
            beyond = f" beyond the {row.delay / timedelta(minutes=1):g} min of its plan" if row.delay else ""
            late.append(f"{row.stream}: one event in a hundred takes {on_the_way:.1f} s to arrive{beyond}")
    if late:
        return Verdict(check, False, "; ".join(late), Gravity.ERROR if stuck else Gravity.WARNING, told)
    return Verdict(check, True, "Every sink has what the journal has.", figures=told)


def gaps_filled(seen: Watched) -> Verdict:
    """What was missed has been asked of the provider's history, and all that history has of it is there. What has no
    history (price bands) is no reason to fail beside what has: it is told."""
    check = StreamCheck.GAPS_FILLED
    told = {"unfilled_gaps": float(len(seen.unfilled))}
    delays = {row.stream: row.delay for row in seen.rows}
    lasting = [gap for gap in seen.unfilled if _is_lasting(gap, seen.at - delays.get(gap.stream, timedelta()))]
    if lasting:
        return Verdict(check, False, _listed(lasting), figures=told)
    if seen.unfilled:
        return Verdict(check, True, f"{len(seen.unfilled)} gaps are being filled.", figures=told)
    if seen.noted:
        return Verdict(check, True, f"All that history has is there. {_listed(seen.noted)}", figures=told)
    return Verdict(check, True, "Nothing is missing.", figures=told)


def _listed(gaps: Sequence[GapRow]) -> str:
    more = f" and {len(gaps) - _GAPS_SHOWN} more" if len(gaps) > _GAPS_SHOWN else ""
    return f"{'; '.join(described(gap) for gap in gaps[:_GAPS_SHOWN])}{more}"


def described(gap: GapRow) -> str:
    """A gap in a few words, for a person."""
    until = "still going on" if gap.ends_at is None else f"to {gap.ends_at:%H:%M:%S}"
    whose = f" of {len(gap.symbols)} symbols" if gap.symbols is not None else ""
    where = f", only in {gap.sink}" if gap.sink else ""
    why = f": {gap.reason}" if gap.reason else ""
    return (
        f"{gap.stream} {gap.cause.replace('_', ' ')}{whose} from {gap.begins_at:%Y-%m-%d %H:%M:%S} {until} UTC{where}, "
        f"{gap.status.value}{why}"
    )


def holder(row: StreamRow) -> str:
    """Who streams, for a person."""
    run = f"Dagster run {row.run_id[:8]}, " if row.hosted_by == StreamHost.DAGSTER.value and row.run_id else ""
    return f"{row.stream} is streamed by {run}pid {row.pid} on {row.host}, heartbeat {row.heartbeat_age:.1f} s ago"


def epitaph(row: StreamRow) -> str:
    return (
        f"{row.stream} died: pid {row.pid} on {row.host} was last heard of at {row.heartbeat_at:%Y-%m-%d %H:%M:%S} "
        "UTC, and nobody has taken over"
    )


# --- what is to be done ----------------------------------------------------------------------------------------


def changes(seen: Watched, url: str) -> tuple[Sighting | Recovery, ...]:
    """What of the streams is an incident now, and what is over."""
    found: list[Sighting | Recovery] = []
    for row in seen.rows:
        key = f"stream:{row.stream}"
        forgotten = row.heartbeat_age >= FORGOTTEN.total_seconds()
        if row.running:
            found.append(Recovery(key=key, detail=f"{holder(row)}."))
        elif forgotten:
            found.append(Recovery(key=key, detail="Nobody has streamed it for days."))
        elif row.state is StreamState.FAILED:
            found.append(_sighting(key, f"{row.stream} has given up", row.detail or "It gave no reason.", url))
        elif not row.died:
            found.append(Recovery(key=key, detail="It was stopped in good order."))
        elif seen.trades:
            found.append(_sighting(key, f"{row.stream} died", f"{epitaph(row)}. {_REMEDY}", url))
    return tuple(found)


_REMEDY = (
    "`market-pipelines stream run` starts it again and history fills what was missed; `market-pipelines stream stop` "
    "says that it is not wanted"
)


def wants_run(seen: Watched, host: StreamHost) -> str:
    """Why no run is to be started that streams the market; empty: one is."""
    if seen.running:
        return "; ".join(holder(row) for row in seen.running)
    if host is not StreamHost.DAGSTER:
        dead = "".join(f"; {epitaph(row)}" for row in seen.died)
        return f"nobody streams, and streams are hosted outside Dagster (STREAM_HOSTED_BY={host.value}){dead}"
    if not seen.trades:
        return _closed(seen)
    return ""


def streamed_until(
    calendar: TradingCalendar, now: datetime, delay: timedelta = timedelta(), grace: timedelta = timedelta(minutes=2)
) -> datetime:
    """The end of the trading that goes on, or of the next one, extended hours included, and a little. `delay`: of the
    stream, so much later its last events come."""
    today = calendar.local_date(now)
    for session in calendar.sessions(today - timedelta(days=1), today + timedelta(days=30)):
        ends = hours(calendar, session).ends + delay
        if now < ends:
            return ends + grace
    raise ValueError(f"{calendar.mic}: no session is known after {now.isoformat()}")


def bars_cycle(market: MarketDefinition) -> Cycle:
    """When bars are built from a session's ticks."""
    usual = intraday_cycle(market) or Cycle("1min", timedelta(minutes=market.minutes_after_close))
    return Cycle("1min", usual.delay + _BARS_LATER, market.mic in EXTENDED_HOURS)


def unbuilt_sessions(platform: Platform, market: MarketDefinition, now: datetime) -> tuple[StreamedSession, ...]:
    """Closed sessions that were streamed and have no bars, or only some of before their end or before history
    filled a gap in them; oldest first."""
    cycle, calendar = bars_cycle(market), trading_calendar(market.mic, now)
    days = {session: hours(calendar, session) for session in window_of(cycle, market, calendar, now)}
    with platform.database.connection() as connection:
        found = streamed_sessions(
            connection, market.name, {session: (day.begins, day.ends) for session, day in days.items()}
        )
    return tuple(
        one
        for one in found
        if one.built_at is None
        or one.built_at < days[one.session].ends
        or (one.filled_at is not None and one.filled_at > one.built_at)
    )


# --- parts -----------------------------------------------------------------------------------------------------


def _newest_session_begins(calendar: TradingCalendar, status: MarketStatus) -> datetime:
    today = calendar.local_date(status.at)
    begun = [hours(calendar, one).begins for one in calendar.sessions(today - LONGEST_CLOSURE, today)]
    return max((at for at in begun if at <= status.at), default=status.at)


def _silent_for(row: StreamRow) -> float:
    """Since its newest event, or since it began where there was none."""
    age = figures(row).event_age
    if age is not None:
        return age
    return (row.heartbeat_at - row.started_at).total_seconds() + row.heartbeat_age


def _patience(seen: Watched, row: StreamRow) -> float:
    if not seen.told_by(row).is_open:
        return QUIET_SECONDS
    every = seen.market.stream.every_seconds if seen.market.stream is not None else 0.0
    return max(SILENT_SECONDS, POLLS_MISSED * every) if row.feed in _POLLED else SILENT_SECONDS


def _closed(seen: Watched) -> str:
    calendar = trading_calendar(seen.market.mic, seen.at)
    opens = seen.status.next_open
    before, _ = EXTENDED_HOURS.get(seen.market.mic, (timedelta(), timedelta()))
    begins = (opens - before).astimezone(calendar.zone)
    phase = "" if seen.status.phase is MarketPhase.CLOSED else f" ({seen.status.phase.value})"
    return f"{seen.market.mic} is closed{phase} until {begins:%a %Y-%m-%d %H:%M} {calendar.zone.key}"


def _is_lasting(gap: GapRow, now: datetime) -> bool:
    if gap.status is not GapStatus.OPEN:
        return True
    return now - (gap.ends_at or gap.begins_at) > FILLED_WITHIN


def _sighting(key: str, title: str, detail: str, url: str) -> Sighting:
    return Sighting(key=key, title=title, detail=detail, source="streams", url=url)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
