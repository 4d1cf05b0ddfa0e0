"""Single trades and quotes with nanosecond stamps, as Polygon's history tells them.

Every stamp and sequence number is read as an integer. Prices of a side that nobody quotes are zero on the wire
and missing here; sizes of quotes are in shares, whatever the provider counted in at the time.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import QUOTE_COLUMNS, TRADE_COLUMNS, TickKind
from market_pipelines.providers.answers import malformed
from market_pipelines.providers.polygon.envelope import Envelope, results_of
from market_pipelines.providers.polygon.lots import OPTION, in_shares
from market_pipelines.providers.polygon.stamps import Instants, Stamp, calendar_of, in_nanoseconds, since_epoch
from market_pipelines.providers.protocol import Answer, Parsed, TicksQuery


class _Trade(msgspec.Struct, gc=False):
    sip_timestamp: Stamp
    price: float
    sequence_number: Stamp = 0
    size: float | None = None
    decimal_size: str | float | None = None
    exchange: int | None = None
    id: str | int | None = None
    conditions: list[int] | None = None
    correction: int | None = None


class _Quote(msgspec.Struct, gc=False):
    sip_timestamp: Stamp
    price: float | None = None
    """Never: that would be a trade."""
    sequence_number: Stamp = 0
    bid_price: float | None = None
    ask_price: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    bid_exchange: int | None = None
    ask_exchange: int | None = None
    conditions: list[int] | None = None


_trades = msgspec.json.Decoder(list[_Trade] | None)
_quotes = msgspec.json.Decoder(list[_Quote] | None)


def trades(envelope: Envelope, answer: Answer, query: TicksQuery) -> Parsed:
    rows = _trades.decode(results_of(envelope)) or []
    instants = in_nanoseconds([row.sip_timestamp for row in rows])
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(query.instrument.symbol, index=pd.RangeIndex(len(rows)), dtype="str"),
            "ts": pd.DatetimeIndex(instants.view("datetime64[ns]"), tz="UTC"),
            "seq": np.array([row.sequence_number for row in rows], dtype=np.int64),
            "price": np.array([row.price for row in rows], dtype=np.float64),
            "size": np.array([_size(row) for row in rows], dtype=np.float64),
            "exchange": pd.Series([_number(row.exchange) for row in rows], dtype="str"),
            "trade_id": pd.Series(["" if row.id is None else str(row.id) for row in rows], dtype="str"),
            "conditions": pd.Series([_numbers(row.conditions) for row in rows], dtype="str"),
            "correction": np.array([row.correction or 0 for row in rows], dtype=np.int64),
        },
        columns=list(TRADE_COLUMNS),
    )
    return _delivered(frame, instants, answer, query)


def quotes(envelope: Envelope, answer: Answer, query: TicksQuery) -> Parsed:
    rows = _quotes.decode(results_of(envelope)) or []
    if any(row.price is not None for row in rows):
        return malformed("trades instead of quotes")
    instants = in_nanoseconds([row.sip_timestamp for row in rows])
    is_option = query.instrument.symbol.startswith(OPTION)
    bid_size = np.array([row.bid_size if row.bid_price else None for row in rows], dtype=np.float64)
    ask_size = np.array([row.ask_size if row.ask_price else None for row in rows], dtype=np.float64)
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(query.instrument.symbol, index=pd.RangeIndex(len(rows)), dtype="str"),
            "ts": pd.DatetimeIndex(instants.view("datetime64[ns]"), tz="UTC"),
            "seq": np.array([row.sequence_number for row in rows], dtype=np.int64),
            "bid": np.array([row.bid_price or None for row in rows], dtype=np.float64),
            "ask": np.array([row.ask_price or None for row in rows], dtype=np.float64),
            "bid_size": in_shares(bid_size, instants, is_option),
            "ask_size": in_shares(ask_size, instants, is_option),
            "bid_exchange": pd.Series(
                [_number(row.bid_exchange) if row.bid_price else "" for row in rows], dtype="str"
            ),
            "ask_exchange": pd.Series(
                [_number(row.ask_exchange) if row.ask_price else "" for row in rows], dtype="str"
            ),
            "conditions": pd.Series([_numbers(row.conditions) for row in rows], dtype="str"),
        },
        columns=list(QUOTE_COLUMNS),
    )
    return _delivered(frame, instants, answer, query)


def _size(trade: _Trade) -> float | None:
    """Shares have been divisible since 2026: the whole ones are in `size`, all of it in the text beside it."""
    if trade.decimal_size is None or trade.decimal_size == "":
        return trade.size
    size = float(trade.decimal_size)
    if not np.isfinite(size):
        raise ValueError(f"a trade of {trade.decimal_size} shares")
    return size


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _numbers(values: list[int] | None) -> str:
    return ",".join(map(str, values)) if values else ""


def _delivered(frame: pd.DataFrame, instants: Instants, answer: Answer, query: TicksQuery) -> Parsed:
    wanted = (instants >= since_epoch(query.start)) & (instants < since_epoch(query.end))
    if not wanted.any():
        beyond = f"; {len(frame):,} outside" if len(frame) else ""
        return Parsed(
            empty_ticks(query, answer.received_at),
            f"no {query.kind.value} from {query.start.isoformat()} to {query.end.isoformat()}{beyond}",
        )
    if not wanted.all():
        frame, instants = frame[wanted].reset_index(drop=True), instants[wanted]
    if not _ascending(instants, frame["seq"].to_numpy()):
        frame = frame.sort_values(["ts", "seq"], kind="stable", ignore_index=True).drop_duplicates(ignore_index=True)
    return Parsed(Outcome.OK, bars=frame)


def _ascending(instants: Instants, seq: npt.NDArray[np.int64]) -> bool:
    """In order, and no two with the same time and number: then none is there twice. Most answers are, and sorting
    the few rows of one costs more than reading them."""
    later, same = np.diff(instants), np.diff(seq)
    return bool(((later > 0) | ((later == 0) & (same > 0))).all())


def empty_ticks(query: TicksQuery, asked_at: datetime) -> Outcome:
    """Quotes are there whenever the market is open. Nobody has to trade, unless it is for a whole session."""
    instrument: Instrument = query.instrument
    calendar = calendar_of(instrument.mic, asked_at)
    if calendar is None or query.start.date() < calendar.start:
        return Outcome.EMPTY_UNEXPECTED
    first, last = calendar.local_date(query.start), calendar.local_date(query.end)
    for session in calendar.sessions(first, last):
        times = calendar.times(session)
        if not instrument.trades_on(session) or times.opens > asked_at:
            continue
        if query.kind is TickKind.QUOTES:
            missing = query.start < times.closes and times.opens < min(query.end, asked_at)
        else:
            missing = query.start <= times.opens and times.closes <= min(query.end, asked_at)
        if missing:
            return Outcome.EMPTY_UNEXPECTED
    return Outcome.EMPTY_EXPECTED
