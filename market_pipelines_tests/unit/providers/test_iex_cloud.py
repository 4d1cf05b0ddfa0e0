import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Profile, Quote
from market_pipelines.providers.http import HttpClient, origin
from market_pipelines.providers.iex_cloud import PUBLIC_ADDRESS, IexCloud
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    ListingsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    abilities_of,
)
from market_pipelines.settings import Settings

MSFT = Instrument("MSFT", "us", "XNYS", "USD")
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
TODAY = date(2024, 1, 9)
NOON = datetime(2024, 1, 9, 17, tzinfo=UTC)
"""Noon in New York, a Tuesday."""
EVENING = datetime(2024, 1, 9, 22, tzinfo=UTC)
WEEK = DailyQuery(MSFT, date(2024, 1, 2), date(2024, 1, 5), TODAY)
TUESDAY = IntradayQuery(MSFT, "1min", TODAY, TODAY, TODAY)
OLD_HOSTS = (
    "https://cloud.iexapis.com/stable",
    "https://sandbox.iexapis.com/stable",
    "https://api.iex.cloud/v1",
    "https://api.iextrading.com/1.0",
    "https://CLOUD.IEXAPIS.COM./v1",
)


def provider(base_url: str = "https://iex.test/v1", key: str | None = None, *, sandbox: bool = False) -> IexCloud:
    return IexCloud(SecretStr(key) if key else None, base_url, sandbox=sandbox)


def answer(
    body: object, status: int = 200, endpoint: str = "", at: datetime = EVENING, headers: dict[str, str] | None = None
) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, raw, headers or {}, at, 0.1, endpoint=endpoint)


def read(capability: Capability, body: object, query: object, of: IexCloud | None = None, **facts: object) -> Parsed:
    return abilities_of(of or provider())[capability].read(answer(body, **facts), query)  # type: ignore[arg-type]


def day(when: str, close: float = 370.0, *, factor: float = 1.0, **more: object) -> dict[str, object]:
    traded = {"uOpen": close - 1, "uClose": close, "uHigh": close + 2, "uLow": close - 2, "uVolume": 1000}
    restated = {
        name[1:].lower(): value * factor if name == "uVolume" else value / factor for name, value in traded.items()
    }
    return {"date": when, **restated, **traded, "change": 0, "changePercent": 0.5, "changeOverTime": 0.005, **more}


def minute(at: str, price: float | None = 370.0, market: float | None = 371.0, when: str = "2024-01-09") -> object:
    own = dict.fromkeys(("open", "high", "low", "close", "average"), price)
    consolidated = dict.fromkeys(("marketOpen", "marketHigh", "marketLow", "marketClose"), market)
    return {
        "date": when,
        "minute": at,
        **own,
        "volume": 10 if price else 0,
        **consolidated,
        "marketVolume": 400 if market else 0,
    }


def own_only(at: str, price: float | None = 370.0) -> object:
    row = minute(at, price)
    assert isinstance(row, dict)
    return {name: value for name, value in row.items() if not name.startswith("market")}


