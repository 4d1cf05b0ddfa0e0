import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed
from market_pipelines.providers.yahoo import Yahoo

AAPL = Instrument("AAPL", "us", "XNYS", "USD")
QUERY = DailyQuery(AAPL, date(2020, 8, 1), date(2020, 9, 4), date(2020, 9, 4))
LATER = datetime(2020, 9, 4, 22, tzinfo=UTC)
REGULAR = {"start": 1599226200, "end": 1599249600}
"""2020-09-04, 09:30 to 16:00 in New York."""

# Split-adjusted as Yahoo sends them: 2020-08-06, 08-07 (dividend), 08-28, 08-31 (4:1), 09-03, 09-04.
STAMPS = [1596720600, 1596807000, 1598621400, 1598880600, 1599139800, 1599226200]
CLOSES: list[float | None] = [
    113.90249633789062,
    111.11250305175781,
    124.80750274658203,
    129.0399932861328,
    120.87999725341797,
    120.95999908447266,
]
VOLUMES: list[float | None] = [202428800, 198045600, 187630000, 225702700, 257599600, 332607200]
SPLIT = {"1598880600": {"date": 1598880600, "numerator": 4, "denominator": 1, "splitRatio": "4:1"}}
DIVIDEND = {"1596807000": {"date": 1596807000, "amount": 0.205}}


def chart(
    stamps: list[int] | None = STAMPS,
    closes: list[float | None] = CLOSES,
    volumes: list[float | None] = VOLUMES,
    events: dict[str, Any] | None = None,
    **meta: Any,
) -> bytes:
    prices = dict.fromkeys(("open", "high", "low", "close"), closes)
    result: dict[str, Any] = {
        "meta": {
            "currency": "USD",
            "symbol": "AAPL",
            "exchangeTimezoneName": "America/New_York",
            "gmtoffset": -18000,
            "dataGranularity": "1d",
            "regularMarketTime": 1599249601,
            "currentTradingPeriod": {"regular": REGULAR},
            **meta,
        },
        "indicators": {"quote": [{**prices, "volume": volumes}], "adjclose": [{"adjclose": closes}]},
    }
    if stamps is not None:
        result["timestamp"] = stamps
    if events is not None:
        result["events"] = events
    return json.dumps({"chart": {"result": [result], "error": None}}).encode()


def parse(body: bytes, query: DailyQuery = QUERY, **facts: Any) -> Parsed:
    return Yahoo().parse_daily(replace(Answer(200, body, {}, LATER, 0.1), **facts), query)


def closes(parsed: Parsed) -> dict[str, float]:
    assert parsed.bars is not None, parsed.reason
    return dict(zip(parsed.bars["session"].dt.strftime("%m-%d"), parsed.bars["close"], strict=True))


def test_a_split_is_undone_before_its_ex_date_and_not_after() -> None:
    parsed = parse(chart(events={"splits": SPLIT}))
    found = closes(parsed)
    assert found["08-28"] == 499.23
    assert found["08-31"] == 129.04
    assert parsed.bars is not None
    assert parsed.bars["volume"][2:4].tolist() == [46907500, 225702700]
    assert Yahoo.basis is Basis.TRADED


def test_splits_after_the_question_are_undone_as_well() -> None:
    parsed = parse(chart(events={"splits": SPLIT}), replace(QUERY, end=date(2020, 8, 28)))
    assert closes(parsed) == {"08-06": 455.61, "08-07": 444.45, "08-28": 499.23}


def test_a_reverse_split_is_undone() -> None:
    reverse = {"1598880600": {"date": 1598880600, "numerator": 1.0, "denominator": 8.0}}
    parsed = parse(chart(events={"splits": reverse}))
    assert closes(parsed)["08-28"] == pytest.approx(124.8075 / 8, abs=1e-4)
    assert parsed.bars is not None
    assert parsed.bars["volume"][2] == 187630000 * 8


def test_dividends_are_restated_as_paid() -> None:
    parsed = parse(chart(events={"splits": SPLIT, "dividends": DIVIDEND}))
    assert parsed.actions == (
        CorporateAction("AAPL", date(2020, 8, 7), ActionKind.DIVIDEND, 0.82),
        CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0),
    )
    assert parsed.actions_known


def test_actions_before_the_question_are_left_out() -> None:
    parsed = parse(chart(events={"splits": SPLIT, "dividends": DIVIDEND}), replace(QUERY, start=date(2020, 8, 10)))
    assert [action.kind for action in parsed.actions] == [ActionKind.SPLIT]


def test_a_body_that_ends_long_before_its_own_present_does_not_know_the_actions() -> None:
    parsed = parse(chart(regularMarketTime=1739998801, currentTradingPeriod=None))
    assert parsed.outcome is Outcome.OK
    assert not parsed.actions_known


