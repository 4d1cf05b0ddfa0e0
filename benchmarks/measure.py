"""Clocks: what a piece of work costs in wall time, in our CPU time and in PostgreSQL's."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Cost:
    wall: float
    client: float
    """CPU seconds of this process and of children that ended meanwhile."""
    server: float = 0.0

    @property
    def cpu(self) -> float:
        return self.client + self.server

    def __truediv__(self, parts: float) -> Cost:
        return Cost(self.wall / parts, self.client / parts, self.server / parts)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    repetitions: int
    share: float = 1.0
    """Of the full amount of data."""

    def of(self, amount: int, at_least: int = 1) -> int:
        return max(at_least, round(amount * self.share))


ServerClock = Callable[[], float]


def no_server() -> float:
    return 0.0


def cost_of(work: Callable[[], object], server: ServerClock = no_server) -> Cost:
    wall, client, served = time.perf_counter(), _own_cpu(), server()
    work()
    return Cost(time.perf_counter() - wall, _own_cpu() - client, server() - served)


def alternately(contenders: Mapping[str, Callable[[], Cost]], repetitions: int) -> dict[str, list[Cost]]:
    """Each in turn, again and again: what else happens on the machine then meets all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, contender in contenders.items():
            costs[name].append(contender())
    return costs


def _own_cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def clock_of_processes(pid: int) -> ServerClock:
    """CPU seconds of a process and its children, those that have ended included."""
    parent = psutil.Process(pid)

    def seconds() -> float:
        own = parent.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in parent.children():
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return float(total)

    return seconds


@contextmanager
def one_core() -> Iterator[bool]:
    """Everything that this process does and starts shares one core; false where the system cannot do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    _bind({max(before)})
    try:
        yield True
    finally:
        _bind(before)


def _bind(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
