"""Pauses between attempts: within their bounds, spread, longer each time, and short again after a success."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.streaming.backoff import Backoff


@given(
    first=st.floats(0.01, 5),
    factor=st.floats(1, 1000),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60),
)
def test_a_pause_is_never_shorter_than_the_first_nor_longer_than_the_longest(
    first: float, factor: float, draws: list[float]
) -> None:
    drawn = iter(draws)
    backoff = Backoff(first, first * factor, lambda: next(drawn))
    for number in range(1, len(draws) + 1):
        pause = backoff.failed()
        assert first <= pause <= backoff.ceiling(number) * (1 + 1e-12)
        assert backoff.ceiling(number) <= first * factor


def test_ceilings_double_up_to_thirty_seconds() -> None:
    backoff = Backoff(fraction=lambda: 1.0)
    assert [backoff.failed() for _ in range(7)] == [2, 4, 8, 16, 30, 30, 30]


def test_the_whole_span_below_the_ceiling_is_used() -> None:
    backoff = Backoff(fraction=lambda: 0.0)
    assert [backoff.failed() for _ in range(5)] == [1.0] * 5


def test_a_success_starts_over() -> None:
    backoff = Backoff(fraction=lambda: 1.0)
    for _ in range(4):
        backoff.failed()
    backoff.reset()
    assert (backoff.failures, backoff.failed()) == (0, 2.0)


def test_a_thousand_failures_are_as_bad_as_ten() -> None:
    backoff = Backoff(fraction=lambda: 1.0)
    backoff.failures = 5_000
    assert backoff.failed() == 30.0


def test_bounds_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted"):
        Backoff(0.0, 30.0)
