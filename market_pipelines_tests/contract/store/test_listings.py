"""Lists of an exchange in the database: who is active, who bore a ticker when, and what the market file may say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

import pytest

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.listings import compare
from market_pipelines.market.records import Listed
from market_pipelines.store.database import Database
from market_pipelines.store.listings import BearerPeriod, read_bearers, read_listing_history, write_listings
from market_pipelines.store.reference import read_instruments, write_instruments
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST

ON = date(2026, 3, 2)
NEXT = date(2026, 3, 9)
APPLE = Listed("AAPL", "AAPL", "Apple Inc.", "XNAS", "equity", True, date(1980, 12, 12), figi="BBG000B9XRY4")
META = Listed("FB", "FB", "Facebook, Inc.", "XNAS", "equity", True, date(2012, 5, 18), figi="BBG000MM2P62")
TWITTER = Listed("TWTR", "TWTR", "Twitter, Inc.", "XNYS", "equity", True, date(2013, 11, 7), figi="BBG000H6HNW3")
FUND = Listed("SPY", "SPY", "SPDR S&P 500", "ARCX", "etf", True, date(1993, 1, 29), figi="BBG000BDTBL9")
ALL = [APPLE, META, TWITTER, FUND]
FILE = (Instrument("AAPL", "us", "XNYS", "USD", "Apple"),)
MARKET = MarketDefinition("us", "United States", "XNYS", "USD", date(1990, 1, 2), ("yahoo",), FILE, (), (), 30)


def sync(database: Database, lines: Sequence[Listed], on: date, at: datetime, delisted: Sequence[Listed] = ()) -> None:
    with database.connection() as connection:
        changes = compare(read_bearers(connection, "us"), lines, "polygon", delisted=delisted)
        assert not changes.held
        write_listings(connection, MARKET, changes, "polygon", on, at)


def history(database: Database, *symbols: str) -> list[BearerPeriod]:
    with database.connection() as connection:
        return read_listing_history(connection, "us", symbols)


def active(database: Database) -> list[str]:
    with database.connection() as connection:
        return [one.symbol for one in read_bearers(connection, "us") if one.active]


@pytest.fixture
def listed(fresh_database: Database) -> Database:
    """The market file's share, and the first list of the exchange."""
    with fresh_database.connection() as connection:
        write_instruments(connection, FILE, KNOWN, deactivate_others_of="us")
    sync(fresh_database, ALL, ON, KNOWN)
    return fresh_database


def test_a_list_fills_stocks_and_the_history(listed: Database) -> None:
    assert active(listed) == ["AAPL", "FB", "SPY", "TWTR"]
    with listed.connection() as connection:
        found = {one.symbol: one for one in read_bearers(connection, "us")}
        kinds = {one.symbol: str(one.kind) for one in read_instruments(connection, "us")}
    assert found["FB"].venue == "XNAS"
    assert (found["FB"].figi, found["FB"].listed_by, found["FB"].followed) == ("BBG000MM2P62", "polygon", False)
    assert kinds == {"AAPL": "equity", "FB": "equity", "SPY": "etf", "TWTR": "equity"}
    assert [(one.symbol, one.valid_from, one.valid_to) for one in history(listed)] == [
        ("AAPL", date(1980, 12, 12), None),
        ("FB", date(2012, 5, 18), None),
        ("SPY", date(1993, 1, 29), None),
        ("TWTR", date(2013, 11, 7), None),
    ]


def test_the_name_in_the_market_file_stays_and_the_list_fills_in_the_rest(listed: Database) -> None:
    with listed.connection() as connection:
        before = next(one for one in read_bearers(connection, "us") if one.symbol == "AAPL")
        again = write_instruments(connection, FILE, LATER, deactivate_others_of="us")
        after = next(one for one in read_bearers(connection, "us") if one.symbol == "AAPL")
    assert (before.name, before.listed_from, before.followed) == ("Apple", date(1980, 12, 12), True)
    assert after == before
    assert (again.unchanged, again.removed) == (1, 0)
    assert active(listed) == ["AAPL", "FB", "SPY", "TWTR"]


def test_the_same_list_again_touches_no_row(listed: Database) -> None:
    sync(listed, ALL, NEXT, LATER)
    with listed.connection() as connection:
        stamps = connection.execute("SELECT DISTINCT updated_at FROM market.stocks").fetchall()
    assert stamps == [(KNOWN,)]
    assert len(history(listed)) == 4


def test_a_delisting_is_soft_and_has_its_day(listed: Database) -> None:
    ended = replace(TWITTER, active=False, delisted_on=date(2022, 10, 27))
    sync(listed, [APPLE, META, FUND], NEXT, LATER, [ended])
    assert active(listed) == ["AAPL", "FB", "SPY"]
    with listed.connection() as connection:
        gone = next(one for one in read_instruments(connection, "us", active_only=False) if one.symbol == "TWTR")
    assert gone.delisted_on == date(2022, 10, 27)
    (period,) = history(listed, "TWTR")
    assert (period.valid_to, period.ended_by) == (date(2022, 10, 27), "delisted")
    sync(listed, [APPLE, META, FUND], NEXT, LATEST, [ended])
    assert history(listed, "TWTR") == [period]


