import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage import NO_KEY, PUBLIC_ADDRESS, AlphaVantage
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed
from market_pipelines.settings import Settings

KEY = "AVKEY0123456789AB"
IBM = Instrument("IBM", "us", "XNYS", "USD")
QUERY = DailyQuery(IBM, date(2024, 1, 2), date(2024, 1, 8), date(2024, 1, 8))
HEADER = b"timestamp,open,high,low,close,volume\r\n"
PREMIUM = "https://www.alphavantage.co/premium/"


def parse(body: bytes | str, query: DailyQuery = QUERY, *, status: int = 200, key: str = KEY) -> Parsed:
    raw = body.encode() if isinstance(body, str) else body
    answer = Answer(status, raw, {}, datetime(2024, 1, 9, 12, tzinfo=UTC), 0.1)
    return AlphaVantage(SecretStr(key)).parse_daily(answer, query)


def notice(kind: str, text: str) -> str:
    return json.dumps({kind: text})


NOTICES = {
    "unknown symbol": (
        notice(
            "Error Message",
            "Invalid API call. Please retry or visit the documentation "
            "(https://www.alphavantage.co/documentation/) for TIME_SERIES_DAILY.",
        ),
        Outcome.UNKNOWN_SYMBOL,
        None,
    ),
    "bad key": (
        notice(
            "Error Message",
            "the parameter apikey is invalid or missing. Please claim your free API key on "
            "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds.",
        ),
        Outcome.NOT_ENTITLED,
        None,
    ),
    "a second": (
        notice(
            "Information",
            "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more "
            f"sparingly (1 request per second). You may subscribe to any of the premium plans at {PREMIUM} to "
            "lift the free key rate limit (25 requests per day), raise the per-second burst limit, and instantly "
            "unlock all premium endpoints",
        ),
        Outcome.THROTTLED,
        1.0,
    ),
    "a second, older words": (
        notice(
            "Information",
            "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more "
            f"sparingly. You may subscribe to any of the premium plans at {PREMIUM} to lift the free key rate "
            "limit (25 requests per day)",
        ),
        Outcome.THROTTLED,
        1.0,
    ),
    "a day": (
        notice(
            "Information",
            f"We have detected your API key as {KEY} and our standard API rate limit is 25 requests per day. "
            f"Please subscribe to any of the premium plans at {PREMIUM} to instantly remove all daily rate limits.",
        ),
        Outcome.QUOTA_EXHAUSTED,
        None,
    ),
    "a minute": (
        notice(
            "Note",
            "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 "
            f"calls per day. Please visit {PREMIUM} if you would like to target a higher API call frequency.",
        ),
        Outcome.THROTTLED,
        60.0,
    ),
    "premium": (
        notice(
            "Information",
            "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the "
            f"premium plans at {PREMIUM} to instantly unlock all premium endpoints",
        ),
        Outcome.NOT_ENTITLED,
        None,
    ),
    "demo key": (
        notice(
            "Information",
            "The **demo** API key is for demo purposes only. Please claim your free API key at "
            "(https://www.alphavantage.co/support/#api-key) to explore our full API offerings. It takes fewer "
            "than 20 seconds, and we are committed to making it free forever.",
        ),
        Outcome.NOT_ENTITLED,
        None,
    ),
    "cut into letters": ("I,n,f,o,r,m,a,t,i,o,n\r\n", Outcome.THROTTLED, 60.0),
    "cut off and into letters": ("I,n,f,o,r,m,a\r\n", Outcome.THROTTLED, 60.0),
    "cut into letters, with its text": (
        "I,n,f,o,r,m,a,t,i,o,n\r\n" + ",".join("limit is 25 requests per day") + "\r\n",
        Outcome.QUOTA_EXHAUSTED,
        None,
    ),
    "nothing inside": ("{}", Outcome.UNKNOWN_SYMBOL, None),
    "another endpoint's nothing": ('{"Global Quote": {}}', Outcome.MALFORMED, None),
}


@pytest.mark.parametrize(("body", "outcome", "seconds"), NOTICES.values(), ids=NOTICES)
def test_a_notice_is_understood(body: str, outcome: Outcome, seconds: float | None) -> None:
    parsed = parse(body)
    assert (parsed.outcome, parsed.retry_after) == (outcome, seconds)
    assert parsed.bars is None


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_notice_counts_more_than_the_status(status: int) -> None:
    assert parse(NOTICES["a day"][0], status=status).outcome is Outcome.QUOTA_EXHAUSTED


