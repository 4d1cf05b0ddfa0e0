"""What a run tells of the bars that it built, and how little of them it keeps while it goes on."""

from __future__ import annotations

import gc
import weakref
from datetime import date

import dagster as dg
import pandas as pd

from market_pipelines.orchestration.realtime_bars import BuiltSessions
from market_pipelines.pipeline.bars_from_ticks import BuiltBars, Comparison, Coverage

FIRST, SECOND = date(2025, 6, 12), date(2025, 6, 13)


def built(session: date, symbols: list[str], bp: float, covered: int) -> BuiltBars:
    minutes = pd.date_range(f"{session}T14:00", periods=3, freq="1min", tz="UTC")
    bars = pd.concat(
        [
            pd.DataFrame(
                {
                    "symbol": symbol,
                    "ts": minutes,
                    "phase": "regular",
                    "volume": 5.0,
                    "source": "trades",
                    "feed": "polygon",
                    "complete": [True, True, False],
                }
            )
            for symbol in symbols
        ],
        ignore_index=True,
    )
    differing = pd.DataFrame({"symbol": symbols, "ts": minutes[0], "bp": bp, "volume_share": 0.0})
    compared = Comparison("a provider's", 100, 98, 0, differing, 0, 0)
    return BuiltBars("us", session, "trades", bars, 30, 2, Coverage(390, covered, 1), (compared,), 0.5)


def test_a_run_over_many_sessions_keeps_the_bars_of_the_newest_alone() -> None:
    sessions = BuiltSessions()
    one = built(FIRST, ["AAPL", "IBM"], 9.0, 390)
    bars, differing = weakref.ref(one.bars), weakref.ref(one.comparisons[0].differing)
    sessions.add(one)
    del one
    sessions.add(built(SECOND, ["AAPL"], 50.0, 380))
    gc.collect()
    assert (bars(), differing()) == (None, None)


def test_all_sessions_are_told_of() -> None:
    sessions = BuiltSessions()
    sessions.add(built(FIRST, ["AAPL", "IBM"], 9.0, 390))
    sessions.add(built(SECOND, ["AAPL"], 50.0, 380))
    told = sessions.details()
    figures = ("rows", "symbols", "ticks", "replaced", "incomplete_rows", "rows_by_source", "seconds")
    assert [told[name] for name in figures] == [9, 2, 60, 4, 3, "trades 9", 1.0]
    assert {day: one["incomplete_rows"] for day, one in sessions.by_session.items()} == {str(FIRST): 2, str(SECOND): 1}
    worst = [record.data["bp"] for record in told["differing"].records]
    assert worst == [50.0, 9.0, 9.0]
    key = dg.AssetKey(["us", "bars_from_ticks"])
    agreement, coverage = sessions.agreement(key), sessions.coverage(key)
    assert (agreement.passed, agreement.description) == (False, "3 of 200 bars differ.")
    assert coverage.description == f"380 of 390 regular minutes of {SECOND} were seen whole; 1 gaps are not filled."
    assert agreement.metadata["sessions"].value == f"{FIRST} to {SECOND}"
