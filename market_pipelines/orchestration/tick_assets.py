"""Trades and quotes of past sessions as an asset: asked of a provider that keeps them, stored in the tick lake."""

from datetime import UTC, datetime, time, timedelta

import dagster as dg
import pandas as pd
from pydantic import Field

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.annotations import annotate, row_count, with_details
from market_pipelines.orchestration.partitions import SessionPartitionsDefinition
from market_pipelines.orchestration.present import counted, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.scope import span_of_run
from market_pipelines.orchestration.specs import asset_key, asset_spec, newest_key
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.ticks import pull_ticks

TICK_LAYER = "ticks"


class TickConfig(dg.Config):
    """Whose ticks: they are many, so that nobody's are asked for unless somebody says so."""

    symbols: list[str] = Field(default_factory=list, description="Empty: the market's first share.")
    kinds: list[str] = Field(default_factory=lambda: [TickKind.TRADES.value], description="trades, quotes")


def tick_assets(market: MarketDefinition, partitions: SessionPartitionsDefinition) -> list[dg.AssetsDefinition]:
    spec = asset_spec(
        market,
        asset_key(market, "tick_history"),
        "Trades and quotes of whole sessions, to the nanosecond, in the tick lake (Parquet). Whose is said when it is "
        "materialized; without a word it is the market's first share.",
        {"python", "parquet"},
        [asset_key(market, "instruments")],
        {"dagster/table_name": "market.tick_segments"},
        layer=TICK_LAYER,
    )

    @dg.multi_asset(
        name=f"{market.name}_tick_history",
        specs=[spec],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def tick_history(
        context: dg.AssetExecutionContext, config: TickConfig, platform: PlatformResource
    ) -> dg.MaterializeResult[None]:
        kinds = [TickKind(kind) for kind in config.kinds]
        with platform.opened() as opened:
            span = span_of_run(context.run.tags, market, opened.clock())
            zone = trading_calendar(market.mic, opened.clock()).zone
            start = datetime.combine(span.start, time(), zone).astimezone(UTC)
            end = datetime.combine(span.end + timedelta(days=1), time(), zone).astimezone(UTC)
            pulls = [
                (kind, pull)
                for kind in kinds
                for pull in pull_ticks(
                    opened,
                    market,
                    _chosen(market, config.symbols),
                    kind,
                    start,
                    end,
                    job_name=f"{market.name}_tick_history",
                    run_id=context.run.run_id,
                )
            ]
        if pulls and not any(pull.outcome.delivered for _, pull in pulls):
            raise dg.Failure(f"no ticks: {pulls[0][1].reason}")
        shown = pd.DataFrame(
            [
                (str(pull.session), pull.symbol, kind.value, pull.outcome.value, pull.provider or "", pull.rows)
                for kind, pull in pulls
            ],
            columns=["session", "symbol", "kind", "outcome", "provider", "rows"],
        )
        rows = shown.groupby("session")["rows"].sum()
        notes = {str(session): row_count(int(count)) for session, count in rows.items()}
        details = {
            "ticks": int(shown["rows"].sum()),
            "by_outcome": counted(shown["outcome"]),
            "pulls": table(shown),
        }
        annotate(context, spec.key, with_details(notes, newest_key(context, span), details))
        return dg.MaterializeResult(asset_key=spec.key)

    return [tick_history]


def _chosen(market: MarketDefinition, symbols: list[str]) -> tuple[Instrument, ...]:
    if symbols:
        return instruments_of(market, [symbol.upper() for symbol in symbols])
    return tuple(one for one in market.instruments if one.kind is not Kind.INDEX)[:1]
