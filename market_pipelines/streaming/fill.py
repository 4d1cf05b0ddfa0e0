"""History fills gaps: what a provider's REST answers say about a span goes through the journal like everything else.

A gap is asked for once it has ended, symbol by symbol and channel by channel, through the house's own limiter,
archive and ledger. A quarter of an hour after its end at the latest it is declared filled, partial or unfillable,
with the reason; what may still come is asked for later all the same. Filled is a gap that has all that history can
bring: of what nobody has a history of (price bands) its reason tells. Gaps of one sink alone are
not filled, unless that sink is the lake: the others have what it lacks, and are not given what history brings for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import psycopg
import structlog

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.providers.protocol import (
    Answer,
    Capability,
    DailyProvider,
    IntradayQuery,
    Parsed,
    TicksQuery,
    abilities_of,
)
from market_pipelines.redaction import redact, redact_bytes
from market_pipelines.store.archive import ArchiveError
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.stream_gaps import GapRow, GapStatus, gaps_due, settle
from market_pipelines.streaming.decode import since_epoch
from market_pipelines.streaming.entries import Format, SavedAnswer, packed
from market_pipelines.streaming.feeds.protocol import Intake
from market_pipelines.streaming.gap_questions import HISTORY, Asked, Question, neighbours, questions_about
from market_pipelines.streaming.journal import JournalClosed
from market_pipelines.streaming.plan import FeedName, StreamPlan

LAKE = "lake"
"""The one sink whose own gaps are filled."""
SETTLE_SECONDS = 5.0
"""History comes a little after the stream."""
DECLARED_WITHIN = timedelta(minutes=12)
"""After a gap's end; what is under way then has three minutes to end."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=15), timedelta(minutes=5)
LATER = timedelta(hours=1)
"""After which a gap that has been declared is asked for again, where that may help."""
GIVEN_UP_AFTER = timedelta(days=3)
MOST_QUESTIONS = 5_000
"""In one attempt; the rest waits for the next."""
MINUTE = "1min"
NOBODY_TRADED = "nobody traded in that time"
WORKERS = 2
_LOOK_SECONDS = 1.0
_DURABLE_SECONDS = 30.0

NO_HISTORY = {
    FeedName.STOOQ: "Stooq tells the state of now and has no history of it",
    FeedName.YAHOO: "Yahoo's streamer has no history of quotes",
    FeedName.POLL: "a polled quote is the state of now: nobody has its history",
}
POLLED = (FeedName.STOOQ, FeedName.POLL)
_log = structlog.stdlib.get_logger("market_pipelines.streaming")


@dataclass(frozen=True, slots=True)
class Settlement:
    status: GapStatus
    reason: str = ""
    rows: int = 0
    retry_at: datetime | None = None


@dataclass
class _Progress:
    """What is known of one gap from one attempt to the next."""

    done: set[Question] = field(default_factory=set)
    refused: dict[Question, str] = field(default_factory=dict)
    """Asking again is of no use."""
    rows: int = 0


