"""A db_server of the old system: ticks by HTTP, one request for a symbol's quotes and one for its trades a batch.

It has no transaction with us and no cursor: a batch that comes again is ignored there row by row
(`on_duplicate: ignore`), and what it has accepted of a batch is not sent again after an error in the middle.
Its key is a symbol's timestamp, while feeds have milliseconds and many ticks in one; so the digits below the
millisecond, which such a feed leaves empty, are filled from the sequence number. Bars and price bands are
not sent: it knows neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import msgspec
import polars as pl
import urllib3

from market_pipelines.market.records import TickKind
from market_pipelines.redaction import redact
from market_pipelines.settings import Settings
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.records import frame_of, record

ROWS_A_REQUEST = 5_000
TIMEOUT = urllib3.Timeout(connect=5.0, read=15.0)

_KINDS = {TickKind.QUOTES: "quote", TickKind.TRADES: "trade", TickKind.SNAPSHOTS: "quote"}

_Group = tuple[TickKind, str]


class DbServerSink:
    name = "db_server"
    collects = 1.0

    def __init__(self, address: str, cursors: CursorFile, *, rows_a_request: int = ROWS_A_REQUEST) -> None:
        self._address = address
        self._url = f"http://{address}/db_command"
        self._cursors = cursors
        self._rows_a_request = rows_a_request
        self._pool: urllib3.PoolManager | None = None
        self._cursor: Cursor | None = None
        self._accepted: dict[_Group, tuple[int, str]] = {}
        """Of the batch that begins after `_accepted_after`: so many rows of each symbol are there, and the last one
        of them, because a journal that is read again may give them differently."""
        self._accepted_after: Cursor | None = None

    @classmethod
    def from_settings(cls, settings: Settings, cursors: CursorFile) -> Self:
        if settings.db_server is None:
            raise SinkRefused("DB_SERVER is not set")
        return cls(settings.db_server, cursors)

    def open(self) -> Cursor | None:
        self.close()
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, timeout=TIMEOUT)
        self._sent("GET", f"http://{self._address}/health")
        self._cursor = self._cursors.read()
        return self._cursor

    def write(self, chunk: Chunk) -> int:
        if self._cursor is not None and self._cursor.journal == chunk.journal and chunk.upto <= self._cursor.position:
            return 0
        begins = Cursor(chunk.journal, chunk.after)
        if self._accepted_after != begins:
            self._accepted, self._accepted_after = {}, begins
        rows = 0
        for kind, data_type in _KINDS.items():
            for symbol, records in _by_symbol(chunk, kind):
                rows += self._give(kind, data_type, symbol, records)
        cursor = Cursor(chunk.journal, chunk.upto)
        self._cursors.write(cursor)
        self._cursor = cursor
        self._accepted, self._accepted_after = {}, None
        return rows

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.clear()

    def _give(self, kind: TickKind, data_type: str, symbol: str, records: list[str]) -> int:
        start, last = self._accepted.get((kind, symbol), (0, ""))
        if start and (start > len(records) or records[start - 1] != last):
            start = 0
        for first in range(start, len(records), self._rows_a_request):
            part = records[first : first + self._rows_a_request]
            # The records are JSON already.
            command = {
                "command": "save_realtime_data",
                "params": {
                    "ticker": symbol,
                    "data_type": data_type,
                    "data": [msgspec.Raw(one.encode()) for one in part],
                    "index_col": "timestamp",
                    "on_duplicate": "ignore",
                },
            }
            self._check(self._sent("POST", self._url, msgspec.json.encode(command)), symbol)
            self._accepted[kind, symbol] = first + len(part), part[-1]
        return len(records) - start

    def _sent(self, method: str, url: str, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
        if self._pool is None:
            raise SinkUnavailable(f"the db_server ({self._address}) is not open")
        try:
            return self._pool.request(
                method, url, body=body, headers={"content-type": "application/json"}, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise SinkUnavailable(f"the db_server ({self._address}) cannot be reached: {redact(str(error))}") from None

    def _check(self, answer: urllib3.BaseHTTPResponse, symbol: str) -> None:
        status, said = answer.status, redact(" ".join(answer.data[:500].decode(errors="replace").split()))
        where = f"the db_server ({self._address})"
        if status in (408, 425, 429) or status >= 500:
            raise SinkUnavailable(f"{where} cannot take {symbol} now ({status}): {said}")
        if not 200 <= status < 300:
            raise SinkRefused(f"{where} does not take {symbol} ({status}): {said}")
        if answer.data.lstrip()[:1] == b"<":
            raise SinkUnavailable(f"what answers at {self._address} is no db_server but a page: {said}")
        if _says_no(answer.data):
            raise SinkUnavailable(f"{where} could not store {symbol}: {said}")


def _by_symbol(chunk: Chunk, kind: TickKind) -> Iterator[tuple[str, list[str]]]:
    frame = frame_of(chunk, kind)
    if not len(frame):
        return
    timestamp = _apart() if "seq" in frame.columns else None
    made = frame.select("symbol", record(kind, timestamp).alias("record"))
    for symbol, records in made.group_by("symbol", maintain_order=True).agg("record").iter_rows():
        yield str(symbol), [str(one) for one in records]


def _apart() -> pl.Expr:
    """The time of a tick; of one whose time ends with its millisecond, its sequence number fills the rest: three
    digits for a server that keeps microseconds, three more for one that keeps all nine."""
    time, seq = pl.col("ts").cast(pl.Int64), pl.col("seq").fill_null(0)
    rest = (seq % 1000) * 1000 + (seq // 1000) % 1000
    return pl.when((time % 1_000_000 == 0) & (seq > 0)).then(time + rest).otherwise(time).cast(pl.Datetime("ns", "UTC"))


def _says_no(body: bytes) -> bool:
    """Some of these servers answer 200 and tell of their trouble in the body."""
    try:
        content: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    if not isinstance(content, dict):
        return False
    return content.get("success") is False or content.get("status") == "error" or bool(content.get("error"))