@pytest.mark.parametrize(("new", "old"), [(4, 0), (0, 1), (-4, 1), (1e300, 1e-300), (1, 1e9)])
def test_a_split_that_cannot_be_undone_is_malformed(new: float, old: float) -> None:
    impossible = {"1598880600": {"date": 1598880600, "numerator": new, "denominator": old}}
    assert parse(chart(events={"splits": impossible})).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (34.54999923706055, 34.55),
        (1.1220825910568237, 1.122083),
        (7200.17431640625, 7200.174),
        (0.12834799289703369, 0.128348),
        (544389.25, 544389.25),
        (269.2749938964844, 269.275),
    ],
)
def test_the_noise_of_single_precision_is_rounded_away(sent: float, kept: float) -> None:
    assert closes(parse(chart([1599139800], [sent], [1])))["09-03"] == kept


def test_dates_come_from_the_zone_and_not_from_todays_offset() -> None:
    # 09:30 in Warsaw's summer is 07:00 UTC, in its winter 08:00 UTC; the offset says winter for both.
    body = chart([1729839600, 1730102400], [50.0, 51.0], [1, 1], symbol="PKO.WA", exchangeTimezoneName="Europe/Warsaw")
    query = DailyQuery(
        Instrument("PKO", "pl", "XWAR", "PLN"), date(2024, 10, 20), date(2024, 10, 31), date(2024, 11, 4)
    )
    assert list(closes(parse(body, query, received_at=datetime(2024, 11, 4, tzinfo=UTC)))) == ["10-25", "10-28"]


def test_a_day_that_begins_before_midnight_in_utc_keeps_its_own_date() -> None:
    # Midnight in London's summer; by the offset in the body, which is the winter's, still the day before.
    body = chart([1598914800], [1.1], [0], exchangeTimezoneName="Europe/London", gmtoffset=0)
    assert list(closes(parse(body))) == ["09-01"]


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "America"])
def test_an_unknown_zone_is_malformed(zone: str) -> None:
    assert parse(chart(exchangeTimezoneName=zone)).outcome is Outcome.MALFORMED


LIVE = 1599240000
"""2020-09-04 13:20 in New York."""


def test_the_live_bar_replaces_its_days_opening_bar_and_is_provisional() -> None:
    body = chart([*STAMPS, LIVE], [*CLOSES, 119.5], [*VOLUMES, 200], regularMarketTime=LIVE)
    parsed = parse(body, received_at=datetime.fromtimestamp(LIVE + 5, UTC))
    assert parsed.bars is not None
    assert len(parsed.bars) == 6
    assert closes(parsed)["09-04"] == 119.5
    assert parsed.bars["provisional"].tolist() == [False] * 5 + [True]


def test_a_live_bar_is_provisional_even_where_the_clock_says_nothing() -> None:
    """A snapshot from within a session stays one, whenever it is read."""
    body = chart([*STAMPS[:-1], LIVE], regularMarketTime=LIVE)
    parsed = parse(body, received_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("stamp", "market_time", "minutes_after_close", "provisional"),
    [
        (1599249601, 1599249601, 1, True),
        (1599249601, 1599249601, 30, False),
        (1599226200, 1599249601, 30, False),
        (LIVE, LIVE, 30, False),
        (1599226200, LIVE, -60, True),
    ],
    ids=["auction still settling", "evening", "evening, stamped at the open", "thin share", "during trading"],
)
def test_a_session_is_final_when_its_bell_has_rung(
    stamp: int, market_time: int, minutes_after_close: int, provisional: bool
) -> None:
    received = datetime.fromtimestamp(REGULAR["end"] + minutes_after_close * 60, UTC)
    parsed = parse(chart([*STAMPS[:-1], stamp], regularMarketTime=market_time), received_at=received)
    assert parsed.bars is not None
    assert parsed.bars["provisional"].tolist() == [False] * 5 + [provisional]


def test_a_null_row_is_left_out_and_not_filled() -> None:
    gap: list[float | None] = [*CLOSES[:2], None, *CLOSES[3:]]
    assert list(closes(parse(chart(closes=gap)))) == ["08-06", "08-07", "08-31", "09-03", "09-04"]


def test_a_null_live_row_does_not_hide_the_opening_one() -> None:
    body = chart([*STAMPS, LIVE], [*CLOSES, None], [*VOLUMES, None], regularMarketTime=LIVE)
    assert closes(parse(body, received_at=datetime.fromtimestamp(LIVE + 5, UTC)))["09-04"] == 120.96


def test_a_day_that_still_comes_twice_in_the_evening_is_one_final_bar() -> None:
    closed = REGULAR["end"] + 1
    body = chart([*STAMPS, closed], [*CLOSES, 119.5], [*VOLUMES, 200], regularMarketTime=closed)
    parsed = parse(body)
    assert closes(parsed)["09-04"] == 119.5
    assert parsed.bars is not None
    assert len(parsed.bars) == 6
    assert not parsed.bars["provisional"].any()


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_number_that_is_none_counts_as_null(word: bytes) -> None:
    body = chart().replace(b"124.80750274658203", word)
    assert "08-28" not in closes(parse(body))


def test_columns_of_different_length_are_malformed() -> None:
    assert parse(chart(closes=CLOSES[:-1])).outcome is Outcome.MALFORMED


def test_other_bars_than_daily_ones_are_malformed() -> None:
    for granularity in ("1mo", "60m", "3mo", ""):
        assert parse(chart(dataGranularity=granularity)).outcome is Outcome.MALFORMED


