import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage.intraday import LABELS, Label
from market_pipelines.providers.protocol import Call, Capability, IntradayQuery, Parsed
from market_pipelines_tests.contract.providers.alpha_vantage_cases import IBM, KEY, PROVIDER, bars, read

NEW_YORK = ZoneInfo("America/New_York")
FRIDAY = date(2026, 5, 15)
QUERY = IntradayQuery(IBM, "5min", FRIDAY, FRIDAY, FRIDAY, extended=True)
LATER = datetime(2026, 5, 16, 12, tzinfo=UTC)
HEADER = "timestamp,open,high,low,close,volume"
CELLS = ("1.5", "2", "1", "1.75", "100")
NAMES = ("1. open", "2. high", "3. low", "4. close", "5. volume")


def csv_body(*stamps: str, header: str = HEADER, cells: tuple[str, ...] = CELLS) -> str:
    return "".join(f"{line}\r\n" for line in [header, *(",".join([stamp, *cells]) for stamp in stamps)])


def json_body(
    *stamps: str,
    interval: str = "5min",
    cells: tuple[Any, ...] = CELLS,
    series: str = "",
    meta: Mapping[str, str] | None = None,
) -> str:
    head = {
        "2. Symbol": "IBM",
        "3. Last Refreshed": stamps[0] if stamps else "",
        "4. Interval": interval,
        "5. Output Size": "Full size",
        "6. Time Zone": "US/Eastern",
        **(meta or {}),
    }
    rows = {stamp: dict(zip(NAMES, cells, strict=True)) for stamp in stamps}
    return json.dumps({"Meta Data": head, series or f"Time Series ({interval})": rows})


def parse(body: str, query: IntradayQuery = QUERY, **facts: Any) -> Parsed:
    return read(Capability.INTRADAY, body, query, **{"received_at": LATER, "endpoint": "TIME_SERIES_INTRADAY", **facts})


def starts(parsed: Parsed) -> list[str]:
    """On New York's clock."""
    return [f"{stamp.tz_convert(NEW_YORK):%Y-%m-%d %H:%M}" for stamp in bars(parsed)["ts"]]


BODIES = pytest.mark.parametrize("write", [csv_body, json_body])

# What is asked


def test_recent_days_take_one_call_without_a_month() -> None:
    call = PROVIDER.abilities[Capability.INTRADAY].call(replace(QUERY, start=date(2026, 4, 20)))
    assert call.params == {
        "function": "TIME_SERIES_INTRADAY",
        "symbol": "IBM",
        "interval": "5min",
        "adjusted": "false",
        "extended_hours": "true",
        "outputsize": "full",
        "datatype": "json",
    }
    assert call.secret_params["apikey"].get_secret_value() == KEY
    assert KEY not in repr(call)
    assert call.endpoint == "TIME_SERIES_INTRADAY"


def test_the_regular_hours_alone_are_asked_for_as_such() -> None:
    call = PROVIDER.abilities[Capability.INTRADAY].call(replace(QUERY, extended=False))
    assert call.params["extended_hours"] == "false"


def walk(query: IntradayQuery, body: str = "{}") -> list[str]:
    """The months that a conversation asks for."""
    ability = PROVIDER.abilities[Capability.INTRADAY]
    call: Call | None = ability.call(query)
    asked: list[str] = []
    while call is not None:
        asked.append(call.params["month"])
        call = parse(body, query, endpoint=call.endpoint).more
    return asked


EMPTY = csv_body()


@pytest.mark.parametrize(
    ("start", "end", "months"),
    [
        (date(2026, 4, 17), FRIDAY, ["2026-04", "2026-05"]),
        (date(2025, 11, 28), date(2026, 2, 3), ["2025-11", "2025-12", "2026-01", "2026-02"]),
        (date(2021, 3, 4), date(2021, 3, 9), ["2021-03"]),
        (date(1999, 12, 1), date(2000, 2, 1), ["2000-01", "2000-02"]),
        (date(1998, 1, 5), date(1998, 3, 1), ["2000-01"]),
    ],
)
def test_older_days_take_one_call_a_month_oldest_first(start: date, end: date, months: list[str]) -> None:
    assert walk(replace(QUERY, start=start, end=end), EMPTY) == months


