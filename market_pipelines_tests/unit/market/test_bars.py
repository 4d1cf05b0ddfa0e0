"""The schemas at the boundaries between floors."""

from collections.abc import Callable

import pandas as pd
import pytest
from pandera.errors import SchemaErrors

from market_pipelines.market.actions import Basis
from market_pipelines.market.bars import (
    BASES,
    empty_bars,
    validate_bars,
    validate_consensus,
    validate_provider_bars,
)


def text(word: str) -> pd.Series:
    return pd.Series([word, word], dtype="str")


def two_bars() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": text("AAPL"),
            "session": pd.Series(["2024-01-02", "2024-01-03"], dtype="datetime64[s]"),
            "open": [1.0, 2.0],
            "high": [1.5, 2.5],
            "low": [0.5, 1.5],
            "close": [1.0, 2.0],
            "volume": [100.0, float("nan")],
            "provisional": [False, True],
        }
    )


def provider_bars() -> pd.DataFrame:
    return two_bars().assign(market=text("us"), provider=text("yahoo"), basis=text("traded"))


def consensus_bars() -> pd.DataFrame:
    return two_bars().assign(market=text("us"), provider=text("yahoo"), condition=text("available"))


def test_well_formed_tables_pass_unchanged() -> None:
    for table, validate in (
        (two_bars(), validate_bars),
        (empty_bars(), validate_bars),
        (provider_bars(), validate_provider_bars),
        (consensus_bars(), validate_consensus),
        (consensus_bars().assign(ingested_at=pd.Timestamp("2024-01-04", tz="UTC")), validate_consensus),
    ):
        pd.testing.assert_frame_equal(validate(table.copy()), table)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda bars: bars.drop(columns="low"), id="a column is missing"),
        pytest.param(lambda bars: bars.assign(close=["1", "2"]), id="prices are text"),
        pytest.param(lambda bars: bars.assign(open=[1, 2]), id="prices are whole numbers"),
        pytest.param(lambda bars: bars.assign(close=float("nan")), id="a price is absent"),
        pytest.param(lambda bars: bars.assign(session=bars["session"].astype("datetime64[ns]")), id="unit"),
        pytest.param(lambda bars: bars.assign(session=bars["session"] + pd.Timedelta("9h")), id="time of day"),
        pytest.param(lambda bars: bars.assign(session=bars["session"].dt.tz_localize("UTC")), id="zone"),
        pytest.param(lambda bars: bars.assign(session=bars["session"].iloc[0]), id="a session comes twice"),
        pytest.param(lambda bars: bars.assign(symbol=None), id="a symbol is absent"),
        pytest.param(lambda bars: bars.assign(provisional=[0, 1]), id="a flag is a number"),
    ],
)
def test_a_table_that_was_built_wrongly_is_refused(spoil: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    for table, validate in (
        (two_bars(), validate_bars),
        (provider_bars(), validate_provider_bars),
        (consensus_bars(), validate_consensus),
    ):
        with pytest.raises(SchemaErrors):
            validate(spoil(table))


def test_two_providers_may_have_the_same_session_but_the_consensus_has_it_once() -> None:
    both = pd.concat([provider_bars(), provider_bars().assign(provider=text("stooq"))])
    validate_provider_bars(both)
    with pytest.raises(SchemaErrors):
        validate_consensus(pd.concat([consensus_bars(), consensus_bars()]))


@pytest.mark.parametrize(
    ("table", "validate"),
    [
        (provider_bars().assign(basis=text("adjusted")), validate_provider_bars),
        (consensus_bars().assign(condition=text("fine")), validate_consensus),
    ],
)
def test_an_unknown_word_is_refused(table: pd.DataFrame, validate: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    with pytest.raises(SchemaErrors):
        validate(table)


def test_the_words_for_a_basis_are_those_of_the_domain() -> None:
    assert tuple(Basis) == BASES
