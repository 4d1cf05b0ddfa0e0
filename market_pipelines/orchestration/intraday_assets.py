"""The intraday assets of one market: raw pulls by provider, and the agreed bars within sessions.

A partition is a session. Each asset is a few lines around a use case of `pipeline/`.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from market_pipelines.market.definition import IntradayPlan, MarketDefinition
from market_pipelines.market.intraday import Phase
from market_pipelines.orchestration.annotations import annotate, merged, row_count, session_conditions, with_details
from market_pipelines.orchestration.partitions import SessionPartitionsDefinition
from market_pipelines.orchestration.present import column_schema, counted, plot, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.scope import Span, span_of_run
from market_pipelines.orchestration.specs import (
    INTRADAY_LAYER,
    asset_key,
    asset_spec,
    log_tenths,
    newest_key,
    raw_key,
    raw_metadata,
    sessions_by_provider,
)
from market_pipelines.pipeline.intraday import IntradaySettled, settle_intraday
from market_pipelines.pipeline.pull_intraday import pull_intraday
from market_pipelines.pipeline.results import logged_job

INTRADAY_SCHEMA = column_schema(
    {
        "market": ("text", "Short name of the market"),
        "symbol": ("text", "The exchange's own symbol"),
        "interval": ("text", "Length of the bar"),
        "session": ("date", "The exchange's trading day"),
        "ts": ("timestamp with time zone", "When the bar begins"),
        "phase": ("text", "pre, regular or post, by the exchange's calendar"),
        "open": ("double precision", "First price, as traded"),
        "high": ("double precision", "Highest price, as traded"),
        "low": ("double precision", "Lowest price, as traded"),
        "close": ("double precision", "Last price, as traded"),
        "volume": ("double precision", "Shares traded in the bar"),
        "provider": ("text", "Whose bar this is; one provider a symbol and session"),
        "condition": ("text", "available, degraded, or pending while the session goes on"),
    }
)


def intraday_assets(
    market: MarketDefinition, plan: IntradayPlan, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> list[dg.AssetsDefinition]:
    return [_raw_intraday(market, plan, chain, partitions), _agreed(market, plan, chain, partitions)]


def _raw_intraday(
    market: MarketDefinition, plan: IntradayPlan, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> dg.AssetsDefinition:
    names = {raw_key(market, provider, INTRADAY_LAYER): provider for provider in chain}
    specs = [
        asset_spec(
            market,
            key,
            f"Bars of {plan.interval} as {provider} sent them, every answer kept byte for byte. Place {place} of "
            f"{len(chain)} in the market's order.",
            {"python", "postgres", provider},
            [asset_key(market, "instruments")],
            {"dagster/column_schema": INTRADAY_SCHEMA, "dagster/table_name": "market.provider_bars_intraday"},
            layer=INTRADAY_LAYER,
        )
        for place, (key, provider) in enumerate(names.items(), start=1)
    ]

    @dg.multi_asset(
        name=f"{market.name}_raw_intraday",
        specs=specs,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def raw_intraday(
        context: dg.AssetExecutionContext, platform: PlatformResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        selected = [provider for key, provider in names.items() if key in context.selected_asset_keys]
        with platform.opened() as opened:
            span = span_of_run(context.run.tags, market, opened.clock())
            symbols = [one.symbol for one in market.everything]
            with logged_job(
                opened, f"{market.name}_intraday_refresh", "pull", market, symbols, context.run.run_id
            ) as job:
                report = pull_intraday(
                    opened,
                    market,
                    market.everything,
                    span.start,
                    span.end,
                    interval=plan.interval,
                    extended=plan.extended,
                    run_id=context.run.run_id,
                    providers=[provider for provider in opened.chain(market) if provider.name in selected],
                    progress=log_tenths(context),
                )
                job.processed = report.rows
                for pull in report.symbols:
                    if not pull.outcome.delivered:
                        job.fail(pull.instrument.symbol, pull.outcome)
        sessions = sessions_by_provider(report)
        for provider in selected:
            key = raw_key(market, provider, INTRADAY_LAYER)
            notes = {session: row_count(rows) for session, rows in sessions.get(provider, {}).items()}
            annotate(context, key, with_details(notes, newest_key(context, span), raw_metadata(report, provider)))
            yield dg.MaterializeResult(asset_key=key)

    return raw_intraday


def _agreed(
    market: MarketDefinition, plan: IntradayPlan, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> dg.AssetsDefinition:
    key = asset_key(market, "stock_prices_intraday")
    spec = asset_spec(
        market,
        key,
        f"The market's bars of {plan.interval} within each session{', extended hours too' if plan.extended else ''}, "
        "as traded: one provider a symbol and session, compared with the daily bar. Longer intervals are computed "
        "from these.",
        {"python", "postgres"},
        [*(raw_key(market, provider, INTRADAY_LAYER) for provider in chain), asset_key(market, "stock_prices")],
        {"dagster/column_schema": INTRADAY_SCHEMA, "dagster/table_name": "market.stock_prices_intraday"},
        layer=INTRADAY_LAYER,
    )

    @dg.multi_asset(
        name=f"{market.name}_stock_prices_intraday",
        specs=[spec],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def stock_prices_intraday(
        context: dg.AssetExecutionContext, platform: PlatformResource
    ) -> dg.MaterializeResult[None]:
        with platform.opened() as opened:
            now = opened.clock()
            span = span_of_run(context.run.tags, market, now)
            symbols = [one.symbol for one in market.everything]
            with logged_job(
                opened, f"{market.name}_intraday_refresh", "settle", market, symbols, context.run.run_id
            ) as job:
                settled = settle_intraday(
                    opened,
                    market,
                    market.everything,
                    span.start,
                    span.end,
                    interval=plan.interval,
                    run_id=context.run.run_id,
                    known_at=now,
                )
                job.processed = len(settled.chosen)
        _describe(context, key, span, settled)
        return dg.MaterializeResult(asset_key=key)

    return stock_prices_intraday


def _describe(context: dg.AssetExecutionContext, key: dg.AssetKey, span: Span, settled: IntradaySettled) -> None:
    chosen = settled.chosen
    rows = chosen.groupby("session").size()
    missing = settled.missing.groupby("session").size()
    notes = {
        session.date().isoformat(): {
            **row_count(int(rows.get(session, 0))),
            "missing_symbols": int(missing.get(session, 0)),
        }
        for session in rows.index.union(missing.index)
    }
    notes = merged(notes, session_conditions(chosen, settled.missing))
    newest = chosen[chosen["session"] == chosen["session"].max()]
    regular = newest[newest["phase"] == str(Phase.REGULAR)]
    counts = settled.written.total
    details = {
        "rows": len(chosen),
        "new": counts.inserted,
        "revisions": counts.revised,
        "unchanged": counts.unchanged,
        "withdrawn": counts.removed,
        "rows_by_provider": counted(chosen["provider"]),
        "rows_by_phase": counted(chosen["phase"]),
        "symbols": int(chosen["symbol"].nunique()),
        "against_daily": table(settled.mismatches),
        "newest_bars": table(newest.sort_values("ts").groupby("symbol").tail(1)[["symbol", "ts", "close", "provider"]]),
        "volume_by_bar": plot(regular.groupby("ts")["volume"].sum().tolist(), "volume along the newest session"),
    }
    annotate(context, key, with_details(notes, newest_key(context, span), details))