def test_months_outside_of_a_listing_are_not_asked_for() -> None:
    young = replace(IBM, listed_from=date(2025, 12, 4), delisted_on=date(2026, 1, 9))
    assert walk(replace(QUERY, instrument=young, start=date(2025, 6, 1)), EMPTY) == ["2025-12", "2026-01"]


def test_the_answer_about_one_month_is_held_to_its_month() -> None:
    query = replace(QUERY, start=date(2026, 3, 2))
    april = csv_body("2026-04-30 15:55:00", "2026-05-01 09:30:00")
    parsed = parse(april, query, endpoint="TIME_SERIES_INTRADAY 2026-04")
    assert starts(parsed) == ["2026-04-30 15:55"]
    assert parsed.more is not None
    assert parsed.more.params["month"] == "2026-05"
    assert parse(april, query, endpoint="TIME_SERIES_INTRADAY 2026-05").more is None


def test_another_months_rows_are_not_taken_for_the_asked_ones() -> None:
    parsed = parse(
        csv_body("2026-05-15 09:30:00"), replace(QUERY, start=date(2026, 3, 2)), endpoint="TIME_SERIES_INTRADAY 2026-03"
    )
    assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
    assert "2026-05-15" in parsed.reason


REFUSED = json.dumps({"Error Message": "Invalid API call. Please retry or visit the documentation for it."})
LIMIT = json.dumps({"Information": "our standard API rate limit is 25 requests per day"})


def test_a_refused_month_may_lie_before_the_listing() -> None:
    query = replace(QUERY, start=date(2026, 3, 2))
    parsed = parse(REFUSED, query, endpoint="TIME_SERIES_INTRADAY 2026-03")
    assert parsed.outcome is Outcome.UNKNOWN_SYMBOL
    assert parsed.more is not None
    known = replace(query, instrument=replace(IBM, listed_from=date(1990, 1, 2)))
    assert parse(REFUSED, known, endpoint="TIME_SERIES_INTRADAY 2026-03").more is None


def test_a_limit_ends_the_conversation() -> None:
    parsed = parse(LIMIT, replace(QUERY, start=date(2026, 3, 2)), endpoint="TIME_SERIES_INTRADAY 2026-03")
    assert (parsed.outcome, parsed.more) == (Outcome.QUOTA_EXHAUSTED, None)


def test_only_the_known_intervals_are_asked_for() -> None:
    with pytest.raises(ValueError, match="2min"):
        PROVIDER.abilities[Capability.INTRADAY].call(replace(QUERY, interval="2min"))
    assert PROVIDER.abilities[Capability.INTRADAY].intervals == ("1min", "5min", "15min", "30min", "60min")


# What stamps mean


def test_todays_convention_is_the_start_and_the_retired_ones_the_end() -> None:
    assert LABELS == {"timestamp": Label.START, "time": Label.END}
    noon = csv_body("2026-05-15 12:00:00")
    assert starts(parse(noon)) == ["2026-05-15 12:00"]
    assert starts(parse(noon.replace("timestamp", "time"))) == ["2026-05-15 11:55"]


@BODIES
@pytest.mark.parametrize(
    ("stamps", "shift"),
    [
        (("2026-05-15 12:00:00", "2026-05-15 04:00:00"), 0),
        (("2026-05-15 19:55:00", "2026-05-15 12:00:00"), 0),
        (("2026-05-15 20:00:00", "2026-05-15 04:05:00"), 5),
        (("2026-05-15 20:00:00", "2026-05-15 09:30:00"), 5),
        (("2026-05-15 16:00:00", "2026-05-15 15:55:00", "2026-05-15 09:35:00"), 5),
        (("2026-05-15 15:55:00", "2026-05-15 09:30:00"), 0),
        (("2026-05-15 16:00:00", "2026-05-15 09:30:00"), 0),
        (("2026-05-15 16:05:00", "2026-05-15 16:00:00"), 0),
        (("2026-05-15 16:00:00", "2026-05-15 09:25:00"), 0),
    ],
)
def test_the_days_own_ends_prove_what_the_stamps_name(write: Any, stamps: tuple[str, ...], shift: int) -> None:
    shifted = [datetime.fromisoformat(stamp) - timedelta(minutes=shift) for stamp in sorted(stamps)]
    assert starts(parse(write(*stamps))) == [f"{stamp:%Y-%m-%d %H:%M}" for stamp in shifted]


