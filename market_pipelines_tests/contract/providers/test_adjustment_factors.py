"""Our adjustment of prices as traded, compared with the adjusted prices that providers recorded beside them.

What a body cannot know (dividends after its end) is one constant factor over all of its rows, taken from its last
row. The recordings are not part of a clone: without them these tests are skipped, and say so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction, adjust, adjustment_factors, undo
from market_pipelines.market.instruments import Instrument
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import ActionsQuery, Answer, Capability, DailyQuery, Parsed
from market_pipelines.providers.yahoo import Yahoo

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded"
NEW_YORK = ZoneInfo("America/New_York")

FLOAT32 = 1e-6
"""Relative: Yahoo's prices are single-precision numbers, and both sides of a comparison are."""
SIX_DIGITS = 1e-5
"""Relative: Stooq writes six significant digits."""
ROUNDED_TO_CENTS = 2e-4
"""Relative: Stooq's older rows were once rounded to cents, which shows in single rows and not in their median."""
A_WEEK_OFF = 1.5e-3
"""Relative, of one dividend's factor: weekly rows end up to four days before the close that counts."""
MANY_WEEKS_OFF = 3e-3
"""Relative, of 107 such factors together, whose errors cancel for the most part."""


def recorded(name: str) -> bytes:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: the recorded bodies are no part of a clone")
    return path.read_bytes()


def answer(body: bytes, endpoint: str = "chart") -> Answer:
    return Answer(200, body, {}, datetime(2026, 11, 20, 22, tzinfo=UTC), 0.1, endpoint=endpoint)


def yahoo(name: str, symbol: str) -> tuple[Parsed, pd.Series]:
    """What our adapter makes of a body, and the body's own adjusted closes by session."""
    body = recorded(f"yahoo/{name}.json")
    query = DailyQuery(Instrument(symbol, "us", "XNYS", "USD"), date(1990, 1, 1), date(2026, 1, 1), date(2026, 11, 20))
    result = json.loads(body)["chart"]["result"][0]
    days = [datetime.fromtimestamp(stamp, NEW_YORK).date() for stamp in result["timestamp"]]
    return Yahoo().parse_daily(answer(body), query), pd.Series(result["indicators"]["adjclose"][0]["adjclose"], days)


def closes(rows: Sequence[tuple[str, str]], symbol: str) -> pd.DataFrame:
    frame = pd.DataFrame({"session": [day for day, _ in rows], "close": [float(price) for _, price in rows]})
    return frame.assign(symbol=symbol, session=frame["session"].astype("datetime64[s]")).sort_values("session")


def by_day(frame: pd.DataFrame) -> pd.Series:
    return pd.Series(frame["close"].to_numpy(), [stamp.date() for stamp in frame["session"]])


def largest_difference(ours: pd.Series, theirs: pd.Series) -> float:
    """Relative, row by row, after the constant that their last row shows."""
    assert list(ours.index) == list(theirs.index)
    ratio = (ours / theirs).to_numpy()
    return float(np.abs(ratio / ratio[-1] - 1).max())


@pytest.mark.parametrize(
    ("name", "symbol", "rows", "actions"),
    [
        ("chart_aapl_1d_split_dividend_dst", "AAPL", 49, 2),
        ("chart_aapl_6mo_live_last_bar", "AAPL", 127, 2),
        ("chart_msft_1d_dividends", "MSFT", 252, 4),
        ("chart_tsla_1d_no_events_key", "TSLA", 3303, 0),
    ],
)
def test_yahoos_adjusted_closes_are_ours(name: str, symbol: str, rows: int, actions: int) -> None:
    parsed, theirs = yahoo(name, symbol)
    assert parsed.bars is not None
    assert (len(parsed.bars), len(parsed.actions)) == (rows, actions)
    ours = by_day(adjust(parsed.bars, parsed.actions))
    assert largest_difference(ours, theirs) < FLOAT32


def test_a_dividend_that_is_left_out_would_be_seen() -> None:
    parsed, theirs = yahoo("chart_msft_1d_dividends", "MSFT")
    assert parsed.bars is not None
    ours = by_day(adjust(parsed.bars, parsed.actions[1:]))
    assert largest_difference(ours, theirs) > 1e-3


def test_a_years_dividends_come_out_as_yahoos_whole_factor() -> None:
    """Nothing is adjusted after the last dividend of this body but what comes after its end."""
    parsed, theirs = yahoo("chart_msft_1d_dividends", "MSFT")
    assert parsed.bars is not None
    factors = adjustment_factors(parsed.actions, parsed.bars)
    raw = by_day(parsed.bars)
    whole = (theirs.iloc[0] / raw.iloc[0]) / (theirs.iloc[-1] / raw.iloc[-1])
    assert factors["cumulative"].iloc[0] == pytest.approx(whole, rel=FLOAT32)
    assert [f"{day:%Y-%m-%d}" for day in factors["ex_date"]] == ["2021-02-17", "2021-05-19", "2021-08-18", "2021-11-17"]


