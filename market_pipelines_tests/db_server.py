"""A db_server as the old system has them: ticks by HTTP into a real SQLite table that ignores what it has already."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_SCHEMA = """CREATE TABLE IF NOT EXISTS realtime_data (
    ticker TEXT NOT NULL, data_type TEXT NOT NULL, timestamp TEXT NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (ticker, data_type, timestamp)
)"""


class DbServer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self.requests: list[dict[str, Any]] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []
        """In place of its own, one a request, as long as there are any; None of those is stored."""
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(_SCHEMA)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        with closing(sqlite3.connect(self._path)) as database:
            found = database.execute("SELECT data_type, record FROM realtime_data ORDER BY rowid").fetchall()
        return [(data_type, json.loads(record)) for data_type, record in found]

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    @contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def take(self, command: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(command)
        if self.answers:
            return self.answers.pop(0)
        given = command["params"]
        if command["command"] != "save_realtime_data" or given["on_duplicate"] != "ignore":
            return 400, {"error": "unknown command"}
        index = given["index_col"]
        rows = [(given["ticker"], given["data_type"], one[index], json.dumps(one)) for one in given["data"]]
        with closing(sqlite3.connect(self._path)) as database, database:
            database.executemany("INSERT OR IGNORE INTO realtime_data VALUES (?, ?, ?, ?)", rows)
        return 200, {"success": True, "rows": len(rows)}


def _handler(server: DbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404, {"status": "ok"})

        def do_POST(self) -> None:
            command = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._answer(*server.take(command) if self.path == "/db_command" else (404, {}))

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            # A server that stops must not leave a thread of it serving what is still connected.
            self.send_header("connection", "close")
            self.close_connection = True
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
