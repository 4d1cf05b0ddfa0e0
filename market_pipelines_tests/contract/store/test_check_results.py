"""How checks stood over time, and the questions that only checks ask of the tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest

from market_pipelines.market.bars import AVAILABLE, DEGRADED, MISSING
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality.rules import INDEX_PRICES, STOCK_PRICES
from market_pipelines.store.bars import INDICES, STOCKS, write_prices
from market_pipelines.store.check_results import (
    CheckResult,
    changes_of_final_bars,
    record_results,
    refused_rows,
    said_to_be_without_trade,
    tables_with_bars,
    trend,
)
from market_pipelines.store.coverage import write_coverage
from market_pipelines.store.database import Database
from market_pipelines.store.ledger import FetchRecord, record_fetch

AT = datetime(2026, 6, 12, 21, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
THURSDAY, FRIDAY = date(2026, 6, 11), date(2026, 6, 12)
GREEN = CheckResult("us", "stock_prices", "nulls", AT, THURSDAY, FRIDAY, True, "block", 0, 100, "a run")


def bars(close: float, **more: Any) -> pd.DataFrame:
    row = {
        "symbol": "AAPL",
        "market": "us",
        "session": THURSDAY,
        **dict.fromkeys(("open", "high", "low", "close"), close),
        "volume": 1000.0,
        "provider": "yahoo",
        "condition": AVAILABLE,
        "provisional": False,
    }
    return pd.DataFrame([row | more]).astype({"session": "datetime64[s]"})


# --- the trend -----------------------------------------------------------------------------------------------


def test_the_newest_result_comes_first(fresh_database: Database) -> None:
    later = replace(GREEN, at=AT + HOUR, passed=False, failing_rows=3, run_id=None)
    with fresh_database.connection() as connection:
        record_results(connection, [later, GREEN])
        found = trend(connection, "us")
    assert found == [later, GREEN]
    assert [one.share for one in found] == [0.03, 0.0]


def test_asked_twice_at_one_instant_the_later_answer_counts(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        record_results(connection, [GREEN])
        record_results(connection, [replace(GREEN, passed=False, failing_rows=1)])
        (found,) = trend(connection, "us")
    assert (found.passed, found.failing_rows) == (False, 1)


def test_the_trend_is_narrowed_by_table_rule_and_age(fresh_database: Database) -> None:
    others = [replace(GREEN, asset="index_prices"), replace(GREEN, rule="volume"), replace(GREEN, at=AT - 24 * HOUR)]
    with fresh_database.connection() as connection:
        record_results(connection, [GREEN, *others, replace(GREEN, market="pl")])
        found = trend(connection, "us", asset="stock_prices", rule="nulls", since=AT - HOUR)
    assert found == [GREEN]


def test_an_unknown_severity_is_refused(fresh_database: Database) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), fresh_database.connection() as connection:
        record_results(connection, [replace(GREEN, severity="fatal")])


# --- what changed --------------------------------------------------------------------------------------------


def test_each_change_of_a_final_bar_names_both_values(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        for hours, close in enumerate((100.0, 101.0, 103.0)):
            write_prices(connection, bars(close), AT + hours * HOUR, "run", STOCKS)
        found = changes_of_final_bars(connection, "us", ["AAPL"], THURSDAY, FRIDAY)
    assert found[["old_close", "close"]].to_numpy().tolist() == [[100.0, 101.0], [101.0, 103.0]]
    assert found["known_to"].tolist() == [pd.Timestamp(AT + HOUR), pd.Timestamp(AT + 2 * HOUR)]


@pytest.mark.parametrize("first", [{"provisional": True}, {"condition": DEGRADED}])
def test_what_was_never_final_changes_without_a_word(fresh_database: Database, first: dict[str, Any]) -> None:
    with fresh_database.connection() as connection:
        write_prices(connection, bars(100.0, **first), AT, "run", STOCKS)
        write_prices(connection, bars(107.0), AT + HOUR, "run", STOCKS)
        assert changes_of_final_bars(connection, "us", ["AAPL"], THURSDAY, FRIDAY).empty


def test_changes_of_indices_are_their_own(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_prices(connection, bars(100.0), AT, "run", INDICES)
        write_prices(connection, bars(107.0), AT + HOUR, "run", INDICES)
        assert changes_of_final_bars(connection, "us", ["AAPL"], THURSDAY, FRIDAY).empty
        assert len(changes_of_final_bars(connection, "us", ["AAPL"], THURSDAY, FRIDAY, INDICES)) == 1
        with pytest.raises(ValueError, match="is not a table"):
            changes_of_final_bars(connection, "us", ["AAPL"], THURSDAY, FRIDAY, "stocks")


# --- what is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "asked", "excused"),
    [
        (Outcome.EMPTY_EXPECTED, AT, True),
        (Outcome.EMPTY_UNEXPECTED, AT, False),
        (Outcome.UNAVAILABLE, AT, False),
        (Outcome.EMPTY_EXPECTED, AT - 72 * HOUR, False),
    ],
)
def test_a_missing_bar_is_excused_by_a_provider_who_said_there_was_none(
    fresh_database: Database, outcome: Outcome, asked: datetime, excused: bool
) -> None:
    hole = pd.DataFrame({"symbol": ["AAPL"], "session": [FRIDAY], "condition": [MISSING]})
    with fresh_database.connection() as connection:
        write_coverage(connection, hole.astype({"session": "datetime64[s]"}), "us", "1d", AT)
        record_fetch(
            connection,
            FetchRecord(
                provider="yahoo",
                endpoint="chart",
                outcome=outcome,
                fetched_at=asked,
                market="us",
                symbol="AAPL",
                start=THURSDAY,
                end=FRIDAY,
            ),
        )
        found = said_to_be_without_trade(connection, "us", "1d", ["AAPL"], THURSDAY, FRIDAY)
    assert len(found) == int(excused)


def test_tables_with_bars_are_named_by_their_assets(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        assert tables_with_bars(connection, "us", THURSDAY, FRIDAY) == frozenset()
        write_prices(connection, bars(100.0), AT, "run", STOCKS)
        assert tables_with_bars(connection, "us", THURSDAY, FRIDAY) == {STOCK_PRICES}
        assert tables_with_bars(connection, "us", FRIDAY, FRIDAY) == frozenset()
        assert tables_with_bars(connection, "pl", THURSDAY, FRIDAY) == frozenset()
        write_prices(connection, bars(100.0), AT, "run", INDICES)
        assert tables_with_bars(connection, "us", THURSDAY, FRIDAY) == {STOCK_PRICES, INDEX_PRICES}


def test_dropped_rows_and_those_within_sessions_are_not_among_the_refused_days(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        for number, (interval, decision) in enumerate(
            [("1d", None), ("1d", "dropped"), ("1d", "released"), ("5min", None)]
        ):
            connection.execute(
                """
                INSERT INTO market.quarantine (market, symbol, session, close, provider, rule, severity, interval,
                                               decision, decided_at, decided_by, first_seen, last_seen)
                VALUES ('us', 'AAPL', %s, %s, 'yahoo', 'nulls', 'block', %s, %s, %s, %s, %s, %s)
                """,
                (THURSDAY, number, interval, decision, AT if decision else None, "me" if decision else None, AT, AT),
            )
        daily = refused_rows(connection, "us", ["AAPL"], THURSDAY, FRIDAY, daily=True)
        within = refused_rows(connection, "us", ["AAPL"], THURSDAY, FRIDAY, daily=False)
    assert daily["close"].tolist() == [0.0, 2.0]
    assert within["close"].tolist() == [3.0]
