"""The verdict on a table of bars: what each rule catches, what it lets pass, and where the rows go."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.bars import VALUE_COLUMNS, empty_bars, validate_bars
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality import RULES, PreviousClose, Verdict, judge
from market_pipelines.market.sessions import trading_calendar
from market_pipelines_tests.unit.market.properties import unhurried

NOW = datetime(2026, 11, 20, 22, tzinfo=UTC)
"""Friday after New York's close."""
XNYS = trading_calendar("XNYS", NOW)
INSTRUMENTS = (
    Instrument("AAPL", "us", "XNYS", "USD"),
    Instrument("BRK.B", "us", "XNYS", "USD"),
    Instrument("GONE", "us", "XNYS", "USD", listed_from=date(2026, 11, 10), delisted_on=date(2026, 11, 12)),
)
DAYS = XNYS.sessions(date(2026, 10, 1), date(2026, 11, 20))


def bars(closes: list[float], symbol: str = "AAPL", until: date = DAYS[-1]) -> pd.DataFrame:
    """One good bar a session, the last one on `until`."""
    close = np.array(closes, dtype=np.float64)
    last = DAYS.index(until) + 1
    return pd.DataFrame(
        {
            "symbol": pd.Series([symbol] * len(close), dtype="str"),
            "session": pd.Series(DAYS[last - len(close) : last], dtype="datetime64[s]"),
            "open": close * 0.995,
            "high": close * 1.01,
            "low": close * 0.99,
            "close": close,
            "volume": np.full(len(close), 1000.0),
            "provisional": np.zeros(len(close), dtype=bool),
        }
    )


def spoilt(row: int, **values: Any) -> pd.DataFrame:
    """Five good bars, one of them changed."""
    table = bars([100, 101, 102, 103, 104])
    for name, value in values.items():
        table.loc[row, name] = value
    return table


def verdict(table: pd.DataFrame, now: datetime = NOW, **more: Any) -> Verdict:
    return judge(table, XNYS, INSTRUMENTS, now, **more)


def broken(found: Verdict) -> dict[str, list[int]]:
    """Rows in quarantine by rule."""
    return {str(rule): rows["row"].tolist() for rule, rows in found.quarantined.groupby("rule")}


def noted(found: Verdict) -> dict[str, list[int]]:
    return {str(rule): rows["row"].tolist() for rule, rows in found.warnings.groupby("rule")}


def test_good_bars_pass_as_they_are() -> None:
    table = pd.concat([bars([100, 101]), bars([50, 51], "BRK.B")], ignore_index=True)
    found = verdict(table)

    pd.testing.assert_frame_equal(found.clean, table)
    assert found.quarantined.empty
    assert found.warnings.empty
    assert found.judged == 4
    assert set(found.counts.values()) == {0}


