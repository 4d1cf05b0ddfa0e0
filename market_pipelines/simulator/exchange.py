"""Which provider answers a request, with which faults: everything about an answer but the socket."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.redaction import redact
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.edits import EDITS, spoiled
from market_pipelines.simulator.fault_values import Failing
from market_pipelines.simulator.faults import FaultBoard
from market_pipelines.simulator.formats import (
    alpha_vantage,
    alpha_vantage_functions,
    iex_cloud,
    polygon,
    stooq,
    stooq_endpoints,
    yahoo,
    yahoo_endpoints,
    yahoo_refusals,
)
from market_pipelines.simulator.formats.asked import CHART, Asked
from market_pipelines.simulator.formats.reply import HTML, PLAIN, Reply
from market_pipelines.simulator.minutes import flawed
from market_pipelines.simulator.rows import Spoil
from market_pipelines.simulator.traffic import KeptReplies, Request, RequestLog
from market_pipelines.simulator.truth import World

ERROR_PAGE = Reply(
    200,
    b"<!DOCTYPE html><html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>",
    HTML,
)
NO_SUCH_PAGE = Reply(404, b"<!DOCTYPE html><html><body>Not Found</body></html>", HTML)

_BODIES: Mapping[str, Mapping[str, Reply]] = {
    "polygon": polygon.BODIES,
    "iex_cloud": iex_cloud.BODIES,
    "stooq": stooq.BODIES,
}

Active = Mapping[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer travels."""

    stall: float | None = None
    """Seconds of silence before the connection ends without an answer."""
    bytes_a_second: float | None = None
    close: bool = False
    close_mid_body: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    reply: Reply
    manner: Manner = Manner()


