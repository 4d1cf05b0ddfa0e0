"""Polygon's aggregates: days, minutes, hours, and a whole session at once."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import Basis
from market_pipelines.market.bars import BAR_COLUMNS, validate_bars
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import (
    Capability,
    DailyQuery,
    GroupedQuery,
    IntradayQuery,
    Parsed,
    TicksQuery,
    abilities_of,
)
from market_pipelines_tests.unit.providers.polygon_answers import (
    AAPL,
    HOME,
    LATER,
    aggregate,
    aggregates,
    answer,
    ms,
    polygon,
)

QUERY = DailyQuery(AAPL, date(2024, 1, 2), date(2024, 1, 8), date(2024, 1, 20))
MINUTES = IntradayQuery(AAPL, "1min", date(2024, 1, 3), date(2024, 1, 3), date(2024, 1, 20))
OPENED = datetime(2024, 1, 3, 14, 30, tzinfo=UTC)
SECONDS = TicksQuery(AAPL, TickKind.AGGREGATES, OPENED, OPENED + timedelta(minutes=1))
SESSION = GroupedQuery((AAPL, Instrument("MSFT", "us", "XNYS", "USD")), date(2024, 1, 3), date(2024, 1, 20))


def days(parsed: Parsed) -> list[str]:
    assert parsed.bars is not None, parsed.reason
    return [stamp.date().isoformat() for stamp in parsed.bars["session"]]


def starts(parsed: Parsed) -> list[str]:
    assert parsed.bars is not None, parsed.reason
    return [stamp.strftime("%m-%d %H:%M") for stamp in parsed.bars["ts"]]


# Daily


def test_traded_prices_of_days_are_asked_for() -> None:
    call = polygon().daily_call(QUERY)
    assert call.url == f"{HOME}/v2/aggs/ticker/AAPL/range/1/day/2024-01-02/2024-01-08"
    assert call.params == {"adjusted": "false", "sort": "asc", "limit": "50000"}
    assert Polygon.basis is Basis.TRADED


def test_a_day_is_its_new_york_date_on_both_sides_of_the_clock_change() -> None:
    """2005-04-01 05:00 and 2005-04-04 04:00 in UTC."""
    query = replace(QUERY, start=date(2005, 4, 1), end=date(2005, 4, 4))
    body = aggregates([aggregate(1112331600000), aggregate(1112587200000)])
    assert days(polygon().parse_daily(answer(body), query)) == ["2005-04-01", "2005-04-04"]


@pytest.mark.parametrize("factor", [1, 1000, 1_000_000])
def test_the_unit_of_a_bars_stamp_does_not_matter(factor: int) -> None:
    body = aggregates([aggregate(ms(2024, 1, 2) * factor)])
    assert days(polygon().parse_daily(answer(body), QUERY)) == ["2024-01-02"]


def test_tickers_differ_by_case() -> None:
    preferred = Instrument("BApA", "us", "XNYS", "USD")
    query = replace(QUERY, instrument=preferred)
    assert "/ticker/BApA/range/" in polygon().daily_call(query).url
    row = aggregate(ms(2024, 1, 2))
    assert polygon().parse_daily(answer(aggregates([row], "BApA")), query).outcome is Outcome.OK
    wrong = polygon().parse_daily(answer(aggregates([row], "BAPA")), query)
    assert wrong.outcome is Outcome.MALFORMED
    assert "BAPA" in wrong.reason


def test_share_classes_keep_their_dot_and_indices_have_a_spelling_of_their_own() -> None:
    provider = polygon()
    assert provider.native_symbol(Instrument("BRK.B", "us", "XNYS", "USD")) == "BRK.B"
    assert provider.canonical_symbol("BRK.B", "XNYS") == "BRK.B"
    index = Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX)
    assert not provider.covers(index)
    spelled = replace(index, provider_symbols={"polygon": "I:SPX"})
    assert provider.covers(spelled)
    assert "/ticker/I:SPX/range/" in provider.daily_call(replace(QUERY, instrument=spelled)).url
    assert not provider.covers(Instrument("PKO", "pl", "XWAR", "PLN"))


def test_an_adjusted_answer_is_labelled() -> None:
    parsed = polygon().parse_daily(answer(aggregates([aggregate(ms(2024, 1, 2))], adjusted=True)), QUERY)
    assert (parsed.outcome, parsed.basis) == (Outcome.OK, Basis.SPLIT)
    assert "adjusted for splits" in parsed.reason
    plain = polygon().parse_daily(answer(aggregates([aggregate(ms(2024, 1, 2))])), QUERY)
    assert plain.basis is None


def test_a_history_that_begins_late_is_delivered_and_called_clipped() -> None:
    query = replace(QUERY, start=date(2015, 1, 2))
    parsed = polygon().parse_daily(answer(aggregates([aggregate(ms(2024, 1, 2))])), query)
    assert days(parsed) == ["2024-01-02"]
    assert parsed.reason.startswith("clipped: begins on 2024-01-02, 2,264 sessions after 2015-01-02")


@pytest.mark.parametrize(
    ("instrument", "endpoint", "start"),
    [
        (AAPL, "aggs_day", date(2023, 12, 22)),
        (replace(AAPL, listed_from=date(2024, 1, 2)), "aggs_day", date(2015, 1, 2)),
        (AAPL, "aggs_day.next", date(2015, 1, 2)),
    ],
    ids=["a few sessions", "not listed before", "a later page"],
)
def test_a_history_that_is_no_shorter_than_it_has_to_be_is_not_called_clipped(
    instrument: Instrument, endpoint: str, start: date
) -> None:
    query = replace(QUERY, instrument=instrument, start=start)
    parsed = polygon().parse_daily(answer(aggregates([aggregate(ms(2024, 1, 2))]), endpoint=endpoint), query)
    assert (parsed.outcome, parsed.reason) == (Outcome.OK, "")


def test_the_newest_day_of_a_delayed_plan_moves_for_a_quarter_of_an_hour_longer() -> None:
    bell = datetime(2024, 1, 8, 21, tzinfo=UTC)
    body = aggregates([aggregate(ms(2024, 1, 5)), aggregate(ms(2024, 1, 8))])
    for status, minute, moving in (
        ("OK", 0, [False, False]),
        ("DELAYED", 0, [False, True]),
        ("DELAYED", 14, [False, True]),
        ("DELAYED", 15, [False, False]),
    ):
        parsed = polygon().parse_daily(answer({**body, "status": status}, at=bell.replace(minute=minute)), QUERY)
        assert parsed.bars is not None
        assert parsed.bars["provisional"].tolist() == moving, (status, minute)


def test_minutes_in_place_of_days_are_malformed() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3, 9, minute)) for minute in range(3)])
    assert polygon().parse_daily(answer(body), QUERY).outcome is Outcome.MALFORMED


@pytest.mark.parametrize("stamp", ["1704171600000", 1.5, -1, 10**19, None, True])
def test_a_stamp_that_is_no_point_in_time_is_malformed(stamp: object) -> None:
    body = aggregates([aggregate(ms(2024, 1, 2)) | {"t": stamp}])
    assert polygon().parse_daily(answer(body), QUERY).outcome is Outcome.MALFORMED


# Intraday


def test_minutes_as_traded_are_asked_for() -> None:
    call = polygon().intraday_call(replace(MINUTES, interval="15min"))
    assert call.url == f"{HOME}/v2/aggs/ticker/AAPL/range/15/minute/2024-01-03/2024-01-03"
    assert call.params == {"adjusted": "false", "sort": "asc", "limit": "50000"}


def test_minutes_are_stamped_with_their_start() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3, 9, 31), 101.0), aggregate(ms(2024, 1, 3, 9, 30), 100.0, v=12.5)])
    parsed = polygon().read_intraday(answer(body), MINUTES)
    assert parsed.bars is not None
    assert tuple(parsed.bars.columns) == INTRADAY_COLUMNS
    assert parsed.bars["ts"].dtype == "datetime64[s, UTC]"
    assert starts(parsed) == ["01-03 14:30", "01-03 14:31"]
    assert parsed.bars["close"].tolist() == [100.0, 101.0]
    assert parsed.bars["volume"].tolist() == [12.5, 1000.0]


def test_hours_outside_the_session_come_along() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3, 4, 0)), aggregate(ms(2024, 1, 3, 19, 59))])
    assert starts(polygon().read_intraday(answer(body), MINUTES)) == ["01-03 09:00", "01-04 00:59"]


def test_minutes_of_other_dates_are_cut_off() -> None:
    body = aggregates([aggregate(ms(2024, 1, day, 10, 0)) for day in (2, 3, 4)])
    assert starts(polygon().read_intraday(answer(body), MINUTES)) == ["01-03 15:00"]


def test_a_minute_without_a_price_is_dropped_and_none_is_made_up() -> None:
    hollow = {"t": ms(2024, 1, 3, 9, 31), "v": 0}
    body = aggregates([aggregate(ms(2024, 1, 3, 9, 30)), hollow, aggregate(ms(2024, 1, 3, 9, 33))])
    assert starts(polygon().read_intraday(answer(body), MINUTES)) == ["01-03 14:30", "01-03 14:33"]


def test_a_minute_that_is_sent_again_replaces_the_first() -> None:
    stamp = ms(2024, 1, 3, 9, 30)
    parsed = polygon().read_intraday(answer(aggregates([aggregate(stamp, 1.0), aggregate(stamp, 2.0)])), MINUTES)
    assert parsed.bars is not None
    assert parsed.bars["close"].tolist() == [2.0]


@pytest.mark.parametrize(("status", "minute"), [("OK", 36), ("DELAYED", 21)])
def test_a_minute_that_is_not_over_is_provisional(status: str, minute: int) -> None:
    at = datetime(2024, 1, 3, 14, 36, 30, tzinfo=UTC)
    body = aggregates([aggregate(ms(2024, 1, 3, 9, each)) for each in (minute - 1, minute)], status=status)
    parsed = polygon().read_intraday(answer(body, at=at), MINUTES)
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [False, True]


def test_bars_between_the_minutes_are_malformed() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3, 9, 30) + 5_000)])
    assert polygon().read_intraday(answer(body), MINUTES).outcome is Outcome.MALFORMED


def test_days_in_place_of_minutes_are_malformed() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3))])
    assert polygon().read_intraday(answer(body), MINUTES).outcome is Outcome.MALFORMED


def test_minutes_of_another_ticker_are_malformed() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3, 9, 30))], "MSFT")
    assert polygon().read_intraday(answer(body), MINUTES).outcome is Outcome.MALFORMED


# Seconds


def second(after: int, close: float = 100.0, **more: object) -> dict[str, object]:
    return aggregate(ms(2024, 1, 3, 9, 30) + after * 1000, close, **more)


def read_seconds(*rows: object, query: TicksQuery = SECONDS, at: datetime = LATER, **more: object) -> Parsed:
    return polygon().read_seconds(answer(aggregates(rows, **more), at=at), query)  # type: ignore[arg-type]  # its head


def seconds_of(parsed: Parsed) -> list[int]:
    assert parsed.bars is not None, parsed.reason
    return [round((stamp - OPENED).total_seconds()) for stamp in parsed.bars["ts"]]


def test_seconds_are_asked_for_by_the_milliseconds_of_their_starts() -> None:
    call = abilities_of(polygon())[Capability.SECONDS].call(SECONDS)
    assert call.url == f"{HOME}/v2/aggs/ticker/AAPL/range/1/second/1704292200000/1704292259999"
    assert call.params == {"adjusted": "false", "sort": "asc", "limit": "50000"}
    contract = replace(SECONDS, instrument=replace(AAPL, symbol="O:AAPL240119C00190000"))
    assert "/ticker/O:AAPL240119C00190000/range/1/second/" in polygon().seconds_call(contract).url


def test_seconds_come_out_in_order_within_the_span_and_the_last_version_of_each() -> None:
    parsed = read_seconds(second(60), second(7, 101.0), second(0, vw=100.25), second(-1), second(7, 102.0))
    assert seconds_of(parsed) == [0, 7]
    assert parsed.bars is not None
    assert tuple(parsed.bars.columns) == INTRADAY_COLUMNS
    assert parsed.bars["close"].tolist() == [100.0, 102.0]
    assert parsed.vwap is not None
    assert parsed.vwap.tolist() == [100.25, 102.0]


def test_a_second_that_a_late_answer_cannot_show_whole_is_provisional() -> None:
    """A plan whose answers are late says DELAYED, which is an answer all the same."""
    at = OPENED + timedelta(minutes=15, seconds=10)
    parsed = read_seconds(second(9), second(10), at=at, status="DELAYED")
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [False, True]
    assert not read_seconds(second(9), second(10), at=at).bars["provisional"].any()  # type: ignore[index]  # it has some


def test_nobody_has_to_trade_within_a_minute_but_within_a_session() -> None:
    assert read_seconds().outcome is Outcome.EMPTY_EXPECTED
    day = replace(SECONDS, start=OPENED - timedelta(hours=5), end=OPENED + timedelta(hours=8))
    assert read_seconds(query=day).outcome is Outcome.EMPTY_UNEXPECTED
    assert read_seconds(query=day, next_url=f"{HOME}/v2/aggs/x?cursor=1").outcome is Outcome.EMPTY_EXPECTED


def test_pages_of_seconds_lead_on() -> None:
    more = read_seconds(second(1), next_url=f"{HOME}/v2/aggs/x?cursor=1").more
    assert more is not None
    assert more.secret_headers


@pytest.mark.parametrize("row", [second(1, t=1704292200500), second(1, o="12"), second(1, t=None)])
def test_what_is_no_bar_of_a_second_is_malformed(row: dict[str, object]) -> None:
    assert read_seconds(row).outcome is Outcome.MALFORMED


def test_seconds_of_another_ticker_are_malformed_and_adjusted_ones_labelled() -> None:
    assert read_seconds(second(1), ticker="MSFT").outcome is Outcome.MALFORMED
    assert read_seconds(second(1), adjusted=True).basis is Basis.SPLIT


def half_hours() -> list[dict[str, object]]:
    """From nine to eleven and from half past three to half past four, each with a volume of its own."""
    clock = [(9, 0), (9, 30), (10, 0), (10, 30), (15, 30), (16, 0)]
    return [
        aggregate(ms(2024, 1, 3, hour, minute), 100.0 + number, v=10**number)
        for number, (hour, minute) in enumerate(clock)
    ]


def test_an_hour_is_made_of_half_hours_and_counted_from_the_bell() -> None:
    query = replace(MINUTES, interval="60min")
    assert "/range/30/minute/" in polygon().intraday_call(query).url
    parsed = polygon().read_intraday(answer(aggregates(half_hours())), query)
    assert parsed.bars is not None
    clock = parsed.bars["ts"].dt.tz_convert("America/New_York").dt.strftime("%H:%M").tolist()
    assert clock == ["09:00", "09:30", "10:30", "15:30", "16:00"]
    assert parsed.bars["volume"].tolist() == [1, 110, 1000, 10_000, 100_000]
    first = parsed.bars.iloc[1]
    assert first[["open", "high", "low", "close"]].tolist() == [101.0, 103.0, 100.0, 102.0]


@pytest.mark.parametrize(
    ("start", "end", "outcome"),
    [
        (date(2024, 1, 6), date(2024, 1, 7), Outcome.EMPTY_EXPECTED),
        (date(2024, 1, 1), date(2024, 1, 1), Outcome.EMPTY_EXPECTED),
        (date(2024, 1, 3), date(2024, 1, 3), Outcome.EMPTY_UNEXPECTED),
    ],
    ids=["a weekend", "a holiday", "a session"],
)
def test_no_minutes_are_right_where_there_was_no_session(start: date, end: date, outcome: Outcome) -> None:
    parsed = polygon().read_intraday(answer(aggregates([])), replace(MINUTES, start=start, end=end))
    assert parsed.outcome is outcome
    assert parsed.bars is None


def test_clipped_minutes_are_called_so() -> None:
    query = replace(MINUTES, start=date(2023, 6, 1))
    parsed = polygon().read_intraday(answer(aggregates([aggregate(ms(2024, 1, 3, 9, 30))])), query)
    assert parsed.outcome is Outcome.OK
    assert "clipped: begins on 2024-01-03" in parsed.reason


def test_a_question_is_no_longer_than_a_page_may_count() -> None:
    ability = abilities_of(polygon())[Capability.INTRADAY]
    sessions = ability.days_a_call / 7 * 5
    assert sessions * 16 * 60 <= 50_000
    assert ability.intervals == ("1min", "5min", "15min", "30min", "60min")


# A whole session


def of_session(**rows: float) -> dict[str, object]:
    """Stamped with the end of the session, sixteen o'clock."""
    stamp = ms(2024, 1, 3, 16, 0)
    body = aggregates([{"T": ticker, **aggregate(stamp, close)} for ticker, close in rows.items()])
    del body["ticker"]
    return body


