"""Any bytes to any reader of Polygon's answers: an outcome, never an exception, never a bad row."""

import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.market.bars import BAR_COLUMNS
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import QUOTE_COLUMNS, TRADE_COLUMNS, TickKind
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    DailyQuery,
    GroupedQuery,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    TicksQuery,
)
from market_pipelines_tests.unit.providers.polygon_answers import (
    AAPL,
    HOME,
    KEY,
    aggregate,
    aggregates,
    answer,
    ms,
    polygon,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
"""For a longer run."""
POLYGON = polygon()
DAY, TODAY = date(2024, 1, 3), date(2024, 1, 20)
DAYS = DailyQuery(AAPL, date(2024, 1, 2), date(2024, 1, 8), TODAY)
WINDOW = (datetime(2024, 1, 3, 14, 30, tzinfo=UTC), datetime(2024, 1, 3, 15, 30, tzinfo=UTC))
FIRST = int(WINDOW[0].timestamp()) * 10**9

READERS: dict[str, Callable[[Answer], Parsed]] = {
    "daily": lambda body: POLYGON.parse_daily(body, DAYS),
    "intraday": lambda body: POLYGON.read_intraday(body, IntradayQuery(AAPL, "1min", DAY, DAY, TODAY)),
    "hours": lambda body: POLYGON.read_intraday(body, IntradayQuery(AAPL, "60min", DAY, DAY, TODAY)),
    "grouped": lambda body: POLYGON.read_grouped(body, GroupedQuery((AAPL,), DAY, TODAY)),
    "quote": lambda body: POLYGON.read_quote(body, QuoteQuery((AAPL,))),
    "bulk": lambda body: POLYGON.read_bulk(body, QuoteQuery((AAPL,))),
    "profile": lambda body: POLYGON.read_profile(body, ProfileQuery(AAPL)),
    "actions": lambda body: POLYGON.read_actions(body, ActionsQuery(AAPL, date(2000, 1, 1), TODAY)),
    "listings": lambda body: POLYGON.read_listings(body, ListingsQuery("XNYS")),
    "search": lambda body: POLYGON.read_search(body, SearchQuery("a")),
    "status": lambda body: POLYGON.read_status(body, StatusQuery()),
    "upcoming": lambda body: POLYGON.read_status(body, StatusQuery(upcoming=True)),
    "options": lambda body: POLYGON.read_options(body, OptionsQuery(AAPL, TODAY)),
    "trades": lambda body: POLYGON.read_ticks(body, TicksQuery(AAPL, TickKind.TRADES, *WINDOW)),
    "quotes": lambda body: POLYGON.read_ticks(body, TicksQuery(AAPL, TickKind.QUOTES, *WINDOW)),
}


def results(rows: object) -> dict[str, Any]:
    return {"results": rows, "status": "OK", "next_url": f"{HOME}/v3/x?cursor=abc", "request_id": "b52de486"}


TRADE = {"sip_timestamp": FIRST + 5, "price": 156.4, "sequence_number": 7, "size": 1, "conditions": [12], "id": "a"}
QUOTE = {"sip_timestamp": FIRST + 5, "bid_price": 1.5, "ask_price": 1.6, "bid_size": 1, "ask_exchange": 4}
SNAPSHOT = {"ticker": "AAPL", "day": {"c": 1.5, "o": 1.4}, "lastTrade": {"p": 1.6, "t": FIRST}, "updated": FIRST}
SPLIT = {"execution_date": "2020-08-31", "split_from": 1, "split_to": 4, "ticker": "AAPL"}
DIVIDEND = {"ex_dividend_date": "2020-08-07", "cash_amount": 0.82, "ticker": "AAPL", "currency": "USD"}
TICKER = {
    "ticker": "AAPL",
    "market": "stocks",
    "name": "Apple",
    "type": "CS",
    "active": True,
    "delisted_utc": "2020-01-01T00:00:00Z",
}
CONTRACT = {
    "ticker": "O:AAPL240216C00190000",
    "contract_type": "call",
    "strike_price": 190,
    "expiration_date": "2024-02-16",
    "underlying_ticker": "AAPL",
}
HOLIDAY = {"exchange": "NYSE", "name": "Thanksgiving", "date": "2024-11-28", "status": "closed"}
MINUTES = [aggregate(ms(2024, 1, 3, 9, 30 + each)) for each in range(3)]
BODIES: dict[str, object] = {
    "daily": aggregates([aggregate(ms(2024, 1, each)) for each in (2, 3, 4)]),
    "intraday": aggregates(MINUTES),
    "hours": aggregates([aggregate(ms(2024, 1, 3, hour, 30)) for hour in (9, 10, 15)]),
    "grouped": aggregates([{"T": "AAPL", **aggregate(ms(2024, 1, 3, 16))}, {"T": "X", **aggregate(1)}]),
    "quote": {"status": "OK", "ticker": SNAPSHOT},
    "bulk": {"status": "OK", "tickers": [SNAPSHOT]},
    "profile": results({**TICKER, "market_cap": 1e9, "total_employees": 5}),
    "actions": results([SPLIT, SPLIT]),
    "listings": results([TICKER, TICKER]),
    "search": results([TICKER]),
    "status": {"serverTime": "now", "exchanges": {"nyse": "open"}},
    "upcoming": [HOLIDAY],
    "options": results([CONTRACT, {"details": CONTRACT, "day": {"close": 1.0, "last_updated": FIRST}}]),
    "trades": results([TRADE, TRADE]),
    "quotes": results([QUOTE]),
}
OTHERS = [
    results([DIVIDEND]),
    results({"T": "AAPL", "p": 1.5, "P": 1.6, "t": FIRST}),
    {"status": "ERROR", "error": "x"},
]
COLUMNS = {
    "daily": BAR_COLUMNS,
    "grouped": BAR_COLUMNS,
    "intraday": INTRADAY_COLUMNS,
    "hours": INTRADAY_COLUMNS,
    "trades": TRADE_COLUMNS,
    "quotes": QUOTE_COLUMNS,
}
LOUD = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)


