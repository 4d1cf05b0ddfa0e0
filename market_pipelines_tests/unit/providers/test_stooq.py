from datetime import UTC, date, datetime

import numpy as np
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed
from market_pipelines.providers.stooq import PUBLIC_ADDRESS, Stooq
from market_pipelines.settings import Settings

PKO = Instrument("PKO", "pl", "XWAR", "PLN")
QUERY = DailyQuery(PKO, date(2024, 1, 2), date(2024, 1, 8), date(2024, 1, 9))
ROW = b"2024-01-02,50.1,51,50,50.88,1234567.25\r\n"
LIMIT_PAGE = "<html><body>Przekroczony dzienny limit wywołań strony<br>Przepisz powyższy kod</body></html>"
PROOF_OF_WORK = (
    b"<!DOCTYPE html><html><body><noscript>This site requires JavaScript to verify your browser</noscript>"
    b'<script>const c="5f1d",d=4;fetch("/__verify")</script></body></html>'
)


def parse(body: bytes, query: DailyQuery = QUERY, key: str | None = None) -> Parsed:
    answer = Answer(200, body, {}, datetime(2024, 1, 9, 20, tzinfo=UTC), 0.1)
    return Stooq(SecretStr(key) if key else None).parse_daily(answer, query)


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        (b"Date,Open,High,Low,Close,Volume\r\n", b","),
        (b"Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\r\n", b","),
        (b"Date;Open;High;Low;Close;Volume\r\n", b";"),
        (b"\xef\xbb\xbfDate,Open,High,Low,Close,Volume\n", b","),
        ("Data,Otwarcie,Najwyższy,Najniższy,Zamknięcie,Wolumen\n".encode("cp1250"), b","),
        ("Data,Otwarcie,Najwyższy,Najniższy,Zamknięcie,Wolumen\n".encode(), b","),
    ],
)
def test_every_known_header_is_understood(header: bytes, delimiter: bytes) -> None:
    parsed = parse(header + ROW.replace(b",", delimiter))
    assert parsed.bars is not None
    row = parsed.bars.iloc[0]
    assert row[["open", "high", "low", "close", "volume"]].tolist() == [50.1, 51.0, 50.0, 50.88, 1234567.25]


def test_a_missing_volume_column_is_unknown_not_zero() -> None:
    parsed = parse(b"Date,Open,High,Low,Close\r\n2024-01-02,50.1,51,50,50.88\r\n")
    assert parsed.bars is not None
    assert np.isnan(parsed.bars["volume"][0])


def test_nd_in_the_volume_is_unknown() -> None:
    parsed = parse(b"Date,Open,High,Low,Close,Volume\r\n2024-01-02,50.1,51,50,50.88,N/D\r\n")
    assert parsed.bars is not None
    assert np.isnan(parsed.bars["volume"][0])
    assert parsed.bars["close"][0] == 50.88


@pytest.mark.parametrize(
    "body",
    [
        b"Date,Open,High,Low,Close,Volume\r\nN/D,N/D,N/D,N/D,N/D,N/D\r\n",
        b"Symbol,Date,Time,Open,High,Low,Close,Volume\r\nAPPL.US,N/D,N/D,N/D,N/D,N/D,N/D,N/D\r\n",
        b"APPL.US,N/D,N/D,N/D,N/D,N/D,N/D,N/D\r\n",
    ],
)
def test_nd_everywhere_is_an_unknown_symbol(body: bytes) -> None:
    assert parse(body).outcome is Outcome.UNKNOWN_SYMBOL


@pytest.mark.parametrize("body", [b"No data", b"Brak danych", b"No data\r\n", b"  brak danych"])
def test_no_data_is_judged_by_the_calendar(body: bytes) -> None:
    assert parse(body).outcome is Outcome.EMPTY_UNEXPECTED
    weekend = DailyQuery(PKO, date(2024, 1, 6), date(2024, 1, 7), date(2024, 1, 9))
    assert parse(body, weekend).outcome is Outcome.EMPTY_EXPECTED


