"""The check that every raw asset has: did its provider answer what it was asked in this run?"""

from collections.abc import Iterator, Sequence

import dagster as dg
import pandas as pd

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.present import counted, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import DAILY_LAYER, raw_key
from market_pipelines.pipeline.checks import outcomes_of_run


def raw_checks(market: MarketDefinition, chain: Sequence[str], layer: str = DAILY_LAYER) -> dg.AssetChecksDefinition:
    keys = {raw_key(market, provider, layer): provider for provider in chain}

    @dg.multi_asset_check(
        name=f"{market.name}_raw_{layer}_checks",
        specs=[
            dg.AssetCheckSpec(
                "answers",
                asset=key,
                description=f"{provider} answered what it was asked. A provider that failed is a warning as long as "
                "the market's tables are complete without it.",
            )
            for key, provider in keys.items()
        ],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, platform: PlatformResource) -> Iterator[dg.AssetCheckResult]:
        selected = {check.asset_key for check in context.selected_asset_check_keys}
        with platform.opened(asks=False) as opened:
            outcomes = outcomes_of_run(opened, market, [one.symbol for one in market.everything], context.run.run_id)
        for key, provider in keys.items():
            if key not in selected:
                continue
            mine = {
                symbol: outcome
                for name, answers in outcomes.items()
                if house_name(name) == provider
                for symbol, outcome in answers.items()
            }
            failed = {symbol: outcome for symbol, outcome in mine.items() if not outcome.delivered}
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name="answers",
                passed=not failed,
                severity=dg.AssetCheckSeverity.WARN,
                description=counted(outcome.value for outcome in mine.values()) if mine else "Nothing was asked.",
                metadata={
                    "symbols_asked": len(mine),
                    "symbols_failed": len(failed),
                    "failed": table(pd.DataFrame(sorted(failed.items()), columns=["symbol", "outcome"])),
                },
            )

    return checks
