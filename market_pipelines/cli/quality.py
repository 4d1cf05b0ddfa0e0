"""The commands `quality …`: what the rules say of the stored data, as a person and as a CI job read it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from market_pipelines.cli import cross_check, quarantine
from market_pipelines.cli.data import platform_of_commands
from market_pipelines.cli.door import From, Json, To
from market_pipelines.cli.junit import fails, junit
from market_pipelines.cli.output import ExitCode, emit_json, emit_line, emit_table, progress, say
from market_pipelines.cli.read import replace_file
from market_pipelines.cli.rules import register as register_rules
from market_pipelines.market.quality import Severity
from market_pipelines.pipeline.gate import Report, quality_report
from market_pipelines.store.check_results import trend

quality_commands = typer.Typer(no_args_is_help=True, help="What the quality rules say of the stored data.")

WORST_SHOWN = 3
"""Offending rows of each failed check on a terminal."""
ROWS_IN_JSON = 20
_ALL = "all"


class Gate(StrEnum):
    """What turns the report red."""

    BLOCK = "block"
    WARN = "warn"

    @property
    def severities(self) -> frozenset[Severity]:
        return frozenset({Severity.BLOCK} if self is Gate.BLOCK else {Severity.BLOCK, Severity.WARN})


Markets = Annotated[str, typer.Option("--market", help="One market, or all of them.")]


def register(app: typer.Typer) -> None:
    quarantine.register(quality_commands)
    cross_check.register(quality_commands)
    register_rules(quality_commands)
    app.add_typer(quality_commands, name="quality")


@quality_commands.command("report")
def report(
    market: Markets = _ALL,
    start: From = None,
    end: To = None,
    assets: Annotated[
        list[str] | None, typer.Option("--asset", metavar="TABLE", help="Only this table; may be repeated.")
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rule", metavar="NAME", help="Only this rule; may be repeated.")
    ] = None,
    severity: Annotated[
        Gate, typer.Option("--severity", help="The mildest failure that ends in exit code 1.")
    ] = Gate.BLOCK,
    everything: Annotated[bool, typer.Option("--all", help="Also list the checks that pass.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write JUnit XML there, for a CI system.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask every check of the stored data. Without days: the last 30 sessions. Nothing is fetched or changed.

    Exit code 0 when no blocking check fails, 1 when one does or when nothing is stored, 2 for a wrong question.
    """
    with platform_of_commands(asks=False) as platform:
        markets = list(platform.markets.values()) if market == _ALL else [platform.market(market)]
        at = platform.clock()
        with progress("checks") as done:
            found = quality_report(platform, markets, start, end, assets=assets or (), rules=rules or (), progress=done)
    passed = found.passed(severity.severities)
    if file is not None:
        replace_file(file, junit(found.outcomes, at, failing=severity.severities, reasons=found.reasons))
        say(f"JUnit XML written to {file}")
    if as_json:
        emit_json(_document(found, passed))
    else:
        _show(found, severity, everything)
    for name, reason in found.reasons.items():
        say(f"{name}: {reason}. A gate that has looked at nothing does not pass.")
    for name in found.left_out:
        say(f"{name}: nothing is stored there, so it was not checked.")
    raise typer.Exit(ExitCode.OK if passed else ExitCode.ERROR)


@quality_commands.command("trend")
def show_trend(
    market: Annotated[str, typer.Option("--market")] = "us",
    asset: Annotated[str | None, typer.Option("--asset", metavar="TABLE", show_default=False)] = None,
    rule: Annotated[str | None, typer.Option("--rule", metavar="NAME", show_default=False)] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="How far back.")] = 30,
    as_json: Json = False,
) -> None:
    """How the checks stood each time they were asked, by a run or by a command; the newest first."""
    with platform_of_commands(asks=False) as platform:
        since = platform.clock() - timedelta(days=days)
        with platform.database.connection() as connection:
            found = trend(connection, platform.market(market).name, asset=asset, rule=rule, since=since)
    if as_json:
        emit_json([asdict(one) | {"share": one.share} for one in found])
        return
    emit_table(
        ("at", "asset", "rule", "verdict", "failing", "checked", "share", "from", "to"),
        [
            (
                one.at,
                one.asset,
                one.rule,
                _verdict(passed=one.passed, severity=Severity(one.severity), failing=one.failing_rows),
                one.failing_rows,
                one.checked,
                f"{one.share:.2%}",
                one.first_session,
                one.last_session,
            )
            for one in found
        ],
    )


def _document(found: Report, passed: bool) -> dict[str, Any]:
    return {
        "passed": passed,
        "judged": [{"market": one.market, "from": one.start, "to": one.end} for one in found.judged],
        "reasons": dict(found.reasons),
        "not_checked": list(found.left_out),
        "checks": [
            {
                "market": one.market,
                "asset": one.asset,
                "rule": one.rule,
                "severity": one.severity.value,
                "passed": one.passed,
                "blocking": one.blocking,
                "failing_rows": one.failing_rows,
                "checked": one.checked,
                "refused": one.refused,
                "replaced": one.mended,
                "detail": one.detail,
                "offending": _records(one.offending.head(ROWS_IN_JSON)),
            }
            for one in found.outcomes
        ],
    }


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    named = [str(name) for name in rows.columns]
    return [
        {name: _plain_cell(value) for name, value in zip(named, row, strict=True)}
        for row in rows.itertuples(index=False)
    ]


def _plain_cell(value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if value is None or pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date() if value.tz is None and value == value.normalize() else value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value


def _show(found: Report, gate: Gate, everything: bool) -> None:
    if not found.outcomes:
        return
    rank = {severity: at for at, severity in enumerate(Severity)}
    told = sorted(
        (one for one in found.outcomes if everything or one.failing_rows),
        key=lambda one: (one.passed, rank[one.severity], one.market, one.asset, -one.failing_rows),
    )
    if told:
        emit_table(
            ("market", "table", "rule", "verdict", "failing", "checked", "what was found"),
            [
                (
                    one.market,
                    one.asset,
                    one.rule,
                    _verdict(passed=one.passed, severity=one.severity, failing=one.failing_rows),
                    one.failing_rows,
                    one.checked,
                    one.detail,
                )
                for one in told
            ],
        )
    worst = [
        (one.market, one.asset, one.rule, row)
        for one in told
        if not one.passed
        for row in _records(one.offending.head(WORST_SHOWN))
    ]
    if worst:
        emit_table(
            ("market", "table", "rule", "symbol", "session", "offence"),
            [
                (market, asset, rule, row.get("symbol"), row.get("session"), _told(row))
                for market, asset, rule, row in worst
            ],
            "The worst offences",
        )
    green = sum(one.passed for one in found.outcomes)
    red = sum(fails(one, gate.severities) for one in found.outcomes)
    days = ", ".join(f"{one.market} {one.start} to {one.end}" for one in found.judged)
    emit_line(f"{green} of {len(found.outcomes)} checks pass, {red} fail the gate ({days}).")


def _verdict(*, passed: bool, severity: Severity, failing: int) -> str:
    if passed:
        return "noted" if failing else "passes"
    return "blocks" if severity is Severity.BLOCK else "warns"


def _told(row: dict[str, Any]) -> str:
    """The offence in its own words, or what the row says besides symbol and session."""
    where = " (in quarantine)" if row.get("where") == "quarantine" else ""
    if row.get("detail"):
        return f"{row['detail']}{where}"
    rest = {
        name: value
        for name, value in row.items()
        if name not in ("symbol", "session", "severity", "where") and value is not None
    }
    return ", ".join(f"{name} {value}" for name, value in rest.items()) + where
