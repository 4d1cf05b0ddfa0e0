"""What streams have left of a session is judged: silence over clean ticks, and for each planted fault one rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from market_pipelines.definitions import defs
from market_pipelines.market.columns import SymbolCodes
from market_pipelines.market.definition import QualityPlan
from market_pipelines.market.live import SCHEMAS, TickMark
from market_pipelines.market.quality import Severity
from market_pipelines.market.quality.rules import LIVE_QUOTES, LIVE_TRADES
from market_pipelines.market.quality.ticks import TickRules
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.checks import CheckOutcome, evaluate
from market_pipelines.pipeline.gate import quality_report
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.ticks import quotes_of
from market_pipelines.store.stream_gaps import GapStatus, NoticedGap, gap_of, record_closed, record_opened, settle
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house
from market_pipelines_tests.integration.streaming.streamed import FEED, STREAM, stream_into_lake, true_trades

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

DAY, NIGHT = date(2025, 6, 12), datetime(2025, 6, 13, 1, 30, tzinfo=UTC)
WARN = Severity.WARN
SYMBOLS = ("AAPL", "KO")
SECOND = 1_000_000_000
Tables = dict[TickKind, pa.Table]


@pytest.fixture(scope="module", autouse=True)
def repository() -> dg.RepositoryDefinition:
    """Loaded before any instance is opened, which Dagster would remember beside it."""
    return defs().get_repository_def()


@pytest.fixture(scope="module")
def house(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    url = postgres_server.create()
    with (
        Simulator() as simulator,
        opened_house(tmp_path_factory.mktemp("house"), url, simulator, now=NIGHT) as opened,
    ):
        yield opened
    postgres_server.drop(url)


@pytest.fixture(scope="module")
def true(house: House) -> Tables:
    """Three hours of trades and quotes as the decoder hands them to the rules."""
    begins, ends = (datetime.combine(DAY, time(hour), UTC) for hour in (14, 17))
    quotes = pa.concat_tables([true_quotes(house, symbol, begins, ends) for symbol in SYMBOLS])
    trades = pa.concat_tables([true_trades(house, symbol, DAY) for symbol in SYMBOLS])
    inside = pc.and_(pc.greater_equal(trades["ts"], pa.scalar(begins)), pc.less(trades["ts"], pa.scalar(ends)))
    return {TickKind.QUOTES: quotes, TickKind.TRADES: trades.filter(inside)}


def true_quotes(house: House, symbol: str, begins: datetime, ends: datetime) -> pa.Table:
    listing = house.simulator.world.find(symbol, "XNYS")
    assert listing is not None
    made = quotes_of(house.simulator.world, listing, begins, ends, house.clock())
    sides = {
        name: pa.array([value or None for value in getattr(made, name).tolist()], pa.float64())
        for name in ("bid", "ask", "bid_size", "ask_size")
    }
    return pa.table(
        {
            "symbol": [symbol] * len(made),
            "ts": pa.array(made.stamps, pa.timestamp("ns", tz="UTC")),
            "received_at": pa.array(made.stamps + 10_000_000, pa.timestamp("ns", tz="UTC")),
            "seq": pa.array(made.seq),
            **sides,
            "bid_exchange": [str(venue) for venue in made.bid_venue],
            "ask_exchange": [str(venue) for venue in made.ask_venue],
            "conditions": [""] * len(made),
            "feed": [FEED] * len(made),
            "marks": pa.array(np.zeros(len(made), dtype=np.int32)),
        },
        schema=SCHEMAS[TickKind.QUOTES],
    )


def streamed(house: House, tables: Tables) -> None:
    """Into the lake, marked by the rules; whatever was streamed before is gone."""
    codes = SymbolCodes()
    known = {kind: codes.of(table["symbol"]) for kind, table in tables.items()}
    with house.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.tick_segments")
        connection.execute("DELETE FROM market.stream_gaps")
    for kind, table in TickRules().marked(tables, known).items():
        stream_into_lake(house, table, DAY, f"s-{kind.value}", kind)


def judged(house: House, **more: Any) -> tuple[CheckOutcome, ...]:
    return evaluate(house.platform, house.platform.market("us"), DAY, DAY, assets=(LIVE_QUOTES, LIVE_TRADES), **more)


def red(outcomes: tuple[CheckOutcome, ...]) -> dict[tuple[str, str], Severity]:
    return {(one.asset, one.rule): one.severity for one in outcomes if not one.passed}


def spoilt(table: pa.Table, every: int, name: str, change: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    """With some of AAPL's values changed: the first of so many."""
    place = table.schema.get_field_index(name)
    values = table[name].to_numpy(zero_copy_only=False).copy()
    rows = np.flatnonzero(np.asarray(table["symbol"].to_pylist()) == "AAPL")[::every]
    values[rows] = change(values[rows])
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