def test_an_answer_without_time_stamps_is_judged_by_the_calendar() -> None:
    body = chart(stamps=None)
    assert parse(body).outcome is Outcome.EMPTY_UNEXPECTED
    weekend = replace(QUERY, start=date(2020, 8, 29), end=date(2020, 8, 30))
    assert parse(body, weekend).outcome is Outcome.EMPTY_EXPECTED


def test_a_phantom_is_an_unknown_symbol() -> None:
    assert parse(chart(stamps=None, currency=None)).outcome is Outcome.UNKNOWN_SYMBOL


def error(code: str, description: str, root: str = "chart") -> bytes:
    return json.dumps({root: {"result": None, "error": {"code": code, "description": description}}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (404, error("Not Found", "No data found, symbol may be delisted"), Outcome.UNKNOWN_SYMBOL),
        (200, error("Not Found", "No data found, symbol may be delisted"), Outcome.UNKNOWN_SYMBOL),
        (
            422,
            error(
                "Unprocessable Entity",
                "1m data not available for startTime=1 and endTime=2. Only 8 days worth of 1m granularity data "
                "are allowed to be fetched per request.",
            ),
            Outcome.EMPTY_UNEXPECTED,
        ),
        (
            422,
            error("Unprocessable Entity", "The requested range must be within the last 730 days."),
            Outcome.EMPTY_UNEXPECTED,
        ),
        (
            400,
            b"400 Bad Request: Data doesn't exist for startDate = 1577836800, endDate = 1578009600",
            Outcome.EMPTY_UNEXPECTED,
        ),
        (400, error("Bad Request", "Data doesn't exist for startDate = 1, endDate = 2"), Outcome.EMPTY_UNEXPECTED),
        (400, error("Bad Request", "Invalid input - interval=1q is not supported."), Outcome.MALFORMED),
        (401, error("Unauthorized", "Invalid Crumb", root="finance"), Outcome.NOT_ENTITLED),
        (401, error("Unauthorized", "User is unable to access this feature", root="finance"), Outcome.NOT_ENTITLED),
        (429, b"Too Many Requests\r\n", Outcome.THROTTLED),
        (200, b"Too Many Requests\r\n", Outcome.THROTTLED),
        (429, error("Too Many Requests", "Slow down", root="finance"), Outcome.THROTTLED),
        (200, b"<html><body>Will be right back...<br>Thank you for your patience.</body></html>", Outcome.UNAVAILABLE),
        (503, b"<html><body>Will be right back</body></html>", Outcome.UNAVAILABLE),
        (500, error("internal-error", "Unexpected"), Outcome.UNAVAILABLE),
        (200, b'{"chart":{"result":null,"error":null}}', Outcome.MALFORMED),
        (200, b'{"chart":{"result":[],"error":null}}', Outcome.MALFORMED),
        (200, b'{"quoteResponse":{"result":[],"error":null}}', Outcome.MALFORMED),
        (200, b"[]", Outcome.MALFORMED),
    ],
)
def test_an_error_is_understood_from_its_body(status: int, body: bytes, outcome: Outcome) -> None:
    assert parse(body, status=status).outcome is outcome


def test_the_consent_redirect_is_a_challenge() -> None:
    location = {"location": "https://guce.yahoo.com/consent?brandType=nonEu&gcrumb=x&done=y"}
    assert parse(b"", status=307, headers=location).outcome is Outcome.CHALLENGE


def test_another_redirect_is_malformed() -> None:
    assert parse(b"", status=302, headers={"location": "https://elsewhere.test/"}).outcome is Outcome.MALFORMED


def test_the_call_reaches_from_the_start_to_today_in_the_exchanges_days() -> None:
    query = replace(QUERY, start=date(2020, 1, 2), end=date(2020, 1, 31), today=date(2020, 9, 4))
    call = Yahoo("https://query2.test/").daily_call(query)
    assert call.url == "https://query2.test/v8/finance/chart/AAPL"
    assert call.params["period1"] == "1577941200"  # 2020-01-02 00:00 EST
    assert call.params["period2"] == "1599278400"  # 2020-09-05 00:00 EDT
    assert call.params["events"] == "div,splits"
    assert call.params["interval"] == "1d"


def test_symbols_are_spelled_its_way() -> None:
    provider = Yahoo()
    assert provider.native_symbol(Instrument("PKO", "pl", "XWAR", "PLN")) == "PKO.WA"
    assert provider.native_symbol(Instrument("BRK.B", "us", "XNYS", "USD")) == "BRK-B"
    assert provider.native_symbol(Instrument("7203", "jp", "XTKS", "JPY")) == "7203.T"
    assert provider.canonical_symbol("PKO.WA", "XWAR") == "PKO"
    assert provider.canonical_symbol("^GSPC", "XNYS") == "^GSPC"
    index = Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX, provider_symbols={"yahoo": "^GSPC"})
    assert provider.daily_call(replace(QUERY, instrument=index)).url.endswith("/v8/finance/chart/%5EGSPC")
    with pytest.raises(ValueError, match="PKO"):
        provider.canonical_symbol("PKO", "XWAR")
