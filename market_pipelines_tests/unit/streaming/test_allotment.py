"""Who carries what: everything once, no more sockets than allowed, and nothing moved without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.streaming.feeds.allotment import allot

SYMBOLS = st.lists(st.sampled_from([f"S{number}" for number in range(60)]), unique=True, max_size=60)


@given(
    before=SYMBOLS, after=SYMBOLS, per_connection=st.integers(1, 12), first=st.integers(1, 6), then=st.integers(1, 6)
)
def test_everything_is_carried_once_by_no_more_sockets_than_allowed(
    before: list[str], after: list[str], per_connection: int, first: int, then: int
) -> None:
    carried = allot([], before, per_connection=per_connection, most=first)
    dealt = allot(carried, after, per_connection=per_connection, most=then)
    assert sorted(symbol for one in dealt for symbol in one) == sorted(after)
    used = [one for one in dealt if one]
    assert len(used) <= then
    if then >= first:
        for old, new in zip(carried, dealt, strict=False):
            assert set(old) & set(after) <= set(new), "what stays wanted stays where it is"


@given(wanted=SYMBOLS, per_connection=st.integers(1, 12), most=st.integers(1, 6))
def test_a_first_deal_is_even_and_uses_no_socket_without_need(
    wanted: list[str], per_connection: int, most: int
) -> None:
    dealt = allot([], wanted, per_connection=per_connection, most=most)
    sizes = [len(one) for one in dealt]
    assert len(sizes) == min(most, -(-len(wanted) // per_connection)) if wanted else not sum(sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_what_a_refused_socket_carried_goes_to_the_others() -> None:
    dealt = allot([("A", "B"), ("C",)], ["A", "B", "C", "D", "E"], per_connection=2, most=2)
    assert set(dealt[0]) >= {"A", "B"}
    assert set(dealt[1]) >= {"C", "D"}


def test_the_smallest_socket_ends_when_there_are_too_many() -> None:
    assert allot([("A", "B"), ("C",)], ["A", "B", "C"], per_connection=2, most=1) == (("A", "B", "C"), ())
