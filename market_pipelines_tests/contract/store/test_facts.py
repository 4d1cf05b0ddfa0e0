"""Quotes, profiles, options, venues and index members in the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.records import OptionContract, Profile, Quote, Right, VenueStatus
from market_pipelines.market.universes import Member
from market_pipelines.store.database import Database
from market_pipelines.store.membership import write_membership
from market_pipelines.store.options import read_options, write_options
from market_pipelines.store.profiles import StoredProfile, read_profiles, write_profile
from market_pipelines.store.quotes import LatestQuote, read_quotes, write_quotes
from market_pipelines.store.reference import read_index_members, write_instruments
from market_pipelines.store.upsert import WriteCounts
from market_pipelines.store.venues import forget_older_holidays, read_holidays, write_venues
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST

TODAY = date(2026, 3, 2)
QUOTE = Quote("AAPL", 257.42, KNOWN, "USD", bid=257.29, ask=257.55, previous_close=258.69, volume=6e7)
PROFILE = Profile("AAPL", "Apple Inc.", "Phones", "Technology", "Hardware", employees=1000, market_cap=3e12, isin="US1")
CALL = OptionContract("AAPL1", "AAPL", Right.CALL, 200.0, date(2026, 3, 20), bid=1.0, ask=1.1, open_interest=10.0)
PUT = OptionContract("AAPL2", "AAPL", Right.PUT, 200.0, date(2026, 3, 20))
LATER_CALL = OptionContract(
    "AAPL3", "AAPL", Right.CALL, 210.0, date(2026, 6, 19), last=3.0, quoted_on=date(2026, 2, 27)
)


class TestQuotes:
    def latest(self, price: float, as_of: datetime, provider: str = "yahoo") -> LatestQuote:
        return LatestQuote(replace(QUOTE, price=price), as_of, provider, as_of)

    def test_they_are_read_back_as_they_were(self, fresh_database: Database) -> None:
        one = LatestQuote(QUOTE, KNOWN, "yahoo", LATER)
        bare = LatestQuote(Quote("IBM", 100.0, None, session=TODAY), KNOWN, "alpha_vantage", KNOWN)
        with fresh_database.connection() as connection:
            assert write_quotes(connection, "us", [one, bare]) == 2
            assert read_quotes(connection, "us") == [one, bare]
            assert read_quotes(connection, "us", ["IBM"]) == [bare]

    def test_the_newest_wins_whenever_it_arrives(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert write_quotes(connection, "us", [self.latest(2.0, LATER)]) == 1
            assert write_quotes(connection, "us", [self.latest(1.0, KNOWN, "polygon")]) == 0
            assert [one.quote.price for one in read_quotes(connection, "us")] == [2.0]
            assert write_quotes(connection, "us", [self.latest(3.0, LATEST, "polygon")]) == 1
            assert [(one.quote.price, one.provider) for one in read_quotes(connection, "us")] == [(3.0, "polygon")]

    def test_a_market_has_quotes_of_its_own(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_quotes(connection, "us", [self.latest(2.0, LATER)])
            write_quotes(connection, "pl", [self.latest(1.0, KNOWN)])
            assert [one.quote.price for one in read_quotes(connection, "pl")] == [1.0]


class TestProfiles:
    def test_they_are_read_back_as_they_were(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert write_profile(connection, "us", PROFILE, "yahoo", KNOWN) == WriteCounts(inserted=1)
            assert read_profiles(connection, "us") == [StoredProfile(PROFILE, "yahoo", KNOWN, KNOWN)]

    def test_the_same_again_is_only_checked(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_profile(connection, "us", PROFILE, "yahoo", KNOWN)
            assert write_profile(connection, "us", PROFILE, "yahoo", LATER) == WriteCounts(unchanged=1)
            assert read_profiles(connection, "us") == [StoredProfile(PROFILE, "yahoo", KNOWN, LATER)]

    def test_what_a_newer_one_leaves_empty_stays(self, fresh_database: Database) -> None:
        poorer = Profile("AAPL", "Apple", sector="Consumer", figi="BBG1")
        with fresh_database.connection() as connection:
            write_profile(connection, "us", PROFILE, "yahoo", KNOWN)
            assert write_profile(connection, "us", poorer, "polygon", LATER) == WriteCounts(revised=1)
            (found,) = read_profiles(connection, "us")
        assert found.profile == replace(PROFILE, name="Apple", sector="Consumer", figi="BBG1")
        assert (found.provider, found.updated_at) == ("polygon", LATER)

    def test_an_older_one_changes_nothing(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_profile(connection, "us", PROFILE, "yahoo", LATER)
            older = replace(PROFILE, name="Apple Computer")
            assert write_profile(connection, "us", older, "yahoo", KNOWN) == WriteCounts(unchanged=1)
            assert read_profiles(connection, "us")[0].profile == PROFILE

    def test_sector_and_industry_show_in_stocks(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_instruments(connection, [Instrument("AAPL", "us", "XNYS", "USD", "Apple")], KNOWN)
            write_profile(connection, "us", PROFILE, "yahoo", LATER)
            rows = connection.execute("SELECT sector, industry FROM market.stocks").fetchall()
        assert rows == [("Technology", "Hardware")]


class TestOptions:
    def test_contracts_are_filtered_by_expiry_and_right(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            counts = write_options(connection, "us", [LATER_CALL, PUT, CALL], "polygon", TODAY, KNOWN)
            assert counts == WriteCounts(inserted=3)
            dated = replace(CALL, quoted_on=TODAY)
            assert read_options(connection, "us", "AAPL") == [dated, PUT, LATER_CALL]
            assert read_options(connection, "us", "AAPL", right=Right.PUT) == [PUT]
            assert read_options(connection, "us", "AAPL", expires_from=date(2026, 3, 21)) == [LATER_CALL]
            assert read_options(connection, "us", "AAPL", expires_to=date(2026, 3, 20)) == [dated, PUT]
            assert read_options(connection, "us", "MSFT") == []

    def test_each_day_keeps_its_last_look(self, fresh_database: Database) -> None:
        tomorrow = TODAY + timedelta(days=1)
        with fresh_database.connection() as connection:
            write_options(connection, "us", [CALL], "yahoo", TODAY, KNOWN)
            write_options(connection, "us", [replace(CALL, bid=1.05)], "yahoo", TODAY, LATER)
            write_options(connection, "us", [replace(CALL, bid=0.9)], "yahoo", TODAY, KNOWN)
            write_options(connection, "us", [replace(CALL, bid=2.0, ask=2.1)], "yahoo", tomorrow, LATEST)
            rows = connection.execute("SELECT quoted_on, bid FROM market.option_quotes ORDER BY quoted_on").fetchall()
            (newest,) = read_options(connection, "us", "AAPL")
        assert rows == [(TODAY, 1.05), (tomorrow, 2.0)]
        assert (newest.bid, newest.quoted_on) == (2.0, tomorrow)


class TestVenues:
    def test_a_holiday_that_is_named_no_more_goes(self, fresh_database: Database) -> None:
        christmas = VenueStatus("NYSE", "closed", date(2026, 12, 25), note="Christmas")
        mourning = VenueStatus("NYSE", "closed", date(2026, 4, 1))
        now = VenueStatus("NYSE", "open")
        with fresh_database.connection() as connection:
            write_venues(connection, "us", [now, christmas, mourning], "polygon", KNOWN)
            write_venues(connection, "us", [christmas], "polygon", LATER)
            assert forget_older_holidays(connection, "us", "polygon", TODAY, LATER) == 1
            assert read_holidays(connection, "us", TODAY) == [("polygon", christmas)]
            status = connection.execute("SELECT venue, status, checked_at FROM market.venue_status").fetchall()
        assert status == [("NYSE", "open", KNOWN)]


class TestMembership:
    MEMBERS = (
        Member("ALE", "Allegro.eu", date(2020, 10, 12), date(2020, 12, 18), "old"),
        Member("ALE", "Allegro.eu", date(2025, 12, 22), None, "new"),
        Member("CCC", "CCC", date(2025, 12, 22), date(2026, 3, 20), "new"),
    )

    def test_the_table_says_what_the_list_says(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            written = write_membership(connection, "pl", "WIG20", self.MEMBERS)
            assert written == WriteCounts(inserted=3)
            assert read_index_members(connection, "pl", "WIG20", date(2020, 12, 18)) == ["ALE"]
            assert read_index_members(connection, "pl", "WIG20", date(2021, 6, 1)) == []
            assert read_index_members(connection, "pl", "WIG20", date(2026, 3, 20)) == ["ALE", "CCC"]
            assert read_index_members(connection, "pl", "WIG20", date(2026, 3, 23)) == ["ALE"]

    def test_a_changed_list_changes_only_what_differs(self, fresh_database: Database) -> None:
        newer = (self.MEMBERS[1], replace(self.MEMBERS[2], valid_to=None), Member("XTB", "XTB", TODAY, None, "new"))
        with fresh_database.connection() as connection:
            write_membership(connection, "pl", "WIG20", self.MEMBERS)
            write_membership(connection, "pl", "MWIG40", self.MEMBERS)
            changed = write_membership(connection, "pl", "WIG20", newer)
            assert changed == WriteCounts(inserted=1, revised=1, unchanged=1, removed=1)
            assert read_index_members(connection, "pl", "WIG20", date(2026, 6, 1)) == ["ALE", "CCC", "XTB"]
            assert read_index_members(connection, "pl", "MWIG40", date(2020, 11, 2)) == ["ALE"]
