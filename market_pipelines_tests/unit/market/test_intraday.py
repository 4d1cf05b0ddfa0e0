from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import coarser, lead, phased, session_bars
from market_pipelines.market.quality.intraday import against_daily, judge_intraday
from market_pipelines.market.sessions import trading_calendar

NOW = datetime(2026, 11, 20, 22, tzinfo=UTC)
NEW_YORK, WARSAW, TOKYO = (trading_calendar(mic, NOW) for mic in ("XNYS", "XWAR", "XTKS"))
APPLE = Instrument("AAPL", "us", "XNYS", "USD")


def minutes(*starts: str, symbol: str = "AAPL", price: float = 100.0, **changed: float) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "symbol": pd.Series([symbol] * len(starts), dtype="str"),
            "ts": pd.to_datetime(list(starts), utc=True).astype("datetime64[s, UTC]"),
            "open": price,
            "high": price + 1,
            "low": price - 1,
            "close": price,
            "volume": 10.0,
            "provisional": False,
        }
    )
    return frame.assign(**changed)


def phases(frame: pd.DataFrame, calendar: object = NEW_YORK) -> list[str]:
    return phased(frame, calendar)["phase"].tolist()  # type: ignore[arg-type]


def test_a_new_york_day_has_three_phases_and_nothing_around_them() -> None:
    # 2026-11-20, winter time: 04:00, 09:29, 09:30, 15:59, 16:00, 19:59 and 20:00 on the wall.
    frame = minutes(
        "2026-11-20 08:59", "2026-11-20 09:00", "2026-11-20 14:29", "2026-11-20 14:30", "2026-11-20 20:59",
        "2026-11-20 21:00", "2026-11-21 00:59", "2026-11-21 01:00",
    )  # fmt: skip
    found = phased(frame, NEW_YORK)
    assert found["phase"].tolist() == ["pre", "pre", "regular", "regular", "post", "post"]
    assert set(found["session"].dt.date) == {date(2026, 11, 20)}


def test_a_half_day_closes_at_one_and_trades_on_until_five() -> None:
    # The day after Thanksgiving 2025: 12:59, 13:00, 16:59 and 17:00 in New York.
    frame = minutes("2025-11-28 17:59", "2025-11-28 18:00", "2025-11-28 21:59", "2025-11-28 22:00")
    assert phases(frame) == ["regular", "post", "post"]


def test_the_weeks_in_which_only_one_continent_has_changed_its_clocks_keep_their_own_hours() -> None:
    # New York changed on 8 March 2026, Warsaw on 29 March 2026.
    assert phases(minutes("2026-03-09 13:29", "2026-03-09 13:30")) == ["pre", "regular"]
    assert phases(minutes("2026-03-09 07:59", "2026-03-09 08:00"), WARSAW) == ["regular"]
    assert phases(minutes("2026-03-30 06:59", "2026-03-30 07:00"), WARSAW) == ["regular"]


def test_a_minute_in_the_lunch_break_belongs_to_no_session() -> None:
    # Tokyo rests from 11:30 to 12:30.
    frame = minutes("2026-11-20 02:29", "2026-11-20 02:30", "2026-11-20 03:29", "2026-11-20 03:30")
    assert phased(frame, TOKYO)["ts"].dt.strftime("%H:%M").tolist() == ["02:29", "03:30"]


def test_a_weekend_has_no_minutes() -> None:
    assert phases(minutes("2026-11-21 15:00")) == []


def test_longer_bars_are_counted_from_the_opening_bell() -> None:
    starts = pd.date_range("2026-11-20 14:30", periods=390, freq="1min", tz="UTC").strftime("%Y-%m-%d %H:%M")
    frame = minutes(*starts)
    frame["high"] = np.arange(390.0) + 200
    hours = coarser(phased(frame, NEW_YORK), "60min", NEW_YORK)
    assert hours["ts"].dt.strftime("%H:%M").tolist() == [
        "14:30", "15:30", "16:30", "17:30", "18:30", "19:30", "20:30",
    ]  # fmt: skip
    assert hours["volume"].tolist() == [600.0] * 6 + [300.0]
    assert hours["high"].tolist() == [259.0, 319.0, 379.0, 439.0, 499.0, 559.0, 589.0]