@pytest.mark.parametrize(
    ("table", "rule", "detail"),
    [
        (spoilt(1, close=np.nan), "nulls", "no finite close"),
        (spoilt(1, open=np.inf, low=np.nan), "nulls", "no finite open, low"),
        (spoilt(1, high=np.inf), "nulls", "no finite high"),
        (spoilt(1, low=-1.0), "positive_price", "a price of -1"),
        (spoilt(1, low=0.0), "positive_price", "a price of 0"),
        (spoilt(1, high=100.9), "high_low_envelope", "high 100.9 is below 101"),
        (spoilt(1, low=101.5), "high_low_envelope", "low 101.5 is above 100.495"),
        (spoilt(1, volume=-1.0), "volume", "volume -1"),
        (spoilt(1, volume=np.inf), "volume", "volume inf"),
        (spoilt(1, symbol="MSFT"), "instrument", "MSFT is not an instrument of this market"),
        (spoilt(1, symbol=None), "schema", "no symbol"),
        (spoilt(1, session=pd.NaT), "schema", "no session"),
        (spoilt(1, session=pd.Timestamp("2026-11-17 14:30")), "schema", "the session has a time of day"),
        (
            spoilt(0, session=pd.Timestamp("2026-11-14")),
            "session_membership",
            "2026-11-14, a Saturday, is no session of XNYS",
        ),
        (
            spoilt(0, session=pd.Timestamp("2025-01-09")),
            "session_membership",
            "2025-01-09, a Thursday, is no session of XNYS",
        ),
        (
            spoilt(0, session=pd.Timestamp("1980-01-09")),
            "session_membership",
            "1980-01-09 is outside XNYS's calendar, 1990-01-01 to 2027-12-31",
        ),
        (
            spoilt(4, session=pd.Timestamp("2026-11-23")),
            "future",
            "2026-11-23 had not opened at 2026-11-20 22:00:00+0000",
        ),
        (
            spoilt(1, open=10050.0, high=10100.0, low=9999.0, close=10000.0),
            "unit_error",
            "close 10000 is 100 times what surrounds it",
        ),
        (
            spoilt(4, open=1.03, high=1.05, low=1.02, close=1.04),
            "unit_error",
            "close 1.04 is 0.01 times what surrounds it",
        ),
        (
            spoilt(1, high=10100.0),
            "unit_error",
            "open 100.495, high 10100, low 99.99 and close 101 are not in one unit",
        ),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason_and_the_others_go_on(
    table: pd.DataFrame, rule: str, detail: str
) -> None:
    found = verdict(table)

    assert found.quarantined["rule"].tolist() == [rule]
    assert found.quarantined["severity"].tolist() == ["block"]
    assert found.quarantined["detail"].tolist() == [detail]
    assert found.counts[rule] == 1
    bad = found.quarantined["row"].tolist()
    assert found.clean["close"].tolist() == table.drop(index=bad)["close"].tolist()
    assert len(found.clean) == 4


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(spoilt(1, high=101 * (1 - 5e-7)), id="a widened float below the envelope"),
        pytest.param(spoilt(1, volume=0.0), id="no trade"),
        pytest.param(spoilt(1, volume=33305212.301887), id="fractional volume"),
        pytest.param(bars([100, 101]).assign(volume=np.nan), id="a provider without volume"),
        pytest.param(bars([1.0, 1.4, 2.0, 2.9, 2.0]), id="a wild but possible run"),
        pytest.param(bars([5, 6, 7], "GONE", date(2026, 11, 12)), id="a whole listing life"),
    ],
)
def test_what_is_unusual_but_possible_passes(table: pd.DataFrame) -> None:
    found = verdict(table)
    assert found.quarantined.empty
    assert found.warnings.empty


def test_a_row_can_break_several_rules_and_is_one_rejected_row() -> None:
    found = verdict(spoilt(1, low=-5.0, volume=-1.0, session=pd.Timestamp("2026-11-26")))

    assert broken(found) == {
        "positive_price": [1],
        "volume": [1],
        "session_membership": [1],
        "future": [1],
    }
    assert found.rejected == 1
    assert len(found.clean) == 4


def test_bars_outside_the_listing_life_are_refused() -> None:
    found = verdict(bars([5, 5.1, 5, 5.1, 5], "GONE", date(2026, 11, 13)))

    assert broken(found) == {"listing_life": [0, 4]}
    assert found.quarantined["detail"].tolist() == [
        "2026-11-09 is before the listing on 2026-11-10",
        "2026-11-13 is after the last session, 2026-11-12",
    ]


def test_identical_repetitions_are_dropped_and_noted() -> None:
    table = bars([100, 101, 102]).assign(volume=np.nan)
    table = pd.concat([table, table.iloc[[1, 1]]], ignore_index=True)
    found = verdict(table)

    assert found.clean["close"].tolist() == [100, 101, 102]
    assert found.quarantined.empty
    assert noted(found)["duplicate"] == [3, 4]
    assert set(found.warnings.loc[found.warnings["rule"] == "duplicate", "severity"]) == {"info"}