@pytest.mark.parametrize(
    ("name", "dividends", "tolerance"),
    [("chart_aapl_1d_split_dividend_dst", 1, ROUNDED_TO_CENTS), ("chart_aapl_6mo_live_last_bar", 2, SIX_DIGITS)],
)
def test_stooqs_adjusted_history_is_yahoos_traded_closes_adjusted_and_back(
    name: str, dividends: int, tolerance: float
) -> None:
    parsed, _ = yahoo(name, "AAPL")
    assert parsed.bars is not None
    lines = recorded("stooq/bulk_aapl.us.txt").decode().splitlines()[1:]
    cells = [line.split(",") for line in lines]
    dump = by_day(closes([(f"{c[2][:4]}-{c[2][4:6]}-{c[2][6:]}", c[7]) for c in cells], "AAPL"))
    paid = [action for action in parsed.actions if action.kind is ActionKind.DIVIDEND]
    assert len(paid) == dividends
    traded = by_day(parsed.bars)
    stooq = dump[traded.index[0] : traded.index[-1]]

    adjusted = by_day(adjust(parsed.bars, paid))
    assert largest_difference(adjusted, stooq) < tolerance
    ratio = (adjusted / stooq)[: paid[0].ex_date - timedelta(days=1)]
    assert ratio.median() / (adjusted.iloc[-1] / stooq.iloc[-1]) == pytest.approx(1, abs=SIX_DIGITS)

    as_of_its_end = stooq / (stooq.iloc[-1] / traded.iloc[-1])
    frame = parsed.bars.assign(close=as_of_its_end.to_numpy())
    undone = by_day(undo(frame, paid))
    assert largest_difference(undone, traded) < tolerance


def test_alpha_vantages_weekly_adjusted_closes_are_ours_over_26_years() -> None:
    """Dividends by their true ex-dates from another body, and the spin-off of 2021 as it counts it, a split."""
    weekly = list(csv.DictReader(recorded("alpha_vantage/time_series_weekly_adjusted.csv").decode().splitlines()))
    paid = csv.DictReader(recorded("alpha_vantage/dividends_ibm.csv").decode().splitlines())
    actions = [
        CorporateAction("IBM", date.fromisoformat(row["ex_dividend_date"]), ActionKind.DIVIDEND, float(row["amount"]))
        for row in paid
    ]
    raw = closes([(row["timestamp"], row["close"]) for row in weekly], "IBM")
    theirs = by_day(closes([(row["timestamp"], row["adjusted close"]) for row in weekly], "IBM"))
    actions.append(CorporateAction("IBM", date(2021, 11, 4), ActionKind.SPLIT, 1.046))
    ours = by_day(adjust(raw, actions))
    assert len(ours) == 1384
    assert largest_difference(ours, theirs) < MANY_WEEKS_OFF
    steps = (ours / theirs).to_numpy()
    assert float(np.abs(steps[1:] / steps[:-1] - 1).max()) < A_WEEK_OFF


def test_polygons_splits_and_dividends_become_the_factors_that_they_mean() -> None:
    polygon = Polygon(None)
    read = polygon.abilities[Capability.ACTIONS].read
    body = json.loads(recorded("massive/splits.json"))
    expected: dict[str, float] = {}
    for row in body["results"]:
        symbol = row["ticker"]
        expected.setdefault(symbol, 1.0)
        expected[symbol] *= row["split_from"] / row["split_to"]
    for symbol, factor in expected.items():
        mine = {**body, "results": [row for row in body["results"] if row["ticker"] == symbol]}
        found = splits_of(read, mine, symbol)
        days = pd.date_range("2022-01-03", "2022-12-30", freq="B")
        bars = pd.DataFrame({"symbol": symbol, "session": days.astype("datetime64[s]"), "close": 100.0})
        assert adjustment_factors(found, bars)["cumulative"].iloc[0] == pytest.approx(factor), symbol
    assert expected["GOOGL"] == 1 / 20
    assert expected["BRW"] == 2


def splits_of(read: Any, body: dict[str, Any], symbol: str) -> tuple[CorporateAction, ...]:
    query = ActionsQuery(Instrument(symbol, "us", "XNYS", "USD"), date(2022, 1, 1), date(2026, 11, 20))
    parsed: Parsed = read(answer(json.dumps(body).encode(), "splits"), query)
    return tuple(action for action in parsed.actions if action.kind is ActionKind.SPLIT)