@pytest.mark.parametrize("echoed", [KEY, "a-key-that-nobody-registered"])
def test_the_key_that_a_notice_repeats_is_not_in_the_reason(echoed: str) -> None:
    parsed = parse(NOTICES["a day"][0].replace(KEY, echoed))
    assert echoed not in parsed.reason
    assert "25 requests per day" in parsed.reason


def test_the_refused_accept_header_is_malformed() -> None:
    body = '{"detail":"Could not satisfy the request Accept header."}'
    assert parse(body, status=406).outcome is Outcome.MALFORMED


ROWS = {
    "2024-01-03": {"1. open": "1", "2. high": "2", "3. low": "0.5", "4. close": "1.5", "5. volume": "100"},
    "2024-01-02": {"1. open": "1", "2. high": "2", "3. low": "0.5", "4. close": "1.25", "5. volume": "200"},
}


def series(rows: object = ROWS, refreshed: str = "2024-01-03", **more: object) -> str:
    meta = {"2. Symbol": "IBM", "3. Last Refreshed": refreshed, "5. Time Zone": "US/Eastern"}
    return json.dumps({**more, "Meta Data": meta, "Time Series (Daily)": rows})


def test_invented_rows_beside_a_message_are_refused() -> None:
    text = "This is a premium endpoint. ***THE SAMPLE DATA SCHEMA BELOW IS ARTIFICIAL***. 600 requests per minute"
    parsed = parse(series(message=text))
    assert parsed.outcome is Outcome.NOT_ENTITLED
    assert parsed.bars is None


@pytest.mark.parametrize("kind", ["Information", "Note", "Error Message"])
def test_rows_beside_any_notice_are_refused(kind: str) -> None:
    assert parse(series(**{kind: "something else"})).bars is None


def test_impossible_dates_are_malformed() -> None:
    assert parse(series({"2099-99-99": ROWS["2024-01-02"]})).outcome is Outcome.MALFORMED
    assert parse(HEADER + b"2099-99-99,1,2,0.5,1.5,100\r\n").outcome is Outcome.MALFORMED


def test_a_series_refreshed_during_trading_ends_with_a_provisional_bar() -> None:
    parsed = parse(series(refreshed="2024-01-03 14:07:03"))
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [False, True]


@pytest.mark.parametrize("refreshed", ["2024-01-03", "2024-01-03 16:00:01", "2024-01-04 10:00:00"])
def test_a_series_refreshed_after_its_last_session_is_final(refreshed: str) -> None:
    parsed = parse(series(refreshed=refreshed))
    assert parsed.bars is not None
    assert not parsed.bars["provisional"].any()


@pytest.mark.parametrize("name", ["Weekly Time Series", "Monthly Time Series", "Time Series (5min)"])
def test_other_series_are_malformed(name: str) -> None:
    body = json.dumps({"Meta Data": {"2. Symbol": "IBM"}, name: ROWS})
    assert parse(body).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "header",
    [
        b"timestamp,open,high,low,close,adjusted close,volume,dividend amount",
        b"time,open,high,low,close,volume",
        b"timestamp,open,high,low,close",
        b"symbol,open,high,low,price,volume,latestDay,previousClose,change,changePercent",
    ],
)
def test_other_headers_are_malformed(header: bytes) -> None:
    assert parse(header + b"\r\n2024-01-02,1,2,0.5,1.5,100\r\n").outcome is Outcome.MALFORMED


def test_weekly_bars_under_the_daily_header_are_malformed() -> None:
    weeks = b"".join(
        f"2023-{month:02d}-{day:02d},1,2,1,2,5\r\n".encode() for month in range(12, 5, -1) for day in (22, 8)
    )
    parsed = parse(HEADER + weeks, replace(QUERY, start=date(2023, 1, 1)))
    assert parsed.outcome is Outcome.MALFORMED
    assert "weekly" in parsed.reason


def test_intraday_bars_under_the_daily_header_are_malformed() -> None:
    assert parse(HEADER + b"2024-01-02 19:55:00,1,2,0.5,1.5,100\r\n").outcome is Outcome.MALFORMED


def test_a_row_with_a_cell_too_few_is_malformed() -> None:
    assert parse(HEADER + b"2024-01-02,1,2,0.5,1.5\r\n").outcome is Outcome.MALFORMED


ADJUSTED_CSV = (
    b"timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\r\n"
    b"2024-01-05,50,51,49,50,50,400,0.0,1.0\r\n"
    b"2024-01-04,50.5,52,50,51,51,400,0.0,2.0\r\n"
    b"2024-01-03,100,104,99,102,51,200,1.63,1.0\r\n"
    b"2024-01-02,100,104,99,103,50.7,200,0.0,1.0\r\n"
)


