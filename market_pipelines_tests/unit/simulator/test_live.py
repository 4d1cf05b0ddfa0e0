"""Round the clock: sessions as they are, between them the last one again, and bars made of what is streamed."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from market_pipelines.simulator.aggregates import MINUTE_NS, SECOND_NS, bars_of
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.live import live_quotes, live_trades, stretch_at, stretches, tells_replays
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.ticks import nanoseconds, quotes_of, trades_of, trades_per_minute
from market_pipelines.simulator.truth import World

WORLD = World()
FRIDAY = date(2026, 11, 20)
CLOSED = datetime(2026, 11, 21, 1, 0, tzinfo=UTC)
"""Friday's extended hours are over."""
OPENS_AGAIN = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ROUND = timedelta(hours=6, minutes=30)


def listed(symbol: str) -> Listing:
    found = WORLD.find(symbol, "XNYS")
    assert found is not None
    return found


APPLE, THIN = listed("AAPL"), listed("BRK.B")


def test_time_is_made_of_stretches_without_a_hole() -> None:
    start, end = datetime(2026, 11, 18, tzinfo=UTC), datetime(2026, 12, 2, tzinfo=UTC)
    found = list(stretches("XNYS", start, end))
    assert all(one.ends == following.starts for one, following in pairwise(found))
    assert found[0].starts <= start and found[-1].ends >= end
    half_day = [one for one in found if one.session == date(2026, 11, 27)]
    assert half_day[0].ends == datetime(2026, 11, 27, 22, 0, tzinfo=UTC)
    assert {one.ends - one.starts for one in half_day[1:-1]} == {timedelta(hours=3, minutes=30)}


def test_within_a_session_it_is_the_session() -> None:
    start, end = datetime(2026, 11, 20, 14, tzinfo=UTC), datetime(2026, 11, 20, 15, tzinfo=UTC)
    assert np.array_equal(live_trades(WORLD, APPLE, start, end, end).seq, trades_of(WORLD, APPLE, start, end, end).seq)
    assert np.array_equal(
        live_quotes(WORLD, APPLE, start, end, end).stamps, quotes_of(WORLD, APPLE, start, end, end).stamps
    )


def test_after_it_the_regular_hours_come_again() -> None:
    opens = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    original = trades_of(WORLD, APPLE, opens, opens + ROUND, CLOSED)
    for number in range(2):
        starts = CLOSED + number * ROUND
        again = live_trades(WORLD, APPLE, starts, starts + ROUND, starts + ROUND)
        assert np.array_equal(again.price, original.price)
        assert np.array_equal(
            again.stamps - original.stamps, np.full(len(again), nanoseconds(starts) - nanoseconds(opens))
        )


def test_numbers_rise_through_a_weekend_and_no_two_events_share_one() -> None:
    start = datetime(2026, 11, 20, 9, tzinfo=UTC)
    for read in (live_trades, live_quotes):
        seq = read(WORLD, APPLE, start, OPENS_AGAIN, OPENS_AGAIN).seq
        assert (np.diff(seq) > 0).all()


def test_the_nights_on_both_sides_of_a_session_share_no_number() -> None:
    starts = datetime(2026, 11, 19, 1, tzinfo=UTC), datetime(2026, 11, 20, 1, tzinfo=UTC)
    before, after = (live_trades(WORLD, APPLE, start, start + timedelta(hours=8), CLOSED) for start in starts)
    assert not set(before.seq.tolist()) & set(after.seq.tolist())


def test_what_was_read_in_pieces_is_the_same() -> None:
    start, end = CLOSED - timedelta(minutes=7), CLOSED + ROUND + timedelta(minutes=11)
    whole = live_trades(WORLD, THIN, start, end, end)
    edges = [start + number * timedelta(minutes=37) for number in range(12)]
    pieces = [
        live_trades(WORLD, THIN, one, following, OPENS_AGAIN)
        for one, following in zip(edges, [*edges[1:], end], strict=True)
    ]
    assert np.array_equal(np.concatenate([piece.seq for piece in pieces]), whole.seq)


def test_a_share_that_is_not_listed_any_more_is_silent() -> None:
    gone = next(one for one in WORLD.listings if one.delisted_on is not None and one.mic == "XNYS")
    assert not len(live_trades(WORLD, gone, CLOSED, CLOSED + ROUND, OPENS_AGAIN))


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (CLOSED, CLOSED + ROUND, True),
        (CLOSED - timedelta(minutes=1), CLOSED + timedelta(minutes=1), True),
        (CLOSED - timedelta(hours=2), CLOSED, False),
        (CLOSED - timedelta(hours=24), CLOSED, False),
        (CLOSED - timedelta(hours=20), OPENS_AGAIN, False),
    ],
)
def test_history_tells_replays_only_to_who_does_not_ask_for_a_session(
    start: datetime, end: datetime, told: bool
) -> None:
    assert tells_replays("XNYS", start, end) is told


@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B", "IBM"])
def test_bars_of_streamed_trades_are_the_minutes(symbol: str) -> None:
    listing = listed(symbol)
    minutes = minutes_of(WORLD, listing, FRIDAY, FRIDAY, CLOSED, extended=True)
    bars = bars_of(live_trades(WORLD, listing, datetime(2026, 11, 20, 9, tzinfo=UTC), CLOSED, CLOSED), MINUTE_NS)
    assert np.array_equal(bars.starts, minutes.stamps.astype("datetime64[ns]").astype(np.int64))
    for name in ("open", "high", "low", "close", "volume"):
        assert np.array_equal(getattr(bars, name), getattr(minutes.bars, name)), name
    assert np.array_equal(bars.count, trades_per_minute(minutes))


def test_odd_lots_make_no_price() -> None:
    trades = live_trades(WORLD, APPLE, datetime(2026, 11, 20, 15, tzinfo=UTC), CLOSED, CLOSED)
    odd = np.char.find(trades.conditions, "37") >= 0
    alone = bars_of(trades.take(odd), SECOND_NS)
    assert not len(alone)
    both = bars_of(trades, SECOND_NS)
    regular = bars_of(trades.take(~odd), SECOND_NS)
    assert np.array_equal(both.high, regular.high)
    assert both.volume.sum() > regular.volume.sum()


def test_the_stretch_of_an_instant() -> None:
    assert not stretch_at("XNYS", CLOSED - timedelta(microseconds=1)).replayed
    assert stretch_at("XNYS", CLOSED).replayed
