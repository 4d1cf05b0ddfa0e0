"""Leave to make one call to a provider, within limits that all processes share.

A call is spent when leave is given: whoever dies before sending it has spent it all the same, because nobody can
know that it was not sent. What the providers are asked, and what their answers mean, does not belong here.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import SecretStr

from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.registry import Limits
from market_pipelines.store import quota
from market_pipelines.store.quota import Allowance, Bucket, Taken, Verdict


class Purpose(StrEnum):
    """What a call is for, because a reserve of each day is kept for quotes."""

    QUOTE = "quote"
    REFRESH = "refresh"
    BACKFILL = "backfill"


LONGEST_WAIT: Mapping[Purpose, timedelta] = {
    Purpose.QUOTE: timedelta(seconds=15),
    Purpose.REFRESH: timedelta(minutes=5),
    Purpose.BACKFILL: timedelta(minutes=30),
}
"""For a window with room: it is full because others work, and one's turn comes."""
LONGEST_PENALTY = timedelta(seconds=20)
"""A provider that wants to be left alone for longer is asked in a later run, and the next one of the chain now."""
MOST_PENALTY = timedelta(days=1)
"""What is believed of a Retry-After."""
FRESH = 0.1
"""Seconds. Leave that was so long on its way might meet later calls in the provider's window."""
EXCHANGES = 2
"""A database that is always slow delays every call alike, so that in the end its leave is taken as it comes."""


@dataclass(frozen=True)
class Permit:
    granted: bool
    outcome: Outcome | None
    """How the question ends where it was not granted; None where the caller itself wanted to stop."""
    reason: str = ""
    retry_at: datetime | None = None


GRANTED = Permit(True, None)


class _Unsent(threading.local):
    """The calls that this thread has leave for, by bucket: what it may give back, once."""

    def __init__(self) -> None:
        self.taken: dict[Bucket, Taken] = {}


_unsent = _Unsent()


def bucket_of(platform: Platform, provider: str) -> Bucket:
    """Made-up traffic has buckets of its own, under its own name."""
    name = f"{SIMULATED_PREFIX}{provider}" if platform.simulated else provider
    key = getattr(platform.settings, f"{provider}_api_key", None)
    secret = key.get_secret_value() if isinstance(key, SecretStr) and not platform.simulated else ""
    return Bucket(name, fingerprint(provider, secret), platform.limits(provider).reset_zone)


def fingerprint(provider: str, key: str) -> str:
    """Tells keys apart without telling them; the same key of two providers gives two."""
    if not key:
        return ""
    salt = hashlib.sha256(f"market_pipelines {provider}".encode()).digest()[:16]
    return hashlib.blake2b(key.encode(), digest_size=5, salt=salt).hexdigest()


def allowance_of(platform: Platform, provider: str) -> Allowance:
    """The limits that are held: none of ours against the simulator."""
    if platform.simulated:
        return Allowance()
    allowed = platform.limits(provider)
    return Allowance(
        allowed.per_second or None,
        allowed.per_minute,
        allowed.per_day or None,
        reserve_of(allowed, platform.settings.quote_reserve),
    )


def reserve_of(allowed: Limits, percent: int) -> int:
    """Calls of a day that are kept for quotes: rounded up, but never the whole day."""
    return max(0, min(math.ceil(allowed.per_day * percent / 100), allowed.per_day - 1))


def permit(platform: Platform, provider: str, purpose: Purpose, stop: threading.Event) -> Permit:
    """Leave for one call. Waits while a window is full, not once `stop` is set."""
    bucket, allowance = bucket_of(platform, provider), allowance_of(platform, provider)
    deadline = time.monotonic() + LONGEST_WAIT[purpose].total_seconds()
    exchanges = 0
    while not stop.is_set():
        asked = time.monotonic()
        with platform.database.statements() as connection:
            taken = quota.take(connection, bucket, allowance, quotes=purpose is Purpose.QUOTE)
            late = taken.granted and time.monotonic() - asked > FRESH and exchanges < EXCHANGES
            if late:
                quota.give_back(connection, bucket, taken)
        if late:
            exchanges += 1
            continue
        if taken.granted:
            _unsent.taken[bucket] = taken
            return GRANTED
        refused = _refused(allowance, taken)
        patience = deadline - time.monotonic()
        if taken.verdict is Verdict.BLOCKED:
            patience = min(patience, LONGEST_PENALTY.total_seconds())
        if refused.outcome is Outcome.QUOTA_EXHAUSTED or taken.wait > patience:
            return refused
        stop.wait(taken.wait + _courtesy(purpose))
    return Permit(False, None, f"not asked: the run that wanted {provider} stops")


def returned(platform: Platform, provider: str) -> None:
    """The call that this thread last had leave for was certainly never sent."""
    bucket = bucket_of(platform, provider)
    taken = _unsent.taken.pop(bucket, None)
    if taken is not None:
        with platform.database.statements() as connection:
            quota.give_back(connection, bucket, taken)


def told(platform: Platform, provider: str, outcome: Outcome, retry_after: float | None) -> None:
    """What an answer says about the limits, for everybody who shares the key."""
    bucket = bucket_of(platform, provider)
    _unsent.taken.pop(bucket, None)
    if outcome.transient and retry_after is not None and retry_after > 0:
        seconds: float | None = min(retry_after, MOST_PENALTY.total_seconds())
        because = f"{provider} asked to be left alone for {retry_after:g} s"
    elif outcome is Outcome.QUOTA_EXHAUSTED and not platform.simulated:
        # The simulator's day ends when its fault is switched off.
        seconds, because = None, f"{provider} said that the quota of the day is used up"
    else:
        return
    with platform.database.statements() as connection:
        quota.block(connection, bucket, outcome, because, seconds)


def resume(platform: Platform, provider: str) -> bool:
    """Forgets that the provider wanted to be left alone; whether it did."""
    with platform.database.statements() as connection:
        return quota.unblock(connection, bucket_of(platform, provider))


def _courtesy(purpose: Purpose) -> float:
    """Quotes go first when a window opens, and not everybody else comes at the same instant."""
    return 0.001 if purpose is Purpose.QUOTE else random.uniform(0.005, 0.05)


def _refused(allowance: Allowance, taken: Taken) -> Permit:
    retry_at = taken.retry_at
    when = "later" if retry_at is None else f"{retry_at:%Y-%m-%d %H:%M:%S} UTC"
    match taken.verdict:
        case Verdict.DAY:
            outcome = Outcome.QUOTA_EXHAUSTED
            reason = f"all {allowance.per_day} calls of the day are used; the next day begins at {when}"
        case Verdict.RESERVE:
            outcome = Outcome.QUOTA_EXHAUSTED
            reason = (
                f"{taken.day_calls} of {allowance.per_day} calls of the day are used and the last {allowance.reserve} "
                f"are kept for quotes (QUOTE_RESERVE); the next day begins at {when}"
            )
        case Verdict.BLOCKED:
            outcome = taken.blocked_as or Outcome.THROTTLED
            reason = f"{taken.because or 'it is to be left alone'}; asked again from {when}"
        case _:
            outcome = Outcome.THROTTLED
            limit = allowance.per_second if taken.verdict is Verdict.SECOND else allowance.per_minute
            reason = f"{limit} calls a {taken.verdict.value} are under way; the next may go at {when}"
    return Permit(False, outcome, f"not asked: {reason}", retry_at)
