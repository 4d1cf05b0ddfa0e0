"""Chunks for the tests of sinks, and the ids by which their rows are counted.

Every row is named by its kind, symbol and whole microsecond, which any target keeps; so a set of ids says what is
lost and a list of them says what is doubled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Chunk, Mark, Reject

JOURNAL = "7f3a90"
FEED = "simulated-polygon"
OPENS = int(datetime(2026, 3, 2, 14, 30, tzinfo=UTC).timestamp()) * 1_000_000_000
SYMBOLS = ("AAPL", "BRK.B", "ŻÓŁĆ")
STEP = 1_000_000
"""Nanoseconds between two rows of a kind."""
_TIME = {TickKind.AGGREGATES: "start"}


NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
_TICKS = itertools.count()


def passing_clock() -> Callable[[], datetime]:
    """Soon after `NOW`, and later each time: which of two cursors is newer shows in nothing else."""
    return lambda: NOW + timedelta(microseconds=next(_TICKS))


def row_id(kind: TickKind, symbol: str, ts_ns: int) -> str:
    return f"{kind.value}:{symbol}:{ts_ns // 1000}"


def ids_of(table: pa.Table, kind: TickKind) -> list[str]:
    times = pc.cast(table[_TIME.get(kind, "ts")], pa.int64())
    return [
        row_id(kind, str(symbol), int(time))
        for symbol, time in zip(table["symbol"].to_pylist(), times.to_numpy(), strict=True)
    ]


def ids(chunks: Iterable[Chunk], kinds: Sequence[TickKind] = tuple(TickKind)) -> list[str]:
    return sorted(
        one for chunk in chunks for kind in kinds if kind in chunk.tables for one in ids_of(chunk.tables[kind], kind)
    )


def newest_ids(chunks: Iterable[Chunk], kinds: Sequence[TickKind] = tuple(TickKind)) -> list[str]:
    """Of each kind the newest row of each symbol: what a target has that keeps a state."""
    newest: dict[tuple[str, str], int] = {}
    for one in ids(chunks, kinds):
        kind, _, rest = one.partition(":")
        symbol, _, time = rest.rpartition(":")
        newest[kind, symbol] = max(newest.get((kind, symbol), 0), int(time))
    return sorted(f"{kind}:{symbol}:{time}" for (kind, symbol), time in newest.items())


def table(kind: TickKind, rows: Sequence[dict[str, object]]) -> pa.Table:
    """Columns that are not named are null, or empty where the house says empty."""
    empty = {"conditions": "", "exchange": "", "bid_exchange": "", "ask_exchange": "", "trade_id": "", "currency": ""}
    empty |= {"indicators": "", "tape": ""}
    filled = {"feed": FEED, "marks": 0, "seq": 0, "correction": 0, **empty}
    schema = SCHEMAS[kind]
    columns = {name: [row.get(name, filled.get(name)) for row in rows] for name in schema.names}
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)


def some_rows(kind: TickKind, first: int, count: int, symbols: Sequence[str] = SYMBOLS) -> list[dict[str, object]]:
    """Rows number `first` onwards, each a `STEP` later than the one before, symbols in turn."""
    rows: list[dict[str, object]] = []
    for number in range(first, first + count):
        time = OPENS + number * STEP
        row: dict[str, object] = {"symbol": symbols[number % len(symbols)], "ts": time, "received_at": time + 500_000}
        price = 100.0 + number % 50 / 100
        match kind:
            case TickKind.QUOTES:
                row |= {
                    "seq": number + 1,
                    "bid": price - 0.01,
                    "ask": price + 0.01,
                    "bid_size": 100.0,
                    "ask_size": 200.0,
                }
                row |= {"bid_exchange": "11", "ask_exchange": "12", "conditions": "1"}
            case TickKind.TRADES:
                row |= {"seq": number + 1, "price": price, "size": 100.0, "exchange": "4", "trade_id": f"t{number}"}
                row |= {"conditions": "14,41"}
            case TickKind.AGGREGATES:
                start = OPENS + number * 60_000_000_000
                row |= {"start": start, "end": start + 60_000_000_000, "received_at": start + 60_500_000_000}
                row |= {"o": price, "h": price + 1, "l": price - 1, "c": price, "v": 1000.0, "vw": price, "av": 5000.0}
            case TickKind.SNAPSHOTS:
                row |= {"price": price, "bid": price - 0.01, "ask": price + 0.01, "open": 99.0, "high": 110.0}
                row |= {"low": 90.0, "previous_close": 98.0, "volume": 1e6, "currency": "USD"}
            case TickKind.BANDS:
                row |= {"seq": number + 1, "limit_up": price * 1.05, "limit_down": price * 0.95}
                row |= {"indicators": "21", "tape": "3"}
        rows.append(row)
    return rows


def chunk(
    number: int,
    *,
    rows: int = 12,
    kinds: Sequence[TickKind] = tuple(TickKind),
    symbols: Sequence[str] = SYMBOLS,
    journal: str = JOURNAL,
    marks: tuple[Mark, ...] = (),
    rejects: tuple[Reject, ...] = (),
) -> Chunk:
    """The chunk of that number (from 0): ten positions, and of each kind as many rows as none before it had."""
    return Chunk(
        journal=journal,
        after=number * 10,
        upto=number * 10 + 10,
        tables={kind: table(kind, some_rows(kind, number * rows, rows, symbols)) for kind in kinds},
        marks=marks,
        rejects=rejects,
        events_upto=(number + 1) * rows * len(kinds),
        last_received_ns=OPENS + (number + 1) * rows * STEP,
    )


def joined(first: Chunk, second: Chunk) -> Chunk:
    """Both as one, as a journal that is read again may give them."""
    return Chunk(
        journal=first.journal,
        after=first.after,
        upto=second.upto,
        tables={kind: pa.concat_tables([first.table(kind), second.table(kind)]) for kind in TickKind},
        marks=first.marks + second.marks,
        rejects=first.rejects + second.rejects,
        events_upto=second.events_upto,
        last_received_ns=second.last_received_ns,
    )
