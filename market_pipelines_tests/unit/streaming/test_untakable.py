"""What PostgreSQL will never take is told as such, and what the sinks make of odd prices it takes."""

from __future__ import annotations

import psycopg
import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.postgres import latest_of
from market_pipelines.streaming.sinks.protocol import SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.translate import translated
from market_pipelines_tests.unit.streaming.ticks_made import quotes


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (psycopg.DataError("text fields cannot contain NUL"), SinkRefused),
        (psycopg.errors.CheckViolation("price"), SinkRefused),
        (psycopg.errors.ProgramLimitExceeded("index row requires 20016 bytes"), SinkRefused),
        (psycopg.errors.DiskFull("no space left"), SinkUnavailable),
        (psycopg.errors.DeadlockDetected("deadlock"), SinkUnavailable),
        (psycopg.OperationalError("connection refused"), SinkUnavailable),
    ],
)
def test_what_is_never_taken_is_for_a_person_and_the_rest_passes(error: Exception, told: type[Exception]) -> None:
    with pytest.raises(told, match="the lake"), translated("the lake"):
        raise error


def test_the_middle_of_two_huge_prices_is_finite() -> None:
    """PostgreSQL takes no infinite price: the sink would stand still over it."""
    latest = latest_of(Chunk("j", 0, 1, {TickKind.QUOTES: quotes({"bid": 1e308, "ask": 1.5e308})}), "USD")
    assert latest["price"].to_pylist() == [1.25e308]
