"""R3: under load each target in turn is killed in the middle of a batch and away for some seconds. In the end each
has everything once, and meanwhile the others never fell behind.

`TARGET_DOWN_SECONDS=180` for the long form.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import psutil
import psycopg
import pytest

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.ticks import LAKE_FOLDER, lake_of
from market_pipelines.simulator.load_server import LoadPlan, LoadServer
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.streaming.sinks.records import CHANNELS, record
from market_pipelines.streaming.sinks.redis import KEPT, RedisSink
from market_pipelines.streaming.sinks.runner import SinkRunner
from market_pipelines_tests.contract.streaming.reach import SOON
from market_pipelines_tests.contract.streaming.test_redis_sink import nanoseconds
from market_pipelines_tests.db_server import DbServer
from market_pipelines_tests.faults.dying import owner_of
from market_pipelines_tests.faults.streaming.live import (
    PLAN,
    SYMBOLS,
    Desk,
    Running,
    Tick,
    durable,
    opened_desk,
    sinks_of,
    until,
    until_stored,
)
from market_pipelines_tests.servers import PocketBaseServer, QuestDbServer, RedisServer, Server

DOWN_SECONDS = float(os.environ.get("TARGET_DOWN_SECONDS", "2"))
EVENTS_A_SECOND = 2_000 if DOWN_SECONDS > 30 else 600
"""Seven sinks and their servers beside the rest of the tests: so many that none of them is behind for minutes."""
FULL = 1_000_000_000
SINKS = "market_pipelines.streaming.sinks"
KINDS = {TickKind.QUOTES: "Q", TickKind.TRADES: "T"}
PATIENCE = 240.0


@dataclass(frozen=True)
class Target:
    sinks: frozenset[str]
    between: str
    """Called more than once a batch: after the first time it is killed."""
    kill: Callable[[], None]
    start: Callable[[], None]
    is_part: Callable[..., bool] = lambda *_given: True
    """Of that call: whether more of the batch follows."""


@dataclass
class House:
    """All targets, and a stream that writes to them."""

    desk: Desk
    load: LoadServer
    targets: Mapping[str, Target]
    worst: dict[str, float] = field(default_factory=dict)
    """By who was away, the most seconds that any other was behind."""

    def outage(self, running: Running, name: str) -> float:
        """Seconds from a target's return until its sinks had everything that had come meanwhile."""
        target = self.targets[name]

        def behind() -> dict[str, float]:
            lags = {sink: told["cursor_lag_s"] for sink, told in sinks_of(running).items()}
            self.worst[name] = max(self.worst.get(name, 0.0), *(lags[one] for one in lags.keys() - target.sinks))
            return lags

        with killed_between(target) as done:
            until(done.is_set, f"{name}: killed within a batch", PATIENCE)
        back = time.monotonic() + DOWN_SECONDS
        until(lambda: behind() and time.monotonic() >= back, f"{name}: away", DOWN_SECONDS + PATIENCE)
        came = durable(running)
        until(
            lambda: all(told["position"] >= came for one, told in sinks_of(running).items() if one not in target.sinks),
            f"{name} is away, and the others store what came meanwhile",
            PATIENCE,
        )
        found = sinks_of(running)
        assert all(found[one]["position"] < came for one in target.sinks), f"{name} was there: {found}"
        target.start()
        returned = time.monotonic()
        until(
            lambda: behind() and all(told["position"] >= came for told in sinks_of(running).values()),
            f"{name}: its sinks have caught up",
            DOWN_SECONDS + PATIENCE,
        )
        return round(time.monotonic() - returned, 2)


def events(running: Running) -> int:
    assert running.service.reporter is not None
    count: int = running.service.reporter.report().counters["events"]
    return count


@contextmanager
def killed_between(target: Target) -> Iterator[threading.Event]:
    """After the first piece of the next batch. The event: it has happened."""
    owner, name = owner_of(target.between)
    original, once, done = getattr(owner, name), threading.Lock(), threading.Event()

    def deadly(*given: Any, **named: Any) -> Any:
        result = original(*given, **named)
        if target.is_part(*given) and once.acquire(blocking=False):
            target.kill()
            done.set()
        return result

    with patch.object(owner, name, deadly):
        yield done