def test_longer_bars_begin_anew_with_each_phase() -> None:
    # 04:00, 09:29, 09:30, 15:59, 16:00 and 16:59 in New York.
    frame = minutes(
        "2026-11-20 09:00", "2026-11-20 14:29", "2026-11-20 14:30", "2026-11-20 20:59", "2026-11-20 21:00",
        "2026-11-20 21:59",
    )  # fmt: skip
    hours = coarser(phased(frame, NEW_YORK), "60min", NEW_YORK)
    found = list(zip(hours["ts"].dt.strftime("%H:%M"), hours["phase"], strict=True))
    assert sorted(found) == [
        ("09:00", "pre"),
        ("14:00", "pre"),
        ("14:30", "regular"),
        ("20:30", "regular"),
        ("21:00", "post"),
    ]
    assert not hours.duplicated("ts").any()


def test_longer_bars_never_reach_across_the_lunch_break() -> None:
    morning = pd.date_range("2026-11-20 02:00", periods=30, freq="1min", tz="UTC")
    afternoon = pd.date_range("2026-11-20 03:30", periods=30, freq="1min", tz="UTC")
    frame = minutes(*morning.strftime("%Y-%m-%d %H:%M"), *afternoon.strftime("%Y-%m-%d %H:%M"))
    hours = coarser(phased(frame, TOKYO), "60min", TOKYO)
    assert hours["ts"].dt.strftime("%H:%M").tolist() == ["02:00", "03:30"]


def test_a_longer_bar_without_any_volume_has_none() -> None:
    frame = minutes("2026-11-20 14:30", "2026-11-20 14:31", volume=np.nan)
    assert np.isnan(coarser(phased(frame, NEW_YORK), "5min", NEW_YORK)["volume"].iloc[0])


def test_the_regular_minutes_make_the_session_and_the_others_do_not() -> None:
    frame = pd.concat(
        [
            minutes("2026-11-20 14:00", price=500.0),
            minutes("2026-11-20 14:30", price=100.0),
            minutes("2026-11-20 20:59", price=110.0),
            minutes("2026-11-20 21:05", price=500.0),
        ],
        ignore_index=True,
    )
    day = session_bars(phased(frame, NEW_YORK)).iloc[0]
    assert (day["open"], day["high"], day["low"], day["close"], day["volume"]) == (100.0, 111.0, 99.0, 110.0, 20.0)


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("nulls", {"close": np.nan}),
        ("nulls", {"high": np.inf}),
        ("positive_price", {"open": 0.0, "low": 0.0}),
        ("high_low_envelope", {"high": 99.0}),
        ("volume", {"volume": -1.0}),
    ],
)
def test_a_bad_bar_is_refused_and_its_neighbour_is_not(rule: str, changed: dict[str, float]) -> None:
    bad = minutes("2026-11-20 14:31").assign(**changed)
    frame = pd.concat([minutes("2026-11-20 14:30"), bad], ignore_index=True)
    verdict = judge_intraday(frame, "1min", NEW_YORK, [APPLE], NOW)
    assert verdict.clean["ts"].dt.strftime("%H:%M").tolist() == ["14:30"]
    assert verdict.quarantined["rule"].tolist() == [rule]
    assert verdict.quarantined["detail"].iloc[0].startswith("14:31 UTC: ")


def test_two_bars_that_begin_together_are_both_refused_and_a_repetition_is_one() -> None:
    twice = pd.concat([minutes("2026-11-20 14:30"), minutes("2026-11-20 14:30", price=101.0)], ignore_index=True)
    assert judge_intraday(twice, "1min", NEW_YORK, [APPLE], NOW).quarantined["rule"].tolist() == ["uniqueness"] * 2
    same = pd.concat([minutes("2026-11-20 14:30")] * 2, ignore_index=True)
    assert len(judge_intraday(same, "1min", NEW_YORK, [APPLE], NOW).clean) == 1


