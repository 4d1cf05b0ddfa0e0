"""What every rule says of the stored data of a market: the one engine behind Dagster's checks and the CI gate.

Asks the rules, adds what was refused on the way in, and writes down how each check stood. What they look at is read in
`evidence`; what a rule finds wrong is decided in `market/quality`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import pandas as pd

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality import Finding, Rule, Scope, Severity
from market_pipelines.market.quality.coverage import freshness
from market_pipelines.market.quality.examine import examine, rules_of
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.rules import (
    ACTIONS,
    INDEX_PRICES,
    INSTRUMENTS,
    INTRADAY,
    LIVE_QUOTES,
    LIVE_TRADES,
    OPTIONS,
    STOCK_PRICES,
)
from market_pipelines.pipeline.corrections import LARGEST_CHANGE
from market_pipelines.pipeline.evidence import Table, evidence_of, newest_bars, refused_of, stretches, table_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stream_evidence import KINDS, counted_ticks
from market_pipelines.store.check_results import (
    CheckResult,
    record_results,
)
from market_pipelines.store.claims import read_flags
from market_pipelines.store.corrections import held
from market_pipelines.store.database import Transaction
from market_pipelines.store.ledger import fetches

MOST_SHOWN = 1_000
"""Offending rows that an outcome carries; all of them are counted."""
OF_NOW = frozenset({"freshness", "intraday_freshness"})
"""Rules about the present, whatever range is looked at."""
_WORST_FIRST = {Severity.BLOCK: 0, Severity.WARN: 1, Severity.INFO: 2}

CORRECTIONS = Rule(
    "corrections",
    Severity.WARN,
    Scope.HISTORY,
    f"No provider changed a final bar by more than {LARGEST_CHANGE:.0%}. Such a change waits for a person: "
    "market-pipelines corrections list.",
    assets=(STOCK_PRICES, INDEX_PRICES),
)
ACTIONS_AGREE = Rule(
    "actions_agree",
    Severity.WARN,
    Scope.REFERENCE,
    "No provider denies an action that another one claims, and their days and amounts agree.",
    assets=(ACTIONS,),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """How one check of one table stands."""

    market: str
    asset: str
    rule: str
    severity: Severity
    """Of the worst offence; the rule's own where there is none."""
    passed: bool
    """What is only noted for the record fails nothing."""
    failing_rows: int
    """Offences in the table, and rows that were refused, replaced or not."""
    checked: int
    detail: str
    """A sentence."""
    offending: pd.DataFrame
    """The worst first, at most `MOST_SHOWN`; `where` says whether a row is in the table or in quarantine."""
    refused: int = 0
    mended: int = 0
    """Of the refused ones, those in whose place another bar stands."""

    @property
    def blocking(self) -> bool:
        return not self.passed and self.severity is Severity.BLOCK

    @property
    def share(self) -> float:
        """Of what was looked at, how much failed."""
        return self.failing_rows / self.checked if self.checked else 0.0


def assets_of(market: MarketDefinition) -> tuple[str, ...]:
    """The tables of a market that have checks, by the last part of their asset keys."""
    return (
        INSTRUMENTS,
        ACTIONS,
        STOCK_PRICES,
        *((INDEX_PRICES,) if market.indices else ()),
        *((INTRADAY,) if market.intraday is not None else ()),
        OPTIONS,
        *((LIVE_QUOTES,) if market.stream is not None else ()),
        *((LIVE_TRADES,) if market.stream is not None and market.stream.tells_trades else ()),
    )


def checks_of(asset: str, market: MarketDefinition) -> tuple[Rule, ...]:
    """The rules of a table, and what waits there for a person."""
    return (*rules_of(asset, market), *(rule for rule in (CORRECTIONS, ACTIONS_AGREE) if asset in rule.assets))


def may_block(rule: Rule) -> bool:
    """Whether an offence against the rule can stop what is downstream."""
    return rule.severity is Severity.BLOCK or rule.scope is Scope.STORED


