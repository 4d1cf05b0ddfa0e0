"""The ledger of holes on a real PostgreSQL: what is lacking, what is remembered, what heals."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.repair import WHOLE_MARKET, Cause, Hole, Lack, Voice
from market_pipelines.store.coverage import conditions, write_coverage
from market_pipelines.store.database import Database
from market_pipelines.store.holes import (
    closed_sessions,
    closures,
    confirmed_missing,
    declare_closure,
    end_holes,
    excused_bars,
    heal_holes,
    hold_repairs,
    lacking,
    read_holes,
    undo_closure,
    voices,
    write_holes,
)
from market_pipelines.store.ledger import FetchRecord, record_fetch

NOW = datetime(2025, 6, 12, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)
MONDAY, TUESDAY, WEDNESDAY = date(2025, 6, 9), date(2025, 6, 10), date(2025, 6, 11)
WEEK = (MONDAY, TUESDAY, WEDNESDAY)


def share(symbol: str, listed_from: date | None = None, delisted_on: date | None = None) -> Instrument:
    return Instrument(symbol, "us", "XNYS", "USD", listed_from=listed_from, delisted_on=delisted_on)


def hole(symbol: str, session: date, **more: object) -> Hole:
    row = Hole(symbol=symbol, session=session, cause=Cause.HOLE, first_seen=NOW, next_ask=NOW + HOUR)
    return replace(row, **more)  # type: ignore[arg-type]


def looked_at(database: Database, *rows: tuple[str, date, str], interval: str = "1d") -> None:
    frame = pd.DataFrame(rows, columns=["symbol", "session", "condition"])
    frame["session"] = pd.to_datetime(frame["session"]).astype("datetime64[s]")
    with database.connection() as connection:
        write_coverage(connection, frame.astype({"symbol": "str", "condition": "str"}), "us", interval, NOW)


def lacks(database: Database, *instruments: Instrument, interval: str = "1d") -> list[Lack]:
    with database.connection() as connection:
        return lacking(connection, "us", interval, instruments, WEEK, since=MONDAY)


def test_a_symbol_lacks_what_is_neither_available_nor_degraded_from_the_first_look_on(
    fresh_database: Database,
) -> None:
    looked_at(
        fresh_database,
        ("A", MONDAY, "available"),
        ("A", TUESDAY, "missing"),
        ("A", WEDNESDAY, "pending"),
        ("B", TUESDAY, "degraded"),
    )
    assert lacks(fresh_database, share("A"), share("B"), share("NEVER")) == [
        Lack(MONDAY, 1, frozenset()),
        Lack(TUESDAY, 2, frozenset({"A"})),
        Lack(WEDNESDAY, 2, frozenset({"A", "B"})),
    ]


def test_nothing_is_lacking_outside_of_a_listing_life(fresh_database: Database) -> None:
    looked_at(fresh_database, *((symbol, day, "missing") for symbol in "AB" for day in WEEK))
    found = lacks(fresh_database, share("A", listed_from=TUESDAY), share("B", delisted_on=TUESDAY))
    assert found == [
        Lack(MONDAY, 1, frozenset({"B"})),
        Lack(TUESDAY, 2, frozenset({"A", "B"})),
        Lack(WEDNESDAY, 1, frozenset({"A"})),
    ]


def test_within_sessions_only_those_lack_bars_that_traded_and_pending_ones_are_there(fresh_database: Database) -> None:
    looked_at(fresh_database, *((symbol, MONDAY, "available") for symbol in "ABC"), ("D", MONDAY, "missing"))
    looked_at(
        fresh_database,
        ("A", MONDAY, "pending"),
        ("B", MONDAY, "missing"),
        ("C", MONDAY, "available"),
        ("D", MONDAY, "missing"),
        interval="5min",
    )
    found = lacks(fresh_database, *map(share, "ABCD"), interval="5min")
    assert found == [Lack(MONDAY, 3, frozenset({"B"}))]


def test_a_row_is_kept_as_it_was_written_and_opened_again_when_it_ended(fresh_database: Database) -> None:
    row = hole("A", MONDAY, times_asked=2, last_asked=NOW, confirmed_at=NOW, reason="so it is")
    incident = hole(WHOLE_MARKET, TUESDAY, cause=Cause.OUTAGE, lacking=40, expected=50)
    with fresh_database.connection() as connection:
        write_holes(connection, "us", "1d", [row, incident])
        stored = read_holes(connection, "us", "1d")
        assert [Hole(**{name: getattr(one, name) for name in Hole.__dataclass_fields__}) for one in stored] == [
            row,
            incident,
        ]
        assert end_holes(connection, "us", "1d", [("A", MONDAY)], "no longer expected", NOW) == 1
        assert end_holes(connection, "us", "1d", [("A", MONDAY)], "no longer expected", NOW) == 0
        assert [one.key for one in read_holes(connection, "us")] == [incident.key]
        ended = read_holes(connection, "us", healed_since=NOW)[0]
        assert (ended.key, ended.healed_at, ended.reason) == (row.key, NOW, "no longer expected")
        write_holes(connection, "us", "1d", [hole("A", MONDAY)])
        (again, _) = read_holes(connection, "us")
        assert (again.healed_at, again.times_asked) == (None, 0)


def test_a_hole_heals_when_its_bar_is_there_and_an_incident_does_not_by_itself(fresh_database: Database) -> None:
    looked_at(fresh_database, ("A", MONDAY, "available"), ("B", MONDAY, "missing"))
    with fresh_database.connection() as connection:
        write_holes(connection, "us", "1d", [hole("A", MONDAY), hole("B", MONDAY), hole(WHOLE_MARKET, MONDAY)])
        assert heal_holes(connection, "us", "1d", NOW, symbols=["B"]) == []
        assert heal_holes(connection, "us", "1d", NOW, start=TUESDAY) == []
        assert heal_holes(connection, "us", "1d", NOW) == [("A", MONDAY)]
        assert {one.symbol for one in read_holes(connection, "us")} == {"B", WHOLE_MARKET}


def test_what_is_confirmed_is_told_apart_from_what_was_only_seen(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_holes(connection, "us", "1d", [hole("A", MONDAY, confirmed_at=NOW), hole("A", TUESDAY)])
        declare_closure(connection, "us", WEDNESDAY, "", NOW)
        assert confirmed_missing(connection, "us", "1d", ["A", "B"], MONDAY, WEDNESDAY) == {
            ("A", MONDAY),
            ("A", WEDNESDAY),
            ("B", WEDNESDAY),
        }


def test_nothing_is_expected_of_a_declared_closure_until_it_is_undone(fresh_database: Database) -> None:
    looked_at(fresh_database, ("A", MONDAY, "available"), ("A", TUESDAY, "missing"))
    with fresh_database.connection() as connection:
        write_holes(connection, "us", "1d", [hole("A", TUESDAY), hole(WHOLE_MARKET, TUESDAY)])
        assert declare_closure(connection, "us", TUESDAY, "snow", NOW)
        assert not declare_closure(connection, "us", TUESDAY, "", NOW)
        assert read_holes(connection, "us") == []
        assert [(one.session, one.note, one.declared_at) for one in closures(connection)] == [(TUESDAY, "snow", NOW)]
        assert closed_sessions(connection, "us") == {TUESDAY}
        assert closed_sessions(connection, "pl") == frozenset()
        assert conditions(connection, "us", "1d", MONDAY, TUESDAY)["missing"].tolist() == [0]
        excused = excused_bars(connection, "us", ["A"], MONDAY, WEDNESDAY)
        assert list(zip(excused["symbol"], excused["session"].dt.date, strict=True)) == [("A", TUESDAY)]
    assert [lack.session for lack in lacks(fresh_database, share("A"))] == [MONDAY, WEDNESDAY]
    with fresh_database.connection() as connection:
        assert undo_closure(connection, "us", TUESDAY)
        assert not undo_closure(connection, "us", TUESDAY)
    assert [lack.session for lack in lacks(fresh_database, share("A"))] == [MONDAY, TUESDAY, WEDNESDAY]


@pytest.mark.parametrize(
    ("outcome", "answered"), [(Outcome.OK, 1), (Outcome.EMPTY_UNEXPECTED, 1), (Outcome.THROTTLED, 0)]
)
def test_a_provider_has_spoken_of_a_session_when_it_answered_after_its_close(
    outcome: Outcome, answered: int, fresh_database: Database
) -> None:
    closes = {day: datetime(day.year, day.month, day.day, 20, tzinfo=UTC) for day in WEEK}
    record = FetchRecord(
        provider="yahoo",
        endpoint="chart",
        outcome=outcome,
        fetched_at=closes[TUESDAY] + HOUR,
        market="us",
        symbol="A",
        start=MONDAY,
        end=WEDNESDAY,
    )
    with fresh_database.connection() as connection:
        record_fetch(connection, record)
        record_fetch(connection, replace(record, provider="stooq", outcome=Outcome.UNKNOWN_SYMBOL))
        record_fetch(connection, replace(record, provider="polygon", capability="intraday"))
        found = voices(connection, "us", "1d", closes)
        within = voices(connection, "us", "5min", closes)
    assert set(found) == {MONDAY, TUESDAY}, "of Wednesday nobody could know yet"
    assert found[TUESDAY] == [Voice("yahoo", 1, answered, outcome)]
    assert [one.provider for one in within[TUESDAY]] == ["polygon"]


def test_one_repair_of_a_market_at_a_time(fresh_database: Database) -> None:
    with fresh_database.connection() as first, fresh_database.connection() as second:
        assert hold_repairs(first, "us")
        assert not hold_repairs(second, "us")
        assert hold_repairs(second, "pl")
    with fresh_database.connection() as third:
        assert hold_repairs(third, "us")