@BODIES
@pytest.mark.parametrize(("last", "start"), [("17:00", "16:55"), ("16:55", "16:55"), ("13:00", "12:55")])
def test_a_half_day_proves_it_three_hours_earlier(write: Any, last: str, start: str) -> None:
    """The day after Thanksgiving: the bell at one, the end at five."""
    day = date(2025, 11, 28)
    body = write(f"2025-11-28 {last}:00", "2025-11-28 10:00:00")
    parsed = parse(body, replace(QUERY, start=day, end=day))
    assert starts(parsed)[-1] == f"2025-11-28 {start}"


def test_the_majority_of_the_days_decides() -> None:
    days = [f"2026-05-{day} 20:00:00" for day in (11, 12, 13)]
    body = csv_body(*days, "2026-05-14 04:00:00", "2026-05-15 10:00:00")
    assert starts(parse(body)) == ["2026-05-15 09:55"]


@pytest.mark.parametrize(
    ("day", "stamp", "utc"),
    [
        ("2026-03-06", "09:30", "14:30"),
        ("2026-03-09", "09:30", "13:30"),
        ("2025-10-31", "19:55", "23:55"),
        ("2025-11-03", "04:00", "09:00"),
        ("2025-11-03", "19:55", "00:55"),
    ],
)
@BODIES
def test_the_clock_changes_between_two_sessions(write: Any, day: str, stamp: str, utc: str) -> None:
    when = date.fromisoformat(day)
    frame = bars(parse(write(f"{day} {stamp}:00"), replace(QUERY, start=when, end=when)))
    assert f"{frame['ts'].iloc[0]:%H:%M}" == utc


@BODIES
@pytest.mark.parametrize("stamp", ["2026-03-08 02:30:00", "2025-11-02 01:30:00"])
def test_a_time_that_the_clocks_skip_or_repeat_is_malformed(write: Any, stamp: str) -> None:
    assert parse(write(stamp), replace(QUERY, start=date(2025, 1, 1))).outcome is Outcome.MALFORMED


def test_a_zone_that_is_not_known_is_malformed() -> None:
    for zone in ("US/Central", "", "America", "../../etc/passwd"):
        body = json_body("2026-05-15 12:00:00").replace('"US/Eastern"', json.dumps(zone or "Mars"))
        assert parse(body).outcome is Outcome.MALFORMED


# Which rows


@BODIES
def test_numbers_come_padded_or_not_and_with_many_digits(write: Any) -> None:
    body = write("2026-05-15 12:00:00", cells=("218.2000", "289.62962886152513", "1", "1e2", "0"))
    (row,) = bars(parse(body)).itertuples(index=False)
    assert (row.open, row.high, row.low, row.close, row.volume) == (218.2, 289.62962886152513, 1.0, 100.0, 0.0)


@BODIES
@pytest.mark.parametrize("word", ["Infinity", "-Infinity", "inf", "nan", "NaN"])
def test_what_is_no_finite_number_counts_as_missing(write: Any, word: str) -> None:
    frame = bars(parse(write("2026-05-15 12:00:00", cells=("1", word, "1", "1", "5"))))
    assert np.isnan(frame["high"][0])
    assert frame["open"][0] == 1.0


@BODIES
def test_a_row_without_any_price_is_no_bar(write: Any) -> None:
    nothing = ("nan", "nan", "nan", "nan", "0")
    assert parse(write("2026-05-15 12:00:00", cells=nothing)).outcome is Outcome.EMPTY_UNEXPECTED


@BODIES
@pytest.mark.parametrize("cell", ["twelve", "1,5", "0x1F", "１"])
def test_text_in_place_of_a_price_is_malformed(write: Any, cell: str) -> None:
    assert parse(write("2026-05-15 12:00:00", cells=(cell, "2", "1", "1", "5"))).outcome is Outcome.MALFORMED


@BODIES
def test_any_order_comes_out_oldest_first(write: Any) -> None:
    stamps = ("2026-05-15 12:05:00", "2026-05-15 12:15:00", "2026-05-15 12:00:00")
    assert starts(parse(write(*stamps))) == ["2026-05-15 12:00", "2026-05-15 12:05", "2026-05-15 12:15"]


