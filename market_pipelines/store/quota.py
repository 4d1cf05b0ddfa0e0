"""What has been spent of a provider's limits, in one row a key that all processes share.

Spending a call is one statement, judged by the database's clock under the lock of that row: see the functions in
`migrations/sql/v0003_limits.sql`. What the limits are, how long to wait and what to tell a person belongs above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from psycopg.rows import class_row

from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import redact
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a provider counts by."""

    provider: str
    key: str
    """The fingerprint of the key, never the key; empty where none is sent."""
    zone: str
    """The day begins at its midnight."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many calls; None where there is no limit."""

    per_second: int | None = None
    per_minute: int | None = None
    per_day: int | None = None
    reserve: int = 0
    """Of the day, for quotes."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How the limits are measured."""

    second: float = 1.0
    minute: float = 60.0
    slack: float = 0.25
    """Seconds by which a window is longer than the provider's: one call may be faster on its way than the next."""
    guard: timedelta = timedelta(seconds=5)
    """A call this close to midnight counts in both days: nobody knows the provider's clock to the second."""


WINDOWS = Windows()


class Verdict(StrEnum):
    GRANTED = "granted"
    SECOND = "second"
    MINUTE = "minute"
    DAY = "day"
    RESERVE = "reserve"
    """The rest of the day is kept for quotes."""
    BLOCKED = "blocked"
    """The provider itself said for how long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A call that was spent, or why it was not."""

    verdict: Verdict
    taken_at: datetime
    """By the database's clock, as all instants here."""
    retry_at: datetime | None
    blocked_as: Outcome | None
    because: str | None
    day_calls: int
    """Of the day, before this one where it was refused."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", Verdict(self.verdict))
        if self.blocked_as is not None:
            object.__setattr__(self, "blocked_as", Outcome(self.blocked_as))

    @property
    def granted(self) -> bool:
        return self.verdict is Verdict.GRANTED

    @property
    def wait(self) -> float:
        """Seconds until it is worth asking again."""
        return 0.0 if self.retry_at is None else max(0.0, (self.retry_at - self.taken_at).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowUse:
    """One window of one bucket, as the database knows it."""

    provider: str
    key: str
    window: str
    """second and minute, both rolling, or day."""
    limit: int | None
    """As it was when last a call was made."""
    used: int
    resets_at: datetime | None
    """When the oldest call of a rolling window stops counting; when the day ends."""
    reserve: int
    blocked_until: datetime | None
    blocked_as: Outcome | None
    blocked_because: str | None

    def __post_init__(self) -> None:
        if self.blocked_as is not None:
            object.__setattr__(self, "blocked_as", Outcome(self.blocked_as))


def take(
    connection: Transaction,
    bucket: Bucket,
    allowance: Allowance,
    *,
    quotes: bool = False,
    windows: Windows = WINDOWS,
    at: datetime | None = None,
) -> Taken:
    """Spends one call, or says why not. `at` is for tests: the database's clock counts."""
    with connection.cursor(row_factory=class_row(Taken)) as cursor:
        taken = cursor.execute(
            """
            SELECT verdict, taken_at, retry_at, blocked_as, because, day_calls
            FROM market.take_call(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                bucket.provider,
                bucket.key,
                allowance.per_second,
                allowance.per_minute,
                allowance.per_day,
                allowance.reserve,
                quotes,
                bucket.zone,
                windows.second,
                windows.minute,
                windows.slack,
                windows.guard,
                at,
            ),
        ).fetchone()
    if taken is None:
        raise LookupError("the statement gave no row")
    return taken


def give_back(connection: Transaction, bucket: Bucket, taken: Taken, windows: Windows = WINDOWS) -> None:
    """Undoes a granted call that certainly was not sent. To be called once: twice is one call too many."""
    connection.execute(
        "SELECT market.return_call(%s, %s, %s, %s, %s, %s)",
        (bucket.provider, bucket.key, taken.taken_at, windows.second, windows.minute, windows.guard),
    )


def block(
    connection: Transaction,
    bucket: Bucket,
    outcome: Outcome,
    because: str,
    seconds: float | None,
    at: datetime | None = None,
) -> datetime:
    """Keeps everybody from calling for so long; without seconds until the provider's day has ended."""
    row = connection.execute(
        "SELECT market.block_calls(%s, %s, %s, %s, %s, %s, %s)",
        (bucket.provider, bucket.key, bucket.zone, str(outcome), redact(because).replace("\x00", ""), seconds, at),
    ).fetchone()
    if row is None:
        raise LookupError("the statement gave no row")
    until: datetime = row[0]
    return until


def unblock(connection: Transaction, bucket: Bucket) -> bool:
    """Forgets what the provider said; whether there was something to forget."""
    done = connection.execute(
        """
        UPDATE market.provider_calls
        SET blocked_until = NULL, blocked_as = NULL, blocked_because = NULL
        WHERE provider = %s AND key = %s AND blocked_until IS NOT NULL
        """,
        (bucket.provider, bucket.key),
    )
    return done.rowcount > 0


def quota_use(connection: Transaction, buckets: Sequence[Bucket] | None = None) -> list[WindowUse]:
    """The windows of these buckets, or of all that were ever used."""
    with connection.cursor(row_factory=class_row(WindowUse)) as cursor:
        return cursor.execute(
            """
            SELECT provider, key, "window", "limit", used, resets_at, reserve, blocked_until, blocked_as,
                   blocked_because
            FROM market.provider_quota
            WHERE %(all)s OR (provider, key) IN (SELECT * FROM unnest(%(providers)s::text[], %(keys)s::text[]))
            ORDER BY provider, key, "window" DESC
            """,
            {
                "all": buckets is None,
                "providers": [bucket.provider for bucket in buckets or ()],
                "keys": [bucket.key for bucket in buckets or ()],
            },
        ).fetchall()


def day_end(connection: Transaction, zone: str, at: datetime | None = None) -> datetime:
    """The next midnight of the zone; the day of a change of clocks is not 24 hours."""
    row = connection.execute("SELECT market.day_ends(%s, coalesce(%s, clock_timestamp()))", (zone, at)).fetchone()
    if row is None:
        raise LookupError("the statement gave no row")
    end: datetime = row[0]
    return end