class TestRetirement:
    @pytest.mark.parametrize("address", OLD_HOSTS)
    def test_the_old_hosts_are_told_to_be_retired(self, address: str) -> None:
        assert "retired on 2024-08-31" in provider(address).ready()

    def test_without_an_address_the_old_one_is_meant(self) -> None:
        for settings in (Settings(_env_file=None), Settings(_env_file=None, iex_cloud_sandbox=True)):
            assert "retired" in IexCloud.from_settings(settings).ready()
        assert PUBLIC_ADDRESS in OLD_HOSTS

    @pytest.mark.parametrize("address", OLD_HOSTS)
    def test_nothing_can_be_sent_to_them(self, address: str) -> None:
        of = provider(address, key="pk_planted0123456789")
        calls: list[Call] = [
            of.daily_call(WEEK),
            of.intraday_call(TUESDAY),
            of.quote_call(QuoteQuery((MSFT,))),
            of.batch_call(QuoteQuery((MSFT, AAPL))),
            of.profile_call(ProfileQuery(MSFT)),
            of.actions_call(ActionsQuery(MSFT, date(2023, 1, 1), TODAY)),
            of.listings_call(ListingsQuery("XNYS")),
        ]
        for call in calls:
            assert origin(call.url) == ""
            assert not call.secret_params
        with HttpClient() as http:
            received = http.get(calls[0])
        assert received.status == 0
        assert of.parse_daily(received, WEEK).outcome is Outcome.RETIRED

    @pytest.mark.parametrize("status", [0, 301, 404, 410, 500, 503])
    @pytest.mark.parametrize("capability", list(abilities_of(IexCloud(None))))
    def test_whatever_such_a_host_gives_is_retired(self, capability: Capability, status: int) -> None:
        page = answer(b"<html>This domain is parked</html>", status=status)
        parsed = abilities_of(provider(PUBLIC_ADDRESS))[capability].read(page, WEEK)
        assert parsed.outcome is Outcome.RETIRED
        assert parsed.outcome.provider_wide

    def test_a_parked_page_with_status_200_is_retired_too(self) -> None:
        of = provider(PUBLIC_ADDRESS)
        assert of.parse_daily(answer(b"<html>Buy this domain</html>"), WEEK).outcome is Outcome.RETIRED

    def test_an_answer_kept_from_the_services_days_is_still_read(self) -> None:
        parsed = provider(PUBLIC_ADDRESS).parse_daily(answer([day("2024-01-02")]), WEEK)
        assert parsed.outcome is Outcome.OK

    def test_another_server_is_ready(self) -> None:
        assert provider().ready() == ""
        assert provider("http://127.0.0.1:8099/iex_cloud").ready() == ""
        assert not provider("https://notiexapis.com").retired


class TestSandbox:
    @pytest.mark.parametrize("key", ["Tpk_0123456789abcdef", "Tsk_0123456789abcdef"])
    def test_test_tokens_are_told_apart(self, key: str) -> None:
        of = provider(key=key)
        assert "scrambled" in of.ready()
        assert "retired" not in of.ready()
        parsed = of.parse_daily(answer([day("2024-01-02")]), WEEK)
        assert (parsed.outcome, parsed.bars) == (Outcome.NOT_ENTITLED, None)
        assert "scrambled" in parsed.reason

    def test_the_setting_alone_is_enough(self) -> None:
        settings = Settings(_env_file=None, iex_cloud_sandbox=True, iex_cloud_base_url="https://iex.test")
        of = IexCloud.from_settings(settings)
        assert "scrambled" in of.ready()
        parsed = read(Capability.QUOTE, {"symbol": "MSFT", "latestPrice": 1.5}, QuoteQuery((MSFT,)), of)
        assert (parsed.outcome, parsed.records) == (Outcome.NOT_ENTITLED, ())

    def test_what_marks_itself_as_simulated_passes(self) -> None:
        simulated = answer([day("2024-01-02")], headers={"x-simulated-by": "market_pipelines"})
        assert provider(key="Tpk_0123456789abcdef").parse_daily(simulated, WEEK).outcome is Outcome.OK

    def test_a_refusal_stays_a_refusal(self) -> None:
        parsed = provider(key="Tpk_0123456789abcdef").parse_daily(answer(b"Unknown symbol", status=404), WEEK)
        assert parsed.outcome is Outcome.UNKNOWN_SYMBOL


