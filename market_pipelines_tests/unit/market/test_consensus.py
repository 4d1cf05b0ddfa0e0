"""Which provider's bar is chosen, and what is said about the others."""

from dataclasses import dataclass
from datetime import date

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.bars import empty_bars, validate_consensus, validate_provider_bars
from market_pipelines.market.consensus import CloseKind, Consensus, agree, compared, house_name
from market_pipelines.market.definition import CrossCheckPlan
from market_pipelines_tests.unit.market.properties import unhurried

PRECEDENCE = ("alpha_vantage", "yahoo", "stooq")
TUESDAY, WEDNESDAY = date(2024, 1, 2), date(2024, 1, 3)


@dataclass(frozen=True)
class Bar:
    provider: str
    close: float = 100.0
    session: date = TUESDAY
    symbol: str = "AAPL"
    provisional: bool = False
    basis: str = "traded"
    market: str = "us"
    volume: float = 1000.0


def table(*bars: Bar) -> pd.DataFrame:
    text = {
        name: pd.Series([getattr(bar, name) for bar in bars], dtype="str")
        for name in ("market", "provider", "symbol", "basis")
    }
    close = pd.Series([bar.close for bar in bars], dtype="float64")
    return pd.DataFrame(
        {
            "symbol": text["symbol"],
            "session": pd.Series([bar.session for bar in bars], dtype="datetime64[s]"),
            "open": close,
            "high": close + 1,
            "low": close - 1,
            "close": close,
            "volume": pd.Series([bar.volume for bar in bars], dtype="float64"),
            "provisional": pd.Series([bar.provisional for bar in bars], dtype="bool"),
            "market": text["market"],
            "provider": text["provider"],
            "basis": text["basis"],
        }
    )


def outcome(consensus: Consensus) -> list[tuple[str, float, str]]:
    chosen = consensus.chosen
    return list(zip(chosen["provider"], chosen["close"], chosen["condition"], strict=True))


def test_the_provider_named_first_wins() -> None:
    consensus = agree(table(Bar("stooq", 100.05), Bar("yahoo", 100.02), Bar("alpha_vantage", 100)), PRECEDENCE)
    assert outcome(consensus) == [("alpha_vantage", 100, "available")]


def test_the_next_provider_stands_in_where_the_first_has_no_bar() -> None:
    bars = table(Bar("yahoo", 1), Bar("alpha_vantage", 2, WEDNESDAY), Bar("yahoo", 2, WEDNESDAY))
    assert [row[0] for row in outcome(agree(bars, PRECEDENCE))] == ["yahoo", "alpha_vantage"]


def test_simulated_providers_have_the_rank_of_those_they_stand_for() -> None:
    bars = table(Bar("simulated-stooq"), Bar("simulated-yahoo"))
    assert outcome(agree(bars, PRECEDENCE))[0][0] == "simulated-yahoo"
    assert outcome(agree(bars, ["simulated-stooq"]))[0][0] == "simulated-stooq"
    assert house_name("simulated-yahoo") == house_name("yahoo") == "yahoo"


def test_providers_without_a_rank_come_last_and_by_name() -> None:
    assert outcome(agree(table(Bar("zeta"), Bar("acme")), PRECEDENCE))[0][0] == "acme"
    assert outcome(agree(table(Bar("acme"), Bar("stooq")), PRECEDENCE))[0][0] == "stooq"


def test_a_final_bar_beats_a_provisional_one() -> None:
    bars = table(Bar("alpha_vantage", 90, provisional=True), Bar("stooq", 100))
    assert outcome(agree(bars, PRECEDENCE)) == [("stooq", 100, "available")]


def test_a_session_with_provisional_bars_only_is_pending_and_undisputed() -> None:
    bars = table(Bar("yahoo", 100, provisional=True), Bar("stooq", 120, provisional=True))
    consensus = agree(bars, PRECEDENCE)

    assert outcome(consensus) == [("yahoo", 100, "pending")]
    assert consensus.chosen["provisional"].tolist() == [True]
    assert consensus.disagreements.empty


def test_a_traded_bar_beats_an_adjusted_one_of_a_better_provider() -> None:
    bars = table(Bar("alpha_vantage", 25, basis="split_dividend"), Bar("stooq", 100))
    consensus = agree(bars, PRECEDENCE)

    assert outcome(consensus) == [("stooq", 100, "available")]
    assert consensus.disagreements.empty, "prices on different bases cannot be compared"