class GapFiller:
    """Looks after the ended gaps of one stream in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        platform: Platform,
        market: MarketDefinition,
        plan: StreamPlan,
        *,
        intake: Intake,
        wait_durable: Callable[[float], bool],
        symbols: Callable[[], Sequence[str]],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._platform = platform
        self._market = market
        self._plan = plan
        self._intake = intake
        self._wait_durable = wait_durable
        self._symbols = symbols
        self._settle = timedelta(seconds=settle_seconds)
        self._stop = threading.Event()
        self._known: dict[str, _Progress] = {}
        self._not_entitled: dict[str, str] = {}
        """By channel, what the provider said: a plan does not change while the service runs."""
        self._thread = threading.Thread(target=self._run, name=f"fill {plan.name}", daemon=True)
        self.trouble = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """What is being asked ends with its present request."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(min(_LOOK_SECONDS, self._settle.total_seconds())):
            try:
                for gaps in neighbours(self._due()):
                    if self._stop.is_set():
                        return
                    self._fill_or_tell(gaps)
                self.trouble = ""
            except JournalClosed:
                if not self._stop.is_set():
                    raise
                return
            except (DatabaseUnavailable, psycopg.OperationalError, ArchiveError) as error:
                if not self.trouble:
                    _log.warning("gaps cannot be filled now", stream=self._plan.name, reason=str(error))
                self.trouble = str(error)

    def _due(self) -> list[GapRow]:
        now = self._platform.clock()
        with self._platform.database.connection() as connection:
            return gaps_due(connection, self._plan.name, now - self._settle - self._plan.delay, now)

    def _fill_or_tell(self, gaps: Sequence[GapRow]) -> None:
        """A gap that we trip over must end neither the filling of the others nor the stream."""
        try:
            self.fill(*gaps)
        except (DatabaseUnavailable, psycopg.OperationalError, ArchiveError, JournalClosed):
            raise
        except Exception as error:  # noqa: BLE001 (see above)
            _log.exception("filling a gap failed in a way that nobody foresaw", gap=gaps[0].gap_key)
            now = self._platform.clock()
            again = now + LATER if now - (gaps[-1].ends_at or now) < GIVEN_UP_AFTER else None
            reason = redact(f"a fault of the filler: {type(error).__name__}: {error}")[:2000]
            with self._platform.database.connection() as connection:
                for gap in gaps:
                    settle(connection, gap.gap_id, GapStatus.PARTIAL, reason, gap.rows_filled, again, now)

    def fill(self, gap: GapRow, *more: GapRow) -> Settlement:
        """One attempt for a gap and those right behind it, as if they were one; they are settled in the table when it
        returns, unless the service is being stopped. What came is counted with the first."""
        last = more[-1] if more else gap
        came = self._attempt(replace(gap, ends_at=last.ends_at, recorded_at=last.recorded_at))
        if came is None:
            return Settlement(gap.status, gap.reason, gap.rows_filled)
        if came.retry_at is None:
            for one in (gap, *more):
                self._known.pop(one.gap_key, None)
        with self._platform.database.connection() as connection:
            for one in (gap, *more):
                # What came before a restart is not known here any more, and is there all the same.
                rows = max(one.rows_filled, came.rows if one is gap else 0)
                status = GapStatus.PARTIAL if rows and came.status is GapStatus.UNFILLABLE else came.status
                settle(connection, one.gap_id, status, came.reason, rows, came.retry_at, self._platform.clock())
        _log.info(
            "gap settled" if came.status is not GapStatus.OPEN else "gap not filled yet",
            stream=self._plan.name,
            gap=gap.gap_key,
            more=len(more),
            status=came.status.value,
            rows=came.rows,
            reason=came.reason,
        )
        return came

    def _attempt(self, gap: GapRow) -> Settlement | None:
        if gap.sink is not None and gap.sink != LAKE:
            return Settlement(
                GapStatus.UNFILLABLE,
                f"the journal gave up what {gap.sink} had not taken yet, because it was behind for too long; the tick "
                "lake has it",
            )
        if self._plan.feed in POLLED and gap.ends_at is not None:
            looks = (gap.ends_at - gap.begins_at).total_seconds() / self._plan.every_seconds
            if looks <= 1:
                return Settlement(
                    GapStatus.FILLED, f"shorter than the {self._plan.every_seconds:g} s between two looks"
                )
        provider = self._provider()
        if isinstance(provider, str):
            return Settlement(GapStatus.UNFILLABLE, provider)
        known = self._known.setdefault(gap.gap_key, _Progress())
        ended = gap.ends_at if gap.ends_at is not None else self._platform.clock() - self._plan.delay
        asked = questions_about(
            gap, ended, self._market, provider, self._symbols(), at_all_hours=self._platform.simulated
        )
        if not asked.questions:
            nothing = "; ".join(part for part in (asked.cut, asked.lacking) if part)
            return Settlement(GapStatus.UNFILLABLE, nothing) if nothing else Settlement(GapStatus.FILLED, NOBODY_TRADED)
        left = [one for one in asked.questions if one not in known.done and one not in known.refused]
        later = self._ask(gap, provider, left[:MOST_QUESTIONS], known)
        if len(left) > MOST_QUESTIONS:
            later.append(f"{len(left) - MOST_QUESTIONS:,} more questions are asked the next time")
        if self._stop.is_set():
            return None
        if not self._wait_durable(_DURABLE_SECONDS):
            later.append("what was fetched is not on disk yet")
        return self._settlement(gap, asked, known, later)

    def _provider(self) -> DailyProvider | str:
        """Who is asked, or why nobody is."""
        reason = NO_HISTORY.get(self._plan.feed)
        if reason is not None:
            return reason
        provider = self._platform.providers["polygon"]
        lacking = "" if self._platform.simulated else provider.ready()
        return f"history cannot be asked for: {lacking}" if lacking else provider

    # --- asking ----------------------------------------------------------------------------------------------

    def _ask(self, gap: GapRow, provider: DailyProvider, questions: Sequence[Question], known: _Progress) -> list[str]:
        """Why some of the questions have to be asked once more."""
        instruments = {one.symbol: one for one in instruments_of(self._market, [one.symbol for one in questions])}
        run, run_id = ProviderRun(provider), new_run_id()
        deadline = time.monotonic() + DECLARED_WITHIN.total_seconds()
        later: list[str] = []
        hopeless: list[str] = []
        """Why none of the others need be asked now: the day's quota is spent."""
        lock = threading.Lock()

        def answer(question: Question) -> None:
            if self._stop.is_set() or time.monotonic() > deadline:
                run.stop.set()
                with lock:
                    later.append("there was no time for all of it")
                return
            with lock:
                refused = self._not_entitled.get(question.channel)
                if hopeless:
                    return
            outcome, reason, rows = (
                (Outcome.NOT_ENTITLED, refused, 0)
                if refused
                else self._put(gap, run, run_id, question, instruments[question.symbol])
            )
            with lock:
                known.rows += rows
                if outcome.delivered or outcome is Outcome.EMPTY_UNEXPECTED:
                    known.done.add(question)
                elif outcome in (Outcome.NOT_ENTITLED, Outcome.RETIRED):
                    self._not_entitled[question.channel] = reason
                    known.refused[question] = f"{question.channel}: {reason}"
                elif outcome is Outcome.UNKNOWN_SYMBOL:
                    known.refused[question] = f"{question.symbol}: {reason}"
                else:
                    later.append(f"{outcome.value}: {reason}")
                    if outcome.provider_wide:
                        hopeless.append(later[-1])

        with ThreadPoolExecutor(WORKERS, thread_name_prefix=f"fill {self._plan.name}") as workers:
            for _ in workers.map(answer, questions):
                pass
        return later

    def _put(
        self, gap: GapRow, run: ProviderRun, run_id: str, question: Question, instrument: Instrument
    ) -> tuple[Outcome, str, int]:
        capability, kind = HISTORY[question.channel]
        if capability not in abilities_of(run.provider):
            return Outcome.NOT_ENTITLED, f"{run.provider.name} offers no {capability.value}", 0
        calendar = trading_calendar(self._market.mic, question.end)
        days = calendar.local_date(question.start), calendar.local_date(question.end)
        query: TicksQuery | IntradayQuery
        if kind is None:
            today = calendar.local_date(self._platform.clock())
            query = IntradayQuery(instrument, MINUTE, *days, today, extended=True)
        else:
            query = TicksQuery(instrument, kind, question.start, question.end)
        unfinished = False

        def heard(answer: Answer, parsed: Parsed) -> None:
            nonlocal unfinished
            unfinished = parsed.more is not None
            if parsed.rows:
                self._keep(gap, run.provider, capability, kind, question, answer)

        attempt = converse(
            self._platform,
            run,
            capability,
            query,
            purpose=Purpose.REFRESH,
            run_id=run_id,
            market=self._market.name,
            symbol=question.symbol,
            start=days[0],
            end=days[1],
            heard=heard,
        )
        rows = attempt.parsed.rows if attempt.parsed is not None else 0
        if attempt.outcome.delivered and unfinished:
            return Outcome.UNAVAILABLE, "a next page could not be asked for", rows
        return attempt.outcome, attempt.reason or attempt.outcome.value, rows

    def _keep(
        self,
        gap: GapRow,
        provider: DailyProvider,
        capability: Capability,
        kind: TickKind | None,
        question: Question,
        answer: Answer,
    ) -> None:
        saved = SavedAnswer(
            provider=provider.name,
            capability=capability.value,
            market=self._market.name,
            symbols=(question.symbol,),
            status=answer.status,
            headers=dict(answer.headers),
            received_ns=since_epoch(answer.received_at),
            body=redact_bytes(answer.body),
            endpoint=answer.endpoint,
            kind="" if kind is None else kind.value,
            begins_ns=since_epoch(question.start),
            ends_ns=since_epoch(question.end),
            gap=gap.gap_key,
            interval=MINUTE if kind is None else "",
            sink=gap.sink or "",
        )
        self._intake(Format.ANSWER, f"fill:{gap.gap_key}", saved.received_ns, packed(saved))

    # --- what came of it -------------------------------------------------------------------------------------

    def _settlement(self, gap: GapRow, asked: Asked, known: _Progress, later: Sequence[str]) -> Settlement:
        now = self._platform.clock()
        cut = [asked.cut] if asked.cut else []
        reasons = [*dict.fromkeys(known.refused.values()), *cut, *dict.fromkeys(later)]
        reason = "; ".join([*reasons, *([asked.lacking] if asked.lacking else [])])[:2000]
        if not reasons:
            return Settlement(GapStatus.FILLED, reason, known.rows)
        ended = gap.ends_at + self._plan.delay if gap.ends_at is not None else now
        if later and now - max(ended, gap.recorded_at) < DECLARED_WITHIN:
            pause = min(FIRST_PAUSE * (1 << min(gap.attempts, 10)), LONGEST_PAUSE)
            return Settlement(GapStatus.OPEN, reason, known.rows, now + pause)
        status = GapStatus.PARTIAL if known.done else GapStatus.UNFILLABLE
        left = sum(one not in known.done for one in asked.questions)
        told = f"{left} of {len(asked.questions)} questions are unanswered: {reason}" if left else reason
        again = now + LATER if later and now - ended < GIVEN_UP_AFTER else None
        return Settlement(status, told, known.rows, again)
