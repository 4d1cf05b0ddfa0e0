"""What counts as the same tick, what as a new one, and what as late."""

import random
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from market_pipelines.market.columns import SymbolCodes
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.streaming.dedupe import Recent, Seen, local_days
from market_pipelines_tests.unit.streaming.ticks_made import NOON, SECOND, bands, bars, quotes, snapshots, trades

NEW_YORK = ZoneInfo("America/New_York")
DAY = 86_400 * SECOND


class Watched:
    """A `Seen` with its codes, asked for what is new and what is late."""

    def __init__(self, window: int = 1_000) -> None:
        self._codes = SymbolCodes()
        self._seen = Seen(NEW_YORK, window)

    def new(self, kind: TickKind, table: pa.Table) -> list[bool]:
        return self.both(kind, table)[0]

    def late(self, kind: TickKind, table: pa.Table) -> list[bool]:
        return self.both(kind, table)[1]

    def both(self, kind: TickKind, table: pa.Table) -> tuple[list[bool], list[bool]]:
        new, late = self._seen.news(kind, table, self._codes.of(table["symbol"]))
        return new.tolist(), late.tolist()


def test_a_trade_is_the_same_by_symbol_day_exchange_number_and_id() -> None:
    seen = Watched()
    first = {"seq": 5, "exchange": "4", "trade_id": "71"}
    assert seen.new(TickKind.TRADES, trades(first)) == [True]
    again = {**first, "ts": NOON + 7, "price": 11.0}
    others = [{**first, "exchange": "5"}, {**first, "trade_id": "72"}, {**first, "symbol": "MSFT"}]
    tomorrow = {**first, "ts": NOON + DAY}
    assert seen.new(TickKind.TRADES, trades(again, *others, tomorrow, again, *others, tomorrow)) == [
        False, True, True, True, True, False, False, False, False, False,
    ]  # fmt: skip


def test_a_quote_is_the_same_by_symbol_day_and_number() -> None:
    seen = Watched()
    assert seen.new(TickKind.QUOTES, quotes({"seq": 5}, {"seq": 5, "bid": 1.0}, {"seq": 6})) == [True, False, True]
    assert seen.new(TickKind.QUOTES, quotes({"seq": 5}, {"seq": 7}, {"seq": 6}, {"seq": 4})) == [
        False, True, False, True,
    ]  # fmt: skip


def test_without_numbers_time_and_content_decide() -> None:
    seen = Watched()
    same = {"ts": NOON, "trade_id": "", "price": 10.0}
    assert seen.new(TickKind.TRADES, trades(same, {**same, "price": 10.5}, same, {**same, "ts": NOON + 1})) == [
        True, True, False, True,
    ]  # fmt: skip
    assert seen.new(TickKind.TRADES, trades(same, {**same, "received_at": NOON + DAY})) == [False, False]
    assert seen.new(TickKind.QUOTES, quotes({}, {"bid": None}, {"ask": 11.0}, {})) == [True, True, True, False]


def test_trades_and_quotes_do_not_know_each_other() -> None:
    seen = Watched()
    assert seen.new(TickKind.TRADES, trades({"seq": 5})) == [True]
    assert seen.new(TickKind.QUOTES, quotes({"seq": 5})) == [True]


def test_numbers_begin_again_at_the_exchanges_midnight() -> None:
    midnight = NOON + 12 * 3600 * SECOND
    seen = Watched()
    evening = [{"seq": 900, "ts": midnight - 1}, {"seq": 901, "ts": midnight - 1}]
    morning = [{"seq": 1, "ts": midnight}, {"seq": 900, "ts": midnight + 1}]
    assert seen.both(TickKind.QUOTES, quotes(*evening, *morning)) == ([True] * 4, [False] * 4)
    assert seen.new(TickKind.QUOTES, quotes(*evening, *morning)) == [False] * 4


def test_a_bar_that_says_something_else_replaces_and_one_that_says_the_same_is_nothing() -> None:
    seen = Watched()
    later = {"start": NOON + 60 * SECOND}
    assert seen.new(TickKind.AGGREGATES, bars({}, later)) == [True, True]
    assert seen.new(TickKind.AGGREGATES, bars({"received_at": NOON + DAY}, {"v": 120.0})) == [False, True]
    assert seen.new(TickKind.AGGREGATES, bars({"v": 120.0})) == [False]
    assert seen.new(TickKind.AGGREGATES, bars({})) == [True], "back to what it said before is news as well"
    second = {"end": NOON + SECOND}
    assert seen.new(TickKind.AGGREGATES, bars(second, {"start": NOON})) == [True, False], "a second is no minute"


def test_history_that_says_what_the_stream_said_does_not_take_the_days_volume_from_a_bar() -> None:
    seen = Watched()
    assert seen.new(TickKind.AGGREGATES, bars({"vw": 10.01, "av": 5_000.0})) == [True]
    filled = {"marks": int(TickMark.FILLED), "received_at": NOON + DAY}
    assert seen.new(TickKind.AGGREGATES, bars({"vw": 10.01, **filled})) == [False]
    assert seen.new(TickKind.AGGREGATES, bars({"vw": 10.02, **filled})) == [True]


