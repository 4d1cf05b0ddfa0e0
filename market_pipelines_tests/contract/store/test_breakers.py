"""Circuit breakers in the database: counting, opening, one trial at a time. Instants are pretended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import register_secret
from market_pipelines.store.database import Database
from market_pipelines.store.health import (
    Health,
    Leave,
    Opening,
    breaker_asks,
    breaker_closes,
    breaker_fails,
    breaker_lets_go,
    health,
)

NOON = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
LEASE = 60.0
OPENING = Opening(after=3, first_pause=30, longest_pause=100, stretch=1.0)
_numbers = count()


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class Breaker:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.provider = f"provider{next(_numbers)}"

    def asks(self, at: datetime, holder: str = "one") -> Leave:
        with self.database.statements() as connection:
            return breaker_asks(connection, self.provider, holder, LEASE, at)

    def fails(self, at: datetime, holder: str = "one", *, times: int = 1, counts: bool = True) -> None:
        with self.database.statements() as connection:
            for _ in range(times):
                breaker_fails(
                    connection, self.provider, holder, Outcome.UNAVAILABLE, "gone", OPENING, counts=counts, at=at
                )

    def closes(self) -> bool:
        with self.database.statements() as connection:
            return breaker_closes(connection, self.provider)

    def lets_go(self, holder: str) -> None:
        with self.database.statements() as connection:
            breaker_lets_go(connection, self.provider, holder)

    def row(self) -> Health:
        with self.database.connection() as connection:
            return next(row for row in health(connection) if row.provider == self.provider)


@pytest.fixture
def breaker(database: Database) -> Breaker:
    return Breaker(database)


@pytest.fixture
def opened(breaker: Breaker) -> Breaker:
    breaker.fails(NOON, times=3)
    return breaker


def test_a_provider_of_whom_nothing_is_known_may_be_asked(breaker: Breaker) -> None:
    assert breaker.asks(NOON).allowed


def test_it_opens_at_the_last_of_the_failures_in_a_row_and_says_why_and_until_when(breaker: Breaker) -> None:
    breaker.fails(NOON, times=2)
    assert breaker.asks(NOON).allowed
    breaker.fails(NOON)
    refused = breaker.asks(NOON + seconds(29))
    assert not refused.allowed
    assert not refused.probed
    assert (refused.outcome, refused.reason, refused.retry_at) == (Outcome.UNAVAILABLE, "gone", NOON + seconds(30))


def test_an_answer_in_between_begins_the_count_anew(breaker: Breaker) -> None:
    breaker.fails(NOON, times=2)
    assert breaker.closes()
    assert not breaker.closes()
    breaker.fails(NOON, times=2)
    assert breaker.asks(NOON).allowed


def test_after_the_pause_one_may_try_and_the_others_wait_for_it(opened: Breaker) -> None:
    then = NOON + seconds(30)
    assert opened.asks(then, "one").allowed
    other = opened.asks(then + seconds(1), "other")
    assert (other.allowed, other.probed, other.retry_at) == (False, True, then + seconds(LEASE))
    assert opened.asks(then + seconds(2), "one").allowed


def test_one_who_dies_over_the_trial_blocks_nobody_for_longer_than_the_lease(opened: Breaker) -> None:
    then = NOON + seconds(30)
    assert opened.asks(then, "dead").allowed
    assert not opened.asks(then + seconds(LEASE - 1), "other").allowed
    assert opened.asks(then + seconds(LEASE), "other").allowed


def test_one_who_does_not_try_after_all_lets_the_next_one(opened: Breaker) -> None:
    then = NOON + seconds(30)
    assert opened.asks(then, "one").allowed
    opened.lets_go("other")
    assert not opened.asks(then, "other").allowed
    opened.lets_go("one")
    assert opened.asks(then, "other").allowed


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest(opened: Breaker) -> None:
    now, pauses = NOON + seconds(30), []
    for _ in range(3):
        assert opened.asks(now).allowed
        opened.fails(now)
        refused = opened.asks(now)
        assert refused.retry_at is not None
        pauses.append((refused.retry_at - now).total_seconds())
        now = refused.retry_at
    assert pauses == [60, 100, 100]


def test_an_answer_closes_it_and_the_next_pause_is_short_again(opened: Breaker) -> None:
    now = NOON + seconds(30)
    assert opened.asks(now).allowed
    opened.fails(now)
    assert opened.closes()
    assert opened.asks(now).allowed
    opened.fails(now, times=3)
    assert opened.asks(now).retry_at == now + seconds(30)


def test_failures_of_those_who_were_under_way_when_it_opened_change_nothing(opened: Breaker) -> None:
    opened.fails(NOON + seconds(10), "late", times=5)
    assert opened.asks(NOON + seconds(29)).retry_at == NOON + seconds(30)
    assert opened.asks(NOON + seconds(30), "one").allowed
    opened.fails(NOON + seconds(31), "late")
    assert opened.asks(NOON + seconds(32), "one").allowed


def test_what_says_nothing_about_the_provider_matters_only_to_a_trial(breaker: Breaker) -> None:
    breaker.fails(NOON, times=9, counts=False)
    assert breaker.asks(NOON).allowed
    breaker.fails(NOON, times=3)
    assert breaker.asks(NOON + seconds(30)).allowed
    breaker.fails(NOON + seconds(30), counts=False)
    assert breaker.asks(NOON + seconds(31)).retry_at == NOON + seconds(90)


def test_its_state_is_told(opened: Breaker) -> None:
    row = opened.row()
    assert (row.failures, row.opened_at, row.next_try, row.since) == (3, NOON, NOON + seconds(30), NOON)
    assert (row.outcome, row.reason, row.due, row.probing) == (Outcome.UNAVAILABLE, "gone", True, False)
    opened.closes()
    row = opened.row()
    assert (row.failures, row.opened_at, row.outcome, row.reason) == (0, None, None, "")


def test_no_secret_gets_in(breaker: Breaker) -> None:
    register_secret("S3CR3T-KEY")
    with breaker.database.statements() as connection:
        breaker_fails(connection, breaker.provider, "one", Outcome.UNAVAILABLE, "S3CR3T-KEY \x00", OPENING, at=NOON)
    assert "S3CR3T-KEY" not in breaker.row().reason
