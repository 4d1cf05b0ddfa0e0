"""Repair against the simulator, on a stopped clock: what is asked, what heals, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from market_pipelines.market.definition import MarketDefinition, RepairPlan
from market_pipelines.market.repair import WHOLE_MARKET, Cause
from market_pipelines.pipeline.holes import NoSession, close_session, find_holes, reopen_session
from market_pipelines.pipeline.incidents import open_incidents
from market_pipelines.pipeline.intraday import refresh_intraday
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.refresh import refresh_daily
from market_pipelines.pipeline.repair import RepairReport, repair
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.holes import StoredHole, hold_repairs, read_holes
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house, untrue_rows

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

HOUR = timedelta(hours=1)
EVENING = datetime(2025, 6, 12, 23, 0, tzinfo=UTC)
"""Thursday; New York has closed three hours ago, and its bars have been due for some time."""
MONTH = date(2025, 5, 14), date(2025, 6, 12)
SHARES = ("AAPL", "MSFT", "NVDA", "AMZN", "KO", "JPM", "XOM", "WMT", "PG", "HD", "DIS", "IBM")
EVERYBODY = ("yahoo", "alpha_vantage", "polygon", "stooq")


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=EVENING) as opened:
        yield opened
    postgres_server.drop(url)


def market_of(house: House, plan: RepairPlan | None = None, **more: object) -> MarketDefinition:
    """A dozen shares of New York, daily bars only."""
    market = house.platform.market("us")
    instruments = tuple(one for one in market.instruments if one.symbol in SHARES)
    return replace(
        market,
        instruments=instruments,
        indices=(),
        intraday=None,
        repair=plan or RepairPlan(),
        **more,  # type: ignore[arg-type]
    )


def refresh(house: House, market: MarketDefinition, start: date = MONTH[0], end: date = MONTH[1]) -> None:
    refresh_daily(house.platform, market, market.everything, start, end)


def ledger(house: House, market: str = "us") -> dict[tuple[str, date], StoredHole]:
    with house.platform.database.connection() as connection:
        return {row.key: row for row in read_holes(connection, market)}


def missing_everywhere(house: House, *sessions: date, symbols: str = "") -> None:
    days = ",".join(day.isoformat() for day in sessions)
    house.simulator.faults.replace(
        [f"{provider}.missing_rows={days}{'@' if symbols else ''}{symbols}" for provider in EVERYBODY]
    )


def later(house: House, hours: float) -> None:
    house.clock.set(house.clock() + timedelta(hours=hours))


def healed(report: RepairReport) -> set[tuple[str, date]]:
    return {(one.symbol, session) for one in report.asked for session in one.healed}


# --- single holes ---------------------------------------------------------------------------------------------


def test_a_hole_is_seen_waits_an_hour_and_is_healed_with_one_request(house: House) -> None:
    market, day = market_of(house), date(2025, 6, 3)
    missing_everywhere(house, day, symbols="KO")
    refresh(house, market)
    house.simulator.faults.clear()
    house.simulator.requests.clear()
    seen = repair(house.platform, market)
    assert (seen.new, seen.found, seen.asked) == (1, 1, [])
    assert house.simulator.requests.count() == 0
    later(house, 1)
    done = repair(house.platform, market)
    assert healed(done) == {("KO", day)}
    assert done.requests == house.simulator.requests.count() == 1
    assert ledger(house) == {}
    assert untrue_rows(house) == []
    assert day in house.prices("KO").index


def test_a_hole_of_the_first_provider_is_asked_of_each_other_one_until_one_has_it(house: House) -> None:
    market, days = market_of(house), (date(2025, 5, 20), date(2025, 6, 3))
    house.simulator.faults.add(f"yahoo.missing_rows={days[0]},{days[1]}@KO")
    refresh(house, market)
    assert house.simulator.requests.count("alpha_vantage") == 0, "a hole inside of a range is how some shares trade"
    find_holes(house.platform, market)
    later(house, 1)
    house.simulator.faults.replace([f"yahoo.missing_rows={days[0]}@KO"])
    done = repair(house.platform, market)
    assert healed(done) == {("KO", day) for day in days}
    providers = house.prices("KO")["provider"]
    assert [providers[day] for day in days] == ["simulated-alpha_vantage", "simulated-yahoo"]


def test_a_hole_that_nobody_has_is_confirmed_and_asked_for_again_in_a_week(house: House) -> None:
    market, day = market_of(house), date(2025, 6, 3)
    missing_everywhere(house, day, symbols="KO")
    refresh(house, market)
    find_holes(house.platform, market)
    later(house, 1)
    first = repair(house.platform, market)
    assert (first.confirmed, healed(first)) == (1, set())
    row = ledger(house)["KO", day]
    assert row.confirmed_at == house.clock()
    assert row.next_ask == house.clock() + timedelta(days=7)
    house.simulator.requests.clear()
    later(house, 24 * 6)
    assert [one for one in repair(house.platform, market).asked if one.symbol == "KO" and one.start == day] == []


def test_a_session_that_was_just_closed_is_left_to_whoever_fetches_it(house: House) -> None:
    market = market_of(house)
    refresh(house, market, end=date(2025, 6, 11))
    house.clock.set(datetime(2025, 6, 12, 21, 0, tzinfo=UTC))
    assert find_holes(house.platform, market).new == 0
    house.clock.set(datetime(2025, 6, 12, 21, 45, tzinfo=UTC))
    assert find_holes(house.platform, market).incidents == 1


def test_what_was_never_looked_at_is_history_and_no_hole(house: House) -> None:
    market = market_of(house)
    refresh(house, market, date(2025, 6, 2))
    outlook = find_holes(house.platform, market)
    assert len(outlook.window) == 60
    assert (outlook.holes, outlook.incidents) == (0, 0)


def test_a_share_that_was_listed_or_delisted_is_expected_in_its_life_only(house: House) -> None:
    market = market_of(house)
    last = date(2025, 5, 30)
    gone = replace(market.instruments[0], delisted_on=last)
    market = replace(market, instruments=(gone, *market.instruments[1:]))
    refresh(house, market)
    assert find_holes(house.platform, market).holes == 0


# --- healing along the way ------------------------------------------------------------------------------------


def test_a_refresh_that_covers_a_hole_heals_it(house: House) -> None:
    market, day = market_of(house), date(2025, 6, 11)
    missing_everywhere(house, day, symbols="KO")
    refresh(house, market)
    find_holes(house.platform, market)
    assert ("KO", day) in ledger(house)
    house.simulator.faults.clear()
    refresh(house, market, start=date(2025, 6, 10))
    assert ledger(house) == {}


def test_a_refresh_brings_older_due_holes_along_without_a_further_request(house: House) -> None:
    market, day = market_of(house), date(2025, 5, 20)
    missing_everywhere(house, day, symbols="KO")
    refresh(house, market)
    find_holes(house.platform, market)
    house.simulator.faults.clear()
    house.simulator.requests.clear()
    refresh(house, market, start=date(2025, 6, 10))
    assert ("KO", day) in ledger(house), "it is not due yet"
    assert house.simulator.requests.count() == len(SHARES)
    later(house, 1)
    house.simulator.requests.clear()
    refresh(house, market, start=date(2025, 6, 10))
    assert ledger(house) == {}
    assert house.simulator.requests.count() == len(SHARES), "no request more than without it"
    assert day in house.prices("KO").index
    assert untrue_rows(house) == []
    assert repair(house.platform, market).asked == []


def test_a_hole_that_a_refresh_asked_for_in_vain_counts_as_asked(house: House) -> None:
    market, day = market_of(house), date(2025, 5, 20)
    missing_everywhere(house, day, symbols="KO")
    refresh(house, market)
    find_holes(house.platform, market)
    later(house, 1)
    refresh(house, market, start=date(2025, 6, 10))
    row = ledger(house)["KO", day]
    assert (row.times_asked, row.confirmed_at) == (1, house.clock())
    assert repair(house.platform, market).asked == []


# --- whole sessions -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_outage_of_two_days_is_one_incident_a_session_and_healed_as_one_range(house: House) -> None:
    market = market_of(house)
    lost = date(2025, 6, 11), date(2025, 6, 12)
    refresh(house, market, end=date(2025, 6, 10))
    house.simulator.faults.replace([f"{provider}.status=503" for provider in EVERYBODY])
    refresh(house, market, start=lost[0])
    outlook = find_holes(house.platform, market)
    assert list(ledger(house)) == [(WHOLE_MARKET, day) for day in lost]
    assert {row.cause for row in ledger(house).values()} == {Cause.OUTAGE}
    assert outlook.holes == 0
    assert {one.key for one in open_incidents(house.platform)} == {f"repair:us:{day}" for day in lost}
    house.simulator.faults.clear()
    house.simulator.requests.clear()
    providers_are_well_again(house.platform)
    later(house, 1)
    done = repair(house.platform, market)
    assert {(one.start, one.end) for one in done.asked} == {lost}
    assert len(healed(done)) == 2 * len(SHARES)
    assert done.requests == house.simulator.requests.count() == len(SHARES)
    assert ledger(house) == {}
    assert open_incidents(house.platform) == []
    assert untrue_rows(house) == []


def providers_are_well_again(platform: Platform) -> None:
    with platform.database.connection() as connection:
        connection.execute("DELETE FROM market.provider_health")


@pytest.mark.slow
def test_while_nobody_can_be_asked_nothing_is_asked_and_the_reason_is_told(house: House) -> None:
    market = market_of(house)
    refresh(house, market, end=date(2025, 6, 10))
    house.simulator.faults.replace([f"{provider}.status=503" for provider in EVERYBODY])
    refresh(house, market, start=date(2025, 6, 11))
    find_holes(house.platform, market)
    later(house, 1)
    done = repair(house.platform, market)
    assert done.asked == []
    assert "no provider can be asked" in done.stopped


def test_a_session_on_which_nobody_traded_is_confirmed_with_three_questions_until_a_person_says_so(
    house: House,
) -> None:
    # A whole session of Polygon is complete in any case.
    market, day = market_of(house, providers=("yahoo", "alpha_vantage", "stooq")), date(2025, 6, 3)
    missing_everywhere(house, day)
    refresh(house, market)
    find_holes(house.platform, market)
    later(house, 1)
    done = repair(house.platform, market)
    assert [one.symbol for one in done.asked] == sorted(SHARES)[:3]
    row = ledger(house)[WHOLE_MARKET, day]
    assert (row.cause, row.confirmed_at) == (Cause.CLOSURE, house.clock())
    assert [one.key for one in open_incidents(house.platform)] == [f"repair:us:{day}"]

    assert close_session(house.platform, market, day, "a day of mourning")
    assert not close_session(house.platform, market, day)
    assert open_incidents(house.platform) == []
    outlook = find_holes(house.platform, market)
    assert (outlook.holes, outlook.incidents, [one.session for one in outlook.closures]) == (0, 0, [day])
    assert reopen_session(house.platform, market, day)
    assert find_holes(house.platform, market).incidents == 1


def test_a_closure_on_a_day_without_a_session_is_refused(house: House) -> None:
    with pytest.raises(NoSession, match="2025-06-01 is no session of XNYS"):
        close_session(house.platform, market_of(house), date(2025, 6, 1))


# --- the budget -----------------------------------------------------------------------------------------------


def test_a_run_asks_for_no_more_symbols_than_its_budget_and_the_next_one_goes_on(house: House) -> None:
    plan = RepairPlan(symbols_a_run=2, outage_share=1.0)
    market, day = market_of(house, plan), date(2025, 6, 3)
    missing_everywhere(house, day, symbols="KO,JPM,AAPL,XOM,HD")
    refresh(house, market)
    house.simulator.faults.clear()
    find_holes(house.platform, market)
    later(house, 1)
    runs = [repair(house.platform, market) for _ in range(4)]
    assert [[one.symbol for one in run.asked] for run in runs] == [["AAPL", "HD"], ["JPM", "KO"], ["XOM"], []]
    assert [run.due for run in runs] == [5, 3, 1, 0]


def test_a_dry_run_asks_nobody(house: House) -> None:
    market, day = market_of(house), date(2025, 6, 3)
    missing_everywhere(house, day, symbols="KO")
    refresh(house, market)
    find_holes(house.platform, market)
    later(house, 1)
    house.simulator.requests.clear()
    planned = repair(house.platform, market, dry_run=True)
    assert [(interval, one.symbol, one.sessions) for interval, one in planned.planned] == [("1d", "KO", (day,))]
    assert house.simulator.requests.count() == 0


def test_a_repair_ends_where_nobody_answers_any_more(house: House) -> None:
    plan = RepairPlan(outage_share=1.0)
    market = market_of(house, plan)
    missing_everywhere(house, date(2025, 6, 3), symbols="AAPL,KO")
    refresh(house, market)
    house.simulator.faults.replace([f"{provider}.status=503" for provider in EVERYBODY])
    find_holes(house.platform, market)
    later(house, 1)
    done = repair(house.platform, market)
    assert "nobody answers" in done.stopped
    assert {row.confirmed_at for row in ledger(house).values()} == {None}
    assert all(row.next_ask > house.clock() for row in ledger(house).values())


def test_two_repairs_of_one_market_do_not_work_at_once(house: House) -> None:
    market = market_of(house)
    with house.platform.database.connection() as held:
        assert hold_repairs(held, "us")
        assert repair(house.platform, market).stopped == "another repair of it is under way"
    assert repair(house.platform, market).stopped == ""


# --- within sessions ------------------------------------------------------------------------------------------


def test_a_session_without_bars_within_it_is_a_hole_where_the_share_traded(house: House) -> None:
    whole = house.platform.market("us")
    market = replace(market_of(house), intraday=whole.intraday)
    span = date(2025, 6, 9), date(2025, 6, 12)
    house.clock.set(datetime(2025, 6, 13, 4, tzinfo=UTC))
    refresh(house, market, *span)
    refresh_intraday(house.platform, market, market.everything, *span)
    with house.platform.database.connection() as connection:
        connection.execute(
            "UPDATE market.coverage SET condition = 'missing' WHERE interval = '5min' AND symbol = 'KO' "
            "AND session = '2025-06-10'"
        )
    outlook = find_holes(house.platform, market)
    assert [(one.interval, len(one.survey.holes)) for one in outlook.intervals] == [("1d", 0), ("5min", 1)]
    later(house, 1)
    done = repair(house.platform, market)
    assert [(one.interval, one.symbol) for one in done.asked] == [("5min", "KO")]
    assert healed(done) == {("KO", date(2025, 6, 10))}
