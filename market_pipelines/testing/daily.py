"""What every provider's daily bars have to do, whatever it speaks. Subclass with small bodies of your own."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.market.bars import BAR_COLUMNS, validate_bars
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, DailyProvider, DailyQuery, Parsed
from market_pipelines.redaction import register_secret

KEY = "PLANTEDKEY0123456789"
AFTER_CLOSE = datetime(2024, 1, 9, 12, tzinfo=UTC)
DURING_MONDAY = datetime(2024, 1, 8, 15, 30, tzinfo=UTC)
AFTER_MONDAY = datetime(2024, 1, 8, 22, tzinfo=UTC)
HTML = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body>Something went wrong</body></html>"
SYMBOLS = st.from_regex(r"[A-Z0-9]{1,6}(\.[A-Z]{1,2})?", fullmatch=True)


@dataclass(frozen=True)
class Bar:
    day: date
    open: float | str | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None


WEEK = (
    Bar(date(2024, 1, 2), 187.15, 188.44, 183.885, 185.64, 82488674),
    Bar(date(2024, 1, 3), 184.22, 185.88, 183.43, 184.25, 58414460),
    Bar(date(2024, 1, 4), 182.15, 183.0872, 180.88, 181.91, 71983570),
    Bar(date(2024, 1, 5), 181.99, 182.76, 180.17, 181.18, 62379661),
)
MONDAY = Bar(date(2024, 1, 8), 182.085, 185.6, 181.5, 185.56, 59144470)

AAPL = Instrument("AAPL", "us", "XNYS", "USD")
QUERY = DailyQuery(AAPL, date(2024, 1, 2), date(2024, 1, 8), date(2024, 1, 9))


def answer(body: bytes, status: int = 200, **facts: object) -> Answer:
    defaults = Answer(status, body, {}, AFTER_CLOSE, 0.1)
    return replace(defaults, **facts)  # type: ignore[arg-type]  # the test names fields of Answer


def sessions(parsed: Parsed) -> list[date]:
    assert parsed.bars is not None, parsed.reason
    return [stamp.date() for stamp in parsed.bars["session"]]


class ProviderContract(ABC):
    mics: tuple[str, ...]
    """The exchanges that the provider lists."""
    not_found: Outcome = Outcome.MALFORMED
    """What a bare 404 means: nothing about a symbol, unless the symbol is in the path."""

    @pytest.fixture(autouse=True)
    def _the_planted_key_is_a_secret(self) -> None:
        register_secret(KEY)

    @abstractmethod
    def provider(self) -> DailyProvider: ...

    @abstractmethod
    def body(self, *bars: Bar) -> bytes:
        """An answer about AAPL with these rows, in this order."""

    @abstractmethod
    def wrong_symbol(self) -> Answer:
        """A complete answer about MSFT."""

    def parse(self, body: bytes, query: DailyQuery = QUERY, **facts: object) -> Parsed:
        return self.provider().parse_daily(answer(body, **facts), query)  # type: ignore[arg-type]

    def test_rows_come_out_as_bars(self) -> None:
        parsed = self.parse(self.body(*WEEK))
        assert parsed.outcome is Outcome.OK
        assert parsed.bars is not None
        validate_bars(parsed.bars)
        assert tuple(parsed.bars.columns) == BAR_COLUMNS
        assert sessions(parsed) == [bar.day for bar in WEEK]
        assert set(parsed.bars["symbol"]) == {"AAPL"}
        first = parsed.bars.iloc[0]
        assert first[["open", "high", "low", "close", "volume"]].tolist() == [187.15, 188.44, 183.885, 185.64, 82488674]
        assert not parsed.bars["provisional"].any()

    def test_the_same_bytes_give_the_same_rows(self) -> None:
        body = self.body(*WEEK)
        one, other = self.parse(body).bars, self.parse(body).bars
        assert one is not None
        assert other is not None
        pd.testing.assert_frame_equal(one, other)

    def test_any_order_comes_out_oldest_first(self) -> None:
        parsed = self.parse(self.body(WEEK[2], WEEK[0], WEEK[3], WEEK[1]))
        assert sessions(parsed) == [bar.day for bar in WEEK]
        assert parsed.bars is not None
        assert parsed.bars["close"].tolist() == [bar.close for bar in WEEK]

    def test_rows_outside_the_question_are_cut_off(self) -> None:
        query = replace(QUERY, start=date(2024, 1, 3), end=date(2024, 1, 4))
        assert sessions(self.parse(self.body(*WEEK), query)) == [date(2024, 1, 3), date(2024, 1, 4)]

    def test_identical_duplicates_are_one_row(self) -> None:
        assert sessions(self.parse(self.body(WEEK[0], *WEEK))) == [bar.day for bar in WEEK]

    def test_contradicting_duplicates_both_come_out(self) -> None:
        parsed = self.parse(self.body(replace(WEEK[1], close=999.0), *WEEK))
        assert parsed.bars is not None
        twice = parsed.bars[parsed.bars["session"] == "2024-01-03"]
        assert sorted(twice["close"]) == [184.25, 999.0]

    @pytest.mark.parametrize(
        "bar",
        [
            replace(WEEK[1], low=-3.0),
            replace(WEEK[1], high=1.0),
            replace(WEEK[1], close=18425.0),
            replace(WEEK[1], volume=0.0),
            Bar(date(2024, 1, 6), 181.99, 182.76, 180.17, 181.18, 62379661),
            Bar(date(2024, 1, 1), 181.99, 182.76, 180.17, 181.18, 62379661),
        ],
        ids=["negative", "high below low", "100 times", "no volume", "a Saturday", "a holiday"],
    )
    def test_an_incredible_row_is_left_to_the_quality_rules(self, bar: Bar) -> None:
        query = replace(QUERY, start=date(2024, 1, 1))
        parsed = self.parse(self.body(bar), query)
        assert parsed.bars is not None
        row = parsed.bars.iloc[0]
        assert row["session"].date() == bar.day
        assert row[["high", "low", "close", "volume"]].tolist() == [bar.high, bar.low, bar.close, bar.volume]

    def test_a_row_of_tomorrow_is_left_to_the_quality_rules(self) -> None:
        query = replace(QUERY, end=date(2024, 1, 10))
        tomorrow = replace(MONDAY, day=date(2024, 1, 10))
        assert sessions(self.parse(self.body(tomorrow), query)) == [date(2024, 1, 10)]

    def test_a_missing_price_is_nan_and_never_filled(self) -> None:
        parsed = self.parse(self.body(WEEK[0], replace(WEEK[1], close=None), WEEK[2]))
        assert parsed.bars is not None
        assert np.isnan(parsed.bars["close"][1])
        assert parsed.bars["open"][1] == 184.22

    def test_text_in_place_of_a_price_is_malformed(self) -> None:
        parsed = self.parse(self.body(WEEK[0], replace(WEEK[1], open="twelve")))
        assert parsed.outcome is Outcome.MALFORMED
        assert parsed.bars is None

    def test_a_bar_of_a_session_under_way_is_provisional(self) -> None:
        parsed = self.parse(self.body(*WEEK, MONDAY), received_at=DURING_MONDAY)
        assert parsed.bars is not None
        assert parsed.bars["provisional"].tolist() == [False, False, False, False, True]

    def test_a_bar_of_a_closed_session_is_final(self) -> None:
        parsed = self.parse(self.body(*WEEK, MONDAY), received_at=AFTER_MONDAY)
        assert parsed.bars is not None
        assert not parsed.bars["provisional"].any()

    def test_no_row_for_past_sessions_is_unexpected(self) -> None:
        query = replace(QUERY, start=date(2023, 6, 1), end=date(2023, 6, 30))
        parsed = self.parse(self.body(*WEEK), query)
        assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
        assert parsed.bars is None

    def test_no_row_for_a_weekend_is_expected(self) -> None:
        query = replace(QUERY, start=date(2024, 1, 6), end=date(2024, 1, 7))
        assert self.parse(self.body(*WEEK), query).outcome is Outcome.EMPTY_EXPECTED

    def test_no_row_before_the_listing_is_expected(self) -> None:
        young = replace(AAPL, listed_from=date(2024, 1, 2))
        query = replace(QUERY, instrument=young, start=date(2023, 6, 1), end=date(2023, 6, 30))
        assert self.parse(self.body(*WEEK), query).outcome is Outcome.EMPTY_EXPECTED

    def test_no_row_for_a_session_under_way_is_expected(self) -> None:
        query = replace(QUERY, start=date(2024, 1, 8), end=date(2024, 1, 8), today=date(2024, 1, 8))
        parsed = self.parse(self.body(*WEEK), query, received_at=DURING_MONDAY)
        assert parsed.outcome is Outcome.EMPTY_EXPECTED

    @pytest.mark.parametrize("body", [b"", b" \r\n ", b"\xef\xbb\xbf"])
    def test_an_empty_body_is_malformed(self, body: bytes) -> None:
        assert self.parse(body).outcome is Outcome.MALFORMED

    @pytest.mark.parametrize("page", [HTML, b"\n\n  " + HTML, HTML.lower()])
    def test_a_web_page_with_status_200_is_no_data(self, page: bytes) -> None:
        assert self.parse(page).outcome in (Outcome.MALFORMED, Outcome.CHALLENGE)

    def test_a_body_cut_anywhere_gives_no_row_that_the_whole_one_lacks(self) -> None:
        body = self.body(*WEEK)
        whole = self.parse(body).bars
        assert whole is not None
        known = {tuple(row) for row in whole.itertuples(index=False)}
        for length in range(len(body)):
            parsed = self.parse(body[:length])
            if parsed.bars is not None:
                assert {tuple(row) for row in parsed.bars.itertuples(index=False)} <= known

    def test_a_body_cut_in_a_row_is_malformed(self) -> None:
        body = self.body(*WEEK)
        assert self.parse(body[: len(body) * 2 // 3]).outcome is Outcome.MALFORMED

    def test_an_answer_about_another_symbol_is_malformed(self) -> None:
        parsed = self.provider().parse_daily(self.wrong_symbol(), QUERY)
        assert parsed.outcome is Outcome.MALFORMED
        assert "MSFT" in parsed.reason.upper()
        assert parsed.bars is None

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [
            (401, Outcome.NOT_ENTITLED),
            (403, Outcome.NOT_ENTITLED),
            (410, Outcome.RETIRED),
            (418, Outcome.MALFORMED),
            (429, Outcome.THROTTLED),
            (500, Outcome.UNAVAILABLE),
            (502, Outcome.UNAVAILABLE),
            (503, Outcome.UNAVAILABLE),
            (504, Outcome.UNAVAILABLE),
        ],
    )
    @pytest.mark.parametrize("body", [b"", b"sorry", HTML], ids=["empty", "text", "html"])
    def test_a_status_counts_where_the_body_explains_nothing(self, status: int, outcome: Outcome, body: bytes) -> None:
        parsed = self.parse(body, status=status)
        assert parsed.outcome is outcome
        assert parsed.bars is None

    def test_a_status_other_than_200_lets_no_rows_through(self) -> None:
        assert self.parse(self.body(*WEEK), status=500).outcome is Outcome.UNAVAILABLE

    def test_a_bare_404_is_not_taken_for_an_unknown_symbol(self) -> None:
        assert self.parse(HTML, status=404).outcome is self.not_found

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("120", 120.0),
            ("Tue, 09 Jan 2024 12:01:30 GMT", 90.0),
            ("Tue, 09 Jan 2024 11:00:00 GMT", 0.0),
            ("soon", None),
            ("nan", None),
        ],
    )
    def test_the_named_waiting_time_is_handed_on(self, header: str, seconds: float | None) -> None:
        parsed = self.parse(b"slow down", status=429, headers={"retry-after": header})
        assert (parsed.outcome, parsed.retry_after) == (Outcome.THROTTLED, seconds)

    def test_no_complete_answer_is_unavailable_and_says_why(self) -> None:
        parsed = self.parse(self.body(*WEEK), status=0, failure="the connection broke off")
        assert parsed.outcome is Outcome.UNAVAILABLE
        assert parsed.reason == "the connection broke off"

    @given(body=st.binary(max_size=300), status=st.sampled_from([0, 200, 301, 404, 429, 500]))
    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_any_bytes_give_an_outcome(self, body: bytes, status: int) -> None:
        assert_sound(self.parse(body, status=status))

    @given(data=st.data())
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_a_damaged_body_gives_an_outcome_and_no_row_outside_the_question(self, data: st.DataObject) -> None:
        body = self.body(*WEEK, MONDAY)
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 40)))
        patch = data.draw(st.one_of(st.binary(max_size=20), st.text('0123456789-.,":[]{}\r\nN/Dnul e', max_size=20)))
        damaged = body[:start] + (patch if isinstance(patch, bytes) else patch.encode()) + body[end:]
        assert_sound(self.parse(damaged, replace(QUERY, start=date(2024, 1, 3), end=date(2024, 1, 5))))

    @given(symbol=SYMBOLS)
    @settings(suppress_health_check=[HealthCheck.differing_executors])
    def test_symbols_come_back_from_the_providers_spelling(self, symbol: str) -> None:
        provider = self.provider()
        for mic in self.mics:
            native = provider.native_symbol(Instrument(symbol, "any", mic, "USD"))
            assert provider.canonical_symbol(native, mic) == symbol

    def test_a_spelling_that_no_rule_gives_is_used_as_it_is(self) -> None:
        provider = self.provider()
        index = Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX, provider_symbols={provider.name: "odd=1"})
        assert provider.covers(index)
        assert provider.native_symbol(index) == "odd=1"

    def test_an_unknown_exchange_is_not_covered(self) -> None:
        provider = self.provider()
        stranger = Instrument("ABC", "mars", "XMRS", "USD")
        assert not provider.covers(stranger)
        with pytest.raises(ValueError, match="XMRS"):
            provider.native_symbol(stranger)
        with pytest.raises(ValueError, match="XMRS"):
            provider.canonical_symbol("ABC", "XMRS")

    def test_only_the_listed_exchanges_are_covered(self) -> None:
        covered = {
            mic
            for mic in ("XNYS", "XWAR", "XLON", "XTKS")
            if self.provider().covers(Instrument("ABC", "any", mic, "USD"))
        }
        assert covered == set(self.mics)

    def test_the_request_shows_no_secret(self) -> None:
        call = self.provider().daily_call(QUERY)
        assert call.provider == self.provider().name
        assert KEY not in f"{call} {call.url} {dict(call.params)} {dict(call.headers)}"

    def test_secrets_are_meant_for_the_configured_host_only(self) -> None:
        call = self.provider().daily_call(QUERY)
        if call.secret_params:
            assert call.secret_origin
            assert call.url.startswith(call.secret_origin)

    @pytest.mark.parametrize("status", [0, 200, 302, 403, 500])
    @pytest.mark.parametrize(
        "template",
        [
            '{{"Information": "We have detected your API key as {key} and that is all"}}',
            '{{"Error Message": "{key}"}}',
            '{{"chart": {{"result": null, "error": {{"code": "Odd", "description": "Not Found: {key}"}}}}}}',
            "No data {key}",
            "{key}",
            "<html>{key}</html>",
            "Too Many Requests {key}",
        ],
    )
    def test_a_reason_shows_no_secret(self, template: str, status: int) -> None:
        body = template.format(key=KEY).encode()
        parsed = self.parse(body, status=status, headers={"location": f"https://x.test/?apikey={KEY}"}, failure=KEY)
        assert KEY not in repr(parsed)


def assert_sound(parsed: Parsed) -> None:
    """Whatever came in: an outcome, and rows only where it is ok, in order and inside the question."""
    assert isinstance(parsed, Parsed)
    assert (parsed.bars is not None) == (parsed.outcome is Outcome.OK)
    assert parsed.outcome is Outcome.OK or parsed.reason
    assert "\n" not in parsed.reason
    if parsed.bars is not None:
        assert len(parsed.bars)
        assert tuple(parsed.bars.columns) == BAR_COLUMNS
        assert parsed.bars["session"].is_monotonic_increasing
        assert parsed.bars["session"].between(pd.Timestamp(QUERY.start), pd.Timestamp(QUERY.end)).all()


def epoch(day: date, hour: int = 14, minute: int = 30) -> int:
    """A New York winter day's opening bell, in UTC."""
    return int((datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour, minutes=minute)).timestamp())
