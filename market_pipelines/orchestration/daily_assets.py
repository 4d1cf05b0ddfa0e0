"""The daily assets of one market: instruments, raw pulls, corporate actions, consensus prices, index prices.

Each asset is a few lines around a use case of `pipeline/`; what belongs here is only how Dagster names, groups,
describes and shows the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import dagster as dg
import pandas as pd

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Kind
from market_pipelines.orchestration.annotations import annotate, row_count, with_details
from market_pipelines.orchestration.partitions import SessionPartitionsDefinition
from market_pipelines.orchestration.present import column_schema, counted, plot, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.scope import Span, span_of_run
from market_pipelines.pipeline.actions import collect_actions
from market_pipelines.pipeline.pull import PullReport, pull_daily
from market_pipelines.pipeline.refresh import logged_job
from market_pipelines.pipeline.settle import SettleReport, settle_daily
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
_TAGS = {"layer": "daily"}


def raw_key(market: MarketDefinition, provider: str) -> dg.AssetKey:
    return dg.AssetKey([market.name, "raw", f"{provider}_daily"])


def asset_key(market: MarketDefinition, name: str) -> dg.AssetKey:
    return dg.AssetKey([market.name, name])


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


def _spec(
    market: MarketDefinition,
    key: dg.AssetKey,
    description: str,
    kinds: set[str],
    deps: Sequence[dg.AssetKey] = (),
    metadata: Mapping[str, object] | None = None,
) -> dg.AssetSpec:
    return dg.AssetSpec(
        key,
        description=description,
        deps=list(deps),
        group_name=market.name,
        owners=list(market.owners),
        kinds=kinds,
        tags=_TAGS,
        metadata={"calendar": market.mic, "currency": market.currency, **(metadata or {})},
    )


def _instruments(market: MarketDefinition) -> dg.AssetsDefinition:
    spec = _spec(
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
        _spec(
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
            symbols = [one.symbol for one in market.everything]
            with logged_job(opened, f"{market.name}_daily_refresh", "pull", market, symbols, context.run_id) as job:
                report = pull_daily(
                    opened,
                    market,
                    market.everything,
                    span.start,
                    span.end,
                    run_id=context.run_id,
                    providers=[provider for provider in opened.chain(market) if provider.name in selected],
                    progress=_log_tenths(context),
                )
                job.processed = report.rows
                for pull in report.symbols:
                    if not pull.outcome.delivered:
                        job.fail(pull.instrument.symbol, pull.outcome)
        sessions = _sessions_by_provider(report)
        for provider in selected:
            key = raw_key(market, provider)
            per_session = sessions.get(provider, {})
            notes = {session: row_count(rows) for session, rows in per_session.items()}
            annotate(context, key, with_details(notes, _newest_key(context, span), _raw_metadata(report, provider)))
            yield dg.MaterializeResult(asset_key=key)

    return raw_daily


def _raw_metadata(report: PullReport, provider: str) -> dict[str, object]:
    attempts = [
        (attempt.symbol, attempt.outcome.value, attempt.requests, attempt.reason)
        for pull in report.symbols
        for attempt in pull.attempts
        if attempt.house_provider == provider
    ]
    asked = pd.DataFrame(attempts, columns=["symbol", "outcome", "requests", "reason"])
    troubled = asked[asked["outcome"] != "ok"]
    filled = sum(
        rows for pull in report.symbols for name, rows in pull.filled_by.items() if house_name(name) == provider
    )
    return {
        "symbols_asked": len(asked),
        "symbols_by_outcome": counted(asked["outcome"]),
        "requests": int(asked["requests"].sum()),
        "rows_filled": filled,
        "quarantined": report.quarantined,
        "trouble": table(troubled),
    }


def _corporate_actions(
    market: MarketDefinition, chain: Sequence[str], partitions: SessionPartitionsDefinition
) -> dg.AssetsDefinition:
    spec = _spec(
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
            report = collect_actions(opened, market, market.instruments, context.run_id)
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
            "actions": table(shown),
        }
        annotate(context, spec.key, with_details(notes, _newest_key(context, span), details))
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
    spec = _spec(
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
                context.run_id,
            ) as job:
                reports = settle_daily(
                    opened, market, instruments, span.start, span.end, run_id=context.run_id, known_at=now
                )
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
        "newest_session": table(newest[["symbol", "open", "high", "low", "close", "volume", "provider"]]),
        "median_close": plot(by_session["close"].median().tolist(), "median close over the range"),
    }
    annotate(context, key, with_details(notes, _newest_key(context, span), details))


def _sessions_by_provider(report: PullReport) -> Mapping[str, Mapping[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for provider, rows in report.rows_by_session.items():
        mine = counts.setdefault(house_name(provider), {})
        for session, number in rows.items():
            mine[session.isoformat()] = mine.get(session.isoformat(), 0) + number
    return counts


def _newest_key(context: dg.AssetExecutionContext, span: Span) -> str:
    keys = context.partition_keys
    return keys[-1] if keys else span.end.isoformat()


def _log_tenths(context: dg.AssetExecutionContext) -> Callable[[int, int, str], None]:
    told = -1

    def tell(done: int, total: int, symbol: str) -> None:
        nonlocal told
        tenth = done * 10 // total if total else 10
        if tenth > told:
            told = tenth
            context.log.info(f"asked for {done} of {total} symbols {symbol}".rstrip())

    return tell
