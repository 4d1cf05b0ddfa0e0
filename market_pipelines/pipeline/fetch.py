"""One question to one provider: ask, keep the answers, say how it ended.

Every answer's bytes go to the archive and every request to the ledger before anything is made of them. An answer
may lead to a further call (a next page); their rows add up. What may pass by itself is asked again with back-off;
a provider that keeps failing is left alone for the rest of a run, and by every process while its breaker is open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd
import stamina

from market_pipelines.market.actions import Basis
from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline import breaker, limiter
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import (
    Ability,
    Answer,
    Call,
    Capability,
    DailyProvider,
    DailyQuery,
    Parsed,
    abilities_of,
)
from market_pipelines.redaction import redact, redact_bytes
from market_pipelines.store.ledger import FetchRecord, record_fetch

ATTEMPTS = 3
PATIENCE = timedelta(seconds=45)
LONGEST_WAIT = timedelta(seconds=20)
"""A provider that asks for more than this is asked again in a later run."""
FAILURES_IN_A_ROW = 3
MOST_CALLS = 2_000
"""In one conversation: a provider that never stops naming a next page must not hold a run for ever."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one question fared with one provider."""

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
    _failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def learn(self, attempt: Attempt) -> None:
        with self._lock:
            self._failures = self._failures + 1 if attempt.outcome.transient else 0
            if attempt.outcome.provider_wide or self._failures >= FAILURES_IN_A_ROW:
                self.given_up = self.given_up or attempt
                self.stop.set()


@dataclass(frozen=True, slots=True)
class Subject:
    """What a conversation is about, for the ledger."""

    market: str
    symbol: str = ""
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """How the providers of a chain fared with one question."""

    attempts: tuple[Attempt, ...]
    delivered: Attempt | None

    @property
    def outcome(self) -> Outcome:
        if self.delivered is not None:
            return self.delivered.outcome
        return self.attempts[0].outcome if self.attempts else Outcome.NOT_ENTITLED

    @property
    def reason(self) -> str:
        if not self.attempts:
            return "no provider of this market offers it"
        return "; ".join(f"{one.house_provider}: {one.reason or one.outcome.value}" for one in self.attempts)


class _AskAgain(Exception):
    def __init__(self, parsed: Parsed) -> None:
        super().__init__(parsed.outcome.value)
        self.parsed = parsed


def ask(
    platform: Platform, run: ProviderRun, query: DailyQuery, run_id: str, purpose: Purpose = Purpose.REFRESH
) -> Attempt:
    """Daily bars of one instrument from one provider."""
    return converse(
        platform,
        run,
        Capability.DAILY,
        widened(run.provider, query),
        purpose=purpose,
        run_id=run_id,
        market=query.instrument.market,
        symbol=query.instrument.symbol,
        start=query.start,
        end=query.end,
    )


def converse(
    platform: Platform,
    run: ProviderRun,
    capability: Capability,
    question: Any,
    *,
    purpose: Purpose,
    run_id: str,
    market: str,
    symbol: str = "",
    start: date | None = None,
    end: date | None = None,
    heard: Callable[[Answer, Parsed], None] | None = None,
) -> Attempt:
    """Everything that one provider has to say to one question, with as many requests as it takes. `heard` is given
    each page as it came, with what was read in it."""
    provider = run.provider
    ability = abilities_of(provider).get(capability)
    basis = (ability.basis if ability is not None else None) or provider.basis

    def ended(outcome: Outcome, reason: str, requests: int = 0) -> Attempt:
        return Attempt(symbol, provider.name, provider.name, outcome, reason, requests, basis)

    if ability is None:
        return ended(Outcome.NOT_ENTITLED, f"{provider.name} offers no {capability.value}")
    unready = "" if platform.simulated else provider.ready()
    if unready:
        return ended(Outcome.RETIRED if getattr(provider, "retired", False) else Outcome.NOT_ENTITLED, unready)
    if run.given_up is not None:
        return ended(run.given_up.outcome, f"not asked: {provider.name} failed before ({run.given_up.reason})")
    conversation = _Conversation(
        platform, run, capability, ability, question, purpose, run_id, Subject(market, symbol, start, end), heard
    )
    conversation.hold()
    if not conversation.pages:
        refused = conversation.refused
        if refused is not None:
            return ended(*refused, conversation.requests)
        given_up = run.given_up
        outcome = given_up.outcome if given_up is not None else Outcome.UNAVAILABLE
        return ended(outcome, f"not asked: {provider.name} failed before", conversation.requests)
    attempt = conversation.attempt(basis)
    run.learn(attempt)
    return attempt


