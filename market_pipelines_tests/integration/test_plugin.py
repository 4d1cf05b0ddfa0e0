"""A provider outside of this repository: installed, registered by its entry point, held to the contract, asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "acme_provider"
BARS = (
    b"date,symbol,open,high,low,close,volume\n"
    b"2026-11-16,AAPL,100,102,99,101,1000\n2026-11-17,AAPL,101,103,100,102,1100\n"
)
QUOTE = b'{"symbol": "AAPL", "price": 102.5, "time": "2026-11-17T20:59:58+00:00"}'


class _Acme(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = BARS if self.path.startswith("/daily.csv") else QUOTE
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def acme() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Acme) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip installs it, beside this project."""
    target = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "acme_provider.py"):
        (source / name).write_bytes((EXAMPLE / name).read_bytes())
    subprocess.run(
        [sys.executable, *command, "--target", str(target), str(source)], check=True, capture_output=True, timeout=120
    )
    return target


def run(*words: str, site: Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    paths = os.pathsep.join([str(site), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**environment, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_it_passes_the_contract_suite_that_this_package_brings(installed: Path, tmp_path: Path) -> None:
    test = tmp_path / "test_acme_provider.py"
    test.write_bytes((EXAMPLE / "test_acme_provider.py").read_bytes())
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(test), site=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


def test_it_is_listed_asked_and_named_in_what_is_stored(
    installed: Path, tmp_path: Path, acme: str, database_url: str
) -> None:
    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return run(
            "-m",
            "market_pipelines.cli",
            *words,
            "--json",
            site=installed,
            cwd=tmp_path,
            ACME_BASE_URL=acme,
            DATABASE_URL=database_url,
            MARKET_PIPELINES_HOME=str(tmp_path / "home"),
            MARKET_PIPELINES_SIMULATOR="off",
        )

    listed = {one["provider"]: one for one in json.loads(ask("provider", "list").stdout)}
    assert listed["acme"]["ready"]
    assert set(listed["acme"]["capabilities"]) == {"daily", "quote"}
    pulled = ask("pull", "AAPL", "--provider", "acme", "--from", "2026-11-16", "--to", "2026-11-17")
    assert pulled.returncode == 0, pulled.stderr
    (symbol,) = json.loads(pulled.stdout)["symbols"]
    assert (symbol["outcome"], symbol["provider"], symbol["rows"]) == ("ok", "acme", 2)
    quoted = ask("quote", "AAPL", "--provider", "acme")
    assert quoted.returncode == 0, quoted.stderr
    assert "102.5" in quoted.stdout
