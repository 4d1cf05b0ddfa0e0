"""Rules over what is stored: is every session there, is the newest one there, is one provider's day missing.

`stored` is a table with `symbol` and `session`; where it also has `provisional`, provisional rows count as
not stored.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality.findings import Finding, count, finding, severities
from market_pipelines.market.quality.limits import OWN, Limits
from market_pipelines.market.quality.sheet import Ints, Mask
from market_pipelines.market.sessions import Days, TradingCalendar

SETTLING = timedelta(minutes=OWN("freshness"))
"""How long after the closing bell a session's bars may take to arrive."""
FEWEST_SESSIONS = 5
"""Before which nothing is called usual."""
ABOUT_THE_SYMBOL = frozenset({Outcome.UNKNOWN_SYMBOL})
"""Outcomes that say nothing about the health of a provider."""


def expected_sessions(
    calendar: TradingCalendar, instruments: Iterable[Instrument], start: date, end: date
) -> pd.DataFrame:
    """Symbol and session of every bar that there should be between two dates, both included."""
    universe = by_symbol(instruments)
    days = days_between(calendar, start, end)
    return _pairs(universe, days, alive(universe, days))


def completeness(
    stored: pd.DataFrame,
    calendar: TradingCalendar,
    instruments: Iterable[Instrument],
    start: date,
    end: date,
    *,
    now: datetime,
    excused: pd.DataFrame | None = None,
    limits: Limits = OWN,
) -> Finding:
    """The bars that should be stored by now and are not: symbol, session, severity.

    A gap warns; one in the last closed session blocks once it is overdue, unless it is in `excused` (symbol,
    session), where the providers have said that there was no trade.
    """
    universe = by_symbol(instruments)
    last = calendar.last_closed(now)
    days = days_between(calendar, start, min(end, last))
    expected = alive(universe, days)
    gap = expected & ~present(stored, universe, days)
    blocking = np.zeros_like(gap)
    if calendar.times(last).closes + timedelta(hours=limits("completeness")) <= now:
        blocking[:, days == np.datetime64(last, "D")] = True
    if excused is not None:
        blocking &= ~present(excused, universe, days)
    offending = _pairs(universe, days, gap)
    offending["severity"] = severities(blocking[gap])
    checked = int(expected.sum())
    detail = f"{checked - len(offending)} of {checked} expected bars are stored"
    return finding("completeness", offending, checked, detail)


def freshness(
    stored: pd.DataFrame,
    calendar: TradingCalendar,
    instruments: Iterable[Instrument],
    now: datetime,
    delay: timedelta = SETTLING,
) -> Finding:
    """Instruments without the newest session that closed `delay` ago.

    Blocks when nobody has the session, warns when some lack it. Offences: symbol, newest, expected, behind,
    severity; `behind` counts the sessions after the newest stored one and, like it, is missing for a symbol
    with none.
    """
    expected = calendar.last_closed(now - delay)
    universe = [one for one in by_symbol(instruments) if one.trades_on(expected)]
    symbols = pd.Index([one.symbol for one in universe], dtype="str")
    newest = _final(stored).groupby("symbol")["session"].max().reindex(symbols)
    newest = newest.astype("datetime64[s]")
    late = ~(newest >= pd.Timestamp(expected)).to_numpy(dtype=bool)
    behind = _sessions_after(calendar, newest[late], expected)
    nobody = bool(late.all())
    offending = pd.DataFrame(
        {
            "symbol": symbols[late],
            "newest": newest.to_numpy()[late],
            "expected": pd.Series([expected] * int(late.sum()), dtype="datetime64[s]"),
            "behind": behind,
            "severity": severities(np.full(int(late.sum()), nobody)),
        }
    )
    detail = f"{len(universe) - len(offending)} of {len(universe)} symbols have {expected}"
    return finding("freshness", offending, len(universe), detail)


def provider_outage(
    stored: pd.DataFrame,
    calendar: TradingCalendar,
    instruments: Iterable[Instrument],
    start: date,
    end: date,
    *,
    now: datetime,
    outcomes: Mapping[str, Mapping[str, Outcome]] | None = None,
    limits: Limits = OWN,
) -> Finding:
    """Sessions that a large share of the universe lacks, and providers that failed for every symbol.

    A lone symbol's gap in a larger universe is no outage, whatever its share. `outcomes` holds, by provider
    and symbol, how the last attempts ended; a provider that failed altogether warns, because others may have
    filled in, while a session that is missing blocks. Offences: provider, session, missing, expected,
    severity.
    """
    universe = by_symbol(instruments)
    days = days_between(calendar, start, min(end, calendar.last_closed(now)))
    expected = alive(universe, days)
    gap = expected & ~present(stored, universe, days)
    missing, due = gap.sum(axis=0), expected.sum(axis=0)
    holes = np.flatnonzero(
        (missing >= limits("provider_outage") * due) & ((missing >= 2) | ((due == 1) & (missing == 1)))
    )
    failed = [
        (provider, len(asked))
        for provider, asked in sorted(_concerning_the_provider(outcomes or {}).items())
        if not any(outcome.delivered for outcome in asked)
    ]
    sessions = days[holes].astype("datetime64[s]")
    offending = pd.DataFrame(
        {
            "provider": pd.Series([""] * len(holes) + [name for name, _ in failed], dtype="str"),
            "session": pd.Series([*sessions, *[np.datetime64("NaT", "s")] * len(failed)], dtype="datetime64[s]"),
            "missing": np.array([*missing[holes], *[count for _, count in failed]], dtype=np.int64),
            "expected": np.array([*due[holes], *[count for _, count in failed]], dtype=np.int64),
            "severity": severities(np.arange(len(holes) + len(failed)) < len(holes)),
        }
    )
    names = "".join(f"; {name} failed for all of {count} symbols" for name, count in failed)
    detail = f"{len(holes)} of {len(days)} sessions lack much of the universe{names}"
    return finding("provider_outage", offending, len(days), detail)


