"""The circuit breakers of the providers, one row each that all processes share.

When to open one and what counts as a failure is decided above; here is only what must not happen twice at once:
counting, opening, and handing the one trial of a half-open breaker to one caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import redact
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Whether one may ask the provider now."""

    allowed: bool
    probed: bool
    """It is half-open: this caller tries it, or somebody else does just now."""
    retry_at: datetime | None
    outcome: Outcome | None
    """Of the failure that opened it, where it is not allowed."""
    reason: str | None

    def __post_init__(self) -> None:
        if self.outcome is not None:
            object.__setattr__(self, "outcome", Outcome(self.outcome))


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One provider's row, by the database's clock."""

    provider: str
    failures: int
    opened_at: datetime | None
    next_try: datetime | None
    due: bool
    """Open, and the time to try it has come."""
    probing: bool
    """Somebody tries it now."""
    outcome: Outcome | None
    reason: str
    since: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", Outcome(self.outcome) if self.outcome else None)


@dataclass(frozen=True, slots=True)
class Opening:
    """When a breaker opens and for how long, in seconds. Each opening in a row doubles the pause."""

    after: int
    """Failures in a row."""
    first_pause: float
    longest_pause: float
    stretch: float
    """The jitter: what the pause is multiplied by."""


def breaker_asks(
    connection: Transaction, provider: str, holder: str, lease: float, at: datetime | None = None
) -> Leave:
    """May `holder` ask? Of a half-open breaker the first one may, for `lease` seconds, again and again."""
    with connection.cursor(row_factory=class_row(Leave)) as cursor:
        leave = cursor.execute(
            "SELECT allowed, probed, retry_at, outcome, reason FROM market.breaker_asks(%s, %s, %s, %s)",
            (provider, holder, lease, at),
        ).fetchone()
    if leave is None:
        raise LookupError("the statement gave no row")
    return leave


def breaker_fails(
    connection: Transaction,
    provider: str,
    holder: str,
    outcome: Outcome,
    reason: str,
    opening: Opening,
    *,
    counts: bool = True,
    at: datetime | None = None,
) -> None:
    """One more failure. One that does not count matters only to the trial of a half-open breaker."""
    connection.execute(
        "SELECT market.breaker_fails(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            provider,
            holder,
            str(outcome),
            redact(reason).replace("\x00", ""),
            counts,
            opening.after,
            opening.first_pause,
            opening.longest_pause,
            opening.stretch,
            at,
        ),
    )


def breaker_closes(connection: Transaction, provider: str) -> bool:
    """The provider answered; whether that was news. Nothing is written where nothing was wrong."""
    done = connection.execute(
        """
        UPDATE market.provider_health
        SET since = CASE WHEN opened_at IS NULL THEN since ELSE clock_timestamp() END,
            failures = 0, openings = 0, opened_at = NULL, next_try = NULL, probe_by = NULL, probe_until = NULL,
            outcome = '', reason = ''
        WHERE provider = %s AND (failures > 0 OR opened_at IS NOT NULL)
        """,
        (provider,),
    )
    return done.rowcount > 0


def breaker_lets_go(connection: Transaction, provider: str, holder: str) -> None:
    """The holder will not try after all."""
    connection.execute(
        "UPDATE market.provider_health SET probe_by = NULL, probe_until = NULL WHERE provider = %s AND probe_by = %s",
        (provider, holder),
    )


def health(connection: Transaction) -> list[Health]:
    """Every provider that ever failed."""
    with connection.cursor(row_factory=class_row(Health)) as cursor:
        return cursor.execute(
            """
            SELECT provider, failures, opened_at, next_try, coalesce(next_try <= clock_timestamp(), false) AS due,
                   coalesce(probe_until > clock_timestamp(), false) AS probing, outcome, reason, since
            FROM market.provider_health
            ORDER BY provider
            """
        ).fetchall()
