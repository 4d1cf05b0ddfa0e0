"""The limiter's arithmetic: fingerprints, the reserve, how long so many calls last, and the words for all of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from market_pipelines.cli.output import lasting
from market_pipelines.cli.quota import AS_USUAL, trouble
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.breaker import BreakerState, State
from market_pipelines.pipeline.estimate import seconds_at_limits
from market_pipelines.pipeline.limiter import Purpose, fingerprint, reserve_of
from market_pipelines.pipeline.quota import DAY, MINUTE, SECOND, ProviderQuota, Quota, Spending, day_start
from market_pipelines.providers.registry import Limits
from market_pipelines.store.quota import Allowance

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 4, tzinfo=UTC)
CLOSED = BreakerState("yahoo", State.CLOSED)
OPEN = BreakerState("yahoo", State.OPEN, 5, NOON, MIDNIGHT, False, Outcome.UNAVAILABLE, "gone")


def test_a_fingerprint_tells_keys_and_providers_apart_and_not_the_key() -> None:
    one = fingerprint("yahoo", "secret-one")
    assert len(one) == 10
    assert one == fingerprint("yahoo", "secret-one")
    assert len({one, fingerprint("yahoo", "secret-two"), fingerprint("polygon", "secret-one")}) == 3
    assert fingerprint("yahoo", "") == ""


@pytest.mark.parametrize(
    ("per_day", "percent", "kept"), [(25, 20, 5), (26, 20, 6), (1, 20, 0), (2, 90, 1), (100, 0, 0), (0, 20, 0)]
)
def test_the_reserve_is_rounded_up_and_never_the_whole_day(per_day: int, percent: int, kept: int) -> None:
    assert reserve_of(Limits(60, per_day, "UTC"), percent) == kept


@pytest.mark.parametrize(
    ("calls", "allowance", "seconds"),
    [
        (0, Allowance(1, 60), 0.0),
        (1, Allowance(1, 60), 0.0),
        (2, Allowance(1, 60), 1.25),
        (5, Allowance(None, 5), 0.0),
        (6, Allowance(None, 5), 60.25),
        (11, Allowance(None, 5), 120.5),
        (61, Allowance(1, 60), 75.0),
        (1_000, Allowance(), 0.0),
    ],
)
def test_so_many_calls_last_as_long_as_the_tightest_window_makes_them(
    calls: int, allowance: Allowance, seconds: float
) -> None:
    assert seconds_at_limits(calls, allowance) == pytest.approx(seconds)


def test_a_quota_knows_what_each_purpose_may_still_spend() -> None:
    quota = Quota(25, 18, MIDNIGHT, 5)
    assert (quota.remaining, quota.left_for(Purpose.QUOTE), quota.left_for(Purpose.REFRESH)) == (7, 7, 2)
    assert replace(quota, used=24).left_for(Purpose.BACKFILL) == 0
    assert replace(quota, limit=None).left_for(Purpose.BACKFILL) is None


@pytest.mark.parametrize(
    ("now", "begins"),
    [
        (datetime(2026, 3, 8, 17, tzinfo=UTC), datetime(2026, 3, 8, 5, tzinfo=UTC)),
        (datetime(2026, 3, 9, 3, tzinfo=UTC), datetime(2026, 3, 8, 5, tzinfo=UTC)),
        (datetime(2026, 3, 9, 4, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC)),
    ],
)
def test_a_day_begins_at_the_zones_midnight_also_where_clocks_change(now: datetime, begins: datetime) -> None:
    assert day_start(now, "America/New_York") == begins


def a_quota(
    *,
    used: int = 0,
    enforced: bool = True,
    breaker: BreakerState = CLOSED,
    blocked_until: datetime | None = None,
) -> ProviderQuota:
    windows = {
        SECOND: Spending("yahoo", SECOND, 1, 0, None, 0),
        MINUTE: Spending("yahoo", MINUTE, 60, 0, None, 0),
        DAY: Spending("yahoo", DAY, 25, used, MIDNIGHT, 5),
    }
    because = "it said so" if blocked_until is not None else ""
    return ProviderQuota("yahoo", enforced, windows, blocked_until, Outcome.THROTTLED, because, breaker)


@pytest.mark.parametrize(
    ("quota", "lacking", "wrong", "comes"),
    [
        (a_quota(), "", "", AS_USUAL),
        (a_quota(used=19), "", "", AS_USUAL),
        (a_quota(), "no key", "no key", "not asked until that is mended"),
        (a_quota(used=21), "", "only quotes may still ask (4 calls left)", "all others asked again from 2026-03-04"),
        (a_quota(used=25), "", "the day is used up", "asked again from 2026-03-04 00:00:00"),
        (a_quota(used=25, enforced=False), "", "", AS_USUAL),
        (a_quota(blocked_until=NOON), "", "it said so", "asked again from 2026-03-03 12:00:00"),
        (a_quota(breaker=OPEN), "", "breaker open, since 2026-03-03 12:00:00: gone", "tried again from 2026-03-04"),
        (a_quota(breaker=replace(OPEN, state=State.HALF_OPEN)), "", "breaker half-open", "the next call tries it"),
        (
            a_quota(breaker=replace(OPEN, state=State.HALF_OPEN, probing=True)),
            "",
            "breaker half-open",
            "being tried just now",
        ),
        (
            a_quota(breaker=replace(OPEN, state=State.CLOSED, failures=2)),
            "",
            "2 failed in a row: gone",
            "left alone after 5 in a row",
        ),
    ],
)
def test_one_look_says_what_is_wrong_and_what_happens_next(
    quota: ProviderQuota, lacking: str, wrong: str, comes: str
) -> None:
    told, follows = trouble(quota, lacking)
    assert told.startswith(wrong)
    assert bool(told) == bool(wrong)
    assert follows.startswith(comes)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "under a second"), (61, "61 seconds"), (600, "10 minutes"), (9_000, "2 hours"), (200_000, "2 days")],
)
def test_a_length_of_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert lasting(seconds) == said
