"""Bars within sessions: every rule finds its own fault where it was planted, and nothing of the kind in clean bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.quality import Evidence, Severity, rules_of
from market_pipelines.market.quality.rules import INTRADAY
from market_pipelines_tests.unit.market.planted import (
    SYMBOLS,
    Offence,
    clean,
    found,
    offences,
    scaled,
    sessions,
    sometimes,
    verdicts,
    with_values,
)

Plant = Callable[[Evidence, str, date, int], tuple[Evidence, set[Offence]]]
places = st.tuples(st.sampled_from(SYMBOLS), st.integers(6, 19), st.integers(1, 76))
"""Symbol, session and which of its regular bars."""
MONDAY = date(2026, 11, 2)
"""The first session after New York's clocks went back."""


def minutes_of(evidence: Evidence) -> pd.DataFrame:
    assert evidence.intraday is not None
    return evidence.intraday


def regular(bars: pd.DataFrame, day: date, symbol: str | None = None) -> np.ndarray:
    """Positions of a session's regular bars."""
    chosen = (bars["session"] == pd.Timestamp(day)) & (bars["phase"] == "regular")
    return np.flatnonzero(chosen if symbol is None else chosen & (bars["symbol"] == symbol))


def without(evidence: Evidence, positions: np.ndarray) -> Evidence:
    bars = minutes_of(evidence)
    return replace(evidence, intraday=bars.drop(bars.index[positions]).reset_index(drop=True))