def evaluate(
    platform: Platform,
    market: MarketDefinition,
    start: date,
    end: date,
    *,
    assets: Collection[str] | None = None,
    rules: Collection[str] | None = None,
    run_id: str | None = None,
) -> tuple[CheckOutcome, ...]:
    """Every check over the stored sessions between two dates, both included, and written down as it stands.

    `run_id`: the run whose requests tell whether a provider failed for everybody.
    """
    now = platform.clock()
    outcomes = tuple(
        outcome
        for asset in assets_of(market)
        if assets is None or asset in assets
        for outcome in _outcomes(platform, market, asset, start, end, now, run_id)
        if rules is None or outcome.rule in rules
    )
    with platform.database.connection() as connection:
        record_results(
            connection,
            [
                CheckResult(
                    market=one.market,
                    asset=one.asset,
                    rule=one.rule,
                    at=now,
                    first_session=start,
                    last_session=end,
                    passed=one.passed,
                    severity=one.severity.value,
                    failing_rows=one.failing_rows,
                    checked=one.checked,
                    run_id=run_id,
                )
                for one in outcomes
            ],
        )
    return outcomes


def outcomes_of_run(
    platform: Platform, market: MarketDefinition, symbols: Sequence[str], run_id: str
) -> dict[str, dict[str, Outcome]]:
    """The last outcome of each symbol by provider in a run."""
    outcomes: dict[str, dict[str, Outcome]] = {}
    with platform.database.connection() as connection:
        for fetch in fetches(connection, market=market.name, symbols=symbols, run_id=run_id):
            outcomes.setdefault(fetch.provider, {})[fetch.symbol] = fetch.outcome
    return outcomes


# --- one table -----------------------------------------------------------------------------------------------


def _outcomes(
    platform: Platform,
    market: MarketDefinition,
    asset: str,
    start: date,
    end: date,
    now: datetime,
    run_id: str | None,
) -> Iterator[CheckOutcome]:
    table = table_of(market, asset, now)
    outcomes = None if run_id is None else outcomes_of_run(platform, market, table.symbols, run_id)
    findings: dict[str, list[Finding]] = {}
    refused: list[pd.DataFrame] = []
    for stretch in stretches(table, start, end):
        with platform.database.connection() as connection:
            evidence = evidence_of(connection, table, stretch, now)
            turned_away = refused_of(connection, table, stretch, evidence)
            today = newest_bars(connection, table, now) if stretch.newest else None
        if stretch.newest:
            evidence = replace(evidence, outcomes=outcomes)
        if asset in KINDS:
            # Files, outside of any transaction.
            evidence = replace(evidence, ticks=counted_ticks(platform, market, asset, stretch.start, stretch.end))
        refused.append(turned_away)
        for finding in examine(evidence):
            if finding.rule.name not in OF_NOW or stretch.newest:
                findings.setdefault(finding.rule.name, []).append(finding)
        if today is not None:
            findings["freshness"] = [_freshness(table, today, now)]
    with platform.database.connection() as connection:
        waiting = list(_waiting(connection, table))
    everything_refused = pd.concat(refused, ignore_index=True) if refused else None
    past = end < table.calendar.last_closed(now)
    for rule in rules_of(asset, market):
        yield _outcome(table, rule, findings.get(rule.name, []), everything_refused, past=past)
    yield from waiting


def _freshness(table: Table, today: pd.DataFrame, now: datetime) -> Finding:
    delay = timedelta(minutes=Limits(table.market.quality.thresholds)("freshness"))
    return freshness(today, table.calendar, table.instruments, now, delay)


def _outcome(
    table: Table, rule: Rule, findings: Sequence[Finding], refused: pd.DataFrame | None, *, past: bool
) -> CheckOutcome:
    in_table = pd.concat([finding.offending for finding in findings], ignore_index=True) if findings else pd.DataFrame()
    turned_away = pd.DataFrame() if refused is None else refused[refused["rule"] == rule.name]
    released = pd.DataFrame()
    if len(turned_away):
        released = turned_away[turned_away["decision"].notna()]
        turned_away = turned_away[turned_away["decision"].isna()]
    in_table = _without(in_table, released)
    mended = int(turned_away["mended"].sum()) if len(turned_away) else 0
    severity = _worst(rule, in_table, len(turned_away), mended)
    # A range in the past can be whole while today's bars are late; that is for today's run to be stopped by.
    if (past and rule.name in OF_NOW) or not may_block(rule):
        severity = Severity.WARN if severity is Severity.BLOCK else severity
    failing = len(in_table) + len(turned_away)
    return CheckOutcome(
        market=table.market.name,
        asset=table.asset,
        rule=rule.name,
        severity=severity,
        passed=failing == 0 or severity is Severity.INFO,
        failing_rows=failing,
        checked=sum(finding.checked for finding in findings),
        detail=_sentence(findings, len(in_table), len(turned_away), mended),
        offending=_shown(in_table, turned_away),
        refused=len(turned_away),
        mended=mended,
    )


