"""The numbers that rules go by, and how a market changes them."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from market_pipelines.market.definition import QualityPlan
from market_pipelines.market.quality import (
    ASSETS,
    RULE,
    RULES,
    THRESHOLDS,
    Evidence,
    Limits,
    Severity,
    examine,
    judge,
    rules_of,
)
from market_pipelines.market.quality.intraday import judge_intraday
from market_pipelines.market.quality.rules import INTRADAY, STOCK_PRICES
from market_pipelines_tests.unit.market.planted import clean, row_of, scaled, sessions, with_values

DAILY_COLUMNS = ["symbol", "session", "open", "high", "low", "close", "volume", "provisional"]


def with_quality(evidence: Evidence, **quality: Any) -> Evidence:
    return replace(evidence, market=replace(evidence.market, quality=QualityPlan(**quality)))


def jump(share: float) -> Evidence:
    evidence = clean(STOCK_PRICES)
    assert evidence.bars is not None
    day = sessions(evidence)[30]
    row = evidence.bars.index[row_of(evidence.bars, "KO", day)]
    return replace(evidence, bars=scaled(evidence.bars, [row], 1 + share))


def breached(evidence: Evidence) -> set[str]:
    return {finding.rule.name for finding in examine(evidence) if not finding.passed}


def test_every_rule_is_explained_and_is_asked_of_some_table() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.explanation.endswith(".") for rule in RULES)
    assert all(rule.assets and set(rule.assets) <= set(ASSETS) for rule in RULES)
    assert all(name.split(".")[0] in RULE for name in THRESHOLDS)


def test_the_known_checks_are_all_there() -> None:
    assert {rule.number for rule in RULES} - {None} == {*range(1, 41)}


def test_a_market_has_thresholds_of_its_own_over_stored_bars() -> None:
    assert "return_cap" not in breached(jump(0.3))
    assert "return_cap" in breached(with_quality(jump(0.3), thresholds={"return_cap": 0.2}))
    assert "return_mad" in breached(jump(0.3))
    assert "return_mad" not in breached(with_quality(jump(0.3), thresholds={"return_mad.smallest": 0.5}))


def test_a_market_has_thresholds_of_its_own_at_the_door() -> None:
    evidence = jump(0.3)
    assert evidence.bars is not None
    table, listed = evidence.bars[DAILY_COLUMNS], evidence.instruments

    def warned(**more: Any) -> int:
        return judge(table, evidence.calendar, listed, evidence.now, **more).counts.get("return_cap", -1)

    assert warned() == 0
    assert warned(thresholds={"return_cap": 0.2}) == 2, "there and back"
    assert warned(thresholds={"return_cap": 0.2}, off={"return_cap"}) == -1


def test_a_rule_that_is_off_refuses_nothing_and_is_not_asked() -> None:
    evidence = clean(STOCK_PRICES)
    bars = evidence.bars
    assert bars is not None
    spoilt = with_values(bars, row_of(bars, "KO", sessions(evidence)[30]), volume=-1.0)
    verdict = judge(spoilt[DAILY_COLUMNS], evidence.calendar, evidence.instruments, evidence.now, off={"volume"})
    assert verdict.rejected == 0

    off = with_quality(replace(evidence, bars=spoilt), off=frozenset({"volume"}))
    assert "volume" not in {finding.rule.name for finding in examine(off)}
    assert "volume" not in {rule.name for rule in rules_of(STOCK_PRICES, off.market)}
    assert breached(off) == set()


def test_bars_within_sessions_have_the_markets_thresholds_too() -> None:
    evidence = clean(INTRADAY)
    bars = evidence.intraday
    assert bars is not None
    own = bars[["symbol", "ts", "open", "high", "low", "close", "volume", "provisional"]].head(50)
    odd = own.assign(volume=own["volume"].mask(own.index == 7, -5.0))
    plain = judge_intraday(odd, "5min", evidence.calendar, evidence.instruments, evidence.now)
    assert plain.quarantined["rule"].tolist() == ["volume"]
    lenient = judge_intraday(odd, "5min", evidence.calendar, evidence.instruments, evidence.now, off={"volume"})
    assert lenient.quarantined.empty


def test_bars_off_the_grid_are_refused_at_the_door() -> None:
    evidence = clean(INTRADAY)
    assert evidence.intraday is not None
    bars = evidence.intraday[["symbol", "ts", "open", "high", "low", "close", "volume", "provisional"]].head(50)
    verdict = judge_intraday(bars, "5min", evidence.calendar, evidence.instruments, evidence.now)
    assert verdict.quarantined.empty
    by_quarters = judge_intraday(bars, "15min", evidence.calendar, evidence.instruments, evidence.now)
    assert set(by_quarters.quarantined["rule"]) == {"grid"}
    minutes = set(by_quarters.clean["ts"].dt.minute)
    assert minutes <= {0, 15, 30, 45}


def test_findings_come_in_the_order_of_the_rules_and_say_what_they_looked_at() -> None:
    findings = examine(clean(STOCK_PRICES))
    names = [rule.name for rule in RULES]
    assert [names.index(finding.rule.name) for finding in findings] == sorted(
        names.index(finding.rule.name) for finding in findings
    )
    assert all(finding.detail for finding in findings)
    assert all("severity" in finding.offending for finding in findings)


@pytest.mark.parametrize("asset", ASSETS)
def test_rules_without_evidence_are_not_asked(asset: str) -> None:
    full = clean(INTRADAY if asset == INTRADAY else STOCK_PRICES)
    bare = replace(full, asset=asset, bars=None, provider_bars=None, intraday=None, revisions=None, actions=())
    asked = {finding.rule.name for finding in examine(bare)}
    assert asked <= {"currency", "symbol_continuity"}


@pytest.mark.parametrize("asset", ASSETS)
def test_tables_without_a_row_can_be_examined(asset: str) -> None:
    full = clean(INTRADAY if asset == INTRADAY else STOCK_PRICES)
    assert full.bars is not None
    assert full.provider_bars is not None
    empty = replace(
        full,
        asset=asset,
        bars=full.bars.iloc[:0],
        provider_bars=full.provider_bars.iloc[:0],
        intraday=None if full.intraday is None else full.intraday.iloc[:0],
    )
    found = {finding.rule.name: finding for finding in examine(empty)}
    missed = {name for name, finding in found.items() if not finding.passed}
    assert missed <= {"completeness", "freshness", "provider_outage", "intraday_completeness", "intraday_freshness"}
    assert all(finding.severity in Severity for finding in found.values())


def test_a_threshold_that_no_rule_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no rule has the threshold return_gap; known: .*return_cap"):
        Limits({"return_gap": 1.0})


def test_the_range_of_the_evidence_is_what_is_judged() -> None:
    evidence = clean(STOCK_PRICES)
    week = replace(evidence, start=date(2026, 11, 16))
    checked = {finding.rule.name: finding.checked for finding in examine(week)}
    assert checked["nulls"] == checked["return_mad"] == 5 * 8