def first_delivered(
    platform: Platform,
    market: MarketDefinition,
    capability: Capability,
    question_for: Callable[[DailyProvider], object | None],
    *,
    purpose: Purpose,
    run_id: str,
    symbol: str = "",
    providers: Sequence[DailyProvider] | None = None,
) -> Delivered:
    """Walks the market's chain until one provider delivers. `question_for` gives None for a provider to skip."""
    attempts: list[Attempt] = []
    for provider in providers if providers is not None else platform.chain(market):
        if capability not in abilities_of(provider):
            continue
        question = question_for(provider)
        if question is None:
            continue
        attempts.append(
            converse(
                platform,
                ProviderRun(provider),
                capability,
                question,
                purpose=purpose,
                run_id=run_id,
                market=market.name,
                symbol=symbol,
            )
        )
        if attempts[-1].outcome.delivered:
            return Delivered(tuple(attempts), attempts[-1])
    return Delivered(tuple(attempts), None)


@dataclass
class _Conversation:
    platform: Platform
    run: ProviderRun
    capability: Capability
    ability: Ability
    question: Any
    purpose: Purpose
    run_id: str
    subject: Subject
    heard: Callable[[Answer, Parsed], None] | None = None
    pages: list[tuple[Answer, Parsed]] = field(default_factory=list)
    requests: int = 0
    refused: tuple[Outcome, str] | None = None
    """By our own limits or breaker, before a request went out."""

    def hold(self) -> None:
        call: Call | None = self.ability.call(self.question)
        for _ in range(MOST_CALLS):
            if call is None:
                return
            page = self._one_call(call)
            if page is None:
                return
            self.pages.append(page)
            if self.heard is not None:
                self.heard(*page)
            call = page[1].more
        answer, parsed = self.pages[-1]
        endless = f"stopped after {MOST_CALLS:,} calls: {self.run.provider.name} always names a next page"
        self.pages[-1] = answer, replace(parsed, outcome=Outcome.MALFORMED, reason=endless)

    def attempt(self, basis: Basis) -> Attempt:
        answer = self.pages[-1][0]
        parsed = merged([page for _, page in self.pages])
        if self.refused is not None:
            outcome, reason = self.refused
            parsed = replace(parsed, outcome=outcome, reason=f"{reason}, after {len(self.pages)} pages")
        return Attempt(
            symbol=self.subject.symbol,
            provider=stored_name(self.run.provider.name, answer),
            house_provider=self.run.provider.name,
            outcome=parsed.outcome,
            reason=redact(parsed.reason),
            requests=self.requests,
            basis=parsed.basis or basis,
            parsed=parsed,
            fetched_at=answer.received_at,
        )

    def _one_call(self, call: Call) -> tuple[Answer, Parsed] | None:
        """One step, asked again while that can help; None where it was never asked."""
        last: tuple[Answer, Parsed] | None = None
        name = self.run.provider.name
        # Waiting for one's turn is not part of the patience with the provider.
        if self.run.stop.is_set() or not self._permitted(name):
            return None
        permitted = True
        try:
            for trial in stamina.retry_context(
                on=_how_long, attempts=ATTEMPTS, timeout=PATIENCE, wait_initial=0.4, wait_max=5.0, wait_jitter=0.4
            ):
                with trial:
                    if self.run.stop.is_set() or not (permitted or self._permitted(name)):
                        break
                    permitted = False
                    self.requests += 1
                    last = self._ask_once(call)
                    parsed = last[1]
                    limiter.told(self.platform, name, parsed.outcome, parsed.retry_after)
                    if parsed.outcome.transient:
                        raise _AskAgain(parsed)
        except _AskAgain:
            pass
        if last is not None:
            breaker.learn(self.platform, name, last[1].outcome, last[1].reason)
        return last

    def _permitted(self, name: str) -> bool:
        leave = breaker.allowed(self.platform, name)
        if leave.granted:
            leave = limiter.permit(self.platform, name, self.purpose, self.run.stop)
            if not leave.granted:
                breaker.let_go(self.platform, name)
        self.refused = None if leave.granted else (leave.outcome or Outcome.UNAVAILABLE, leave.reason)
        return leave.granted

    def _ask_once(self, call: Call) -> tuple[Answer, Parsed]:
        answer = self.platform.http.get(call)
        if not answer.sent:
            limiter.returned(self.platform, self.run.provider.name)
        parsed = self.ability.read(answer, self.question)
        kept = self.platform.archive.put(redact_bytes(answer.body)) if answer.body else None
        record = FetchRecord(
            provider=stored_name(self.run.provider.name, answer),
            endpoint=call.endpoint,
            capability=self.capability.value,
            outcome=parsed.outcome,
            fetched_at=answer.received_at,
            market=self.subject.market,
            symbol=self.subject.symbol,
            start=self.subject.start,
            end=self.subject.end,
            http_status=answer.status,
            rows=parsed.rows,
            bytes=len(answer.body),
            sha256=kept.sha256 if kept is not None else None,
            archive_path=kept.path if kept is not None else None,
            duration=answer.seconds,
            url=call.url,
            params=call.params,
            headers=answer.headers,
            reason=answer.failure or parsed.reason,
            run_id=self.run_id,
        )
        with self.platform.database.connection() as connection:
            record_fetch(connection, record)
        return answer, parsed


