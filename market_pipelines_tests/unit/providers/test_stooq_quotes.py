from datetime import UTC, date, datetime
from urllib.parse import urlencode

import pytest
from pydantic import SecretStr

from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Quote
from market_pipelines.providers.protocol import Answer, Capability, Parsed, QuoteQuery
from market_pipelines.providers.stooq import Stooq

A = Instrument("A", "us", "XNYS", "USD")
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
WIG = Instrument("WIG", "pl", "XWAR", "PLN", kind=Kind.INDEX)
HEADER = b"Symbol,Date,Time,Open,High,Low,Close,Volume\r\n"
POLISH = b"Symbol,Data,Czas,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\r\n"
LINE = b"A.US,2022-01-14,22:03:50,144.04,145.15,142.36,144.68,2225442\r\n"
AGILENT = Quote(
    "A", 144.68, datetime(2022, 1, 14, 21, 3, 50, tzinfo=UTC), open=144.04, high=145.15, low=142.36, volume=2225442.0
)


def read(body: bytes, *instruments: Instrument, status: int = 200) -> Parsed:
    capability = Capability.QUOTE if len(instruments) == 1 else Capability.BULK_QUOTES
    answer = Answer(status, body, {}, datetime(2026, 5, 1, tzinfo=UTC), 0.1)
    return Stooq(None).abilities[capability].read(answer, QuoteQuery(instruments))


def test_the_call_joins_symbols_with_a_plus_and_sends_no_key() -> None:
    ability = Stooq(SecretStr("STOOQKEY123"), "https://stooq.test").abilities[Capability.BULK_QUOTES]
    call = ability.call(QuoteQuery((A, WIG)))
    assert f"{call.url}?{urlencode(call.params)}" == "https://stooq.test/q/l/?s=a.us+wig&f=sd2t2ohlcv&h=&e=csv"
    assert not call.secret_params
    assert ability.most > 1


@pytest.mark.parametrize(
    "body",
    [
        HEADER + LINE,
        POLISH + LINE,
        POLISH.replace(b"Zamkniecie", b"Kurs") + LINE,
        LINE,
        HEADER.replace(b",", b";") + LINE.replace(b",", b";"),
        LINE.replace(b"\r\n", b",AGILENT TECHNOLOGIES\r\n"),
        HEADER.replace(b"\r\n", b",Name\r\n") + LINE.replace(b"\r\n", b",AGILENT, TECHNOLOGIES\r\n"),
        b"Symbol,Name,Date,Time,Open,High,Low,Close,Volume\r\n" + LINE.replace(b"A.US,", b"A.US,AGILENT,"),
        b"\xef\xbb\xbf" + HEADER + LINE,
        HEADER.replace(b"\r\n", b",Nazwa\r\n") + LINE.replace(b"\r\n", ",SPÓŁKA ŻÓŁĆ\r\n".encode("cp1250")),
    ],
)
def test_every_way_to_write_a_quote_is_understood(body: bytes) -> None:
    assert read(body, A).records == (AGILENT,)


@pytest.mark.parametrize(
    ("day", "time", "hour"),
    [
        ("2022-01-14", "22:03:50", 21),
        ("2022-07-14", "22:03:50", 20),
        ("2022-03-15", "21:03:50", 20),
        ("2022-11-01", "21:03:50", 20),
    ],
)
def test_the_time_is_warsaws_also_between_the_clock_changes(day: str, time: str, hour: int) -> None:
    body = LINE.replace(b"2022-01-14", day.encode()).replace(b"22:03:50", time.encode())
    (quote,) = read(body, A).records
    assert quote.at == datetime.fromisoformat(f"{day}T{hour}:03:50+00:00")


@pytest.mark.parametrize("time", [b"N/D", b"02:30:00"])
def test_without_an_instant_the_day_is_told(time: bytes) -> None:
    """No time at all, or one of the hour that Warsaw's clocks show twice."""
    body = LINE.replace(b"2022-01-14", b"2022-10-30").replace(b"22:03:50", time)
    (quote,) = read(body, A).records
    assert (quote.at, quote.session) == (None, date(2022, 10, 30))


