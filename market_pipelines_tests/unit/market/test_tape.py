"""Minute bars by the rules of the tape: what a trade's conditions let it move, and what looks at a symbol can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_pipelines.market.intraday import Phase
from market_pipelines.market.live import SNAPSHOTS, TRADES, TickMark
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.market.tape import BAR_COLUMNS, Counts, bars_of, bars_of_snapshots, columns_of, counts_of
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.ticks import trades_of
from market_pipelines.simulator.truth import World

NEW_YORK, WARSAW = trading_calendar("XNYS"), trading_calendar("XWAR")
NOON = datetime(2025, 6, 12, 16, 0, tzinfo=UTC)
EVENING = datetime(2025, 6, 12, 21, 0, tzinfo=UTC)


def trades(*rows: Mapping[str, Any], at: datetime = NOON) -> pl.DataFrame:
    """One trade a second from `at` on, unless a row says otherwise."""
    whole = []
    for place, row in enumerate(rows):
        moment = row.get("ts", at + timedelta(seconds=place))
        whole.append(
            {
                "symbol": "AAPL",
                "received_at": moment,
                "seq": place + 1,
                "price": 100.0,
                "size": 100.0,
                "exchange": "12",
                "trade_id": str(place),
                "conditions": "",
                "correction": 0,
                "feed": "polygon",
                "marks": 0,
                **row,
                "ts": moment,
            }
        )
    return columns_of(pa.Table.from_pylist(whole, schema=TRADES))


def only_bar(frame: pd.DataFrame) -> dict[str, Any]:
    assert len(frame) == 1, frame
    return {str(name): value for name, value in frame.iloc[0].items()}


# --- conditions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "moves"),
    [
        ("", Counts.EVERYTHING),
        ("14", Counts.EVERYTHING),
        ("41,14", Counts.EVERYTHING),
        ("37", Counts.VOLUME),
        ("12", Counts.VOLUME),
        ("14,37", Counts.VOLUME),
        ("10", Counts.HIGH_LOW | Counts.VOLUME),
        ("10,37", Counts.VOLUME),
        ("33", Counts.HIGH_LOW | Counts.VOLUME),
        ("53", Counts.VOLUME),
        ("15", Counts.NOTHING),
        ("16", Counts.NOTHING),
        ("38", Counts.HIGH_LOW | Counts.OPEN_CLOSE),
        ("9999", Counts.EVERYTHING),
    ],
)
def test_a_trade_moves_what_none_of_its_conditions_takes_away(conditions: str, moves: Counts) -> None:
    assert counts_of(conditions, Phase.REGULAR) is moves


def test_form_t_is_the_ordinary_trade_of_extended_hours_and_an_odd_lot_is_one_there_too() -> None:
    assert counts_of("12", Phase.PRE) is Counts.EVERYTHING
    assert counts_of("12", Phase.POST) is Counts.EVERYTHING
    assert counts_of("12,37", Phase.POST) is Counts.VOLUME
    assert counts_of("13", Phase.POST) is Counts.VOLUME


@pytest.mark.parametrize(
    ("number", "high_low", "open_close", "volume"),
    [
        (1, True, True, True),
        (2, False, False, True),
        (3, True, True, True),
        (4, True, True, True),
        (5, True, False, True),
        (6, True, True, True),
        (7, False, False, True),
        (8, True, True, True),
        (9, True, True, True),
        (10, True, False, True),
    ],
)
def test_the_rules_are_those_that_polygon_was_recorded_with(
    number: int, high_low: bool, open_close: bool, volume: bool
) -> None:
    found = counts_of(str(number), Phase.REGULAR)
    assert (Counts.HIGH_LOW in found, Counts.OPEN_CLOSE in found, Counts.VOLUME in found) == (
        high_low,
        open_close,
        volume,
    )


# --- bars of trades --------------------------------------------------------------------------------------------


def test_a_minute_of_ordinary_trades_is_their_bar() -> None:
    found = bars_of(trades({"price": 10.0}, {"price": 12.0, "size": 300.0}, {"price": 9.0}, {"price": 11.0}), NEW_YORK)
    assert tuple(found.columns) == BAR_COLUMNS
    bar = only_bar(found)
    assert [bar[name] for name in ("open", "high", "low", "close", "volume", "trades")] == [10, 12, 9, 11, 600, 4]
    assert bar["vwap"] == pytest.approx((1000 + 3600 + 900 + 1100) / 600)
    assert bar["ts"] == pd.Timestamp(NOON)
    assert (bar["session"], bar["phase"]) == (pd.Timestamp("2025-06-12"), "regular")


def test_an_odd_lot_has_a_volume_and_no_price() -> None:
    bar = only_bar(bars_of(trades({"price": 10.0}, {"price": 99.0, "size": 5.0, "conditions": "37"}), NEW_YORK))
    assert (bar["high"], bar["close"], bar["volume"]) == (10.0, 10.0, 105.0)


def test_a_minute_of_odd_lots_alone_has_no_bar() -> None:
    assert bars_of(trades({"size": 5.0, "conditions": "37"}), NEW_YORK).empty


def test_the_official_close_is_not_counted_twice() -> None:
    bell = datetime(2025, 6, 12, 20, 0, tzinfo=UTC)
    found = bars_of(
        trades({"price": 10.0, "conditions": "8"}, {"price": 10.0, "size": 5e6, "conditions": "15"}, at=bell), NEW_YORK
    )
    assert only_bar(found)["volume"] == 100.0


def test_one_out_of_sequence_reaches_the_high_and_is_not_the_last() -> None:
    bar = only_bar(bars_of(trades({"price": 10.0}, {"price": 13.0, "conditions": "33"}), NEW_YORK))
    assert (bar["high"], bar["close"]) == (13.0, 10.0)


def test_extended_hours_have_bars_of_their_form_t_trades() -> None:
    early = datetime(2025, 6, 12, 9, 0, tzinfo=UTC)
    found = bars_of(trades({"price": 10.0, "conditions": "12"}, at=early), NEW_YORK)
    assert only_bar(found)["phase"] == "pre"
    late = bars_of(trades({"price": 10.0}, {"price": 50.0, "conditions": "12"}), NEW_YORK)
    assert only_bar(late)["high"] == 10.0


def test_outside_of_all_hours_there_is_no_bar() -> None:
    assert bars_of(trades({}, at=datetime(2025, 6, 12, 2, 0, tzinfo=UTC)), NEW_YORK).empty
    assert bars_of(trades({}, at=datetime(2025, 6, 14, 16, 0, tzinfo=UTC)), NEW_YORK).empty
    assert bars_of(trades(), NEW_YORK).empty


@pytest.mark.parametrize("taken_back", [{"correction": 8}, {"marks": int(TickMark.CORRECTED)}])
def test_a_trade_that_is_taken_back_later_is_gone_in_all_its_versions(taken_back: dict[str, int]) -> None:
    wrong = {"price": 99.0, "seq": 7, "trade_id": "x", "ts": NOON}
    found = bars_of(trades({"price": 10.0}, wrong, {**wrong, **taken_back}), NEW_YORK)
    assert (only_bar(found)["high"], only_bar(found)["trades"]) == (10.0, 1)


def test_what_history_repeats_to_the_nanosecond_is_the_trade_that_was_streamed() -> None:
    streamed = {"price": 10.0, "seq": 7, "trade_id": "x", "ts": NOON}
    told_again = {**streamed, "ts": NOON + timedelta(microseconds=412)}
    assert only_bar(bars_of(trades(streamed, told_again), NEW_YORK))["volume"] == 100.0


def test_within_a_millisecond_the_sequence_says_which_trade_was_first() -> None:
    to_the_microsecond = {"ts": NOON + timedelta(microseconds=900), "seq": 1, "price": 10.0}
    to_the_millisecond = {"ts": NOON, "seq": 2, "price": 11.0}
    last = {"ts": NOON, "seq": 3, "price": 12.0}
    for rows in ((to_the_microsecond, to_the_millisecond, last), (last, to_the_millisecond, to_the_microsecond)):
        bar = only_bar(bars_of(trades(*rows), NEW_YORK))
        assert (bar["open"], bar["close"]) == (10.0, 12.0)


def test_trades_without_number_and_name_are_told_apart_by_what_they_say() -> None:
    plain = {"seq": 0, "trade_id": "", "ts": NOON}
    found = bars_of(trades({**plain, "price": 10.0}, {**plain, "price": 11.0}, {**plain, "price": 11.0}), NEW_YORK)
    assert only_bar(found)["volume"] == 200.0


@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B", "SPY"])
def test_the_simulators_trades_make_exactly_its_minutes(symbol: str) -> None:
    world, day = World(), date(2025, 6, 12)
    listing = world.find(symbol, "XNYS")
    assert listing is not None
    made = trades_of(
        world, listing, datetime(2025, 6, 12, 4, tzinfo=UTC), datetime(2025, 6, 13, 4, tzinfo=UTC), EVENING
    )
    rows = pa.table(
        {
            "symbol": [symbol] * len(made),
            "ts": pa.array(made.stamps, pa.timestamp("ns", tz="UTC")),
            "received_at": pa.array(made.stamps, pa.timestamp("ns", tz="UTC")),
            "seq": pa.array(made.seq),
            "price": pa.array(made.price),
            "size": pa.array(made.size),
            "exchange": [str(venue) for venue in made.venue],
            "trade_id": [str(place) for place in range(len(made))],
            "conditions": made.conditions.tolist(),
            "correction": pa.array(np.zeros(len(made), dtype=np.int64)),
            "feed": ["polygon"] * len(made),
            "marks": pa.array(np.zeros(len(made), dtype=np.int32)),
        },
        schema=TRADES,
    )
    truth = minutes_of(world, listing, day, day, EVENING, extended=True)
    whole = truth.stamps < np.datetime64("2025-06-12T21:00:00")
    found = bars_of(columns_of(rows), NEW_YORK)
    assert found["ts"].dt.tz_convert(None).tolist() == [pd.Timestamp(stamp) for stamp in truth.stamps[whole]]
    assert found["phase"].tolist() == truth.phase[whole].tolist()
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(found[name], getattr(truth.bars, name)[whole])


rows_of_trades = st.lists(
    st.fixed_dictionaries(
        {
            "price": st.floats(1, 500),
            "size": st.integers(1, 5000).map(float),
            "conditions": st.sampled_from(["", "14", "37", "10", "12", "15", "53", "14,37", "33"]),
            "second": st.integers(0, 240),
        }
    ),
    min_size=1,
    max_size=40,
)


def made_of(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return trades(*({**row, "ts": NOON + timedelta(seconds=row["second"])} for row in map(dict, rows)))


@settings(max_examples=60, deadline=None)
@given(rows_of_trades, st.randoms(use_true_random=False))
def test_the_order_in_which_trades_come_makes_no_difference(rows: list[dict[str, Any]], chance: Any) -> None:
    frame = made_of(rows)
    places = list(range(len(rows)))
    chance.shuffle(places)
    pd.testing.assert_frame_equal(bars_of(frame, NEW_YORK), bars_of(frame[places], NEW_YORK), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows_of_trades)
def test_a_bar_holds_together(rows: list[dict[str, Any]]) -> None:
    found = bars_of(made_of(rows), NEW_YORK)
    for name in ("open", "close"):
        assert (found["low"] <= found[name]).all()
        assert (found[name] <= found["high"]).all()
    assert (found["volume"] <= sum(row["size"] for row in rows)).all()
    assert found["ts"].is_unique
    sized = found["vwap"].notna()
    assert (sized == (found["trades"] > 0)).all()


@settings(max_examples=40, deadline=None)
@given(rows_of_trades, rows_of_trades)
def test_volumes_of_two_symbols_do_not_mix_and_add_up(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    mine, other = made_of(ours), made_of(theirs).with_columns(pl.lit("MSFT").alias("symbol"))
    together = bars_of(pl.concat([mine, other]), NEW_YORK)
    apart = pd.concat([bars_of(mine, NEW_YORK), bars_of(other, NEW_YORK)], ignore_index=True)
    pd.testing.assert_frame_equal(together, apart.astype(together.dtypes.to_dict()), rtol=1e-12)


# --- bars of looks ---------------------------------------------------------------------------------------------

BELL = datetime(2025, 6, 12, 7, 0, tzinfo=UTC)


def looks(*rows: tuple[float, float, float, float, float]) -> pl.DataFrame:
    """(seconds after the bell, price, day's high, day's low, day's volume)"""
    return columns_of(
        pa.Table.from_pylist(
            [
                {
                    "symbol": "PKO",
                    "ts": BELL + timedelta(seconds=second),
                    "received_at": BELL + timedelta(seconds=second),
                    "price": price,
                    "open": 50.0,
                    "high": high,
                    "low": low,
                    "volume": volume,
                    "feed": "stooq",
                    "marks": 0,
                }
                for second, price, high, low, volume in rows
            ],
            schema=SNAPSHOTS,
        )
    )


def test_looks_make_open_close_and_what_the_day_has_grown_by() -> None:
    found = bars_of_snapshots(
        looks((300, 50, 52, 49, 1000), (330, 51, 52, 49, 1200), (360, 51.5, 53, 49, 1500), (390, 51, 53, 48, 1600)),
        WARSAW,
    )
    first, second = found.to_dict("records")
    assert [first[name] for name in ("open", "high", "low", "close", "volume", "trades")] == [50, 51, 50, 51, 200, 2]
    # Between the looks the day's high went to 53 and its low to 48: nobody saw it, but it happened.
    assert [second[name] for name in ("open", "high", "low", "close", "volume")] == [51.5, 53, 48, 51, 400]


def test_the_first_look_knows_the_day_only_in_the_minute_of_the_bell() -> None:
    at_the_bell = only_bar(bars_of_snapshots(looks((20, 51, 52, 49, 700)), WARSAW))
    assert [at_the_bell[name] for name in ("open", "high", "low", "close", "volume")] == [50, 52, 49, 51, 700]
    later = only_bar(bars_of_snapshots(looks((3600, 51, 52, 49, 70_000)), WARSAW))
    assert [later[name] for name in ("open", "high", "low", "close", "volume")] == [51, 51, 51, 51, 0]


def test_a_minute_in_which_nothing_happened_has_no_bar() -> None:
    found = bars_of_snapshots(looks((300, 50, 52, 49, 1000), (360, 50, 52, 49, 1000), (420, 50, 52, 49, 1100)), WARSAW)
    assert found["ts"].dt.minute.tolist() == [5, 7]


def test_a_volume_that_shrinks_is_a_correction_and_not_a_trade() -> None:
    found = bars_of_snapshots(
        looks((300, 50, 52, 49, 1000), (330, 50.5, 52, 49, 900), (360, 50, 52, 49, 950), (420, 50, 52, 49, 1300)),
        WARSAW,
    )
    assert found["volume"].tolist() == [0.0, 0.0, 300.0]


def test_looks_after_the_close_belong_to_no_bar() -> None:
    assert bars_of_snapshots(looks((11 * 3600, 50, 52, 49, 1000)), WARSAW).empty
