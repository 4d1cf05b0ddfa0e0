"""What the assets of every layer share: their keys and specs, and how a pull is told in their metadata."""

from collections.abc import Callable, Mapping, Sequence

import dagster as dg
import pandas as pd

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.present import counted, table
from market_pipelines.orchestration.scope import Span
from market_pipelines.pipeline.pull import PullReport

DAILY_LAYER, INTRADAY_LAYER, REFERENCE_LAYER = "daily", "intraday", "reference"
"""Each market's daily assets are its group; the other layers have groups of their own beside it."""


def raw_key(market: MarketDefinition, provider: str, layer: str = DAILY_LAYER) -> dg.AssetKey:
    return dg.AssetKey([market.name, "raw", f"{provider}_{layer}"])


def asset_key(market: MarketDefinition, name: str) -> dg.AssetKey:
    return dg.AssetKey([market.name, name])


def asset_spec(
    market: MarketDefinition,
    key: dg.AssetKey,
    description: str,
    kinds: set[str],
    deps: Sequence[dg.AssetKey] = (),
    metadata: Mapping[str, object] | None = None,
    layer: str = DAILY_LAYER,
) -> dg.AssetSpec:
    return dg.AssetSpec(
        key,
        description=description,
        deps=list(deps),
        group_name=market.name if layer == DAILY_LAYER else f"{market.name}_{layer}",
        owners=list(market.owners),
        kinds=kinds,
        tags={"layer": layer},
        metadata={"calendar": market.mic, "currency": market.currency, **(metadata or {})},
    )


def raw_metadata(report: PullReport, provider: str) -> dict[str, object]:
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


def sessions_by_provider(report: PullReport) -> Mapping[str, Mapping[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for provider, rows in report.rows_by_session.items():
        mine = counts.setdefault(house_name(provider), {})
        for session, number in rows.items():
            mine[session.isoformat()] = mine.get(session.isoformat(), 0) + number
    return counts


def newest_key(context: dg.AssetExecutionContext, span: Span) -> str:
    keys = context.partition_keys
    return keys[-1] if keys else span.end.isoformat()


def log_tenths(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Callable[[int, int, str], None]:
    told = -1

    def tell(done: int, total: int, symbol: str) -> None:
        nonlocal told
        tenth = done * 10 // total if total else 10
        if tenth > told:
            told = tenth
            context.log.info(f"asked for {done} of {total} symbols {symbol}".rstrip())

    return tell
