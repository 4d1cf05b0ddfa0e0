"""The command `bars`: stored bars as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import io
import math
import os
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import pandas as pd
import typer

from market_pipelines.cli.door import From, Interval, Json, Symbols, To, read_door_settings, symbols_in
from market_pipelines.cli.output import CommandFailed, ExitCode, emit_table, say
from market_pipelines.market.bars import PRICE_COLUMNS, VALUE_COLUMNS
from market_pipelines.pipeline.reading import BadQuestion, known_at_of
from market_pipelines.pipeline.reading import bars as read_bars
from market_pipelines.pipeline.settle import DAILY


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


_BY_SUFFIX = {".csv": Format.CSV, ".json": Format.JSON, ".parquet": Format.PARQUET}


def an_as_of(text: str) -> datetime:
    try:
        return known_at_of(text)
    except BadQuestion as error:
        raise typer.BadParameter(str(error)) from None


def register(app: typer.Typer) -> None:
    app.command()(bars)


def bars(
    symbols: Symbols,
    market: Annotated[
        str | None, typer.Option("--market", help="Needed where a symbol is in several.", show_default=False)
    ] = None,
    start: From = None,
    end: To = None,
    interval: Interval = DAILY,
    adjusted: Annotated[
        bool, typer.Option("--adjusted", help="For splits and dividends; without it as traded.")
    ] = False,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            parser=an_as_of,
            metavar="TS",
            help="As it was known then: a day (its end in UTC) or an instant with its zone.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Without it: by the file's name, else a table.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Read stored bars. Nobody is asked."""
    chosen = _format(form, output, as_json)
    wanted = symbols_in(symbols)
    frame = read_bars(
        wanted, start, end, interval, adjusted=adjusted, as_of=as_of, market=market, settings=read_door_settings()
    )
    found = set(frame["symbol"])
    absent = [symbol for symbol in wanted if symbol not in found]
    if len(absent) < len(wanted):
        _write(frame, chosen, output)
    if absent:
        say(_advice(absent, market, as_of))
        raise typer.Exit(ExitCode.PARTIAL if found else ExitCode.ERROR)


def _format(form: Format | None, output: Path | None, as_json: bool) -> Format:
    if as_json and form not in (None, Format.JSON):
        raise typer.BadParameter(f"--json and --format {form} contradict each other")
    by_name = _BY_SUFFIX.get(output.suffix.lower()) if output is not None else None
    chosen = Format.JSON if as_json else form or by_name or (Format.TABLE if output is None else Format.CSV)
    if chosen is Format.PARQUET and output is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is not for a terminal: name a file with -o")
    return chosen


def _advice(absent: list[str], market: str | None, as_of: datetime | None) -> str:
    where = f" --market {market}" if market is not None else ""
    when = f" as known at {as_of.isoformat()}" if as_of is not None else ""
    fetch = f"market-pipelines pull {' '.join(absent)}{where}"
    return f"No bars of {', '.join(absent)} in that range{when}. To fetch them: {fetch} --from … --to …"


def _write(frame: pd.DataFrame, form: Format, output: Path | None) -> None:
    if form is Format.TABLE and output is None:
        _table(frame)
        return
    content = encoded(frame, form)
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    replace_file(output, content)
    say(f"{len(frame)} bars written to {output}")


def encoded(frame: pd.DataFrame, form: Format) -> bytes:
    """The frame as a file of that format. Sessions are ISO days in text."""
    if form is Format.PARQUET:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False, compression="zstd")
        return buffer.getvalue()
    text = frame.assign(session=frame["session"].dt.strftime("%Y-%m-%d"))
    if "ts" in frame:
        text = text.assign(ts=frame["ts"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    if form is Format.JSON:
        text = text.assign(as_of=_instants(frame["as_of"]), ingested_at=_instants(frame["ingested_at"]))
        return msgspec.json.encode(text.to_dict("records")) + b"\n"
    return text.to_csv(index=False, lineterminator="\n").encode()


def _instants(column: pd.Series) -> pd.Series:
    """ISO 8601, and None where there is none."""
    return (
        column.map(lambda instant: instant.isoformat(), na_action="ignore").astype(object).where(column.notna(), None)
    )


def _table(frame: pd.DataFrame) -> None:
    written = {
        "session": frame["session"].dt.strftime("%Y-%m-%d"),
        **{name: frame[name].map(_price) for name in PRICE_COLUMNS},
        "volume": frame["volume"].map(lambda volume: "-" if math.isnan(volume) else f"{volume:,.0f}"),
        "condition": frame["condition"].where(~frame["provisional"], frame["condition"] + ", provisional"),
    }
    when: tuple[str, ...] = ("session",)
    if "ts" in frame:
        written["ts"] = frame["ts"].dt.strftime("%Y-%m-%d %H:%M")
        when = ("session", "ts", "phase")
    columns = ("symbol", *when, *VALUE_COLUMNS, "provider", "condition")
    rows = frame.assign(**written)[list(columns)].to_numpy().tolist()
    title = "adjusted for splits and dividends" if bool(frame["adjusted"].any()) else "as traded"
    if "ts" in frame:
        title += "; ts is the start of the bar in UTC"
    emit_table(columns, rows, title, numbers=VALUE_COLUMNS)


def _price(value: float) -> str:
    """Two decimals at least and six at most, as the tick needs them."""
    whole, _, decimals = f"{value:,.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def replace_file(path: Path, content: bytes) -> None:
    """The whole file or the old one: whoever reads it meanwhile never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CommandFailed(f"{path} cannot be written: {error.strerror}") from None


def put_out(frame: pd.DataFrame, form: Format, output: Path | None, what: str) -> None:
    """Rows as a file's content, to the file or to standard output. Tables for a terminal are their command's own."""
    if form is Format.PARQUET:
        if output is None:
            raise typer.BadParameter("Parquet is not for a terminal: name a file with -o")
        content = frame.to_parquet(index=False, compression="zstd")
    elif form is Format.JSON:
        content = frame.to_json(orient="records", date_format="iso", date_unit="ns").encode() + b"\n"
    else:
        content = frame.to_csv(index=False, lineterminator="\n").encode()
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    replace_file(output, content)
    say(f"{len(frame):,} {what} written to {output}")
