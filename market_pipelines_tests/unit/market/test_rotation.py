"""Who is looked at on which day."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.rotation import whose_turn
from market_pipelines_tests.unit.market.properties import unhurried

names = st.lists(st.text("ABCDEFGH.", min_size=1, max_size=4), min_size=1, max_size=40, unique=True)


def test_the_next_turn_goes_on_where_the_last_one_ended() -> None:
    listed = ["MSFT", "AAPL", "V", "KO", "JPM"]
    assert [whose_turn(listed, turn, 2) for turn in range(4)] == [
        ("AAPL", "JPM"),
        ("KO", "MSFT"),
        ("V", "AAPL"),
        ("JPM", "KO"),
    ]


@pytest.mark.parametrize(("listed", "count"), [([], 3), (["AAPL"], 0)])
def test_nobody_is_looked_at_where_there_is_nobody_or_none_is_wanted(listed: list[str], count: int) -> None:
    assert whose_turn(listed, 5, count) == ()


@unhurried
@given(names, st.integers(0, 20_000), st.integers(1, 50))
def test_everybody_has_a_turn_before_anybody_has_many(listed: list[str], first: int, count: int) -> None:
    turns = ceil(len(listed) / count)
    seen = [name for turn in range(first, first + turns) for name in whose_turn(listed, turn, count)]

    assert set(seen) == set(listed)
    assert max(seen.count(name) for name in listed) <= 2


@unhurried
@given(names, st.integers(0, 20_000), st.integers(1, 50))
def test_a_turn_names_each_once_and_does_not_depend_on_the_order_of_names(
    listed: list[str], turn: int, count: int
) -> None:
    chosen = whose_turn(listed, turn, count)

    assert len(chosen) == len(set(chosen)) == min(count, len(listed))
    assert chosen == whose_turn(listed[::-1], turn, count)