class TestCalls:
    @pytest.mark.parametrize(
        ("base_url", "address"),
        [
            ("https://iex.test/v1", "https://iex.test/v1/stock/MSFT/quote"),
            ("https://iex.test/stable/", "https://iex.test/stable/stock/MSFT/quote"),
            ("http://127.0.0.1:8099/iex_cloud", "http://127.0.0.1:8099/iex_cloud/stable/stock/MSFT/quote"),
        ],
    )
    def test_an_address_without_a_version_gets_one(self, base_url: str, address: str) -> None:
        assert provider(base_url).quote_call(QuoteQuery((MSFT,))).url == address

    def test_the_token_travels_as_a_secret(self) -> None:
        call = provider(key="pk_planted0123456789").daily_call(WEEK)
        assert call.secret_params["token"].get_secret_value() == "pk_planted0123456789"
        assert call.secret_origin == "https://iex.test/v1"
        assert "planted" not in f"{call} {call.url} {dict(call.params)}"

    @pytest.mark.parametrize(
        ("back", "wanted"),
        [
            (0, "5d"),
            (5, "5d"),
            (6, "1m"),
            (27, "1m"),
            (28, "3m"),
            (88, "3m"),
            (180, "6m"),
            (181, "1y"),
            (364, "1y"),
            (729, "2y"),
            (1825, "5y"),
            (1826, "max"),
            (9000, "max"),
        ],
    )
    def test_the_range_reaches_back_to_the_start(self, back: int, wanted: str) -> None:
        query = DailyQuery(MSFT, TODAY - timedelta(days=back), TODAY, TODAY)
        assert provider().daily_call(query).url.endswith(f"/stock/MSFT/chart/{wanted}")

    def test_a_single_past_session_is_asked_for_by_its_date(self) -> None:
        call = provider().daily_call(DailyQuery(MSFT, date(2023, 6, 1), date(2023, 6, 1), TODAY))
        assert call.url.endswith("/chart/date/20230601")
        assert call.params == {"chartByDay": "true"}

    def test_minutes_are_asked_for_by_session(self) -> None:
        ability = provider().abilities[Capability.INTRADAY]
        assert ability.days_a_call == 1
        call = ability.call(TUESDAY)
        assert call.url.endswith("/stock/MSFT/chart/date/20240109")
        assert not call.params

    def test_a_batch_names_its_symbols(self) -> None:
        ability = provider().abilities[Capability.BULK_QUOTES]
        call = ability.call(QuoteQuery((MSFT, Instrument("BRK.B", "us", "XNYS", "USD"))))
        assert call.url.endswith("/stock/market/batch")
        assert call.params == {"symbols": "MSFT,BRK.B", "types": "quote"}
        assert ability.most == 100

    def test_a_symbol_is_one_part_of_the_path(self) -> None:
        odd = Instrument("X", "us", "XNYS", "USD", provider_symbols={"iex_cloud": "../a?b"})
        assert "/stock/..%2Fa%3Fb/quote" in provider().quote_call(QuoteQuery((odd,))).url

    def test_symbols_are_spelled_as_the_exchange_does(self) -> None:
        of = provider()
        assert of.native_symbol(Instrument("BRK.B", "us", "XNYS", "USD")) == "BRK.B"
        assert of.canonical_symbol("BRK.B", "XNYS") == "BRK.B"
        assert not of.covers(Instrument("PKO", "pl", "XWAR", "PLN"))
        assert not of.covers(Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX))


