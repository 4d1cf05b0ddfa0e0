import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.actions import Basis
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, Capability, DailyQuery, IntradayQuery, Parsed
from market_pipelines.providers.yahoo import Yahoo

ABILITY = Yahoo().abilities[Capability.INTRADAY]
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
DAY = date(2026, 11, 18)
QUERY = IntradayQuery(AAPL, "5min", DAY, DAY, date(2026, 11, 20))
OPEN = int(datetime(2026, 11, 18, 14, 30, tzinfo=UTC).timestamp())
CLOSE = OPEN + 6 * 3600 + 1800
EVENING = datetime(2026, 11, 18, 23, tzinfo=UTC)
PERIODS = {
    "pre": {"timezone": "EST", "start": OPEN - 19800, "end": OPEN, "gmtoffset": -18000},
    "regular": {"timezone": "EST", "start": OPEN, "end": CLOSE, "gmtoffset": -18000},
    "post": {"timezone": "EST", "start": CLOSE, "end": CLOSE + 14400, "gmtoffset": -18000},
}
Cells = list[float | None]


def chart(
    stamps: list[int] | None,
    closes: Cells | None = None,
    volumes: Cells | None = None,
    granularity: str = "5m",
    columns: dict[str, Cells] | None = None,
    **meta: Any,
) -> bytes:
    rows = len(stamps or [])
    closes = closes if closes is not None else [100.0 + row for row in range(rows)]
    prices = {**dict.fromkeys(("open", "high", "low", "close"), closes), **(columns or {})}
    result: dict[str, Any] = {
        "meta": {
            "currency": "USD",
            "symbol": "AAPL",
            "exchangeTimezoneName": "America/New_York",
            "gmtoffset": -18000,
            "dataGranularity": granularity,
            "regularMarketTime": CLOSE + 1,
            "currentTradingPeriod": PERIODS,
            "tradingPeriods": [[PERIODS["regular"]]],
            **meta,
        },
        "indicators": {"quote": [{**prices, "volume": volumes if volumes is not None else [10] * rows}]},
    }
    if stamps is None:
        result["indicators"] = {"quote": [{}]}
    else:
        result["timestamp"] = stamps
    return json.dumps({"chart": {"result": [result], "error": None}}).encode()


def read(body: bytes, query: IntradayQuery = QUERY, **facts: Any) -> Parsed:
    return ABILITY.read(replace(Answer(200, body, {}, EVENING, 0.1), **facts), query)


def at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def bars_of(parsed: Parsed) -> pd.DataFrame:
    assert parsed.bars is not None, parsed.reason
    return parsed.bars


