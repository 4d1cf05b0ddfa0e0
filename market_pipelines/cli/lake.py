"""`market-pipelines lake`: the tick lake for people who know SQL, and what it holds."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import duckdb
import pyarrow as pa
import typer

from market_pipelines.cli.data import platform_of_commands
from market_pipelines.cli.door import From, Json, To, a_day
from market_pipelines.cli.output import CommandFailed, emit_json, emit_line, emit_table, say, size
from market_pipelines.cli.read import Format, put_out, replace_file
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.lake import compact as compact_lake
from market_pipelines.pipeline.lake import duckdb_of, lake_state, views_script
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.ticks import lake_of

lake_commands = typer.Typer(no_args_is_help=True, help="The tick lake: SQL over it, and what it holds.")

SHOWN = 1_000
"""Rows that a table shows at most."""

OfMarket = Annotated[str | None, typer.Option("--market", help="Only this one's.", show_default="all markets")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.add_typer(lake_commands, name="lake")


@lake_commands.command("sql")
def sql(
    query: Annotated[str, typer.Argument(metavar="SQL", help='As DuckDB speaks it: "SELECT count(*) FROM trades"')],
    market: OfMarket = None,
    start: From = None,
    end: To = None,
    form: Annotated[Format, typer.Option("--format")] = Format.TABLE,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Ask DuckDB. There are the views quotes, trades, aggregates (newest versions), snapshots and bands, with market
    and session as columns; --from and --to narrow down the sessions whose files are looked at."""
    with (
        platform_of_commands(asks=False) as platform,
        duckdb_of(platform, market=_known(platform, market), first_session=start, last_session=end) as memory,
    ):
        try:
            answer = memory.sql(query)
            table = None if answer is None else _distinct(answer.to_arrow_table())
        except duckdb.Error as error:
            raise CommandFailed(str(error)) from None
    if table is not None:
        _show(_spans_in_words(table), Format.JSON if as_json else form, output)


@lake_commands.command("path")
def path() -> None:
    """The folder of the lake: <kind>/feed=<feed>/session=<day>/<segment>.parquet. Which files count: `lake views`."""
    with platform_of_commands(asks=False) as platform:
        emit_line(str(lake_of(platform).root))


@lake_commands.command("views")
def views(market: OfMarket = None, output: Output = None) -> None:
    """The views as SQL, for a DuckDB of your own: duckdb -init views.sql"""
    with platform_of_commands(asks=False) as platform:
        text = views_script(platform, market=_known(platform, market))
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    replace_file(output, text.encode())
    say(f"written to {output}; it is the lake of now: have it written again for what comes later")


@lake_commands.command("status")
def status(
    market: OfMarket = None,
    sessions: Annotated[int, typer.Option("--sessions", min=1, help="Of each kind and feed so many.")] = 5,
    as_json: Json = False,
) -> None:
    """What the lake holds, by kind, feed and session."""
    with platform_of_commands(asks=False) as platform:
        found = lake_state(platform, market=_known(platform, market), sessions=sessions)
        root = lake_of(platform).root
    if as_json:
        emit_json({"path": root, "shelves": [asdict(one) for one in found]})
        return
    emit_table(
        ["market", "kind", "feed", "session", "segments", "small", "rows", "size", "first", "last"],
        [
            (
                one.market,
                one.kind,
                one.feed,
                one.session,
                one.segments,
                one.small,
                f"{one.rows:,}",
                size(one.bytes),
                one.first_ts,
                one.last_ts,
            )
            for one in found
        ],
        numbers=("rows", "size"),
    )
    say(str(root) if found else f"Nothing yet in {root}: market-pipelines stream run, or ticks SYMBOL --pull")


@lake_commands.command("compact")
def compact(
    market: OfMarket = None,
    kind: Annotated[TickKind | None, typer.Option("--kind", show_default="all kinds")] = None,
    session: Annotated[
        date | None,
        typer.Option("--session", parser=a_day, metavar="YYYY-MM-DD", show_default="all sessions"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge small segments into large ones. Streams do it by themselves; this is for those that have stopped."""
    with platform_of_commands(asks=False) as platform:
        done = compact_lake(platform, market=_known(platform, market), kind=kind, session=session)
    if as_json:
        emit_json(done)
        return
    say(
        f"{done.segments_before:,} segments became {done.segments_after:,}: {done.rows:,} rows, "
        f"{size(done.bytes_before)} became {size(done.bytes_after)}"
        if done.segments_before
        else "Nothing to merge."
    )


def _known(platform: Platform, market: str | None) -> str | None:
    return None if market is None else platform.market(market).name


def _distinct(table: pa.Table) -> pa.Table:
    """SQL may call two columns alike (`SELECT a.*, b.*`); files, JSON and tables of ours may not."""
    names: list[str] = []
    for name in table.column_names:
        further = 0
        while (f"{name}_{further}" if further else name) in names:
            further += 1
        names.append(f"{name}_{further}" if further else name)
    return table.rename_columns(names)


def _spans_in_words(table: pa.Table) -> pa.Table:
    """DuckDB's intervals, which neither a table nor JSON has a form for."""
    for place, field in enumerate(table.schema):
        if field.type == pa.month_day_nano_interval():
            words = [None if one is None else _span(*one) for one in table[field.name].to_pylist()]
            table = table.set_column(place, field.name, pa.array(words, pa.string()))
    return table


def _span(months: int, days: int, nanoseconds: int) -> str:
    rest = str(timedelta(days=days, microseconds=nanoseconds // 1000))
    return f"{months} months, {rest}" if months else rest


def _show(table: pa.Table, form: Format, output: Path | None) -> None:
    if form is Format.TABLE and output is None:
        shown = table.slice(0, SHOWN)
        emit_table(shown.column_names, [list(row.values()) for row in shown.to_pylist()])
        if len(table) > SHOWN:
            say(f"{len(table):,} rows, the first {SHOWN:,} shown")
        return
    put_out(table.to_pandas(), form, output, "rows")
