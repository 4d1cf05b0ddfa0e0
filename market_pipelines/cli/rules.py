"""`quality rules`: what is asked of the data, how bad a breach is, and the numbers that a market goes by."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from market_pipelines.cli.door import Json, read_door_settings
from market_pipelines.cli.output import emit_json, emit_table
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.quality import RULES, Rule
from market_pipelines.market.quality.limits import Limits
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import UnknownMarket


def register(app: typer.Typer) -> None:
    app.command("rules")(rules)


def rules(
    market: Annotated[
        str | None, typer.Option("--market", help="With this market's own numbers.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the rules: canon number, tables, severity, thresholds, and what each is about."""
    read_door_settings()
    documents = [_document(rule, _market(market)) for rule in RULES]
    if as_json:
        emit_json(documents)
        return
    emit_table(
        ("no", "rule", "severity", "tables", "numbers", "explanation"),
        [
            (
                one["number"],
                one["rule"],
                one["severity"] if one["asked"] else "off",
                " ".join(one["tables"]),
                " ".join(f"{name}={value:g}" for name, value in one["numbers"].items()),
                one["explanation"],
            )
            for one in documents
        ],
    )


def _market(name: str | None) -> MarketDefinition | None:
    if name is None:
        return None
    markets = read_markets()
    if name not in markets:
        raise UnknownMarket(f"market {name!r} is not known; there are {', '.join(sorted(markets))}")
    return markets[name]


def _document(rule: Rule, market: MarketDefinition | None) -> dict[str, Any]:
    limits = Limits() if market is None else Limits(market.quality.thresholds, market.quality.off)
    numbers = {rule.name: limits(rule.name)} if rule.threshold is not None else {}
    numbers |= {f"{rule.name}.{name}": limits(rule.name, name) for name in rule.parameters}
    return {
        "number": rule.number,
        "rule": rule.name,
        "severity": rule.severity.value,
        "scope": rule.scope.value,
        "tables": list(rule.assets),
        "asked": limits.asks(rule.name),
        "required": rule.required,
        "numbers": numbers,
        "explanation": rule.explanation,
    }