def test_a_whole_session_is_one_call() -> None:
    call = polygon().grouped_call(SESSION)
    assert call.url == f"{HOME}/v2/aggs/grouped/locale/us/market/stocks/2024-01-03"
    assert call.params == {"adjusted": "false", "include_otc": "false"}


def test_the_wanted_rows_of_a_session_come_out_as_daily_bars() -> None:
    parsed = polygon().read_grouped(answer(of_session(MSFT=370.0, ZZZ=1.0, AAPL=184.0, aapl=9.0)), SESSION)
    assert parsed.bars is not None
    validate_bars(parsed.bars)
    assert tuple(parsed.bars.columns) == BAR_COLUMNS
    assert parsed.bars[["symbol", "close"]].to_numpy().tolist() == [["AAPL", 184.0], ["MSFT", 370.0]]
    assert days(parsed) == ["2024-01-03"] * 2
    assert not parsed.bars["provisional"].any()


def test_a_session_under_way_is_provisional() -> None:
    at = datetime(2024, 1, 3, 20, tzinfo=UTC)
    parsed = polygon().read_grouped(answer(of_session(AAPL=184.0), at=at), SESSION)
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [True]


def test_a_session_of_the_adjusted_is_labelled() -> None:
    parsed = polygon().read_grouped(answer({**of_session(AAPL=184.0), "adjusted": True}), SESSION)
    assert (parsed.outcome, parsed.basis) == (Outcome.OK, Basis.SPLIT)


