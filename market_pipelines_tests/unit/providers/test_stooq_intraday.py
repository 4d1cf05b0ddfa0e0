from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, Capability, IntradayQuery, Parsed
from market_pipelines.providers.stooq import Stooq

AAPL = Instrument("AAPL", "us", "XNYS", "USD")
PKO = Instrument("PKO", "pl", "XWAR", "PLN")
SONY = Instrument("6758", "jp", "XTKS", "JPY")
ENGLISH = b"Date,Time,Open,High,Low,Close,Volume\r\n"
POLISH = b"Data,Czas,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\r\n"
LATER = datetime(2026, 5, 1, tzinfo=UTC)
INTRADAY = Stooq(None).abilities[Capability.INTRADAY]


def on(day: str, interval: str = "5min", instrument: Instrument = AAPL) -> IntradayQuery:
    when = date.fromisoformat(day)
    return IntradayQuery(instrument, interval, when, when, date(2026, 5, 1))


def read(body: bytes, query: IntradayQuery, at: datetime = LATER, **headers: str) -> Parsed:
    return INTRADAY.read(Answer(200, body, headers, at, 0.1), query)


def row(day: str, time: str, *, separator: str = ",") -> bytes:
    return separator.join((day, time, "1", "2.5", "0.5", "1.5", "10.25")).encode() + b"\r\n"


def starts(parsed: Parsed, zone: str = "America/New_York") -> list[str]:
    assert parsed.bars is not None, parsed.reason
    return [f"{stamp:%H:%M}" for stamp in parsed.bars["ts"].dt.tz_convert(ZoneInfo(zone))]


def test_it_offers_five_minutes_and_hours_with_its_own_basis() -> None:
    assert INTRADAY.intervals == ("5min", "60min")
    assert INTRADAY.basis is Basis.SPLIT_DIVIDEND
    assert "not documented" in INTRADAY.note


@pytest.mark.parametrize(("interval", "code"), [("5min", "5"), ("60min", "60")])
def test_the_call_asks_the_daily_download_for_another_interval(interval: str, code: str) -> None:
    call = Stooq(SecretStr("STOOQKEY123"), "https://stooq.test").intraday_call(on("2026-03-10", interval))
    assert call.url == "https://stooq.test/q/d/l/"
    assert call.params == {"s": "aapl.us", "i": code, "d1": "20260310", "d2": "20260310"}
    assert call.secret_params["apikey"].get_secret_value() == "STOOQKEY123"


@pytest.mark.parametrize("header", [ENGLISH, POLISH, ENGLISH.replace(b",", b";"), b"\xef\xbb\xbf" + ENGLISH])
def test_both_languages_and_separators_are_understood(header: bytes) -> None:
    separator = ";" if b";" in header else ","
    parsed = read(header + row("2026-01-14", "15:30:00", separator=separator), on("2026-01-14"))
    assert parsed.bars is not None
    assert tuple(parsed.bars.columns) == INTRADAY_COLUMNS
    bar = parsed.bars.iloc[0]
    assert bar[["open", "high", "low", "close", "volume"]].tolist() == [1.0, 2.5, 0.5, 1.5, 10.25]


def test_a_missing_volume_column_is_unknown_not_zero() -> None:
    body = ENGLISH.replace(b",Volume", b"") + b"2026-01-14,15:30:00,1,2,0.5,1.5\r\n"
    parsed = read(body, on("2026-01-14"))
    assert parsed.bars is not None
    assert np.isnan(parsed.bars["volume"][0])


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [
        ("2026-01-14", "15:30:00", "21:55:00"),
        ("2026-03-06", "15:30:00", "21:55:00"),
        ("2026-03-10", "14:30:00", "20:55:00"),
        ("2026-03-27", "14:30:00", "20:55:00"),
        ("2026-03-30", "15:30:00", "21:55:00"),
        ("2025-10-24", "15:30:00", "21:55:00"),
        ("2025-10-27", "14:30:00", "20:55:00"),
        ("2025-10-31", "14:30:00", "20:55:00"),
        ("2025-11-03", "15:30:00", "21:55:00"),
    ],
)
def test_warsaws_clock_is_led_back_to_new_yorks_bell_in_every_week(day: str, first: str, last: str) -> None:
    """In the weeks between the two clock changes New York is an hour nearer."""
    parsed = read(ENGLISH + row(day, first) + row(day, last), on(day))
    assert starts(parsed) == ["09:30", "15:55"]


