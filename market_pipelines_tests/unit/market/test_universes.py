"""Dated lists of index members: what is read, what is refused, and who is a member on a day."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.universes import (
    Universe,
    UniverseFileError,
    UnknownUniverse,
    canonical,
    read_universe,
)
from market_pipelines_tests.unit.market.properties import unhurried

HEAD = """\
# title: Big ones
# exchange: XWAR
# index: BIG
# as_of: 2026-03-23
# source: mine = a list of my own
# note: made up
symbol,name,valid_from,valid_to,source
"""
ROWS = """\
ALE,Allegro.eu,2020-10-12,2020-12-18,mine
ALE,Allegro.eu,2025-12-22,,mine
CCC,"CCC, once",2020-10-12,2026-03-20,mine
"""


def read(rows: str, head: str = HEAD) -> Universe:
    return read_universe("big", head + rows, "big.csv")


def refusal(rows: str, head: str = HEAD) -> str:
    with pytest.raises(UniverseFileError) as caught:
        read(rows, head)
    return str(caught.value)


def test_a_file_becomes_a_universe() -> None:
    universe = read(ROWS)
    assert (universe.name, universe.title, universe.exchange, universe.index) == ("big", "Big ones", "XWAR", "BIG")
    assert universe.as_of == date(2026, 3, 23)
    assert universe.sources == ("mine = a list of my own",)
    assert [(one.symbol, one.name, one.valid_to) for one in universe.members] == [
        ("ALE", "Allegro.eu", date(2020, 12, 18)),
        ("ALE", "Allegro.eu", None),
        ("CCC", "CCC, once", date(2026, 3, 20)),
    ]


@pytest.mark.parametrize(
    ("day", "members"),
    [
        (date(2020, 10, 11), []),
        (date(2020, 10, 12), ["ALE", "CCC"]),
        (date(2020, 12, 18), ["ALE", "CCC"]),
        (date(2020, 12, 19), ["CCC"]),
        (date(2025, 12, 22), ["ALE", "CCC"]),
        (date(2026, 3, 20), ["ALE", "CCC"]),
        (date(2026, 3, 21), ["ALE"]),
        (date(2030, 1, 1), ["ALE"]),
    ],
)
def test_membership_counts_both_its_first_and_its_last_day(day: date, members: list[str]) -> None:
    assert [one.symbol for one in read(ROWS).on(day)] == members


def test_days_that_no_row_covers_are_told_from_days_without_members() -> None:
    gap = "A,,2020-01-01,2020-06-30,mine\nB,,2020-07-01,2020-12-31,mine\nC,,2025-01-01,,mine\n"
    assert read(gap).spans == ((date(2020, 1, 1), date(2020, 12, 31)), (date(2025, 1, 1), None))
    assert [one.symbol for one in read(gap).today] == ["C"]


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        ("ALE,x,2020-01-01,,mine\nALE,x,2021-01-01,,mine\n", 9, "overlaps line 8"),
        ("ALE,x,2021-01-01,2021-06-01,mine\nALE,x,2020-01-01,2021-01-01,mine\n", 8, "overlaps line 9"),
        ("ALE,x,2021-01-01,2020-01-01,mine\n", 8, "valid_to 2020-01-01 is before valid_from 2021-01-01"),
        ("ALE,x,soon,,mine\n", 8, "valid_from: read 'soon'; accepted: YYYY-MM-DD"),
        ("ale,x,2020-01-01,,mine\n", 8, "symbol: read 'ale'"),
        ("ALE,x,2020-01-01,,\n", 8, "ALE has no source"),
        ("ALE,x,2020-01-01\n", 8, "has 3 columns"),
        ('ALE,"x,2020-01-01,,mine\n', 8, "is not CSV"),
        ("", 7, "lists nobody"),
    ],
)
def test_a_wrong_row_is_refused_with_file_and_line(rows: str, line: int, said: str) -> None:
    message = refusal(rows)
    assert message.startswith(f"big.csv:{line}: ")
    assert said in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# title: Big ones\n", "", "big.csv:1: does not say title"),
        ("# source: mine = a list of my own\n", "", "does not say source"),
        ("as_of: 2026-03-23", "as_of: spring", "as_of: read 'spring'"),
        ("# note: made up\n", "# colour: red\n", "big.csv:6: read '# colour: red'; accepted: "),
        ("# note: made up\n", "# title: twice\n", "big.csv:6: read '# title: twice'"),
        ("symbol,name", "ticker,name", "big.csv:7: read 'ticker,name"),
    ],
)
def test_a_wrong_head_is_refused(old: str, new: str, said: str) -> None:
    assert old in HEAD
    assert said in refusal(ROWS, HEAD.replace(old, new))


def test_a_name_is_found_in_any_case_and_by_its_alias() -> None:
    known = ("sp500", "swig80", "mwig40")
    assert canonical("SP500", known) == "sp500"
    assert canonical("wig80", known) == "swig80"
    assert canonical("MW40", known) == "mwig40"
    with pytest.raises(
        UnknownUniverse, match=r"'dax' is not known; there are mwig40, sp500, swig80 \(mw40 = .*, wig80 = swig80\)"
    ):
        canonical("dax", known)


DAYS = st.dates(date(2000, 1, 1), date(2030, 12, 31))


@st.composite
def stays(draw: st.DrawFn) -> list[tuple[str, date, date | None]]:
    """Stays of a few symbols that do not overlap."""
    found: list[tuple[str, date, date | None]] = []
    for symbol in draw(st.lists(st.sampled_from("ABCDEF"), unique=True, min_size=1)):
        cuts = sorted(draw(st.lists(DAYS, unique=True, min_size=2, max_size=6)))
        pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
        found += [(symbol, start, end - timedelta(days=1)) for start, end in pairs]
        if len(cuts) % 2:
            found.append((symbol, cuts[-1], None))
    return found


def csv_of(rows: list[tuple[str, date, date | None]]) -> str:
    return "".join(f"{symbol},,{start},{end or ''},mine\n" for symbol, start, end in rows)


@unhurried
@given(stays(), DAYS, st.randoms(use_true_random=False))
def test_whoever_stays_over_a_day_is_a_member_of_it(
    rows: list[tuple[str, date, date | None]], day: date, shuffle: Random
) -> None:
    mixed = list(rows)
    shuffle.shuffle(mixed)
    universe = read(csv_of(mixed))
    expected = sorted(symbol for symbol, start, end in rows if start <= day and (end is None or day <= end))
    assert [one.symbol for one in universe.on(day)] == expected
    covered = any(start <= day and (end is None or day <= end) for start, end in universe.spans)
    assert covered is bool(expected)


@unhurried
@given(stays(), DAYS)
def test_a_stay_within_another_of_the_same_symbol_is_always_refused(
    rows: list[tuple[str, date, date | None]], day: date
) -> None:
    symbol, start, end = rows[0]
    inside = min(max(day, start), end or day)
    inside = max(inside, start)
    assert "overlaps" in refusal(csv_of([*rows, (symbol, inside, inside)]))


@unhurried
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        universe = read_universe("any", text, "any.csv")
    except UniverseFileError as error:
        assert str(error).startswith("any.csv:")
    else:
        assert universe.members
