"""Corporate actions of several providers made one, and what is flagged."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.claims import Agreed, Claim, Problem, Reconciled, Shown, combined, reconcile
from market_pipelines_tests.unit.market.properties import unhurried

SESSIONS = [
    day
    for day in (date(2020, 1, 1) + timedelta(days=offset) for offset in range(366))
    if day.weekday() < 5 and day != date(2020, 9, 7)
]
ORDER = ("yahoo", "alpha_vantage", "polygon")
SPLIT_DAY = date(2020, 8, 31)
WHOLE = (date(2020, 1, 1), date(2020, 12, 31))


def split(day: date = SPLIT_DAY, value: float = 4.0) -> CorporateAction:
    return CorporateAction("AAPL", day, ActionKind.SPLIT, value)


def dividend(day: date, value: float) -> CorporateAction:
    return CorporateAction("AAPL", day, ActionKind.DIVIDEND, value)


def says(provider: str, *actions: CorporateAction) -> list[Claim]:
    return [Claim(provider, action) for action in actions]


def shows(*providers: str, start: date = WHOLE[0], end: date = WHOLE[1]) -> list[Shown]:
    return [Shown("AAPL", provider, start, end) for provider in providers]


def settled(
    claims: list[Claim],
    shown: list[Shown],
    standing: dict[tuple[str, date, ActionKind], tuple[str, float]] | None = None,
) -> Reconciled:
    return reconcile(claims, shown, ORDER, SESSIONS, standing)


def problems(result: Reconciled) -> list[tuple[Problem, bool, tuple[str, ...], tuple[str, ...]]]:
    return [(flag.problem, flag.used, flag.claimed_by, flag.denied_by) for flag in result.flags]


def taken(result: Reconciled) -> list[tuple[date, float, str]]:
    return [(one.action.ex_date, one.action.value, one.provider) for one in result.agreed]


def test_what_one_provider_says_is_taken_as_it_is() -> None:
    said = [split(), dividend(date(2020, 2, 7), 0.77), dividend(date(2020, 5, 8), 0.82)]
    result = settled(says("yahoo", *said), shows("yahoo"))
    assert sorted(one.action for one in result.agreed) == sorted(said)
    assert result.flags == ()


def test_two_that_say_the_same_are_one_action_by_the_first_of_the_order() -> None:
    result = settled([*says("polygon", split()), *says("yahoo", split())], shows("yahoo", "polygon"))
    assert result.agreed == (Agreed(split(), "yahoo", ("yahoo", "polygon")),)
    assert result.flags == ()


def test_a_split_that_another_would_have_shown_is_flagged() -> None:
    result = settled(says("yahoo", split()), shows("yahoo", "alpha_vantage"))
    assert problems(result) == [(Problem.UNCONFIRMED, True, ("yahoo",), ("alpha_vantage",))]
    assert "alpha_vantage shows 2020-01-01 to 2020-12-31 without it" in result.flags[0].detail
    assert taken(result) == [(SPLIT_DAY, 4.0, "yahoo")]


def test_the_factor_of_a_spin_off_is_told_from_a_split() -> None:
    result = settled(says("yahoo", split(value=1.046)), shows("yahoo", "polygon"))
    assert "yahoo: 1.046 on 2020-08-31, which is a spin-off rather than a split" in result.flags[0].detail


def test_an_action_that_the_first_provider_denies_does_not_count() -> None:
    result = settled(says("alpha_vantage", split()), shows("yahoo", "alpha_vantage"))
    assert problems(result) == [(Problem.UNCONFIRMED, False, ("alpha_vantage",), ("yahoo",))]
    assert result.agreed == ()


def test_two_against_one_win_whoever_comes_first() -> None:
    claims = [*says("alpha_vantage", split()), *says("polygon", split())]
    result = settled(claims, shows(*ORDER))
    assert taken(result) == [(SPLIT_DAY, 4.0, "alpha_vantage")]
    assert problems(result) == [(Problem.UNCONFIRMED, True, ("alpha_vantage", "polygon"), ("yahoo",))]


@pytest.mark.parametrize(
    "shown",
    [
        shows("alpha_vantage", end=SPLIT_DAY),
        shows("alpha_vantage", end=SPLIT_DAY - timedelta(days=30)),
        shows("alpha_vantage", start=SPLIT_DAY + timedelta(days=1)),
        [Shown("MSFT", "alpha_vantage", *WHOLE)],
    ],
    ids=["covers up to the very day", "ends before", "begins after", "another symbol"],
)
def test_who_does_not_cover_the_day_denies_nothing(shown: list[Shown]) -> None:
    assert settled(says("yahoo", split()), [*shows("yahoo"), *shown]).flags == ()


@pytest.mark.parametrize(
    ("one", "other"), [(0.82, 0.8201), (0.205, 0.2075), (0.01, 0.0104)], ids=["digits", "cents", "small"]
)
def test_amounts_within_rounding_agree(one: float, other: float) -> None:
    day = date(2020, 5, 8)
    result = settled([*says("yahoo", dividend(day, one)), *says("polygon", dividend(day, other))], shows(*ORDER[::2]))
    assert taken(result) == [(day, one, "yahoo")]
    assert result.flags == ()


def test_amounts_that_differ_are_flagged_and_most_voices_win() -> None:
    day = date(2020, 5, 8)
    claims = [*says("yahoo", dividend(day, 0.205)), *says("polygon", dividend(day, 0.82))]
    result = settled(claims, shows("yahoo", "polygon"))
    assert problems(result) == [(Problem.VALUE, True, ("yahoo", "polygon"), ())]
    assert result.flags[0].detail == "yahoo: 0.205 on 2020-05-08; polygon: 0.82 on 2020-05-08"
    assert taken(result) == [(day, 0.205, "yahoo")]
    three = settled([*claims, *says("alpha_vantage", dividend(day, 0.82))], shows(*ORDER))
    assert taken(three) == [(day, 0.82, "alpha_vantage")]


def test_a_ratio_of_whole_numbers_is_the_decimal_that_another_writes() -> None:
    claims = [*says("yahoo", split(value=1046 / 1000)), *says("alpha_vantage", split(value=1.046))]
    assert settled(claims, shows("yahoo", "alpha_vantage")).flags == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [(date(2020, 8, 28), date(2020, 8, 31)), (date(2020, 9, 4), date(2020, 9, 8)), (date(2020, 8, 29), SPLIT_DAY)],
    ids=["over a weekend", "over a holiday", "on a Saturday"],
)
def test_days_a_session_apart_are_one_action(first: date, second: date) -> None:
    for one, other in permutations((first, second)):
        result = settled([*says("yahoo", split(one)), *says("polygon", split(other))], shows("yahoo", "polygon"))
        assert problems(result) == [(Problem.EX_DATE, True, ("yahoo", "polygon"), ())]
        assert taken(result) == [(one, 4.0, "yahoo")]


def test_the_day_that_most_say_is_taken() -> None:
    claims = [*says("yahoo", split(date(2020, 8, 28))), *says("alpha_vantage", split()), *says("polygon", split())]
    result = settled(claims, shows(*ORDER))
    assert taken(result) == [(SPLIT_DAY, 4.0, "alpha_vantage")]


def test_two_sessions_apart_are_two_actions() -> None:
    claims = [*says("yahoo", split(date(2020, 8, 27))), *says("polygon", split())]
    result = settled(claims, shows("yahoo", "polygon"))
    assert [flag.problem for flag in result.flags] == [Problem.UNCONFIRMED, Problem.UNCONFIRMED]
    assert taken(result) == [(date(2020, 8, 27), 4.0, "yahoo")]


def test_dividends_of_two_days_in_a_row_stay_two() -> None:
    days = date(2020, 5, 7), date(2020, 5, 8)
    claims = [Claim(name, dividend(day, 0.5)) for name in ("yahoo", "polygon") for day in days]
    result = settled(claims, shows("yahoo", "polygon"))
    assert [one.action.ex_date for one in result.agreed] == list(days)
    assert result.flags == ()


def test_what_stands_stays_while_its_provider_says_it() -> None:
    day = date(2020, 5, 8)
    claims = [*says("yahoo", dividend(day, 0.82)), *says("polygon", dividend(day, 0.8201))]
    standing = {("AAPL", day, ActionKind.DIVIDEND): ("polygon", 0.8201)}
    assert taken(settled(claims, shows("yahoo", "polygon"), standing)) == [(day, 0.8201, "polygon")]
    gone = {("AAPL", day, ActionKind.DIVIDEND): ("polygon", 0.79)}
    assert taken(settled(claims, shows("yahoo", "polygon"), gone)) == [(day, 0.82, "yahoo")]


def test_made_up_answers_stand_where_their_provider_does() -> None:
    claims = [*says("simulated-polygon", split()), *says("simulated-yahoo", split())]
    assert settled(claims, []).agreed[0].provider == "simulated-yahoo"


def test_dividends_of_one_day_add_up_and_splits_follow_each_other() -> None:
    day = date(2020, 5, 8)
    said = [dividend(day, 0.5), dividend(day, 1.0), split(day, 2.0), split(day, 3.0)]
    assert [(one.kind, one.value) for one in combined(said)] == [(ActionKind.DIVIDEND, 1.5), (ActionKind.SPLIT, 6.0)]


ACTIONS = st.lists(
    st.builds(
        CorporateAction,
        st.sampled_from(["AAPL", "MSFT"]),
        st.sampled_from(SESSIONS),
        st.sampled_from(ActionKind),
        st.floats(0.01, 100.0),
    ),
    max_size=12,
)


@unhurried
@given(ACTIONS)
def test_a_single_provider_is_never_contradicted(actions: list[CorporateAction]) -> None:
    said = combined(actions)
    result = settled(says("yahoo", *said), [Shown(name, "yahoo", *WHOLE) for name in ("AAPL", "MSFT")])
    assert sorted(one.action for one in result.agreed) == sorted(said)
    assert result.flags == ()


@unhurried
@given(ACTIONS, ACTIONS, ACTIONS)
def test_the_order_in_which_claims_are_read_does_not_matter(
    one: list[CorporateAction], two: list[CorporateAction], three: list[CorporateAction]
) -> None:
    claims = [
        claim for name, said in zip(ORDER, (one, two, three), strict=True) for claim in says(name, *combined(said))
    ]
    shown = [Shown(symbol, name, *WHOLE) for symbol in ("AAPL", "MSFT") for name in ORDER]
    straight = settled(claims, shown)
    assert settled(claims[::-1], shown[::-1]) == straight
    keys = [(entry.action.symbol, entry.action.ex_date, entry.action.kind) for entry in straight.agreed]
    assert len(keys) == len(set(keys))
    assert {(entry.provider, entry.action) for entry in straight.agreed} <= {(c.provider, c.action) for c in claims}
    flagged = [(flag.symbol, flag.ex_date, flag.kind, flag.problem) for flag in straight.flags]
    assert len(flagged) == len(set(flagged))
