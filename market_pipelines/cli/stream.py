"""`market-pipelines stream`: the live service in the foreground or behind, and what it is doing.

Options in, exit code out: streaming itself is in `streaming/`, what is shown in `stream_status`.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from market_pipelines.cli.asking import chosen_chain
from market_pipelines.cli.door import Json, read_door_settings
from market_pipelines.cli.output import CommandFailed, ExitCode, emit_json, emit_line, say
from market_pipelines.cli.simulate import an_instant
from market_pipelines.cli.stream_background import start_in_background, stop_streams
from market_pipelines.cli.stream_follow import follow_command
from market_pipelines.cli.stream_log import write_log_to
from market_pipelines.cli.stream_options import RunOptions, wanted_of
from market_pipelines.cli.stream_status import show_gaps, show_status
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.stopping import Stop, heeding_signals
from market_pipelines.settings import Settings
from market_pipelines.store.stream_gaps import ask_again
from market_pipelines.store.streams import Wish, ask, stream_rows
from market_pipelines.streaming.feeds.massive import file_limit_advice
from market_pipelines.streaming.feeds.protocol import FeedFailed
from market_pipelines.streaming.hosting import Ended, run_streams
from market_pipelines.streaming.metrics import served_metrics
from market_pipelines.streaming.plan import ALL
from market_pipelines.streaming.plans import Planned, planned, unready
from market_pipelines.streaming.replay import frames, replay
from market_pipelines.streaming.service import StreamService, is_unauthorised
from market_pipelines.streaming.status import document, streams_state
from market_pipelines.streaming.symbols import EVERY_TYPE

stream_commands = typer.Typer(help="The live service: quotes and trades as they happen.", no_args_is_help=True)
gap_commands = typer.Typer(help="What the streams may have missed.", no_args_is_help=True)


class _KeepsItsWords(TyperCommand):
    """So that `start` can hand them on as they were typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    stream_commands.command("follow")(follow_command)
    stream_commands.add_typer(gap_commands, name="gaps")
    app.add_typer(stream_commands, name="stream")


Feed = Annotated[
    str | None,
    typer.Option("--feed", metavar="polygon|stooq|yahoo|poll", help="Whose stream.", show_default="every market's own"),
]
Symbols = Annotated[
    list[str] | None,
    typer.Option("--symbols", metavar="SYMBOL…", help="Only these: A,B or A B.", show_default=False),
]
More = Annotated[list[str] | None, typer.Argument(metavar="[SYMBOL…]", hidden=True)]
SymbolsList = Annotated[
    Path | None,
    typer.Option("--symbols-list", metavar="FILE.yaml", help="Those that this file lists.", show_default=False),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types", metavar="sp500,nasdaq100,wig20,all", help="The members of these universes.", show_default=False
    ),
]
Market = Annotated[
    str | None,
    typer.Option(
        "--market", metavar="stocks|options|us|pl|…", help="The asset class, or the market.", show_default="stocks"
    ),
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        "--channels",
        metavar="quotes,trades,aggregates",
        help="Of polygon; also seconds, minutes (the same as aggregates) and luld.",
        show_default="the market file's",
    ),
]
PerConnection = Annotated[int, typer.Option("--symbols-per-connection", min=1, help="Of feeds that are pushed.")]
MostConnections = Annotated[
    int, typer.Option("--max-connections", min=1, help="Sockets at most, whatever the option before says.")
]
BatchInterval = Annotated[
    float, typer.Option("--batch-interval", min=0.05, max=60.0, help="Seconds that sinks collect at most.")
]
ExpiryDays = Annotated[int, typer.Option("--max-expiry-days", min=0, help="Of options: days to expiry at most.")]
OptionType = Annotated[str, typer.Option("--option-type", metavar="call|put|both", help="Of options.")]
MarketHours = Annotated[
    bool, typer.Option("--market-hours", help="Connect only while the exchange trades, extended hours included.")
]
Provider = Annotated[
    str, typer.Option("--provider", help="Of the feed poll: who is asked.", show_default="the market's chain")
]
Every = Annotated[
    float | None,
    typer.Option("--every", min=1.0, help="Seconds between two looks of stooq and poll.", show_default="30"),
]
Attempts = Annotated[
    int | None,
    typer.Option(
        "--attempts", min=0, help="Give up after so many in a row; 0: never.", show_default="STREAM_RECONNECT_ATTEMPTS"
    ),
]
DbServer = Annotated[
    str | None,
    typer.Option(
        "--db-server", metavar="HOST:PORT", help="Send quotes and trades there too.", show_default="DB_SERVER"
    ),
]
RedisUrl = Annotated[str | None, typer.Option("--redis-url", help="Publish there too.", show_default="REDIS_URL")]
LogLevel = Annotated[
    str | None,
    typer.Option("--log-level", metavar="DEBUG|INFO|WARNING|ERROR", help="For this run.", show_default="LOG_LEVEL"),
]
LogTo = Annotated[
    Path | None,
    typer.Option(
        "--log-to",
        metavar="FILE",
        help="Everything that is said goes there, a new file every 20 MB.",
        show_default="of start: run/stream-….log in the data folder",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=an_instant, metavar="INSTANT", help="End by itself then.", show_default=False),
]
Stream = Annotated[
    str | None, typer.Option("--stream", metavar="NAME", help="Only this one, as in us-polygon.", show_default=False)
]


