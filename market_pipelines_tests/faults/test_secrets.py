"""R10: no secret in anything that a run wrote, whatever went wrong and however much was logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import psycopg
import pytest
import zstandard
from psycopg import sql

from market_pipelines.redaction import MASK
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
SESSION = "2025-06-12"
RANGE = ("--from", "2024-01-02", "--to", "2024-03-28")
NOBODY = "http://127.0.0.1:1"
"""An address where nothing listens: the connection's error text has the whole URL in it."""
BROKEN = {f"{provider}_BASE_URL": NOBODY for provider in ("ALPHA_VANTAGE", "STOOQ", "YAHOO")}
PATIENCE = 120.0

PLANTED = {
    "ALPHA_VANTAGE_API_KEY": "PLANTED+alpha/7F3A==",
    "STOOQ_API_KEY": "planted stooq&key#91c2",
    "database password": "Planted@Pass:word/55%d",
}
"""Each with signs that URLs, JSON and `repr` write in another way."""

NOWHERE = f"postgresql://me:{quote(PLANTED['database password'], safe='')}@127.0.0.1:1/nowhere"
"""What Python says of such a database has its whole address in it."""

DAGSTER_YAML = """
telemetry: {enabled: false}
run_storage:
  module: dagster._core.storage.runs
  class: SqliteRunStorage
  config: {base_dir: %(home)s/runs}
event_log_storage:
  module: market_pipelines.orchestration.storage
  class: LocalEventLogStorage
  config: {base_dir: %(home)s/events}
schedule_storage:
  module: dagster._core.storage.schedules
  class: SqliteScheduleStorage
  config: {base_dir: %(home)s/schedules}
compute_logs:
  module: dagster._core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {base_dir: %(home)s/compute_logs}
"""


def spellings(secret: str) -> set[bytes]:
    """How a secret may stand in a file: as it is, and as the encodings on its way would write it."""
    texts = {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        quote(quote(secret, safe=""), safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        repr(secret)[1:-1],
    }
    return {text.encode() for text in texts} | {text.lower().encode() for text in texts}


NEEDLES = {name: spellings(secret) for name, secret in PLANTED.items()}


def secrets_in(content: bytes) -> list[str]:
    lowered = content.lower()
    return [name for name, forms in NEEDLES.items() if any(form in content or form in lowered for form in forms)]


@dataclass
class Desk:
    """A data folder whose every process has the planted secrets in its environment."""

    folder: Path
    url: str
    simulator: Simulator
    said: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        return self.home / "logs" / "market_data.log"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.simulator.base_urls(),
            "MARKET_PIPELINES_HOME": str(self.home),
            "MARKET_PIPELINES_SIMULATOR": "off",
            "DATABASE_URL": self.url.replace("postgres@", f"postgres:{quote(PLANTED['database password'], safe='')}@"),
            "ALPHA_VANTAGE_API_KEY": PLANTED["ALPHA_VANTAGE_API_KEY"],
            "STOOQ_API_KEY": PLANTED["STOOQ_API_KEY"],
            "ALPHA_VANTAGE_RATE_LIMIT": "100000",
            "ALPHA_VANTAGE_DAILY_QUOTA": "0",
            "STOOQ_RATE_LIMIT": "100000",
            "YAHOO_RATE_LIMIT": "100000",
            "PRIMARY_PROVIDER": "alpha_vantage",
            "FALLBACK_PROVIDERS": "stooq",
            "LOG_LEVEL": "DEBUG",
            "MARKET_DATA_LOG_FILE": str(self.log),
            "DAGSTER_HOME": str(self.dagster_home),
            "PYTHONPATH": str(ROOT),
        }

    def command(self, *words: str, **more: str) -> int:
        return self._run([sys.executable, "-m", "market_pipelines.cli", *words], " ".join(words), more)

    def dagster(self, *rounds: dict[str, str]) -> list[str]:
        """How the job of `us` ended, in each of these circumstances."""
        self.dagster_home.mkdir(parents=True, exist_ok=True)
        (self.dagster_home / "dagster.yaml").write_text(DAGSTER_YAML % {"home": self.dagster_home})
        command = [sys.executable, "-m", "market_pipelines_tests.faults.dagster_run", "us_daily_refresh", SESSION]
        code = self._run(command, "dagster", {}, json.dumps(rounds))
        said = self.said[-1][1].decode()
        assert code == 0, said
        return [line.partition(": ")[2] for line in said.splitlines() if line.startswith("us_daily_refresh: ")]

    def _run(self, command: Sequence[str], name: str, more: dict[str, str], told: str = "") -> int:
        self.home.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run(
            command,
            input=told.encode(),
            env={**os.environ, **self.environment, **more},
            cwd=self.home,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        self.said.append((f"{len(self.said) + 1}: {name}", ended.stdout + ended.stderr))
        return ended.returncode

    def everything_written(self) -> Iterator[tuple[str, bytes]]:
        """Where, and what: terminal, files (archived answers as they were before compression), every table's rows."""
        yield from self.said
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if path.suffix == ".zst":
                content += zstandard.ZstdDecompressor().decompressobj().decompress(content)
            yield str(path.relative_to(self.folder)), content
        with psycopg.connect(self.url) as connection:
            tables = connection.execute(
                "SELECT schemaname, tablename FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            for schema, table in tables:
                copied = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, table))
                with connection.cursor().copy(copied) as rows:
                    yield f"{schema}.{table}", b"".join(bytes(row) for row in rows)


