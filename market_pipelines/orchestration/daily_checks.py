"""Asset checks of the daily tables: the quality rules as Dagster shows and enforces them.

One operation a table evaluates all its rules. A rule that blocks fails with an error when a bar is bad or
missing in the table, and with a warning when the bad bar was refused and another provider's stands in its place.
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import pandas as pd

from market_pipelines.market.bars import DEGRADED
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.quality import (
    RULES,
    Finding,
    Scope,
    Severity,
    completeness,
    freshness,
    judge,
    provider_outage,
)
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.raw_checks import outcomes_of_run, raw_checks
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.scope import Span, span_of_run
from market_pipelines.orchestration.specs import asset_key
from market_pipelines.pipeline.corrections import LARGEST_CHANGE
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.bars import INDICES, STOCKS
from market_pipelines.store.corrections import held
from market_pipelines.store.quarantine import read_quarantine
from market_pipelines.store.read_bars import read_prices
from market_pipelines.store.reference import read_actions

ROW_RULES = tuple(rule for rule in RULES if rule.scope is not Scope.STORED and rule.severity is not Severity.INFO)
STORED_RULES = tuple(rule for rule in RULES if rule.scope is Scope.STORED)
_KEY = ["symbol", "session"]


def daily_checks(market: MarketDefinition, chain: Sequence[str]) -> list[dg.AssetChecksDefinition]:
    checks = [
        _table_checks(market, "stock_prices", STOCKS),
        raw_checks(market, chain),
        _correction_check(market, "stock_prices", STOCKS),
    ]
    if market.indices:
        checks.append(_correction_check(market, "index_prices", INDICES))
        checks.append(_table_checks(market, "index_prices", INDICES))
    return checks


def _table_checks(market: MarketDefinition, name: str, table_name: str) -> dg.AssetChecksDefinition:
    key = asset_key(market, name)
    shares = table_name == STOCKS
    instruments = [one for one in market.everything if (one.kind is not Kind.INDEX) == shares]

    @dg.multi_asset_check(
        name=f"{market.name}_{name}_checks",
        specs=[
            dg.AssetCheckSpec(
                rule.name,
                asset=key,
                description=rule.explanation,
                blocking=rule.severity is Severity.BLOCK or rule.scope is Scope.STORED,
            )
            for rule in (*ROW_RULES, *STORED_RULES)
        ],
        can_subset=True,
    )
    def table_checks(
        context: dg.AssetCheckExecutionContext, platform: PlatformResource
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {check.name for check in context.selected_asset_check_keys}
        with platform.opened() as opened:
            span = span_of_run(context.run.tags, market, opened.clock())
            results = [
                *_row_results(opened, market, key, instruments, span, table_name),
                *_stored_results(opened, market, key, instruments, span, table_name, context.run.run_id),
            ]
        yield from (result for result in results if result.check_name in selected)

    return table_checks


def _correction_check(market: MarketDefinition, name: str, table_name: str) -> dg.AssetChecksDefinition:
    key = asset_key(market, name)

    @dg.asset_check(
        asset=key,
        name="corrections",
        description=f"No provider changed a final bar by more than {LARGEST_CHANGE:.0%}. Such a change waits for a "
        "person: market-pipelines corrections list.",
    )
    def corrections(platform: PlatformResource) -> dg.AssetCheckResult:
        with platform.opened() as opened, opened.database.connection() as connection:
            waiting = [one for one in held(connection, market.name) if one.source_table == table_name]
        shown = pd.DataFrame(
            [
                (one.held_id, one.symbol, one.session, one.old_close, one.close, one.change, one.provider)
                for one in waiting
            ],
            columns=["number", "symbol", "session", "close", "new_close", "change", "provider"],
        )
        return dg.AssetCheckResult(
            passed=not waiting,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{len(waiting)} corrections wait for a decision." if waiting else "Nothing waits.",
            metadata={"waiting": table(shown)},
        )

    return corrections


def _row_results(
    platform: Platform,
    market: MarketDefinition,
    key: dg.AssetKey,
    instruments: Sequence[Instrument],
    span: Span,
    table_name: str,
) -> Iterator[dg.AssetCheckResult]:
    symbols = [one.symbol for one in instruments]
    now = platform.clock()
    with platform.database.connection() as connection:
        stored = read_prices(connection, market.name, symbols, span.start, span.end, table=table_name)
        actions = read_actions(connection, market.name, symbols)
        refused = read_quarantine(connection, market.name, symbols=symbols, start=span.start, end=span.end)
    columns = ["symbol", "session", "open", "high", "low", "close", "volume", "provisional"]
    verdict = judge(
        stored.loc[stored["condition"] != DEGRADED, columns],
        trading_calendar(market.mic, now),
        instruments,
        now,
        actions=actions,
    )
    present = stored[_KEY].assign(mended=True)
    for rule in ROW_RULES:
        in_table = verdict.quarantined[verdict.quarantined["rule"] == rule.name]
        if rule.severity is Severity.WARN:
            in_table = verdict.warnings[verdict.warnings["rule"] == rule.name]
        turned_away = refused[refused["rule"] == rule.name].merge(present, on=_KEY, how="left")
        mended = turned_away["mended"].notna()
        serious = rule.severity is Severity.BLOCK and (len(in_table) > 0 or not mended.all())
        offending = pd.concat(
            [in_table.assign(where="table"), turned_away.assign(where="quarantine")], ignore_index=True
        )
        shown = [
            name
            for name in ("symbol", "session", "open", "high", "low", "close", "volume", "provider", "detail", "where")
            if name in offending
        ]
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=rule.name,
            passed=offending.empty,
            severity=dg.AssetCheckSeverity.ERROR if serious else dg.AssetCheckSeverity.WARN,
            description=_sentence(len(in_table), len(turned_away), int(mended.sum())),
            metadata={
                "rows_checked": len(stored),
                "rows_in_table": len(in_table),
                "rows_refused": len(turned_away),
                "refused_and_replaced": int(mended.sum()),
                "offending": table(offending[shown]),
            },
        )


def _sentence(in_table: int, refused: int, mended: int) -> str:
    if not in_table and not refused:
        return "No offending bar."
    parts = [f"{in_table} offending bars in the table"] if in_table else []
    if refused:
        parts.append(f"{refused} refused into quarantine, {mended} of them replaced by another provider's bar")
    return "; ".join(parts) + "."


def _stored_results(
    platform: Platform,
    market: MarketDefinition,
    key: dg.AssetKey,
    instruments: Sequence[Instrument],
    span: Span,
    table_name: str,
    run_id: str,
) -> Iterator[dg.AssetCheckResult]:
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    symbols = [one.symbol for one in instruments]
    with platform.database.connection() as connection:
        stored = read_prices(connection, market.name, symbols, span.start, span.end, table=table_name)[_KEY]
        newest = calendar.last_closed(now)
        today = read_prices(connection, market.name, symbols, newest, newest, table=table_name)[_KEY]
        outcomes = outcomes_of_run(platform, market, symbols, run_id)
    findings = (
        completeness(stored, calendar, instruments, span.start, span.end, now=now),
        freshness(today, calendar, instruments, now),
        provider_outage(stored, calendar, instruments, span.start, span.end, now=now, outcomes=outcomes),
    )
    for finding in findings:
        # A range in the past can be whole while today's bars are late; that is for today's run to be stopped by.
        about_another_day = finding.rule.name == "freshness" and span.end < newest
        yield _finding_result(key, finding, blocking=not about_another_day)


def _finding_result(key: dg.AssetKey, finding: Finding, *, blocking: bool) -> dg.AssetCheckResult:
    serious = blocking and finding.severity is Severity.BLOCK
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=finding.rule.name,
        passed=finding.passed,
        severity=dg.AssetCheckSeverity.ERROR if serious else dg.AssetCheckSeverity.WARN,
        description=finding.detail,
        metadata={
            "checked": finding.checked,
            "offending_count": len(finding.offending),
            "offending": table(finding.offending),
        },
    )