def test_bars_outside_of_trading_hours_are_dropped_and_counted() -> None:
    verdict = judge_intraday(minutes("2026-11-20 14:30", "2026-11-21 14:30"), "1min", NEW_YORK, [APPLE], NOW)
    assert (len(verdict.clean), verdict.outside, verdict.rejected) == (1, 1, 0)


def test_a_bar_that_is_not_over_is_provisional_and_one_that_has_not_begun_is_refused() -> None:
    at = datetime(2026, 11, 20, 14, 33, tzinfo=UTC)
    frame = minutes("2026-11-20 14:25", "2026-11-20 14:30", "2026-11-20 14:35")
    verdict = judge_intraday(frame, "5min", NEW_YORK, [APPLE], at)
    assert verdict.clean["provisional"].tolist() == [False, True]
    assert verdict.quarantined["rule"].tolist() == ["future"]


def daily(**changed: float) -> pd.DataFrame:
    row = {"open": 100.0, "high": 111.0, "low": 99.0, "close": 110.0, "volume": 20.0, **changed}
    return pd.DataFrame(
        {"symbol": ["AAPL"], "session": pd.to_datetime(["2026-11-20"]).astype("datetime64[s]"), "provisional": [False]}
    ).assign(**row)


def a_day() -> pd.DataFrame:
    frame = pd.concat(
        [minutes("2026-11-20 14:30", price=100.0), minutes("2026-11-20 20:59", price=110.0)], ignore_index=True
    )
    return phased(frame, NEW_YORK)


def test_minutes_that_make_up_their_day_agree_with_it() -> None:
    assert against_daily(a_day(), daily()).empty


@pytest.mark.parametrize(
    ("changed", "words", "serious"),
    [
        ({"close": 112.0}, "last close 110, the day's 112", True),
        ({"high": 110.0}, "high 111 above the day's 110", True),
        ({"low": 99.5}, "low 99 below the day's 99.5", True),
        ({"volume": 15.0}, "volume 20, the day's 15", False),
    ],
)
def test_minutes_that_contradict_their_day_are_told(changed: dict[str, float], words: str, serious: bool) -> None:
    found = against_daily(a_day(), daily(**changed))
    assert (found["detail"].tolist(), found["serious"].tolist()) == ([words], [serious])


def test_a_session_under_way_is_not_compared() -> None:
    assert against_daily(a_day().assign(provisional=True), daily(close=200.0)).empty


def offered(provider: str, count: int, basis: str = "traded") -> pd.DataFrame:
    starts = pd.date_range("2026-11-20 14:30", periods=count, freq="5min", tz="UTC").strftime("%Y-%m-%d %H:%M")
    words = {"market": "us", "interval": "5min", "provider": provider, "basis": basis}
    return phased(minutes(*starts), NEW_YORK).assign(**words)


def test_the_first_provider_with_a_whole_session_leads_and_is_not_mixed() -> None:
    bars = pd.concat([offered("yahoo", 40), offered("simulated-polygon", 78), offered("stooq", 78)], ignore_index=True)
    chosen = lead(bars, ["yahoo", "polygon", "stooq"])
    assert set(chosen["provider"]) == {"simulated-polygon"}
    assert len(chosen) == 78


def test_prices_as_traded_go_before_adjusted_ones_whoever_has_them() -> None:
    bars = pd.concat([offered("yahoo", 78, "split"), offered("polygon", 40)], ignore_index=True)
    assert set(lead(bars, ["yahoo", "polygon"])["provider"]) == {"polygon"}
    alone = lead(offered("yahoo", 78, "split"), ["yahoo"])
    assert set(alone["condition"]) == {"degraded"}


def test_every_value_column_survives_grouping() -> None:
    found = coarser(phased(minutes("2026-11-20 14:30"), NEW_YORK), "15min", NEW_YORK)
    assert found[list(VALUE_COLUMNS)].iloc[0].tolist() == [100.0, 101.0, 99.0, 100.0, 10.0]