class TestDays:
    def test_prices_are_those_traded_and_not_those_restated_for_a_split(self) -> None:
        parsed = provider().parse_daily(answer([day("2024-01-02", 400.0, factor=4.0)]), WEEK)
        assert IexCloud.basis is Basis.TRADED
        assert parsed.bars is not None
        row = parsed.bars.iloc[0]
        assert row[["open", "high", "low", "close", "volume"]].tolist() == [399.0, 402.0, 398.0, 400.0, 1000.0]

    def test_rows_without_traded_prices_are_refused(self) -> None:
        restated = {name: value for name, value in day("2024-01-02").items() if not name.startswith("u")}
        parsed = provider().parse_daily(answer([restated]), WEEK)
        assert parsed.outcome is Outcome.MALFORMED
        assert "uOpen" in parsed.reason

    def test_one_row_without_a_traded_close_is_not_filled_from_the_other_set(self) -> None:
        gap = {**day("2024-01-03"), "uClose": None}
        parsed = provider().parse_daily(answer([day("2024-01-02"), gap]), WEEK)
        assert parsed.bars is not None
        assert np.isnan(parsed.bars["close"][1])

    def test_the_keys_may_come_in_any_order_and_with_others(self) -> None:
        row = dict(reversed([*day("2024-01-02").items(), ("currency", ""), ("id", "HISTORICAL_PRICES")]))
        assert provider().parse_daily(answer([row]), WEEK).outcome is Outcome.OK

    def test_minutes_in_place_of_days_are_malformed(self) -> None:
        assert provider().parse_daily(answer([minute("09:30")]), WEEK).outcome is Outcome.MALFORMED

    def test_rows_of_another_symbol_are_malformed(self) -> None:
        parsed = provider().parse_daily(answer([day("2024-01-02", symbol="AAPL")]), WEEK)
        assert parsed.outcome is Outcome.MALFORMED
        assert "AAPL" in parsed.reason

    @pytest.mark.parametrize("when", ["2024-1-2", "20240102", "now", "2024-02-30", "", "2024-01-02T00:00:00"])
    def test_a_date_in_another_form_is_malformed(self, when: str) -> None:
        assert provider().parse_daily(answer([day(when)]), WEEK).outcome is Outcome.MALFORMED

    @pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b" [] \n"])
    def test_nothing_is_judged_by_the_calendar(self, body: bytes) -> None:
        assert provider().parse_daily(answer(body), WEEK).outcome is Outcome.EMPTY_UNEXPECTED
        weekend = DailyQuery(MSFT, date(2024, 1, 6), date(2024, 1, 7), TODAY)
        assert provider().parse_daily(answer(body), weekend).outcome is Outcome.EMPTY_EXPECTED

    def test_a_bare_number_is_no_chart(self) -> None:
        assert provider().parse_daily(answer(b"119.36"), WEEK).outcome is Outcome.MALFORMED


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "outcome"),
        [
            (404, b"Unknown symbol", Outcome.UNKNOWN_SYMBOL),
            (200, b"Unknown symbol", Outcome.UNKNOWN_SYMBOL),
            (403, b"The API key provided is not valid.", Outcome.NOT_ENTITLED),
            (400, b"You have supplied invalid values for this request", Outcome.MALFORMED),
            (400, b'{"error":"\\"badOption\\" is not allowed"}', Outcome.MALFORMED),
            (402, b"", Outcome.QUOTA_EXHAUSTED),
            (402, b"You have exceeded your allotted message quota", Outcome.QUOTA_EXHAUSTED),
            (429, b"", Outcome.THROTTLED),
            (429, b"Too many requests", Outcome.THROTTLED),
            (451, b"Enterprise Permission Required", Outcome.NOT_ENTITLED),
            (404, b"<html>Not Found</html>", Outcome.MALFORMED),
            (404, b"Not Found", Outcome.MALFORMED),
            (500, b"Something went wrong", Outcome.UNAVAILABLE),
        ],
    )
    @pytest.mark.parametrize("capability", list(abilities_of(IexCloud(None))))
    def test_every_refusal_means_the_same_everywhere(
        self, capability: Capability, status: int, body: bytes, outcome: Outcome
    ) -> None:
        queries = {
            Capability.DAILY: WEEK,
            Capability.INTRADAY: TUESDAY,
            Capability.QUOTE: QuoteQuery((MSFT,)),
            Capability.BULK_QUOTES: QuoteQuery((MSFT,)),
            Capability.PROFILE: ProfileQuery(MSFT),
            Capability.ACTIONS: ActionsQuery(MSFT, date(2023, 1, 1), TODAY),
            Capability.LISTINGS: ListingsQuery("XNYS"),
        }
        parsed = read(capability, body, queries[capability], status=status)
        assert parsed.outcome is outcome
        assert parsed.reason
        assert parsed.rows == 0

    def test_the_words_about_the_key_say_that_a_range_may_be_meant_where_one_was_asked(self) -> None:
        body = b"The API key provided is not valid."
        assert "unknown range" in provider().parse_daily(answer(body, status=403), WEEK).reason
        assert "unknown range" not in read(Capability.QUOTE, body, QuoteQuery((MSFT,)), status=403).reason

    def test_an_options_error_is_shown(self) -> None:
        parsed = provider().parse_daily(answer(b'{"error":"\\"badOption\\" is not allowed"}', status=400), WEEK)
        assert '"badOption" is not allowed' in parsed.reason

    def test_the_named_waiting_time_is_handed_on(self) -> None:
        parsed = provider().parse_daily(answer(b"", status=429, headers={"retry-after": "7"}), WEEK)
        assert parsed.retry_after == 7.0