@pytest.mark.parametrize(
    "body",
    [
        b"Exceeded the daily hits limit",
        b"Exceeded the daily site hits limit",
        b"Przekroczony dzienny limit wywolan",
        LIMIT_PAGE.encode(),
        LIMIT_PAGE.encode("cp1250"),
        LIMIT_PAGE.encode("iso-8859-2"),
    ],
)
def test_the_daily_limit_is_understood_in_both_languages_and_every_encoding(body: bytes) -> None:
    assert parse(body).outcome is Outcome.QUOTA_EXHAUSTED


@pytest.mark.parametrize(
    "body",
    [
        PROOF_OF_WORK,
        b"Get your apikey:\r\n\r\n1. Open https://stooq.com/q/d/?s=spy.us&get_apikey\r\n2. Enter the captcha code.\r\n",
        b"Access denied",
        "<html>Przepisz powyższy kod</html>".encode(),
    ],
    ids=["proof of work", "key page", "access denied", "captcha"],
)
def test_access_control_is_a_challenge_that_ends_the_run(body: bytes) -> None:
    parsed = parse(body)
    assert parsed.outcome is Outcome.CHALLENGE
    assert parsed.outcome.provider_wide


def test_the_key_page_says_whether_a_key_was_sent() -> None:
    assert "STOOQ_API_KEY" in parse(b"Get your apikey:\r\n").reason
    assert "refuses the API key" in parse(b"Get your apikey:\r\n", key="STOOQKEY123").reason


@pytest.mark.parametrize(
    "body",
    [
        b"<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\r\n",
        b"Symbol,Date,Time,Open,High,Low,Close,Volume\r\nA.US,2022-01-14,22:03:50,144,145,142,144,2225442\r\n",
        b"Date,Open,High,Low,Close,Volume,Extra\r\n2024-01-02,1,2,1,2,3,4\r\n",
        b"Date,Open,High,Low,Close,Volume\r\n20240102,1,2,1,2,3\r\n",
        b"Date,Open,High,Low,Close,Volume\r\n2024-01-02,1,2,1\r\n",
    ],
)
def test_other_tables_are_malformed(body: bytes) -> None:
    assert parse(body).outcome is Outcome.MALFORMED


def test_a_header_without_rows_is_empty() -> None:
    assert parse(b"Date,Open,High,Low,Close,Volume\r\n").outcome is Outcome.EMPTY_UNEXPECTED


def test_the_call_names_symbol_and_range() -> None:
    call = Stooq(SecretStr("STOOQKEY123"), "https://stooq.test").daily_call(QUERY)
    assert call.url == "https://stooq.test/q/d/l/"
    assert call.params == {"s": "pko", "i": "d", "d1": "20240102", "d2": "20240108"}
    assert call.secret_params["apikey"].get_secret_value() == "STOOQKEY123"


def test_symbols_are_spelled_its_way() -> None:
    provider = Stooq(None)
    assert provider.native_symbol(PKO) == "pko"
    assert provider.native_symbol(Instrument("BRK.B", "us", "XNYS", "USD")) == "brk-b.us"
    assert provider.native_symbol(Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX)) == "^spx"
    assert provider.native_symbol(Instrument("WIG20", "pl", "XWAR", "PLN", kind=Kind.INDEX)) == "wig20"
    assert provider.canonical_symbol("brk-b.us", "XNYS") == "BRK.B"
    assert provider.canonical_symbol("^spx", "XNYS") == "^SPX"
    with pytest.raises(ValueError, match=r"aapl\.us"):
        provider.canonical_symbol("aapl.us", "XWAR")


def test_the_public_address_wants_a_key() -> None:
    assert Stooq(None, PUBLIC_ADDRESS).ready() == "STOOQ_API_KEY is not set"
    assert Stooq.from_settings(Settings(_env_file=None, stooq_api_key=SecretStr("STOOQKEY123"))).ready() == ""
    assert Stooq(None, "http://127.0.0.1:8099/stooq").ready() == ""


def test_its_prices_are_adjusted_and_it_knows_no_actions() -> None:
    parsed = parse(b"Date,Open,High,Low,Close,Volume\r\n" + ROW)
    assert Stooq.basis is Basis.SPLIT_DIVIDEND
    assert parsed.actions == ()
    assert not parsed.actions_known