@pytest.fixture
def desk(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[Desk]:
    simulator.faults.clear()
    simulator.requests.clear()
    url = postgres_server.create()
    if "postgres@" not in url:
        pytest.skip("TEST_DATABASE_URL names a server with a password of its own: none can be planted")
    yield Desk(tmp_path, url, simulator)
    postgres_server.drop(url)


def assert_no_secret_anywhere(desk: Desk) -> dict[str, bytes]:
    written = dict(desk.everything_written())
    leaks = {where: found for where, content in written.items() if (found := secrets_in(content))}
    assert leaks == {}
    return written


def test_commands_leave_no_secret_behind_whatever_goes_wrong(desk: Desk) -> None:
    # Alpha Vantage repeats the key to whoever sent it; so does a page that Stooq might show.
    desk.simulator.faults.replace(["alpha_vantage.body=daily_limit@MSFT", "stooq.body=key_page@KO"])
    assert desk.command("pull", "AAPL", "MSFT", "KO", *RANGE, "--json") in (0, 3)
    assert desk.command("pull", "AAPL", *RANGE, **BROKEN) == 3
    assert desk.command("backfill", "--market", "us", *RANGE, "--symbols", "AAPL,MSFT,IBM") in (0, 3)
    assert desk.command("backfill", "--market", "us", *RANGE, "--dry-run") == 0
    assert desk.command("reparse") == 0
    assert desk.command("status") == 0
    assert desk.command("db", "url") == 0
    assert desk.command("pull", "AAPL", DATABASE_URL=NOWHERE) == 1
    assert desk.command("pull", "AAPL", DATABASE_URL=NOWHERE.replace("postgresql", "mysql")) == 2
    assert desk.command("pull", "AAPL", ALPHA_VANTAGE_BASE_URL=f"http://x.test/?apikey={PLANTED['STOOQ_API_KEY']}") == 2

    written = assert_no_secret_anywhere(desk)
    # All that was looked through was really written, and the keys were really sent.
    assert "home/logs/market_data.log" in written
    assert written["market.fetches"].count(b"\n") > 5
    assert written["market.stock_prices"]
    assert any(name.endswith(".zst") and MASK.encode() in content for name, content in written.items())
    assert any(b"DEBUG" in content or b"debug" in content for content in written.values())


def test_a_dagster_run_leaves_no_secret_behind_whatever_goes_wrong(desk: Desk) -> None:
    desk.simulator.faults.replace(["alpha_vantage.body=daily_limit@MSFT", "stooq.body=key_page"])
    ended = desk.dagster({}, BROKEN, {"DATABASE_URL": NOWHERE})
    assert ended[-1] == "failure", "a run without a database cannot end well"

    written = assert_no_secret_anywhere(desk)
    events = [name for name in written if name.startswith("home/dagster/events/") and name.endswith(".db")]
    computed = [name for name in written if name.startswith("home/dagster/compute_logs/")]
    assert events
    assert computed
    assert any(b"DatabaseUnavailable" in written[name] for name in events), "the failure's text was looked through"
    assert written["market.fetches"].count(b"\n") > 5


def test_a_planted_secret_would_be_found(desk: Desk) -> None:
    """The search itself can fail: each secret in each spelling, in a file, in an archived answer and in a table."""
    for name, forms in NEEDLES.items():
        for form in forms:
            assert secrets_in(b"before " + form + b" after") == [name], form
    secret = PLANTED["STOOQ_API_KEY"].encode()
    desk.home.mkdir()
    (desk.home / "a.zst").write_bytes(zstandard.ZstdCompressor().compress(b"[" + secret + b"]"))
    (desk.home / "a.log").write_bytes(b"apikey=" + quote(secret).encode())
    with psycopg.connect(desk.url) as connection:
        connection.execute(
            "INSERT INTO market.etl_job_logs (job_name, kind, market, started_at, status, error) "
            "VALUES ('pull', 'daily', 'us', now(), 'failure', %s)",
            (secret.decode(),),
        )
    found = {where for where, content in desk.everything_written() if secrets_in(content)}
    assert found == {"home/a.zst", "home/a.log", "market.etl_job_logs"}
