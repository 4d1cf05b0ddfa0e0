"""The event bus of the process: what programs that run beside a stream listen to.

`event_bus.subscribe("stock_update", handler)` is the whole of it for a listener; beside a stream of another process,
`follow.publishing` brings its events here. Nobody waits for a listener: each has a queue of its own, and one that is
too slow loses its oldest events, which is counted and logged. Who needs every tick takes a durable sink. What the
events are and who publishes them belongs to the sinks.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from enum import StrEnum
from typing import Any, Self

import structlog

_log = structlog.stdlib.get_logger("market_pipelines.streaming")

WAITING = 1_000
"""Events that wait for one listener at most."""

Handler = Callable[[Any], object]
"""A function, or one that is awaited."""


class Topic(StrEnum):
    STOCK_UPDATE = "stock_update"
    CONNECTION_STATUS = "connection_status"
    MARKET_STATUS = "market_status"
    DATA_PROVIDER_STATUS = "data_provider_status"
    GAP = "gap"
    ALERT = "alert"


class Subscription:
    """One listener to one topic. Calling it ends it, and so does leaving a `with` block."""

    def __init__(self, bus: EventBus, topic: Topic, handler: Handler, waiting: int) -> None:
        self.topic = topic
        self.handler = handler
        self.received = 0
        self.dropped = 0
        self.failed = 0
        self._last_failure = ""
        self._bus = bus
        self._queue: deque[Any] = deque(maxlen=waiting)
        self._changed = threading.Condition()
        self._busy = False
        self._ended = False

    def unsubscribe(self) -> None:
        """Nothing is handed over from now on, but for what the handler has in hand. Safe to call twice."""
        with self._changed:
            self._ended = True
            self._queue.clear()
            self._changed.notify_all()
        self._wake()
        self._bus._forget(self)

    def __call__(self) -> None:
        self.unsubscribe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unsubscribe()

    def __await__(self) -> Generator[None, None, Self]:
        # `await event_bus.subscribe(…)`, as programs of the old system have it, works as well.
        return self
        yield

    def _put(self, event: Any) -> None:
        with self._changed:
            if self._ended:
                return
            full = len(self._queue) == self._queue.maxlen
            self._queue.append(event)
            self.received += 1
            self.dropped += full
            first = full and self.dropped == 1
            self._changed.notify_all()
        self._wake()
        if first:
            _log.warning(
                "a listener is too slow: it loses its oldest events",
                topic=self.topic.value,
                handler=_name(self.handler),
                waiting=self._queue.maxlen,
            )

    def _wake(self) -> None:
        """Where the handler is awaited, its loop has to hear of it."""

    def _begin(self) -> None:
        raise NotImplementedError

    def _join(self, seconds: float) -> None:
        raise NotImplementedError

    def _idle(self, deadline: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: self._ended or not (self._queue or self._busy), max(0.0, deadline - time.monotonic())
            )

    def _done(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _failure(self, error: BaseException) -> None:
        """Counted each time, and logged when it is another one than the last: events are many."""
        self.failed += 1
        reason = repr(error)
        if reason != self._last_failure:
            self._last_failure = reason
            _log.error(
                "a listener failed", topic=self.topic.value, handler=_name(self.handler), reason=reason, exc_info=error
            )


class _Called(Subscription):
    """A plain function has a thread of its own, so that it may take its time."""

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"bus-{self.topic.value}", daemon=True)
        self._thread.start()

    def _join(self, seconds: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or bool(self._queue))
                if self._ended:
                    return
                event = self._queue.popleft()
                self._busy = True
            try:
                answer = self.handler(event)
                if inspect.isawaitable(answer):
                    self._bus._loop().finish(answer)
            except (Exception, SystemExit) as error:  # noqa: BLE001  (a stranger's code: what it raises is its trouble)
                self._failure(error)
            finally:
                self._done()


class _Awaited(Subscription):
    """Coroutines share the bus's own loop."""

    def _begin(self) -> None:
        self._more = asyncio.Event()
        self._woken = False
        self._over = threading.Event()
        self._place = self._bus._loop()
        self._place.start(self._run())

    def _wake(self) -> None:
        # Once until it has been heard: a loop that somebody holds up would otherwise collect a call an event.
        with self._changed:
            if self._woken:
                return
            self._woken = True
        self._place.call(self._more.set)

    def _join(self, seconds: float) -> None:
        if not self._place.is_here():
            self._over.wait(seconds)

    async def _run(self) -> None:
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                with self._changed:
                    self._woken = False
                while (event := self._taken()) is not None:
                    try:
                        answer = self.handler(event[0])
                        if inspect.isawaitable(answer):
                            await answer
                    except asyncio.CancelledError as error:
                        task = asyncio.current_task()
                        if task is None or task.cancelling():
                            raise
                        self._failure(error)  # of something that the handler waited for, not of this listener
                    except (Exception, SystemExit) as error:  # noqa: BLE001  (as above)
                        self._failure(error)
                    finally:
                        self._done()
                if self._ended:
                    return
        finally:
            self._over.set()

    def _taken(self) -> tuple[Any] | None:
        with self._changed:
            if self._ended or not self._queue:
                return None
            self._busy = True
            return (self._queue.popleft(),)


