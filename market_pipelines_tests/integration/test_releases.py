"""Which refused rows pass because somebody released them: exactly their values, exactly their rules."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pandas as pd
import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality import Verdict, judge
from market_pipelines.market.quality.intraday import IntradayVerdict, judge_intraday
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.releases import pass_released, pass_released_within
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.quarantine import Decision, quarantine_rows, read_quarantine, write_decision

NOW = datetime(2026, 3, 4, 22, tzinfo=UTC)
CALENDAR = trading_calendar("XNYS", NOW)
AAPL = Instrument("AAPL", "us", "XNYS", "USD")


def bars(*lows: float, volume: float = 1000.0, session: str = "2026-03-02", provider: str = "yahoo") -> pd.DataFrame:
    words = {"symbol": "AAPL", "market": "us", "provider": provider, "basis": "traded"}
    frame = pd.DataFrame({"open": 100.0, "high": 102.0, "low": lows, "close": 101.0, "volume": volume})
    frame = frame.assign(**{name: pd.Series([text] * len(lows), dtype="str") for name, text in words.items()})
    frame["session"] = pd.Series([session] * len(lows), dtype="datetime64[s]")
    return frame.assign(provisional=False).astype({"low": "float64"})


def judged(frame: pd.DataFrame) -> Verdict:
    return judge(frame, CALENDAR, [AAPL], NOW)


def keep(connection: Transaction, verdict: Verdict | IntradayVerdict, *released: str) -> None:
    quarantine_rows(connection, verdict.quarantined, "us", "run", NOW)
    for rule in released:
        ids = [int(number) for number in read_quarantine(connection, rule=rule)["quarantine_id"]]
        write_decision(connection, ids, Decision.RELEASED, NOW, "ann", "")


def rules(verdict: Verdict | IntradayVerdict) -> list[str]:
    return sorted(verdict.quarantined["rule"])


def test_a_row_passes_when_every_rule_that_it_breaks_was_released(fresh_database: Database) -> None:
    verdict = judged(bars(-1.0, volume=-5.0))
    assert rules(verdict) == ["positive_price", "volume"]
    with fresh_database.connection() as connection:
        keep(connection, verdict, "positive_price")
        assert pass_released(connection, verdict, "us", CALENDAR, NOW) is verdict
        keep(connection, verdict, "volume")
        passed = pass_released(connection, verdict, "us", CALENDAR, NOW)
        assert pass_released(connection, verdict, "pl", CALENDAR, NOW) is verdict
    assert passed.quarantined.empty
    assert passed.clean.dtypes.to_dict() == verdict.clean.dtypes.to_dict()
    assert passed.clean[["low", "volume", "provisional"]].to_numpy().tolist() == [[-1.0, -5.0, False]]


@pytest.mark.parametrize(
    "other",
    [bars(-1.5), bars(-1.0, volume=float("nan")), bars(-1.0, session="2026-03-03"), bars(-1.0, provider="stooq")],
)
def test_other_values_sessions_and_providers_do_not_pass(other: pd.DataFrame, fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        keep(connection, judged(bars(-1.0)), "positive_price")
        verdict = judged(other)
        assert rules(pass_released(connection, verdict, "us", CALENDAR, NOW)) == ["positive_price"]


def test_what_is_missing_is_the_same_as_what_is_missing(fresh_database: Database) -> None:
    verdict = judged(bars(-1.0, volume=float("nan")))
    with fresh_database.connection() as connection:
        keep(connection, verdict, "positive_price")
        assert len(pass_released(connection, verdict, "us", CALENDAR, NOW).clean) == 1


def test_a_released_row_that_comes_twice_is_one_bar_and_takes_its_place_among_the_others(
    fresh_database: Database,
) -> None:
    frame = pd.concat([bars(99.0, session="2026-03-03"), bars(-1.0, -1.0), bars(99.0, session="2026-02-27")])
    verdict = judged(frame.reset_index(drop=True))
    with fresh_database.connection() as connection:
        keep(connection, verdict, "positive_price")
        passed = pass_released(connection, verdict, "us", CALENDAR, NOW)
    assert passed.clean["session"].dt.date.tolist() == [date(2026, 2, 27), date(2026, 3, 2), date(2026, 3, 3)]


def test_a_released_bar_of_a_session_under_way_is_provisional(fresh_database: Database) -> None:
    noon = datetime(2026, 3, 2, 17, tzinfo=UTC)
    verdict = judge(bars(-1.0), CALENDAR, [AAPL], noon)
    with fresh_database.connection() as connection:
        keep(connection, verdict, "positive_price")
        during = pass_released(connection, verdict, "us", CALENDAR, noon)
        after = pass_released(connection, verdict, "us", CALENDAR, NOW)
    assert (during.clean["provisional"].tolist(), after.clean["provisional"].tolist()) == ([True], [False])


def minutes(*starts: str, volume: float = 1000.0) -> pd.DataFrame:
    frame = bars(*([-1.0] * len(starts)), volume=volume).drop(columns="session")
    stamps = pd.Series(pd.to_datetime(list(starts), utc=True)).astype("datetime64[s, UTC]")
    return frame.assign(ts=stamps, interval=pd.Series(["5min"] * len(starts), dtype="str"))


def within(frame: pd.DataFrame, off: frozenset[str] = frozenset()) -> IntradayVerdict:
    return judge_intraday(frame, "5min", CALENDAR, [AAPL], NOW, off=off)


def test_a_bar_within_a_session_passes_only_at_its_own_time(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        keep(connection, within(minutes("2026-03-02T15:00")), "positive_price")
        verdict = within(minutes("2026-03-02T15:00", "2026-03-02T15:05"))
        passed = pass_released_within(connection, verdict, "us", "5min", within)
        assert pass_released_within(connection, verdict, "us", "1min", within) is verdict
    assert passed.clean["ts"].dt.strftime("%H:%M").tolist() == ["15:00"]
    assert passed.clean["phase"].tolist() == ["regular"]
    assert passed.quarantined["ts"].dt.strftime("%H:%M").tolist() == ["15:05"]


def test_a_bar_within_a_session_that_breaks_another_rule_too_is_refused_by_that_one(fresh_database: Database) -> None:
    verdict = within(minutes("2026-03-02T15:00", volume=-5.0))
    with fresh_database.connection() as connection:
        keep(connection, verdict, "positive_price")
        still = pass_released_within(connection, verdict, "us", "5min", within)
        assert (still.clean.empty, rules(still)) == (True, ["volume"])
        keep(connection, still, "volume")
        assert len(pass_released_within(connection, verdict, "us", "5min", within).clean) == 1
