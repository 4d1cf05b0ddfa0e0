"""What a stream tells the event bus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.streaming.bus import EventBus, Topic
from market_pipelines.streaming.day_book import StockUpdate
from market_pipelines.streaming.entries import GapCause, Mark, MarkKind
from market_pipelines.streaming.plan import FeedName, StreamPlan
from market_pipelines.streaming.sinks.bus import BusSink, ConnectionNews, GapNews
from market_pipelines.streaming.sinks.protocol import Cursor
from market_pipelines_tests.contract.streaming.chunks import JOURNAL, OPENS, chunk

SECONDS = 10.0
HOUR = 3_600_000_000_000


class Heard:
    def __init__(self) -> None:
        self.bus = EventBus()
        self._events: dict[str, list[Any]] = {topic: [] for topic in Topic}
        for topic in Topic:
            self.bus.subscribe(topic, self._events[topic].append, waiting=100_000)

    def of(self, topic: str) -> list[Any]:
        assert self.bus.wait_idle(SECONDS)
        return self._events[topic]


@pytest.fixture
def heard() -> Iterator[Heard]:
    made = Heard()
    yield made
    made.bus.close()


@pytest.fixture
def sink(heard: Heard) -> BusSink:
    plan = StreamPlan("us", FeedName.POLYGON, ("AAPL",))
    return BusSink(heard.bus, plan, read_markets()["us"], lambda symbols, _: dict.fromkeys(symbols, 80.0))


def test_it_has_no_cursor_before_its_first_chunk(sink: BusSink) -> None:
    assert sink.open() is None
    sink.write(chunk(0))
    sink.close()
    assert sink.open() == Cursor(JOURNAL, 10)


def test_one_update_a_symbol_and_chunk(heard: Heard, sink: BusSink) -> None:
    sink.write(chunk(0, rows=12, kinds=(TickKind.QUOTES, TickKind.TRADES), symbols=("AAPL", "MSFT")))
    updates = {update.symbol: update for update in heard.of("stock_update")}
    assert len(heard.of("stock_update")) == 2
    assert updates["MSFT"] == StockUpdate(
        timestamp=datetime(2026, 3, 2, 14, 30, 0, 11_000, tzinfo=UTC),
        symbol="MSFT",
        price=100.11,
        change=20.11,
        change_percent=25.1375,
        volume=None,
        high=100.11,
        low=100.01,
        open=100.01,
        market_status="open",
        data_source="simulated-polygon",
        bid=100.1,
        ask=100.12,
        bid_size=100.0,
        ask_size=200.0,
        previous_close=80.0,
    )


def test_a_chunk_that_comes_again_is_not_told_again(heard: Heard, sink: BusSink) -> None:
    sink.write(chunk(0))
    sink.write(chunk(0))
    assert len(heard.of("stock_update")) == 3


def test_the_market_status_is_told_when_it_changes(heard: Heard, sink: BusSink) -> None:
    for number, at in enumerate((OPENS - HOUR, OPENS, OPENS + HOUR, OPENS + 7 * HOUR)):
        sink.write(replace(chunk(number), last_received_ns=at))
    told = [(news.previous, news.market_status) for news in heard.of("market_status")]
    assert told == [(None, "pre_market"), ("pre_market", "open"), ("open", "after_hours")]


def test_gaps_and_the_provider_are_told_as_they_come_and_go(heard: Heard, sink: BusSink) -> None:
    opened = Mark(
        kind=MarkKind.GAP_OPENED,
        at_ns=OPENS,
        origin="polygon-1",
        gap="g1",
        cause=GapCause.DISCONNECTED,
        begins_ns=OPENS,
        channels=("quotes",),
        detail="reset",
    )
    closed = Mark(
        kind=MarkKind.GAP_CLOSED, at_ns=OPENS + 5, gap="g1", cause=GapCause.DISCONNECTED, begins_ns=OPENS, ends_ns=OPENS
    )
    sink.write(chunk(0))
    sink.write(replace(chunk(1), tables={}, marks=(opened,)))
    sink.write(replace(chunk(2), marks=(closed,)))
    at = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    assert heard.of("gap") == [
        GapNews("us-polygon", "us", "g1", "opened", "disconnected", at, None, ("quotes",), None, "reset"),
        GapNews("us-polygon", "us", "g1", "closed", "disconnected", at, at, (), None, ""),
    ]
    told = [(news.provider, news.status) for news in heard.of("data_provider_status")]
    assert told == [("polygon", "available"), ("polygon", "unavailable"), ("polygon", "available")]
    quarter = timedelta(minutes=15)
    delayed = BusSink(heard.bus, StreamPlan("us", FeedName.POLYGON, ("AAPL",), delay=quarter), read_markets()["us"])
    delayed.write(replace(chunk(3), tables={}, marks=(closed,)))
    missed = heard.of("gap")[-1]
    assert (missed.begins, missed.ends) == (at - quarter, at - quarter)


def test_what_the_connection_said_is_told(heard: Heard, sink: BusSink) -> None:
    mark = Mark(kind=MarkKind.STATUS, at_ns=OPENS, origin="polygon-1", detail="auth_success: authenticated")
    sink.write(replace(chunk(0), tables={}, marks=(mark,)))
    at = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    assert heard.of("connection_status") == [
        ConnectionNews(at, "us-polygon", "polygon-1", "auth_success", "auth_success: authenticated")
    ]
