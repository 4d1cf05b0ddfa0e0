"""Claims of corporate actions, what is agreed on from them, and flags that open and close."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from psycopg import errors

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.claims import Agreed, Claim, Flag, Problem
from market_pipelines.store.claims import (
    read_claims,
    read_flags,
    read_standing,
    settle_actions,
    write_claims,
    write_flags,
)
from market_pipelines.store.database import Database
from market_pipelines.store.reference import read_actions, write_actions
from market_pipelines.store.upsert import WriteCounts
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST

SPLIT = CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0)
DIVIDEND = CorporateAction("AAPL", date(2020, 8, 7), ActionKind.DIVIDEND, 0.82)
OTHER = CorporateAction("MSFT", date(2020, 8, 19), ActionKind.DIVIDEND, 0.51)
WHOLE = ("AAPL", date(2020, 1, 1), date(2020, 12, 31))
FLAG = Flag("AAPL", SPLIT.ex_date, ActionKind.SPLIT, Problem.UNCONFIRMED, True, "why", ("yahoo",), ("polygon",))


def test_each_provider_keeps_its_own_claims(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_claims(connection, "us", "yahoo", [SPLIT, DIVIDEND], KNOWN)
        write_claims(connection, "us", "polygon", [replace(SPLIT, value=5.0)], KNOWN)
        assert read_claims(connection, "us") == [
            Claim("yahoo", DIVIDEND),
            Claim("polygon", replace(SPLIT, value=5.0)),
            Claim("yahoo", SPLIT),
        ]
        assert read_claims(connection, "us", ["MSFT"]) == []


def test_a_claim_that_changes_replaces_the_old_one_and_the_same_again_changes_nothing(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        for at, value in ((KNOWN, 4.0), (LATER, 4.0), (LATEST, 7.0)):
            write_claims(connection, "us", "yahoo", [replace(SPLIT, value=value)], at)
            stamps = connection.execute("SELECT claimed_at FROM market.provider_actions").fetchall()
            assert stamps == [(KNOWN if value == 4.0 else LATEST,)]


def test_a_complete_answer_withdraws_what_it_lacks_within_its_range_only(fresh_database: Database) -> None:
    old = replace(DIVIDEND, ex_date=date(2019, 8, 9))
    with fresh_database.connection() as connection:
        write_claims(connection, "us", "yahoo", [SPLIT, DIVIDEND, old, OTHER], KNOWN)
        write_claims(connection, "us", "polygon", [SPLIT], KNOWN)
        write_claims(connection, "us", "yahoo", [DIVIDEND], LATER, complete=WHOLE)
        assert read_claims(connection, "us") == [
            Claim("yahoo", old),
            Claim("yahoo", DIVIDEND),
            Claim("polygon", SPLIT),
            Claim("yahoo", OTHER),
        ]


def test_two_dividends_of_one_day_are_their_sum(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_claims(connection, "us", "yahoo", [replace(DIVIDEND, value=value) for value in (0.5, 1.25)], KNOWN)
        assert read_claims(connection, "us") == [Claim("yahoo", replace(DIVIDEND, value=1.75))]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_claim_that_cannot_be_is_refused_by_the_table(fresh_database: Database, value: float) -> None:
    with pytest.raises(errors.CheckViolation), fresh_database.connection() as connection:
        write_claims(connection, "us", "yahoo", [replace(SPLIT, value=value)], KNOWN)


def test_what_is_written_as_agreed_is_claimed_too(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_actions(connection, "us", [SPLIT], "yahoo", KNOWN)
        assert read_claims(connection, "us") == [Claim("yahoo", SPLIT)]


def test_settling_makes_the_table_what_was_agreed_on(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_actions(connection, "us", [SPLIT, OTHER], "yahoo", KNOWN)
        agreed = [Agreed(DIVIDEND, "polygon", ("polygon",))]
        assert settle_actions(connection, "us", ["AAPL"], agreed, LATER) == WriteCounts(inserted=1, removed=1)
        assert read_actions(connection, "us") == [DIVIDEND, OTHER]
        assert read_actions(connection, "us", as_of=KNOWN) == [SPLIT, OTHER]
        assert settle_actions(connection, "us", ["AAPL"], agreed, LATEST) == WriteCounts(unchanged=1)
        changed = [Agreed(replace(DIVIDEND, value=0.83), "yahoo", ("yahoo",))]
        assert settle_actions(connection, "us", ["AAPL"], changed, LATEST) == WriteCounts(revised=1)
        assert read_standing(connection, "us", ["AAPL"]) == {
            ("AAPL", DIVIDEND.ex_date, ActionKind.DIVIDEND): ("yahoo", 0.83)
        }


def test_a_flag_stays_open_until_nobody_raises_it_and_may_open_again(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_flags(connection, "us", ["AAPL"], [FLAG], KNOWN)
        write_flags(connection, "us", ["AAPL"], [replace(FLAG, detail="still")], LATER)
        assert read_flags(connection, "us") == [replace(FLAG, detail="still")]
        write_flags(connection, "us", ["MSFT"], [], LATER)
        assert len(read_flags(connection, "us", ["AAPL"])) == 1
        write_flags(connection, "us", ["AAPL"], [], LATEST)
        assert read_flags(connection, "us") == []
        rows = connection.execute("SELECT first_seen, resolved_at FROM market.action_flags").fetchall()
        assert rows == [(KNOWN, LATEST)]
        write_flags(connection, "us", ["AAPL"], [FLAG], LATEST)
        rows = connection.execute("SELECT first_seen, resolved_at FROM market.action_flags").fetchall()
        assert rows == [(LATEST, None)]
