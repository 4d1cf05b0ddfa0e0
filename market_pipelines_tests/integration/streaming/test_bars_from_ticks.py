"""Bars built from what was streamed are the market's minutes, whole where nothing was missed, and say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.definitions import defs
from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind
from market_pipelines.orchestration.realtime_bars import bars_schedule
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.bars_from_ticks import NoTicks, build_bars
from market_pipelines.pipeline.intraday import settle_intraday
from market_pipelines.pipeline.pull_intraday import pull_intraday
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.stream_watch import unbuilt_sessions
from market_pipelines.pipeline.ticks import pull_ticks
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.bars_from_ticks import read_bars_from_ticks
from market_pipelines.store.stream_gaps import GapStatus, NoticedGap, gap_of, record_closed, settle
from market_pipelines_tests import process_state
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house
from market_pipelines_tests.integration.streaming.streamed import (
    FEED,
    STREAM,
    stream_into_lake,
    stream_session,
    true_minutes,
    true_trades,
)

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

DAY = date(2025, 6, 12)
NIGHT = datetime(2025, 6, 13, 1, 30, tzinfo=UTC)
NOON = datetime(2025, 6, 12, 16, 0, tzinfo=UTC)
SYMBOLS = ("AAPL", "IBM")


@pytest.fixture(scope="module", autouse=True)
def job() -> dg.JobDefinition:
    """Loaded before any instance is opened, which Dagster would remember beside it."""
    return defs().get_repository_def().get_job("us_bars_from_ticks")


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=NIGHT) as opened:
        yield opened
    postgres_server.drop(url)


def stored(house: House, *symbols: str) -> pd.DataFrame:
    with house.platform.database.connection() as connection:
        return read_bars_from_ticks(connection, "us", symbols, DAY, DAY)


def incomplete(house: House, *symbols: str) -> list[str]:
    found = stored(house, *symbols)
    return [f"{ts:%H:%M}" for ts in found.loc[~found["complete"], "ts"]]


def missed(house: House, begins: datetime, ends: datetime, **more: object) -> None:
    gap = NoticedGap(
        "g",
        STREAM,
        "us",
        FEED,
        "disconnected",
        begins,
        **{"channels": ("trades",), **more},  # type: ignore[arg-type]
    )
    with house.platform.database.connection() as connection:
        record_closed(connection, gap, ends, house.clock())


def filled(house: House, at: datetime) -> None:
    with house.platform.database.connection() as connection:
        gap = gap_of(connection, "g")
        assert gap is not None
        assert settle(connection, gap.gap_id, GapStatus.FILLED, "", 100, None, at)


def test_bars_of_the_lake_are_the_minutes_of_the_market(house: House) -> None:
    stream_session(house, SYMBOLS, DAY)
    built = build_bars(house.platform, house.platform.market("us"), DAY)
    assert (built.source, built.incomplete, built.coverage.share) == ("trades", 0, 1.0)
    for symbol in SYMBOLS:
        truth, found = true_minutes(house, symbol, DAY), stored(house, symbol)
        assert found["ts"].dt.tz_convert(None).tolist() == [pd.Timestamp(stamp) for stamp in truth.stamps]
        assert found["phase"].tolist() == truth.phase.tolist()
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_array_equal(found[name], getattr(truth.bars, name))
    assert set(found["feed"]) == {FEED}


def test_building_again_changes_nothing_and_one_symbol_leaves_the_others_alone(house: House) -> None:
    stream_session(house, SYMBOLS, DAY)
    us = house.platform.market("us")
    first = build_bars(house.platform, us, DAY)
    before = stored(house)
    again = build_bars(house.platform, us, DAY, ["IBM"])
    assert (first.replaced, again.replaced) == (0, len(stored(house, "IBM")))
    pd.testing.assert_frame_equal(stored(house), before)


def test_what_was_streamed_and_pulled_counts_once(house: House) -> None:
    house.clock.set(NIGHT)
    us = house.platform.market("us")
    stream_into_lake(house, true_trades(house, "IBM", DAY), DAY)
    alone = build_bars(house.platform, us, DAY).bars
    pull_ticks(
        house.platform,
        us,
        instruments_of(us, ["IBM"]),
        TickKind.TRADES,
        NOON,
        NOON + timedelta(minutes=30),
        providers=[house.platform.providers["polygon"]],
    )
    both = build_bars(house.platform, us, DAY)
    assert both.ticks > len(true_trades(house, "IBM", DAY))
    pd.testing.assert_frame_equal(both.bars, alone)


def test_minutes_in_an_unfilled_gap_are_kept_and_not_complete(house: House) -> None:
    stream_session(house, SYMBOLS, DAY)
    missed(house, NOON + timedelta(seconds=90), NOON + timedelta(minutes=3), symbols=("IBM",))
    built = build_bars(house.platform, house.platform.market("us"), DAY)
    assert incomplete(house, "IBM") == ["16:01", "16:02"]
    assert incomplete(house, "AAPL") == []
    assert built.coverage.unfilled_gaps == 1
    filled(house, NIGHT)
    build_bars(house.platform, house.platform.market("us"), DAY)
    assert incomplete(house) == []


@pytest.mark.parametrize("gap", [{"sink": "questdb"}, {"channels": ("quotes",)}])
def test_a_gap_of_another_sink_or_channel_touches_no_bar(house: House, gap: dict[str, object]) -> None:
    stream_session(house, ["IBM"], DAY)
    missed(house, NOON, NOON + timedelta(minutes=3), **gap)
    build_bars(house.platform, house.platform.market("us"), DAY)
    assert incomplete(house) == []


def test_a_gap_of_another_stream_touches_no_bar(house: House) -> None:
    """Options and shares of one market are streamed side by side, each by a service of its own."""
    stream_session(house, SYMBOLS, DAY)
    other = NoticedGap("o", "us-polygon-options", "us", FEED, "disconnected", NOON, ("trades",))
    with house.platform.database.connection() as connection:
        record_closed(connection, other, NOON + timedelta(minutes=5), house.clock())
    built = build_bars(house.platform, house.platform.market("us"), DAY)
    assert (built.incomplete, built.coverage.unfilled_gaps) == (0, 0)


@pytest.mark.parametrize("minutes", [0, 15])
def test_a_stream_that_began_at_noon_has_no_whole_minute_before_it(house: House, minutes: int) -> None:
    """Nor has a delayed one before what it told first."""
    table = true_trades(house, "IBM", DAY)
    heard = np.flatnonzero(table["received_at"].to_numpy() > np.datetime64("2025-06-12T16:00:20"))
    arrived = pc.add(table["received_at"], pa.scalar(timedelta(minutes=minutes), pa.duration("ns")))
    place = table.column_names.index("received_at")
    stream_into_lake(house, table.set_column(place, table.schema.field(place), arrived).take(heard), DAY)
    settings = house.platform.settings.model_copy(update={"stream_polygon_delay_minutes": minutes})
    built = build_bars(replace(house.platform, settings=settings), house.platform.market("us"), DAY)
    assert incomplete(house) == ["16:00"]
    assert built.coverage.expected == 390
    assert 0.5 < built.coverage.share < 0.7


def test_bars_are_compared_with_the_streams_and_the_providers_own(house: House) -> None:
    us = house.platform.market("us")
    stream_session(house, ["IBM"], DAY)
    build_bars(house.platform, us, DAY)
    bars = stored(house, "IBM")
    with house.platform.database.connection() as connection:
        connection.execute(
            """
            INSERT INTO market.stream_bars
            SELECT market, symbol, ts, open, high, low, CASE WHEN ts = %s THEN close * 1.01 ELSE close END, volume,
                   vwap, feed, built_at
            FROM market.bars_from_ticks
            """,
            (NOON,),
        )
    (compared,) = build_bars(house.platform, us, DAY).comparisons
    assert (compared.compared, compared.equal, compared.within) == (len(bars), len(bars) - 1, 0)
    (worst,) = compared.differing.to_dict("records")
    assert (worst["symbol"], worst["ts"]) == ("IBM", pd.Timestamp(NOON))
    assert worst["bp"] == pytest.approx(99, abs=0.5)


def test_five_minute_bars_of_the_provider_are_what_ours_add_up_to(house: House) -> None:
    stream_session(house, ["IBM"], DAY)
    us = house.platform.market("us")
    ibm = instruments_of(us, ["IBM"])
    polygon = [house.platform.providers["polygon"]]
    pull_intraday(house.platform, us, ibm, DAY, DAY, interval="5min", extended=True, run_id="r", providers=polygon)
    settle_intraday(house.platform, us, ibm, DAY, DAY, interval="5min", run_id="r", known_at=house.clock())
    (compared,) = build_bars(house.platform, us, DAY).comparisons
    assert compared.title == "stock_prices_intraday, 5min"
    assert compared.compared > 100
    assert (compared.equal, compared.only_theirs) == (compared.compared, 0)


def test_a_market_without_trades_has_bars_of_what_was_seen(house: House) -> None:
    bell = datetime(2025, 6, 12, 7, 0, tzinfo=UTC)
    moments = [bell + timedelta(seconds=30 * place) for place in range(1, 7)]
    prices = [50.0, 51.0, 51.5, 51.0, 50.5, 50.5]
    seen = pa.table(
        {
            "symbol": ["PKO"] * 6,
            "ts": pa.array(moments, pa.timestamp("ns", tz="UTC")),
            "received_at": pa.array(moments, pa.timestamp("ns", tz="UTC")),
            "price": prices,
            **{name: pa.array([None] * 6, pa.float64()) for name in ("bid", "ask", "bid_size", "ask_size")},
            "open": [50.0] * 6,
            "high": [50.0, 51.0, 53.0, 53.0, 53.0, 53.0],
            "low": [50.0] * 6,
            "previous_close": [49.0] * 6,
            "volume": [100.0, 200.0, 400.0, 500.0, 600.0, 600.0],
            "currency": ["PLN"] * 6,
            "feed": ["simulated-stooq"] * 6,
            "marks": pa.array([0] * 6, pa.int32()),
        },
        schema=SCHEMAS[TickKind.SNAPSHOTS],
    )
    stream_into_lake(house, seen, DAY, kind=TickKind.SNAPSHOTS, market="pl")
    built = build_bars(house.platform, house.platform.market("pl"), DAY)
    assert built.source == "snapshots"
    bars = built.bars[["open", "high", "low", "close", "volume", "trades"]]
    assert bars.to_numpy().tolist() == [
        [50.0, 50.0, 50.0, 50.0, 100.0, 1.0],
        [51.0, 53.0, 51.0, 51.5, 300.0, 2.0],
        [51.0, 51.0, 50.5, 50.5, 200.0, 2.0],
    ]
    assert built.bars["vwap"].isna().all()


def test_trades_that_were_pulled_do_not_stand_in_for_a_day_that_was_seen(house: House) -> None:
    house.clock.set(NIGHT)
    us = house.platform.market("us")
    moments = [NOON - timedelta(hours=2) + timedelta(minutes=place) for place in range(60)]
    looks = [{"symbol": "IBM", "ts": at, "received_at": at, "price": 280.0 + n} for n, at in enumerate(moments)]
    told = [{**look, "feed": "simulated-yahoo", "currency": "USD", "marks": 0} for look in looks]
    table = pa.Table.from_pylist(told, schema=SCHEMAS[TickKind.SNAPSHOTS])
    stream_into_lake(house, table, DAY, kind=TickKind.SNAPSHOTS)
    seen = build_bars(house.platform, us, DAY).bars
    polygon = house.platform.providers["polygon"]
    ends = NOON + timedelta(minutes=5)
    pull_ticks(house.platform, us, instruments_of(us, ["IBM"]), TickKind.TRADES, NOON, ends, providers=[polygon])
    built = build_bars(house.platform, us, DAY)
    assert (built.source, len(built.bars)) == ("snapshots", len(seen))


def test_a_session_that_nobody_streamed_says_so(house: House) -> None:
    with pytest.raises(NoTicks, match="was not streamed"):
        build_bars(house.platform, house.platform.market("us"), DAY)
    with pytest.raises(NoTicks, match="2025-06-14 is no session of XNYS"):
        build_bars(house.platform, house.platform.market("us"), date(2025, 6, 14))


# --- when, and how Dagster shows it ----------------------------------------------------------------------------


def test_a_session_waits_until_it_is_built_and_again_when_a_gap_was_filled_later(house: House) -> None:
    us = house.platform.market("us")
    assert unbuilt_sessions(house.platform, us, NIGHT) == ()
    stream_session(house, ["IBM"], DAY)
    assert [one.session for one in unbuilt_sessions(house.platform, us, NIGHT)] == [DAY]
    assert unbuilt_sessions(house.platform, us, datetime(2025, 6, 12, 23, tzinfo=UTC)) == ()
    missed(house, NOON, NOON + timedelta(minutes=3))
    build_bars(house.platform, us, DAY)
    assert unbuilt_sessions(house.platform, us, NIGHT) == ()
    filled(house, NIGHT + timedelta(hours=1))
    assert [one.session for one in unbuilt_sessions(house.platform, us, NIGHT)] == [DAY]


def test_a_session_of_which_one_symbol_was_built_by_hand_still_waits(house: House) -> None:
    us = house.platform.market("us")
    stream_session(house, ["AAPL", "IBM", "KO"], DAY)
    build_bars(house.platform, us, DAY, ["IBM"])
    assert [one.session for one in unbuilt_sessions(house.platform, us, NIGHT)] == [DAY]
    build_bars(house.platform, us, DAY)
    assert unbuilt_sessions(house.platform, us, NIGHT) == ()


def test_the_schedule_asks_once_for_what_was_streamed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlatformResource, "opened", lambda _self, **_: nullcontext(house.platform))
    monkeypatch.setattr("market_pipelines.orchestration.realtime_bars.wall_clock", lambda: NIGHT)
    schedule = bars_schedule(house.platform.market("us"), "us_bars_from_ticks", NIGHT)
    with dg.instance_for_test() as instance:

        def tick() -> dg.RunRequest | dg.SkipReason:
            with dg.build_schedule_context(
                instance, scheduled_execution_time=NIGHT, resources={"platform": PlatformResource()}
            ) as context:
                found = schedule(context)
            assert isinstance(found, dg.RunRequest | dg.SkipReason)
            return found

        nothing = tick()
        assert isinstance(nothing, dg.SkipReason)
        assert "no session was streamed" in str(nothing.skip_message)
        stream_session(house, ["IBM"], DAY)
        asked = tick()
        assert isinstance(asked, dg.RunRequest)
        assert (asked.run_key, asked.tags["dagster/partition"]) == ("us_bars_from_ticks-2025-06-12", "2025-06-12")


def test_a_run_shows_rows_checks_and_what_differs(
    house: House, job: dg.JobDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlatformResource, "opened", lambda _self, **_: nullcontext(house.platform))
    stream_session(house, ["IBM"], DAY)
    with dg.instance_for_test() as instance:
        result = job.execute_in_process(instance=instance, partition_key=str(DAY))
        assert result.success
        (event,) = result.get_asset_materialization_events()
        metadata = event.step_materialization_data.materialization.metadata
        assert metadata["rows"].value == len(stored(house))
        assert metadata["rows_by_source"].value == f"trades {len(stored(house))}"
        assert "svg" in str(metadata["volume_by_minute"].value)
        checks = {(one.asset_key.path[-1], one.check_name): one for one in result.get_asset_check_evaluations()}
        assert {name for asset, name in checks if asset == "bars_from_ticks"} == {
            "agrees_with_provider_minutes",
            "covers_the_session",
        }
        assert {asset for asset, _ in checks} == {"bars_from_ticks", "realtime_quotes", "realtime_trades"}
        assert all(one.passed for one in checks.values())
        empty = job.execute_in_process(instance=instance, partition_key="2025-06-11", raise_on_error=False)
        assert not empty.success


def test_the_command_builds_and_compares(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    stream_session(house, ["IBM"], DAY)
    monkeypatch.setattr(
        "market_pipelines.cli.bars_from_ticks.platform_of_commands", lambda **_: nullcontext(house.platform)
    )
    with process_state.logs_as_they_were():
        ended = CliRunner().invoke(app, ["bars-from-ticks", str(DAY), "--json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert (told["bars"], told["source"], told["incomplete"]) == (len(stored(house)), "trades", 0)
    with process_state.logs_as_they_were():
        refused = CliRunner().invoke(app, ["bars-from-ticks", "2025-06-11"])
    assert refused.exit_code == 1
    assert "was not streamed" in refused.stderr
