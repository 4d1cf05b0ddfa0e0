"""Quotes, profiles, actions, listings, search, market states and option chains."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Capability,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
)
from market_pipelines_tests.contract.providers.alpha_vantage_cases import (
    AAPL,
    IBM,
    KEY,
    MSFT,
    PROVIDER,
    QUESTIONS,
    TODAY,
    read,
)

TSCO = Instrument("TSCO", "uk", "XLON", "GBP")
BRK = Instrument("BRK.B", "us", "XNYS", "USD")


def params(capability: Capability, question: Any = None) -> dict[str, str]:
    call = PROVIDER.abilities[capability].call(QUESTIONS[capability] if question is None else question)
    assert call.secret_params["apikey"].get_secret_value() == KEY
    assert call.secret_origin == PROVIDER.base_url
    assert KEY not in repr(call)
    assert "accept" not in {name.lower() for name in call.headers}
    assert call.endpoint == call.params["function"]
    return {name: value for name, value in call.params.items() if name != "datatype"}


def test_what_is_asked() -> None:
    assert params(Capability.QUOTE, QuoteQuery((BRK,))) == {"function": "GLOBAL_QUOTE", "symbol": "BRK-B"}
    assert params(Capability.BULK_QUOTES, QuoteQuery((IBM, BRK))) == {
        "function": "REALTIME_BULK_QUOTES",
        "symbol": "IBM,BRK-B",
    }
    assert params(Capability.PROFILE) == {"function": "OVERVIEW", "symbol": "IBM"}
    assert params(Capability.ACTIONS) == {"function": "SPLITS", "symbol": "IBM"}
    assert params(Capability.LISTINGS) == {"function": "LISTING_STATUS", "state": "active"}
    assert params(Capability.LISTINGS, ListingsQuery("XNYS", active=False, on=date(2014, 7, 10))) == {
        "function": "LISTING_STATUS",
        "state": "delisted",
        "date": "2014-07-10",
    }
    assert params(Capability.SEARCH, SearchQuery("tesco & co")) == {
        "function": "SYMBOL_SEARCH",
        "keywords": "tesco & co",
    }
    assert params(Capability.MARKET_STATUS) == {"function": "MARKET_STATUS"}
    assert params(Capability.OPTIONS) == {"function": "HISTORICAL_OPTIONS", "symbol": "IBM"}
    assert PROVIDER.abilities[Capability.BULK_QUOTES].most == 100


def test_the_running_sessions_chain_is_another_function() -> None:
    provider = AlphaVantage(None, "http://127.0.0.1:8099/alpha_vantage", options_function="REALTIME_OPTIONS")
    call = provider.abilities[Capability.OPTIONS].call(OptionsQuery(IBM, TODAY))
    assert call.params["function"] == "REALTIME_OPTIONS"
    assert call.params["require_greeks"] == "true"
    assert call.params["apikey"] == "keyless"


# Quotes

NUMBERED = {
    "01. symbol": "IBM",
    "02. open": "218.2000",
    "03. high": "220.9100",
    "04. low": "217.6150",
    "05. price": "219.3000",
    "06. volume": "6154450",
    "07. latest trading day": "2026-05-15",
    "08. previous close": "218.3700",
    "09. change": "0.9300",
    "10. change percent": "0.4259%",
}


def quote(key: str = "Global Quote", question: QuoteQuery | None = None, **changed: Any) -> Parsed:
    cells = {**NUMBERED, **{next(name for name in NUMBERED if end in name): text for end, text in changed.items()}}
    return read(Capability.QUOTE, json.dumps({key: cells}), question)


def test_an_unknown_symbols_quote_is_empty() -> None:
    assert read(Capability.QUOTE, '{"Global Quote": {}}').outcome is Outcome.UNKNOWN_SYMBOL
    header = "symbol,open,high,low,price,volume,latestDay,previousClose,change,changePercent\r\n"
    assert read(Capability.QUOTE, header).outcome is Outcome.UNKNOWN_SYMBOL


def test_a_delayed_quote_has_a_longer_key() -> None:
    assert quote("Global Quote - DATA DELAYED BY 15 MINUTES").records[0].price == 219.3


@pytest.mark.parametrize("price", ["0.0000", "None", "-", "Infinity", "1e999", "-3"])
def test_a_quote_without_a_price_is_none(price: str) -> None:
    assert quote(price=price).outcome is Outcome.EMPTY_UNEXPECTED


@pytest.mark.parametrize("changed", [{"price": "n.v."}, {"percent": "0.4259 percent"}, {"latest": "15.05.2026"}])
def test_a_quote_with_other_text_in_a_cell_is_malformed(changed: dict[str, Any]) -> None:
    assert quote(**changed).outcome is Outcome.MALFORMED


def test_missing_numbers_of_a_quote_are_missing() -> None:
    (found,) = quote(open="None", previous="0.0000", volume="-").records
    assert (found.open, found.previous_close, found.volume) == (None, None, None)


def test_london_is_quoted_in_pence_but_dollars_stay_dollars() -> None:
    (pounds,) = quote(symbol="TSCO.LON", question=QuoteQuery((TSCO,))).records
    assert (pounds.price, pounds.currency) == (pytest.approx(2.193), "GBP")
    dollars = replace(TSCO, currency="USD")
    (same,) = quote(symbol="TSCO.LON", question=QuoteQuery((dollars,))).records
    assert (same.price, same.currency) == (219.3, "USD")


def test_a_quote_of_another_symbol_is_malformed() -> None:
    parsed = quote(symbol="MSFT")
    assert (parsed.outcome, parsed.records) == (Outcome.MALFORMED, ())


BULK = {
    "symbol": "IBM",
    "timestamp": "2024-10-30 19:59:57.895",
    "open": "209.53",
    "high": "211.12",
    "low": "204.26",
    "close": "205.04",
    "volume": "6956624",
    "previous_close": "210.43",
    "change": "-5.39",
    "change_percent": "-2.5614",
    "extended_hours_quote": "204.9",
    "extended_hours_change": "-0.14",
    "extended_hours_change_percent": "-0.06828",
}


def bulk(*rows: dict[str, str], question: QuoteQuery | None = None) -> Parsed:
    body = {"endpoint": "Realtime Bulk Quotes", "message": "success", "data": rows}
    return read(Capability.BULK_QUOTES, json.dumps(body), question)


def test_after_the_bell_the_latest_price_is_the_extended_one() -> None:
    (found,) = bulk(BULK).records
    assert found == Quote(
        "IBM",
        204.9,
        datetime(2024, 10, 30, 23, 59, 57, 895000, tzinfo=UTC),
        "USD",
        open=209.53,
        high=211.12,
        low=204.26,
        previous_close=210.43,
        volume=6956624,
        session=date(2024, 10, 30),
    )
    (during,) = bulk({**BULK, "timestamp": "2024-10-30 15:59:57.895"}).records
    assert during.price == 205.04
    for nothing in ("", "N/A", "None", "0"):
        (plain,) = bulk({**BULK, "extended_hours_quote": nothing}).records
        assert plain.price == 205.04


def test_bulk_quotes_are_matched_by_symbol_not_by_place() -> None:
    parsed = bulk({**BULK, "symbol": "XYZ"}, {**BULK, "symbol": "msft", "close": "1"}, BULK)
    assert [one.symbol for one in parsed.records] == ["MSFT", "IBM"]
    assert parsed.outcome is Outcome.OK
    assert "AAPL" in parsed.reason


def test_bulk_quotes_about_others_only_are_malformed_and_none_at_all_unknown() -> None:
    assert bulk({**BULK, "symbol": "XYZ"}).outcome is Outcome.MALFORMED
    assert bulk().outcome is Outcome.UNKNOWN_SYMBOL


def test_bulk_quotes_come_as_csv_too() -> None:
    body = f"{','.join(BULK)}\r\n{','.join(BULK.values())}\r\n"
    assert read(Capability.BULK_QUOTES, body).records == bulk(BULK).records


# Profiles


def profile(**cells: str) -> Parsed:
    return read(Capability.PROFILE, json.dumps({"Symbol": "IBM", "Name": "Big Blue", **cells}))


@pytest.mark.parametrize("nothing", ["None", "-", "", "null", "none"])
def test_a_profiles_missing_values_have_several_words(nothing: str) -> None:
    (found,) = profile(Sector=nothing, MarketCapitalization=nothing, SharesOutstanding=nothing).records
    assert (found.sector, found.market_cap, found.shares_outstanding) == ("", None, None)


def test_a_profile_of_2020_counted_employees() -> None:
    (found,) = profile(FullTimeEmployees="383800", SomethingNew="9").records
    assert found.employees == 383800


def test_a_company_without_a_profile_is_unknown() -> None:
    parsed = read(Capability.PROFILE, "{}")
    assert parsed.outcome is Outcome.UNKNOWN_SYMBOL


@pytest.mark.parametrize("cells", [{"Symbol": "MSFT"}, {"MarketCapitalization": "huge"}])
def test_a_profile_of_somebody_else_or_of_words_is_malformed(cells: dict[str, str]) -> None:
    assert profile(**cells).outcome is Outcome.MALFORMED


# Actions

SPLITS = [
    {"effective_date": "2021-11-04", "split_factor": "1.0460"},
    {"effective_date": "1999-05-27", "split_factor": "2.0000"},
]


def actions(
    rows: list[dict[str, str]], endpoint: str = "SPLITS", symbol: str = "IBM", start: date = date(1990, 1, 1)
) -> Parsed:
    question = ActionsQuery(IBM, start, TODAY)
    return read(Capability.ACTIONS, json.dumps({"symbol": symbol, "data": rows}), question, endpoint=endpoint)


def test_splits_come_first_and_lead_to_the_dividends() -> None:
    parsed = actions(SPLITS)
    assert parsed.actions == (
        CorporateAction("IBM", date(1999, 5, 27), ActionKind.SPLIT, 2.0),
        CorporateAction("IBM", date(2021, 11, 4), ActionKind.SPLIT, 1.046),
    )
    assert not parsed.actions_known
    assert parsed.more is not None
    assert (parsed.more.endpoint, parsed.more.params["function"]) == ("DIVIDENDS", "DIVIDENDS")
    assert parsed.more.secret_params["apikey"].get_secret_value() == KEY


def test_a_spin_off_is_kept_as_a_split_and_can_be_told() -> None:
    parsed = actions(SPLITS)
    assert [one.odd_ratio for one in parsed.actions] == [False, True]
    assert parsed.reason == "looks like a spin-off, kept as a split: 1.046 on 2021-11-04"


@pytest.mark.parametrize(
    ("ratio", "odd"),
    [
        *((ratio, False) for ratio in (2.0, 4.0, 20.0, 50.0, 1.5, 1.25, 1.3333, 0.1, 0.05, 0.0333, 0.3333, 1.05, 1.03)),
        *((ratio, True) for ratio in (1.046, 1.281, 1.253, 1.324, 1.0155, 1.1973)),
    ],
)
def test_companies_split_by_small_numbers_or_whole_percents(ratio: float, odd: bool) -> None:
    assert CorporateAction("X", TODAY, ActionKind.SPLIT, ratio).odd_ratio is odd
    assert not CorporateAction("X", TODAY, ActionKind.DIVIDEND, ratio).odd_ratio


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf"), 1e-320, 1e300])
def test_what_is_no_ratio_is_no_odd_one(ratio: float) -> None:
    assert not CorporateAction("X", TODAY, ActionKind.SPLIT, ratio).odd_ratio


def test_no_splits_still_lead_to_the_dividends() -> None:
    parsed = actions([])
    assert parsed.outcome is Outcome.EMPTY_EXPECTED
    assert parsed.more is not None
    last = actions([], endpoint="DIVIDENDS")
    assert (last.outcome, last.more, last.actions_known) == (Outcome.EMPTY_EXPECTED, None, True)


def test_a_refusal_of_the_splits_ends_the_conversation() -> None:
    body = '{"Information": "our standard API rate limit is 25 requests per day"}'
    parsed = read(Capability.ACTIONS, body, endpoint="SPLITS")
    assert (parsed.outcome, parsed.more) == (Outcome.QUOTA_EXHAUSTED, None)


DIVIDENDS = [
    {
        "ex_dividend_date": "2026-08-10",
        "declaration_date": "2026-04-22",
        "record_date": "2026-08-10",
        "payment_date": "2026-09-10",
        "amount": "1.70",
    },
    {
        "ex_dividend_date": "2026-05-08",
        "declaration_date": "None",
        "record_date": "None",
        "payment_date": "None",
        "amount": "1.69",
    },
]


def test_dividends_announced_for_later_are_not_facts_yet() -> None:
    assert actions(DIVIDENDS, "DIVIDENDS").actions == (
        CorporateAction("IBM", date(2026, 5, 8), ActionKind.DIVIDEND, 1.69),
    )
    assert actions(DIVIDENDS, "DIVIDENDS", start=date(2026, 5, 9)).outcome is Outcome.EMPTY_EXPECTED


@pytest.mark.parametrize("changed", [{"ex_dividend_date": "None"}, {"amount": "None"}, {"amount": "0"}])
def test_a_row_that_says_nothing_is_no_dividend(changed: dict[str, str]) -> None:
    assert actions([{**DIVIDENDS[1], **changed}], "DIVIDENDS").actions == ()


@pytest.mark.parametrize("changed", [{"ex_dividend_date": "2026-13-08"}, {"amount": "1,69"}, {"amount": "-1.69"}])
def test_a_row_that_cannot_be_read_spoils_the_answer(changed: dict[str, str]) -> None:
    assert actions([{**DIVIDENDS[1], **changed}], "DIVIDENDS").outcome is Outcome.MALFORMED


def test_actions_come_as_csv_too() -> None:
    body = "effective_date,split_factor\r\n2021-11-04,1.0460\r\n1999-05-27,2.0000\r\n"
    assert read(Capability.ACTIONS, body, endpoint="SPLITS").actions == actions(SPLITS).actions
    assert read(Capability.ACTIONS, body, endpoint="DIVIDENDS").outcome is Outcome.MALFORMED
    assert read(Capability.ACTIONS, body[:-4], endpoint="SPLITS").outcome is Outcome.MALFORMED


def test_splits_of_another_symbol_are_malformed() -> None:
    assert actions(SPLITS, symbol="MSFT").outcome is Outcome.MALFORMED


# Listings

LIST = "symbol,name,exchange,assetType,ipoDate,delistingDate,status\r\n"


def listings(*lines: str, question: ListingsQuery | None = None) -> Parsed:
    return read(Capability.LISTINGS, LIST + "".join(f"{line}\r\n" for line in lines), question)


def test_a_delisting_has_its_day() -> None:
    gone = ListingsQuery("XNYS", active=False)
    (found,) = listings("TWTR,Twitter Inc,NYSE,Stock,2013-11-07,2022-10-27,Delisted", question=gone).records
    assert (found.active, found.delisted_on) == (False, date(2022, 10, 27))


def test_a_list_of_the_other_state_is_malformed() -> None:
    line = "IBM,International Business Machines,NYSE,Stock,1962-01-02,null,Active"
    assert listings(line).outcome is Outcome.OK
    assert listings(line, question=ListingsQuery("XNYS", active=False)).outcome is Outcome.MALFORMED


@pytest.mark.parametrize("nothing", ["null", "None", ""])
def test_a_lists_missing_cells_have_several_words(nothing: str) -> None:
    (found,) = listings(f"IBM,{nothing},NYSE,Stock,{nothing},{nothing},Active").records
    assert (found.name, found.listed_from, found.delisted_on) == ("", None, None)


@pytest.mark.parametrize("symbol", ["NAN", "NULL", "NONE", "TRUE"])
def test_a_symbol_that_reads_like_nothing_is_a_symbol(symbol: str) -> None:
    (found,) = listings(f"{symbol},Somebody,NYSE,Stock,2001-01-02,null,Active").records
    assert (found.native, found.symbol) == (symbol, symbol)


def test_a_quoted_name_may_hold_a_comma() -> None:
    (found,) = listings('AMZN,"Amazon.com, Inc.",NASDAQ,Stock,1997-05-15,null,Active').records
    assert found.name == "Amazon.com, Inc."


def test_a_list_cut_short_is_malformed() -> None:
    body = LIST + "IBM,International,NYSE,Stock,1962-01-02,null,Active\r\nMSFT,Micro"
    assert read(Capability.LISTINGS, body).outcome is Outcome.MALFORMED
    assert listings("IBM,International,NYSE").outcome is Outcome.MALFORMED


def test_other_exchanges_lists_are_not_to_be_had() -> None:
    parsed = listings("IBM,,NYSE,Stock,1962-01-02,null,Active", question=ListingsQuery("XWAR"))
    assert (parsed.outcome, parsed.records) == (Outcome.NOT_ENTITLED, ())


# Search and market states


def test_a_search_without_a_match_is_answered() -> None:
    parsed = read(Capability.SEARCH, '{"bestMatches": []}', SearchQuery("zzz"))
    assert parsed.outcome is Outcome.EMPTY_EXPECTED
    assert "zzz" in parsed.reason


def test_matches_come_as_csv_too() -> None:
    body = (
        "symbol,name,type,region,marketOpen,marketClose,timezone,currency,matchScore\r\n"
        "TSCO.LON,Tesco PLC,Equity,United Kingdom,08:00,16:30,UTC+01,GBX,0.7273\r\n"
        "NAN,Nuveen,Mutual Fund,United States,09:30,16:00,UTC-04,USD,0.5\r\n"
    )
    tesco, nuveen = read(Capability.SEARCH, body).records
    assert (tesco.native, tesco.exchange, tesco.currency, tesco.score) == ("TSCO.LON", "United Kingdom", "GBX", 0.7273)
    assert (nuveen.native, nuveen.kind) == ("NAN", "fund")


@pytest.mark.parametrize("score", ["1.5", "-0.1", "high"])
def test_a_score_that_is_none_is_malformed(score: str) -> None:
    row = {
        "1. symbol": "A",
        "2. name": "A",
        "3. type": "Equity",
        "4. region": "",
        "8. currency": "",
        "9. matchScore": score,
    }
    assert read(Capability.SEARCH, json.dumps({"bestMatches": [row]})).outcome is Outcome.MALFORMED


def test_holidays_to_come_are_not_told() -> None:
    assert read(Capability.MARKET_STATUS, '{"markets": []}', StatusQuery(upcoming=True)).outcome is Outcome.NOT_ENTITLED
    assert read(Capability.MARKET_STATUS, '{"markets": []}').outcome is Outcome.EMPTY_UNEXPECTED


# Options

CONTRACT = {
    "contractID": "IBM260515C00115000",
    "symbol": "IBM",
    "expiration": "2026-05-15",
    "strike": "115.00",
    "type": "call",
    "last": "98.62",
    "mark": "104.82",
    "bid": "103.10",
    "bid_size": "10",
    "ask": "106.55",
    "ask_size": "10",
    "volume": "0",
    "open_interest": "1",
    "date": "2026-05-14",
}


def chain(*rows: dict[str, str], question: OptionsQuery | None = None) -> Parsed:
    return read(Capability.OPTIONS, json.dumps({"message": "success", "data": rows}), question)


def test_the_running_chain_may_come_without_greeks() -> None:
    (found,) = chain(CONTRACT).records
    assert found.implied_volatility is None
    body = f"{','.join(CONTRACT)}\r\n{','.join(CONTRACT.values())}\r\n"
    assert read(Capability.OPTIONS, body).records == (found,)


@pytest.mark.parametrize(
    "changed",
    [
        {"expiration": "2099-99-99"},
        {"expiration": "None"},
        {"strike": "0"},
        {"strike": "Infinity"},
        {"type": "straddle"},
        {"contractID": ""},
        {"symbol": "XXYYZZ"},
    ],
)
def test_a_contract_that_cannot_be_is_malformed(changed: dict[str, str]) -> None:
    parsed = chain(CONTRACT, {**CONTRACT, **changed})
    assert (parsed.outcome, parsed.records) == (Outcome.MALFORMED, ())


def test_a_contract_comes_once_and_not_in_two_versions() -> None:
    assert len(chain(CONTRACT, CONTRACT).records) == 1
    assert chain(CONTRACT, {**CONTRACT, "bid": "1"}).outcome is Outcome.MALFORMED


def test_a_chain_without_the_asked_expiries_is_empty_and_says_so() -> None:
    parsed = chain(CONTRACT, question=OptionsQuery(IBM, TODAY, expires_from=date(2027, 1, 1)))
    assert parsed.outcome is Outcome.EMPTY_EXPECTED
    assert chain().outcome is Outcome.EMPTY_UNEXPECTED


def test_what_is_asked_is_not_changed_by_the_order_of_instruments() -> None:
    assert params(Capability.BULK_QUOTES, QuoteQuery((MSFT, AAPL)))["symbol"] == "MSFT,AAPL"