@pytest.mark.parametrize("nothing", [b"N/D", b"B/D"])
@pytest.mark.parametrize("header", [HEADER, b""])
def test_an_unknown_symbol_has_no_value_in_any_field(header: bytes, nothing: bytes) -> None:
    parsed = read(header + b"A.US," + b",".join([nothing] * 7) + b"\r\n", A)
    assert (parsed.outcome, parsed.records) == (Outcome.UNKNOWN_SYMBOL, ())


@pytest.mark.parametrize("nothing", [b"N/D", b"B/D", b""])
def test_a_single_field_may_be_without_a_value(nothing: bytes) -> None:
    (quote,) = read(HEADER + LINE.replace(b"2225442", nothing), A).records
    assert (quote.volume, quote.price) == (None, 144.68)
    (quote,) = read(HEADER + LINE.replace(b"144.04", nothing), A).records
    assert quote.open is None


@pytest.mark.parametrize("header", [HEADER, b""])
def test_of_several_symbols_the_known_ones_are_given(header: bytes) -> None:
    unknown = b"AAPL.US,N/D,N/D,N/D,N/D,N/D,N/D,N/D\r\n"
    parsed = read(header + LINE + unknown, A, AAPL)
    assert parsed.records == (AGILENT,)
    assert "AAPL.US" in parsed.reason


def test_of_several_unknown_symbols_none_is_known() -> None:
    body = HEADER + b"A.US" + b",N/D" * 7 + b"\r\nAAPL.US" + b",N/D" * 7 + b"\r\n"
    assert read(body, A, AAPL).outcome is Outcome.UNKNOWN_SYMBOL


def test_a_quote_of_another_symbol_is_malformed() -> None:
    assert read(HEADER + LINE, AAPL).outcome is Outcome.MALFORMED


def test_polish_indices_have_no_volume_column() -> None:
    body = b"Symbol,Data,Czas,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie\r\n"
    body += b"WIG,2017-04-06,17:15:00,58915.81,59406.36,58896.7,59406.36\r\n"
    (quote,) = read(body, WIG).records
    assert (quote.price, quote.volume) == (59406.36, None)
    assert quote.at == datetime(2017, 4, 6, 15, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"Exceeded the daily hits limit", Outcome.QUOTA_EXHAUSTED),
        (b"<html><script>fetch('/__verify')</script></html>", Outcome.CHALLENGE),
        (b"Access denied", Outcome.CHALLENGE),
        (b"No data", Outcome.EMPTY_UNEXPECTED),
        (b"", Outcome.MALFORMED),
        (b"<html>other</html>", Outcome.MALFORMED),
        (b"A.US,2022-01-14\r\n", Outcome.MALFORMED),
        (HEADER + LINE.replace(b"144.68", b"dear"), Outcome.MALFORMED),
        (HEADER + LINE.replace(b"144.68", b"inf"), Outcome.MALFORMED),
        (HEADER + LINE.replace(b"2022-01-14", b"14.01.2022"), Outcome.MALFORMED),
        (HEADER + LINE.replace(b"22:03:50", b"late"), Outcome.MALFORMED),
        (b"Symbol,Date\r\nA.US,2022-01-14\r\n", Outcome.MALFORMED),
    ],
)
@pytest.mark.parametrize("instruments", [(A,), (A, AAPL)])
def test_everything_else_has_its_outcome(body: bytes, outcome: Outcome, instruments: tuple[Instrument, ...]) -> None:
    parsed = read(body, *instruments)
    assert (parsed.outcome, parsed.records) == (outcome, ())
    assert parsed.reason


def test_a_failing_status_lets_no_quote_through() -> None:
    assert read(HEADER + LINE, A, status=500).outcome is Outcome.UNAVAILABLE
