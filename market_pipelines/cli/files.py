"""Commands that read files into the tables: `import stooq-bulk`, `import massive-flat`, `import iex-json`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from market_pipelines.cli.data import Market, SomeSymbols
from market_pipelines.cli.door import Json, read_door_settings, symbols_in
from market_pipelines.cli.output import emit_json, emit_table, say, share_done
from market_pipelines.pipeline.importing import (
    FileProgress,
    ImportReport,
    import_flat_file,
    import_iex_chart,
    import_stooq_bulk,
)
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.simulated import uses_simulator
from market_pipelines.settings import SimulatorUse

import_commands = typer.Typer(
    no_args_is_help=True, help="Read files into the tables: streamed, and resumed where they stopped."
)

File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Also symbols that the market does not list.")]
Again = Annotated[bool, typer.Option("--again", help="From the beginning, also where it has been imported.")]


def register(app: typer.Typer) -> None:
    app.add_typer(import_commands, name="import")


@import_commands.command("stooq-bulk")
def stooq_bulk(
    file: File,
    market: Market = "us",
    symbols: SomeSymbols = None,
    everything: All = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """A zip from stooq.com/db/h (d_us_txt.zip, 5_pl_txt.zip, …): the bars of the market's symbols."""
    with _platform() as (platform, progress):
        report = import_stooq_bulk(
            platform,
            platform.market(market),
            file,
            symbols=symbols_in(symbols or ()),
            everything=everything,
            again=again,
            progress=progress,
        )
    _show(report, as_json)


@import_commands.command("massive-flat")
def massive_flat(
    file: File,
    market: Market = "us",
    symbols: SomeSymbols = None,
    everything: All = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """A flat file of Polygon/Massive (.csv.gz): day or minute aggregates, trades or quotes."""
    with _platform() as (platform, progress):
        report = import_flat_file(
            platform,
            platform.market(market),
            file,
            symbols=symbols_in(symbols or ()),
            everything=everything,
            again=again,
            progress=progress,
        )
    _show(report, as_json)


@import_commands.command("iex-json")
def iex_json(
    file: File,
    symbol: Annotated[
        str, typer.Option("--symbol", help="Whose chart it is: the file does not say.", show_default=False)
    ],
    market: Market = "us",
    again: Again = False,
    as_json: Json = False,
) -> None:
    """A chart that IEX Cloud once answered: days or minutes."""
    with _platform() as (platform, progress):
        report = import_iex_chart(
            platform, platform.market(market), file, symbols_in([symbol])[0], again=again, progress=progress
        )
    _show(report, as_json)


@contextmanager
def _platform() -> Iterator[tuple[Platform, FileProgress]]:
    """Files hold real data: they go to the live tables, whatever the simulator is used for."""
    settings = read_door_settings()
    live = settings.model_copy(update={"market_pipelines_simulator": SimulatorUse.OFF})
    with open_platform(live, asks=False) as platform, share_done("import") as progress:
        yield platform, progress
    if uses_simulator(settings):
        say(
            "The file is in the live tables. Without a provider key the other commands show simulated data: "
            "MARKET_PIPELINES_SIMULATOR=off shows the live tables."
        )


def _show(report: ImportReport, as_json: bool) -> None:
    if as_json:
        emit_json(asdict(report) | {"symbols": sorted(report.symbols)})
    else:
        emit_table(
            ("file", "kind", "interval", "rows read", "stored", "refused", "symbols", "passed over"),
            [
                (
                    report.file,
                    report.kind,
                    report.interval,
                    report.rows,
                    report.stored,
                    report.quarantined,
                    len(report.symbols),
                    report.passed_over,
                )
            ],
        )
    for told in report.unreadable:
        say(f"passed over: {told}")
    if report.complete:
        say("This file has been imported already; --again reads it once more.")
    elif report.resumed_at:
        say(f"An earlier import had come to {report.resumed_at}; this one went on behind it.")
