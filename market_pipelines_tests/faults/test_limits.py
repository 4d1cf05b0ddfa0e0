"""Limits and breakers shared by processes: a provider that counts what arrives never counts one call too many.

The provider here is a socket. The kernel stamps each datagram as it arrives, so that neither this process nor its
load has a part in the figures.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline import breaker, limiter
from market_pipelines.pipeline.limiter import Purpose, permit
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.quota import provider_quotas
from market_pipelines.settings import SimulatorUse, read_settings
from market_pipelines.store import schema
from market_pipelines.store.database import Database
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.health import Opening, breaker_fails
from market_pipelines.store.postmaster import read_postmaster
from market_pipelines.store.quota import Allowance, Bucket, Verdict, quota_use, take
from market_pipelines_tests.conftest import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
PROCESSES, THREADS = 4, 3
SO_TIMESTAMPNS = 35
"""Linux's number; Python has no name for it."""


class Provider:
    """Counts calls as they arrive."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self._came = threading.Condition()
        self.arrivals: list[float] = []
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def _count(self) -> None:
        while True:
            body, ancillary, _, _ = self._socket.recvmsg(16, 64)
            if body == b"end":
                return
            ((_, _, stamp),) = ancillary
            seconds, nanoseconds = struct.unpack("qq", stamp)
            with self._came:
                self.arrivals.append(seconds + nanoseconds / 1e9)
                self._came.notify_all()

    def until(self, calls: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.arrivals) >= calls, PATIENCE), f"{len(self.arrivals)} calls"

    def close(self) -> list[float]:
        """Everything that was sent has arrived when this returns."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join(PATIENCE)
        self._socket.close()
        return sorted(self.arrivals)


@pytest.fixture
def provider() -> Provider:
    return Provider()


