"""The sinks of PostgreSQL against the contract of all sinks, and what is their own: what newest means, and gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.store.database import Database
from market_pipelines.store.quotes import LatestQuote, read_quotes
from market_pipelines.store.stream_gaps import GapRow, GapStatus, gap_counts, gap_of, open_gaps, settle
from market_pipelines.streaming.entries import Chunk, Format, GapCause, Mark, MarkKind, Reject
from market_pipelines.streaming.plan import FeedName, StreamPlan
from market_pipelines.streaming.sinks.gaps import GapSink
from market_pipelines.streaming.sinks.postgres import MOST_REJECTS, PostgresSink
from market_pipelines.streaming.sinks.protocol import Sink
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.contract.streaming.chunks import NOW, OPENS, SYMBOLS, chunk, passing_clock, row_id, table
from market_pipelines_tests.contract.streaming.reach import out_of_reach
from market_pipelines_tests.contract.streaming.sink_contract import Death, SinkContract, SinkTarget

NEW_YORK = ZoneInfo("America/New_York")
PLAN = StreamPlan("us", FeedName.POLYGON, SYMBOLS)
SECOND = 1_000_000_000


class DatabaseTarget:
    def __init__(
        self,
        database: Database,
        server: PostgresServer,
        make: Callable[[Database], Sink],
        read: Callable[[Database], list[str]],
    ) -> None:
        self.database = database
        self._server = server
        self._make = make
        self._read = read
        self._empty: list[Database] = []

    def sink(self) -> Sink:
        return self._make(self.database)

    def read_back(self) -> list[str]:
        return self._read(self.database)

    def down(self) -> AbstractContextManager[None]:
        return out_of_reach(self.database)

    def refusing(self) -> Sink:
        """One on a database without our tables."""
        self._empty.append(Database(self._server.create(migrated=False)))
        return self._make(self._empty[-1])

    def close(self) -> None:
        for one in self._empty:
            one.close()
            self._server.drop(one.url)


def a_sink(database: Database, *, ticks: bool = True) -> PostgresSink:
    return PostgresSink(
        database, stream=PLAN.name, market="us", currency="USD", zone=NEW_YORK, ticks=ticks, clock=passing_clock()
    )


def stored_ticks(database: Database) -> list[str]:
    found = []
    with database.connection() as connection:
        for kind, query in (
            (TickKind.TRADES, "SELECT symbol, ts_ns FROM market.stream_trades"),
            (TickKind.QUOTES, "SELECT symbol, ts_ns FROM market.stream_quotes"),
            (TickKind.BANDS, "SELECT symbol, ts_ns FROM market.stream_bands"),
            (TickKind.AGGREGATES, "SELECT symbol, (extract(epoch FROM ts) * 1e9)::bigint FROM market.stream_bars"),
        ):
            found += [row_id(kind, symbol, int(time)) for symbol, time in connection.execute(query).fetchall()]
    return found


class TestPostgresSink(SinkContract):
    kinds = (TickKind.TRADES, TickKind.QUOTES, TickKind.AGGREGATES, TickKind.BANDS)
    deaths: ClassVar = {
        "before anything is staged": Death("market_pipelines.store.stream_ticks.stage_columns", True),
        "between the latest and the bars": Death("market_pipelines.streaming.sinks.postgres.merge_latest", False),
        "between trades and quotes": Death("market_pipelines.streaming.sinks.postgres.write_trades", False),
        "before the cursor": Death("market_pipelines.streaming.sinks.postgres.write_cursor", True),
        "before the commit": Death("market_pipelines.streaming.sinks.postgres.write_cursor", False),
    }

    @pytest.fixture
    def target(self, emptied: Database, postgres_server: PostgresServer) -> Iterator[SinkTarget]:
        made = DatabaseTarget(emptied, postgres_server, a_sink, stored_ticks)
        yield made
        made.close()


def gap_marks(number: int) -> tuple[Mark, ...]:
    begins = OPENS + number * 60 * SECOND
    opened = Mark(
        kind=MarkKind.GAP_OPENED,
        at_ns=begins + 5 * SECOND,
        origin="polygon-1",
        gap=f"us-polygon/polygon-1/{number}",
        cause=GapCause.DISCONNECTED,
        begins_ns=begins,
        channels=("quotes", "trades"),
        symbols=SYMBOLS,
    )
    return opened, Mark(
        kind=MarkKind.GAP_CLOSED, at_ns=begins + 9 * SECOND, gap=opened.gap, ends_ns=begins + 8 * SECOND
    )


def a_gap_sink(database: Database, *, at_all_hours: bool = False, delay: timedelta = timedelta()) -> GapSink:
    return GapSink(
        database,
        replace(PLAN, delay=delay),
        calendar=lambda at: trading_calendar("XNYS", at),
        trades_at_all_hours=at_all_hours,
        clock=passing_clock(),
    )


def stored_gaps(database: Database) -> list[str]:
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT gap_key, begins_at, ends_at, ends_at - begins_at FROM market.stream_gaps"
        ).fetchall()
    return [f"{key} {begins:%H:%M:%S} {length}" for key, begins, ends, length in rows]


class TestGapSink(SinkContract):
    deaths: ClassVar = {
        "before a gap": Death("market_pipelines.streaming.sinks.gaps.record_opened", True),
        "between opening and end": Death("market_pipelines.streaming.sinks.gaps.record_opened", False),
        "before the commit": Death("market_pipelines.streaming.sinks.gaps.write_cursor", False),
    }

    @pytest.fixture
    def target(self, emptied: Database, postgres_server: PostgresServer) -> Iterator[SinkTarget]:
        made = DatabaseTarget(emptied, postgres_server, a_gap_sink, stored_gaps)
        yield made
        made.close()

    def chunk(self, number: int, rows: int = 12, symbols: Sequence[str] = SYMBOLS) -> Chunk:
        return replace(chunk(number, rows=rows, symbols=symbols), marks=gap_marks(number))

    def expected(self, *chunks: Chunk) -> list[str]:
        minutes = {mark.gap: mark.begins_ns for one in chunks for mark in one.marks if mark.begins_ns}
        times = {key: datetime.fromtimestamp(ns / SECOND, UTC) for key, ns in minutes.items()}
        return sorted(f"{key} {at:%H:%M:%S} {timedelta(seconds=8)}" for key, at in times.items())


# --- the newest of each symbol ------------------------------------------------------------------------------------


class TestLatest:
    def written(self, database: Database, number: int = 0, **rows: list[dict[str, object]]) -> int:
        given = {TickKind(kind): table(TickKind(kind), told) for kind, told in rows.items()}
        return a_sink(database, ticks=False).write(replace(chunk(number), tables=given))

    def row(self, seconds: float, **told: object) -> dict[str, object]:
        at = OPENS + int(seconds * SECOND)
        return {"symbol": "AAPL", "ts": at, "received_at": at + 1000, "seq": 1, **told}

    def test_the_price_is_the_last_trades_and_the_sides_are_the_last_quotes(self, emptied: Database) -> None:
        self.written(
            emptied,
            trades=[self.row(2, price=101.0, size=1.0), self.row(1, price=100.0, size=1.0)],
            quotes=[self.row(3, bid=100.5, ask=101.5, bid_size=1.0, ask_size=2.0)],
        )
        (one,) = latest(emptied)
        assert (one.quote.price, one.quote.bid, one.quote.ask, one.quote.ask_size) == (101.0, 100.5, 101.5, 2.0)
        assert one.quote.currency == "USD"
        assert one.as_of - one.quote.at == timedelta(seconds=1) if one.quote.at else False
        assert one.provider == "simulated-polygon"

    def test_without_a_trade_the_price_is_the_middle_until_there_is_one(self, emptied: Database) -> None:
        self.written(emptied, quotes=[self.row(1, bid=10.0, ask=12.0)])
        assert latest(emptied)[0].quote.price == 11.0
        self.written(emptied, 1, quotes=[self.row(2, bid=11.0, ask=13.0)])
        assert latest(emptied)[0].quote.price == 12.0
        self.written(emptied, 2, trades=[self.row(3, price=11.5, size=1.0)])
        self.written(emptied, 3, quotes=[self.row(4, bid=20.0, ask=22.0)])
        (one,) = latest(emptied)
        assert (one.quote.price, one.quote.bid) == (11.5, 20.0)

    def test_what_is_older_changes_nothing(self, emptied: Database) -> None:
        self.written(emptied, trades=[self.row(5, price=100.0)], quotes=[self.row(6, bid=99.0, ask=101.0)])
        before = latest(emptied)
        assert self.written(emptied, 1, trades=[self.row(4, price=1.0)]) == 0
        assert self.written(emptied, 2, quotes=[self.row(4, bid=1.0, ask=2.0)]) == 0
        assert latest(emptied) == before

    def test_a_side_that_nobody_quotes_is_empty_and_one_not_told_of_stays(self, emptied: Database) -> None:
        self.written(emptied, quotes=[self.row(1, bid=10.0, ask=12.0)], trades=[self.row(1, price=11.0)])
        self.written(emptied, 1, trades=[self.row(2, price=11.1)])
        assert latest(emptied)[0].quote.bid == 10.0
        self.written(emptied, 2, quotes=[self.row(3, bid=None, ask=12.5)])
        assert (latest(emptied)[0].quote.bid, latest(emptied)[0].quote.ask) == (None, 12.5)

    def test_a_day_that_is_over_is_not_told_as_todays(self, emptied: Database) -> None:
        self.written(emptied, snapshots=[self.row(1, price=10.0, open=9.0, high=11.0, low=8.0, volume=5.0)])
        self.written(emptied, 1, trades=[self.row(60, price=10.5)])
        assert latest(emptied)[0].quote.open == 9.0
        self.written(emptied, 2, trades=[self.row(86_400, price=10.6)])
        (one,) = latest(emptied)
        assert (one.quote.open, one.quote.high, one.quote.volume, one.quote.price) == (None, None, None, 10.6)

    def test_marked_ticks_make_no_price(self, emptied: Database) -> None:
        odd = [TickMark.OUTLIER, TickMark.CONDITION, TickMark.FUTURE, TickMark.FILLED]
        self.written(
            emptied,
            trades=[
                self.row(1, price=10.0),
                *(self.row(2 + n, price=99.0, marks=int(mark), seq=2 + n) for n, mark in enumerate(odd)),
            ],
        )
        assert latest(emptied)[0].quote.price == 10.0

    def test_a_symbol_of_which_no_price_is_known_has_no_row(self, emptied: Database) -> None:
        self.written(emptied, quotes=[self.row(1, bid=10.0, ask=None)])
        assert latest(emptied) == []


def latest(database: Database) -> list[LatestQuote]:
    with database.connection() as connection:
        return read_quotes(connection, "us")


def test_a_minute_that_comes_again_replaces_the_earlier_one(emptied: Database) -> None:
    minute = {"symbol": "AAPL", "start": OPENS, "end": OPENS + 60 * SECOND, "o": 1.0, "h": 2.0, "l": 1.0, "v": 10.0}
    second = {**minute, "end": OPENS + SECOND, "c": 9.0, "received_at": OPENS}
    first = {**minute, "c": 1.5, "received_at": OPENS + 61 * SECOND}
    newer = {**minute, "c": 1.6, "v": 12.0, "received_at": OPENS + 70 * SECOND}
    sink = a_sink(emptied)
    for number, told in enumerate(([second, first], [newer], [first])):
        tables = {TickKind.AGGREGATES: table(TickKind.AGGREGATES, told)}
        sink.write(replace(chunk(number), tables=tables))
    with emptied.connection() as connection:
        assert connection.execute("SELECT close, volume FROM market.stream_bars").fetchall() == [(1.6, 12.0)]


def test_a_tick_that_history_brings_again_is_stored_once(emptied: Database) -> None:
    streamed = {"symbol": "AAPL", "ts": OPENS, "received_at": OPENS, "seq": 7, "bid": 1.0, "ask": 2.0}
    again = {**streamed, "ts": OPENS + 123_456, "marks": int(TickMark.FILLED)}
    other = {**again, "seq": 8}
    sink = a_sink(emptied)
    for number, told in enumerate(([streamed], [again, other])):
        sink.write(replace(chunk(number), tables={TickKind.QUOTES: table(TickKind.QUOTES, told)}))
    with emptied.connection() as connection:
        stored = connection.execute("SELECT seq, session FROM market.stream_quotes ORDER BY seq").fetchall()
    assert stored == [(7, date(2026, 3, 2)), (8, date(2026, 3, 2))]


def test_ticks_are_in_the_database_only_where_somebody_asked(emptied: Database) -> None:
    a_sink(emptied, ticks=False).write(chunk(0))
    assert {one.partition(":")[0] for one in stored_ticks(emptied)} == {"aggregates"}


def test_rejects_are_kept_once_and_not_without_end(emptied: Database) -> None:
    rejects = tuple(
        Reject(1 + n, -1, Format.MASSIVE, OPENS, "no JSON\x00", b"\x00\xff rubbish") for n in range(MOST_REJECTS + 5)
    )
    given = replace(chunk(0), tables={}, rejects=rejects)
    sink = a_sink(emptied)
    assert [sink.write(given), sink.write(given)] == [MOST_REJECTS, 0]
    with emptied.connection() as connection:
        row = connection.execute("SELECT reason, body FROM market.stream_rejects LIMIT 1").fetchone()
    assert row == ("no JSON", b"\x00\xff rubbish")


# --- gaps ---------------------------------------------------------------------------------------------------------


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * SECOND


def told(database: Database, begins: datetime, ends: datetime | None, **of_sink: Any) -> GapRow | None:
    """The row of a gap of that span, told of at its beginning and at its end."""
    marks = [Mark(kind=MarkKind.GAP_OPENED, at_ns=ns(begins), gap="g", cause=GapCause.SILENT, begins_ns=ns(begins))]
    if ends is not None:
        marks.append(Mark(kind=MarkKind.GAP_CLOSED, at_ns=ns(ends), gap="g", begins_ns=ns(begins), ends_ns=ns(ends)))
    sink = a_gap_sink(database, **of_sink)
    for number, mark in enumerate(marks):
        sink.write(replace(chunk(number), tables={}, marks=(mark,)))
    with database.connection() as connection:
        return gap_of(connection, "g")


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """In March 2026 in New York, where the second is a Monday."""
    return datetime(2026, 3, day, hour, minute, tzinfo=NEW_YORK).astimezone(UTC)


class TestGaps:
    @pytest.mark.parametrize(
        ("begins", "ends", "expected"),
        [
            pytest.param(at(2, 10), at(2, 11), (at(2, 10), at(2, 11)), id="within the session"),
            pytest.param(at(2, 2), at(2, 6), (at(2, 4), at(2, 6)), id="from the night into pre-market"),
            pytest.param(at(2, 19), at(2, 23), (at(2, 19), at(2, 20)), id="from after-hours into the night"),
            pytest.param(at(2, 19), at(3, 9), (at(2, 19), at(3, 9)), id="over a night"),
            pytest.param(at(6, 21), at(9, 3), None, id="over a weekend, wholly outside"),
            pytest.param(at(2, 21), at(2, 23), None, id="at night"),
        ],
    )
    def test_only_trading_hours_count(
        self,
        begins: datetime,
        ends: datetime,
        expected: tuple[datetime, datetime] | None,
        emptied: Database,
    ) -> None:
        row = told(emptied, begins, ends)
        assert (None if row is None else (row.begins_at, row.ends_at)) == expected

    @pytest.mark.parametrize(
        ("begins", "ends", "expected"),
        [
            pytest.param(at(2, 10), at(2, 11), (at(2, 9, 45), at(2, 10, 45)), id="within the session"),
            pytest.param(at(2, 3), at(2, 4, 20), (at(2, 4), at(2, 4, 5)), id="the first quarter brings nothing"),
            pytest.param(at(2, 20, 5), at(2, 20, 10), (at(2, 19, 50), at(2, 19, 55)), id="the last still comes"),
            pytest.param(at(2, 3), at(2, 4, 10), None, id="at night"),
        ],
    )
    def test_of_a_delayed_stream_what_is_missing_happened_before(
        self, begins: datetime, ends: datetime, expected: tuple[datetime, datetime] | None, emptied: Database
    ) -> None:
        row = told(emptied, begins, ends, delay=timedelta(minutes=15))
        assert (None if row is None else (row.begins_at, row.ends_at)) == expected

    def test_where_it_trades_at_all_hours_everything_counts(self, emptied: Database) -> None:
        row = told(emptied, at(2, 21), at(2, 23), at_all_hours=True)
        assert row is not None
        assert (row.begins_at, row.ends_at) == (at(2, 21), at(2, 23))

    def test_one_that_goes_on_is_open_without_an_end(self, emptied: Database) -> None:
        row = told(emptied, at(2, 10), None)
        assert row is not None
        assert (row.ends_at, row.status, row.cause, row.channels) == (None, GapStatus.OPEN, "silent", [*CHANNELS])
        with emptied.connection() as connection:
            assert [one.gap_key for one in open_gaps(connection, PLAN.name)] == ["g"]
            assert not settle(connection, row.gap_id, GapStatus.FILLED, "", 1, None, NOW), "it still goes on"

    def test_one_that_is_only_told_of_when_it_is_over_is_a_row(self, emptied: Database) -> None:
        mark = Mark(
            kind=MarkKind.GAP_CLOSED,
            at_ns=OPENS,
            cause=GapCause.JOURNAL_BOUND,
            sink="questdb",
            begins_ns=OPENS - 60 * SECOND,
            ends_ns=OPENS,
        )
        a_gap_sink(emptied).write(replace(chunk(0), tables={}, marks=(mark, mark)))
        with emptied.connection() as connection:
            (row,) = open_gaps(connection, PLAN.name)
        assert (row.cause, row.sink, row.symbols) == ("journal_bound", "questdb", None)

    def test_a_settled_gap_stays_settled_when_it_is_told_of_again(self, emptied: Database) -> None:
        row = told(emptied, at(2, 10), at(2, 11))
        assert row is not None
        with emptied.connection() as connection:
            assert settle(connection, row.gap_id, GapStatus.PARTIAL, "no quotes of MSFT", 12, None, NOW)
        again = told(emptied, at(2, 10), at(2, 11))
        assert again is not None
        assert (again.status, again.reason, again.rows_filled, again.attempts) == (
            "partial",
            "no quotes of MSFT",
            12,
            1,
        )
        with emptied.connection() as connection:
            assert gap_counts(connection) == {"open": 0, "filled": 0, "partial": 1, "unfillable": 0}


CHANNELS = ("quotes", "trades", "minutes")
