"""The door to PostgreSQL: a pool of connections, each handed out for one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from market_pipelines.redaction import redact
from market_pipelines.settings import Settings
from market_pipelines.store import schema
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.urls import DatabaseUnavailable, libpq_url, printable_url

__all__ = ["Database", "DatabaseUnavailable", "Transaction", "database_name", "open_database"]

Transaction = psycopg.Connection[tuple[Any, ...]]

_CONNECT_SECONDS = 10
_WAIT_FOR_CONNECTION_SECONDS = 30.0
_LOOK_AFTER_SECONDS = 2.0
"""Who waits this long for a connection asks whether there is a server at all."""
_LOCK_SECONDS = 60.0
_IDLE_IN_TRANSACTION_SECONDS = 600.0


class Database:
    """One database. Safe to share between threads; every `connection()` is a transaction of its own."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        statement_timeout: float = 60.0,
        server: EmbeddedServer | None = None,
    ) -> None:
        self.url = libpq_url(url)
        """With the password, if there is one: not for printing."""
        self.server = server
        """The embedded server that `close` leaves, if this is one of its databases."""
        self._limits = {
            "TimeZone": "UTC",
            "application_name": "market_pipelines",
            "statement_timeout": _milliseconds(statement_timeout),
            "lock_timeout": _milliseconds(_LOCK_SECONDS),
            "idle_in_transaction_session_timeout": _milliseconds(_IDLE_IN_TRANSACTION_SECONDS),
        }
        self._answer_once()
        self._pool: ConnectionPool[Transaction] = ConnectionPool(
            self.url,
            min_size=1,
            max_size=pool_size,
            timeout=_WAIT_FOR_CONNECTION_SECONDS,
            kwargs={"connect_timeout": _CONNECT_SECONDS},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            open=True,
        )

    @property
    def safe_url(self) -> str:
        return printable_url(self.url)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Transaction]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        with self._lent() as connection, connection:
            yield connection

    @contextlib.contextmanager
    def statements(self) -> Iterator[Transaction]:
        """Each statement is a transaction by itself, committed when it returns: one round trip, and no lock is
        ever held by a process that stopped in between."""
        with self._lent() as connection:
            connection.autocommit = True
            try:
                yield connection
            finally:
                if connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
                    connection.autocommit = False
                else:
                    connection.close()

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Transaction]:
        connection = self._taken()
        try:
            yield connection
        except psycopg.OperationalError as error:
            if not connection.broken:
                raise
            raise DatabaseUnavailable(f"the connection to {self.safe_url} broke off: {_one_line(error)}") from error
        except psycopg.errors.ReadOnlySqlTransaction as error:
            connection.close()  # a standby since a fail-over: the next one may find who takes writes now
            raise DatabaseUnavailable(f"{self.safe_url} takes no writes, as a standby: {_one_line(error)}") from error
        finally:
            self._pool.putconn(connection)

    def _taken(self) -> Transaction:
        """A connection of the pool. One that is busy is waited for, a server that is gone is not."""
        try:
            return self._pool.getconn(_LOOK_AFTER_SECONDS)
        except PoolTimeout:
            self._answer_once()
        try:
            return self._pool.getconn(_WAIT_FOR_CONNECTION_SECONDS - _LOOK_AFTER_SECONDS)
        except PoolTimeout:
            raise DatabaseUnavailable(
                f"no connection to {self.safe_url} within {_WAIT_FOR_CONNECTION_SECONDS:.0f} s: "
                "the server is gone, or every connection is busy"
            ) from None

    def close(self) -> None:
        self._pool.close()
        if self.server is not None:
            self.server.stop()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer_once(self) -> None:
        """The pool would try in the background for ever and tell only its log why; the first caller wants to know."""
        try:
            psycopg.connect(self.url, connect_timeout=_CONNECT_SECONDS).close()
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"the database {self.safe_url} cannot be used: {_one_line(error)}") from None

    def _configure(self, connection: Transaction) -> None:
        for name, value in self._limits.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.commit()


def open_database(
    settings: Settings,
    *,
    simulated: bool,
    keep: bool = False,
    pool_size: int = 8,
    migrate: bool = True,
) -> Database:
    """The operator's database where one is set, otherwise the embedded server's, started if need be.

    `keep` leaves the embedded server running after its last user. `migrate` brings the schema to the newest step;
    a schema from a newer release is refused either way.
    """
    external = settings.external_database_url
    if external is not None:
        return _opened(external, None, pool_size, migrate)
    server = EmbeddedServer(settings.home)
    server.start(keep)
    try:
        name = database_name(simulated=simulated)
        server.ensure_database(name)
        return _opened(server.url(name), server, pool_size, migrate)
    except BaseException:
        server.stop()
        raise


def database_name(*, simulated: bool) -> str:
    """The embedded server's database: made-up and real data never share one."""
    return "market_pipelines_simulated" if simulated else "market_pipelines"


def _opened(url: str, server: EmbeddedServer | None, pool_size: int, migrate: bool) -> Database:
    database = Database(url, pool_size=pool_size, server=server)
    try:
        if migrate:
            schema.upgrade(url)
        else:
            schema.status(url)
    except BaseException:
        database.close()
        raise
    return database


def _one_line(error: psycopg.Error) -> str:
    return " ".join(redact(str(error)).split())


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
