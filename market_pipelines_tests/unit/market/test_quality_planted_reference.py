"""Corporate actions and instruments: every rule finds its own fault, and nothing of the kind in clean references."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.quality import Evidence, Severity, rules_of
from market_pipelines.market.quality.rules import ACTIONS, INSTRUMENTS
from market_pipelines_tests.false_positives import END
from market_pipelines_tests.unit.market.planted import (
    JUDGED,
    SPLIT_DAY,
    SYMBOLS,
    clean,
    found,
    offences,
    row_of,
    scaled,
    sessions,
    sometimes,
    verdicts,
    with_values,
)

AUTUMN_2020 = date(2020, 10, 30)
STOOQ = "simulated-stooq"
places = st.tuples(st.sampled_from(SYMBOLS), st.integers(1, JUDGED - 2))


def told(evidence: Evidence) -> pd.DataFrame:
    assert evidence.provider_bars is not None
    return evidence.provider_bars


def paid(evidence: Evidence) -> list[CorporateAction]:
    """The dividends of the judged sessions, in New York half a percent at most."""
    judged = sessions(evidence)
    return [
        one for one in evidence.actions if one.kind is ActionKind.DIVIDEND and judged[0] < one.ex_date <= judged[-1]
    ]


@pytest.mark.parametrize("asset", [ACTIONS, INSTRUMENTS])
@pytest.mark.parametrize("end", [END, AUTUMN_2020])
def test_clean_references_break_no_rule(asset: str, end: date) -> None:
    evidence = clean(asset, end)
    assert {name for name, finding in verdicts(evidence).items() if not finding.passed} == set()


@sometimes
@given(st.sampled_from((2.0, 3.0, 0.1, 1.5)), places)
def test_a_split_that_did_not_happen_is_found(ratio: float, place: tuple[str, int]) -> None:
    evidence = clean(ACTIONS)
    day = sessions(evidence)[place[1]]
    false = CorporateAction(place[0], day, ActionKind.SPLIT, ratio)
    spoilt = replace(evidence, actions=(*evidence.actions, false), provider_bars=None)
    assert offences(spoilt, "split_without_jump") == {(place[0], day)}


def test_a_split_too_small_to_be_seen_is_not_asked_about() -> None:
    evidence = clean(ACTIONS)
    small = CorporateAction("KO", sessions(evidence)[20], ActionKind.SPLIT, 1.05)
    assert offences(replace(evidence, actions=(*evidence.actions, small)), "split_without_jump") == set()


def test_a_split_that_one_adjusted_series_misses_is_found() -> None:
    evidence = clean(ACTIONS, AUTUMN_2020)
    bars = told(evidence)
    before = (bars["symbol"] == "AAPL") & (bars["provider"] == STOOQ) & (bars["session"] < pd.Timestamp(SPLIT_DAY))
    missed = replace(evidence, provider_bars=scaled(bars, before, 4.0))

    finding = found(missed, "split_without_jump")
    assert finding.offending["provider"].tolist() == [STOOQ]
    assert finding.offending["session"].tolist() == [pd.Timestamp(SPLIT_DAY)]
    assert offences(missed, "adjusted_consistency") == set(), "told once"


def test_a_split_that_was_undone_twice_is_found() -> None:
    """Prices as traded that do not know the jump: somebody has adjusted them."""
    evidence = clean(ACTIONS, AUTUMN_2020)
    bars = evidence.bars
    assert bars is not None
    before = (bars["symbol"] == "AAPL") & (bars["session"] < pd.Timestamp(SPLIT_DAY))
    smooth = replace(evidence, bars=scaled(bars, before, 0.25))
    assert ("AAPL", SPLIT_DAY) in offences(smooth, "split_without_jump")


@sometimes
@given(st.data())
def test_a_dividend_that_is_not_in_adjusted_prices_is_found(data: st.DataObject) -> None:
    evidence = clean(ACTIONS)
    dividend = data.draw(st.sampled_from(paid(evidence)))
    bars, agreed = told(evidence), evidence.bars
    assert agreed is not None
    eve = agreed[(agreed["symbol"] == dividend.symbol) & (agreed["session"] < pd.Timestamp(dividend.ex_date))]
    factor = 1 - dividend.value / float(eve["close"].iloc[-1])
    before = (bars["symbol"] == dividend.symbol) & (bars["provider"] == STOOQ)
    before &= bars["session"] < pd.Timestamp(dividend.ex_date)
    unadjusted = replace(evidence, provider_bars=scaled(bars, before, 1 / factor))

    assert offences(unadjusted, "dividend_not_applied") == {(dividend.symbol, dividend.ex_date)}
    assert offences(unadjusted, "adjusted_consistency") == set(), "told once"


@sometimes
@given(places)
def test_an_adjusted_close_that_is_off_is_found_with_the_way_back(place: tuple[str, int]) -> None:
    evidence = clean(ACTIONS)
    bars = told(evidence)
    day, following = sessions(evidence)[place[1] : place[1] + 2]
    at = row_of(bars, place[0], day, STOOQ)
    off = with_values(bars, at, close=float(bars["close"].iloc[at]) * 1.01)
    spoilt = replace(evidence, provider_bars=off)
    assert offences(spoilt, "adjusted_consistency") >= {(place[0], following)} - set(_ex_dates(evidence))
    assert offences(spoilt, "adjusted_consistency") <= {(place[0], day), (place[0], following)}


def _ex_dates(evidence: Evidence) -> list[tuple[str, date]]:
    return [(one.symbol, one.ex_date) for one in evidence.actions]


def test_bars_fetched_before_the_dividend_are_not_expected_to_know_it() -> None:
    evidence = clean(ACTIONS)
    dividend = paid(evidence)[0]
    bars = told(evidence)
    before = (bars["symbol"] == dividend.symbol) & (bars["provider"] == STOOQ)
    before &= bars["session"] < pd.Timestamp(dividend.ex_date)
    unadjusted = scaled(bars, before, 1.004)
    early = bars["ingested_at"].mask(before, pd.Timestamp(dividend.ex_date - timedelta(days=1), tz="UTC"))
    spoilt = replace(evidence, provider_bars=unadjusted.assign(ingested_at=early))
    assert offences(spoilt, "dividend_not_applied") == set()
    assert offences(spoilt, "adjusted_consistency") == set()


def instruments(evidence: Evidence, symbol: str, **changes: Any) -> Evidence:
    changed = [replace(one, **changes) if one.symbol == symbol else one for one in evidence.instruments]
    return replace(evidence, instruments=changed)


def about(evidence: Evidence, rule: str) -> list[tuple[str, str]]:
    offending = found(evidence, rule).offending
    return list(zip(offending["symbol"], offending["detail"], strict=True))


@pytest.mark.parametrize(
    ("currency", "said"), [("EUR", "USD became EUR"), ("", "'' is no currency"), ("USd", "a hundred times")]
)
def test_a_listing_that_changes_its_money_blocks(currency: str, said: str) -> None:
    for symbol in SYMBOLS:
        spoilt = instruments(clean(INSTRUMENTS), symbol, currency=currency)
        ((found_in, detail),) = about(spoilt, "currency")
        assert found_in == symbol
        if currency != "USd":
            assert said in detail
        assert found(spoilt, "currency").severity is Severity.BLOCK


def test_pence_for_pounds_is_told_as_such() -> None:
    evidence = clean(INSTRUMENTS)
    pounds = [replace(one, currency="GBP") for one in evidence.instruments]
    pence = [replace(one, currency="GBp") if one.symbol == "KO" else one for one in pounds]
    spoilt = replace(evidence, instruments=pence, former=pounds)
    assert about(spoilt, "currency") == [("KO", "GBP became GBp, a hundred times more or less")]


def test_a_symbol_that_means_another_company_is_found() -> None:
    evidence = clean(INSTRUMENTS)
    renamed = instruments(evidence, "KO", name="Kolumbus Oil Inc.")
    assert about(renamed, "symbol_continuity") == [("KO", "The Coca-Cola Company became Kolumbus Oil Inc.")]
    assert about(instruments(evidence, "KO", name="THE COCA COLA COMPANY."), "symbol_continuity") == []


def test_a_symbol_that_is_gone_was_delisted_or_is_missed() -> None:
    evidence = clean(INSTRUMENTS)
    rest = [one for one in evidence.instruments if one.symbol != "KO"]
    gone = replace(evidence, instruments=rest)
    assert about(gone, "symbol_continuity") == [("KO", "is gone and was never delisted")]
    delisted = [replace(one, delisted_on=date(2026, 11, 10)) for one in evidence.instruments]
    assert about(replace(gone, former=delisted, instruments=delisted[1:]), "symbol_continuity") == []
    back = about(replace(evidence, former=delisted), "symbol_continuity")
    assert {symbol for symbol, _ in back} == set(SYMBOLS)


@sometimes
@given(st.sampled_from(SYMBOLS), st.integers(0, 30))
def test_a_price_that_is_another_after_a_long_silence_is_found(symbol: str, first: int) -> None:
    evidence = clean(INSTRUMENTS)
    bars, days = evidence.bars, sessions(evidence)
    assert bars is not None
    own, day = bars["symbol"] == symbol, bars["session"]
    silent = own & (day >= pd.Timestamp(days[first])) & (day < pd.Timestamp(days[first + 22]))
    after = own & (day >= pd.Timestamp(days[first + 22]))
    other = scaled(bars, after, 3.0)[~silent]
    assert [name for name, _ in about(replace(evidence, bars=other), "symbol_continuity")] == [symbol]
    assert about(replace(evidence, bars=bars[~silent]), "symbol_continuity") == [], "a suspension alone is none"


def test_every_rule_of_the_references_is_here() -> None:
    market = clean(ACTIONS).market
    wanted = {"split_without_jump", "dividend_not_applied", "adjusted_consistency", "currency", "symbol_continuity"}
    assert {rule.name for asset in (ACTIONS, INSTRUMENTS) for rule in rules_of(asset, market)} == wanted
    assert np.isfinite([one.value for one in paid(clean(ACTIONS))]).all()