class TestMinutes:
    def test_stamps_are_new_yorks_clock_and_starts(self) -> None:
        parsed = read(Capability.INTRADAY, [minute("09:30"), minute("15:59")], TUESDAY)
        assert parsed.bars is not None
        assert tuple(parsed.bars.columns) == INTRADAY_COLUMNS
        assert [f"{stamp:%Y-%m-%d %H:%M %Z}" for stamp in parsed.bars["ts"]] == [
            "2024-01-09 14:30 UTC",
            "2024-01-09 20:59 UTC",
        ]
        assert not parsed.bars["provisional"].any()

    @pytest.mark.parametrize(("when", "hour"), [("2024-03-08", 14), ("2024-03-11", 13), ("2024-11-04", 14)])
    def test_the_clock_change_is_new_yorks(self, when: str, hour: int) -> None:
        on = date.fromisoformat(when)
        query = IntradayQuery(MSFT, "1min", on, on, on)
        parsed = read(Capability.INTRADAY, [minute("09:30", when=when)], query, at=datetime(2024, 12, 1, tzinfo=UTC))
        assert parsed.bars is not None
        assert parsed.bars["ts"][0].hour == hour

    def test_the_trades_of_all_exchanges_go_before_iexs_own(self) -> None:
        parsed = read(Capability.INTRADAY, [minute("09:30", 370.0, 371.0), minute("09:31", None, 372.0)], TUESDAY)
        assert parsed.bars is not None
        assert parsed.bars["close"].tolist() == [371.0, 372.0]
        assert parsed.bars["volume"].tolist() == [400.0, 400.0]
        assert parsed.reason == ""

    def test_the_two_venues_are_never_mixed(self) -> None:
        parsed = read(Capability.INTRADAY, [minute("09:30"), minute("09:31", 370.5, None), minute("09:32")], TUESDAY)
        assert parsed.bars is not None
        assert parsed.bars["close"].tolist() == [371.0, 371.0]

    def test_iexs_own_trades_serve_where_no_others_are_shown_and_it_is_said(self) -> None:
        parsed = read(Capability.INTRADAY, [own_only("09:30"), own_only("09:31", None)], TUESDAY)
        assert parsed.bars is not None
        assert parsed.bars["close"].tolist() == [370.0]
        assert "IEX's own trades" in parsed.reason

    @pytest.mark.parametrize("gap", [None, -1])
    def test_a_minute_without_a_trade_is_missing(self, gap: float | None) -> None:
        rows = [minute("09:30"), minute("09:31", gap, gap), minute("09:32")]
        parsed = read(Capability.INTRADAY, rows, TUESDAY)
        assert parsed.bars is not None
        assert [stamp.minute for stamp in parsed.bars["ts"]] == [30, 32]

    def test_only_gaps_are_nothing(self) -> None:
        parsed = read(Capability.INTRADAY, [minute("09:30", None, None)], TUESDAY)
        assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
        assert "no row has a price" in parsed.reason

    def test_longer_bars_are_counted_from_the_bell(self) -> None:
        rows = [minute(f"{9 + m // 60:02d}:{m % 60:02d}", 370.0, 300.0 + m) for m in range(30, 30 + 75)]
        query = IntradayQuery(MSFT, "60min", TODAY, TODAY, TODAY)
        parsed = read(Capability.INTRADAY, rows, query)
        assert parsed.bars is not None
        first = parsed.bars.iloc[0]
        assert f"{first['ts']:%H:%M}" == "14:30"
        assert [first["open"], first["high"], first["close"]] == [330.0, 389.0, 389.0]
        assert first["volume"] == 60 * 400
        assert len(parsed.bars) == 2

    def test_a_longer_bar_is_provisional_while_its_newest_minutes_are_awaited(self) -> None:
        """Five minutes of the quarter of an hour before are still without the other exchanges' trades."""
        at = datetime(2024, 1, 9, 17, 2, tzinfo=UTC)
        rows = [minute(f"11:{m:02d}", 370.0, 371.0 if m < 55 else None) for m in range(30, 60)]
        query = IntradayQuery(MSFT, "15min", TODAY, TODAY, TODAY)
        parsed = read(Capability.INTRADAY, rows, query, at=at)
        assert parsed.bars is not None
        assert parsed.bars["provisional"].tolist() == [False, True]

    def test_a_quiet_last_minute_of_a_past_day_awaits_nothing(self) -> None:
        rows = [minute("15:58"), minute("15:59", 370.0, None)]
        query = IntradayQuery(MSFT, "5min", TODAY, TODAY, TODAY)
        parsed = read(Capability.INTRADAY, rows, query, at=EVENING + timedelta(hours=3))
        assert parsed.bars is not None
        assert not parsed.bars["provisional"].any()

    def test_a_minute_that_is_not_over_is_provisional(self) -> None:
        at = datetime(2024, 1, 9, 14, 31, 30, tzinfo=UTC)
        parsed = read(Capability.INTRADAY, [minute("09:30"), minute("09:31")], TUESDAY, at=at)
        assert parsed.bars is not None
        assert parsed.bars["provisional"].tolist() == [False, True]

    def test_every_tenth_minute_makes_no_longer_bars(self) -> None:
        rows = [minute(f"10:{m:02d}") for m in range(0, 60, 10)]
        assert read(Capability.INTRADAY, rows, TUESDAY).outcome is Outcome.OK
        query = IntradayQuery(MSFT, "30min", TODAY, TODAY, TODAY)
        parsed = read(Capability.INTRADAY, rows, query)
        assert parsed.outcome is Outcome.MALFORMED
        assert "chartInterval" in parsed.reason

    def test_another_days_minutes_are_not_taken(self) -> None:
        parsed = read(Capability.INTRADAY, [minute("09:30", when="2024-01-08")], TUESDAY)
        assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
        assert "2024-01-08" in parsed.reason

    def test_contradicting_versions_of_a_minute_are_malformed(self) -> None:
        parsed = read(Capability.INTRADAY, [minute("09:30", 370.0, 371.0), minute("09:30", 370.0, 372.0)], TUESDAY)
        assert parsed.outcome is Outcome.MALFORMED
        assert read(Capability.INTRADAY, [minute("09:30"), minute("09:30")], TUESDAY).rows == 1

    def test_wrapped_rows_are_read_as_well(self) -> None:
        body = {"range": "1d", "data": [minute("09:30")]}
        assert read(Capability.INTRADAY, body, TUESDAY).rows == 1

    @pytest.mark.parametrize("at", ["9:30", "0930", "09:30 AM", "25:00", "", "09:30:00.5"])
    def test_a_time_in_another_form_is_malformed(self, at: str) -> None:
        assert read(Capability.INTRADAY, [minute(at)], TUESDAY).outcome is Outcome.MALFORMED

    def test_nothing_before_the_bell_is_expected(self) -> None:
        before = datetime(2024, 1, 9, 14, 20, tzinfo=UTC)
        assert read(Capability.INTRADAY, b"[]", TUESDAY, at=before).outcome is Outcome.EMPTY_EXPECTED
        assert read(Capability.INTRADAY, b"[]", TUESDAY, at=NOON).outcome is Outcome.EMPTY_UNEXPECTED


