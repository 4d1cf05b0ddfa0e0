"""Instruments, corporate actions, and how far actions are known."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import psycopg
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.store.database import Database
from market_pipelines.store.reference import (
    ActionsKnown,
    read_actions,
    read_actions_known,
    read_index_members,
    read_instruments,
    write_actions,
    write_actions_known,
    write_index_members,
    write_instruments,
)
from market_pipelines.store.upsert import WriteCounts
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST, day

BERKSHIRE = Instrument(
    "BRK.B",
    "us",
    "XNYS",
    "USD",
    "Berkshire Hathaway",
    listed_from=date(1996, 5, 9),
    provider_symbols={"yahoo": "BRK-B"},
)
GONE = Instrument("TWTR", "us", "XNYS", "USD", delisted_on=date(2022, 10, 27))
FUND = Instrument("SPY", "us", "XNYS", "USD", kind=Kind.ETF)
INDEX = Instrument("^SPX", "us", "XNYS", "USD", "S&P 500", Kind.INDEX, provider_symbols={"yahoo": "^GSPC"})
ALL = [BERKSHIRE, FUND, GONE, INDEX]

SPLIT = CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0)
DIVIDEND = CorporateAction("AAPL", date(2020, 8, 7), ActionKind.DIVIDEND, 0.82)


class TestInstruments:
    def test_they_are_read_back_as_they_were(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert write_instruments(connection, ALL, KNOWN) == WriteCounts(inserted=4)
            assert read_instruments(connection, "us") == ALL
            assert read_instruments(connection, "pl") == []

    def test_the_same_again_changes_nothing(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_instruments(connection, ALL, KNOWN)
            assert write_instruments(connection, ALL, LATER) == WriteCounts(unchanged=4)
            stamps = connection.execute("SELECT DISTINCT updated_at FROM market.stocks").fetchall()
        assert stamps == [(KNOWN,)]

    @pytest.mark.parametrize("one", [BERKSHIRE, INDEX], ids=["share", "index"])
    def test_a_change_is_taken_over(self, fresh_database: Database, one: Instrument) -> None:
        changed = replace(one, name="New name", provider_symbols={})
        with fresh_database.connection() as connection:
            write_instruments(connection, [one], KNOWN)
            assert write_instruments(connection, [changed], LATER) == WriteCounts(revised=1)
            assert read_instruments(connection, "us") == [changed]

    def test_what_a_full_list_lacks_becomes_inactive_and_may_return(self, fresh_database: Database) -> None:
        other = Instrument("PKO", "pl", "XWAR", "PLN")
        with fresh_database.connection() as connection:
            write_instruments(connection, [*ALL, other], KNOWN)
            counts = write_instruments(connection, [FUND], LATER, deactivate_others_of="us")
            assert counts == WriteCounts(unchanged=1, removed=3)
            assert read_instruments(connection, "us") == [FUND]
            assert read_instruments(connection, "us", active_only=False) == ALL
            assert read_instruments(connection, "pl") == [other]
            assert write_instruments(connection, ALL, LATEST, deactivate_others_of="us").revised == 3
            assert read_instruments(connection, "us") == ALL


class TestActions:
    def test_they_are_read_back_as_they_were(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert write_actions(connection, "us", [SPLIT, DIVIDEND], "yahoo", KNOWN) == WriteCounts(inserted=2)
            assert read_actions(connection, "us") == [DIVIDEND, SPLIT]
            assert read_actions(connection, "us", ["MSFT"]) == []
            assert read_actions(connection, "pl") == []

    def test_another_provider_with_the_same_value_changes_nothing(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_actions(connection, "us", [SPLIT], "yahoo", KNOWN)
            assert write_actions(connection, "us", [SPLIT], "alpha_vantage", LATER) == WriteCounts(unchanged=1)
            assert connection.execute("SELECT provider FROM market.corporate_actions").fetchall() == [("yahoo",)]

    def test_another_value_replaces_it_and_the_old_one_stays_known(self, fresh_database: Database) -> None:
        corrected = replace(DIVIDEND, value=0.205)
        with fresh_database.connection() as connection:
            write_actions(connection, "us", [DIVIDEND], "yahoo", KNOWN)
            assert write_actions(connection, "us", [corrected], "yahoo", LATER) == WriteCounts(revised=1)
            assert read_actions(connection, "us") == [corrected]
            assert read_actions(connection, "us", as_of=KNOWN) == [DIVIDEND]
            assert read_actions(connection, "us", as_of=LATER) == [corrected]

    def test_what_a_complete_answer_lacks_is_withdrawn(self, fresh_database: Database) -> None:
        elsewhere = replace(SPLIT, symbol="MSFT")
        with fresh_database.connection() as connection:
            write_actions(connection, "us", [SPLIT, DIVIDEND, elsewhere], "yahoo", KNOWN)
            complete = ("AAPL", day("2020-08-31"), day("2020-12-31"))
            counts = write_actions(connection, "us", [], "yahoo", LATER, complete=complete)
            assert counts == WriteCounts(removed=1)
            assert read_actions(connection, "us") == [DIVIDEND, elsewhere]
            assert SPLIT in read_actions(connection, "us", as_of=KNOWN)
            assert SPLIT not in read_actions(connection, "us", as_of=LATER)

    def test_nobody_withdraws_what_another_provider_said(self, fresh_database: Database) -> None:
        complete = ("AAPL", day("2020-01-01"), day("2020-12-31"))
        with fresh_database.connection() as connection:
            write_actions(connection, "us", [SPLIT], "yahoo", KNOWN)
            assert write_actions(connection, "us", [], "stooq", LATER, complete=complete) == WriteCounts()
            assert read_actions(connection, "us") == [SPLIT]

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_value_that_cannot_be_is_refused_by_the_table_itself(
        self, fresh_database: Database, value: float
    ) -> None:
        with pytest.raises(psycopg.errors.CheckViolation), fresh_database.connection() as connection:
            write_actions(connection, "us", [replace(SPLIT, value=value)], "yahoo", KNOWN)


class TestActionsKnown:
    @pytest.mark.parametrize(
        ("first", "second", "joined"),
        [
            (("2020-01-01", "2020-06-30"), ("2020-03-01", "2021-06-30"), ("2020-01-01", "2021-06-30")),
            (("2020-01-01", "2020-06-30"), ("2020-07-01", "2021-06-30"), ("2020-01-01", "2021-06-30")),
            (("2020-01-01", "2020-06-30"), ("2019-01-01", "2019-12-31"), ("2019-01-01", "2020-06-30")),
            (("2020-01-01", "2020-06-30"), ("2020-02-01", "2020-03-01"), ("2020-01-01", "2020-06-30")),
            (("2010-01-01", "2012-06-30"), ("2020-01-01", "2020-12-31"), ("2020-01-01", "2020-12-31")),
            (("2020-01-01", "2020-12-31"), ("2010-01-01", "2012-06-30"), ("2020-01-01", "2020-12-31")),
        ],
        ids=["overlapping", "touching", "touching before", "inside", "apart, later", "apart, earlier"],
    )
    def test_two_ranges(
        self, fresh_database: Database, first: tuple[str, str], second: tuple[str, str], joined: tuple[str, str]
    ) -> None:
        with fresh_database.connection() as connection:
            for start, end in (first, second):
                write_actions_known(connection, "us", "AAPL", "yahoo", day(start), day(end), KNOWN)
            assert read_actions_known(connection, "us") == [
                ActionsKnown("AAPL", "yahoo", day(joined[0]), day(joined[1]))
            ]


def test_members_of_an_index_come_and_go(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:

        def members(on: str) -> list[str]:
            return read_index_members(connection, "us", "^SPX", day(on))

        write_index_members(connection, "us", "^SPX", ["A", "B"], day("2020-01-01"), "file")
        counts = write_index_members(connection, "us", "^SPX", ["B", "C"], day("2021-01-01"), "file")
        assert counts == WriteCounts(inserted=1, unchanged=1, removed=1)
        write_index_members(connection, "us", "^SPX", ["A", "B", "C"], day("2022-01-01"), "file")
        assert [members(on) for on in ("2019-12-31", "2020-12-31", "2021-01-01", "2022-01-01")] == [
            [],
            ["A", "B"],
            ["B", "C"],
            ["A", "B", "C"],
        ]
