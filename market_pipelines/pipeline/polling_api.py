"""Polling, streaming in the background and scheduled jobs as Python classes, for notebooks and scripts.

`market_pipelines.PollingManager` and the others are from here. They open the platform from the settings of this
process, or work with one that they are given. The work itself is done in `polling` and `jobs`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from market_pipelines.market.hours import MarketPhase
from market_pipelines.market.jobs import ScheduledJob
from market_pipelines.market.polling import Strategy, pace_of
from market_pipelines.pipeline import jobs
from market_pipelines.pipeline.platform import Platform, open_platform, wall_clock
from market_pipelines.pipeline.polling import Callback, PollingStatistics, poll_of, run_polling
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.pipeline.stopping import SignalHearing, Stop, heeding_signals
from market_pipelines.redaction import redact
from market_pipelines.settings import Settings, read_settings

STOP_SECONDS = 60.0
"""How long `stop_streaming` waits for the batch in hand."""

_log = logging.getLogger(__name__)


class AlreadyStreaming(RuntimeError):
    """One service streams once at a time."""


@dataclass
class PollingConfig:
    interval_minutes: float = 5
    max_iterations: int | None = None
    """None: until somebody stops it."""
    symbols: Sequence[str] | None = None
    """None: all of the market."""
    interval: str = "5min"
    batch_size: int = 10
    retry_on_failure: bool = True
    max_retries: int = 3

    def checked(self) -> PollingConfig:
        if not self.interval_minutes > 0:
            raise BadQuestion(f"interval_minutes {self.interval_minutes!r}; accepted: more than 0")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise BadQuestion(f"max_iterations {self.max_iterations!r}; accepted: 1 or more, or None")
        return self


def statistics_document(statistics: PollingStatistics) -> dict[str, Any]:
    """What a polling loop did. A cycle failed when it brought nothing at all; symbols that failed within a cycle
    are counted by themselves."""
    done = statistics.iterations
    return {
        "total_iterations": done,
        "successful_cycles": statistics.successful,
        "failed_cycles": statistics.failed,
        "total_records_processed": statistics.records,
        "start_time": statistics.started_at.isoformat(),
        "end_time": statistics.ended_at.isoformat(),
        "total_duration": str(statistics.ended_at - statistics.started_at),
        "success_rate": round(100 * statistics.successful / done, 2) if done else 0.0,
        "failed_symbols": dict(sorted(statistics.failed_symbols.items())),
        "callback_errors": statistics.callback_errors,
    }


class _Door:
    """Where a platform comes from: the one that was given, or one of our own for as long as it is needed."""

    def __init__(self, market: str, settings: Settings | None, platform: Platform | None) -> None:
        self.market = market
        self._settings = settings
        self._platform = platform

    @property
    def clock(self) -> Callable[[], datetime]:
        return self._platform.clock if self._platform is not None else wall_clock

    @property
    def settings(self) -> Settings:
        if self._platform is not None:
            return self._platform.settings
        return self._settings if self._settings is not None else read_settings()

    def opened(self, *, asks: bool = True) -> AbstractContextManager[Platform]:
        if self._platform is not None:
            return nullcontext(self._platform)
        return open_platform(self.settings, asks=asks)


class PollingManager:
    """The three polling strategies; each polls in the calling thread and gives what it did.

    SIGINT (Ctrl-C) and SIGTERM let the batch in hand finish; a second one interrupts at once. `stop` does the same
    from another thread.
    """

    def __init__(
        self, market: str = "us", *, settings: Settings | None = None, platform: Platform | None = None
    ) -> None:
        self._door = _Door(market, settings, platform)
        self._stop = Stop()

    def continuous_polling(self, config: PollingConfig, callback: Callback | None = None) -> dict[str, Any]:
        """At a fixed interval, whatever the hour."""
        return self._polled(Strategy.CONTINUOUS, config, callback, extended=False)

    def market_hours_polling(
        self, config: PollingConfig, callback: Callback | None = None, *, extended_hours: bool = False
    ) -> dict[str, Any]:
        """While the exchange trades; otherwise it waits for the next opening bell."""
        return self._polled(Strategy.MARKET_HOURS, config, callback, extended=extended_hours)

    def adaptive_polling(
        self, config: PollingConfig, callback: Callback | None = None, *, extended_hours: bool = False
    ) -> dict[str, Any]:
        """Less often while nothing new comes, more often when data moves and around the bells."""
        return self._polled(Strategy.ADAPTIVE, config, callback, extended=extended_hours)

    def stop(self) -> None:
        """Lets the poll that goes on finish the batch in hand."""
        self._stop.ask()

    def _polled(
        self, strategy: Strategy, config: PollingConfig, callback: Callback | None, *, extended: bool
    ) -> dict[str, Any]:
        stop = self._stop = Stop()
        with self._door.opened() as platform, heeding_signals(stop):
            return statistics_document(
                _poll(platform, self._door.market, strategy, config.checked(), stop, callback, extended=extended)
            )


def _poll(
    platform: Platform,
    market: str,
    strategy: Strategy,
    config: PollingConfig,
    stop: Stop,
    callback: Callback | None,
    *,
    extended: bool = False,
) -> PollingStatistics:
    poll = poll_of(
        platform,
        market,
        config.symbols,
        interval=config.interval,
        batch_size=config.batch_size,
        retries=config.max_retries if config.retry_on_failure else 0,
        extended=extended,
        job_name=f"poll {strategy.value}",
    )
    pace = pace_of(poll.market.polling, config.interval_minutes)
    return run_polling(platform, poll, strategy, pace, stop, max_iterations=config.max_iterations, callback=callback)


class DataStreamingService:
    """Continuous polling in a thread of its own.

    Started in the main thread, it stops on SIGINT and SIGTERM, after the batch in hand; a second signal does what
    it would have done without the service. The thread keeps the process alive until it has ended.
    """

    def __init__(
        self, market: str = "us", *, settings: Settings | None = None, platform: Platform | None = None
    ) -> None:
        self._door = _Door(market, settings, platform)
        self._stop = Stop()
        self._thread: threading.Thread | None = None
        self._hearing: SignalHearing | None = None
        self._statistics: PollingStatistics | None = None
        self._error = ""

    def start_streaming(
        self,
        symbols: Sequence[str] | None = None,
        interval_minutes: float | None = None,
        max_iterations: int | None = None,
        callback: Callback | None = None,
    ) -> None:
        """Returns when the platform is open and the first poll is about to begin."""
        if self._is_alive():
            raise AlreadyStreaming("this service streams already: stop it first, or take a second one")
        settings = self._door.settings
        config = PollingConfig(
            interval_minutes=settings.default_polling_interval if interval_minutes is None else interval_minutes,
            max_iterations=max_iterations,
            symbols=symbols,
            interval=settings.default_interval.value,
            batch_size=settings.batch_size,
        ).checked()
        self._stop, self._statistics, self._error = Stop(), None, ""
        with ExitStack() as opening:
            platform = opening.enter_context(self._door.opened())
            self._hearing = SignalHearing(self._stop, self._is_alive)
            closing = opening.pop_all()
        self._thread = threading.Thread(
            target=self._stream, args=(platform, closing, config, callback), name=f"polling {self._door.market}"
        )
        self._thread.start()

    def stop_streaming(self) -> None:
        """Lets the batch in hand finish, and waits for that."""
        self._stop.ask()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_SECONDS)
            if thread.is_alive():
                _log.warning("the batch in hand has not ended after %.0f s", STOP_SECONDS)
        self._give_signals_back()

    def get_streaming_status(self) -> dict[str, Any]:
        alive = self._is_alive()
        if not alive:
            self._give_signals_back()
        return {
            "is_running": alive,
            "stop_event_set": self._stop.asked,
            "thread_alive": alive,
            "timestamp": self._door.clock().isoformat(),
            "error": self._error,
            "statistics": statistics_document(self._statistics) if self._statistics is not None else None,
        }

    def _stream(self, platform: Platform, closing: ExitStack, config: PollingConfig, callback: Callback | None) -> None:
        with closing:
            try:
                self._statistics = _poll(platform, self._door.market, Strategy.CONTINUOUS, config, self._stop, callback)
            except Exception as error:  # noqa: BLE001 (nobody joins a thread to read its exception)
                self._error = redact(f"{type(error).__name__}: {error}")
                _log.error("streaming ended: %s", self._error)

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _give_signals_back(self) -> None:
        if self._hearing is not None:
            self._hearing.end()


class MarketScheduler:
    """Jobs that Dagster's sensor `scheduled_jobs` runs while their exchange trades."""

    def __init__(
        self, market: str = "us", *, settings: Settings | None = None, platform: Platform | None = None
    ) -> None:
        self._door = _Door(market, settings, platform)

    def schedule_market_job(
        self,
        name: str,
        symbols: Sequence[str] = (),
        interval_minutes: int | None = None,
        *,
        interval: str | None = None,
        extended_hours: bool = False,
    ) -> dict[str, Any]:
        with self._opened() as platform:
            job = jobs.add_job(
                platform,
                name,
                symbols,
                market=self._door.market,
                interval_minutes=interval_minutes,
                interval=interval,
                extended_hours=extended_hours,
            )
            return next(job_document(one) for one in jobs.job_states(platform) if one.job.name == job.name)

    def remove_job(self, name: str) -> None:
        with self._opened() as platform:
            jobs.remove_job(platform, name)

    def get_scheduled_jobs(self) -> dict[str, Any]:
        """The jobs of every market, and what this scheduler's market is doing now."""
        with self._opened() as platform:
            states = jobs.job_states(platform)
            return {
                "total_jobs": len(states),
                "jobs": {state.job.name: job_document(state) for state in states},
                "current_time": platform.clock().isoformat(),
                "market_status": status_document(platform, self._door.market),
            }

    def get_market_status(self) -> dict[str, Any]:
        with self._opened() as platform:
            return status_document(platform, self._door.market)

    @contextmanager
    def _opened(self) -> Iterator[Platform]:
        with self._door.opened(asks=False) as platform:
            yield platform


