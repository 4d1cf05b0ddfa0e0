"""The daily assets of one market: instruments, raw pulls, corporate actions, consensus prices, index prices.

Each asset is a few lines around a use case of `pipeline/`; what belongs here is only how Dagster names, groups,
describes and shows the result.
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import pandas as pd

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Kind
from market_pipelines.orchestration.annotations import annotate, merged, row_count, session_conditions, with_details
from market_pipelines.orchestration.partitions import SessionPartitionsDefinition
from market_pipelines.orchestration.present import column_schema, counted, plot, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.scope import Span, span_of_run, with_corrections
from market_pipelines.orchestration.specs import (
    asset_key,
    asset_spec,
    log_tenths,
    newest_key,
    raw_key,
    raw_metadata,
    sessions_by_provider,
)
from market_pipelines.pipeline.actions import collect_actions
from market_pipelines.pipeline.pull import pull_daily
from market_pipelines.pipeline.results import logged_job
from market_pipelines.pipeline.riding import asked_along, riding_holes, settle_riders
from market_pipelines.pipeline.settle import SettleReport, settle_daily
from market_pipelines.pipeline.suspicion import confirm_splits
from market_pipelines.store.reference import write_instruments

BAR_SCHEMA = column_schema(
    {
        "market": ("text", "Short name of the market"),
        "symbol": ("text", "The exchange's own symbol"),
        "session": ("date", "The exchange's trading day"),
        "open": ("double precision", "First price, as traded"),
        "high": ("double precision", "Highest price, as traded"),
        "low": ("double precision", "Lowest price, as traded"),
        "close": ("double precision", "Last price, as traded"),
        "volume": ("double precision", "Shares traded; empty where the provider has none"),
        "provider": ("text", "Whose bar this is"),
        "provisional": ("boolean", "The provider may still change it"),
    }
)


def daily_assets(
    market: MarketDefinition, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> list[dg.AssetsDefinition]:
    return [
        _instruments(market),
        _raw_daily(market, chain, partitions),
        _corporate_actions(market, chain, partitions),
        _prices(
            market,
            chain,
            partitions,
            "stock_prices",
            "The market's daily bars: one bar a symbol and session, as traded",
        ),
        _prices(market, chain, partitions, "index_prices", "The market's indices: one bar an index and session"),
    ]


def _instruments(market: MarketDefinition) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "instruments"),
        f"What is traded on {market.mic} as far as this platform follows it, from the market file.",
        {"postgres", "yaml"},
    )

    @dg.multi_asset(name=f"{market.name}_instruments", specs=[spec])
    def instruments(platform: PlatformResource) -> dg.MaterializeResult[None]:
        with platform.opened() as opened, opened.database.connection() as connection:
            counts = write_instruments(connection, market.everything, opened.clock(), deactivate_others_of=market.name)
        listed = pd.DataFrame(
            [(one.symbol, one.name, one.kind.value, one.listed_from, one.delisted_on) for one in market.everything],
            columns=["symbol", "name", "kind", "listed_from", "delisted_on"],
        )
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(market.everything),
                "new": counts.inserted,
                "changed": counts.revised,
                "deactivated": counts.removed,
                "instruments": table(listed, rows=200),
            }
        )

    return instruments


def _raw_daily(
    market: MarketDefinition, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> dg.AssetsDefinition:
    names = {raw_key(market, provider): provider for provider in chain}
    specs = [
        asset_spec(
            market,
            key,
            f"Daily bars as {provider} sent them: every answer kept byte for byte in the archive, its rows judged and "
            f"stored under the provider's own name. Place {place} of {len(chain)} in the market's order.",
            {"python", "postgres", provider},
            [asset_key(market, "instruments")],
            {"dagster/column_schema": BAR_SCHEMA, "dagster/table_name": "market.provider_bars"},
        )
        for place, (key, provider) in enumerate(names.items(), start=1)
    ]

    @dg.multi_asset(
        name=f"{market.name}_raw_daily",
        specs=specs,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def raw_daily(
        context: dg.AssetExecutionContext, platform: PlatformResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        selected = [provider for key, provider in names.items() if key in context.selected_asset_keys]
        with platform.opened() as opened:
            span = span_of_run(context.run.tags, market, opened.clock())
            asked = with_corrections(span, market, opened.clock())
            symbols = [one.symbol for one in market.everything]
            with logged_job(opened, f"{market.name}_daily_refresh", "pull", market, symbols, context.run.run_id) as job:
                riders = riding_holes(opened, market, symbols, asked.start)
                report = pull_daily(
                    opened,
                    market,
                    market.everything,
                    asked.start,
                    asked.end,
                    run_id=context.run.run_id,
                    providers=[provider for provider in opened.chain(market) if provider.name in selected],
                    progress=log_tenths(context),
                    riding=riders,
                )
                asked_along(opened, market, report)
                job.processed = report.rows
                for pull in report.symbols:
                    if not pull.outcome.delivered:
                        job.fail(pull.instrument.symbol, pull.outcome)
        sessions = sessions_by_provider(report)
        for provider in selected:
            key = raw_key(market, provider)
            per_session = sessions.get(provider, {})
            notes = {session: row_count(rows) for session, rows in per_session.items()}
            annotate(context, key, with_details(notes, newest_key(context, span), raw_metadata(report, provider)))
            yield dg.MaterializeResult(asset_key=key)

    return raw_daily


def _corporate_actions(
    market: MarketDefinition, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "corporate_actions"),
        "Splits and dividends by ex-date, read from the same archived answers as the bars. Prices are adjusted with "
        "them when somebody reads, never before.",
        {"python", "postgres"},
        [raw_key(market, provider) for provider in chain],
        {"dagster/table_name": "market.corporate_actions"},
    )

    @dg.multi_asset(
        name=f"{market.name}_corporate_actions",
        specs=[spec],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def corporate_actions(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        with platform.opened() as opened:
            span = span_of_run(context.run.tags, market, opened.clock())
            report = collect_actions(opened, market, market.instruments, context.run.run_id)
            asked = with_corrections(span, market, opened.clock())
            suspicion = confirm_splits(
                opened, market, market.instruments, asked.start, asked.end, run_id=context.run.run_id
            )
        inside = [action for action in report.actions if span.start <= action.ex_date <= span.end]
        shown = pd.DataFrame(
            sorted({(one.ex_date.isoformat(), one.symbol, one.kind.value, one.value) for one in inside}, reverse=True),
            columns=["ex_date", "symbol", "kind", "value"],
        )
        notes = {str(session): row_count(int(rows)) for session, rows in shown["ex_date"].value_counts().items()}
        details = {
            "answers_read": report.answers,
            "actions_in_range": len(shown),
            "new": report.counts.inserted,
            "changed": report.counts.revised,
            "withdrawn": report.counts.removed,
            "suspected_splits": ", ".join(suspicion.symbols) or "none",
            "actions": table(shown),
        }
        annotate(context, spec.key, with_details(notes, newest_key(context, span), details))
        return dg.MaterializeResult(asset_key=spec.key)

    return corporate_actions


def _prices(
    market: MarketDefinition,
    chain: Sequence[str],
    partitions: SessionPartitionsDefinition,
    name: str,
    description: str,
) -> dg.AssetsDefinition:
    shares = name == "stock_prices"
    key = asset_key(market, name)
    deps = [raw_key(market, provider) for provider in chain]
    spec = asset_spec(
        market,
        key,
        f"{description}, agreed on from what the providers delivered in the order {', '.join(chain)}. Every replaced "
        "bar is kept with the time it was known.",
        {"python", "postgres"},
        [*deps, asset_key(market, "corporate_actions")] if shares else deps,
        {
            "dagster/column_schema": BAR_SCHEMA,
            "dagster/table_name": "market.stock_prices" if shares else "market.market_index_prices",
        },
    )

    @dg.multi_asset(
        name=f"{market.name}_{name}",
        specs=[spec],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def prices(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        instruments = [one for one in market.everything if (one.kind is not Kind.INDEX) == shares]
        with platform.opened() as opened:
            now = opened.clock()
            span = span_of_run(context.run.tags, market, now)
            with logged_job(
                opened,
                f"{market.name}_daily_refresh",
                "settle",
                market,
                [one.symbol for one in instruments],
                context.run.run_id,
            ) as job:
                asked = with_corrections(span, market, now)
                reports = settle_daily(
                    opened, market, instruments, asked.start, asked.end, run_id=context.run.run_id, known_at=now
                )
                if along := settle_riders(opened, market, run_id=context.run.run_id, known_at=now):
                    context.log.info(f"holes before {asked.start} that this refresh filled along the way: {along}")
                job.processed = sum(len(report.chosen) for report in reports)
        for report in reports:
            _describe_settled(context, key, span, report)
        return dg.MaterializeResult(asset_key=key)

    return prices


def _describe_settled(context: dg.AssetExecutionContext, key: dg.AssetKey, span: Span, report: SettleReport) -> None:
    chosen = report.chosen
    by_session = chosen.groupby("session")
    rows = by_session.size()
    degraded = chosen[chosen["condition"] != "available"].groupby("session").size()
    missing = report.missing.groupby("session").size()
    notes = {
        session.date().isoformat(): {
            **row_count(int(rows.get(session, 0))),
            "not_final_or_degraded": int(degraded.get(session, 0)),
            "missing": int(missing.get(session, 0)),
        }
        for session in rows.index.union(missing.index)
    }
    notes = merged(notes, session_conditions(chosen, report.missing))
    newest = chosen[chosen["session"] == chosen["session"].max()]
    counts = report.written.total
    details = {
        "rows": len(chosen),
        "new": counts.inserted,
        "revisions": counts.revised,
        "unchanged": counts.unchanged,
        "rows_by_provider": counted(chosen["provider"]),
        "symbols": int(chosen["symbol"].nunique()),
        "missing_total": len(report.missing),
        "disagreements": table(report.disagreements),
        "asked_again_from": report.start.isoformat(),
        "held_corrections": table(
            report.held[
                [
                    name
                    for name in ("symbol", "session", "old_close", "close", "change", "provider")
                    if name in report.held
                ]
            ]
        ),
        "newest_session": table(newest[["symbol", "open", "high", "low", "close", "volume", "provider"]]),
        "median_close": plot(by_session["close"].median().tolist(), "median close over the range"),
    }
    annotate(context, key, with_details(notes, newest_key(context, span), details))
