"""Everything that IEX Cloud and Stooq really sent, handed to everything that their adapters can read.

The recordings are not part of a clone: without them these tests are skipped, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.iex_cloud import IexCloud
from market_pipelines.providers.iex_cloud.files import read_file
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Capability,
    DailyProvider,
    DailyQuery,
    IntradayQuery,
    ListingsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    abilities_of,
)
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.stooq.bulk import read_member

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded"
RECEIVED = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = RECEIVED.date()
IEX, STOOQ = IexCloud(None, "https://iex.test/v1"), Stooq(None, "https://stooq.test")
PROVIDERS: Mapping[str, DailyProvider] = {"iex_cloud": IEX, "stooq": STOOQ}

Row = tuple[str, float, float, float, float, float]

DAYS: Mapping[str, tuple[str, int, Row, Row]] = {
    "iex_cloud/chart_5d.json": (
        "MSFT",
        5,
        ("2020-11-04", 214.02, 218.32, 212.42, 216.39, 42311777),
        ("2020-11-10", 214.5, 216.5, 209.72, 211.01, 44045120),
    ),
    "iex_cloud/chart_default_1m_daily.json": (
        "MSFT",
        23,
        ("2019-07-10", 137.13, 138.58, 137.02, 137.85, 24204362),
        ("2019-08-09", 138.61, 139.38, 136.46, 137.71, 23466701),
    ),
    "iex_cloud/chart_date_chartByDay.json": (
        "MSFT",
        1,
        ("2020-11-10", 214.5, 216.5, 209.72, 211.01, 44045120),
        ("2020-11-10", 214.5, 216.5, 209.72, 211.01, 44045120),
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
    "stooq/fix_history.html": (
        "UCO",
        40,
        ("2026-06-11", 47.0, 47.93, 43.97, 44.38, 5415617),
        ("2026-08-07", 36.68, 38.03, 36.59, 37.0, 2466174),
    ),
}
"""Symbol, rows, first and last row, read off the files by eye."""

MINUTES: Mapping[str, tuple[int, Row, Row]] = {
    "iex_cloud/chart_date_20190306_minutes.json": (
        390,
        ("2019-03-06T14:30", 111.87, 112.0, 111.8, 111.92, 718878),
        ("2019-03-06T20:59", 111.9, 111.94, 111.72, 111.74, 536402),
    ),
    "iex_cloud/chart_1d_minutes_nulls.json": (
        388,
        ("2019-08-09T13:30", 138.72, 138.72, 138.5, 138.68, 3673),
        ("2019-08-09T19:59", 137.65, 137.795, 137.59, 137.77, 12385),
    ),
    "iex_cloud/chart_1d_interval10.json": (
        39,
        ("2019-08-09T13:30", 138.72, 138.72, 138.5, 138.68, 3673),
        ("2019-08-09T19:50", 138.13, 138.195, 138.1, 138.1, 1282),
    ),
}

FACTS: Mapping[tuple[str, Capability], int] = {
    ("iex_cloud/quote_msft.json", Capability.QUOTE): 1,
    ("iex_cloud/price_msft.json", Capability.QUOTE): 1,
    ("iex_cloud/list_mostactive.json", Capability.BULK_QUOTES): 1,
    ("iex_cloud/company_msft.json", Capability.PROFILE): 1,
    ("iex_cloud/dividends_6m.json", Capability.ACTIONS): 3,
}
"""Records or actions in what is neither days nor minutes."""

SAID: Mapping[str, Outcome] = {
    "iex_cloud/chart_unknown_404.txt": Outcome.UNKNOWN_SYMBOL,
    "iex_cloud/company_unknown_404.txt": Outcome.UNKNOWN_SYMBOL,
    "iex_cloud/quote_unknown_404.txt": Outcome.UNKNOWN_SYMBOL,
    "iex_cloud/quote_bad_token_403.txt": Outcome.NOT_ENTITLED,
    "iex_cloud/chart_invalid_date_400.txt": Outcome.MALFORMED,
}
"""Words, which mean the same whatever was asked."""

NOTHING: Mapping[Capability, Outcome] = {
    Capability.DAILY: Outcome.EMPTY_UNEXPECTED,
    Capability.INTRADAY: Outcome.EMPTY_UNEXPECTED,
    Capability.QUOTE: Outcome.EMPTY_UNEXPECTED,
    Capability.BULK_QUOTES: Outcome.UNKNOWN_SYMBOL,
    Capability.PROFILE: Outcome.EMPTY_UNEXPECTED,
    Capability.ACTIONS: Outcome.EMPTY_EXPECTED,
    Capability.LISTINGS: Outcome.EMPTY_UNEXPECTED,
}
"""What `[]` and `{}` mean."""
EMPTY = (
    "iex_cloud/chart_known_symbol_no_data.json",
    "iex_cloud/dividends_invalid_range_empty.json",
    "iex_cloud/income_empty_object.json",
)


def names() -> list[Any]:
    found = [path for folder in PROVIDERS for path in sorted((RECORDED / folder).glob("*"))]
    if not found:
        return [pytest.param("", marks=pytest.mark.skip(reason="the folder of recordings is not here"))]
    return [path.relative_to(RECORDED).as_posix() for path in found]


def questions_about_names() -> list[Any]:
    """Every recording with everything that its provider offers."""
    if not isinstance(names()[0], str):
        return [
            pytest.param("", Capability.DAILY, marks=pytest.mark.skip(reason="the folder of recordings is not here"))
        ]
    return [(name, each) for name in names() for each in abilities_of(PROVIDERS[name.partition("/")[0]])]


def recorded(name: str) -> bytes:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    return path.read_bytes()


def instrument_of(name: str) -> Instrument:
    if name.startswith("iex_cloud/"):
        return Instrument("MSFT", "us", "XNYS", "USD")
    symbol = DAYS[name][0] if name in DAYS else "UCO"
    return Instrument(symbol, "any", "XWAR" if symbol.startswith("WIG") else "XNYS", "USD")


def status_of(name: str) -> int:
    return next((status for status in (400, 403, 404) if f"_{status}." in name), 200)


def question(capability: Capability, instrument: Instrument, interval: str = "5min") -> object:
    start = date(1990, 1, 2)
    return {
        Capability.DAILY: DailyQuery(instrument, start, TODAY, TODAY),
        Capability.INTRADAY: IntradayQuery(instrument, interval, start, TODAY, TODAY),
        Capability.QUOTE: QuoteQuery((instrument,)),
        Capability.BULK_QUOTES: QuoteQuery((instrument, Instrument("ZZZ", "us", "XNYS", "USD"))),
        Capability.PROFILE: ProfileQuery(instrument),
        Capability.ACTIONS: ActionsQuery(instrument, start, TODAY),
        Capability.LISTINGS: ListingsQuery("XNYS"),
    }[capability]


def read(name: str, capability: Capability, body: bytes, interval: str = "5min", status: int | None = None) -> Parsed:
    provider = PROVIDERS[name.partition("/")[0]]
    answer = Answer(status_of(name) if status is None else status, body, {}, RECEIVED, 0.1)
    return abilities_of(provider)[capability].read(answer, question(capability, instrument_of(name), interval))


def row(parsed: Parsed, position: int, key: str) -> Row:
    assert parsed.bars is not None, parsed.reason
    found = parsed.bars.iloc[position]
    written = found[key].strftime("%Y-%m-%d" if key == "session" else "%Y-%m-%dT%H:%M")
    values = [float(found[name]) for name in ("open", "high", "low", "close", "volume")]
    return (written, values[0], values[1], values[2], values[3], values[4])


def assert_sound(parsed: Parsed, symbol: str) -> None:
    """An outcome, and rows only where it is ok: of this symbol, in order, with finite numbers."""
    assert isinstance(parsed, Parsed)
    assert parsed.outcome is Outcome.OK or parsed.reason
    assert "\n" not in parsed.reason
    assert (parsed.rows > 0) == (parsed.outcome is Outcome.OK)
    if parsed.bars is not None:
        key = "session" if "session" in parsed.bars else "ts"
        assert parsed.bars[key].notna().all()
        assert parsed.bars[key].is_monotonic_increasing
        assert key == "session" or parsed.bars[key].is_unique
        assert set(parsed.bars["symbol"]) == {symbol}
        numbers = parsed.bars[["open", "high", "low", "close", "volume"]].to_numpy()
        assert not any(math.isinf(number) for number in numbers.ravel())
    for record in parsed.records:
        assert getattr(record, "symbol", symbol)
        price = getattr(record, "price", 1.0)
        assert math.isfinite(price)
        assert price > 0
    for action in parsed.actions:
        assert action.symbol == symbol
        assert math.isfinite(action.value)


@pytest.mark.parametrize("name", DAYS)
def test_a_recorded_body_of_days_gives_its_rows(name: str) -> None:
    _, count, first, last = DAYS[name]
    parsed = read(name, Capability.DAILY, recorded(name))
    assert parsed.outcome is Outcome.OK, parsed.reason
    assert parsed.rows == count
    assert row(parsed, 0, "session") == first
    assert row(parsed, -1, "session") == last


@pytest.mark.parametrize("name", MINUTES)
def test_a_recorded_body_of_minutes_gives_its_rows(name: str) -> None:
    count, first, last = MINUTES[name]
    parsed = read(name, Capability.INTRADAY, recorded(name), "1min")
    assert parsed.outcome is Outcome.OK, parsed.reason
    assert parsed.rows == count
    assert row(parsed, 0, "ts") == first
    assert row(parsed, -1, "ts") == last


def test_the_recorded_minutes_make_longer_bars() -> None:
    name = "iex_cloud/chart_date_20190306_minutes.json"
    parsed = read(name, Capability.INTRADAY, recorded(name), "60min")
    assert parsed.rows == 7
    assert row(parsed, 0, "ts")[:2] == ("2019-03-06T14:30", 111.87)
    assert row(parsed, -1, "ts")[4] == 111.74
    finest = read(name, Capability.INTRADAY, recorded(name), "1min")
    assert parsed.bars is not None
    assert finest.bars is not None
    assert parsed.bars["volume"].sum() == finest.bars["volume"].sum()


def test_the_recorded_sample_of_every_tenth_minute_makes_none() -> None:
    name = "iex_cloud/chart_1d_interval10.json"
    assert read(name, Capability.INTRADAY, recorded(name), "15min").outcome is Outcome.MALFORMED


@pytest.mark.parametrize(("name", "capability"), questions_about_names())
def test_every_recorded_body_has_the_right_outcome_for_every_question(name: str, capability: Capability) -> None:
    parsed = read(name, capability, recorded(name), "5min" if name.startswith("stooq/") else "1min")
    assert_sound(parsed, instrument_of(name).symbol)
    if (name, capability) in FACTS:
        assert parsed.rows == FACTS[name, capability], parsed.reason
    elif name in SAID:
        assert parsed.outcome is SAID[name]
    elif name in EMPTY:
        assert parsed.outcome is NOTHING[capability]
    elif (capability is Capability.DAILY and name in DAYS) or (capability is Capability.INTRADAY and name in MINUTES):
        assert parsed.outcome is Outcome.OK
    else:
        assert parsed.outcome is Outcome.MALFORMED, parsed.reason


def test_the_recorded_quotes_are_read_to_the_millisecond() -> None:
    name = "iex_cloud/quote_msft.json"
    (quote,) = read(name, Capability.QUOTE, recorded(name)).records
    assert (quote.price, quote.previous_close, quote.volume) == (119.36, 119.97, 20088221.0)
    assert quote.at == datetime(2019, 4, 4, 20, 0, 0, 193000, tzinfo=UTC)
    assert quote.change_share == pytest.approx(-0.00508, abs=5e-6)
    assert (quote.bid, quote.ask) == (None, None)


def test_the_recorded_list_of_quotes_is_read_whole() -> None:
    name = "iex_cloud/list_mostactive.json"
    symbols = ("AMD", "BAC", "INO", "GE", "F", "AAPL", "MSFT", "T", "XOM", "INTC")
    asked = QuoteQuery(tuple(Instrument(symbol, "us", "XNYS", "USD") for symbol in symbols))
    answer = Answer(200, recorded(name), {}, RECEIVED, 0.1)
    found = {quote.symbol: quote for quote in IEX.abilities[Capability.BULK_QUOTES].read(answer, asked).records}
    assert tuple(found) == symbols
    assert (found["AMD"].price, found["AMD"].open, found["AMD"].previous_close) == (46.75, None, 47.46)


def test_the_recorded_quote_of_a_currency_has_gaps() -> None:
    coin = Instrument("BTC", "any", "XNYS", "USD", provider_symbols={"iex_cloud": "BTCUSDT"})
    answer = Answer(200, recorded("iex_cloud/crypto_quote.json"), {}, RECEIVED, 0.1)
    (quote,) = IEX.abilities[Capability.QUOTE].read(answer, QuoteQuery((coin,))).records
    assert (quote.symbol, quote.price, quote.bid, quote.ask) == ("BTC", 3563.22, 3562.94, 3563.22)


def test_the_recorded_company_and_dividends_are_read() -> None:
    (profile,) = read(
        "iex_cloud/company_msft.json", Capability.PROFILE, recorded("iex_cloud/company_msft.json")
    ).records
    assert (profile.name, profile.employees, profile.industry) == ("Microsoft Corp.", 131000, "Packaged Software")
    name = "iex_cloud/dividends_6m.json"
    assert read(name, Capability.ACTIONS, recorded(name)).actions == tuple(
        CorporateAction("MSFT", date.fromisoformat(day), ActionKind.DIVIDEND, 0.46)
        for day in ("2018-11-14", "2019-02-20", "2019-05-15")
    )


def test_the_recorded_bulk_file_gives_its_rows() -> None:
    body = recorded("stooq/bulk_aapl.us.txt")
    member = read_member("data/daily/us/nasdaq stocks/1/aapl.us.txt", body)
    assert (member.native, member.interval) == ("aapl.us", "1day")
    assert len(member.frame) == body.count(b"\n") - 1
    newest = member.frame.iloc[-1]
    assert (newest["session"].date(), newest["close"], newest["volume"]) == (date(2026, 2, 20), 264.58, 42070499.0)


def test_the_recorded_charts_are_read_as_files() -> None:
    recorded("iex_cloud/chart_5d.json")
    for name, count in {**{n: DAYS[n][1] for n in DAYS if "iex" in n}, **{n: MINUTES[n][0] for n in MINUTES}}.items():
        (chart,) = read_file(RECORDED / name, symbol="MSFT")
        assert len(chart.frame) == count
        assert chart.native == "MSFT"


SAMPLES = [
    b"[]",
    b'{"MSFT":{"quote":{"symbol":"MSFT","latestPrice":1.5}}}',
    b'[{"date":"2024-01-02","uOpen":1,"uHigh":2,"uLow":0.5,"uClose":1.5,"uVolume":10}]',
    b'[{"date":"2024-01-02","minute":"09:30","open":1,"high":2,"low":0.5,"close":1.5,"volume":10}]',
    b'[{"exDate":"2024-01-02","amount":0.46,"currency":"USD"}]',
    b'[{"exDate":"2024-01-02","ratio":0.5,"toFactor":2,"fromFactor":1}]',
    b"Date,Open,High,Low,Close,Volume\r\n2024-01-02,1,2,0.5,1.5,10\r\n",
    b"Date,Time,Open,High,Low,Close,Volume\r\n2024-01-02,15:30:00,1,2,0.5,1.5,10\r\n",
    b"Symbol,Date,Time,Open,High,Low,Close,Volume\r\nMSFT.US,2024-01-02,22:00:00,1,2,0.5,1.5,10\r\n",
    b"<table id=fth1><tr><td>No.</td><td>Date</td><td>Open</td><td>High</td><td>Low</td><td>Close</td></tr>"
    b"<tr><td>1</td><td>2 Jan 2024</td><td>1</td><td>2</td><td>0.5</td><td>1.5</td></tr></table>"
    b"<a href=q/d/l/?s=msft.us>csv</a>",
    b"No data",
    b"Unknown symbol",
    b'{"range":"1d","data":[]}',
    b"1.5",
    b"null",
]
PATCHES = st.one_of(
    st.binary(max_size=12),
    st.text('0123456789-.,:;"[]{}<>/eEnulNDafi \r\n', max_size=12).map(str.encode),
    st.sampled_from([b"1e999", b"-1", b"NaN", b"inf", b"null", b"[" * 3000, b"9" * 400, b"0001-01-01", b"\xff\xfe"]),
)


@given(
    body=st.one_of(st.sampled_from(SAMPLES), st.binary(max_size=120)),
    at=st.integers(0, 200),
    cut=st.integers(0, 30),
    patch=PATCHES,
    folder=st.sampled_from(sorted(PROVIDERS)),
    status=st.sampled_from([200, 200, 200, 0, 302, 400, 403, 404, 429, 500]),
    interval=st.sampled_from(["5min", "60min"]),
    endpoint=st.sampled_from(["", "splits"]),
)
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_give_an_outcome_and_never_a_bad_row(
    body: bytes, at: int, cut: int, patch: bytes, folder: str, status: int, interval: str, endpoint: str
) -> None:
    damaged = body[:at] + patch + body[at + cut :]
    msft = Instrument("MSFT", "us", "XNYS", "USD")
    for capability, ability in abilities_of(PROVIDERS[folder]).items():
        answer = Answer(status, damaged, {}, RECEIVED, 0.1, failure="broken", endpoint=endpoint)
        parsed = ability.read(answer, question(capability, msft, interval))
        assert parsed.outcome is not Outcome.OK or status == 200
        known = {"MSFT", "ZZZ"}
        assert_sound(parsed, "MSFT")
        if capability is not Capability.LISTINGS:
            assert {record.symbol for record in parsed.records} <= known


@pytest.mark.parametrize("name", names())
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_damaged_recording_gives_an_outcome_and_never_a_bad_row(name: str, data: st.DataObject) -> None:
    body = recorded(name)
    if len(body) > 20_000:
        head = body.find(b"id=fth1")
        start = data.draw(st.integers(0, 40)) * (len(body) // 50) if head < 0 else max(head - 2000, 0)
        body = body[:200] + body[start : start + 12_000]
    at = data.draw(st.integers(0, len(body)))
    damaged = body[:at] + data.draw(PATCHES) + body[at + data.draw(st.integers(0, 40)) :]
    provider = PROVIDERS[name.partition("/")[0]]
    for capability in abilities_of(provider):
        assert_sound(read(name, capability, damaged, status=200), instrument_of(name).symbol)