_IN_FRONT, _BEHIND = "run", "start"


@stream_commands.command(
    _BEHIND,
    cls=_KeepsItsWords,
    help="As `run`, in the background: returns when data comes in, or with the reason why none does.",
)
@stream_commands.command(
    _IN_FRONT,
    cls=_KeepsItsWords,
    help="""Stream in the foreground until Ctrl-C. Without options: every market as its file says.

    SIGTERM drains and stops, SIGHUP reads the symbols again. Exit code 4 when the provider refuses the key.
    """,
)
def run(
    ctx: typer.Context,
    feed: Feed = None,
    symbols: Symbols = None,
    more: More = None,
    symbols_list: SymbolsList = None,
    types: Types = None,
    market: Market = None,
    channels: Channels = None,
    symbols_per_connection: PerConnection = 25,
    max_connections: MostConnections = 1,
    batch_interval: BatchInterval = 1.0,
    max_expiry_days: ExpiryDays = 30,
    option_type: OptionType = "both",
    market_hours: MarketHours = False,
    provider: Provider = "",
    every: Every = None,
    attempts: Attempts = None,
    db_server: DbServer = None,
    redis_url: RedisUrl = None,
    log_level: LogLevel = None,
    until: Until = None,
    log_to: LogTo = None,
) -> None:
    options = _options({name: value for name, value in locals().items() if name != "ctx"})
    settings = _settings(options)
    behind = ctx.info_name == _BEHIND
    log = "" if log_to is None else str(log_to.absolute())
    if log_to is not None and not behind:
        write_log_to(log_to)
    services: list[StreamService] = []
    with nullcontext() if behind else _reloading(services), open_platform(settings, asks=not behind) as platform:
        wanted = wanted_of(options, say)
        chosen_chain(platform, wanted.provider or None)  # refuses one that is not known, before anything is begun
        streams = _runnable(platform, planned(platform, wanted))
        _tell_of_strangers(platform, streams)
        if behind:
            code = start_in_background(platform, [one.plan.name for one in streams], ctx.meta["words"], log_to, say)
        else:
            if advice := file_limit_advice(sum(one.plan.max_connections for one in streams)):
                say(advice)
            services += [
                StreamService(platform, one.plan, selection=one.selection, until=until, log=log) for one in streams
            ]
            code = run_in_front(platform, services)
    raise typer.Exit(code)


@stream_commands.command("stop")
def stop(
    stream: Stream = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long to wait for its end.")] = 40.0,
) -> None:
    """Ask the running streams to stop, wherever they run, and wait until they have drained."""
    with open_platform(read_door_settings(), asks=False) as platform:
        raise typer.Exit(stop_streams(platform, _known(platform, stream), seconds, say))


@stream_commands.command("reload")
def reload(stream: Stream = None) -> None:
    """Have the running streams read their symbols again: market file, list, universes. What stays goes on."""
    with open_platform(read_door_settings(), asks=False) as platform:
        names = _known(platform, stream)
        with platform.database.connection() as connection:
            asked = [name for name in names if ask(connection, name, Wish.RELOAD)]
    if not asked:
        raise CommandFailed("no stream runs: nobody reads symbols again. `market-pipelines stream run` starts one")
    say(f"{', '.join(asked)}: symbols are read again within a few seconds")


@stream_commands.command("status")
def status(stream: Stream = None, as_json: Json = False) -> None:
    """Show what is connected, how far behind each sink is, and which gaps there are."""
    with open_platform(read_door_settings(), asks=False) as platform:
        _known(platform, stream)
        state = streams_state(platform, stream)
        if as_json:
            emit_json(document(state))
        else:
            show_status(platform, state)


@stream_commands.command("replay")
def replay_command(
    sink: Annotated[str | None, typer.Option("--sink", metavar="NAME", help="Where to.", show_default=False)] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print the frames, one a line, instead of sending them.")] = False,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--from", parser=an_instant, metavar="INSTANT", help="Received since.", show_default="all there is"
        ),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", parser=an_instant, metavar="INSTANT", help="Received before.", show_default="now"),
    ] = None,
    stream: Stream = None,
    as_json: Json = False,
) -> None:
    """Send what the journal has to a sink once more: what is there already changes nothing."""
    if raw == (sink is not None):
        raise typer.BadParameter("name one of --sink NAME and --raw")
    with open_platform(read_door_settings(), asks=False) as platform:
        names = _known(platform, stream)
        if len(names) != 1:
            raise typer.BadParameter(f"--stream: name one of {', '.join(names) or 'none that ever ran'}")
        if raw:
            for line in frames(platform, names[0], start, end):
                emit_line(line)
            return
        assert sink is not None  # noqa: S101 (asked for above)
        done = replay(platform, names[0], sink, start, end)
    if as_json:
        emit_json(done)
    else:
        say(f"{done.entries:,} entries of {names[0]} went to {sink} again: {done.rows:,} rows taken")


