"""Entries of the journal to columns: which reader reads which format, and what an answer of a provider means here.

The same entries give the same columns for ever: nothing here looks at a clock, remembers anything or knows what came
before. Duplicates are `dedupe`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import structlog

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition, UnknownSymbol
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.live import AGGREGATES, QUOTES, SCHEMAS, SNAPSHOTS, TRADES, TickMark
from market_pipelines.market.quotes import as_of
from market_pipelines.market.records import Quote, TickKind
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.fetch import stored_name
from market_pipelines.providers.polygon import frames as polygon_frames
from market_pipelines.providers.protocol import (
    Answer,
    Capability,
    DailyProvider,
    IntradayQuery,
    Parsed,
    QuoteQuery,
    TicksQuery,
    abilities_of,
)
from market_pipelines.providers.symbols import canonical_symbols
from market_pipelines.providers.yahoo import streamer
from market_pipelines.redaction import redact
from market_pipelines.streaming.entries import (
    Batch,
    Format,
    Mark,
    Reject,
    SavedAnswer,
    answer_of,
    mark_of,
)

SHOWN = 2_000
"""Bytes of an entry that could not be read that are told."""
FAULT = "a fault of the reader"
"""What the reason begins with where that is why an entry could not be read."""
MOST_FAULTS = 20
"""Of one part of the journal that is decoded at once."""
_BARS = MappingProxyType(
    {Capability.INTRADAY.value: timedelta(minutes=1), Capability.SECONDS.value: timedelta(seconds=1)}
)
"""How long those of history last."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAULTS = (Exception, pl.exceptions.PanicException)
"""A panic of polars is no `Exception`."""
_OF_TICKS = MappingProxyType(
    {
        Capability.TRADES.value: TickKind.TRADES,
        Capability.QUOTES_HISTORY.value: TickKind.QUOTES,
        Capability.SECONDS.value: TickKind.AGGREGATES,
    }
)
_OF_QUOTES = frozenset({Capability.QUOTE.value, Capability.BULK_QUOTES.value})


_log = structlog.stdlib.get_logger("market_pipelines.streaming")


class Columns(NamedTuple):
    tables: dict[TickKind, pa.Table]
    """By `market.live.SCHEMAS`, in the order of the journal; kinds without a row are left out."""
    marks: tuple[Mark, ...]
    rejects: tuple[Reject, ...]
    passed_over: int


class _History(NamedTuple):
    """Ticks of one answer, and what it says of them all."""

    frame: pd.DataFrame
    saved: SavedAnswer
    feed: str


class _Unreadable(Exception):
    """Why an answer tells nothing; for a person."""


