"""The page about quality lists the rules that there are, with their own numbers."""

from __future__ import annotations

from pathlib import Path

from market_pipelines.market.quality import RULES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "quality.md"
TABLES = {
    "stock_prices": "prices",
    "index_prices": "indices",
    "stock_prices_intraday": "intraday",
    "corporate_actions": "actions",
    "instruments": "instruments",
    "realtime_quotes": "live quotes",
    "realtime_trades": "live trades",
    "option_contracts": "options",
}


def test_every_rule_stands_in_the_page_as_it_is() -> None:
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "| `" in line]
    listed = {cells[1].strip("`"): cells[2:6] for cells in rows if cells[0].isdigit() or cells[0] == "–"}
    expected = {}
    for rule in RULES:
        numbers = [f"{rule.threshold:g}"] if rule.threshold is not None else []
        numbers += [f"{name} {value:g}" for name, value in rule.parameters.items()]
        severity = f"{rule.severity.value}{' (always)' if rule.required else ''}"
        expected[rule.name] = [severity, ", ".join(TABLES[one] for one in rule.assets), ", ".join(numbers)]
    assert {name: [cell.strip() for cell in cells[:3]] for name, cells in listed.items()} == expected