def test_a_snapshot_that_says_what_the_last_one_said_is_nothing() -> None:
    seen = Watched()
    assert seen.new(TickKind.SNAPSHOTS, snapshots({}, {"received_at": NOON + DAY}, {"bid": 9.0}, {})) == [
        True, False, True, True,
    ]  # fmt: skip
    assert seen.new(TickKind.SNAPSHOTS, snapshots({}, {"symbol": "PKO"})) == [False, True]


def test_a_snapshot_that_speaks_of_its_own_arrival_is_the_same_at_any_time() -> None:
    seen = Watched()
    looked = [{"ts": moment, "received_at": moment, "symbol": "PKO"} for moment in (NOON, NOON + 30 * SECOND)]
    assert seen.new(TickKind.SNAPSHOTS, snapshots(*looked, {**looked[0], "price": 10.5})) == [True, False, True]


def test_a_price_band_is_the_same_by_symbol_and_number() -> None:
    seen = Watched()
    other = {"symbol": "MSFT", "seq": 7}
    assert seen.new(TickKind.BANDS, bands({"seq": 7}, {"seq": 7, "limit_up": 11.0}, other)) == [True, False, True]
    assert seen.new(TickKind.BANDS, bands({"seq": 7}, {"seq": 6}, {"seq": 7, "ts": NOON + DAY})) == [False, True, True]
    unnumbered = {"limit_up": 11.0}
    assert seen.new(TickKind.BANDS, bands({}, {}, unnumbered, unnumbered)) == [True, False, True, False]


def test_what_comes_after_a_later_one_is_late() -> None:
    seen = Watched()
    assert seen.late(TickKind.TRADES, trades({"seq": 5}, {"seq": 3}, {"seq": 4, "symbol": "MSFT"})) == [
        False, True, False,
    ]  # fmt: skip
    assert seen.late(TickKind.TRADES, trades({"seq": 4}, {"seq": 6})) == [True, False]
    assert seen.late(TickKind.TRADES, trades({"seq": 2, "marks": int(TickMark.FILLED)})) == [False], "history"


def test_history_that_comes_before_the_stream_catches_up_makes_the_stream_the_duplicate() -> None:
    seen = Watched()
    filled = [{"seq": seq, "marks": int(TickMark.FILLED)} for seq in range(10, 20)]
    assert all(seen.new(TickKind.QUOTES, quotes(*filled)))
    assert seen.new(TickKind.QUOTES, quotes({"seq": 18}, {"seq": 19}, {"seq": 20})) == [False, False, True]


def test_what_is_older_than_the_window_is_let_through() -> None:
    seen = Watched(window=100)
    for seq in range(1, 20_001, 50):
        assert all(seen.new(TickKind.QUOTES, quotes(*({"seq": seq + more} for more in range(50)))))
    assert seen.new(TickKind.QUOTES, quotes({"seq": 20_000}, {"seq": 19_901}, {"seq": 1})) == [False, False, True]


ROWS = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(0, 3), st.sampled_from("xy"), st.integers(0, 6)), max_size=30
)


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 6))
def test_it_agrees_with_a_set_of_all_that_came(ticks: list[tuple[str, int, str, int]], chunks: int) -> None:
    seen = Watched()
    known: set[tuple[object, ...]] = set()
    size = max(1, len(ticks) // chunks)
    for first in range(0, len(ticks), size):
        part = ticks[first : first + size]
        expected = []
        for symbol, seq, exchange, when in part:
            key = (symbol, seq, exchange, "1") if seq else (symbol, seq, exchange, "1", when)
            expected.append(key not in known)
            known.add(key)
        table = trades(
            *(
                {"symbol": symbol, "seq": seq, "exchange": exchange, "ts": NOON + when}
                for symbol, seq, exchange, when in part
            )
        )
        assert seen.new(TickKind.TRADES, table) == expected


def test_the_window_holds_as_many_as_it_promises_and_not_many_more() -> None:
    chance = random.Random(3)
    recent = Recent(5_000)
    everything: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []
    for _ in range(300):
        block = np.array([chance.getrandbits(64) for _ in range(chance.randint(1, 400))], dtype=np.uint64)
        recent.add(block)
        everything.append(block)
        if chance.random() < 0.3:
            known = np.concatenate(everything)[-5_000:]
            assert recent.has(known).all()
            assert not recent.has(known + np.uint64(1)).any()
        assert len(recent) <= 5_000 + 16_384 + 400
    assert not recent.has(everything[0]).any()


def test_local_days_change_at_midnight_and_know_summer_time() -> None:
    midnight = NOON + 12 * 3600 * SECOND
    in_june = midnight - 150 * DAY - 3600 * SECOND
    stamps = np.array([midnight - 1, midnight, midnight - DAY - 1, in_june - 1, in_june])
    first, *others = local_days(stamps, NEW_YORK).tolist()
    assert others == [first + 1, first - 1, first - 150, first - 149]
    assert local_days(np.zeros(0, dtype=np.int64), NEW_YORK).tolist() == []
