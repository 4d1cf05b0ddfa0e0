"""QuestDB: every tick in its tables, sent as line protocol over HTTP, one table's rows as one transaction.

QuestDB and our cursor share no transaction, so rows may come twice; the tables' upsert keys make that change
nothing. The client keeps no store of its own on disk and tries nothing again: the journal and the sink's owner do.
Tables are made and looked at over QuestDB's PostgreSQL wire. A row that was taken can be read once QuestDB has
applied its log, usually within milliseconds. What a power cut takes from QuestDB is a matter of its own
`cairo.commit.mode`.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.redaction import redact
from market_pipelines.settings import Settings
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.questdb_tables import TABLES, Table, prepare

if TYPE_CHECKING:
    from questdb import Sender

ROWS_A_TRANSACTION = 100_000
"""About twenty megabytes."""
SECONDS_TO_CONNECT = 5
SECONDS_TO_ANSWER = 10
SECONDS_TO_PREPARE = 30.0
SLOWEST_BYTES_A_SECOND = 1_000_000
"""A transaction may take as long as its size takes at this rate, besides `SECONDS_TO_ANSWER`."""
LOOK_EVERY = 60.0
"""Seconds between two looks whether QuestDB applies what it takes."""


class QuestDbSink:
    name = "questdb"
    collects = 0.5

    def __init__(
        self,
        host: str,
        cursors: CursorFile,
        *,
        market: str,
        user: str,
        password: str,
        ilp_port: int = 9000,
        port: int = 8812,
        tls: bool = False,
        rows_a_transaction: int = ROWS_A_TRANSACTION,
    ) -> None:
        self._host = host
        self._cursors = cursors
        self._market = market
        self._ilp_port = ilp_port
        self._port = port
        self._user = user
        self._password = password
        self._tls = tls
        self._rows_a_transaction = rows_a_transaction
        self._sender: Sender | None = None
        self._cursor: Cursor | None = None
        self._looked = 0.0

    @classmethod
    def from_settings(cls, settings: Settings, plan: StreamPlan, cursors: CursorFile) -> Self:
        if settings.questdb_host is None:
            raise SinkRefused("QUESTDB_HOST is not set")
        return cls(
            settings.questdb_host,
            cursors,
            market=plan.market,
            ilp_port=settings.questdb_ilp_port,
            port=settings.questdb_port,
            user=settings.questdb_user,
            password=settings.questdb_password.get_secret_value(),
            tls=settings.questdb_tls,
        )

    def open(self) -> Cursor | None:
        try:
            from questdb import QuestDBError, Sender  # noqa: PLC0415 (an extra)
        except ImportError:
            raise SinkRefused(
                "the questdb package is not installed; pip install 'market_pipelines[questdb]' or leave QUESTDB_HOST "
                "empty"
            ) from None
        self.close()
        self._prepare()
        sender = Sender.from_conf(
            f"{'https' if self._tls else 'http'}::addr={_bracketed(self._host)}:{self._ilp_port};",
            username=self._user,
            password=self._password,
            auto_flush=False,
            retry_timeout=0,  # whoever owns the sink tries again
            request_timeout=SECONDS_TO_ANSWER * 1000,
            request_min_throughput=SLOWEST_BYTES_A_SECOND,
            **({"tls_ca": _roots()} if self._tls else {}),
        )
        try:
            sender.__enter__()  # establishes it
        except QuestDBError as error:
            raise self._trouble(error) from None
        self._sender = sender
        self._cursor = self._cursors.read()
        return self._cursor

    def write(self, chunk: Chunk) -> int:
        if self._cursor is not None and self._cursor.journal == chunk.journal and chunk.upto <= self._cursor.position:
            return 0
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._prepare()
        rows = 0
        for kind, table in TABLES.items():
            for part in _parts(chunk.table(kind), self._rows_a_transaction):
                self._send(table, part)
                rows += len(part)
        cursor = Cursor(chunk.journal, chunk.upto)
        self._cursors.write(cursor)
        self._cursor = cursor
        return rows

    def close(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close(flush=False)

    # --- rows ------------------------------------------------------------------------------------------------

    def _send(self, table: Table, part: pa.Table) -> None:
        from questdb import QuestDBError  # noqa: PLC0415 (an extra, which is there by now)

        if self._sender is None:
            raise SinkUnavailable(f"QuestDB ({self._host}:{self._ilp_port}) is not open")
        frame = _columns(part, table, self._market).to_pandas()
        try:
            with self._sender.transaction(table.name) as transaction:
                transaction.dataframe(frame, at="ts", symbols=table.symbols)
        except QuestDBError as error:
            raise self._trouble(error) from None

    def _trouble(self, error: Any) -> SinkRefused | SinkUnavailable:
        from questdb import QuestDBErrorCode as Code  # noqa: PLC0415

        where = f"QuestDB ({self._host}:{self._ilp_port})"
        said = redact(" ".join(str(error).split()))
        if error.code is Code.AuthError:
            return SinkRefused(f"{where} does not let us in: {said}; see QUESTDB_USER and QUESTDB_PASSWORD")
        refused = error.code in (Code.TlsError, Code.ConfigError, Code.HttpNotSupported, Code.InvalidName)
        if refused or (error.code is Code.ServerFlushError and '"code":"invalid"' in said):
            return SinkRefused(f"{where} does not take this: {said}")
        return SinkUnavailable(f"{where} cannot be written to: {said}")

    # --- tables ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Makes what is missing, and looks whether what is there is ours and QuestDB is well."""
        where = f"QuestDB ({self._host}:{self._port})"
        try:
            with (
                psycopg.connect(
                    host=self._host,
                    port=self._port,
                    user=self._user,
                    password=self._password,
                    dbname="qdb",
                    connect_timeout=SECONDS_TO_CONNECT,
                    autocommit=True,
                    tcp_user_timeout=SECONDS_TO_ANSWER * 1000,
                    **self._pg_tls(),
                ) as connection,
                _hung_up_on(connection, SECONDS_TO_PREPARE),
            ):
                connection.prepare_threshold = None
                prepare(connection, where)
        except psycopg.OperationalError as error:
            said = redact(" ".join(str(error).split()))
            if any(words in said for words in ("invalid username/password", "authentication failed")):
                raise SinkRefused(
                    f"{where} does not let us in: {said}; see QUESTDB_USER and QUESTDB_PASSWORD"
                ) from None
            if "does not support SSL" in said or "certificate verify failed" in said:
                raise SinkRefused(f"{where} cannot be talked to by TLS: {said}; see QUESTDB_TLS") from None
            raise SinkUnavailable(f"{where} cannot be reached: {said}") from None
        except psycopg.Error as error:
            raise SinkUnavailable(f"{where} does not make its tables: {redact(' '.join(str(error).split()))}") from None
        self._looked = time.monotonic()

    def _pg_tls(self) -> dict[str, Any]:
        if not self._tls:
            return {"sslmode": "disable"}
        known = ssl.get_default_verify_paths().cafile
        return {"sslmode": "verify-full", "sslrootcert": known or "system"}


@contextmanager
def _hung_up_on(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Ends the connection of a server that has not answered by then: QuestDB knows no statement timeout, and one that
    stands still keeps its connections."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(seconds, _hang_up, (line,))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _parts(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)


def _columns(part: pa.Table, table: Table, market: str) -> pa.Table:
    """As the table of QuestDB has them: what repeats as a dictionary, no whole number missing."""
    made: dict[str, Any] = {}
    for name, kind in table.columns.items():
        if name == "market":
            made[name] = pa.repeat(market, len(part)).dictionary_encode()
        elif name == "seconds":
            begins, ends = (part[column].cast(pa.int64()) for column in ("start", "end"))
            made[name] = pc.divide(pc.subtract(ends, begins), pa.scalar(1_000_000_000))
        else:
            column = part[table.renamed.get(name, name)]
            if kind == "SYMBOL":
                made[name] = column.dictionary_encode().unify_dictionaries()
            else:
                made[name] = _numbered(column) if kind in ("LONG", "INT") else column
    return pa.table(made)


def _numbered(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    return pc.coalesce(column, pa.scalar(0, column.type)) if column.null_count else column


def _roots() -> Any:
    from questdb import TlsCa  # noqa: PLC0415

    return TlsCa.WebpkiAndOsRoots


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
