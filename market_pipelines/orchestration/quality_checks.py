"""A market's quality rules as Dagster shows and enforces them: one operation a table evaluates all of its checks.

The checks are made from the list of rules; a new rule is a new check. One that blocks fails with an error when a bar
is bad or missing in the table, and with a warning when the bad bar was refused and another stands in its place.
"""

from collections.abc import Iterator, Sequence
from datetime import date

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.quality import Rule, Severity
from market_pipelines.market.quality.rules import ACTIONS, STOCK_PRICES
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.scope import RECENT_SESSIONS, Span, span_of_run
from market_pipelines.orchestration.specs import asset_key
from market_pipelines.pipeline.checks import CheckOutcome, assets_of, checks_of, evaluate, may_block
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stream_evidence import KINDS


class JudgedDays(dg.Config):
    """What is looked at. A run of partitions looks at them and needs no words."""

    start: str = Field("", description="The first day, such as 2026-01-05. Empty: what the run is about.")
    end: str = Field("", description="The last day. Empty: the last session that has closed.")


def quality_checks(market: MarketDefinition, without: Sequence[str] = ()) -> list[dg.AssetChecksDefinition]:
    """`without`: tables that are no assets here. Those of streams are in `realtime_checks`."""
    return [checks_of_table(market, asset) for asset in assets_of(market) if asset not in (*KINDS, *without)]


def checks_job(market: MarketDefinition, checks: list[dg.AssetChecksDefinition]) -> UnresolvedAssetJobDefinition:
    """Judges what is stored without asking a provider for anything."""
    steps = [one.node_def.name for one in checks]

    @dg.config_mapping
    def everywhere(days: JudgedDays) -> dict[str, object]:
        if not days.start and not days.end:
            # A part of the job can be launched too, and a step that is left out takes no configuration.
            return {}
        return {"ops": {step: {"config": {"start": days.start, "end": days.end}} for step in steps}}

    return dg.define_asset_job(
        f"{market.name}_checks",
        selection=dg.AssetSelection.checks(*checks),
        config=everywhere,
        description=f"Asks every quality rule of {market.title} of what is stored, and pulls nothing. Without days: "
        f"the last {RECENT_SESSIONS} sessions.",
        tags={"market": market.name},
    )


def checks_of_table(market: MarketDefinition, asset: str) -> dg.AssetChecksDefinition:
    key = asset_key(market, asset)

    @dg.multi_asset_check(
        name=f"{market.name}_{asset}_checks",
        specs=[_spec(market, asset, rule) for rule in checks_of(asset, market)],
        can_subset=True,
    )
    def table_checks(
        context: dg.AssetCheckExecutionContext, config: JudgedDays, platform: PlatformResource
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {check.name for check in context.selected_asset_check_keys}
        with platform.opened(asks=False) as opened:
            span = _span(context, config, market, opened)
            outcomes = evaluate(
                opened, market, span.start, span.end, assets=[asset], rules=selected, run_id=context.run.run_id
            )
        for outcome in outcomes:
            yield _result(key, outcome, span)

    return table_checks


def _spec(market: MarketDefinition, asset: str, rule: Rule) -> dg.AssetCheckSpec:
    # Actions are held against the bars of the same run, which are settled after them.
    later = [asset_key(market, STOCK_PRICES)] if asset == ACTIONS and not may_block(rule) else []
    return dg.AssetCheckSpec(
        rule.name,
        asset=asset_key(market, asset),
        description=rule.explanation,
        additional_deps=later,
        blocking=may_block(rule),
        metadata={
            "severity": rule.severity.value,
            **({} if rule.threshold is None else {"threshold": rule.threshold}),
            **rule.parameters,
        },
    )


def _span(
    context: dg.AssetCheckExecutionContext, config: JudgedDays, market: MarketDefinition, platform: Platform
) -> Span:
    usual = span_of_run(context.run.tags, market, platform.clock())
    end = date.fromisoformat(config.end) if config.end else usual.end
    start = date.fromisoformat(config.start) if config.start else min(usual.start, end)
    if start > end:
        raise dg.Failure(f"the first day {start} lies after the last one {end}")
    return Span(start, end)


def _result(key: dg.AssetKey, outcome: CheckOutcome, span: Span) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=outcome.rule,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if outcome.severity is Severity.BLOCK else dg.AssetCheckSeverity.WARN,
        description=outcome.detail,
        metadata={
            # As floats, which Dagster draws over time.
            "failing_rows": float(outcome.failing_rows),
            "checked": float(outcome.checked),
            "failing_share": outcome.share,
            "rows_refused": float(outcome.refused),
            "refused_and_replaced": float(outcome.mended),
            "sessions": f"{span.start} to {span.end}",
            "offending": table(outcome.offending),
        },
    )
