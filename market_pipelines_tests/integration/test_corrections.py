"""Corrections: what changes a final bar a little is a revision, what changes it a lot waits for a person."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from market_pipelines.orchestration.scope import Span, with_corrections
from market_pipelines.pipeline.corrections import settle_correction
from market_pipelines.store.corrections import Decision, HeldCorrection, UnknownCorrection, held
from market_pipelines_tests.faults.house import House

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

WEEK = date(2025, 6, 9), date(2025, 6, 12)
DAY = date(2025, 6, 11)


def waiting(house: House, status: Decision | None = Decision.HELD) -> list[HeldCorrection]:
    with house.platform.database.connection() as connection:
        return held(connection, "us", status=status)


def revisions(house: House) -> list[tuple[object, ...]]:
    return house.rows("SELECT symbol, session, provider, known_to > known_from FROM market.bar_revisions")


def close_of(house: House) -> float:
    ((close,),) = house.rows("SELECT close FROM market.stock_prices WHERE session = %(day)s", {"day": DAY})
    return float(close)


def corrected(house: House, change: str) -> float:
    """The close that was stored before a provider corrected it and was asked again."""
    house.refresh(["AAPL"], *WEEK)
    before = close_of(house)
    house.simulator.faults.add(f"yahoo.correction=AAPL:{DAY}:{change}")
    house.clock.set(house.clock() + timedelta(hours=1))
    house.refresh(["AAPL"], *WEEK)
    return before


def test_a_small_correction_becomes_a_revision_with_its_provider_and_times(house: House) -> None:
    before = corrected(house, "+0.5%")
    assert close_of(house) == pytest.approx(before * 1.005, rel=1e-4)
    assert revisions(house) == [("AAPL", DAY, "simulated-yahoo", True)]
    assert waiting(house) == []


def test_a_large_correction_is_held_and_the_old_bar_stands(house: House) -> None:
    before = corrected(house, "+8%")
    assert close_of(house) == before
    assert revisions(house) == []
    (one,) = waiting(house)
    assert (one.symbol, one.session, one.old_close, one.provider) == ("AAPL", DAY, before, "simulated-yahoo")
    assert one.close == pytest.approx(before * 1.08, rel=1e-4)
    assert one.change == pytest.approx(0.08, abs=0.001)


def test_the_same_correction_again_is_counted_and_not_repeated(house: House) -> None:
    corrected(house, "+8%")
    house.refresh(["AAPL"], *WEEK)
    assert [one.times_seen for one in waiting(house)] == [2]


def test_an_accepted_correction_is_written_and_stays(house: House) -> None:
    before = corrected(house, "+8%")
    (one,) = waiting(house)
    settle_correction(house.platform, one.held_id, accept=True)
    assert close_of(house) == pytest.approx(before * 1.08, rel=1e-4)
    assert len(revisions(house)) == 1
    house.refresh(["AAPL"], *WEEK)
    assert (waiting(house), len(revisions(house))) == ([], 1)


def test_a_rejected_correction_is_not_asked_about_again(house: House) -> None:
    before = corrected(house, "+8%")
    settle_correction(house.platform, waiting(house)[0].held_id, accept=False)
    house.refresh(["AAPL"], *WEEK)
    assert close_of(house) == before
    assert waiting(house) == []
    assert [one.status for one in waiting(house, None)] == ["rejected"]
    with pytest.raises(UnknownCorrection, match="no correction"):
        settle_correction(house.platform, waiting(house, None)[0].held_id, accept=True)


def test_a_bar_that_was_not_final_may_change_as_much_as_it_likes(house: House) -> None:
    house.refresh(["AAPL"], *WEEK, providers=["stooq"])
    assert set(house.prices("AAPL")["condition"]) == {"degraded"}
    house.refresh(["AAPL"], *WEEK, providers=["yahoo"])
    assert waiting(house) == []


def test_a_run_of_the_newest_session_asks_for_the_last_three(house: House) -> None:
    market, now = house.platform.market("us"), house.clock()
    newest = Span(date(2025, 6, 12), date(2025, 6, 12))
    assert with_corrections(newest, market, now) == Span(date(2025, 6, 10), date(2025, 6, 12))
    month = Span(date(2025, 5, 12), date(2025, 6, 12))
    assert with_corrections(month, market, now) == month
    past = Span(date(2025, 6, 3), date(2025, 6, 3))
    assert with_corrections(past, market, now) == past
