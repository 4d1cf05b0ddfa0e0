"""Bodies that the providers really sent, handed to the daily parsers.

The recordings are not part of a clone: without them these tests are skipped, and say so.
"""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.bars import validate_bars
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import Answer, DailyProvider, DailyQuery, Parsed
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.testing.daily import assert_sound

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded"
PROVIDERS: dict[str, DailyProvider] = {
    "alpha_vantage": AlphaVantage(None),
    "stooq": Stooq(None),
    "yahoo": Yahoo(),
}
MICS = {"WSU.DE": "XFRA", "EURUSD=X": "XLON", "WIG": "XWAR", "WIG20": "XWAR"}

Row = tuple[str, float, float, float, float, float]

DAILY: dict[str, tuple[str, int, Row, Row]] = {
    "alpha_vantage/time_series_daily.json": (
        "IBM",
        2,
        ("2020-05-07", 122.98, 123.26, 120.85, 121.23, 4412047),
        ("2020-05-08", 122.67, 122.80, 121.06, 121.79, 2538547),
    ),
    "alpha_vantage/time_series_daily_adjusted.json": (
        "IBM",
        2,
        ("2020-05-07", 122.98, 123.26, 120.85, 121.23, 4412047),
        ("2020-05-08", 122.67, 122.80, 121.06, 121.805, 2542577),
    ),
    "alpha_vantage/time_series_daily_compact.csv": (
        "IBM",
        100,
        ("2025-12-22", 301.03, 303.18, 298.32, 302.79, 2612100),
        ("2026-05-15", 218.20, 220.91, 217.615, 219.30, 6154450),
    ),
    "stooq/spx_d.csv": (
        "^SPX",
        9082,
        ("1990-05-01", 330.8, 332.83, 330.8, 332.25, 82788889),
        ("2026-05-22", 7468.8, 7506.3, 7463.3, 7473.5, 2693979563),
    ),
    "stooq/wig20_d_polish_header.csv": (
        "WIG20",
        8216,
        ("1991-04-16", 100, 100, 100, 100, 325),
        ("2025-12-05", 2971.21, 2976.9, 2940.57, 2952.93, 17584757),
    ),
    "stooq/wig_d.csv": (
        "WIG",
        8322,
        ("1991-04-16", 1000, 1000, 1000, 1000, 325),
        ("2026-05-15", 132823.74, 133088.36, 131177.4, 131378.47, 51287888),
    ),
    "yahoo/chart_aapl_1d_split_dividend_dst.json": (
        "AAPL",
        49,
        ("2020-08-31", 127.58, 131.0, 126.0, 129.04, 225702700),
        ("2020-11-06", 118.32, 119.2, 116.13, 118.69, 114457900),
    ),
    "yahoo/chart_aapl_6mo_live_last_bar.json": (
        "AAPL",
        127,
        ("2025-04-30", 209.3, 213.58, 206.67, 212.5, 52286500),
        ("2025-10-29", 269.275, 271.41, 267.11, 269.7, 43332154),
    ),
    "yahoo/chart_aapl_scheb.json": (
        "AAPL",
        10,
        ("2024-09-30", 230.04, 233.0, 229.65, 233.0, 54541900),
        ("2024-10-11", 229.3, 229.41, 227.34, 227.55, 31668000),
    ),
    "yahoo/chart_msft_1d_dividends.json": (
        "MSFT",
        252,
        ("2021-02-01", 235.06, 242.5, 232.43, 239.65, 33314200),
        ("2022-01-28", 300.23, 308.48, 294.45, 308.26, 49743700),
    ),
    "yahoo/chart_tsla_1d_no_events_key.json": (
        "TSLA",
        3303,
        ("2010-06-29", 1.266667, 1.666667, 1.169333, 1.592667, 281494500),
        ("2023-08-11", 241.77, 243.79, 238.02, 242.65, 98866600),
    ),
    "yahoo/chart_wsu_de_1d.json": (
        "WSU.DE",
        3,
        ("2023-08-04", 34.25, 34.55, 34.1, 34.45, 1251),
        ("2023-08-08", 34.05, 34.2, 32.9, 33.2, 10846),
    ),
    "yahoo/chart_btcusd_1d.json": (
        "BTC-USD",
        3,
        ("2020-01-01", 7194.892, 7254.331, 7174.944, 7200.174, 18565664997),
        ("2020-01-03", 6984.429, 7413.715, 6914.996, 7344.884, 28111481032),
    ),
    "yahoo/chart_eurusd_1d.json": (
        "EURUSD=X",
        3,
        ("2020-01-01", 1.122083, 1.122838, 1.115947, 1.122083, 0),
        ("2020-01-03", 1.117081, 1.118068, 1.11257, 1.117144, 0),
    ),
    "yahoo/chart_gold_future_1d.json": (
        "GC=F",
        1,
        ("2020-01-02", 1518.1, 1528.7, 1518.0, 1524.5, 214),
        ("2020-01-02", 1518.1, 1528.7, 1518.0, 1524.5, 214),
    ),
    "yahoo/chart_mutual_fund_0p_1d.json": (
        "0P000071W8.TO",
        1,
        ("2020-01-02", 73.72, 73.72, 73.72, 73.72, 0),
        ("2020-01-02", 73.72, 73.72, 73.72, 73.72, 0),
    ),
    "yahoo/chart_mutual_fund_otc_1d.json": (
        "0P0000XTS7",
        2,
        ("2024-09-12", 11887.1, 11887.1, 11887.1, 11887.1, 0),
        ("2024-09-13", 11892.19, 11892.19, 11892.19, 11892.19, 0),
    ),
}
"""Symbol, rows, first and last row, read off the files by eye."""

