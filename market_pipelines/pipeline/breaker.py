"""Leaving a provider alone that is not there: a circuit breaker each, shared by all processes.

It opens after failures in a row, lets one caller try after a pause that doubles each time, and closes when the
provider answers. That one symbol is unknown or has no rows is an answer. Limits are the limiter's business.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.limiter import GRANTED, Permit
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.health import (
    Health,
    Opening,
    breaker_asks,
    breaker_closes,
    breaker_fails,
    breaker_lets_go,
    health,
)

OPENS_AFTER = 5
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 15 * 60.0
"""Seconds."""
FIRST_REFUSAL, LONGEST_REFUSAL = 30 * 60.0, 12 * 3600.0
"""After what no waiting mends: a page for browsers, a service that is no more."""
LEASE = 90.0
"""Seconds within which the one who tries has to come back; longer than any one call takes."""

_FAILED = {Outcome.UNAVAILABLE, Outcome.THROTTLED, Outcome.CHALLENGE, Outcome.RETIRED}
_FOR_LONG = {Outcome.CHALLENGE, Outcome.RETIRED}
_SAYS_NOTHING = {Outcome.MALFORMED}
"""Somebody answers, but not as the provider does: neither a failure nor a recovery."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerState:
    provider: str
    state: State
    failures: int = 0
    """In a row."""
    since: datetime | None = None
    """When it last opened or closed."""
    next_try: datetime | None = None
    probing: bool = False
    """Somebody tries it at this moment."""
    outcome: Outcome | None = None
    reason: str = ""
    """Of the last failure."""


def allowed(platform: Platform, provider: str) -> Permit:
    """Whether the provider may be asked at all. Of a half-open breaker one caller at a time may."""
    with platform.database.statements() as connection:
        leave = breaker_asks(connection, stored(platform, provider), _holder(), LEASE)
    if leave.allowed:
        return GRANTED
    when = "soon" if leave.retry_at is None else f"from {leave.retry_at:%Y-%m-%d %H:%M:%S} UTC on"
    what = "is being tried by somebody else" if leave.probed else "failed too often in a row"
    last = leave.reason or (leave.outcome.value if leave.outcome is not None else "unknown")
    reason = f"not asked: {provider} {what} (last: {last}); tried again {when}"
    return Permit(False, Outcome.UNAVAILABLE, reason, leave.retry_at)


def learn(platform: Platform, provider: str, outcome: Outcome, reason: str) -> None:
    """How a call ended, after whatever was tried again."""
    name = stored(platform, provider)
    with platform.database.statements() as connection:
        if outcome in _FAILED or outcome in _SAYS_NOTHING:
            breaker_fails(
                connection, name, _holder(), outcome, reason, _opening(outcome), counts=outcome not in _SAYS_NOTHING
            )
        else:
            breaker_closes(connection, name)


def let_go(platform: Platform, provider: str) -> None:
    """The caller had leave and will not ask after all: the next one may try."""
    with platform.database.statements() as connection:
        breaker_lets_go(connection, stored(platform, provider), _holder())


def resume(platform: Platform, provider: str) -> bool:
    """Closes it by hand; whether it was not closed, or about to open."""
    with platform.database.statements() as connection:
        return breaker_closes(connection, stored(platform, provider))


def breaker_states(platform: Platform) -> Mapping[str, BreakerState]:
    """Of every provider, by its plain name."""
    with platform.database.statements() as connection:
        found = {row.provider: row for row in health(connection)}
    return {name: _state(name, found.get(stored(platform, name))) for name in platform.providers}


def stored(platform: Platform, provider: str) -> str:
    """The name under which it is kept: what is simulated says nothing about what is real."""
    return f"{SIMULATED_PREFIX}{provider}" if platform.simulated else provider


def _state(provider: str, row: Health | None) -> BreakerState:
    if row is None:
        return BreakerState(provider, State.CLOSED)
    state = State.CLOSED if row.opened_at is None else State.HALF_OPEN if row.due else State.OPEN
    return BreakerState(provider, state, row.failures, row.since, row.next_try, row.probing, row.outcome, row.reason)


def _opening(outcome: Outcome) -> Opening:
    first, longest = (FIRST_REFUSAL, LONGEST_REFUSAL) if outcome in _FOR_LONG else (FIRST_PAUSE, LONGEST_PAUSE)
    return Opening(OPENS_AFTER, first, longest, random.uniform(1.0, 1.25))


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
