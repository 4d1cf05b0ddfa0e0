"""Ten years in which nothing is wrong, and what each rule says about them: what a rule costs whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest

from market_pipelines.market.quality import ASSETS, rules_of
from market_pipelines.pipeline.markets import read_markets
from market_pipelines_tests.false_positives import false_positives, printed

NOT_OF_BARS = {"realtime_quotes", "realtime_trades", "option_contracts"}
"""This world has bars and what belongs to them; what is streamed, and options, have tests of their own."""
MOST_WARNINGS = 1.0
"""In ten thousand of what a rule looks at."""
MOST_NOTES = 20.0


@pytest.fixture(scope="module")
def alarms() -> Iterator[pd.DataFrame]:
    yield false_positives()


def test_ten_years_without_a_fault_stop_nothing_and_hardly_warn(alarms: pd.DataFrame) -> None:
    shown = printed(alarms)
    print(f"\n{shown}")
    assert alarms.loc[alarms["severity"] == "block", "found"].sum() == 0, shown
    assert alarms.loc[alarms["severity"] == "warn", "per_10_000"].max() <= MOST_WARNINGS, shown
    assert alarms.loc[alarms["severity"] == "info", "per_10_000"].max() <= MOST_NOTES, shown


def test_every_rule_was_asked_about_enough_to_mean_something(alarms: pd.DataFrame) -> None:
    """All but the revisions, of which a world without faults has none, and what is asked once a table."""
    asked = alarms.set_index(["rule", "table"])["checked"]
    for market in read_markets().values():
        for asset in set(ASSETS) - NOT_OF_BARS:
            if asset == "index_prices" and not market.indices:
                continue
            assert {rule.name for rule in rules_of(asset, market)} <= set(asked.xs(asset, level="table").index)
    bars = asked.xs("stock_prices", level="table").drop(["revision_size", "freshness", "provider_outage", "row_count"])
    assert bars.min() > 100_000
    assert asked["dividend_not_applied", "corporate_actions"] > 1_000
    assert asked["split_without_jump", "corporate_actions"] > 20