def one_value(**values: float | bool) -> Plant:
    def plant(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
        bars = minutes_of(evidence)
        at = int(regular(bars, day, symbol)[slot])
        return replace(evidence, intraday=with_values(bars, at, **values)), {(symbol, day)}

    return plant


def moved(by: timedelta) -> Plant:
    """One bar at another time, with the session and phase that it had."""

    def plant(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
        bars = minutes_of(evidence)
        at = int(regular(bars, day, symbol)[slot])
        return replace(evidence, intraday=with_values(bars, at, ts=bars["ts"].iloc[at] + by)), {(symbol, day)}

    return plant


def another_symbol(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    bars = minutes_of(evidence)
    at = int(regular(bars, day, symbol)[slot])
    return replace(evidence, intraday=with_values(bars, at, symbol="NOSUCH")), {("NOSUCH", day)}


def a_later_listing(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    following = day + timedelta(days=1)
    listed = [replace(one, listed_from=following) if one.symbol == symbol else one for one in evidence.instruments]
    return replace(evidence, instruments=listed), {(symbol, each) for each in sessions(evidence) if each <= day}


def two_versions(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    bars = minutes_of(evidence)
    extra = bars.iloc[[regular(bars, day, symbol)[slot]]].assign(volume=1.0)
    return replace(evidence, intraday=pd.concat([bars, extra], ignore_index=True)), {(symbol, day)}


def the_wrong_order(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    bars = minutes_of(evidence)
    order = np.arange(len(bars))
    at = int(regular(bars, day, symbol)[slot])
    order[[at - 1, at]] = order[[at, at - 1]]
    return replace(evidence, intraday=bars.iloc[order].reset_index(drop=True)), {(symbol, day)}


def from_the_future(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    bars = minutes_of(evidence)
    at = int(regular(bars, day, symbol)[slot])
    now = bars["ts"].iloc[at].to_pydatetime() - timedelta(seconds=61)
    later = (bars["ts"] >= bars["ts"].iloc[at]) & ~(bars.index == bars.index[at])
    return replace(evidence, intraday=bars[~later].reset_index(drop=True), now=now), {(symbol, day)}


def written_too_early(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    bars = minutes_of(evidence)
    at = int(regular(bars, day, symbol)[slot])
    written = bars["ts"].iloc[at] + pd.Timedelta(minutes=4)
    return replace(evidence, intraday=with_values(bars, at, ingested_at=written)), {(symbol, day)}


def a_tenth_missing(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    positions = regular(minutes_of(evidence), day, symbol)
    return without(evidence, positions[slot // 2 : slot // 2 + len(positions) // 2]), {(symbol, day)}


def no_bar_at_all(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    return without(evidence, regular(minutes_of(evidence), day, symbol)), {(symbol, day)}


def another_daily_close(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    daily = evidence.bars
    assert daily is not None
    row = daily.index[(daily["symbol"] == symbol) & (daily["session"] == pd.Timestamp(day))]
    return replace(evidence, bars=scaled(daily, row, 1.01)), {(symbol, day)}


def a_quiet_market(evidence: Evidence, symbol: str, day: date, slot: int) -> tuple[Evidence, set[Offence]]:
    return without(evidence, regular(minutes_of(evidence), day)[::2]), {("", day)}


FAULTS: list[tuple[str, str, Plant]] = [
    ("nulls", "no close", one_value(close=np.nan)),
    ("positive_price", "a low below zero", one_value(low=-0.5)),
    ("high_low_envelope", "a low above the high", one_value(low=1e6)),
    ("volume", "a volume below zero", one_value(volume=-1.0)),
    ("instrument", "another symbol", another_symbol),
    ("listing_life", "bars before the listing", a_later_listing),
    ("session_membership", "a bar of the night", moved(timedelta(hours=12))),
    ("future", "a bar a minute ahead", from_the_future),
    ("uniqueness", "two bars that differ", two_versions),
    ("order", "two bars swapped", the_wrong_order),
    ("live_bar_as_final", "a final bar before its end", written_too_early),
    ("grid", "a bar at an odd minute", moved(timedelta(minutes=2))),
    ("grid", "a bar at an odd second", moved(timedelta(seconds=7))),
    ("session_clock", "a regular bar after the close", moved(timedelta(hours=7))),
    ("intraday_completeness", "half of a session", a_tenth_missing),
    ("intraday_completeness", "a whole session", no_bar_at_all),
    ("roll_up", "another daily close", another_daily_close),
    ("row_count", "half of the market's bars", a_quiet_market),
]


def test_clean_bars_break_no_rule() -> None:
    """Across the end of summer time in New York."""
    assert MONDAY in sessions(clean(INTRADAY))
    assert {name for name, finding in verdicts(clean(INTRADAY)).items() if not finding.passed} == set()


@pytest.mark.parametrize(
    ("rule", "plant"), [(rule, plant) for rule, _, plant in FAULTS], ids=[f"{rule}: {what}" for rule, what, _ in FAULTS]
)
@sometimes
@given(place=places)
def test_a_fault_is_found_where_it_is(rule: str, plant: Plant, place: tuple[str, int, int]) -> None:
    evidence = clean(INTRADAY)
    spoilt, at = plant(evidence, place[0], sessions(evidence)[place[1] - 1], place[2])
    assert offences(spoilt, rule) == at


@pytest.mark.parametrize(("hours", "end"), [(1, "first"), (-1, "last")])
def test_a_session_told_by_the_wrong_clock_blocks(hours: int, end: str) -> None:
    """What a provider does that forgets the change of the clock: all of a session's bars an hour off."""
    evidence = clean(INTRADAY)
    shifted = _shifted(evidence, MONDAY, SYMBOLS, hours)
    clock = found(shifted, "session_clock")
    assert clock.severity is Severity.BLOCK
    assert set(clock.offending["symbol"]) == set(SYMBOLS)
    assert set(clock.offending["session"]) == {pd.Timestamp(MONDAY)}
    assert clock.offending["detail"].str.contains(end).all()


def test_one_symbol_that_lacks_an_hour_is_a_warning() -> None:
    clock = found(_shifted(clean(INTRADAY), MONDAY, ["KO"], 1), "session_clock")
    assert (clock.severity, clock.offending["symbol"].tolist()) == (Severity.WARN, ["KO"])


def _shifted(evidence: Evidence, day: date, symbols: Sequence[str], hours: int) -> Evidence:
    """The regular bars of a session moved, and cut to the session as storing them would."""
    bars = minutes_of(evidence)
    own = (bars["session"] == pd.Timestamp(day)) & (bars["phase"] == "regular")
    mine = own & bars["symbol"].isin(list(symbols))
    opens, closes = evidence.calendar.times(day).opens, evidence.calendar.times(day).closes
    late = bars.assign(ts=bars["ts"].mask(mine, bars["ts"] + pd.Timedelta(hours=hours)))
    inside = (late["ts"] >= opens) & (late["ts"] < closes)
    return replace(evidence, intraday=late[~mine | inside].reset_index(drop=True))


def test_half_days_end_at_one() -> None:
    """A regular bar after the bell of the day after Thanksgiving; the same minute is fine the day before."""
    market = clean(INTRADAY).market
    assert market.intraday is not None
    evidence = replace(clean(INTRADAY), start=date(2026, 11, 25), end=date(2026, 11, 27))
    bars = (
        minutes_of(evidence)
        .iloc[:2]
        .assign(
            session=pd.Series([date(2026, 11, 25), date(2026, 11, 27)], dtype="datetime64[s]"),
            ts=pd.to_datetime(["2026-11-25 18:05Z", "2026-11-27 18:05Z"]).as_unit("s"),
            phase="regular",
        )
    )
    late = replace(evidence, intraday=bars, now=datetime(2026, 11, 28, tzinfo=UTC))
    assert offences(late, "session_clock") == {(bars["symbol"].iloc[1], date(2026, 11, 27))}


@sometimes
@given(st.integers(0, 19), st.integers(0, 77))
def test_a_minute_that_the_market_lacks_is_an_outage(which: int, slot: int) -> None:
    evidence = clean(INTRADAY)
    bars, day = minutes_of(evidence), sessions(evidence)[which]
    moment = evidence.calendar.times(day).opens + timedelta(minutes=5 * slot)
    outage = found(without(evidence, np.flatnonzero(bars["ts"] == moment)), "minute_outage")
    assert outage.severity is Severity.BLOCK
    assert outage.offending["ts"].tolist() == [pd.Timestamp(moment)]
    assert outage.offending["missing"].tolist() == [len(SYMBOLS)]


def test_a_session_is_compared_with_its_own_bells_only_when_it_is_over() -> None:
    evidence = clean(INTRADAY)
    bars = minutes_of(evidence)
    noon = datetime(2026, 11, 20, 17, tzinfo=UTC)
    so_far = replace(evidence, intraday=bars[bars["ts"] < noon - timedelta(minutes=20)], now=noon)
    assert {name for name, finding in verdicts(so_far).items() if not finding.passed} == set()


def test_bars_are_late_half_an_hour_after_they_should_have_been_there() -> None:
    evidence = clean(INTRADAY)
    bars = minutes_of(evidence)
    noon = datetime(2026, 11, 20, 17, tzinfo=UTC)
    old = bars["ts"] >= noon - timedelta(minutes=60)
    everybody = found(replace(evidence, intraday=bars[~old], now=noon), "intraday_freshness")
    assert (everybody.severity, len(everybody.offending)) == (Severity.BLOCK, len(SYMBOLS))
    some = bars[~(old & (bars["symbol"] == "KO"))]
    one = found(replace(evidence, intraday=some, now=noon), "intraday_freshness")
    assert (one.severity, one.offending["symbol"].tolist()) == (Severity.WARN, ["KO"])


def test_a_range_that_is_over_is_not_asked_for_todays_bars() -> None:
    evidence = clean(INTRADAY)
    over = replace(evidence, end=date(2026, 11, 13))
    assert "intraday_freshness" not in verdicts(over)


def test_a_thin_share_may_be_silent() -> None:
    """Three of four bars of KO are absent in every session: that is what it usually has."""
    evidence = clean(INTRADAY)
    bars = minutes_of(evidence)
    chosen = np.flatnonzero((bars["symbol"] == "KO").to_numpy() & (bars["phase"] == "regular").to_numpy())
    gone = np.random.default_rng(7).random(len(chosen)) < 0.5
    thin = replace(evidence, intraday=bars.assign(volume=bars["volume"].mask(bars["symbol"] == "KO", 10.0)))
    thin = without(thin, chosen[gone])
    assert offences(thin, "intraday_completeness") == set()
    assert found(thin, "minute_outage").passed


def test_a_suspended_share_lacks_nothing() -> None:
    evidence = clean(INTRADAY)
    day = sessions(evidence)[9]
    absent, _ = no_bar_at_all(evidence, "KO", day, 0)
    daily = evidence.bars
    assert daily is not None
    traded = daily[~((daily["symbol"] == "KO") & (daily["session"] == pd.Timestamp(day)))]
    assert offences(replace(absent, bars=traded), "intraday_completeness") == set()
    known = pd.DataFrame({"symbol": ["KO"], "session": [pd.Timestamp(day)]})
    assert offences(replace(absent, excused=known), "intraday_completeness") == set()


def test_every_rule_of_the_table_has_its_fault() -> None:
    elsewhere = {"minute_outage", "intraday_freshness"}
    # A stored table has its types, and a bar without a symbol or a time cannot be stored.
    elsewhere |= {"schema"}
    market = clean(INTRADAY).market
    assert {rule.name for rule in rules_of(INTRADAY, market)} == {rule for rule, _, _ in FAULTS} | elsewhere
