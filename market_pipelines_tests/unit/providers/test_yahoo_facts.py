"""Quotes, profiles, option chains, actions and the search, as the endpoints answer a question that was let in."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import OptionContract, Profile, Quote, Right, SymbolMatch
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Capability,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
)
from market_pipelines.providers.yahoo import Yahoo

NOW = datetime(2025, 2, 17, 15, tzinfo=UTC)
ABILITIES = Yahoo().abilities
AAPL = Instrument("AAPL", "us", "XNYS", "USD", name="Apple")
BRK = Instrument("BRK.B", "us", "XNYS", "USD")
VOD = Instrument("VOD", "lse", "XLON", "GBP")
FTSE = Instrument("^UKX", "lse", "XLON", "GBP", kind=Kind.INDEX, provider_symbols={"yahoo": "^FTSE"})


def read(capability: Capability, body: Any, query: object, status: int = 200, endpoint: str = "") -> Parsed:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ABILITIES[capability].read(Answer(status, raw, {}, NOW, 0.1, endpoint=endpoint), query)


def quote(symbol: str = "AAPL", **facts: Any) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "quoteType": "EQUITY",
        "currency": "USD",
        "exchangeTimezoneName": "America/New_York",
        "regularMarketPrice": 244.6,
        "regularMarketTime": 1739566800,
        "regularMarketPreviousClose": 241.53,
        "regularMarketOpen": 241.07,
        "regularMarketDayHigh": 245.41,
        "regularMarketDayLow": 241,
        "regularMarketVolume": 40896227,
        "bid": 244.44,
        "ask": 253.37,
        "bidSize": 2,
        "askSize": 1,
        **facts,
    }


def quotes(*told: dict[str, Any], asked: tuple[Instrument, ...] = (AAPL,)) -> Parsed:
    body = {"quoteResponse": {"result": list(told), "error": None}}
    return read(Capability.BULK_QUOTES, body, QuoteQuery(asked))


def test_a_quote_says_what_a_share_trades_at() -> None:
    (found,) = quotes(quote()).records
    assert found == Quote(
        symbol="AAPL",
        price=244.6,
        at=datetime(2025, 2, 14, 21, tzinfo=UTC),
        currency="USD",
        bid=244.44,
        ask=253.37,
        bid_size=2.0,
        ask_size=1.0,
        open=241.07,
        high=245.41,
        low=241.0,
        previous_close=241.53,
        volume=40896227.0,
        session=date(2025, 2, 14),
    )


def test_quotes_come_back_under_the_houses_symbols_in_the_order_of_the_question() -> None:
    parsed = quotes(quote("AAPL"), quote("BRK-B"), asked=(BRK, AAPL))
    assert [found.symbol for found in parsed.records] == ["BRK.B", "AAPL"]


def test_a_silently_dropped_symbol_is_named() -> None:
    parsed = quotes(quote("BRK-B"), asked=(AAPL, BRK))
    assert parsed.outcome is Outcome.OK
    assert [found.symbol for found in parsed.records] == ["BRK.B"]
    assert parsed.reason == "AAPL is not known"


def test_an_empty_list_is_an_unknown_symbol() -> None:
    assert quotes().outcome is Outcome.UNKNOWN_SYMBOL


def test_a_quote_without_type_and_price_is_no_data_and_expected_of_a_delisted_share() -> None:
    none = {"symbol": "AAPL", "quoteType": "NONE"}
    parsed = quotes(none)
    assert (parsed.outcome, parsed.records) == (Outcome.EMPTY_UNEXPECTED, ())
    assert "NONE" in parsed.reason
    gone = replace(AAPL, delisted_on=date(2024, 1, 5))
    assert quotes(none, asked=(gone,)).outcome is Outcome.EMPTY_EXPECTED


def test_a_price_of_three_years_ago_says_when_it_was() -> None:
    parsed = quotes(quote(regularMarketTime=1645131600))
    assert parsed.outcome is Outcome.OK
    assert parsed.records[0].at == datetime(2022, 2, 17, 21, tzinfo=UTC)
    assert parsed.reason == "AAPL last traded on 2022-02-17"
    assert quotes(quote()).reason == ""


def test_a_zero_is_how_yahoo_writes_that_there_is_none() -> None:
    zeros: dict[str, Any] = dict.fromkeys(
        ("bid", "ask", "bidSize", "askSize", "regularMarketOpen", "regularMarketDayHigh", "regularMarketDayLow"), 0
    )
    zeros |= {"bidSize": 5}
    (found,) = quotes(quote(**zeros)).records
    assert (found.bid, found.ask, found.bid_size, found.ask_size) == (None,) * 4
    assert (found.open, found.high, found.low) == (None,) * 3


def test_an_index_has_no_volume_where_it_says_zero() -> None:
    told = quote("^FTSE", currency="GBP", regularMarketVolume=0)
    assert quotes(told, asked=(FTSE,)).records[0].volume is None
    assert quotes(quote(regularMarketVolume=0)).records[0].volume == 0.0


def test_another_symbols_quote_is_not_taken() -> None:
    parsed = quotes(quote("MSFT"))
    assert parsed.outcome is Outcome.MALFORMED
    assert "MSFT" in parsed.reason


@pytest.mark.parametrize(
    ("quoted", "own", "price", "currency"),
    [("GBp", "GBP", 0.7054, "GBP"), ("GBp", "GBX", 70.54, "GBX"), ("USD", "GBP", 70.54, "USD")],
)
def test_a_quote_in_pence_is_given_in_the_instruments_unit(quoted: str, own: str, price: float, currency: str) -> None:
    told = quote("VOD.L", currency=quoted, regularMarketPrice=70.54, regularMarketPreviousClose=70.0, bid=70.5)
    (found,) = quotes(told, asked=(replace(VOD, currency=own),)).records
    assert (found.price, found.currency) == (price, currency)
    assert found.bid == pytest.approx(price * 70.5 / 70.54)
    assert found.change_share == pytest.approx(70.54 / 70.0 - 1)
    assert found.volume == 40896227.0


def test_dressed_numbers_are_numbers() -> None:
    told = quote(regularMarketPrice={"raw": 12.5, "fmt": "12.50"}, bid={}, ask=None)
    (found,) = quotes(told).records
    assert (found.price, found.bid, found.ask) == (12.5, None, None)


@pytest.mark.parametrize(
    "body", [b"[]", b'{"quoteResponse":{"result":null,"error":null}}', b'{"chart":{"result":[],"error":null}}', b"{"]
)
def test_other_json_is_malformed(body: bytes) -> None:
    assert read(Capability.QUOTE, body, QuoteQuery((AAPL,))).outcome is Outcome.MALFORMED


def summary(**modules: Any) -> Parsed:
    body = {"quoteSummary": {"result": [modules], "error": None}}
    return read(Capability.PROFILE, body, ProfileQuery(AAPL))


PRICE = {
    "symbol": "AAPL",
    "longName": "Apple Inc.",
    "exchangeName": "NasdaqGS",
    "currency": "USD",
    "marketCap": 3674405863424,
}
ASSET = {
    "longBusinessSummary": "Apple Inc. designs,\n manufactures and markets.",
    "sector": "Technology",
    "industry": "Consumer Electronics",
    "country": "United States",
    "website": "https://www.apple.com",
    "fullTimeEmployees": 150000,
    "companyOfficers": [{"name": "Somebody", "totalPay": {"raw": 1, "fmt": "1"}}],
}


def test_a_profile_says_what_a_company_is() -> None:
    parsed = summary(assetProfile=ASSET, price=PRICE, defaultKeyStatistics={"sharesOutstanding": 15022100480})
    assert parsed.records == (
        Profile(
            symbol="AAPL",
            name="Apple Inc.",
            description="Apple Inc. designs, manufactures and markets.",
            sector="Technology",
            industry="Consumer Electronics",
            exchange="NasdaqGS",
            country="United States",
            currency="USD",
            website="https://www.apple.com",
            employees=150000,
            market_cap=3674405863424.0,
            shares_outstanding=15022100480.0,
        ),
    )


def test_what_a_profile_lacks_is_empty_and_never_zero() -> None:
    profile = summary(price={"symbol": "AAPL", "shortName": "Apple", "marketCap": {}}).records[0]
    assert (profile.employees, profile.market_cap, profile.shares_outstanding) == (None, None, None)
    assert (profile.sector, profile.currency) == ("", "")


def test_the_capitalisation_of_a_share_in_pence_is_in_pounds() -> None:
    assert summary(price={**PRICE, "currency": "GBp"}).records[0].currency == "GBP"


def test_a_profile_of_another_company_is_malformed() -> None:
    assert summary(price={**PRICE, "symbol": "MSFT"}).outcome is Outcome.MALFORMED
    assert summary().outcome is Outcome.MALFORMED


def failed(description: str) -> dict[str, Any]:
    return {"quoteSummary": {"result": None, "error": {"code": "Not Found", "description": description}}}


def test_no_fundamentals_are_expected_of_an_index_only() -> None:
    body = failed("No fundamentals data found for any of the summaryTypes=assetProfile")
    assert read(Capability.PROFILE, body, ProfileQuery(FTSE), 404).outcome is Outcome.EMPTY_EXPECTED
    assert read(Capability.PROFILE, body, ProfileQuery(AAPL), 404).outcome is Outcome.EMPTY_UNEXPECTED


def test_a_profile_of_nobody_is_an_unknown_symbol() -> None:
    body = failed("Quote not found for symbol: NOSUCH")
    assert read(Capability.PROFILE, body, ProfileQuery(AAPL), 404).outcome is Outcome.UNKNOWN_SYMBOL


def epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


NEAR, NEXT, FAR = date(2025, 2, 21), date(2025, 2, 28), date(2025, 6, 20)


def contract(expires: date, right: str = "C", **facts: Any) -> dict[str, Any]:
    return {
        "contractSymbol": f"AAPL{expires:%y%m%d}{right}00250000",
        "strike": 250,
        "expiration": epoch(expires),
        "lastPrice": 1.5,
        "bid": 1.4,
        "ask": 1.6,
        "volume": 12,
        "openInterest": 345,
        "impliedVolatility": 0.31,
        "contractSize": "REGULAR",
        **facts,
    }


def chain(shown: date | None, *listed: date, calls: list[Any] | None = None, puts: list[Any] | None = None) -> Any:
    options = []
    if shown is not None:
        sides = {"calls": calls if calls is not None else [contract(shown)], "puts": puts or []}
        options = [{"expirationDate": epoch(shown), "hasMiniOptions": False, **sides}]
    quoted = {"regularMarketTime": 1739566800, "exchangeTimezoneName": "America/New_York"}
    told = {"underlyingSymbol": "AAPL", "expirationDates": [epoch(day) for day in listed], "strikes": [250]}
    return {"optionChain": {"result": [{**told, "quote": quoted, "options": options}], "error": None}}


def options(body: Any, endpoint: str = "options", **wish: Any) -> Parsed:
    return read(Capability.OPTIONS, body, OptionsQuery(AAPL, date(2025, 2, 17), **wish), endpoint=endpoint)


def test_a_contract_says_what_it_is() -> None:
    parsed = options(chain(NEAR, NEAR, calls=[contract(NEAR)]))
    assert parsed.records == (
        OptionContract(
            native="AAPL250221C00250000",
            underlying="AAPL",
            right=Right.CALL,
            strike=250.0,
            expires=NEAR,
            shares=100.0,
            last=1.5,
            bid=1.4,
            ask=1.6,
            volume=12.0,
            open_interest=345.0,
            implied_volatility=0.31,
            quoted_on=date(2025, 2, 14),
        ),
    )
    assert parsed.more is None


def test_what_a_contract_lacks_is_none() -> None:
    bare = contract(NEAR, bid=0, ask=0, lastPrice=0, impliedVolatility=1.0000000000000003e-05)
    for name in ("volume", "openInterest"):
        del bare[name]
    (found,) = options(chain(NEAR, NEAR, calls=[bare])).records
    assert (found.bid, found.ask, found.last, found.volume, found.open_interest) == (None,) * 5
    assert found.implied_volatility is None


def test_the_first_answer_leads_to_the_other_expiries_one_by_one() -> None:
    first = options(chain(NEAR, NEAR, NEXT, FAR))
    assert [found.expires for found in first.records] == [NEAR]
    assert first.more is not None
    # No crumb is known here, so the conversation asks for one in the next page's name.
    assert first.more.endpoint == f"options:{NEXT}/cookie"
    second = options(chain(NEXT, NEAR, NEXT, FAR), endpoint=f"options:{NEXT}")
    assert second.more is not None
    assert second.more.endpoint == f"options:{FAR}/cookie"
    last = options(chain(FAR, NEAR, NEXT, FAR), endpoint=f"options:{FAR}")
    assert ([found.expires for found in last.records], last.more) == ([FAR], None)


def test_an_expiry_before_the_one_that_is_shown_first_is_not_lost() -> None:
    first = options(chain(NEXT, NEAR, NEXT))
    assert first.records == ()
    assert first.more is not None
    assert first.more.endpoint == f"options:{NEAR}/cookie"


def test_only_the_expiries_in_question_are_asked_for() -> None:
    first = options(chain(NEAR, NEAR, NEXT, FAR), expires_from=date(2025, 3, 1))
    assert first.records == ()
    assert first.more is not None
    assert first.more.endpoint == f"options:{FAR}/cookie"
    assert options(chain(NEAR, NEAR, NEXT, FAR), expires_to=NEAR).more is None
    none = options(chain(NEAR, NEAR, NEXT, FAR), expires_from=date(2025, 7, 1))
    assert none.outcome is Outcome.EMPTY_EXPECTED
    assert "3 from 2025-02-21 to 2025-06-20" in none.reason


def test_a_server_that_ignores_the_date_does_not_keep_us_asking() -> None:
    parsed = options(chain(NEAR, NEAR, NEXT, FAR), endpoint=f"options:{NEXT}")
    assert (parsed.outcome, parsed.more, parsed.records) == (Outcome.MALFORMED, None, ())


def test_only_the_wanted_right_is_given() -> None:
    body = chain(NEAR, NEAR, puts=[contract(NEAR, "P")])
    assert [found.right for found in options(body, right=Right.PUT).records] == [Right.PUT]
    assert [found.right for found in options(body).records] == [Right.CALL, Right.PUT]


def test_an_underlying_without_options_has_an_empty_chain() -> None:
    assert options(chain(None)).outcome is Outcome.EMPTY_EXPECTED


def test_no_chain_at_all_is_an_unknown_symbol() -> None:
    assert options({"optionChain": {"result": [], "error": None}}).outcome is Outcome.UNKNOWN_SYMBOL


def test_a_chain_of_another_underlying_is_malformed() -> None:
    body = chain(NEAR, NEAR)
    body["optionChain"]["result"][0]["underlyingSymbol"] = "MSFT"
    assert options(body).outcome is Outcome.MALFORMED


def test_the_search_needs_no_crumb() -> None:
    call = ABILITIES[Capability.SEARCH].call(SearchQuery("Żabka"))
    assert call.endpoint == "search"
    assert call.params["q"] == "Żabka"
    assert not call.secret_params


def test_matches_come_in_their_order_with_names_as_they_are_written() -> None:
    told = [
        {
            "symbol": "ZAB.WA",
            "shortname": "Żabka Group SA               R",
            "quoteType": "EQUITY",
            "exchDisp": "Warsaw",
        },
        {"name": "A private company", "isYahooFinance": False},
        {"symbol": "QQQ", "longname": "Invesco QQQ", "shortname": "QQQ", "quoteType": "ETF", "exchange": "NMS"},
        {"symbol": "QQQ", "longname": "again", "quoteType": "ETF"},
    ]
    parsed = read(Capability.SEARCH, {"quotes": told, "count": 3}, SearchQuery("q"))
    assert parsed.records == (
        SymbolMatch("ZAB.WA", "Żabka Group SA R", "equity", "Warsaw"),
        SymbolMatch("QQQ", "Invesco QQQ", "etf", "NMS"),
    )


def test_nothing_by_that_name_is_an_answer() -> None:
    parsed = read(Capability.SEARCH, {"quotes": [], "count": 0}, SearchQuery("qqqq"))
    assert (parsed.outcome, parsed.reason) == (Outcome.EMPTY_EXPECTED, "nothing is called 'qqqq'")


def test_actions_come_from_daily_bars_without_the_bars() -> None:
    query = ActionsQuery(AAPL, date(2020, 8, 1), date(2020, 9, 4))
    call = ABILITIES[Capability.ACTIONS].call(query)
    assert (call.params["interval"], call.params["events"]) == ("1d", "div,splits")
    stamps = [1596720600, 1596807000, 1598880600, 1599226200]
    prices = {name: [1.0, 2.0, 3.0, 4.0] for name in ("open", "high", "low", "close", "volume")}
    body: dict[str, Any] = {
        "meta": {
            "symbol": "AAPL",
            "currency": "USD",
            "exchangeTimezoneName": "America/New_York",
            "dataGranularity": "1d",
            "regularMarketTime": 1599249601,
        },
        "timestamp": stamps,
        "events": {
            "dividends": {"1596807000": {"amount": 0.205, "date": 1596807000}},
            "splits": {"1598880600": {"date": 1598880600, "numerator": 4, "denominator": 1}},
        },
        "indicators": {"quote": [prices]},
    }
    parsed = read(Capability.ACTIONS, {"chart": {"result": [body], "error": None}}, query)
    assert parsed.bars is None
    assert parsed.actions_known
    assert parsed.actions == (
        CorporateAction("AAPL", date(2020, 8, 7), ActionKind.DIVIDEND, 0.82),
        CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0),
    )
    body["meta"]["dataGranularity"] = "3mo"
    coarse = read(Capability.ACTIONS, {"chart": {"result": [body], "error": None}}, query)
    assert (coarse.outcome, coarse.actions) == (Outcome.MALFORMED, ())