def test_adjusted_prices_alone_are_chosen_but_degraded() -> None:
    assert outcome(agree(table(Bar("stooq", basis="split_dividend")), PRECEDENCE)) == [("stooq", 100, "degraded")]


def test_a_series_never_mixes_bases() -> None:
    bars = table(
        Bar("yahoo", 100),
        Bar("stooq", 25, WEDNESDAY, basis="split_dividend"),
        Bar("stooq", 25, WEDNESDAY, symbol="MSFT", basis="split_dividend"),
        Bar("yahoo", 50, TUESDAY, symbol="MSFT", basis="split"),
    )
    chosen = agree(bars, PRECEDENCE).chosen

    assert list(zip(chosen["symbol"], chosen["provider"], strict=True)) == [
        ("AAPL", "yahoo"),
        ("MSFT", "yahoo"),
    ]


def test_the_same_symbol_on_two_markets_is_two_instruments() -> None:
    bars = table(Bar("yahoo", 100), Bar("stooq", 9, market="pl", basis="split_dividend"))
    assert [row[1:] for row in outcome(agree(bars, PRECEDENCE))] == [(9, "degraded"), (100, "available")]


@pytest.mark.parametrize(
    ("provider", "close", "condition"),
    [
        # Two official closes may be ten hundredths of a percent apart, closes of different kinds fifty.
        ("stooq", 100.1, "available"),
        ("stooq", 100.11, "degraded"),
        ("stooq", 99.89, "degraded"),
        ("simulated-stooq", 100.11, "degraded"),
        ("polygon", 100.5, "available"),
        ("polygon", 100.51, "degraded"),
        ("iex_cloud", 99.6, "available"),
        ("acme", 99.4, "degraded"),
    ],
)
def test_a_close_beyond_the_tolerance_of_its_kind_degrades_the_bar(provider: str, close: float, condition: str) -> None:
    consensus = agree(table(Bar("yahoo", 100), Bar(provider, close)), PRECEDENCE)
    assert outcome(consensus) == [("yahoo", 100, condition)]
    assert len(consensus.disagreements) == (condition == "degraded")


def test_a_plug_in_may_say_what_its_close_is() -> None:
    bars = table(Bar("yahoo", 100), Bar("acme", 100.3))
    kinds = {"yahoo": CloseKind.OFFICIAL, "acme": CloseKind.OFFICIAL}
    assert outcome(agree(bars, PRECEDENCE))[0][2] == "available"
    assert outcome(agree(bars, PRECEDENCE, kinds=kinds))[0][2] == "degraded"


def test_two_closes_of_unknown_kind_are_not_of_the_same() -> None:
    assert outcome(agree(table(Bar("acme", 100), Bar("zeta", 100.3)), PRECEDENCE))[0][2] == "available"


def test_the_market_says_how_much_passes() -> None:
    bars = table(Bar("yahoo", 100, volume=1000), Bar("stooq", 100.3, volume=800))
    plan = CrossCheckPlan(same_close_bp=31, volume_share=0.3)
    assert agree(bars, PRECEDENCE, plan).disagreements.empty
    assert agree(bars, PRECEDENCE).disagreements["breach"].tolist() == ["close and volume"]


def test_a_volume_that_disagrees_is_told_and_degrades_nothing() -> None:
    consensus = agree(table(Bar("yahoo", volume=1000), Bar("stooq", volume=940)), PRECEDENCE)
    assert outcome(consensus) == [("yahoo", 100, "available")]
    assert consensus.disagreements[["breach", "volume_share"]].to_numpy().tolist() == [["volume", pytest.approx(0.06)]]


@pytest.mark.parametrize(("other", "volume"), [("iex_cloud", 10), ("stooq", float("nan")), ("stooq", 950)])
def test_a_volume_that_says_nothing_about_the_other_is_no_disagreement(other: str, volume: float) -> None:
    bars = table(Bar("yahoo", volume=1000), Bar(other, volume=volume))
    assert agree(bars, PRECEDENCE).disagreements.empty


def test_a_disagreement_names_both_sides_and_the_distance() -> None:
    bars = table(Bar("yahoo", 101), Bar("stooq", 99), Bar("acme", 101), Bar("yahoo", 7, WEDNESDAY))
    found = agree(bars, PRECEDENCE).disagreements

    assert found[["market", "symbol", "provider", "other"]].to_numpy().tolist() == [["us", "AAPL", "yahoo", "stooq"]]
    assert found["session"].dt.date.tolist() == [TUESDAY]
    assert found[["close", "other_close", "bp"]].to_numpy().tolist() == [[101, 99, pytest.approx(200)]]


