"""`market-pipelines poll`: the polling strategies in the foreground, until they are done or somebody stops them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from market_pipelines.cli.data import Market, SomeSymbols, platform_of_commands
from market_pipelines.cli.door import SERVED_INTERVALS, Json, symbols_in
from market_pipelines.cli.output import (
    ExitCode,
    Terminated,
    emit_json,
    emit_table,
    interruption_code,
    lasting,
    progress,
    say,
)
from market_pipelines.market.polling import LENGTHENED, SHORTENED, Pace, Strategy, pace_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.polling import (
    BATCH_DELAY,
    MAX_RETRIES,
    CycleReport,
    Poll,
    PollingStatistics,
    by_outcome,
    poll_of,
    run_polling,
)
from market_pipelines.pipeline.polling_api import statistics_document
from market_pipelines.pipeline.stopping import Stop, heeding_signals

poll_commands = typer.Typer(
    help="Ask for the running session's bars again and again. Ctrl-C finishes the batch in hand.", no_args_is_help=True
)

INTRADAY_INTERVALS = SERVED_INTERVALS[1:]
_NAMES_SHOWN = 5
_LEAST_MINUTES = 0.01


def an_intraday_interval(text: str) -> str:
    if text not in INTRADAY_INTERVALS:
        raise typer.BadParameter(f"{text!r} cannot be polled; accepted: {', '.join(INTRADAY_INTERVALS)}")
    return text


IntradayInterval = Annotated[
    str | None,
    typer.Option(
        "--interval",
        parser=an_intraday_interval,
        metavar="|".join(INTRADAY_INTERVALS),
        help="Length of the bars.",
        show_default="DEFAULT_INTERVAL",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--interval-minutes",
        min=_LEAST_MINUTES,
        help="Minutes between two polls; parts of one are fine.",
        show_default="DEFAULT_POLLING_INTERVAL",
    ),
]
Iterations = Annotated[
    int | None,
    typer.Option("--max-iterations", min=1, help="Stop after so many polls.", show_default="until interrupted"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Symbols that are asked for and committed together.", show_default="BATCH_SIZE"
    ),
]
BatchDelay = Annotated[float, typer.Option("--batch-delay", min=0.0, help="Seconds between two batches.")]
Retries = Annotated[
    int, typer.Option("--max-retries", min=0, help="How often a failed symbol is asked for again within a poll.")
]
Extended = Annotated[bool, typer.Option("--extended-hours", help="Also before the opening and after the closing bell.")]


HELP = {
    Strategy.CONTINUOUS: "Poll at a fixed interval, whatever the hour.",
    Strategy.MARKET_HOURS: "Poll while the exchange trades; otherwise wait until it opens.",
    Strategy.ADAPTIVE: "Poll the more often, the more there is that is new, and most often around the bells.",
}


def register(app: typer.Typer) -> None:
    app.add_typer(poll_commands, name="poll")


def _command(strategy: Strategy) -> Callable[..., None]:
    def poll(
        market: Market = "us",
        symbols: SomeSymbols = None,
        interval_minutes: Minutes = None,
        interval: IntradayInterval = None,
        max_iterations: Iterations = None,
        batch_size: BatchSize = None,
        batch_delay: BatchDelay = BATCH_DELAY,
        max_retries: Retries = MAX_RETRIES,
        extended_hours: Extended = False,
        as_json: Json = False,
    ) -> None:
        wanted = symbols_in(symbols or ())
        stop = Stop()
        with platform_of_commands(asks=True) as platform:
            polled = poll_of(
                platform,
                market,
                wanted,
                interval=interval,
                batch_size=batch_size,
                retries=max_retries,
                batch_delay=batch_delay,
                extended=extended_hours,
                job_name=f"poll {strategy.value}",
            )
            minutes = interval_minutes if interval_minutes is not None else platform.settings.default_polling_interval
            pace = pace_of(polled.market.polling, minutes)
            statistics = _run(platform, polled, strategy, pace, stop, max_iterations)
            document = _document(platform, polled, strategy, pace, statistics, interrupted=stop.asked)
        _show(document, statistics, as_json)
        if stop.asked:
            say(_told(statistics))
            raise typer.Exit(interruption_code(_interruption(stop)))
        raise typer.Exit(exit_code(statistics))

    return poll


for _strategy, _help in HELP.items():
    poll_commands.command(_strategy.value.replace("_", "-"), help=_help)(_command(_strategy))


def _run(
    platform: Platform, poll: Poll, strategy: Strategy, pace: Pace, stop: Stop, max_iterations: int | None
) -> PollingStatistics:
    say(_announcement(poll, strategy, pace))
    with progress("poll") as show, heeding_signals(stop):
        return run_polling(
            platform,
            poll,
            strategy,
            pace,
            stop,
            max_iterations=max_iterations,
            callback=_say_cycle,
            waiting=lambda until: say(
                f"{poll.market.mic} is closed; the first poll is at {_clock(until)}, {_in(until - platform.clock())}"
            ),
            progress=show,
        )


def exit_code(statistics: PollingStatistics) -> ExitCode:
    return ExitCode.PARTIAL if statistics.failed or statistics.failed_symbols else ExitCode.OK


def _interruption(stop: Stop) -> KeyboardInterrupt:
    return Terminated() if stop.by_signal == signal.SIGTERM else KeyboardInterrupt()


def _told(statistics: PollingStatistics) -> str:
    if statistics.cycles and statistics.cycles[-1].left:
        return "Interrupted, after the batch in hand was stored."
    return "Interrupted between two polls." if statistics.cycles else "Interrupted before the first poll."


def _announcement(poll: Poll, strategy: Strategy, pace: Pace) -> str:
    every = f"every {_long(pace.usual)}"
    if strategy is Strategy.ADAPTIVE:
        every = (
            f"every {_long(pace.shortest)} to {_long(pace.longest)}, first after {_long(pace.usual)}: "
            f"×{LENGTHENED:g} when nothing new came, ×{SHORTENED:g} when something did, the shortest around the bells"
        )
    elif strategy is Strategy.MARKET_HOURS:
        every += f" while {poll.market.mic} trades" + (", extended hours too" if poll.extended else "")
    count = "1 symbol" if len(poll.instruments) == 1 else f"{len(poll.instruments)} symbols"
    return (
        f"{strategy.value.replace('_', ' ')}: {poll.interval} bars of {count} of "
        f"{poll.market.name}, {poll.batch_size} at a time, {every}"
    )


def _say_cycle(report: CycleReport) -> None:
    failed = [result.symbol for result in report.failed]
    names = f" ({', '.join(failed[:_NAMES_SHOWN])}{' …' if failed[_NAMES_SHOWN:] else ''})" if failed else ""
    parts = [
        f"{report.changed} new or changed rows",
        f"{len(failed)} of {len(report.symbols) + len(report.left)} symbols failed{names}",
    ]
    if report.left:
        parts.append(f"{len(report.left)} not asked for")
    if report.error:
        parts = [report.error]
    then = "the last one"
    if report.next_at is not None:
        then = f"next poll at {_clock(report.next_at)}, {_in(report.next_at - report.finished_at)}"
    say(f"{_clock(report.started_at)}  poll {report.number}: {', '.join(parts)}; {then}")


def _document(
    platform: Platform,
    poll: Poll,
    strategy: Strategy,
    pace: Pace,
    statistics: PollingStatistics,
    *,
    interrupted: bool,
) -> dict[str, Any]:
    return {
        "market": poll.market.name,
        "strategy": strategy.value,
        "interval": poll.interval,
        "interval_minutes": pace.usual / timedelta(minutes=1),
        "symbols": [one.symbol for one in poll.instruments],
        "simulated": platform.simulated,
        "interrupted": interrupted,
        **statistics_document(statistics),
        "cycles": [
            {
                "number": report.number,
                "started_at": report.started_at,
                "finished_at": report.finished_at,
                "session": report.session,
                "outcome": report.outcome,
                "records": report.changed,
                "symbols_by_outcome": by_outcome(report.symbols),
                "failed": {result.symbol: result.reason or result.outcome.value for result in report.failed},
                "left": report.left,
                "error": report.error,
                "next_at": report.next_at,
            }
            for report in statistics.cycles
        ],
    }


def _show(document: dict[str, Any], statistics: PollingStatistics, as_json: bool) -> None:
    if as_json:
        emit_json(document)
        return
    emit_table(
        ("market", "strategy", "polls", "successful", "failed", "success rate", "new or changed rows", "lasted"),
        [
            (
                document["market"],
                str(document["strategy"]).replace("_", " "),
                statistics.iterations,
                statistics.successful,
                statistics.failed,
                f"{document['success_rate']:g} %",
                statistics.records,
                str(document["total_duration"]).partition(".")[0],
            )
        ],
    )
    if statistics.failed_symbols:
        latest = {result.symbol: result.reason for report in statistics.cycles for result in report.failed}
        emit_table(
            ("failed symbol", "polls", "last reason"),
            [(symbol, count, latest.get(symbol, "")) for symbol, count in statistics.failed_symbols.most_common(20)],
        )


def _clock(at: datetime) -> str:
    shown = at.astimezone(UTC)
    return f"{shown:%H:%M:%S} UTC" if shown.date() == datetime.now(UTC).date() else f"{shown:%Y-%m-%d %H:%M:%S} UTC"


def _in(time: timedelta) -> str:
    return "now" if time < timedelta(seconds=1.5) else f"in {lasting(time.total_seconds())}"


def _long(time: timedelta) -> str:
    minutes = time / timedelta(minutes=1)
    return f"{minutes:g} min" if minutes >= 1 else f"{time.total_seconds():g} s"