@gap_commands.command("list")
def list_gaps(
    stream: Stream = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that nothing has settled.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the gaps, the newest first."""
    with open_platform(read_door_settings(), asks=False) as platform:
        _known(platform, stream)
        show_gaps(platform, stream, open_only=open_only, limit=limit, as_json=as_json)


@gap_commands.command("fill")
def fill_gaps(stream: Stream = None) -> None:
    """Have history asked again for gaps that are partly filled or not at all. The running service does it."""
    with open_platform(read_door_settings(), asks=False) as platform:
        names = _known(platform, stream)
        with platform.database.connection() as connection:
            waiting = ask_again(connection, names, platform.clock())
            running = [row.stream for row in stream_rows(connection) if row.running]
    idle = sorted(set(names) - set(running))
    say(f"{waiting} gaps are asked for again" if waiting else "no gap waits to be asked for again")
    if idle and waiting:
        say(f"not running: {', '.join(idle)}. Gaps of theirs are filled after the next start")


# --- running ---------------------------------------------------------------------------------------------------


def run_in_front(platform: Platform, services: Sequence[StreamService]) -> ExitCode:
    stop = Stop()
    failed: list[Ended] = []

    def told(ended: Ended) -> None:
        if ended.error is not None:
            failed.append(ended)
            say(f"error: {ended.error}")

    with served_metrics(platform.settings.stream_metrics_port, services) as address, heeding_signals(stop):
        if address is not None:
            say(f"metrics on {address}")
        try:
            run_streams(services, stop, told=told)
        except KeyboardInterrupt:
            _hush()
            raise
    return _code(failed)


def _code(failed: Sequence[Ended]) -> ExitCode:
    if not failed:
        return ExitCode.OK
    keys = [isinstance(one.error, FeedFailed) and is_unauthorised(str(one.error)) for one in failed]
    return ExitCode.NOT_AUTHORISED if all(keys) else ExitCode.ERROR


def _hush() -> None:
    """After a second signal: the streams' threads end with the process, in the middle of what they do, and what they
    say of a database that is being closed under them helps nobody."""
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda _: None


@contextmanager
def _reloading(services: Sequence[StreamService]) -> Iterator[None]:
    """SIGHUP reads the symbols again, for as long as the block lasts. Who is not there yet has them to read anyway."""

    def heard(_number: int, _frame: FrameType | None) -> None:
        for service in services:
            service.reload_asked = True

    previous = signal.signal(signal.SIGHUP, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


def _runnable(platform: Platform, streams: Sequence[Planned]) -> tuple[Planned, ...]:
    """Those that can be had at all. Where one alone is asked for and cannot, that is an error."""
    lacking = {one.plan.name: reason for one in streams if (reason := unready(platform, one.plan))}
    for name, reason in lacking.items():
        say(f"{name} is left out: {reason}")
    able = tuple(one for one in streams if one.plan.name not in lacking)
    if not able:
        say("error: there is nothing to stream")
        raise typer.Exit(ExitCode.NOT_AUTHORISED)
    return able


def _tell_of_strangers(platform: Platform, streams: Sequence[Planned]) -> None:
    """Feeds take any symbol and are silent about one that does not exist."""
    for one in streams:
        known = {instrument.symbol for instrument in platform.market(one.plan.market).instruments}
        strangers = [word for word in one.selection.symbols if word.upper() not in known and ":" not in word]
        if strangers and not {ALL, EVERY_TYPE} & {word.lower() for word in strangers}:
            say(f"not in the market file of {one.plan.market}, asked for as typed: {', '.join(strangers)}")


# --- options ---------------------------------------------------------------------------------------------------


def _options(values: dict[str, Any]) -> RunOptions:
    words = (*(values.pop("symbols") or ()), *(values.pop("more") or ()))
    for name in ("until", "log_to"):
        values.pop(name)
    return RunOptions(
        words=words, types=tuple(values.pop("types") or ()), channels=tuple(values.pop("channels") or ()), **values
    )


def _settings(options: RunOptions) -> Settings:
    named = {"db_server": options.db_server, "redis_url": options.redis_url, "log_level": options.log_level}
    return read_door_settings(**{name: value for name, value in named.items() if value is not None})


def _known(platform: Platform, stream: str | None) -> tuple[str, ...]:
    """Every stream that ever ran, or the one that is named."""
    with platform.database.connection() as connection:
        names = tuple(row.stream for row in stream_rows(connection))
    if stream is None:
        return names
    if stream not in names:
        raise typer.BadParameter(f"--stream {stream!r} never ran; there are {', '.join(names) or 'none'}")
    return (stream,)
