"""The commands against a real PostgreSQL and the simulator: what they store, say and end with."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import zstandard
from psycopg import sql
from typer.testing import CliRunner

import market_pipelines
from market_pipelines.cli.main import app
from market_pipelines.redaction import MASK
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.ledger import fetches, recent_jobs
from market_pipelines_tests.conftest import PostgresServer, hearing_ctrl_c

pytestmark = pytest.mark.usefixtures("nothing_of_a_command_stays_behind")

YEAR = ("--from", "2024-01-02", "--to", "2024-12-31")
SESSIONS_OF_2024 = 252
PATIENCE = 60.0


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """A data folder, a database and a simulator, and the commands that work on them."""

    home: Path
    url: str
    simulator: Simulator
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MARKET_PIPELINES_HOME": str(self.home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "DATABASE_URL": self.url,
            "LOG_LEVEL": "WARNING",
            **self.simulator.base_urls(),
            **self.more,
        }

    def run(self, *words: str) -> Ended:
        ended = CliRunner().invoke(app, list(words), env=self.environment)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return start_command(words, self.environment, self.home)

    def pulled(self, *words: str) -> dict[str, dict[str, Any]]:
        ended = self.run("pull", *words, "--json")
        return {line["symbol"]: line for line in ended.json["symbols"]}


def start_command(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "market_pipelines.cli", *words],
        env={**os.environ, **environment},
        cwd=folder,
        stdin=subprocess.PIPE,
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
def desk(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[Desk]:
    simulator.faults.clear()
    simulator.requests.clear()
    url = postgres_server.create()
    yield Desk(tmp_path / "home", url, simulator)
    postgres_server.drop(url)


# --- pull ---------------------------------------------------------------------------------------------------


def test_a_year_is_pulled_once_and_the_second_pull_changes_nothing(desk: Desk) -> None:
    first = desk.run("pull", "AAPL", "MSFT", *YEAR, "--json")
    second = desk.run("pull", "AAPL", "MSFT", *YEAR, "--json")
    assert (first.code, second.code) == (0, 0)
    for ended in (first, second):
        assert ended.json["market"] == "us"
        assert ended.json["interval"] == "1d"
        assert ended.json["simulated"] is True
        assert [
            (line["symbol"], line["outcome"], line["provider"], line["rows"], line["revisions"], line["requests"])
            for line in ended.json["symbols"]
        ] == [
            ("AAPL", "ok", "simulated-yahoo", SESSIONS_OF_2024, 0, 1),
            ("MSFT", "ok", "simulated-yahoo", SESSIONS_OF_2024, 0, 1),
        ]
    with psycopg.connect(desk.url) as connection:
        assert connection.execute("SELECT count(*) FROM market.stock_prices").fetchone() == (2 * SESSIONS_OF_2024,)
        assert connection.execute("SELECT count(*) FROM market.bar_revisions").fetchone() == (0,)


def test_without_days_the_last_thirty_sessions_are_pulled(desk: Desk) -> None:
    assert desk.pulled("AAPL")["AAPL"]["rows"] == 30


def test_simulated_data_is_said_to_be_simulated(desk: Desk) -> None:
    assert "MARKET_PIPELINES_SIMULATOR is on" in desk.run("pull", "AAPL").err
    desk.more = {"MARKET_PIPELINES_SIMULATOR": "auto"}
    assert desk.run("pull", "AAPL", "--json").json["simulated"] is True


@pytest.mark.parametrize("refusal", ["yahoo.status=429", "yahoo.status=429:30", "yahoo.body=html"])
def test_what_the_first_provider_refuses_comes_from_the_next(desk: Desk, refusal: str) -> None:
    desk.simulator.faults.add(refusal)
    desk.more = {"ALPHA_VANTAGE_API_KEY": "simulated"}
    lines = desk.pulled("AAPL", "MSFT", *YEAR)
    for symbol in ("AAPL", "MSFT"):
        assert lines[symbol]["provider"] == "simulated-alpha_vantage"
        assert lines[symbol]["rows"] == SESSIONS_OF_2024
        assert "yahoo" in lines[symbol]["reason"]


def test_an_unknown_symbol_fails_alone(desk: Desk) -> None:
    ended = desk.run("pull", "AAPL", "NOSUCH", *YEAR, "--json")
    assert ended.code == 3
    outcomes = {line["symbol"]: (line["outcome"], line["rows"]) for line in ended.json["symbols"]}
    assert outcomes == {"AAPL": ("ok", SESSIONS_OF_2024), "NOSUCH": ("unknown_symbol", 0)}
    assert "1 of 2 symbols failed: NOSUCH" in ended.err


def test_a_refused_key_ends_with_not_authorised(desk: Desk) -> None:
    desk.more = {"ALPHA_VANTAGE_API_KEY": "invalid"}
    ended = desk.run("pull", "AAPL", *YEAR, "--provider", "alpha_vantage", "--json")
    assert ended.code == 4
    assert ended.json["symbols"][0]["outcome"] == "not_entitled"


def test_a_symbol_that_the_named_provider_does_not_list_fails(desk: Desk) -> None:
    ended = desk.run("pull", "PKO", "--market", "pl", "--provider", "alpha_vantage", "--json")
    assert ended.code == 3
    assert ended.json["symbols"][0]["outcome"] == "unknown_symbol"
    assert ended.json["symbols"][0]["reason"] == "no provider that was asked lists it"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--market", "mars"), "market 'mars' is not known; there are pl, us"),
        (("--provider", "bloomberg"), "accepted: alpha_vantage, iex_cloud, polygon, stooq, yahoo"),
        (("--from", "2024-02-01", "--to", "2024-01-01"), "--to 2024-01-01 is before --from 2024-02-01"),
        (("--from", "2999-01-01"), "has not come yet"),
    ],
)
def test_what_a_pull_cannot_be_is_refused(desk: Desk, words: tuple[str, ...], said: str) -> None:
    desk.more = {"COLUMNS": "200"}
    ended = desk.run("pull", "AAPL", *words)
    assert ended.code == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert desk.simulator.requests.count() == 0


# --- dry run ------------------------------------------------------------------------------------------------


def test_a_dry_run_says_the_cost_and_asks_nobody(desk: Desk) -> None:
    desk.more = {"MARKET_PIPELINES_SIMULATOR": "auto", "ALPHA_VANTAGE_API_KEY": "simulated"}
    ended = desk.run("pull", "AAPL", "MSFT", "^SPX", *YEAR, "--dry-run", "--json")
    assert ended.code == 0
    assert ended.json["requests"]["best"] == 3
    assert ended.json["requests"]["worst"] == 10
    costs = {cost["provider"]: cost for cost in ended.json["providers"]}
    assert list(costs) == ["yahoo", "alpha_vantage", "polygon", "stooq"]
    assert [(cost["best"], cost["worst"]) for cost in costs.values()] == [(3, 3), (0, 2), (0, 2), (0, 3)]
    assert costs["yahoo"]["quota"]["limit"] is None
    assert costs["alpha_vantage"]["left"] == 20, "the rest of the day is kept for quotes"
    assert costs["alpha_vantage"]["seconds"] == pytest.approx(1.2, abs=0.1)
    assert costs["alpha_vantage"]["quota"] | {"resets_at": ""} == {
        "limit": 25,
        "used": 0,
        "remaining": 25,
        "reserve": 5,
        "resets_at": "",
    }
    assert desk.simulator.requests.count() == 0


def test_a_dry_run_of_a_backfill_counts_only_what_is_lacking(desk: Desk) -> None:
    desk.run("pull", "AAPL", *YEAR)
    words = ("backfill", "--market", "us", *YEAR, "--symbols", "AAPL,MSFT", "--dry-run", "--json")
    assert desk.run(*words).json["symbols"] == ["MSFT"]
    assert desk.run(*words, "--again").json["symbols"] == ["AAPL", "MSFT"]


# --- bars ---------------------------------------------------------------------------------------------------


def test_bars_as_of_before_a_correction_are_the_old_ones(desk: Desk) -> None:
    desk.run("pull", "AAPL", *YEAR)
    before = datetime.now(UTC).isoformat()
    desk.simulator.faults.add("yahoo.correction=AAPL:2024-03-01:+0.5%")
    assert desk.pulled("AAPL", *YEAR)["AAPL"]["revisions"] == 1
    day = ("--from", "2024-03-01", "--to", "2024-03-01", "--format", "json")
    (then,) = desk.run("bars", "AAPL", *day, "--as-of", before).json
    (now,) = desk.run("bars", "AAPL", *day).json
    assert now["close"] == pytest.approx(then["close"] * 1.005, rel=1e-3)
    assert (then["symbol"], then["session"], then["adjusted"]) == ("AAPL", "2024-03-01", False)
    assert datetime.fromisoformat(then["as_of"]) == datetime.fromisoformat(before)
    assert now["as_of"] is None


def test_bars_come_in_every_format_with_the_same_prices(desk: Desk, tmp_path: Path) -> None:
    desk.run("pull", "AAPL", *YEAR)
    rows = desk.run("bars", "AAPL", "--json").json
    assert [row["session"] for row in rows] == sorted(row["session"] for row in rows)
    assert len(rows) == SESSIONS_OF_2024
    closes = [row["close"] for row in rows]
    csv = pd.read_csv(io.StringIO(desk.run("bars", "AAPL", "--format", "csv").out))
    assert list(csv["close"]) == closes
    written = desk.run("bars", "AAPL", "-o", str(tmp_path / "aapl.parquet"))
    assert written.code == 0
    assert list(pd.read_parquet(tmp_path / "aapl.parquet")["close"]) == closes
    assert list(tmp_path.glob(".*")) == []
    assert len(desk.run("bars", "AAPL").out.splitlines()) == SESSIONS_OF_2024 + 2


def test_bars_of_shares_and_indices_of_two_markets_come_together(desk: Desk) -> None:
    desk.run("pull", "AAPL", "^SPX", "--from", "2024-01-02", "--to", "2024-01-05")
    desk.run("pull", "PKO", "--market", "pl", "--from", "2024-01-02", "--to", "2024-01-05")
    rows = desk.run("bars", "AAPL", "^SPX", "PKO", "--json").json
    assert {(row["market"], row["symbol"]) for row in rows} == {("us", "AAPL"), ("us", "^SPX"), ("pl", "PKO")}


def test_a_symbol_without_bars_is_an_error_that_says_what_to_run(desk: Desk) -> None:
    ended = desk.run("bars", "MSFT")
    assert (ended.code, ended.out) == (1, "")
    assert "market-pipelines pull MSFT" in ended.err
    desk.run("pull", "AAPL")
    some = desk.run("bars", "AAPL", "MSFT", "--json")
    assert some.code == 3
    assert len(some.json) == 30


def test_a_notebook_reads_the_same_bars(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run("pull", "AAPL", *YEAR)
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    asked_before = desk.simulator.requests.count()
    frame = market_pipelines.bars("AAPL", "2024-03-01", "2024-03-05", adjusted=True)  # type: ignore[operator]
    assert list(frame["session"].dt.strftime("%m-%d")) == ["03-01", "03-04", "03-05"]
    assert desk.simulator.requests.count() == asked_before


# --- backfill and reparse -----------------------------------------------------------------------------------


def test_a_backfill_leaves_out_what_is_complete(desk: Desk) -> None:
    words = ("backfill", "--market", "pl", "--from", "2024-01-02", "--to", "2024-02-29", "--json")
    first = desk.run(*words)
    assert first.code == 0, first.err
    asked_for = [line["symbol"] for line in first.json["symbols"]]
    assert {line["rows"] for line in first.json["symbols"]} == {first.json["sessions"]} == {43}
    assert first.json["skipped"] == ["ZAB"], "it was listed later"
    assert first.json["seconds"] > 0
    asked = desk.simulator.requests.count()
    second = desk.run(*words)
    assert second.json["symbols"] == []
    assert sorted(second.json["skipped"]) == sorted([*asked_for, "ZAB"])
    assert desk.simulator.requests.count() == asked


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_backfill_goes_on_where_it_was(desk: Desk, number: signal.Signals, code: int) -> None:
    symbols = "AAPL,MSFT,NVDA,AMZN,GOOGL,META,TSLA,JPM,V,MA,XOM,KO"
    words = ("backfill", "--market", "us", *YEAR, "--symbols", symbols, "--json")
    desk.simulator.faults.add("yahoo.stall=2@XOM")
    with hearing_ctrl_c():
        process = desk.start(*words)
    with process:
        until(lambda: desk.simulator.requests.count("yahoo", "KO") > 0 or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "Interrupted: 10 of 12 symbols" in err
    assert json.loads(out)["interrupted"] is True
    assert len(json.loads(out)["symbols"]) == 10

    desk.simulator.faults.clear()
    desk.simulator.requests.clear()
    resumed = desk.run(*words)
    assert resumed.code == 0
    assert [line["symbol"] for line in resumed.json["symbols"]] == ["XOM", "KO"]
    assert desk.simulator.requests.count("yahoo") == 2
    with psycopg.connect(desk.url) as connection:
        rows = connection.execute("SELECT count(*), count(DISTINCT symbol) FROM market.stock_prices").fetchone()
        jobs = [str(job.status) for job in recent_jobs(connection)]
    assert rows == (12 * SESSIONS_OF_2024, 12)
    assert jobs == ["success", "failure"]


def test_reparse_rebuilds_lost_bars_from_the_archive_and_asks_nobody(desk: Desk) -> None:
    desk.run("pull", "AAPL", "SIMH", *YEAR)
    rows = "SELECT symbol, session, open, high, low, close, volume, provider FROM market.stock_prices ORDER BY 1, 2"
    with psycopg.connect(desk.url) as connection:
        before = connection.execute(rows).fetchall()
        connection.execute("TRUNCATE market.stock_prices, market.provider_bars")
    asked = desk.simulator.requests.count()
    ended = desk.run("reparse", "--json")
    assert ended.code == 0
    assert (ended.json["answers"], ended.json["inserted"]) == (2, len(before))
    with psycopg.connect(desk.url) as connection:
        assert connection.execute(rows).fetchall() == before
    assert desk.simulator.requests.count() == asked


# --- status, providers --------------------------------------------------------------------------------------


def test_status_tells_of_everything_in_one_document(desk: Desk) -> None:
    desk.simulator.faults.add("yahoo.body=html@MSFT")
    desk.run("pull", "AAPL", "MSFT")
    ended = desk.run("status", "--json")
    assert ended.code == 0
    state = ended.json
    assert {"database", "providers", "freshness", "coverage", "jobs", "stream"} <= state.keys()
    assert state["database"]["kind"] == "external"
    assert state["database"]["pending"] == []
    assert state["database"]["size_bytes"] > 1_000_000
    yahoo = next(one for one in state["providers"] if one["provider"] == "yahoo")
    assert yahoo["ready"] is True
    assert yahoo["simulated"] is True
    assert yahoo["requests_today"] == desk.simulator.requests.count("yahoo")
    assert 0 < yahoo["failed_share_24h"] < 1
    us = next(one for one in state["freshness"] if one["market"] == "us")
    assert us["newest_stored"] == us["last_closed"]
    assert us["symbols_behind"] == us["symbols"] - 2
    covered = next(one for one in state["coverage"] if one["market"] == "us")
    assert covered["available"] == 60
    assert covered["never_checked"] == 30 * (us["symbols"] - 2)
    assert [job["job_name"] for job in state["jobs"]] == ["pull"]
    assert (state["stream"]["running"], state["stream"]["feeds"]) == (False, [])
    assert state["up"] == {"running": False, "addresses": {}}


def test_status_shows_no_database_password(desk: Desk) -> None:
    desk.more = {"DATABASE_URL": desk.url.replace("postgres@", "postgres:PLANTED-PASSWORD@")}
    ended = desk.run("status")
    assert ended.code == 0, ended.err
    assert "postgres:[redacted]@" in ended.out
    assert "PLANTED-PASSWORD" not in ended.out + ended.err


def test_providers_are_listed_with_exchanges_and_limits(desk: Desk) -> None:
    desk.more = {"MARKET_PIPELINES_SIMULATOR": "off", "STOOQ_BASE_URL": "", "STOOQ_RATE_LIMIT": "7"}
    found = {one["provider"]: one for one in desk.run("provider", "list", "--json").json}
    assert found["alpha_vantage"]["exchanges"] == ["XLON", "XNYS"]
    assert found["yahoo"]["basis"] == "traded"
    assert found["stooq"]["ready"] is False
    assert "STOOQ_API_KEY" in found["stooq"]["reason"]
    assert found["stooq"]["limits"]["per_minute"] == 7


# --- the database -------------------------------------------------------------------------------------------


@pytest.fixture
def own_home() -> Iterator[Path]:
    """A folder that an unprivileged server account can reach."""
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"


def test_the_embedded_server_is_started_described_and_stopped(own_home: Path) -> None:
    environment = {"MARKET_PIPELINES_HOME": str(own_home), "LOG_LEVEL": "WARNING"}

    def db(*words: str) -> Ended:
        ended = CliRunner().invoke(app, ["db", *words], env=environment)
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    assert db("url").code == 1
    assert db("init", "--json").json["pending"] == []
    try:
        assert db("init").code == 0
        state = db("status", "--json").json
        assert (state["kind"], state["running"], state["pending"]) == ("embedded", True, [])
        assert state["size_bytes"] > 1_000_000
        url = db("url").out.strip()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM market.stock_prices").fetchone() == (0,)
        assert db("upgrade", "--json").json["applied"] == []
    finally:
        assert db("stop").err == "stopped\n"
    assert db("stop").err == "it was not running\n"


def test_an_external_database_is_upgraded_and_its_password_shown_only_on_request(
    postgres_server: PostgresServer, desk: Desk
) -> None:
    empty = postgres_server.create(migrated=False)
    desk.more = {"DATABASE_URL": empty.replace("postgres@", "postgres:PLANTED-PASSWORD@")}
    before = desk.run("db", "status", "--json").json
    assert (before["kind"], before["revision"]) == ("external", None)
    assert before["pending"] != []
    assert desk.run("db", "upgrade").code == 0
    assert desk.run("db", "status", "--json").json["pending"] == []
    assert "PLANTED-PASSWORD" not in desk.run("db", "url").out
    assert desk.run("db", "url", "--show-password").out.strip() == desk.more["DATABASE_URL"]
    assert desk.run("db", "stop").code == 1
    postgres_server.drop(empty)


def test_a_database_that_cannot_be_reached_is_named_without_its_password(desk: Desk) -> None:
    desk.more = {"DATABASE_URL": "postgresql://me:PLANTED-PASSWORD@127.0.0.1:1/nowhere"}
    for words in (("pull", "AAPL"), ("bars", "AAPL"), ("status",), ("db", "status")):
        ended = desk.run(*words)
        assert (ended.code, ended.out) == (1, "")
        assert "127.0.0.1" in ended.err
        assert "PLANTED-PASSWORD" not in ended.err
        assert "Traceback" not in ended.err


# --- the simulator ------------------------------------------------------------------------------------------


def test_a_running_simulator_is_found_by_other_commands_and_leaves_no_trace(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    url = postgres_server.create()
    environment = {"MARKET_PIPELINES_HOME": str(home), "DATABASE_URL": url, "LOG_LEVEL": "WARNING"}
    note = home / "run" / "simulator.json"
    words = ("simulate", "--port", "0", "--fault", "yahoo.status=503")
    with start_command(words, environment, tmp_path) as process:
        try:
            until(lambda: note.exists() or process.poll() is not None)
            assert process.stdout is not None
            address = json.loads(note.read_text())["url"]
            lines = [process.stdout.readline().strip() for _ in range(3)]
            assert f"export YAHOO_BASE_URL={address}/yahoo" in lines
            ended = CliRunner().invoke(app, ["pull", "AAPL", "--json"], env=environment)
            assert json.loads(ended.stdout)["symbols"][0]["provider"] == "simulated-alpha_vantage"
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert not note.exists()
    postgres_server.drop(url)


def test_an_attached_simulator_ends_with_its_standard_input(tmp_path: Path) -> None:
    environment = {"MARKET_PIPELINES_HOME": str(tmp_path / "home")}
    with start_command(("simulate", "--port", "0", "--attached"), environment, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert json.loads(process.stdout.readline())["url"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert not (tmp_path / "home" / "run" / "simulator.json").exists()


def test_a_taken_port_is_named(simulator: Simulator, tmp_path: Path) -> None:
    port = simulator.url.rpartition(":")[2]
    ended = CliRunner().invoke(app, ["simulate", "--port", port], env={"MARKET_PIPELINES_HOME": str(tmp_path)})
    assert ended.exit_code == 1
    assert f"port {port}" in ended.stderr


def test_every_fault_is_listed() -> None:
    ended = CliRunner().invoke(app, ["simulate", "--list-faults"])
    assert ended.exit_code == 0
    assert "yahoo.status" in ended.stdout


# --- secrets and streams ------------------------------------------------------------------------------------


def test_a_key_is_nowhere_in_what_a_run_wrote(desk: Desk) -> None:
    key = "PLANTEDKEY7F3A"
    log = desk.home / "logs" / "commands.log"
    desk.more = {
        "ALPHA_VANTAGE_API_KEY": key,
        "PRIMARY_PROVIDER": "alpha_vantage",
        "LOG_LEVEL": "DEBUG",
        "MARKET_DATA_LOG_FILE": str(log),
        "FALLBACK_PROVIDERS": "stooq",
    }
    # The daily notice repeats the key to whoever sent it; a broken connection has the address in its message.
    desk.simulator.faults.add("alpha_vantage.body=daily_limit@AAPL")
    with desk.start("pull", "AAPL", "MSFT", *YEAR) as process:
        said = "".join(process.communicate(timeout=PATIENCE))
    broken = {"ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:1"}
    for words, more in ((("pull", "AAPL", "--json"), broken), (("status",), {}), (("provider", "list"), {})):
        ended = replace(desk, more=desk.more | more).run(*words)
        said += ended.out + ended.err
    assert "alpha_vantage" in said
    assert key not in said

    assert log.stat().st_size > 0
    bodies = []
    for path in (path for path in desk.home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
            bodies.append(content)
        assert key.encode() not in content, path
    assert any(MASK.encode() in body for body in bodies), "the provider repeated the key, and it was masked"
    with psycopg.connect(desk.url) as connection:
        asked = [fetch.provider for fetch in fetches(connection)]
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'market'").fetchall()
        for (table,) in tables:
            rows = sql.SQL("SELECT t::text FROM market.{} AS t").format(sql.Identifier(table))
            for (row,) in connection.execute(rows):
                assert key not in row, table
    assert "simulated-alpha_vantage" in asked


def test_with_json_nothing_else_is_on_stdout_of_a_real_process(desk: Desk) -> None:
    desk.more = {"LOG_LEVEL": "DEBUG"}
    with desk.start("pull", "AAPL", "NOSUCH", "--json") as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert len(out.splitlines()) == 1
    assert {line["symbol"] for line in json.loads(out)["symbols"]} == {"AAPL", "NOSUCH"}
    assert "sessions" in err


def test_a_reader_that_leaves_early_is_no_error(desk: Desk) -> None:
    desk.run("pull", "AAPL", "MSFT", "--from", "2015-01-02")
    with desk.start("bars", "AAPL", "MSFT") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0
