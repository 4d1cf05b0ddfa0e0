"""What is due and what is fresh, judged from the tables themselves, on a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest

from market_pipelines.market.cadence import Due, daily_cycle
from market_pipelines.market.definition import MarketDefinition, QualityPlan
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.due import due_sessions
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.newest import Freshness, deadline, freshness_of, watched
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.coverage import write_coverage
from market_pipelines.store.database import Database
from market_pipelines.store.holes import declare_closure
from market_pipelines.store.ledger import hold_job, job_started
from market_pipelines.store.watching import running_jobs

US = read_markets()["us"]
SYMBOLS = [one.symbol for one in US.everything]
DELAY = timedelta(minutes=US.minutes_after_close)
FRIDAY = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
"""Half an hour after New York has closed."""


def day(number: int) -> date:
    return date(2026, 11, number)


def looked(
    database: Database, session: date, at: datetime, symbols: list[str] | None = None, condition: str = "available"
) -> None:
    chosen = SYMBOLS if symbols is None else symbols
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(chosen, dtype="str"),
            "session": pd.Series([session] * len(chosen), dtype="datetime64[s]"),
            "condition": pd.Series([condition] * len(chosen), dtype="str"),
        }
    )
    with database.connection() as connection:
        write_coverage(connection, frame, "us", "1d", at)


def refreshed(database: Database, *sessions: date) -> None:
    for session in sessions:
        looked(database, session, datetime(session.year, session.month, session.day, 22, tzinfo=UTC))


def due(database: Database, now: datetime = FRIDAY, market: MarketDefinition = US) -> Due | None:
    platform = cast(Platform, SimpleNamespace(database=database))
    return due_sessions(platform, market, "1d", now, delay=DELAY)


def test_where_nothing_is_stored_the_last_sessions_are_due(fresh_database: Database) -> None:
    assert due(fresh_database) == Due(day(18), day(20), first=True)


def test_the_day_before_its_close_is_not_due_and_after_it_is(fresh_database: Database) -> None:
    refreshed(fresh_database, day(18), day(19))
    assert due(fresh_database, FRIDAY - timedelta(minutes=1)) is None
    assert due(fresh_database) == Due(day(20), day(20))


@pytest.mark.parametrize(
    ("hour", "minute", "again"), [(18, 0, True), (21, 0, True), (21, 29, True), (21, 30, False), (23, 0, False)]
)
def test_what_was_pulled_before_it_was_final_is_due_again(
    fresh_database: Database, hour: int, minute: int, again: bool
) -> None:
    refreshed(fresh_database, day(18), day(19))
    looked(fresh_database, day(20), datetime(2026, 11, 20, hour, minute, tzinfo=UTC))
    assert due(fresh_database, FRIDAY + timedelta(hours=2)) == (Due(day(20), day(20)) if again else None)


def test_symbols_that_are_missing_do_not_make_a_session_due_again(fresh_database: Database) -> None:
    refreshed(fresh_database, day(19))
    looked(fresh_database, day(20), FRIDAY, condition="missing")
    assert due(fresh_database) is None


def test_one_symbol_that_a_person_pulled_is_no_refresh(fresh_database: Database) -> None:
    refreshed(fresh_database, day(19))
    looked(fresh_database, day(20), FRIDAY, ["AAPL"])
    assert due(fresh_database) == Due(day(20), day(20))


def test_symbols_that_the_market_file_has_gained_make_nothing_due(fresh_database: Database) -> None:
    for session in (day(19), day(20)):
        looked(fresh_database, session, FRIDAY, SYMBOLS[:40])
    assert due(fresh_database) is None


def test_a_week_off_is_one_range(fresh_database: Database) -> None:
    refreshed(fresh_database, day(12), day(13))
    assert due(fresh_database) == Due(day(16), day(20))


def test_whoever_was_off_for_months_catches_up_with_the_window(fresh_database: Database) -> None:
    refreshed(fresh_database, date(2026, 8, 3))
    found = due(fresh_database, market=replace(US, cadence=replace(US.cadence, catch_up_sessions=4)))
    assert found == Due(day(17), day(20))


def test_a_declared_closure_waits_for_nothing(fresh_database: Database) -> None:
    refreshed(fresh_database, day(18), day(19))
    with fresh_database.connection() as connection:
        declare_closure(connection, "us", day(20), "a storm", FRIDAY)
    assert due(fresh_database) is None


# --- freshness -----------------------------------------------------------------------------------------------


def stored(database: Database, session: date, symbols: list[str], *, provisional: bool = False) -> None:
    with database.connection() as connection:
        connection.cursor().executemany(
            "INSERT INTO market.stock_prices (symbol, market, session, open, high, low, close, volume, provider, "
            "condition, provisional, ingested_at) VALUES (%s, 'us', %s, 1, 1, 1, 1, 1, 'x', 'available', %s, %s)",
            [(symbol, session, provisional, FRIDAY) for symbol in symbols],
        )


def freshness(database: Database, now: datetime, market: MarketDefinition = US) -> Freshness:
    platform = cast(Platform, SimpleNamespace(database=database))
    state = freshness_of(platform, market, watched(market)[0], now)
    assert state is not None
    return state


SHARES = [one.symbol for one in watched(US)[0].instruments]
LATE = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)
"""Ninety minutes after the bell."""


def test_a_session_has_to_be_there_ninety_minutes_after_its_bell(fresh_database: Database) -> None:
    stored(fresh_database, day(19), SHARES)
    assert freshness(fresh_database, LATE - timedelta(minutes=1)).fresh
    state = freshness(fresh_database, LATE)
    assert (state.fresh, state.expected, state.since, state.behind) == (False, day(20), LATE, 1)
    assert state.words == "Overdue since 2026-11-20 22:30 UTC: 0 of 50 symbols have 2026-11-20; one session behind."


def test_an_old_session_that_is_filled_now_makes_nothing_fresh(fresh_database: Database) -> None:
    stored(fresh_database, day(2), SHARES)
    state = freshness(fresh_database, LATE)
    assert (state.fresh, state.newest, state.behind) == (False, day(2), 14)


def test_single_holes_are_for_other_rules(fresh_database: Database) -> None:
    stored(fresh_database, day(20), SHARES[:41])
    state = freshness(fresh_database, LATE)
    assert state.fresh
    assert len(state.lacking) == 9


def test_a_fifth_of_the_market_is_more_than_holes(fresh_database: Database) -> None:
    stored(fresh_database, day(20), SHARES[:40])
    assert not freshness(fresh_database, LATE).fresh


def test_a_bar_that_may_still_change_is_not_there_yet(fresh_database: Database) -> None:
    stored(fresh_database, day(20), SHARES, provisional=True)
    assert not freshness(fresh_database, LATE).fresh


def test_a_market_that_nobody_ever_filled_says_so(fresh_database: Database) -> None:
    state = freshness(fresh_database, LATE)
    assert (state.empty, state.fresh) == (True, False)
    assert state.words.startswith("Nothing is stored")


def test_the_weekend_and_a_declared_closure_change_nothing(fresh_database: Database) -> None:
    stored(fresh_database, day(20), SHARES)
    assert freshness(fresh_database, datetime(2026, 11, 23, 12, tzinfo=UTC)).fresh
    with fresh_database.connection() as connection:
        declare_closure(connection, "us", day(23), "a storm", FRIDAY)
    assert freshness(fresh_database, datetime(2026, 11, 24, 12, tzinfo=UTC)).fresh


def test_the_deadline_is_the_markets_own_and_never_before_the_refresh_had_its_time() -> None:
    calendar = trading_calendar(US.mic, FRIDAY)
    bell = datetime(2026, 11, 20, 21, tzinfo=UTC)

    def after(market: MarketDefinition, asking: datetime | None = None) -> timedelta:
        asked = None if asking is None else (lambda _instant: asking)
        return deadline(market, daily_cycle(market), calendar, day(20), asked) - bell

    assert after(US) == timedelta(minutes=90)
    assert after(replace(US, quality=QualityPlan({"freshness": 120.0}))) == timedelta(minutes=120)
    assert after(replace(US, minutes_after_close=180)) == timedelta(minutes=210)
    assert after(US, datetime(2026, 11, 21, 9, tzinfo=UTC)) == timedelta(hours=12, minutes=30)
    assert watched(replace(US, quality=QualityPlan(off=frozenset({"freshness"})))) == ()


# --- jobs ----------------------------------------------------------------------------------------------------


def test_a_job_whose_process_is_gone_is_told_from_one_that_runs(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        jobs = [
            job_started(connection, job_name=name, kind="daily", market="us", symbols=[], started_at=FRIDAY)
            for name in ("alive", "dead")
        ]
    with fresh_database.connection() as held:
        hold_job(held, jobs[0])
        with fresh_database.connection() as connection:
            assert running_jobs(connection, FRIDAY) == []
            found = running_jobs(connection, FRIDAY + timedelta(minutes=2))
    assert [(job.job_name, job.held) for job in found] == [("alive", True), ("dead", False)]