class _Loop:
    """An asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="bus-loop", daemon=True)
        self._thread.start()

    def is_here(self) -> bool:
        return threading.current_thread() is self._thread

    def call(self, function: Callable[[], object]) -> None:
        # The loop may have been closed since: then nobody is left to hear it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.call(lambda: self._keep(self._loop.create_task(coroutine)))

    def finish(self, awaitable: Awaitable[object]) -> None:
        async def awaited() -> None:
            try:
                await awaitable
            except SystemExit as error:
                raise RuntimeError("a handler wanted to end the process") from error  # and not everybody's loop

        asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

    def close(self, seconds: float) -> None:
        self.call(self._end)
        if not self.is_here():
            self._thread.join(seconds)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


class EventBus:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[Topic, tuple[Subscription, ...]] = {}
        self._own_loop: _Loop | None = None

    def subscribe(self, topic: str, handler: Handler, *, waiting: int = WAITING) -> Subscription:
        """From now on `handler(event)` is called, or awaited, for every event of the topic, in their order."""
        known = _topic(topic)
        if not callable(handler):
            raise TypeError(f"a handler is a function, not {handler!r}")
        kind = _Awaited if _is_awaited(handler) else _Called
        made = kind(self, known, handler, waiting)
        made._begin()
        with self._lock:
            self._listeners[known] = (*self._listeners.get(known, ()), made)
        return made

    def publish(self, topic: str, event: object) -> int:
        """Hands it to every listener's queue and returns at once: how many there are."""
        listeners = self._listeners.get(_topic(topic), ())
        for listener in listeners:
            listener._put(event)
        return len(listeners)

    def listeners(self, topic: str) -> tuple[Subscription, ...]:
        return self._listeners.get(_topic(topic), ())

    def wait_idle(self, seconds: float) -> bool:
        """Waits until every listener has had what was published before; False where that took longer."""
        deadline = time.monotonic() + seconds
        listeners = [one for group in tuple(self._listeners.values()) for one in group]
        return all(one._idle(deadline) for one in listeners)

    def close(self, seconds: float = 2.0) -> None:
        """Ends every subscription and thread. The bus can be used again afterwards."""
        listeners = [one for group in tuple(self._listeners.values()) for one in group]
        for one in listeners:
            one.unsubscribe()
        deadline = time.monotonic() + seconds
        for one in listeners:
            one._join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            loop, self._own_loop = self._own_loop, None
        if loop is not None:
            loop.close(max(0.1, deadline - time.monotonic()))

    def _loop(self) -> _Loop:
        with self._lock:
            if self._own_loop is None:
                self._own_loop = _Loop()
            return self._own_loop

    def _forget(self, listener: Subscription) -> None:
        with self._lock:
            left = tuple(one for one in self._listeners.get(listener.topic, ()) if one is not listener)
            self._listeners[listener.topic] = left


def _topic(name: str) -> Topic:
    try:
        return Topic(name)
    except ValueError:
        raise ValueError(f"{name!r} is no topic of the event bus; there are {', '.join(Topic)}") from None


def _is_awaited(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _name(handler: Handler) -> str:
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)


event_bus = EventBus()
"""The one of this process, which streams publish to."""
