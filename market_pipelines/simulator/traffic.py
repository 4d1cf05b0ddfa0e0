"""What was asked of the simulator: counts, the newest requests, and bodies worth keeping for the next one."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from datetime import datetime

from market_pipelines.simulator.formats.reply import Reply


@dataclass(frozen=True, slots=True)
class Request:
    provider: str
    symbol: str
    """The exchange's spelling; the provider's where it means no listing."""
    target: str
    """Path and query, without secrets."""
    status: int
    """0: no complete answer was sent."""
    bytes: int
    at: datetime
    faults: tuple[str, ...] = ()


class RequestLog:
    def __init__(self, kept: int = 200) -> None:
        self._lock = threading.Lock()
        self._kept = kept
        self._counts: Counter[tuple[str, str]] = Counter()
        self._newest: dict[str, deque[Request]] = {}

    def add(self, request: Request) -> None:
        with self._lock:
            self._counts[request.provider, request.symbol] += 1
            self._newest.setdefault(request.provider, deque(maxlen=self._kept)).append(request)

    def count(self, provider: str | None = None, symbol: str | None = None) -> int:
        with self._lock:
            return sum(
                count
                for (of_provider, of_symbol), count in self._counts.items()
                if provider in (None, of_provider) and symbol in (None, of_symbol)
            )

    def last(self, provider: str) -> Request | None:
        with self._lock:
            newest = self._newest.get(provider)
            return newest[-1] if newest else None

    def newest(self, provider: str) -> tuple[Request, ...]:
        with self._lock:
            return tuple(self._newest.get(provider, ()))

    def clear(self) -> None:
        with self._lock:
            self._counts.clear()
            self._newest.clear()

    def snapshot(self) -> dict[str, object]:
        with self._lock:
            return {
                provider: {
                    "count": sum(count for (of, _), count in self._counts.items() if of == provider),
                    "symbols": {symbol: count for (of, symbol), count in self._counts.items() if of == provider},
                    "last": [{**asdict(request), "at": request.at.isoformat()} for request in list(newest)[-20:]],
                }
                for provider, newest in self._newest.items()
            }


class KeptReplies:
    """Rendered answers up to a number of bytes, the longest unused ones leave first."""

    def __init__(self, limit: int = 64 * 2**20) -> None:
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()
        self._replies: OrderedDict[Hashable, Reply] = OrderedDict()

    def get(self, key: Hashable) -> Reply | None:
        with self._lock:
            reply = self._replies.get(key)
            if reply is not None:
                self._replies.move_to_end(key)
            return reply

    def put(self, key: Hashable, reply: Reply) -> None:
        if len(reply.body) > self._limit // 4:
            return
        with self._lock:
            replaced = self._replies.pop(key, None)
            self._size += len(reply.body) - (len(replaced.body) if replaced else 0)
            self._replies[key] = reply
            while self._size > self._limit:
                _, oldest = self._replies.popitem(last=False)
                self._size -= len(oldest.body)