class Decoder:
    """Safe to share between threads."""

    def __init__(
        self,
        *,
        market: MarketDefinition,
        providers: Mapping[str, DailyProvider],
        feed: str,
        native_to_symbol: Mapping[str, str] | None = None,
        delay_ns: int = 0,
    ) -> None:
        """`feed`: who streams, as stored. `native_to_symbol`: how it spells symbols, where that is not by its
        adapter's rules alone."""
        self._market = market
        self._providers = providers
        self._feed = feed
        self.zone = trading_calendar(market.mic).zone
        """The exchange's."""
        self.delay_ns = delay_ns
        """How much later than it happens everything is streamed. No column depends on it: what is late does."""
        provider = providers.get(house_name(feed))
        known = {} if provider is None else canonical_symbols(provider, market.everything)
        self._symbols = {**known, **(native_to_symbol or {})}

    def decode(self, batches: Sequence[Batch]) -> Columns:
        tables: dict[TickKind, list[pa.Table]] = {}
        marks: list[Mark] = []
        rejects: list[Reject] = []
        passed_over = 0
        for batch in batches:
            if batch.format is Format.MARK:
                read_marks(batch, marks, rejects)
        others = [batch for batch in batches if batch.format is not Format.MARK]
        for format, run in groupby(others, key=lambda batch: batch.format):
            found, passed = self._read_around_faults(format, list(run), rejects)
            passed_over += passed
            for kind, table in found:
                if len(table):
                    tables.setdefault(kind, []).append(table)
        rejects.sort(key=lambda one: (one.position, one.place))
        joined = {kind: pa.concat_tables(tables[kind]).combine_chunks() for kind in SCHEMAS if kind in tables}
        return Columns(joined, tuple(marks), tuple(rejects), passed_over)

    def _read_around_faults(
        self, format: Format, batches: Sequence[Batch], rejects: list[Reject]
    ) -> tuple[list[tuple[TickKind, pa.Table]], int]:
        """An entry that a reader here trips over must not stand in the way of all that comes after it. It is found by
        halving, told loudly, and left out like one that could not be read. Many of them are our own fault all
        through: then nothing is left out."""
        noted = len(rejects)
        try:
            found, passed_over = self._read(format, batches, rejects)
            return list(found), passed_over
        except _FAULTS as error:
            del rejects[noted:]
            faults = sum(one.reason.startswith(FAULT) for one in rejects)
            if isinstance(error, MemoryError) or faults >= MOST_FAULTS:
                raise
            halves = _halves(batches)
            if not halves:
                rejects.append(_at_fault(batches[0], error, trace=not faults))
                return [], 0
        both = [self._read_around_faults(format, half, rejects) for half in halves]
        return [table for tables, _ in both for table in tables], sum(passed for _, passed in both)

    def _read(
        self, format: Format, batches: Sequence[Batch], rejects: list[Reject]
    ) -> tuple[Iterable[tuple[TickKind, pa.Table]], int]:
        bodies = [body for batch in batches for body in batch.bodies]
        received = np.concatenate([batch.received for batch in batches])
        positions = np.concatenate([np.arange(batch.first, batch.last + 1) for batch in batches])
        match format:
            case Format.MASSIVE:
                frames = polygon_frames.read_frames(bodies, received, positions, feed=self._feed, symbols=self._symbols)
                rejects.extend(
                    Reject(one.position, one.place, format, one.received_ns, redact(one.reason), one.body)
                    for one in frames.unread
                )
                return frames.tables.items(), frames.passed_over
            case Format.YAHOO:
                pushed = streamer.read_frames(bodies, received, positions, feed=self._feed, symbols=self._symbols)
                rejects.extend(
                    Reject(one.position, -1, format, one.received_ns, redact(one.reason), one.body)
                    for one in pushed.unread
                )
                return [(TickKind.SNAPSHOTS, pushed.snapshots)], pushed.passed_over
            case _:
                return list(self._answers(bodies, received.tolist(), positions.tolist(), rejects)), 0

    def _answers(
        self, bodies: Sequence[bytes], received: Sequence[int], positions: Sequence[int], rejects: list[Reject]
    ) -> Iterator[tuple[TickKind, pa.Table]]:
        history: dict[TickKind, list[_History]] = {}
        for body, received_ns, position in zip(bodies, received, positions, strict=True):
            shown = body
            try:
                saved = answer_of(body)
                shown = saved.body
                told = self._answer(saved)
            except (msgspec.MsgspecError, _Unreadable) as error:
                reason = redact(str(error))
                rejects.append(Reject(position, -1, Format.ANSWER, received_ns, reason, shown[:SHOWN]))
                continue
            if isinstance(told, _History):
                history.setdefault(_OF_TICKS[saved.capability], []).append(told)
            elif told is not None:
                yield told
        for kind, all_of in history.items():
            yield kind, _ticks(kind, all_of)

    def _answer(self, saved: SavedAnswer) -> tuple[TickKind, pa.Table] | _History | None:
        """None: an answer that there is nothing."""
        provider = self._providers.get(saved.provider)
        if provider is None:
            raise _Unreadable(f"an answer of {saved.provider}, which is no provider here")
        ability = next((one for name, one in abilities_of(provider).items() if name == saved.capability), None)
        if ability is None:
            raise _Unreadable(f"{saved.provider} has no {saved.capability}")
        received_at = _moment(saved.received_ns)
        answer = Answer(saved.status, saved.body, saved.headers, received_at, 0.0, endpoint=saved.endpoint)
        parsed = ability.read(answer, self._question(saved, received_at))
        if not parsed.outcome.delivered:
            said = ": ".join(part for part in (parsed.outcome.value, parsed.reason) if part)
            raise _Unreadable(f"{saved.provider}, {saved.capability}: {said}")
        feed = stored_name(saved.provider, answer)
        if saved.capability in _OF_QUOTES:
            calendar = trading_calendar(self._market.mic, received_at)
            return TickKind.SNAPSHOTS, _snapshots(parsed, saved.received_ns, received_at, calendar, feed)
        if parsed.bars is None or parsed.bars.empty:
            return None
        if saved.capability in _BARS:
            return TickKind.AGGREGATES, _bars(parsed.bars, parsed.vwap, saved, feed)
        return _History(parsed.bars, saved, feed)

    def _question(self, saved: SavedAnswer, received_at: datetime) -> Any:
        instruments = tuple(self._instrument(symbol) for symbol in saved.symbols)
        if not instruments:
            raise _Unreadable("an answer about no symbol")
        if saved.capability in _OF_QUOTES:
            return QuoteQuery(instruments)
        start, end = _moment(saved.begins_ns), _moment(saved.ends_ns)
        if saved.capability in _OF_TICKS:
            return TicksQuery(instruments[0], _OF_TICKS[saved.capability], start, end)
        if saved.capability == Capability.INTRADAY.value:
            calendar = trading_calendar(self._market.mic, received_at)
            first, last, today = (calendar.local_date(moment) for moment in (start, end, received_at))
            return IntradayQuery(instruments[0], saved.interval, first, last, today, extended=True)
        raise _Unreadable(f"{saved.capability} is nothing that is streamed")

    def _instrument(self, symbol: str) -> Instrument:
        """Contracts of options and what was listed after the market was written down are instruments too."""
        try:
            return self._market.instrument(symbol)
        except UnknownSymbol:
            return Instrument(symbol, self._market.name, self._market.mic, self._market.currency)


