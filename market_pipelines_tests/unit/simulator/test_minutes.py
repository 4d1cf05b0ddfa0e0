from datetime import UTC, date, datetime
from typing import Literal

import numpy as np
import pytest

from market_pipelines.simulator.minutes import grouped, minutes_of
from market_pipelines.simulator.truth import World

NOW = datetime(2026, 11, 20, 22, tzinfo=UTC)
WORLD = World()
ANCHORS: tuple[Literal["clock", "bell"], ...] = ("clock", "bell")


@pytest.mark.parametrize(("symbol", "mic"), [("AAPL", "XNYS"), ("PKO", "XWAR"), ("7203", "XTKS"), ("^SPX", "XNYS")])
def test_the_regular_minutes_of_a_session_add_up_to_its_daily_bar(symbol: str, mic: str) -> None:
    listing = WORLD.find(symbol, mic)
    assert listing is not None
    history = WORLD.history(listing, NOW)
    for session in history.sessions[history.between(date(2026, 10, 1), date(2026, 11, 20))].tolist():
        day = history.bars.row(int(np.searchsorted(history.sessions, np.datetime64(session))))
        bars = minutes_of(WORLD, listing, session, session, NOW).bars
        assert (bars.open[0], bars.high.max(), bars.low.min(), bars.close[-1]) == (
            day.open,
            day.high,
            day.low,
            day.close,
        )
        assert bars.volume.sum() == day.volume
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()


def test_a_minute_is_the_same_whatever_range_and_hour_it_is_asked_in() -> None:
    listing = WORLD.find("MSFT", "XNYS")
    assert listing is not None
    wide = minutes_of(WORLD, listing, date(2026, 11, 16), date(2026, 11, 20), NOW, extended=True)
    morning = datetime(2026, 11, 20, 15, 0, 30, tzinfo=UTC)
    early = minutes_of(World(), listing, date(2026, 11, 20), date(2026, 11, 20), morning, extended=True)
    same = wide.take((wide.stamps >= early.stamps[0]) & (wide.stamps <= early.stamps[-1]))
    assert early.stamps.tolist() == same.stamps.tolist()
    assert early.bars.close.tolist() == same.bars.close.tolist()
    assert early.stamps[-1] == np.datetime64("2026-11-20T14:59:00")


def test_extended_hours_are_new_yorks_and_end_earlier_on_a_half_day() -> None:
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    half_day = minutes_of(WORLD, listing, date(2025, 11, 28), date(2025, 11, 28), NOW, extended=True)
    assert half_day.stamps.min() >= np.datetime64("2025-11-28T09:00:00")
    assert half_day.stamps.max() < np.datetime64("2025-11-28T22:00:00")
    assert (half_day.phase == "regular").sum() == 210
    polish = WORLD.find("PKO", "XWAR")
    assert polish is not None
    assert set(minutes_of(WORLD, polish, date(2026, 11, 19), date(2026, 11, 19), NOW, extended=True).phase) == {
        "regular"
    }


def test_longer_bars_keep_the_range_and_the_volume_of_their_minutes() -> None:
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    whole = minutes_of(WORLD, listing, date(2026, 11, 20), date(2026, 11, 20), NOW, extended=True)
    for length in (5, 15, 30, 60):
        for anchor in ANCHORS:
            longer = grouped(whole, length, anchor)
            assert longer.bars.volume.sum() == whole.bars.volume.sum()
            assert longer.bars.high.max() == whole.bars.high.max()
            assert len(np.unique(longer.stamps)) == len(longer)
            assert (np.diff(longer.stamps) > np.timedelta64(0, "s")).all()
