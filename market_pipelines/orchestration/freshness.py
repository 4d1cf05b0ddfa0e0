"""Whether each market's newest session is there: a check that is evaluated by itself, by the exchange's calendar.

It also runs with every refresh of its tables, but an asset that nobody refreshes has to turn red as well. So a
schedule looks every hour and at each deadline, and asks for a run of the checks when there is news.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import RUN_KEY_TAG

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.cron import GOING_ON, next_tick, overtaken, written
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import asset_key
from market_pipelines.pipeline.newest import Freshness, NextAsking, Watched, deadline, freshness_of, watched
from market_pipelines.pipeline.platform import Platform, wall_clock

CHECK = "newest_session"
_EVERY_HOUR = "5 * * * *"
"""Not with the hour, when everything else begins."""


def freshness_definitions(market: MarketDefinition, now: datetime) -> dg.Definitions:
    """The checks, a job of them alone, and the schedule that runs it; nothing where the rule is off."""
    tables = watched(market)
    if not tables:
        return dg.Definitions()
    checks = _checks(market, tables)
    job = _job(market, tables)
    return dg.Definitions(asset_checks=[checks], jobs=[job], schedules=[freshness_schedule(market, job.name, now)])


def next_asking(market: MarketDefinition, one: Watched) -> NextAsking | None:
    """Where a market is refreshed by a fixed cron line: when it asks next."""
    line = market.cadence.daily_cron
    if line is None or not one.cycle.daily:
        return None
    return lambda instant: next_tick([line], "UTC", instant)


def states(platform: Platform, market: MarketDefinition, now: datetime) -> list[Freshness]:
    found = (freshness_of(platform, market, one, now, next_asking(market, one)) for one in watched(market))
    return [one for one in found if one is not None]


def _checks(market: MarketDefinition, tables: Sequence[Watched]) -> dg.AssetChecksDefinition:
    by_key = {asset_key(market, one.asset): one for one in tables}

    @dg.multi_asset_check(
        name=f"{market.name}_freshness_checks",
        specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description=f"The newest session of {market.mic} that has to be there by now is there, judged from the "
                "stored bars against the exchange's calendar. Evaluated by itself as well: a backfill of an old "
                "session makes nothing fresh.",
            )
            for key in by_key
        ],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, platform: PlatformResource) -> Iterator[dg.AssetCheckResult]:
        selected = {check.asset_key for check in context.selected_asset_check_keys}
        with platform.opened(asks=False) as opened:
            now = opened.clock()
            for key, one in by_key.items():
                if key in selected:
                    yield _result(key, freshness_of(opened, market, one, now, next_asking(market, one)))

    return checks


def _result(key: dg.AssetKey, state: Freshness | None) -> dg.AssetCheckResult:
    if state is None:
        return dg.AssetCheckResult(
            asset_key=key, check_name=CHECK, passed=True, description="No session has to be there yet."
        )
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK,
        passed=state.fresh,
        severity=dg.AssetCheckSeverity.ERROR,
        description=state.words,
        metadata={
            "expected_session": state.expected.isoformat(),
            "due_since": dg.MetadataValue.timestamp(state.since),
            "newest_stored": "nothing" if state.newest is None else state.newest.isoformat(),
            "sessions_behind": state.behind,
            "symbols_with_it": state.symbols - len(state.lacking),
            "symbols_expected": state.symbols,
            "lacking": ", ".join(state.lacking[:20]) or "none",
            "last_sessions": table(state.recent),
        },
    )


def _job(market: MarketDefinition, tables: Sequence[Watched]) -> UnresolvedAssetJobDefinition:
    keys = [dg.AssetCheckKey(asset_key(market, one.asset), CHECK) for one in tables]
    return dg.define_asset_job(
        f"{market.name}_freshness",
        selection=dg.AssetSelection.checks(*keys),
        description=f"Only looks: whether the newest session of {market.title} is in its tables. Asks no provider.",
        tags={"market": market.name},
    )


def freshness_schedule(market: MarketDefinition, job_name: str, now: datetime) -> dg.ScheduleDefinition:
    zone = trading_calendar(market.mic, now).zone.key
    lines = [_EVERY_HOUR, *_deadlines(market, now)]

    @dg.schedule(
        name=f"{market.name}_freshness",
        job_name=job_name,
        cron_schedule=written(lines),
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"At each moment when a session of {market.mic} has to be there, and every hour: evaluates the "
        f"checks `{CHECK}` when a session has become due or something has changed.",
    )
    def freshness(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> dg.RunRequest | dg.SkipReason:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if reason := overtaken(lines, zone, tick, wall_clock()):
            return dg.SkipReason(reason)
        with platform.opened(asks=False) as opened:
            found = states(opened, market, tick)
        if all(state.empty for state in found):
            return dg.SkipReason("nothing is stored yet: the first refresh starts the clock")
        key = _key(job_name, found)
        last = next(iter(context.instance.get_runs(dg.RunsFilter(job_name=job_name), limit=1)), None)
        if last is not None and last.status in GOING_ON:
            return dg.SkipReason(f"run {last.run_id[:8]} is evaluating the checks")
        if last is not None and last.is_success and last.tags.get(RUN_KEY_TAG) == key:
            return dg.SkipReason(f"nothing has changed: {' '.join(state.words for state in found)}")
        return dg.RunRequest(run_key=key)

    return freshness


def _key(job_name: str, found: Sequence[Freshness]) -> str:
    """What there is to say; while it stays the same, saying it again is no news."""
    said = (f"{state.asset}:{state.expected}:{'fresh' if state.fresh else 'overdue'}" for state in found)
    return " ".join((job_name, *said))


def _deadlines(market: MarketDefinition, now: datetime) -> list[str]:
    """Cron lines for every local time of the day at which a session has to be there."""
    calendar = trading_calendar(market.mic, now)
    sessions = calendar.sessions(date(now.year - 1, 1, 1), calendar.end)
    times = set()
    for one in watched(market):
        if next_asking(market, one) is None:
            times |= {
                deadline(market, one.cycle, calendar, session).astimezone(calendar.zone).time() for session in sessions
            }
    return [f"{at.minute} {at.hour} * * *" for at in sorted(times)]