QUOTE = {
    "symbol": "MSFT",
    "latestPrice": 119.36,
    "latestTime": "April 4, 2019",
    "latestUpdate": 1554408000193,
    "latestVolume": 20088221,
    "open": 120,
    "high": 120.23,
    "low": 118.38,
    "previousClose": 119.97,
    "changePercent": -0.00508,
    "iexBidPrice": 0,
    "iexBidSize": 0,
    "iexAskPrice": 119.4,
    "iexAskSize": 300,
}


class TestQuotes:
    def test_a_quote_is_read_with_a_change_as_a_fraction(self) -> None:
        (quote,) = read(Capability.QUOTE, QUOTE, QuoteQuery((MSFT,))).records
        assert quote == Quote(
            symbol="MSFT",
            price=119.36,
            at=datetime(2019, 4, 4, 20, 0, 0, 193000, tzinfo=UTC),
            ask=119.4,
            ask_size=300.0,
            open=120.0,
            high=120.23,
            low=118.38,
            previous_close=119.97,
            volume=20088221.0,
        )
        assert quote.change_share == pytest.approx(QUOTE["changePercent"], abs=5e-6)

    def test_numbers_may_come_as_text(self) -> None:
        (quote,) = read(Capability.QUOTE, {**QUOTE, "latestPrice": "119.36"}, QuoteQuery((MSFT,))).records
        assert quote.price == 119.36

    def test_a_bare_number_is_a_price_without_a_time(self) -> None:
        (quote,) = read(Capability.QUOTE, b"119.36", QuoteQuery((MSFT,))).records
        assert (quote.price, quote.at) == (119.36, None)

    @pytest.mark.parametrize("price", [None, 0, -1.0, "nan", "inf"])
    def test_without_a_price_there_is_no_quote(self, price: object) -> None:
        parsed = read(Capability.QUOTE, {**QUOTE, "latestPrice": price}, QuoteQuery((MSFT,)))
        assert (parsed.outcome, parsed.records) == (Outcome.EMPTY_UNEXPECTED, ())

    @pytest.mark.parametrize("stamp", [0, -1, None, 9e18, "nan"])
    def test_an_impossible_time_is_no_time(self, stamp: object) -> None:
        (quote,) = read(Capability.QUOTE, {**QUOTE, "latestUpdate": stamp}, QuoteQuery((MSFT,))).records
        assert quote.at is None

    def test_a_quote_of_another_symbol_is_malformed(self) -> None:
        assert read(Capability.QUOTE, {**QUOTE, "symbol": "AAPL"}, QuoteQuery((MSFT,))).outcome is Outcome.MALFORMED

    def test_a_batch_leaves_out_what_iex_does_not_know(self) -> None:
        body = {"MSFT": {"quote": QUOTE}, "XYZ": {"quote": None}, "GONE": None}
        parsed = read(Capability.BULK_QUOTES, body, QuoteQuery((MSFT, AAPL)))
        assert [quote.symbol for quote in parsed.records] == ["MSFT"]
        assert "AAPL" in parsed.reason
        assert "MSFT" not in parsed.reason

    def test_a_batch_that_contradicts_itself_is_malformed(self) -> None:
        parsed = read(Capability.BULK_QUOTES, {"AAPL": {"quote": QUOTE}}, QuoteQuery((MSFT, AAPL)))
        assert parsed.outcome is Outcome.MALFORMED

    def test_an_empty_batch_knows_none_of_them(self) -> None:
        assert read(Capability.BULK_QUOTES, b"{}", QuoteQuery((MSFT, AAPL))).outcome is Outcome.UNKNOWN_SYMBOL


