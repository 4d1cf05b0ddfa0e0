"""Bodies that Polygon / Massive really sent, each handed to every reader of the adapter.

The recordings are not part of a clone: without them these tests are skipped, and say so.
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from market_pipelines.market.actions import Basis
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import OptionContract, Right, TickKind
from market_pipelines.providers.polygon import Polygon
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

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "massive"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = date(2026, 11, 20)
EARLY = date(1990, 1, 2)
POLYGON = Polygon(None)

Reader = Callable[[Answer], Parsed]


def share(symbol: str) -> Instrument:
    return Instrument(symbol, "us", "XNYS", "USD")


def readers(symbol: str, session: date = date(2020, 10, 14)) -> dict[str, Reader]:
    """Every reader, with questions that cover whatever a body may be about."""
    one = share(symbol)
    span = (datetime(2000, 1, 1, tzinfo=UTC), NOW)
    return {
        "daily": lambda body: POLYGON.parse_daily(body, DailyQuery(one, EARLY, TODAY, TODAY)),
        "intraday": lambda body: POLYGON.read_intraday(body, IntradayQuery(one, "1min", EARLY, TODAY, TODAY)),
        "grouped": lambda body: POLYGON.read_grouped(body, GroupedQuery((one,), session, TODAY)),
        "quote": lambda body: POLYGON.read_quote(body, QuoteQuery((one,))),
        "bulk": lambda body: POLYGON.read_bulk(body, QuoteQuery((one,))),
        "profile": lambda body: POLYGON.read_profile(body, ProfileQuery(one)),
        "actions": lambda body: POLYGON.read_actions(body, ActionsQuery(one, EARLY, TODAY)),
        "listings": lambda body: POLYGON.read_listings(body, ListingsQuery("XNYS")),
        "search": lambda body: POLYGON.read_search(body, SearchQuery(symbol)),
        "status": lambda body: POLYGON.read_status(body, StatusQuery()),
        "upcoming": lambda body: POLYGON.read_status(body, StatusQuery(upcoming=True)),
        "options": lambda body: POLYGON.read_options(body, OptionsQuery(one, TODAY)),
        "trades": lambda body: POLYGON.read_ticks(body, TicksQuery(one, TickKind.TRADES, *span)),
        "quotes": lambda body: POLYGON.read_ticks(body, TicksQuery(one, TickKind.QUOTES, *span)),
    }


READ: dict[str, tuple[str, dict[str, int]]] = {
    "aggs_aapl_1d.json": ("AAPL", {"daily": 2}),
    "conditions_stocks.json": ("AAPL", {}),
    "dividends.json": ("CSSEN", {"actions": 8}),
    "exchanges.json": ("AAPL", {}),
    "grouped_daily.json": ("GIK", {"grouped": 1}),
    "last_trade.json": ("AAPL", {"quote": 1}),
    "marketstatus_now.json": ("AAPL", {"status": 3}),
    "open_close.json": ("AAPL", {"quote": 1}),
    "options_chain_snapshot.json": ("AAPL", {"options": 1}),
    "options_contract_single.json": ("EVRI", {"options": 1}),
    "options_contracts_page1.json": ("A", {"options": 10}),
    "quotes_v3_page1.json": ("AAPL", {"quotes": 10}),
    "snapshot_aapl.json": ("AAPL", {"quote": 1}),
    "splits.json": ("SHOP", {"actions": 2}),
    "ticker_details.json": ("AAPL", {"profile": 1}),
    "tickers_page1.json": ("A", {"listings": 2, "search": 2}),
    "trades_v3.json": ("AAPL", {"trades": 2}),
    "ws_spec_examples.json": ("AAPL", {}),
    "ws_stocks_frames.jsonl": ("AAPL", {}),
}
"""Whom a body is asked about, and how many rows or records which readers find in it. All others find none."""


def recorded(name: str) -> Answer:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    return Answer(200, path.read_bytes(), {}, NOW, 0.1)


def files() -> list[Any]:
    found = sorted(path.name for path in RECORDED.glob("*"))
    return found or [pytest.param("", marks=pytest.mark.skip(reason="the folder of recordings is not here"))]


@pytest.mark.parametrize("name", files())
def test_every_recorded_body_is_read_by_those_it_concerns_and_refused_by_the_others(name: str) -> None:
    symbol, expected = READ[name]
    body = recorded(name)
    for reader, read in readers(symbol).items():
        parsed = read(body)
        assert parsed.rows == expected.get(reader, 0), (reader, parsed.reason)
        if reader in expected:
            assert parsed.outcome is Outcome.OK, (reader, parsed.reason)
            continue
        assert parsed.outcome is not Outcome.OK, reader
        assert parsed.reason, reader
        assert parsed.outcome is Outcome.MALFORMED, (reader, parsed.reason)


@pytest.mark.parametrize(
    "name", ["aggs_aapl_1d.json", "last_trade.json", "snapshot_aapl.json", "ticker_details.json", "open_close.json"]
)
def test_a_recorded_body_about_another_is_refused(name: str) -> None:
    for reader in ("daily", "quote", "profile"):
        assert readers("OTHER")[reader](recorded(name)).outcome is Outcome.MALFORMED


def test_the_recorded_days_are_two_new_york_dates_across_the_clock_change() -> None:
    parsed = readers("AAPL")["daily"](recorded("aggs_aapl_1d.json"))
    assert parsed.bars is not None
    assert [str(stamp.date()) for stamp in parsed.bars["session"]] == ["2005-04-01", "2005-04-04"]
    values = parsed.bars[["open", "high", "low", "close", "volume"]].to_numpy().tolist()
    assert values == [
        [1.5032, 1.5064, 1.4489, 1.4604, 642646396.0],
        [1.4639, 1.4754, 1.4343, 1.4675, 578172308.0],
    ]
    assert parsed.basis is Basis.SPLIT


def test_the_recorded_session_is_stamped_with_its_end() -> None:
    parsed = readers("GIK")["grouped"](recorded("grouped_daily.json"))
    assert parsed.bars is not None
    row = parsed.bars.iloc[0]
    assert (row["symbol"], str(row["session"].date())) == ("GIK", "2020-10-14")
    assert row[["open", "high", "low", "close", "volume"]].tolist() == [9.99, 10.02, 9.9, 10.02, 895345.0]
    assert readers("GIK", date(2020, 10, 15))["grouped"](recorded("grouped_daily.json")).outcome is Outcome.MALFORMED


def test_the_recorded_snapshot_is_a_quote() -> None:
    (quote,) = readers("AAPL")["quote"](recorded("snapshot_aapl.json")).records
    assert (quote.price, quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (159.99, 159.98, 3, 159.99, 5)
    assert (quote.open, quote.high, quote.low, quote.volume) == (161.84, 166.2, 159.8, 68840127)
    assert quote.previous_close == 163.64
    assert quote.at == datetime(2022, 4, 29, 17, 5, 48, 294080, tzinfo=UTC)


def test_the_recorded_profile_is_whole() -> None:
    (profile,) = readers("AAPL")["profile"](recorded("ticker_details.json")).records
    assert (profile.name, profile.exchange, profile.country, profile.currency) == ("Apple Inc.", "XNAS", "US", "USD")
    assert (profile.cik, profile.figi, profile.employees) == ("0000320193", "BBG000B9XRY4", 154000)
    assert (profile.market_cap, profile.shares_outstanding) == (2488795282370.0, 16319440000.0)
    assert profile.industry == "ELECTRONIC COMPUTERS"


@pytest.mark.parametrize(("symbol", "value"), [("GOOGL", 20.0), ("BRW", 0.5), ("CIG.C", 4 / 3), ("CM", 2.0)])
def test_the_recorded_splits_are_new_shares_for_one_old(symbol: str, value: float) -> None:
    (action,) = readers(symbol)["actions"](recorded("splits.json")).actions
    assert (action.symbol, action.value) == (symbol, value)


def test_the_recorded_dividends_are_told_apart_by_ticker() -> None:
    found = readers("AIRTP")["actions"](recorded("dividends.json")).actions
    assert [(str(action.ex_date), action.value) for action in found] == [("2023-08-11", 0.5), ("2023-11-13", 0.5)]


def test_the_recorded_listings_keep_their_facts_and_lead_on() -> None:
    parsed = readers("A")["listings"](recorded("tickers_page1.json"))
    assert [(found.native, found.exchange, found.kind, found.figi) for found in parsed.records] == [
        ("A", "XNYS", "equity", "BBG000C2V3D6"),
        ("AA", "XNYS", "equity", "BBG00B3T3HD3"),
    ]
    assert parsed.more is not None
    assert parsed.more.url == "https://api.massive.com/v3/reference/tickers"
    assert list(parsed.more.params) == ["cursor"]


def test_the_recorded_contracts_lead_on() -> None:
    parsed = readers("A")["options"](recorded("options_contracts_page1.json"))
    first = parsed.records[0]
    assert (first.native, first.right, first.strike) == ("O:A220520C00065000", Right.CALL, 65.0)
    assert (first.expires, first.exchange) == (date(2022, 5, 20), "BATO")
    assert parsed.more is not None


def test_the_recorded_chain_has_prices() -> None:
    (contract,) = readers("AAPL")["options"](recorded("options_chain_snapshot.json")).records
    assert contract == OptionContract(
        native="O:AAPL230616C00150000",
        underlying="AAPL",
        right=Right.CALL,
        strike=150.0,
        expires=date(2023, 6, 16),
        style="american",
        last=29.25,
        bid=28.9,
        ask=29.25,
        volume=8.0,
        open_interest=8133.0,
        implied_volatility=0.3570277203465058,
        quoted_on=date(2022, 4, 29),
    )


@pytest.mark.parametrize(("name", "reader"), [("trades_v3.json", "trades"), ("quotes_v3_page1.json", "quotes")])
def test_recorded_ticks_keep_every_nanosecond(name: str, reader: str) -> None:
    body = recorded(name)
    written = sorted(row["sip_timestamp"] for row in json.loads(body.body)["results"])
    bars = readers("AAPL")[reader](body).bars
    assert bars is not None
    assert [stamp.value for stamp in bars["ts"]] == written


def test_the_recorded_trades_are_corrected_ones() -> None:
    bars = readers("AAPL")["trades"](recorded("trades_v3.json")).bars
    assert bars is not None
    assert bars["price"].tolist() == [156.43, 157.43]
    assert bars["correction"].tolist() == [1, 1]
    assert bars["conditions"].tolist() == ["12,37", "12,37"]


def test_the_recorded_quotes_lead_on_with_an_opaque_cursor() -> None:
    parsed = readers("AAPL")["quotes"](recorded("quotes_v3_page1.json"))
    assert parsed.bars is not None
    assert parsed.bars.iloc[-1][["bid", "ask", "bid_exchange"]].tolist() == [155.85, 155.87, "19"]
    assert parsed.more is not None
    assert parsed.more.url == "https://api.massive.com/v3/quotes/AAPL"
    assert parsed.more.params["cursor"].startswith("YXA9MTkyODgxNjYm")
