"""Polygon's trades and quotes of the past."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import QUOTE_COLUMNS, TRADE_COLUMNS, TickKind
from market_pipelines.providers.polygon.stamps import since_epoch
from market_pipelines.providers.protocol import Capability, Parsed, TicksQuery, abilities_of
from market_pipelines_tests.unit.providers.polygon_answers import AAPL, HOME, answer, polygon

START = datetime(2024, 1, 3, 14, 30, tzinfo=UTC)
TRADES = TicksQuery(AAPL, TickKind.TRADES, START, START + timedelta(minutes=2))
QUOTES = replace(TRADES, kind=TickKind.QUOTES)
FIRST = since_epoch(START)


def trade(after: int, **more: object) -> dict[str, Any]:
    row: dict[str, Any] = {
        "conditions": [12, 37],
        "exchange": 11,
        "id": "183276",
        "participant_timestamp": FIRST + after - 5,
        "price": 156.43,
        "sequence_number": 7179341,
        "sip_timestamp": FIRST + after,
        "size": 10,
        "tape": 3,
    }
    return {**row, **more}


def quote(after: int, **more: object) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ask_exchange": 15,
        "ask_price": 155.87,
        "ask_size": 3,
        "bid_exchange": 19,
        "bid_price": 155.85,
        "bid_size": 4,
        "participant_timestamp": FIRST + after - 5,
        "sequence_number": 19288684,
        "sip_timestamp": FIRST + after,
        "tape": 3,
    }
    return {**row, **more}


def read(rows: object, query: TicksQuery = TRADES, **more: object) -> Parsed:
    return polygon().read_ticks(answer({"results": rows, "status": "OK", **more}, endpoint=query.kind.value), query)


def test_a_window_is_asked_in_nanoseconds_oldest_first() -> None:
    call = polygon().ticks_call(TRADES)
    assert (call.endpoint, call.url) == ("trades", f"{HOME}/v3/trades/AAPL")
    assert call.params == {
        "timestamp.gte": "1704292200000000000",
        "timestamp.lt": "1704292320000000000",
        "sort": "timestamp",
        "order": "asc",
        "limit": "50000",
    }
    assert polygon().ticks_call(QUOTES).url == f"{HOME}/v3/quotes/AAPL"
    abilities = abilities_of(polygon())
    assert abilities[Capability.TRADES].call(TRADES) == call
    assert abilities[Capability.QUOTES_HISTORY].call(QUOTES).url == f"{HOME}/v3/quotes/AAPL"


def test_a_trade_comes_out_whole() -> None:
    bars = read([trade(7)]).bars
    assert bars is not None
    assert tuple(bars.columns) == TRADE_COLUMNS
    assert bars["ts"].dtype == "datetime64[ns, UTC]"
    assert bars["seq"].dtype == "int64"
    assert bars["correction"].dtype == "int64"
    row = bars.iloc[0]
    assert row["ts"].value == FIRST + 7
    assert row[["symbol", "seq", "price", "size", "exchange", "trade_id", "conditions", "correction"]].tolist() == [
        "AAPL",
        7179341,
        156.43,
        10.0,
        "11",
        "183276",
        "12,37",
        0,
    ]


def test_neighbouring_nanoseconds_stay_apart() -> None:
    bars = read([trade(87), trade(88)]).bars
    assert bars is not None
    assert float(FIRST + 87) == float(FIRST + 88)
    assert [stamp.value - FIRST for stamp in bars["ts"]] == [87, 88]


def test_parts_of_a_share_are_in_the_text() -> None:
    bars = read([trade(1, decimal_size="10.250000"), trade(2, size=0, decimal_size="0.5"), trade(3, size=1.5)]).bars
    assert bars is not None
    assert bars["size"].tolist() == [10.25, 0.5, 1.5]


def test_a_cancelled_trade_says_so() -> None:
    bars = read([trade(1, correction=8), trade(2)]).bars
    assert bars is not None
    assert bars["correction"].tolist() == [8, 0]


def test_what_a_trade_does_not_say_is_empty() -> None:
    bare = {"sip_timestamp": FIRST, "price": 1.0, "sequence_number": 1, "size": 1}
    bars = read([bare]).bars
    assert bars is not None
    assert bars.iloc[0][["exchange", "trade_id", "conditions"]].tolist() == ["", "", ""]


def test_trades_come_out_in_order_and_within_the_window() -> None:
    minute = 60_000_000_000
    rows = [trade(2 * minute), trade(5, sequence_number=3), trade(5, sequence_number=2), trade(1), trade(-1)]
    bars = read(rows).bars
    assert bars is not None
    assert [(stamp.value - FIRST, seq) for stamp, seq in zip(bars["ts"], bars["seq"], strict=True)] == [
        (1, 7179341),
        (5, 2),
        (5, 3),
    ]


def test_two_trades_of_one_stamp_are_two_and_one_that_is_sent_twice_is_one() -> None:
    assert read([trade(1), trade(1, exchange=12), trade(1)]).rows == 2


def test_a_side_that_nobody_quotes_is_missing() -> None:
    rows = [quote(1, ask_price=0, ask_size=0, ask_exchange=0), quote(2, bid_price=0), quote(3)]
    del rows[2]["ask_price"]
    bars = read(rows, QUOTES).bars
    assert bars is not None
    assert tuple(bars.columns) == QUOTE_COLUMNS
    assert np.isnan(bars["ask"]).tolist() == [True, False, True]
    assert np.isnan(bars["ask_size"]).tolist() == [True, False, True]
    assert np.isnan(bars["bid"]).tolist() == [False, True, False]
    assert bars["bid_exchange"].tolist() == ["19", "", "19"]
    assert bars["ask_exchange"].tolist() == ["", "15", ""]


def test_sizes_of_quotes_are_in_shares_as_the_stream_tells_them() -> None:
    """In 2024 Polygon counted them in lots of a hundred; contracts of options never."""
    lots = read([quote(1)], QUOTES).bars
    assert lots is not None
    assert (lots["bid_size"][0], lots["ask_size"][0]) == (400, 300)
    now = datetime(2025, 11, 3, 5, tzinfo=UTC)
    since = replace(QUOTES, start=now, end=now + timedelta(minutes=1))
    shares = read([quote(1, sip_timestamp=since_epoch(now))], since).bars
    assert shares is not None
    assert (shares["bid_size"][0], shares["ask_size"][0]) == (4, 3)
    contracts = read([quote(1)], replace(QUOTES, instrument=replace(AAPL, symbol="O:AAPL240119C00190000"))).bars
    assert contracts is not None
    assert (contracts["bid_size"][0], contracts["ask_size"][0]) == (4, 3)


def test_pages_lead_on() -> None:
    parsed = read([trade(1)], next_url=f"{HOME}/v3/trades/AAPL?cursor=x")
    assert parsed.more is not None
    assert parsed.more.endpoint == "trades.next"


@pytest.mark.parametrize(
    "row",
    [
        trade(1, sip_timestamp=1.7042922e18),
        trade(1, sip_timestamp=None),
        trade(1, price=None),
        trade(1, price="12"),
        trade(1, decimal_size="inf"),
        trade(1, decimal_size="many"),
        trade(1, conditions=["a"]),
        trade(1, sequence_number=10**19),
    ],
)
def test_a_trade_that_is_none_is_malformed(row: dict[str, Any]) -> None:
    assert read([trade(1), row]).outcome is Outcome.MALFORMED


SESSION = (datetime(2024, 1, 3, 14, 30, tzinfo=UTC), datetime(2024, 1, 3, 21, 0, tzinfo=UTC))
SATURDAY = (datetime(2024, 1, 6, 14, 30, tzinfo=UTC), datetime(2024, 1, 6, 21, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    ("kind", "window", "outcome"),
    [
        (TickKind.TRADES, (TRADES.start, TRADES.end), Outcome.EMPTY_EXPECTED),
        (TickKind.TRADES, SESSION, Outcome.EMPTY_UNEXPECTED),
        (TickKind.TRADES, SATURDAY, Outcome.EMPTY_EXPECTED),
        (TickKind.QUOTES, (TRADES.start, TRADES.end), Outcome.EMPTY_UNEXPECTED),
        (TickKind.QUOTES, SATURDAY, Outcome.EMPTY_EXPECTED),
    ],
    ids=["two minutes", "a session", "a Saturday", "two minutes of quotes", "a Saturday's quotes"],
)
def test_nobody_has_to_trade_but_somebody_always_quotes(
    kind: TickKind, window: tuple[datetime, datetime], outcome: Outcome
) -> None:
    query = replace(TRADES, kind=kind, start=window[0], end=window[1])
    parsed = read([], query)
    assert (parsed.outcome, parsed.bars) == (outcome, None)


def test_nothing_is_missing_before_a_listing() -> None:
    young = replace(AAPL, listed_from=date(2024, 1, 10))
    query = replace(TRADES, instrument=young, start=SESSION[0], end=SESSION[1])
    assert read([], query).outcome is Outcome.EMPTY_EXPECTED