def job_document(state: jobs.JobState) -> dict[str, Any]:
    job: ScheduledJob = state.job
    last = state.last_run
    return {
        "name": job.name,
        "market": job.market,
        "symbols": list(job.symbols),
        "interval": job.interval,
        "interval_minutes": job.interval_minutes,
        "extended_hours": job.extended_hours,
        "created_at": job.created_at.isoformat(),
        "last_requested_at": _iso(job.last_requested_at),
        "next_run": _iso(state.next_run),
        "last_run": None
        if last is None
        else {
            "started_at": last.started_at.isoformat(),
            "finished_at": _iso(last.finished_at),
            "status": last.status.value,
            "records_processed": last.records_processed,
            "records_failed": last.records_failed,
            "error": last.error,
            "dagster_run_id": last.dagster_run_id,
        },
    }


def status_document(platform: Platform, market: str) -> dict[str, Any]:
    status = jobs.status_of(platform, market)
    return {
        "market": market,
        "mic": status.mic,
        "phase": status.phase.value,
        "session": status.session.isoformat() if status.session is not None else None,
        "is_market_open": status.is_open,
        "is_pre_market": status.phase is MarketPhase.PRE_MARKET,
        "is_after_hours": status.phase is MarketPhase.AFTER_HOURS,
        "next_market_open": status.next_open.isoformat(),
        "next_market_close": status.next_close.isoformat(),
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
