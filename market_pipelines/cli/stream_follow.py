"""`market-pipelines stream follow`: what the running streams receive, a line an event, as it comes.

Words in, lines out: how a stream is followed is in `streaming.follow`.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import polars as pl
import pyarrow as pa
import typer

from market_pipelines.cli.door import read_door_settings
from market_pipelines.cli.output import say
from market_pipelines.cli.simulate import an_instant
from market_pipelines.market.live import mark_names
from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.stopping import Stop, heeding_signals
from market_pipelines.redaction import redact
from market_pipelines.streaming.entries import Mark, MarkKind
from market_pipelines.streaming.follow import News, follow

_LOOK_SECONDS = 0.2
"""So long it waits for news before it looks whether somebody wants it to stop."""
_SHORT, _EXACT = "%Y-%m-%d %H:%M:%S%.3f", "%Y-%m-%dT%H:%M:%S%.9fZ"


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


def follow_command(
    market: Annotated[
        str | None, typer.Option("--market", metavar="us|pl|…", help="Only this one's.", show_default="all that run")
    ] = None,
    symbols: Annotated[
        list[str] | None, typer.Option("--symbols", metavar="AAPL,MSFT", help="Only these.", show_default="all")
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kinds", metavar=",".join(TickKind), help="Only these.", show_default="all"),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="json: one document a line.")] = Form.TEXT,
    since: Annotated[
        datetime | None,
        typer.Option("--from", parser=an_instant, metavar="INSTANT", help="Received since.", show_default="now"),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            "--stream", metavar="NAME", help="Only this one, as in us-polygon; it need not run yet.", show_default=False
        ),
    ] = None,
) -> None:
    """Print what comes in, until Ctrl-C. The streams go on: they run in other processes and never wait for this one.

    Who is too slow for what is new (a slow terminal, a program behind a pipe) loses the oldest, and is told how much.
    """
    stop = Stop()
    wanted = tuple(word.upper() for word in _words(symbols))
    with (
        follow(
            wanted, _words(kinds), market=market, stream=stream, since=since, settings=read_door_settings()
        ) as following,
        heeding_signals(stop),
    ):
        say(f"following {', '.join(following.streams)}; Ctrl-C ends it")
        while not stop.asked:
            news = following.take(_LOOK_SECONDS)
            if news is not None:
                _show(news, form)
        missed = f", {following.missed:,} left out" if following.missed else ""
        say(f"{following.received:,} events came{missed}")


def _show(news: News, form: Form) -> None:
    if news.missed:
        say(f"{news.stream}: {news.missed:,} events were left out: this reader is too slow")
    for mark in news.marks:
        _tell(news.stream, mark)
    lines = [line for kind, table in news.tables.items() for line in _lines(news.stream, kind, table, form)]
    if lines:
        sys.stdout.write(redact("\n".join(lines)) + "\n")
        sys.stdout.flush()


def _tell(stream: str, mark: Mark) -> None:
    match mark.kind:
        case MarkKind.GAP_OPENED | MarkKind.GAP_CLOSED:
            state = "opened" if mark.kind is MarkKind.GAP_OPENED else "closed"
            cause = f" ({mark.cause.value})" if mark.cause is not None else ""
            say(f"{stream}: a gap has {state}{cause}: {mark.detail}".rstrip(": "))
        case MarkKind.STARTED | MarkKind.STOPPED:
            say(f"{stream}: {mark.kind.value}")
        case MarkKind.STATUS:
            say(f"{stream}: {mark.origin} {mark.detail}".rstrip())


def _lines(stream: str, kind: TickKind, table: pa.Table, form: Form) -> list[str]:
    frame = pl.DataFrame(table)
    names = {bits: mark_names(bits) for bits in frame["marks"].unique().to_list()}
    if form is Form.JSON:
        exact = pl.col(pl.Datetime("ns", "UTC")).dt.strftime(_EXACT)
        marks = pl.col("marks").replace_strict(names, return_dtype=pl.List(pl.String))
        told = frame.with_columns(exact, marks)
        whole = pl.struct(pl.lit(stream).alias("stream"), pl.lit(kind.value).alias("kind"), *told.columns)
        return [str(line) for line in told.select(whole.struct.json_encode()).to_series()]
    when = pl.col("start" if kind is TickKind.AGGREGATES else "ts").dt.strftime(_SHORT)
    words = {bits: "".join(f" {name}" for name in found) for bits, found in names.items()}
    marks = pl.col("marks").replace_strict(words, return_dtype=pl.String)
    line = pl.concat_str(
        when, pl.lit(f" {stream} {kind.value:<10} "), pl.col("symbol").str.pad_end(6), pl.lit(" "), _TEXT[kind], marks
    )
    return [str(text) for text in frame.select(line).to_series()]


def _number(name: str) -> pl.Expr:
    """Without the zero behind a whole number's point; a dash for what nobody said."""
    return pl.col(name).cast(pl.String).str.replace(r"\.0$", "").fill_null("–")


_SECONDS = (pl.col("end") - pl.col("start")).dt.total_seconds()
_TEXT = {
    TickKind.QUOTES: pl.format(
        "{} × {} | {} × {}", _number("bid"), _number("bid_size"), _number("ask"), _number("ask_size")
    ),
    TickKind.TRADES: pl.format("{} × {}", _number("price"), _number("size")),
    TickKind.AGGREGATES: pl.format(
        "{} s: open {}, high {}, low {}, close {}, volume {}", _SECONDS, *map(_number, ("o", "h", "l", "c", "v"))
    ),
    TickKind.SNAPSHOTS: pl.format("{}, bid {}, ask {}, volume {}", *map(_number, ("price", "bid", "ask", "volume"))),
    TickKind.BANDS: pl.format("from {} to {}", _number("limit_down"), _number("limit_up")),
}


def _words(told: list[str] | None) -> list[str]:
    return [word for text in told or () for word in re.split(r"[,\s]+", text) if word]