def gap(house: House, key: str, begins: datetime, ends: datetime | None, sink: str | None = None) -> NoticedGap:
    noticed = NoticedGap(key, STREAM, "us", "polygon", "disconnected", begins, ("quotes", "trades"), sink=sink)
    with house.platform.database.connection() as connection:
        if ends is None:
            record_opened(connection, noticed, begins)
        else:
            record_closed(connection, noticed, ends, ends)
    return noticed


# --- clean, and nothing at all ---------------------------------------------------------------------------------


def test_clean_ticks_break_no_rule(house: House, true: Tables) -> None:
    streamed(house, true)
    outcomes = judged(house)
    assert red(outcomes) == {}
    assert {one.rule: one.checked for one in outcomes if one.asset == LIVE_TRADES} == {
        name: 1 + len(SYMBOLS) for name in ("trade_outliers", "trade_conditions", "latency")
    }
    said = next(one.detail for one in outcomes if one.rule == "trade_outliers")
    assert said == f"{len(true[TickKind.TRADES]):,} ticks of 1 session: 0 are far off."


def test_where_nobody_has_streamed_the_rules_do_not_apply_and_say_so(house: House) -> None:
    with house.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.tick_segments")
        connection.execute("DELETE FROM market.stream_gaps")
    outcomes = judged(house)
    assert red(outcomes) == {}
    assert {one.checked for one in outcomes} == {0}
    assert all("nothing was streamed" in one.detail.lower() for one in outcomes)
    report = quality_report(house.platform, [house.platform.market("us")], DAY, DAY, assets=[LIVE_QUOTES])
    assert not report.passed(frozenset()), "a gate that has looked at nothing does not pass"
    assert "nothing is stored" in next(iter(report.reasons.values()))


def test_what_was_pulled_is_not_judged_as_if_it_had_been_streamed(house: House, true: Tables) -> None:
    streamed(house, {TickKind.TRADES: spoilt(true[TickKind.TRADES], 20, "correction", lambda old: old + 1)})
    with house.platform.database.connection() as connection:
        connection.execute("UPDATE market.tick_segments SET stream = NULL")
    assert {one.checked for one in judged(house)} == {0}


# --- planted faults --------------------------------------------------------------------------------------------

