"""When a market is refreshed: after its exchange's close and while it trades, by the exchange's own clock and calendar.

A schedule only decides whether a run is asked for, and over which sessions. Its ticks are cheap and their reasons
are for people: a tick that starts nothing says why.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from market_pipelines.market.cadence import (
    Cycle,
    Due,
    at_times,
    daily_cycle,
    due_at,
    every,
    local_times,
    newest_due,
    trading_hours,
)
from market_pipelines.market.definition import IntradayPlan, MarketDefinition
from market_pipelines.market.hours import MarketPhase, MarketStatus, hours, market_status
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.orchestration.cron import (
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    overtaken,
    run_going_on,
    run_of_key,
    written,
)
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.due import waiting
from market_pipelines.pipeline.platform import wall_clock

Decision = dg.RunRequest | dg.SkipReason


def after_close_schedule(
    market: MarketDefinition, job_name: str, cycle: Cycle, now: datetime, layer: str = ""
) -> dg.ScheduleDefinition:
    """Asks after each of the exchange's closing times for what is due by then: usually one session; all that were
    missed, in one run, when nobody was there to ask."""
    lines, zone = refresh_ticks(market, cycle, now)

    @dg.schedule(
        name=f"{market.name}_{layer}_after_close" if layer else f"{market.name}_after_close",
        job_name=job_name,
        cron_schedule=written(lines),
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=_description(market, cycle),
    )
    def after_close(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> Decision:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if reason := overtaken(lines, zone, tick, wall_clock()):
            return dg.SkipReason(reason)
        calendar = trading_calendar(market.mic, tick)
        newest = newest_due(cycle, calendar, tick)
        if newest is None:
            return dg.SkipReason(f"no session of {market.mic} has closed yet")
        with platform.opened(asks=False) as opened:
            due = waiting(opened, market, cycle, tick)
        if due is None:
            today = _about_today(cycle, calendar, tick)
            return dg.SkipReason(f"{newest} and the sessions before it are refreshed; {today}")
        return once(context.instance, job_name, run_key(job_name, due), range_tags(due))

    return after_close


def refresh_ticks(market: MarketDefinition, cycle: Cycle, now: datetime) -> tuple[list[str], str]:
    """The cron lines at which a market is refreshed, and the zone that they are read in."""
    if cycle.daily and market.cadence.daily_cron is not None:
        return [market.cadence.daily_cron], "UTC"
    calendar = trading_calendar(market.mic, now)
    return at_times(local_times(cycle, calendar, now)), calendar.zone.key


def market_hours_schedule(
    market: MarketDefinition, plan: IntradayPlan, job_name: str, now: datetime
) -> dg.ScheduleDefinition:
    """Asks for the running session again and again while the exchange trades."""
    calendar = trading_calendar(market.mic, now)
    lines = every(plan.every_minutes, *trading_hours(calendar, now, extended=plan.extended))
    zone = calendar.zone.key
    outside = "extended hours included" if plan.extended else "in its regular hours"

    @dg.schedule(
        name=f"{market.name}_intraday_market_hours",
        job_name=job_name,
        cron_schedule=written(lines),
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Every {plan.every_minutes} minutes while {market.mic} trades, {outside}.",
    )
    def market_hours(context: dg.ScheduleEvaluationContext) -> Decision:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if reason := overtaken(lines, zone, tick, wall_clock()):
            return dg.SkipReason(reason)
        calendar = trading_calendar(market.mic, tick)
        status = market_status(calendar, tick)
        if status.session is None or not status.trades(extended=plan.extended):
            return dg.SkipReason(f"{_closed(calendar, status)}; next open {_local(status.next_open, calendar)}")
        day = hours(calendar, status.session)
        first_bar = (day.begins if plan.extended else day.opens) + timedelta(minutes=INTERVALS[plan.interval])
        if tick < first_bar:
            return dg.SkipReason(f"trading has just begun; its first bar ends at {_local(first_bar, calendar)}")
        if (going := run_going_on(context.instance, job_name)) is not None:
            return dg.SkipReason(f"the last run of {job_name} is still going: {going.run_id[:8]}")
        slot = tick.astimezone(calendar.zone)
        key = f"{job_name}-{status.session}-{slot:%H%M}"
        # Not as the request's partition_key: the session becomes a partition when it closes, and Dagster refuses
        # those that it does not list yet.
        return once(context.instance, job_name, key, {PARTITION_TAG: status.session.isoformat()})

    return market_hours


def weekly_schedule(market: MarketDefinition, job_name: str) -> dg.ScheduleDefinition:
    """Once a week everything once more: reference data, and the last sessions, which providers may have corrected."""
    line, zone, cycle = market.cadence.weekly_cron, trading_calendar(market.mic).zone.key, daily_cycle(market)

    @dg.schedule(
        name=f"{market.name}_weekend",
        job_name=job_name,
        cron_schedule=line,
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Weekly, by the clock of {market.mic}: all reference data, and the daily bars of the last "
        f"{market.cadence.weekly_sessions} sessions once more.",
    )
    def weekend(context: dg.ScheduleEvaluationContext) -> Decision:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if reason := overtaken([line], zone, tick, wall_clock()):
            return dg.SkipReason(reason)
        calendar = trading_calendar(market.mic, tick)
        newest = newest_due(cycle, calendar, tick)
        if newest is None:
            return dg.SkipReason(f"no session of {market.mic} has closed yet")
        sessions = calendar.sessions(market.since, newest)[-market.cadence.weekly_sessions :]
        key = f"{job_name}-{calendar.local_date(tick)}"
        return once(context.instance, job_name, key, range_tags(Due(sessions[0], sessions[-1])))

    return weekend


def once(instance: dg.DagsterInstance, job_name: str, key: str, tags: dict[str, str]) -> Decision:
    """A run with that key, unless there has been one: a failed one is not repeated as it was."""
    earlier = run_of_key(instance, job_name, key)
    if earlier is None:
        return dg.RunRequest(run_key=key, tags=tags)
    return dg.SkipReason(f"{key} was run before: {earlier.run_id[:8]} ({earlier.status.value.lower()})")


def run_key(job_name: str, due: Due) -> str:
    return f"{job_name}-{due.start}" if due.start == due.end else f"{job_name}-{due.start}-to-{due.end}"


def range_tags(due: Due) -> dict[str, str]:
    if due.start == due.end:
        return {PARTITION_TAG: due.start.isoformat()}
    return {RANGE_START_TAG: due.start.isoformat(), RANGE_END_TAG: due.end.isoformat()}


def _description(market: MarketDefinition, cycle: Cycle) -> str:
    what = f"Sessions that were missed, up to {market.cadence.catch_up_sessions}, go into the same run."
    if cycle.daily and market.cadence.daily_cron is not None:
        return f"At {market.cadence.daily_cron} UTC, for the sessions of {market.mic} closed by then. {what}"
    minutes = cycle.delay // timedelta(minutes=1)
    bell = "ends its extended hours" if cycle.extended else "closes"
    return f"{minutes} minutes after {market.mic} {bell}, half days by their own close. {what}"


def _about_today(cycle: Cycle, calendar: TradingCalendar, tick: datetime) -> str:
    today = calendar.local_date(tick)
    if not calendar.is_session(today):
        return f"{today} is not a session of {calendar.mic} ({_closed(calendar, market_status(calendar, tick))})"
    due = due_at(cycle, calendar, today)
    if due <= tick:
        return f"the next session opens {_local(calendar.next_open(tick), calendar)}"
    return f"that of {today} is due at {_local(due, calendar)}"


def _closed(calendar: TradingCalendar, status: MarketStatus) -> str:
    today = calendar.local_date(status.at)
    match status.phase:
        case MarketPhase.WEEKEND:
            return "weekend"
        case MarketPhase.HOLIDAY:
            return f"holiday: {calendar.holiday_name(today)}"
        case MarketPhase.PRE_MARKET:
            return "before hours"
        case MarketPhase.AFTER_HOURS:
            return "after hours"
        case _:
            before = status.session is not None and status.at < hours(calendar, status.session).opens
            return "before hours" if before else "after hours"


def _local(instant: datetime, calendar: TradingCalendar) -> str:
    return f"{instant.astimezone(calendar.zone):%a %Y-%m-%d %H:%M} {calendar.zone.key}"