def test_identical_duplicates_are_one_bar_and_contradicting_ones_none() -> None:
    line = "2026-05-15 12:00:00,1,2,1,1.5,100\r\n"
    body = f"{HEADER}\r\n{line}"
    assert len(bars(parse(body + line))) == 1
    parsed = parse(body + line.replace("1.5", "1.6"))
    assert parsed.outcome is Outcome.MALFORMED
    assert "two versions" in parsed.reason


def test_a_json_series_that_names_a_minute_twice_hides_neither() -> None:
    one = json_body("2026-05-15 12:00:00")
    row = json.dumps(dict.fromkeys(NAMES, "9"))
    twice = one.replace('"Time Series (5min)": {', f'"Time Series (5min)": {{"2026-05-15 12:00:00": {row}, ')
    assert parse(twice).outcome is Outcome.MALFORMED


@BODIES
def test_days_are_those_of_new_york(write: Any) -> None:
    """19:55 there is the next day in London."""
    body = write("2026-05-15 19:55:00", "2026-05-14 19:55:00", "2026-05-14 04:00:00")
    assert starts(parse(body)) == ["2026-05-15 19:55"]


@BODIES
def test_the_day_of_a_bar_that_is_labelled_by_its_end_is_that_of_its_start(write: Any) -> None:
    day = date(2026, 5, 14)
    body = write("2026-05-15 00:00:00", "2026-05-14 20:00:00")
    assert starts(parse(body, replace(QUERY, start=day, end=day))) == ["2026-05-14 19:55", "2026-05-14 23:55"]


@BODIES
@pytest.mark.parametrize(
    ("interval", "stamps"),
    [
        ("5min", [f"2026-05-15 12:{minute:02d}:00" for minute in range(30)]),
        ("1min", [f"2026-05-15 {9 + number // 12:02d}:{number % 12 * 5:02d}:00" for number in range(30)]),
        ("5min", [f"2026-05-15 {9 + number // 4:02d}:{number % 4 * 15:02d}:00" for number in range(30)]),
        ("30min", [f"2026-05-15 {9 + number // 4:02d}:{number % 4 * 15:02d}:00" for number in range(30)]),
        ("60min", [f"2026-05-15 {4 + number // 2:02d}:{number % 2 * 30:02d}:00" for number in range(30)]),
        ("1min", ["2026-05-15 12:00:30"]),
    ],
)
def test_bars_of_another_length_are_not_taken_for_the_asked_ones(write: Any, interval: str, stamps: list[str]) -> None:
    body = write(*stamps, interval=interval) if write is json_body else write(*stamps)
    parsed = parse(body, replace(QUERY, interval=interval))
    assert (parsed.outcome, parsed.bars) == (Outcome.MALFORMED, None)


@BODIES
def test_bars_of_an_hour_may_begin_on_the_half_hour(write: Any) -> None:
    stamps = [f"2026-05-15 {hour:02d}:30:00" for hour in range(9, 16)]
    body = write(*stamps, interval="60min") if write is json_body else write(*stamps)
    assert len(bars(parse(body, replace(QUERY, interval="60min")))) == 7


def test_few_rows_on_a_coarser_grid_are_chance() -> None:
    thin = csv_body("2026-05-15 12:00:00", "2026-05-15 12:15:00", "2026-05-15 14:30:00")
    assert len(bars(parse(thin, replace(QUERY, interval="1min")))) == 3


@pytest.mark.parametrize(
    "body",
    [
        csv_body("2026-05-15"),
        json_body("2026-05-15"),
        json_body("2026-05-15T12:00:00Z"),
        json_body("2026-05-15 12:00:00", series="Time Series (Daily)"),
        json_body("2026-05-15 12:00:00", meta={"4. Interval": "1min"}),
        json_body("2099-99-99 12:00:00"),
        csv_body("2099-99-99 12:00:00"),
        csv_body("2026-05-15 12:00:00").removesuffix("\r\n"),
        csv_body("2026-05-15 12:00:00", header="timestamp,open,high,low,close", cells=CELLS[:4]),
        csv_body("2026-05-15 12:00:00", header="timestamp,open,high,low,close,adjusted close,volume"),
    ],
)
def test_other_bodies_are_malformed(body: str) -> None:
    parsed = parse(body)
    assert (parsed.outcome, parsed.bars) == (Outcome.MALFORMED, None)


