"""What every kind of test may ask for: a real PostgreSQL, and fresh migrated databases on it.

`TEST_DATABASE_URL` names a server to use (its account has to be allowed to create databases). Without it each
test process runs an embedded server of its own, below a short folder of the temp dir, and removes it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from xdist.scheduler import LoadFileScheduling

from market_pipelines.store import schema
from market_pipelines.store.database import Database
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.urls import libpq_url
from market_pipelines_tests import process_state
from market_pipelines_tests.servers import (  # noqa: F401  (fixtures for all)
    pocketbase_server,
    questdb_server,
    redis_server,
    running_pocketbase,
    running_questdb,
    running_redis,
)
from market_pipelines_tests.serving import Platform, short_folder

LONGEST = ("test_month", "test_dagster_pages", "test_up", "test_ci_page", "test_poll_commands", "test_benchmarks")
"""Begun first, so that no worker is left alone with one of them at the end."""
ON_ONE_PLATFORM = ("test_dagster_pages", "test_up")
"""They look at one `up`, which takes a minute to fill: one worker has both, and the pages come before the kills."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """By file, as `--dist loadfile` does it, but for those that share a platform."""

    def scope(nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "one platform" if Path(file).stem in ON_ONE_PLATFORM else file

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = scope
    return scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="module", autouse=True)
def the_next_file_finds_the_process_as_this_one_did() -> Iterator[None]:
    found = process_state.Found()
    with process_state.put_back():
        yield
    changed = found.changed()
    assert not changed, "this file's tests leave behind:\n" + "\n".join(changed)


class PostgresServer:
    """A server on which tests make and drop databases of their own."""

    def __init__(self, admin_url: str) -> None:
        self._admin = urlsplit(libpq_url(admin_url))
        self._mark = f"mp_test_{os.getpid()}_{secrets.token_hex(3)}"
        self._template: str | None = None
        self._made = 0

    def url(self, name: str) -> str:
        return urlunsplit(self._admin._replace(path=f"/{name}"))

    def create(self, *, migrated: bool = True) -> str:
        """The URL of a new database; migrated ones are copies of one that was migrated once."""
        template = self._migrated_template() if migrated else "template0"
        self._made += 1
        name = f"{self._mark}_{self._made}"
        # Copying files takes a tenth of the time that copying through the write-ahead log takes.
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return self.url(name)

    def drop(self, url: str) -> None:
        name = urlsplit(url).path.lstrip("/")
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        if self._template is not None:
            self.drop(self.url(self._template))

    def _migrated_template(self) -> str:
        if self._template is None:
            name = f"{self._mark}_template"
            self._run(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
            self._template = name
            schema.upgrade(self.url(name))
        return self._template

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(urlunsplit(self._admin), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """For starting a program that has to hear Ctrl-C: a shell's background jobs ignore it and hand that on."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, inherited)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    external = os.environ.get("TEST_DATABASE_URL")
    if external:
        server = PostgresServer(external)
        yield server
        server.close()
        return
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with EmbeddedServer(folder / "home", fsync=False) as embedded:
            server = PostgresServer(embedded.url("postgres"))
            yield server
            server.close()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def started_platform() -> Iterator[Platform]:
    """Started once. Who is last to look at it ends it, so that it does not run beside the tests that follow."""
    with short_folder() as folder:
        platform = Platform(folder)
        platform.start()
        try:
            yield platform
        finally:
            platform.end()


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A migrated database that the tests of one module share."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def fresh_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A migrated database for one test."""
    url = postgres_server.create()
    with Database(url, pool_size=4) as opened:
        yield opened
    postgres_server.drop(url)