def test_of_bars_that_differ_for_one_session_none_is_believed() -> None:
    table = bars([100, 101, 102])
    table = pd.concat([table, table.iloc[[1]], table.iloc[[1]].assign(volume=7.0)], ignore_index=True)
    found = verdict(table)

    assert broken(found) == {"uniqueness": [1, 3, 4]}
    assert found.clean["close"].tolist() == [100, 102]
    assert found.counts["duplicate"] == 0


def test_two_providers_may_each_have_the_session() -> None:
    both = pd.concat([bars([100, 101]).assign(provider=name) for name in ("yahoo", "stooq")])
    found = verdict(both)

    assert found.quarantined.empty
    assert found.clean["provider"].tolist() == ["yahoo", "yahoo", "stooq", "stooq"]


def test_unordered_bars_are_put_in_order_and_noted() -> None:
    table = bars([100, 101, 102, 103]).iloc[[0, 2, 1, 3]].reset_index(drop=True)
    found = verdict(table)

    assert found.clean["close"].tolist() == [100, 101, 102, 103]
    assert noted(found) == {"order": [2]}
    assert found.warnings["severity"].tolist() == ["warn"]


@pytest.mark.parametrize(
    ("now", "provisional"),
    [
        (datetime(2026, 11, 20, 14, 30, tzinfo=UTC), True),
        (datetime(2026, 11, 20, 20, 59, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 20, 21, 0, tzinfo=UTC), False),
    ],
)
def test_a_bar_of_an_open_session_is_kept_and_marked(now: datetime, provisional: bool) -> None:
    found = verdict(bars([100, 101]), now)

    assert found.clean["provisional"].tolist() == [False, provisional]
    assert noted(found) == ({"live_bar": [1]} if provisional else {})
    assert found.quarantined.empty


def test_a_bar_before_the_opening_bell_is_refused() -> None:
    found = verdict(bars([100, 101]), datetime(2026, 11, 20, 14, 29, 59, tzinfo=UTC))
    assert broken(found) == {"future": [1]}


def test_what_the_provider_marks_as_moving_stays_provisional() -> None:
    found = verdict(spoilt(4, provisional=True))
    assert found.clean["provisional"].tolist() == [False] * 4 + [True]
    assert found.warnings["detail"].tolist() == ["the provider marked 2026-11-20 as still moving"]


def test_volume_that_is_absent_in_one_bar_only_is_noted() -> None:
    assert noted(verdict(spoilt(1, volume=np.nan))) == {"volume_gap": [1]}


def test_reasons_name_the_row_s_place_in_the_table_that_was_judged() -> None:
    table = bars([100, 101, 102, 103, 104]).iloc[[0, 1, 3, 2, 4]].reset_index(drop=True)
    table.loc[0, "symbol"] = None
    table.loc[1, "close"] = np.nan
    table.loc[3, "volume"] = np.nan
    found = verdict(table, datetime(2026, 11, 20, 20, tzinfo=UTC))

    assert broken(found) == {"schema": [0], "nulls": [1]}
    assert noted(found) == {"live_bar": [4], "order": [3], "volume_gap": [3]}


def split(day: date, ratio: float) -> CorporateAction:
    return CorporateAction("AAPL", day, ActionKind.SPLIT, ratio)


def test_pence_for_pounds_is_found_against_the_stored_close() -> None:
    previous = {"AAPL": PreviousClose(DAYS[-3], 1.0)}
    found = verdict(bars([100, 103]), previous_closes=previous)

    assert broken(found) == {"unit_error": [0, 1]}
    assert found.clean.empty


def test_a_long_run_in_the_wrong_unit_is_refused_to_its_last_bar() -> None:
    # From one to the next no bar looks wrong, and in the end the price is far from 100 times the first.
    drift = [100.0 * 1.03**step for step in range(30)]
    found = verdict(bars(drift), previous_closes={"AAPL": (DAYS[-31], 1.0)})
    assert broken(found) == {"unit_error": list(range(30))}


