"""The closes that changes are counted from, out of a real database."""

from __future__ import annotations

from datetime import date

from structlog.testing import capture_logs

from market_pipelines.store.bars import write_prices
from market_pipelines.store.database import Database
from market_pipelines.streaming.closes import StoredCloses
from market_pipelines_tests.contract.store.frames import KNOWN, consensus

MONDAY = date(2026, 3, 2)


def test_the_close_of_the_session_before_and_of_no_other(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        bars = consensus(("AAPL", "2026-02-26", 90.0), ("AAPL", "2026-02-27", 91.0), ("OLD", "2026-02-26", 5.0))
        write_prices(connection, bars, KNOWN)
    closes = StoredCloses(fresh_database, "us", "XNYS")
    assert closes(["AAPL", "OLD", "NEW"], MONDAY) == {"AAPL": 91.0}
    assert closes(["AAPL"], date(2026, 2, 27)) == {"AAPL": 90.0}


def test_one_that_was_missing_is_asked_for_again_later(fresh_database: Database) -> None:
    patient = StoredCloses(fresh_database, "us", "XNYS")
    eager = StoredCloses(fresh_database, "us", "XNYS", again_after=0.0)
    assert patient(["AAPL"], MONDAY) == eager(["AAPL"], MONDAY) == {}
    with fresh_database.connection() as connection:
        write_prices(connection, consensus(("AAPL", "2026-02-27", 91.0)), KNOWN)
    assert patient(["AAPL"], MONDAY) == {}
    assert eager(["AAPL"], MONDAY) == {"AAPL": 91.0}


def test_a_database_that_cannot_answer_stops_nothing(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        connection.execute("ALTER SCHEMA market RENAME TO elsewhere")
    with capture_logs() as logged:
        assert StoredCloses(fresh_database, "us", "XNYS")(["AAPL"], MONDAY) == {}
    assert [line["log_level"] for line in logged] == ["warning"]