class TestReference:
    def test_a_company_becomes_a_profile(self) -> None:
        body = {
            "symbol": "MSFT",
            "companyName": "Microsoft Corp.",
            "industry": "Packaged Software",
            "sector": None,
            "employees": 131000,
        }
        (profile,) = read(Capability.PROFILE, body, ProfileQuery(MSFT)).records
        assert profile == Profile("MSFT", "Microsoft Corp.", industry="Packaged Software", employees=131000)

    def test_no_company_is_nothing_and_another_one_is_malformed(self) -> None:
        assert read(Capability.PROFILE, b"{}", ProfileQuery(MSFT)).outcome is Outcome.EMPTY_UNEXPECTED
        body = {"symbol": "AAPL", "companyName": "Apple", "industry": ""}
        assert read(Capability.PROFILE, body, ProfileQuery(MSFT)).outcome is Outcome.MALFORMED

    def test_the_list_tells_kinds_and_leaves_out_what_is_off(self) -> None:
        def line(symbol: str, kind: str, **more: object) -> dict[str, object]:
            return {"symbol": symbol, "name": symbol, "exchange": "NAS", "type": kind, "isEnabled": True, **more}

        body = [
            line("MSFT", "cs", region="US", figi="BBG000BPH459"),
            line("SPY", "et"),
            line("BAC-B", "ps"),
            line("OLD", "cs", isEnabled=False),
            line("SHOP-CT", "cs", region="CA"),
            line("WHAT", "zz"),
        ]
        parsed = read(Capability.LISTINGS, body, ListingsQuery("XNYS"))
        assert [(each.native, each.kind) for each in parsed.records] == [
            ("MSFT", "equity"),
            ("SPY", "etf"),
            ("BAC-B", "preferred"),
            ("WHAT", "other"),
        ]
        assert parsed.records[0].figi == "BBG000BPH459"
        gone = read(Capability.LISTINGS, body, ListingsQuery("XNYS", active=False))
        assert [each.native for each in gone.records] == ["OLD"]

    def test_an_old_list_is_not_to_be_had(self) -> None:
        parsed = read(Capability.LISTINGS, b"[]", ListingsQuery("XNYS", on=date(2020, 1, 2)))
        assert parsed.outcome is Outcome.EMPTY_UNEXPECTED
        assert "2020-01-02" in parsed.reason


