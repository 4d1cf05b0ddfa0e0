"""Minute bars out of what was streamed, as an asset: built after the close, by session, and compared with others'.

How they are built is decided in `market.tape` and `pipeline.bars_from_ticks`; here is only when, and how it is shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
from pydantic import Field

from market_pipelines.market.cadence import Due
from market_pipelines.market.definition import MarketDefinition, StreamSetup
from market_pipelines.market.intraday import Phase
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.annotations import annotate, row_count, with_details
from market_pipelines.orchestration.cron import lane, overtaken, written
from market_pipelines.orchestration.partitions import SessionPartitionsDefinition
from market_pipelines.orchestration.present import column_schema, counted, plot, table
from market_pipelines.orchestration.realtime import REALTIME_LAYER, quotes_key, trades_key
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.schedules import Decision, once, range_tags, refresh_ticks, run_key
from market_pipelines.orchestration.scope import span_of_run
from market_pipelines.orchestration.specs import asset_key, asset_spec, log_tenths, newest_key
from market_pipelines.pipeline.platform import wall_clock
from market_pipelines.pipeline.stream_watch import bars_cycle, unbuilt_sessions

if TYPE_CHECKING:
    # Loads polars, which nothing else in the definitions needs.
    from market_pipelines.pipeline.bars_from_ticks import BuiltBars

AGREES, COVERS = "agrees_with_provider_minutes", "covers_the_session"
DIFFERING_SHARE = 0.01
COVERED_SHARE = 0.99
BARS_SCHEMA = column_schema(
    {
        "market": ("text", "Short name of the market"),
        "symbol": ("text", "The exchange's own symbol"),
        "session": ("date", "The exchange's trading day"),
        "ts": ("timestamp with time zone", "When the minute begins"),
        "phase": ("text", "pre, regular or post, by the exchange's calendar"),
        "open": ("double precision", "First price that the tape's rules let make one"),
        "high": ("double precision", "Highest price"),
        "low": ("double precision", "Lowest price"),
        "close": ("double precision", "Last price"),
        "volume": ("double precision", "Shares, odd lots included"),
        "vwap": ("double precision", "Mean price by volume; none from snapshots"),
        "trades": ("integer", "Trades; from snapshots: looks at which something had happened"),
        "source": ("text", "trades or snapshots"),
        "complete": ("boolean", "False where the stream may have missed something that nobody has filled"),
        "feed": ("text", "Whose ticks"),
    }
)


class BuiltSymbols(dg.Config):
    """Whose bars are built."""

    symbols: list[str] = Field(default_factory=list, description="Empty: all that were streamed.")


def bars_key(market: MarketDefinition) -> dg.AssetKey:
    return asset_key(market, "bars_from_ticks")


def bars_definitions(
    market: MarketDefinition,
    setup: StreamSetup,
    partitions: SessionPartitionsDefinition,
    now: datetime,
    ticks: Sequence[dg.AssetChecksDefinition] = (),
) -> dg.Definitions:
    """`ticks`: checks of what was streamed, which go with its bars."""
    asset = _bars(market, setup, partitions)
    bars = dg.AssetSelection.assets(bars_key(market))
    job = dg.define_asset_job(
        f"{market.name}_bars_from_ticks",
        selection=bars | dg.AssetSelection.checks(*ticks) if ticks else bars,
        partitions_def=partitions,
        description=f"Builds the minute bars of {market.title} from what was streamed in the chosen sessions, "
        "compares them with the providers', and judges the ticks. Asks nobody.",
        tags={"market": market.name, **lane(market.name, REALTIME_LAYER)},
    )
    return dg.Definitions(assets=[asset], jobs=[job], schedules=[bars_schedule(market, job.name, now)])


def _bars(market: MarketDefinition, setup: StreamSetup, partitions: SessionPartitionsDefinition) -> dg.AssetsDefinition:
    key = bars_key(market)
    made_of = [trades_key(market)] if setup.tells_trades else [quotes_key(market)]
    spec = asset_spec(
        market,
        key,
        "Minute bars built from single trades by the rules of the consolidated tape (which conditions make a price, "
        "which count for the volume), extended hours included."
        if setup.tells_trades
        else "Minute bars built from what was seen of each symbol every few seconds; highs and lows between two looks "
        "are known by the day's, and the volume by what the day's has grown by.",
        {"python", "polars", "postgres"},
        [*made_of, *([asset_key(market, "stock_prices_intraday")] if market.intraday is not None else [])],
        {"dagster/column_schema": BARS_SCHEMA, "dagster/table_name": "market.bars_from_ticks"},
        layer=REALTIME_LAYER,
    )

    @dg.multi_asset(
        name=f"{market.name}_minute_bars",
        specs=[spec],
        check_specs=[
            dg.AssetCheckSpec(
                AGREES,
                asset=key,
                description=f"Of the bars that a provider has too, no more than {DIFFERING_SHARE:.0%} are further "
                f"apart than {market.cross_check.same_close_bp:g} hundredths of a percent in a price or "
                f"{market.cross_check.volume_share:.0%} in volume. Passes where there is nothing to compare with.",
            ),
            dg.AssetCheckSpec(
                COVERS,
                asset=key,
                description=f"The stream saw at least {COVERED_SHARE:.0%} of the session's regular minutes whole.",
            ),
        ],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def bars_from_ticks(
        context: dg.AssetExecutionContext, config: BuiltSymbols, platform: PlatformResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        from market_pipelines.pipeline.bars_from_ticks import NoTicks, build_bars  # noqa: PLC0415 (loads polars)

        built, reasons = [], []
        with platform.opened(asks=False) as opened:
            now = opened.clock()
            span = span_of_run(context.run.tags, market, now)
            sessions = trading_calendar(market.mic, now).sessions(span.start, span.end)
            for session in sessions:
                try:
                    built.append(
                        build_bars(
                            opened,
                            market,
                            session,
                            config.symbols or None,
                            run_id=context.run.run_id,
                            job_name=f"{market.name}_bars_from_ticks",
                            progress=log_tenths(context),
                        )
                    )
                except NoTicks as error:
                    reasons.append(str(error))
                    context.log.info(str(error))
        if not built:
            raise dg.Failure(reasons[0] if len(reasons) == 1 else f"none of {len(reasons)} sessions was streamed")
        annotate(context, key, with_details(_by_session(built), newest_key(context, span), _details(built)))
        yield dg.MaterializeResult(asset_key=key)
        yield _agreement(key, built)
        yield _coverage(key, built)

    return bars_from_ticks


def _by_session(built: "Sequence[BuiltBars]") -> dict[str, dict[str, Any]]:
    return {
        one.session.isoformat(): {
            **row_count(len(one.bars)),
            "covered": f"{one.coverage.covered} of {one.coverage.expected} regular minutes",
            "incomplete_rows": one.incomplete,
        }
        for one in built
    }


def _details(built: "Sequence[BuiltBars]") -> Mapping[str, Any]:
    newest = built[-1]
    bars = pd.concat([one.bars for one in built], ignore_index=True)
    regular = newest.bars[newest.bars["phase"] == Phase.REGULAR.value]
    by_symbol = (
        newest.bars.groupby("symbol")
        .agg(
            minutes=("ts", "size"), incomplete=("complete", lambda whole: int((~whole).sum())), volume=("volume", "sum")
        )
        .reset_index()
    )
    return {
        "rows": len(bars),
        "symbols": int(bars["symbol"].nunique()),
        "ticks": sum(one.ticks for one in built),
        "replaced": sum(one.replaced for one in built),
        "incomplete_rows": int((~bars["complete"]).sum()),
        "rows_by_source": counted(bars["source"]),
        "rows_by_phase": counted(bars["phase"]),
        "rows_by_feed": counted(bars["feed"]),
        "seconds": round(sum(one.seconds for one in built), 3),
        "by_symbol": table(by_symbol),
        "compared": table(_summaries(built)),
        "differing": table(_differing(built)),
        "volume_by_minute": plot(
            regular.groupby("ts")["volume"].sum().tolist(), "volume along the newest session, by minute"
        ),
    }


def _summaries(built: "Sequence[BuiltBars]") -> pd.DataFrame:
    return pd.DataFrame(
        [
            (
                str(one.session),
                each.title,
                each.compared,
                each.equal,
                each.within,
                len(each.differing),
                each.only_ours,
                each.only_theirs,
            )
            for one in built
            for each in one.comparisons
        ],
        columns=["session", "with", "compared", "equal", "within", "differing", "only_ours", "only_theirs"],
    )


def _differing(built: "Sequence[BuiltBars]") -> pd.DataFrame:
    found = [
        each.differing.assign(beside=each.title) for one in built for each in one.comparisons if len(each.differing)
    ]
    if not found:
        return pd.DataFrame()
    worst = pd.concat(found, ignore_index=True).sort_values(["bp", "volume_share"], ascending=False)
    return worst.assign(ts=worst["ts"].dt.strftime("%Y-%m-%d %H:%M"))


def _agreement(key: dg.AssetKey, built: "Sequence[BuiltBars]") -> dg.AssetCheckResult:
    all_of = [each for one in built for each in one.comparisons]
    compared, differing = sum(one.compared for one in all_of), sum(len(one.differing) for one in all_of)
    share = differing / compared if compared else 0.0
    words = f"{differing} of {compared} bars differ." if compared else "There is nothing yet to compare with."
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=AGREES,
        passed=share <= DIFFERING_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata={
            "bars_compared": float(compared),
            "bars_differing": float(differing),
            "differing_share": share,
            "compared": table(_summaries(built)),
            "differing": table(_differing(built)),
            "sessions": f"{built[0].session} to {built[-1].session}",
        },
    )


def _coverage(key: dg.AssetKey, built: "Sequence[BuiltBars]") -> dg.AssetCheckResult:
    worst = min(built, key=lambda one: one.coverage.share)
    shown = pd.DataFrame(
        [(str(one.session), one.coverage.expected, one.coverage.covered, one.coverage.unfilled_gaps) for one in built],
        columns=["session", "regular_minutes", "seen_whole", "unfilled_gaps"],
    )
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=COVERS,
        passed=worst.coverage.share >= COVERED_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{worst.coverage.covered} of {worst.coverage.expected} regular minutes of {worst.session} were "
        f"seen whole; {worst.coverage.unfilled_gaps} gaps are not filled.",
        metadata={
            "share": worst.coverage.share,
            "by_session": table(shown),
            "sessions": f"{built[0].session} to {built[-1].session}",
        },
    )


def bars_schedule(market: MarketDefinition, job_name: str, now: datetime) -> dg.ScheduleDefinition:
    """Asks after each close for the sessions that were streamed and have no bars yet, all in one run."""
    cycle = bars_cycle(market)
    lines, zone = refresh_ticks(market, cycle, now)
    minutes = cycle.delay // timedelta(minutes=1)
    bell = "ends its extended hours" if cycle.extended else "closes"

    @dg.schedule(
        name=f"{market.name}_bars_from_ticks_after_close",
        job_name=job_name,
        cron_schedule=written(lines),
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{minutes} minutes after {market.mic} {bell}, half days by their own close: builds bars of the "
        "sessions that were streamed, once more where a gap was filled later.",
    )
    def after_close(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> Decision:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if reason := overtaken(lines, zone, tick, wall_clock()):
            return dg.SkipReason(reason)
        with platform.opened(asks=False) as opened:
            waiting = unbuilt_sessions(opened, market, tick)
        if not waiting:
            return dg.SkipReason("no session was streamed since its bars were built; `market-pipelines stream run`")
        due = Due(waiting[0].session, waiting[-1].session)
        filled = max((one.filled_at for one in waiting if one.filled_at is not None), default=None)
        after = "" if filled is None else f"-filled-{filled.astimezone(UTC):%Y%m%dT%H%M%S}"
        key = f"{run_key(job_name, due)}{after}"
        return once(context.instance, job_name, key, range_tags(due))

    return after_close