def test_without_a_stored_close_most_bars_say_which_unit_is_right() -> None:
    assert broken(verdict(bars([10000, 101, 102, 103, 104]))) == {"unit_error": [0]}
    assert broken(verdict(bars([100, 101, 10200, 10300, 104]))) == {"unit_error": [2, 3]}
    assert broken(verdict(bars([1, 1.01, 102, 103, 104]))) == {"unit_error": [0, 1]}


def test_after_a_unit_error_ordinary_bars_are_believed_again() -> None:
    found = verdict(bars([100, 11000, 80, 90, 100]))
    assert broken(found) == {"unit_error": [1]}


def test_a_known_split_of_a_hundred_is_no_unit_error() -> None:
    table = bars([1, 1.01, 102, 103])
    assert broken(verdict(table)) == {"unit_error": [2, 3]}
    found = verdict(table, actions=[split(DAYS[-2], 0.01)])
    assert found.quarantined.empty
    assert found.warnings.empty


def test_a_split_since_the_stored_close_is_taken_into_account() -> None:
    table, previous = bars([1.01]), {"AAPL": PreviousClose(DAYS[-2], 100.0)}

    assert broken(verdict(table, previous_closes=previous)) == {"unit_error": [0]}
    known = verdict(table, previous_closes=previous, actions=[split(DAYS[-1], 100)])
    assert known.quarantined.empty
    assert known.warnings.empty


def test_prices_that_the_provider_has_split_adjusted_are_not_adjusted_again() -> None:
    table = bars([25, 25.1, 25.2]).assign(basis="split")
    actions = [split(DAYS[-1], 4)]

    assert verdict(table, actions=actions).warnings.empty
    assert verdict(table, actions=actions, previous_closes={"AAPL": (DAYS[-4], 100.0)}).warnings.empty
    assert noted(verdict(table.assign(basis="traded"), actions=actions)) == {"return_cap": [2]}


@pytest.mark.parametrize("closes", [[100, 151, 150], [100, 49, 50]])
def test_a_move_of_more_than_half_is_noted_and_kept(closes: list[float]) -> None:
    found = verdict(bars(closes))
    assert noted(found) == {"return_cap": [1]}
    assert len(found.clean) == 3


def test_a_move_is_measured_from_the_stored_close_too() -> None:
    assert noted(verdict(bars([100]), previous_closes={"AAPL": (DAYS[-2], 60.0)})) == {"return_cap": [0]}
    assert noted(verdict(bars([100]), previous_closes={"AAPL": (DAYS[-1], 60.0)})) == {}, "not from itself"


@pytest.mark.parametrize(
    ("closes", "action"),
    [
        ([400, 101], split(DAYS[-1], 4)),
        ([1, 9.8], split(DAYS[-1], 0.1)),
        ([100, 40], CorporateAction("AAPL", DAYS[-1], ActionKind.DIVIDEND, 58.0)),
    ],
)
def test_a_move_that_an_action_explains_is_not_noted(closes: list[float], action: CorporateAction) -> None:
    assert noted(verdict(bars(closes))) == {"return_cap": [1]}
    assert noted(verdict(bars(closes), actions=[action])) == {}