class Spender:
    """A process of `spending`."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "market_pipelines_tests.faults.spending"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(json.dumps(asked))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def ended(self) -> dict[str, Any]:
        found = json.loads(self.line())
        assert isinstance(found, dict)
        return found


@contextmanager
def spenders(number: int, asked: dict[str, Any]) -> Iterator[list[Spender]]:
    started = [Spender(asked) for _ in range(number)]
    try:
        yield started
    finally:
        for one in started:
            one.kill()
            for pipe in (one.process.stdin, one.process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@contextmanager
def desk(home: Path, url: str, **settings: Any) -> Iterator[Platform]:
    read = read_settings(
        env_file=None,
        market_pipelines_home=home,
        market_pipelines_simulator=SimulatorUse.OFF,
        database_url=url,
        **settings,
    )
    with open_platform(read, asks=False) as platform:
        yield platform


def far_from_midnight() -> str:
    """A zone whose day does not end while a test runs."""
    return "UTC" if 1 <= datetime.now(UTC).hour < 23 else "Asia/Tokyo"


def most_in(window: float, arrivals: list[float]) -> int:
    """The calls in the fullest window of this length, wherever it begins."""
    return max(sum(first <= one < first + window for one in arrivals) for first in arrivals)


def counted(url: str, bucket: Bucket) -> int:
    with Database(url) as database, database.connection() as connection:
        return next(one.used for one in quota_use(connection, [bucket]) if one.window == "day")


def test_four_processes_never_make_one_call_too_many_and_killing_them_loses_and_doubles_nothing(
    url: str, provider: Provider
) -> None:
    bucket = Bucket("counted", "key", far_from_midnight())
    second, minute, slack = 0.4, 2.0, 0.4
    per_second, per_minute, per_day = 12, 40, 120
    asked = {
        "how": "take",
        "url": url,
        "port": provider.port,
        "threads": THREADS,
        "bucket": [bucket.provider, bucket.key, bucket.zone],
        "allowance": [per_second, per_minute, per_day],
        "windows": [second, minute, slack],
    }
    with spenders(PROCESSES, asked) as running:
        for calls, dying in ((30, running[0]), (60, running[1])):
            provider.until(calls)
            dying.kill()
        with spenders(2, asked) as heirs:
            provider.until(100)
            heirs[0].kill()
            for one in (*running[2:], heirs[1]):
                assert one.ended()["outcome"] == Outcome.QUOTA_EXHAUSTED
    arrivals = provider.close()
    assert most_in(second, arrivals) <= per_second
    assert most_in(minute, arrivals) <= per_minute
    assert counted(url, bucket) == per_day
    killed, under_way = 3, THREADS
    assert per_day - killed * under_way <= len(arrivals) <= per_day


def test_the_products_own_way_holds_the_limits_of_the_settings(url: str, provider: Provider, tmp_path: Path) -> None:
    settings = {
        "alpha_vantage_api_key": "a-key-of-the-test",
        "alpha_vantage_rate_limit_second": 10,
        "alpha_vantage_rate_limit": 1_000,
        "alpha_vantage_daily_quota": 40,
        "quote_reserve": 10,
    }
    asked = {
        "how": "permit",
        "url": url,
        "home": str(tmp_path),
        "port": provider.port,
        "threads": THREADS,
        "provider": "alpha_vantage",
        "purpose": "backfill",
        "settings": settings,
    }
    with spenders(PROCESSES, asked) as running:
        assert [one.ended()["outcome"] for one in running] == [Outcome.QUOTA_EXHAUSTED] * PROCESSES
    with desk(tmp_path, url, **settings) as platform:
        stop = threading.Event()
        refused = permit(platform, "alpha_vantage", Purpose.REFRESH, stop)
        assert refused.outcome is Outcome.QUOTA_EXHAUSTED
        assert "36 of 40" in refused.reason
        assert "the last 4 are kept for quotes" in refused.reason
        for _ in range(4):
            assert permit(platform, "alpha_vantage", Purpose.QUOTE, stop).granted
        used_up = permit(platform, "alpha_vantage", Purpose.QUOTE, stop)
        assert used_up.outcome is Outcome.QUOTA_EXHAUSTED
        assert used_up.retry_at is not None
        assert used_up.retry_at > datetime.now(UTC)
    arrivals = provider.close()
    assert len(arrivals) == 36
    assert most_in(1.0, arrivals) <= 10


def test_what_one_process_was_told_all_of_them_heed(url: str, provider: Provider, tmp_path: Path) -> None:
    settings = {"yahoo_rate_limit": 1_000}
    asked = {
        "how": "permit",
        "url": url,
        "home": str(tmp_path),
        "port": provider.port,
        "threads": 1,
        "provider": "yahoo",
        "purpose": "refresh",
        "settings": settings,
    }
    with desk(tmp_path, url, **settings) as platform:
        limiter.told(platform, "yahoo", Outcome.THROTTLED, 3.0)
        until = provider_quotas(platform)["yahoo"].blocked_until
        assert until is not None
        with spenders(PROCESSES, asked):
            provider.until(PROCESSES)
            limiter.told(platform, "yahoo", Outcome.QUOTA_EXHAUSTED, None)
            stopped = time.time()
            provider_of_all = provider_quotas(platform)["yahoo"]
        assert provider_of_all.blocked_as is Outcome.QUOTA_EXHAUSTED
    arrivals = provider.close()
    assert arrivals[0] >= until.timestamp()
    assert sum(one > stopped for one in arrivals) <= PROCESSES, "only what had leave before still arrives"


def test_of_four_processes_one_tries_a_provider_that_was_gone(url: str, tmp_path: Path) -> None:
    asked = {"how": "ask", "url": url, "home": str(tmp_path), "provider": "yahoo", "settings": {}}
    with desk(tmp_path, url) as platform:
        _open_breaker(platform, "yahoo", pause=0.0)
        with spenders(PROCESSES, asked) as running:
            for one in running:
                assert one.line() == "ready"
            for one in running:
                one.tell("go")
            answers = [one.ended() for one in running]
            assert sorted(answer["granted"] for answer in answers) == [False] * (PROCESSES - 1) + [True]
            assert {answer["outcome"] for answer in answers if not answer["granted"]} == {Outcome.UNAVAILABLE}
            refused = breaker.allowed(platform, "yahoo")
            assert "is being tried by somebody else" in refused.reason
        assert not breaker.allowed(platform, "yahoo").granted, "the one who died may have been trying"
        _let_the_lease_run_out(platform, "yahoo")
        assert breaker.allowed(platform, "yahoo").granted
        breaker.learn(platform, "yahoo", Outcome.OK, "")
        assert breaker.breaker_states(platform)["yahoo"].state is breaker.State.CLOSED


def _open_breaker(platform: Platform, provider: str, pause: float) -> None:
    with platform.database.statements() as connection:
        breaker_fails(connection, provider, "us", Outcome.UNAVAILABLE, "gone", Opening(1, pause, pause, 1.0))


def _let_the_lease_run_out(platform: Platform, provider: str) -> None:
    """As if it had passed: nobody waits for ninety seconds here."""
    with platform.database.statements() as connection:
        connection.execute(
            "UPDATE market.provider_health SET probe_until = clock_timestamp() WHERE provider = %s", (provider,)
        )


@pytest.fixture
def own_server() -> Iterator[Path]:
    """The data folder of a server that a test may kill."""
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"


def test_a_crash_of_the_database_forgets_no_day_and_windows_are_let_pass(own_server: Path) -> None:
    windows, day = Bucket("windows", "", "UTC"), Bucket("day", "", far_from_midnight())
    with EmbeddedServer(own_server, fsync=False) as server:
        server.ensure_database("limits")
        url = server.url("limits")
        schema.upgrade(url)
        with Database(url) as database, database.statements() as connection:
            for _ in range(5):
                assert take(connection, day, Allowance(per_day=6)).granted
                assert take(connection, windows, Allowance(per_minute=6)).granted
            (pid_file,) = own_server.rglob("postmaster.pid")
            postmaster = read_postmaster(pid_file.parent)
            assert postmaster is not None
            os.kill(postmaster.pid, signal.SIGKILL)
    with (
        EmbeddedServer(own_server, fsync=False) as server,
        Database(server.url("limits")) as database,
        database.statements() as connection,
    ):
        verdicts = [take(connection, day, Allowance(per_day=6)).verdict for _ in range(2)]
        assert verdicts == [Verdict.GRANTED, Verdict.DAY]
        refused = take(connection, windows, Allowance(per_minute=6))
        assert (refused.verdict, refused.blocked_as) == (Verdict.BLOCKED, Outcome.THROTTLED)
        assert "crashed" in (refused.because or "")
        assert 50 < refused.wait < 61
        assert take(connection, windows, Allowance(), at=refused.retry_at).granted


def test_a_database_that_was_stopped_in_order_has_forgotten_nothing(own_server: Path) -> None:
    bucket = Bucket("windows", "", "UTC")
    for granted in (True, False):
        with EmbeddedServer(own_server, fsync=False) as server:
            server.ensure_database("limits")
            schema.upgrade(server.url("limits"))
            with Database(server.url("limits")) as database, database.statements() as connection:
                taken = take(connection, bucket, Allowance(per_minute=1))
        assert taken.granted is granted
    assert taken.verdict is Verdict.MINUTE


def test_leave_is_spaced_for_one_process_too(url: str, tmp_path: Path) -> None:
    with desk(tmp_path, url, alpha_vantage_rate_limit_second=1) as platform:
        began = []
        for _ in range(3):
            assert permit(platform, "alpha_vantage", Purpose.QUOTE, threading.Event()).granted
            began.append(time.monotonic())
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(began))
