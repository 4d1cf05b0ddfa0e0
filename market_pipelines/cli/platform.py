"""`market-pipelines up` and `down`: options in, exit code out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from market_pipelines.cli.door import read_door_settings
from market_pipelines.cli.output import CommandFailed, emit_line, say
from market_pipelines.cli.running import stop_running
from market_pipelines.cli.up import DAGSTER_PORT, UpOptions
from market_pipelines.cli.up import up as run_platform
from market_pipelines.settings import Settings, SimulatorUse

_STOP_SECONDS = 60.0

Home = Annotated[Path | None, typer.Option("--home", help="The data folder.", show_default="MARKET_PIPELINES_HOME")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Not served by this version yet.")]


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)


def up(
    home: Home = None,
    no_simulator: Annotated[
        bool, typer.Option("--no-simulator", help="Ask the real providers, also without a key.")
    ] = False,
    dagster_port: Annotated[int, typer.Option(min=1, max=65535, help="Where Dagster's page is served.")] = DAGSTER_PORT,
    api_port: Port = None,
    gateway_port: Port = None,
) -> None:
    """Run everything on this machine: PostgreSQL, Dagster, and the simulator if no provider key is set."""
    if api_port is not None or gateway_port is not None:
        say("this version serves no API, dashboard or gateway yet: their ports are not used")
    settings = _settings(home, {"market_pipelines_simulator": SimulatorUse.OFF} if no_simulator else {})
    run_platform(settings, UpOptions(dagster_port=dagster_port), say, emit_line)


def down(home: Home = None) -> None:
    """Stop a running `up` and wait until it is gone."""
    folder = _settings(home, {}).home
    try:
        stopped = stop_running(folder, _STOP_SECONDS)
    except PermissionError:
        raise CommandFailed(f"the platform of {folder} belongs to another user: stop it as that user") from None
    if stopped is False:
        raise CommandFailed(
            f"the platform of {folder} is still stopping after {_STOP_SECONDS:.0f} s: see {folder / 'logs'}"
        )
    say("stopped" if stopped else f"nothing runs for {folder}")


def _settings(home: Path | None, overrides: dict[str, Any]) -> Settings:
    return read_door_settings(**({**overrides, "market_pipelines_home": home} if home is not None else overrides))