QUOTES, TRADES = TickKind.QUOTES, TickKind.TRADES
FAULTS: dict[str, tuple[TickKind, int, str, Callable[[np.ndarray], np.ndarray], tuple[str, str]]] = {
    "crossed": (QUOTES, 20, "ask", lambda old: old * 0.995, (LIVE_QUOTES, "crossed_quotes")),
    "wide": (QUOTES, 15, "ask", lambda old: old * 1.5, (LIVE_QUOTES, "crossed_quotes")),
    "traded far off": (TRADES, 20, "price", lambda old: old * 1.2, (LIVE_TRADES, "trade_outliers")),
    "corrected": (TRADES, 50, "correction", lambda old: old + 1, (LIVE_TRADES, "trade_conditions")),
    "out of order": (
        TRADES, 50, "marks", lambda old: old | int(TickMark.DISORDER), (LIVE_TRADES, "trade_conditions"),
    ),
    "late": (TRADES, 50, "received_at", lambda old: old + np.timedelta64(3, "s"), (LIVE_TRADES, "latency")),
    "late quotes": (QUOTES, 50, "received_at", lambda old: old + np.timedelta64(3, "s"), (LIVE_QUOTES, "latency")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_a_warning_of_its_own_rule(house: House, true: Tables, fault: str) -> None:
    kind, every, column, change, found = FAULTS[fault]
    streamed(house, {**true, kind: spoilt(true[kind], every, column, change)})
    outcomes = judged(house)
    assert red(outcomes) == {found: WARN}
    offending = next(one for one in outcomes if one.rule == found[1] and one.asset == found[0]).offending
    assert "AAPL" in set(offending["symbol"])
    assert "KO" not in set(offending["symbol"])
    whole = offending[offending["symbol"] == ""]
    assert whole.empty or "worst AAPL" in whole["detail"].iloc[0]


def test_quotes_far_from_those_around_them_are_found(house: House, true: Tables) -> None:
    both = spoilt(spoilt(true[QUOTES], 50, "bid", lambda old: old * 1.1), 50, "ask", lambda old: old * 1.1)
    streamed(house, {**true, QUOTES: both})
    assert (LIVE_QUOTES, "quote_outliers") in red(judged(house))


def test_the_delay_of_a_plan_is_no_latency(house: House, true: Tables) -> None:
    quarter = np.timedelta64(900, "s")
    streamed(house, {TRADES: spoilt(true[TRADES], 1, "received_at", lambda old: old + quarter)})
    settings = house.platform.settings.model_copy(update={"polygon_ws_url": "wss://delayed.massive.com"})
    assert red(judged(house)) == {(LIVE_TRADES, "latency"): WARN}
    us = house.platform.market("us")
    assert red(evaluate(replace(house.platform, settings=settings), us, DAY, DAY, assets=(LIVE_TRADES,))) == {}


def test_a_market_changes_the_numbers(house: House, true: Tables) -> None:
    late = spoilt(true[TRADES], 50, "received_at", lambda old: old + np.timedelta64(3, "s"))
    streamed(house, {**true, TRADES: late})
    patient = replace(house.platform.market("us"), quality=QualityPlan(thresholds={"latency": 4.0}))
    assert red(evaluate(house.platform, patient, DAY, DAY, assets=(LIVE_TRADES,))) == {}


def test_gaps_that_nobody_filled_are_found_as_far_as_the_exchange_was_open(house: House, true: Tables) -> None:
    streamed(house, true)
    noon = datetime(2025, 6, 12, 16, 0, tzinfo=UTC)
    gap(house, "only redis", noon, noon + timedelta(minutes=5), "redis")
    gap(house, "at night", datetime(2025, 6, 12, 2, tzinfo=UTC), datetime(2025, 6, 12, 3, tzinfo=UTC))
    gap(house, "being filled", NIGHT - timedelta(hours=2), NIGHT - timedelta(minutes=5))
    filled = gap(house, "filled", noon, noon + timedelta(minutes=1))
    with house.platform.database.connection() as connection:
        row = gap_of(connection, filled.gap_key)
        assert row is not None
        settle(connection, row.gap_id, GapStatus.FILLED, "", 5, None, NIGHT)
    assert red(judged(house)) == {}

    gap(house, "lost", noon, noon + timedelta(seconds=90))
    gap(house, "from before the morning", datetime(2025, 6, 12, 7, tzinfo=UTC), datetime(2025, 6, 12, 8, 1, tzinfo=UTC))
    outcomes = judged(house)
    assert red(outcomes) == {(LIVE_QUOTES, "stream_gap"): WARN}
    offending = next(one for one in outcomes if one.rule == "stream_gap").offending
    assert offending["seconds"].tolist() == [90.0, 60.0]
    assert trading_calendar("XNYS", NIGHT).is_session(offending["session"].iloc[0].date())


# --- where people see it ---------------------------------------------------------------------------------------


def test_the_report_and_the_checks_of_the_bars_job_say_it(
    house: House,
    true: Tables,
    repository: dg.RepositoryDefinition,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streamed(house, {**true, TRADES: spoilt(true[TRADES], 50, "correction", lambda old: old + 1)})
    market = house.platform.market("us")
    report = quality_report(house.platform, [market], DAY, DAY, assets=[LIVE_QUOTES, LIVE_TRADES])
    assert [(one.rule, one.severity) for one in report.failed(frozenset({WARN}))] == [("trade_conditions", WARN)]
    assert report.passed(frozenset({Severity.BLOCK}))
    whole = quality_report(house.platform, [market], DAY, DAY)
    assert "nothing is stored of us" in next(iter(whole.reasons.values())), "ticks do not make up for bars"

    monkeypatch.setattr(PlatformResource, "opened", lambda _self, **_: nullcontext(house.platform))
    with dg.instance_for_test() as instance:
        result = repository.get_job("us_bars_from_ticks").execute_in_process(
            instance=instance, partition_key=DAY.isoformat(), raise_on_error=False
        )
        found = {(one.asset_key.path[-1], one.check_name): one for one in result.get_asset_check_evaluations()}
    assert result.success
    red_ones = {name: one for name, one in found.items() if name[0] in (LIVE_QUOTES, LIVE_TRADES) and not one.passed}
    assert set(red_ones) == {(LIVE_TRADES, "trade_conditions")}
    one = red_ones[LIVE_TRADES, "trade_conditions"]
    assert one.severity is dg.AssetCheckSeverity.WARN
    assert "too many of AAPL" in (one.description or "")
