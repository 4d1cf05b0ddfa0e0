"""Daily bars: every rule finds its own fault where it was planted, and nothing of the kind in clean bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality import Evidence, Severity, examine, rules_of
from market_pipelines.market.quality.rules import STOCK_PRICES
from market_pipelines_tests.false_positives import END
from market_pipelines_tests.unit.market.planted import (
    JUDGED,
    SPLIT_DAY,
    SYMBOLS,
    Offence,
    clean,
    found,
    offences,
    row_of,
    scaled,
    sessions,
    sometimes,
    verdicts,
    with_values,
)

Plant = Callable[[Evidence, str, date], tuple[Evidence, set[Offence]]]
places = st.tuples(st.sampled_from(SYMBOLS), st.integers(6, JUDGED - 8))


def bars_of(evidence: Evidence) -> pd.DataFrame:
    assert evidence.bars is not None
    return evidence.bars


def with_bars(evidence: Evidence, bars: pd.DataFrame) -> Evidence:
    return replace(evidence, bars=bars)


def one_value(**values: float) -> Plant:
    def plant(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
        bars = bars_of(evidence)
        return with_bars(evidence, with_values(bars, row_of(bars, symbol, day), **values)), {(symbol, day)}

    return plant


def times(prices: float, volume: float = 1.0) -> Plant:
    def plant(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
        bars = bars_of(evidence)
        row = bars.index[row_of(bars, symbol, day)]
        return with_bars(evidence, scaled(bars, [row], prices, volume)), {(symbol, day)}

    return plant


def a_high_below_the_close(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    at = row_of(bars, symbol, day)
    high = float(bars["close"].iloc[at]) * 0.999
    return with_bars(evidence, with_values(bars, at, high=high)), {(symbol, day)}


def another_symbol(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    return with_bars(evidence, with_values(bars, row_of(bars, symbol, day), symbol="NOSUCH")), {("NOSUCH", day)}


def a_later_listing(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    following = sessions(evidence)[sessions(evidence).index(day) + 1]
    listed = [replace(one, listed_from=following) if one.symbol == symbol else one for one in evidence.instruments]
    early = {(symbol, session) for session in sessions(evidence) if session <= day}
    return replace(evidence, instruments=listed), early


def a_saturday(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    saturday = day + timedelta(days=5 - day.weekday())
    extra = bars.iloc[[row_of(bars, symbol, day)]].assign(session=pd.Timestamp(saturday).as_unit("s"), close=1.0)
    return with_bars(evidence, pd.concat([bars, extra], ignore_index=True)), {(symbol, saturday)}


def a_bar_of_tomorrow(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    tomorrow = evidence.calendar.sessions(evidence.end + timedelta(days=1), evidence.end + timedelta(days=7))[0]
    extra = bars.iloc[[row_of(bars, symbol, day)]].assign(session=pd.Timestamp(tomorrow).as_unit("s"))
    return with_bars(evidence, pd.concat([bars, extra], ignore_index=True)), {(symbol, tomorrow)}


def repetition(**changes: float) -> Plant:
    def plant(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
        bars = bars_of(evidence)
        at = row_of(bars, symbol, day)
        again = bars.iloc[[at]].assign(**changes)
        table = pd.concat([bars.iloc[: at + 1], again, bars.iloc[at + 1 :]], ignore_index=True)
        return with_bars(evidence, table), {(symbol, day)}

    return plant


def the_wrong_order(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    order = np.arange(len(bars))
    at = row_of(bars, symbol, day)
    order[[at, at + 1]] = order[[at + 1, at]]
    return with_bars(evidence, bars.iloc[order].reset_index(drop=True)), {(symbol, day)}


def yesterdays_bar(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    at = row_of(bars, symbol, day)
    values = {name: float(bars[name].iloc[at - 1]) for name in ("open", "high", "low", "close", "volume")}
    return with_bars(evidence, with_values(bars, at, **values)), {(symbol, day)}


def a_missing_bar(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    return with_bars(evidence, bars.drop(bars.index[row_of(bars, symbol, day)])), {(symbol, day)}


def still_moving(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    return with_bars(evidence, with_values(bars, row_of(bars, symbol, day), provisional=True)), {(symbol, day)}


def written_at_noon(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    noon = pd.Timestamp(datetime.combine(day, datetime.min.time()), tz="UTC") + pd.Timedelta(hours=16)
    return with_bars(evidence, with_values(bars, row_of(bars, symbol, day), ingested_at=noon)), {(symbol, day)}


def a_dead_feed(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    """One close, six sessions long, that neither neighbour has; the ranges go on."""
    bars, at = bars_of(evidence), row_of(bars_of(evidence), symbol, day)
    close = bars["close"].to_numpy(copy=True)
    close[at : at + 6] = close[at] + 0.003
    high, low = np.maximum(bars["high"], close), np.minimum(bars["low"], close)
    days = sessions(evidence)
    late = {(symbol, session) for session in days[days.index(day) + 4 : days.index(day) + 6]}
    return with_bars(evidence, bars.assign(close=close, high=high, low=low)), late


def one_busy_price(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars, at = bars_of(evidence), row_of(bars_of(evidence), symbol, day)
    price, volume = float(bars["close"].iloc[at]), float(bars["volume"].iloc[at]) * 5
    table = with_values(bars, at, open=price, high=price, low=price, volume=volume)
    return with_bars(evidence, table), {(symbol, day)}


def unusual_rows(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    gone = (bars["session"] == pd.Timestamp(day)) & bars["symbol"].isin(SYMBOLS[:4])
    return with_bars(evidence, bars[~gone]), {("", day)}


def another_providers(column: str, factor: float) -> Plant:
    def plant(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
        told = evidence.provider_bars
        assert told is not None
        at = row_of(told, symbol, day, "simulated-alpha_vantage")
        value = float(told[column].iloc[at]) * factor
        return replace(evidence, provider_bars=with_values(told, at, **{column: value})), {(symbol, day)}

    return plant


def corrected(**values: float) -> Plant:
    def plant(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
        words = {"close": 100.0, "old_close": 100.0, "volume": 1000.0, "old_volume": 1000.0} | values
        revision = {
            "symbol": pd.Series([symbol], dtype="str"),
            "session": pd.Series([day], dtype="datetime64[s]"),
            **{name: pd.Series([value]) for name, value in words.items()},
            "known_to": pd.Series([pd.Timestamp(evidence.now)]),
        }
        return replace(evidence, revisions=pd.DataFrame(revision)), {(symbol, day)}

    return plant


def a_time_of_day(evidence: Evidence, symbol: str, day: date) -> tuple[Evidence, set[Offence]]:
    bars = bars_of(evidence)
    noon = pd.Timestamp(day).as_unit("s") + pd.Timedelta(hours=12)
    return with_bars(evidence, with_values(bars, row_of(bars, symbol, day), session=noon)), {(symbol, day)}


FAULTS: list[tuple[str, str, Plant]] = [
    ("schema", "a session with a time of day", a_time_of_day),
    ("nulls", "no close", one_value(close=np.nan)),
    ("nulls", "an infinite high", one_value(high=np.inf)),
    ("positive_price", "a low of zero", one_value(low=0.0)),
    ("high_low_envelope", "a high below the close", a_high_below_the_close),
    ("volume", "a volume below zero", one_value(volume=-100.0)),
    ("volume_gap", "no volume", one_value(volume=np.nan)),
    ("instrument", "another symbol", another_symbol),
    ("listing_life", "bars before the listing", a_later_listing),
    ("session_membership", "a Saturday", a_saturday),
    ("future", "a bar of tomorrow", a_bar_of_tomorrow),
    ("uniqueness", "two bars that differ", repetition(close=1.0)),
    ("duplicate", "the same bar twice", repetition()),
    ("order", "two sessions swapped", the_wrong_order),
    ("unit_error", "pence for pounds", times(100.0)),
    ("unit_error", "pounds for pence", times(0.01)),
    ("repeated_bar", "yesterday's bar", yesterdays_bar),
    ("live_bar", "a bar that still moves", still_moving),
    ("return_cap", "a jump of three quarters", times(1.75)),
    ("completeness", "a missing bar", a_missing_bar),
    ("live_bar_as_final", "a final bar of noon", written_at_noon),
    ("stale_price", "a dead feed", a_dead_feed),
    ("constant_bar", "one price on five times the volume", one_busy_price),
    ("zero_volume", "no shares", one_value(volume=0.0)),
    ("volume_spike", "thirty times the volume", times(1.0, 30.0)),
    ("row_count", "half of the market", unusual_rows),
    ("cross_provider_close", "another close", another_providers("close", 1.002)),
    ("cross_provider_volume", "another volume", another_providers("volume", 0.9)),
    ("revision_size", "another close afterwards", corrected(close=100.02)),
    ("revision_size", "another volume afterwards", corrected(volume=1011.0)),
    ("revision_size", "a bar that was withdrawn", corrected(close=np.nan, volume=np.nan)),
]


@pytest.mark.parametrize(
    ("rule", "plant"), [(rule, plant) for rule, _, plant in FAULTS], ids=[f"{r}: {t}" for r, t, _ in FAULTS]
)
@sometimes
@given(place=places)
def test_a_fault_is_found_where_it_is(rule: str, plant: Plant, place: tuple[str, int]) -> None:
    evidence = clean(STOCK_PRICES)
    spoilt, at = plant(evidence, place[0], sessions(evidence)[place[1]])
    assert offences(spoilt, rule) == at


@pytest.mark.parametrize("end", [END, date(2020, 10, 30)])
def test_clean_bars_break_no_rule(end: date) -> None:
    assert {name for name, finding in verdicts(clean(STOCK_PRICES, end)).items() if not finding.passed} == set()


@sometimes
@given(place=places)
def test_an_unusual_move_is_found(place: tuple[str, int]) -> None:
    """And the way back from it."""
    evidence = clean(STOCK_PRICES)
    day, following = sessions(evidence)[place[1] : place[1] + 2]
    spoilt, _ = times(1.4)(evidence, place[0], day)
    assert offences(spoilt, "return_mad") == {(place[0], day), (place[0], following)}
    assert offences(spoilt, "return_cap") == set()


@sometimes
@given(st.sampled_from((2.0, 3.0, 5.0, 10.0, 20.0, 0.5, 0.1)), places)
def test_a_split_that_nobody_reports_is_found(ratio: float, place: tuple[str, int]) -> None:
    evidence = clean(STOCK_PRICES)
    bars, day = bars_of(evidence), sessions(evidence)[place[1]]
    before = bars.index[(bars["symbol"] == place[0]) & (bars["session"] < pd.Timestamp(day))]
    spoilt = with_bars(evidence, scaled(bars, before, ratio, 1 / ratio))

    assert offences(spoilt, "split_like_jump") == {(place[0], day)}
    detail = found(spoilt, "split_like_jump").offending["detail"].iloc[0]
    assert f"{ratio:g} for 1" in detail if ratio > 1 else f"1 for {1 / ratio:g}" in detail


def test_a_fall_by_half_on_falling_volume_is_no_split() -> None:
    evidence = clean(STOCK_PRICES)
    bars, day = bars_of(evidence), sessions(evidence)[30]
    before = bars.index[(bars["symbol"] == "KO") & (bars["session"] < pd.Timestamp(day))]
    assert offences(with_bars(evidence, scaled(bars, before, 2.0, 3.0)), "split_like_jump") == set()


def test_a_split_that_is_known_is_no_jump_of_any_kind() -> None:
    evidence = clean(STOCK_PRICES, date(2020, 10, 30))
    assert SPLIT_DAY in sessions(evidence)
    assert [name for name, finding in verdicts(evidence).items() if not finding.passed] == []
    unknown = replace(evidence, actions=[one for one in evidence.actions if one.ex_date != SPLIT_DAY])
    assert offences(unknown, "split_like_jump") == {("AAPL", SPLIT_DAY)}


def test_a_day_of_panic_is_no_anomaly_of_every_share() -> None:
    """Eight symbols are no market; ten are, and what all of them do together is taken out."""
    evidence = clean(STOCK_PRICES)
    bars, day = bars_of(evidence), sessions(evidence)[30]
    twins = bars.assign(symbol="TWIN-" + bars["symbol"])
    listed = [*evidence.instruments, *[replace(one, symbol=f"TWIN-{one.symbol}") for one in evidence.instruments]]
    both = pd.concat([bars, twins], ignore_index=True)
    since = both["session"] >= pd.Timestamp(day)
    fallen = replace(evidence, bars=scaled(both, since, 0.7), instruments=listed)
    assert offences(fallen, "return_mad") == set()
    assert (
        len(offences(with_bars(evidence, scaled(bars, bars["session"] >= pd.Timestamp(day), 0.7)), "return_mad")) == 8
    )


def test_a_share_of_few_ticks_may_stand_still() -> None:
    """Its close stood still often enough before."""
    evidence = clean(STOCK_PRICES)
    bars = bars_of(evidence)
    own = bars["symbol"] == "KO"
    flat = np.repeat(np.arange(own.sum() // 2 + 1), 2)[: own.sum()] % 2 * 0.01 + 0.10
    for name in ("open", "high", "low", "close"):
        bars = bars.assign(**{name: bars[name].mask(own, pd.Series(flat, index=bars.index[own]))})
    at = row_of(bars, "KO", sessions(evidence)[30])
    close = bars["close"].to_numpy(copy=True)
    close[at : at + 6] = close[at]
    still = bars.assign(close=close, open=close, high=close, low=close)
    assert offences(with_bars(evidence, still.where(own, bars)), "stale_price") == set()


def test_a_share_that_was_not_traded_is_not_stale() -> None:
    evidence = clean(STOCK_PRICES)
    spoilt, late = a_dead_feed(evidence, "KO", sessions(evidence)[20])
    bars = bars_of(spoilt)
    at = row_of(bars, "KO", sessions(evidence)[20])
    volume = bars["volume"].to_numpy(copy=True)
    volume[at + 1 : at + 6] = 0.0
    assert late
    assert offences(with_bars(spoilt, bars.assign(volume=volume)), "stale_price") == set()


def test_a_symbol_that_stopped_is_not_fresh() -> None:
    evidence = clean(STOCK_PRICES)
    bars = bars_of(evidence)
    last = bars["session"] == pd.Timestamp(evidence.end)
    some = found(with_bars(evidence, bars[~(last & (bars["symbol"] == "KO"))]), "freshness")
    assert (some.severity, some.offending["symbol"].tolist()) == (Severity.WARN, ["KO"])
    assert found(with_bars(evidence, bars[~last]), "freshness").severity is Severity.BLOCK


def test_freshness_is_not_asked_of_a_range_that_is_over() -> None:
    evidence = clean(STOCK_PRICES, date(2020, 10, 30))
    assert "freshness" not in verdicts(evidence)


def test_a_session_that_much_of_the_market_lacks_is_an_outage() -> None:
    evidence = clean(STOCK_PRICES)
    day = sessions(evidence)[30]
    spoilt, _ = unusual_rows(evidence, "KO", day)
    assert found(spoilt, "provider_outage").offending["session"].tolist() == [pd.Timestamp(day)]
    failing = replace(evidence, outcomes={"yahoo": dict.fromkeys(SYMBOLS, Outcome.UNAVAILABLE)})
    assert found(failing, "provider_outage").offending["provider"].tolist() == ["yahoo"]


def test_bars_that_are_known_not_to_exist_are_not_missed() -> None:
    evidence = clean(STOCK_PRICES)
    day = sessions(evidence)[30]
    spoilt, _ = unusual_rows(evidence, "KO", day)
    closure = pd.DataFrame({"symbol": list(SYMBOLS[:4]), "session": [pd.Timestamp(day)] * 4})
    closed = replace(spoilt, excused=closure)
    for rule in ("completeness", "provider_outage", "row_count"):
        assert found(closed, rule).passed, rule


def test_what_came_before_the_judged_range_is_not_told_again() -> None:
    evidence = clean(STOCK_PRICES)
    bars = bars_of(evidence)
    early = bars["session"].min().date()
    for _, _, plant in FAULTS[1:6]:
        spoilt, _ = plant(
            replace(evidence, start=evidence.start), "KO", evidence.calendar.sessions(early, evidence.end)[10]
        )
        assert all(finding.passed for finding in examine(spoilt))


def test_bars_that_are_disputed_or_adjusted_are_compared_with_nothing() -> None:
    evidence = clean(STOCK_PRICES)
    spoilt, _ = times(1.75)(evidence, "KO", sessions(evidence)[30])
    bars = bars_of(spoilt)
    degraded = with_values(bars, row_of(bars, "KO", sessions(evidence)[30]), condition="degraded")
    assert [name for name, each in verdicts(with_bars(spoilt, degraded)).items() if not each.passed] == []


def test_every_rule_of_the_table_has_its_fault() -> None:
    market = clean(STOCK_PRICES).market
    elsewhere = {"freshness", "provider_outage", "return_mad", "split_like_jump"}
    assert {rule.name for rule in rules_of(STOCK_PRICES, market)} == {rule for rule, _, _ in FAULTS} | elsewhere
