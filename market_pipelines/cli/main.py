"""The command `market-pipelines`: which commands there are, and how every failure ends.

Commands live in the modules named in `COMMANDS` and are imported when they are used. Known errors become one
sentence on stderr and an exit code here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from market_pipelines import __version__
from market_pipelines.cli.output import ExitCode, Terminated, interruption_code, say
from market_pipelines.redaction import redact

COMMANDS = {
    "up": "market_pipelines.cli.platform",
    "down": "market_pipelines.cli.platform",
    "pull": "market_pipelines.cli.data",
    "backfill": "market_pipelines.cli.data",
    "reparse": "market_pipelines.cli.data",
    "repair": "market_pipelines.cli.repair",
    "import": "market_pipelines.cli.files",
    "bars": "market_pipelines.cli.read",
    "ticks": "market_pipelines.cli.ticks",
    "lake": "market_pipelines.cli.lake",
    "bars-from-ticks": "market_pipelines.cli.bars_from_ticks",
    "corrections": "market_pipelines.cli.ticks",
    "quote": "market_pipelines.cli.reference",
    "profile": "market_pipelines.cli.reference",
    "actions": "market_pipelines.cli.reference",
    "options": "market_pipelines.cli.reference",
    "search": "market_pipelines.cli.reference",
    "listings": "market_pipelines.cli.exchange",
    "market-status": "market_pipelines.cli.exchange",
    "universe": "market_pipelines.cli.exchange",
    "quality": "market_pipelines.cli.quality",
    "poll": "market_pipelines.cli.poll",
    "stream": "market_pipelines.cli.stream",
    "jobs": "market_pipelines.cli.jobs",
    "incidents": "market_pipelines.cli.incidents",
    "retention": "market_pipelines.cli.retention",
    "status": "market_pipelines.cli.state",
    "provider": "market_pipelines.cli.state",
    "db": "market_pipelines.cli.database",
    "simulate": "market_pipelines.cli.simulate",
}
"""The module that registers each command, in the order in which `--help` lists them."""

KNOWN_ERRORS = {
    "market_pipelines.settings.SettingsError": ExitCode.USAGE,
    "market_pipelines.pipeline.platform.UnknownMarket": ExitCode.USAGE,
    "market_pipelines.pipeline.reading.BadQuestion": ExitCode.USAGE,
    "market_pipelines.pipeline.holes.NoSession": ExitCode.USAGE,
    "market_pipelines.pipeline.bars_from_ticks.NoTicks": ExitCode.ERROR,
    "market_pipelines.market.jobs.JobRefused": ExitCode.USAGE,
    "market_pipelines.store.jobs.JobExists": ExitCode.ERROR,
    "market_pipelines.pipeline.jobs.UnknownJob": ExitCode.ERROR,
    "market_pipelines.market.universes.UnknownUniverse": ExitCode.USAGE,
    "market_pipelines.market.universes.UniverseFileError": ExitCode.ERROR,
    "market_pipelines.pipeline.importing.ImportRefused": ExitCode.ERROR,
    "market_pipelines.store.lake.LakeError": ExitCode.ERROR,
    "market_pipelines.store.incidents.UnknownIncident": ExitCode.ERROR,
    "market_pipelines.store.retention.RetentionRefused": ExitCode.ERROR,
    "market_pipelines.store.retention.RetentionBusy": ExitCode.ERROR,
    "market_pipelines.simulator.faults.FaultError": ExitCode.USAGE,
    "market_pipelines.pipeline.markets.MarketFileError": ExitCode.ERROR,
    "market_pipelines.pipeline.simulated.SimulatorUnavailable": ExitCode.ERROR,
    "market_pipelines.simulator.server.SimulatorError": ExitCode.ERROR,
    "market_pipelines.store.archive.ArchiveError": ExitCode.ERROR,
    "market_pipelines.store.embedded_place.EmbeddedError": ExitCode.ERROR,
    "market_pipelines.store.schema.SchemaTooNew": ExitCode.ERROR,
    "market_pipelines.store.urls.DatabaseUnavailable": ExitCode.ERROR,
    "market_pipelines.streaming.feeds.protocol.FeedFailed": ExitCode.ERROR,
    "market_pipelines.streaming.replay.UnknownSink": ExitCode.USAGE,
    "market_pipelines.streaming.lease.StreamHeld": ExitCode.ERROR,
    "market_pipelines.streaming.lease.LeaseLost": ExitCode.ERROR,
    "market_pipelines.cli.output.CommandFailed": ExitCode.ERROR,
}
"""Errors whose message is written for the person at the keyboard. By name: most commands need few of them, and
importing them all would make every command slow."""


class Commands(TyperGroup):
    """The commands of `COMMANDS`, imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (the library's signature)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        # An unknown name loads all, so that the library can suggest what may have been meant.
        for name in [cmd_name] if cmd_name in COMMANDS else list(COMMANDS):
            self._load(name)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise  # the library's own ways to end
        except KeyboardInterrupt as interruption:
            say("interrupted")
            raise typer.Exit(interruption_code(interruption)) from None
        except BrokenPipeError:
            _let_go_of_stdout()
            raise typer.Exit(ExitCode.OK) from None
        except Exception as error:  # noqa: BLE001 (the last place where an error can be said without a secret in it)
            raise typer.Exit(report(error)) from None

    def _load(self, name: str) -> None:
        if name in self.commands:
            return
        room = typer.Typer()
        import_module(COMMANDS[name]).register(room)
        for found, command in typer.main.get_group(room).commands.items():
            self.commands.setdefault(found, command)


app = typer.Typer(
    name="market-pipelines",
    cls=Commands,
    help="Market data from several providers: fetched, archived, validated, stored and served.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"market-pipelines {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    pass


def report(error: Exception) -> ExitCode:
    """Says on stderr what went wrong, and gives the exit code for it."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    known = names & KNOWN_ERRORS.keys()
    message = str(error) or type(error).__name__
    say(f"error: {message}" if known else f"error: {type(error).__name__}: {message}")
    if not known:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        else:
            say("This was not foreseen. LOG_LEVEL=DEBUG shows where it happened.")
    return max((KNOWN_ERRORS[name] for name in known), default=ExitCode.ERROR)


def run() -> NoReturn:
    """The entry point."""
    # Arrow looks once, when it is imported. Its own allocator keeps a heap a thread, in which a stream grows for hours.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    signal.signal(signal.SIGTERM, _terminate)
    app()
    sys.exit(ExitCode.OK)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _let_go_of_stdout() -> None:
    """Whoever read our output has left (`| head`): what is still buffered for them is dropped without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