def _worst(rule: Rule, in_table: pd.DataFrame, refused: int, mended: int) -> Severity:
    found = [Severity(name) for name in in_table["severity"].unique()] if len(in_table) else []
    if refused:
        # What another provider's bar replaces stops nothing.
        found.append(Severity.WARN if refused == mended else rule.severity)
    return min(found, key=_WORST_FIRST.__getitem__, default=rule.severity)


def _without(in_table: pd.DataFrame, released: pd.DataFrame) -> pd.DataFrame:
    """The offences of rows that nobody has let pass: a released row passes with exactly its values."""
    key = [
        name for name in ("symbol", "session", "ts", *VALUE_COLUMNS) if name in in_table and name in released.columns
    ]
    if in_table.empty or released.empty or not {"symbol", "session"} <= set(key):
        return in_table
    let_pass = released[key].drop_duplicates().assign(released=True)
    return in_table[in_table.merge(let_pass, on=key, how="left")["released"].isna().to_numpy()]


def _shown(in_table: pd.DataFrame, turned_away: pd.DataFrame) -> pd.DataFrame:
    parts = [
        frame.assign(where=where)
        for frame, where in ((in_table, "table"), (turned_away, "quarantine"))
        if not frame.empty
    ]
    if not parts:
        return in_table.iloc[:0]
    shown = pd.concat(parts, ignore_index=True)
    order = shown["severity"].map({severity.value: rank for severity, rank in _WORST_FIRST.items()})
    shown = shown.assign(rank=order).sort_values("rank", kind="stable", ignore_index=True)
    return shown.drop(columns=["rank", "mended", "decision", "rule"], errors="ignore").head(MOST_SHOWN)


def _sentence(findings: Sequence[Finding], in_table: int, refused: int, mended: int) -> str:
    checked = sum(finding.checked for finding in findings)
    match findings:
        case []:
            told = "nothing is stored of what the rule looks at"
        case [only]:
            told = only.detail
        case _:
            told = f"{in_table:,} offences, {checked:,} looked at"
    if refused:
        told += f"; {refused} refused into quarantine, {mended} of them replaced by another bar"
    return f"{told[:1].upper()}{told[1:].rstrip('.')}."


# --- what waits for a person ---------------------------------------------------------------------------------


def _waiting(connection: Transaction, table: Table) -> Iterator[CheckOutcome]:
    if table.asset in CORRECTIONS.assets:
        waiting = [one for one in held(connection, table.market.name) if one.source_table == table.prices]
        yield _standing(
            table,
            CORRECTIONS,
            pd.DataFrame(
                [
                    (one.held_id, one.symbol, one.session, one.old_close, one.close, one.change, one.provider)
                    for one in waiting
                ],
                columns=["number", "symbol", "session", "close", "new_close", "change", "provider"],
            ),
            f"{len(waiting)} corrections wait for a decision." if waiting else "Nothing waits.",
        )
    if table.asset in ACTIONS_AGREE.assets:
        flags = read_flags(connection, table.market.name)
        problems = sorted({flag.problem.value for flag in flags})
        shown = pd.DataFrame(
            [(one.symbol, one.ex_date, one.kind.value, one.problem.value, one.used, one.detail) for one in flags],
            columns=["symbol", "ex_date", "kind", "problem", "used", "detail"],
        ).sort_values("ex_date", ascending=False, ignore_index=True)
        told = f"{len(flags)} actions in question: {', '.join(problems)}." if flags else "Nobody contradicts anybody."
        yield _standing(table, ACTIONS_AGREE, shown, told)


def _standing(table: Table, rule: Rule, waiting: pd.DataFrame, told: str) -> CheckOutcome:
    return CheckOutcome(
        market=table.market.name,
        asset=table.asset,
        rule=rule.name,
        severity=rule.severity,
        passed=waiting.empty,
        failing_rows=len(waiting),
        checked=len(waiting),
        detail=told,
        offending=waiting.head(MOST_SHOWN).assign(severity=rule.severity.value),
    )
