"""Where a symbol stands, whatever the order in which the journal tells of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from itertools import permutations
from typing import Any

import pytest

from market_pipelines.market.hours import MarketPhase
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.day_book import DayBook
from market_pipelines.streaming.entries import Chunk
from market_pipelines_tests.contract.streaming.chunks import OPENS, chunk, table

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND


def trade(at: int, price: float, **more: Any) -> dict[str, Any]:
    return {"symbol": "AAPL", "ts": OPENS + at, "received_at": OPENS + at, "seq": 1, "price": price, "size": 1.0} | more


def quote(at: int, bid: float | None, ask: float | None, **more: Any) -> dict[str, Any]:
    return {"symbol": "AAPL", "ts": OPENS + at, "received_at": OPENS + at, "seq": 1, "bid": bid, "ask": ask} | more


def bar(at: int, prices: tuple[float, float, float, float], av: float) -> dict[str, Any]:
    names = dict(zip("ohlc", prices, strict=True))
    return {"symbol": "AAPL", "start": OPENS + at, "end": OPENS + at + MINUTE, "received_at": OPENS, "av": av} | names


def of(kind: TickKind, *rows: Mapping[str, Any]) -> Chunk:
    return replace(chunk(0), tables={kind: table(kind, [dict(row) for row in rows])})


def book(**closes: float) -> DayBook:
    def known(symbols: Sequence[str], _day: date) -> Mapping[str, float]:
        return {symbol: closes[symbol] for symbol in symbols if symbol in closes}

    return DayBook("XNYS", known)


def stands(made: DayBook, symbol: str = "AAPL") -> dict[str, Any]:
    return asdict(made.update(symbol, MarketPhase.OPEN))


def test_price_bands_make_no_price() -> None:
    made = book()
    assert made.take(chunk(0, kinds=(TickKind.BANDS,))) == []
    assert (made.day, len(made)) == (None, 0)


def test_the_order_of_chunks_and_their_repetition_make_no_difference() -> None:
    chunks = [
        of(TickKind.TRADES, trade(3, 100.0), trade(1, 104.0)),
        of(TickKind.QUOTES, quote(2, 99.0, 101.0)),
        of(TickKind.QUOTES, quote(1, 1.0, 2.0)),
        of(TickKind.AGGREGATES, bar(0, (98.0, 105.0, 97.0, 99.0), 5000.0)),
        of(TickKind.TRADES, trade(2 * MINUTE, 101.0)),
    ]
    seen = []
    for order in permutations(chunks):
        made = book(AAPL=100.0)
        for given in (*order, order[0]):
            made.take(given)
        seen.append(stands(made))
    assert all(one == seen[0] for one in seen)
    assert seen[0] | {"timestamp": None} == {
        "timestamp": None,
        "symbol": "AAPL",
        "price": 101.0,
        "change": 1.0,
        "change_percent": 1.0,
        "volume": 5000.0,
        "high": 105.0,
        "low": 97.0,
        "open": 98.0,
        "market_status": "open",
        "data_source": "simulated-polygon",
        "bid": 99.0,
        "ask": 101.0,
        "bid_size": None,
        "ask_size": None,
        "previous_close": 100.0,
    }


def test_within_one_time_the_later_sequence_number_wins() -> None:
    made = book()
    made.take(of(TickKind.QUOTES, quote(0, 3.0, 4.0, seq=9), quote(0, 1.0, 2.0, seq=8)))
    assert (stands(made)["bid"], stands(made)["ask"]) == (3.0, 4.0)


@pytest.mark.parametrize("mark", [TickMark.CONDITION, TickMark.OUTLIER, TickMark.CORRECTED, TickMark.FUTURE])
def test_a_trade_that_makes_no_price_changes_nothing(mark: TickMark) -> None:
    made = book()
    made.take(of(TickKind.TRADES, trade(0, 100.0), trade(1, 1.0, marks=int(mark))))
    assert (stands(made)["price"], stands(made)["low"]) == (100.0, 100.0)


def test_a_time_ahead_of_our_clock_does_not_turn_the_day() -> None:
    made = book()
    made.take(of(TickKind.TRADES, trade(0, 100.0), trade(5 * DAY, 1.0, marks=int(TickMark.FUTURE))))
    assert made.day == date(2026, 3, 2)


def test_without_a_trade_the_price_is_the_middle_of_the_quote() -> None:
    made = book()
    made.take(of(TickKind.QUOTES, quote(0, 99.0, 101.0)))
    assert stands(made)["price"] == 100.0
    made.take(of(TickKind.QUOTES, quote(1, None, 101.0)))
    assert stands(made)["price"] is None


def test_trading_before_the_open_makes_a_price_but_no_range() -> None:
    made = book()
    made.take(of(TickKind.TRADES, trade(-MINUTE, 90.0)))
    assert (stands(made)["price"], stands(made)["open"], stands(made)["high"]) == (90.0, None, None)
    made.take(of(TickKind.TRADES, trade(MINUTE, 100.0)))
    assert (stands(made)["open"], stands(made)["low"]) == (100.0, 100.0)


def test_the_range_ends_with_the_close() -> None:
    """A trade of that very moment is the auction's; the bar that begins there is of what comes after."""
    closes = 390 * MINUTE
    made = book()
    made.take(of(TickKind.AGGREGATES, bar(closes - MINUTE, (10.0, 11.0, 9.0, 10.0), 1.0)))
    made.take(of(TickKind.AGGREGATES, bar(closes, (50.0, 99.0, 1.0, 50.0), 2.0)))
    made.take(of(TickKind.TRADES, trade(closes, 12.0), trade(closes + 1, 98.0)))
    assert (stands(made)["high"], stands(made)["low"], stands(made)["volume"]) == (12.0, 9.0, 2.0)


