"""Polling against the simulator on a stopped clock: when it asks, what it counts, and what it survives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import stamina

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.polling import Pace, Strategy
from market_pipelines.pipeline import polling
from market_pipelines.pipeline.intraday import intraday_bars
from market_pipelines.pipeline.polling import (
    FIRST_BACK_OFF,
    CycleOutcome,
    CycleReport,
    PollingStatistics,
    poll_cycle,
    poll_of,
    run_polling,
)
from market_pipelines.pipeline.reading import BadQuestion, stored_intraday
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, StoppedClock, opened_house

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

FRIDAY = date(2025, 6, 13)
NOON = datetime(2025, 6, 13, 16, 0, tzinfo=UTC)
CHAIN = ("yahoo", "alpha_vantage", "polygon", "stooq")
PACE = Pace(timedelta(minutes=5), timedelta(minutes=1), timedelta(minutes=30))


class Waiting(Stop):
    """Waits by moving the clock. After so many seconds in all, it wants to stop."""

    def __init__(self, clock: StoppedClock, patience: float = float("inf")) -> None:
        super().__init__()
        self._clock, self._patience = clock, patience
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        if not self.asked:
            self.waits.append(seconds)
            self._clock.set(self._clock() + timedelta(seconds=seconds))
            if sum(self.waits) >= self._patience:
                self.ask()
        return self.asked


@pytest.fixture(autouse=True)
def questions_are_repeated_without_a_pause() -> Iterator[None]:
    stamina.set_testing(True, attempts=3, cap=True)
    yield
    stamina.set_testing(False)


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=NOON) as opened:
        yield opened
    postgres_server.drop(url)


def run(
    house: House,
    strategy: Strategy,
    *symbols: str,
    market: str = "us",
    iterations: int | None = 3,
    stop: Stop | None = None,
    extended: bool = False,
    pace: Pace = PACE,
    **more: Any,
) -> PollingStatistics:
    poll = poll_of(house.platform, market, symbols or ("AAPL", "MSFT"), extended=extended)
    stop = stop or Waiting(house.clock)
    return run_polling(house.platform, poll, strategy, pace, stop, max_iterations=iterations, **more)


def began(statistics: PollingStatistics) -> list[str]:
    return [f"{report.started_at:%m-%d %H:%M}" for report in statistics.cycles]


def minutes_between(statistics: PollingStatistics) -> list[float]:
    starts = [report.started_at for report in statistics.cycles]
    return [(later - earlier) / timedelta(minutes=1) for earlier, later in pairwise(starts)]


def stored(house: House, symbol: str = "AAPL") -> pd.DataFrame:
    return stored_intraday(house.platform.database, [symbol], "5min", market="us")


def fail_everywhere(house: House, symbol: str, status: int = 503) -> None:
    for provider in CHAIN:
        house.simulator.faults.add(f"{provider}.status={status}@{symbol}")


# --- strategies ----------------------------------------------------------------------------------------------


def test_continuous_polling_follows_the_running_session(house: House) -> None:
    statistics = run(house, Strategy.CONTINUOUS, "AAPL")
    assert began(statistics) == ["06-13 16:00", "06-13 16:05", "06-13 16:10"]
    first, *later = [report.changed for report in statistics.cycles]
    # All of the day so far at first, pre-market too; then the bar that has ended and the one that has begun.
    assert first == len(stored(house)) - 2
    assert later == [2, 2]
    assert statistics.records == first + 4
    assert stored(house)["ts"].max() == pd.Timestamp("2025-06-13 16:10", tz="UTC")


def test_a_poll_that_finds_what_is_stored_already_counts_nothing(house: House) -> None:
    first, second = (run(house, Strategy.CONTINUOUS, iterations=1) for _ in range(2))
    assert first.records > 100
    assert second.records == 0
    assert [result.rows for result in second.cycles[0].symbols] != [0, 0], "although all of it was delivered again"


def test_continuous_polling_goes_on_at_night_with_the_last_session(house: House) -> None:
    house.clock.set(datetime(2025, 6, 14, 12, 0, tzinfo=UTC))
    statistics = run(house, Strategy.CONTINUOUS, "AAPL", iterations=2)
    assert [report.session for report in statistics.cycles] == [FRIDAY, FRIDAY]
    assert began(statistics) == ["06-14 12:00", "06-14 12:05"]
    assert [report.changed > 0 for report in statistics.cycles] == [True, False]


def test_polling_in_market_hours_waits_for_the_opening_bell_and_over_the_weekend(house: House) -> None:
    house.clock.set(datetime(2025, 6, 13, 12, 0, tzinfo=UTC))
    told: list[datetime] = []
    hourly = Pace(timedelta(minutes=60), timedelta(minutes=1), timedelta(minutes=60))
    statistics = run(house, Strategy.MARKET_HOURS, "AAPL", iterations=8, pace=hourly, waiting=told.append)
    assert told == [datetime(2025, 6, 13, 13, 30, tzinfo=UTC)]
    assert began(statistics) == [
        *(f"06-13 {hour}:30" for hour in range(13, 20)),
        "06-16 13:30",
    ]
    assert statistics.cycles[6].next_at == datetime(2025, 6, 16, 13, 30, tzinfo=UTC)


def test_extended_hours_are_polled_where_they_are_wanted(house: House) -> None:
    house.clock.set(datetime(2025, 6, 13, 9, 0, tzinfo=UTC))
    statistics = run(house, Strategy.MARKET_HOURS, "AAPL", "^SPX", iterations=1, extended=True)
    assert began(statistics) == ["06-13 09:00"]
    assert [report.outcome for report in statistics.cycles] == [CycleOutcome.SUCCESS]
    bars = stored(house)
    assert set(bars[bars["session"] == pd.Timestamp(FRIDAY)]["phase"]) == {"pre"}


def test_before_the_bell_nobody_else_is_asked_about_shares_that_do_not_trade_yet(house: House) -> None:
    house.clock.set(datetime(2025, 6, 13, 9, 30, tzinfo=UTC))
    house.simulator.faults.add("yahoo.empty_range=on@KO")
    run(house, Strategy.CONTINUOUS, "KO", "^SPX", iterations=1)
    asked = house.rows("SELECT DISTINCT provider FROM market.fetches WHERE capability = 'intraday'")
    assert asked == [("simulated-yahoo",)]


def test_an_adaptive_poll_slows_down_in_silence_and_hurries_at_the_bell(house: House) -> None:
    # New York has closed; nothing new comes until Monday's pre-market.
    house.clock.set(datetime(2025, 6, 14, 12, 0, tzinfo=UTC))
    quiet = run(house, Strategy.ADAPTIVE, "AAPL", iterations=8)
    # The first poll found Friday's bars.
    assert minutes_between(quiet) == pytest.approx([2.5, 3.75, 5.625, 8.4375, 12.65625, 18.984375, 28.4765625])
    house.clock.set(datetime(2025, 6, 16, 13, 20, tzinfo=UTC))
    bell = run(house, Strategy.ADAPTIVE, "AAPL", iterations=4)
    assert minutes_between(bell) == [1, 1, 1]


def test_an_adaptive_poll_is_at_its_shortest_while_data_moves(house: House) -> None:
    moving = run(house, Strategy.ADAPTIVE, "AAPL", iterations=5)
    assert minutes_between(moving) == [2.5, 1.25, 1, 1]


# --- batches, retries, isolation -----------------------------------------------------------------------------


def test_symbols_are_asked_for_in_batches_with_a_pause_between(house: House) -> None:
    waiting = Waiting(house.clock)
    poll = poll_of(house.platform, "us", ["AAPL", "MSFT", "KO", "V", "MA"], batch_size=2, batch_delay=0.5)
    done: list[int] = []
    poll_cycle(house.platform, poll, waiting, progress=lambda count, _total, _symbol: done.append(count))
    assert done == [0, 2, 4, 5]
    assert waiting.waits == [0.5, 0.5]


def test_one_failing_symbol_is_asked_for_again_and_does_not_end_the_cycle(house: House) -> None:
    fail_everywhere(house, "MSFT")
    waiting = Waiting(house.clock)
    statistics = run(house, Strategy.CONTINUOUS, "AAPL", "MSFT", "KO", iterations=1, stop=waiting)
    (report,) = statistics.cycles
    outcomes = {result.symbol: result.outcome for result in report.symbols}
    assert outcomes == {"AAPL": Outcome.OK, "KO": Outcome.OK, "MSFT": Outcome.UNAVAILABLE}
    assert waiting.waits == [FIRST_BACK_OFF, 2 * FIRST_BACK_OFF, 4 * FIRST_BACK_OFF]
    assert (report.outcome, statistics.successful, statistics.failed) == (CycleOutcome.PARTIAL, 1, 0)
    assert statistics.failed_symbols == {"MSFT": 1}
    assert house.rows("SELECT status, records_processed, records_failed FROM market.etl_job_logs") == [
        ("partial", report.changed, 1)
    ]


def test_a_symbol_that_comes_at_the_second_attempt_has_not_failed(house: House) -> None:
    for provider in CHAIN:
        house.simulator.faults.add(f"{provider}.status=503@MSFT#3")
    (report,) = run(house, Strategy.CONTINUOUS, "MSFT", iterations=1).cycles
    assert report.outcome is CycleOutcome.SUCCESS
    assert report.symbols[0].provider == "simulated-yahoo"


def test_without_retries_a_symbol_is_asked_for_once(house: House) -> None:
    fail_everywhere(house, "MSFT")
    waiting = Waiting(house.clock)
    poll_cycle(house.platform, poll_of(house.platform, "us", ["MSFT"], retries=0), waiting)
    assert waiting.waits == []


def test_an_unknown_symbol_is_not_asked_for_again(house: House) -> None:
    waiting = Waiting(house.clock)
    report = poll_cycle(house.platform, poll_of(house.platform, "us", ["AAPL", "NOPE"]), waiting)
    assert [result.symbol for result in report.failed] == ["NOPE"]
    assert waiting.waits == []


def test_a_symbol_whose_rows_break_the_refresh_leaves_the_others_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(platform: Any, market: Any, instruments: Any, *args: Any, **more: Any) -> Any:
        if any(one.symbol == "MSFT" for one in instruments):
            raise ZeroDivisionError("a row that nobody foresaw")
        return intraday_bars(platform, market, instruments, *args, **more)

    monkeypatch.setattr(f"{polling.__name__}.intraday_bars", breaking)
    statistics = run(house, Strategy.CONTINUOUS, "AAPL", "MSFT", "KO", iterations=1)
    (report,) = statistics.cycles
    assert [(one.symbol, one.reason) for one in report.failed] == [
        ("MSFT", "ZeroDivisionError: a row that nobody foresaw")
    ]
    assert len(stored(house, "KO")) > 0


def test_a_cycle_without_a_database_fails_and_the_next_one_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = polling.poll_cycle, []

    def once_gone(*args: Any, **more: Any) -> CycleReport:
        calls.append(1)
        if len(calls) == 1:
            raise DatabaseUnavailable("the database is gone")
        return sound(*args, **more)

    monkeypatch.setattr(polling, "poll_cycle", once_gone)
    statistics = run(house, Strategy.CONTINUOUS, "AAPL", iterations=2)
    assert (statistics.successful, statistics.failed) == (1, 1)
    assert statistics.cycles[0].error == "DatabaseUnavailable: the database is gone"


def test_polls_stay_within_the_limits_that_everybody_shares(house: House) -> None:
    settings = house.platform.settings.model_copy(
        update={"yahoo_daily_quota": 10, "primary_provider": "yahoo", "fallback_providers": ()}
    )
    limited = replace(house.platform, simulated=False, settings=settings, _limits={})
    poll = poll_of(limited, "us", ["AAPL", "MSFT", "KO"])
    statistics = run_polling(limited, poll, Strategy.CONTINUOUS, PACE, Waiting(house.clock), max_iterations=5)
    assert house.simulator.requests.count("yahoo") == 8, "ten a day, of which a fifth is kept for quotes"
    assert statistics.cycles[-1].outcome is CycleOutcome.FAILURE
    assert {result.outcome for result in statistics.cycles[-1].symbols} == {Outcome.QUOTA_EXHAUSTED}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"interval": "1d"}, "interval '1d'"), ({"batch_size": 0}, "batches of 0"), ({"retries": -1}, "-1 retries")],
)
def test_a_poll_that_makes_no_sense_is_refused(house: House, change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadQuestion, match=words):
        poll_of(house.platform, "us", ["AAPL"], **change)


# --- callbacks and stopping ----------------------------------------------------------------------------------


def test_a_callback_that_fails_is_counted_and_polling_goes_on(house: House) -> None:
    told: list[int] = []

    def callback(report: CycleReport) -> None:
        told.append(report.number)
        raise RuntimeError("the caller's own mistake")

    statistics = run(house, Strategy.CONTINUOUS, "AAPL", callback=callback)
    assert told == [1, 2, 3]
    assert (statistics.callback_errors, statistics.successful) == (3, 3)


def test_asked_to_stop_it_finishes_the_batch_in_hand(house: House) -> None:
    stop = Waiting(house.clock)
    poll = poll_of(house.platform, "us", ["AAPL", "MSFT", "KO", "V"], batch_size=2)
    statistics = run_polling(
        house.platform,
        poll,
        Strategy.CONTINUOUS,
        PACE,
        stop,
        progress=lambda done, _total, _symbol: stop.ask() if done == 2 else None,
    )
    (report,) = statistics.cycles
    assert [result.symbol for result in report.symbols] == ["AAPL", "MSFT"]
    assert report.left == ("KO", "V")
    assert report.next_at is None
    assert house.rows("SELECT status, error FROM market.etl_job_logs") == [("partial", "stopped after 2 of 4 symbols")]
    assert house.rows("SELECT DISTINCT symbol FROM market.stock_prices_intraday ORDER BY symbol") == [
        ("AAPL",), ("MSFT",),
    ]  # fmt: skip


def test_a_wait_is_interrupted(house: House) -> None:
    statistics = run(house, Strategy.CONTINUOUS, iterations=None, stop=Waiting(house.clock, patience=400))
    assert statistics.iterations == 2
    assert statistics.ended_at - statistics.started_at < timedelta(minutes=10)


def test_a_long_wait_looks_at_the_clock_every_minute(house: House) -> None:
    stop = Waiting(house.clock)
    run(house, Strategy.CONTINUOUS, "AAPL", iterations=2, stop=stop)
    assert stop.waits == [60.0] * 5
