"""Which provider's bar is chosen, and what is said about the others."""

from dataclasses import dataclass
from datetime import date

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.bars import empty_bars, validate_consensus, validate_provider_bars
from market_pipelines.market.consensus import Consensus, agree, house_name
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
    consensus = agree(table(Bar("stooq", 100.1), Bar("yahoo", 100.2), Bar("alpha_vantage", 100)), PRECEDENCE)
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


@pytest.mark.parametrize(("other", "condition"), [(100.5, "available"), (100.51, "degraded"), (99.4, "degraded")])
def test_a_close_beyond_the_tolerance_degrades_the_bar(other: float, condition: str) -> None:
    consensus = agree(table(Bar("yahoo", 100), Bar("stooq", other)), PRECEDENCE)
    assert outcome(consensus) == [("yahoo", 100, condition)]
    assert len(consensus.disagreements) == (condition == "degraded")


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
