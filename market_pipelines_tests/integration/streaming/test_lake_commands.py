"""The commands over the tick lake, as somebody types them, and `market_pipelines.ticks`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd
import pytest

import market_pipelines
from market_pipelines.market.columns import with_marks
from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.pipeline.ticks import newest_day, ticks
from market_pipelines.settings import Settings, read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.database import Database
from market_pipelines.store.lake import TickLake
from market_pipelines.streaming.sinks.lake import LakeSink
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.contract.streaming.chunks import FEED, chunk
from market_pipelines_tests.integration.test_commands import Desk

pytestmark = pytest.mark.usefixtures("nothing_of_a_command_stays_behind")
MONDAY = "2026-03-02"


@pytest.fixture(scope="module")
def desk(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    """A house whose lake has three batches of a stream."""
    home, url = tmp_path_factory.mktemp("lake") / "home", postgres_server.create()
    with Database(url) as database:
        sink = LakeSink(
            database,
            TickLake(home / "lake"),
            stream="us-polygon",
            market="us",
            zone=ZoneInfo("America/New_York"),
            clock=lambda: datetime(2026, 3, 2, 15, tzinfo=UTC),
        )
        sink.open()
        for number in range(3):
            sink.write(chunk(number))
    yield Desk(home, url, simulator)
    postgres_server.drop(url)


def test_sql_over_the_views(desk: Desk) -> None:
    query = "SELECT symbol, count(*) AS trades, max(price) AS high FROM trades GROUP BY symbol ORDER BY symbol"
    told = desk.run("lake", "sql", query, "--json")
    assert (told.code, [line["symbol"] for line in told.json]) == (0, ["AAPL", "BRK.B", "ŻÓŁĆ"])
    assert sum(line["trades"] for line in told.json) == 36
    shown = desk.run("lake", "sql", "SELECT ts, marks FROM quotes ORDER BY ts LIMIT 1")
    assert "2026-03-02 14:30:00" in shown.out
    assert (
        "0" in desk.run("lake", "sql", "SELECT count(*) AS n FROM trades", "--from", "2026-03-03").out.splitlines()[-1]
    )


def test_spans_of_time_are_told_in_words(desk: Desk) -> None:
    query = "SELECT max(ts) - min(ts) AS span, INTERVAL 2 MONTH AS months FROM trades"
    assert desk.run("lake", "sql", query, "--json").json == [{"span": "0:00:00.035000", "months": "2 months, 0:00:00"}]


def test_columns_of_one_name_are_told_apart(desk: Desk) -> None:
    query = "SELECT 1 AS a, 2 AS a_1, 3 AS a, INTERVAL '1 day' AS b, INTERVAL '2 day' AS b"
    told = {"a": 1, "a_1": 2, "a_2": 3, "b": "1 day, 0:00:00", "b_1": "2 days, 0:00:00"}
    assert desk.run("lake", "sql", query, "--json").json == [told]


def test_sql_that_is_wrong_is_explained(desk: Desk) -> None:
    told = desk.run("lake", "sql", "SELECT bid FROM trades")
    assert told.code == 1
    assert "bid" in told.err
    assert "Traceback" not in told.err


def test_an_answer_in_a_file(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "trades.parquet"
    assert desk.run("lake", "sql", "SELECT * FROM trades", "--format", "parquet", "-o", str(file)).code == 0
    assert len(pd.read_parquet(file)) == 36


def test_views_for_a_duckdb_of_ones_own(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "views.sql"
    assert desk.run("lake", "views", "-o", str(file)).code == 0
    with duckdb.connect() as own:
        own.execute(file.read_text())
        assert own.execute("SELECT count(*) FROM quotes").fetchone() == (36,)
    assert desk.run("lake", "path").out.strip() == str(desk.home / "lake")


def test_status_and_merging(desk: Desk) -> None:
    before = desk.run("lake", "status", "--json").json
    assert {(one["kind"], one["feed"], one["session"], one["rows"]) for one in before["shelves"]} == {
        (kind, FEED, MONDAY, 36) for kind in ("trades", "quotes", "aggregates", "snapshots", "bands")
    }
    assert desk.run("lake", "compact", "--kind", "quotes", "--json").json["segments_before"] == 3
    told = desk.run("lake", "status", "--market", "us")
    assert told.code == 0
    assert "simulated-polygon" in told.out
    assert desk.run("lake", "status", "--market", "mars").code == 2


@pytest.mark.parametrize("kind", ["trades", "quotes", "aggregates", "snapshots", "bands"])
def test_every_kind_of_tick_is_shown(kind: str, desk: Desk) -> None:
    told = desk.run("ticks", "AAPL", "--kind", kind, "--from", MONDAY, "--to", MONDAY, "--json")
    assert (told.code, {line["symbol"] for line in told.json}, len(told.json)) == (0, {"AAPL"}, 12)


def test_ticks_of_one_market_with_marks_in_words_for_a_person(desk: Desk) -> None:
    marked = chunk(0, kinds=(TickKind.QUOTES,), journal="of another market")
    quotes = marked.tables[TickKind.QUOTES]
    odd = with_marks(quotes, np.full(len(quotes), TickMark.CROSSED | TickMark.LATE, dtype=np.int32))
    with Database(desk.url) as database:
        sink = LakeSink(
            database,
            TickLake(desk.home / "lake"),
            stream="pl-polygon",
            market="pl",
            zone=ZoneInfo("Europe/Warsaw"),
            clock=lambda: datetime(2026, 3, 2, 15, tzinfo=UTC),
        )
        sink.open()
        sink.write(replace(marked, tables={TickKind.QUOTES: odd}))
    asked = ("ticks", "AAPL", "--market", "pl", "--kind", "quotes", "--from", MONDAY, "--to", MONDAY)
    assert {line["marks"] for line in desk.run(*asked, "--json").json} == {65}
    assert desk.run(*asked).out.splitlines()[1].endswith("CROSSED LATE")


def test_only_what_providers_have_can_be_pulled(desk: Desk) -> None:
    told = desk.run("ticks", "AAPL", "--kind", "snapshots", "--pull")
    assert told.code == 2
    assert "--pull fetches trades and quotes; snapshots are what a stream has brought" in " ".join(
        told.err.replace("│", " ").split()
    )
    absent = desk.run("ticks", "MSFT", "O:AAPL261218C00200000", "--kind", "aggregates", "--from", MONDAY)
    assert absent.code == 1
    assert "No aggregates of MSFT, O:AAPL261218C00200000 in that span." in absent.err
    assert "--pull" not in absent.err


def settings_of(desk: Desk) -> Settings:
    return read_settings(env_file=None, database_url=desk.url, market_pipelines_home=desk.home)


def test_ticks_from_a_notebook(desk: Desk) -> None:
    settings = settings_of(desk)
    assert market_pipelines.ticks is ticks
    day = ticks("AAPL", start=MONDAY, settings=settings)
    assert len(day) == 12
    assert day["ts"].is_monotonic_increasing
    assert str(day["ts"].dtype) == "datetime64[ns, UTC]"
    part = ticks(
        ["AAPL", "BRK.B"],
        "quotes",
        start="2026-03-02T09:30:00-05:00",
        end="2026-03-02T09:30:00.010-05:00",
        settings=settings,
    )
    assert part["symbol"].tolist() == ["AAPL", "BRK.B"] * 3 + ["AAPL"]
    assert len(ticks("AAPL", "snapshots", start=MONDAY, limit=2, settings=settings)) == 2


@pytest.mark.parametrize(
    ("market", "day", "newest"),
    [
        ("us", 2, date(2026, 3, 2)),  # while it is streamed
        ("us", 9, date(2026, 3, 6)),  # the lake has no later one than the last that has closed
        ("pl", 2, date(2026, 2, 27)),  # another market's ticks are nothing to it
    ],
)
def test_without_days_it_is_the_one_that_is_being_streamed(market: str, day: int, newest: date, desk: Desk) -> None:
    with Database(desk.url) as database, database.connection() as connection:
        now = datetime(2026, 3, day, 15, tzinfo=UTC)
        assert newest_day(connection, read_markets()[market], TickKind.TRADES, now) == newest


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"symbols": []}, "no symbol"),
        ({"kind": "candles"}, "accepted: trades, quotes, aggregates, snapshots, bands"),
        ({"market": "mars"}, "there are pl, us"),
        ({"start": "2026-03-02T09:30"}, "has no time zone"),
        ({"start": "yesterday"}, "neither a day nor an instant"),
        ({"start": MONDAY, "end": "2026-02-01"}, "ends"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_can(asked: dict[str, object], said: str, desk: Desk) -> None:
    with pytest.raises(BadQuestion, match=said):
        ticks(**{"symbols": "AAPL", **asked}, settings=settings_of(desk))  # type: ignore[arg-type]