@pytest.mark.parametrize(("day", "shift"), [("2026-01-14", 0), ("2026-03-10", 1)])
def test_hours_are_named_by_their_end_and_the_first_begins_at_the_bell(day: str, shift: int) -> None:
    body = ENGLISH + b"".join(row(day, f"{hour - shift}:00:00") for hour in range(16, 23))
    parsed = read(body, on(day, "60min"))
    assert starts(parsed) == ["09:30", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"]


def test_an_hour_across_the_lunch_break_begins_after_it() -> None:
    """Tokyo trades from 9:00 to 11:30 and from 12:30 on, eight hours before Warsaw in winter."""
    body = ENGLISH + b"".join(row("2026-01-14", f"{hour:02d}:00:00") for hour in (2, 3, 4, 5, 6, 7))
    parsed = read(body, on("2026-01-14", "60min", SONY))
    assert starts(parsed, "Asia/Tokyo") == ["09:00", "10:00", "11:00", "12:30", "13:00", "14:00"]


def test_warsaws_own_hours_begin_at_the_full_hour() -> None:
    body = ENGLISH + b"".join(row("2026-01-14", f"{hour:02d}:00:00") for hour in range(10, 18))
    assert starts(read(body, on("2026-01-14", "60min", PKO)), "Europe/Warsaw") == [f"{h:02d}:00" for h in range(9, 17)]


def test_a_bar_that_is_not_over_is_provisional() -> None:
    body = ENGLISH + row("2026-01-14", "15:30") + row("2026-01-14", "15:35")
    parsed = read(body, on("2026-01-14"), datetime(2026, 1, 14, 14, 37, tzinfo=UTC))
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [False, True]


def test_rows_come_out_in_order_and_once() -> None:
    late, early = row("2026-01-14", "15:35:00"), row("2026-01-14", "15:30:00")
    assert starts(read(ENGLISH + late + early + late, on("2026-01-14"))) == ["09:30", "09:35"]
    other = late.replace(b"1.5", b"1.6")
    assert read(ENGLISH + late + other, on("2026-01-14")).outcome is Outcome.MALFORMED


def test_the_hour_that_the_clocks_show_twice_names_no_instant() -> None:
    body = ENGLISH + row("2025-10-26", "02:30:00") + row("2025-10-26", "03:30:00")
    assert starts(read(body, on("2025-10-26", instrument=PKO)), "Europe/Warsaw") == ["03:30"]


@pytest.mark.parametrize("body", [b"No data", b"Brak danych"])
def test_no_data_is_judged_by_the_calendar(body: bytes) -> None:
    assert read(body, on("2026-01-14")).outcome is Outcome.EMPTY_UNEXPECTED
    assert read(body, on("2026-01-17")).outcome is Outcome.EMPTY_EXPECTED


@pytest.mark.parametrize("nothing", [b"N/D", b"B/D"])
def test_nd_everywhere_is_an_unknown_symbol(nothing: bytes) -> None:
    body = ENGLISH + b",".join([nothing] * 7) + b"\r\n"
    assert read(body, on("2026-01-14")).outcome is Outcome.UNKNOWN_SYMBOL


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"Exceeded the daily hits limit", Outcome.QUOTA_EXHAUSTED),
        (b"Przekroczony dzienny limit wywolan", Outcome.QUOTA_EXHAUSTED),
        (b"<html>Exceeded the daily site hits limit. The data has been hidden</html>", Outcome.QUOTA_EXHAUSTED),
        ("<html>Przekroczony dzienny limit wywołań strony</html>".encode("cp1250"), Outcome.QUOTA_EXHAUSTED),
        ("<html>Przepisz powyższy kod</html>".encode(), Outcome.CHALLENGE),
        (b"Get your apikey:\r\n", Outcome.CHALLENGE),
        ("Użyj apikey, kontakt: www@stooq.pl".encode(), Outcome.CHALLENGE),
        (b"This site requires JavaScript to verify your browser", Outcome.CHALLENGE),
        (b"Access denied", Outcome.CHALLENGE),
        (b"", Outcome.MALFORMED),
        (b"<html>other</html>", Outcome.MALFORMED),
        (b"Date,Open,High,Low,Close,Volume\r\n2026-01-14,1,2,1,2,3\r\n", Outcome.MALFORMED),
        (ENGLISH + b"2026-01-14,15:30:00,1,2,0.5,1.5,10", Outcome.MALFORMED),
        (ENGLISH + b"2026-01-14,25:30:00,1,2,0.5,1.5,10\r\n", Outcome.MALFORMED),
        (ENGLISH + b"2026-01-14,15:30:00,inf,2,0.5,1.5,10\r\n", Outcome.MALFORMED),
        (ENGLISH + b"2026-01-14,,1,2,0.5,1.5,10\r\n", Outcome.MALFORMED),
    ],
)
def test_everything_else_has_its_outcome(body: bytes, outcome: Outcome) -> None:
    parsed = read(body, on("2026-01-14"))
    assert (parsed.outcome, parsed.bars) == (outcome, None)
    assert parsed.reason


def test_a_file_about_another_symbol_is_malformed() -> None:
    body = ENGLISH + row("2026-01-14", "15:30:00")
    named = {"content-disposition": "attachment;filename=msft_us_5.csv"}
    assert INTRADAY.read(Answer(200, body, named, LATER, 0.1), on("2026-01-14")).outcome is Outcome.MALFORMED
