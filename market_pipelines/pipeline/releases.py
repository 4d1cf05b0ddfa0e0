"""Rows that a person has let pass: when a provider sends the same values again, the rules they broke excuse them.

Remembered by market, symbol, session, provider, values and rule, all of them exactly. The decision itself is taken in
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import pandas as pd

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.quality import Verdict
from market_pipelines.market.quality.intraday import IntradayVerdict
from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.store.database import Transaction
from market_pipelines.store.quarantine import DAILY, KeptRow, released_rows

_FINDING = ("row", "rule", "severity", "detail")
_DAILY_BAR = ["symbol", "provider", "session"]
_INTRADAY_BAR = ["symbol", "provider", "ts"]

Bar = tuple[object, ...]


def pass_released(
    connection: Transaction, verdict: Verdict, market: str, calendar: TradingCalendar, now: datetime
) -> Verdict:
    """The same verdict, but rows of which every finding was excused are clean."""
    refused = verdict.quarantined
    if refused.empty or not {*_DAILY_BAR, *VALUE_COLUMNS} <= set(refused.columns):
        return verdict
    excused = _excused(connection, refused, market, DAILY)
    if not excused:
        return verdict
    bars = _bars(refused, "session")
    forgiven = pd.Series(
        [rule in excused.get(bar, ()) for bar, rule in zip(bars, refused["rule"], strict=True)], index=refused.index
    )
    passing = forgiven.groupby(refused["row"]).transform("all").to_numpy(dtype=bool)
    if not passing.any():
        return verdict
    rows = refused[passing].drop(columns=list(_FINDING)).drop_duplicates(_DAILY_BAR)
    still_moving = [
        calendar.is_session(day) and not calendar.is_closed(day, now) for day in rows["session"].dt.date.tolist()
    ]
    rows = rows.assign(
        session=rows["session"].astype("datetime64[s]"), provisional=rows["provisional"].to_numpy(bool) | still_moving
    )
    return replace(
        verdict,
        clean=_joined(verdict.clean, rows, _DAILY_BAR),
        quarantined=refused[~passing].reset_index(drop=True),
    )


def pass_released_within(
    connection: Transaction,
    verdict: IntradayVerdict,
    market: str,
    interval: str,
    judge_without: Callable[[pd.DataFrame, frozenset[str]], IntradayVerdict],
) -> IntradayVerdict:
    """As `pass_released`, for bars within sessions. A verdict names only the first rule that such a bar breaks, so
    those that are excused from it are judged once more without it."""
    refused = verdict.quarantined
    if refused.empty:
        return verdict
    excused = _excused(connection, refused, market, interval)
    if not excused:
        return verdict
    bars = _bars(refused, "ts")
    allowed = pd.Series(
        [
            ",".join(sorted(excused[bar])) if rule in excused.get(bar, ()) else ""
            for bar, rule in zip(bars, refused["rule"], strict=True)
        ],
        index=refused.index,
        dtype="str",
    )
    kept, clean, outside = [refused[allowed == ""]], verdict.clean, verdict.outside
    for names, rows in refused[allowed != ""].groupby(allowed[allowed != ""]):
        once = rows.drop(columns=["rule", "severity", "detail"]).drop_duplicates(_INTRADAY_BAR)
        again = judge_without(once, frozenset(str(names).split(",")))
        clean = _joined(clean, again.clean, _INTRADAY_BAR)
        kept.append(again.quarantined)
    return replace(
        verdict, clean=clean, quarantined=pd.concat(kept, ignore_index=True)[list(refused.columns)], outside=outside
    )


def _excused(connection: Transaction, refused: pd.DataFrame, market: str, interval: str) -> dict[Bar, set[str]]:
    """By bar, the rules that it may break."""
    symbols = [str(symbol) for symbol in refused["symbol"].dropna().unique().tolist()]
    days = refused["session"].dropna()
    if not symbols or days.empty:
        return {}
    found = released_rows(connection, market, symbols, interval, days.min().date(), days.max().date())
    excused: dict[Bar, set[str]] = {}
    for row in found:
        excused.setdefault(_bar_of(row), set()).add(row.rule)
    return excused


def _bar_of(row: KeptRow) -> Bar:
    placed = row.session if row.interval == DAILY else row.ts
    return row.symbol, row.provider, placed, *row.values


def _bars(rows: pd.DataFrame, placed: str) -> list[Bar]:
    """Symbol, provider, session or start, and values of each row; what is no number is None, as it is stored."""
    stamps: Sequence[object] = (
        rows["session"].dt.date.tolist() if placed == "session" else rows["ts"].dt.to_pydatetime().tolist()
    )
    values = rows[list(VALUE_COLUMNS)].astype("object").where(rows[list(VALUE_COLUMNS)].notna(), None)
    return [
        (symbol, provider, stamp, *numbers)
        for symbol, provider, stamp, numbers in zip(
            rows["symbol"].tolist(),
            rows["provider"].tolist(),
            stamps,
            values.itertuples(index=False, name=None),
            strict=True,
        )
    ]


def _joined(clean: pd.DataFrame, passing: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    known = clean[key].assign(known=True)
    new = passing[passing.merge(known, on=key, how="left")["known"].isna().to_numpy()]
    together = pd.concat([clean, new[list(clean.columns)].astype(clean.dtypes.to_dict())], ignore_index=True)
    return together.sort_values(key, ignore_index=True)
