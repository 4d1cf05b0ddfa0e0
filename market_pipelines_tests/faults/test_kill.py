"""R5: a backfill that is killed anywhere heals when it is run again, and running it twice changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from market_pipelines.pipeline import backfill as backfilling
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import RefreshReport
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.archive import RawArchive
from market_pipelines.store.database import Database, DatabaseUnavailable
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.postmaster import Postmaster, read_postmaster
from market_pipelines_tests.conftest import PostgresServer, hearing_ctrl_c
from market_pipelines_tests.faults import dying
from market_pipelines_tests.faults.house import (
    CONTENTS,
    REVISION_CONTENTS,
    Contents,
    House,
    contents,
    opened_house,
    unreadable_answers,
    untrue_rows,
)

SYMBOLS = ["AAPL", "MSFT", "SIMH", "^SPX", "KO"]
START, END = date(2020, 8, 3), date(2020, 10, 30)
FAULTS = ["yahoo.negative_price=2020-09-01@MSFT", "yahoo.body=html@KO"]
"""So that quarantine, a second provider and a session filled by it are part of what has to heal."""
PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def faulty_house(folder: Path, url: str, simulator: Simulator) -> Iterator[House]:
    with opened_house(folder, url, simulator) as house:
        simulator.faults.replace(FAULTS)
        yield house


def backfill(house: House) -> RefreshReport:
    market = house.platform.market("us")
    with patch.object(backfilling, "BATCH", dying.BATCH):
        return backfilling.backfill_bars(house.platform, market, instruments_of(market, SYMBOLS), START, END)


def stored(house: House) -> Contents:
    with house.platform.database.connection() as connection:
        return contents(connection, CONTENTS | REVISION_CONTENTS)


@pytest.fixture(scope="module")
def undisturbed(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Contents:
    """What an undisturbed backfill leaves in the tables."""
    url = postgres_server.create()
    with faulty_house(tmp_path_factory.mktemp("undisturbed") / "home", url, simulator) as house:
        backfill(house)
        assert untrue_rows(house) == []
        found = stored(house)
    postgres_server.drop(url)
    assert all(rows for table, rows in found.items() if table != "bar_revisions")
    return found


# --- SIGKILL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", dying.POINTS)
def test_a_backfill_killed_anywhere_heals_on_the_next_run(
    point: str, undisturbed: Contents, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    url = postgres_server.create()
    with faulty_house(tmp_path / "home", url, simulator) as house:
        killed = subprocess.run(
            [sys.executable, "-m", dying.__name__, point],
            input=json.dumps(
                {"symbols": SYMBOLS, "start": str(START), "end": str(END), "now": house.clock().isoformat()}
            ),
            env={**os.environ, **environment(house), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert untrue_rows(house) == [], "what was committed by then is right"
        assert unreadable_answers(house.archive.root) == []

        backfill(house)
        assert stored(house) == undisturbed
        assert unreadable_answers(house.archive.root) == []
        statuses = [status for (status,) in house.rows("SELECT status FROM market.etl_job_logs ORDER BY job_id")]
        assert statuses == ["running", "success"], "the ledger does not claim an end that nobody saw"
        assert_the_archive_answers_for_every_fetch(house)
    postgres_server.drop(url)


def assert_the_archive_answers_for_every_fetch(house: House) -> None:
    for (sha256,) in house.rows("SELECT DISTINCT sha256 FROM market.fetches WHERE sha256 IS NOT NULL"):
        assert house.archive.get(sha256)


def environment(house: House) -> dict[str, str]:
    return {
        **house.simulator.base_urls(),
        "MARKET_PIPELINES_HOME": str(house.platform.settings.home),
        "MARKET_PIPELINES_SIMULATOR": "on",
        "DATABASE_URL": house.platform.database.url,
        "LOG_LEVEL": "WARNING",
    }


def test_what_a_killed_writer_left_in_the_archive_is_swept_an_hour_later(house: House) -> None:
    house.archive.put(b"an answer")
    workshop = house.archive.root / "tmp"
    left = workshop / "left-by-a-killed-writer"
    left.write_bytes(b"half an ans")
    long_ago = time.time() - 2 * 3600
    os.utime(left, (long_ago, long_ago))
    RawArchive(house.archive.root).put(b"another answer")
    assert list(workshop.iterdir()) == []


def test_two_backfills_of_the_same_range_store_the_same_rows_and_revise_nothing(
    undisturbed: Contents, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    url = postgres_server.create()
    with faulty_house(tmp_path / "home", url, simulator) as house:
        market = house.platform.market("us")
        for hours in range(2):
            house.clock.set(house.clock() + timedelta(hours=hours))
            report = backfilling.backfill_bars(
                house.platform, market, instruments_of(market, SYMBOLS), START, END, again=True
            )
            assert [result.revisions for result in report.symbols] == [0] * len(SYMBOLS)
            assert stored(house) == undisturbed
    postgres_server.drop(url)


# --- the command, with its own database server --------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """A data folder with an embedded server of its own, and the command that works in it."""

    home: Path
    simulator: Simulator

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.simulator.base_urls(),
            "MARKET_PIPELINES_HOME": str(self.home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "LOG_LEVEL": "WARNING",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "market_pipelines.cli", *words],
            env={**os.environ, **self.environment},
            cwd=self.home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, "not ready in time"
        threading.Event().wait(0.02)


@pytest.fixture
def desk(simulator: Simulator) -> Iterator[Desk]:
    simulator.faults.clear()
    simulator.requests.clear()
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        server = EmbeddedServer(home, fsync=False)
        server.start(keep=True)
        try:
            yield Desk(home, simulator)
        finally:
            server.stop(force=True)


TWELVE = "AAPL,MSFT,NVDA,AMZN,GOOGL,META,TSLA,JPM,V,MA,XOM,KO"
BACKFILL = ("backfill", "--market", "us", "--from", "2024-01-02", "--to", "2024-12-31", "--symbols", TWELVE, "--json")


def rows_of(desk: Desk) -> list[tuple[str, int]]:
    with (
        EmbeddedServer(desk.home, fsync=False) as server,
        Database(server.url("market_pipelines_simulated")) as database,
        database.connection() as connection,
    ):
        return connection.execute(
            "SELECT symbol, count(*) FROM market.stock_prices GROUP BY symbol ORDER BY symbol"
        ).fetchall()


def postmaster_of(desk: Desk) -> Postmaster:
    (pid_file,) = desk.home.rglob("postmaster.pid")
    found = read_postmaster(pid_file.parent)
    assert found is not None
    return found


def test_a_connection_that_the_server_ends_is_told_as_that(fresh_database: Database) -> None:
    with (
        pytest.raises(DatabaseUnavailable, match=r"^the connection to postgresql://\S+ broke off: [^\n]+$"),
        fresh_database.connection() as connection,
    ):
        with fresh_database.connection() as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        connection.execute("SELECT 1")
    with fresh_database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,), "the next one is asked of a server that is there"


def test_a_killed_database_server_ends_a_backfill_with_a_sentence_and_the_next_run_heals(desk: Desk) -> None:
    desk.simulator.faults.add("yahoo.stall=2@XOM")
    with desk.start(*BACKFILL) as process:
        until(lambda: desk.simulator.requests.count("yahoo", "XOM") > 0 or process.poll() is not None)
        server = postmaster_of(desk)
        os.kill(server.pid, signal.SIGKILL)
        began = time.monotonic()
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    assert out == ""
    assert time.monotonic() - began < 20, "nobody waits long for a server that is gone"
    assert len(err.splitlines()) == 2, err
    announced, sentence = err.splitlines()
    assert "simulated" in announced
    assert sentence.startswith("error: the ")
    assert str(server.sockets) in sentence, "it says which server"

    desk.simulator.faults.clear()
    with desk.start(*BACKFILL) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert rows_of(desk) == [(symbol, 252) for symbol in sorted(TWELVE.split(","))]


def test_ctrl_c_during_a_backfill_leaves_whole_batches_and_the_next_run_goes_on(desk: Desk) -> None:
    desk.simulator.faults.add("yahoo.stall=2@XOM")
    with hearing_ctrl_c():
        process = desk.start(*BACKFILL)
    with process:
        until(lambda: desk.simulator.requests.count("yahoo", "XOM") > 0 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert json.loads(out)["interrupted"] is True
    assert "The same command goes on from there." in err
    assert rows_of(desk) == [(symbol, 252) for symbol in sorted(TWELVE.split(",")[:10])]

    desk.simulator.faults.clear()
    with desk.start(*BACKFILL) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert [line["symbol"] for line in json.loads(out)["symbols"]] == ["XOM", "KO"]
    assert rows_of(desk) == [(symbol, 252) for symbol in sorted(TWELVE.split(","))]