class TestActions:
    query = ActionsQuery(MSFT, date(2019, 1, 1), date(2019, 6, 1))

    def test_dividends_lead_on_to_splits(self) -> None:
        body = [
            {"exDate": "2019-05-15", "amount": 0.46, "currency": "USD", "flag": "No Change QoQ"},
            {"exDate": "2019-02-20", "amount": "0.46", "currency": "USD"},
            {"exDate": "2018-11-14", "amount": 0.46, "currency": "USD"},
        ]
        first = read(Capability.ACTIONS, body, self.query, endpoint="dividends")
        assert first.actions == (
            CorporateAction("MSFT", date(2019, 2, 20), ActionKind.DIVIDEND, 0.46),
            CorporateAction("MSFT", date(2019, 5, 15), ActionKind.DIVIDEND, 0.46),
        )
        assert first.more is not None
        assert first.more.url.endswith("/stock/MSFT/splits/6m")
        assert not first.actions_known
        split = {"exDate": "2019-03-01", "ratio": 0.142857, "toFactor": 7, "fromFactor": 1}
        second = read(Capability.ACTIONS, [split], self.query, endpoint="splits")
        assert second.actions == (CorporateAction("MSFT", date(2019, 3, 1), ActionKind.SPLIT, 7.0),)
        assert second.more is None
        assert second.actions_known

    def test_beyond_five_years_not_everything_is_known(self) -> None:
        query = ActionsQuery(MSFT, date(2010, 1, 1), TODAY)
        assert provider().actions_call(query).url.endswith("/dividends/5y")
        assert not read(Capability.ACTIONS, b"[]", query, endpoint="splits").actions_known

    def test_none_at_all_is_expected(self) -> None:
        assert read(Capability.ACTIONS, b"[]", self.query, endpoint="splits").outcome is Outcome.EMPTY_EXPECTED

    def test_what_cannot_be_used_is_told(self) -> None:
        body = [
            {"exDate": "2019-05-15", "amount": 0.46, "currency": "EUR"},
            {"exDate": "0000-00-00", "amount": 0.46, "currency": "USD"},
            {"exDate": "2019-02-20", "amount": "", "currency": "USD"},
        ]
        parsed = read(Capability.ACTIONS, body, self.query, endpoint="dividends")
        assert parsed.actions == ()
        for told in ("EUR", "0000-00-00", "2019-02-20"):
            assert told in parsed.reason

    @pytest.mark.parametrize(
        "split",
        [
            {"exDate": "2019-03-01", "ratio": 7.0, "toFactor": 7, "fromFactor": 1},
            {"exDate": "2019-03-01", "ratio": 0.5},
            {"exDate": "never", "ratio": 0.5, "toFactor": 2, "fromFactor": 1},
            {"exDate": "2019-03-01", "ratio": 0.5, "toFactor": 0, "fromFactor": 1},
        ],
    )
    def test_a_split_that_cannot_be_believed_is_malformed(self, split: object) -> None:
        assert read(Capability.ACTIONS, [split], self.query, endpoint="splits").outcome is Outcome.MALFORMED

    def test_a_split_in_the_older_words_is_read(self) -> None:
        split = {"exDate": "2019-03-01", "ratio": 0.25, "toFactor": 4, "forFactor": 1}
        (action,) = read(Capability.ACTIONS, [split], self.query, endpoint="splits").actions
        assert action.value == 4.0
