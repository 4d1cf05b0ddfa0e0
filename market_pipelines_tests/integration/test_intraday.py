"""Bars within sessions against the simulator's truth: stored, computed, failed over, compared with the day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.backfill import backfill_bars, incomplete
from market_pipelines.pipeline.estimate import estimate
from market_pipelines.pipeline.intraday import refresh_intraday, settle_intraday
from market_pipelines.pipeline.reading import stored_intraday
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import RefreshReport
from market_pipelines.simulator.minutes import grouped, minutes_of
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.coverage import read_coverage
from market_pipelines.store.quarantine import read_quarantine
from market_pipelines_tests.faults.house import House, opened_house

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

WEEK = date(2025, 6, 9), date(2025, 6, 12)


def refresh(
    house: House,
    *symbols: str,
    market: str = "us",
    interval: str = "5min",
    start: date = WEEK[0],
    end: date = WEEK[1],
    providers: tuple[str, ...] | None = None,
) -> RefreshReport:
    definition = house.platform.market(market)
    chain = None if providers is None else [house.platform.providers[name] for name in providers]
    return refresh_intraday(
        house.platform,
        definition,
        instruments_of(definition, symbols),
        start,
        end,
        interval=interval,
        providers=chain,
    )


def stored(house: House, symbol: str, interval: str = "5min", market: str = "us") -> pd.DataFrame:
    return stored_intraday(house.platform.database, [symbol], interval, market=market)


def truth(house: House, symbol: str, length: int, market: str = "us", start: date = WEEK[0]) -> pd.DataFrame:
    mic = house.platform.market(market).mic
    listing = house.simulator.world.find(symbol, mic)
    assert listing is not None
    whole = minutes_of(house.simulator.world, listing, start, WEEK[1], house.clock(), extended=True)
    minutes = grouped(whole, length, "bell")
    columns = {name: getattr(minutes.bars, name) for name in ("open", "high", "low", "close", "volume")}
    return pd.DataFrame({"ts": pd.DatetimeIndex(minutes.stamps, tz="UTC"), **columns, "phase": minutes.phase})


def assert_true(house: House, symbol: str, market: str = "us", start: date = WEEK[0]) -> None:
    found = stored(house, symbol, market=market)
    found = found[found["session"] >= pd.Timestamp(start)].reset_index(drop=True)
    expected = truth(house, symbol, 5, market, start)
    if not house.platform.market(market).intraday.extended:  # type: ignore[union-attr]
        expected = expected[expected["phase"] == "regular"].reset_index(drop=True)
    assert found["ts"].tolist() == expected["ts"].tolist()
    assert found["phase"].tolist() == expected["phase"].tolist()
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("market", "symbol"), [("us", "AAPL"), ("us", "BRK.B"), ("pl", "PKO")])
def test_the_stored_bars_are_what_happened(house: House, market: str, symbol: str) -> None:
    report = refresh(house, symbol, market=market)
    assert [one.outcome for one in report.symbols] == [Outcome.OK]
    assert report.symbols[0].provider == "simulated-yahoo"
    assert_true(house, symbol, market)


def test_longer_bars_are_computed_from_the_stored_ones(house: House) -> None:
    refresh(house, "AAPL")
    hours = stored(house, "AAPL", "60min")
    regular = hours[(hours["phase"] == "regular") & (hours["session"] == pd.Timestamp(WEEK[1]))]
    assert regular["ts"].dt.strftime("%H:%M").tolist() == [
        "13:30", "14:30", "15:30", "16:30", "17:30", "18:30", "19:30",
    ]  # fmt: skip
    day = house.truth("AAPL", WEEK[1], WEEK[1]).iloc[0]
    assert regular["high"].max() == pytest.approx(day["high"], rel=1e-6)
    assert regular["volume"].sum() == pytest.approx(day["volume"], rel=1e-6)


def test_a_second_refresh_changes_nothing(house: House) -> None:
    refresh(house, "AAPL", "MSFT")
    before = stored(house, "AAPL")
    again = refresh(house, "AAPL", "MSFT")
    assert [one.revisions for one in again.symbols] == [0, 0]
    pd.testing.assert_frame_equal(stored(house, "AAPL"), before)
    assert house.rows("SELECT count(*) FROM market.intraday_revisions") == [(0,)]


def test_another_provider_fills_in_for_the_symbols_that_the_first_did_not_deliver(house: House) -> None:
    house.simulator.faults.add("yahoo.status=503@AAPL")
    report = refresh(house, "AAPL", "MSFT")
    providers = {one.symbol: one.provider for one in report.symbols}
    assert providers == {"AAPL": "simulated-alpha_vantage", "MSFT": "simulated-yahoo"}
    assert_true(house, "AAPL")


def test_a_session_is_never_mixed_from_two_providers(house: House) -> None:
    refresh(house, "AAPL", providers=("polygon",))
    refresh(house, "AAPL", providers=("yahoo",))
    by_session = stored(house, "AAPL").groupby("session")["provider"].nunique()
    assert by_session.tolist() == [1] * 4
    assert set(stored(house, "AAPL")["provider"]) == {"simulated-yahoo"}
    delivered = house.rows("SELECT DISTINCT provider FROM market.provider_bars_intraday ORDER BY provider")
    assert delivered == [("simulated-polygon",), ("simulated-yahoo",)]


def test_every_provider_of_new_york_tells_the_same_minutes(house: House) -> None:
    for provider in ("yahoo", "alpha_vantage", "polygon"):
        refresh(house, "AAPL", interval="1min", start=WEEK[1], providers=(provider,))
    closes = house.rows(
        """
        SELECT ts, count(DISTINCT round(close::numeric, 2)), count(*) FROM market.provider_bars_intraday
        WHERE phase = 'regular' GROUP BY ts ORDER BY ts
        """
    )
    assert len(closes) == 390
    assert {(different, providers) for _, different, providers in closes} == {(1, 3)}


def test_prices_that_a_later_split_has_adjusted_are_stored_as_traded(
    url: str, simulator: Simulator, tmp_path: Path
) -> None:
    # Four days after NVDA's split of ten for one; Yahoo divides all that came before it.
    now = datetime(2024, 6, 13, 21, tzinfo=UTC)
    with opened_house(tmp_path / "home", url, simulator, now=now) as house:
        refresh(house, "NVDA", start=date(2024, 6, 6), end=date(2024, 6, 11), providers=("yahoo",))
        found = stored(house, "NVDA")
        closes = found[found["phase"] == "regular"].groupby("session")["close"].last()
        traded = house.truth("NVDA", date(2024, 6, 6), date(2024, 6, 11))["close"]
        np.testing.assert_allclose(closes.to_numpy(), traded.to_numpy(), rtol=1e-5)
        assert traded.iloc[0] > 5 * traded.iloc[-1]
        assert set(found["condition"]) == {"available"}


def test_minutes_that_contradict_their_day_are_kept_and_marked(house: House) -> None:
    house.simulator.faults.add("yahoo.scale=+2%")
    house.refresh(["AAPL"], *WEEK, providers=["yahoo"])
    refresh(house, "AAPL", providers=("polygon",))
    assert set(stored(house, "AAPL")["condition"]) == {"degraded"}
    definition = house.platform.market("us")
    settled = settle_intraday(
        house.platform,
        definition,
        instruments_of(definition, ["AAPL"]),
        *WEEK,
        interval="5min",
        run_id="again",
        known_at=house.clock(),
    )
    assert len(settled.mismatches) == 4
    assert settled.mismatches["serious"].all()


def test_the_session_under_way_is_kept_as_far_as_it_has_come(house: House) -> None:
    house.clock.set(datetime(2025, 6, 12, 15, 2, tzinfo=UTC))
    refresh(house, "AAPL", start=WEEK[1])
    found = stored(house, "AAPL")
    assert found["ts"].max() == pd.Timestamp("2025-06-12 15:00", tz="UTC")
    assert found["provisional"].tolist() == [False] * (len(found) - 1) + [True]
    house.clock.set(datetime(2025, 6, 13, 6, tzinfo=UTC))
    refresh(house, "AAPL", start=WEEK[1])
    assert not stored(house, "AAPL")["provisional"].any()
    assert_true(house, "AAPL", start=WEEK[1])


def test_a_backfill_leaves_out_what_is_there_and_asks_only_as_far_back_as_a_provider_keeps(house: House) -> None:
    definition = house.platform.market("us")
    wanted = instruments_of(definition, ["AAPL", "MSFT"])
    refresh(house, "AAPL")
    lacking = incomplete(house.platform, definition, wanted, *WEEK, "5min")
    assert [one.symbol for one in lacking] == ["MSFT"]
    report = backfill_bars(house.platform, definition, wanted, *WEEK, interval="5min")
    assert (report.skipped, [one.symbol for one in report.symbols]) == (("AAPL",), ["MSFT"])
    # Yahoo keeps five-minute bars for sixty days; Alpha Vantage has the months before.
    long_ago = date(2024, 11, 4)
    old = refresh(house, "AAPL", start=long_ago, end=long_ago + timedelta(days=1))
    assert old.symbols[0].provider == "simulated-alpha_vantage"


def test_coverage_says_session_by_session_what_is_there(house: House) -> None:
    refresh(house, "AAPL")
    with house.platform.database.connection() as connection:
        found = read_coverage(connection, "us", "5min", ["AAPL"], *WEEK)
    assert found["condition"].tolist() == ["available"] * 4


def test_bad_bars_are_refused_one_by_one_and_the_next_provider_fills_in(house: House) -> None:
    house.simulator.faults.add("yahoo.bad_minute=2025-06-12T14:00")
    refresh(house, "AAPL", start=WEEK[1])
    with house.platform.database.connection() as connection:
        refused = read_quarantine(connection, "us", symbols=["AAPL"], start=WEEK[1], end=WEEK[1])
    assert set(refused["rule"]) == {"positive_price"}
    assert refused["detail"].str.startswith("14:00 UTC").all()
    assert {
        attempt for (attempt,) in house.rows("SELECT provider FROM market.fetches WHERE capability = 'intraday'")
    } == {
        "simulated-yahoo",
        "simulated-alpha_vantage",
    }
    assert_true(house, "AAPL", start=WEEK[1])


def test_a_range_beyond_the_first_providers_reach_is_completed_by_the_next(house: House) -> None:
    # Yahoo keeps five-minute bars for sixty days.
    start, end = date(2025, 3, 24), date(2025, 6, 12)
    refresh(house, "AAPL", start=start, end=end)
    found = stored(house, "AAPL")
    sessions = house.truth("AAPL", start, end).index
    assert found["session"].dt.date.nunique() == len(sessions)
    assert set(found["provider"]) == {"simulated-yahoo", "simulated-alpha_vantage"}
    assert found.groupby("session")["provider"].nunique().max() == 1


def test_a_dry_run_counts_what_the_pull_then_asks(house: House) -> None:
    market = house.platform.market("us")
    wanted = instruments_of(market, ["AAPL", "MSFT"])
    for start in (date(2025, 6, 2), date(2025, 4, 7)):
        counted = estimate(house.platform, market, wanted, start, WEEK[1], interval="5min")
        house.simulator.requests.clear()
        refresh(house, "AAPL", "MSFT", start=start, providers=("yahoo",))
        assert {cost.provider: cost.best for cost in counted.providers}["yahoo"] == house.simulator.requests.count()


def test_a_dry_run_counts_the_months_of_a_provider_that_answers_by_month(house: House) -> None:
    market, alpha_vantage = house.platform.market("us"), house.platform.providers["alpha_vantage"]
    wanted, start = instruments_of(market, ["AAPL"]), date(2025, 1, 15)
    counted = estimate(house.platform, market, wanted, start, WEEK[1], interval="5min", providers=[alpha_vantage])
    refresh(house, "AAPL", start=start, providers=("alpha_vantage",))
    assert counted.best == house.simulator.requests.count() == 6


def test_a_dry_run_counts_whole_sessions_where_they_are_fewer(house: House) -> None:
    market, polygon = house.platform.market("us"), house.platform.providers["polygon"]
    symbols = ["AAPL", "KO", "MSFT", "SPY"]
    counted = estimate(house.platform, market, instruments_of(market, symbols), *WEEK[1:], WEEK[1], providers=[polygon])
    house.refresh(symbols, WEEK[1], WEEK[1], providers=["polygon"])
    assert counted.worst == house.simulator.requests.count() == 1
