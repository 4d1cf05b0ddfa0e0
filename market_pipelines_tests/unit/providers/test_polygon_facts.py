"""Polygon beside its bars: quotes, profiles, actions, listings, venues, option contracts."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote, Right, VenueStatus
from market_pipelines.providers.polygon.options import OptionTicker, option_ticker, parse_option_ticker
from market_pipelines.providers.polygon.reference import is_test_ticker
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Capability,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    abilities_of,
)
from market_pipelines_tests.unit.providers.polygon_answers import AAPL, HOME, answer, polygon

MSFT = Instrument("MSFT", "us", "XNYS", "USD")
STAMP = 1651251948294080343
AT = datetime(2022, 4, 29, 17, 5, 48, 294080, tzinfo=UTC)
ZEROS = {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "vw": 0}


def results(rows: object, **more: object) -> dict[str, Any]:
    return {"results": rows, "status": "OK", "request_id": "b52de486daf5491e", **more}


# Quotes


def snapshot(ticker: str = "AAPL", **more: object) -> dict[str, Any]:
    return {
        "day": {"c": 160.3, "h": 166.2, "l": 159.8, "o": 161.84, "v": 68840127.5, "vw": 162.7},
        "lastQuote": {"P": 159.99, "S": 5, "p": 159.98, "s": 3, "t": STAMP + 2},
        "lastTrade": {"c": None, "i": "121351", "p": 159.985, "s": 200, "t": STAMP, "x": 12},
        "min": {
            "av": 68834255,
            "c": 160.3,
            "h": 160.7,
            "l": 160.3,
            "o": 160.7,
            "v": 197226,
            "t": 1651251900000,
            "n": 5,
        },
        "prevDay": {"c": 163.64, "h": 164.5, "l": 158.9, "o": 159.25, "v": 130149192, "vw": 161.8},
        "ticker": ticker,
        "todaysChange": -3.65,
        "updated": STAMP,
        **more,
    }


def quote(body: object, instrument: Instrument = AAPL) -> Parsed:
    return polygon().read_quote(answer(body), QuoteQuery((instrument,)))


def test_a_snapshot_is_a_quote() -> None:
    parsed = quote({"status": "OK", "ticker": snapshot()})
    assert parsed.records == (
        Quote("AAPL", 159.985, AT, "USD", 159.98, 159.99, 3, 5, 161.84, 166.2, 159.8, 163.64, 68840127.5, AT.date()),
    )


def test_a_plan_without_trades_has_the_price_of_its_last_minute() -> None:
    whole = snapshot()
    del whole["lastTrade"], whole["lastQuote"]
    (found,) = quote({"status": "DELAYED", "ticker": whole}).records
    assert (found.price, found.at) == (160.3, datetime(2022, 4, 29, 17, 5, tzinfo=UTC))
    assert (found.bid, found.ask) == (None, None)
    del whole["min"]
    (found,) = quote({"status": "DELAYED", "ticker": whole}).records
    assert (found.price, found.at) == (160.3, AT)


def test_zeros_before_the_first_trade_are_no_prices() -> None:
    early = snapshot(day=ZEROS, min=ZEROS | {"t": 0}, lastQuote={"P": 0, "S": 0, "p": 159.98, "s": 3, "t": STAMP})
    (found,) = quote({"status": "OK", "ticker": early}).records
    assert (found.open, found.high, found.low, found.volume) == (None, None, None, None)
    assert (found.bid, found.bid_size, found.ask, found.ask_size) == (159.98, 3, None, None)
    assert found.previous_close == 163.64
    empty = snapshot(day=ZEROS, min=ZEROS, lastTrade=None, lastQuote=None)
    assert quote({"status": "OK", "ticker": empty}).outcome is Outcome.EMPTY_UNEXPECTED


def test_in_a_last_quote_small_letters_bid_and_capitals_ask() -> None:
    nbbo = {"T": "AAPL", "p": 155.65, "s": 2, "x": 11, "P": 155.66, "S": 4, "X": 12, "t": STAMP, "y": STAMP, "q": 5}
    (found,) = quote(results(nbbo)).records
    assert (found.bid, found.bid_size, found.ask, found.ask_size) == (155.65, 2, 155.66, 4)
    assert found.price == pytest.approx(155.655)
    assert found.at == AT


def test_in_a_last_trade_the_small_letter_is_the_price() -> None:
    trade = {"T": "AAPL", "p": 166.25, "s": 2, "x": 4, "i": "237688", "c": [12, 37], "t": STAMP, "z": 3}
    (found,) = quote(results(trade)).records
    assert (found.price, found.bid, found.ask, found.at) == (166.25, None, None, AT)


def test_the_day_in_words_is_a_quote_of_its_session() -> None:
    words = {"status": "OK", "from": "2021-04-01", "symbol": "AAPL", "open": 123.66, "high": 124.18, "low": 122.49}
    (found,) = quote({**words, "close": 123, "volume": 75089134, "afterHours": 123, "preMarket": 123.45}).records
    assert (found.price, found.at, found.session, found.volume) == (123.0, None, date(2021, 4, 1), 75089134)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "OK", "ticker": snapshot("MSFT")},
        {"status": "OK", "ticker": snapshot("aapl")},
        results({"T": "MSFT", "p": 1.0, "t": STAMP}),
        results({"p": 1.0, "t": STAMP}),
        {"status": "OK", "from": "2021-04-01", "symbol": "MSFT", "close": 1.0},
        results(None),
        results([]),
    ],
)
def test_a_quote_of_something_else_is_malformed(body: object) -> None:
    assert quote(body).outcome is Outcome.MALFORMED


def test_many_are_asked_at_once_and_come_in_the_order_of_the_question() -> None:
    query = QuoteQuery((MSFT, AAPL))
    call = polygon().bulk_call(query)
    assert call.url == f"{HOME}/v2/snapshot/locale/us/markets/stocks/tickers"
    assert call.params == {"tickers": "MSFT,AAPL"}
    body = {"status": "OK", "count": 3, "tickers": [snapshot("AAPL"), snapshot("ZZZ"), snapshot("MSFT")]}
    parsed = polygon().read_bulk(answer(body), query)
    assert [found.symbol for found in parsed.records] == ["MSFT", "AAPL"]
    assert abilities_of(polygon())[Capability.BULK_QUOTES].most == 100


def test_those_that_the_answer_leaves_out_are_named() -> None:
    parsed = polygon().read_bulk(answer({"status": "OK", "tickers": [snapshot()]}), QuoteQuery((AAPL, MSFT)))
    assert (parsed.outcome, parsed.reason) == (Outcome.OK, "no price of MSFT")
    assert len(parsed.records) == 1
    nobody = polygon().read_bulk(answer({"status": "OK", "tickers": None}), QuoteQuery((AAPL, MSFT)))
    assert (nobody.outcome, nobody.reason) == (Outcome.EMPTY_UNEXPECTED, "no price of AAPL, MSFT")


# Profiles


def test_a_profile_of_another_is_malformed() -> None:
    assert polygon().profile_call(ProfileQuery(AAPL)).url == f"{HOME}/v3/reference/tickers/AAPL"
    parsed = polygon().read_profile(answer(results({"ticker": "MSFT", "market": "stocks"})), ProfileQuery(AAPL))
    assert parsed.outcome is Outcome.MALFORMED


def test_what_a_profile_does_not_say_is_empty() -> None:
    (found,) = (
        polygon().read_profile(answer(results({"ticker": "AAPL", "market": "stocks"})), ProfileQuery(AAPL)).records
    )
    assert (found.employees, found.market_cap, found.sector, found.cik) == (None, None, "", "")


# Actions


ACTIONS = ActionsQuery(AAPL, date(2000, 1, 1), date(2024, 1, 20))


def split(day: str, new: float, old: float, ticker: str = "AAPL", **more: object) -> dict[str, Any]:
    return {"execution_date": day, "split_from": old, "split_to": new, "ticker": ticker, **more}


def dividend(day: str, amount: float, ticker: str = "AAPL", **more: object) -> dict[str, Any]:
    return {"ex_dividend_date": day, "cash_amount": amount, "dividend_type": "CD", "ticker": ticker, **more}


def actions(rows: object, endpoint: str, query: ActionsQuery = ACTIONS, **more: object) -> Parsed:
    return polygon().read_actions(answer(results(rows, **more), endpoint=endpoint), query)


def test_splits_are_asked_first_and_lead_to_dividends() -> None:
    call = polygon().actions_call(ACTIONS)
    assert (call.endpoint, call.url) == ("splits", f"{HOME}/v3/reference/splits")
    assert call.params["execution_date.gte"] == "2000-01-01"
    parsed = actions([split("2020-08-31", 4, 1), split("2014-06-09", 7, 1)], "splits")
    assert [(action.ex_date, action.value) for action in parsed.actions] == [
        (date(2014, 6, 9), 7.0),
        (date(2020, 8, 31), 4.0),
    ]
    assert not parsed.actions_known
    assert parsed.more is not None
    assert (parsed.more.endpoint, parsed.more.url) == ("dividends", f"{HOME}/v3/reference/dividends")
    assert parsed.more.params["ex_dividend_date.gte"] == "2000-01-01"


def test_more_splits_come_before_the_dividends() -> None:
    parsed = actions([split("2020-08-31", 4, 1)], "splits", next_url=f"{HOME}/v3/reference/splits?cursor=x")
    assert parsed.more is not None
    assert parsed.more.endpoint == "splits.next"
    last = actions([], "splits.next")
    assert last.more is not None
    assert last.more.endpoint == "dividends"


def test_with_the_last_dividend_all_actions_are_known() -> None:
    parsed = actions([dividend("2020-08-07", 0.82), dividend("2020-11-06", 0.205)], "dividends")
    assert parsed.actions == (
        CorporateAction("AAPL", date(2020, 8, 7), ActionKind.DIVIDEND, 0.82),
        CorporateAction("AAPL", date(2020, 11, 6), ActionKind.DIVIDEND, 0.205),
    )
    assert parsed.actions_known
    more = actions([], "dividends", next_url=f"{HOME}/v3/reference/dividends?cursor=x")
    assert not more.actions_known
    assert more.more is not None
    nothing = actions([], "dividends.next")
    assert (nothing.outcome, nothing.actions_known, nothing.more) == (Outcome.EMPTY_EXPECTED, True, None)


def test_a_refused_half_is_no_knowledge() -> None:
    parsed = polygon().read_actions(answer({"status": "ERROR"}, status=500, endpoint="splits"), ACTIONS)
    assert (parsed.outcome, parsed.more, parsed.actions_known) == (Outcome.UNAVAILABLE, None, False)


def test_a_reverse_split_makes_one_of_many() -> None:
    (action,) = actions([split("2020-08-31", 1, 10)], "splits").actions
    assert action.value == 0.1


def test_a_special_dividend_of_the_same_day_is_added() -> None:
    rows = [dividend("2020-12-14", 0.7), dividend("2020-12-14", 10.0, dividend_type="SC")]
    (action,) = actions(rows, "dividends").actions
    assert action.value == pytest.approx(10.7)


def test_a_record_that_is_on_file_twice_counts_once() -> None:
    twins = [dividend("2020-12-14", 0.7, id=identity) for identity in ("E1", "E2")]
    assert [action.value for action in actions(twins, "dividends").actions] == [0.7]
    twins = [split("2004-09-13", 2, 1, id=identity) for identity in ("E1", "E2")]
    assert [action.value for action in actions(twins, "splits").actions] == [2.0]


def test_the_newer_endpoints_say_the_same() -> None:
    newer = split("2020-08-31", 4, 1, adjustment_type="forward_split", historical_adjustment_factor=0.25, id="P1")
    assert actions([newer], "splits").actions == actions([split("2020-08-31", 4, 1)], "splits").actions
    row = dividend("2019-08-09", 0.77, currency="USD", distribution_type="recurring", split_adjusted_cash_amount=0.1925)
    del row["dividend_type"]
    assert [action.value for action in actions([row], "dividends").actions] == [0.77]


def test_a_dividend_in_another_currency_is_passed_over_and_said() -> None:
    rows = [dividend("2020-08-07", 0.82, currency="USD"), dividend("2020-09-07", 40.0, currency="JPY")]
    parsed = actions(rows, "dividends")
    assert [action.value for action in parsed.actions] == [0.82]
    assert parsed.reason == "passed over: 1 in JPY"


def test_actions_that_are_announced_are_not_due_yet() -> None:
    assert actions([split("2024-02-01", 2, 1)], "splits").actions == ()
    assert actions([dividend("2024-02-09", 0.24), dividend("1999-02-09", 0.24)], "dividends").actions == ()


def test_rows_of_others_are_nobody_elses() -> None:
    rows = [dividend("2020-08-07", 0.82), dividend("2020-08-07", 5.0, "AAPLW")]
    assert [action.value for action in actions(rows, "dividends").actions] == [0.82]
    others = actions([split("2020-08-31", 4, 1, "aapl")], "splits")
    assert (others.outcome, others.more) == (Outcome.MALFORMED, None)


@pytest.mark.parametrize(("new", "old"), [(0, 1), (1, 0), (-2, 1)])
def test_an_impossible_split_is_malformed(new: float, old: float) -> None:
    assert actions([split("2020-08-31", new, old)], "splits").outcome is Outcome.MALFORMED


# Listings, searches, venues


def ticker(native: str, **more: object) -> dict[str, Any]:
    row = {"ticker": native, "name": f"{native} Inc.", "market": "stocks", "primary_exchange": "XNAS", "type": "CS"}
    return {**row, "active": True, "currency_name": "usd", **more}


def test_listings_are_asked_by_state_and_day() -> None:
    call = polygon().listings_call(ListingsQuery("XNYS", active=False, on=date(2020, 1, 2)))
    assert call.url == f"{HOME}/v3/reference/tickers"
    assert (call.params["active"], call.params["date"], call.params["limit"]) == ("false", "2020-01-02", "1000")
    assert "date" not in polygon().listings_call(ListingsQuery("XNYS")).params
    with pytest.raises(ValueError, match="XWAR"):
        polygon().listings_call(ListingsQuery("XWAR"))


def test_the_kind_of_a_listing_is_told_in_our_words() -> None:
    kinds = {"CS": "equity", "ADRC": "equity", "ETF": "etf", "PFD": "preferred", "WARRANT": "warrant", "UNIT": "unit"}
    kinds |= {"RIGHT": "right", "FUND": "fund", "SP": "other"}
    rows = [ticker(f"A{number}", type=kind) for number, kind in enumerate(kinds)]
    parsed = polygon().read_listings(
        answer(results([*rows, {"ticker": "BARE", "market": "stocks"}])), ListingsQuery("XNYS")
    )
    assert [found.kind for found in parsed.records] == [*kinds.values(), "other"]
    assert (parsed.records[-1].name, parsed.records[-1].active) == ("", True)


def test_case_survives_and_test_instruments_do_not() -> None:
    rows = [ticker(native) for native in ("BApA", "BCATrw", "ZTST", "ZVZZT", "ZZZTA", "NTEST.Q", "ATEST", "TEST", "ZM")]
    rows.append(ticker("QQXYZ", name="NASDAQ TEST STOCK"))
    parsed = polygon().read_listings(answer(results(rows)), ListingsQuery("XNYS"))
    assert [found.native for found in parsed.records] == ["BApA", "BCATrw", "TEST", "ZM"]
    assert is_test_ticker("ZXZZT")
    assert not is_test_ticker("LTES", "Latest Holdings")


def test_the_day_of_a_delisting_is_the_one_that_is_written() -> None:
    row = ticker("LNKD", active=False, delisted_utc="2016-12-08T00:00:00Z")
    (found,) = polygon().read_listings(answer(results([row])), ListingsQuery("XNYS", active=False)).records
    assert (found.delisted_on, found.active) == (date(2016, 12, 8), False)


def test_an_empty_list_is_not_expected() -> None:
    assert polygon().read_listings(answer(results([])), ListingsQuery("XNYS")).outcome is Outcome.EMPTY_UNEXPECTED


def test_a_search_finds_or_does_not() -> None:
    call = polygon().search_call(SearchQuery("apple & co"))
    assert call.params["search"] == "apple & co"
    parsed = polygon().read_search(answer(results([ticker("AAPL")])), SearchQuery("apple"))
    assert [(found.native, found.exchange, found.currency) for found in parsed.records] == [("AAPL", "XNAS", "USD")]
    assert polygon().read_search(answer(results([])), SearchQuery("apple")).outcome is Outcome.EMPTY_EXPECTED


def test_days_to_come_are_a_bare_list() -> None:
    query = StatusQuery(upcoming=True)
    assert polygon().status_call(query).url == f"{HOME}/v1/marketstatus/upcoming"
    rows = [
        {"exchange": "NYSE", "name": "Thanksgiving", "date": "2024-11-28", "status": "closed"},
        {
            "exchange": "NASDAQ",
            "name": "Thanksgiving",
            "date": "2024-11-29",
            "status": "early-close",
            "open": "2024-11-29T14:30:00.000Z",
            "close": "2024-11-29T18:00:00.000Z",
        },
    ]
    opens, closes = "2024-11-29T14:30:00.000Z", "2024-11-29T18:00:00.000Z"
    assert polygon().read_status(answer(rows), query).records == (
        VenueStatus("NYSE", "closed", date(2024, 11, 28), note="Thanksgiving"),
        VenueStatus("NASDAQ", "early_close", date(2024, 11, 29), opens, closes, "Thanksgiving"),
    )
    assert polygon().read_status(answer([]), query).outcome is Outcome.EMPTY_EXPECTED
    assert polygon().read_status(answer({"exchanges": {}}), query).outcome is Outcome.MALFORMED


def test_now_is_told_by_venue() -> None:
    assert polygon().status_call(StatusQuery()).url == f"{HOME}/v1/marketstatus/now"
    body = {"market": "extended-hours", "serverTime": "now", "exchanges": {"nyse": "extended-hours", "otc": "closed"}}
    found = polygon().read_status(answer(body), StatusQuery()).records
    assert [(venue.venue, venue.status) for venue in found] == [("nyse", "extended_hours"), ("otc", "closed")]
    assert polygon().read_status(answer([]), StatusQuery()).outcome is Outcome.MALFORMED


# Options


OPTIONS = OptionsQuery(AAPL, date(2024, 1, 20))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O:AAPL230616C00150000", OptionTicker("AAPL", "", date(2023, 6, 16), Right.CALL, 150.0)),
        ("O:AAPL1230616P00150500", OptionTicker("AAPL", "1", date(2023, 6, 16), Right.PUT, 150.5)),
        ("O:EVRI240119C00002500", OptionTicker("EVRI", "", date(2024, 1, 19), Right.CALL, 2.5)),
        ("O:A220520C00065000", OptionTicker("A", "", date(2022, 5, 20), Right.CALL, 65.0)),
        ("O:SPX241220C05000000", OptionTicker("SPX", "", date(2024, 12, 20), Right.CALL, 5000.0)),
        ("O:SPXW241231P05000000", OptionTicker("SPXW", "", date(2024, 12, 31), Right.PUT, 5000.0)),
        ("O:BRKB251219C00450000", OptionTicker("BRKB", "", date(2025, 12, 19), Right.CALL, 450.0)),
        ("O:TSLA3251219C00000005", OptionTicker("TSLA", "3", date(2025, 12, 19), Right.CALL, 0.005)),
    ],
)
def test_an_option_ticker_is_read_and_written(text: str, expected: OptionTicker) -> None:
    assert parse_option_ticker(text) == expected
    assert option_ticker(expected) == text


@pytest.mark.parametrize(
    "text",
    ["AAPL230616C00150000", "O:AAPL230616X00150000", "O:AAPL231316C00150000", "O:230616C00150000", "O:AAPL", ""],
)
def test_what_is_no_option_ticker_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"option ticker|month|day"):
        parse_option_ticker(text)


def contract(native: str = "O:AAPL240216C00190000", **more: object) -> dict[str, Any]:
    named = parse_option_ticker(native)
    return {
        "cfi": "OCASPS",
        "contract_type": named.right.value,
        "exercise_style": "american",
        "expiration_date": f"{named.expires}",
        "primary_exchange": "BATO",
        "shares_per_contract": 100,
        "strike_price": named.strike,
        "ticker": native,
        "underlying_ticker": "AAPL",
        **more,
    }


def options(rows: object, query: OptionsQuery = OPTIONS, endpoint: str = "options", **more: object) -> Parsed:
    return polygon().read_options(answer(results(rows, **more), endpoint=endpoint), query)


def test_contracts_are_asked_by_expiry_and_right() -> None:
    query = replace(OPTIONS, expires_from=date(2024, 2, 1), expires_to=date(2024, 3, 1), right=Right.PUT)
    call = polygon().options_call(query)
    assert call.url == f"{HOME}/v3/reference/options/contracts"
    assert call.params == {
        "underlying_ticker": "AAPL",
        "expired": "false",
        "expiration_date.gte": "2024-02-01",
        "expiration_date.lte": "2024-03-01",
        "contract_type": "put",
        "sort": "expiration_date",
        "order": "asc",
        "limit": "1000",
    }


def test_the_expired_are_on_a_list_of_their_own() -> None:
    past = replace(OPTIONS, expires_from=date(2023, 2, 1), expires_to=date(2023, 3, 1))
    assert polygon().options_call(past).params["expired"] == "true"
    assert options([contract("O:AAPL230217C00150000")], past, "options_expired").more is None
    both = replace(past, expires_to=None)
    parsed = options([], both, "options_expired")
    assert parsed.more is not None
    assert (parsed.more.endpoint, parsed.more.params["expired"]) == ("options", "false")
    page = options([], both, "options_expired", next_url=f"{HOME}/v3/reference/options/contracts?cursor=x")
    assert page.more is not None
    assert page.more.endpoint == "options_expired.next"
    assert options([contract()], both).more is None


def test_a_contract_comes_out_whole() -> None:
    (found,) = options([contract("O:AAPL1240216P00190500", shares_per_contract=150)]).records
    assert (found.native, found.underlying, found.right) == ("O:AAPL1240216P00190500", "AAPL", Right.PUT)
    assert (found.strike, found.expires, found.shares) == (190.5, date(2024, 2, 16), 150.0)
    assert (found.style, found.exchange, found.bid, found.quoted_on) == ("american", "BATO", None, None)


def test_contracts_that_were_not_asked_for_are_left_out() -> None:
    rows = [contract("O:AAPL240216C00190000"), contract("O:AAPL240216P00190000"), contract("O:AAPL240315C00190000")]
    query = replace(OPTIONS, right=Right.CALL, expires_to=date(2024, 3, 1))
    assert [found.native for found in options(rows, query).records] == ["O:AAPL240216C00190000"]
    assert options(rows[1:2], query).outcome is Outcome.EMPTY_EXPECTED


@pytest.mark.parametrize(
    "more",
    [
        {"underlying_ticker": "MSFT"},
        {"expiration_date": "2024-02-17"},
        {"contract_type": "put"},
        {"ticker": "AAPL240216C00190000"},
    ],
)
def test_a_contract_that_contradicts_itself_is_malformed(more: dict[str, str]) -> None:
    assert options([contract() | more]).outcome is Outcome.MALFORMED


def test_an_index_is_asked_without_its_prefix() -> None:
    index = Instrument("^SPX", "us", "XNYS", "USD", provider_symbols={"polygon": "I:SPX"})
    query = replace(OPTIONS, underlying=index)
    assert polygon().options_call(query).params["underlying_ticker"] == "SPX"
    for named in ("SPX", "I:SPX"):
        row = contract("O:SPXW240216C05000000", underlying_ticker=named)
        assert [found.underlying for found in options([row], query).records] == ["^SPX"]


def test_the_few_contracts_that_are_neither_calls_nor_puts_are_left_out() -> None:
    assert options([contract(contract_type="other"), contract()]).rows == 1