def test_a_provisional_bar_of_another_provider_is_no_disagreement() -> None:
    consensus = agree(table(Bar("yahoo", 100), Bar("stooq", 90, provisional=True)), PRECEDENCE)
    assert outcome(consensus) == [("yahoo", 100, "available")]


def test_nothing_in_gives_nothing_out_in_the_right_shape() -> None:
    bars = empty_bars()
    for name in ("market", "provider", "basis"):
        bars[name] = pd.Series(dtype="str")
    consensus = agree(bars, PRECEDENCE)

    validate_consensus(consensus.chosen)
    assert consensus.chosen.empty
    assert consensus.disagreements.empty


bar = st.builds(
    Bar,
    provider=st.sampled_from(["yahoo", "stooq", "alpha_vantage", "simulated-yahoo", "acme"]),
    close=st.sampled_from([90.0, 100.0, 100.3, 101.0]),
    session=st.sampled_from([TUESDAY, WEDNESDAY]),
    symbol=st.sampled_from(["AAPL", "BRK.B"]),
    provisional=st.booleans(),
    basis=st.sampled_from(["traded", "split", "split_dividend"]),
    market=st.sampled_from(["us", "pl"]),
    volume=st.sampled_from([1000.0, float("nan")]),
)
one_of_each = st.lists(
    bar, min_size=1, max_size=25, unique_by=lambda bar: (bar.market, bar.symbol, bar.session, bar.provider)
)


@unhurried
@given(st.lists(bar, min_size=1, max_size=25), st.permutations(PRECEDENCE))
def test_the_answer_does_not_depend_on_the_order_of_rows(bars: list[Bar], precedence: list[str]) -> None:
    given_order = agree(table(*bars), precedence)
    other_order = agree(table(*bars[::-1]).sample(frac=1, random_state=len(bars)), precedence)

    validate_consensus(given_order.chosen)
    pd.testing.assert_frame_equal(other_order.chosen, given_order.chosen)
    pd.testing.assert_frame_equal(other_order.disagreements, given_order.disagreements)


@unhurried
@given(one_of_each)
def test_every_chosen_bar_is_one_that_was_delivered(bars: list[Bar]) -> None:
    validate_provider_bars(table(*bars))
    delivered = {(bar.market, bar.symbol, bar.session, bar.provider, bar.close) for bar in bars}
    chosen = agree(table(*bars), PRECEDENCE).chosen
    rows = zip(
        chosen["market"],
        chosen["symbol"],
        chosen["session"].dt.date,
        chosen["provider"],
        chosen["close"],
        strict=True,
    )

    assert set(rows) <= delivered
    traded = {(bar.market, bar.symbol, bar.session) for bar in bars if bar.basis == "traded"}
    assert traded <= set(zip(chosen["market"], chosen["symbol"], chosen["session"].dt.date, strict=True))


prices = st.floats(0.01, 1e5)
volumes = st.one_of(st.floats(0, 1e9), st.just(float("nan")))
someone = st.sampled_from(["yahoo", "stooq", "polygon", "iex_cloud", "simulated-yahoo", "acme"])


@unhurried
@given(someone, someone, prices, prices, volumes, volumes)
def test_a_comparison_is_the_same_from_both_sides(
    one: str, two: str, close: float, other_close: float, volume: float, other_volume: float
) -> None:
    def seen(first: str, second: str, *values: float) -> pd.DataFrame:
        columns = ["close", "other_close", "volume", "other_volume"]
        frame = pd.DataFrame([values], columns=columns, dtype="float64")
        plan = CrossCheckPlan()
        found = compared(pd.Series([first], dtype="str"), pd.Series([second], dtype="str"), frame, plan)
        return found.drop(columns=columns)

    there = seen(one, two, close, other_close, volume, other_volume)
    back = seen(two, one, other_close, close, other_volume, volume)
    pd.testing.assert_frame_equal(there, back)
    found = there.iloc[0]
    assert found["tolerance_bp"] == (10 if found["kind"] == "same" else 50)
    assert ("close" in found["breach"]) == (found["bp"] > found["tolerance_bp"] + 1e-9)
    assert close != other_close or "close" not in found["breach"]
