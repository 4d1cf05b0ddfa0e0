"""A process that spends calls of a shared limit: `python -m market_pipelines_tests.faults.spending`, told by its input.

It sends one datagram to the pretended provider for each call it has leave for, as soon as it has it, and says on its
output how it ended. `permit` goes the way of the product; `take` goes to the bucket itself, whose windows are then
short enough for a test; `ask` asks the circuit breaker once.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline import breaker
from market_pipelines.pipeline.limiter import Permit, Purpose, permit
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.settings import SimulatorUse, read_settings
from market_pipelines.store.database import Database
from market_pipelines.store.quota import Allowance, Bucket, Verdict, Windows, take


class Line:
    """To the provider, who counts what arrives and answers nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def call(self) -> None:
        self._socket.sendto(b"call", ("127.0.0.1", self._port))


def platform_of(asked: dict[str, Any]) -> AbstractContextManager[Platform]:
    settings = read_settings(
        env_file=None,
        market_pipelines_home=Path(asked["home"]),
        market_pipelines_simulator=SimulatorUse.OFF,
        database_url=asked["url"],
        **asked["settings"],
    )
    return open_platform(settings, asks=False)


def spend_by_permit(asked: dict[str, Any], line: Line) -> Permit:
    """Until leave is refused."""
    with platform_of(asked) as platform, ThreadPoolExecutor(asked["threads"]) as threads:
        ends = [threads.submit(_permitted, asked, platform, line) for _ in range(asked["threads"])]
        return [end.result() for end in ends][-1]


def _permitted(asked: dict[str, Any], platform: Platform, line: Line) -> Permit:
    while True:
        leave = permit(platform, asked["provider"], Purpose(asked["purpose"]), threading.Event())
        if not leave.granted:
            return leave
        line.call()


def spend_by_take(asked: dict[str, Any], line: Line) -> None:
    """Until the day is used up."""
    with Database(asked["url"]) as database, ThreadPoolExecutor(asked["threads"]) as threads:
        for one in [threads.submit(_taken, asked, database, line) for _ in range(asked["threads"])]:
            one.result()


def _taken(asked: dict[str, Any], database: Database, line: Line) -> None:
    bucket, allowance = Bucket(*asked["bucket"]), Allowance(*asked["allowance"])
    second, minute, slack = asked["windows"]
    windows = Windows(second, minute, slack, timedelta(seconds=1))
    waiting = threading.Event()
    while True:
        with database.statements() as connection:
            taken = take(connection, bucket, allowance, windows=windows)
        if taken.granted:
            line.call()
        elif taken.verdict is Verdict.DAY:
            return
        else:
            waiting.wait(taken.wait)


def ask_breaker(asked: dict[str, Any]) -> Permit:
    with platform_of(asked) as platform:
        print("ready", flush=True)
        sys.stdin.readline()
        return breaker.allowed(platform, asked["provider"])


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    ended: Permit | None = None
    match asked["how"]:
        case "permit":
            ended = spend_by_permit(asked, Line(asked["port"]))
        case "take":
            spend_by_take(asked, Line(asked["port"]))
        case "ask":
            ended = ask_breaker(asked)
    outcome = ended.outcome if ended is not None else Outcome.QUOTA_EXHAUSTED
    print(json.dumps({"granted": ended is not None and ended.granted, "outcome": outcome}), flush=True)
    if ended is not None and ended.granted:
        sys.stdin.readline()  # whoever has leave to try holds on to it until told, or killed


if __name__ == "__main__":
    main()
