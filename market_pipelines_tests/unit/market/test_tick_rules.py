"""Rules 32 to 35 and 37: what is odd about live ticks is marked, and nothing is left out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from market_pipelines.market.columns import SymbolCodes, bits
from market_pipelines.market.live import TickMark
from market_pipelines.market.quality.neighbours import NEAR, Neighbours
from market_pipelines.market.quality.ticks import NO_PRICE, TickLimits, TickRules
from market_pipelines.market.records import TickKind
from market_pipelines_tests.unit.streaming.ticks_made import NOON, SECOND, bands, bars, quotes, snapshots, trades

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "massive"
NONE = TickMark.NONE


class Judged:
    def __init__(self, limits: TickLimits | None = None, delay_ns: int = 0) -> None:
        self._codes = SymbolCodes()
        self._rules = TickRules(limits, delay_ns)

    def __call__(self, **tables: pa.Table) -> dict[TickKind, list[TickMark]]:
        given = {TickKind(name): table for name, table in tables.items()}
        codes = {kind: self._codes.of(table["symbol"]) for kind, table in given.items()}
        found = self._rules.marked(given, codes)
        for kind, table in given.items():
            assert found[kind].drop_columns(["marks"]).equals(table.drop_columns(["marks"])), "nothing else changes"
        return {kind: [TickMark(int(one)) for one in bits(found[kind]["marks"])] for kind in given}

    def quotes(self, *rows: Mapping[str, Any]) -> list[TickMark]:
        return self(quotes=quotes(*rows))[TickKind.QUOTES]

    def trades(self, *rows: Mapping[str, Any]) -> list[TickMark]:
        return self(trades=trades(*rows))[TickKind.TRADES]


def around(price: float, spread: float = 0.02, **more: Any) -> dict[str, Any]:
    return {"bid": round(price - spread / 2, 4), "ask": round(price + spread / 2, 4), **more}


def test_of_a_delayed_stream_only_what_comes_later_still_is_late() -> None:
    quarter = 900 * SECOND
    rows = [{"received_at": NOON + quarter + SECOND}, {"received_at": NOON + quarter + 3 * SECOND}]
    assert Judged(delay_ns=quarter).quotes(*rows) == [NONE, TickMark.LATE]
    assert Judged().quotes(*rows) == [TickMark.LATE, TickMark.LATE]


def test_crossed_and_locked_quotes() -> None:
    assert Judged().quotes({}, {"bid": 10.02, "ask": 10.01}, {"bid": 10.01, "ask": 10.01}) == [
        NONE, TickMark.CROSSED, TickMark.LOCKED,
    ]  # fmt: skip


def test_quotes_of_one_side_and_sizes_that_are_none() -> None:
    nobody = {"bid": None, "ask": None}
    assert Judged().quotes(
        {"bid": None, "bid_size": None}, {"ask_size": 0.0}, {"bid_size": None}, nobody, {"bid": -1.0}
    ) == [
        TickMark.ONE_SIDED,
        TickMark.NOT_POSITIVE,
        TickMark.NOT_POSITIVE,
        TickMark.ONE_SIDED | TickMark.NOT_POSITIVE,
        TickMark.NOT_POSITIVE,
    ]  # fmt: skip


def test_marks_that_were_there_stay() -> None:
    filled = int(TickMark.FILLED)
    assert Judged().quotes({"marks": filled, "bid": 11.0}) == [TickMark.FILLED | TickMark.CROSSED]


@pytest.mark.parametrize("rows_at_once", [1, 7, 200])
def test_a_spread_fifty_times_the_usual_one_is_wide(rows_at_once: int) -> None:
    judged = Judged()
    usual = [around(10 + 0.01 * (n % 5), 0.02 if n % 3 else 0.04) for n in range(100)]
    for first in range(0, 100, rows_at_once):
        assert set(judged.quotes(*usual[first : first + rows_at_once])) == {NONE}
    assert judged.quotes(around(10, 0.8), around(10, 4.0)) == [NONE, TickMark.WIDE]
    assert judged.quotes(around(10, 4.0, symbol="MSFT")) == [NONE], "of whom nothing is known yet"


@pytest.mark.parametrize("rows_at_once", [1, 7, 200])
def test_a_mid_far_from_those_around_it_is_an_outlier(rows_at_once: int) -> None:
    judged = Judged()
    usual = [around(10 + 0.01 * (n % 5)) for n in range(100)]
    for first in range(0, 100, rows_at_once):
        assert set(judged.quotes(*usual[first : first + rows_at_once])) == {NONE}
    assert judged.quotes(around(10.1), around(12), around(10)) == [NONE, TickMark.OUTLIER, NONE]


def test_an_outlier_among_many_is_found_where_it_is() -> None:
    rows = [around(10 + 0.01 * (n % 5), symbol=symbol) for n in range(130) for symbol in ("A", "B")]
    rows[77] = around(15, symbol="B")
    marks = Judged().quotes(*rows)
    assert [row for row, mark in enumerate(marks) if mark] == [77]


def test_a_price_that_moves_away_becomes_the_usual_one() -> None:
    judged = Judged()
    judged.quotes(*(around(10) for _ in range(60)))
    marks = [judged.quotes(around(12))[0] for _ in range(60)]
    assert marks[0] == TickMark.OUTLIER
    assert marks[-1] == NONE


def test_a_walk_of_prices_has_no_outliers() -> None:
    chance = np.random.default_rng(4)
    prices = 100 * np.exp(np.cumsum(chance.normal(0, 0.0002, 20_000)))
    judged = Judged()
    marks = [
        mark
        for first in range(0, 20_000, 2_500)
        for mark in judged.quotes(*(around(price, 0.01) for price in prices[first : first + 2_500]))
    ]
    assert sum(mark != NONE for mark in marks) < 20, "one in a thousand"


def test_a_trade_is_held_against_the_quote_that_stood() -> None:
    judged = Judged()
    standing = quotes({"bid": 10.0, "ask": 10.02, "ts": NOON}, {"bid": 11.0, "ask": 11.02, "ts": NOON + SECOND})
    made = [
        {"price": price, "ts": NOON + when}
        for price, when in ((10.01, 1), (10.04, 2), (10.05, 3), (9.97, 4), (11.0, 5), (11.0, SECOND), (10.01, SECOND))
    ]
    out = TickMark.OUTLIER
    assert judged(quotes=standing, trades=trades(*made))[TickKind.TRADES] == [NONE, NONE, out, out, out, NONE, out]
    assert judged.trades({"price": 11.01, "ts": NOON + 2 * SECOND}, {"price": 12.0, "ts": NOON + 2 * SECOND}) == [
        NONE, out,
    ]  # fmt: skip
    assert judged.trades({"price": 12.0, "ts": NOON + 90 * SECOND}) == [NONE], "a quote of a minute ago says nothing"


def test_a_trade_without_quotes_is_held_against_its_neighbours() -> None:
    rows = [{"price": 10 + 0.01 * (n % 7), "seq": n} for n in range(120)]
    rows[60]["price"] = 10.5
    marks = Judged().trades(*rows)
    assert [row for row, mark in enumerate(marks) if mark] == [60]


def test_conditions_that_make_no_price() -> None:
    marks = Judged().trades(*({"conditions": text} for text in ("", "14,41", "12", "37", "12,37", "10", "44", "201")))
    assert marks == [
        NONE, NONE, NONE, TickMark.CONDITION, TickMark.CONDITION, TickMark.CONDITION,
        TickMark.CONDITION | TickMark.CORRECTED, TickMark.CORRECTED,
    ]  # fmt: skip
    assert {10, 13, 20, 21, 29, 32, 37, 52, 53} <= NO_PRICE
    assert 12 not in NO_PRICE


def test_a_trade_with_such_a_condition_is_no_outlier_and_moves_nothing() -> None:
    judged = Judged()
    standing = quotes({"bid": 10.0, "ask": 10.02, "ts": NOON})
    assert judged(quotes=standing, trades=trades({"price": 50.0, "conditions": "53", "ts": NOON + 1}))[
        TickKind.TRADES
    ] == [TickMark.CONDITION]


def test_corrections_and_what_is_not_positive() -> None:
    assert Judged().trades({"correction": 1}, {"size": 0.0}, {"size": None}, {"price": -1.0}) == [
        TickMark.CORRECTED, TickMark.NOT_POSITIVE, TickMark.NOT_POSITIVE, TickMark.NOT_POSITIVE,
    ]  # fmt: skip


def test_what_came_late_and_what_is_ahead() -> None:
    late, ahead = {"received_at": NOON + 2 * SECOND + 1}, {"received_at": NOON - 61 * SECOND}
    assert Judged().trades({"received_at": NOON + 2 * SECOND}, late, ahead) == [NONE, TickMark.LATE, TickMark.FUTURE]
    assert Judged().trades({**late, "marks": int(TickMark.FILLED)}) == [TickMark.FILLED], "history is no latency"
    assert Judged(TickLimits(late_seconds=1000)).trades(late) == [NONE]
    marks = Judged()(
        aggregates=bars({"received_at": NOON + 74 * SECOND}, {"received_at": NOON + 76 * SECOND}, {"o": 0.0})
    )
    assert marks[TickKind.AGGREGATES] == [NONE, TickMark.LATE, TickMark.NOT_POSITIVE]


def test_snapshots() -> None:
    marks = Judged()(
        snapshots=snapshots(
            {"received_at": NOON + 9_000 * SECOND}, {"bid": 10.0, "ask": 9.0}, {"bid": 10.0}, {"price": 0.0},
            {"received_at": NOON - 61 * SECOND},
        )
    )  # fmt: skip
    assert marks[TickKind.SNAPSHOTS] == [
        NONE, TickMark.CROSSED, TickMark.ONE_SIDED, TickMark.NOT_POSITIVE, TickMark.FUTURE,
    ]  # fmt: skip


def test_price_bands() -> None:
    marks = Judged()(
        bands=bands(
            {}, {"limit_up": 9.0}, {"limit_down": None}, {"limit_up": None, "limit_down": None},
            {"received_at": NOON + 3 * SECOND}, {"received_at": NOON - 61 * SECOND},
        )
    )  # fmt: skip
    assert marks[TickKind.BANDS] == [
        NONE, TickMark.CROSSED, TickMark.ONE_SIDED, TickMark.ONE_SIDED | TickMark.NOT_POSITIVE, TickMark.LATE,
        TickMark.FUTURE,
    ]  # fmt: skip


def test_neighbours_of_a_symbol_with_many_rows_are_those_of_its_own_block() -> None:
    values = np.concatenate([np.arange(NEAR) + 100.0, np.arange(NEAR) + 200.0, np.arange(30) + 300.0])
    middle, width = Neighbours().around(np.zeros(len(values), dtype=np.int32), values)
    assert middle[0] == 124.5
    assert middle[NEAR] == 224.5
    assert middle[-1] == np.median(values[-NEAR:]), "the last ones are judged among the last fifty"
    assert width[0] == 12.5


def test_neighbours_of_symbols_with_few_rows_are_the_last_fifty_before() -> None:
    near = Neighbours()
    codes = np.array([0, 1, 2], dtype=np.int32)
    for lot in range(NEAR):
        middle, _ = near.around(codes, np.array([lot, lot + 100.0, lot + 200.0]))
        assert np.isnan(middle).all()
    middle, width = near.around(codes[1:], np.array([1e6, 1e6]))
    assert middle.tolist() == [124.5, 224.5]
    assert width.tolist() == [12.5, 12.5]


def test_the_conditions_of_the_recording_agree() -> None:
    path = RECORDED / "conditions_stocks.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there: recordings are not part of a clone")
    for one in json.loads(path.read_bytes())["results"]:
        moves_last = one["update_rules"]["consolidated"]["updates_open_close"]
        assert (one["id"] not in NO_PRICE) == moves_last, one["name"]
