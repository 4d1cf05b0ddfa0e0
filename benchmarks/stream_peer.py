"""The vendor's own client with a table of DuckDB behind it, as its users write it: what came is flushed each second.

`python -m benchmarks.stream_peer HOST:PORT/polygon FILE EVENTS` ends when so many rows are in the table, and says how
long it took from the first of them, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import duckdb
import polars as pl
from massive import WebSocketClient
from massive.websocket.models import EquityQuote, EquityTrade

FLUSH_SECONDS = 1.0


def main(address: str, file: str, events: int) -> None:
    database = duckdb.connect(file)
    database.execute(
        "CREATE TABLE quotes (symbol text, ts bigint, bid double, ask double, bid_size double, seq bigint)"
    )
    database.execute("CREATE TABLE trades (symbol text, ts bigint, price double, size double, id text, seq bigint)")
    quotes: list[tuple[Any, ...]] = []
    trades: list[tuple[Any, ...]] = []
    stored, first, flushed = 0, 0.0, 0.0

    def flush() -> None:
        nonlocal stored
        for rows, table, columns in (
            (quotes, "quotes", ("symbol", "ts", "bid", "ask", "bid_size", "seq")),
            (trades, "trades", ("symbol", "ts", "price", "size", "id", "seq")),
        ):
            if rows:
                frame = pl.DataFrame(rows, schema=list(columns), orient="row").to_arrow()
                database.register("batch", frame)
                database.execute(f"INSERT INTO {table} SELECT * FROM batch")  # noqa: S608 (one of two names above)
                database.unregister("batch")
                stored += len(rows)
                rows.clear()

    def told() -> None:
        used = time.process_time()
        print(json.dumps({"events": stored, "seconds": time.perf_counter() - first, "cpu": used}), flush=True)

    def handle(messages: Any) -> None:
        nonlocal first, flushed
        if not first:
            first = flushed = time.perf_counter()
        for one in messages:
            if isinstance(one, EquityQuote):
                quotes.append(
                    (one.symbol, one.timestamp, one.bid_price, one.ask_price, one.bid_size, one.sequence_number)
                )
            elif isinstance(one, EquityTrade):
                trades.append((one.symbol, one.timestamp, one.price, one.size, one.id, one.sequence_number))
        now = time.perf_counter()
        if now - flushed >= FLUSH_SECONDS or stored + len(quotes) + len(trades) >= events:
            flush()
            flushed = now
            if stored >= events:
                told()
                sys.stdout.flush()
                os._exit(0)  # its loop has no other end

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    client = WebSocketClient("key", feed=address, secure=False, subscriptions=["Q.*", "T.*"])
    client.run(handle, max_size=None)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
