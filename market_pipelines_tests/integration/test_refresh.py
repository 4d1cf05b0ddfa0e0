"""A whole refresh against the simulator's truth: what is agreed on, what is revised, and who fills in for whom."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.backfill import incomplete
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import logged_job
from market_pipelines.settings import SettingsError
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.ledger import JobStatus, recent_jobs, write_off_jobs
from market_pipelines.store.read_bars import read_prices
from market_pipelines_tests.faults.house import (
    CONTENTS,
    PRECISION,
    REVISION_CONTENTS,
    THURSDAY_EVENING,
    House,
    contents,
    opened_house,
    quarantined,
    untrue_rows,
)

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

SPLIT = date(2020, 8, 31)
AROUND_THE_SPLIT = date(2020, 8, 3), date(2020, 9, 30)
SPRING = date(2025, 3, 3), date(2025, 6, 12)
A_YEAR = date(2024, 1, 2), date(2024, 12, 31)


def count(house: House, table: str) -> int:
    with house.platform.database.connection() as connection:
        return sum(len(rows) for rows in contents(connection, {table: (CONTENTS | REVISION_CONTENTS)[table]}).values())


def instruments_of_us(house: House, *symbols: str) -> tuple[Instrument, ...]:
    return instruments_of(house.platform.market("us"), symbols)


def row(house: House, symbol: str, session: date) -> Mapping[str, Any]:
    (found,) = [one for day, one in house.prices(symbol).iterrows() if day == session]
    return {str(name): value for name, value in found.items()}


# --- the agreed bar is the true one -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "symbols", "indices"),
    [("us", ["AAPL", "BRK.B", "GOOGL", "SPY"], ["^SPX"]), ("pl", ["PKO", "CDR", "KGH"], ["WIG20"])],
)
def test_the_agreed_bars_of_a_market_are_what_happened(
    market: str, symbols: list[str], indices: list[str], house: House
) -> None:
    results = house.refresh([*symbols, *indices], *A_YEAR, market=market)
    for symbol in symbols:
        assert list(house.prices(symbol).index) == list(house.truth(symbol, *A_YEAR, market=market).index)
    for index in indices:
        stored = house.prices(index, "market_index_prices")
        assert list(stored.index) == list(house.truth(index, *A_YEAR, market=market).index)
    assert {result.outcome for result in results.values()} == {Outcome.OK}
    assert untrue_rows(house) == []
    assert house.rows("SELECT DISTINCT condition, provisional FROM market.stock_prices") == [("available", False)]


@pytest.mark.parametrize("provider", ["yahoo", "alpha_vantage", "stooq"])
def test_prices_over_a_split_are_stored_as_traded_and_adjusted_on_reading(provider: str, house: House) -> None:
    house.know_actions(["AAPL"])
    since_before_the_split = AROUND_THE_SPLIT[0], THURSDAY_EVENING.date()
    house.refresh(["AAPL"], *since_before_the_split, providers=[provider])
    assert untrue_rows(house) == []
    stored = house.prices("AAPL")["close"]
    before, after = stored[stored.index < SPLIT].iloc[-1], stored[stored.index >= SPLIT].iloc[0]
    assert before / after == pytest.approx(4, rel=0.1)
    with house.platform.database.connection() as connection:
        adjusted = read_prices(connection, "us", ["AAPL"], adjusted=True)
    expected = house.truth("AAPL", *since_before_the_split, adjusted=True)
    assert np.allclose(adjusted["close"], expected["close"], rtol=PRECISION)
    assert adjusted["close"].pct_change().abs().max() < 0.2


def test_corporate_actions_are_stored_as_they_were_paid(house: House) -> None:
    house.refresh(["AAPL", "KO"], *AROUND_THE_SPLIT)
    for symbol in ("AAPL", "KO"):
        stored = house.rows(
            "SELECT ex_date, kind, coalesce(factor, amount) FROM market.corporate_actions WHERE symbol = %(symbol)s "
            "ORDER BY ex_date, kind",
            {"symbol": symbol},
        )
        known = [one for one in sorted(house.actions(symbol)) if one.ex_date >= AROUND_THE_SPLIT[0]]
        assert [(day, kind) for day, kind, _ in stored] == [(one.ex_date, one.kind.value) for one in known]
        assert [value for *_, value in stored] == pytest.approx([one.value for one in known], rel=1e-4)
    assert house.rows("SELECT factor FROM market.corporate_actions WHERE kind = 'split'") == [(4.0,)]


def test_the_same_refresh_twice_changes_nothing(house: House) -> None:
    symbols = ["AAPL", "MSFT", "SIMH", "^SPX"]
    house.refresh(symbols, *A_YEAR)
    with house.platform.database.connection() as connection:
        first = contents(connection)
        stamps = connection.execute("SELECT max(ingested_at) FROM market.stock_prices").fetchall()
    house.clock.set(THURSDAY_EVENING + timedelta(hours=1))
    results = house.refresh(symbols, *A_YEAR)
    with house.platform.database.connection() as connection:
        assert contents(connection) == first
        assert connection.execute("SELECT max(ingested_at) FROM market.stock_prices").fetchall() == stamps
    assert sum(result.revisions for result in results.values()) == 0
    assert count(house, "bar_revisions") == 0


# --- what changes later -------------------------------------------------------------------------------------


def test_a_late_correction_gives_one_revision_and_as_of_shows_the_old_row(house: House) -> None:
    day = date(2024, 3, 1)
    house.refresh(["AAPL", "MSFT"], *A_YEAR)
    old = row(house, "AAPL", day)["close"]
    before = house.clock()
    house.clock.set(before + timedelta(hours=1))
    house.simulator.faults.add(f"yahoo.correction=AAPL:{day}:+0.5%")
    results = house.refresh(["AAPL", "MSFT"], *A_YEAR)
    assert (results["AAPL"].revisions, results["MSFT"].revisions) == (1, 0)
    assert house.rows("SELECT symbol, session, close, removed FROM market.bar_revisions") == [("AAPL", day, old, False)]
    with house.platform.database.connection() as connection:

        def close(as_of: datetime | None) -> float:
            return float(read_prices(connection, "us", ["AAPL"], day, day, as_of=as_of)["close"].iloc[0])

        assert close(None) == pytest.approx(old * 1.005, rel=1e-4)
        assert close(before) == close(before + timedelta(minutes=59)) == old
        assert close(house.clock()) == close(None)
        unborn = read_prices(connection, "us", ["AAPL"], day, day, as_of=before - timedelta(seconds=1))
    assert unborn.empty


def test_a_bar_of_a_session_under_way_is_pending_and_final_after_the_bell(house: House) -> None:
    today = THURSDAY_EVENING.date()
    house.clock.set(THURSDAY_EVENING.replace(hour=17))
    house.refresh(["AAPL"], today - timedelta(days=7), today)
    during = house.prices("AAPL").index[-1]
    assert during < today, "an open session is settled after its close"
    live = house.rows("SELECT provisional FROM market.provider_bars WHERE session = %(today)s", {"today": today})
    assert live == [(True,)]
    house.clock.set(THURSDAY_EVENING)
    house.refresh(["AAPL"], today - timedelta(days=7), today)
    final = row(house, "AAPL", today)
    assert (final["condition"], final["provisional"]) == ("available", False)
    assert untrue_rows(house) == []


# --- holes, ends and unknown ranges -------------------------------------------------------------------------


def test_holes_of_a_suspended_share_stay_holes_and_are_told_in_the_coverage(house: House) -> None:
    results = house.refresh(["SIMH", "AAPL"], *A_YEAR)
    traded = list(house.truth("SIMH", *A_YEAR).index)
    assert list(house.prices("SIMH").index) == traded
    assert len(traded) < results["AAPL"].rows == 252
    lacking = house.rows("SELECT session FROM market.coverage WHERE symbol = 'SIMH' AND condition = 'missing'")
    assert {session for (session,) in lacking} == set(house.prices("AAPL").index) - set(traded)
    assert house.simulator.requests.count("alpha_vantage") == 0, "a hole is how it trades, nobody else is asked"
    assert results["SIMH"].outcome is Outcome.OK


def test_a_delisted_share_ends_with_its_last_session(house: House) -> None:
    last = date(2023, 6, 30)
    house.refresh(["SIMD"], date(2023, 6, 1), date(2023, 6, 30))
    assert house.prices("SIMD").index[-1] == last
    afterwards = house.refresh(["SIMD"], date(2023, 7, 3), date(2023, 7, 31))["SIMD"]
    assert afterwards.rows == 0
    assert not afterwards.outcome.delivered
    assert house.prices("SIMD").index[-1] == last
    assert untrue_rows(house) == []


def test_nothing_is_asked_for_a_range_before_the_listing(house: House) -> None:
    result = house.refresh(["META"], date(2010, 1, 4), date(2010, 2, 1))["META"]
    assert (result.outcome, result.rows, result.requests) == (Outcome.EMPTY_EXPECTED, 0, 0)
    assert house.simulator.requests.count() == 0


# --- disagreement, fallback, order --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "condition"),
    [
        ("alpha_vantage.scale=+80bp", "degraded"),
        ("yahoo.scale=+80bp", "degraded"),
        # Both are official closes.
        ("yahoo.scale=+20bp", "degraded"),
        ("yahoo.scale=+8bp", "available"),
    ],
)
def test_providers_that_disagree_degrade_the_sessions_that_both_delivered(
    fault: str, condition: str, house: House
) -> None:
    both = date(2024, 2, 1), date(2024, 2, 29)
    house.simulator.faults.add(fault)
    house.refresh(["AAPL"], *both, providers=["alpha_vantage"])
    house.refresh(["AAPL"], *A_YEAR, providers=["yahoo"])
    stored = house.prices("AAPL")
    assert set(stored["provider"]) == {"simulated-yahoo"}
    inside = (stored.index >= both[0]) & (stored.index <= both[1])
    assert set(stored.loc[inside, "condition"]) == {condition}
    assert set(stored.loc[~inside, "condition"]) == {"available"}


def test_a_market_without_its_first_provider_is_served_by_the_next(house: House) -> None:
    house.simulator.faults.add("yahoo.status=429:600")
    results = house.refresh(["AAPL", "MSFT", "^SPX"], *A_YEAR)
    assert {symbol: result.provider for symbol, result in results.items()} == {
        "AAPL": "simulated-alpha_vantage",
        "MSFT": "simulated-alpha_vantage",
        "^SPX": "simulated-stooq",
    }
    assert "Too Many Requests" in results["AAPL"].reason
    assert untrue_rows(house, adjusted_series=["^SPX"]) == []
    assert len(house.prices("AAPL")) == len(house.prices("^SPX", "market_index_prices")) == 252


def test_the_operators_order_of_providers_counts(url: str, simulator: Simulator, tmp_path: Path) -> None:
    with opened_house(
        tmp_path / "home", url, simulator, primary_provider="alpha_vantage", fallback_providers=("stooq",)
    ) as house:
        results = house.refresh(["AAPL"], *A_YEAR)
        assert results["AAPL"].provider == "simulated-alpha_vantage"
        assert simulator.requests.count("yahoo") == 0
        # What another provider brings later does not take the place of the first one's bars.
        house.refresh(["AAPL"], *A_YEAR, providers=["yahoo"])
        assert set(house.prices("AAPL")["provider"]) == {"simulated-alpha_vantage"}
        assert count(house, "bar_revisions") == 0


def test_an_unknown_first_provider_is_refused_by_name(url: str, simulator: Simulator, tmp_path: Path) -> None:
    with (
        opened_house(tmp_path / "home", url, simulator, primary_provider="bloomberg") as house,
        pytest.raises(
            SettingsError,
            match="bloomberg is not a provider; accepted: alpha_vantage, iex_cloud",
        ),
    ):
        house.refresh(["AAPL"], *A_YEAR)


# --- Stooq alone: prices that say nothing of what was taken out of them -------------------------------------


def test_adjusted_prices_are_turned_back_where_every_action_is_known(house: House) -> None:
    house.know_actions(["KO", "AAPL"])
    house.refresh(["KO", "AAPL"], *AROUND_THE_SPLIT, providers=["stooq"])
    assert untrue_rows(house) == []
    assert house.rows("SELECT DISTINCT basis FROM market.provider_bars") == [("traded",)]
    assert house.rows("SELECT DISTINCT condition FROM market.stock_prices") == [("available",)]


@pytest.mark.parametrize(("start", "end"), [AROUND_THE_SPLIT, SPRING])
def test_without_known_actions_one_adjusted_series_says_that_it_is_degraded(
    start: date, end: date, house: House
) -> None:
    results = house.refresh(["KO"], start, end, providers=["stooq"])
    expected = house.truth("KO", start, end, adjusted=True)
    stored = house.prices("KO")
    assert list(stored.index) == list(expected.index)
    assert results["KO"].rows == len(expected)
    assert np.allclose(stored["close"], expected["close"], rtol=PRECISION)
    assert set(stored["condition"]) == {"degraded"}
    assert untrue_rows(house, adjusted_series=["KO"]) == []


def test_a_symbol_with_traded_bars_takes_no_adjusted_ones(house: House) -> None:
    spring = date(2025, 3, 3), date(2025, 3, 31)
    house.refresh(["KO"], *spring, providers=["alpha_vantage"])
    house.refresh(["KO"], *AROUND_THE_SPLIT, providers=["stooq"])
    stored = house.prices("KO")
    assert stored.index[0] >= spring[0]
    assert set(stored["condition"]) == {"available"}
    kept = house.rows("SELECT count(*), min(basis), max(basis) FROM market.provider_bars WHERE session < '2021-01-01'")
    assert kept == [(len(house.truth("KO", *AROUND_THE_SPLIT)), "split_dividend", "split_dividend")]
    assert count(house, "bar_revisions") == 0, "they were never part of the series, not for a moment"
    assert untrue_rows(house) == []


def test_the_newest_session_of_a_traded_series_comes_from_stooq_when_nobody_else_has_it(house: House) -> None:
    """Nothing has been taken out of the newest price yet."""
    end = SPRING[1]
    house.refresh(["KO"], SPRING[0], end - timedelta(days=1), providers=["alpha_vantage"])
    house.simulator.faults.replace(["yahoo.status=503:60", "alpha_vantage.body=daily_limit", "polygon.status=403"])
    result = house.refresh(["KO"], SPRING[0], end)["KO"]
    assert result.outcome is Outcome.OK
    stored = house.prices("KO")
    assert stored.index[-1] == end
    newest = row(house, "KO", end)
    assert (newest["provider"], newest["condition"]) == ("simulated-stooq", "available")
    assert set(stored["provider"].iloc[:-1]) == {"simulated-alpha_vantage"}
    assert untrue_rows(house) == []


def test_traded_bars_replace_an_adjusted_series_with_revisions(house: House) -> None:
    house.refresh(["KO"], *A_YEAR, providers=["stooq"])
    assert set(house.prices("KO")["condition"]) == {"degraded"}
    house.clock.set(THURSDAY_EVENING + timedelta(hours=1))
    result = house.refresh(["KO"], *A_YEAR, providers=["yahoo"])["KO"]
    assert result.revisions == 252 == count(house, "bar_revisions")
    assert set(house.prices("KO")["condition"]) == {"available"}
    assert untrue_rows(house) == []


def test_a_series_is_never_part_adjusted_and_part_traded(house: House) -> None:
    house.refresh(["KO"], *A_YEAR, providers=["stooq"])
    house.clock.set(THURSDAY_EVENING + timedelta(hours=1))
    house.refresh(["KO"], *SPRING, providers=["yahoo"])
    assert untrue_rows(house) == []
    assert set(house.prices("KO")["condition"]) == {"available"}
    taken_out = house.rows("SELECT count(*), bool_and(removed), max(known_to) FROM market.bar_revisions")
    assert taken_out == [(252, True, house.clock())]
    wanted = incomplete(house.platform, house.platform.market("us"), instruments_of_us(house, "KO"), *A_YEAR)
    assert [one.symbol for one in wanted] == ["KO"], "a backfill has to ask for them again"


def test_bad_rows_are_not_counted_as_agreement(house: House) -> None:
    day = date(2024, 6, 3)
    house.simulator.faults.add(f"yahoo.unit_error={day}:100@AAPL")
    house.refresh(["AAPL"], *A_YEAR)
    assert row(house, "AAPL", day)["provider"] == "simulated-alpha_vantage"
    assert quarantined(house) == {("AAPL", day, "unit_error")}
    assert house.rows("SELECT DISTINCT condition FROM market.stock_prices") == [("available",)]
    assert untrue_rows(house) == []


def test_a_job_is_held_while_it_works_and_written_off_only_when_nobody_holds_it(house: House) -> None:
    platform = house.platform
    much_later = platform.clock() + timedelta(hours=3)
    with logged_job(platform, "long", "daily", platform.market("us"), ["AAPL"]) as job:
        with platform.database.connection() as connection:
            assert write_off_jobs(connection, much_later) == 0
        job.processed = 1
    with platform.database.connection() as connection:
        assert [(one.status, one.records_processed) for one in recent_jobs(connection)] == [(JobStatus.SUCCESS, 1)]
