"""What is stored against what the calendar and the listing lives promise."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quality import (
    Severity,
    completeness,
    expected_sessions,
    freshness,
    provider_outage,
)
from market_pipelines.market.quality.coverage import unusual
from market_pipelines.market.quality.limits import OWN
from market_pipelines.market.sessions import trading_calendar

FRIDAY_CLOSE = datetime(2026, 11, 20, 21, tzinfo=UTC)
XNYS = trading_calendar("XNYS", FRIDAY_CLOSE)
MONDAY, FRIDAY = date(2026, 11, 16), date(2026, 11, 20)
SATURDAY = FRIDAY_CLOSE + timedelta(days=1)


def share(symbol: str, listed_from: date | None = None, delisted_on: date | None = None) -> Instrument:
    return Instrument(symbol, "us", "XNYS", "USD", listed_from=listed_from, delisted_on=delisted_on)


UNIVERSE = tuple(share(f"S{number:02}") for number in range(10))


def stored(*gaps: tuple[str, date], until: date = FRIDAY) -> pd.DataFrame:
    """The whole universe from Monday on, but for the gaps."""
    rows = expected_sessions(XNYS, UNIVERSE, MONDAY, until)
    absent = [(symbol, session.date()) in gaps for symbol, session in zip(rows["symbol"], rows["session"], strict=True)]
    return rows[[not gone for gone in absent]]


def offences(found: pd.DataFrame) -> list[tuple[str, date, str]]:
    return list(zip(found["symbol"], found["session"].dt.date, found["severity"], strict=True))


def test_a_bar_is_expected_for_every_session_of_a_listing_life() -> None:
    lives = [share("A", listed_from=date(2026, 11, 25)), share("B", delisted_on=date(2026, 11, 24)), share("C")]
    rows = expected_sessions(XNYS, lives, date(2026, 11, 24), date(2026, 11, 28))

    assert list(zip(rows["symbol"], rows["session"].dt.day, strict=True)) == [
        ("A", 25),
        ("A", 27),
        ("B", 24),
        ("C", 24),
        ("C", 25),
        ("C", 27),
    ]


def test_a_complete_table_passes() -> None:
    found = completeness(stored(), XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY)
    assert found.passed
    assert found.checked == 50
    assert found.detail == "50 of 50 expected bars are stored"


def test_a_session_that_has_not_closed_is_not_missed() -> None:
    thursday = stored(until=date(2026, 11, 19))
    before = completeness(thursday, XNYS, UNIVERSE, MONDAY, FRIDAY, now=FRIDAY_CLOSE - timedelta(seconds=1))
    assert before.passed
    assert not completeness(thursday, XNYS, UNIVERSE, MONDAY, FRIDAY, now=FRIDAY_CLOSE).passed


def test_an_old_gap_warns() -> None:
    found = completeness(stored(("S03", date(2026, 11, 17))), XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY)
    assert offences(found.offending) == [("S03", date(2026, 11, 17), "warn")]
    assert found.severity is Severity.WARN


@pytest.mark.parametrize(("hours", "severity"), [(5.9, "warn"), (6, "block")])
def test_a_gap_in_the_last_session_blocks_once_it_is_overdue(hours: float, severity: str) -> None:
    found = completeness(
        stored(("S03", FRIDAY)), XNYS, UNIVERSE, MONDAY, FRIDAY, now=FRIDAY_CLOSE + timedelta(hours=hours)
    )
    assert offences(found.offending) == [("S03", FRIDAY, severity)]
    assert found.severity.value == severity


def test_a_gap_that_the_providers_have_explained_does_not_block() -> None:
    excused = pd.DataFrame({"symbol": ["S03"], "session": pd.Series([FRIDAY], dtype="datetime64[s]")})
    found = completeness(stored(("S03", FRIDAY)), XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY, excused=excused)
    assert offences(found.offending) == [("S03", FRIDAY, "warn")]


def test_a_provisional_bar_does_not_count_as_stored() -> None:
    table = stored()
    table = table.assign(provisional=(table["symbol"] == "S05") & (table["session"].dt.date == FRIDAY))
    found = completeness(table, XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY)
    assert offences(found.offending) == [("S05", FRIDAY, "block")]
    assert freshness(table, XNYS, UNIVERSE, SATURDAY).offending["symbol"].tolist() == ["S05"]


def test_bars_of_strangers_and_of_other_days_change_nothing() -> None:
    strangers = pd.DataFrame(
        {
            "symbol": ["ZZZ", "S01"],
            "session": pd.Series([FRIDAY, date(2026, 11, 21)], dtype="datetime64[s]"),
        }
    )
    table = pd.concat([stored(("S01", FRIDAY)), strangers])
    found = completeness(table, XNYS, UNIVERSE, MONDAY, FRIDAY, now=FRIDAY_CLOSE)
    assert offences(found.offending) == [("S01", FRIDAY, "warn")]


def test_the_newest_session_is_awaited_for_ninety_minutes() -> None:
    thursday = stored(until=date(2026, 11, 19))
    assert freshness(thursday, XNYS, UNIVERSE, FRIDAY_CLOSE + timedelta(minutes=89)).passed

    found = freshness(thursday, XNYS, UNIVERSE, FRIDAY_CLOSE + timedelta(minutes=90))
    assert found.severity is Severity.BLOCK
    assert found.offending["behind"].tolist() == [1] * 10
    assert set(found.offending["expected"].dt.date) == {FRIDAY}


def test_one_late_symbol_warns() -> None:
    found = freshness(stored(("S07", FRIDAY), ("S07", date(2026, 11, 19))), XNYS, UNIVERSE, SATURDAY)

    assert found.severity is Severity.WARN
    assert found.offending["symbol"].tolist() == ["S07"]
    assert found.offending["newest"].dt.date.tolist() == [date(2026, 11, 18)]
    assert found.offending["behind"].tolist() == [2]
    assert found.detail == "9 of 10 symbols have 2026-11-20"


def test_nothing_stored_is_not_fresh() -> None:
    nothing = pd.DataFrame({"symbol": pd.Series(dtype="str"), "session": pd.Series(dtype="datetime64[s]")})
    found = freshness(nothing, XNYS, UNIVERSE, SATURDAY)

    assert found.severity is Severity.BLOCK
    assert found.offending["newest"].isna().all()
    assert found.offending["behind"].isna().all()
    assert len(completeness(nothing, XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY).offending) == 50


def test_a_delisted_symbol_need_not_be_fresh() -> None:
    universe = (*UNIVERSE, share("GONE", delisted_on=date(2026, 11, 19)))
    assert freshness(stored(), XNYS, universe, SATURDAY).passed


@pytest.mark.parametrize(("absent", "outage"), [(1, False), (2, True), (10, True)])
def test_a_session_without_a_fifth_of_the_universe_is_an_outage(absent: int, outage: bool) -> None:
    wednesday = date(2026, 11, 18)
    gaps = [(one.symbol, wednesday) for one in UNIVERSE[:absent]]
    found = provider_outage(stored(*gaps), XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY)

    assert found.passed is not outage
    if outage:
        assert found.severity is Severity.BLOCK
        assert found.offending["session"].dt.date.tolist() == [wednesday]
        assert found.offending[["missing", "expected"]].to_numpy().tolist() == [[absent, 10]]


def test_one_gap_in_a_small_universe_is_no_outage() -> None:
    found = provider_outage(stored(("S01", FRIDAY)), XNYS, UNIVERSE[:3], MONDAY, FRIDAY, now=SATURDAY)
    assert found.passed


def test_a_provider_that_failed_for_every_symbol_is_named() -> None:
    outcomes = {
        "yahoo": {"S01": Outcome.THROTTLED, "S02": Outcome.UNAVAILABLE, "ZZZ": Outcome.UNKNOWN_SYMBOL},
        "stooq": {"S01": Outcome.CHALLENGE, "S02": Outcome.OK},
        "alpha_vantage": {"ZZZ": Outcome.UNKNOWN_SYMBOL},
    }
    found = provider_outage(stored(), XNYS, UNIVERSE, MONDAY, FRIDAY, now=SATURDAY, outcomes=outcomes)

    assert found.offending["provider"].tolist() == ["yahoo"]
    assert found.offending["missing"].tolist() == [2]
    assert found.severity is Severity.WARN, "other providers filled in"
    assert found.detail == "0 of 5 sessions lack much of the universe; yahoo failed for all of 2 symbols"


def test_the_first_rows_after_empty_sessions_are_a_beginning_and_no_anomaly() -> None:
    rows = np.array([0] * 10 + [50, 50])
    far, judged = unusual(rows, np.full(12, 50), np.ones(12, dtype=bool), OWN)
    assert far.empty
    assert judged > 0


def test_half_of_the_usual_rows_are_an_anomaly() -> None:
    rows = np.array([50] * 11 + [25])
    far, _ = unusual(rows, np.full(12, 50), np.ones(12, dtype=bool), OWN)
    assert far["at"].tolist() == [11]
