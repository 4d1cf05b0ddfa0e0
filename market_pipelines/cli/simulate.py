"""The command `simulate`: every provider on loopback, with faults to switch on."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from market_pipelines.cli.door import read_door_settings
from market_pipelines.cli.output import emit_line, emit_table, say
from market_pipelines.pipeline.simulated import announcement
from market_pipelines.simulator.faults import FAULT_HELP
from market_pipelines.simulator.load_server import LoadPlan, LoadServer
from market_pipelines.simulator.server import DEFAULT_PORT, Simulator
from market_pipelines.simulator.truth import DEFAULT_SEED


def an_instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r} is not an instant with its zone; accepted: 2024-03-01T21:30:00Z")
    return instant


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = DEFAULT_PORT,
    seed: Annotated[int, typer.Option(help="Another seed, another history of prices.")] = DEFAULT_SEED,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROVIDER.NAME=VALUE", help="Misbehave so, from the start; may be repeated.", show_default=False
        ),
    ] = None,
    clock: Annotated[
        datetime | None,
        typer.Option(parser=an_instant, metavar="INSTANT", help="Stand still at this time.", show_default=False),
    ] = None,
    more: Annotated[
        int, typer.Option(min=0, max=10_000, help="So many more shares of New York: INV0001, INV0002, …")
    ] = 0,
    attached: Annotated[
        bool, typer.Option("--attached", help="Say the address as JSON, and end when standard input does.")
    ] = False,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Show every fault there is, and end.")] = False,
    load: Annotated[
        str | None,
        typer.Option(
            metavar="RATE|max",
            help="Be a load generator instead: Polygon's socket with so many unique events a second.",
            show_default=False,
        ),
    ] = None,
    events_per_frame: Annotated[int, typer.Option(min=1, max=5000, help="Of the load.")] = 50,
    symbols_in_load: Annotated[
        int, typer.Option(min=1, max=20_000, help="Behind a subscription to everything; named symbols are served too.")
    ] = 100,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="So long the load lasts, then it ends.", show_default=False)
    ] = None,
    events: Annotated[
        int | None, typer.Option(min=1, help="So many events of load, then silence.", show_default=False)
    ] = None,
) -> None:
    """Run an exchange in a box: the providers' own formats with invented prices, for as long as it is not stopped."""
    if list_faults:
        emit_table(("fault", "accepts", "meaning"), FAULT_HELP)
        return
    if load is not None:
        plan = LoadPlan(a_rate(load), events_per_frame, symbols_in_load, events, seconds)
        generate_load(plan, port, attached=attached)
        return
    settings = read_door_settings()
    simulator = Simulator(port, seed=seed, faults=fault or (), clock=clock, more=more)
    if attached:
        # A Ctrl-C at the terminal reaches us too; whoever holds our standard input may still need us then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with simulator:
            sys.stdout.write(json.dumps({"url": simulator.url}) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
        return
    done = threading.Event()

    def finish(_number: int, _frame: FrameType | None) -> None:
        done.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, finish)
    with simulator, announced(announcement(settings), simulator.url):
        for variable, address in simulator.base_urls().items():
            emit_line(f"export {variable}={address}")
        say(
            f"The simulator serves on {simulator.url} (seed {seed}). Commands with data folder {settings.home} find it "
            "by themselves, others by the lines above. Ctrl-C ends it."
        )
        done.wait()


def a_rate(text: str) -> float | None:
    try:
        rate = None if text == "max" else float(text)
    except ValueError:
        rate = 0.0
    if rate is not None and not 0 < rate < float("inf"):
        raise typer.BadParameter(f"{text!r} is no rate; accepted are events a second, or max", param_hint="--load")
    return rate


def generate_load(plan: LoadPlan, port: int, *, attached: bool) -> None:
    """The first line says where it is, the last one what was sent, both as JSON."""
    done = threading.Event()

    def finish(_number: int, _frame: FrameType | None) -> None:
        done.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, finish)
    with LoadServer(plan, port) as server:
        sys.stdout.write(json.dumps({"url": server.url, "polygon_ws_url": server.socket_url}) + "\n")
        sys.stdout.flush()
        if attached:
            threading.Thread(target=wait_for_the_end_of_input, args=(done,), daemon=True).start()
        while not done.wait(0.05) and not (plan.seconds is not None and server.finished.is_set()):
            pass
        told = server.told()
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def wait_for_the_end_of_input(done: threading.Event) -> None:
    sys.stdin.read()
    done.set()


@contextmanager
def announced(path: Path, url: str) -> Iterator[None]:
    """Other commands of this data folder find the simulator by this file. It is ours only while it names us."""
    text = json.dumps({"url": url, "pid": os.getpid()})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    try:
        yield
    finally:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            path.unlink(missing_ok=True)
