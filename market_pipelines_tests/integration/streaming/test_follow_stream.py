"""A stream followed from outside of the process that runs it: by a program, onto its event bus, and by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.platform import UnknownMarket
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.stream.events import BANDS, QUOTE
from market_pipelines.streaming.bus import EventBus
from market_pipelines.streaming.day_book import StockUpdate
from market_pipelines.streaming.follow import Following, FollowRefused, News, follow, publishing
from market_pipelines.streaming.plan import Channel
from market_pipelines_tests.faults.streaming.live import PLAN, Desk, environment, opened_desk, until

ROOT = Path(__file__).resolve().parents[3]
OPENING = datetime(2026, 11, 19, 14, 30, tzinfo=UTC)
LENGTH = timedelta(minutes=3)
BANDED = replace(PLAN, symbols=PLAN.symbols[:3], channels=(Channel.QUOTES, Channel.LULD))


@pytest.fixture
def desk(settings_of_this_machine_are_out_of_sight: None, url: str, tmp_path: Path) -> Iterator[Desk]:
    with Simulator(clock=OPENING) as simulator, opened_desk(tmp_path / "home", simulator, url) as opened:
        yield opened


@contextmanager
def followed_by_command(desk: Desk, url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """One that has begun to follow."""
    variables = {**os.environ, **environment(desk.platform.settings.home, desk.simulator, url), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "market_pipelines.cli", "stream", "follow", *words]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stderr is not None
            assert started.stderr.readline().startswith("following us-polygon; Ctrl-C ends it")
            yield started
        finally:
            started.kill()


def connections(simulator: Simulator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{simulator.url}/control/stream", timeout=5).json()["connections"]
    return found


def taken(following: Following, upto: int) -> list[News]:
    found: list[News] = []
    while sum(news.rows for news in found) < upto and (news := following.take(30)) is not None:
        found.append(news)
    return found


def test_what_a_stream_receives_is_followed_from_outside(desk: Desk, url: str) -> None:
    simulator, (symbol, *_) = desk.simulator, BANDED.symbols
    simulator.faults.add("polygon.ws_luld_unit=ns")
    running = desk.started(BANDED)
    bus, updates = EventBus(), list[StockUpdate]()
    bus.subscribe("stock_update", updates.append)
    try:
        until(lambda: any(one["subscriptions"] for one in connections(simulator)), "it is subscribed")
        with (
            followed_by_command(desk, url, "--symbols", symbol, "--kinds", "bands", "--format", "json") as command,
            follow(platform=desk.platform) as everything,
            follow(symbol, "quotes", market="us", platform=desk.platform) as quotes,
            publishing(bus, symbol, stream="us-polygon", platform=desk.platform) as streams,
        ):
            simulator.clock.set(OPENING + LENGTH)
            until(lambda: simulator.streamed_until == OPENING + LENGTH, "everything was told")
            assert simulator.streams[0].wait_drained(1, 30), "everything was sent"
            sent = [(one.kind, one.symbol, one.seq) for one in simulator.streams[0].sent]
            bands = [one for one in sent if one[0] == BANDS]
            came = [event for news in taken(everything, len(sent)) for event in news.events()]
            names = {TickKind.BANDS: BANDS, TickKind.QUOTES: QUOTE}
            assert sorted((names[kind], told["symbol"], told["seq"]) for _, kind, told in came) == sorted(sent)
            assert {told["limit_up"] > told["limit_down"] for _, kind, told in came if kind is TickKind.BANDS} == {True}
            mine = [one for one in sent if one[:2] == (QUOTE, symbol)]
            assert [told.values["seq"] for news in taken(quotes, len(mine)) for told in news.events()] == [
                seq for _, _, seq in mine
            ]
            assert quotes.missed == 0
            assert command.stdout is not None
            lines = [json.loads(command.stdout.readline()) for one in bands if one[1] == symbol]
            assert [(BANDS, line["symbol"], line["seq"]) for line in lines] == [
                one for one in bands if one[1] == symbol
            ]
            stamps = [line["ts"] for line in lines]
            assert stamps == [f"2026-11-19T14:{31 + minute}:00.000000000Z" for minute in range(3)], "of any unit"
            command.send_signal(signal.SIGINT)
            assert command.stderr is not None
            assert f"{len(lines)} events came" in command.stderr.read()
            assert command.wait(10) == 0
            until(lambda: updates, "the bus has heard")
            assert (streams, {update.symbol for update in updates}) == (("us-polygon",), {symbol})
            for refused, said in (({"stream": "us-yahoo"}, "never ran"), ({"market": "pl"}, "no stream of pl runs")):
                with pytest.raises(FollowRefused, match=said), follow(platform=desk.platform, **refused):  # type: ignore[arg-type]
                    pass
            with pytest.raises(UnknownMarket), follow(platform=desk.platform, market="mars"):
                pass
    finally:
        running.end()
        bus.close()
    assert running.error is None
    with desk.platform.database.connection() as connection:
        stored = lake_of(desk.platform).table(
            connection, TickKind.BANDS, start=OPENING, end=OPENING + timedelta(days=1)
        )
    assert sorted(zip(stored["symbol"].to_pylist(), stored["seq"].to_pylist(), strict=True)) == sorted(
        one[1:] for one in bands
    ), "the lake has every band once"