@pytest.mark.parametrize("ts", [1, DAY, -5 * SECOND])
def test_an_event_of_no_time_is_nobodys_day(ts: int) -> None:
    made = book()
    assert made.take(of(TickKind.TRADES, trade(0, 1.0, ts=ts))) == []
    assert made.day is None


def test_a_day_without_a_session_is_its_own_from_midnight_to_midnight() -> None:
    made = book()
    made.take(of(TickKind.TRADES, trade(-2 * DAY - 9 * 3600 * SECOND, 3.0), trade(-2 * DAY, 5.0)))
    assert (made.day, stands(made)["open"], stands(made)["high"]) == (date(2026, 2, 28), 3.0, 5.0)


def test_a_new_day_keeps_the_price_and_forgets_the_rest() -> None:
    made = book(AAPL=50.0)
    made.take(of(TickKind.TRADES, trade(0, 100.0)))
    made.take(of(TickKind.AGGREGATES, bar(DAY - 5 * 3600 * SECOND, (7.0, 7.0, 7.0, 7.0), 10.0)))
    now = stands(made)
    assert made.day == date(2026, 3, 3)
    assert (now["price"], now["open"], now["high"], now["volume"]) == (7.0, None, None, 10.0)
    assert now["previous_close"] == 50.0


def test_what_history_tells_of_an_earlier_day_is_no_part_of_today() -> None:
    made = book()
    made.take(of(TickKind.TRADES, trade(DAY, 100.0)))
    made.take(of(TickKind.TRADES, trade(0, 500.0, marks=int(TickMark.FILLED))))
    now = stands(made)
    assert (now["price"], now["high"]) == (100.0, 100.0)


def test_a_snapshot_says_itself_what_the_day_was() -> None:
    made = book()
    known = {"symbol": "PKN", "received_at": OPENS, "open": 60.0, "high": 66.0, "low": 59.0, "previous_close": 64.0}
    made.take(of(TickKind.SNAPSHOTS, {**known, "ts": OPENS, "price": 65.5, "volume": 10.0}))
    made.take(of(TickKind.SNAPSHOTS, {**known, "ts": OPENS - MINUTE, "price": 1.0, "high": 99.0}))
    now = stands(made, "PKN")
    assert (now["price"], now["change"], now["high"], now["volume"]) == (65.5, 1.5, 66.0, 10.0)
    assert now["change_percent"] == pytest.approx(2.34375)


def test_memory_is_bounded_and_the_silent_are_forgotten_first() -> None:
    made = DayBook("XNYS", most_symbols=3)
    for number, symbol in enumerate(("A", "B", "C", "A", "D", "E")):
        made.take(of(TickKind.TRADES, trade(number, 1.0, symbol=symbol)))
    assert [standing.symbol for standing in made.standings()] == ["A", "D", "E"]


def test_the_changed_symbols_are_told() -> None:
    made = book()
    assert made.take(of(TickKind.TRADES, trade(0, 1.0, symbol="A"), trade(0, 1.0, symbol="B"))) == ["A", "B"]
    assert made.take(of(TickKind.QUOTES, quote(1, 1.0, 2.0, symbol="B"))) == ["B"]
    assert made.take(replace(chunk(0), tables={})) == []


def test_the_time_of_an_update_is_that_of_its_newest_event() -> None:
    made = book()
    made.take(of(TickKind.TRADES, trade(1_500, 1.0)))
    assert stands(made)["timestamp"] == datetime(2026, 3, 2, 14, 30, 0, 1, tzinfo=UTC)
