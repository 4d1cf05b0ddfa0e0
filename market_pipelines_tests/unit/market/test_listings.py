"""What a new list of an exchange means for the companies that are known."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.instruments import Kind
from market_pipelines.market.listings import Bearer, Gone, compare, kind_of, names_alike, same_company
from market_pipelines.market.records import Listed
from market_pipelines_tests.unit.market.properties import unhurried

US = "polygon"
APPLE = Listed("AAPL", "AAPL", "Apple Inc.", "XNAS", "equity", True, date(1980, 12, 12), figi="BBG000B9XRY4")
TWITTER = Listed("TWTR", "TWTR", "Twitter, Inc.", "XNYS", "equity", True, date(2013, 11, 7), figi="BBG000H6HNW3")
META = Listed("META", "META", "Meta Platforms, Inc.", "XNAS", "equity", True, date(2012, 5, 18), figi="BBG000MM2P62")


def bearer(line: Listed, **changed: object) -> Bearer:
    one = Bearer(
        line.symbol,
        line.name,
        followed=False,
        listed_by=US,
        figi=line.figi,
        venue=line.exchange,
        security_type=line.kind,
        listed_from=line.listed_from,
    )
    return replace(one, **changed)  # type: ignore[arg-type]  # of fields that it has


def others(count: int) -> list[Listed]:
    return [Listed(f"X{n:03}", f"X{n:03}", f"Company {n:03}", "XNYS", "equity", True) for n in range(count)]


def test_the_first_list_is_all_new() -> None:
    changes = compare([], [APPLE, META], US)
    assert changes.new == (APPLE, META)
    assert (changes.gone, changes.held) == ((), "")


def test_the_same_list_again_changes_nothing() -> None:
    changes = compare([bearer(APPLE), bearer(META)], [META, APPLE], US)
    assert changes.unchanged == 2
    assert (changes.new, changes.changed, changes.gone, changes.reused, changes.renamed) == ((), (), (), (), ())


def test_a_share_of_the_market_file_is_new_on_its_first_list() -> None:
    assert compare([Bearer("AAPL", "Apple Inc.")], [APPLE], US).new == (APPLE,)


def test_what_the_list_lacks_is_gone_with_the_day_that_the_provider_gives() -> None:
    ended = replace(TWITTER, active=False, delisted_on=date(2022, 10, 27))
    changes = compare([bearer(APPLE), bearer(TWITTER)], [APPLE], US, delisted=[ended])
    assert changes.gone == (Gone(bearer(TWITTER), date(2022, 10, 27)),)
    assert compare([bearer(APPLE), bearer(TWITTER)], [APPLE], US).gone == (Gone(bearer(TWITTER), None),)


def test_nobody_is_gone_that_only_another_provider_listed() -> None:
    stored = [bearer(APPLE), bearer(TWITTER, listed_by="alpha_vantage"), Bearer("IBM", "IBM")]
    assert compare(stored, [APPLE], US).gone == ()


@pytest.mark.parametrize(("lacking", "held"), [(10, False), (11, True), (100, True)])
def test_a_list_that_is_short_by_more_than_a_tenth_delists_nobody(lacking: int, held: bool) -> None:
    known = others(100)
    changes = compare([bearer(line) for line in known], [*known[lacking:], APPLE], US)
    assert bool(changes.held) is held
    assert len(changes.gone) == (0 if held else lacking)
    assert changes.lacking == lacking
    assert changes.new == (APPLE,)


def test_an_empty_list_delists_nobody_however_few_are_known() -> None:
    changes = compare([bearer(APPLE)], [], US)
    assert (changes.gone, changes.lacking) == ((), 1)
    assert changes.held == "the list is empty, and 1 companies were on the last one"


def test_the_same_figi_under_another_ticker_is_a_renaming() -> None:
    facebook = bearer(META, symbol="FB", name="Facebook, Inc.")
    changes = compare([facebook, bearer(APPLE)], [META, APPLE], US)
    assert changes.renamed == ((facebook, META),)
    assert (changes.new, changes.gone, changes.lacking) == ((), (), 0)


def test_renamings_do_not_count_towards_a_short_list() -> None:
    known = [replace(line, figi=f"F{n}") for n, line in enumerate(others(40))]
    new = [replace(line, native=f"Y{n}", symbol=f"Y{n}") for n, line in enumerate(known)]
    changes = compare([bearer(line) for line in known], new, US)
    assert (len(changes.renamed), changes.held) == (40, "")


def test_another_figi_under_the_same_ticker_is_another_company() -> None:
    newcomer = replace(TWITTER, name="Twitter Holdings", figi="BBG00NEW0001", listed_from=date(2026, 1, 5))
    assert compare([bearer(TWITTER)], [newcomer], US).reused == ((bearer(TWITTER), newcomer),)


@pytest.mark.parametrize(
    ("stored", "line", "same"),
    [
        (bearer(META, figi="", name="Facebook, Inc."), replace(META, figi=""), True),
        (bearer(META, figi="", active=False), replace(META, figi="", name="Metal Works plc"), False),
        (bearer(META, figi="", active=False), replace(META, figi="", name="META PLATFORMS"), True),
        (bearer(META, figi=""), replace(META, figi="", name="Roundhill Ball ETF", listed_from=date(2022, 6, 9)), False),
        (bearer(META, figi=""), replace(META, figi="", name="Meta Platforms A", listed_from=date(2022, 6, 9)), True),
        (
            bearer(META, figi="", delisted_on=date(2020, 1, 1)),
            replace(META, figi="", listed_from=date(2022, 6, 9)),
            False,
        ),
        (bearer(META, name=""), replace(META, figi=""), True),
    ],
    ids=[
        "a new name of one that trades",
        "another name of one that did not trade any more",
        "the same name after a pause",
        "another name listed ten years later",
        "the same name listed ten years later",
        "listed after the delisting",
        "a name that was not known",
    ],
)
def test_without_figi_names_and_days_tell_companies_apart(stored: Bearer, line: Listed, same: bool) -> None:
    assert same_company(stored, line) is same


def test_a_new_name_or_venue_is_a_change_of_the_same_company() -> None:
    moved = replace(APPLE, name="Apple Computer", exchange="XNYS")
    assert compare([bearer(APPLE)], [moved], US).changed == (moved,)


def test_the_name_in_the_market_file_is_not_changed_by_a_list() -> None:
    stored = bearer(APPLE, followed=True, name="Apple")
    assert compare([stored], [APPLE], US).unchanged == 1


def test_one_that_is_listed_again_is_a_change() -> None:
    assert compare([bearer(APPLE, active=False)], [APPLE], US).changed == (APPLE,)


def test_lines_that_cannot_be_used_are_refused_by_name() -> None:
    broken = replace(APPLE, native="-P-HIZ", symbol="-P-HIZ")
    spaced = replace(APPLE, native="ACWV:BAT", symbol="ACWV:BAT")
    changes = compare([], [APPLE, broken, spaced, replace(APPLE, native="AAPL.")], US)
    assert changes.new == (APPLE,)
    assert changes.refused == (
        ("-P-HIZ", "is not a symbol"),
        ("ACWV:BAT", "is not a symbol"),
        ("AAPL.", "AAPL is on the list twice"),
    )


def test_indices_are_no_companies() -> None:
    assert compare([], [replace(APPLE, kind="index")], US).new == ()


def test_delisted_companies_of_old_are_remembered_beside_todays_bearer() -> None:
    old = Listed("META", "META", "Metallurg Inc", "XNYS", "equity", False, date(1995, 1, 3), date(1999, 6, 30))
    unknown = Listed("LEH", "LEH", "Lehman Brothers", "XNYS", "equity", False, date(1994, 5, 2), date(2008, 9, 17))
    known = replace(TWITTER, active=False, delisted_on=date(2022, 10, 27))
    stored = [bearer(META), bearer(TWITTER, active=False, delisted_on=date(2022, 10, 27))]
    assert compare(stored, [META], US, delisted=[old, unknown, known]).past == (old, unknown)


def test_only_funds_that_trade_as_etf_are_a_kind_of_their_own() -> None:
    assert kind_of("etf") is Kind.ETF
    assert {kind_of(name) for name in ("equity", "preferred", "warrant", "other")} == {Kind.EQUITY}


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Apple Inc.", "APPLE INC", True),
        ("Apple Inc.", "Acme Inc.", False),
        ("The Walt Disney Company", "Disney (Walt) Co", True),
        ("", "Anything", True),
        ("Grupa Kęty", "KĘTY S.A.", True),
        ("Holding SA", "Group SA", False),
    ],
)
def test_names_are_compared_by_the_words_that_say_something(one: str, other: str, alike: bool) -> None:
    assert names_alike(one, other) is alike


LINES = st.lists(
    st.builds(
        Listed,
        native=st.just(""),
        symbol=st.sampled_from([f"S{n}" for n in range(40)]),
        name=st.sampled_from(["Alpha", "Beta", "Gamma", ""]),
        exchange=st.just("XNYS"),
        kind=st.sampled_from(["equity", "etf", "index"]),
        active=st.just(True),
        figi=st.sampled_from(["", "F1", "F2", "F3"]),
    ),
    max_size=40,
)


@unhurried
@given(LINES, LINES)
def test_every_known_company_is_told_of_exactly_once(before: list[Listed], after: list[Listed]) -> None:
    first = compare([], before, US)
    stored = [bearer(line) for line in first.new]
    changes = compare(stored, after, US)
    told = [
        *(gone.bearer.symbol for gone in changes.gone),
        *(one.symbol for one, _ in changes.renamed),
        *(one.symbol for one, _ in changes.reused),
        *(line.symbol for line in changes.changed),
    ]
    assert len(told) == len(set(told))
    kept = len(stored) - len(told) - changes.unchanged
    assert kept == (changes.lacking if changes.held else 0)
    again = compare([bearer(line) for line in compare([], after, US).new], after, US)
    assert (again.new, again.changed, again.gone, again.reused, again.renamed) == ((), (), (), (), ())