def test_one_that_is_only_missing_vanished_the_day_before_and_may_return(listed: Database) -> None:
    sync(listed, [APPLE, META, FUND], NEXT, LATER)
    (period,) = history(listed, "TWTR")
    assert (period.valid_to, period.ended_by) == (date(2026, 3, 8), "vanished")
    sync(listed, ALL, date(2026, 3, 16), LATEST)
    assert "TWTR" in active(listed)
    assert [(one.valid_from, one.valid_to) for one in history(listed, "TWTR")] == [
        (date(2013, 11, 7), date(2026, 3, 8)),
        (date(2026, 3, 16), None),
    ]


def test_a_renaming_ends_one_ticker_and_begins_another(listed: Database) -> None:
    renamed = replace(META, native="META", symbol="META", name="Meta Platforms, Inc.")
    sync(listed, [APPLE, TWITTER, FUND, renamed], NEXT, LATER)
    (old,), (new,) = history(listed, "FB"), history(listed, "META")
    assert (old.valid_to, old.ended_by, old.other_symbol) == (date(2026, 3, 8), "renamed", "META")
    assert (new.valid_from, new.valid_to, new.figi) == (NEXT, None, "BBG000MM2P62")
    assert active(listed) == ["AAPL", "META", "SPY", "TWTR"]


def test_a_ticker_that_goes_to_another_company_keeps_both_apart(listed: Database) -> None:
    heir = Listed("TWTR", "TWTR", "Twin Tree Ltd", "XNYS", "equity", True, date(2026, 3, 5), figi="BBG00HEIR001")
    sync(listed, [APPLE, META, FUND, heir], NEXT, LATER)
    assert [(one.name, one.valid_from, one.valid_to, one.ended_by) for one in history(listed, "TWTR")] == [
        ("Twitter, Inc.", date(2013, 11, 7), date(2026, 3, 4), "reused"),
        ("Twin Tree Ltd", date(2026, 3, 5), None, ""),
    ]
    with listed.connection() as connection:
        bearer = next(one for one in read_bearers(connection, "us") if one.symbol == "TWTR")
    assert (bearer.name, bearer.listed_from, bearer.figi, bearer.active) == (
        "Twin Tree Ltd",
        date(2026, 3, 5),
        "BBG00HEIR001",
        True,
    )


def test_an_heir_without_a_listing_day_begins_when_it_was_first_seen(listed: Database) -> None:
    heir = Listed("TWTR", "TWTR", "Twin Tree Ltd", "XNYS", "equity", True, figi="BBG00HEIR001")
    sync(listed, [APPLE, META, FUND, heir], NEXT, LATER)
    with listed.connection() as connection:
        bearer = next(one for one in read_bearers(connection, "us") if one.symbol == "TWTR")
    assert bearer.listed_from == NEXT
    assert [one.valid_from for one in history(listed, "TWTR")] == [date(2013, 11, 7), NEXT]


def test_what_the_market_file_has_stays_active_when_the_list_drops_it(listed: Database) -> None:
    sync(listed, [META, TWITTER, FUND], NEXT, LATER)
    assert "AAPL" in active(listed)
    assert history(listed, "AAPL")[0].ended_by == "vanished"


def test_companies_delisted_long_ago_are_known_without_being_active(listed: Database) -> None:
    lehman = Listed("LEH", "LEH", "Lehman Brothers", "XNYS", "equity", False, date(1994, 5, 2), date(2008, 9, 17))
    first = replace(lehman, native="SPY", symbol="SPY", name="Spyglass Corp", delisted_on=date(1990, 3, 1))
    old = replace(first, listed_from=date(1985, 1, 2))
    for at in (LATER, LATEST):
        sync(listed, ALL, NEXT, at, [lehman, old])
    assert "LEH" not in active(listed)
    assert [(one.name, one.valid_to, one.ended_by) for one in history(listed, "LEH", "SPY")] == [
        ("Lehman Brothers", date(2008, 9, 17), "delisted"),
        ("Spyglass Corp", date(1990, 3, 1), "delisted"),
        ("SPDR S&P 500", None, ""),
    ]


def test_a_pulled_symbol_without_a_name_keeps_the_one_of_the_list(listed: Database) -> None:
    with listed.connection() as connection:
        write_instruments(connection, [Instrument("FB", "us", "XNYS", "USD")], LATER)
        found = next(one for one in read_bearers(connection, "us") if one.symbol == "FB")
    assert (found.name, found.listed_from, found.followed) == ("Facebook, Inc.", date(2012, 5, 18), True)


def test_what_the_market_file_no_longer_names_is_listed_but_not_followed(listed: Database) -> None:
    with listed.connection() as connection:
        followed = [one.symbol for one in read_instruments(connection, "us", followed_only=True)]
        write_instruments(connection, (), LATER, deactivate_others_of="us")
        left = read_instruments(connection, "us", followed_only=True)
    assert followed == ["AAPL"]
    assert left == []
    assert "AAPL" in active(listed)
