"""Splits and dividends: hand-computed answers, and that what is adjusted can be undone."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from market_pipelines.market.actions import (
    ActionKind,
    CorporateAction,
    VolumeScaling,
    adjust,
    adjust_splits,
    adjustment_factors,
    dividends_as_paid,
    split_factors,
    undo,
    undo_splits,
)
from market_pipelines.market.bars import VALUE_COLUMNS, empty_bars
from market_pipelines_tests.unit.market.properties import unhurried

MONDAY = date(2024, 3, 4)


def split(day: date, ratio: float, symbol: str = "ACME") -> CorporateAction:
    return CorporateAction(symbol, day, ActionKind.SPLIT, ratio)


def dividend(day: date, amount: float, symbol: str = "ACME") -> CorporateAction:
    return CorporateAction(symbol, day, ActionKind.DIVIDEND, amount)


def day(number: int) -> date:
    return MONDAY + timedelta(days=number)


def bars(closes: Iterable[float], symbol: str = "ACME", volume: float = 1000.0) -> pd.DataFrame:
    """One bar a day from MONDAY with round distances between the prices."""
    close = np.array(list(closes), dtype=np.float64)
    return pd.DataFrame(
        {
            "symbol": pd.Series([symbol] * len(close), dtype="str"),
            "session": pd.Series([day(at) for at in range(len(close))], dtype="datetime64[s]"),
            "open": close * 0.99,
            "high": close * 1.02,
            "low": close * 0.98,
            "close": close,
            "volume": np.full(len(close), volume),
            "provisional": np.zeros(len(close), dtype=bool),
        }
    )


def test_a_four_for_one_split_quarters_earlier_prices_and_quadruples_earlier_volume() -> None:
    adjusted = adjust(bars([400, 404, 101]), [split(day(2), 4)])

    assert adjusted["close"].tolist() == pytest.approx([100, 101, 101])
    assert adjusted["open"].tolist() == pytest.approx([99, 99.99, 99.99])
    assert adjusted["volume"].tolist() == pytest.approx([4000, 4000, 1000])


def test_a_reverse_split_multiplies_earlier_prices() -> None:
    adjusted = adjust(bars([2, 20]), [split(day(1), 0.1)])

    assert adjusted["close"].tolist() == pytest.approx([20, 20])
    assert adjusted["volume"].tolist() == pytest.approx([100, 1000])


def test_a_cash_dividend_scales_earlier_prices_by_its_share_of_the_close_before_it() -> None:
    adjusted = adjust(bars([90, 100, 98]), [dividend(day(2), 2)])

    assert adjusted["close"].tolist() == pytest.approx([90 * 0.98, 98, 98])
    assert adjusted["volume"].tolist() == pytest.approx([1000, 1000, 1000])


def test_a_dividend_is_of_the_new_share_when_a_split_has_the_same_ex_date() -> None:
    # 400 before a 4:1 split is 100 a new share; 2 of it is paid out: 98 a new share is left.
    both = [split(day(1), 4), dividend(day(1), 2)]
    adjusted = adjust(bars([400, 98]), both)

    assert adjusted["close"].tolist() == pytest.approx([98, 98])
    assert adjusted["volume"].tolist() == pytest.approx([4000, 1000])


def test_a_dividend_before_a_split_counts_as_paid_then() -> None:
    # 8 of 400 on the old share: 2 %. The later split does not turn the 8 into 2.
    adjusted = adjust(bars([400, 392, 98]), [dividend(day(1), 8), split(day(2), 4)])

    assert adjusted["close"].tolist() == pytest.approx([98, 98, 98])


def test_the_session_of_the_ex_date_and_later_ones_are_left_alone() -> None:
    before = bars([10, 11, 12])
    pd.testing.assert_frame_equal(adjust(before, [split(day(0), 2), dividend(day(0), 1)]), before)


def test_factors_are_one_line_per_ex_date_with_their_products() -> None:
    factors = adjustment_factors(
        [split(day(2), 4), dividend(day(1), 8), dividend(day(9), 1, "OTHER")], bars([400, 392, 98])
    )

    assert factors["symbol"].tolist() == ["ACME", "ACME"]
    assert factors["ex_date"].dt.date.tolist() == [day(1), day(2)]
    assert factors["factor"].tolist() == pytest.approx([0.98, 0.25])
    assert factors["cumulative"].tolist() == pytest.approx([0.245, 0.25])
    assert factors["split_cumulative"].tolist() == pytest.approx([0.25, 0.25])


def test_the_last_bar_before_the_ex_date_counts_even_with_a_gap_between() -> None:
    held = bars([100, 50, 98]).iloc[[0, 2]]
    assert adjust(held, [dividend(day(2), 2)])["close"].tolist() == pytest.approx([98, 98])


def test_a_dividend_after_a_split_without_a_bar_between_meets_the_new_price() -> None:
    # 400 is 100 after the split; 2 of 100 is paid.
    halted = bars([400, 400, 400, 98]).iloc[[0, 3]]
    adjusted = adjust(halted, [split(day(1), 4), dividend(day(3), 2)])

    assert adjusted["close"].tolist() == pytest.approx([98, 98])


def test_a_part_of_the_history_is_adjusted_like_the_whole_when_the_closes_are_given() -> None:
    whole, known = bars([90, 100, 98, 50, 49]), [dividend(day(2), 2), dividend(day(4), 1)]
    part = adjust(whole.head(2), known, closes=whole)

    pd.testing.assert_frame_equal(part, adjust(whole, known).head(2))


@pytest.mark.parametrize(
    "nonsense", [dividend(day(1), 100), dividend(day(1), -1), split(day(1), 0), split(day(1), float("nan"))]
)
def test_an_action_that_cannot_be_true_changes_nothing(nonsense: CorporateAction) -> None:
    before = bars([100, 99])
    pd.testing.assert_frame_equal(adjust(before, [nonsense]), before)


def test_each_symbol_has_its_own_actions() -> None:
    two = pd.concat([bars([400, 100]), bars([400, 100], "OTHER"), bars([400, 100], "THIRD")])
    adjusted = adjust(two, [split(day(1), 4, "OTHER"), split(day(1), 2, "THIRD"), split(day(1), 2, "NONE")])

    assert adjusted["close"].tolist() == pytest.approx([400, 100, 100, 100, 200, 100])


def test_rows_keep_their_order_index_and_other_columns() -> None:
    shuffled = bars([400, 404, 101]).assign(provider="yahoo").iloc[[2, 0, 1]]
    adjusted = adjust(shuffled, [split(day(2), 4)])

    assert adjusted.index.tolist() == [2, 0, 1]
    assert adjusted["close"].tolist() == pytest.approx([101, 100, 101])
    assert adjusted["provider"].tolist() == ["yahoo"] * 3


@pytest.mark.parametrize("function", [adjust, undo, adjust_splits, undo_splits])
def test_an_empty_table_and_no_actions_are_fine(function: object) -> None:
    assert callable(function)
    assert function(empty_bars(), [split(day(1), 4)]).empty
    pd.testing.assert_frame_equal(function(bars([1, 2]), []), bars([1, 2]))


def test_traded_prices_come_back_from_fully_adjusted_ones() -> None:
    # Stooq's way: every price before the ex-dates is scaled, and volume inversely by the same factor.
    adjusted = bars([98, 98, 98]).assign(volume=[1000 / 0.245, 1000 / 0.25, 1000.0])
    traded = undo(adjusted, [dividend(day(1), 8), split(day(2), 4)])

    assert traded["close"].tolist() == pytest.approx([400, 392, 98])
    assert traded["high"].tolist() == pytest.approx([408, 399.84, 99.96])
    assert traded["volume"].tolist() == pytest.approx([1000, 1000, 1000])


def test_traded_prices_come_back_from_split_adjusted_ones() -> None:
    traded = undo_splits(bars([100, 101, 101]), [split(day(2), 4), dividend(day(1), 1)])

    assert traded["close"].tolist() == pytest.approx([400, 404, 101])
    assert traded["volume"].tolist() == pytest.approx([250, 250, 1000])


def test_a_split_after_the_last_bar_still_counts() -> None:
    assert split_factors(bars([1, 2]), [split(day(9), 4)]).tolist() == [0.25, 0.25]


def test_restated_dividends_become_what_was_paid() -> None:
    known = [
        dividend(day(0), 0.25),
        split(day(1), 2),
        dividend(day(1), 0.5),
        split(day(2), 4),
        dividend(day(3), 1.0),
        split(day(2), 10, "OTHER"),
    ]
    paid = [action.value for action in dividends_as_paid(known) if action.kind is ActionKind.DIVIDEND]

    assert paid == pytest.approx([0.25 * 8, 0.5 * 4, 1.0])


@dataclass(frozen=True)
class History:
    bars: pd.DataFrame
    actions: tuple[CorporateAction, ...]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A few symbols with prices within a decimal order, and actions on any of their days."""
    tables: list[pd.DataFrame] = []
    actions: list[CorporateAction] = []
    price = st.floats(5, 50)
    volume = st.just(0.0) | st.floats(0.01, 1e9)
    for symbol in draw(st.sets(st.sampled_from(["A", "BRK.B", "PKO"]), min_size=1)):
        closes = draw(st.lists(price, min_size=1, max_size=12))
        table = bars(closes, symbol, draw(volume))
        tables.append(table[draw(st.lists(st.booleans(), min_size=len(closes), max_size=len(closes)))])
        days = st.integers(-1, len(closes) + 1).map(day)
        ratios = st.sampled_from([0.05, 0.1, 0.5, 1.5, 2.0, 4.0, 20.0])
        chosen = draw(st.dictionaries(days, st.tuples(ratios, st.floats(0.0001, 0.2)), max_size=4))
        for ex_date, (ratio, amount) in chosen.items():
            kinds = draw(st.sampled_from(["split", "dividend", "both"]))
            if kinds != "dividend":
                actions.append(split(ex_date, ratio, symbol))
            if kinds != "split":
                actions.append(dividend(ex_date, amount, symbol))
    table = pd.concat(tables, ignore_index=True)
    order = draw(st.permutations(range(len(table))))
    return History(table.iloc[list(order)], tuple(draw(st.permutations(actions))))


