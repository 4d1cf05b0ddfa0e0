"""Trades and quotes of the made-up world: they are its minutes, whoever asks, and whenever."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import Minutes, flawed, minutes_of
from market_pipelines.simulator.ticks import (
    MINUTE_NS,
    Trades,
    nanoseconds,
    quotes_of,
    trades_of,
    trades_per_minute,
)
from market_pipelines.simulator.truth import Bars, World

WORLD = World()
NOW = datetime(2026, 11, 19, 22, tzinfo=UTC)
DAY = date(2026, 11, 18)
START = datetime(2026, 11, 18, 6, tzinfo=UTC)
END = START + timedelta(days=1)
SYMBOLS = ("AAPL", "BRK.B", "IBM", "CSCO", "SPY")


def listing(symbol: str) -> Listing:
    found = WORLD.find(symbol, "XNYS")
    assert found is not None
    return found


def trades(symbol: str = "AAPL", start: datetime = START, end: datetime = END, now: datetime = NOW) -> Trades:
    return trades_of(WORLD, listing(symbol), start, end, now)


def minutes(symbol: str) -> Minutes:
    return minutes_of(WORLD, listing(symbol), DAY, DAY, NOW, extended=True)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_trades_of_every_minute_are_its_bar(symbol: str) -> None:
    found, truth = trades(symbol), minutes(symbol)
    minute, first = np.unique(found.stamps // MINUTE_NS, return_index=True)
    last = np.append(first[1:], len(found)) - 1
    np.testing.assert_array_equal(minute, truth.stamps.astype("datetime64[s]").astype(np.int64) // 60)
    np.testing.assert_array_equal(found.price[first], truth.bars.open)
    np.testing.assert_array_equal(found.price[last], truth.bars.close)
    np.testing.assert_array_equal(np.maximum.reduceat(found.price, first), truth.bars.high)
    np.testing.assert_array_equal(np.minimum.reduceat(found.price, first), truth.bars.low)
    np.testing.assert_array_equal(np.add.reduceat(found.size, first), truth.bars.volume)
    np.testing.assert_array_equal(last - first + 1, trades_per_minute(truth))


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_trade_lies_within_the_quote_before_it(symbol: str) -> None:
    found, quotes = trades(symbol), quotes_of(WORLD, listing(symbol), START, END, NOW)
    assert len(quotes) == len(found)
    assert (quotes.stamps < found.stamps).all()
    assert (np.diff(quotes.stamps) >= 0).all()
    assert (quotes.bid <= found.price).all()
    assert (found.price <= quotes.ask).all()
    assert (quotes.bid < quotes.ask).all()
    assert ((quotes.bid == 0) == (quotes.bid_size == 0)).all()


def test_stamps_and_numbers_rise_and_some_trades_divide_a_share() -> None:
    found = trades()
    assert (np.diff(found.stamps) >= 0).all()
    assert (np.diff(found.seq) > 0).all()
    assert (np.diff(found.seq) > 1).any()
    assert (found.size > 0).all()
    assert (found.size % 1 != 0).any()
    assert (found.stamps % 1000 != 0).any()


def test_trades_outside_the_session_say_so() -> None:
    found = trades()
    opens, closes = (
        nanoseconds(datetime(2026, 11, 18, hour, minute, tzinfo=UTC)) for hour, minute in ((14, 30), (21, 0))
    )
    outside = np.array(["12" in codes.split(",") for codes in found.conditions.tolist()])
    np.testing.assert_array_equal(outside, (found.stamps < opens) | (found.stamps >= closes))


def test_a_trade_depends_on_nobodys_question() -> None:
    whole = trades()
    start = START + timedelta(hours=9, seconds=17)
    part = trades(start=start, end=start + timedelta(minutes=3), now=start + timedelta(minutes=2))
    chosen = (whole.stamps >= nanoseconds(start)) & (whole.stamps < nanoseconds(start + timedelta(minutes=2)))
    np.testing.assert_array_equal(part.stamps, whole.stamps[chosen])
    np.testing.assert_array_equal(part.price, whole.price[chosen])
    other = trades_of(World(seed=7), listing("AAPL"), START, END, NOW)
    assert other.stamps.tolist() != whole.stamps.tolist()


def test_nothing_has_happened_before_now() -> None:
    before = datetime(2026, 11, 18, 15, tzinfo=UTC)
    assert len(trades(now=before)) < len(trades())
    assert trades(now=before).stamps.max() < nanoseconds(before)
    assert len(trades(start=END + timedelta(days=3), end=END + timedelta(days=4))) == 0


@pytest.mark.parametrize(("volume", "needed"), [(0.0, 4), (1.0, 4), (3.0, 4), (2.0, 1), (100.0, 4)])
def test_few_shares_are_divided_between_as_many_trades_as_the_prices_need(volume: float, needed: int) -> None:
    flat = needed == 1
    bar = [10.0, 10.0, 10.0, 10.0] if flat else [10.0, 12.0, 9.0, 11.0]
    columns = [np.array([value]) for value in (*bar, volume)]
    one = Minutes(
        np.array(["2026-11-18T15:00:00"], dtype="datetime64[s]"), Bars(*columns), np.array(["regular"]), np.array([1])
    )
    assert trades_per_minute(one).tolist() == [needed]


def test_a_world_in_which_the_share_was_split_has_its_own_minutes_and_trades() -> None:
    whole = listing("KO")
    halved = replace(whole, splits=(*whole.splits, (date(2026, 11, 17), 2.0)))
    other = World(listings=tuple(halved if one == whole else one for one in WORLD.listings))
    for world, one in ((WORLD, whole), (other, halved), (WORLD, whole)):
        history = world.history(one, NOW)
        (close,) = history.bars.take(history.between(DAY, DAY)).close
        regular = minutes_of(world, one, DAY, DAY, NOW)
        assert regular.bars.close[-1] == close
        told = trades_of(world, one, START, END, NOW)
        assert np.isin(regular.bars.close, told.price).all()


def test_a_wrongly_told_minute_is_not_kept_in_the_trades() -> None:
    one = listing("XOM")
    with flawed([datetime(2026, 11, 17, 15, tzinfo=UTC)]):
        told = trades_of(WORLD, one, START - timedelta(days=1), START, NOW)
    assert (told.price > 0).all()