def _halves(batches: Sequence[Batch]) -> list[Sequence[Batch]]:
    """None of a single entry."""
    if len(batches) > 1:
        return [batches[: len(batches) // 2], batches[len(batches) // 2 :]]
    [batch], half = batches, len(batches[0].bodies) // 2
    if not half:
        return []
    parts = ((0, half), (half, len(batch.bodies)))
    return [
        [
            replace(
                batch, first=batch.first + first, received=batch.received[first:last], bodies=batch.bodies[first:last]
            )
        ]
        for first, last in parts
    ]


def _at_fault(batch: Batch, error: BaseException, *, trace: bool) -> Reject:
    reason = redact(f"{FAULT}: {type(error).__name__}: {error}")
    _log.error(
        "an entry of the journal is left out, because reading it failed in a way that nobody foresaw",
        position=batch.first,
        format=batch.format.value,
        reason=reason,
        exc_info=error if trace else None,
    )
    return Reject(batch.first, -1, batch.format, int(batch.received[0]), reason, batch.bodies[0][:SHOWN])


def read_marks(batch: Batch, marks: list[Mark], rejects: list[Reject]) -> None:
    for place, body in enumerate(batch.bodies):
        try:
            marks.append(mark_of(body))
        except msgspec.MsgspecError as error:
            received_ns = int(batch.received[place])
            rejects.append(Reject(batch.first + place, -1, Format.MARK, received_ns, str(error), body[:SHOWN]))


def _snapshots(
    parsed: Parsed, received_ns: int, received_at: datetime, calendar: TradingCalendar, feed: str
) -> pa.Table:
    rows = []
    for quote in parsed.records:
        if not isinstance(quote, Quote):
            continue
        sides = (quote.bid or None, quote.ask or None)
        told = quote.at or (as_of(quote, received_at, calendar) if quote.session is not None else None)
        rows.append(
            {
                "symbol": quote.symbol,
                "ts": received_ns if told is None else since_epoch(told),
                "received_at": received_ns,
                "price": quote.price,
                "bid": sides[0],
                "ask": sides[1],
                "bid_size": quote.bid_size if sides[0] else None,
                "ask_size": quote.ask_size if sides[1] else None,
                "open": quote.open,
                "high": quote.high,
                "low": quote.low,
                "previous_close": quote.previous_close,
                "volume": quote.volume,
                "currency": quote.currency,
                "feed": feed,
                "marks": 0,
            }
        )
    return pa.Table.from_pylist(rows, schema=SNAPSHOTS)


def _ticks(kind: TickKind, history: Sequence[_History]) -> pa.Table:
    """One table out of all answers: most have a few rows, and a table of their own costs more than those."""
    rows = [len(one.frame) for one in history]
    frame = pd.concat([one.frame for one in history], ignore_index=True)
    marks = np.repeat(np.array([_filled(one.saved) for one in history], dtype=np.int32), rows)
    if kind is TickKind.QUOTES:
        marks[(frame["bid"].isna() | frame["ask"].isna()).to_numpy()] |= TickMark.ONE_SIDED
    received = np.repeat(np.array([one.saved.received_ns for one in history], dtype=np.int64), rows)
    feeds = np.repeat(np.array([one.feed for one in history], dtype=object), rows)
    stamps = pd.DatetimeIndex(received.view("datetime64[ns]"), tz="UTC")
    return _table(frame.assign(received_at=stamps, feed=feeds, marks=marks), _schema(kind))


def _filled(saved: SavedAnswer) -> TickMark:
    return TickMark.FILLED | (TickMark.LAKE_ONLY if saved.sink else TickMark.NONE)


def _schema(kind: TickKind) -> pa.Schema:
    return TRADES if kind is TickKind.TRADES else QUOTES


def _bars(frame: pd.DataFrame, vwap: pd.Series | None, saved: SavedAnswer, feed: str) -> pa.Table:
    """The finished ones of the span that was asked for; of minutes the provider answers with whole days. What the day
    had traded by then, only the stream tells."""
    length = _BARS[saved.capability]
    starts = frame["ts"].astype("datetime64[ns, UTC]")
    since = starts.astype("int64").to_numpy()
    over = since + length // timedelta(microseconds=1) * 1000
    wanted = (over > saved.begins_ns) & (since < saved.ends_ns) & ~frame["provisional"].to_numpy()
    renamed = frame.rename(columns={"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"})
    whole = renamed.assign(
        start=starts,
        end=starts + length,
        received_at=_stamps(len(frame), saved.received_ns),
        vw=np.nan if vwap is None else vwap.to_numpy(),
        av=np.nan,
        feed=feed,
        marks=np.int32(_filled(saved)),
    )
    return _table(whole[wanted], AGGREGATES)


def _stamps(count: int, moment_ns: int) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(np.full(count, moment_ns, dtype="datetime64[ns]"), tz="UTC")


def _table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False).replace_schema_metadata(None)


def _moment(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def since_epoch(moment: datetime) -> int:
    """Nanoseconds until an aware moment, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