def starts(parsed: Parsed) -> list[int]:
    return [int(stamp.timestamp() - OPEN) // 60 for stamp in bars_of(parsed)["ts"]]


def test_bars_start_where_their_stamps_say() -> None:
    bars = bars_of(read(chart([OPEN, OPEN + 300, OPEN + 600])))
    assert tuple(bars.columns) == INTRADAY_COLUMNS
    assert str(bars["ts"].dtype) == "datetime64[s, UTC]"
    assert bars["ts"].tolist() == [pd.Timestamp(at(OPEN + 300 * row)) for row in range(3)]
    assert bars["close"].tolist() == [100.0, 101.0, 102.0]
    assert bars["volume"].tolist() == [10.0] * 3
    assert bars["symbol"].tolist() == ["AAPL"] * 3
    assert not bars["provisional"].any()


def test_prices_stay_adjusted_for_splits() -> None:
    assert ABILITY.basis is Basis.SPLIT
    assert "events" not in ABILITY.call(QUERY).params


@pytest.mark.parametrize(
    ("interval", "asked"), [("1min", "1m"), ("5min", "5m"), ("15min", "15m"), ("30min", "15m"), ("60min", "60m")]
)
def test_an_interval_is_asked_by_yahoos_name(interval: str, asked: str) -> None:
    assert interval in ABILITY.intervals
    assert ABILITY.call(replace(QUERY, interval=interval)).params["interval"] == asked


def test_the_request_spans_the_exchanges_days_across_the_change_of_clocks() -> None:
    params = ABILITY.call(replace(QUERY, start=date(2026, 10, 30), end=date(2026, 11, 2))).params
    assert at(int(params["period1"])) == datetime(2026, 10, 30, 6, tzinfo=UTC)
    assert at(int(params["period2"])) == datetime(2026, 11, 3, 5, tzinfo=UTC)


def test_extended_hours_are_asked_for_only_where_they_are_wanted() -> None:
    assert ABILITY.call(QUERY).params["includePrePost"] == "false"
    assert ABILITY.call(replace(QUERY, extended=True)).params["includePrePost"] == "true"


@pytest.mark.parametrize(("interval", "days", "age"), [("1min", 8, 30), ("5min", 60, 60), ("60min", 730, 730)])
def test_the_reach_stays_below_yahoos_limits_at_any_hour(interval: str, days: int, age: int) -> None:
    span, back = ABILITY.reach[interval]
    assert span + 1 / 24 <= days  # A week of an autumn has an hour more.
    assert back + 1 <= age  # The first day began in the night, and today may be almost over.


@pytest.mark.parametrize(("interval", "given"), [("5min", "15m"), ("15min", "60m"), ("30min", "60m"), ("1min", "1d")])
def test_bars_of_another_length_are_refused(interval: str, given: str) -> None:
    parsed = read(chart([OPEN], granularity=given), replace(QUERY, interval=interval))
    assert parsed.outcome is Outcome.MALFORMED
    assert given in parsed.reason


def test_an_hour_has_two_names() -> None:
    for name in ("60m", "1h"):
        assert starts(read(chart([OPEN, OPEN + 3600], granularity=name), replace(QUERY, interval="60min"))) == [0, 60]


def test_quarters_become_half_hours() -> None:
    stamps = [OPEN, OPEN + 900, OPEN + 1800, OPEN + 3600 + 900]
    columns: dict[str, Cells] = {
        "open": [None, 11.0, 20.0, 30.0],
        "high": [13.0, 12.0, 22.0, 31.0],
        "low": [10.0, 9.0, 19.0, 29.0],
        "close": [11.0, None, 21.0, 30.5],
    }
    body = chart(stamps, volumes=[5, 7, None, None], granularity="15m", columns=columns)
    bars = bars_of(read(body, replace(QUERY, interval="30min")))
    assert [int(stamp.timestamp()) - OPEN for stamp in bars["ts"]] == [0, 1800, 3600]
    assert bars["open"].tolist() == [11.0, 20.0, 30.0]
    assert bars["high"].tolist() == [13.0, 22.0, 31.0]
    assert bars["low"].tolist() == [9.0, 19.0, 29.0]
    assert bars["close"].tolist() == [11.0, 21.0, 30.5]
    assert bars["volume"].iloc[0] == 12.0
    assert np.isnan(bars["volume"].to_numpy()[1:]).all()


def test_a_half_hour_takes_no_price_from_its_neighbour() -> None:
    columns: dict[str, Cells] = {"open": [None, 20.0], "close": [10.0, None]}
    body = chart([OPEN, OPEN + 1800], [9.0, 19.0], granularity="15m", columns=columns)
    bars = bars_of(read(body, replace(QUERY, interval="30min")))
    assert np.isnan(bars["open"].iloc[0])
    assert np.isnan(bars["close"].iloc[1])


def test_half_hours_that_come_as_such_are_taken() -> None:
    assert starts(read(chart([OPEN, OPEN + 1800], granularity="30m"), replace(QUERY, interval="30min"))) == [0, 30]


def test_a_half_hour_of_one_quarter_so_far_is_provisional() -> None:
    body = chart([OPEN, OPEN + 900, OPEN + 1800], granularity="15m", regularMarketTime=OPEN + 2700)
    parsed = read(body, replace(QUERY, interval="30min"), received_at=at(OPEN + 2705))
    assert bars_of(parsed)["provisional"].tolist() == [False, True]


def test_rows_of_other_days_are_cut() -> None:
    parsed = read(chart([OPEN - 86400, OPEN, OPEN + 86400]))
    assert starts(parsed) == [0]


def test_a_row_after_midnight_in_utc_belongs_to_the_evening_before() -> None:
    late = OPEN + 9 * 3600 + 1800 + 900  # 19:15 in New York is 00:15 in UTC.
    assert starts(read(chart([late]), replace(QUERY, extended=True))) == [585]


def test_rows_without_a_price_are_left_out_and_never_filled() -> None:
    parsed = read(chart([OPEN, OPEN + 300, OPEN + 600], [100.0, None, 102.0], [1, None, 3]))
    assert starts(parsed) == [0, 10]


def test_a_session_of_nulls_is_no_data_and_says_so() -> None:
    parsed = read(chart([OPEN, OPEN + 300], [None, None], [None, None]))
    assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
    assert "2 rows without a price" in parsed.reason


def test_a_missing_time_stamp_is_judged_by_the_calendar() -> None:
    assert read(chart(None)).outcome is Outcome.EMPTY_UNEXPECTED
    weekend = replace(QUERY, start=date(2026, 11, 14), end=date(2026, 11, 15))
    assert read(chart(None), weekend).outcome is Outcome.EMPTY_EXPECTED


def test_nothing_is_expected_before_a_delayed_feed_can_have_begun() -> None:
    assert read(chart(None), received_at=at(OPEN + 600)).outcome is Outcome.EMPTY_EXPECTED
    assert read(chart(None), received_at=at(OPEN + 3600)).outcome is Outcome.EMPTY_UNEXPECTED


def test_a_phantom_is_an_unknown_symbol() -> None:
    assert read(chart(None, currency=None)).outcome is Outcome.UNKNOWN_SYMBOL


def test_an_answer_about_another_symbol_is_malformed() -> None:
    assert read(chart([OPEN], symbol="MSFT")).outcome is Outcome.MALFORMED


def test_rows_come_out_in_order_and_once() -> None:
    parsed = read(chart([OPEN + 600, OPEN, OPEN + 300, OPEN], [3.0, 1.0, 2.0, 1.5]))
    assert starts(parsed) == [0, 5, 10]
    assert bars_of(parsed)["close"].tolist() == [1.5, 2.0, 3.0]


LIVE = OPEN + 3600 + 7 * 60 + 13
"""10:37:13 in New York, in the bar of 10:35."""


def live(stamps: list[int], closes: Cells, volumes: Cells, **meta: Any) -> bytes:
    return chart(stamps, closes, volumes, regularMarketTime=stamps[-1], **meta)


def test_the_live_row_is_laid_over_the_bar_that_it_falls_into() -> None:
    body = live([LIVE - 433, LIVE - 133, LIVE], [100.0, 101.0, 99.5], [500, 300, 0])
    bars = bars_of(read(body, received_at=at(LIVE + 2)))
    assert [int(stamp.timestamp()) for stamp in bars["ts"]] == [LIVE - 433, LIVE - 133]
    newest = bars.iloc[-1]
    assert newest[["open", "high", "low", "close", "volume"]].tolist() == [101.0, 101.0, 99.5, 99.5, 300.0]
    assert bars["provisional"].tolist() == [False, True]


def test_a_live_row_of_a_new_bar_is_aligned_to_its_start() -> None:
    body = live([LIVE - 433, LIVE], [100.0, 101.0], [500, 0])
    bars = bars_of(read(body, received_at=at(LIVE + 2)))
    assert [int(stamp.timestamp()) for stamp in bars["ts"]] == [LIVE - 433, LIVE - 133]
    assert bars["provisional"].tolist() == [False, True]


def test_an_hour_is_counted_from_the_bell_and_not_from_the_clock() -> None:
    body = live([OPEN, OPEN + 3600, LIVE], [100.0, 101.0, 102.0], [9, 9, 0], granularity="60m")
    parsed = read(body, replace(QUERY, interval="60min"), received_at=at(LIVE + 2))
    assert starts(parsed) == [0, 60]
    assert bars_of(parsed)["close"].tolist() == [100.0, 102.0]
    alone = live([LIVE], [102.0], [0], granularity="60m")
    assert starts(read(alone, replace(QUERY, interval="60min"), received_at=at(LIVE + 2))) == [60]


def test_without_a_bell_an_hour_is_counted_from_the_row_before_it_even_over_night() -> None:
    body = live(
        [OPEN - 86400, LIVE],
        [100.0, 102.0],
        [9, 0],
        granularity="60m",
        currentTradingPeriod=None,
        tradingPeriods=None,
    )
    parsed = read(body, replace(QUERY, interval="60min"), received_at=at(LIVE + 2))
    assert starts(parsed) == [60]


def test_a_live_row_on_a_full_minute_within_its_bar_is_one_too() -> None:
    stamp = OPEN + 3600 + 1800
    body = live([OPEN, OPEN + 3600, stamp], [100.0, 101.0, 102.0], [9, 9, 0], granularity="60m")
    parsed = read(body, replace(QUERY, interval="60min"), received_at=at(stamp + 2))
    assert starts(parsed) == [0, 60]
    assert bars_of(parsed)["provisional"].tolist() == [False, True]


@pytest.mark.parametrize("granularity", ["5m", "60m"])
def test_the_closing_print_does_not_touch_the_last_bar_of_the_session(granularity: str) -> None:
    last = CLOSE - 300 if granularity == "5m" else CLOSE - 1800
    body = live([last, CLOSE + 1], [100.0, 250.0], [900, 0], granularity=granularity)
    interval = "5min" if granularity == "5m" else "60min"
    bars = bars_of(read(body, replace(QUERY, interval=interval), received_at=at(CLOSE + 7200)))
    assert bars["close"].tolist() == [100.0, 250.0]
    assert int(bars["ts"].iloc[1].timestamp()) == CLOSE


def test_the_bell_is_found_in_the_list_of_each_phase_too() -> None:
    phases = {name: [[PERIODS[name]]] for name in ("pre", "regular", "post")}
    body = live(
        [CLOSE - 1800, CLOSE + 1],
        [100.0, 250.0],
        [900, 0],
        granularity="60m",
        tradingPeriods=phases,
        currentTradingPeriod=None,
    )
    bars = bars_of(read(body, replace(QUERY, interval="60min"), received_at=at(CLOSE + 7200)))
    assert bars["close"].tolist() == [100.0, 250.0]


@pytest.mark.parametrize(("minutes", "provisional"), [(4, True), (20, True), (60, False), (7 * 24 * 60, True)], ids=str)
def test_a_thin_shares_live_bar_is_final_when_no_trade_can_be_on_its_way(minutes: int, provisional: bool) -> None:
    """And provisional again where the answer itself is older than any feed's delay."""
    body = live([LIVE - 133, LIVE], [101.0, 99.5], [300, 0])
    bars = bars_of(read(body, received_at=at(LIVE - 133 + 300 + minutes * 60)))
    assert bars["provisional"].tolist() == [provisional]


def test_the_newest_bar_of_a_delayed_feed_is_provisional_though_its_time_is_over() -> None:
    body = chart([OPEN, OPEN + 300], regularMarketTime=OPEN + 420)
    bars = bars_of(read(body, received_at=at(OPEN + 420 + 15 * 60)))
    assert bars["provisional"].tolist() == [False, True]


def test_a_bar_that_is_not_over_is_provisional() -> None:
    body = chart([OPEN, OPEN + 300], regularMarketTime=None)
    assert bars_of(read(body, received_at=at(OPEN + 599)))["provisional"].tolist() == [False, True]
    assert bars_of(read(body, received_at=at(OPEN + 600)))["provisional"].tolist() == [False, False]


BARC = Instrument("BARC", "lse", "XLON", "GBP")
LONDON: dict[str, Any] = {"symbol": "BARC.L", "exchangeTimezoneName": "Europe/London", "currentTradingPeriod": None}


def london(currency: str, closes: Cells) -> bytes:
    stamp = int(datetime(2026, 11, 18, 9, tzinfo=UTC).timestamp())
    return chart([stamp, stamp + 300], closes, **LONDON, tradingPeriods=None, currency=currency)


@pytest.mark.parametrize(
    ("quoted", "own", "close"),
    [
        ("GBp", "GBP", 2.3445),
        ("GBP", "GBP", 234.45),
        ("GBp", "GBX", 234.45),
        ("GBp", "GBp", 234.45),
        ("USD", "GBP", 234.45),
    ],
)
def test_prices_come_in_the_instruments_own_unit(quoted: str, own: str, close: float) -> None:
    parsed = read(london(quoted, [234.4499969482422, 234.5]), replace(QUERY, instrument=replace(BARC, currency=own)))
    assert bars_of(parsed)["close"].iloc[0] == close
    assert bars_of(parsed)["volume"].tolist() == [10.0, 10.0]


def test_points_of_an_index_have_no_unit() -> None:
    index = Instrument("^UKX", "lse", "XLON", "GBX", kind=Kind.INDEX, provider_symbols={"yahoo": "^FTSE"})
    body = london("GBP", [9512.25, 9512.5]).replace(b"BARC.L", b"^FTSE")
    assert bars_of(read(body, replace(QUERY, instrument=index)))["close"].tolist() == [9512.25, 9512.5]


def daily_in_pence(closes: Cells, events: dict[str, Any] | None = None) -> Parsed:
    stamps = [int(datetime(2026, 11, day, 8, tzinfo=UTC).timestamp()) for day in (16, 17, 18)]
    meta: dict[str, Any] = {
        **LONDON,
        "tradingPeriods": None,
        "currency": "GBp",
        "regularMarketTime": stamps[-1] + 30600,
    }
    body = json.loads(chart(stamps, closes, granularity="1d", **meta))
    body["chart"]["result"][0]["events"] = events or {}
    query = DailyQuery(BARC, date(2026, 11, 16), DAY, date(2026, 11, 19))
    answer = Answer(200, json.dumps(body).encode(), {}, datetime(2026, 11, 19, tzinfo=UTC), 0.1)
    return Yahoo().parse_daily(answer, query)


def test_daily_pence_become_pounds_and_so_do_dividends() -> None:
    ex_date = int(datetime(2026, 11, 17, 8, tzinfo=UTC).timestamp())
    parsed = daily_in_pence([250.0, 245.5, 246.0], {"dividends": {str(ex_date): {"amount": 3.2, "date": ex_date}}})
    assert bars_of(parsed)["close"].tolist() == [2.5, 2.455, 2.46]
    assert [action.value for action in parsed.actions] == [0.032]


def test_a_single_day_in_the_wrong_unit_is_left_to_the_quality_rules() -> None:
    """Yahoo sends days in pounds among days in pence: whether 2.46 is one is no question for a parser."""
    assert bars_of(daily_in_pence([250.0, 2.455, 246.0]))["close"].tolist() == [2.5, 0.02455, 2.46]


def test_warsaw_keeps_its_own_clock_while_new_york_is_an_hour_nearer() -> None:
    # From 25 October to 1 November 2026 Warsaw has left summer time and New York has not.
    opens = int(datetime(2026, 10, 28, 8, tzinfo=UTC).timestamp())
    body = chart([opens, opens + 300], symbol="PKO.WA", exchangeTimezoneName="Europe/Warsaw", currentTradingPeriod=None)
    pko = Instrument("PKO", "pl", "XWAR", "PLN")
    query = replace(QUERY, instrument=pko, start=date(2026, 10, 28), end=date(2026, 10, 28))
    bars = bars_of(read(body, query))
    assert bars["ts"].dt.tz_convert("Europe/Warsaw").dt.strftime("%H:%M").tolist() == ["09:00", "09:05"]
