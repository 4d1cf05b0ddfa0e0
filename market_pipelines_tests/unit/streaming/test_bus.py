"""The event bus: who hears what, and that nobody can harm anybody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

import market_pipelines
from market_pipelines.streaming.bus import EventBus, Topic, event_bus

SECONDS = 10.0


@pytest.fixture
def bus() -> Iterator[EventBus]:
    made = EventBus()
    yield made
    made.close()


def test_the_bus_of_the_process_is_at_the_front_door() -> None:
    assert market_pipelines.event_bus is event_bus


def test_a_function_hears_every_event_of_its_topic_in_order(bus: EventBus) -> None:
    heard: list[int] = []
    bus.subscribe("stock_update", heard.append)
    for number in range(500):
        bus.publish("stock_update", number)
        bus.publish("gap", -1)
    assert bus.wait_idle(SECONDS)
    assert heard == list(range(500))


def test_a_coroutine_is_awaited_on_the_loop_of_the_bus(bus: EventBus) -> None:
    heard: list[tuple[int, str]] = []

    async def handler(event: int) -> None:
        await asyncio.sleep(0)
        heard.append((event, threading.current_thread().name))

    bus.subscribe("gap", handler)
    for number in range(50):
        bus.publish("gap", number)
    assert bus.wait_idle(SECONDS)
    assert heard == [(number, "bus-loop") for number in range(50)]


def test_an_object_whose_call_is_a_coroutine_is_awaited(bus: EventBus) -> None:
    heard: list[int] = []

    class Listener:
        async def __call__(self, event: int) -> None:
            heard.append(event)

    bus.subscribe("gap", Listener())
    bus.publish("gap", 1)
    assert bus.wait_idle(SECONDS)
    assert heard == [1]


def test_a_function_that_gives_a_coroutine_has_it_awaited(bus: EventBus) -> None:
    heard: list[int] = []

    async def later(event: int) -> None:
        heard.append(event)

    bus.subscribe("gap", partial(_called, later))
    bus.publish("gap", 1)
    assert bus.wait_idle(SECONDS)
    assert heard == [1]


def _called(handler: Callable[[int], object], event: int) -> object:
    return handler(event)


def test_an_unknown_topic_is_told_with_the_known_ones(bus: EventBus) -> None:
    for wrong in (lambda: bus.subscribe("stock_updates", print), lambda: bus.publish("price", 1)):
        with pytest.raises(ValueError, match="is no topic") as said:
            wrong()
        assert all(topic in str(said.value) for topic in Topic)


def test_whoever_unsubscribed_hears_nothing_more(bus: EventBus) -> None:
    heard: list[int] = []
    end = bus.subscribe("alert", heard.append)
    bus.publish("alert", 1)
    assert bus.wait_idle(SECONDS)
    end()
    end()
    assert bus.publish("alert", 2) == 0
    assert bus.wait_idle(SECONDS)
    assert heard == [1]


def test_a_handler_may_unsubscribe_itself(bus: EventBus) -> None:
    heard: list[int] = []

    def once(event: int) -> None:
        heard.append(event)
        subscription.unsubscribe()

    subscription = bus.subscribe("alert", once)
    bus.publish("alert", 1)
    bus.publish("alert", 2)
    assert bus.wait_idle(SECONDS)
    assert heard == [1]


def test_the_line_of_the_old_system_subscribes_as_well(bus: EventBus) -> None:
    heard: list[int] = []

    async def program() -> None:
        await bus.subscribe("stock_update", heard.append)

    asyncio.run(program())
    bus.publish("stock_update", 7)
    assert bus.wait_idle(SECONDS)
    assert heard == [7]


@pytest.mark.parametrize("awaited", [False, True])
def test_a_listener_that_fails_is_logged_and_stops_nobody(awaited: bool, bus: EventBus) -> None:
    heard: list[int] = []

    def fails(event: int) -> None:
        raise RuntimeError(f"no {event}")

    async def fails_later(event: int) -> None:
        fails(event)

    failing = bus.subscribe("gap", fails_later if awaited else fails)
    bus.subscribe("gap", heard.append)
    with capture_logs() as logged:
        bus.publish("gap", 1)
        bus.publish("gap", 2)
        assert bus.wait_idle(SECONDS)
    assert heard == [1, 2]
    assert failing.failed == 2
    assert [line["event"] for line in logged] == ["a listener failed"] * 2


@pytest.mark.parametrize("awaited", [False, True])
def test_one_that_is_too_slow_loses_its_oldest_events_alone_and_is_told_of_once(awaited: bool, bus: EventBus) -> None:
    began, go_on = threading.Event(), threading.Event()
    slow_heard: list[int] = []
    quick_heard: list[int] = []

    def slow(event: int) -> None:
        began.set()
        assert go_on.wait(SECONDS)
        slow_heard.append(event)

    async def slow_awaited(event: int) -> None:
        began.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        slow_heard.append(event)

    listener = bus.subscribe("gap", slow_awaited if awaited else slow, waiting=10)
    bus.subscribe("gap", quick_heard.append)
    bus.publish("gap", 0)
    assert began.wait(SECONDS)
    with capture_logs() as logged:
        for number in range(1, 101):
            bus.publish("gap", number)
    go_on.set()
    assert bus.wait_idle(SECONDS)
    assert slow_heard == [0, *range(91, 101)]
    assert listener.dropped == 90
    assert quick_heard == list(range(101))
    assert [line["waiting"] for line in logged if "too slow" in line["event"]] == [10]


def test_closing_ends_every_thread(bus: EventBus) -> None:
    before = set(threading.enumerate())

    async def awaited(event: Any) -> None: ...

    bus.subscribe("gap", awaited)
    bus.subscribe("gap", print)
    assert set(threading.enumerate()) - before
    bus.close()
    assert not set(threading.enumerate()) - before
    heard: list[int] = []
    bus.subscribe("gap", heard.append)
    bus.publish("gap", 1)
    assert bus.wait_idle(SECONDS)
    assert heard == [1], "it can be used again"


def test_a_loop_that_is_held_up_collects_no_call_for_each_event(bus: EventBus) -> None:
    held, going = threading.Event(), threading.Event()

    async def handler(_event: int) -> None:
        held.set()
        going.wait(SECONDS)

    bus.subscribe("gap", handler)
    bus.publish("gap", 0)
    assert held.wait(SECONDS)
    for number in range(500):
        bus.publish("gap", number)
    calls = [one for one in bus._loop()._loop._ready if one._callback.__name__ == "set"]  # type: ignore[attr-defined]
    going.set()
    assert len(calls) == 1, "one wakes the listener for all of them; what the loop itself has to do is not counted"
    assert bus.wait_idle(SECONDS)


@pytest.mark.parametrize("trouble", [asyncio.CancelledError, SystemExit, ValueError])
@pytest.mark.parametrize("awaited", [True, False])
def test_whatever_a_listener_raises_it_hears_the_next_event_and_so_does_everybody(
    bus: EventBus, trouble: type[BaseException], awaited: bool
) -> None:
    heard: list[int] = []
    others: list[int] = []

    async def coroutine(event: int) -> None:
        heard.append(event)
        raise trouble

    def function(event: int) -> Coroutine[Any, Any, None]:
        return coroutine(event)

    async def other(event: int) -> None:
        others.append(event)

    listener = bus.subscribe("gap", coroutine if awaited else function)
    bus.subscribe("alert", other)
    for number in range(3):
        bus.publish("gap", number)
        assert bus.wait_idle(SECONDS)
        bus.publish("alert", number)
    assert bus.wait_idle(SECONDS)
    assert (heard, others, listener.failed) == ([0, 1, 2], [0, 1, 2], 3)


def test_a_listener_that_fails_at_every_event_is_logged_once(bus: EventBus) -> None:
    def handler(_event: int) -> None:
        raise ValueError("every time")

    with capture_logs() as logs:
        listener = bus.subscribe("gap", handler)
        for number in range(20):
            bus.publish("gap", number)
        assert bus.wait_idle(SECONDS)
    assert listener.failed == 20
    assert [one["event"] for one in logs] == ["a listener failed"]