@pytest.fixture
def house(
    simulator: Simulator,
    redis_server: RedisServer,
    questdb_server: QuestDbServer,
    pocketbase_server: PocketBaseServer,
    tmp_path: Path,
) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedServer(folder / "database", fsync=False)
    db_server = DbServer(tmp_path / "old.db")
    load = LoadServer(LoadPlan(EVENTS_A_SECOND, 10, events=FULL))
    try:
        postgres.start(keep=True)
        postgres.ensure_database("live")
        db_server.start()
        pocketbase_server.allow_batches(8)
        more = {
            "polygon_ws_url": load.socket_url,
            "stream_ticks_in_database": True,
            "redis_url": redis_server.url,
            "questdb_host": questdb_server.host,
            "questdb_port": questdb_server.port,
            "questdb_ilp_port": questdb_server.ilp_port,
            "questdb_user": questdb_server.user,
            "questdb_password": questdb_server.password,
            "pocketbase_url": pocketbase_server.url,
            "pocketbase_email": pocketbase_server.email,
            "pocketbase_password": pocketbase_server.password,
            "db_server": db_server.address,
        }
        with load, opened_desk(tmp_path / "home", simulator, postgres.url("live"), **more) as desk:
            lake = desk.platform.settings.home / LAKE_FOLDER
            targets = {
                "redis": replace(
                    of_server(redis_server, "redis", f"{SINKS}.redis.RedisSink._apply"),
                    is_part=lambda _sink, cursor, _piece: bool(cursor.done),
                ),
                "questdb": of_server(questdb_server, "questdb", f"{SINKS}.questdb.QuestDbSink._send"),
                "pocketbase": of_server(pocketbase_server, "pocketbase", f"{SINKS}.pocketbase.PocketBaseSink._put"),
                "db_server": Target(
                    frozenset({"db_server"}),
                    f"{SINKS}.db_server.DbServerSink._give",
                    db_server.stop,
                    db_server.start,
                ),
                "the lake's disk": Target(
                    frozenset({"lake"}),
                    "market_pipelines.store.lake.TickLake.put",
                    partial(taken_away, lake),
                    partial(brought_back, lake),
                ),
                "postgres": Target(
                    frozenset({"postgres", "lake", "gaps"}),
                    f"{SINKS}.postgres.write_trades",
                    partial(killed, data_folder(postgres.url("live"))),
                    partial(postgres.start, keep=True),
                ),
            }
            yield House(desk, load, targets)
    finally:
        pocketbase_server.allow_batches()
        db_server.stop()
        postgres.stop(force=True)
        shutil.rmtree(folder, ignore_errors=True)


def of_server(server: Server, sink: str, between: str) -> Target:
    if server._process is None:
        pytest.skip(f"{server.name} is the operator's own: it is not stopped")
    return Target(frozenset({sink}), between, server.kill, server.start)


def taken_away(folder: Path) -> None:
    folder.rename(folder.with_name("taken away"))
    folder.touch()


def brought_back(folder: Path) -> None:
    folder.unlink()
    folder.with_name("taken away").rename(folder)


def data_folder(url: str) -> Path:
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0])


def killed(data: Path) -> None:
    postmaster = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    everybody = [postmaster, *postmaster.children(recursive=True)]
    for one in everybody:
        if one.is_running():
            one.send_signal(signal.SIGKILL)
    psutil.wait_procs(everybody, PATIENCE)


@contextmanager
def quicker() -> Iterator[None]:
    """The pauses between two tries in proportion to the outage; pieces of Redis so small that a batch has several."""
    pauses: dict[str, Any] = {} if DOWN_SECONDS > 30 else {"first_pause": 0.2, "longest_pause": 0.5}
    small = {**(RedisSink.__init__.__kwdefaults__ or {}), "rows_a_script": 20}
    with (
        patch("market_pipelines.streaming.service.SinkRunner", partial(SinkRunner, **pauses)),
        patch("market_pipelines.store.database._LOOK_AFTER_SECONDS", SOON),
        patch.object(RedisSink.__init__, "__kwdefaults__", small),
    ):
        yield


