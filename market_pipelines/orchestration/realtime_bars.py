"""Minute bars out of what was streamed, as an asset: built after the close, by session, and compared with others'.

How they are built is decided in `market.tape` and `pipeline.bars_from_ticks`; here is only when, and how it is shown.
"""

from collections import Counter
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
from market_pipelines.orchestration.present import ROWS_SHOWN, column_schema, counted, plot, table
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

        built, reasons = BuiltSessions(), []
        with platform.opened(asks=False) as opened:
            now = opened.clock()
            span = span_of_run(context.run.tags, market, now)
            sessions = trading_calendar(market.mic, now).sessions(span.start, span.end)
            for session in sessions:
                try:
                    built.add(
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
        if not built.by_session:
            raise dg.Failure(reasons[0] if len(reasons) == 1 else f"none of {len(reasons)} sessions was streamed")
        annotate(context, key, with_details(built.by_session, newest_key(context, span), built.details()))
        yield dg.MaterializeResult(asset_key=key)
        yield built.agreement(key)
        yield built.coverage(key)

    return bars_from_ticks


class BuiltSessions:
    """What is told of the sessions of a run. Their bars are in the database: a backfill has hundreds of sessions, of
    which a few figures are kept here, and the bars of the newest."""

    def __init__(self) -> None:
        self.by_session: dict[str, dict[str, Any]] = {}
        """Metadata by partition, oldest first."""
        self._ticks = self._replaced = self._incomplete = 0
        self._seconds = 0.0
        self._symbols: set[str] = set()
        self._counts = {name: Counter[str]() for name in ("source", "phase", "feed")}
        self._compared: list[tuple[str, str, int, int, int, int, int, int]] = []
        self._worst = pd.DataFrame()
        self._covered: list[tuple[str, int, int, int, float]] = []
        self._newest = pd.DataFrame()

    def add(self, one: "BuiltBars") -> None:
        """Sessions in order."""
        session, covered = str(one.session), one.coverage
        self.by_session[session] = {
            **row_count(len(one.bars)),
            "covered": f"{covered.covered} of {covered.expected} regular minutes",
            "incomplete_rows": one.incomplete,
        }
        self._ticks += one.ticks
        self._replaced += one.replaced
        self._incomplete += one.incomplete
        self._seconds += one.seconds
        self._symbols.update(one.bars["symbol"])
        for name, count in self._counts.items():
            count.update(one.bars[name])
        self._covered.append((session, covered.expected, covered.covered, covered.unfilled_gaps, covered.share))
        for each in one.comparisons:
            differing = len(each.differing)
            figures = (each.compared, each.equal, each.within, differing, each.only_ours, each.only_theirs)
            self._compared.append((session, each.title, *figures))
            if differing:
                worst = pd.concat([self._worst, each.differing.assign(beside=each.title)], ignore_index=True)
                worst = worst.sort_values(["bp", "volume_share"], ascending=False, ignore_index=True)
                self._worst = worst.head(ROWS_SHOWN).copy()  # a part of it would keep all of it
        self._newest = one.bars

    def details(self) -> Mapping[str, Any]:
        newest = self._newest
        regular = newest[newest["phase"] == Phase.REGULAR.value]
        by_symbol = (
            newest.groupby("symbol")
            .agg(
                minutes=("ts", "size"),
                incomplete=("complete", lambda whole: int((~whole).sum())),
                volume=("volume", "sum"),
            )
            .reset_index()
        )
        return {
            "rows": self._counts["source"].total(),
            "symbols": len(self._symbols),
            "ticks": self._ticks,
            "replaced": self._replaced,
            "incomplete_rows": self._incomplete,
            **{f"rows_by_{name}": counted(count) for name, count in self._counts.items()},
            "seconds": round(self._seconds, 3),
            "by_symbol": table(by_symbol),
            "compared": self._summary(),
            "differing": self._differing(),
            "volume_by_minute": plot(
                regular.groupby("ts")["volume"].sum().tolist(), "volume along the newest session, by minute"
            ),
        }

    def agreement(self, key: dg.AssetKey) -> dg.AssetCheckResult:
        compared, differing = sum(one[2] for one in self._compared), sum(one[5] for one in self._compared)
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
                "compared": self._summary(),
                "differing": self._differing(),
                "sessions": self._span,
            },
        )

    def coverage(self, key: dg.AssetKey) -> dg.AssetCheckResult:
        session, expected, covered, unfilled, share = min(self._covered, key=lambda one: one[-1])
        shown = pd.DataFrame(
            [one[:-1] for one in self._covered], columns=["session", "regular_minutes", "seen_whole", "unfilled_gaps"]
        )
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=COVERS,
            passed=share >= COVERED_SHARE,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{covered} of {expected} regular minutes of {session} were seen whole; {unfilled} gaps are "
            "not filled.",
            metadata={"share": share, "by_session": table(shown), "sessions": self._span},
        )

    @property
    def _span(self) -> str:
        return f"{self._covered[0][0]} to {self._covered[-1][0]}"

    def _summary(self) -> dg.TableMetadataValue:
        columns = ["session", "with", "compared", "equal", "within", "differing", "only_ours", "only_theirs"]
        return table(pd.DataFrame(self._compared, columns=columns))

    def _differing(self) -> dg.TableMetadataValue:
        worst = self._worst
        return table(worst.assign(ts=worst["ts"].dt.strftime("%Y-%m-%d %H:%M")) if len(worst) else worst)


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
