"""Which ranges a backfill asks for: every lacking session, in few requests, with few rows that are there already."""

import itertools
from datetime import date, timedelta
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.stretches import LONGEST_AT_ONCE, months, stretches

SESSIONS = [date(2024, 1, 1) + timedelta(days=number) for number in range(1000)]


def one(_start: date, _end: date) -> int:
    return 1


def days(*numbers: int) -> list[date]:
    return [SESSIONS[number] for number in numbers]


def positions(found: tuple[tuple[date, date], ...]) -> list[tuple[int, int]]:
    return [(SESSIONS.index(start), SESSIONS.index(end)) for start, end in found]


def test_what_lies_before_and_after_the_stored_years_is_two_ranges() -> None:
    lacking = SESSIONS[:100] + SESSIONS[800:]
    assert positions(stretches(lacking, SESSIONS, one)) == [(0, 99), (800, 999)]


def test_a_small_gap_is_fetched_again_rather_than_asked_around() -> None:
    assert positions(stretches(days(0, 1, 5, 6), SESSIONS, one)) == [(0, 6)]
    assert positions(stretches(days(0, 500), SESSIONS, one, rows_a_call=498)) == [(0, 0), (500, 500)]
    assert positions(stretches(days(0, 500), SESSIONS, one, rows_a_call=499)) == [(0, 500)]


def test_where_calls_are_few_or_answers_reach_the_present_anyway_there_is_one_range() -> None:
    lacking = SESSIONS[:1] + SESSIONS[-1:]
    assert positions(stretches(lacking, SESSIONS, one, rows_a_call=inf)) == [(0, 999)]
    assert positions(stretches(lacking, SESSIONS, one, open_ended=True)) == [(0, 999)]


def test_a_provider_that_is_paid_by_the_span_saves_nothing_by_a_longer_one() -> None:
    def by_month(start: date, end: date) -> int:
        return (end.year - start.year) * 12 + end.month - start.month + 1

    lacking = [date(2024, 1, 5), date(2024, 1, 9), date(2024, 4, 2)]
    assert stretches(lacking, SESSIONS, by_month) == (
        (date(2024, 1, 5), date(2024, 1, 9)),
        (date(2024, 4, 2), date(2024, 4, 2)),
    )


def test_nothing_lacking_is_nothing_to_ask() -> None:
    assert stretches([], SESSIONS, one) == ()


@given(
    st.sets(st.sampled_from(SESSIONS[:200])),
    st.floats(0, 300),
    st.booleans(),
)
def test_every_lacking_session_is_in_a_range_and_ranges_begin_and_end_with_one(
    lacking: set[date], rows_a_call: float, open_ended: bool
) -> None:
    found = stretches(lacking, SESSIONS, one, rows_a_call=rows_a_call, open_ended=open_ended)
    covered = {day for start, end in found for day in SESSIONS if start <= day <= end}
    assert lacking <= covered
    assert {edge for span in found for edge in span} <= lacking
    assert list(found) == sorted(found)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))
    assert len(covered) - len(lacking) <= max(0, len(found) * 200 if open_ended else len(lacking) * rows_a_call)


@pytest.mark.parametrize("length", [1, 62, 63, 100, 400])
def test_a_long_range_is_split_where_months_end_and_nothing_is_lost(length: int) -> None:
    start = date(2024, 1, 17)
    end = start + timedelta(days=length - 1)
    pieces = months(start, end)
    assert (pieces[0][0], pieces[-1][1]) == (start, end)
    assert all(after[0] - before[1] == timedelta(days=1) for before, after in itertools.pairwise(pieces))
    assert len(pieces) == 1 or all(first.month == last.month for first, last in pieces)
    assert (len(pieces) == 1) == (end - start <= LONGEST_AT_ONCE)