def test_each_target_may_be_killed_and_stay_away_and_has_everything_once_in_the_end(
    house: House,
    redis_server: RedisServer,
    questdb_server: QuestDbServer,
    pocketbase_server: PocketBaseServer,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    recovered: dict[str, float] = {}
    plan = replace(PLAN, batch_seconds=0.5)
    with quicker(), house.desk.streaming(plan) as running:
        for name in house.targets:
            recovered[name] = house.outage(running, name)
        told_to_end = datetime.now(UTC)
        with house.load.lock:
            house.load.plan = replace(house.load.plan, events=house.load.totals.reserved)
        assert house.load.finished.wait(PATIENCE)
        until(lambda: events(running) >= house.load.totals.events, "all has come", PATIENCE)
        until_stored(running, PATIENCE)
    record_property("seconds until a target had everything again", recovered)
    record_property("seconds behind, of those that were there", house.worst)
    # Once the last event has been sent a long wait for a sink may well be called a silence.
    assert [gap for gap in house.desk.gaps() if gap.begins_at < told_to_end - timedelta(seconds=1)] == [], (
        "nothing was missed"
    )

    sent = ids_sent(house.load)
    assert sum(sent.values()) == house.load.totals.events > EVENTS_A_SECOND
    ticks = {kind: lake_rows(house.desk, kind) for kind in KINDS}
    assert ids_of(ticks) == sent, "the lake"
    with house.desk.platform.database.connection() as connection:
        stored = Counter(
            (name, str(symbol), int(seq))
            for kind, name in KINDS.items()
            for symbol, seq in connection.execute(f"SELECT symbol, seq FROM market.stream_{kind.value}").fetchall()  # noqa: S608
        )
    assert stored == sent, "PostgreSQL"
    questdb_server.wait_applied()
    assert sent == Counter(
        (name, str(symbol), int(seq))
        for kind, name in KINDS.items()
        for symbol, seq in questdb_server.query(f"SELECT symbol, seq FROM {kind.value}")  # noqa: S608
    ), "QuestDB"
    records, kept = records_of(ticks), in_redis(redis_server)
    assert kept <= records, "Redis: nothing twice, nothing that was not sent"
    # Its stream is bounded: in the long form the oldest have gone.
    assert kept.total() >= min(records.total(), KEPT), "Redis"
    assert in_db_server(DbServer(tmp_path / "old.db")) == sent, "the db_server"
    assert len(newest_of(ticks)) >= len(SYMBOLS)
    assert in_pocketbase(pocketbase_server) == newest_of(ticks), "PocketBase"


# --- what each target has ----------------------------------------------------------------------------------------


def ids_sent(load: LoadServer) -> Counter[Tick]:
    symbols: Any = load.told()["symbols"]
    return Counter(
        (kind, symbol, seq)
        for symbol, kinds in symbols.items()
        for kind, told in kinds.items()
        for seq in range(told["first"], told["last"] + 1)
    )


def lake_rows(desk: Desk, kind: TickKind) -> pl.DataFrame:
    day = timedelta(days=1)
    now = datetime.now(UTC)
    with desk.platform.database.connection() as connection:
        return pl.DataFrame(lake_of(desk.platform).table(connection, kind, start=now - day, end=now + day))


def ids_of(ticks: Mapping[TickKind, pl.DataFrame]) -> Counter[Tick]:
    return Counter(
        (KINDS[kind], symbol, seq) for kind, frame in ticks.items() for symbol, seq in frame["symbol", "seq"].rows()
    )


def records_of(ticks: Mapping[TickKind, pl.DataFrame]) -> Counter[tuple[str, str]]:
    return Counter(
        row
        for kind, frame in ticks.items()
        for row in frame.select(pl.format(f"{CHANNELS[kind]}:{{}}", "symbol"), record(kind).alias("record")).rows()
    )


def in_redis(server: RedisServer) -> Counter[tuple[str, str]]:
    with server.client() as client:
        return Counter((told["channel"], told["record"]) for _, told in client.xrange("ticks"))


def in_db_server(server: DbServer) -> Counter[Tick]:
    """The digits of a timestamp below its millisecond are those of the sequence number."""
    found: Counter[Tick] = Counter()
    for data_type, told in server.rows():
        rest = nanoseconds(told["timestamp"]) % 1_000_000
        seq = FULL + rest // 1000 + rest % 1000 * 1000
        found[{"quote": "Q", "trade": "T"}[data_type], told["ticker"], seq] += 1
    return found


def in_pocketbase(server: PocketBaseServer) -> dict[tuple[str, str], tuple[int, float]]:
    """When each symbol was quoted and traded last, and at which price."""
    return {
        (one["symbol"], price): (nanoseconds(one[clock]), one[price])
        for one in server.records("stock_data")
        for clock, price in (("quoted_at", "bid"), ("traded_at", "price"))
        if one[clock]
    }


def newest_of(ticks: Mapping[TickKind, pl.DataFrame]) -> dict[tuple[str, str], tuple[int, float]]:
    found: dict[tuple[str, str], tuple[int, float]] = {}
    no_quote = TickMark.OUTLIER | TickMark.FUTURE
    no_price = no_quote | TickMark.CONDITION | TickMark.CORRECTED | TickMark.NOT_POSITIVE
    for kind, price, unfit in ((TickKind.QUOTES, "bid", no_quote), (TickKind.TRADES, "price", no_price)):
        fit = ticks[kind].filter(pl.col("marks") & int(unfit) == 0)
        last = fit.sort("seq").group_by("symbol").last()
        rows = last.select("symbol", pl.col("ts").cast(pl.Int64), price).rows()
        found.update({(symbol, price): (at, value) for symbol, at, value in rows})
    return found