@unhurried
@given(histories(), st.sampled_from(["splits", "full"]))
def test_undoing_an_adjustment_gives_the_traded_bars_back(history: History, volume: VolumeScaling) -> None:
    factors = adjustment_factors(history.actions, history.bars)
    left = factors["factor"] * factors["split"]
    # A dividend that is as large as the price is left out, and nothing is left to undo.
    assume(bool(((factors["dividend"] == 0) | left.between(0.001, 0.999999)).all()))
    adjusted = adjust(history.bars, history.actions, volume=volume)
    back = undo(adjusted, history.actions, volume=volume)

    for name in VALUE_COLUMNS:
        np.testing.assert_allclose(back[name], history.bars[name], rtol=1e-9)


@unhurried
@given(histories())
def test_undoing_splits_gives_the_traded_bars_back(history: History) -> None:
    back = undo_splits(adjust_splits(history.bars, history.actions), history.actions)

    for name in VALUE_COLUMNS:
        np.testing.assert_allclose(back[name], history.bars[name], rtol=1e-9)


@unhurried
@given(histories())
def test_adjusting_does_not_depend_on_the_order_of_rows_or_actions(history: History) -> None:
    expected = adjust(history.bars, history.actions).sort_index()
    turned = adjust(history.bars[::-1], history.actions[::-1]).sort_index()

    pd.testing.assert_frame_equal(turned, expected)
