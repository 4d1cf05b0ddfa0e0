"""A feed that asks instead of listening: quotes of any provider, every so many seconds, through the house's own fetch.

Limits, breaker, archive and ledger are those of every other question; the answers go on as they came. A provider
that refuses (a page that checks for a browser, a used-up limit) is told of and asked more seldom, never outwitted.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.pipeline.fetch import ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.providers.protocol import Answer, Capability, DailyProvider, Parsed, QuoteQuery, abilities_of
from market_pipelines.redaction import redact, redact_bytes
from market_pipelines.store.archive import ArchiveError
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.streaming.entries import Format, GapCause, SavedAnswer, packed
from market_pipelines.streaming.feeds.protocol import ConnectionState, FeedFailed, Intake, Listener
from market_pipelines.streaming.opening import OpeningHours
from market_pipelines.streaming.plan import ALL, StreamPlan
from market_pipelines.streaming.symbols import instruments_for

BATCH = 50
"""Instruments of one batch where the provider takes single ones only."""
SLOWEST = 900.0
"""Seconds between two rounds at most, however often the provider has refused."""
JITTER = 0.1
"""Of a slowed-down pause, either way."""
SHORTEST = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Batch:
    """What is asked together: it fails and recovers together, under one name."""

    origin: str
    instruments: tuple[Instrument, ...]
    began_ns: int = field(default_factory=time.time_ns)
    last_data_ns: int = 0
    answers: int = 0
    failures: int = 0
    """In a row."""
    recoveries: int = 0
    due: float = 0.0
    reason: str = ""
    lost: bool = False


class PolledFeed:
    def __init__(
        self,
        platform: Platform,
        market: MarketDefinition,
        plan: StreamPlan,
        providers: Sequence[DailyProvider],
        opening: OpeningHours,
    ) -> None:
        self._platform = platform
        self._market = market
        self._plan = plan
        self._providers = tuple(providers)
        self._opening = opening
        self._size = _batch_size(self._providers[0])
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"feed {plan.name}", daemon=True)
        self._run: ProviderRun | None = None
        self._intake: Intake | None = None
        self._listener: Listener | None = None
        self._closed = ""
        self._failed = ""
        self._batches: list[_Batch] = []
        self._unserved: tuple[str, ...] = ()
        self._arrange(plan.symbols)

    # The feed, as the service sees it

    def start(self, intake: Intake, listener: Listener) -> None:
        self._intake, self._listener = intake, listener
        self._thread.start()

    def stop(self, seconds: float) -> None:
        self._stopping.set()
        self._wake.set()
        with self._lock:
            if self._run is not None:
                self._run.stop.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def follow(self, symbols: Sequence[str]) -> None:
        for origin in self._arrange(symbols):
            self._told.regained(origin, time.time_ns())
        self._tell_unserved()
        self._wake.set()

    def connections(self) -> Sequence[ConnectionState]:
        with self._lock:
            return [self._state(batch) for batch in self._batches]

    def subscribed(self, origin: str) -> tuple[str, ...] | None:
        with self._lock:
            for batch in self._batches:
                if batch.origin == origin:
                    return tuple(one.symbol for one in batch.instruments)
        return None

    # Who is asked together

    def _arrange(self, symbols: Sequence[str]) -> tuple[str, ...]:
        """Deals the symbols out; the origins that are gone although they owed data."""
        if ALL in symbols:
            raise FeedFailed(
                f"{self._plan.feed} asks for symbols one by one and cannot have {ALL!r}: name them, or all"
            )
        asked = instruments_for(self._market, dict.fromkeys(symbols))
        served = [one for one in asked if any(provider.covers(one) for provider in self._providers)]
        names = ", ".join(provider.name for provider in self._providers)
        if not served:
            raise FeedFailed(f"{names}: quotes none of the symbols ({', '.join(symbols[:8]) or 'none was named'})")
        parts = [tuple(served[first : first + self._size]) for first in range(0, len(served), self._size)]
        with self._lock:
            self._unserved = tuple(one.symbol for one in asked if one not in served)
            gone = [batch.origin for batch in self._batches[len(parts) :] if batch.lost]
            del self._batches[len(parts) :]
            for number, part in enumerate(parts):
                if number == len(self._batches):
                    self._batches.append(_Batch(f"{self._plan.feed}-{number + 1}", part))
                elif self._batches[number].instruments != part:
                    self._batches[number].instruments = part
                    self._batches[number].due = 0.0
        return tuple(gone)

    # The asking thread

    def _poll(self) -> None:
        orderly = False
        try:
            self._keep_asking()
            orderly = True
        finally:
            if not orderly:
                self._told.failed("the asking thread broke off; the log says where")

    def _keep_asking(self) -> None:
        self._tell_unserved()
        while not self._stopping.is_set():
            opening = self._opening.at(self._platform.clock())
            if opening.words != self._closed and not opening.is_open:
                self._told.status(self._origin, "closed", opening.words)
            self._closed = "" if opening.is_open else opening.words
            pause = SHORTEST
            if opening.is_open:
                for batch in self._due():
                    if self._stopping.is_set():
                        return
                    self._ask(batch)
                with self._lock:
                    pause = max(0.05, min((one.due for one in self._batches), default=0.0) - time.monotonic())
            self._wake.wait(min(pause, self._plan.every_seconds))
            self._wake.clear()

    def _due(self) -> list[_Batch]:
        now = time.monotonic()
        with self._lock:
            return [batch for batch in self._batches if batch.due <= now]

    def _ask(self, batch: _Batch) -> None:
        begun = time.monotonic()
        before = batch.answers
        try:
            trouble = self._round(batch)
        except (DatabaseUnavailable, psycopg.Error, ArchiveError) as error:
            trouble = str(error)
        if self._stopping.is_set():
            return
        came = batch.answers > before
        if trouble and not came:
            self._troubled(batch, redact(trouble))
        elif came:
            self._well(batch)
        self._say_once(batch, redact(trouble) if trouble or came else "nobody has a price of any of them")
        every = self._plan.every_seconds
        if batch.failures:
            every = min(max(SLOWEST, every), every * 2 ** min(batch.failures, 20)) * random.uniform(
                1 - JITTER, 1 + JITTER
            )
        # A round that takes longer than the time between two is followed by a breath all the same.
        batch.due = max(begun + every, time.monotonic() + min(SHORTEST, every))

    def _round(self, batch: _Batch) -> str:
        """Each provider is asked for what the ones before it lacked; why nobody delivered, if nobody did."""
        lacking = {one.symbol: one for one in batch.instruments}
        troubles: list[str] = []
        run_id = new_run_id()
        for provider in self._providers:
            abilities = abilities_of(provider)
            wanted = [one for one in lacking.values() if provider.covers(one)]
            bulk = abilities.get(Capability.BULK_QUOTES)
            capability = Capability.QUOTE if bulk is None else Capability.BULK_QUOTES
            if not wanted or capability not in abilities:
                continue
            most = 1 if bulk is None else bulk.most
            with self._lock:
                run = self._run = ProviderRun(provider)
            for first in range(0, len(wanted), most):
                if self._stopping.is_set():
                    return ""
                part = wanted[first : first + most]
                outcome, reason, found = self._one_question(batch, run, capability, part, run_id)
                for symbol in found:
                    lacking.pop(symbol, None)
                if not (outcome.delivered or outcome in _NOTHING_TO_SAY):
                    troubles.append(f"{provider.name}: {reason or outcome.value}")
                    if outcome.provider_wide or run.given_up is not None:
                        break
        return "; ".join(dict.fromkeys(troubles))

    def _one_question(
        self, batch: _Batch, run: ProviderRun, capability: Capability, part: Sequence[Instrument], run_id: str
    ) -> tuple[Outcome, str, list[str]]:
        provider = run.provider
        symbols = tuple(one.symbol for one in part)
        found: list[str] = []

        def heard(answer: Answer, parsed: Parsed) -> None:
            if self._stopping.is_set() or not parsed.records or self._intake is None:
                return
            found.extend(one.symbol for one in parsed.records if isinstance(one, Quote))
            received = (answer.received_at - _EPOCH) // timedelta(microseconds=1) * 1000
            saved = SavedAnswer(
                provider=provider.name,
                capability=capability.value,
                market=self._market.name,
                symbols=symbols,
                status=answer.status,
                headers=dict(answer.headers),
                received_ns=received,
                body=redact_bytes(answer.body),
                endpoint=answer.endpoint,
            )
            self._intake(Format.ANSWER, batch.origin, received, packed(saved))
            batch.answers += 1
            batch.last_data_ns = received

        attempt = converse(
            self._platform,
            run,
            capability,
            QuoteQuery(tuple(part)),
            purpose=Purpose.QUOTE,
            run_id=run_id,
            market=self._market.name,
            symbol=symbols[0] if len(symbols) == 1 else "",
            heard=heard,
        )
        return attempt.outcome, attempt.reason, found

    def _troubled(self, batch: _Batch, reason: str) -> None:
        batch.failures += 1
        with self._lock:
            # One that was given up meanwhile owes nobody anything, and nobody would ever say that it is back.
            news = not batch.lost and any(one is batch for one in self._batches)
            batch.lost = batch.lost or news
        if news:
            since = batch.last_data_ns or batch.began_ns
            self._told.lost(batch.origin, GapCause.DISCONNECTED, since, reason)
        if self._plan.attempts and batch.failures >= self._plan.attempts:
            self._failed = f"{batch.failures} rounds in a row brought no quote; the last one: {reason}"
            self._stopping.set()
            self._told.failed(f"{batch.origin}: {self._failed}")

    def _well(self, batch: _Batch) -> None:
        batch.failures = 0
        if batch.lost:
            batch.lost = False
            batch.recoveries += 1
            self._told.regained(batch.origin, batch.last_data_ns)

    def _say_once(self, batch: _Batch, trouble: str) -> None:
        """What went wrong, or a part of it, until it is something else."""
        if trouble and trouble != batch.reason:
            self._told.status(batch.origin, "refused", trouble)
        batch.reason = trouble

    def _state(self, batch: _Batch) -> ConnectionState:
        state = "live" if batch.answers else "connecting"
        if batch.failures:
            state = "waiting"
        if self._closed:
            state = "closed"
        if self._failed:
            state = "failed"
        return ConnectionState(
            origin=batch.origin,
            state=state,
            symbols=len(batch.instruments),
            frames=batch.answers,
            reconnects=batch.recoveries,
            attempts=batch.failures,
            last_data_ns=batch.last_data_ns,
            detail=self._failed or self._closed or batch.reason,
        )

    def _tell_unserved(self) -> None:
        if self._unserved:
            self._told.status(self._origin, "left_out", f"nobody quotes {', '.join(self._unserved[:20])}")

    @property
    def _origin(self) -> str:
        return f"{self._plan.feed}-1"

    @property
    def _told(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("the feed has not been started")
        return self._listener


_NOTHING_TO_SAY = (Outcome.UNKNOWN_SYMBOL, Outcome.EMPTY_UNEXPECTED)
"""The provider is there and has no price."""


def _batch_size(provider: DailyProvider) -> int:
    bulk = abilities_of(provider).get(Capability.BULK_QUOTES)
    return BATCH if bulk is None else min(bulk.most, BATCH)


def quoting(providers: Sequence[DailyProvider]) -> tuple[DailyProvider, ...]:
    """Those that quote at all."""
    kinds = (Capability.BULK_QUOTES, Capability.QUOTE)
    return tuple(one for one in providers if any(kind in abilities_of(one) for kind in kinds))