def assert_sound(reader: str, parsed: Parsed) -> None:
    assert isinstance(parsed.outcome, Outcome)
    assert parsed.outcome is Outcome.OK or parsed.reason
    assert "\n" not in parsed.reason
    assert KEY not in parsed.reason
    if parsed.more is not None:
        assert parsed.more.url.startswith(f"{HOME}/")
    if parsed.bars is None:
        assert (parsed.rows > 0) == (parsed.outcome is Outcome.OK)
        return
    bars = parsed.bars
    assert parsed.outcome is Outcome.OK
    assert len(bars)
    assert tuple(bars.columns) == COLUMNS[reader]
    assert set(bars["symbol"]) == {"AAPL"}
    numbers = bars.select_dtypes("float64").to_numpy()
    assert not np.isinf(numbers).any()
    if "session" in bars:
        assert bars["session"].is_monotonic_increasing
        assert bars["session"].between(pd.Timestamp(DAYS.start), pd.Timestamp(DAYS.end)).all()
    elif reader in ("trades", "quotes"):
        assert bars["ts"].is_monotonic_increasing
        assert ((bars["ts"] >= WINDOW[0]) & (bars["ts"] < WINDOW[1])).all()
        assert not bars.duplicated().any()
    else:
        assert bars["ts"].is_monotonic_increasing
        assert bars["ts"].is_unique
        start = datetime(2024, 1, 3, 5, tzinfo=UTC)
        assert ((bars["ts"] >= start) & (bars["ts"] < start + timedelta(days=1))).all()
        assert bars[["open", "high", "low", "close"]].notna().any(axis=1).all()


@given(body=st.binary(max_size=400), status=st.sampled_from([0, 200, 200, 200, 301, 401, 403, 404, 429, 500]))
@LOUD
def test_any_bytes_give_an_outcome_to_every_reader(body: bytes, status: int) -> None:
    for reader, read in READERS.items():
        assert_sound(reader, read(answer(body, status=status)))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(FIRST // 10**6 - 10**6, FIRST // 10**6 + 10**7)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "AAPL", "OK", "DELAYED", "2024-01-03", "call", "-1", "1e400", "\u0000", HOME])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data(), reader=st.sampled_from(sorted(READERS)))
@LOUD
def test_a_body_with_another_value_in_it_gives_an_outcome(data: st.DataObject, reader: str) -> None:
    body = json.loads(json.dumps(data.draw(st.sampled_from([BODIES[reader], *OTHERS]))))
    for _ in range(data.draw(st.integers(1, 3))):
        _damage(body, data)
    assert_sound(reader, READERS[reader](answer(body)))


def _damage(body: Any, data: st.DataObject) -> None:
    """Another value, or none, in some place at whatever depth."""
    here = body
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = here[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            if isinstance(here, dict) and data.draw(st.integers(0, 4)) == 0:
                del here[key]
            else:
                here[key] = data.draw(VALUES)
            return
        here = inner


@given(data=st.data(), reader=st.sampled_from(sorted(READERS)))
@LOUD
def test_a_body_with_other_bytes_in_it_gives_an_outcome(data: st.DataObject, reader: str) -> None:
    body = json.dumps(data.draw(st.sampled_from([BODIES[reader], *OTHERS]))).encode()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 30)))
    patch = data.draw(st.binary(max_size=12) | st.text('0123456789-.,":[]{}eE \\untrlfas', max_size=20).map(str.encode))
    assert_sound(reader, READERS[reader](answer(body[:start] + patch + body[end:])))


def test_the_bodies_that_are_damaged_are_good_to_begin_with() -> None:
    for reader, body in BODIES.items():
        parsed = READERS[reader](answer(body))
        assert parsed.outcome is Outcome.OK, (reader, parsed.reason)
        assert_sound(reader, parsed)
