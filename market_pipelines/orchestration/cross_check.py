"""The second opinion in Dagster: an asset that is made once a session, its schedule, and the check that reads it.

Who is asked and what it means is decided in `pipeline.cross_check`; here is only when, and how it is shown.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from market_pipelines.market.cadence import DAILY, Cycle, at_times, local_times
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.cron import lane, overtaken
from market_pipelines.orchestration.present import counted, plot, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.schedules import once
from market_pipelines.orchestration.scope import RECENT_SESSIONS, Span, span_of_run
from market_pipelines.orchestration.specs import DAILY_LAYER, asset_key, asset_spec
from market_pipelines.pipeline.cross_check import Agreement, CrossCheck, agreement, cross_check, newest_stored
from market_pipelines.pipeline.platform import wall_clock

LATER = timedelta(minutes=45)
"""After the daily bars are expected: there has to be something to compare with."""
QUALITY_LAYER = "quality"
_PAIR = ["symbol", "session", "provider", "other", "close", "other_close", "bp", "tolerance_bp", "kind", "breach"]


class AskedSession(dg.Config):
    """Which session the second provider is asked about."""

    session: str = Field("", description="Such as 2026-01-05. Empty: the newest one of which there are bars.")


def cross_check_definitions(market: MarketDefinition, now: datetime) -> dg.Definitions:
    """Nothing where the market asks for no second opinion."""
    check = _agreement_check(market)
    if market.cross_check.symbols_a_day == 0 or len(market.providers) < 2:
        return dg.Definitions(asset_checks=[check])
    asset = _second_opinions(market)
    job = dg.define_asset_job(
        f"{market.name}_cross_check",
        selection=dg.AssetSelection.assets(cross_check_key(market)) | dg.AssetSelection.checks(check),
        description=f"Asks a second provider for {market.cross_check.symbols_a_day} symbols of {market.title}, within "
        "its quota, and says how far apart the providers are.",
        tags={"market": market.name, **lane(market.name, DAILY_LAYER)},
    )
    return dg.Definitions(
        assets=[asset], asset_checks=[check], jobs=[job], schedules=[_schedule(market, job.name, now)]
    )


def cross_check_key(market: MarketDefinition) -> dg.AssetKey:
    return asset_key(market, "cross_check")


def _second_opinions(market: MarketDefinition) -> dg.AssetsDefinition:
    # Without partitions: a backfill of years must not spend the quotas on second opinions about each of its days.
    spec = asset_spec(
        market,
        cross_check_key(market),
        f"A second opinion on {market.cross_check.symbols_a_day} symbols of each session, all of the market in turn: "
        "the next provider of the chain is asked for their bars, as far as its quota goes. What it says is kept under "
        "its name; what it says differently is in market.provider_disagreements.",
        {"python", "postgres"},
        [asset_key(market, "stock_prices"), asset_key(market, "index_prices")],
        {"dagster/table_name": "market.provider_disagreements"},
        layer=QUALITY_LAYER,
    )

    @dg.multi_asset(name=_step(market), specs=[spec])
    def second_opinions(
        context: dg.AssetExecutionContext, config: AskedSession, platform: PlatformResource
    ) -> dg.MaterializeResult[None]:
        session = date.fromisoformat(config.session) if config.session else None
        run = context.run.run_id
        with platform.opened() as opened:
            report = cross_check(opened, market, session, run_id=run, dagster_run_id=run)
        return dg.MaterializeResult(asset_key=spec.key, metadata=_told(report))

    return second_opinions


def _step(market: MarketDefinition) -> str:
    return f"{market.name}_second_opinions"


def _told(report: CrossCheck) -> dict[str, Any]:
    shown = pd.DataFrame(
        [
            (
                one.symbol,
                one.leader,
                one.other,
                one.outcome,
                one.close,
                one.other_close,
                one.bp,
                one.tolerance_bp,
                one.reason,
            )
            for one in report.opinions
        ],
        columns=["symbol", "agreed_on", "asked", "outcome", "close", "other_close", "bp", "tolerance_bp", "reason"],
    )
    return {
        "session": report.session.isoformat(),
        # As floats, which Dagster draws over time.
        "symbols_compared": float(shown["bp"].notna().sum()),
        "symbols_disagreeing": float(len(report.disagreeing)),
        "requests": float(report.requests),
        "outcomes": counted(shown["outcome"]),
        "quota_left_before": ", ".join(
            f"{name} {'no limit' if left is None else left}" for name, left in sorted(report.quota_left.items())
        ),
        "opinions": table(shown),
    }


def _agreement_check(market: MarketDefinition) -> dg.AssetChecksDefinition:
    tolerances = market.cross_check
    additional = [cross_check_key(market)] if tolerances.symbols_a_day and len(market.providers) > 1 else []

    @dg.asset_check(
        asset=asset_key(market, "stock_prices"),
        name="providers_agree",
        additional_deps=additional,
        description=f"Where two providers have delivered a bar, their closes differ by no more than "
        f"{tolerances.same_close_bp:g} hundredths of a percent, {tolerances.other_close_bp:g} where one is no close of "
        f"the same kind, and their volumes by no more than {tolerances.volume_share:.0%}. Fails while a disagreement "
        "of any session stands: market-pipelines quality disagreements.",
    )
    def providers_agree(context: dg.AssetCheckExecutionContext, platform: PlatformResource) -> dg.AssetCheckResult:
        with platform.opened(asks=False) as opened:
            now = opened.clock()
            span = span_of_run(context.run.tags, market, now)
            found = agreement(opened, market, _recent(market, span.end, now), span.end)
        return _result(found, span)

    return providers_agree


def _result(found: Agreement, span: Span) -> dg.AssetCheckResult:
    pairs, standing = found.pairs, found.unresolved
    ended = standing.loc[standing["session"].dt.date <= span.end]
    widest = pairs.sort_values("bp", ascending=False)
    return dg.AssetCheckResult(
        passed=ended.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(ended)} disagreements stand; {len(pairs)} pairs of bars in the last {RECENT_SESSIONS} "
        f"sessions, the widest {pairs['bp'].max():.1f} bp apart."
        if len(pairs)
        else f"{len(ended)} disagreements stand; no session of the last {RECENT_SESSIONS} has two providers' bars.",
        metadata={
            # As floats, which Dagster draws over time.
            "disagreements": float(len(ended)),
            "pairs_compared": float(len(pairs)),
            "median_bp": float(pairs["bp"].median()) if len(pairs) else 0.0,
            "widest_bp": float(pairs["bp"].max()) if len(pairs) else 0.0,
            "offending": table(ended[[name for name in (*_PAIR, "first_seen", "times_seen") if name in ended]]),
            "widest_pairs": table(widest[_PAIR]),
            "bp_apart": plot(found.widest(), "widest distance of two closes by session, in bp"),
        },
    )


def _recent(market: MarketDefinition, end: date, now: datetime) -> date:
    """The first of the last sessions up to a day."""
    sessions = trading_calendar(market.mic, now).sessions(end - timedelta(days=2 * RECENT_SESSIONS), end)
    return sessions[-RECENT_SESSIONS:][0] if sessions else end


def _schedule(market: MarketDefinition, job_name: str, now: datetime) -> dg.ScheduleDefinition:
    cycle = Cycle(DAILY, timedelta(minutes=market.minutes_after_close) + LATER)
    calendar = trading_calendar(market.mic, now)
    lines, zone = at_times(local_times(cycle, calendar, now)), calendar.zone.key
    minutes = cycle.delay // timedelta(minutes=1)

    @dg.schedule(
        name=f"{market.name}_cross_check_after_close",
        job_name=job_name,
        cron_schedule=lines,
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{minutes} minutes after {market.mic} closes, half days by their own close: once for each newest "
        "session whose bars are there.",
    )
    def after_the_daily_bars(
        context: dg.ScheduleEvaluationContext, platform: PlatformResource
    ) -> dg.RunRequest | dg.SkipReason:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if reason := overtaken(lines, zone, tick, wall_clock()):
            return dg.SkipReason(reason)
        with platform.opened(asks=False) as opened:
            newest = newest_stored(opened, market)
        if newest is None:
            return dg.SkipReason("nothing is stored yet that a second provider could be asked about")
        asked = once(context.instance, job_name, f"{job_name}-{newest}", {})
        if isinstance(asked, dg.SkipReason):
            return asked
        config = {"ops": {_step(market): {"config": {"session": newest.isoformat()}}}}
        return dg.RunRequest(run_key=asked.run_key, run_config=config)

    return after_the_daily_bars