def row_count(
    stored: pd.DataFrame,
    calendar: TradingCalendar,
    instruments: Iterable[Instrument],
    start: date,
    end: date,
    *,
    now: datetime,
    limits: Limits = OWN,
) -> Finding:
    """Sessions with many fewer or more rows than those before them, measured by how many were listed.

    `stored` reaches back far enough to say what is usual. A single row makes no anomaly, whatever its share.
    """
    universe = by_symbol(instruments)
    due = calendar.last_closed(now - timedelta(minutes=limits("freshness")))
    earliest = start if stored.empty else min(start, stored["session"].min().date())
    days = days_between(calendar, earliest, min(end, due))
    listed = alive(universe, days).sum(axis=0)
    rows = present(stored, universe, days).sum(axis=0)
    far, judged = unusual(rows, listed, days >= np.datetime64(start, "D"), limits)
    several = np.abs(rows[far["at"].to_numpy(dtype=np.int64)] - far["usual"].to_numpy()) >= 2
    offending = counted(days, rows, far[several], "rows")
    said = f"{count(offending, judged, 'sessions')} have an unusual number of rows"
    return finding("row_count", offending, judged, said)


def unusual(rows: Ints, possible: Ints, asked: Mask, limits: Limits) -> tuple[pd.DataFrame, int]:
    """Sessions whose rows are, as a share of the possible ones, far from the median of those before: where they stand
    (`at`) and what would be `usual`; and how many sessions were judged."""
    share = rows / np.maximum(possible, 1)
    window = int(limits("row_count", "window"))
    judged = np.flatnonzero(asked & (np.arange(len(rows)) >= FEWEST_SESSIONS))
    usual = np.array([np.median(share[max(at - window, 0) : at]) for at in judged]) * possible[judged]
    # Where nothing is usual, the first rows are a beginning.
    far = (usual > 0) & (np.abs(rows[judged] - usual) > limits("row_count") * usual)
    return pd.DataFrame({"at": judged[far], "usual": usual[far]}), len(judged)


def counted(days: Days, rows: Ints, far: pd.DataFrame, what: str) -> pd.DataFrame:
    at = far["at"].to_numpy(dtype=np.int64)
    words = [f"{own} {what}, {usual:.0f} as a rule" for own, usual in zip(rows[at], far["usual"], strict=True)]
    return pd.DataFrame(
        {
            "session": days[at].astype("datetime64[s]"),
            "rows": rows[at],
            "usual": far["usual"].to_numpy(dtype=np.float64),
            "detail": pd.Series(words, dtype="str"),
        }
    )


def _concerning_the_provider(
    outcomes: Mapping[str, Mapping[str, Outcome]],
) -> dict[str, list[Outcome]]:
    relevant: dict[str, list[Outcome]] = {}
    for provider, asked in outcomes.items():
        answers = [outcome for outcome in asked.values() if outcome not in ABOUT_THE_SYMBOL]
        if answers:
            relevant[provider] = answers
    return relevant


def by_symbol(instruments: Iterable[Instrument]) -> list[Instrument]:
    return sorted(instruments, key=lambda one: one.symbol)


def days_between(calendar: TradingCalendar, start: date, end: date) -> Days:
    first, after = np.searchsorted(calendar.days, np.array([start, end + timedelta(days=1)], dtype="datetime64[D]"))
    return calendar.days[first:after]


def alive(universe: list[Instrument], days: Days) -> Mask:
    """Whether each instrument (line) was listed on each session (column)."""
    first = np.array([one.listed_from or date.min for one in universe], dtype="datetime64[D]")
    last = np.array([one.delisted_on or date.max for one in universe], dtype="datetime64[D]")
    return np.asarray((days >= first[:, None]) & (days <= last[:, None]), dtype=bool)


def _final(stored: pd.DataFrame) -> pd.DataFrame:
    return stored[~stored["provisional"].astype(bool)] if "provisional" in stored else stored


def present(stored: pd.DataFrame, universe: list[Instrument], days: Days) -> Mask:
    """Whether each instrument (line) has a final row for each session (column)."""
    there = np.zeros((len(universe), len(days)), dtype=bool)
    held = _final(stored)
    line = pd.Index([one.symbol for one in universe], dtype="str").get_indexer(pd.Index(held["symbol"]))
    day = held["session"].to_numpy().astype("datetime64[D]")
    column = np.searchsorted(days, day)
    known = (line >= 0) & (column < len(days))
    known[known] = days[column[known]] == day[known]
    there[line[known], column[known]] = True
    return there


def _pairs(universe: list[Instrument], days: Days, which: Mask) -> pd.DataFrame:
    line, column = np.nonzero(which)
    symbols = pd.Series([one.symbol for one in universe], dtype="str")
    return pd.DataFrame(
        {
            "symbol": symbols.take(line).reset_index(drop=True),
            "session": days[column].astype("datetime64[s]"),
        }
    )


def _sessions_after(calendar: TradingCalendar, newest: pd.Series, expected: date) -> pd.Series:
    """How many sessions lie after each date, up to the expected one; missing for no date."""
    until = np.searchsorted(calendar.days, np.datetime64(expected, "D"), side="right")
    since = np.searchsorted(calendar.days, newest.to_numpy().astype("datetime64[D]"), side="right")
    return pd.Series(until - since, dtype="Int64").mask(newest.isna().to_numpy())
