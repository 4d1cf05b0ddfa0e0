"""What people decide about quarantined rows, and the log of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import psycopg
import pytest

from market_pipelines.redaction import MASK, register_secret
from market_pipelines.store.audit import audit_entries, record_decision, system_user
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.quarantine import (
    Decision,
    count_open,
    kept_rows,
    open_rows,
    quarantine_rows,
    read_quarantine,
    released_rows,
    write_decision,
)
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, consensus, day


def offence(rule: str = "volume", close: float = 10.0, **more: Any) -> pd.DataFrame:
    row = consensus(("AAPL", "2026-03-02", close)).drop(columns="condition")
    return row.assign(rule=rule, severity="block", detail="because", basis="traded", **more)


def minute(start: str, close: float = 10.0) -> pd.DataFrame:
    return offence("positive_price", close, interval="5min", ts=pd.Timestamp(start, tz="UTC"))


def number(connection: Transaction, rule: str = "volume") -> int:
    (found,) = read_quarantine(connection, rule=rule)["quarantine_id"].tolist()
    return int(found)


def test_a_decision_stays_with_the_values_and_is_found_by_them(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        quarantine_rows(connection, offence(), "us", "one", KNOWN)
        quarantine_rows(connection, offence(close=11.0), "us", "one", KNOWN)
        first = int(read_quarantine(connection)["quarantine_id"].min())
        write_decision(connection, [first], Decision.RELEASED, LATER, "ann", "checked with the exchange")
        quarantine_rows(connection, offence(), "us", "two", LATER)
        (released,) = released_rows(connection, "us", ["AAPL"], "1d")
        kept = kept_rows(connection, [first])[first]
    assert released == kept
    assert (kept.close, kept.decision, kept.decided_by, kept.decided_at) == (10.0, "released", "ann", LATER)
    assert (kept.reason, kept.times_seen, kept.basis, kept.provisional) == (
        "checked with the exchange",
        2,
        "traded",
        False,
    )


def test_what_is_decided_is_not_open_any_more_and_can_be_opened_again(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        quarantine_rows(connection, offence("volume"), "us", None, KNOWN)
        quarantine_rows(connection, offence("future"), "us", None, KNOWN)
        assert count_open(connection, "us") == {("us", "future"): 1, ("us", "volume"): 1}
        assert count_open(connection, "pl") == {}
        dropped = number(connection)
        write_decision(connection, [dropped], Decision.DROPPED, LATER, "ann", "")
        assert open_rows(connection, "us")["rule"].tolist() == ["future"]
        assert count_open(connection) == {("us", "future"): 1}
        assert len(read_quarantine(connection, "us")) == 2
        assert released_rows(connection, "us", ["AAPL"], "1d") == []
        write_decision(connection, [dropped], None, LATER, "ann", "")
        assert kept_rows(connection, [dropped])[dropped].decided_by is None
        assert len(open_rows(connection, "us", rule="volume")) == 1


def test_bars_of_one_session_and_the_same_values_are_told_apart_by_their_time(fresh_database: Database) -> None:
    bars = pd.concat([minute("2026-03-02 15:00"), minute("2026-03-02 15:05")], ignore_index=True)
    with fresh_database.connection() as connection:
        assert quarantine_rows(connection, bars, "us", None, KNOWN) == 2
        assert quarantine_rows(connection, bars, "us", None, LATER) == 0
        assert quarantine_rows(connection, offence("positive_price"), "us", None, KNOWN) == 1
        found = read_quarantine(connection, interval="5min")
        assert len(read_quarantine(connection, interval="1d")) == 1
    assert found["ts"].tolist() == [
        pd.Timestamp("2026-03-02 15:05", tz="UTC"),
        pd.Timestamp("2026-03-02 15:00", tz="UTC"),
    ]
    assert found["times_seen"].tolist() == [2, 2]


def test_only_released_and_dropped_are_decisions(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        quarantine_rows(connection, offence(), "us", None, KNOWN)
    with fresh_database.connection() as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE market.quarantine SET decision = 'forgotten', decided_at = now(), decided_by = 'x'")
    with fresh_database.connection() as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE market.quarantine SET decision = 'dropped'")


def test_entries_are_read_newest_first_and_by_what_they_are_about(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        for at, action, subject in (
            (KNOWN, "quarantine.drop", "quarantine/1"),
            (LATER, "correction.accept", "correction/1"),
            (LATER, "quarantine.reopen", "quarantine/1"),
        ):
            record_decision(connection, at=at, actor="ann", action=action, subject=subject, detail={"close": 1.5})

        def found(**filters: object) -> list[str]:
            return [entry.action for entry in audit_entries(connection, **filters)]  # type: ignore[arg-type]

        assert found() == ["quarantine.reopen", "correction.accept", "quarantine.drop"]
        assert found(subject="quarantine/1") == ["quarantine.reopen", "quarantine.drop"]
        assert found(action="quarantine") == ["quarantine.reopen", "quarantine.drop"]
        assert found(action="quarantine.drop") == ["quarantine.drop"]
        assert found(action="quarant") == []
        assert found(since=LATER) == ["quarantine.reopen", "correction.accept"]
        assert found(limit=1) == ["quarantine.reopen"]


def test_what_is_no_json_is_kept_as_text_and_no_secret_gets_in(fresh_database: Database) -> None:
    register_secret("S3CR3T-KEY")
    detail = {
        "session": day("2026-03-02"),
        "close": float("nan"),
        "volume": 5.0,
        "rules": ["volume", "future"],
        "reason": "the key S3CR3T-KEY\x00 was wrong",
    }
    with fresh_database.connection() as connection:
        record_decision(connection, at=KNOWN, actor="S3CR3T-KEY", action="x", subject="y", detail=detail)
        (entry,) = audit_entries(connection)
    assert entry.actor == MASK
    assert entry.detail == {
        "session": "2026-03-02",
        "close": None,
        "volume": 5.0,
        "rules": ["volume", "future"],
        "reason": f"the key {MASK} was wrong",
    }


def test_an_entry_cannot_be_changed_afterwards(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        record_decision(connection, at=KNOWN, actor="ann", action="x", subject="y")
    with (
        fresh_database.connection() as connection,
        pytest.raises(psycopg.errors.RestrictViolation, match="never changed"),
    ):
        connection.execute("UPDATE market.audit_log SET actor = 'bob'")


def test_an_entry_needs_an_instant_with_a_zone(fresh_database: Database) -> None:
    naive = datetime(2026, 3, 2, tzinfo=UTC).replace(tzinfo=None)
    with fresh_database.connection() as connection, pytest.raises(ValueError, match="time zone"):
        record_decision(connection, at=naive, actor="ann", action="x", subject="y")


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    assert system_user()
    monkeypatch.setattr("getpass.getuser", nobody)
    assert system_user().startswith("uid ")
