"""Clean evidence, ways to plant one fault in it, and what the rules then say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, settings

from market_pipelines.market.quality import LEAD_IN, RULES, Evidence, Finding, examine
from market_pipelines.market.quality.rules import INTRADAY
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.simulator.truth import World
from market_pipelines_tests.false_positives import END, NOW, ten_years, weeks_of_minutes

SYMBOLS = ("AAPL", "BRK.B", "GOOGL", "JPM", "KO", "MSFT", "WMT", "XOM")
JUDGED = 60
"""Sessions."""
SPLIT_DAY = date(2020, 8, 31)
"""AAPL's, four for one."""
sometimes = settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
"""Few places a fault: at every one of them all rules of the table are asked."""
Offence = tuple[str, date]


@cache
def clean(asset: str, end: date = END) -> Evidence:
    """Eight of New York's shares in which nothing is wrong."""
    market = read_markets()["us"]
    market = replace(market, instruments=tuple(one for one in market.instruments if one.symbol in SYMBOLS))
    days = trading_calendar(market.mic, NOW).sessions(date(2010, 1, 1), end)
    if asset == INTRADAY:
        return weeks_of_minutes(market, World(), date(2026, 10, 26), date(2026, 11, 20))
    return replace(ten_years(market, World(), asset, days[-JUDGED - LEAD_IN], end), start=days[-JUDGED])


def sessions(evidence: Evidence) -> tuple[date, ...]:
    """The judged ones."""
    return evidence.calendar.sessions(evidence.start, evidence.end)


def row_of(frame: pd.DataFrame, symbol: str, session: date, provider: str | None = None) -> int:
    """The position of a bar."""
    chosen = (frame["symbol"] == symbol) & (frame["session"] == pd.Timestamp(session))
    if provider is not None:
        chosen &= frame["provider"] == provider
    (at,) = np.flatnonzero(chosen)
    return int(at)


def with_values(frame: pd.DataFrame, at: int, **values: Any) -> pd.DataFrame:
    """The same table with other values in one row."""
    changed = frame.copy()
    for name, value in values.items():
        column = changed[name].to_numpy(copy=True) if isinstance(value, float) else changed[name].array.copy()
        column[at] = value
        changed[name] = column
    return changed


def scaled(frame: pd.DataFrame, rows: Any, factor: float, volume: float = 1.0) -> pd.DataFrame:
    """The same table with the prices (and volumes) of some rows multiplied."""
    changed = frame.copy()
    for name in ("open", "high", "low", "close"):
        changed.loc[rows, name] *= factor
    changed.loc[rows, "volume"] *= volume
    return changed


def found(evidence: Evidence, rule: str) -> Finding:
    """What a rule finds; the others are not asked, which is faster."""
    others = frozenset(each.name for each in RULES if each.name != rule)
    market = evidence.market
    alone = replace(market, quality=replace(market.quality, off=market.quality.off | others))
    (finding,) = examine(replace(evidence, market=alone))
    return finding


def offences(evidence: Evidence, rule: str) -> set[Offence]:
    """Symbol and session of what a rule finds."""
    offending = found(evidence, rule).offending
    days = [pd.Timestamp(session).date() for session in offending["session"].tolist()]
    symbols = offending["symbol"].tolist() if "symbol" in offending else [""] * len(days)
    return set(zip(symbols, days, strict=True))


def verdicts(evidence: Evidence) -> Mapping[str, Finding]:
    return {each.rule.name: each for each in examine(evidence)}
