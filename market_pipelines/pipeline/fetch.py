"""One question to one provider: ask, keep the answer, say how it ended.

Every answer's bytes go to the archive and every attempt to the ledger before anything is made of them. What may
pass by itself is asked again with back-off; a provider that keeps failing is left alone for the rest of a run.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import stamina

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Answer, Call, DailyProvider, DailyQuery, Parsed
from market_pipelines.providers.registry import limits
from market_pipelines.redaction import redact, redact_bytes
from market_pipelines.store.ledger import FetchRecord, record_fetch, requests_since

ATTEMPTS = 3
PATIENCE = timedelta(seconds=45)
LONGEST_WAIT = timedelta(seconds=20)
"""A provider that asks for more than this is asked again in a later run."""
FAILURES_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one symbol fared with one provider."""

    symbol: str
    provider: str
    """As stored: `simulated-yahoo` where the simulator answered."""
    house_provider: str
    outcome: Outcome
    reason: str
    requests: int
    basis: Basis
    parsed: Parsed | None = None
    fetched_at: datetime | None = None


@dataclass
class ProviderRun:
    """What a run has learned about one provider; shared by the threads that ask it."""

    provider: DailyProvider
    given_up: Attempt | None = None
    simulated: bool = False
    """The simulator answers in the provider's place: it has no limits to spare."""
    _failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def learn(self, attempt: Attempt) -> None:
        with self._lock:
            self._failures = self._failures + 1 if attempt.outcome.transient else 0
            if attempt.outcome.provider_wide or self._failures >= FAILURES_IN_A_ROW:
                self.given_up = self.given_up or attempt
                self.stop.set()


class _AskAgain(Exception):
    def __init__(self, parsed: Parsed) -> None:
        super().__init__(parsed.outcome.value)
        self.parsed = parsed


def ask(platform: Platform, run: ProviderRun, query: DailyQuery, run_id: str) -> Attempt:
    """Daily bars of one instrument from one provider, with as many requests as it takes (three at most)."""
    provider, symbol = run.provider, query.instrument.symbol

    def ended(outcome: Outcome, reason: str, requests: int = 0) -> Attempt:
        return Attempt(symbol, provider.name, provider.name, outcome, reason, requests, provider.basis)

    unready = provider.ready()
    if unready:
        return ended(Outcome.NOT_ENTITLED, unready)
    if run.given_up is not None:
        return ended(run.given_up.outcome, f"not asked: {provider.name} failed before ({run.given_up.reason})")
    sent = widened(provider, query)
    call = provider.daily_call(sent)
    requests = 0
    last: tuple[Answer, Parsed] | None = None
    try:
        for trial in stamina.retry_context(
            on=_how_long, attempts=ATTEMPTS, timeout=PATIENCE, wait_initial=0.4, wait_max=5.0, wait_jitter=0.4
        ):
            with trial:
                if run.stop.is_set() or not (run.simulated or platform.pace(provider.name).wait(run.stop)):
                    break
                if not run.simulated and spent(platform, provider.name):
                    return ended(Outcome.QUOTA_EXHAUSTED, "today's quota is used up", requests)
                requests += 1
                last = _ask_once(platform, provider, call, sent, query, run_id)
                run.simulated = last[0].simulated
                if last[1].outcome.transient:
                    raise _AskAgain(last[1])
    except _AskAgain:
        pass
    if last is None:
        given_up = run.given_up
        outcome = given_up.outcome if given_up is not None else Outcome.UNAVAILABLE
        return ended(outcome, f"not asked: {provider.name} failed before", requests)
    answer, parsed = last
    attempt = Attempt(
        symbol=symbol,
        provider=stored_name(provider.name, answer),
        house_provider=provider.name,
        outcome=parsed.outcome,
        reason=redact(parsed.reason),
        requests=requests,
        basis=provider.basis,
        parsed=parsed,
        fetched_at=answer.received_at,
    )
    run.learn(attempt)
    return attempt


def widened(provider: DailyProvider, query: DailyQuery) -> DailyQuery:
    """The question as it is put: adjusted prices can only be turned back with every later bar at hand."""
    return query if provider.basis is Basis.TRADED else replace(query, end=query.today)


def stored_name(provider: str, answer: Answer) -> str:
    return f"{SIMULATED_PREFIX}{provider}" if answer.simulated else provider


def spent(platform: Platform, provider: str) -> bool:
    """Whether the operator's key has no calls left today."""
    quota = limits(provider, platform.settings)
    if quota.per_day == 0:
        return False
    with platform.database.connection() as connection:
        used = requests_since(connection, provider, day_start(platform.clock(), quota.reset_zone))
    return used >= quota.per_day


def day_start(now: datetime, zone: str) -> datetime:
    """Midnight in the zone in which the provider counts its days."""
    local = now.astimezone(ZoneInfo(zone))
    return local.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


def _ask_once(
    platform: Platform, provider: DailyProvider, call: Call, sent: DailyQuery, query: DailyQuery, run_id: str
) -> tuple[Answer, Parsed]:
    answer = platform.http.get(call)
    parsed = provider.parse_daily(answer, sent)
    kept = platform.archive.put(redact_bytes(answer.body)) if answer.body else None
    record = FetchRecord(
        provider=stored_name(provider.name, answer),
        endpoint=call.endpoint,
        outcome=parsed.outcome,
        fetched_at=answer.received_at,
        market=query.instrument.market,
        symbol=query.instrument.symbol,
        start=query.start,
        end=query.end,
        http_status=answer.status,
        rows=0 if parsed.bars is None else len(parsed.bars),
        bytes=len(answer.body),
        sha256=kept.sha256 if kept is not None else None,
        archive_path=kept.path if kept is not None else None,
        duration=answer.seconds,
        url=call.url,
        params=call.params,
        headers=answer.headers,
        reason=answer.failure or parsed.reason,
        run_id=run_id,
    )
    with platform.database.connection() as connection:
        record_fetch(connection, record)
    return answer, parsed


def _how_long(error: Exception) -> bool | float:
    """Back-off hook: the provider's own wish where it named one that is worth waiting for."""
    if not isinstance(error, _AskAgain):
        return False
    wish = error.parsed.retry_after
    if wish is None:
        return True
    return wish if wish <= LONGEST_WAIT.total_seconds() else False