def merged(pages: Sequence[Parsed]) -> Parsed:
    """What the pages of one conversation say together. A page that failed is how all of it ended; what the ones
    before it brought is kept."""
    last = pages[-1]
    if len(pages) == 1:
        return last
    frames = [page.bars for page in pages if page.bars is not None and len(page.bars)]
    rows = sum(page.rows for page in pages)
    delivered = last.outcome.delivered or last.outcome is Outcome.EMPTY_UNEXPECTED
    return Parsed(
        outcome=Outcome.OK if delivered and rows else last.outcome,
        reason=last.reason if last.reason or not delivered else "; ".join(page.reason for page in pages if page.reason),
        bars=pd.concat(frames, ignore_index=True).drop_duplicates(ignore_index=True) if frames else last.bars,
        records=tuple(record for page in pages for record in page.records),
        actions=tuple(dict.fromkeys(action for page in pages for action in page.actions)),
        actions_known=last.actions_known and last.outcome.delivered,
        retry_after=last.retry_after,
        basis=next((page.basis for page in pages if page.basis is not None), None),
    )


def widened(provider: DailyProvider, query: DailyQuery) -> DailyQuery:
    """The question as it is put: adjusted prices can only be turned back with every later bar at hand."""
    return query if provider.basis is Basis.TRADED else replace(query, end=query.today)


def stored_name(provider: str, answer: Answer) -> str:
    return f"{SIMULATED_PREFIX}{provider}" if answer.simulated else provider


def _how_long(error: Exception) -> bool | float:
    """Back-off hook: the provider's own wish where it named one that is worth waiting for."""
    if not isinstance(error, _AskAgain):
        return False
    wish = error.parsed.retry_after
    if wish is None:
        return True
    return wish if wish <= LONGEST_WAIT.total_seconds() else False