def test_the_bars_of_another_session_are_malformed() -> None:
    parsed = polygon().read_grouped(answer(of_session(AAPL=184.0)), replace(SESSION, session=date(2024, 1, 4)))
    assert parsed.outcome is Outcome.MALFORMED
    assert "2024-01-03" in parsed.reason


def test_a_session_without_anybody_wanted_is_unexpected_and_a_day_off_is_not() -> None:
    assert polygon().read_grouped(answer(of_session(ZZZ=1.0)), SESSION).outcome is Outcome.EMPTY_UNEXPECTED
    holiday = replace(SESSION, session=date(2024, 1, 1))
    assert polygon().read_grouped(answer(of_session()), holiday).outcome is Outcome.EMPTY_EXPECTED


def test_rows_without_tickers_are_malformed() -> None:
    body = aggregates([aggregate(ms(2024, 1, 3, 16, 0))])
    assert polygon().read_grouped(answer(body), SESSION).outcome is Outcome.MALFORMED


def test_an_odd_spelling_is_led_back_to_its_symbol() -> None:
    renamed = Instrument("FB", "us", "XNYS", "USD", provider_symbols={"polygon": "META"})
    parsed = polygon().read_grouped(answer(of_session(META=350.0)), replace(SESSION, instruments=(renamed,)))
    assert parsed.bars is not None
    assert parsed.bars["symbol"].tolist() == ["FB"]


def test_everything_is_offered() -> None:
    assert set(abilities_of(Polygon(SecretStr("k" * 20)))) == set(Capability)


def test_a_missing_price_stays_missing() -> None:
    row = aggregate(ms(2024, 1, 3, 9, 30))
    del row["v"]
    parsed = polygon().read_intraday(answer(aggregates([row])), MINUTES)
    assert parsed.bars is not None
    assert np.isnan(parsed.bars["volume"][0])
    assert pd.Timestamp(LATER) > parsed.bars["ts"][0]