class Exchange:
    def __init__(self, world: World, faults: FaultBoard, clock: SimulatedClock, requests_kept: int = 200) -> None:
        self.world = world
        self.faults = faults
        self.clock = clock
        self.requests = RequestLog(requests_kept)
        self._kept = KeptReplies()
        self._budget = Budget()

    def deliver(self, asked: Asked, target: str) -> Delivery:
        listing = self.world.spelled(asked.provider, asked.native_symbol)
        symbol = listing.symbol if listing is not None else asked.native_symbol.upper()
        active = self.faults.take(asked.provider, symbol)
        manner = Manner(
            stall=_number(active, "stall"),
            bytes_a_second=_number(active, "slow_loris"),
            close="close" in active or (asked.provider == "iex_cloud" and iex_cloud.silent(active)),
            close_mid_body="close_mid_body" in active,
        )
        reply = self._reply(asked, active)
        if "truncated" in active:
            reply = Reply(reply.status, reply.body[: len(reply.body) // 2], reply.content_type, reply.headers)
        unanswered = manner.close or manner.close_mid_body or manner.stall is not None
        self.requests.add(
            Request(
                provider=asked.provider,
                symbol=symbol,
                target=redact(target),
                status=0 if unanswered else reply.status,
                bytes=len(reply.body),
                at=self.clock.now(),
                faults=tuple(active),
            )
        )
        return Delivery(reply, manner)

    def _reply(self, asked: Asked, active: Active) -> Reply:
        failing = _last(active, "status")
        if isinstance(failing, Failing):
            return _failing(asked.provider, failing)
        body = _last(active, "body")
        if isinstance(body, str):
            return self._named_body(asked, body)
        refusal = self._budget.refusal(asked, active) if asked.provider == "alpha_vantage" else None
        if refusal is not None:
            return refusal
        now = self.clock.now()
        key = None if active else self._key(asked, now)
        kept = self._kept.get(key) if key is not None else None
        if kept is not None:
            return kept
        spoil = partial(spoiled, {name: active[name] for name in active if name in EDITS})
        with flawed(minute for minute in active.get("bad_minute", ()) if isinstance(minute, datetime)):
            reply = self._ANSWERS[asked.provider](self, asked, now, active, spoil)
        if key is not None and reply.status == 200:
            self._kept.put(key, reply)
        return reply

    def _key(self, asked: Asked, now: datetime) -> tuple[object, ...] | None:
        """What an answer depends on; None where every instant has its own, as Yahoo does while trading goes on."""
        if not asked.daily:
            return None
        listing = self.world.spelled(asked.provider, asked.native_symbol)
        if listing is None:
            return None
        calendar = trading_calendar(listing.mic, now)
        today = calendar.local_date(now)
        if asked.provider == "yahoo" and calendar.is_session(today):
            times = calendar.times(today)
            if times.opens <= now < times.closes:
                return None
        query = tuple(sorted(asked.query.items()))
        return (
            asked.provider,
            asked.path,
            query,
            asked.accept,
            calendar.last_closed(now),
            today,
            calendar.end,
        )

    def _named_body(self, asked: Asked, name: str) -> Reply:
        if name == "html":
            return ERROR_PAGE
        if name == "empty":
            return Reply(200, b"", PLAIN)
        if asked.provider == "alpha_vantage":
            return alpha_vantage.body_named(name, asked.query)
        if asked.provider in _BODIES:
            return _BODIES[asked.provider][name]
        if asked.path == yahoo_refusals.CONSENT_PATH:
            return yahoo_refusals.CONSENT_PAGE
        return yahoo_refusals.body_named(
            name, asked.native_symbol, asked.query, now=self.clock.now(), base_url=asked.base_url
        )

    def _alpha_vantage(self, asked: Asked, now: datetime, active: Active, spoil: Spoil) -> Reply:
        if asked.path != "/query":
            return NO_SUCH_PAGE
        more = alpha_vantage_functions.answer(asked, self.world, now, active, spoil)
        if more is not None:
            return more
        style = alpha_vantage.Style(
            full_is_premium="full_is_premium" in active,
            partial_last_bar="partial_last_bar" in active,
            shown_symbol=str(_last(active, "wrong_symbol") or ""),
        )
        return alpha_vantage.answer(asked.query, self.world, now, accept=asked.accept, spoil=spoil, style=style)

    def _yahoo(self, asked: Asked, now: datetime, active: Active, spoil: Spoil) -> Reply:
        more = yahoo_endpoints.answer(asked, self.world, now, active, spoil)
        if more is not None:
            return more
        if not asked.path.startswith(CHART):
            return NO_SUCH_PAGE
        if "crumb_gate" in active and asked.query.get("crumb", "") != yahoo_refusals.CRUMB.body.decode():
            return yahoo_refusals.INVALID_CRUMB
        style = yahoo.Style(
            live_duplicate="live_duplicate" in active,
            events_mismatch="events_mismatch" in active,
            shown_symbol=str(_last(active, "wrong_symbol") or ""),
            granularity=str(_last(active, "granularity") or "1d"),
            hides_rows="empty_range" in active,
            missed_split=_day(active, "missed_split"),
        )
        return yahoo.answer(asked.native_symbol, asked.query, self.world, now, spoil=spoil, style=style)

    def _stooq(self, asked: Asked, now: datetime, active: Active, spoil: Spoil) -> Reply:
        more = stooq_endpoints.answer(asked, self.world, now, active, spoil)
        if more is not None:
            return more
        if asked.path.rstrip("/") != "/q/d/l":
            return NO_SUCH_PAGE
        style = stooq.Style(
            polish="polish_headers" in active,
            separator=str(_last(active, "separator") or ","),
            volume="no_volume" not in active,
            key_required=str(_last(active, "key_required") or ""),
        )
        return stooq.answer(asked.query, self.world, now, spoil=spoil, style=style)

    def _polygon(self, asked: Asked, now: datetime, active: Active, spoil: Spoil) -> Reply:
        return polygon.answer(asked, self.world, now, active, spoil) or NO_SUCH_PAGE

    def _iex_cloud(self, asked: Asked, now: datetime, active: Active, spoil: Spoil) -> Reply:
        return iex_cloud.answer(asked, self.world, now, active, spoil) or NO_SUCH_PAGE

    _ANSWERS = {  # noqa: RUF012 - never changes
        "alpha_vantage": _alpha_vantage,
        "yahoo": _yahoo,
        "polygon": _polygon,
        "iex_cloud": _iex_cloud,
        "stooq": _stooq,
    }


class Budget:
    """Alpha Vantage's counters of one key: requests of the last second, requests of the day."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: dict[str, deque[float]] = {}
        self._spent: Counter[str] = Counter()

    def refusal(self, asked: Asked, active: Active) -> Reply | None:
        per_second, per_day = _last(active, "per_second"), _last(active, "per_day")
        if per_second is None and per_day is None:
            return None
        key, now = asked.query.get("apikey", ""), time.monotonic()
        with self._lock:
            if isinstance(per_day, int) and self._spent[key] >= per_day:
                return alpha_vantage.daily_limit(key)
            recent = self._recent.setdefault(key, deque())
            while recent and recent[0] <= now - 1:
                recent.popleft()
            if isinstance(per_second, int) and len(recent) >= per_second:
                return alpha_vantage.PER_SECOND
            recent.append(now)
            self._spent[key] += 1
        return None


def _last(active: Active, name: str) -> object:
    """The value that was switched on last; None where the fault is off."""
    values = active.get(name)
    return values[-1] if values else None


def _day(active: Active, name: str) -> date | None:
    value = _last(active, name)
    return value if isinstance(value, date) else None


def _number(active: Active, name: str) -> float | None:
    value = _last(active, name)
    return value if isinstance(value, float) else None


def _failing(provider: str, failing: Failing) -> Reply:
    headers = {"Retry-After": failing.retry_after} if failing.retry_after else {}
    if provider == "yahoo" and failing.status == 429:
        return Reply(429, yahoo_refusals.TOO_MANY.body, PLAIN, headers)
    return Reply(failing.status, f"<html><body><h1>{failing.status}</h1></body></html>".encode(), HTML, headers)
