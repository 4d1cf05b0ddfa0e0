"""`poll` and `jobs` as a person runs them: watched, interrupted, killed. The programs are real, and so is the clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer, hearing_ctrl_c

PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[2]
FOUR = ("--symbols", "AAPL,MSFT,KO,V", "--batch-size", "2")
SLOWLY = "yahoo.slow_loris=15000@MSFT"
"""An answer that takes a second or two."""
SERVICE = """
import time
from market_pipelines import DataStreamingService
service = DataStreamingService()
service.start_streaming(["AAPL", "MSFT"], interval_minutes=60, callback=lambda _: print("polled", flush=True))
while service.get_streaming_status()["is_running"]:
    time.sleep(0.02)
print(service.get_streaming_status()["statistics"]["total_iterations"], "polls", flush=True)
"""


@dataclass(frozen=True)
class Desk:
    home: Path
    url: str
    simulator: Simulator

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields},
            **self.simulator.base_urls(),
            "DATABASE_URL": self.url,
            "MARKET_PIPELINES_HOME": str(self.home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "250",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        with hearing_ctrl_c():
            return self._started(sys.executable, "-m", "market_pipelines.cli", *words)

    def script(self, text: str) -> subprocess.Popen[str]:
        with hearing_ctrl_c():
            return self._started(sys.executable, "-c", text)

    def _started(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            env=self.environment,
            cwd=self.home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()

    def bars(self) -> dict[str, int]:
        return dict(self.rows("SELECT symbol, count(*) FROM market.stock_prices_intraday GROUP BY symbol"))

    def is_asked_for(self, symbol: str) -> bool:
        return self.simulator.requests.count("yahoo", symbol) > 0


@pytest.fixture
def desk(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[Desk]:
    simulator.faults.clear()
    simulator.requests.clear()
    url = postgres_server.create()
    yield Desk(tmp_path / "home", url, simulator)
    postgres_server.drop(url)


def until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "not ready in time"
        threading.Event().wait(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=PATIENCE)


# --- watched -------------------------------------------------------------------------------------------------


def test_each_poll_is_told_as_it_ends_and_the_whole_at_the_end(desk: Desk) -> None:
    code, out, err = desk.run(
        "poll", "continuous", "--symbols", "AAPL,MSFT", "--interval-minutes", "0.02", "--max-iterations", "2"
    )
    assert code == 0, err
    announced, *_, first, second = err.splitlines()
    assert "simulated" in announced
    assert "poll 1: " in first
    assert "new or changed rows, 0 of 2 symbols failed; next poll at " in first
    assert "poll 2: " in second
    assert second.endswith("; the last one")
    heading, line = out.splitlines()
    assert heading.split()[:4] == ["market", "strategy", "polls", "successful"]
    assert line.split()[:4] == ["us", "continuous", "2", "2"]


def test_the_document_has_the_promised_keys_and_failed_symbols_are_exit_code_three(desk: Desk) -> None:
    code, out, err = desk.run(
        "poll", "adaptive", "--symbols", "AAPL,NOPE", "--interval-minutes", "0.02", "--max-iterations", "1", "--json"
    )
    assert code == 3, err
    document = json.loads(out)
    assert document.keys() >= {
        "total_iterations", "successful_cycles", "failed_cycles", "total_records_processed", "start_time", "end_time",
        "total_duration", "success_rate",
    }  # fmt: skip
    assert (document["strategy"], document["simulated"], document["interrupted"]) == ("adaptive", True, False)
    assert document["failed_symbols"] == {"NOPE": 1}
    (cycle,) = document["cycles"]
    assert cycle["outcome"] == "partial"
    assert cycle["records"] == document["total_records_processed"] > 10
    assert desk.rows("SELECT job_name, status FROM market.etl_job_logs") == [("poll adaptive", "partial")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--interval", "1d"), "accepted: 1min, 5min"),
        (("--market", "moon"), "market 'moon' is not known; there are pl, us"),
        (("--batch-size", "0"), "batch-size"),
        (("--interval-minutes", "0"), "interval-minutes"),
        (("--symbols", "AA$L"), "is not a symbol"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_accepted(desk: Desk, words: tuple[str, ...], said: str) -> None:
    code, out, err = desk.run("poll", "continuous", "--max-iterations", "1", *words)
    assert (code, out) == (2, "")
    assert said in err


# --- interrupted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_batch_in_hand_finish(desk: Desk, number: signal.Signals, code: int) -> None:
    desk.simulator.faults.add(SLOWLY)
    with desk.start("poll", "continuous", *FOUR, "--json") as process:
        until(lambda: desk.is_asked_for("MSFT"), process)
        process.send_signal(number)
        out, err = ended(process)
    assert process.returncode == code, err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert (document["total_iterations"], document["failed_cycles"]) == (1, 0)
    assert document["cycles"][0]["left"] == ["KO", "V"]
    assert desk.bars().keys() == {"AAPL", "MSFT"}
    assert "Interrupted, after the batch in hand was stored." in err
    assert desk.rows("SELECT status, error FROM market.etl_job_logs") == [("partial", "stopped after 2 of 4 symbols")]


def test_a_signal_ends_a_wait_at_once(desk: Desk) -> None:
    with desk.start("poll", "continuous", "--symbols", "AAPL", "--interval-minutes", "60", "--json") as process:
        until(lambda: desk.rows("SELECT 1 FROM market.etl_job_logs WHERE finished_at IS NOT NULL") != [], process)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = ended(process)
    assert time.monotonic() - began < 10
    assert process.returncode == 130, err
    assert (json.loads(out)["successful_cycles"], json.loads(out)["cycles"][0]["left"]) == (1, [])


def test_a_second_signal_does_not_wait_for_the_batch(desk: Desk) -> None:
    desk.simulator.faults.add("yahoo.stall=20@MSFT")
    with desk.start("poll", "continuous", *FOUR, "--json") as process:
        until(lambda: desk.is_asked_for("MSFT"), process)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        out, err = ended(process)
    assert process.returncode == 130, err
    assert out == ""
    assert desk.bars() == {}
    assert desk.rows("SELECT status FROM market.etl_job_logs") == [("failure",)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_streaming_service_cleanly(desk: Desk, number: signal.Signals) -> None:
    desk.simulator.faults.add(SLOWLY)
    with desk.script(SERVICE) as process:
        until(lambda: desk.is_asked_for("MSFT"), process)
        process.send_signal(number)
        out, err = ended(process)
    assert process.returncode == 0, err
    assert out.splitlines() == ["polled", "1 polls"]
    assert desk.bars().keys() == {"AAPL", "MSFT"}


# --- killed --------------------------------------------------------------------------------------------------


def test_after_a_kill_nothing_is_half_written_and_the_next_poll_goes_on(desk: Desk) -> None:
    desk.simulator.faults.add("yahoo.stall=20@V")
    with desk.start("poll", "continuous", *FOUR) as process:
        until(lambda: desk.is_asked_for("V"), process)
        process.kill()
        ended(process)
    assert process.returncode == -signal.SIGKILL
    assert desk.bars().keys() == {"AAPL", "MSFT"}, "the first batch is there, of the second one there is nothing"
    before = desk.bars()
    # A job is written off only when it cannot have been begun just now.
    assert desk.rows("SELECT status FROM market.etl_job_logs") == [("running",)]
    with psycopg.connect(desk.url) as connection:
        connection.execute("UPDATE market.etl_job_logs SET started_at = started_at - interval '1 hour'")

    desk.simulator.faults.clear()
    code, _, err = desk.run("poll", "continuous", *FOUR, "--max-iterations", "1")
    assert code == 0, err
    after = desk.bars()
    assert after.keys() == {"AAPL", "MSFT", "KO", "V"}
    if desk.rows("SELECT 1 FROM market.stock_prices_intraday WHERE provisional") == []:
        assert {symbol: after[symbol] for symbol in before} == before, "and it was whole"
    assert desk.rows("SELECT status, error FROM market.etl_job_logs ORDER BY job_id") == [
        ("failure", "the process ended without a word"),
        ("success", None),
    ]


# --- jobs ----------------------------------------------------------------------------------------------------


def test_jobs_are_added_listed_and_removed(desk: Desk) -> None:
    code, out, err = desk.run(
        "jobs", "add", "watch", "--symbols", "aapl,MSFT", "--interval-minutes", "15", "--extended-hours", "--json"
    )
    assert code == 0, err
    added = json.loads(out)
    assert (added["symbols"], added["interval"], added["extended_hours"]) == (["AAPL", "MSFT"], "5min", True)
    code, out, err = desk.run("jobs", "list", "--json")
    listed = json.loads(out)
    assert (listed["total_jobs"], list(listed["jobs"])) == (1, ["watch"])
    assert listed["market_status"]["us"].keys() >= {
        "is_market_open", "is_pre_market", "is_after_hours", "next_market_open", "next_market_close",
    }  # fmt: skip
    code, out, err = desk.run("jobs", "list")
    assert "watch" in out
    assert "us: XNYS" in out
    assert desk.run("jobs", "remove", "watch")[0] == 0
    code, out, err = desk.run("jobs", "remove", "watch")
    assert (code, out, err.splitlines()[-1]) == (1, "", "error: there is no job watch; there is none at all")


def test_a_job_that_cannot_be_kept_says_why(desk: Desk) -> None:
    assert desk.run("jobs", "add", "watch")[0] == 0
    code, _, err = desk.run("jobs", "add", "watch", "--symbols", "KO")
    assert (code, "there is a job watch already" in err) == (1, True)
    code, _, err = desk.run("jobs", "add", "two words")
    assert (code, "is no name of a job" in err) == (2, True)
    code, _, err = desk.run("jobs", "add", "other", "--market", "moon")
    assert (code, "market 'moon' is not known" in err) == (2, True)


def test_the_market_status_tells_the_phase_of_the_day(desk: Desk) -> None:
    code, out, err = desk.run("market-status", "--json")
    assert code == 0, err
    calendar = json.loads(out)["calendar"]
    assert calendar["phase"] in {"pre_market", "open", "after_hours", "closed", "weekend", "holiday"}
    assert calendar.keys() >= {"mic", "status", "next_open", "next_close", "session"}