def test_a_refused_row_is_no_measure_for_the_next() -> None:
    assert noted(verdict(spoilt(1, close=np.nan))) == {}


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda table: table.drop(columns=["low", "volume"]), "column low, volume is missing"),
        (lambda table: table.assign(close=["1"] * 5), "close is str, not float64"),
        (lambda table: table.assign(close=range(5)), "close is int64, not float64"),
        (lambda table: table.assign(symbol=range(5)), "symbol is int64, not str"),
        (lambda table: table.assign(provisional="no"), "provisional is str, not bool"),
        (
            lambda table: table.assign(session=table["session"].dt.tz_localize("UTC")),
            "session is datetime64[s, UTC], not datetime64[s] without a zone",
        ),
        (
            lambda table: table.assign(session="2026-11-20"),
            "session is str, not datetime64[s] without a zone",
        ),
        (lambda table: table.assign(extra=1).rename(columns={"extra": "low"}), "column low is there more than once"),
        (lambda _: pd.DataFrame({"html": ["<!DOCTYPE html>"] * 5}), "column symbol, session, open"),
    ],
)
def test_a_table_of_another_shape_is_refused_whole(spoil: Callable[[pd.DataFrame], pd.DataFrame], fault: str) -> None:
    found = verdict(spoil(bars([100, 101, 102, 103, 104])))

    assert found.clean.empty
    assert found.counts["schema"] == 5
    assert found.quarantined["row"].tolist() == [0, 1, 2, 3, 4]
    assert found.quarantined["detail"].str.startswith(fault).all()


def test_an_empty_table_has_an_empty_verdict() -> None:
    found = verdict(empty_bars())
    validate_bars(found.clean)
    assert (found.judged, found.rejected, len(found.warnings)) == (0, 0, 0)


def test_every_rule_of_a_table_is_counted_and_explained() -> None:
    assert set(verdict(empty_bars()).counts) == {rule.name for rule in RULES if rule.scope.judged}
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.explanation.endswith(".") for rule in RULES)


number = st.sampled_from([100.0, 101.0, 10000.0, 1.0, 0.0, -1.0, np.nan, np.inf, -np.inf, 1e300, 5e-324])
sessions = st.sampled_from([*DAYS[-4:], date(2026, 11, 14), date(2026, 11, 26), date(2050, 1, 3), None])


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    size = draw(st.integers(0, 12))
    column = st.lists(number, min_size=size, max_size=size)
    symbols = st.sampled_from(["AAPL", "BRK.B", "GONE", "MSFT", None])
    table = pd.DataFrame(
        {
            "symbol": pd.Series(draw(st.lists(symbols, min_size=size, max_size=size)), dtype="str"),
            "session": pd.Series(draw(st.lists(sessions, min_size=size, max_size=size)), dtype="datetime64[s]"),
            **{name: pd.Series(draw(column), dtype="float64") for name in VALUE_COLUMNS},
            "provisional": pd.Series(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype="bool"),
        }
    )
    good = draw(st.integers(0, 5))
    return pd.concat([bars([100.0] * good), table], ignore_index=True)


def test_a_price_too_small_for_a_number_is_no_unit_of_the_others() -> None:
    table = bars([100, 100, 10_000, 5e-324, 100], until=DAYS[-3])
    found = verdict(table, actions=[split(DAYS[-2], 4)])
    assert found.counts["unit_error"] == 1


@unhurried
@given(tables(), st.booleans())
def test_every_row_is_kept_refused_or_a_dropped_repetition(table: pd.DataFrame, known: bool) -> None:
    previous = {"AAPL": PreviousClose(DAYS[-8], 100.0)} if known else {}
    found = verdict(table, previous_closes=previous, actions=[split(DAYS[-2], 4)])

    assert len(found.clean) + found.rejected + found.counts["duplicate"] == len(table)
    validate_bars(found.clean)
    kept = found.clean
    assert np.isfinite(kept[["open", "high", "low", "close"]]).all(axis=None)
    assert (kept[["open", "high", "low", "close"]] > 0).all(axis=None)
    assert sum(found.counts.values()) == len(found.quarantined) + len(found.warnings)


@unhurried
@given(tables())
def test_judging_clean_bars_again_refuses_no_more(table: pd.DataFrame) -> None:
    once = verdict(table).clean
    again = verdict(once)

    pd.testing.assert_frame_equal(again.clean, once)