REFUSED = {
    "alpha_vantage/premium_placeholder_realtime_options.json": Outcome.NOT_ENTITLED,
    "alpha_vantage/realtime_bulk_quotes.json": Outcome.NOT_ENTITLED,
    "yahoo/chart_phantom_null_currency.json": Outcome.UNKNOWN_SYMBOL,
    "yahoo/chart_aapl_1m_weekend_empty.json": Outcome.EMPTY_UNEXPECTED,
    "yahoo/download_v7_400_no_data_range.txt": Outcome.EMPTY_UNEXPECTED,
}
"""What is neither daily bars nor simply malformed."""


def recorded(name: str) -> bytes:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    return path.read_bytes()


def others() -> list[Any]:
    files = [path for name in PROVIDERS for path in sorted((RECORDED / name).glob("*"))]
    if not files:
        return [pytest.param("", marks=pytest.mark.skip(reason="the folder of recordings is not here"))]
    names = (path.relative_to(RECORDED).as_posix() for path in files)
    return [name for name in names if name not in DAILY]


def parse(name: str, body: bytes, symbol: str, **span: date) -> Parsed:
    provider = PROVIDERS[name.split("/", 1)[0]]
    spelling = symbol.lower() if provider.name == "stooq" else symbol
    mic = MICS.get(symbol, "XNYS")
    instrument = Instrument(symbol, "any", mic, "USD", provider_symbols={provider.name: spelling})
    start, end = span.get("start", date(1990, 1, 2)), span.get("end", date(2026, 11, 20))
    answer = Answer(200, body, {}, datetime(2026, 11, 20, 12, tzinfo=UTC), 0.1)
    return provider.parse_daily(answer, DailyQuery(instrument, start, end, date(2026, 11, 20)))


def row(parsed: Parsed, position: int) -> Row:
    assert parsed.bars is not None
    found = parsed.bars.iloc[position]
    values = [float(found[name]) for name in ("open", "high", "low", "close", "volume")]
    return (found["session"].date().isoformat(), values[0], values[1], values[2], values[3], values[4])


@pytest.mark.parametrize("name", DAILY)
def test_a_recorded_daily_body_gives_its_rows(name: str) -> None:
    symbol, count, first, last = DAILY[name]
    parsed = parse(name, recorded(name), symbol)
    assert parsed.outcome is Outcome.OK, parsed.reason
    assert parsed.bars is not None
    validate_bars(parsed.bars)
    assert len(parsed.bars) == count
    assert row(parsed, 0) == first
    assert row(parsed, -1) == last


@pytest.mark.parametrize("name", others())
def test_any_other_recorded_body_gives_an_outcome_and_no_rows(name: str) -> None:
    body = recorded(name)
    named = re.search(rb'"(?:symbol|2\. Symbol)": ?"([^"]+)"', body)
    parsed = parse(name, body, named[1].decode() if named else "IBM")
    assert_sound(parsed)
    assert parsed.outcome is REFUSED.get(name, Outcome.MALFORMED), parsed.reason


def test_the_recorded_live_bar_is_provisional() -> None:
    name = "yahoo/chart_aapl_6mo_live_last_bar.json"
    parsed = parse(name, recorded(name), "AAPL")
    assert parsed.bars is not None
    assert parsed.bars["provisional"].sum() == 1
    assert parsed.bars["provisional"].iloc[-1]


def test_the_recorded_weekend_is_expected_to_be_empty() -> None:
    name = "yahoo/chart_aapl_1m_weekend_empty.json"
    parsed = parse(name, recorded(name), "AAPL", start=date(2025, 2, 1), end=date(2025, 2, 2))
    assert parsed.outcome is Outcome.EMPTY_EXPECTED


def test_recorded_dates_do_not_move_with_the_clock_change() -> None:
    name = "yahoo/chart_aapl_1d_split_dividend_dst.json"
    parsed = parse(name, recorded(name), "AAPL")
    assert parsed.bars is not None
    days = [stamp.date().isoformat() for stamp in parsed.bars["session"]]
    assert days[43:46] == ["2020-10-30", "2020-11-02", "2020-11-03"]


def test_the_close_before_the_recorded_split_is_given_as_traded() -> None:
    """The body begins on the ex-date and tells the close before it, restated, in its meta."""
    name = "yahoo/chart_aapl_1d_split_dividend_dst.json"
    body = json.loads(recorded(name))
    result = body["chart"]["result"][0]
    result["timestamp"].insert(0, 1598621400)
    prices = result["indicators"]["quote"][0]
    for column in ("open", "high", "low", "close"):
        prices[column].insert(0, result["meta"]["chartPreviousClose"])
    prices["volume"].insert(0, 187630000)
    parsed = parse(name, json.dumps(body).encode(), "AAPL")
    assert row(parsed, 0)[0] == "2020-08-28"
    assert row(parsed, 0)[4] == pytest.approx(499.23, abs=0.005)
    assert row(parsed, 1)[4] == 129.04
    assert parsed.actions == (
        CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0),
        CorporateAction("AAPL", date(2020, 11, 6), ActionKind.DIVIDEND, 0.205),
    )


def test_the_recorded_dividend_is_found_on_its_ex_date() -> None:
    name = "alpha_vantage/time_series_daily_adjusted.json"
    parsed = parse(name, recorded(name), "IBM", start=date(2020, 5, 7))
    assert parsed.actions == (CorporateAction("IBM", date(2020, 5, 7), ActionKind.DIVIDEND, 1.63),)
    assert parsed.actions_known


@pytest.mark.parametrize("name", [name for name in DAILY if name.endswith(".json")])
def test_a_recorded_body_about_another_symbol_is_refused(name: str) -> None:
    assert parse(name, recorded(name), "OTHER").outcome is Outcome.MALFORMED