def adjusted_json() -> str:
    lines = ADJUSTED_CSV.decode().splitlines()[1:]
    names = ("open", "high", "low", "close", "adjusted close", "volume", "dividend amount", "split coefficient")
    rows = {
        day: {f"{number}. {name}": cell for number, (name, cell) in enumerate(zip(names, cells, strict=True), 1)}
        for day, *cells in (line.split(",") for line in lines)
    }
    return series(rows)


@pytest.mark.parametrize("body", [ADJUSTED_CSV, adjusted_json()], ids=["csv", "json"])
def test_the_adjusted_series_gives_traded_prices_and_its_actions(body: bytes | str) -> None:
    parsed = parse(body)
    assert parsed.bars is not None
    assert parsed.bars["close"].tolist() == [103, 102, 51, 50]
    assert parsed.bars["volume"].tolist() == [200, 200, 400, 400]
    assert parsed.actions == (
        CorporateAction("IBM", date(2024, 1, 3), ActionKind.DIVIDEND, 1.63),
        CorporateAction("IBM", date(2024, 1, 4), ActionKind.SPLIT, 2.0),
    )
    assert parsed.actions_known


def test_actions_before_the_body_begins_are_not_known() -> None:
    parsed = parse(ADJUSTED_CSV, replace(QUERY, start=date(2023, 12, 1)))
    assert parsed.outcome is Outcome.OK
    assert not parsed.actions_known


def test_the_plain_series_knows_no_actions() -> None:
    assert not parse(HEADER + b"2024-01-02,1,2,0.5,1.5,100\r\n").actions_known


@pytest.mark.parametrize(
    ("start", "size"),
    [
        (date(2024, 6, 25), "compact"),
        (date(2024, 2, 1), "compact"),
        (date(2024, 1, 31), "full"),
        (date(1999, 1, 4), "full"),
    ],
)
def test_the_full_history_is_asked_for_only_where_100_sessions_do_not_reach(start: date, size: str) -> None:
    # 2024-02-01 is the hundredth session before and including 2024-06-25: 20+20+22+22+16.
    query = DailyQuery(IBM, start, date(2024, 6, 25), date(2024, 6, 25))
    assert AlphaVantage(SecretStr(KEY)).daily_call(query).params["outputsize"] == size


def test_the_call_asks_for_csv_and_carries_the_key_apart() -> None:
    call = AlphaVantage(SecretStr(KEY), "http://127.0.0.1:8099/alpha_vantage/").daily_call(QUERY)
    assert call.url == "http://127.0.0.1:8099/alpha_vantage/query"
    assert call.params == {
        "function": "TIME_SERIES_DAILY",
        "symbol": "IBM",
        "outputsize": "compact",
        "datatype": "json",
    }
    assert call.secret_params["apikey"].get_secret_value() == KEY
    assert "accept" not in {name.lower() for name in call.headers}


def test_another_address_needs_no_key() -> None:
    bare = Settings(_env_file=None)
    assert AlphaVantage.from_settings(bare).ready() == "ALPHA_VANTAGE_API_KEY is not set"
    provider = AlphaVantage.from_settings(bare, "http://127.0.0.1:8099/alpha_vantage")
    assert provider.ready() == ""
    assert provider.daily_call(QUERY).params["apikey"] == NO_KEY


def test_the_address_comes_from_the_argument_then_the_settings_then_the_public_one() -> None:
    named = Settings(_env_file=None, alpha_vantage_base_url="http://named.test")
    assert AlphaVantage.from_settings(named, "http://given.test").base_url == "http://given.test"
    assert AlphaVantage.from_settings(named).base_url == "http://named.test"
    assert AlphaVantage.from_settings(Settings(_env_file=None)).base_url == PUBLIC_ADDRESS


def test_share_classes_and_london_are_spelled_its_way() -> None:
    provider = AlphaVantage(None)
    assert provider.native_symbol(Instrument("BRK.B", "us", "XNYS", "USD")) == "BRK-B"
    assert provider.native_symbol(Instrument("TSCO", "uk", "XLON", "GBP")) == "TSCO.LON"
    assert provider.canonical_symbol("BRK-B", "XNYS") == "BRK.B"
    assert not provider.covers(Instrument("PKO", "pl", "XWAR", "PLN"))
    assert not provider.covers(Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX))


def test_its_prices_are_as_traded() -> None:
    assert AlphaVantage.basis is Basis.TRADED