def test_an_answer_about_another_symbol_is_malformed() -> None:
    parsed = parse(json_body("2026-05-15 12:00:00").replace("IBM", "MSFT"))
    assert (parsed.outcome, parsed.bars) == (Outcome.MALFORMED, None)
    for name in ("intraday_5min_MSFT.csv", "extended_intraday_MSFT_1min_year1month1_adjusted.csv"):
        headers = {"content-disposition": f"attachment; filename={name}"}
        parsed = parse(csv_body("2026-05-15 12:00:00"), headers=headers)
        assert parsed.outcome is Outcome.MALFORMED
        assert "MSFT" in parsed.reason
    headers = {"content-disposition": "attachment; filename=intraday_5min_IBM.csv"}
    assert parse(csv_body("2026-05-15 12:00:00"), headers=headers).outcome is Outcome.OK


def test_the_csv_of_a_foreign_exchange_does_not_say_its_clock() -> None:
    london = Instrument("TSCO", "uk", "XLON", "GBP")
    assert parse(csv_body("2026-05-15 12:00:00"), replace(QUERY, instrument=london)).outcome is Outcome.MALFORMED


def test_london_is_quoted_in_pence() -> None:
    london = Instrument("TSCO", "uk", "XLON", "GBP")
    body = json_body("2026-05-15 12:00:00").replace("IBM", "TSCO.LON")
    frame = bars(parse(body, replace(QUERY, instrument=london)))
    assert frame[["open", "high", "low", "close", "volume"]].iloc[0].tolist() == [0.015, 0.02, 0.01, 0.0175, 100]


# What still moves


@BODIES
def test_a_bar_that_is_not_over_is_provisional(write: Any) -> None:
    body = write("2026-05-15 12:05:00", "2026-05-15 12:00:00", "2026-05-15 09:30:00")
    during = datetime(2026, 5, 15, 16, 7, tzinfo=UTC)
    assert bars(parse(body, received_at=during))["provisional"].tolist() == [False, False, True]
    assert not bars(parse(body, received_at=LATER))["provisional"].any()


def test_the_bar_that_a_delayed_series_was_refreshed_with_is_provisional() -> None:
    body = json_body("2026-05-15 12:00:00", "2026-05-15 11:55:00")
    at = datetime(2026, 5, 15, 16, 15, tzinfo=UTC)
    assert bars(parse(body, received_at=at))["provisional"].tolist() == [False, True]
    assert not bars(parse(body, received_at=at + timedelta(minutes=11)))["provisional"].any()


def test_a_bar_that_is_labelled_by_its_end_is_over_at_its_label() -> None:
    body = csv_body("2026-05-15 12:05:00", "2026-05-15 12:00:00", header=HEADER.replace("timestamp", "time"))
    during = datetime(2026, 5, 15, 16, 5, tzinfo=UTC)
    assert not bars(parse(body, received_at=during))["provisional"].any()


# Which kind of nothing


@BODIES
@pytest.mark.parametrize(
    ("day", "outcome"),
    [
        (date(2026, 5, 14), Outcome.EMPTY_UNEXPECTED),
        (date(2026, 5, 16), Outcome.EMPTY_EXPECTED),
        (date(2025, 12, 25), Outcome.EMPTY_EXPECTED),
    ],
)
def test_an_answer_without_the_asked_rows(write: Any, day: date, outcome: Outcome) -> None:
    parsed = parse(write("2026-05-15 12:00:00"), replace(QUERY, start=day, end=day))
    assert (parsed.outcome, parsed.bars) == (outcome, None)


def test_nothing_before_the_bell_is_expected() -> None:
    parsed = parse(csv_body(), received_at=datetime(2026, 5, 15, 13, 0, tzinfo=UTC))
    assert parsed.outcome is Outcome.EMPTY_EXPECTED


def test_what_lies_before_the_providers_first_month_is_not_said_to_be_empty() -> None:
    query = replace(QUERY, start=date(1998, 1, 5), end=date(1998, 3, 1))
    assert parse(csv_body(), query).outcome is Outcome.EMPTY_UNEXPECTED


def test_a_compact_answer_says_how_far_back_it_reaches() -> None:
    body = json_body("2026-05-15 12:00:00", meta={"5. Output Size": "Compact"})
    assert "compact" in parse(body, replace(QUERY, start=date(2026, 5, 11))).reason
    assert parse(body).reason == ""
