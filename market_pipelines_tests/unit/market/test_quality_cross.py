"""Two providers' bars of the same session: who is compared with whom, and what is too far apart."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.definition import CrossCheckPlan
from market_pipelines.market.quality import compare_providers

DAY = date(2026, 11, 20)
PLAN = CrossCheckPlan()


def told(*bars: tuple[str, float, float], basis: str = "traded", provisional: bool = False) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": pd.Series(["KO"] * len(bars), dtype="str"),
            "session": pd.Series([DAY] * len(bars), dtype="datetime64[s]"),
            "provider": pd.Series([name for name, _, _ in bars], dtype="str"),
            "close": pd.Series([close for _, close, _ in bars], dtype="float64"),
            "volume": pd.Series([volume for _, _, volume in bars], dtype="float64"),
            "basis": pd.Series([basis] * len(bars), dtype="str"),
            "provisional": pd.Series([provisional] * len(bars), dtype="bool"),
        }
    )


def test_every_two_providers_are_compared_once_by_name() -> None:
    bars = told(("simulated-yahoo", 100, 1), ("polygon", 100, 1), ("alpha_vantage", 100, 1))
    pairs = compare_providers(bars, PLAN)
    assert list(zip(pairs["provider"], pairs["other"], strict=True)) == [
        ("alpha_vantage", "polygon"),
        ("alpha_vantage", "simulated-yahoo"),
        ("polygon", "simulated-yahoo"),
    ]
    assert pairs["breach"].tolist() == ["", "", ""]


@pytest.mark.parametrize(
    ("other", "close", "breach"),
    [("stooq", 100.09, ""), ("stooq", 100.11, "close"), ("polygon", 100.45, ""), ("polygon", 100.55, "close")],
)
def test_closes_of_one_kind_agree_more_closely(other: str, close: float, breach: str) -> None:
    (pair,) = compare_providers(told(("yahoo", 100, 1), (other, close, 1)), PLAN).itertuples()
    assert (pair.breach, pair.kind) == (breach, "same" if other == "stooq" else "other")
    assert pair.tolerance_bp == (10 if other == "stooq" else 50)


def test_volume_is_compared_where_both_have_it() -> None:
    apart = compare_providers(told(("yahoo", 100, 1000), ("stooq", 100, 949)), PLAN)
    assert (apart["breach"].tolist(), apart["volume_share"].round(3).tolist()) == (["volume"], [0.051])
    near = compare_providers(told(("yahoo", 100, 1000), ("stooq", 100, 951)), PLAN)
    assert near["breach"].tolist() == [""]
    unknown = compare_providers(told(("yahoo", 100, 1000), ("stooq", 100, np.nan)), PLAN)
    assert (unknown["breach"].tolist(), unknown["volume_share"].isna().tolist()) == ([""], [True])


def test_prices_on_different_bases_are_not_compared() -> None:
    adjusted = told(("stooq", 50, 1), basis="split_dividend")
    assert compare_providers(pd.concat([told(("yahoo", 100, 1)), adjusted], ignore_index=True), PLAN).empty


def test_bars_that_still_move_are_not_compared() -> None:
    moving = told(("stooq", 50, 1), provisional=True)
    assert compare_providers(pd.concat([told(("yahoo", 100, 1)), moving], ignore_index=True), PLAN).empty


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    days = pd.Series(pd.date_range("2026-11-02", periods=10, freq="B").as_unit("s"))
    pieces = [
        told((name, close, 1000)).assign(symbol=symbol, session=day)
        for symbol in ("KO", "AAPL")
        for day in days
        for name, close in (("yahoo", 100.0), ("stooq", 100.0), ("polygon", 101.0))
    ]
    bars = pd.concat(pieces, ignore_index=True)
    pairs = compare_providers(bars, PLAN)
    assert len(pairs) == 2 * 10 * 3
    shuffled = bars.iloc[rng.permutation(len(bars))]
    pd.testing.assert_frame_equal(compare_providers(shuffled, PLAN), pairs)


def test_nothing_to_compare_has_the_same_columns() -> None:
    pairs = compare_providers(told(("yahoo", 100, 1)), PLAN)
    assert pairs.empty
    assert list(pairs.columns)[:4] == ["symbol", "session", "provider", "other"]
    assert compare_providers(told(), PLAN).empty
