"""Limits in the database: windows that slide, days of the provider's zone, what the provider said, what is given back.

Instants are pretended where a test would have to wait for them; the arithmetic is the database's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import register_secret
from market_pipelines.store.database import Database
from market_pipelines.store.quota import (
    WINDOWS,
    Allowance,
    Bucket,
    Taken,
    Verdict,
    block,
    day_end,
    give_back,
    quota_use,
    take,
    unblock,
)

NOON = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
NEW_YORK, WARSAW = "America/New_York", "Europe/Warsaw"
_numbers = count()


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class Till:
    """One bucket of its own and how it is spent from."""

    def __init__(self, database: Database, zone: str = "UTC") -> None:
        self.database = database
        self.bucket = Bucket(f"provider{next(_numbers)}", "", zone)

    def take(self, at: datetime | None, allowance: Allowance, *, quotes: bool = False) -> Taken:
        with self.database.statements() as connection:
            return take(connection, self.bucket, allowance, quotes=quotes, at=at)

    def give_back(self, taken: Taken) -> None:
        with self.database.statements() as connection:
            give_back(connection, self.bucket, taken)

    def block(self, seconds: float | None, at: datetime, outcome: Outcome = Outcome.THROTTLED) -> datetime:
        with self.database.statements() as connection:
            return block(connection, self.bucket, outcome, "it said so", seconds, at)

    def counted(self) -> tuple[int, int]:
        with self.database.connection() as connection:
            row = connection.execute(
                "SELECT day_calls, next_day_calls FROM market.provider_calls WHERE provider = %s",
                (self.bucket.provider,),
            ).fetchone()
        assert row is not None
        return row[0], row[1]


@pytest.fixture
def till(database: Database) -> Till:
    return Till(database)


@pytest.fixture
def till_in(database: Database) -> Iterator[Callable[[str], Till]]:
    yield lambda zone: Till(database, zone)


class TestWindows:
    def test_as_many_as_allowed_may_go_at_once_and_the_next_has_to_wait(self, till: Till) -> None:
        allowance = Allowance(per_minute=5)
        assert [till.take(NOON, allowance).verdict for _ in range(6)] == [Verdict.GRANTED] * 5 + [Verdict.MINUTE]

    def test_the_wait_is_exact_enough_to_come_back_just_then(self, till: Till) -> None:
        allowance = Allowance(per_second=1)
        till.take(NOON, allowance)
        refused = till.take(NOON + seconds(0.3), allowance)
        assert refused.verdict is Verdict.SECOND
        assert refused.retry_at is not None
        assert till.take(refused.retry_at - seconds(0.001), allowance).verdict is Verdict.SECOND
        assert till.take(refused.retry_at, allowance).granted

    @pytest.mark.parametrize("limit", [1, 2, 5, 75])
    @pytest.mark.parametrize("window", ["second", "minute"])
    def test_no_window_wherever_it_begins_holds_one_call_too_many(self, till: Till, limit: int, window: str) -> None:
        length = WINDOWS.second if window == "second" else WINDOWS.minute
        allowance = Allowance(per_second=limit) if window == "second" else Allowance(per_minute=limit)
        now = NOON
        granted: list[datetime] = []
        while len(granted) < 3 * limit + 2:
            taken = till.take(now, allowance)
            if taken.granted:
                granted.append(now)
                now += seconds(0.0007)
            else:
                assert taken.retry_at is not None
                now = taken.retry_at
        for earlier, later in zip(granted, granted[limit:], strict=False):
            assert later - earlier >= seconds(length + WINDOWS.slack)

    def test_no_more_is_lost_than_a_sixtieth_of_the_window(self, till: Till) -> None:
        allowance = Allowance(per_minute=10)
        for place in range(10):
            assert till.take(NOON + seconds(place), allowance).granted
        refused = till.take(NOON + seconds(10), allowance)
        assert refused.retry_at is not None
        assert refused.retry_at <= NOON + seconds((WINDOWS.minute + WINDOWS.slack) * (1 + 1 / 60))

    def test_both_windows_hold(self, till: Till) -> None:
        allowance = Allowance(per_second=2, per_minute=3)
        assert [till.take(NOON, allowance).verdict for _ in range(3)] == [Verdict.GRANTED] * 2 + [Verdict.SECOND]
        later = NOON + seconds(2)
        assert [till.take(later, allowance).verdict for _ in range(2)] == [Verdict.GRANTED, Verdict.MINUTE]

    def test_a_limit_of_any_size_costs_one_small_row(self, till: Till) -> None:
        allowance = Allowance(per_second=100_000, per_minute=1_000_000)
        for _ in range(50):
            assert till.take(NOON, allowance).granted
        with till.database.connection() as connection:
            row = connection.execute(
                "SELECT pg_column_size(c) FROM market.provider_calls AS c WHERE provider = %s", (till.bucket.provider,)
            ).fetchone()
        assert row is not None
        assert row[0] < 1_000

    def test_without_limits_calls_are_counted_all_the_same(self, till: Till) -> None:
        for _ in range(7):
            assert till.take(None, Allowance()).granted
        with till.database.connection() as connection:
            use = {one.window: one for one in quota_use(connection, [till.bucket])}
        assert {window: one.used for window, one in use.items()} == {"second": 7, "minute": 7, "day": 7}
        assert {one.limit for one in use.values()} == {None}

    def test_a_clock_that_went_back_makes_calls_wait_but_not_for_long(self, till: Till) -> None:
        allowance = Allowance(per_minute=2)
        assert till.take(NOON, allowance).granted
        assert till.take(NOON, allowance).granted
        earlier = NOON - timedelta(hours=1)
        refused = till.take(earlier, allowance)
        assert refused.verdict is Verdict.MINUTE
        assert refused.retry_at is not None
        assert refused.retry_at - earlier < seconds(62)
        assert till.take(refused.retry_at, allowance).granted

    def test_keys_have_windows_of_their_own(self, database: Database) -> None:
        one, other = Bucket("shared", "aaaa", "UTC"), Bucket("shared", "bbbb", "UTC")
        with database.statements() as connection:
            assert take(connection, one, Allowance(per_minute=1), at=NOON).granted
            assert not take(connection, one, Allowance(per_minute=1), at=NOON).granted
            assert take(connection, other, Allowance(per_minute=1), at=NOON).granted


class TestDays:
    def test_the_quota_of_the_day_ends_and_begins_anew_at_the_providers_midnight(
        self, till_in: Callable[[str], Till]
    ) -> None:
        till, allowance = till_in(NEW_YORK), Allowance(per_day=3)
        evening = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)  # ten in the evening of the third
        verdicts = [till.take(evening, allowance).verdict for _ in range(4)]
        assert verdicts == [Verdict.GRANTED] * 3 + [Verdict.DAY]
        refused = till.take(evening, allowance)
        assert refused.retry_at == datetime(2026, 3, 4, 5, 0, 5, tzinfo=UTC)
        assert till.take(refused.retry_at, allowance).granted

    @pytest.mark.parametrize(
        ("noon", "ends"),
        [
            (datetime(2026, 3, 8, 17, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC)),
            (datetime(2026, 11, 1, 17, tzinfo=UTC), datetime(2026, 11, 2, 5, tzinfo=UTC)),
        ],
        ids=["23 hours", "25 hours"],
    )
    def test_the_day_of_a_change_of_clocks_is_not_24_hours(
        self, till_in: Callable[[str], Till], noon: datetime, ends: datetime
    ) -> None:
        till, allowance = till_in(NEW_YORK), Allowance(per_day=1)
        assert till.take(noon, allowance).granted
        refused = till.take(ends - timedelta(minutes=30), allowance)
        assert refused.verdict is Verdict.DAY
        assert refused.retry_at == ends + WINDOWS.guard
        assert till.take(ends + timedelta(minutes=1), allowance).granted
        with till.database.connection() as connection:
            assert day_end(connection, NEW_YORK, noon) == ends

    def test_a_call_at_midnight_fits_into_both_days(self, till_in: Callable[[str], Till]) -> None:
        till, allowance = till_in(WARSAW), Allowance(per_day=2)
        midnight = datetime(2026, 3, 3, 23, 0, tzinfo=UTC)
        assert till.take(midnight - seconds(2), allowance).granted
        assert till.counted() == (1, 1)
        assert till.take(midnight + seconds(2), allowance).granted
        assert till.take(midnight + seconds(3), allowance).verdict is Verdict.DAY
        assert till.take(midnight + timedelta(hours=1), allowance).verdict is Verdict.DAY
        assert till.take(midnight + timedelta(hours=25), allowance).granted

    def test_a_day_without_calls_leaves_nothing_over(self, till: Till) -> None:
        allowance = Allowance(per_day=2)
        till.take(NOON, allowance)
        till.take(NOON + timedelta(days=3), allowance)
        assert till.counted() == (1, 0)

    def test_a_limit_that_was_raised_holds_at_once(self, till: Till) -> None:
        assert till.take(NOON, Allowance(per_day=1)).granted
        assert till.take(NOON, Allowance(per_day=1)).verdict is Verdict.DAY
        assert till.take(NOON, Allowance(per_day=2)).granted

    def test_the_reserve_is_for_quotes(self, till: Till) -> None:
        allowance = Allowance(per_day=10, reserve=3)
        assert all(till.take(NOON, allowance).granted for _ in range(7))
        refused = till.take(NOON, allowance)
        assert (refused.verdict, refused.day_calls) == (Verdict.RESERVE, 7)
        assert all(till.take(NOON, allowance, quotes=True).granted for _ in range(3))
        assert till.take(NOON, allowance, quotes=True).verdict is Verdict.DAY
        assert till.take(NOON, allowance).verdict is Verdict.DAY


class TestGivingBack:
    def test_what_was_not_sent_is_free_again_in_every_window(self, till: Till) -> None:
        allowance = Allowance(per_second=1, per_minute=1, per_day=1)
        taken = till.take(NOON, allowance)
        assert not till.take(NOON, allowance).granted
        till.give_back(taken)
        assert till.counted() == (0, 0)
        assert till.take(NOON, allowance).granted
        assert not till.take(NOON, allowance).granted

    def test_yesterdays_call_frees_nothing_today(self, till: Till) -> None:
        allowance = Allowance(per_day=1)
        yesterday = till.take(NOON, allowance)
        assert till.take(NOON + timedelta(days=1), allowance).granted
        till.give_back(yesterday)
        assert till.counted() == (1, 0)

    def test_a_call_at_midnight_is_given_back_to_both_days(self, till: Till) -> None:
        midnight = datetime(2026, 3, 4, tzinfo=UTC)
        till.give_back(till.take(midnight - seconds(1), Allowance(per_day=5)))
        assert till.counted() == (0, 0)

    def test_a_window_that_has_moved_on_is_not_touched(self, till: Till) -> None:
        allowance = Allowance(per_minute=1)
        old = till.take(NOON, allowance)
        later = NOON + timedelta(minutes=5)
        assert till.take(later, allowance).granted
        till.give_back(old)
        assert not till.take(later, allowance).granted


class TestBlocks:
    def test_everybody_waits_as_long_as_the_provider_wished(self, till: Till) -> None:
        assert till.block(30, NOON) == NOON + seconds(30)
        refused = till.take(NOON + seconds(29), Allowance(), quotes=True)
        assert (refused.verdict, refused.blocked_as, refused.because) == (
            Verdict.BLOCKED,
            Outcome.THROTTLED,
            "it said so",
        )
        assert refused.wait == pytest.approx(1)
        assert till.take(NOON + seconds(30), Allowance()).granted

    def test_a_shorter_wish_does_not_shorten_a_longer_one(self, till: Till) -> None:
        till.block(None, NOON, Outcome.QUOTA_EXHAUSTED)
        till.block(5, NOON)
        refused = till.take(NOON + seconds(10), Allowance())
        assert refused.blocked_as is Outcome.QUOTA_EXHAUSTED

    def test_an_exhausted_day_blocks_until_it_ends_and_not_for_longer(self, till_in: Callable[[str], Till]) -> None:
        till = till_in(NEW_YORK)
        until = till.block(None, datetime(2026, 3, 8, 18, tzinfo=UTC), Outcome.QUOTA_EXHAUSTED)
        assert until == datetime(2026, 3, 9, 4, 1, tzinfo=UTC)

    def test_a_refusal_just_after_midnight_is_still_about_yesterday(self, till_in: Callable[[str], Till]) -> None:
        till = till_in(NEW_YORK)
        until = till.block(None, datetime(2026, 3, 3, 5, 0, 20, tzinfo=UTC), Outcome.QUOTA_EXHAUSTED)
        assert until == datetime(2026, 3, 3, 5, 1, tzinfo=UTC)

    def test_a_block_is_forgotten_by_hand(self, till: Till) -> None:
        till.block(3600, NOON)
        with till.database.statements() as connection:
            assert unblock(connection, till.bucket)
            assert not unblock(connection, till.bucket)
        assert till.take(NOON, Allowance()).granted

    def test_no_secret_gets_in(self, till: Till) -> None:
        register_secret("S3CR3T-KEY")
        with till.database.statements() as connection:
            block(connection, till.bucket, Outcome.THROTTLED, "the key S3CR3T-KEY is tired", 60, NOON)
        assert "S3CR3T-KEY" not in (till.take(NOON, Allowance()).because or "")


class TestTheView:
    def test_it_says_what_is_used_of_which_limit(self, till: Till) -> None:
        allowance = Allowance(per_second=2, per_minute=60, per_day=25, reserve=5)
        taken = [till.take(None, allowance) for _ in range(2)]
        with till.database.connection() as connection:
            use = {one.window: one for one in quota_use(connection, [till.bucket])}
        assert [(one.used, one.limit, one.reserve) for one in (use["second"], use["minute"], use["day"])] == [
            (2, 2, 0),
            (2, 60, 0),
            (2, 25, 5),
        ]
        assert use["minute"].resets_at is not None
        assert timedelta(0) <= use["minute"].resets_at - (taken[0].taken_at + timedelta(minutes=1)) < seconds(1.1)
        midnight = taken[0].taken_at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        assert use["day"].resets_at == midnight

    def test_what_is_long_ago_is_not_used(self, till: Till) -> None:
        till.take(NOON - timedelta(days=900), Allowance(per_second=1, per_minute=2, per_day=3))
        with till.database.connection() as connection:
            use = quota_use(connection, [till.bucket])
        assert [one.used for one in use] == [0, 0, 0]
        assert [one.resets_at for one in use if one.window != "day"] == [None, None]

    def test_only_the_buckets_that_were_asked_for(self, till: Till) -> None:
        till.take(NOON, Allowance())
        with till.database.connection() as connection:
            assert quota_use(connection, []) == []
            assert till.bucket.provider in {one.provider for one in quota_use(connection)}
