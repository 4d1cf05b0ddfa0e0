"""When a market is refreshed: after its exchange's close, by the exchange's own clock and calendar."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import dagster as dg

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar

INTRADAY_LATER = timedelta(minutes=15)
"""After the daily bars, which the bars within the session are compared with."""


def after_close_schedule(
    market: MarketDefinition, job_name: str, now: datetime, layer: str = "", later: timedelta = timedelta()
) -> dg.ScheduleDefinition:
    """Asks every day some time after the usual close; days without a session say so and start nothing."""
    calendar = trading_calendar(market.mic, now)
    minutes = market.minutes_after_close + later // timedelta(minutes=1)
    at = usual_close(market, now) + timedelta(minutes=minutes)

    @dg.schedule(
        name=f"{market.name}_{layer}_after_close" if layer else f"{market.name}_after_close",
        job_name=job_name,
        cron_schedule=f"{at.minute} {at.hour} * * *",
        execution_timezone=calendar.zone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{minutes} minutes after {market.mic} usually closes, on its sessions.",
    )
    def after_close(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        moment = context.scheduled_execution_time.astimezone(UTC)
        today = calendar.local_date(moment)
        if not calendar.is_session(today):
            return dg.SkipReason(f"{today} is not a session of {market.mic}")
        if not calendar.is_closed(today, moment):
            return dg.SkipReason(f"the session of {today} closes at {calendar.times(today).closes:%H:%M} UTC")
        return dg.RunRequest(run_key=f"{job_name}-{today}", partition_key=today.isoformat())

    return after_close


def usual_close(market: MarketDefinition, now: datetime) -> datetime:
    """The latest local closing time among the sessions of the last weeks."""
    calendar = trading_calendar(market.mic, now)
    last = calendar.last_closed(now)
    closes = [
        calendar.times(session).closes.astimezone(calendar.zone).time()
        for session in calendar.sessions(last - timedelta(days=30), last)
    ]
    return datetime.combine(last, max(closes, default=time(17)), calendar.zone)
