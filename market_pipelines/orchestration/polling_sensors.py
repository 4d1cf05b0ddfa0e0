"""Polling in Dagster: the job that polls a market once, and a sensor a strategy that decides when.

The sensors are off until a person turns one on. Their cursor says where they stand; it can be read and edited in
the UI. When to poll is said by `market.polling`, what a poll does by `pipeline.polling`.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import dagster as dg
import msgspec
import pandas as pd
from pydantic import Field

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.polling import AROUND_A_BELL, LENGTHENED, SHORTENED, Pace, Rhythm, Strategy, pace_of
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.orchestration.cron import lane, run_going_on
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import INTRADAY_LAYER, asset_key
from market_pipelines.pipeline.intraday import plan_of
from market_pipelines.pipeline.jobs import poll_of_job
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.polling import (
    MAX_RETRIES,
    CycleOutcome,
    CycleReport,
    by_outcome,
    poll_cycle,
    poll_of,
    polled_session,
)
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.store.intraday import newest_change

TICK_SECONDS = 30
STRATEGY_TAG, JOB_TAG = "market_pipelines/strategy", "market_pipelines/job"


class PollConfig(dg.Config):
    """What one poll asks for."""

    symbols: list[str] = Field(default_factory=list, description="Empty: all of the market.")
    interval: str = Field(default="", description="Length of the bars; empty: that of the market file.")
    batch_size: int = Field(default=0, ge=0, description="Symbols committed together; 0: BATCH_SIZE.")
    max_retries: int = Field(default=MAX_RETRIES, ge=0, description="How often a failed symbol is asked for again.")
    extended_hours: bool = Field(default=False, description="Bars before the opening and after the closing bell too.")
    job: str = Field(default="", description="A scheduled job by name; what it polls goes before all of the above.")


def poll_job_name(market: MarketDefinition) -> str:
    return f"{market.name}_poll"


def poll_job(market: MarketDefinition) -> dg.JobDefinition:
    """One poll of the running session, or of the last one where none is running."""
    key = asset_key(market, "stock_prices_intraday")

    @dg.op(
        name=_op_name(market),
        out=dg.Out(dg.Nothing),
        description=f"Asks the providers of {market.title} for the bars of the running session, in batches, and "
        "stores what is new. What it did is observed on the asset, because a poll does not complete a session.",
        tags={"kind": "postgres"},
    )
    def poll_cycle_op(context: dg.OpExecutionContext, config: PollConfig, platform: PlatformResource) -> None:
        with platform.opened() as opened:
            poll = (
                poll_of_job(opened, config.job)
                if config.job
                else poll_of(
                    opened,
                    market.name,
                    config.symbols,
                    interval=config.interval or plan_of(market).interval,
                    batch_size=config.batch_size or None,
                    retries=config.max_retries,
                    extended=config.extended_hours,
                    job_name=poll_job_name(market),
                )
            )
            report = poll_cycle(
                opened,
                poll,
                Stop(),
                dagster_run_id=context.run.run_id,
                progress=lambda done, total, symbol: context.log.info(f"polled {done} of {total} symbols {symbol}"),
            )
        metadata = _told(report, poll.interval)
        context.add_output_metadata(metadata)
        if market.intraday is not None:
            context.log_event(dg.AssetObservation(key, description=_sentence(report), metadata=metadata))
        if report.outcome is CycleOutcome.FAILURE:
            raise dg.Failure(_sentence(report), metadata=metadata, allow_retries=False)

    @dg.job(
        name=poll_job_name(market),
        description=f"One poll of {market.title}: the bars of the running session, of all symbols or of some.",
        tags={"market": market.name, **lane(market.name, INTRADAY_LAYER)},
    )
    def poll_market() -> None:
        poll_cycle_op()

    return poll_market


def poll_run_config(market: MarketDefinition, config: PollConfig) -> dg.RunConfig:
    return dg.RunConfig(ops={_op_name(market): config})


def _op_name(market: MarketDefinition) -> str:
    return f"{market.name}_poll_cycle"


def _told(report: CycleReport, interval: str) -> dict[str, Any]:
    failed = pd.DataFrame(
        [(one.symbol, one.outcome.value, one.reason) for one in report.failed], columns=["symbol", "outcome", "reason"]
    )
    moved = pd.DataFrame(
        [(one.symbol, one.provider, one.changed, one.rows) for one in report.symbols if one.changed],
        columns=["symbol", "provider", "new_or_changed", "rows_stored"],
    )
    outcomes = by_outcome(report.symbols)
    return {
        "session": str(report.session),
        "interval": interval,
        "new_or_changed_rows": report.changed,
        "rows": sum(one.rows for one in report.symbols),
        "symbols": len(report.symbols),
        "symbols_by_outcome": " · ".join(f"{name} {count}" for name, count in outcomes.items()) or "none",
        "symbols_failed": len(report.failed),
        "requests": sum(one.requests for one in report.symbols),
        "seconds": round((report.finished_at - report.started_at).total_seconds(), 3),
        "moved": table(moved),
        "trouble": table(failed),
    }


def _sentence(report: CycleReport) -> str:
    failed = f", {len(report.failed)} failed" if report.failed else ""
    return f"{report.changed} new or changed rows of {len(report.symbols)} symbols{failed}"


# --- sensors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """Where a polling sensor stands, as its cursor says it."""

    interval_minutes: float
    iteration: int = 0
    last_poll: datetime | None = None
    last_seen: str | None = None
    """The newest change in the stored bars when the last poll was asked for, and how many there were."""

    @property
    def interval(self) -> timedelta:
        return timedelta(minutes=self.interval_minutes)

    def cursor(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def of(cls, cursor: str | None, pace: Pace) -> Self:
        """From the beginning where there is no cursor, or none that can be read; within the bounds in any case."""
        try:
            found = msgspec.json.decode(cursor or "", type=cls)
        except msgspec.DecodeError:
            return cls(pace.usual / timedelta(minutes=1))
        within = max(pace.shortest, min(pace.longest, found.interval))
        return replace(found, interval_minutes=within / timedelta(minutes=1))


def polling_definitions(market: MarketDefinition) -> dg.Definitions:
    job = poll_job(market)
    return dg.Definitions(jobs=[job], sensors=[polling_sensor(market, job, strategy) for strategy in Strategy])


def polling_sensor(market: MarketDefinition, job: dg.JobDefinition, strategy: Strategy) -> dg.SensorDefinition:
    pace = pace_of(market.polling)
    name = f"{market.name}_poll_{strategy.value}"

    @dg.sensor(
        name=name,
        job_name=job.name,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=_description(market, strategy, pace),
        tags={"market": market.name, STRATEGY_TAG: strategy.value},
    )
    def polling(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
        before = Standing.of(context.cursor, pace)
        with platform.opened(asks=False) as opened:
            now = opened.clock()
            seen = _seen(opened, market, now)
        calendar = trading_calendar(market.mic, now)
        rhythm = Rhythm(strategy, pace, calendar, plan_of(market).extended)
        due, interval = _due(rhythm, before, seen, now)
        if due > now:
            return dg.SensorResult(skip_reason=_why_not(rhythm, due, interval, now))
        if (going := run_going_on(context.instance, job.name)) is not None:
            return dg.SensorResult(skip_reason=f"the last poll is still going: run {going.run_id[:8]}")
        after = Standing(interval / timedelta(minutes=1), before.iteration + 1, now, seen)
        # Whoever resets the cursor begins anew, so that the number alone would not do.
        key = f"{name}-{after.iteration}-{(before.last_poll or now).astimezone(UTC):%Y%m%dT%H%M%S}"
        config = PollConfig(extended_hours=plan_of(market).extended)
        request = dg.RunRequest(
            run_key=key, run_config=poll_run_config(market, config), tags={STRATEGY_TAG: strategy.value}
        )
        return dg.SensorResult(run_requests=[request], cursor=after.cursor())

    return polling


def _due(rhythm: Rhythm, standing: Standing, seen: str, now: datetime) -> tuple[datetime, timedelta]:
    """When the next poll is due, and the interval that says so."""
    if standing.last_poll is None:
        return rhythm.first(now), rhythm.pace.usual
    moved = seen != standing.last_seen
    interval = rhythm.interval_after(standing.interval, standing.last_poll, moved=moved)
    due = rhythm.next_after(standing.last_poll, interval)
    # A daemon that was off comes back at any hour; the exchange may have closed meanwhile.
    return (rhythm.first(now) if due <= now else due), interval


def _seen(platform: Platform, market: MarketDefinition, now: datetime) -> str:
    plan = plan_of(market)
    session = polled_session(trading_calendar(market.mic, now), now, extended=plan.extended)
    with platform.database.connection() as connection:
        newest, count = newest_change(connection, market.name, plan.interval, session)
    return f"{session}: {count} bars, the newest word at {newest.isoformat() if newest else 'no time'}"


def _why_not(rhythm: Rhythm, due: datetime, interval: timedelta, now: datetime) -> str:
    at = _local(due, rhythm.calendar)
    if rhythm.first(now) > now:
        return f"{rhythm.calendar.mic} is closed until {at}"
    return f"next poll at {at}, {interval / timedelta(minutes=1):g} minutes after the last one"


def _local(instant: datetime, calendar: TradingCalendar) -> str:
    return f"{instant.astimezone(calendar.zone):%a %Y-%m-%d %H:%M:%S} {calendar.zone.key}"


def _description(market: MarketDefinition, strategy: Strategy, pace: Pace) -> str:
    usual, shortest, longest = (one / timedelta(minutes=1) for one in (pace.usual, pace.shortest, pace.longest))
    extended = " extended hours included," if plan_of(market).extended else ""
    match strategy:
        case Strategy.CONTINUOUS:
            when = f"every {usual:g} minutes, whatever the hour"
        case Strategy.MARKET_HOURS:
            when = f"every {usual:g} minutes while {market.mic} trades,{extended} and waits until it opens otherwise"
        case Strategy.ADAPTIVE:
            when = (
                f"every {shortest:g} to {longest:g} minutes, first after {usual:g}: the interval is multiplied by "
                f"{LENGTHENED:g} when nothing new came and by {SHORTENED:g} when data moved; it is the shortest within "
                f"{AROUND_A_BELL / timedelta(minutes=1):g} minutes of the opening and the closing bell"
            )
    return f"Polls {market.title} {when}. Off until somebody turns it on; the bounds are in the market file."
